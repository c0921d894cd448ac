//! Deployments of several repos and environments at the same time, from one state directory.

use std::path::Path;

use rustix::process::Signal;
use scap_tests::fleet::wait_until;
use scap_tests::repo::{SourceRepo, write_incompressible};
use serde_json::{Value, json};

use super::fleet::{Agent, Fleet, deployed, enroll, fleet_file};
use super::process::{Ended, LIMIT, Running};
use super::rollout::say;
use super::scene::Scene;
use super::state_branch::commit;

/// How the holder of a lock is called that runs in a scene.
pub fn me() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let user = rustix::process::getuid().as_raw();
    format!("uid{user}@{}", host.trim())
}

/// Two hosts, the first a canary, with the first commit of a repo; and another repo.
fn two_repos() -> (Fleet, SourceRepo, SourceRepo) {
    let fleet = Fleet::start(&["web1", "web2"]);
    let (repo, _) = fleet.scene.repo();
    fleet.deploy_repo();
    let other = SourceRepo::create(&fleet.scene.path("other"));
    (fleet, repo, other)
}

fn running(scene: &Scene) -> Vec<Value> {
    let status = scene.scap(&["status", "--state", "st", "--json"]).exits(0);
    let status = status.json("scap.status/1");
    status["running"].as_array().unwrap().clone()
}

/// Waits until a wave of the deployment of a repo soaks.
fn wait_until_it_soaks(fleet: &Fleet, deploy: &mut Running, repo: &str, wave: &str) {
    wait_until(&format!("{wave} of {repo} soaks"), LIMIT, || {
        assert!(!deploy.is_over(), "{}", deploy.said());
        let running = running(&fleet.scene);
        let wait = json!(["soak", wave]);
        let is_it = |it: &&Value| {
            it["repo"] == repo && json!([it["wait"]["on"], it["wait"]["wave"]]) == wait
        };
        match running.iter().find(is_it) {
            Some(_) => Ok(()),
            None => Err(running),
        }
    });
}

/// Lets a deployment go on whose canary soaks, and then ends what the others soak.
fn promote_all(fleet: &Fleet, mut deploy: Running, repo: &str) -> Ended {
    let promote = ["promote", "--name", repo];
    say(fleet, &promote).exits(0);
    wait_until_it_soaks(fleet, &mut deploy, repo, "rest");
    say(fleet, &promote).exits(0);
    deploy.end()
}

/// The bytes of all files below a folder.
fn bytes_in(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).unwrap().flatten();
    let bytes = entries.map(|entry| match entry.file_type().unwrap().is_dir() {
        true => bytes_in(&entry.path()),
        false => entry.metadata().unwrap().len(),
    });
    bytes.sum()
}

#[test]
fn while_one_soaks_another_environment_and_another_repo_are_deployed_and_collected() {
    let (fleet, repo, other) = two_repos();
    write_incompressible(&repo.dir().join("big"), 500_000, 99);
    let second = commit(&repo, "2");
    let soaking = ["--repo", "repo", "--soak", "600", "--prefetch", "wave"];
    let mut production = fleet.start_deploy(&[&soaking[..], &["raise", "the limit"]].concat());
    wait_until_it_soaks(&fleet, &mut production, "repo", "canary");

    // The same place: who, why, since when, and what to do.
    let refused = fleet.deploy(&["--repo", "repo"]);
    let why = format!("repo in production is locked by {} (r-", me());
    let refused = refused.fails(75, "take the lock", &why, "wait for it to end");
    let deploy = format!(
        "deploy {:.10} \\\"Version 2\\\": raise the limit, for ",
        second
    );
    refused.says(&[&deploy, "status --state st"]);

    // Another environment, to its end.
    enroll(&fleet.scene, "stage1", &["--environment", "staging"]);
    let stage = Agent::start(&fleet.scene, "stage1");
    let hosts = [("stage1", stage.address.as_str(), false)];
    fleet.scene.write("staging.toml", fleet_file(&hosts));
    let staging = ["--environment", "staging", "--fleet", "staging.toml"];
    let common = ["deploy", "--state", "st", "--repo", "repo", "--yes"];
    let staged = fleet.scene.scap(&[&common[..], &staging].concat());
    staged.exits(0);
    repo.archived(&second).assert_is(&stage.live("repo"));

    // Another repo on the same hosts, so often that what it no longer needs is collected, also where it is killed.
    let mut last = String::new();
    for seed in 1..=8 {
        write_incompressible(&other.dir().join("big"), 500_000, seed);
        last = other.commit(&format!("Content {seed}"));
        if let 3 | 6 = seed {
            let failpoint = ["lock-written", "begin-written"][seed as usize / 4];
            let arguments = ["deploy", "--state", "st", "--fleet", "fleet.toml", "--yes"];
            let arguments = [&arguments[..], &["--repo", "other"]].concat();
            let mut command = fleet.scene.command(&arguments);
            command.env("SCAP_FAILPOINT", failpoint);
            let died = fleet.scene.start_command(&mut command).end();
            assert!(died.was_killed_by(Signal::ABORT), "{died:#?}");
        }
        fleet.deploy(&["--repo", "other"]).exits(0);
    }
    assert!(!production.is_over(), "{}", production.said());
    let store = bytes_in(&fleet.scene.path("st/store/chunks"));
    // That of the first repo, twice: as chunks and as parts of its delta; and five of the other.
    assert!(store < 7 * 500_000 + 400_000, "{store} bytes are kept");
    let snapshot = ["snapshot", "--state", "st", "--repo", "repo", "--json"];
    let snapshot = fleet.scene.scap(&snapshot).exits(0).json("scap.snapshot/1");
    assert_eq!(snapshot["new_chunks"], 0, "{snapshot:#}");

    // What comes later is served as if nothing had been.
    let ended = promote_all(&fleet, production, "repo").exits(0);
    assert!(!ended.stderr.contains("WARN"), "{ended:#?}");
    assert_eq!(deployed(&ended)["sequence"], 2);
    fleet.assert_all_run(&repo, &second);
    for agent in &fleet.agents {
        other.archived(&last).assert_is(&agent.live("other"));
    }
    fleet.deploy(&["--repo", "repo"]).exits(0);
}

