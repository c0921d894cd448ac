//! A disk that gives back other bytes than it was given: found on read, dropped and fetched again.

use std::time::Duration;

use scap_tests::evil::Original;
use scap_tests::fleet::{DeployReport, wait_until};

use super::scene::{PAYLOAD, Scene};

#[test]
fn a13_a_release_is_built_from_fetched_chunks_where_the_stored_ones_rotted() {
    let scene = Scene::start(3);
    deploy_to_all(&scene, &scene.commit_payload(PAYLOAD_BYTES, 1));
    let damaged = scene.agents[1].damage_every_chunk();
    assert!(damaged > CHUNKS_MIN, "{damaged} chunks");

    // All of the payload is written anew, most of it from chunks that it shares with the one before.
    let path = scene.repo.dir().join(PAYLOAD);
    let mut payload = std::fs::read(&path).unwrap();
    payload[PAYLOAD_BYTES / 2] ^= 1;
    std::fs::write(path, payload).unwrap();
    deploy_to_all(&scene, &scene.repo.commit("one byte"));
}

#[test]
fn a13_going_back_to_a_release_whose_own_pages_rotted_fetches_them_again() {
    let scene = Scene::start(2);
    let first = scene.commit_payload(PAYLOAD_BYTES, 1);
    deploy_to_all(&scene, &first);
    let second = scene.commit_payload(PAYLOAD_BYTES, 2);
    deploy_to_all(&scene, &second);
    scene.agents[0].damage_every_chunk();
    deploy_to_all(&scene, &first);
}

#[test]
fn a13_a_host_that_joins_gets_no_bad_chunk_from_one_whose_chunks_rotted() {
    let mut scene = Scene::start(2);
    deploy_to_all(&scene, &scene.commit_payload(LARGE_PAYLOAD_BYTES, 1));
    scene.agents[0].damage_every_chunk();
    scene.add_agent();

    // The payload stays, so that nobody but the new host reads its chunks.
    scene.repo.write("docs/new.txt", "new\n");
    let commit = scene.repo.commit("a small file");
    let report = deploy_to_all(&scene, &commit);
    for agent in &scene.agents[1..] {
        agent.assert_holds_no_bad_chunk();
    }
    let log = scene.agents[0].log();
    assert!(log.contains(FOUND), "it was never asked: {log}");
    // What it was asked for showed it that the disk is bad: it looks at the rest by itself.
    let (store, snapshot) = (scene.agents[0].store(), report.snapshot.parse().unwrap());
    wait_until("all is whole again", REPAIR_MAX, || {
        Original::read(&store, snapshot).map_err(|error| format!("{error:#}"))
    });
}

#[track_caller]
fn deploy_to_all(scene: &Scene, commit: &str) -> DeployReport {
    let (finished, report) = scene.deploy(commit, &[]);
    assert_eq!(
        (finished.code, report.failed()),
        (Some(0), vec![]),
        "{finished:#?}"
    );
    scene.assert_all_run(commit);
    for agent in &scene.agents {
        assert_eq!(agent.dropped_peers(), [], "{}", agent.name());
    }
    report
}

const PAYLOAD_BYTES: usize = 4 * 1024 * 1024;

/// Several times what a node serves from memory.
const LARGE_PAYLOAD_BYTES: usize = 24 * 1024 * 1024;

/// What such a payload is at least cut into.
const CHUNKS_MIN: usize = 16;

/// What an agent logs about each damaged chunk that it finds.
const FOUND: &str = "dropped a damaged chunk";

/// The longest that fetching all chunks again may take.
const REPAIR_MAX: Duration = Duration::from_secs(30);
