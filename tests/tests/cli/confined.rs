//! The daemon and its activator as real processes: what each may do, and as whom.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Signal, geteuid};
use scap_tests::fleet::wait_until;
use scap_tests::repo::SourceRepo;
use serde_json::Value;

use super::fleet::{Agent, Fleet, enroll, fleet_file, run_arguments, status};
use super::process::{LIMIT, Running, send_signal};
use super::scene::Scene;

/// Users of the daemon and of the activator, and somebody who is in the group of the first: none need have a name.
const DAEMON: u32 = 65_001;
const ACTIVATOR: u32 = 65_002;
const NEIGHBOUR: u32 = 65_003;

/// How far the kernel here confines; a test that needs all of it is skipped elsewhere.
fn is_fully_confined(scene: &Scene, name: &str) -> bool {
    let status = status(scene, name).exits(0).json("scap.agent-status/1");
    let confinement = &status["confinement"];
    if confinement["level"] == "full" {
        assert_eq!(confinement["code"], Value::Null, "{confinement}");
        return true;
    }
    assert_eq!(confinement["code"], "not-confined", "{confinement}");
    println!("skipped: the kernel does not confine in all respects: {confinement}");
    false
}

#[test]
fn a_daemon_writes_nowhere_but_where_it_is_confined_to() {
    let scene = Scene::new();
    let agent = Agent::start(&scene, "web1");
    let is_full = is_fully_confined(&scene, "web1");
    scene
        .scap(&["agent", "status", "--data", "web1/data"])
        .exits(0)
        .prints(&["the daemon is confined"]);
    agent.stop().exits(0);
    if !is_full {
        return;
    }
    // A link leads what it writes at its start elsewhere.
    fs::rename(scene.path("web1/data/state"), scene.path("outside")).unwrap();
    symlink("../../outside", scene.path("web1/data/state")).unwrap();
    let starts = || fs::read(scene.path("outside/starts")).unwrap();
    let before = starts();
    let arguments = run_arguments("web1", "127.0.0.1:0");
    let ended = scene.scap(&arguments.each());
    ended
        .exits(1)
        .says(&["error: run the agent", "Permission denied"]);
    assert_eq!(starts(), before);
    // It is the kernel that keeps it: the same with nobody to do so.
    scene.write("off.toml", "confinement = 'off'\n");
    let agent = Agent::start_with(&scene, "web1", &["--config", "off.toml"]);
    assert_ne!(starts(), before);
    scene
        .scap(&["agent", "status", "--data", "web1/data"])
        .exits(0)
        .prints(&["the daemon is not confined, since its configuration says so [not-confined]"]);
    agent.stop().exits(0);
}

#[test]
fn every_thread_of_the_daemon_is_confined_and_its_activator_is_not() {
    let scene = Scene::new();
    scene.write("agent.toml", "confinement = 'best-effort'\n");
    enroll(&scene, "web1", &[]);
    let mut agent = Agent::start_with(&scene, "web1", &["--config", "agent.toml"]);
    if !is_fully_confined(&scene, "web1") {
        return;
    }
    // What confines a thread takes from it for good that it gains privileges: that much `/proc` shows.
    let may_gain = |task: &Path| {
        let status = fs::read_to_string(task.join("status")).unwrap();
        status.contains("NoNewPrivs:\t0")
    };
    let process = |pid: u32| PathBuf::from(format!("/proc/{pid}"));
    let tasks = fs::read_dir(process(agent.running().pid()).join("task")).unwrap();
    let tasks: Vec<PathBuf> = tasks.map(|task| task.unwrap().path()).collect();
    assert!(tasks.len() > 1, "{tasks:?}");
    assert!(tasks.iter().all(|task| !may_gain(task)));
    let ours = may_gain(&process(std::process::id()));
    for pid in [agent.keeper().pid, agent.activator().pid] {
        assert_eq!(may_gain(&process(pid)), ours);
    }
    // Without what starts its activator again there is no going on.
    let keeper = agent.keeper().pid;
    send_signal(keeper, Signal::KILL);
    wait_until("the agent ends", LIMIT, || {
        agent.running().is_over().then_some(()).ok_or("running")
    });
    agent.stop().exits(1).says(&[
        "the activator's keeper died",
        "what starts the activator died",
    ]);
    wait_until("the activator ends", LIMIT, || {
        let left = scene.processes();
        left.is_empty().then_some(()).ok_or(left)
    });
}

