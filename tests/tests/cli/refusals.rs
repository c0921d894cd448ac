//! Hosts that are not there, or that will not.

use std::time::Instant;

use rustix::process::Signal;
use serde_json::{Value, json};

use super::fleet::{Agent, Fleet, deployed, enroll, fleet_file, host};
use super::process::{LIMIT, send_signal};
use super::scene::{Scene, flip_a_byte};

#[test]
fn d14_a_host_whose_port_is_silent_is_named_with_it_and_the_others_have_it() {
    let fleet = Fleet::start(&["web1", "web2"]);
    let (repo, commit) = fleet.scene.repo();
    // A port that is ours and that nobody answers on.
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let silent = silent.local_addr().unwrap();
    let text = std::fs::read_to_string(fleet.scene.path("fleet.toml")).unwrap();
    let text = format!(
        "{text}{}",
        fleet_file(&[("web3", &silent.to_string(), false)])
    );
    fleet.scene.write("fleet.toml", text);

    let started = Instant::now();
    let ended = fleet
        .deploy(&["--repo", "repo", "--connect-timeout", "2", "--budget", "1"])
        .exits(5);
    assert!(started.elapsed() < LIMIT / 2, "{:?}", started.elapsed());
    let ended = ended.says(&[
        "ok 2  failed 0  unreachable 1",
        "web3",
        "done, with hosts lost or skipped",
    ]);
    let report = deployed(&ended);
    assert_eq!(
        (&report["outcome"], &report["finalized"]),
        (&json!("partial"), &json!(true))
    );
    for name in ["web1", "web2"] {
        assert_eq!(host(&report, name)["outcome"], "promoted");
    }
    let lost = host(&report, "web3");
    assert_eq!(lost["outcome"], "unreachable");
    let why = format!("no answer in 2 s at UDP {silent}");
    assert_eq!(lost["error"], why, "{lost:#}");
    ended.says(&[&why]);
    fleet.assert_all_run(&repo, &commit);
}

#[test]
fn a_host_without_an_address_is_named_with_what_was_looked_up() {
    let fleet = Fleet::start(&["web1"]);
    let (repo, commit) = fleet.scene.repo();
    let text = std::fs::read_to_string(fleet.scene.path("fleet.toml")).unwrap();
    let address = "nowhere.invalid:7227";
    let text = format!("{text}{}", fleet_file(&[("web2", address, false)]));
    fleet.scene.write("fleet.toml", text);
    let ended = fleet
        .deploy(&["--repo", "repo", "--connect-timeout", "5", "--budget", "1"])
        .exits(5);
    let lost = host(&deployed(&ended), "web2").clone();
    assert_eq!(lost["outcome"], "unreachable");
    let error = lost["error"].as_str().unwrap();
    assert!(error.contains("look up its address"), "{error}");
    fleet.assert_all_run(&repo, &commit);
}

#[test]
fn a_host_that_comes_back_gets_it_with_the_same_command() {
    let mut fleet = Fleet::start(&["web1", "web2"]);
    let (repo, commit) = fleet.scene.repo();
    fleet.agents.pop().unwrap().stop().exits(0);
    let ended = fleet
        .deploy(&["--repo", "repo", "--connect-timeout", "2"])
        .exits(3);
    let first = deployed(&ended);
    assert_eq!(host(&first, "web2")["outcome"], "unreachable");

    fleet.agents.push(Agent::start(&fleet.scene, "web2"));
    fleet.write_fleet_file();
    let again = fleet.deploy_repo();
    assert_eq!(again["release"], first["release"]);
    assert_eq!(host(&again, "web2")["outcome"], "promoted");
    fleet.assert_all_run(&repo, &commit);
}

/// Deploys a first commit to web1, the canary, and web2; then commits a second.
fn with_one_live() -> (Fleet, scap_tests::repo::SourceRepo, String, String) {
    let fleet = Fleet::start(&["web1", "web2"]);
    let (repo, first) = fleet.scene.repo();
    fleet.deploy_repo();
    repo.write("README.md", "# A worse site\n");
    let second = repo.commit("Worse");
    (fleet, repo, first, second)
}

