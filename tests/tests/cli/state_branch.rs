//! The state branch: what a deployment records in the repo, reading it, going back, and what stops a second one.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use rustix::process::Signal;
use scap_tests::repo::SourceRepo;
use serde_json::{Value, json};

use super::fleet::{Agent, Fleet, deployed, enroll, fleet_file, host};
use super::places::me;
use super::process::{Ended, send_signal};

/// Runs git in a folder of a test's; gives what it wrote.
#[track_caller]
pub fn git(folder: &Path, arguments: &[&str]) -> String {
    let output = Command::new("git")
        .arg("-C")
        .arg(folder)
        .args(["-c", "user.name=Ada", "-c", "user.email=ada@example.org"])
        .args(arguments)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .output()
        .unwrap();
    assert!(output.status.success(), "git {arguments:?}: {output:?}");
    String::from_utf8(output.stdout)
        .unwrap()
        .trim_end()
        .to_owned()
}

/// Gives `repo` a bare upstream in `origin.git`.
pub fn with_upstream(fleet: &Fleet) {
    let root = fleet.scene.root();
    git(root, &["init", "-q", "--bare", "origin.git"]);
    let origin = fleet.scene.path("origin.git");
    git(
        &fleet.scene.path("repo"),
        &["remote", "add", "origin", origin.to_str().unwrap()],
    );
}

/// Another machine's copies of the state directory and of the repo.
pub fn elsewhere(fleet: &Fleet) {
    let copy = |from: &str, to: &str| {
        let (from, to) = (fleet.scene.path(from), fleet.scene.path(to));
        let status = Command::new("cp").arg("-a").args([from, to]).status();
        assert!(status.unwrap().success());
    };
    copy("st", "st2");
    copy("repo", "repo2");
}

pub fn commit(repo: &SourceRepo, version: &str) -> String {
    repo.write("version", version);
    repo.commit(&format!("Version {version}"))
}

impl Fleet {
    /// One of the commands that read the branch of `repo`.
    fn read(&self, command: &[&str]) -> Ended {
        self.scene.scap(&[command, &["--repo", "repo"]].concat())
    }

    #[track_caller]
    fn read_json(&self, command: &[&str], schema: &str) -> Value {
        self.read(&[command, &["--json"]].concat())
            .exits(0)
            .json(schema)
    }

    fn rollback(&self, arguments: &[&str]) -> Ended {
        let common = [
            "rollback",
            "--state",
            "st",
            "--fleet",
            "fleet.toml",
            "--yes",
            "--json",
        ];
        self.scene.scap(&[&common, arguments].concat())
    }
}

