//! Going back while the upstream of the state branch is away, or somebody else's turn.

use std::net::TcpListener;

use rustix::process::Signal;
use serde_json::{Value, json};

use super::fleet::{Fleet, deployed};
use super::process::Ended;
use super::rollout::wait_for;
use super::state_branch::{commit, elsewhere, git, with_upstream};

/// A host, an upstream, and two releases; the first commit and the second.
fn released() -> (Fleet, scap_tests::repo::SourceRepo, [String; 2]) {
    let fleet = Fleet::start(&["web1"]);
    let (repo, first) = fleet.scene.repo();
    with_upstream(&fleet);
    fleet.deploy_repo();
    let second = commit(&repo, "2");
    fleet.deploy_repo();
    (fleet, repo, [first, second])
}

fn rollback(fleet: &Fleet, more: &[&str]) -> Ended {
    let common = [
        "rollback",
        "--state",
        "st",
        "--fleet",
        "fleet.toml",
        "--yes",
        "--repo",
        "repo",
    ];
    fleet.scene.scap(&[&common, more].concat())
}

fn latest(fleet: &Fleet) -> Value {
    let history = fleet.scene.scap(&["history", "--repo", "repo", "--json"]);
    history.exits(0).json("scap.history/1")["releases"][0].clone()
}

const WITHOUT: &str = "without the upstream, as with --offline, which is recorded: ";

/// Asserts that the host is back, that it was said how, and that it is recorded.
#[track_caller]
fn assert_went_alone(fleet: &Fleet, ended: &Ended, why: &str) {
    let said = ended.stderr.matches(WITHOUT).count();
    assert_eq!(said, 1, "{}", ended.stderr);
    assert!(ended.stderr.contains(why), "{}", ended.stderr);
    assert_eq!(deployed(ended)["state"]["at_upstream"], false);
    let latest = latest(fleet);
    assert_eq!(
        (
            &latest["offline"],
            &latest["rolls_back_to"],
            &latest["outcome"]
        ),
        (&json!(true), &json!(1), &json!("done")),
        "{latest:#}"
    );
}

#[test]
fn an_upstream_that_is_down_keeps_nobody_from_going_back() {
    let (fleet, repo, [first, second]) = released();
    let (origin, away) = (fleet.scene.path("origin.git"), fleet.scene.path("away.git"));
    std::fs::rename(&origin, &away).unwrap();
    let ended = rollback(&fleet, &["--json"]).exits(0);
    assert_went_alone(&fleet, &ended, "reach the upstream `origin`");
    fleet.assert_all_run(&repo, &first);
    // Its end is the rollback's own.
    rollback(&fleet, &["#99"]).exits(2).says(&[WITHOUT, "#99"]);

    // Once it is back it gets to know with what comes next, and going back asks it again.
    std::fs::rename(&away, &origin).unwrap();
    let ended = rollback(&fleet, &["#2", "--json"]).exits(0);
    assert!(!ended.stderr.contains(WITHOUT), "{}", ended.stderr);
    assert_eq!(deployed(&ended)["state"]["at_upstream"], true);
    fleet.assert_all_run(&repo, &second);
    let there = git(&origin, &["log", "--format=%s", "scap/state"]);
    assert!(there.contains("#3 done, finalized"), "{there}");
    assert_eq!(latest(&fleet)["offline"], false);
}

#[test]
fn an_upstream_that_never_answers_keeps_nobody_from_going_back() {
    let (fleet, repo, [first, _]) = released();
    // Its queue takes the connection, and nobody ever reads from it.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("git://{}/origin.git", silent.local_addr().unwrap());
    git(repo.dir(), &["remote", "set-url", "origin", &url]);
    let ended = rollback(&fleet, &["--json"]).exits(0);
    assert_went_alone(&fleet, &ended, "5 s");
    fleet.assert_all_run(&repo, &first);
    // A dry run goes on alone too, and asks no more than that.
    let dry = rollback(&fleet, &["#2", "--dry-run"]).exits(0);
    dry.says(&[WITHOUT]);
    drop(silent);
}

#[test]
fn who_goes_back_waits_for_a_lock_that_the_upstream_has() {
    let (fleet, repo, _) = released();
    elsewhere(&fleet);
    repo.write("version", "3");
    let third = repo.commit("Version 3");
    let mut first = fleet.start_deploy(&["--repo", "repo", "--soak", "600"]);
    wait_for(&fleet, &mut first, "soak");
    let common = [
        "rollback",
        "--state",
        "st2",
        "--fleet",
        "fleet.toml",
        "--yes",
    ];
    let other = [&common[..], &["--repo", "repo2", "--name", "repo", "#1"]].concat();
    let refused = fleet.scene.scap(&other);
    refused
        .fails(75, "use the state branch", "is locked by", "unlock")
        .says(&["Version 3"]);
    fleet.assert_all_run(&repo, &third);
    first.signal(Signal::INT);
    wait_for(&fleet, &mut first, "paused");
    first.signal(Signal::INT);
    first.end().exits(3);
}

#[test]
fn who_goes_back_alone_names_the_release_where_hosts_know_of_one_that_is_not_recorded() {
    let (fleet, repo, [first, _]) = released();
    elsewhere(&fleet);
    let third = commit(&repo, "3");
    fleet.deploy_repo();
    let (origin, away) = (fleet.scene.path("origin.git"), fleet.scene.path("away.git"));
    std::fs::rename(&origin, &away).unwrap();
    let rollback = |release: &[&str]| {
        let common = [
            "rollback",
            "--state",
            "st2",
            "--fleet",
            "fleet.toml",
            "--yes",
        ];
        let repo = ["--repo", "repo2", "--name", "repo"];
        fleet.scene.scap(&[&common[..], &repo, release].concat())
    };
    let cause = "#3 is not recorded here: name the release";
    rollback(&[]).fails(3, "choose what to go back to", cause, "history");
    fleet.assert_all_run(&repo, &third);
    rollback(&["#1"]).exits(0);
    fleet.assert_all_run(&repo, &first);
}
