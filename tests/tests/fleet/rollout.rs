//! Waves on hosts of their own: a canary that breaks as it switches, a dead host, and what people say meanwhile.

use std::ffi::{OsStr, OsString};
use std::time::Duration;

use scap_tests::faults::SmallDisk;
use scap_tests::fleet::{Fleet, Process, wait_until};
use scap_tests::under_test;
use serde_json::Value;

use crate::scene::{FETCH_MAX, REPO, Scene, runs};

/// What a rollout of a scene is told, and what it says.
impl Scene {
    /// Has the fleet file begin with this.
    fn roll_out_by(&self, table: &str) {
        let path = self.fleet.coordinator().fleet_file();
        let hosts = std::fs::read_to_string(&path).unwrap();
        std::fs::write(path, format!("{table}\n{hosts}")).unwrap();
    }

    /// Runs a command about the running deployment; returns its code and what it printed.
    fn say(&self, command: &[&str]) -> (Option<i32>, String) {
        let coordinator = self.fleet.coordinator();
        let mut arguments: Vec<OsString> = command.iter().map(OsString::from).collect();
        arguments.extend([OsStr::new("--state").into(), coordinator.state().into()]);
        let output = coordinator.run(arguments, COMMAND_MAX);
        (output.code(), output.stdout)
    }

    /// Waits until the rollout waits for something on a wave.
    fn wait_for(&self, on: &str, wave: Option<&str>) -> Value {
        wait_until(&format!("it waits for {on}"), FETCH_MAX, || {
            let (_, text) = self.say(&["status", "--json"]);
            let status: Value = serde_json::from_str(text.trim()).map_err(|_| text)?;
            let status = status["running"][0].clone();
            let wait = &status["wait"];
            let is_it = wait["on"] == on && wave.is_none_or(|wave| wait["wave"] == wave);
            if is_it {
                Ok(status)
            } else {
                Err(status.to_string())
            }
        })
    }

    fn deploys(&self, more: &[&str]) -> Process {
        let coordinator = self.fleet.coordinator();
        coordinator.start_deploy(self.repo.dir(), more)
    }
}

#[test]
fn a_canary_whose_disk_turns_read_only_takes_the_others_back_and_nobody_else_is_touched() {
    let mut disk = None;
    let builder = Fleet::builder(under_test!()).hosts(5).canaries(2);
    let scene = Scene::start_after(builder, |fleet| {
        let root = fleet.host(2).deploy_root();
        disk = Some(SmallDisk::mount(&root, 64 * 1024 * 1024));
    });
    let Some((scene, disk)) = scene.zip(disk) else {
        return;
    };
    for words in ["host2", "read-only", "Read-only"] {
        scene.fleet.expect_log(words);
    }
    let coordinator = scene.fleet.coordinator();
    let old = scene.commit_payload(1_000_000, 71);
    coordinator.deploy(scene.repo.dir(), &[]).expect_done();
    let new = scene.commit_payload(1_000_000, 72);
    scene.roll_out_by("[[rollout.wave]]\nname = 'canary'\ngroup = 'canary'\napproval = true");
    let deploy = scene.deploys(&[]);
    scene.wait_for("approval", Some("canary"));
    disk.make_read_only();
    assert_eq!(scene.say(&["promote"]).0, Some(0));
    let report = coordinator.finish(deploy).expect_code(4);
    let outcomes: Vec<&str> = report.hosts.iter().map(|it| it.outcome.as_str()).collect();
    let expected = [
        "rolled-back",
        "rolled-back",
        "skipped",
        "skipped",
        "skipped",
    ];
    assert_eq!(outcomes, expected, "{report:#?}");
    assert_eq!(report.failed(), ["host2"]);
    scene.assert_all_run(&old);
    for host in &scene.fleet.hosts()[2..] {
        let revs = std::fs::read_dir(host.revs(REPO)).unwrap();
        assert_eq!(revs.count(), 1, "{}", host.name());
    }

    disk.make_writable();
    let deploy = scene.deploys(&[]);
    scene.wait_for("approval", None);
    assert_eq!(scene.say(&["promote"]).0, Some(0));
    coordinator.finish(deploy).expect_done();
    scene.assert_all_run(&new);
}

