//! What is to be deployed is not there, or is not what it should be.

use scap_tests::repo::SourceRepo;
use scap_tests::tree::Tree;

use super::fleet::Fleet;
use super::scene::Scene;

/// Runs `snapshot` with these arguments, and `deploy` where nothing may come of it: both say the same.
#[track_caller]
fn both_fail(scene: &Scene, source: &[&str], code: i32, doing: &str, cause: &str, hint: &str) {
    scene.write(
        "fleet.toml",
        "[[host]]\nname = 'a'\naddress = '127.0.0.1:9'",
    );
    let before = Tree::read(&scene.path("st"));
    // Whoever waited for the host first would wait for longer than any command may take here.
    let deploy = ["deploy", "--state", "st", "--fleet", "fleet.toml", "--yes"];
    let deploy = [&deploy[..], &["--connect-timeout", "3600"]].concat();
    for command in [["snapshot", "--state", "st"].as_slice(), &deploy] {
        let arguments = [command, source].concat();
        scene.scap(&arguments).fails(code, doing, cause, hint);
    }
    let changed = before.differences(&Tree::read(&scene.path("st")));
    // Chunks, and that somebody tried.
    let may_change = ["\"store", "\"lock\"", "\"locks", "\"tips", "\"state.git"];
    let changed: Vec<_> = changed
        .iter()
        .filter(|line| !may_change.iter().any(|it| line.contains(it)))
        .collect();
    assert!(changed.is_empty(), "{changed:#?}");
}

#[test]
fn a_repo_that_is_not_there_is_named() {
    let source = ["--repo", "missing"];
    let cause = "missing: No such file or directory";
    both_fail(
        &Scene::new(),
        &source,
        1,
        "open the repo",
        cause,
        "repository",
    );
}

#[test]
fn a_directory_that_is_no_repo_may_be_deployed_with_dir() {
    let source = ["--repo", "home"];
    let cause = "home is not a git repository";
    both_fail(&Scene::new(), &source, 1, "open the repo", cause, "--dir");
}

#[test]
fn an_unknown_revision_is_named() {
    let scene = Scene::new();
    scene.repo();
    for revision in ["nope", "HEAD~7", "0123456789012345678901234567890123456789"] {
        let source = ["--repo", "repo", "--rev", revision];
        let cause = format!("no revision `{revision}`");
        both_fail(&scene, &source, 1, "find the revision", &cause, "git fetch");
    }
}

#[test]
fn a_revision_that_looks_like_an_option_is_a_revision_like_any_other() {
    let scene = Scene::new();
    scene.repo();
    for revision in ["--all", "-1", "--output=made", "--upload-pack=touch made"] {
        let source = ["--repo", "repo", &format!("--rev={revision}")];
        let cause = format!("no revision `{revision}`");
        both_fail(&scene, &source, 1, "find the revision", &cause, "a branch");
    }
    assert!(!scene.path("made").exists() && !scene.path("repo/made").exists());
    let arguments = ["snapshot", "--state", "st", "--repo", "repo", "--rev", "-x"];
    scene.scap(&arguments).fails_as_misuse(&["'-x'"]);
}

#[test]
fn a_tree_is_no_revision() {
    let scene = Scene::new();
    scene.repo();
    let source = ["--repo", "repo", "--rev", "HEAD^{tree}"];
    both_fail(
        &scene,
        &source,
        1,
        "find the revision",
        "not a commit",
        "a branch",
    );
}

#[test]
fn a_repo_without_a_commit_has_no_head() {
    let scene = Scene::new();
    let _repo = SourceRepo::create(&scene.path("repo"));
    let cause = "no revision `HEAD`";
    both_fail(
        &scene,
        &["--repo", "repo"],
        1,
        "find the revision",
        cause,
        "a branch",
    );
}

