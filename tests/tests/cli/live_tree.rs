//! `verify` against a live tree that somebody touched.

use std::os::unix::fs::PermissionsExt as _;

use serde_json::json;

use super::fleet::Fleet;

#[test]
fn verify_names_what_was_changed_added_and_removed() {
    let fleet = Fleet::start(&["web1"]);
    let (repo, _) = fleet.scene.repo();
    repo.write("gone", "removed by hand\n");
    repo.write("run", "#!/bin/sh\n");
    repo.commit("Two more");
    fleet.deploy_repo();
    fleet.assert_verifies("web1", "repo");
    let text = ["agent", "verify", "repo", "--data", "web1/data"];
    fleet
        .scene
        .scap(&text)
        .exits(0)
        .prints(&["repo is what was signed"]);

    let live = fleet.agents[0].live("repo");
    std::fs::write(live.join("README.md"), "# A site?\n").unwrap();
    std::fs::write(live.join("src/extra"), "").unwrap();
    std::fs::remove_file(live.join("gone")).unwrap();
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(live.join("run"), mode).unwrap();

    let ended = fleet.scene.scap(&text).exits(1);
    ended.prints(&[
        "README.md: other content",
        "gone: missing",
        "run: mode 0755, should be 0644",
        "src/extra: not in the snapshot",
        "repo differs in 4 places",
    ]);
    let view = fleet.verify("web1", "repo").exits(1).json("scap.verify/1");
    assert_eq!(view["ok"], false);
    assert_eq!(view["repo"], "repo");
    assert_eq!(
        view["differences"].as_array().map(Vec::len),
        Some(4),
        "{view:#}"
    );

    // The same commit again puts right what is its own, and does not remove what is not.
    fleet.deploy_repo();
    let view = fleet.verify("web1", "repo").exits(1).json("scap.verify/1");
    let left = json!(["src/extra: not in the snapshot"]);
    assert_eq!(view["differences"], left, "{view:#}");
    std::fs::remove_file(live.join("src/extra")).unwrap();
    fleet.assert_verifies("web1", "repo");
}

#[test]
fn verify_sees_a_change_of_the_same_length_with_the_old_times() {
    let fleet = Fleet::start(&["web1"]);
    fleet.scene.repo();
    fleet.deploy_repo();
    let path = fleet.agents[0].live("repo").join("README.md");
    let before = path.metadata().unwrap();
    std::fs::write(&path, "# B site\n").unwrap();
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.set_modified(before.modified().unwrap()).unwrap();
    let view = fleet.verify("web1", "repo").exits(1).json("scap.verify/1");
    assert_eq!(
        view["differences"][0], "README.md: other content",
        "{view:#}"
    );
}

#[test]
fn verify_says_when_something_else_is_in_the_final_place() {
    let fleet = Fleet::start(&["web1"]);
    fleet.scene.repo();
    fleet.deploy_repo();
    let live = fleet.agents[0].live("repo");
    std::fs::remove_file(&live).unwrap();
    std::fs::create_dir(&live).unwrap();
    std::fs::write(live.join("precious"), "by hand").unwrap();
    let ended = fleet.verify("web1", "repo").exits(1);
    assert!(!ended.stdout.contains("\"ok\":true"), "{ended:#?}");
    assert_eq!(std::fs::read(live.join("precious")).unwrap(), b"by hand");
}

#[test]
fn verify_of_a_repo_that_was_never_deployed_says_so() {
    let fleet = Fleet::start(&["web1"]);
    let ended = fleet.verify("web1", "other").exits(1);
    let ended = ended.says(&["error: ask the agent", "nothing is deployed at `other`"]);
    assert_eq!(ended.stdout, "");
    let ended = fleet.verify("web1", "../other");
    ended.fails_as_misuse(&["'<REPO>'"]);
    assert!(!fleet.agents[0].live("other").exists());
}
