//! Deploys in which nothing breaks: every host ends with what git says.

use scap_tests::fleet::{Fleet, wait_until};
use scap_tests::repo::{make_executable, make_link, write_large_tree, write_source_tree};
use scap_tests::tree::Tree;
use scap_tests::under_test;

use crate::scene::{FETCH_MAX, REPO, Scene};

#[test]
fn sixteen_hosts_get_twenty_thousand_files_and_then_a_one_line_commit() {
    // In memory: sixteen hosts have sixteen disks, and here they would share one.
    let builder = Fleet::builder(under_test!())
        .hosts(16)
        .canaries(2)
        .rate_mbit(100)
        .tmpfs();
    let Some(scene) = Scene::start(builder) else {
        return;
    };
    let (fleet, repo) = (&scene.fleet, &scene.repo);
    write_large_tree(repo.dir(), 20_000, 1);
    repo.write("docs/README", "first\n");
    let first = repo.commit("everything");
    assert!(repo.archived(&first).file_count() > 20_000);

    let report = fleet.coordinator().deploy(repo.dir(), &[]).expect_done();
    assert_eq!(report.commit.as_deref(), Some(first.as_str()));
    assert_eq!(report.hosts.len(), 16);
    scene.assert_all_run(&first);
    let one_copy = report
        .hosts
        .iter()
        .map(|host| host.bytes.seed + host.bytes.peers)
        .max();
    let copies = report.seed_bytes_sent as f64 / one_copy.unwrap() as f64;
    assert!(
        copies < 4.0,
        "the seed sent {copies} copies to 16 hosts: {report:#?}"
    );

    let second = scene.commit_text("first\nand one line more\n");
    let before = fleet.coordinator().station().counters();
    let report = fleet.coordinator().deploy(repo.dir(), &[]).expect_done();
    let sent = fleet.coordinator().station().counters().since(before);
    eprintln!(
        "one line: {} bytes of chunks and {} in all left the seed; {:?}",
        report.seed_bytes_sent, sent.sent_bytes, report.seconds
    );
    scene.assert_all_run(&second);
    assert!(report.seed_bytes_sent < 16 * 1024, "{report:#?}");
    for host in &report.hosts {
        let fetched = host.bytes.seed + host.bytes.peers;
        assert!(
            fetched < 4 * 1024,
            "{} fetched {fetched} bytes for a line",
            host.name
        );
        assert!(host.bytes.reuse > fetched, "{host:?}");
    }
}

#[test]
fn the_deploy_config_of_a_repo_says_where_it_goes() {
    let Some(scene) = Scene::start(Fleet::builder(under_test!()).hosts(2)) else {
        return;
    };
    scene
        .repo
        .write("scap/scap.cfg", "[global]\ngit_repo: tools/checker\n");
    let commit = scene.commit_text("hello\n");
    scene
        .fleet
        .coordinator()
        .deploy(scene.repo.dir(), &[])
        .expect_done();
    for host in scene.fleet.hosts() {
        scene
            .repo
            .archived(&commit)
            .assert_is(&host.live("tools/checker"));
        assert!(!host.live(REPO).exists());
    }
}

#[test]
fn an_uncommitted_change_is_not_deployed_and_an_older_revision_can_be() {
    let Some(scene) = Scene::start(Fleet::builder(under_test!())) else {
        return;
    };
    let (first, second) = (scene.commit_text("first\n"), scene.commit_text("second\n"));
    scene.repo.write("docs/README", "not committed\n");
    scene.repo.write("stray", "not even added\n");
    let coordinator = scene.fleet.coordinator();
    coordinator.deploy(scene.repo.dir(), &[]).expect_done();
    scene.assert_all_run(&second);
    coordinator
        .deploy(scene.repo.dir(), &["--rev", &first])
        .expect_done();
    scene.assert_all_run(&first);
}

#[test]
fn the_same_commit_again_moves_no_bytes() {
    let Some(scene) = Scene::start(Fleet::builder(under_test!()).hosts(2)) else {
        return;
    };
    let commit = scene.commit_payload(2_000_000, 3);
    let coordinator = scene.fleet.coordinator();
    coordinator.deploy(scene.repo.dir(), &[]).expect_done();
    let before = coordinator.station().counters();
    let report = coordinator.deploy(scene.repo.dir(), &[]).expect_done();
    let sent = coordinator.station().counters().since(before).sent_bytes;
    assert!(
        sent < 200_000,
        "the coordinator's link carried {sent} bytes"
    );
    for host in &report.hosts {
        assert_eq!(host.bytes.seed + host.bytes.peers, 0, "{host:?}");
    }
    scene.assert_all_run(&commit);
}

#[test]
fn in_a_tree_each_host_fetches_from_one_upstream_only() {
    let builder = Fleet::builder(under_test!()).hosts(8).rate_mbit(100);
    let Some(scene) = Scene::start(builder) else {
        return;
    };
    let commit = scene.commit_payload(8_000_000, 5);
    let coordinator = scene.fleet.coordinator();
    let report = coordinator
        .deploy(scene.repo.dir(), &["--topology", "tree"])
        .expect_done();
    scene.assert_all_run(&commit);
    for host in &report.hosts {
        let sources = [host.bytes.seed, host.bytes.peers];
        assert_eq!(
            sources.iter().filter(|bytes| **bytes > 0).count(),
            1,
            "{host:?}"
        );
    }
    assert!(
        report.hosts.iter().any(|host| host.bytes.peers > 0),
        "{report:#?}"
    );
}

