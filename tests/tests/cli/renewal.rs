//! Certificates in their last third, past their end, and with clocks that are wrong: hosts and coordinators whose clock
//! libfaketime moves.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use scap_proto::identity::Identity;
use scap_tests::fleet::wait_until;
use scap_tests::repo::write_incompressible;
use serde_json::Value;

use super::fleet::{Agent, Fleet, deployed, enroll, fleet_file, host, status};
use super::process::{Ended, LIMIT, Running};
use super::scene::Scene;

/// The library that moves the clock of a process; where it is missing, the tests that need it say so and pass.
struct Faketime(PathBuf);

impl Faketime {
    fn find() -> Option<Self> {
        let folders = std::fs::read_dir("/usr/lib").into_iter().flatten();
        let folders = folders.flatten().map(|folder| folder.path());
        let found = folders
            .map(|folder| folder.join("faketime/libfaketimeMT.so.1"))
            .find(|library| library.exists());
        if found.is_none() {
            let line = "skipped: needs libfaketime (Debian package faketime)";
            assert!(std::env::var_os("SCAP_TESTS_NO_SKIP").is_none(), "{line}");
            eprintln!("{line}");
        }
        found.map(Self)
    }

    /// What makes a process live so many days later. Timers and files keep their time.
    fn later(&self, days: i64) -> [(&'static str, String); 4] {
        [
            ("LD_PRELOAD", self.0.display().to_string()),
            ("FAKETIME", format!("{days:+}d")),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
            ("NO_FAKE_STAT", "1".into()),
        ]
    }
}

/// Hosts that were enrolled now, and a coordinator; each lives at another time.
struct World {
    faketime: Faketime,
    fleet: Fleet,
}

impl World {
    fn new(names: &[&str]) -> Option<Self> {
        let faketime = Faketime::find()?;
        let scene = Scene::new();
        for name in names {
            enroll(&scene, name, &[]);
        }
        let fleet = Fleet {
            agents: Vec::new(),
            scene,
        };
        Some(Self { faketime, fleet })
    }

    /// Starts an agent so many days from now.
    fn start(&mut self, name: &str, days: i64) {
        let later = self.faketime.later(days);
        let environment = later.each_ref().map(|(key, value)| (*key, value.as_str()));
        let agent = Agent::start_as(&self.fleet.scene, name, &[], &environment);
        self.fleet.agents.push(agent);
        self.fleet.write_fleet_file();
    }

    /// Starts a command line of the coordinator so many days from now.
    fn begin(&self, days: i64, arguments: &[&str]) -> Running {
        let mut command = self.fleet.scene.command(arguments);
        command.envs(self.faketime.later(days));
        self.fleet.scene.start_command(&mut command)
    }

    #[track_caller]
    fn scap(&self, days: i64, arguments: &[&str]) -> Ended {
        self.begin(days, arguments).end()
    }

    /// Renews so many days from now, and returns what became of the hosts.
    #[track_caller]
    fn renew(&self, days: i64, code: i32, more: &[&str]) -> Value {
        let arguments = ["renew", "--state", "st", "--fleet", "fleet.toml", "--json"];
        let ended = self.scap(days, &[&arguments, more].concat()).exits(code);
        ended.json("scap.renew/1")
    }

    fn deploy(&self, days: i64, more: &[&str]) -> Ended {
        let arguments = [
            "deploy",
            "--state",
            "st",
            "--fleet",
            "fleet.toml",
            "--yes",
            "--json",
            "--repo",
            "repo",
        ];
        self.scap(days, &[&arguments, more].concat())
    }

    fn certificate(&self, name: &str) -> Vec<u8> {
        let path = format!("{name}/identity/node.crt");
        std::fs::read(self.fleet.scene.path(path)).unwrap()
    }

