//! Going on with a deployment whose coordinator is gone: killed, stopped, or on another machine.

use std::path::Path;

use rustix::process::Signal;
use scap_tests::fleet::wait_until;
use serde_json::{Value, json};

use super::fleet::{Agent, Fleet, deployed, host};
use super::flips::Flips;
use super::process::{LIMIT, Running, send_signal};
use super::rollout::{SOAK, say, wait_for};
use super::state_branch::{commit, elsewhere, git, with_upstream};

pub const RESUME: [&str; 8] = [
    "resume",
    "--state",
    "st",
    "--fleet",
    "fleet.toml",
    "--repo",
    "repo",
    "--yes",
];

/// The same of another machine, where the clone has another name.
const RESUME_ELSEWHERE: [&str; 11] = [
    "resume",
    "--state",
    "st2",
    "--fleet",
    "fleet.toml",
    "--repo",
    "repo2",
    "--name",
    "repo",
    "--yes",
    "--json",
];

fn soaking(names: &[&str]) -> Fleet {
    let fleet = Fleet::start(names);
    let text = std::fs::read_to_string(fleet.scene.path("fleet.toml")).unwrap();
    fleet.scene.write("fleet.toml", format!("{SOAK}\n{text}"));
    fleet
}

/// Those of a repo on each host.
pub fn flips(fleet: &Fleet, repo: &str) -> Vec<Flips> {
    let watch = |agent: &Agent| Flips::of(&agent.live(repo));
    fleet.agents.iter().map(watch).collect()
}

pub fn taken(flips: &[Flips]) -> Vec<usize> {
    flips.iter().map(Flips::take).collect()
}

/// The commit that a host has live, by where its final path leads.
fn live_commit(agent: &Agent) -> String {
    let link = std::fs::read_link(agent.live("repo")).unwrap();
    link.file_name().unwrap().to_str().unwrap().to_owned()
}

/// What the branch says of the latest release.
pub fn latest(fleet: &Fleet) -> Value {
    let status = fleet.scene.scap(&["status", "--repo", "repo", "--json"]);
    status.exits(0).json("scap.status/1")["places"][0]["latest"].clone()
}

pub fn kill(mut deploy: Running) {
    if !deploy.is_over() {
        deploy.signal(Signal::KILL);
    }
    let ended = deploy.end();
    assert!(
        ended.is_code(0) || ended.was_killed_by(Signal::KILL),
        "{ended:#?}"
    );
}

#[test]
fn another_machine_takes_a_rollout_over_and_the_one_before_is_told_who() {
    let fleet = soaking(&["web1", "web2", "web3"]);
    let (repo, _) = fleet.scene.repo();
    with_upstream(&fleet);
    fleet.deploy(&["--repo", "repo", "--soak", "0"]).exits(0);
    let second = commit(&repo, "2");
    elsewhere(&fleet);
    let flips = flips(&fleet, "repo");
    let mut first = fleet.start_deploy(&["--repo", "repo"]);
    wait_for(&fleet, &mut first, "soak");
    first.signal(Signal::STOP);

    let held = fleet.scene.scap(&RESUME_ELSEWHERE);
    held.fails(75, "go on with the release", "is locked by", "--take-over");
    let over = ["--take-over", "the laptop of Ada sleeps", "--soak", "0"];
    let ended = fleet.scene.scap(&[&RESUME_ELSEWHERE[..], &over].concat());
    let report = deployed(
        &ended
            .exits(0)
            .says(&["took over the lock of", "the laptop of Ada sleeps"]),
    );
    assert_eq!(
        (&report["sequence"], &report["outcome"]),
        (&json!(2), &json!("done"))
    );
    fleet.assert_all_run(&repo, &second);
    assert_eq!(taken(&flips), [1, 1, 1]);

    first.signal(Signal::CONT);
    let ended = first.end().exits(3);
    let ended = ended.says(&[
        "taken over: web",
        "follows epoch 2",
        "the laptop of Ada sleeps",
    ]);
    let report = deployed(&ended);
    assert_eq!(report["outcome"], "taken-over");
    for name in ["web1", "web2", "web3"] {
        assert_ne!(host(&report, name)["outcome"], "failed", "{report:#}");
    }
    fleet.assert_all_run(&repo, &second);
    assert_eq!(taken(&flips), [0, 0, 0]);
    let history = fleet
        .scene
        .scap(&["history", "--repo", "repo", "--fetch", "--json"]);
    let history = history.exits(0).json("scap.history/1");
    assert_eq!(
        history["broken_locks"][0]["reason"],
        "the laptop of Ada sleeps"
    );
    assert_eq!(history["releases"][0]["outcome"], "done");
}