#[test]
fn of_several_deployments_one_is_killed_and_another_told_what_to_do_and_the_rest_go_on() {
    let (mut fleet, repo, other) = two_repos();
    let second = commit(&repo, "2");
    let others = commit(&other, "1");
    let mut first = fleet.start_deploy(&["--repo", "repo", "--soak", "600"]);
    wait_until_it_soaks(&fleet, &mut first, "repo", "canary");
    let mut beside = fleet.start_deploy(&["--repo", "other", "--soak", "600"]);
    wait_until_it_soaks(&fleet, &mut beside, "other", "canary");
    say(&fleet, &["pause"]).fails(
        2,
        "several deployments run",
        "other to production, repo to production",
        "--name",
    );
    // Neither takes the way to a host from the other: one link for each of the three deployments so far.
    let said = fleet.agents[0].running().said();
    assert_eq!(said.matches("control stream opened").count(), 3, "{said}");

    first.signal(Signal::KILL);
    assert!(first.end().was_killed_by(Signal::KILL));
    let left = running(&fleet.scene);
    assert_eq!(left.len(), 1, "{left:#?}");
    assert_eq!(left[0]["repo"], "other");
    // Its lock is free at once, and what it said there is not believed.
    let again = fleet.deploy(&["--repo", "repo", "--soak", "0"]).exits(0);
    assert_eq!(deployed(&again)["sequence"], 2);
    fleet.assert_all_run(&repo, &second);

    assert!(!beside.is_over(), "{}", beside.said());
    promote_all(&fleet, beside, "other").exits(0);
    for agent in &fleet.agents {
        other.archived(&others).assert_is(&agent.live("other"));
    }
}

#[test]
fn directories_are_deployed_to_two_environments_at_once_from_a_new_state_directory() {
    let scene = Scene::new();
    scene.write("files/index.html", "hello");
    let environments = ["production", "staging"];
    let agents = environments.map(|environment| {
        enroll(&scene, environment, &["--environment", environment]);
        Agent::start(&scene, environment)
    });
    let deployments = [0, 1].map(|at| {
        let name = environments[at];
        let hosts = fleet_file(&[(name, &agents[at].address, false)]);
        let file = format!("{name}.toml");
        scene.write(&file, hosts);
        let common = ["deploy", "--state", "st", "--dir", "files", "--yes"];
        let more = ["--name", "files", "--fleet", &file, "--environment", name];
        scene.start(&[&common[..], &more].concat())
    });
    for deployment in deployments {
        deployment.end().exits(0);
    }
    for agent in &agents {
        let live = agent.live("files").join("index.html");
        assert_eq!(std::fs::read(live).unwrap(), b"hello");
    }
    let history = ["history", "--state", "st", "--json"];
    let history = scene.scap(&history).exits(0).json("scap.history/1");
    assert_eq!(history["releases"].as_array().unwrap().len(), 2);
}
