//! A release of what changed little since the last one: only that is read, and what goes live is no other.

use std::path::PathBuf;

use scap_tests::repo::{SourceRepo, write_source_tree};
use serde_json::Value;

use super::fleet::{Fleet, deployed};
use super::scene::{Scene, flip_a_byte};

/// A repo of 300 files of all kinds, and its first commit.
fn source(scene: &Scene) -> (SourceRepo, String) {
    let repo = SourceRepo::create(&scene.path("repo"));
    write_source_tree(repo.dir(), 300, 5);
    repo.write("src/one-line", "before\n");
    let commit = repo.commit("everything");
    (repo, commit)
}

/// What a state directory that knows nothing makes of the same commit.
fn snapshot_in_full(scene: &Scene, commit: &str) -> Value {
    scene.scap(&["init", "--state", "fresh"]).exits(0);
    let source = ["--repo", "repo", "--rev", commit, "--json"];
    let arguments = [&["snapshot", "--state", "fresh"], &source[..]].concat();
    let snapshot = scene.scap(&arguments).exits(0).json("scap.snapshot/1");
    std::fs::remove_dir_all(scene.path("fresh")).unwrap();
    snapshot
}

/// Deploys a commit to all, compares its snapshot with one that is built in full, and returns how many entries were
/// read for it.
#[track_caller]
fn deploy(fleet: &Fleet, repo: &SourceRepo, commit: &str) -> u64 {
    let report = deployed(&fleet.deploy(&["--repo", "repo", "--rev", commit]).exits(0));
    let full = snapshot_in_full(&fleet.scene, commit);
    assert_eq!(report["snapshot"], full["snapshot"]);
    assert_eq!(report["snapshot_encoded_bytes"], full["encoded_bytes"]);
    assert_eq!(report["snapshot_entries"], full["entries"]);
    fleet.assert_all_run(repo, commit);
    let count = |key: &str| report[key].as_u64().unwrap();
    count("snapshot_entries") - count("snapshot_entries_unchanged")
}

/// The files of the coordinator's chunks.
fn chunk_files(scene: &Scene) -> Vec<PathBuf> {
    let list = |path: PathBuf| std::fs::read_dir(path).unwrap();
    let prefixes = list(scene.path("st/store/chunks"));
    let files = prefixes.flat_map(|prefix| list(prefix.unwrap().path()));
    let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn only_what_changed_since_the_last_release_is_read() {
    let fleet = Fleet::start(&["web1"]);
    let (repo, first) = source(&fleet.scene);
    assert!(deploy(&fleet, &repo, &first) > 300);
    repo.write("src/one-line", "after\n");
    let second = repo.commit("one line");
    assert_eq!(deploy(&fleet, &repo, &second), 1);
    assert_eq!(deploy(&fleet, &repo, &second), 0);

    std::fs::remove_file(repo.dir().join("empty/nothing")).unwrap();
    std::fs::rename(repo.dir().join("names"), repo.dir().join("named")).unwrap();
    std::fs::write(repo.dir().join("empty/new"), "new\n").unwrap();
    let third = repo.commit("some names");
    // Five that were renamed, and a new one.
    assert_eq!(deploy(&fleet, &repo, &third), 6);
    // Back: what was renamed and removed is there again, and the line is as it was.
    assert_eq!(deploy(&fleet, &repo, &first), 5 + 1 + 1);
}

#[test]
fn chunks_that_the_coordinator_lost_do_not_change_what_is_deployed() {
    let fleet = Fleet::start(&["web1"]);
    let (repo, first) = source(&fleet.scene);
    deploy(&fleet, &repo, &first);

    let files = chunk_files(&fleet.scene);
    assert!(files.len() > 8, "{files:?}");
    for file in files.iter().step_by(2) {
        std::fs::remove_file(file).unwrap();
    }
    repo.write("src/one-line", "second\n");
    let second = repo.commit("after some were removed");
    assert!(deploy(&fleet, &repo, &second) > 300);

    for file in chunk_files(&fleet.scene) {
        flip_a_byte(&file, 30);
    }
    repo.write("src/one-line", "third\n");
    let third = repo.commit("after all were damaged");
    deploy(&fleet, &repo, &third);

    std::fs::remove_dir_all(fleet.scene.path("st/store")).unwrap();
    repo.write("src/one-line", "fourth\n");
    let fourth = repo.commit("after the store was removed");
    assert!(deploy(&fleet, &repo, &fourth) > 300);
    repo.write("src/one-line", "fifth\n");
    let fifth = repo.commit("after it was made again");
    assert_eq!(deploy(&fleet, &repo, &fifth), 1);
}

#[test]
fn a_last_release_of_another_repo_or_of_a_directory_is_of_no_use() {
    let fleet = Fleet::start(&["web1"]);
    let (repo, commit) = source(&fleet.scene);
    deploy(&fleet, &repo, &commit);
    let other = SourceRepo::create(&fleet.scene.path("other/repo"));
    other.write("src/one-line", "before\n");
    other.commit("another repo of that name");
    let arguments = ["deploy", "--state", "st", "--fleet", "fleet.toml", "--yes"];
    let arguments = [&arguments[..], &["--json", "--repo", "other/repo"]].concat();
    let mut command = fleet.scene.command(&arguments);
    command.env("RUST_LOG", "scap_coordinator=debug");
    let ended = fleet.scene.start_command(&mut command).end().exits(0);
    let ended = ended.says(&["an earlier snapshot is of no use", &commit, "is missing"]);
    assert_eq!(deployed(&ended)["snapshot_entries_unchanged"], 0);

    let directory = ["--dir", "other/repo", "--name", "repo"];
    std::fs::remove_dir_all(fleet.scene.path("other/repo/.git")).unwrap();
    deployed(&fleet.deploy(&directory).exits(0));
    assert!(deploy(&fleet, &repo, &commit) > 300);
}