#[test]
fn a_deployment_is_recorded_read_back_and_gone_back_from() {
    let fleet = Fleet::start(&["web1", "web2"]);
    let (repo, first) = fleet.scene.repo();
    let before = git(repo.dir(), &["status", "--porcelain=v2", "--branch"]);
    let one = fleet.deploy_repo();
    repo.write("README.md", "# Another site\n");
    repo.write("new", "new");
    let second = repo.commit("Another \x1b[31msite");
    let two = fleet.deploy_repo();
    assert_eq!(
        two["state"]["commit"],
        git(repo.dir(), &["rev-parse", "scap/state"]).as_str()
    );

    let history = fleet.read_json(&["history"], "scap.history/1");
    let releases = history["releases"].as_array().unwrap();
    let brief = |it: &Value| {
        json!([
            it["sequence"],
            it["release"],
            it["commit"],
            it["outcome"],
            it["finalized"]
        ])
    };
    assert_eq!(
        releases.iter().map(brief).collect::<Vec<_>>(),
        [
            json!([2, two["release"], second, "done", true]),
            json!([1, one["release"], first, "done", true]),
        ]
    );
    let text = fleet.read(&["history"]).exits(0);
    text.prints(&[
        "production repo",
        "#2 ",
        "#1 ",
        "A site",
        "done, ",
        "finalized",
        "\\u{1b}",
    ]);

    let status = fleet.read_json(&["status"], "scap.status/1");
    let place = &status["places"][0];
    assert_eq!(
        (&place["stable"]["sequence"], &place["lock"]),
        (&json!(2), &Value::Null)
    );
    assert_eq!(
        place["hosts"],
        json!([{"outcome": "promoted", "reason": "", "code": null, "hosts": ["web1", "web2"]}])
    );
    // As a person calls it: where the repo is.
    let mut here = fleet.scene.command(&["status"]);
    let status = fleet
        .scene
        .start_command(here.current_dir(repo.dir()))
        .end();
    status
        .exits(0)
        .prints(&["production repo", "on      #2", "promoted 2 (web1 web2)"]);

    let show = fleet.read_json(
        &["show", &two["release"].as_str().unwrap()[..8]],
        "scap.release/1",
    );
    assert_eq!(
        (&show["sequence"], &show["whole"]),
        (&json!(2), &json!(true))
    );
    assert_eq!(show["waves"].as_array().unwrap().len(), 1, "{show:#}");
    assert!(
        show["signed_by"][0]
            .as_str()
            .unwrap()
            .starts_with("SHA256:")
    );
    fleet
        .read(&["show", "#1"])
        .exits(0)
        .prints(&[&first, "promoted 2"]);

    let diff = fleet.read_json(&["diff", "1", "2"], "scap.diff/1");
    assert_eq!(diff["commits_added"][0]["commit"], second.as_str());
    assert_eq!(diff["commits_removed"], json!([]));
    assert_eq!(
        diff["files"],
        json!([{"change": "changed", "path": "README.md"}, {"change": "added", "path": "new"}])
    );

    // What is gone back to was watched when it was new.
    let hosts = std::fs::read_to_string(fleet.scene.path("fleet.toml")).unwrap();
    let waves = "[[rollout.wave]]\nname = \"canary\"\ngroup = \"canary\"\napproval = true\n";
    let soaking = format!("[rollout]\nsoak = 600\n{waves}{hosts}");
    fleet.scene.write("fleet.toml", soaking);
    let soaks = |flags: &[&str]| {
        let dry = fleet.rollback(&[&["--repo", "repo", "--dry-run"], flags].concat());
        let waves = dry.exits(0).json("scap.dry-run/1")["waves"].clone();
        let waves = waves.as_array().unwrap().iter();
        assert!(
            waves.clone().all(|wave| wave["approval"] == false),
            "{waves:?}"
        );
        let soaks = waves.map(|wave| wave["soak_seconds"].as_u64().unwrap());
        soaks.collect::<BTreeSet<u64>>()
    };
    assert_eq!(soaks(&[]), [0].into());
    assert_eq!(soaks(&["--soak", "5"]), [5].into());
    let back = deployed(&fleet.rollback(&["--repo", "repo"]).exits(0));
    fleet.scene.write("fleet.toml", hosts);
    // Its hosts hold it still: nothing is sent.
    for name in ["web1", "web2"] {
        let bytes = &host(&back, name)["bytes"];
        assert_eq!(
            (&bytes["seed"], &bytes["peers"]),
            (&json!(0), &json!(0)),
            "{name}: {bytes}"
        );
    }
    assert_eq!(
        (&back["sequence"], &back["snapshot"]),
        (&json!(3), &one["snapshot"])
    );
    assert_ne!(
        back["release"], one["release"],
        "a new release of the old tree"
    );
    fleet.assert_all_run(&repo, &first);
    let history = fleet.read_json(&["history", "--limit", "1"], "scap.history/1");
    assert_eq!(history["releases"][0]["rolls_back_to"], 1);
    // Forward again, by name.
    deployed(&fleet.rollback(&["--repo", "repo", "#2"]).exits(0));
    fleet.assert_all_run(&repo, &second);
    assert_eq!(before, {
        let now = git(repo.dir(), &["status", "--porcelain=v2", "--branch"]);
        now.replace(&second, &first)
    });
    git(repo.dir(), &["fsck", "--strict"]);
}

