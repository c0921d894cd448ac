//! A coordinator that is killed, wherever it is; and whoever goes on has each host switch once, with its config files and service.

use rand::{Rng as _, SeedableRng as _};
use rand_pcg::Pcg64Mcg;
use rustix::process::Signal;
use scap_tests::fleet::wait_until;
use serde_json::json;

use super::process::{Ended, LIMIT, Running, send_signal};
use super::resume::{RESUME, flips, kill, latest, taken};
use super::rollout::{say, wait_for};
use super::state_branch::git;
use super::supervised::{GATES, REPO, Runs, SERVICE, World};

/// The moments at which it is killed are of this seed; a failure prints the round.
const SEED: u64 = 20_261_130;

const FLAGS: [&str; 7] = [
    "deploy",
    "--state",
    "st",
    "--fleet",
    "fleet.toml",
    "--repo",
    "repo",
];

/// Where a coordinator is killed.
#[derive(Debug, Clone, Copy)]
enum At {
    /// As soon as it says that.
    Says(&'static str),
    /// At that step of writing to the state branch.
    Writes(&'static str),
    /// While that host is at that gate.
    Held(&'static str, &'static str),
    /// While that wave soaks.
    Soaks(&'static str),
    /// While a host has not yet heard that the release is the stable one.
    Finalizes,
}

/// Every stage boundary, in the order in which a release comes to them.
fn boundaries() -> Vec<At> {
    let mut all = vec![
        At::Says("deploy mw/app to"),
        At::Writes("lock-moved"),
        At::Says("release "),
        At::Writes("begin-written"),
        At::Writes("begin-moved"),
        At::Says("wave canary: fetch"),
    ];
    let (fetch, promote) = GATES.split_at(4);
    let held = |gates: &[(&'static str, &str)]| {
        let held = |(at, _): &(&'static str, &str)| At::Held("web1", at);
        gates.iter().map(held).collect::<Vec<_>>()
    };
    all.extend(held(fetch));
    all.push(At::Says("wave canary: promote"));
    all.extend(held(&promote[..3]));
    all.push(At::Held("web1", SERVICE));
    all.extend(held(&promote[3..]));
    all.extend([
        At::Soaks("canary"),
        At::Says("wave rest: fetch"),
        // The other host of the wave has prepared by then, or promoted.
        At::Held("web2", "after-config_deploy"),
        At::Writes("wave-moved"),
        At::Held("web2", "before-promote"),
        At::Held("web2", "after-handle_service"),
        At::Says("wave rest: promote"),
        At::Soaks("rest"),
        At::Finalizes,
        At::Writes("end-written"),
        At::Writes("end-moved"),
    ]);
    all
}

impl World {
    /// A coordinator for a commit: one that goes on with what is recorded of it, where that has begun.
    fn coordinator(&self, commit: &str, more: &[&str], failpoint: Option<&str>) -> Running {
        let latest = latest(&self.fleet);
        let outcome = latest["outcome"].as_str();
        let goes_on = latest["commit"] == commit && outcome == Some("running");
        let arguments = if goes_on { &RESUME[..] } else { &FLAGS[..] };
        let arguments = [arguments, more].concat();
        let mut command = self.fleet.scene.command(&arguments);
        command.envs(failpoint.map(|at| ("SCAP_FAILPOINT", at)));
        self.fleet.scene.start_command(&mut command)
    }

    /// Has a coordinator go on with a commit up to there, and kills it.
    fn kill_coordinator(&self, commit: &str, at: At) {
        let soak = match at {
            At::Soaks(_) | At::Finalizes => "600",
            _ => "0",
        };
        let failpoint = match at {
            At::Writes(step) => Some(step),
            _ => None,
        };
        let mut running = self.coordinator(commit, &["--soak", soak], failpoint);
        match at {
            At::Says(text) => running.wait_until_it_says(text),
            At::Writes(_) => {
                let ended = running.end();
                assert!(ended.was_killed_by(Signal::ABORT), "{at:?}: {ended:#?}");
                return;
            }
            At::Held(host, gate) => {
                self.wait_until_held(host, gate);
                self.wait_until_it_waits_for(&mut running, host);
                kill(running);
                return self.open_gate(host, gate);
            }
            At::Soaks("canary") => drop(wait_for(&self.fleet, &mut running, "soak")),
            At::Soaks(_) => self.wait_for_last_soak(&mut running),
            At::Finalizes => {
                self.wait_for_last_soak(&mut running);
                let activator = self.fleet.agents[0].activator().pid;
                send_signal(activator, Signal::STOP);
                say(&self.fleet, &["promote"]).exits(0);
                wait_for(&self.fleet, &mut running, "finalization");
                kill(running);
                return send_signal(activator, Signal::CONT);
            }
        }
        kill(running);
    }

    fn wait_until_it_waits_for(&self, running: &mut Running, host: &str) {
        wait_until(&format!("it waits for {host}"), LIMIT, || {
            assert!(!running.is_over(), "{}", running.said());
            let status = say(&self.fleet, &["status", "--json"]).exits(0);
            let wait = status.json("scap.status/1")["running"][0]["wait"].clone();
            let is_it = wait["hosts"] == json!([host]);
            is_it.then_some(()).ok_or(wait)
        });
    }

    fn wait_for_last_soak(&self, running: &mut Running) {
        wait_for(&self.fleet, running, "soak");
        say(&self.fleet, &["promote"]).exits(0);
        wait_until("the last wave soaks", LIMIT, || {
            let status = wait_for(&self.fleet, running, "soak");
            match status["wait"]["wave"] == "rest" {
                true => Ok(()),
                false => Err(status),
            }
        });
    }

    /// Goes on with a commit to its end.
    fn complete(&self, commit: &str) -> Ended {
        let latest = latest(&self.fleet);
        if latest["commit"] == commit && latest["outcome"] == "done" {
            let ended = self.fleet.scene.scap(&RESUME);
            return ended.fails(1, "release #", "nothing to go on with", "deploy");
        }
        self.coordinator(commit, &["--soak", "0"], None)
            .end()
            .exits(0)
    }

    /// What is recorded of the latest release; and where it is done, that each host knows it as its stable one.
    fn assert_recorded(&self, outcome: &str, case: &str) {
        let latest = latest(&self.fleet);
        assert_eq!(latest["outcome"], outcome, "{case}: {latest:#}");
        for agent in self.fleet.agents.iter().filter(|_| outcome == "done") {
            self.assert_stable(agent.name(), latest["sequence"].as_u64().unwrap());
        }
    }

    fn resume(&self) -> Running {
        self.fleet.scene.start(&RESUME)
    }
}

#[test]
fn a_coordinator_killed_at_each_stage_boundary_is_gone_on_with_and_each_host_switches_once() {
    let world = World::start();
    world.version("one");
    world.start_deploy(&[]).end().exits(0);
    let flips = flips(&world.fleet, REPO);
    let mut switched = [0; 3];
    let commit = world.version("two");
    let boundaries = boundaries();
    for at in &boundaries {
        if let At::Held(host, gate) = at {
            world.set_gate(host, gate, "hold");
        }
    }
    for at in boundaries {
        world.kill_coordinator(&commit, at);
        let taken = taken(&flips);
        switched = std::array::from_fn(|host| switched[host] + taken[host]);
        assert!(
            switched.iter().all(|times| *times <= 1),
            "{at:?}: {switched:?}"
        );
    }
    world.complete(&commit);
    assert_eq!((switched, taken(&flips)), ([1; 3], vec![0; 3]));
    world.assert_all_run("two", &commit, "after all boundaries");
    world.assert_recorded("done", "after all boundaries");
}

#[test]
fn a_coordinator_killed_while_hosts_go_back_is_gone_on_with_and_they_go_back_once() {
    let world = World::start();
    world.version("one");
    world.start_deploy(&[]).end().exits(0);
    let before = world.seen();
    let flips = flips(&world.fleet, REPO);
    world.version("two");
    let mut deploy = world.start_deploy(&["--soak", "600"]);
    wait_for(&world.fleet, &mut deploy, "soak");
    let gates = ["before-handle_service", SERVICE, "after-handle_service"];
    for gate in gates {
        world.set_gate("web1", gate, "hold-all");
    }
    say(&world.fleet, &["abort"]).exits(0);
    world.wait_until_held("web1", gates[0]);
    wait_until("that it goes back is recorded", LIMIT, || {
        let log = git(world.repo.dir(), &["log", "--format=%s", "scap/state"]);
        let is_there = log.contains("#2 is rolled back");
        is_there.then_some(()).ok_or(log)
    });
    kill(deploy);
    let mut again = world.resume();
    again.wait_until_it_says("wave canary: revert");
    kill(again);
    world.open_gate("web1", gates[0]);
    for gate in &gates[1..] {
        let again = world.resume();
        world.wait_until_held("web1", gate);
        kill(again);
        world.open_gate("web1", gate);
    }
    for step in ["end-written", "end-moved"] {
        let mut command = world.fleet.scene.command(&RESUME);
        let command = command.env("SCAP_FAILPOINT", step);
        let ended = world.fleet.scene.start_command(command).end();
        assert!(ended.was_killed_by(Signal::ABORT), "{step}: {ended:#?}");
    }
    let ended = world.resume().end();
    ended.fails(
        1,
        "release #2 is rolled-back",
        "nothing to go on with",
        "deploy",
    );
    world.assert_are(&before, "it went back");
    assert_eq!(taken(&flips), [2, 0, 0], "there and back");
    world.assert_recorded("rolled-back", "it went back");

    // Killed as soon as it says so, it may have recorded that or not; hosts are where the record says.
    let commit = world.version("three");
    let mut deploy = world.start_deploy(&["--soak", "600"]);
    wait_for(&world.fleet, &mut deploy, "soak");
    say(&world.fleet, &["abort"]).exits(0);
    kill(deploy);
    let ended = world.coordinator(&commit, &["--soak", "0"], None).end();
    match ended.is_code(4) {
        true => world.assert_are(&before, "it went back at once"),
        false => {
            ended.exits(0);
            world.assert_all_run("three", &commit, "it was not recorded");
        }
    }
}

#[test]
fn a_coordinator_killed_at_any_of_52_instants_is_gone_on_with_and_each_host_switches_once() {
    let world = World::start();
    world.version("one");
    world.start_deploy(&[]).end().exits(0);
    let flips = flips(&world.fleet, REPO);
    let mut before = "undisturbed".to_owned();
    let undisturbed = world.time_of(&before);
    assert_eq!(taken(&flips), [1; 3]);
    let mut random = Pcg64Mcg::seed_from_u64(SEED);
    for round in 0..13 {
        let version = format!("round-{round}");
        let commit = world.version(&version);
        for _ in 0..4 {
            let running = world.coordinator(&commit, &[], None);
            std::thread::sleep(undisturbed.mul_f64(random.random()));
            kill(running);
            for agent in &world.fleet.agents {
                let runs = Runs::on(&world.folder(agent.name()));
                let tree = runs.tree.as_ref().unwrap();
                assert!([&before, &version].contains(&tree), "{version}: {runs:?}");
            }
        }
        world.complete(&commit);
        assert_eq!(taken(&flips), [1; 3], "{version}");
        world.assert_all_run(&version, &commit, &version);
        world.assert_recorded("done", &version);
        before = version;
    }
}
