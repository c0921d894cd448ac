//! The agent does not start, or is not there; and how it ends.

use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Stdio};

use rustix::process::Signal;
use scap_proto::identity::{CertificateAuthority, Identity, Role, Validity};
use scap_tests::fleet::wait_until;
use scap_tests::tree::Tree;

use super::fleet::{Agent, Fleet, enroll, fleet_file, run_arguments, status};
use super::process::LIMIT;
use super::scene::{Scene, flip_a_byte};

const DOING: &str = "run the agent";
const DAY_MS: u64 = 24 * 3600 * 1000;

#[test]
fn a_port_that_is_taken_is_named() {
    let scene = Scene::new();
    enroll(&scene, "web1", &[]);
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let ended = scene.scap(&run_arguments("web1", &address.to_string()).each());
    let cause = format!("UDP port {} at 127.0.0.1", address.port());
    ended.fails(1, DOING, &cause, "another process");
    assert_eq!(scene.processes(), [], "something was left running");
}

#[test]
fn a_second_agent_on_one_data_directory_is_refused_and_the_first_goes_on() {
    let fleet = Fleet::start(&["web1"]);
    let (repo, commit) = fleet.scene.repo();
    fleet.deploy_repo();
    let ended = fleet
        .scene
        .scap(&run_arguments("web1", "127.0.0.1:0").each());
    let cause = "web1/data/store is in use by another process";
    ended.exits(1).says(&[
        "error: run the agent: open the chunk store",
        cause,
        "of its own",
    ]);
    fleet.assert_all_run(&repo, &commit);
    fleet.deploy_repo();
}

