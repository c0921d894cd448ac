//! The plan goes to a host once: who keeps it is ordered without it, and who lost it is sent it again.

use scap_tests::fleet::{Fleet, Host};
use scap_tests::under_test;

use crate::scene::Scene;

/// Of each order that a host accepted, whether the plan came with it.
fn orders(host: &Host) -> Vec<bool> {
    let log = host.log();
    let accepted = log.lines().filter(|line| line.contains("order accepted"));
    let came = accepted.map(|line| {
        let (came, kept) = (
            line.contains("plan=\"came\""),
            line.contains("plan=\"kept\""),
        );
        assert!(came != kept, "{line}");
        came
    });
    came.collect()
}

#[test]
fn an_unchanged_plan_is_sent_once_and_again_only_to_who_lost_it() {
    let Some(scene) = Scene::start(Fleet::builder(under_test!()).hosts(3).canaries(1)) else {
        return;
    };
    let coordinator = scene.fleet.coordinator();
    scene.commit_text("first\n");
    coordinator.deploy(scene.repo.dir(), &[]).expect_done();
    let mut seen: Vec<usize> = Vec::new();
    for host in scene.fleet.hosts() {
        let orders = orders(host);
        assert_eq!(
            orders,
            [true, false],
            "fetch and promote at {}",
            host.name()
        );
        seen.push(orders.len());
    }

    scene.commit_text("second\n");
    coordinator.deploy(scene.repo.dir(), &[]).expect_done();
    for (host, seen) in scene.fleet.hosts().iter().zip(&mut seen) {
        let orders = orders(host);
        assert_eq!(orders[*seen..], [false, false], "{}", host.name());
        *seen = orders.len();
    }

    let forgetful = scene.fleet.host(3);
    scene
        .fleet
        .expect_log("the record of what this host accepted was lost");
    forgetful.terminate();
    std::fs::remove_dir_all(forgetful.data().join("state")).unwrap();
    forgetful.spawn_agent();
    forgetful.wait_ready();
    let third = scene.commit_text("third\n");
    coordinator.deploy(scene.repo.dir(), &[]).expect_done();
    scene.assert_all_run(&third);
    assert_eq!(orders(forgetful)[seen[2]..], [true, false]);
    // The canary is ordered alone.
    assert_eq!(orders(scene.fleet.host(1))[seen[0]..], [false, false]);
}