#[test]
fn a_directory_has_its_record_in_the_state_directory_and_is_gone_back_from_while_its_chunks_are_kept()
 {
    let fleet = Fleet::start(&["web1"]);
    let dir = |version: &str| fleet.scene.write("build/version", version);
    let deploy = ["--dir", "build", "--name", "site"];
    dir("one");
    let one = deployed(&fleet.deploy(&deploy).exits(0));
    dir("two");
    deployed(&fleet.deploy(&deploy).exits(0));
    let history = fleet
        .scene
        .scap(&["history", "--state", "st", "--json"])
        .exits(0);
    let history = history.json("scap.history/1");
    assert_eq!(
        history["releases"].as_array().unwrap().len(),
        2,
        "{history:#}"
    );

    let back = deployed(&fleet.rollback(&deploy).exits(0));
    assert_eq!(back["snapshot"], one["snapshot"]);
    let live = std::fs::read_to_string(fleet.agents[0].live("site").join("version"));
    assert_eq!(live.unwrap(), "one");
    // Its chunks are gone: it says what to do, and nobody was told anything.
    std::fs::remove_dir_all(fleet.scene.path("st/store")).unwrap();
    let ended = fleet.rollback(&[&deploy[..], &["#2"]].concat());
    ended.fails(2, "find the snapshot", "not whole in the store", "--dir");
    let status = fleet
        .scene
        .scap(&["status", "--state", "st", "--json"])
        .exits(0);
    let place = &status.json("scap.status/1")["places"][0];
    assert_eq!(
        (&place["stable"]["sequence"], &place["lock"]),
        (&json!(3), &Value::Null)
    );
}

#[test]
fn there_is_nothing_to_go_back_to_before_the_second_release() {
    let fleet = Fleet::start(&["web1"]);
    fleet.scene.repo();
    let none = ["--repo", "repo"];
    fleet
        .rollback(&none)
        .fails(2, "no finalized release", "before the latest", "history");
    fleet.deploy_repo();
    fleet
        .rollback(&none)
        .fails(2, "no finalized release", "before the latest", "history");
    let unknown = fleet.rollback(&["--repo", "repo", "#7"]);
    unknown.fails(2, "find the release", "no release `#7`", "history");
    let rev = fleet.rollback(&["--repo", "repo", "--rev", "main"]);
    rev.fails(2, "rollback takes", "not --rev", "deploy --rev");
    fleet
        .read(&["show", "abcd"])
        .fails(2, "find the release", "no release `abcd`", "history");
}

#[test]
fn a_second_deployer_is_told_who_holds_the_lock_why_and_since_when() {
    let fleet = Fleet::start(&["web1"]);
    let (repo, _) = fleet.scene.repo();
    with_upstream(&fleet);
    elsewhere(&fleet);
    let second = commit(&repo, "2");
    let activator = fleet.agents[0].activator().pid;
    send_signal(activator, Signal::STOP);
    let mut first = fleet.start_deploy(&["--repo", "repo"]);
    first.wait_until_it_says("wave rest: fetch");

    let other = [
        "deploy",
        "--state",
        "st2",
        "--repo",
        "repo2",
        "--fleet",
        "fleet.toml",
        "--yes",
    ];
    let other = [&other[..], &["--name", "repo"]].concat();
    let refused =
        fleet
            .scene
            .scap(&other)
            .fails(75, "use the state branch", "is locked by", "unlock");
    refused.says(&["repo in production", "Version 2", ", for "]);
    // Another environment is free.
    enroll(&fleet.scene, "stage1", &["--environment", "staging"]);
    let stage = Agent::start(&fleet.scene, "stage1");
    fleet.scene.write(
        "staging.toml",
        fleet_file(&[("stage1", &stage.address, false)]),
    );
    let staging = [
        "deploy",
        "--state",
        "st2",
        "--repo",
        "repo2",
        "--fleet",
        "staging.toml",
    ];
    let staging = [
        &staging[..],
        &["--name", "repo", "--environment", "staging", "--yes"],
    ]
    .concat();
    fleet.scene.scap(&staging).exits(0);
    let status = fleet
        .scene
        .scap(&["status", "--repo", "repo2", "--fetch"])
        .exits(0);
    status.prints(&["under way", "lock ", "Version 2"]);

    send_signal(activator, Signal::CONT);
    deployed(&first.end().exits(0));
    fleet.assert_all_run(&repo, &second);
    git(&fleet.scene.path("origin.git"), &["fsck", "--strict"]);
}

