//! An activator that dies at the worst moments: the old tree or the new one is live, whole, and
//! the next attempt finishes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use scap_tests::fleet::{Fleet, wait_until};
use scap_tests::repo::write_source_tree;
use scap_tests::tree::live_release;
use scap_tests::under_test;

use crate::scene::{REPO, Scene, runs};

#[test]
fn an_activator_killed_between_write_and_flip_leaves_the_old_tree_or_the_new_one() {
    let Some(scene) = Scene::start(Fleet::builder(under_test!()).hosts(2)) else {
        return;
    };
    survives_failpoint(&scene, "before-flip");
}

#[test]
fn an_activator_killed_between_flip_and_record_leaves_the_old_tree_or_the_new_one() {
    let Some(scene) = Scene::start(Fleet::builder(under_test!()).hosts(2)) else {
        return;
    };
    survives_failpoint(&scene, "after-flip");
}

#[test]
fn an_activator_killed_about_a_spare_leaves_whole_trees_and_the_next_deployment_completes() {
    let Some(scene) = Scene::start(Fleet::builder(under_test!()).hosts(1)) else {
        return;
    };
    scene.fleet.expect_log("activator");
    write_source_tree(scene.repo.dir(), 500, 48);
    let coordinator = scene.fleet.coordinator();
    let victim = scene.fleet.host(1);
    let own = victim.deploy_root().join(format!("{REPO}-cache/.scap"));
    let spare = || wait_until("a spare", SPARE_MAX, || is_there(&own.join("spare-of")));
    let deploy = |text: &str| {
        let commit = scene.commit_text(text);
        coordinator.deploy(scene.repo.dir(), &[]).expect_done();
        scene.assert_all_run(&commit);
    };
    deploy("first\n");
    for failpoint in ["mid-spare", "spare-made", "spare-taken", "mid-write"] {
        let is_making = failpoint.ends_with("spare") || failpoint.ends_with("made");
        if !is_making {
            spare();
        }
        victim.terminate();
        victim.spawn_agent_with(&[("SCAP_FAILPOINT", failpoint)]);
        victim.wait_ready();
        deploy(&format!("{failpoint}\n"));
        let mark = own.join(format!("failpoint-{failpoint}"));
        wait_until("the failpoint", SPARE_MAX, || is_there(&mark));
        // After the kill too, and of whatever it left.
        deploy(&format!("after {failpoint}\n"));
    }
    spare();
    let kept = std::fs::read_dir(victim.revs(REPO)).unwrap().count();
    assert_eq!(kept, 5);
}

/// The longest that the making of a small spare may take.
const SPARE_MAX: Duration = Duration::from_secs(30);

fn is_there(path: &Path) -> Result<(), PathBuf> {
    if path.exists() {
        Ok(())
    } else {
        Err(path.to_owned())
    }
}

fn survives_failpoint(scene: &Scene, failpoint: &str) {
    scene.fleet.expect_log("activator");
    write_source_tree(scene.repo.dir(), 500, 47);
    let old = scene.commit_text("old\n");
    let coordinator = scene.fleet.coordinator();
    coordinator.deploy(scene.repo.dir(), &[]).expect_done();
    let victim = scene.fleet.host(1);
    victim.terminate();
    victim.spawn_agent_with(&[("SCAP_FAILPOINT", failpoint)]);
    victim.wait_ready();

    let new = scene.commit_text("new\n");
    let deploy = coordinator.start_deploy(scene.repo.dir(), &[]);
    deploy.while_running(|| {
        let live = live_release(&victim.live(REPO)).expect("there is no moment without a tree");
        assert!(live.ends_with(&old) || live.ends_with(&new), "{live}");
    });
    let deployed = coordinator.finish(deploy);
    assert!(
        marker(&victim.deploy_root()).is_some(),
        "the activator came past {failpoint} alive"
    );
    if deployed.output.code() != Some(0) {
        // It may report the failure instead of trying again: then what is live is whole …
        scene.assert_runs(victim, if runs(victim, &new) { &new } else { &old });
        // … and the next attempt, for which nothing needs to be mended by hand, succeeds.
        coordinator.deploy(scene.repo.dir(), &[]).expect_done();
    }
    scene.assert_all_run(&new);
    let kept = std::fs::read_dir(victim.revs(REPO)).unwrap().count();
    assert_eq!(
        kept, 2,
        "the old release, the new one, and nothing half written"
    );
}

/// What the failpoint leaves beneath the deploy root, so that it strikes once.
fn marker(dir: &Path) -> Option<PathBuf> {
    std::fs::read_dir(dir).ok()?.flatten().find_map(|entry| {
        let path = entry.path();
        if entry.file_name().to_string_lossy().contains("failpoint") {
            Some(path)
        } else if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            marker(&path)
        } else {
            None
        }
    })
}
