//! An agent that is killed, wherever it is, with its activator, or one of the two alone: its host comes back with the files, the
//! config files and the service of one release, and the deployment goes on.

use rand::{Rng as _, SeedableRng as _};
use rand_pcg::Pcg64Mcg;
use rustix::process::Signal;
use scap_tests::fleet::wait_until;
use scap_tests::repo::write_incompressible;
use serde_json::json;

use super::fleet::Agent;
use super::process::{LIMIT, Running, send_signal};
use super::resume::{flips, taken};
use super::rollout::{say, wait_for};
use super::supervised::{GATES, REPO, Runs, SERVICE, World};

/// The moments at which one is killed are of this seed; a failure prints the round.
const SEED: u64 = 20_261_130;

/// What is killed of an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    /// The daemon, and its activator before it can do anything about that.
    Both,
    /// The daemon: its activator ends what it does, and then ends.
    Daemon,
    /// The activator: its daemon starts another.
    Activator,
}

impl World {
    /// Kills that much of the agent of a host, and starts it again.
    fn kill(&mut self, at: usize, of: Of) {
        let activators = self.fleet.agents[at].activators();
        if of == Of::Activator {
            for activator in &activators {
                send_signal(activator.pid, Signal::KILL);
            }
            return wait_until("another activator", LIMIT, || {
                let now = self.fleet.agents[at].activators();
                let is_other = now.len() == 1 && !activators.contains(&now[0]);
                is_other.then_some(()).ok_or(now)
            });
        }
        let (name, address) = self.kill_daemon(at, of == Of::Both);
        self.start_again(at, &name, &address);
    }

    /// Kills the daemon of a host, and its activator with it or not, and says which it was.
    fn kill_daemon(&mut self, at: usize, with_activator: bool) -> (String, String) {
        let agent = self.fleet.agents.remove(at);
        let named = (agent.name().to_owned(), agent.address.clone());
        if with_activator {
            drop(agent);
        } else {
            agent.kill_daemon();
        }
        named
    }

    /// That what a host has is of one release, but for a service that is not restarted yet.
    #[track_caller]
    fn assert_of_one(&self, at: usize, versions: [&str; 2], case: &str) {
        let name = ["web1", "web2", "web3"][at];
        let runs = Runs::on(&self.folder(name));
        let is_of = |version: &&str| {
            let all = Runs::of(version, name);
            (&runs.tree, &runs.config) == (&all.tree, &all.config)
        };
        assert!(versions.iter().any(is_of), "{case}: {name}: {runs:?}");
        let has_run = |version: &&str| runs.service == Runs::of(version, name).service;
        let may_run = runs.service.is_none() || versions.iter().any(has_run);
        assert!(may_run, "{case}: {name}: {runs:?}");
    }
}

/// Waits until a wave soaks, and nobody is away.
fn wait_until_it_soaks(world: &World, deploy: &mut Running, wave: &str) {
    wait_until(&format!("wave {wave} soaks"), LIMIT, || {
        let wait = wait_for(&world.fleet, deploy, "soak")["wait"].clone();
        let is_it = wait["wave"] == wave && wait["hosts"] == json!([]);
        is_it.then_some(()).ok_or(wait)
    });
}

#[test]
fn an_agent_killed_at_each_stage_boundary_comes_back_and_its_host_switches_once() {
    let mut world = World::start();
    world.version("one");
    world.start_deploy(&[]).end().exits(0);
    let flips = flips(&world.fleet, REPO);
    // It takes long to fetch, so that each kind of death is in the middle of that.
    write_incompressible(&world.repo.dir().join("large"), 1 << 19, 1);
    let commit = world.version("two");
    let gates = || {
        let (before, after) = GATES.split_at(7);
        let before = before.iter().map(|(at, _)| *at);
        let after = after.iter().map(|(at, _)| *at);
        before.chain([SERVICE]).chain(after)
    };
    for gate in gates() {
        world.set_gate("web1", gate, "hold");
    }
    let mut deploy = world.start_deploy(&["--soak", "600", "--upload-mbit", "1"]);
    for of in [Of::Both, Of::Daemon, Of::Activator] {
        world.wait_until_fetching(&mut deploy);
        world.kill(0, of);
        world.assert_of_one(0, ["one", "one"], "it fetches");
    }
    for gate in gates() {
        world.wait_until_held("web1", gate);
        for of in [Of::Both, Of::Activator] {
            world.kill(0, of);
            world.assert_of_one(0, ["one", "two"], gate);
            // It is done again.
            world.wait_until_held("web1", gate);
        }
        world.open_gate("web1", gate);
    }
    wait_until_it_soaks(&world, &mut deploy, "canary");
    for of in [Of::Both, Of::Daemon, Of::Activator] {
        world.kill(0, of);
        world.assert_of_one(0, ["two", "two"], "it soaks");
    }
    say(&world.fleet, &["promote"]).exits(0);
    wait_until_it_soaks(&world, &mut deploy, "rest");
    send_signal(world.fleet.agents[0].activator().pid, Signal::STOP);
    say(&world.fleet, &["promote"]).exits(0);
    wait_for(&world.fleet, &mut deploy, "finalization");
    world.kill(0, Of::Both);
    deploy.end().exits(0);
    assert_eq!(taken(&flips), [1; 3]);
    world.assert_all_run("two", &commit, "after all boundaries");
    world.assert_stable("web1", 2);
    let commit = world.version("three");
    world.start_deploy(&[]).end().exits(0);
    world.assert_all_run("three", &commit, "the next one");
}

