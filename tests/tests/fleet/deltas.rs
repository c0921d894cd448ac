//! Deltas: who runs an older release makes the next one from it, and whatever is wrong with that, every host ends with what
//! git says.

use std::path::{Path, PathBuf};

use scap_tests::fleet::{DeployReport, Fleet, Host};
use scap_tests::repo::write_source_tree;
use scap_tests::under_test;

use crate::scene::Scene;

#[test]
fn hosts_on_three_releases_and_a_new_one_each_get_the_next_by_the_shortest_way() {
    let Some(scene) = Scene::start(Fleet::builder(under_test!()).hosts(4)) else {
        return;
    };
    write_source_tree(scene.repo.dir(), FILES, 21);
    let hosts = [1, 2, 3, 4].map(|number| scene.fleet.host(number));
    let deploy_to = |hosts: &[&Host]| {
        let coordinator = scene.fleet.coordinator();
        coordinator.write_fleet_file(hosts.iter().copied());
        coordinator.deploy(scene.repo.dir(), &[]).expect_done()
    };
    scene.commit_text("older\n");
    deploy_to(&hosts[..3]);
    scene.commit_text("newer\n");
    deploy_to(&hosts[..2]);
    let third = scene.commit_text("newest\n");
    let report = deploy_to(&hosts);
    scene.assert_all_run(&third);
    let [.., other, new] = &report.hosts[..] else {
        panic!("{report:#?}");
    };
    for host in &report.hosts[..3] {
        assert!(
            fetched(&report, &host.name) < DELTA_BYTES_MAX,
            "{report:#?}"
        );
    }
    assert!(other.bytes.reuse > 100 * fetched(&report, &other.name));
    assert!(new.bytes.reuse == 0 && fetched(&report, &new.name) > TREE_BYTES_MIN);
}

#[test]
fn a_host_whose_old_chunks_are_damaged_fetches_the_new_ones_and_says_why() {
    let Some(scene) = Scene::start(Fleet::builder(under_test!()).hosts(3)) else {
        return;
    };
    scene.fleet.expect_log("damaged");
    scene.fleet.expect_log("a delta is of no use");
    write_source_tree(scene.repo.dir(), FILES, 22);
    scene.commit_text("first\n");
    let coordinator = scene.fleet.coordinator();
    coordinator.deploy(scene.repo.dir(), &[]).expect_done();

    let victim = scene.fleet.host(2);
    for file in chunk_files(victim) {
        let mut bytes = std::fs::read(&file).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&file, bytes).unwrap();
    }
    let second = scene.commit_text("second\n");
    let report = coordinator.deploy(scene.repo.dir(), &[]).expect_done();
    scene.assert_all_run(&second);
    for name in ["host1", "host3"] {
        assert!(fetched(&report, name) < DELTA_BYTES_MAX, "{report:#?}");
    }
    assert!(fetched(&report, victim.name()) > 10 * DELTA_BYTES_MAX);
}

#[test]
fn a_changed_line_costs_the_seed_a_few_kib_whatever_the_fleet() {
    let builder = Fleet::builder(under_test!()).hosts(16).tmpfs();
    let Some(scene) = Scene::start(builder) else {
        return;
    };
    write_source_tree(scene.repo.dir(), FILES, 23);
    scene.commit_text("first\n");
    let coordinator = scene.fleet.coordinator();
    coordinator.deploy(scene.repo.dir(), &[]).expect_done();
    let second = scene.commit_text("second\n");
    let before = coordinator.station().counters();
    let report = coordinator.deploy(scene.repo.dir(), &[]).expect_done();
    let sent = coordinator.station().counters().since(before).sent_bytes;
    scene.assert_all_run(&second);
    let chunks = report.seed_bytes_sent;
    eprintln!("a line: {sent} bytes left the seed, {chunks} of them chunks");
    // The rest are handshakes and orders on four links, and acknowledgements of reports: of those the more, the longer it takes.
    let seconds = report.seconds["total"];
    let rest_max = 65_536.0 + 16_384.0 * seconds;
    assert!(chunks < 8 * 1024 && (sent as f64) < rest_max, "{report:#?}");
    for host in &report.hosts {
        assert!(
            fetched(&report, &host.name) < DELTA_BYTES_MAX,
            "{report:#?}"
        );
    }
}

/// What a host fetched of a release, in plain bytes of chunks.
fn fetched(report: &DeployReport, host: &str) -> u64 {
    let bytes = report.host(host).bytes;
    bytes.seed + bytes.peers
}

/// The file of each chunk that a host stores.
fn chunk_files(host: &Host) -> Vec<PathBuf> {
    let list = |dir: &Path| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(dir).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    };
    let prefixes = list(&host.data().join("store/chunks"));
    prefixes.iter().flat_map(|prefix| list(prefix)).collect()
}

/// Files of the trees that are deployed here.
const FILES: usize = 2_000;

/// What they hold, at least.
const TREE_BYTES_MIN: u64 = 4_000_000;

/// The most that a delta for one line may take.
const DELTA_BYTES_MAX: u64 = 4_096;
