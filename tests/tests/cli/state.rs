//! The coordinator's state directory, and the identities made from it.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use rustix::process::Signal;
use scap_tests::tree::Tree;

use super::fleet::{Fleet, deployed};
use super::places::me;
use super::process::send_signal;
use super::scene::{Scene, flip_a_byte};

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn init_says_what_it_made_and_what_to_do_next() {
    let scene = Scene::empty();
    let ended = scene
        .scap(&["init", "--state", "st", "--fleet", "prod"])
        .exits(0);
    let ended = ended.prints(&["fleet `prod`", "st/ca", "st/deployer_key", "SHA256:"]);
    ended.prints(&["st/allowed_signers", "next: ", "enroll NAME --state st"]);
    for secret in ["st/deployer_key", "st/ca/ca.key", "st/coordinator/node.key"] {
        let mode = scene.path(secret).metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{secret} can be read by others");
    }
}

#[test]
fn a_second_init_replaces_nothing() {
    let scene = Scene::new();
    let before = Tree::read(&scene.path("st"));
    let ended = scene.scap(&["init", "--state", "st"]);
    ended.fails(
        1,
        "init",
        "st is a state directory already",
        "another --state",
    );
    assert_eq!(before, Tree::read(&scene.path("st")));
}

#[test]
fn a_state_directory_that_is_not_there_is_made_with_init() {
    let scene = Scene::empty();
    scene.repo();
    scene.write(
        "fleet.toml",
        "[[host]]\nname = 'a'\naddress = '127.0.0.1:9'",
    );
    let cause = "missing is not a state directory";
    for arguments in [
        ["enroll", "web1", "--out", "web1"].as_slice(),
        &["snapshot", "--repo", "repo"],
        &["deploy", "--repo", "repo", "--fleet", "fleet.toml"],
    ] {
        let arguments = [arguments, &["--state", "missing"]].concat();
        scene
            .scap(&arguments)
            .fails(1, "", cause, "scap-coordinator init --state missing");
    }
    assert!(!scene.path("missing").exists() && !scene.path("web1").exists());
}

#[test]
fn an_identity_is_never_replaced() {
    let scene = Scene::new();
    let enroll = ["enroll", "web1", "--state", "st", "--out", "web1"];
    scene
        .scap(&enroll)
        .exits(0)
        .prints(&["web1", "next: ", "scap-agent run"]);
    let before = Tree::read(&scene.path("web1"));
    let ended = scene.scap(&enroll);
    ended.fails(
        1,
        "enroll",
        "web1/node.crt exists already",
        "another directory",
    );
    assert_eq!(before, Tree::read(&scene.path("web1")));
}

#[test]
fn a_host_name_is_letters_digits_and_little_else() {
    let scene = Scene::new();
    let long = "a".repeat(1000);
    for name in [
        "../web1",
        "web/1",
        "",
        "web 1",
        ".web1",
        "wéb",
        "a\x1b[31m",
        "a\nb",
        &long,
    ] {
        let ended = scene.scap(&["enroll", "--state", "st", "--out", "made", "--", name]);
        ended.fails_as_misuse(&["'[NAME]'", "host name"]);
    }
    let ended = scene.scap(&["enroll", "--state", "st", "--out", "made", "--", "-web1"]);
    ended.fails_as_misuse(&["'[NAME]'"]);
    assert!(!scene.path("made").exists());
}

#[test]
fn a_deployer_key_that_others_can_read_is_not_used() {
    let fleet = Fleet::start(&["web1"]);
    let (repo, first) = fleet.scene.repo();
    fleet.deploy_repo();
    let records = Tree::read(&fleet.scene.path("st/records"));
    repo.write("new", "second");
    let second = repo.commit("Second");

    let key = fleet.scene.path("st/deployer_key");
    set_mode(&key, 0o640);
    let ended = fleet.deploy(&["--repo", "repo"]);
    let cause = "st/deployer_key has mode 640";
    ended.fails(1, "sign the release", cause, "chmod 600 st/deployer_key");
    assert_eq!(records, Tree::read(&fleet.scene.path("st/records")));
    fleet.assert_all_run(&repo, &first);

    set_mode(&key, 0o600);
    fleet.deploy_repo();
    fleet.assert_all_run(&repo, &second);
}

#[test]
fn a_lost_deployer_key_is_named() {
    let scene = Scene::new();
    scene.repo();
    scene.write(
        "fleet.toml",
        "[[host]]\nname = 'a'\naddress = '127.0.0.1:9'",
    );
    std::fs::remove_file(scene.path("st/deployer_key")).unwrap();
    let arguments = [
        "deploy",
        "--state",
        "st",
        "--repo",
        "repo",
        "--fleet",
        "fleet.toml",
        "--yes",
    ];
    let ended = scene.scap(&[&arguments[..], &["--connect-timeout", "1"]].concat());
    ended
        .exits(1)
        .says(&["error: sign the release", "st/deployer_key", "No such file"]);
    assert!(!scene.path("st/records").exists(), "something was signed");
}

