//! Hosts that take no release but of a commit that a person signed.

use std::{fs, process::Command};

use scap_tests::repo::SourceRepo;

use super::fleet::{Fleet, deployed, enroll, host};
use super::scene::Scene;

/// Signs the last commit of the scene's repo anew with an SSH key, as git does, and gives its id; `None` where git or OpenSSH
/// cannot.
fn sign(scene: &Scene, key: &str) -> Option<String> {
    let git = |arguments: &[&str]| {
        let mut command = Command::new("git");
        command
            .arg("-C")
            .arg(scene.path("repo"))
            .args(["-c", "gpg.format=ssh", "-c"])
            .arg(format!("user.signingkey={}", scene.path(key).display()))
            .args(["-c", "user.name=Ada", "-c", "user.email=ada@example.org"])
            .args(arguments)
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null");
        command.output().unwrap()
    };
    let signed = git(&["commit", "--amend", "--no-edit", "--quiet", "--gpg-sign"]);
    if !signed.status.success() {
        println!("skipped: git does not sign with SSH keys here: {signed:?}");
        return None;
    }
    let id = git(&["rev-parse", "HEAD"]).stdout;
    Some(String::from_utf8(id).unwrap().trim().to_owned())
}

/// A host that takes signed commits alone, and the repo.
fn strict(rule: &str) -> (Fleet, SourceRepo) {
    let scene = Scene::new();
    let (repo, _) = scene.repo();
    for key in ["ada", "eve"] {
        let made = Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-f"])
            .arg(scene.path(key))
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
    }
    let public = fs::read_to_string(scene.path("ada.pub")).unwrap();
    scene.write("commit_signers", format!("ada namespaces=\"git\" {public}"));
    enroll(&scene, "web1", &[]);
    let path = scene.path("web1/identity/host.toml");
    let signers = scene.path("commit_signers");
    let text = fs::read_to_string(&path).unwrap();
    let text = format!(
        "{text}\n[[signed_commits]]\nallowed_signers = '{}'\n{rule}",
        signers.display()
    );
    fs::write(&path, text).unwrap();
    (Fleet::start_in(scene, &["web1"]), repo)
}

#[test]
fn t9_a_commit_goes_live_once_somebody_who_is_named_signed_it_and_not_before() {
    if Command::new("ssh-keygen").arg("-?").output().is_err() {
        println!("skipped: ssh-keygen is not installed");
        return;
    }
    let (fleet, repo) = strict("");
    let refused = |why: &str| {
        let report = deployed(&fleet.deploy(&["--repo", "repo"]).exits(4));
        let host = host(&report, "web1");
        assert_eq!(host["code"], "refused-commit", "{host:#}");
        let error = host["error"].as_str().unwrap();
        assert!(error.contains(why), "{error}");
    };
    refused("did not come along");
    assert!(!fleet.agents[0].live("repo").exists());
    // The deployer's key is none of those who sign commits.
    if sign(&fleet.scene, "eve").is_none() {
        return;
    }
    refused("which is not an allowed signer");
    assert!(!fleet.agents[0].live("repo").exists());

    let commit = sign(&fleet.scene, "ada").unwrap();
    fleet.deploy_repo();
    fleet.assert_all_run(&repo, &commit);

    // What hosts are asked is no part of that: the coordinator makes it.
    repo.write("scap/scap.cfg", "[global]\ngit_repo: repo\n");
    repo.write(
        "scap/checks.yaml",
        "checks:\n  up:\n    type: command\n    stage: promote\n    command: 'true'\n",
    );
    repo.commit("Checks");
    sign(&fleet.scene, "ada").unwrap();
    let report = deployed(&fleet.deploy(&["--repo", "repo"]).exits(4));
    let error = host(&report, "web1")["error"].as_str().unwrap().to_owned();
    assert!(error.contains("takes_config"), "{error}");
    fleet.assert_all_run(&repo, &commit);
}