#[test]
fn with_lanes_all_is_as_without_also_when_a_host_dies() {
    let builder = Fleet::builder(under_test!())
        .hosts(8)
        .canaries(1)
        .rate_mbit(50);
    let Some(scene) = Scene::start(builder) else {
        return;
    };
    const BYTES: usize = 24_000_000;
    let lanes = ["--topology", "lanes"];
    let coordinator = scene.fleet.coordinator();
    let first = scene.commit_payload(BYTES, 6);
    let report = coordinator.deploy(scene.repo.dir(), &lanes).expect_done();
    scene.assert_all_run(&first);
    // One to the canary, which passes it on, and up to one more to the others, whom it is told to help.
    let copies = report.seed_bytes_sent as f64 / BYTES as f64;
    assert!(copies < 2.3, "the seed sent {copies} copies: {report:#?}");

    // A warm deploy is over before anything could be pushed, and one whose hosts die goes on without them.
    let second = scene.commit_text("a line\n");
    coordinator.deploy(scene.repo.dir(), &lanes).expect_done();
    scene.assert_all_run(&second);

    scene.expect_broken_connections();
    let third = scene.commit_payload(BYTES, 7);
    let deploy = coordinator.start_deploy(scene.repo.dir(), &lanes);
    let victim = scene.fleet.host(5);
    let held = || {
        victim
            .newest_release(REPO)
            .map_or(0.0, |it| it.share_held())
    };
    wait_until("host5 holds a third", FETCH_MAX, || {
        let held = held();
        ((0.3..1.0).contains(&held)).then_some(()).ok_or(held)
    });
    victim.kill9();
    victim.spawn_agent();
    victim.wait_ready();
    coordinator.finish(deploy).expect_done();
    scene.assert_all_run(&third);
}

#[test]
fn a_directory_without_git_is_deployed_as_it_is() {
    let Some(scene) = Scene::start(Fleet::builder(under_test!()).hosts(2)) else {
        return;
    };
    let build = scene.fleet.dir().join("build");
    write_source_tree(&build, 500, 9);
    std::fs::create_dir_all(build.join("cache/empty")).unwrap();
    let coordinator = scene.fleet.coordinator();
    let deploy = || {
        let report = coordinator.deploy_dir(&build, "tools/build").expect_done();
        assert_eq!(report.commit, None);
        let expected = Tree::read(&build);
        for host in scene.fleet.hosts() {
            expected.assert_is(&host.live("tools/build"));
            host.assert_verifies("tools/build");
        }
    };
    deploy();
    std::fs::remove_dir(build.join("cache/empty")).unwrap();
    make_executable(&build.join("names/two words"));
    make_link(&build.join("cache/link"), "../names");
    deploy();
}

#[test]
fn thirty_deploys_leave_five_release_directories_and_a_store_that_does_not_grow() {
    const PAYLOAD_BYTES: usize = 300_000;
    let Some(scene) = Scene::start(Fleet::builder(under_test!()).hosts(2)) else {
        return;
    };
    write_source_tree(&scene.repo.dir().join("lib"), 100, 11);
    let mut store_bytes = Vec::new();
    for round in 0..30 {
        let commit = scene.commit_payload(PAYLOAD_BYTES, round);
        scene
            .fleet
            .coordinator()
            .deploy(scene.repo.dir(), &[])
            .expect_done();
        let host = scene.fleet.host(1);
        scene.repo.archived(&commit).assert_is(&host.live(REPO));
        let kept = std::fs::read_dir(host.revs(REPO)).unwrap().count();
        assert!(kept <= 5, "{kept} release directories after deploy {round}");
        store_bytes.push(Tree::read(&host.data()).file_bytes());
    }
    for host in scene.fleet.hosts() {
        assert_eq!(
            std::fs::read_dir(host.revs(REPO)).unwrap().count(),
            5,
            "{}",
            host.name()
        );
        host.assert_verifies(REPO);
    }
    // Without collection the last ten would hold ten payloads more than the ten before.
    let (before, last) = (&store_bytes[10..20], &store_bytes[20..]);
    let growth = last
        .iter()
        .max()
        .unwrap()
        .saturating_sub(*before.iter().max().unwrap());
    assert!(
        growth < 2 * PAYLOAD_BYTES as u64,
        "bytes after each deploy: {store_bytes:?}"
    );
}

#[test]
fn hosts_that_restart_still_run_and_verify_what_was_live() {
    let Some(scene) = Scene::start(Fleet::builder(under_test!()).hosts(3)) else {
        return;
    };
    write_source_tree(scene.repo.dir(), 1000, 13);
    let first = scene.commit_text("first\n");
    scene
        .fleet
        .coordinator()
        .deploy(scene.repo.dir(), &[])
        .expect_done();
    scene.fleet.host(1).kill9();
    scene.fleet.host(2).terminate();
    scene.fleet.host(3).terminate();
    scene.fleet.start_agents();
    for host in scene.fleet.hosts() {
        let release = host.newest_release(REPO).unwrap();
        assert!(release.live, "{release:#?}");
        assert_eq!(release.commit.as_deref(), Some(first.as_str()));
    }
    scene.assert_all_run(&first);

    let second = scene.commit_text("second\n");
    let report = scene
        .fleet
        .coordinator()
        .deploy(scene.repo.dir(), &[])
        .expect_done();
    scene.assert_all_run(&second);
    for host in &report.hosts {
        assert!(
            host.bytes.reuse > host.bytes.seed + host.bytes.peers,
            "{host:?}"
        );
    }
}
