//! Deploys during which a process, a link or a disk fails: what was fetched is kept, who can go on
//! goes on, and what was live stays live.

use std::time::Duration;

use scap_tests::faults::SmallDisk;
use scap_tests::fleet::{Fleet, Host, wait_until};
use scap_tests::under_test;

use crate::scene::{FETCH_MAX, REPO, Scene};

#[test]
fn an_agent_killed_while_it_fetches_resumes_and_fetches_nothing_twice() {
    let builder = Fleet::builder(under_test!()).hosts(4).rate_mbit(20);
    let Some(scene) = Scene::start(builder) else {
        return;
    };
    scene.expect_broken_connections();
    let commit = scene.commit_payload(SLOW_BYTES, 17);
    let victim = scene.fleet.host(1);
    let before = victim.counters();

    let deploy = scene
        .fleet
        .coordinator()
        .start_deploy(scene.repo.dir(), &[]);
    wait_until("host1 holds half", FETCH_MAX, || holds(victim, 0.5));
    assert!(
        victim.newest_release(REPO).unwrap().share_held() < 0.9,
        "killed too late to tell"
    );
    victim.kill9();
    victim.spawn_agent();
    victim.wait_ready();
    let kept = victim.newest_release(REPO).unwrap();
    assert!(
        kept.share_held() > 0.35,
        "what was verified before the kill: {kept:#?}"
    );

    let report = scene.fleet.coordinator().finish(deploy).expect_done();
    scene.assert_all_run(&commit);
    // All that came over its link, headers and lost requests included. Twice would be 1.5 and up.
    let received = victim.counters().since(before).received_bytes;
    let share = received as f64 / SLOW_BYTES as f64;
    assert!(
        share < 1.3,
        "host1 received {share} times the payload: {report:#?}"
    );
}

#[test]
fn a_seed_whose_link_is_down_for_ten_seconds_costs_time_and_nothing_else() {
    let builder = Fleet::builder(under_test!()).hosts(4).rate_mbit(20);
    let Some(scene) = Scene::start(builder) else {
        return;
    };
    scene.expect_broken_connections();
    let commit = scene.commit_payload(SLOW_BYTES, 19);
    let received = || -> u64 {
        scene
            .fleet
            .hosts()
            .iter()
            .map(|host| host.counters().received_bytes)
            .sum()
    };
    let before = received();

    let deploy = scene
        .fleet
        .coordinator()
        .start_deploy(scene.repo.dir(), &[]);
    wait_until("half of all chunks are there", FETCH_MAX, || {
        let shares: Vec<_> = scene.fleet.hosts().iter().map(share_held).collect();
        let half = shares.len() as f64 / 2.0;
        if shares.iter().sum::<f64>() >= half {
            Ok(())
        } else {
            Err(shares)
        }
    });
    scene.fleet.coordinator().station().link_down();
    std::thread::sleep(Duration::from_secs(10)); // the fault itself
    scene.fleet.coordinator().station().link_up();

    let report = scene.fleet.coordinator().finish(deploy).expect_done();
    scene.assert_all_run(&commit);
    let copies = (received() - before) as f64 / SLOW_BYTES as f64;
    assert!(
        copies < 4.0 * 1.3,
        "4 hosts received {copies} copies: {report:#?}"
    );
}

#[test]
fn a_host_that_is_down_is_named_and_the_others_are_done() {
    let Some(scene) = Scene::start(Fleet::builder(under_test!()).hosts(3)) else {
        return;
    };
    scene.expect_broken_connections();
    scene.fleet.expect_log("host3");
    let commit = scene.commit_payload(1_000_000, 23);
    scene.fleet.host(3).station().link_down();
    let coordinator = scene.fleet.coordinator();
    let deployed = coordinator.deploy(scene.repo.dir(), &["--budget", "34%"]);
    assert!(
        deployed.output.stderr.contains("host3"),
        "{:#?}",
        deployed.output
    );
    let report = deployed.expect_code(5);
    assert_eq!(report.failed(), ["host3"]);
    for host in &scene.fleet.hosts()[..2] {
        scene.assert_runs(host, &commit);
    }
    assert!(!scene.fleet.host(3).live(REPO).exists());

    scene.fleet.host(3).station().link_up();
    scene
        .fleet
        .coordinator()
        .deploy(scene.repo.dir(), &[])
        .expect_done();
    scene.assert_all_run(&commit);
}

#[test]
fn a_full_disk_is_named_and_the_old_release_stays_live() {
    // The store leaves 64 MiB of a disk to its host, so 32 are for chunks.
    let mut disk = None;
    let scene = Scene::start_after(Fleet::builder(under_test!()).hosts(3), |fleet| {
        disk = Some(SmallDisk::mount(&fleet.host(2).data(), 96 * MIB));
    });
    let Some((scene, disk)) = scene.zip(disk) else {
        return;
    };
    for words in ["disk", "space", "host2"] {
        scene.fleet.expect_log(words);
    }
    let small = scene.commit_payload(1_000_000, 29);
    scene
        .fleet
        .coordinator()
        .deploy(scene.repo.dir(), &[])
        .expect_done();

    let large = scene.commit_payload(48_000_000, 31);
    let report = scene
        .fleet
        .coordinator()
        .deploy(scene.repo.dir(), &["--budget", "1"])
        .expect_code(5);
    assert_eq!(report.failed(), ["host2"]);
    let error = report.host("host2").error.clone().unwrap();
    assert!(error.contains("disk") || error.contains("space"), "{error}");
    scene.assert_runs(scene.fleet.host(1), &large);
    scene.assert_runs(scene.fleet.host(2), &small);
    scene.assert_runs(scene.fleet.host(3), &large);

    disk.resize(512 * MIB);
    scene
        .fleet
        .coordinator()
        .deploy(scene.repo.dir(), &[])
        .expect_done();
    scene.assert_all_run(&large);
}

fn share_held(host: &Host) -> f64 {
    host.newest_release(REPO)
        .map_or(0.0, |release| release.share_held())
}

fn holds(host: &Host, share: f64) -> Result<(), f64> {
    let held = share_held(host);
    if held >= share { Ok(()) } else { Err(held) }
}

const MIB: u64 = 1024 * 1024;

/// Takes ten seconds at 20 Mbit/s: time to look and to break things.
const SLOW_BYTES: usize = 24_000_000;
