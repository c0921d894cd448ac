//! A deployment in waves: what breaks it, what people say to it, and what it answers and exits with.

use std::process::Command;

use scap_tests::fleet::wait_until;
use scap_tests::repo::SourceRepo;
use scap_tests::tree::Tree;
use serde_json::{Value, json};

use super::fleet::{Fleet, deployed, host};
use super::process::{Ended, LIMIT, Running};
use super::scene::Scene;

/// Three hosts, of which the first is the canary; what `rollout` says stands in the fleet file.
fn fleet(rollout: &str) -> Fleet {
    let fleet = Fleet::start(&["web1", "web2", "web3"]);
    let text = std::fs::read_to_string(fleet.scene.path("fleet.toml")).unwrap();
    fleet
        .scene
        .write("fleet.toml", format!("{rollout}\n{text}"));
    fleet
}

/// A repo whose first commit is live everywhere, and a second commit.
fn two_commits(fleet: &Fleet) -> (SourceRepo, String, String) {
    let (repo, first) = fleet.scene.repo();
    let done = ["--soak", "0", "--hold", "0", "--repo", "repo"];
    fleet.deploy(&done).exits(0);
    repo.write("README.md", "# Another site\n");
    let second = repo.commit("Another");
    (repo, first, second)
}

/// What anybody may write to is refused by the agent, so whatever is below it cannot be activated.
pub fn spoil(fleet: &Fleet, at: usize) {
    set_mode(fleet, at, 0o777);
}

/// Undoes [`spoil`].
pub fn mend(fleet: &Fleet, at: usize) {
    set_mode(fleet, at, 0o755);
}

fn set_mode(fleet: &Fleet, at: usize, mode: u32) {
    use std::os::unix::fs::PermissionsExt as _;
    let srv = fleet.agents[at].live("repo").parent().unwrap().to_owned();
    std::fs::set_permissions(srv, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// Says something to the deployment that runs.
pub fn say(fleet: &Fleet, command: &[&str]) -> Ended {
    let arguments = [&command[..1], &["--state", "st"], &command[1..]].concat();
    fleet.scene.scap(&arguments)
}

fn status(fleet: &Fleet) -> Value {
    let status = say(fleet, &["status", "--json"]).exits(0);
    status.json("scap.status/1")["running"][0].clone()
}

/// Waits until the running deployment waits for something, and returns its status.
pub fn wait_for(fleet: &Fleet, deploy: &mut Running, on: &str) -> Value {
    wait_until(&format!("it waits for {on}"), LIMIT, || {
        assert!(!deploy.is_over(), "{}", deploy.said());
        let status = status(fleet);
        if status["wait"]["on"] == on {
            Ok(status)
        } else {
            Err(status)
        }
    })
}

fn wave<'a>(report: &'a Value, name: &str) -> &'a Value {
    let waves = report["waves"].as_array().unwrap();
    waves.iter().find(|wave| wave["name"] == name).unwrap()
}

pub const SOAK: &str = "[rollout]\n[[rollout.wave]]\nname = 'canary'\ngroup = 'canary'\nsoak = 600";

/// What would be deployed of the repo of a scene.
pub const DRY_RUN: [&str; 8] = [
    "deploy",
    "--state",
    "st",
    "--fleet",
    "fleet.toml",
    "--repo",
    "repo",
    "--dry-run",
];

#[test]
fn a_wave_that_fails_takes_all_that_was_switched_back_and_no_others() {
    let fleet = fleet(
        "[[rollout.wave]]\nname = 'one'\ngroup = 'canary'\n[[rollout.wave]]\nname = 'two'\npercent = 34",
    );
    let (repo, first, second) = two_commits(&fleet);
    spoil(&fleet, 1);
    let ended = fleet.deploy(&["--repo", "repo"]).exits(4);
    let ended = ended.says(&[
        "wave one: promote on 1 hosts",
        "rolling back: 1 host of wave two failed, and 0 may be lost",
        "wave one: revert on 1 hosts",
        "rolled-back 1",
        "every host runs what it ran before",
    ]);
    let report = deployed(&ended);
    assert_eq!(
        (&report["outcome"], &report["finalized"]),
        (&json!("rolled-back"), &json!(false))
    );
    assert_eq!(host(&report, "web1")["outcome"], "rolled-back");
    assert_eq!(host(&report, "web2")["outcome"], "failed");
    assert_eq!(host(&report, "web3")["outcome"], "fetched");
    assert_eq!(wave(&report, "one")["outcome"], "rolled-back");
    for agent in &fleet.agents {
        repo.archived(&first).assert_is(&agent.live("repo"));
    }

    // Mended, the same command is the same release, and goes everywhere.
    mend(&fleet, 1);
    let again = fleet.deploy_repo();
    assert_eq!(again["release"], report["release"]);
    fleet.assert_all_run(&repo, &second);
}