#[test]
fn of_two_deployers_at_once_exactly_one_gets_through() {
    // On one repo with one state directory, with two, and on two clones with one upstream.
    for (state, repo) in [("st", "repo"), ("st2", "repo"), ("st2", "repo2")] {
        let case = format!("{state}, {repo}");
        let fleet = Fleet::start(&["web1"]);
        let (source, first) = fleet.scene.repo();
        with_upstream(&fleet);
        elsewhere(&fleet);
        // Whoever wins holds the lock until the other has been refused.
        let activator = fleet.agents[0].activator().pid;
        send_signal(activator, Signal::STOP);
        let start = |state: &str, repo: &str| {
            let arguments = ["deploy", "--state", state, "--repo", repo, "--name", "repo"];
            fleet
                .scene
                .start(&[&arguments[..], &["--fleet", "fleet.toml", "--yes"]].concat())
        };
        let mut racers = [start("st", "repo"), start(state, repo)];
        let lost = scap_tests::fleet::wait_until("one is refused", super::process::LIMIT, || {
            racers
                .iter_mut()
                .position(|racer| racer.is_over())
                .ok_or("both run".to_owned())
        });
        send_signal(activator, Signal::CONT);
        let (doing, hint) = match state {
            "st" => ("take the lock", "wait for it to end"),
            _ => ("use the state branch", "unlock"),
        };
        for (index, racer) in racers.into_iter().enumerate() {
            let ended = racer.end();
            if index == lost {
                let who = format!("repo in production is locked by {} (r-", me());
                let why = format!("): deploy {first:.10} \\\"A site\\\", for ");
                ended.fails(75, doing, &who, hint).says(&[&why, " s\n"]);
            } else {
                ended.exits(0);
            }
        }
        fleet.assert_all_run(&source, &first);
        let log = git(
            &fleet.scene.path("origin.git"),
            &["log", "--format=%s", "scap/state"],
        );
        assert_eq!(log.matches("locked").count(), 1, "{case}: {log}");
    }
}

#[test]
fn a_broken_lock_is_recorded_and_the_deployment_that_had_it_says_so() {
    let fleet = Fleet::start(&["web1"]);
    let (repo, first_commit) = fleet.scene.repo();
    let unlock = [
        "unlock",
        "--reason",
        "Ada left",
        "--environment",
        "production",
    ];
    let refused = fleet.read(&unlock);
    refused.fails(2, "nothing is locked", "", "--environment");
    let activator = fleet.agents[0].activator().pid;
    send_signal(activator, Signal::STOP);
    let mut first = fleet.start_deploy(&["--repo", "repo"]);
    first.wait_until_it_says("wave rest: fetch");
    fleet
        .read(&["unlock", "--reason", " "])
        .fails(2, "--reason", "empty", "say why");
    fleet
        .read(&unlock)
        .exits(0)
        .prints(&["broke the lock of ", "A site"]);
    send_signal(activator, Signal::CONT);
    let ended = first.end().exits(3).says(&["not recorded", "Ada left"]);
    assert_eq!(deployed(&ended)["state"], Value::Null);
    fleet.assert_all_run(&repo, &first_commit);

    let history = fleet.read_json(&["history"], "scap.history/1");
    assert_eq!(history["broken_locks"][0]["reason"], "Ada left");
    fleet
        .read(&["status"])
        .exits(0)
        .prints(&["ended without a word", "next "]);
    // The same again puts the record right.
    assert_eq!(fleet.deploy_repo()["sequence"], 1);
    let status = fleet.read_json(&["status"], "scap.status/1");
    assert_eq!(status["places"][0]["stable"]["sequence"], 1);
}

