//! Sizes at which a width overflows, or something that was meant to stay small does not.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;

use scap_tests::fleet::{Fleet, Host};
use scap_tests::repo::make_executable;
use scap_tests::tree::Tree;
use scap_tests::under_test;

use crate::scene::{REPO, Scene};

#[test]
fn a_hundred_thousand_files_whose_names_are_not_text_are_deployed_and_one_of_them_changed() {
    const FILES: usize = 100_000;
    let builder = Fleet::builder(under_test!()).hosts(2).tmpfs();
    let Some(scene) = Scene::start(builder) else {
        return;
    };
    let path = |number: usize| {
        let mut path = format!("{:02}/{:02}/", number % 50, number / 50 % 40).into_bytes();
        path.extend_from_slice(b"caf\xe9\xff ");
        path.extend_from_slice(number.to_string().as_bytes());
        path
    };
    for number in 0..FILES {
        let text = format!("file {number}\n");
        scene.repo.write(OsStr::from_bytes(&path(number)), text);
    }
    make_executable(&scene.repo.dir().join(OsStr::from_bytes(&path(7))));
    let first = scene.repo.commit("many files");
    assert_eq!(scene.repo.archived(&first).file_count(), FILES);
    let coordinator = scene.fleet.coordinator();
    coordinator.deploy(scene.repo.dir(), &[]).expect_done();
    scene.assert_all_run(&first);

    let path = OsStr::from_bytes(&path(FILES / 2)).to_owned();
    scene.repo.write(path, "changed\n");
    let second = scene.repo.commit("one of them");
    let report = coordinator.deploy(scene.repo.dir(), &[]).expect_done();
    scene.assert_all_run(&second);
    for host in &report.hosts {
        assert!(host.bytes.reuse > host.bytes.seed + host.bytes.peers);
    }
    scene.fleet.hosts().iter().for_each(assert_small);
}

#[test]
fn a_file_longer_than_four_gibibytes_is_deployed() {
    let Some(scene) = Scene::start(Fleet::builder(under_test!())) else {
        return;
    };
    // Beyond 2³² by less than a chunk, with something to tell apart on both sides of it and at the ends.
    const BYTES: u64 = (1 << 32) + 100_003;
    let build = scene.fleet.dir().join("build");
    std::fs::create_dir(&build).unwrap();
    let file = File::create(build.join("disk.img")).unwrap();
    file.set_len(BYTES).unwrap();
    for at in [0, 1 << 31, (1 << 32) - 5, (1 << 32) + 4096, BYTES - 10] {
        file.write_all_at(format!("{at:010}").as_bytes(), at)
            .unwrap();
    }
    drop(file);
    let coordinator = scene.fleet.coordinator();
    coordinator.deploy_dir(&build, REPO).expect_done();
    let host = scene.fleet.host(1);
    Tree::read(&build).assert_is(&host.live(REPO));
    host.assert_verifies(REPO);
    assert_small(host);
}

/// Asserts that its agent, and what that started and still runs, stayed a guest on the host.
fn assert_small(host: &Host) {
    let peak = host.station().usage().peak_rss_bytes;
    assert!(peak < RSS_BYTES_MAX, "{}: {peak} bytes", host.name());
}

/// What an agent may take, in bytes.
const RSS_BYTES_MAX: u64 = 64 * 1024 * 1024;
