//! Repos whose names, links and settings somebody chose on purpose, deployed for real.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::process::Command;

use scap_tests::repo::{SourceRepo, make_executable, make_link};

use super::fleet::{Agent, Fleet, deployed, enroll, run_arguments};
use super::scene::Scene;

/// Legal everywhere on Linux, and odd.
fn odd_names() -> Vec<Vec<u8>> {
    let mut names: Vec<Vec<u8>> = [
        "a b",
        " ",
        "-rf",
        "--help",
        "...",
        "..a",
        ".gitx",
        "git~2",
        "GITMOD",
        "a:b",
        "nul.txt",
        "back\\slash",
        "q'u\"o`te",
        "$(touch witness)",
        "; touch witness;",
        "*?[a]",
        "~",
        "%s%n",
        "trailing\r",
        "trailing ",
        "trailing.",
        "new\nline",
        "tab\t",
        "\u{1b}[31mred\u{1b}[0m",
        "\u{7f}",
        "README",
        "readme",
        "e\u{301}",
        "\u{e9}",
        "\u{202e}txt.exe",
        "\u{feff}bom",
    ]
    .map(|name| name.as_bytes().to_vec())
    .to_vec();
    names.extend([b"\xff\xfe".to_vec(), b"caf\xe9".to_vec(), vec![b'n'; 255]]);
    names.push([0xff; 255].to_vec());
    names
}

/// Starts the agent of an enrolled host under a umask.
fn start_under(scene: &Scene, name: &str, umask: &str) -> Agent {
    enroll(scene, name, &[]);
    let plain = scene.command(&run_arguments(name, "127.0.0.1:0").each());
    let mut command = Command::new("sh");
    command
        .args(["-c", "umask $1; shift; exec \"$@\"", "sh", umask])
        .arg(plain.get_program())
        .args(plain.get_args())
        .current_dir(scene.root())
        .env_clear();
    for (name, value) in plain.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    Agent::when_ready(scene, name, scene.start_command(&mut command))
}