#[test]
fn a_first_deployment_goes_back_to_nothing() {
    let fleet = fleet("");
    fleet.scene.repo();
    spoil(&fleet, 2);
    let report = deployed(&fleet.deploy(&["--repo", "repo"]).exits(4));
    assert_eq!(host(&report, "web1")["outcome"], "rolled-back");
    for agent in &fleet.agents {
        assert!(!agent.live("repo").exists());
    }
    assert_eq!(fleet.release_of("web1")["live"], false);
}

#[test]
fn hosts_that_may_be_lost_are_named_and_the_release_is_stable() {
    let fleet = fleet("[rollout]\nbudget = '50%'");
    let (repo, first, second) = two_commits(&fleet);
    spoil(&fleet, 2);
    let ended = fleet.deploy(&["--repo", "repo"]).exits(5);
    let report = deployed(&ended.says(&["ok 2  failed 1", "web3: "]));
    assert_eq!(
        (&report["outcome"], &report["finalized"]),
        (&json!("partial"), &json!(true))
    );
    assert_eq!(wave(&report, "rest")["outcome"], "partial");
    repo.archived(&second)
        .assert_is(&fleet.agents[1].live("repo"));
    repo.archived(&first)
        .assert_is(&fleet.agents[2].live("repo"));
}

#[test]
fn a_soak_may_be_watched_paused_resumed_and_cut_short() {
    let fleet = fleet(SOAK);
    let (repo, first, second) = two_commits(&fleet);
    let mut deploy = fleet.start_deploy(&["--repo", "repo"]);
    let status = wait_for(&fleet, &mut deploy, "soak");
    assert_eq!(
        (&status["repo"], &status["sequence"]),
        (&json!("repo"), &json!(2))
    );
    assert_eq!(status["commit"], second.as_str());
    assert_eq!(wave(&status, "canary")["states"], json!({ "promoted": 1 }));
    let left = status["wait"]["left_seconds"].as_f64().unwrap();
    assert!((1.0..=600.0).contains(&left), "{status:#}");
    say(&fleet, &["status"])
        .exits(0)
        .prints(&["wait soak of wave canary", "next promote"]);
    let file = std::fs::metadata(fleet.scene.path("st/control")).unwrap();
    assert_eq!(
        std::os::unix::fs::PermissionsExt::mode(&file.permissions()) & 0o777,
        0o700
    );

    say(&fleet, &["pause"]).exits(0).prints(&["paused"]);
    wait_for(&fleet, &mut deploy, "paused");
    say(&fleet, &["promote"]).fails(
        1,
        "repo to production: not done",
        "paused: resume it first",
        "status",
    );
    say(&fleet, &["resume"]).exits(0);
    say(&fleet, &["resume"]).fails(1, "repo to production: not done", "is not paused", "status");
    wait_for(&fleet, &mut deploy, "soak");
    repo.archived(&first)
        .assert_is(&fleet.agents[1].live("repo"));
    say(&fleet, &["promote", "--name", "repo"]).exits(0);
    deploy.end().exits(0);
    fleet.assert_all_run(&repo, &second);
}

#[test]
fn an_abort_takes_the_canary_back_whatever_it_waits_for() {
    let fleet = fleet(SOAK);
    let (repo, first, _) = two_commits(&fleet);
    for is_paused in [false, true] {
        let mut deploy = fleet.start_deploy(&["--repo", "repo"]);
        wait_for(&fleet, &mut deploy, "soak");
        if is_paused {
            say(&fleet, &["pause"]).exits(0);
        }
        say(&fleet, &["abort"]).exits(0).prints(&["rolling back"]);
        let ended = deploy
            .end()
            .exits(4)
            .says(&["rolled back, since a person said so"]);
        let report = deployed(&ended);
        assert_eq!(host(&report, "web1")["outcome"], "rolled-back");
        for agent in &fleet.agents {
            repo.archived(&first).assert_is(&agent.live("repo"));
        }
    }
}

