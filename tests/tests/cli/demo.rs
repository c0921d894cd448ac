//! `demo`: a fleet of its own, and nothing left of it.

use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;
use scap_tests::fleet::wait_until;
use scap_tests::tree::Tree;
use serde_json::Value;

use super::process::{Listed, send_signal};
use super::scene::Scene;

/// How long processes may take to end once they are told to, or find that nobody needs them.
const END_MAX: Duration = Duration::from_secs(30);

/// Waits until no process of the scene runs any more.
#[track_caller]
fn assert_all_end(scene: &Scene) {
    wait_until("all processes are gone", END_MAX, || {
        let left = scene.processes();
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
}

fn files_in(folder: &Path) -> Vec<std::path::PathBuf> {
    let listed = std::fs::read_dir(folder).unwrap();
    listed.map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn the_demo_verifies_what_it_deployed_and_cleans_up() {
    let scene = Scene::empty();
    let ended = scene.scap(&["demo", "--agents", "2", "--json"]).exits(0);
    let report = ended.json("scap.demo/1");
    assert_eq!(
        (&report["agents"], &report["verified"]),
        (&2.into(), &true.into())
    );
    assert_eq!(report["directory"], Value::Null);
    let deployments = report["deployments"].as_array().unwrap();
    assert_eq!(deployments.len(), 2, "{report:#}");
    for deployment in deployments {
        assert_eq!(deployment["outcome"], "done", "{deployment:#}");
        assert_eq!(deployment["hosts"].as_array().map(Vec::len), Some(2));
    }
    assert_ne!(deployments[0]["commit"], deployments[1]["commit"]);
    let broken = &report["rolled_back"];
    assert_eq!(broken["outcome"], "rolled-back", "{broken:#}");
    let outcome = |at: usize| &broken["hosts"][at]["outcome"];
    assert_eq!(
        (outcome(0), outcome(1)),
        (&"rolled-back".into(), &"skipped".into())
    );
    ended.says(&[
        "1/7",
        "7/7",
        "rolling back: 1 host of wave canary failed",
        "is taken by something else",
        "from the seed",
        "from peers",
        "2 targets equal the second commit in git",
    ]);
    assert_eq!(files_in(&scene.path("tmp")), [] as [std::path::PathBuf; 0]);
    assert_eq!(scene.processes(), []);
}

#[test]
fn the_demo_keeps_what_it_made_where_it_is_told_to() {
    let scene = Scene::empty();
    let ended = scene
        .scap(&["demo", "--agents", "1", "--keep", "--json"])
        .exits(0);
    let ended = ended.says(&["kept ", "agent.log"]);
    let report = ended.json("scap.demo/1");
    let directory = Path::new(report["directory"].as_str().unwrap()).to_owned();
    assert!(directory.join("agent01/srv/demo/site/README.md").is_file());
    assert!(directory.starts_with(scene.path("tmp").canonicalize().unwrap()));
    assert_eq!(scene.processes(), []);
}

#[test]
fn the_demo_of_a_repo_only_reads_it() {
    let scene = Scene::empty();
    let (repo, _) = scene.repo();
    // It names hosts that are not there.
    repo.write("scap/scap.cfg", "[global]\ndsh_targets: nowhere\n");
    let commit = repo.commit("A scap folder");
    let before = Tree::read(repo.dir());
    let ended = scene
        .scap(&["demo", "--agents", "1", "--repo", "repo", "--json"])
        .exits(0);
    let report = ended.json("scap.demo/1");
    assert_eq!(report["deployments"][0]["commit"], commit.as_str());
    assert_eq!(before, Tree::read(repo.dir()));
    let ended = scene.scap(&["demo", "--repo", "missing"]);
    ended.fails(1, "open --repo", "missing: No such file", "repository");
    assert_eq!(files_in(&scene.path("tmp")), [] as [std::path::PathBuf; 0]);
}

#[test]
fn a_demo_that_is_interrupted_stops_its_agents_and_cleans_up() {
    let scene = Scene::empty();
    let mut demo = scene.start(&["demo", "--agents", "2"]);
    demo.wait_until_it_says("demo  4/7");
    assert_eq!(agents(&scene).len(), 2);
    demo.signal(Signal::INT);
    demo.end()
        .exits(1)
        .says(&["error: interrupted", "the agents were stopped"]);
    assert_all_end(&scene);
    assert_eq!(files_in(&scene.path("tmp")), [] as [std::path::PathBuf; 0]);
}

#[test]
fn no_agent_outlives_a_demo_that_is_killed() {
    let scene = Scene::empty();
    let mut demo = scene.start(&["demo", "--agents", "2"]);
    demo.wait_until_it_says("demo  4/7");
    let _cleanup = KillAtEnd(agents(&scene));
    demo.signal(Signal::KILL);
    demo.end();
    assert_all_end(&scene);
}

/// The agents' processes, without their activators.
fn agents(scene: &Scene) -> Vec<Listed> {
    let mut all = scene.processes();
    all.retain(|process| process.command.contains(" agent run "));
    all
}

/// What the test must end where the demo does not.
struct KillAtEnd(Vec<Listed>);

impl Drop for KillAtEnd {
    fn drop(&mut self) {
        for process in &self.0 {
            send_signal(process.pid, Signal::KILL);
        }
    }
}