#[test]
fn who_goes_on_goes_back_where_that_was_going_on() {
    let fleet = soaking(&["web1", "web2"]);
    let (repo, first) = fleet.scene.repo();
    fleet.deploy(&["--repo", "repo", "--soak", "0"]).exits(0);
    let second = commit(&repo, "2");
    let mut deploy = fleet.start_deploy(&["--repo", "repo"]);
    wait_for(&fleet, &mut deploy, "soak");
    // It cannot go back while its activator is stopped.
    let activator = fleet.agents[0].activator().pid;
    send_signal(activator, Signal::STOP);
    fleet.scene.scap(&["abort", "--state", "st"]).exits(0);
    wait_until("that it goes back is recorded", LIMIT, || {
        let log = git(
            &fleet.scene.path("repo"),
            &["log", "--format=%s", "scap/state"],
        );
        if log.contains("#2 is rolled back") {
            Ok(())
        } else {
            Err(log)
        }
    });
    kill(deploy);
    send_signal(activator, Signal::CONT);
    let ended = fleet.scene.scap(&RESUME).exits(4);
    ended.says(&[
        "its hosts go back: a person said so",
        "every host runs what it ran before",
    ]);
    fleet.assert_all_run(&repo, &first);
    let again = fleet.scene.scap(&RESUME);
    again.fails(
        1,
        "release #2 is rolled-back",
        "nothing to go on with",
        "deploy",
    );
    // Who wants it all the same deploys it.
    fleet.deploy(&["--repo", "repo", "--soak", "0"]).exits(0);
    fleet.assert_all_run(&repo, &second);
}

#[test]
fn what_cannot_be_gone_on_with_is_named_and_nobody_is_told_anything() {
    let fleet = soaking(&["web1", "web2"]);
    let (repo, _) = fleet.scene.repo();
    let none = fleet.scene.scap(&RESUME);
    none.fails(
        1,
        "find what to go on with",
        "nothing was released of repo to production",
        "history",
    );
    let alone = |more: &[&str]| {
        fleet
            .scene
            .scap(&[&["resume", "--state", "st"], more].concat())
    };
    alone(&["--repo", "repo"]).fails(2, "--fleet", "says to whom", "paused deployment");
    alone(&["--fleet", "fleet.toml"]).fails(2, "--repo or --dir", "what was deployed", "paused");
    let more = |more: &[&str]| fleet.scene.scap(&[&RESUME[..], more].concat());
    more(&["--take-over", " "]).fails(2, "--take-over", "is empty", "deploy");
    more(&["--rev", "HEAD"]).fails(2, "resume goes on", "no --rev", "deploy");

    let mut deploy = fleet.start_deploy(&["--repo", "repo"]);
    wait_for(&fleet, &mut deploy, "soak");
    // While it runs, the command is for it.
    fleet.scene.scap(&["pause", "--state", "st"]).exits(0);
    more(&[]).exits(0).prints(&["it goes on"]);
    wait_for(&fleet, &mut deploy, "soak");
    kill(deploy);
    // Another deployer's key, which did not sign the release.
    let key = fleet.scene.path("other_key");
    ssh_keygen(&key);
    let public = std::fs::read_to_string(key.with_extension("pub")).unwrap();
    let signers = fleet.scene.path("st/allowed_signers");
    let allowed = std::fs::read_to_string(&signers).unwrap();
    let line = format!("bob namespaces=\"scap-release:*\" {public}");
    std::fs::write(&signers, format!("{allowed}{line}")).unwrap();
    let other = more(&["--sign-with", "other_key"]);
    other.exits(3).says(&[
        "go on with release #1",
        "did not sign the release",
        "--sign-with",
    ]);
    // Somebody without the right to release.
    std::fs::write(&signers, line).unwrap();
    more(&["--sign-with", "other_key"]).exits(3).says(&[
        "go on with release #1",
        "is not signed by enough allowed signers",
    ]);
    std::fs::write(&signers, allowed).unwrap();
    more(&["--soak", "0"]).exits(0);
    fleet.assert_all_run(&repo, &live_commit(&fleet.agents[0]));
}

fn ssh_keygen(path: &Path) {
    let status = std::process::Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-C", "bob", "-f"])
        .arg(path)
        .status();
    assert!(status.unwrap().success());
}