#[test]
fn a_host_that_cannot_be_told_to_go_back_is_named() {
    let mut fleet = fleet(SOAK);
    let (repo, first, second) = two_commits(&fleet);
    let mut deploy = fleet.start_deploy(&["--repo", "repo", "--away-timeout", "2"]);
    wait_for(&fleet, &mut deploy, "soak");
    fleet.agents.remove(0).stop().exits(0);
    say(&fleet, &["abort"]).exits(0);
    let ended = deploy.end().exits(1).says(&["and may still run it: web1"]);
    let report = deployed(&ended);
    assert_eq!(report["outcome"], "rollback-incomplete");
    let lost = host(&report, "web1");
    assert_eq!(
        (&lost["outcome"], &lost["touched"]),
        (&json!("unreachable"), &json!(true))
    );
    assert_eq!(host(&report, "web2")["touched"], false);
    repo.archived(&second)
        .assert_is(&fleet.scene.path("web1/srv/repo"));
    repo.archived(&first)
        .assert_is(&fleet.agents[0].live("repo"));
}

#[test]
fn lost_hosts_hold_a_wave_until_a_person_tries_or_skips_them() {
    let mut fleet = fleet("");
    let (repo, first, second) = two_commits(&fleet);
    fleet.agents.pop().unwrap().stop().exits(0);
    let held = ["--repo", "repo", "--connect-timeout", "2", "--hold", "600"];
    let mut deploy = fleet.start_deploy(&held);
    let status = wait_for(&fleet, &mut deploy, "budget");
    assert_eq!(status["wait"]["hosts"], json!(["web3"]));
    assert_eq!(status["lost"][0]["state"], "unreachable");
    repo.archived(&first)
        .assert_is(&fleet.agents[1].live("repo"));
    say(&fleet, &["retry", "--failed"]).exits(0);
    wait_for(&fleet, &mut deploy, "budget");
    let skip = |host: &str| say(&fleet, &["skip", host, "--reason", "its disk is broken"]);
    skip("web9").fails(
        1,
        "repo to production: not done",
        "host web9 is not in this rollout",
        "status",
    );
    skip("web1").fails(
        1,
        "repo to production: not done",
        "abort takes it back",
        "status",
    );
    skip("web3").exits(0).prints(&["without web3"]);
    let ended = deploy
        .end()
        .exits(5)
        .says(&["skipped web3: its disk is broken"]);
    let report = deployed(&ended);
    let skipped = host(&report, "web3");
    assert_eq!(
        (&skipped["outcome"], &skipped["error"]),
        (&json!("skipped"), &json!("its disk is broken"))
    );
    fleet.assert_all_run(&repo, &second);
}

#[test]
fn nobody_is_waited_for_where_nobody_looks() {
    let mut fleet = fleet("");
    let (repo, first, _) = two_commits(&fleet);
    fleet.agents.pop().unwrap().stop().exits(0);
    let ended = fleet
        .deploy(&["--repo", "repo", "--connect-timeout", "2"])
        .exits(3);
    let report = deployed(&ended.says(&["wait budget of wave rest: web3", "unreachable 1"]));
    assert_eq!(
        (&report["outcome"], &report["stopped_on"]),
        (&json!("stopped"), &json!("budget"))
    );
    assert_eq!(wave(&report, "canary")["outcome"], "done");
    repo.archived(&first)
        .assert_is(&fleet.agents[1].live("repo"));
}

#[test]
fn a_wave_that_needs_approval_waits_for_it() {
    let fleet = fleet(
        "[[rollout.wave]]\nname = 'one'\ngroup = 'canary'\n[[rollout.wave]]\nname = 'two'\napproval = true",
    );
    let (repo, commit) = fleet.scene.repo();
    let mut deploy = fleet.start_deploy(&["--repo", "repo"]);
    wait_for(&fleet, &mut deploy, "approval");
    assert!(!fleet.agents[1].live("repo").exists());
    say(&fleet, &["promote"]).exits(0);
    deploy.end().exits(0);
    fleet.assert_all_run(&repo, &commit);
    let again = fleet.deploy(&["--repo", "repo", "--hold", "0"]).exits(3);
    assert_eq!(deployed(&again)["stopped_on"], "approval");
}