#[test]
fn a_coordinator_that_dies_at_any_step_leaves_a_whole_branch_and_the_next_goes_on() {
    let fleet = Fleet::start(&["web1", "web2"]);
    let (repo, _) = fleet.scene.repo();
    with_upstream(&fleet);
    let origin = fleet.scene.path("origin.git");
    fleet.deploy_repo();
    let tips = || [repo.dir(), &origin].map(|at| git(at, &["rev-parse", "scap/state"]));
    for step in ["lock", "begin", "wave", "end"] {
        for place in ["written", "pushed", "moved"] {
            let failpoint = format!("{step}-{place}");
            let wanted = commit(&repo, &failpoint);
            let before = tips();
            let arguments = [
                "deploy",
                "--state",
                "st",
                "--fleet",
                "fleet.toml",
                "--yes",
                "--repo",
                "repo",
            ];
            let mut command = fleet.scene.command(&arguments);
            let died = fleet
                .scene
                .start_command(command.env("SCAP_FAILPOINT", &failpoint))
                .end();
            assert!(died.was_killed_by(Signal::ABORT), "{failpoint}: {died:#?}");
            let after = tips();
            match (step, place) {
                ("lock", "written") => assert_eq!(before, after),
                ("lock", "pushed") => assert!(before[0] == after[0] && before[1] != after[1]),
                _ => assert!(before[1] != after[1], "{failpoint}"),
            }
            for at in [repo.dir(), &origin] {
                git(at, &["fsck", "--strict", "--no-dangling"]);
            }
            let ended = fleet.deploy(&["--repo", "repo"]).exits(0);
            if (step, place) != ("lock", "written")
                && (step, place) != ("end", "moved")
                && (step, place) != ("end", "pushed")
            {
                ended.says(&["took over the lock", "its process is gone"]);
            }
            fleet.assert_all_run(&repo, &wanted);
            let [here, there] = tips();
            assert_eq!(here, there, "{failpoint}");
        }
    }
    let history = fleet.read_json(&["history"], "scap.history/1");
    let releases = history["releases"].as_array().unwrap();
    assert!(
        releases.iter().all(|it| it["finalized"] == true),
        "{history:#}"
    );
    assert_eq!(releases.len(), 13);
}

#[test]
fn an_upstream_out_of_reach_stops_a_deployment_unless_it_says_that_it_is_offline() {
    let fleet = Fleet::start(&["web1"]);
    let (repo, _) = fleet.scene.repo();
    with_upstream(&fleet);
    fleet.deploy_repo();
    let origin = fleet.scene.path("origin.git");
    let away = fleet.scene.path("away.git");
    std::fs::rename(&origin, &away).unwrap();
    let second = commit(&repo, "2");
    let ended = fleet.deploy(&["--repo", "repo"]);
    ended.fails(
        1,
        "use the state branch",
        "reach the upstream `origin`",
        "--offline",
    );
    let report = deployed(&fleet.deploy(&["--repo", "repo", "--offline"]).exits(0));
    assert_eq!(report["state"]["at_upstream"], false);
    fleet.assert_all_run(&repo, &second);
    fleet
        .read(&["history"])
        .exits(0)
        .prints(&["#2 ", ", offline"]);

    std::fs::rename(&away, &origin).unwrap();
    commit(&repo, "3");
    let report = fleet.deploy_repo();
    assert_eq!(
        (&report["sequence"], &report["state"]["at_upstream"]),
        (&json!(3), &json!(true))
    );
    let there = git(&origin, &["log", "--format=%s", "scap/state"]);
    assert!(there.contains("#2 done, finalized"), "{there}");
}

