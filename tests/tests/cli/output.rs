//! Help, and what goes to which stream.

use std::process::Stdio;

use serde_json::Value;

use super::fleet::Fleet;
use super::scene::Scene;

#[test]
fn help_names_every_flag_of_every_command() {
    let scene = Scene::empty();
    let source = [
        "--repo <PATH>",
        "--dir <PATH>",
        "--rev <REV>",
        "--state <DIR>",
        "--json",
    ];
    let agent_paths = [
        "--config <FILE>",
        "--identity <DIR>",
        "--data <DIR>",
        "--deploy-root <DIR>",
    ];
    let local = ["--data <DIR>", "--json", "/var/lib/scap-agent"];
    let deploy = [
        "--name <REPO>",
        "--environment <ENV>",
        "--fleet <FILE>",
        "--topology <TOPOLOGY>",
        "swarm",
        "tree",
        "--yes",
        "--sign-with <FILE>",
        "--connect-timeout <SECS>",
        "--away-timeout <SECS>",
        "--stall-timeout <SECS>",
        "--limit-hosts <HOSTS>",
        "[MESSAGE]...",
        "--soak <SECS>",
        "--budget <N>",
        "--prefetch <WHO>",
        "--hold <SECS>",
        "--dry-run",
        "--progress <STYLE>",
    ];
    let scap = [
        "--scap <DIR>",
        "-e, --environment <ENV>",
        "-D, --define <KEY:VALUE>",
        "--host-name <NAME>",
    ];
    let config = ["--repo <PATH>", "--dir <PATH>", "--rev <REV>", "--json"];
    let control = ["--state <DIR>", "--name <REPO>", "--environment <ENV>"];
    let commands: [(&[&str], &[&[&str]]); 23] = [
        (&["init"], &[&["--state <DIR>", "--fleet <NAME>"]]),
        (
            &["enroll"],
            &[&[
                "[NAME]",
                "--state <DIR>",
                "--out <DIR>",
                "--environment <ENV>",
                "--list",
                "--ssh <[USER@]HOST>...",
                "--accept-new",
                "--start",
                "--token [<HOST>...]",
                "--fleet <FILE>",
                "--listen <ADDR:PORT>",
                "--for <TIME>",
                "--json",
            ]],
        ),
        (
            &["token", "create"],
            &[&[
                "<HOST>",
                "--state <DIR>",
                "--environment <ENV>",
                "--expires <TIME>",
                "--json",
            ]],
        ),
        (&["token", "list"], &[&["--state <DIR>", "--json"]]),
        (&["token", "revoke"], &[&["<WHICH>", "--state <DIR>"]]),
        (
            &["agent", "enroll"],
            &[&[
                "--token-file <FILE>",
                "--config <FILE>",
                "--identity <DIR>",
                "--listen <ADDR:PORT>",
                "--coordinator <HOST:PORT>",
                "--timeout <SECS>",
            ]],
        ),
        (&["snapshot"], &[&source]),
        (&["deploy"], &[&source, &deploy, &scap]),
        (&["config"], &[&config, &scap]),
        (&["pause"], &[&control]),
        (&["resume"], &[&control]),
        (&["promote"], &[&control]),
        (&["abort"], &[&control]),
        (&["retry"], &[&control, &["--failed"]]),
        (&["skip"], &[&control, &["<HOST>", "--reason <TEXT>"]]),
        (
            &["plan"],
            &[&[
                "--fleet <FILE>",
                "--topology <TOPOLOGY>",
                "--simulate",
                "--size <SIZE>",
                "--random-seed <N>",
                "--json",
            ]],
        ),
        (
            &["demo"],
            &[&["--repo <PATH>", "--agents <N>", "--keep", "--json"]],
        ),
        (
            &["agent", "run"],
            &[
                &agent_paths,
                &["--listen <ADDR:PORT>", "--external-activator"],
            ],
        ),
        (&["agent", "activator"], &[&agent_paths]),
        (&["agent", "status"], &[&local]),
        (&["agent", "verify"], &[&local, &["<REPO>"]]),
        (&["agent", "gc"], &[&local]),
        (
            &["agent"],
            &[&["run", "activator", "status", "verify", "gc"]],
        ),
    ];
    for (command, flags) in commands {
        let arguments = [command, &["--help"]].concat();
        let ended = scene.scap(&arguments).exits(0).prints(&flags.concat());
        assert_eq!(ended.stderr, "", "{command:?}");
    }
}

#[test]
fn help_lists_the_commands_and_the_exit_codes() {
    let scene = Scene::empty();
    let ended = scene.scap(&["--help"]).exits(0);
    let ended = ended.prints(&[
        "init",
        "enroll",
        "snapshot",
        "plan",
        "deploy",
        "demo",
        "Exit codes: ",
    ]);
    let codes = ended.stdout.split_once("Exit codes: ").unwrap().1;
    for code in [
        "0 done",
        "1 failed",
        "2 bad usage",
        "3 stopped",
        "4 rolled back",
        "5 done with failed hosts",
        "75 the lock",
    ] {
        assert!(codes.contains(code), "{codes}");
    }
    let ended = scene.scap(&["agent", "--help"]).exits(0);
    ended.prints(&["Exit codes: ", "0 done", "1 failed", "2 bad usage"]);
    for version in [["--version"].as_slice(), &["agent", "--version"]] {
        scene
            .scap(version)
            .exits(0)
            .prints(&[env!("CARGO_PKG_VERSION")]);
    }
}