#[test]
fn a_dead_host_in_the_last_wave_stops_it_and_rolls_nothing_back() {
    let Some(scene) = Scene::start(Fleet::builder(under_test!()).hosts(4).canaries(1)) else {
        return;
    };
    scene.expect_broken_connections();
    scene.fleet.expect_log("host4");
    let coordinator = scene.fleet.coordinator();
    let old = scene.commit_payload(1_000_000, 73);
    coordinator.deploy(scene.repo.dir(), &[]).expect_done();
    let new = scene.commit_payload(1_000_000, 74);
    scene.fleet.host(4).station().link_down();
    let report = coordinator.deploy(scene.repo.dir(), &[]).expect_code(3);
    assert_eq!(report.failed(), ["host4"]);
    // What was live on the canary stays; the last wave has fetched, and was not switched.
    scene.assert_runs(scene.fleet.host(1), &new);
    for host in &scene.fleet.hosts()[1..3] {
        assert_eq!(report.host(host.name()).outcome, "fetched");
        scene.assert_runs(host, &old);
    }

    // A rollout that is held goes on by itself when the host is back.
    let deploy = scene.deploys(&["--hold", "600", "--connect-timeout", "3"]);
    scene.wait_for("budget", Some("rest"));
    scene.fleet.host(4).station().link_up();
    coordinator.finish(deploy).expect_done();
    scene.assert_all_run(&new);
}

#[test]
fn an_abort_in_the_middle_of_a_wave_takes_back_those_that_were_switched() {
    let builder = Fleet::builder(under_test!())
        .hosts(4)
        .canaries(1)
        .rate_mbit(20);
    let Some(scene) = Scene::start(builder) else {
        return;
    };
    let coordinator = scene.fleet.coordinator();
    let old = scene.commit_text("old");
    coordinator.deploy(scene.repo.dir(), &[]).expect_done();
    let new = scene.commit_payload(SLOW_BYTES, 75);
    let deploy = scene.deploys(&[]);
    scene.wait_for("chunks", Some("rest"));
    assert!(runs(scene.fleet.host(1), &new), "the canary has it");
    assert_eq!(scene.say(&["abort"]).0, Some(0));
    let report = coordinator.finish(deploy).expect_code(4);
    assert_eq!(report.host("host1").outcome, "rolled-back");
    for host in &scene.fleet.hosts()[1..] {
        assert_eq!(report.host(host.name()).outcome, "unfinished");
    }
    scene.assert_all_run(&old);
}

#[test]
fn nobody_switches_while_it_is_paused_and_all_do_when_it_goes_on() {
    let builder = Fleet::builder(under_test!())
        .hosts(4)
        .canaries(1)
        .rate_mbit(20);
    let Some(scene) = Scene::start(builder) else {
        return;
    };
    let coordinator = scene.fleet.coordinator();
    let commit = scene.commit_payload(SLOW_BYTES, 76);
    let deploy = scene.deploys(&[]);
    scene.wait_for("chunks", Some("rest"));
    assert_eq!(scene.say(&["pause"]).0, Some(0));
    // What they were told they finish.
    wait_until("all have fetched", FETCH_MAX, || {
        let (_, text) = scene.say(&["status", "--json"]);
        let status: Value = serde_json::from_str(text.trim()).map_err(|_| text)?;
        let status = status["running"][0].clone();
        let waits = (&status["wait"]["on"], &status["wait"]["hosts"]);
        let expected = (Value::from("paused"), Value::Array(Vec::new()));
        if waits == (&expected.0, &expected.1) {
            Ok(())
        } else {
            Err(status.to_string())
        }
    });
    for host in &scene.fleet.hosts()[1..] {
        assert!(!host.live(REPO).exists(), "{}", host.name());
    }
    assert_eq!(scene.say(&["resume"]).0, Some(0));
    coordinator.finish(deploy).expect_done();
    scene.assert_all_run(&commit);
}

/// Takes five seconds at 20 Mbit/s: time to look and to speak.
const SLOW_BYTES: usize = 12_000_000;

/// The longest that a command about a running deployment may take.
const COMMAND_MAX: Duration = Duration::from_secs(20);
