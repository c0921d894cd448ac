//! An agent that may open hardly any files.

use super::scene::Scene;

#[test]
fn d10_an_agent_with_64_files_fetches_and_serves_and_completes() {
    let mut scene = Scene::start(3);
    scene.add_agent_under(&["prlimit", "--nofile=64"]);
    for seed in [1, 2] {
        let commit = scene.commit_payload(PAYLOAD_BYTES, seed);
        let (finished, report) = scene.deploy(&commit, &[]);
        assert_eq!(
            (finished.code, report.failed()),
            (Some(0), vec![]),
            "{finished:#?}"
        );
        scene.assert_all_run(&commit);
    }
}

/// A hundred chunks, each a file of its own in the store.
const PAYLOAD_BYTES: usize = 16 * 1024 * 1024;