#[test]
fn one_of_repo_and_dir_is_given() {
    let scene = Scene::new();
    scene.repo();
    for command in [
        ["snapshot", "--state", "st"].as_slice(),
        &["deploy", "--state", "st", "--fleet", "fleet.toml"],
    ] {
        scene
            .scap(command)
            .fails_as_misuse(&["--repo <PATH>", "--dir <PATH>"]);
        let both = [command, &["--repo", "repo", "--dir", "repo"]].concat();
        scene
            .scap(&both)
            .fails_as_misuse(&["--repo <PATH>", "--dir <PATH>"]);
        let revision = [command, &["--dir", "repo", "--rev", "HEAD"]].concat();
        scene
            .scap(&revision)
            .fails_as_misuse(&["--dir <PATH>", "--rev <REV>"]);
    }
}

#[test]
fn a_directory_that_is_not_there_is_named() {
    let scene = Scene::new();
    scene.write("file", "no directory");
    for source in ["missing", "file"] {
        let cause = format!("{source}: no such directory");
        both_fail(
            &scene,
            &["--dir", source],
            2,
            "open --dir",
            &cause,
            "directory",
        );
    }
}

#[test]
fn a_directory_that_holds_a_repo_or_a_pipe_is_not_deployed_as_it_is() {
    let scene = Scene::new();
    scene.repo();
    let doing = "build the snapshot";
    both_fail(&scene, &["--dir", "repo"], 1, doing, "`.git`", "--repo");

    std::fs::create_dir(scene.path("build")).unwrap();
    let made = std::process::Command::new("mkfifo")
        .arg(scene.path("build/pipe"))
        .status();
    assert!(made.unwrap().success());
    both_fail(
        &scene,
        &["--dir", "build"],
        1,
        doing,
        "`pipe` is a",
        "remove it",
    );
}

#[test]
fn a_name_that_leads_out_of_the_deploy_root_is_refused() {
    let scene = Scene::new();
    scene.repo();
    let common = ["deploy", "--state", "st", "--fleet", "f", "--repo", "repo"];
    for name in [
        "../etc", "/etc", "a/../b", "a//b", ".git", "a b", "", "x-cache",
    ] {
        let given = format!("--name={name}");
        let ended = scene.scap(&[&common[..], &[&given]].concat());
        ended.fails_as_misuse(&["'--name <REPO>'"]);
    }
    for environment in ["../x", "a/b", "", "-"] {
        let given = format!("--environment={environment}");
        let ended = scene.scap(&[&common[..], &[&given]].concat());
        ended.fails_as_misuse(&["'--environment <ENV>'"]);
    }
}

#[test]
fn what_is_live_stays_live_whatever_is_wrong_with_the_next() {
    let fleet = Fleet::start(&["web1"]);
    let (repo, first) = fleet.scene.repo();
    fleet.deploy_repo();
    let records = Tree::read(&fleet.scene.path("st/records"));
    fleet.scene.write("bad.toml", "[[host]]\nname = 'web1'\n");
    for (code, arguments) in [
        (1, ["--repo", "missing"].as_slice()),
        (1, &["--repo", "repo", "--rev", "nope"]),
        (2, &["--dir", "missing", "--name", "repo"]),
        (2, &["--repo", "repo", "--name", "../repo"]),
        (2, &["--repo", "repo", "--topology", "ring"]),
    ] {
        fleet.deploy(arguments).exits(code).says(&["error: "]);
    }
    let common = ["deploy", "--repo", "repo", "--yes"];
    for (code, arguments) in [
        (2, ["--state", "st", "--fleet", "bad.toml"]),
        (2, ["--state", "st", "--fleet", "missing.toml"]),
        (1, ["--state", "missing", "--fleet", "fleet.toml"]),
    ] {
        let arguments = [&common[..], &arguments].concat();
        fleet
            .scene
            .scap(&arguments)
            .exits(code)
            .says(&["error: ", "hint: "]);
    }
    assert_eq!(records, Tree::read(&fleet.scene.path("st/records")));
    fleet.assert_all_run(&repo, &first);
    assert_eq!(fleet.release_of("web1")["sequence"], 1);
}
