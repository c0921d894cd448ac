//! Hosts behind relays: no route to them but through these, for orders, reports and content alike.

use scap_tests::fleet::{Builder, DeployReport, Fleet, wait_until};
use scap_tests::under_test;

use super::scene::{FETCH_MAX, REPO, Scene};

const BYTES: usize = 24_000_000;

/// What a host behind others may take longer than its neighbours. Both end within a second where little is to be done.
const BEHIND_MAX: f64 = 1.3;

fn fleet(hosts: u16) -> Builder {
    Fleet::builder(under_test!()).hosts(hosts).rate_mbit(50)
}

/// How long a host fetched, in seconds.
fn fetched_in(report: &DeployReport, host: &str) -> f64 {
    report.host(host).fetch_seconds.expect("it fetched")
}

#[test]
fn a_host_behind_two_relays_in_a_row_is_deployed_to_as_fast_as_its_neighbours() {
    // host5 is behind host4, and host6 behind host5.
    let builder = fleet(6).behind(5, &[4]).behind(6, &[5]);
    let Some(scene) = Scene::start(builder) else {
        return;
    };
    let coordinator = scene.fleet.coordinator();
    let commit = scene.commit_payload(BYTES, 61);
    let report = coordinator.deploy(scene.repo.dir(), &[]).expect_done();
    scene.assert_all_run(&commit);
    for host in ["host5", "host6"] {
        let bytes = report.host(host).bytes;
        assert_eq!(bytes.seed, 0, "{host} has no route to the seed: {bytes:?}");
        assert!(bytes.peers >= BYTES as u64, "{host}: {bytes:?}");
    }
    let took = |host: &str| fetched_in(&report, host);
    let neighbours = ["host1", "host2", "host3"].map(took);
    let neighbours = neighbours.into_iter().fold(0.0, f64::max);
    let ratio = took("host6") / neighbours;
    println!(
        "fetched by neighbours in {neighbours:.2} s, by the relay in {:.2} s, behind it in {:.2} s, behind two in {:.2} s: {ratio:.3} x",
        took("host4"),
        took("host5"),
        took("host6"),
    );
    assert!(ratio <= BEHIND_MAX, "{ratio}");
    // What changed a little goes the same way.
    let commit = scene.commit_text("a little");
    coordinator.deploy(scene.repo.dir(), &[]).expect_done();
    scene.assert_all_run(&commit);
}

#[test]
fn every_way_of_spreading_respects_the_walls() {
    let builder = fleet(6)
        .canaries(1)
        .behind(4, &[2, 3])
        .behind(5, &[2, 3])
        .behind(6, &[4]);
    let Some(scene) = Scene::start(builder) else {
        return;
    };
    for (seed, topology) in [(62, "tree"), (63, "swarm"), (64, "lanes")] {
        let commit = scene.commit_payload(2_000_000, seed);
        let deploy = ["--topology", topology];
        let coordinator = scene.fleet.coordinator();
        let report = coordinator.deploy(scene.repo.dir(), &deploy).expect_done();
        scene.assert_all_run(&commit);
        for host in ["host4", "host5", "host6"] {
            assert_eq!(report.host(host).bytes.seed, 0, "{topology}: {host}");
        }
    }
}

#[test]
fn when_one_of_two_relays_is_killed_the_other_one_takes_over() {
    let mut builder = fleet(8);
    for host in [6, 7, 8] {
        builder = builder.behind(host, &[4, 5]);
    }
    let Some(scene) = Scene::start(builder) else {
        return;
    };
    scene.expect_broken_connections();
    let coordinator = scene.fleet.coordinator();
    let commit = scene.commit_payload(BYTES, 65);
    let bearing_it = ["--away-timeout", "5", "--budget", "1"];
    let deploy = coordinator.start_deploy(scene.repo.dir(), &bearing_it);
    let held = |number: usize| {
        let newest = scene.fleet.host(number).newest_release(REPO);
        newest.map_or(0.0, |it| it.share_held())
    };
    wait_until(
        "a host behind the relays holds a quarter",
        FETCH_MAX,
        || {
            let share = held(7);
            if share > 0.25 { Ok(()) } else { Err(share) }
        },
    );
    assert!(
        held(7) < 1.0,
        "it was to be killed before it had passed on everything"
    );
    let killed = scene.fleet.host(4);
    killed.kill9();
    let report = coordinator.finish(deploy).expect_code(5);
    assert_eq!(report.failed(), ["host4"]);
    for host in scene
        .fleet
        .hosts()
        .iter()
        .filter(|host| host.name() != "host4")
    {
        scene.assert_runs(host, &commit);
    }
    let took = ["host1", "host6", "host7", "host8"].map(|host| fetched_in(&report, host));
    println!(
        "fetched in the open in {:.2} s, behind the relays in {:.2?} s",
        took[0],
        &took[1..]
    );
}