/// That a rollout ended at the canary, and that both hosts run what they ran.
#[track_caller]
fn assert_ended_at_canary(fleet: &Fleet, report: &Value, outcome: &str, reason: &str) {
    assert_eq!(
        (&report["outcome"], &report["finalized"]),
        (&json!("rolled-back"), &json!(false))
    );
    let canary = host(report, "web1");
    assert_eq!(canary["outcome"], outcome, "{canary:#}");
    let error = canary["error"].as_str().unwrap();
    assert!(error.contains(reason), "{error}");
    assert_eq!(host(report, "web2")["outcome"], "skipped");
    let other = fleet.release_of("web2");
    assert_eq!(
        (&other["sequence"], &other["live"]),
        (&json!(1), &json!(true)),
        "{other:#}"
    );
}

#[test]
fn a_canary_that_fails_ends_the_rollout_and_all_run_what_they_ran() {
    let (fleet, repo, first, second) = with_one_live();
    // What the canary's activator remembers of what it accepted is damaged.
    let damaged = find(&fleet.agents[0].live("repo-cache"), "authority");
    let whole = std::fs::read(&damaged).unwrap();
    flip_a_byte(&damaged, whole.len() / 2);
    let ended = fleet.deploy(&["--repo", "repo"]).exits(4);
    let ended = ended.says(&[
        "rolled back, since 1 host of wave canary failed, and 0 may be lost",
        "every host runs what it ran before",
    ]);
    assert_ended_at_canary(&fleet, &deployed(&ended), "failed", "authority");
    fleet.assert_all_run(&repo, &first);
    let revs = std::fs::read_dir(find(&fleet.agents[1].live("repo-cache"), "revs")).unwrap();
    assert_eq!(revs.count(), 1, "a host beyond the gate was prepared");

    std::fs::write(&damaged, whole).unwrap();
    fleet.deploy_repo();
    fleet.assert_all_run(&repo, &second);
}

#[test]
fn a_canary_that_is_down_stops_the_rollout() {
    let (mut fleet, repo, first, _) = with_one_live();
    fleet.agents.remove(0).stop().exits(0);
    let ended = fleet
        .deploy(&["--repo", "repo", "--connect-timeout", "2"])
        .exits(3);
    let report = deployed(&ended);
    assert_eq!(
        (&report["outcome"], &report["finalized"]),
        (&json!("stopped"), &json!(false))
    );
    assert_eq!(host(&report, "web1")["outcome"], "unreachable");
    assert_eq!(host(&report, "web2")["outcome"], "skipped");
    repo.archived(&first)
        .assert_is(&fleet.agents[0].live("repo"));
    repo.archived(&first)
        .assert_is(&fleet.scene.path("web1/srv/repo"));
}

#[test]
fn a_canary_that_stalls_is_given_up_and_named() {
    let (fleet, repo, first, second) = with_one_live();
    let activator = fleet.agents[0].activator().pid;
    send_signal(activator, Signal::STOP);
    let ended = fleet
        .deploy(&["--repo", "repo", "--stall-timeout", "2"])
        .exits(4);
    assert_ended_at_canary(&fleet, &deployed(&ended), "failed", "no progress for 2 s");
    for agent in &fleet.agents {
        repo.archived(&first).assert_is(&agent.live("repo"));
    }
    send_signal(activator, Signal::CONT);
    fleet.deploy_repo();
    fleet.assert_all_run(&repo, &second);
}

#[test]
fn a_host_of_another_environment_refuses_and_says_why() {
    let scene = Scene::new();
    enroll(&scene, "web1", &["--environment", "staging"]);
    let fleet = Fleet::start_in(scene, &["web1"]);
    let (repo, commit) = fleet.scene.repo();
    let ended = fleet.deploy(&["--repo", "repo"]).exits(4);
    let report = deployed(&ended);
    let refused = host(&report, "web1");
    assert_eq!(refused["outcome"], "failed");
    let error = refused["error"].as_str().unwrap();
    assert!(
        error.contains("refused: ") && error.contains("production"),
        "{error}"
    );
    assert!(!fleet.agents[0].live("repo").exists());
    assert_eq!(fleet.release_of("web1"), Value::Null);

    let report = deployed(
        &fleet
            .deploy(&["--repo", "repo", "--environment", "staging"])
            .exits(0),
    );
    assert_eq!(report["environment"], "staging");
    fleet.assert_all_run(&repo, &commit);
}