#[test]
fn an_agent_killed_while_its_host_goes_back_comes_back_and_it_goes_back_once() {
    let mut world = World::start();
    world.version("one");
    world.start_deploy(&[]).end().exits(0);
    let before = world.seen();
    let flips = flips(&world.fleet, REPO);
    let commit = world.version("two");
    let mut deploy = world.start_deploy(&["--soak", "600"]);
    wait_until_it_soaks(&world, &mut deploy, "canary");
    let gates = ["before-handle_service", SERVICE, "after-handle_service"];
    for gate in gates {
        world.set_gate("web1", gate, "hold-all");
    }
    say(&world.fleet, &["abort"]).exits(0);
    for gate in gates {
        world.wait_until_held("web1", gate);
        for of in [Of::Both, Of::Activator] {
            world.kill(0, of);
            world.assert_of_one(0, ["one", "two"], gate);
            world.wait_until_held("web1", gate);
        }
        world.open_gate("web1", gate);
    }
    deploy.end().exits(4);
    assert_eq!(taken(&flips), [2, 0, 0], "there and back");
    world.assert_are(&before, "it went back");
    world.start_deploy(&[]).end().exits(0);
    world.assert_all_run("two", &commit, "the next one");
}

/// The activator of a daemon that was killed ends what it does, and the next one waits for it.
#[test]
fn a_daemon_killed_alone_at_each_gate_comes_back_and_its_host_switches_once() {
    let mut world = World::start();
    world.version("one");
    world.start_deploy(&[]).end().exits(0);
    let flips = flips(&world.fleet, REPO);
    let (fetch, promote) = GATES.split_at(4);
    for (round, (fetch, promote)) in fetch.iter().zip(promote).enumerate() {
        let version = format!("round-{round}");
        let commit = world.version(&version);
        let gates = [fetch.0, promote.0];
        for gate in gates {
            world.set_gate("web1", gate, "hold");
        }
        let deploy = world.start_deploy(&[]);
        for gate in gates {
            world.wait_until_held("web1", gate);
            let (name, address) = world.kill_daemon(0, false);
            let again = world.launch_again(&name, &address);
            wait_until("the next activator", LIMIT, || {
                let said = again.said();
                let is_there = said.contains("activator ready");
                is_there.then_some(()).ok_or(said)
            });
            world.open_gate("web1", gate);
            let agent = Agent::when_ready(&world.fleet.scene, &name, again);
            world.fleet.agents.insert(0, agent);
        }
        deploy.end().exits(0);
        assert_eq!(taken(&flips), [1; 3], "{version}");
        world.assert_all_run(&version, &commit, &version);
    }
}

#[test]
fn an_agent_killed_at_any_of_50_instants_comes_back_and_its_host_switches_once() {
    let mut world = World::start();
    world.version("one");
    world.start_deploy(&[]).end().exits(0);
    let flips = flips(&world.fleet, REPO);
    let mut before = "undisturbed".to_owned();
    let undisturbed = world.time_of(&before);
    assert_eq!(taken(&flips), [1; 3]);
    let mut random = Pcg64Mcg::seed_from_u64(SEED);
    for round in 0..10 {
        let version = format!("round-{round}");
        let commit = world.version(&version);
        let deploy = world.start_deploy(&[]);
        for of in [Of::Both, Of::Activator, Of::Daemon, Of::Both, Of::Activator] {
            std::thread::sleep(undisturbed.mul_f64(random.random_range(0.0..0.5)));
            let at = random.random_range(0..world.fleet.agents.len());
            if of == Of::Both {
                let (name, address) = world.kill_daemon(at, true);
                // Nobody is there who could switch it.
                world.assert_of_one(at, [&before, &version], &version);
                world.start_again(at, &name, &address);
            } else {
                world.kill(at, of);
            }
        }
        let ended = deploy.end();
        if !ended.is_code(0) {
            // It was away where it had to confirm, or before anybody knew of it.
            assert!(
                ended.is_code(3) || ended.is_code(5),
                "{version}: {ended:#?}"
            );
            world.start_deploy(&[]).end().exits(0);
        }
        assert_eq!(taken(&flips), [1; 3], "{version}");
        world.assert_all_run(&version, &commit, &version);
        before = version;
    }
}
