//! Directories that others can change, and keys that others can read: refused at the start, with the remedy.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use super::fleet::{Fleet, enroll, run_arguments};
use super::process::Ended;
use super::scene::Scene;

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

fn mode_of(path: &Path) -> u32 {
    std::fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

fn run(scene: &Scene) -> Ended {
    scene.scap(&run_arguments("web1", "127.0.0.1:0").each())
}

/// Commands that read or write the state.
const WITH_STATE: [&[&str]; 3] = [
    &["snapshot", "--state", "st", "--dir", "site"],
    &["token", "list", "--state", "st"],
    &["enroll", "web9", "--state", "st", "--out", "web9"],
];

#[test]
fn c8_directories_that_others_can_write_to_are_refused_with_the_path_and_the_remedy() {
    let scene = Scene::new();
    enroll(&scene, "web1", &[]);
    scene.write("site/file", "x");
    std::fs::create_dir(scene.path("web1/data")).unwrap();
    for directory in ["web1/data", "web1/identity"] {
        let path = scene.path(directory);
        set_mode(&path, 0o777);
        let remedy = format!("chmod go-w {directory}");
        run(&scene)
            .exits(1)
            .says(&[directory, "0777", &remedy, "[unsafe-path]"]);
        set_mode(&path, 0o700);
    }
    // What is in the way of it.
    set_mode(&scene.path("web1"), 0o777);
    run(&scene)
        .exits(1)
        .says(&["web1", "0777", "[unsafe-path]"]);
    set_mode(&scene.path("web1"), 0o755);
    assert_eq!(
        std::fs::read_dir(scene.path("web1/data")).unwrap().count(),
        0
    );

    let st = scene.path("st");
    let before = mode_of(&st);
    for mode in [0o777, 0o770, 0o1777] {
        set_mode(&st, mode);
        for command in WITH_STATE {
            let ended = scene.scap(command);
            assert!(!ended.is_code(0), "{ended:#?}");
            ended.says(&[
                "st can be written by others",
                "chmod go-w st",
                "[unsafe-path]",
            ]);
        }
    }
    assert!(!scene.path("web9").exists());
    set_mode(&st, before);
    scene.scap(WITH_STATE[0]).exits(0);
}

#[test]
fn c8_root_uses_nothing_that_another_user_could_change() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root can be led astray like this");
        return;
    }
    const SOMEBODY: u32 = 65534;
    let scene = Scene::new();
    enroll(&scene, "web1", &[]);
    scene.write("site/file", "x");
    let give = |path: &str, to: u32| chown(scene.path(path), Some(to), Some(to)).unwrap();
    for directory in ["web1/data", "web1/identity"] {
        std::fs::create_dir_all(scene.path(directory)).unwrap();
        give(directory, SOMEBODY);
        let belongs = format!("{directory} belongs to user {SOMEBODY}");
        let chown = format!("chown -R 0 {directory}");
        run(&scene)
            .exits(1)
            .says(&[&belongs, &chown, "[unsafe-path]"]);
        give(directory, 0);
    }
    give("st", SOMEBODY);
    for command in WITH_STATE {
        let ended = scene.scap(command);
        assert!(!ended.is_code(0), "{ended:#?}");
        ended.says(&[
            "st belongs to user 65534",
            "run this as user 65534",
            "[unsafe-path]",
        ]);
    }
    give("st", 0);

    // Root that enrols a host in a directory of somebody, or in one that somebody could exchange, writes nothing there.
    let token = scene
        .scap(&["token", "create", "web2", "--state", "st"])
        .exits(0);
    scene.write("web2.token", token.stdout);
    set_mode(&scene.path("web2.token"), 0o600);
    std::fs::create_dir_all(scene.path("home/identity")).unwrap();
    std::fs::create_dir_all(scene.path("victim")).unwrap();
    let refused = |identity: &str| {
        let arguments = [
            "agent",
            "enroll",
            "--token-file",
            "web2.token",
            "--identity",
            identity,
        ];
        let more = ["--listen", "127.0.0.1:0", "--timeout", "20"];
        scene
            .scap(&[&arguments[..], &more].concat())
            .exits(1)
            .says(&["[unsafe-path]"])
    };
    give("home/identity", SOMEBODY);
    refused("home/identity").says(&["belongs to user 65534"]);
    give("home/identity", 0);
    give("home", SOMEBODY);
    for identity in ["home/identity", "home/new", "home/new/er"] {
        refused(identity).says(&["home (user 65534"]);
    }
    std::os::unix::fs::symlink("../victim", scene.path("home/link")).unwrap();
    refused("home/link");
    let ended = scene.scap(&["agent", "identity", "request", "--identity", "home/link"]);
    ended.exits(1).says(&["[unsafe-path]"]);
    for empty in ["home/identity", "victim"] {
        assert_eq!(std::fs::read_dir(scene.path(empty)).unwrap().count(), 0);
    }
    assert!(!scene.path("home/new").exists());
}

#[test]
fn c13_keys_that_others_can_read_are_refused_and_what_is_made_is_its_owners() {
    let fleet = Fleet::start(&["web1"]);
    let scene = &fleet.scene;
    scene.repo();
    fleet.deploy_repo();
    // All of it, under whatever umask.
    let mut folders = vec![
        scene.path("st"),
        scene.path("web1/identity"),
        scene.path("web1/data"),
    ];
    let mut secrets = Vec::new();
    while let Some(folder) = folders.pop() {
        assert_eq!(mode_of(&folder) & 0o022, 0, "{}", folder.display());
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            // What is written for a moment may be gone.
            let Ok(metadata) = std::fs::symlink_metadata(&path) else {
                continue;
            };
            assert_eq!(metadata.uid(), rustix::process::geteuid().as_raw());
            let name = path.file_name().unwrap().to_str().unwrap();
            if metadata.is_dir() {
                folders.push(path);
            } else if name.ends_with(".key") || name.ends_with("_key") || name.ends_with(".sock") {
                assert_eq!(mode_of(&path), 0o600, "{}", path.display());
                secrets.push(name.to_owned());
            } else if metadata.is_file() {
                assert_eq!(metadata.mode() & 0o022, 0, "{}", path.display());
            }
        }
    }
    for name in [
        "ca.key",
        "node.key",
        "deployer_key",
        "agent.sock",
        "activator.sock",
    ] {
        assert!(
            secrets.iter().any(|found| found == name),
            "no {name} in {secrets:?}"
        );
    }
    for folder in ["st", "web1/identity", "web1/data"] {
        assert_eq!(mode_of(&scene.path(folder)), 0o700, "{folder}");
    }

    for agent in fleet.agents {
        agent.stop().exits(0);
    }
    let scene = fleet.scene;
    for (key, mode) in [("node.key", 0o640), ("node.key", 0o604)] {
        let path = scene.path("web1/identity").join(key);
        set_mode(&path, mode);
        run(&scene)
            .exits(1)
            .says(&[key, &format!("mode {mode:03o}"), "chmod 600"]);
        set_mode(&path, 0o600);
    }
    set_mode(&scene.path("st/deployer_key"), 0o640);
    let arguments = [
        "deploy",
        "--state",
        "st",
        "--fleet",
        "fleet.toml",
        "--repo",
        "repo",
        "--yes",
    ];
    let ended = scene.scap(&arguments);
    assert!(!ended.is_code(0), "{ended:#?}");
    ended.says(&["deployer_key", "mode 640", "chmod 600"]);
}