#[test]
fn an_agent_of_a_strange_fleet_is_refused_and_named() {
    let fleet = Fleet::start(&["web1"]);
    let (repo, commit) = fleet.scene.repo();
    fleet
        .scene
        .scap(&["init", "--state", "st2", "--fleet", "others"])
        .exits(0);
    std::fs::create_dir_all(fleet.scene.path("web2/srv")).unwrap();
    let arguments = ["enroll", "web2", "--state", "st2", "--out", "web2/identity"];
    fleet.scene.scap(&arguments).exits(0);
    let stranger = Agent::start_enrolled(&fleet.scene, "web2");
    let text = std::fs::read_to_string(fleet.scene.path("fleet.toml")).unwrap();
    let text = format!(
        "{text}{}",
        fleet_file(&[("web2", &stranger.address, false)])
    );
    fleet.scene.write("fleet.toml", text);

    let ended = fleet
        .deploy(&["--repo", "repo", "--connect-timeout", "3", "--budget", "1"])
        .exits(5);
    let report = deployed(&ended);
    let refused = host(&report, "web2");
    assert_eq!(refused["outcome"], "unreachable");
    let error = refused["error"].as_str().unwrap();
    assert!(error.contains("agent web2 of fleet others"), "{error}");
    assert!(error.contains("no authority we trust"), "{error}");
    assert!(!stranger.live("repo").exists());
    fleet.assert_all_run(&repo, &commit);
    stranger.stop().exits(0);
}

#[test]
fn a_coordinator_of_a_strange_fleet_changes_nothing() {
    let fleet = Fleet::start(&["web1"]);
    let (repo, commit) = fleet.scene.repo();
    fleet.deploy_repo();
    repo.write("README.md", "# A site of somebody else\n");
    repo.commit("Taken over");
    fleet.scene.scap(&["init", "--state", "st2"]).exits(0);
    let arguments = [
        "deploy",
        "--state",
        "st2",
        "--repo",
        "repo",
        "--fleet",
        "fleet.toml",
    ];
    let more = ["--yes", "--json", "--connect-timeout", "3"];
    let ended = fleet.scene.scap(&[&arguments[..], &more].concat()).exits(3);
    let report = deployed(&ended);
    assert_eq!(
        host(&report, "web1")["outcome"],
        "unreachable",
        "{report:#}"
    );
    fleet.assert_all_run(&repo, &commit);
    let release = fleet.release_of("web1");
    assert_eq!(release["sequence"], 1, "{release:#}");
}

#[test]
fn a_host_under_another_hosts_name_is_refused_and_both_are_named() {
    let fleet = Fleet::start(&["web1", "web2"]);
    fleet.scene.repo();
    let (one, two) = (&fleet.agents[0].address, &fleet.agents[1].address);
    fleet.scene.write(
        "fleet.toml",
        fleet_file(&[("web1", two, false), ("web2", one, false)]),
    );
    let ended = fleet
        .deploy(&["--repo", "repo", "--connect-timeout", "3"])
        .exits(3);
    let report = deployed(&ended);
    for (name, other) in [("web1", "web2"), ("web2", "web1")] {
        let refused = host(&report, name);
        assert_eq!(refused["outcome"], "unreachable");
        let error = refused["error"].as_str().unwrap();
        assert!(error.contains(name) && error.contains(other), "{error}");
    }
}

/// The one file of that name below a folder.
fn find(folder: &std::path::Path, name: &str) -> std::path::PathBuf {
    let mut folders = vec![folder.to_owned()];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let entry = entry.unwrap();
            if entry.file_name() == name {
                found.push(entry.path());
            } else if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            }
        }
    }
    assert_eq!(
        found.len(),
        1,
        "{name} below {}: {found:?}",
        folder.display()
    );
    found[0].clone()
}