/// A host whose daemon and activator have users of their own.
struct TwoUsers {
    scene: Scene,
    repo: SourceRepo,
    daemon: Running,
    activator: Running,
}

impl TwoUsers {
    fn start() -> Self {
        let scene = Scene::new();
        let open = |path: &str, mode: u32| {
            let mode = fs::Permissions::from_mode(mode);
            fs::set_permissions(scene.path(path), mode).unwrap();
        };
        let give = |path: &str, user: u32, group: u32| {
            let status = Command::new("chown")
                .args(["-R", &format!("{user}:{group}")])
                .arg(scene.path(path))
                .status();
            assert!(status.unwrap().success());
        };
        enroll(&scene, "web1", &[]);
        for folder in ["web1/data", "web1/run", "noted"] {
            fs::create_dir(scene.path(folder)).unwrap();
        }
        // The checkout may be nobody else's to read.
        fs::copy(env!("CARGO_BIN_EXE_scap-under-test"), scene.path("scap")).unwrap();
        for path in ["web1/identity", "web1/data"] {
            give(path, DAEMON, DAEMON);
            open(path, 0o750);
        }
        // All of the identity but its key is the group's to read.
        for entry in fs::read_dir(scene.path("web1/identity")).unwrap() {
            let name = entry.unwrap().file_name();
            if name != "node.key" {
                open(&format!("web1/identity/{}", name.display()), 0o640);
            }
        }
        give("web1/srv", ACTIVATOR, ACTIVATOR);
        give("web1/run", ACTIVATOR, ACTIVATOR);
        chown(scene.path("noted"), Some(ACTIVATOR), None).unwrap();
        for (path, mode) in [("", 0o755), ("web1", 0o755), ("scap", 0o755)] {
            open(path, mode);
        }
        let noted = scene.path("noted/service");
        let restart = format!("['sh', '-c', 'id -u > {}', '{{unit}}']", noted.display());
        scene.write(
            "agent.toml",
            format!(
                "activator-socket = '{}'\n[services]\nrestart = {restart}\n",
                scene.path("web1/run/activator.sock").display()
            ),
        );
        open("agent.toml", 0o644);
        let arguments = run_arguments("web1", "127.0.0.1:0");
        let arguments = arguments.each();
        let run = [
            &arguments[..],
            &["--external-activator", "--config", "agent.toml"],
        ]
        .concat();
        let daemon = Self::launch(&scene, DAEMON, &[], &run);
        wait_until("the daemon is ready", LIMIT, || {
            let ended = status(&scene, "web1");
            if ended.is_code(0) {
                Ok(())
            } else {
                Err(daemon.said())
            }
        });
        let paths: Vec<&str> = ["--identity", "web1/identity", "--data", "web1/data"]
            .into_iter()
            .chain(["--deploy-root", "web1/srv", "--config", "agent.toml"])
            .collect();
        let start = [&["agent", "activator"], &paths[..]].concat();
        let mut activator = Self::launch(&scene, ACTIVATOR, &[DAEMON], &start);
        activator.wait_until_it_says("activator ready");
        let repo = SourceRepo::create(&scene.path("repo"));
        repo.write("README.md", "# A site\n");
        repo.write(
            "scap/scap.cfg",
            "[global]\ngit_repo: mw/app\nservice_name: app\n",
        );
        let note = scene.path("noted/check");
        repo.write(
            "scap/checks.yaml",
            format!(
                "checks:\n  who: {{type: command, command: \"sh -c 'id -u > {}'\", after: promote}}\n",
                note.display()
            ),
        );
        repo.commit("A site");
        Self {
            scene,
            repo,
            daemon,
            activator,
        }
    }

