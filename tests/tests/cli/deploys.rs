//! Deployments that go well, and what they say.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::process::Command;

use scap_tests::fleet::wait_until;
use scap_tests::repo::{SourceRepo, make_executable, make_link, write_incompressible};
use scap_tests::tree::{Tree, live_release};
use serde_json::{Value, json};

use super::fleet::{Fleet, deployed, fleet_file, host, status};
use super::process::LIMIT;
use super::scene::Scene;

fn snapshot_of(scene: &Scene, source: &[&str]) -> Value {
    let arguments = [&["snapshot", "--state", "st", "--json"], source].concat();
    scene.scap(&arguments).exits(0).json("scap.snapshot/1")
}

fn moved_bytes(report: &Value) -> u64 {
    let hosts = report["hosts"].as_array().unwrap();
    let of = |host: &Value| {
        let bytes = &host["bytes"];
        bytes["seed"].as_u64().unwrap() + bytes["peers"].as_u64().unwrap()
    };
    hosts.iter().map(of).sum()
}

#[test]
fn a_snapshot_says_what_it_is_and_costs_nothing_the_second_time() {
    let scene = Scene::new();
    let (repo, _) = scene.repo();
    let first = snapshot_of(&scene, &["--repo", "repo"]);
    let files = Tree::read(repo.dir()).file_bytes();
    assert!(first["bytes"].as_u64().unwrap() < files, "{first:#}");
    assert_eq!(first["snapshot"].as_str().unwrap().len(), 64, "{first:#}");
    for (key, expected) in [("files", 2), ("entries", 2), ("bytes", 659)] {
        assert_eq!(first[key], expected, "{key}: {first:#}");
    }
    for key in ["chunks", "encoded_bytes", "new_chunks", "new_encoded_bytes"] {
        assert!(first[key].as_u64().unwrap() > 0, "{key}: {first:#}");
    }
    assert!(first["seconds"].as_f64().unwrap() >= 0.0);
    let again = snapshot_of(&scene, &["--repo", "repo", "--rev", "main"]);
    assert_eq!(again["snapshot"], first["snapshot"]);
    assert_eq!(
        (&again["new_chunks"], &again["new_encoded_bytes"]),
        (&json!(0), &json!(0))
    );
    let ended = scene
        .scap(&["snapshot", "--state", "st", "--repo", "repo"])
        .exits(0);
    ended.prints(&[
        "snapshot ",
        first["snapshot"].as_str().unwrap(),
        "2 files, 659 B",
    ]);
}

#[test]
fn the_same_content_has_the_same_id_wherever_it_is_from() {
    let scene = Scene::new();
    let (repo, commit) = scene.repo();
    make_link(&repo.dir().join("link"), "src/main.js");
    repo.write("run", "#!/bin/sh\n");
    make_executable(&repo.dir().join("run"));
    repo.write(OsStr::from_bytes(b"caf\xe9"), "not UTF-8");
    repo.write("empty", "");
    repo.commit("All kinds");
    let of_repo = snapshot_of(&scene, &["--repo", "repo"]);

    // Committed, and not in the work tree any more.
    std::fs::rename(scene.path("repo/run"), scene.path("run")).unwrap();
    assert_eq!(
        snapshot_of(&scene, &["--repo", "repo"])["snapshot"],
        of_repo["snapshot"]
    );
    std::fs::rename(scene.path("run"), scene.path("repo/run")).unwrap();

    std::fs::rename(scene.path("repo/.git"), scene.path("bare.git")).unwrap();
    for source in [["--dir", "repo"], ["--repo", "bare.git"]] {
        let other = snapshot_of(&scene, &source);
        assert_eq!(other["snapshot"], of_repo["snapshot"], "{source:?}");
    }
    // On another machine, which has another state.
    scene.scap(&["init", "--state", "st2"]).exits(0);
    let other = scene.scap(&["snapshot", "--state", "st2", "--dir", "repo", "--json"]);
    assert_eq!(
        other.json("scap.snapshot/1")["snapshot"],
        of_repo["snapshot"]
    );
    let older = snapshot_of(&scene, &["--repo", "bare.git", "--rev", &commit]);
    assert_ne!(older["snapshot"], of_repo["snapshot"]);
}