#[test]
fn where_nothing_runs_that_is_said() {
    let scene = Scene::new();
    let ended = scene.scap(&["status", "--state", "st", "--json"]).exits(0);
    assert_eq!(ended.json("scap.status/1")["running"], json!([]));
    scene
        .scap(&["status", "--state", "st"])
        .exits(0)
        .prints(&["no deployment runs here"]);
    let resume = scene.scap(&["resume", "--state", "st", "--name", "site"]);
    resume.fails(
        1,
        "no deployment runs here",
        "told so",
        "--repo PATH --fleet FILE",
    );
    for command in ["pause", "promote", "abort"] {
        let ended = scene.scap(&[command, "--state", "st", "--name", "site"]);
        ended.fails(
            1,
            "no deployment runs here",
            "told so",
            "scap-coordinator deploy",
        );
    }
    // What a killed deployment left answers nobody.
    std::fs::create_dir(scene.path("st/control")).unwrap();
    drop(std::os::unix::net::UnixListener::bind(scene.path("st/control/left.sock")).unwrap());
    scene.scap(&["abort", "--state", "st"]).exits(1);
    scene
        .scap(&["retry", "--state", "st"])
        .fails_as_misuse(&["--failed"]);
    scene
        .scap(&["skip", "web1", "--state", "st"])
        .fails_as_misuse(&["--reason"]);
}

#[test]
fn a_dry_run_says_what_would_be_done_and_writes_nothing() {
    let fleet = fleet("[rollout]\nbudget = 1\nsoak = 60");
    let (repo, _) = fleet.scene.repo();
    fleet.deploy(&["--repo", "repo", "--soak", "0"]).exits(0);
    repo.write("README.md", "# Another site\n");
    let commit = repo.commit("Another");
    let before = look(&fleet.scene);
    let ended = fleet.scene.scap(&DRY_RUN).exits(0);
    ended.prints(&[
        "would deploy repo to production",
        "wave canary  1 hosts  may lose 0  soaks 60 s",
        "wave rest  2 hosts  may lose 1  soaks 60 s",
        "nothing was written, and no host was contacted",
    ]);
    let ended = fleet
        .scene
        .scap(&[&DRY_RUN[..], &["--json"]].concat())
        .exits(0);
    let plan = ended.json("scap.dry-run/1");
    assert_eq!(
        (&plan["commit"], &plan["prefetch"]),
        (&json!(commit), &json!("canary"))
    );
    assert_eq!(plan["waves"][1]["groups"], json!([["web2", "web3"]]));
    assert_eq!(before, look(&fleet.scene), "something was written");
    assert_eq!(
        fleet.release_of("web1")["sequence"],
        1,
        "a host was told something"
    );
    let real = deployed(&fleet.deploy(&["--repo", "repo", "--soak", "0"]).exits(0));
    assert_eq!(plan["snapshot"], real["snapshot"]);
}

/// The beginnings of all system calls that change what is on a disk by its name, or a file's size.
const CHANGES: [&str; 15] = [
    "creat", "rename", "unlink", "mkdir", "rmdir", "link", "symlink", "chmod", "fchmod", "chown",
    "fchown", "lchown", "utime", "mknod", "truncate",
];

#[test]
fn a_dry_run_opens_nothing_to_write_and_no_connection() {
    if Command::new("strace").arg("-V").output().is_err() {
        println!("skipped: strace is not installed");
        return;
    }
    let fleet = fleet("");
    fleet.scene.repo();
    fleet.deploy(&["--repo", "repo"]).exits(0);
    let trace = fleet.scene.path("output/trace");
    let under_test = fleet.scene.command(&DRY_RUN);
    let mut command = Command::new("strace");
    command
        .args([
            "-f",
            "-qq",
            "-e",
            "signal=none",
            "-e",
            "trace=%file,%network,ftruncate,fallocate",
            "-o",
        ])
        .arg(&trace)
        .arg(under_test.get_program())
        .args(under_test.get_args())
        .current_dir(fleet.scene.root())
        .env("HOME", fleet.scene.path("home"))
        .env("TMPDIR", fleet.scene.path("tmp"));
    fleet.scene.start_command(&mut command).end().exits(0);
    let trace = std::fs::read_to_string(trace).unwrap();
    let reads = trace.lines().filter(|line| line.contains("open"));
    assert!(reads.count() > 10, "{trace}");
    let writes = |line: &&str| {
        let call = line.split_once('(').map_or("", |(call, _)| call);
        let call = call.split_whitespace().last().unwrap_or_default();
        let opens_to_write = ["O_WRONLY", "O_RDWR", "O_CREAT", "O_TRUNC", "O_APPEND"];
        match call {
            "open" | "openat" => {
                let is_device = ["/dev/null", "/dev/tty"];
                opens_to_write.iter().any(|flag| line.contains(flag))
                    && !is_device.iter().any(|device| line.contains(device))
            }
            "socket" | "connect" | "bind" | "sendto" | "sendmsg" | "sendmmsg" => {
                line.contains("AF_INET")
            }
            call => CHANGES.iter().any(|change| call.starts_with(change)),
        }
    };
    let written: Vec<&str> = trace.lines().filter(writes).collect();
    assert!(written.is_empty(), "{written:#?}");
}