#[test]
fn a_node_key_that_others_can_read_is_not_used() {
    let scene = Scene::new();
    enroll(&scene, "web1", &[]);
    let key = scene.path("web1/identity/node.key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o640)).unwrap();
    let ended = scene.scap(&run_arguments("web1", "127.0.0.1:0").each());
    let cause = "web1/identity/node.key has mode 640";
    ended.fails(1, DOING, cause, "chmod 600 web1/identity/node.key");
    assert!(!scene.path("web1/data").exists());
}

#[test]
fn an_identity_that_is_not_there_is_made_with_enroll() {
    let scene = Scene::new();
    let ended = scene.scap(&run_arguments("web1", "127.0.0.1:0").each());
    let cause = "web1/identity/node.key: No such file or directory";
    ended.fails(1, DOING, cause, "scap-coordinator enroll");
    assert!(!scene.path("web1").exists(), "something was made");
}

#[test]
fn files_of_two_identities_do_not_go_together() {
    let scene = Scene::new();
    enroll(&scene, "web1", &[]);
    enroll(&scene, "web2", &[]);
    let copy = |file: &str| {
        let from = scene.path("web2/identity").join(file);
        std::fs::copy(from, scene.path("web1/identity").join(file)).unwrap()
    };
    copy("node.crt");
    let ended = scene.scap(&run_arguments("web1", "127.0.0.1:0").each());
    ended.fails(
        1,
        DOING,
        "web1/identity/node.crt is not for",
        "one enrolment",
    );
}

#[test]
fn a_certificate_out_of_its_time_is_refused_at_the_start_and_the_clock_is_named() {
    let now = scap_agent::clock::now().0;
    for (name, from, to, cause) in [
        ("old", now - 200 * DAY_MS, now - 100 * DAY_MS, "has expired"),
        (
            "early",
            now + 10 * DAY_MS,
            now + 20 * DAY_MS,
            "not valid yet",
        ),
    ] {
        let scene = Scene::new();
        // A certificate is never of a time before its authority's.
        let fleet = "fleet".parse().unwrap();
        let authority = CertificateAuthority::create(&fleet, now - 400 * DAY_MS).unwrap();
        let node = authority.node(Role::Agent, name.parse().unwrap());
        let validity = Validity {
            not_before_unix_ms: from,
            not_after_unix_ms: to,
        };
        let directory = scene.path(name).join("identity");
        Identity::create(&directory, &authority, &node, validity).unwrap();
        let signers = "allowed_signers";
        std::fs::copy(scene.path("st").join(signers), directory.join(signers)).unwrap();
        let ended = scene.scap(&run_arguments(name, "127.0.0.1:0").each());
        ended
            .fails(1, DOING, cause, "clock")
            .says(&["this clock says"]);
        assert!(!scene.path(name).join("data").exists());
    }
}

#[test]
fn a_key_that_the_configuration_does_not_know_is_named() {
    let scene = Scene::new();
    let run = ["agent", "run", "--config", "agent.toml"];
    for (text, cause) in [
        ("lissten = '127.0.0.1:0'", "`lissten`"),
        ("listen = 'nowhere'", "line 1"),
        ("data = ", "line 1"),
        ("[limits]\nupload-mbit = 0", "line 2"),
        ("[[limits.at]]\nfrom = '22:00'\nto = '24:00'", "HH:MM"),
    ] {
        scene.write("agent.toml", text);
        let ended = scene.scap(&run).exits(2);
        let ended = ended.says(&["error: configure the agent", "agent.toml", cause]);
        assert_eq!(ended.stdout, "");
    }
    let ended = scene.scap(&["agent", "run", "--config", "missing.toml"]);
    ended
        .exits(2)
        .says(&["error: configure the agent", "missing.toml: No such file"]);
}

#[test]
fn damaged_state_is_refused_by_name_and_what_is_live_stays() {
    let mut fleet = Fleet::start(&["web1"]);
    let (repo, commit) = fleet.scene.repo();
    fleet.deploy_repo();
    fleet.agents.pop().unwrap().stop().exits(0);

    let state = fleet.scene.path("web1/data/state");
    let file = only_file(&state, "repo");
    let whole = std::fs::read(&file).unwrap();
    let live = Tree::read(&fleet.scene.path("web1/srv/repo"));
    for at in [0, 30, whole.len() / 2, whole.len() - 1] {
        flip_a_byte(&file, at);
        let ended = fleet
            .scene
            .scap(&run_arguments("web1", "127.0.0.1:0").each());
        let cause = "web1/data/state/repo@production.repo is damaged";
        ended.exits(1).says(&[
            "error: run the agent: read the saved state",
            cause,
            "move it away",
        ]);
        assert_eq!(fleet.scene.processes(), [], "something was left running");
        std::fs::write(&file, &whole).unwrap();
    }
    flip_a_byte(&state.join("starts"), 0);
    let ended = fleet
        .scene
        .scap(&run_arguments("web1", "127.0.0.1:0").each());
    ended.exits(1).says(&["web1/data/state/starts is damaged"]);
    std::fs::remove_file(state.join("starts")).unwrap();

    // What the message says: move it away, and deploy that repo again.
    std::fs::rename(&file, fleet.scene.path("away")).unwrap();
    fleet.agents.push(Agent::start(&fleet.scene, "web1"));
    assert_eq!(live, Tree::read(&fleet.scene.path("web1/srv/repo")));
    fleet.write_fleet_file();
    fleet.deploy_repo();
    fleet.assert_all_run(&repo, &commit);
}

#[test]
fn a_damaged_index_costs_reading_the_chunks_again_and_nothing_else() {
    let mut fleet = Fleet::start(&["web1"]);
    let (repo, commit) = fleet.scene.repo();
    fleet.deploy_repo();
    let chunks = status(&fleet.scene, "web1").json("scap.agent-status/1")["store_chunks"].clone();
    for is_start in [true, false] {
        fleet.agents.pop().unwrap().stop().exits(0);
        let index = fleet.scene.path("web1/data/store/index");
        let last = std::fs::read(&index).unwrap().len() - 1;
        flip_a_byte(&index, if is_start { 3 } else { last });
        fleet.agents.push(Agent::start(&fleet.scene, "web1"));
        let status = status(&fleet.scene, "web1").json("scap.agent-status/1");
        assert_eq!(status["store_chunks"], chunks, "{status:#}");
        fleet.assert_all_run(&repo, &commit);
    }
    fleet.write_fleet_file();
    fleet.deploy_repo();
}

#[test]
fn a_store_of_another_version_is_left_alone() {
    let mut fleet = Fleet::start(&["web1"]);
    fleet.scene.repo();
    fleet.deploy_repo();
    fleet.agents.pop().unwrap().stop().exits(0);
    fleet
        .scene
        .write("web1/data/store/version", "scap store 9\n");
    let before = Tree::read(&fleet.scene.path("web1/data/store"));
    let ended = fleet
        .scene
        .scap(&run_arguments("web1", "127.0.0.1:0").each());
    ended
        .exits(1)
        .says(&["error: run the agent: open the chunk store", "scap store 9"]);
    assert_eq!(before, Tree::read(&fleet.scene.path("web1/data/store")));
}

#[test]
fn what_asks_a_daemon_that_does_not_run_says_so() {
    let scene = Scene::new();
    for arguments in [
        ["status"].as_slice(),
        &["status", "--json"],
        &["gc"],
        &["limit"],
        &["verify", "repo"],
        &["verify", "repo", "--json"],
    ] {
        let arguments = [&["agent"], arguments, &["--data", "web1/data"]].concat();
        let ended = scene.scap(&arguments);
        let cause = "web1/data/agent.sock: No such file or directory";
        ended.fails(1, "ask the agent", cause, "scap-agent run");
    }
    // A socket that a killed agent left.
    let mut agent = Agent::start(&scene, "web1");
    agent.running().signal(Signal::KILL);
    wait_until("the agent is gone", LIMIT, || {
        agent.running().is_over().then_some(()).ok_or("running")
    });
    assert!(scene.path("web1/data/agent.sock").exists());
    let ended = scene.scap(&["agent", "status", "--data", "web1/data"]);
    ended.fails(1, "ask the agent", "Connection refused", "scap-agent run");
}

#[test]
fn an_agent_says_what_it_runs() {
    let fleet = Fleet::start(&["web1"]);
    let agent = ["agent", "status", "--data", "web1/data"];
    fleet
        .scene
        .scap(&agent)
        .exits(0)
        .prints(&["web1 listens on 127.0.0.1:", "nothing was deployed"]);
    let (_, commit) = fleet.scene.repo();
    fleet.deploy_repo();
    let ended = fleet.scene.scap(&agent).exits(0);
    ended.prints(&[
        "repo production  #1 release ",
        &commit[..10],
        "promote done  live",
    ]);
    let release = fleet.release_of("web1");
    assert_eq!(release["commit"], commit.as_str());
    assert_eq!(release["live_commit"], commit.as_str());
    assert_eq!(release["live"], true);
    assert_eq!(release["finalized_sequence"], 1);
}

#[test]
fn limits_are_shown_and_changed_and_given_back_while_an_agent_runs() {
    let scene = Scene::new();
    scene.write(
        "agent.toml",
        "[limits]\nupload-mbit = 50\n[[limits.at]]\nfrom = '00:00'\nto = '00:00'\ndownload-mbit = 100",
    );
    enroll(&scene, "web1", &[]);
    let _agent = Agent::start_with(&scene, "web1", &["--config", "agent.toml"]);
    let limit = |more: &[&str]| {
        let arguments = [&["agent", "limit", "--data", "web1/data"], more].concat();
        scene.scap(&arguments)
    };
    limit(&[]).exits(0).prints(&[
        "upload  0.0 of 50 Mbit/s\n",
        "download  0.0 of 100 Mbit/s, at this time of day\n",
        "upload over the border  0.0 Mbit/s, no cap\n",
        "download over the border  0.0 Mbit/s, no cap\n",
    ]);
    let changes = ["--upload-mbit", "none", "--border-upload-mbit", "5"];
    limit(&changes).exits(0).prints(&[
        "upload  0.0 Mbit/s, no cap, by command until the next start\n",
        "upload over the border  0.0 of 5 Mbit/s, by command until the next start\n",
    ]);
    // What is not named stays, and the status says it too.
    limit(&["--download-mbit", "7"]).exits(0);
    let status = ["agent", "status", "--data", "web1/data"];
    scene.scap(&status).exits(0).prints(&[
        "download  0.0 of 7 Mbit/s, by command until the next start\n",
        "upload over the border  0.0 of 5 Mbit/s, by command until the next start\n",
    ]);
    let json = limit(&["--reset", "--upload-mbit", "9", "--json"]).exits(0);
    let view: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    let cap = |of: &str| (view[of]["cap_mbit"].clone(), view[of]["source"].clone());
    assert_eq!(cap("upload"), (9.into(), "command".into()));
    assert_eq!(cap("download"), (100.into(), "time-of-day".into()));
    assert_eq!(
        cap("border_upload"),
        (serde_json::Value::Null, "default".into())
    );
    for wrong in ["0", "fast", "800001", "1.5"] {
        limit(&["--upload-mbit", wrong])
            .exits(2)
            .says(&["1 to 800000", "none"]);
    }
}

#[test]
fn an_agent_that_is_told_to_end_ends_in_order_with_its_activator() {
    for signal in [Signal::TERM, Signal::INT] {
        let scene = Scene::new();
        let mut agent = Agent::start(&scene, "web1");
        let activator = agent.activator();
        assert!(activator.command.contains("activator"), "{activator:?}");
        agent.running().signal(signal);
        wait_until("the agent ends", LIMIT, || {
            agent.running().is_over().then_some(()).ok_or("running")
        });
        // It waits for its activator.
        assert_eq!(scene.processes(), []);
        agent.stop().exits(0);
    }
}

#[test]
fn an_activator_does_not_outlive_an_agent_that_is_killed() {
    let scene = Scene::new();
    let mut agent = Agent::start(&scene, "web1");
    agent.activator();
    agent.running().signal(Signal::KILL);
    wait_until("all are gone", LIMIT, || {
        agent.running().is_over();
        let left = scene.processes();
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
}

#[test]
fn an_activator_that_dies_is_started_again() {
    let fleet = Fleet::start(&["web1"]);
    let (repo, commit) = fleet.scene.repo();
    let first = fleet.agents[0].activator();
    super::process::send_signal(first.pid, Signal::KILL);
    fleet.deploy_repo();
    fleet.assert_all_run(&repo, &commit);
    assert_ne!(fleet.agents[0].activator().pid, first.pid);
}

#[test]
fn an_agent_whose_log_nobody_reads_any_more_goes_on() {
    let scene = Scene::new();
    let (repo, commit) = scene.repo();
    enroll(&scene, "web1", &[]);
    let mut command = scene.command(&run_arguments("web1", "127.0.0.1:0").each());
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let log = child.stderr.take();
    let agent = KillAtEnd(child);
    let status = wait_until("the agent is ready", LIMIT, || {
        let ended = status(&scene, "web1");
        if ended.is_code(0) {
            Ok(ended)
        } else {
            Err(ended)
        }
    });
    drop(log);
    let address = status.json("scap.agent-status/1")["address"].clone();
    let hosts = [("web1", address.as_str().unwrap(), false)];
    scene.write("fleet.toml", fleet_file(&hosts));
    let deploy = ["deploy", "--state", "st", "--fleet", "fleet.toml", "--yes"];
    scene
        .scap(&[&deploy[..], &["--repo", "repo"]].concat())
        .exits(0);
    repo.archived(&commit)
        .assert_is(&scene.path("web1/srv/repo"));
    drop(agent);
}

/// Ends a process that the test has started by itself.
struct KillAtEnd(Child);

impl Drop for KillAtEnd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The one file with an extension in a folder.
fn only_file(folder: &std::path::Path, extension: &str) -> PathBuf {
    let files = std::fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().path());
    let found: Vec<_> = files
        .filter(|path| path.extension().is_some_and(|e| e == extension))
        .collect();
    assert_eq!(found.len(), 1, "{found:?}");
    found[0].clone()
}