    /// As a unit with `User=`, `SupplementaryGroups=` and `UMask=0027` is started.
    fn launch(scene: &Scene, user: u32, groups: &[u32], arguments: &[&str]) -> Running {
        let mut command = scene.command(&[]);
        let environment: Vec<_> = command
            .get_envs()
            .filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())))
            .collect();
        command = Command::new("sh");
        let groups: Vec<String> = groups.iter().map(ToString::to_string).collect();
        let groups = match groups.is_empty() {
            true => "--clear-groups".to_owned(),
            false => format!("--groups={}", groups.join(",")),
        };
        command
            .args(["-c", "umask 027; exec \"$@\"", "sh", "setpriv"])
            .args([format!("--reuid={user}"), format!("--regid={user}"), groups])
            .arg("--")
            .arg(scene.path("scap"))
            .args(arguments)
            .current_dir(scene.root())
            .env_clear()
            .envs(environment);
        scene.start_command(&mut command)
    }
}

#[test]
fn checks_and_services_are_of_the_activators_user_and_the_daemon_writes_no_tree() {
    if !geteuid().is_root() {
        println!("skipped: other users take root");
        return;
    }
    let mut host = TwoUsers::start();
    let scene = &host.scene;
    let view = status(scene, "web1").exits(0).json("scap.agent-status/1");
    let address = view["address"].as_str().unwrap();
    scene.write("fleet.toml", fleet_file(&[("web1", address, false)]));
    let deploy = |expected: i32| {
        let common = ["deploy", "--state", "st", "--fleet", "fleet.toml", "--yes"];
        let ended = scene.scap(&[&common[..], &["--json", "--repo", "repo"]].concat());
        ended.exits(expected)
    };
    deploy(0);
    let live = scene.path("web1/srv/mw/app/README.md");
    assert_eq!(fs::read_to_string(&live).unwrap(), "# A site\n");
    assert_eq!(fs::metadata(&live).unwrap().uid(), ACTIVATOR);
    for noted in ["noted/check", "noted/service"] {
        let who = fs::read_to_string(scene.path(noted)).unwrap();
        assert_eq!(who.trim(), ACTIVATOR.to_string(), "{noted}");
    }
    // The key of the host is the daemon's alone, and what it stores no others than the two can read.
    let mode = |path: &str| fs::metadata(scene.path(path)).unwrap().mode() & 0o777;
    assert_eq!(mode("web1/identity/node.key"), 0o600);
    assert_eq!(mode("web1/data/store/chunks"), 0o750);
    assert_eq!(mode("web1/run/activator.sock"), 0o660);
    assert_eq!(mode("web1/data/agent.sock"), 0o600);
    // Somebody of the daemon's group gets to the activator's socket, and is not heard.
    let socket = scene.path("web1/run/activator.sock");
    let heard = super::local_users::heard_by(NEIGHBOUR, &[DAEMON], &socket, "x");
    assert!(heard.unwrap().contains("local-user"));
    host.activator.wait_until_it_says("local-user");
    // And again, with what is there by now.
    host.repo.write("README.md", "# Another\n");
    host.repo.commit("Another");
    deploy(0);
    assert_eq!(fs::read_to_string(&live).unwrap(), "# Another\n");
    let said = host.daemon.said();
    for wrong in ["ERROR", "Permission denied", "not known from the daemon"] {
        assert!(!said.contains(wrong), "{said}");
    }
}

#[test]
fn a_fleet_of_confined_daemons_goes_on_after_a_reload() {
    let scene = Scene::new();
    scene.write("conf/agent.toml", "[limits]\nupload-mbit = 500\n");
    enroll(&scene, "web1", &[]);
    let agent = Agent::start_with(&scene, "web1", &["--config", "conf/agent.toml"]);
    let mut fleet = Fleet {
        agents: vec![agent],
        scene,
    };
    fleet.write_fleet_file();
    // The file is replaced, not written to, as configuration management does.
    let scene = &fleet.scene;
    scene.write("conf/new", "[limits]\nupload-mbit = 400\n");
    fs::rename(scene.path("conf/new"), scene.path("conf/agent.toml")).unwrap();
    fleet.agents[0].running().signal(Signal::HUP);
    let scene = &fleet.scene;
    wait_until("the limits are read again", LIMIT, || {
        let view = status(scene, "web1").json("scap.agent-status/1");
        let cap = view["limits"]["upload"]["cap_mbit"].clone();
        (cap == 400).then_some(()).ok_or(cap)
    });
    let (repo, commit) = scene.repo();
    fleet.deploy_repo();
    fleet.assert_all_run(&repo, &commit);
}