/// Every path that a dry run could write, with when it was changed.
pub fn look(scene: &Scene) -> [Vec<(std::path::PathBuf, i64, i64)>; 5] {
    ["st", "repo", "tmp", "home", "fleet.toml"].map(|folder| written(&scene.path(folder)))
}

/// Every path below a folder, with when it or its name was changed last: what is written and taken away again shows in its folder.
pub fn written(folder: &std::path::Path) -> Vec<(std::path::PathBuf, i64, i64)> {
    use std::os::unix::fs::MetadataExt as _;
    let mut found = Vec::new();
    let mut left = vec![folder.to_owned()];
    while let Some(path) = left.pop() {
        let status = std::fs::symlink_metadata(&path).unwrap();
        if status.is_dir() {
            let below = std::fs::read_dir(&path).unwrap();
            left.extend(below.map(|entry| entry.unwrap().path()));
        }
        found.push((path, status.ctime(), status.ctime_nsec()));
    }
    found.sort();
    found
}

#[test]
fn progress_for_programs_is_an_object_a_line() {
    let fleet = fleet("");
    fleet.scene.repo();
    let ended = fleet
        .deploy(&["--repo", "repo", "--progress", "json"])
        .exits(0);
    let lines: Vec<Value> = ended
        .stderr
        .lines()
        .map(|it| serde_json::from_str(it).unwrap())
        .collect();
    for (at, line) in lines.iter().enumerate() {
        assert_eq!(
            (&line["schema"], &line["seq"]),
            (&json!("scap.progress/1"), &json!(at + 1))
        );
        let time = line["ts"].as_str().unwrap();
        assert!(time.starts_with("20") && time.ends_with('Z'), "{line}");
    }
    let kinds: Vec<&str> = lines
        .iter()
        .map(|line| line["kind"].as_str().unwrap())
        .collect();
    assert_eq!(kinds[..3], ["deploy", "note", "snapshot"]);
    assert!(
        lines[1]["text"]
            .as_str()
            .unwrap()
            .starts_with("scap folder: none")
    );
    assert_eq!(kinds.last(), Some(&"end"));
    let stages = lines.iter().filter(|line| line["kind"] == "stage");
    let stages: Vec<_> = stages.map(|line| (&line["wave"], &line["stage"])).collect();
    let stage = |wave: &'static str, stage: &'static str| (json!(wave), json!(stage));
    let expected = [
        stage("canary", "fetch"),
        stage("canary", "promote"),
        stage("rest", "fetch"),
        stage("rest", "promote"),
    ];
    assert!(
        stages
            .into_iter()
            .eq(expected.iter().map(|(wave, stage)| (wave, stage)))
    );
    let end = lines.last().unwrap();
    assert_eq!(
        (&end["outcome"], &end["recap"]["ok"]),
        (&json!("done"), &json!(3))
    );
    let tree = Tree::read(&fleet.agents[0].live("repo"));
    assert_eq!(tree.file_count(), 2);
}

#[test]
fn a_fleet_file_whose_waves_cannot_be_is_refused_before_anybody_is_contacted() {
    let scene = Scene::new();
    scene.repo();
    let host = "[[host]]\nname = 'web1'\naddress = '127.0.0.1:1'\n";
    for (rollout, cause) in [
        ("[rollout]\nsoka = 1\n", "soka"),
        (
            "[[rollout.wave]]\nname = 'a'\ngroup = 'nobody'\n",
            "has no host",
        ),
    ] {
        scene.write("fleet.toml", format!("{rollout}{host}"));
        let arguments = [
            "deploy",
            "--state",
            "st",
            "--fleet",
            "fleet.toml",
            "--repo",
            "repo",
        ];
        let ended = scene.scap(&arguments);
        ended.fails(2, "read the fleet", cause, "host");
    }
    scene
        .scap(&["deploy", "--budget", "101%"])
        .fails_as_misuse(&["--budget", "100%"]);
}
