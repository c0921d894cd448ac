//! A release's tree is written while its chunks still come.

use scap_tests::fleet::Fleet;
use scap_tests::repo::write_incompressible;
use scap_tests::under_test;

use super::scene::Scene;

/// Files, each of a chunk or a few: 8 MiB, which take 2.8 s at the cap.
const FILES: u64 = 64;
const FILE_BYTES: usize = 128 * 1024;
const CAP_MBIT: &str = "24";

/// The number after `name=` in a line of the log.
fn number(line: &str, name: &str) -> u64 {
    let (_, rest) = line.split_once(&format!(" {name}=")).unwrap();
    let digits = rest.split(|c: char| !c.is_ascii_digit()).next();
    digits.unwrap().parse().unwrap()
}

#[test]
fn most_of_a_tree_is_written_before_its_last_chunk_comes_and_a_small_change_is_not_written_ahead() {
    let Some(scene) = Scene::start(Fleet::builder(under_test!()).hosts(1)) else {
        return;
    };
    for file in 0..FILES {
        let path = scene.repo.dir().join(format!("{file:02}.bin"));
        write_incompressible(&path, FILE_BYTES, file);
    }
    let commit = scene.repo.commit("many files");
    let coordinator = scene.fleet.coordinator();
    let arguments = ["--upload-mbit", CAP_MBIT];
    let deployed = coordinator.deploy(scene.repo.dir(), &arguments);
    deployed.expect_done();
    scene.assert_all_run(&commit);
    let log = scene.fleet.host(1).log();
    let lines = || log.lines().filter(|line| line.contains("written ahead"));
    let line = lines().next().expect("the agent says so");
    println!("{line}");
    let (early, all) = (number(line, "bytes_early"), number(line, "bytes"));
    assert!(all >= FILES * FILE_BYTES as u64, "{line}");
    // All but what came with the last chunks.
    assert!(early * 10 >= all * 7, "{line}");
    assert!(line.contains("is_whole=true"), "{line}");
    let said = lines().count();

    let commit = scene.commit_text("a small change\n");
    coordinator.deploy(scene.repo.dir(), &[]).expect_done();
    scene.assert_all_run(&commit);
    let log = scene.fleet.host(1).log();
    let lines = log.lines().filter(|line| line.contains("written ahead"));
    assert_eq!(lines.count(), said);
}