#[test]
fn a_rewritten_branch_stops_everything_and_a_later_version_is_named() {
    let fleet = Fleet::start(&["web1"]);
    let (repo, first) = fleet.scene.repo();
    fleet.deploy_repo();
    let tip = git(repo.dir(), &["rev-parse", "scap/state"]);
    commit(&repo, "2");
    let set = |to: &str| git(repo.dir(), &["update-ref", "refs/heads/scap/state", to]);
    set("scap/state~2");
    let ended = fleet.deploy(&["--repo", "repo"]);
    ended.fails(
        3,
        "use the state branch",
        "was rewritten",
        "repo@production.tip",
    );
    git(repo.dir(), &["update-ref", "-d", "refs/heads/scap/state"]);
    let ended = fleet.deploy(&["--repo", "repo"]);
    ended.fails(
        3,
        "use the state branch",
        "was rewritten",
        "repo@production.tip",
    );

    git(repo.dir(), &["checkout", "-q", &tip]);
    std::fs::write(repo.dir().join(".scap-state"), "scap-state/9\n").unwrap();
    git(repo.dir(), &["commit", "-q", "-a", "-m", "from the future"]);
    set("HEAD");
    git(repo.dir(), &["checkout", "-q", "main"]);
    let ended = fleet.deploy(&["--repo", "repo"]);
    ended.fails(2, "use the state branch", "scap-state/9", "upgrade");
    fleet
        .read(&["status"])
        .fails(2, "use the state branch", "scap-state/9", "upgrade");
    fleet.assert_all_run(&repo, &first);
    set(&tip);
    fleet.deploy_repo();
}

#[test]
fn the_sequence_goes_on_where_the_branch_left_it() {
    let fleet = Fleet::start(&["web1"]);
    let (repo, _) = fleet.scene.repo();
    elsewhere(&fleet);
    fleet.deploy_repo();
    commit(&repo, "2");
    fleet.deploy_repo();
    // Another state directory, and a host, which both know nothing.
    let fresh = Agent::start(&fleet.scene, "web9");
    fleet
        .scene
        .write("fresh.toml", fleet_file(&[("web9", &fresh.address, false)]));
    let third = commit(&repo, "3");
    let arguments = [
        "deploy",
        "--state",
        "st2",
        "--fleet",
        "fresh.toml",
        "--repo",
        "repo",
        "--yes",
        "--json",
    ];
    let report = deployed(&fleet.scene.scap(&arguments).exits(0));
    assert_eq!(report["sequence"], 3);
    assert_eq!(host(&report, "web9")["outcome"], "promoted");
    repo.archived(&third).assert_is(&fresh.live("repo"));
}

#[test]
fn an_interrupted_deployment_says_so_and_gives_the_lock_back() {
    let fleet = Fleet::start(&["web1"]);
    let (repo, commit) = fleet.scene.repo();
    let activator = fleet.agents[0].activator().pid;
    send_signal(activator, Signal::STOP);
    let mut deploy = fleet.start_deploy(&["--repo", "repo"]);
    deploy.wait_until_it_says("wave rest: fetch");
    deploy.signal(Signal::INT);
    deploy.wait_until_it_says("paused");
    deploy.signal(Signal::INT);
    deploy.end().exits(3);
    send_signal(activator, Signal::CONT);
    let status = fleet.read_json(&["status"], "scap.status/1");
    let place = &status["places"][0];
    assert_eq!(place["latest"]["outcome"], "interrupted");
    assert_eq!(
        (&place["stable"], &place["lock"]),
        (&Value::Null, &Value::Null)
    );
    fleet.deploy_repo();
    fleet.assert_all_run(&repo, &commit);
    let status = fleet.read_json(&["status"], "scap.status/1");
    assert_eq!(status["places"][0]["stable"]["outcome"], "done");
}
