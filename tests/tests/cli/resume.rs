//! Going on with a deployment whose coordinator is gone: killed, stopped, or on another machine.

use std::path::Path;
use std::time::{Duration, Instant};

use rand::{Rng as _, SeedableRng as _};
use rand_pcg::Pcg64Mcg;
use rustix::process::Signal;
use scap_tests::fleet::wait_until;
use serde_json::{Value, json};

use super::fleet::{Agent, Fleet, deployed, host};
use super::flips::Flips;
use super::process::{Ended, LIMIT, Running};
use super::rollout::{SOAK, wait_for};
use super::state_branch::{commit, elsewhere, with_upstream};

/// The moments at which a coordinator is killed are of this seed; a failure prints the round.
const SEED: u64 = 20_261_130;

const RESUME: [&str; 8] = [
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

fn flips(fleet: &Fleet) -> Vec<Flips> {
    let watch = |agent: &Agent| Flips::of(&agent.live("repo"));
    fleet.agents.iter().map(watch).collect()
}

fn taken(flips: &[Flips]) -> Vec<usize> {
    flips.iter().map(Flips::take).collect()
}

/// The commit that a host has live, by where its final path leads.
fn live_commit(agent: &Agent) -> String {
    let link = std::fs::read_link(agent.live("repo")).unwrap();
    link.file_name().unwrap().to_str().unwrap().to_owned()
}

/// What the branch says of the latest release.
fn latest(fleet: &Fleet) -> Value {
    let status = fleet.scene.scap(&["status", "--repo", "repo", "--json"]);
    status.exits(0).json("scap.status/1")["places"][0]["latest"].clone()
}

fn kill(mut deploy: Running) {
    if !deploy.is_over() {
        deploy.signal(Signal::KILL);
    }
    let ended = deploy.end();
    assert!(
        ended.is_code(0) || ended.was_killed_by(Signal::KILL),
        "{ended:#?}"
    );
}

/// Goes on with what was killed, and says whether anything had begun.
fn go_on(fleet: &Fleet, wanted: &str) -> Ended {
    let latest = latest(fleet);
    let has_begun = latest["commit"] == wanted && latest["outcome"] == "running";
    match (has_begun, latest["commit"] == wanted) {
        (true, _) => fleet.scene.scap(&RESUME).exits(0),
        // It was through before it could be killed.
        (false, true) => {
            let ended = fleet.scene.scap(&RESUME);
            ended.fails(1, "release #", "nothing to go on with", "deploy")
        }
        (false, false) => fleet.deploy(&["--repo", "repo"]).exits(0),
    }
}

/// Where a coordinator is killed.
enum Moment {
    Says(&'static str),
    After(Duration),
}

#[test]
fn a_coordinator_killed_at_any_of_50_moments_is_gone_on_with_and_each_host_switches_once() {
    let fleet = Fleet::start(&["web1", "web2"]);
    let (repo, _) = fleet.scene.repo();
    fleet.deploy_repo();
    let flips = flips(&fleet);
    let began = Instant::now();
    let mut before = commit(&repo, "undisturbed");
    fleet.deploy_repo();
    let undisturbed = began.elapsed();
    assert_eq!(taken(&flips), [1, 1]);

    let boundaries = [
        "deploy repo to",
        "release ",
        "wave canary: fetch",
        "wave canary: promote",
        "wave rest: fetch",
        "wave rest: promote",
    ];
    let mut random = Pcg64Mcg::seed_from_u64(SEED);
    let boundaries = boundaries.into_iter().map(Moment::Says);
    let instants =
        (boundaries.len()..50).map(|_| Moment::After(undisturbed.mul_f64(random.random())));
    let moments: Vec<Moment> = boundaries.chain(instants).collect();
    for (round, moment) in moments.into_iter().enumerate() {
        let wanted = commit(&repo, &format!("round {round}"));
        let mut deploy = fleet.start_deploy(&["--repo", "repo"]);
        match moment {
            Moment::Says(text) => deploy.wait_until_it_says(text),
            Moment::After(wait) => std::thread::sleep(wait),
        }
        kill(deploy);
        for agent in &fleet.agents {
            let live = live_commit(agent);
            assert!(live == before || live == wanted, "round {round}: {live}");
        }
        go_on(&fleet, &wanted);
        assert_eq!(taken(&flips), [1, 1], "round {round}");
        let expected = repo.archived(&wanted);
        for agent in &fleet.agents {
            expected.assert_is(&agent.live("repo"));
        }
        assert_eq!(latest(&fleet)["outcome"], "done", "round {round}");
        before = wanted;
    }
}

#[test]
fn an_agent_killed_at_any_moment_comes_back_and_switches_once() {
    let mut fleet = Fleet::start(&["web1", "web2"]);
    let (repo, _) = fleet.scene.repo();
    fleet.deploy_repo();
    let flips = flips(&fleet);
    let began = Instant::now();
    commit(&repo, "undisturbed");
    fleet.deploy_repo();
    let undisturbed = began.elapsed();
    assert_eq!(taken(&flips), [1, 1]);
    let mut random = Pcg64Mcg::seed_from_u64(SEED);
    for round in 0..20 {
        let wanted = commit(&repo, &format!("round {round}"));
        let deploy = fleet.start_deploy(&["--repo", "repo"]);
        std::thread::sleep(undisturbed.mul_f64(random.random()));
        let at = random.random_range(0..fleet.agents.len());
        let agent = fleet.agents.remove(at);
        let (name, address) = (agent.name().to_owned(), agent.address.clone());
        // With its activator.
        drop(agent);
        let again = Agent::start_at(&fleet.scene, &name, &address);
        fleet.agents.insert(at, again);
        let ended = deploy.end();
        if !ended.is_code(0) {
            // It was away where it had to confirm, or before anybody knew of it.
            assert!(
                ended.is_code(3) || ended.is_code(5),
                "round {round}: {ended:#?}"
            );
            fleet.deploy(&["--repo", "repo"]).exits(0);
        }
        fleet.assert_all_run(&repo, &wanted);
        assert_eq!(taken(&flips), [1, 1], "round {round}");
    }
}

#[test]
fn another_machine_takes_a_rollout_over_and_the_one_before_is_told_who() {
    let fleet = soaking(&["web1", "web2", "web3"]);
    let (repo, _) = fleet.scene.repo();
    with_upstream(&fleet);
    fleet.deploy(&["--repo", "repo", "--soak", "0"]).exits(0);
    let second = commit(&repo, "2");
    elsewhere(&fleet);
    let flips = flips(&fleet);
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
    super::process::send_signal(activator, Signal::STOP);
    fleet.scene.scap(&["abort", "--state", "st"]).exits(0);
    wait_until("that it goes back is recorded", LIMIT, || {
        let log = super::state_branch::git(
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
    super::process::send_signal(activator, Signal::CONT);
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
        let record = super::state_branch::git(&fleet.scene.path("repo"), &file);
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