#[test]
fn c1_legal_odd_names_and_links_arrive_byte_for_byte_under_any_umask_and_are_shown_inert() {
    let scene = Scene::new();
    let agents = vec![
        start_under(&scene, "web1", "077"),
        start_under(&scene, "web2", "000"),
    ];
    let fleet = Fleet { agents, scene };
    fleet.write_fleet_file();
    let repo = SourceRepo::create(&fleet.scene.path("repo"));
    for name in odd_names() {
        let name = OsStr::from_bytes(&name);
        let content = [name.as_bytes(), b"\n"].concat();
        repo.write(name, &content);
        repo.write(
            std::path::Path::new("below").join(name).join("file"),
            content,
        );
    }
    let outside = fleet.scene.path("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("file"), "theirs").unwrap();
    for (link, target) in [
        ("links/absolute", outside.to_str().unwrap()),
        ("links/up", "../../../../../../../../../../../etc"),
        ("links/itself", "itself"),
        ("links/\u{1b}[2J", "\u{1b}[2J"),
    ] {
        make_link(&repo.dir().join(link), target);
    }
    repo.write("run", "#!/bin/sh\n");
    make_executable(&repo.dir().join("run"));
    let commit = repo.commit("Odd");
    let before = std::fs::metadata(outside.join("file")).unwrap();

    let ended = fleet.deploy(&["--repo", "repo"]).exits(0);
    assert!(!ended.stderr.contains('\u{1b}'), "{ended:#?}");
    assert_eq!(deployed(&ended)["commit"], commit.as_str());
    fleet.assert_all_run(&repo, &commit);
    let assert_modes = |executable: &str, file: &str| {
        for agent in &fleet.agents {
            let live = agent.live("repo");
            for (path, expected) in [
                (executable, 0o100_755),
                (file, 0o100_644),
                ("below", 0o40_755),
            ] {
                let found = std::fs::symlink_metadata(live.join(path)).unwrap();
                assert_eq!(found.mode(), expected, "{path}: {:o}", found.mode());
                assert_eq!(found.uid(), rustix::process::geteuid().as_raw());
            }
        }
    };
    assert_modes("run", "README");

    // What is damaged is told without doing to the terminal what its name says; bits go both ways over what is there.
    let live = std::fs::canonicalize(fleet.agents[0].live("repo")).unwrap();
    std::fs::remove_file(live.join("\u{1b}[31mred\u{1b}[0m")).unwrap();
    let arguments = ["agent", "verify", "repo", "--data", "web1/data"];
    let told = fleet.scene.scap(&arguments).exits(1);
    assert!(
        told.stdout.contains("[31mred") || told.stderr.contains("[31mred"),
        "{told:#?}"
    );
    assert!(
        !told.stdout.contains('\u{1b}') && !told.stderr.contains('\u{1b}'),
        "{told:#?}"
    );
    std::fs::remove_file(repo.dir().join("run")).unwrap();
    repo.write("run", "#!/bin/sh\n");
    make_executable(&repo.dir().join("README"));
    std::fs::remove_dir_all(repo.dir().join("links")).unwrap();
    let commit = repo.commit("Other bits, no links");
    fleet.deploy(&["--repo", "repo"]).exits(0);
    fleet.assert_all_run(&repo, &commit);
    assert_modes("README", "run");
    let after = std::fs::metadata(outside.join("file")).unwrap();
    assert_eq!(
        (
            before.ino(),
            before.mode(),
            before.nlink(),
            before.ctime_nsec()
        ),
        (after.ino(), after.mode(), after.nlink(), after.ctime_nsec())
    );
    assert!(!fleet.scene.path("witness").exists());
}

/// Every hook that git has a place for.
const HOOKS: [&str; 12] = [
    "applypatch-msg",
    "pre-commit",
    "prepare-commit-msg",
    "commit-msg",
    "post-commit",
    "post-checkout",
    "post-index-change",
    "post-merge",
    "post-rewrite",
    "reference-transaction",
    "pre-auto-gc",
    "fsmonitor-watchman",
];

#[test]
fn c6_nothing_that_comes_with_a_repo_is_run_by_deploying_it() {
    let fleet = Fleet::start(&["web1"]);
    let repo = SourceRepo::create(&fleet.scene.path("repo"));
    let witness = fleet.scene.path("witness");
    let script = format!(
        "#!/bin/sh\necho \"$0 $*\" >> '{}'\ncat\n",
        witness.display()
    );
    for name in HOOKS {
        let hook = format!("hooks/{name}");
        repo.write(&hook, &script);
        make_executable(&repo.dir().join(hook));
    }
    repo.write("evil", &script);
    make_executable(&repo.dir().join("evil"));
    let evil = repo.dir().join("evil");
    let evil = evil.to_str().unwrap();
    repo.write(
        ".gitattributes",
        "* filter=evil diff=evil merge=evil ident export-subst\n",
    );
    repo.write(
        ".gitmodules",
        format!("[submodule \"x\"]\n\tpath = x\n\turl = ext::{evil}\n\tupdate = !{evil}\n\tfetchRecurseSubmodules = true\n"),
    );
    repo.write(
        "included",
        format!("[core]\n\tfsmonitor = {evil}\n\tpager = {evil}\n"),
    );
    repo.write("text", "$Id$ $Format:%H$\n");
    // git itself is told of none of it yet.
    let text = std::fs::read(repo.dir().join("text")).unwrap();
    let commit = repo.commit("Evil");

    for name in HOOKS {
        repo.write(format!(".git/hooks/{name}"), &script);
        make_executable(&repo.dir().join(format!(".git/hooks/{name}")));
    }
    let top = repo.dir().to_str().unwrap();
    let config = format!(
        r#"[core]
    repositoryformatversion = 0
    bare = false
    fsmonitor = {evil}
    hooksPath = {top}/hooks
    pager = {evil}
    editor = {evil}
    askPass = {evil}
    sshCommand = {evil}
    gitProxy = {evil}
    alternateRefsCommand = {evil}
    attributesFile = {top}/.gitattributes
[include]
    path = {top}/included
[filter "evil"]
    clean = {evil}
    smudge = {evil}
    process = {evil}
    required = true
[diff]
    external = {evil}
[diff "evil"]
    textconv = {evil}
    command = {evil}
[merge "evil"]
    driver = {evil}
[gpg]
    program = {evil}
[gpg "ssh"]
    program = {evil}
[commit]
    gpgSign = true
[log]
    showSignature = true
[alias]
    ls-tree = !{evil}
    cat-file = !{evil}
[pager]
    log = {evil}
    ls-tree = {evil}
[submodule "x"]
    url = ext::{evil}
    update = !{evil}
[uploadpack]
    packObjectsHook = {evil}
[gc]
    recentObjectsHook = {evil}
[credential]
    helper = !{evil}
"#
    );
    repo.write(".git/config", config);

    let report = deployed(&fleet.deploy(&["--repo", "repo"]).exits(0));
    assert_eq!(report["commit"], commit.as_str());
    let live = fleet.agents[0].live("repo");
    assert_eq!(std::fs::read(live.join("text")).unwrap(), text);
    assert!(live.join(".gitmodules").is_file() && !live.join(".git").exists());
    fleet.assert_verifies("web1", "repo");
    for arguments in [
        &["status", "--state", "st", "--repo", "repo"][..],
        &["history", "--state", "st", "--repo", "repo"],
        &["snapshot", "--state", "st", "--repo", "repo"],
        &["snapshot", "--state", "st", "--dir", "repo/hooks"],
    ] {
        fleet.scene.scap(arguments).exits(0);
    }
    let said = std::fs::read_to_string(&witness).unwrap_or_default();
    assert!(!witness.exists(), "something was run:\n{said}");
    // It would have told: git itself runs what it is told to.
    let git = Command::new("git")
        .arg("-C")
        .arg(repo.dir())
        .args(["status", "--short"])
        .output()
        .unwrap();
    assert!(witness.exists(), "{git:?}");
}