#[test]
fn a_deployment_ends_with_one_object_that_says_all_that_was_done() {
    let fleet = Fleet::start(&["web1", "web2", "web3"]);
    let (repo, _) = fleet.scene.repo();
    write_incompressible(&repo.dir().join("big"), 400_000, 1);
    let commit = repo.commit("Something big");
    let ended = fleet.deploy(&["--repo", "repo"]).exits(0);
    let ended = ended.says(&["deploy repo to production", "Something big", "ok 3"]);
    let report = deployed(&ended);
    assert_eq!(report["commit"], commit.as_str());
    assert_eq!(report["repo"], "repo");
    assert_eq!(report["environment"], "production");
    assert_eq!(
        (&report["outcome"], &report["finalized"]),
        (&json!("done"), &json!(true))
    );
    assert_eq!(report["release"].as_str().unwrap().len(), 64);
    assert_eq!(
        report["snapshot"],
        snapshot_of(&fleet.scene, &["--repo", "repo"])["snapshot"]
    );
    assert_eq!(
        report["bound_ratio"],
        Value::Null,
        "no rates are known: {report:#}"
    );
    for phase in [
        "connect", "snapshot", "fetch", "prepare", "promote", "rollout", "total",
    ] {
        assert!(report["seconds"][phase].as_f64().unwrap() >= 0.0, "{phase}");
    }
    let names: Vec<_> = report["hosts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|h| &h["name"])
        .collect();
    assert_eq!(names, ["web1", "web2", "web3"]);
    for name in ["web1", "web2", "web3"] {
        let host = host(&report, name);
        assert_eq!(
            (&host["outcome"], &host["error"]),
            (&json!("promoted"), &Value::Null)
        );
        let bytes = |source: &str| host["bytes"][source].as_u64().unwrap();
        let all = bytes("seed") + bytes("peers") + bytes("reuse");
        assert!(all >= 400_000, "{host:#}");
        for key in ["fetch_seconds", "prepare_seconds", "promote_seconds"] {
            assert!(host[key].as_f64().unwrap() >= 0.0, "{host:#}");
        }
    }
    assert!(
        report["seed_bytes_sent"].as_u64().unwrap() > 400_000,
        "{report:#}"
    );
    fleet.assert_all_run(&repo, &commit);
    assert_eq!(live_release(&fleet.agents[0].live("repo")).unwrap(), commit);
}

#[test]
fn the_bound_is_told_where_rates_are_known() {
    let fleet = Fleet::start(&["web1"]);
    fleet.scene.repo();
    let text = std::fs::read_to_string(fleet.scene.path("fleet.toml")).unwrap();
    let text = format!("{text}rate_mbit = 1000.0\n[seed]\nrate_mbit = 1000.0\n");
    fleet.scene.write("fleet.toml", text);
    let report = fleet.deploy_repo();
    assert!(report["bound_ratio"].as_f64().unwrap() > 1.0, "{report:#}");
}

#[test]
fn the_same_commit_again_is_the_same_release_and_moves_nothing() {
    let fleet = Fleet::start(&["web1", "web2"]);
    let (repo, commit) = fleet.scene.repo();
    let first = fleet.deploy_repo();
    assert!(moved_bytes(&first) > 0, "{first:#}");
    let live = Tree::read(&fleet.agents[0].live("repo"));
    let again = fleet.deploy_repo();
    assert_eq!(again["release"], first["release"]);
    assert_eq!(
        (&again["sequence"], &again["outcome"]),
        (&json!(1), &json!("done"))
    );
    assert_eq!(live, Tree::read(&fleet.agents[0].live("repo")));
    fleet.assert_all_run(&repo, &commit);
    assert_eq!(moved_bytes(&again), 0, "{again:#}");
}

#[test]
fn going_back_is_a_new_release_of_the_old_commit() {
    let fleet = Fleet::start(&["web1", "web2"]);
    let (repo, first) = fleet.scene.repo();
    let old = fleet.deploy_repo();
    repo.write("README.md", "# Another site\n");
    repo.write("more/of/it", "more\n");
    let second = repo.commit("Another");
    fleet.deploy_repo();
    fleet.assert_all_run(&repo, &second);

    let back = deployed(&fleet.deploy(&["--repo", "repo", "--rev", &first]).exits(0));
    fleet.assert_all_run(&repo, &first);
    assert_eq!(back["sequence"], 3);
    assert_eq!(back["snapshot"], old["snapshot"]);
    assert_ne!(back["release"], old["release"]);
    assert_eq!(moved_bytes(&back), 0, "all of it was there: {back:#}");
    for name in ["web1", "web2"] {
        let release = fleet.release_of(name);
        assert_eq!(release["live_commit"], first.as_str(), "{release:#}");
        assert_eq!(release["finalized_sequence"], 3, "{release:#}");
    }
}

#[test]
fn a_tree_of_hosts_gets_it_from_each_other() {
    let fleet = Fleet::start(&["web1", "web2", "web3", "web4"]);
    let (repo, _) = fleet.scene.repo();
    write_incompressible(&repo.dir().join("big"), 2_000_000, 2);
    let commit = repo.commit("Something big");
    let ended = fleet
        .deploy(&["--repo", "repo", "--topology", "tree"])
        .exits(0);
    fleet.assert_all_run(&repo, &commit);
    let report = deployed(&ended);
    let hosts = report["hosts"].as_array().unwrap();
    let from_peers = hosts
        .iter()
        .filter(|h| h["bytes"]["peers"].as_u64().unwrap() >= 2_000_000);
    assert!(from_peers.count() >= 2, "each has one upstream: {report:#}");
    for host in hosts {
        let bytes = |source: &str| host["bytes"][source].as_u64().unwrap();
        assert!(
            bytes("seed") == 0 || bytes("peers") == 0,
            "two upstreams: {host:#}"
        );
    }
}

#[test]
fn names_that_are_not_nice_arrive_as_they_are() {
    let fleet = Fleet::start(&["web1"]);
    let repo = SourceRepo::create(&fleet.scene.path("repo"));
    for name in [
        b"caf\xe9.txt".as_slice(),
        b"\xff\xfe/deep/\x80",
        b"two\nlines",
        b"-rf",
        b"\x1b[31mred",
        b"\xe2\x80\xaertl",
        b"a\\b",
        b"tab\there",
        b"star*",
    ] {
        repo.write(OsStr::from_bytes(name), name);
    }
    let commit = repo.commit("Names\x1b[31m that are not nice \u{202e}");
    let ended = fleet.deploy(&["--repo", "repo"]).exits(0);
    assert!(!ended.stderr.contains('\u{202e}'), "{ended:#?}");
    fleet.assert_all_run(&repo, &commit);
}

#[test]
fn e12_a_host_or_a_commit_with_markup_and_escape_codes_is_inert_wherever_it_is_shown() {
    let fleet = Fleet::start(&["web1"]);
    let scene = &fleet.scene;
    let repo = SourceRepo::create(&scene.path("repo"));
    repo.write("README.md", "# A site\n");
    // No host can have such a name: neither is one enrolled, nor is one believed to be there.
    let name = "<script>\u{202e}\u{1b}[31m";
    let refused = scene.scap(&["enroll", name, "--state", "st", "--out", "x"]);
    assert!(!refused.exits(2).stderr.contains('\u{202e}'));
    scene.write(
        "bad.toml",
        fleet_file(&[(r"<script>", "127.0.0.1:1", false)]),
    );
    let plan = [
        "plan",
        "--fleet",
        "bad.toml",
        "--size",
        "1MiB",
        "--simulate",
    ];
    scene.scap(&plan).exits(2).says(&["<script>"]);
    // A subject is shown to people as what it is, and is data to programs. That no output has an escape code is checked of all.
    let subject = "<script>alert(1)</script>\u{202e}\u{1b}[2J";
    let commit = repo.commit(subject);
    let shown = r"<script>alert(1)</script>\u{202e}\u{1b}[2J";
    let deployed = fleet.deploy(&["--repo", "repo"]).exits(0).says(&[shown]);
    assert!(!deployed.stderr.contains('\u{202e}'), "{deployed:#?}");
    for words in [["status"].as_slice(), &["history"], &["show", "1"]] {
        let ended = scene.scap(&[words, &["--repo", "repo"]].concat());
        let ended = ended.exits(0);
        let said = [ended.stdout, ended.stderr].concat();
        assert!(!said.contains('\u{202e}'), "{words:?}: {said}");
        let json = scene.scap(&[words, &["--repo", "repo", "--json"]].concat());
        serde_json::from_str::<Value>(&json.exits(0).stdout).unwrap();
    }
    fleet.assert_all_run(&repo, &commit);
}

#[test]
fn a_tree_may_be_empty() {
    let fleet = Fleet::start(&["web1"]);
    let repo = SourceRepo::create(&fleet.scene.path("repo"));
    let mut commit = Command::new("git");
    commit.args([
        "-c",
        "user.name=Ada",
        "-c",
        "user.email=ada@example.org",
        "-C",
    ]);
    commit
        .arg(repo.dir())
        .args(["commit", "--quiet", "--allow-empty", "-m", "Nothing"]);
    assert!(
        commit
            .env("HOME", fleet.scene.path("home"))
            .status()
            .unwrap()
            .success()
    );
    let report = fleet.deploy_repo();
    assert_eq!(report["snapshot_bytes"], 0);
    let live = fleet.agents[0].live("repo");
    assert_eq!(std::fs::read_dir(live).unwrap().count(), 0);
    fleet.assert_verifies("web1", "repo");

    // And then not.
    repo.write("file", "");
    let commit = repo.commit("An empty file");
    fleet.deploy_repo();
    fleet.assert_all_run(&repo, &commit);
}

#[test]
fn a_directory_may_be_empty_or_hold_one_empty_file() {
    let fleet = Fleet::start(&["web1"]);
    let build = fleet.scene.path("build");
    std::fs::create_dir(&build).unwrap();
    for files in [0, 1] {
        let report = deployed(
            &fleet
                .deploy(&["--dir", "build", "--name", "site/app"])
                .exits(0),
        );
        assert_eq!(report["commit"], Value::Null);
        Tree::read(&build).assert_is(&fleet.agents[0].live("site/app"));
        fleet.assert_verifies("web1", "site/app");
        assert_eq!(Tree::read(&build).file_count(), files);
        std::fs::write(build.join("empty"), "").unwrap();
    }
}

#[test]
fn a_repo_is_named_by_its_own_configuration() {
    let fleet = Fleet::start(&["web1"]);
    let (repo, _) = fleet.scene.repo();
    repo.write("scap/scap.cfg", "[global]\ngit_repo: mw/config\n");
    let commit = repo.commit("scap.cfg");
    assert_eq!(fleet.deploy_repo()["repo"], "mw/config");
    repo.archived(&commit)
        .assert_is(&fleet.agents[0].live("mw/config"));

    repo.write("scap/scap.cfg", "[global]\ngit_repo: ../out\n");
    repo.commit("A name that leads out");
    let ended = fleet.deploy(&["--repo", "repo"]);
    ended
        .exits(2)
        .says(&["error: read the scap folder: scap/scap.cfg:2: `git_repo`: `../out`"]);
}

#[test]
fn what_nothing_needs_is_removed_and_what_is_live_is_not() {
    let fleet = Fleet::start(&["web1"]);
    let (repo, _) = fleet.scene.repo();
    let mut last = String::new();
    for seed in 1..=4 {
        write_incompressible(&repo.dir().join("big"), 1_000_000, seed);
        last = repo.commit("Other content");
        fleet.deploy_repo();
    }
    let gc = ["agent", "gc", "--data", "web1/data", "--json"];
    let view = fleet.scene.scap(&gc).exits(0).json("scap.gc/1");
    for key in ["chunks_removed", "bytes_removed"] {
        assert!(view[key].is_u64(), "{view:#}");
    }
    // What is live and what was before it.
    wait_until("the store holds two releases", LIMIT, || {
        let status = status(&fleet.scene, "web1").json("scap.agent-status/1");
        let bytes = status["store_bytes"].as_u64().unwrap();
        if (2_000_000..2_500_000).contains(&bytes) {
            Ok(())
        } else {
            Err(bytes)
        }
    });
    let ended = fleet.scene.scap(&gc[..4]).exits(0);
    ended.prints(&["removed 0 chunks, 0 bytes"]);
    fleet.assert_all_run(&repo, &last);
    fleet.deploy_repo();
}

#[test]
fn an_agent_that_was_restarted_has_forgotten_nothing() {
    let mut fleet = Fleet::start(&["web1"]);
    let (repo, commit) = fleet.scene.repo();
    let first = fleet.deploy_repo();
    fleet.agents.pop().unwrap().stop().exits(0);
    fleet
        .agents
        .push(super::fleet::Agent::start(&fleet.scene, "web1"));
    fleet.write_fleet_file();
    fleet.assert_all_run(&repo, &commit);
    let again = fleet.deploy_repo();
    assert_eq!(again["release"], first["release"]);
    assert_eq!(moved_bytes(&again), 0, "{again:#}");
}
