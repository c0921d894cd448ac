//! The control tree: a few hosts are dialled, they relay for the others, and whoever dies is replaced.

use std::time::{Duration, Instant};

use scap_tests::fleet::{Fleet, wait_until};
use scap_tests::under_test;

use super::scene::{FETCH_MAX, REPO, Scene};

const HOSTS: u16 = 12;

/// How long a host may be without anybody above it, as seen from outside on a busy machine. Noticing takes 1.5 s.
const ADOPTED_MAX: Duration = Duration::from_secs(4);

/// Who opened control streams to a host, in order.
fn parents(scene: &Scene, host: &str) -> Vec<String> {
    let log = scene.fleet.dir().join(format!("logs/{host}.log"));
    let log = std::fs::read_to_string(log).unwrap();
    let opened = log
        .lines()
        .filter(|line| line.contains("control stream opened"));
    let from = opened.map(|line| line.split("from=").nth(1).unwrap().trim().to_owned());
    from.collect()
}

fn names(scene: &Scene) -> Vec<String> {
    let hosts = scene.fleet.hosts().iter();
    hosts.map(|host| host.name().to_owned()).collect()
}

#[test]
fn a_fleet_is_ordered_and_fed_over_four_links() {
    let builder = Fleet::builder(under_test!()).hosts(HOSTS).rate_mbit(100);
    let Some(scene) = Scene::start(builder) else {
        return;
    };
    let commit = scene.commit_payload(12_000_000, 51);
    let coordinator = scene.fleet.coordinator();
    let report = coordinator.deploy(scene.repo.dir(), &[]).expect_done();
    scene.assert_all_run(&commit);
    let names = names(&scene);
    let (mut ordered, mut relayed) = (Vec::new(), Vec::new());
    for name in &names {
        let parents = parents(&scene, name);
        assert_eq!(parents.len(), 1, "{name}: {parents:?}");
        let is_relayed = names.contains(&parents[0]);
        let of = if is_relayed {
            &mut relayed
        } else {
            &mut ordered
        };
        of.push(name.clone());
    }
    assert_eq!(ordered.len(), 4, "{ordered:?}");
    assert_eq!(relayed.len(), usize::from(HOSTS) - 4);
    let fed = names.iter().filter(|name| report.host(name).bytes.seed > 0);
    let fed: Vec<&String> = fed.collect();
    assert!(
        fed.len() <= 4 && fed.iter().all(|name| ordered.contains(name)),
        "{fed:?}"
    );
}

#[test]
fn whichever_relay_dies_those_below_it_are_adopted_and_the_deployment_is_done() {
    let builder = Fleet::builder(under_test!()).hosts(HOSTS).rate_mbit(20);
    let Some(scene) = Scene::start(builder) else {
        return;
    };
    scene.expect_broken_connections();
    let coordinator = scene.fleet.coordinator();
    let before = scene.commit_text("small");
    coordinator.deploy(scene.repo.dir(), &[]).expect_done();
    scene.assert_all_run(&before);

    let names = names(&scene);
    let commit = scene.commit_payload(40_000_000, 52);
    let streams_before = names.iter().map(|name| parents(&scene, name).len());
    let streams_before: Vec<usize> = streams_before.collect();
    let deploy = coordinator.start_deploy(scene.repo.dir(), &[]);
    let is_fetching = |name: &str| {
        let host = scene.fleet.hosts().iter().find(|host| host.name() == name);
        let newest = host.unwrap().newest_release(REPO);
        newest.is_ok_and(|it| it.chunks_total > 20 && it.chunks_held > 0)
    };
    for name in &names {
        wait_until("all fetch", FETCH_MAX, || {
            if is_fetching(name) { Ok(()) } else { Err(name) }
        });
    }
    let first = names.iter().zip(&streams_before);
    let first = first.filter(|(name, before)| {
        let parents = parents(&scene, name);
        !names.contains(&parents[**before])
    });
    let relays: Vec<&String> = first.map(|(name, _)| name).collect();
    assert_eq!(relays.len(), 4, "{relays:?}");
    for relay in relays {
        let above = |name: &&String| parents(&scene, name).last() == Some(relay);
        let orphans: Vec<&String> = names.iter().filter(above).collect();
        let streams = |name: &String| parents(&scene, name).len();
        let had: Vec<usize> = orphans.iter().map(|name| streams(name)).collect();
        let host = scene.fleet.hosts().iter().find(|host| host.name() == relay);
        let host = host.unwrap();
        host.kill9();
        let killed = Instant::now();
        for (orphan, had) in orphans.iter().zip(&had) {
            wait_until("somebody is above it again", FETCH_MAX, || {
                if streams(orphan) > *had {
                    Ok(())
                } else {
                    Err(*orphan)
                }
            });
        }
        let took = killed.elapsed();
        println!("{relay} died: {} adopted after {took:.2?}", orphans.len());
        assert!(took < ADOPTED_MAX, "{relay}: {took:?}");
        host.spawn_agent();
        host.wait_ready();
    }
    coordinator.finish(deploy).expect_done();
    scene.assert_all_run(&commit);
}

#[test]
fn hosts_that_cannot_reach_each_other_are_ordered_and_fed_by_the_coordinator() {
    let builder = Fleet::builder(under_test!()).hosts(6).rate_mbit(100);
    let Some(scene) = Scene::start(builder) else {
        return;
    };
    scene.expect_broken_connections();
    let coordinator = scene.fleet.coordinator();
    // Where peers are said to be nobody listens.
    let path = coordinator.fleet_file();
    let text = std::fs::read_to_string(&path).unwrap();
    let text = text.replace("[[host]]", "[[host]]\npeer_address = '127.0.0.1:9'");
    std::fs::write(&path, text).unwrap();
    let commit = scene.commit_payload(1_000_000, 53);
    let waits = ["--connect-timeout", "40"];
    let report = coordinator.deploy(scene.repo.dir(), &waits).expect_done();
    scene.assert_all_run(&commit);
    for name in names(&scene) {
        assert_eq!(report.host(&name).bytes.peers, 0, "{name}");
    }
}