#[test]
fn what_is_no_command_or_flag_is_misuse() {
    let scene = Scene::empty();
    scene.scap(&[]).exits(2);
    scene.scap(&["agent"]).exits(2);
    for (arguments, piece) in [
        (["deplyo"].as_slice(), "'deploy'"),
        (&["agent", "statsu"], "'status'"),
        (&["init", "--stat", "st"], "'--state'"),
        (&["init"], "--state <DIR>"),
        (&["demo", "--agents", "0"], "'--agents <N>'"),
        (&["demo", "--agents", "many"], "'--agents <N>'"),
        (
            &["agent", "run", "--listen", "nowhere"],
            "'--listen <ADDR:PORT>'",
        ),
    ] {
        scene.scap(arguments).fails_as_misuse(&[piece]);
    }
    scene
        .scap(&["demo", "--agents", "65"])
        .exits(2)
        .says(&["error: --agents", "64"]);
}

#[test]
fn the_state_directory_may_be_said_by_the_environment_and_a_flag_stands_over_it() {
    let scene = Scene::empty();
    let init = |arguments: &[&str]| {
        let mut command = scene.command(arguments);
        scene
            .start_command(command.env("SCAP_STATE", "by-environment"))
            .end()
    };
    init(&["init", "--state", "by-flag"]).exits(0);
    assert!(!scene.path("by-environment").exists());
    init(&["init"]).exits(0).prints(&["by-environment/ca"]);
}

#[test]
fn json_is_one_object_and_progress_stays_off_standard_output() {
    let fleet = Fleet::start(&["web1"]);
    fleet.scene.repo();
    // Each of these looks at all that was printed.
    fleet.deploy_repo();
    fleet
        .deploy(&["--repo", "repo"])
        .exits(0)
        .json("scap.deploy/1");
    let snapshot = ["snapshot", "--state", "st", "--repo", "repo", "--json"];
    let ended = fleet.scene.scap(&snapshot).exits(0);
    ended.json("scap.snapshot/1");
    assert_eq!(ended.stderr, "");
    for (command, schema) in [
        (["status"].as_slice(), "scap.agent-status/1"),
        (&["verify", "repo"], "scap.verify/1"),
        (&["gc"], "scap.gc/1"),
    ] {
        let arguments = [&["agent"], command, &["--data", "web1/data", "--json"]].concat();
        let ended = fleet.scene.scap(&arguments).exits(0);
        ended.json(schema);
        assert_eq!(ended.stderr, "", "{command:?}");
    }
    // Without it the result of a deployment is what went live, and progress is all there is to say.
    let deploy = [
        "deploy",
        "--state",
        "st",
        "--fleet",
        "fleet.toml",
        "--yes",
        "--repo",
        "repo",
    ];
    let ended = fleet
        .scene
        .scap(&deploy)
        .exits(0)
        .says(&["ok 1", "done, in "]);
    assert!(
        serde_json::from_str::<Value>(&ended.stdout).is_err(),
        "{ended:#?}"
    );
}

/// Runs a command whose reader has left before anything is said, and returns what it says on the other stream.
fn with_closed(scene: &Scene, arguments: &[&str], is_stdout: bool) -> (Option<i32>, String) {
    let mut command = scene.command(arguments);
    let piped = || Stdio::piped();
    let mut child = command.stdout(piped()).stderr(piped()).spawn().unwrap();
    if is_stdout {
        drop(child.stdout.take());
    } else {
        drop(child.stderr.take());
    }
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(said).unwrap())
}

#[test]
fn a_reader_of_the_result_that_leaves_is_no_panic() {
    let scene = Scene::new();
    scene.repo();
    for arguments in [
        ["--help"].as_slice(),
        &["snapshot", "--state", "st", "--repo", "repo"],
        &["snapshot", "--state", "st", "--repo", "repo", "--json"],
        &["enroll", "web1", "--state", "st", "--out", "web1"],
        &["init", "--state", "other"],
    ] {
        let (code, said) = with_closed(&scene, arguments, true);
        assert!(!said.contains("panicked"), "{arguments:?}: {said}");
        assert_eq!(code, Some(0), "{arguments:?}: {said}");
    }
}

#[test]
fn a_reader_of_the_progress_that_leaves_does_not_stop_the_deployment() {
    let fleet = Fleet::start(&["web1"]);
    let (repo, commit) = fleet.scene.repo();
    let deploy = [
        "deploy",
        "--state",
        "st",
        "--fleet",
        "fleet.toml",
        "--yes",
        "--repo",
        "repo",
        "--json",
    ];
    let (code, said) = with_closed(&fleet.scene, &deploy, false);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("\"outcome\":\"done\""), "{said}");
    fleet.assert_all_run(&repo, &commit);
}