    /// The state of a host's certificate, as its agent says.
    fn state(&self, name: &str) -> Value {
        let status = status(&self.fleet.scene, name).exits(0);
        status.json("scap.agent-status/1")["identity"]["state"].clone()
    }
}

#[test]
fn in_a_quiet_fleet_what_is_due_is_renewed_and_who_is_not_reached_is_named() {
    let Some(mut world) = World::new(&["web1", "web2"]) else {
        return;
    };
    world.start("web1", 300);
    world.start("web2", 300);
    let file = fleet_file(&[
        ("web1", &world.fleet.agents[0].address, true),
        ("web2", &world.fleet.agents[1].address, false),
        ("web3", "127.0.0.1:9", false),
    ]);
    world.fleet.scene.write("fleet.toml", file);
    assert_eq!(world.state("web1"), "due");
    let said = world.fleet.agents[0].running().said();
    assert!(said.contains("certificate is to be renewed"), "{said}");

    let before = world.certificate("web1");
    let renewed = world.renew(300, 1, &["--connect-timeout", "2"]);
    assert_eq!(renewed["coordinator"]["state"], "renewed");
    for name in ["web1", "web2"] {
        assert_eq!(host(&named(&renewed), name)["state"], "renewed");
        assert_eq!(world.state(name), "good");
    }
    let web3 = host(&named(&renewed), "web3").clone();
    assert_eq!(
        (&web3["state"], &web3["code"]),
        (&"not-renewed".into(), &"unreachable".into())
    );
    assert_ne!(world.certificate("web1"), before);

    let again = world.renew(300, 0, &["web1", "web2"]);
    assert_eq!(host(&named(&again), "web1")["state"], "good");
    let unknown = ["renew", "--state", "st", "--fleet", "fleet.toml", "web9"];
    world
        .scap(300, &unknown)
        .exits(2)
        .says(&["web9 is not in the fleet file", "hint:"]);

    // What was renewed is used by the agents that run, and by them when they start again.
    let (repo, commit) = world.fleet.scene.repo();
    let file = fleet_file(&[("web1", &world.fleet.agents[0].address, false)]);
    world.fleet.scene.write("fleet.toml", file);
    world.deploy(300, &[]).exits(0);
    world.fleet.agents.truncate(1);
    world.fleet.assert_all_run(&repo, &commit);
    world.fleet.agents.pop().unwrap().stop().exits(0);
    world.start("web1", 600);
    assert_eq!(world.state("web1"), "due");
}

/// Hosts of a `renew`, as [`host`] finds them.
fn named(renewed: &Value) -> Value {
    let mut renewed = renewed.clone();
    for host in renewed["hosts"].as_array_mut().unwrap() {
        host["name"] = host["host"].clone();
    }
    renewed
}

#[test]
fn e3_a_host_whose_certificate_has_expired_is_renewed_and_until_then_nothing_else_is_done_there() {
    let Some(mut world) = World::new(&["web1"]) else {
        return;
    };
    let (repo, commit) = world.fleet.scene.repo();
    world.start("web1", 380);
    assert_eq!(world.state("web1"), "expired");
    let said = world.fleet.agents[0].running().said();
    assert!(said.contains("certificate has expired"), "{said}");
    let refused = world.deploy(380, &["--connect-timeout", "2"]);
    assert!(!refused.is_code(0), "{refused:#?}");
    let said = &refused.stderr;
    assert!(
        said.contains("has expired") && said.contains("scap-coordinator renew"),
        "{said}"
    );
    assert!(!world.fleet.agents[0].live("repo").exists());

    // Another coordinator's state directory knows nothing of the host, and this one after too long.
    let records = world.fleet.scene.path("st/enrolments");
    let away = world.fleet.scene.path("away");
    std::fs::rename(&records, &away).unwrap();
    let refused = named(&world.renew(380, 1, &[]));
    assert_eq!(host(&refused, "web1")["code"], "not-enrolled");
    std::fs::rename(&away, &records).unwrap();
    let refused = named(&world.renew(365 + 100, 1, &[]));
    assert_eq!(host(&refused, "web1")["code"], "certificate-expired");

    let renewed = named(&world.renew(380, 0, &[]));
    assert_eq!(host(&renewed, "web1")["state"], "renewed", "{renewed:#}");
    assert_eq!(world.state("web1"), "good");
    world.deploy(380, &[]).exits(0);
    world.fleet.assert_all_run(&repo, &commit);
}

#[test]
fn e3_i1_clocks_that_are_400_days_apart_are_named_as_skew_by_both_sides() {
    for (agent, coordinator) in [(400, 0), (0, 400)] {
        let Some(mut world) = World::new(&["web1"]) else {
            return;
        };
        world.fleet.scene.repo();
        world.start("web1", agent);
        let refused = named(&world.renew(coordinator, 1, &[]));
        let web1 = host(&refused, "web1");
        assert_eq!(web1["code"], "clock-skew", "{refused:#}");
        let reason = web1["reason"].as_str().unwrap();
        let says = [
            "clock skew of ",
            "00 days",
            "its clock says 20",
            "this clock says 20",
        ];
        for piece in says.iter().chain(&["set the one that is wrong"]) {
            assert!(reason.contains(piece), "{reason}");
        }
        let doctor = ["doctor", "--state", "st", "--fleet", "fleet.toml"];
        let ended = world.scap(coordinator, &doctor).exits(1);
        ended.prints(&[
            "bad   host: web1: ",
            "[clock-skew]",
            "set the clock that is wrong",
        ]);
        let said = world.fleet.agents[0].running().said();
        assert!(said.contains("this clock says 20"), "{said}");
        if agent > coordinator {
            let refused = world.deploy(coordinator, &["--connect-timeout", "2"]);
            assert!(!refused.is_code(0), "{refused:#?}");
            refused.says(&["clock skew of"]);
        }
    }
}

#[test]
fn e4_leaf_rotates_during_a_transfer_that_drops_no_link_and_fails_no_chunk() {
    let mut fleet = Fleet::start(&["web1", "web2"]);
    let (repo, _) = fleet.scene.repo();
    write_incompressible(&repo.dir().join("data.bin"), 6 * 1024 * 1024, 1);
    let commit = repo.commit("Data");
    let certificate = |name: &str| {
        let path = fleet.scene.path(format!("{name}/identity/node.crt"));
        std::fs::read(path).unwrap()
    };
    let mut seen = vec![certificate("web1")];
    // Some five seconds for each copy.
    let upload = [
        "--repo",
        "repo",
        "--upload-mbit",
        "10",
        "--soak",
        "0",
        "--hold",
        "0",
    ];
    let mut deploy = fleet.start_deploy(&upload);
    wait_until("the transfer runs", LIMIT, || {
        let release = fleet.release_of("web1");
        let held = release["chunks_held"].as_u64().unwrap_or_default();
        if held > 1 { Ok(()) } else { Err(release) }
    });
    while !deploy.is_over() {
        let renew = ["renew", "--state", "st", "--fleet", "fleet.toml", "--all"];
        fleet.scene.scap(&renew);
        let now = certificate("web1");
        let is_under_way = !deploy.is_over();
        if is_under_way && !seen.contains(&now) {
            seen.push(now);
        }
    }
    deployed(&deploy.end().exits(0));
    assert!(
        seen.len() > 2,
        "renewed {} times on the way",
        seen.len() - 1
    );
    fleet.assert_all_run(&repo, &commit);
    for agent in &mut fleet.agents {
        let said = agent.running().said();
        for sign in ["WARN", "ERROR", "control stream lost"] {
            let odd: Vec<&str> = said.lines().filter(|line| line.contains(sign)).collect();
            // A second renewal within a second ends no later than the first; and in the end the coordinator goes.
            let expected = ["ends no later", "closed by peer: going down (code 0)"];
            let is_odd = |line: &&str| !expected.iter().any(|it| line.contains(it));
            assert!(!odd.iter().any(is_odd), "{odd:#?}");
        }
        assert!(said.contains("certificate is renewed"), "{said}");
    }
    for name in ["web1", "web2"] {
        let status = status(&fleet.scene, name).exits(0);
        let dropped = status.json("scap.agent-status/1")["dropped_peers"].clone();
        assert_eq!(dropped, Value::Array(Vec::new()));
    }
}

#[test]
fn a_deployment_renews_hosts_on_the_way_and_those_behind_others_too_and_so_does_renew() {
    let Some(mut world) = World::new(&["web1", "web2"]) else {
        return;
    };
    let (repo, commit) = world.fleet.scene.repo();
    for name in ["web1", "web2"] {
        world.start(name, 300);
    }
    let behind = |world: &World| {
        let file = fleet_file(&[
            ("web1", &world.fleet.agents[0].address, false),
            ("web2", &world.fleet.agents[1].address, false),
        ]);
        world
            .fleet
            .scene
            .write("fleet.toml", format!("{file}via = ['web1']\n"));
    };
    behind(&world);
    world.deploy(300, &[]).exits(0);
    world.fleet.assert_all_run(&repo, &commit);
    for name in ["web1", "web2"] {
        wait_until(&format!("{name} is renewed"), LIMIT, || {
            let state = world.state(name);
            if state == "good" { Ok(()) } else { Err(state) }
        });
    }

    // Eight months later nothing is deployed.
    for agent in world.fleet.agents.drain(..) {
        agent.stop().exits(0);
    }
    for name in ["web1", "web2"] {
        world.start(name, 600);
        assert_eq!(world.state(name), "due");
    }
    behind(&world);
    let renewed = named(&world.renew(600, 0, &[]));
    for name in ["web1", "web2"] {
        assert_eq!(host(&renewed, name)["state"], "renewed", "{renewed:#}");
        assert_eq!(world.state(name), "good");
    }
}

#[test]
fn an_agent_that_is_killed_while_it_is_renewed_has_the_old_identity_or_the_new_one() {
    const ROUNDS: u32 = 8;
    let Some(mut world) = World::new(&["web1"]) else {
        return;
    };
    let directory = world.fleet.scene.path("web1/identity");
    let (mut old, mut new) = (0, 0);
    for round in 1..=ROUNDS {
        // Each certificate is to end later than the one before.
        let day = i64::from(round);
        world.start("web1", day);
        // What the round before was killed at; the agent would remove it later.
        let _ = std::fs::remove_dir_all(directory.join(".staged"));
        let before = Identity::load(&directory).unwrap().certificate();
        let file = world.certificate("web1");
        let arguments = ["renew", "--state", "st", "--fleet", "fleet.toml", "--all"];
        let renewing = world.begin(day, &arguments);
        // It is written beside the present one, renamed, and moved to its place: killed from before that to after it.
        let began = Instant::now();
        while !directory.join(".staged").exists() && world.certificate("web1") == file {
            assert!(began.elapsed() < LIMIT, "not renewed: {}", renewing.said());
            std::thread::yield_now();
        }
        match round {
            ROUNDS => wait_until("the new one is in its place", LIMIT, || {
                let is_there = world.certificate("web1") != file;
                is_there.then_some(()).ok_or("it is not")
            }),
            round => std::thread::sleep(Duration::from_millis(2) * (round - 1)),
        }
        world.fleet.agents.pop().unwrap().kill_daemon();
        // It would wait for an answer.
        renewing.signal(Signal::KILL);
        renewing.end();
        match Identity::load(&directory).unwrap().certificate() == before {
            true => old += 1,
            false => new += 1,
        }
    }
    eprintln!("killed {old} times before the new one held, {new} times after");
    assert!(new > 0);
    let (repo, commit) = world.fleet.scene.repo();
    let day = i64::from(ROUNDS) + 1;
    world.start("web1", day);
    world.deploy(day, &[]).exits(0);
    world.fleet.assert_all_run(&repo, &commit);
}

#[test]
fn doctor_finds_nothing_wrong_with_what_was_just_made_and_names_what_is() {
    let mut fleet = Fleet::start(&["web1"]);
    let paths = [
        "--identity",
        "web1/identity",
        "--data",
        "web1/data",
        "--deploy-root",
        "web1/srv",
    ];
    let doctor = |more: &[&str]| {
        let arguments = [&["agent", "doctor"], &paths[..], more].concat();
        fleet.scene.scap(&arguments)
    };
    let json = doctor(&["--json"]).exits(0).json("scap.agent-doctor/1");
    let levels = |json: &Value, name: &str| {
        let checks = json["checks"].as_array().unwrap();
        let found = checks.iter().find(|check| check["name"] == name);
        found.unwrap_or_else(|| panic!("no {name} in {json:#}"))["level"].clone()
    };
    for name in [
        "identity",
        "certificate",
        "authority",
        "key",
        "membership",
        "data-directory",
    ] {
        assert_eq!(levels(&json, name), "ok", "{json:#}");
    }
    assert_eq!(levels(&json, "agent"), "ok");
    doctor(&[])
        .exits(0)
        .prints(&["ok    certificate: valid until 20"]);

    let coordinator = ["doctor", "--state", "st", "--fleet", "fleet.toml", "--json"];
    let json = fleet.scene.scap(&coordinator).exits(0);
    let json = json.json("scap.doctor/1");
    for name in ["state-directory", "certificate", "authority", "key", "host"] {
        assert_eq!(levels(&json, name), "ok", "{json:#}");
    }

    std::process::Command::new("chmod")
        .args(["0640", "web1/identity/node.key"])
        .current_dir(fleet.scene.root())
        .status()
        .unwrap();
    doctor(&[])
        .exits(1)
        .prints(&["bad   identity: ", "chmod 600"]);
    fleet.agents.pop().unwrap().running().signal(Signal::TERM);
}
