//! The canary goes first, and when it fails the others keep what they run.

use scap_tests::faults::SmallDisk;
use scap_tests::fleet::{Fleet, Host};
use scap_tests::under_test;

use crate::scene::{REPO, Scene, runs};

#[test]
fn nobody_fetches_before_the_canary_is_live() {
    let builder = Fleet::builder(under_test!())
        .hosts(4)
        .canaries(1)
        .rate_mbit(40);
    let Some(scene) = Scene::start(builder) else {
        return;
    };
    let commit = scene.commit_payload(12_000_000, 37);
    let (canary, others) = scene.fleet.hosts().split_first().unwrap();
    let deploy = scene
        .fleet
        .coordinator()
        .start_deploy(scene.repo.dir(), &[]);
    let mut looks_before_canary = 0;
    deploy.while_running(|| {
        // In this order: what others hold now, they held when the canary was not live later.
        let held: Vec<u64> = others.iter().map(chunks_held).collect();
        if !runs(canary, &commit) {
            looks_before_canary += 1;
            assert!(
                held.iter().all(|chunks| *chunks == 0),
                "before the canary was live: {held:?}"
            );
        }
    });
    scene.fleet.coordinator().finish(deploy).expect_done();
    assert!(looks_before_canary > 0, "it was over before anybody looked");
    scene.assert_all_run(&commit);
}

#[test]
fn a_failed_canary_ends_the_rollout_and_the_others_keep_what_they_run() {
    let mut disk = None;
    let builder = Fleet::builder(under_test!()).hosts(4).canaries(1);
    let scene = Scene::start_after(builder, |fleet| {
        disk = Some(SmallDisk::mount(
            &fleet.host(1).deploy_root(),
            64 * 1024 * 1024,
        ));
    });
    let Some((scene, disk)) = scene.zip(disk) else {
        return;
    };
    for words in ["host1", "read-only", "Read-only", "canary"] {
        scene.fleet.expect_log(words);
    }
    let old = scene.commit_payload(1_000_000, 41);
    scene
        .fleet
        .coordinator()
        .deploy(scene.repo.dir(), &[])
        .expect_done();

    let new = scene.commit_payload(1_000_000, 43);
    disk.make_read_only();
    let deployed = scene.fleet.coordinator().deploy(scene.repo.dir(), &[]);
    let report = deployed.expect_code(ROLLED_BACK);
    assert!(report.host("host1").error.is_some(), "{report:#?}");
    scene.assert_all_run(&old);
    for host in &scene.fleet.hosts()[1..] {
        assert_eq!(
            std::fs::read_dir(host.revs(REPO)).unwrap().count(),
            1,
            "{}",
            host.name()
        );
    }

    disk.make_writable();
    scene
        .fleet
        .coordinator()
        .deploy(scene.repo.dir(), &[])
        .expect_done();
    scene.assert_all_run(&new);
}

/// Of the release that a fresh host is offered first.
fn chunks_held(host: &Host) -> u64 {
    host.newest_release(REPO)
        .map_or(0, |release| release.chunks_held)
}

/// The exit code that says that every host runs what it ran before.
const ROLLED_BACK: i32 = 4;