#[test]
fn who_goes_on_keeps_to_the_flags_that_it_began_with_but_where_others_are_given() {
    let fleet = Fleet::start(&["web1", "web2", "web3"]);
    let (repo, first) = fleet.scene.repo();
    fleet.deploy_repo();
    let second = commit(&repo, "2");
    let said = [
        ("soak", "600"),
        ("dead-man", "10m"),
        ("prefetch", "all"),
        ("budget", "1"),
        ("limit-hosts", "web[1:2]"),
        ("topology", "tree"),
        ("upload-mbit", "800"),
        ("stall-timeout", "200"),
        ("define", "perform_checks:false"),
    ];
    let flags = said.map(|(name, value)| format!("--{name}={value}"));
    let flags = flags.each_ref().map(String::as_str);
    let mut expected = json!({});
    for (name, value) in said {
        expected[name] = json!([value]);
    }
    let recorded = || {
        let file = ["show", "scap/state:production/repo/record.json"];
        let record = git(&fleet.scene.path("repo"), &file);
        let record: Value = serde_json::from_str(&record).unwrap();
        record["latest"]["flags"].clone()
    };
    let mut deploy = fleet.start_deploy(&[&["--repo", "repo"], &flags[..]].concat());
    wait_for(&fleet, &mut deploy, "soak");
    kill(deploy);
    assert_eq!(recorded(), expected);

    let mut again = fleet.scene.start(&RESUME);
    let status = wait_for(&fleet, &mut again, "soak");
    let said = again.said();
    assert!(
        said.contains("with the flags that it began with: --budget=1 --dead-man=10m --define="),
        "{said}"
    );
    assert_eq!(status["waves"][1]["hosts"], 1, "{status:#}");
    let release = fleet.release_of("web1");
    let left = release["goes_back_in_seconds"].as_u64();
    assert!(left > Some(400), "{release:#}");
    kill(again);
    assert_eq!(recorded(), expected, "also the next time");

    // One host of the second wave is lost, and one may be.
    let others = ["--soak", "0", "--limit-hosts", "all", "--json"];
    super::rollout::spoil(&fleet, 1);
    let ended = fleet.scene.scap(&[&RESUME[..], &others].concat()).exits(5);
    let report = deployed(&ended);
    assert_eq!(report["dead_man_seconds"], 600);
    assert_eq!(host(&report, "web2")["outcome"], "failed");
    assert_eq!(live_commit(&fleet.agents[0]), second);
    assert_eq!(live_commit(&fleet.agents[1]), first);
    assert_eq!(live_commit(&fleet.agents[2]), second);
    expected["soak"] = json!(["0"]);
    expected["limit-hosts"] = json!(["all"]);
    assert_eq!(recorded(), expected);
    super::rollout::mend(&fleet, 1);

    let third = commit(&repo, "3");
    let mut deploy = fleet.start_deploy(&[&["--repo", "repo"], &flags[..]].concat());
    wait_for(&fleet, &mut deploy, "soak");
    kill(deploy);
    let afresh = [&RESUME[..], &["--forget-flags"]].concat();
    fleet.scene.scap(&afresh).exits(0);
    assert_eq!(recorded(), json!({}));
    fleet.assert_all_run(&repo, &third);
}

#[test]
fn for_whom_a_release_is_stable_outlives_its_coordinators_and_others_do_not_get_it_by_resume() {
    let fleet = soaking(&["web1", "web2"]);
    let (repo, first) = fleet.scene.repo();
    fleet.deploy(&["--repo", "repo", "--soak", "0"]).exits(0);
    let second = commit(&repo, "2");
    let flags = ["--repo", "repo", "-l", "web1", "--soak", "600"];
    let mut deploy = fleet.start_deploy(&flags);
    wait_for(&fleet, &mut deploy, "soak");
    let activator = fleet.agents[0].activator().pid;
    send_signal(activator, Signal::STOP);
    say(&fleet, &["promote"]).exits(0);
    wait_for(&fleet, &mut deploy, "finalization");
    kill(deploy);
    // The next one writes to the branch before it comes to an end, and is killed too.
    let mut command = fleet.scene.command(&RESUME);
    let command = command.env("SCAP_FAILPOINT", "begin-moved");
    let ended = fleet.scene.start_command(command).end();
    assert!(ended.was_killed_by(Signal::ABORT), "{ended:#?}");
    send_signal(activator, Signal::CONT);

    let afresh = [&RESUME[..], &["--forget-flags"]].concat();
    fleet.scene.scap(&afresh).fails(
        3,
        "go on with release #2",
        "it is the stable one of some hosts already",
        "-l",
    );
    assert_eq!(live_commit(&fleet.agents[1]), first);
    let to_the_end = [&RESUME[..], &["--soak", "0"]].concat();
    fleet.scene.scap(&to_the_end).exits(0);
    assert_eq!(live_commit(&fleet.agents[0]), second);
    assert_eq!(live_commit(&fleet.agents[1]), first);
    assert_eq!(latest(&fleet)["outcome"], "done");
    let limited = git(
        repo.dir(),
        &["grep", "-h", "\"limited\": true", "scap/state"],
    );
    assert_eq!(limited.lines().count(), 2, "the latest and the stable one");
}