#[test]
fn in_a_tree_a_host_whose_relay_is_killed_is_fed_by_the_other_one() {
    let Some(scene) = Scene::start(fleet(4).behind(4, &[2, 3])) else {
        return;
    };
    scene.expect_broken_connections();
    let coordinator = scene.fleet.coordinator();
    let commit = scene.commit_payload(BYTES, 68);
    let tree = ["--topology", "tree", "--away-timeout", "5", "--budget", "1"];
    let deploy = coordinator.start_deploy(scene.repo.dir(), &tree);
    let behind = scene.fleet.host(4);
    wait_until("the host holds a quarter", FETCH_MAX, || {
        let share = behind
            .newest_release(REPO)
            .map_or(0.0, |it| it.share_held());
        if share > 0.25 { Ok(()) } else { Err(share) }
    });
    // In a tree it has one upstream: which of the two, its neighbour's log does not say, but what they send does.
    let sent = [2, 3].map(|number| (scene.fleet.host(number).counters().sent_bytes, number));
    let (_, upstream) = sent.into_iter().max().unwrap();
    scene.fleet.host(upstream).kill9();
    let report = coordinator.finish(deploy).expect_code(5);
    assert_eq!(report.failed(), [format!("host{upstream}")]);
    scene.assert_runs(behind, &commit);
    let other = scene
        .fleet
        .dir()
        .join(format!("logs/host{}.log", 5 - upstream));
    let log = std::fs::read_to_string(other).unwrap();
    assert!(log.contains("nobody feeds it; we do"), "it was told to");
}

#[test]
fn without_its_relay_a_host_is_named_unreachable_and_the_rest_is_done() {
    let builder = fleet(4).behind(3, &[2]).behind(4, &[3]);
    let Some(scene) = Scene::start(builder) else {
        return;
    };
    scene.expect_broken_connections();
    let coordinator = scene.fleet.coordinator();
    let relay = scene.fleet.host(2);
    relay.kill9();
    let commit = scene.commit_payload(1_000_000, 66);
    let soon = ["--connect-timeout", "3", "--away-timeout", "3"];
    let soon = [&soon[..], &["--budget", "3"]].concat();
    let report = coordinator.deploy(scene.repo.dir(), &soon).expect_code(5);
    assert_eq!(report.failed(), ["host2", "host3", "host4"]);
    for (host, through) in [("host3", "host2"), ("host4", "host3")] {
        let host = report.host(host);
        assert_eq!(host.outcome, "unreachable", "{host:?}");
        let says = format!("not reached through {through}: ");
        let error = host.error.as_deref().unwrap_or_default();
        assert!(error.starts_with(&says), "{error}");
    }
    scene.assert_runs(scene.fleet.host(1), &commit);

    // While a deployment waits for it the relay comes back, and all behind it with it.
    let deploy = coordinator.start_deploy(scene.repo.dir(), &["--connect-timeout", "30"]);
    relay.spawn_agent();
    relay.wait_ready();
    coordinator.finish(deploy).expect_done();
    scene.assert_all_run(&commit);
}

#[test]
fn a_relay_that_dies_and_comes_back_during_a_deployment_takes_those_behind_it_along() {
    let builder = fleet(5).behind(4, &[3]).behind(5, &[3]);
    let Some(scene) = Scene::start(builder) else {
        return;
    };
    scene.expect_broken_connections();
    let coordinator = scene.fleet.coordinator();
    let commit = scene.commit_payload(BYTES, 67);
    let deploy = coordinator.start_deploy(scene.repo.dir(), &[]);
    let relay = scene.fleet.host(3);
    wait_until("the relay holds a quarter", FETCH_MAX, || {
        let share = relay.newest_release(REPO).map_or(0.0, |it| it.share_held());
        if share > 0.25 { Ok(()) } else { Err(share) }
    });
    relay.kill9();
    let log = scene.fleet.dir().join("logs/host4.log");
    wait_until("host4 notices", FETCH_MAX, || {
        let text = std::fs::read_to_string(&log).unwrap();
        if text.contains("control stream lost") {
            Ok(())
        } else {
            Err(())
        }
    });
    relay.spawn_agent();
    relay.wait_ready();
    coordinator.finish(deploy).expect_done();
    scene.assert_all_run(&commit);
}