#[test]
fn a_damaged_record_is_refused_by_name_and_the_fleet_keeps_what_it_runs() {
    let fleet = Fleet::start(&["web1"]);
    let (repo, first) = fleet.scene.repo();
    fleet.deploy_repo();
    repo.write("new", "second");
    let second = repo.commit("Second");

    let record = fleet.scene.path("st/records/repo@production.record");
    let whole = std::fs::read(&record).unwrap();
    // The start of the magic, the sequence right behind it, the release, the grant, the end.
    for at in [0, 26, 60, whole.len() / 2, whole.len() - 1] {
        flip_a_byte(&record, at);
        let ended = fleet.deploy(&["--repo", "repo"]);
        let cause = "st/records/repo@production.record is damaged";
        ended.fails(1, "sign the release", cause, "move it away");
        std::fs::write(&record, &whole).unwrap();
    }
    std::fs::write(&record, &whole[..whole.len() / 2]).unwrap();
    let ended = fleet.deploy(&["--repo", "repo"]);
    ended.fails(1, "sign the release", "is damaged", "move it away");
    fleet.assert_all_run(&repo, &first);

    // What the hint says.
    std::fs::rename(&record, fleet.scene.path("away")).unwrap();
    assert_eq!(fleet.deploy_repo()["sequence"], 2);
    fleet.assert_all_run(&repo, &second);
}

#[test]
fn a_deployment_holds_the_lock_and_is_named_to_the_next() {
    let fleet = Fleet::start(&["web1"]);
    let (repo, commit) = fleet.scene.repo();
    let activator = fleet.agents[0].activator().pid;
    send_signal(activator, Signal::STOP);
    let mut first = fleet.start_deploy(&["--repo", "repo"]);
    first.wait_until_it_says("wave rest: fetch");

    let arguments = ["deploy", "--fleet", "fleet.toml", "--yes", "--json"];
    let arguments = [&arguments[..], &["--state", "st", "--repo", "repo"]].concat();
    let ended = fleet.scene.scap(&arguments);
    let holder = format!("repo in production is locked by {} (r-", me());
    ended
        .fails(75, "take the lock", &holder, "try again")
        .says(&["A site\\\", for "]);
    // What deploys nothing has nothing to wait for.
    let snapshot = ["snapshot", "--state", "st", "--repo", "repo"];
    fleet.scene.scap(&snapshot).exits(0);
    assert!(!first.is_over());
    send_signal(activator, Signal::CONT);
    deployed(&first.end().exits(0));
    fleet.assert_all_run(&repo, &commit);
}

#[test]
fn a_program_that_wants_the_state_directory_to_itself_has_it_alone() {
    let fleet = Fleet::start(&["web1"]);
    let (repo, commit) = fleet.scene.repo();
    // As builds lock it that know no locks of places.
    let lock = std::fs::File::create(fleet.scene.path("st/lock")).unwrap();
    lock.try_lock().unwrap();
    std::fs::write(fleet.scene.path("st/lock"), "4711\n").unwrap();
    for command in [
        &["deploy", "--fleet", "fleet.toml", "--yes"][..],
        &["snapshot"],
    ] {
        let arguments = [command, &["--state", "st", "--repo", "repo"]].concat();
        let cause = "an older version holds the lock st/lock (process 4711)";
        let refused = fleet.scene.scap(&arguments);
        refused.fails(75, "take the lock", cause, "one deployment at a time");
    }
    lock.unlock().unwrap();
    let activator = fleet.agents[0].activator().pid;
    send_signal(activator, Signal::STOP);
    let mut first = fleet.start_deploy(&["--repo", "repo"]);
    first.wait_until_it_says("wave rest: fetch");
    assert!(lock.try_lock().is_err(), "the older one would begin");
    send_signal(activator, Signal::CONT);
    first.end().exits(0);
    lock.try_lock().unwrap();
    fleet.assert_all_run(&repo, &commit);
}

#[test]
fn a_lock_of_a_process_that_died_is_free() {
    let fleet = Fleet::start(&["web1"]);
    let (repo, commit) = fleet.scene.repo();
    let activator = fleet.agents[0].activator().pid;
    send_signal(activator, Signal::STOP);
    let mut first = fleet.start_deploy(&["--repo", "repo"]);
    first.wait_until_it_says("wave rest: fetch");
    first.signal(Signal::KILL);
    first.end();
    send_signal(activator, Signal::CONT);
    fleet.deploy_repo();
    fleet.assert_all_run(&repo, &commit);
}
