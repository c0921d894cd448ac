//! Branches that are not as they were left, locks that are held, broken or nobody's.

use super::world::*;
use crate::{
    git::tests::TestRepo,
    state::{BranchError, History, LEASE, break_lock},
};

/// Puts another content at a path of the branch.
fn put(test: &TestRepo, path: &str, content: &str) {
    let index = test.path().join(".git/index-of-test");
    let id = test.git_with(&["hash-object", "-w", "--stdin"], content.as_bytes());
    let env = format!("GIT_INDEX_FILE={}", index.display());
    let script = format!(
        "export {env}; git read-tree scap/state && git update-index --add --cacheinfo 100644,{id},{path} && \
         git commit-tree -p scap/state -m put $(git write-tree)"
    );
    let alias = format!("alias.put=!{script}");
    let commit = test.git(&["-c", &alias, "put"]);
    test.git(&["update-ref", "refs/heads/scap/state", &commit]);
}

#[test]
fn a_branch_of_a_later_version_is_neither_read_nor_written() {
    for (path, content) in [
        (".scap-state", "scap-state/2\n"),
        (
            "production/mw+config/record.json",
            "{\"schema\": \"scap.record/2\"}",
        ),
        (
            "production/mw+config/lock.json",
            "{\"schema\": \"scap.lock/7\"}",
        ),
    ] {
        let test = repo(&[]);
        let signing = Signing::new();
        let branch = branch_of(&test.open(), false);
        signing.deploy(&branch, "production", 1).unwrap();
        put(&test, path, content);
        let tip = test.git(&["rev-parse", "scap/state"]);
        let error = signing.deploy(&branch, "production", 2).unwrap_err();
        assert!(
            error.is_misuse() && error.hint().unwrap().contains("upgrade"),
            "{error:?}"
        );
        let present = history(&test.open()).present();
        assert!(present.is_err() || present.is_ok_and(|all| all[0].1.is_err()));
        assert_eq!(tip, test.git(&["rev-parse", "scap/state"]));
    }
}

#[test]
fn a_record_that_somebody_edited_halts_only_its_own_environment() {
    let test = repo(&[]);
    let signing = Signing::new();
    let branch = branch_of(&test.open(), false);
    signing.deploy(&branch, "production", 1).unwrap();
    put(
        &test,
        "production/mw+config/record.json",
        "{\"schema\": \"scap.record/1\"",
    );
    let error = signing.deploy(&branch, "production", 2).unwrap_err();
    assert!(matches!(error, BranchError::Document { .. }), "{error:?}");
    assert!(error.needs_a_person());
    signing.deploy(&branch, "staging", 1).unwrap();
    let present = history(&test.open()).present().unwrap();
    let is_read: Vec<_> = present
        .iter()
        .map(|((_, environment), it)| (environment.as_str(), it.is_ok()))
        .collect();
    assert_eq!(is_read, [("production", false), ("staging", true)]);
}

#[test]
fn a_record_that_cannot_be_read_is_named_and_the_rest_of_the_past_is_there() {
    let test = repo(&[]);
    let signing = Signing::new();
    let branch = branch_of(&test.open(), false);
    let path = "production/mw+config/record.json";
    signing.deploy(&branch, "production", 1).unwrap();
    let before = test.git(&["show", &format!("scap/state:{path}")]);
    put(&test, path, "{");
    let bad = test.git(&["rev-parse", "scap/state"]);
    put(&test, path, &before);
    signing.deploy(&branch, "production", 2).unwrap();
    let past = history(&test.open()).past(&place("production")).unwrap();
    let sequences: Vec<_> = past.releases.iter().map(|it| it.rollout.sequence).collect();
    assert_eq!(sequences, [2, 1]);
    let unreadable: Vec<_> = past
        .unreadable
        .iter()
        .map(|(id, _)| id.to_string())
        .collect();
    assert_eq!(unreadable, [bad]);
}

#[test]
fn a_branch_of_somebody_elses_is_not_taken() {
    let test = repo(&[]);
    test.git(&["branch", "scap/state"]);
    let error = Signing::new()
        .deploy(&branch_of(&test.open(), false), "production", 1)
        .unwrap_err();
    assert!(matches!(error, BranchError::NotOurs(_)), "{error:?}");
    assert!(error.is_misuse());
}

#[test]
fn a_missing_object_is_told_and_nothing_is_written() {
    let test = repo(&[]);
    let signing = Signing::new();
    let branch = branch_of(&test.open(), false);
    signing.deploy(&branch, "production", 1).unwrap();
    let id = test.git(&["rev-parse", "scap/state:production/mw+config/record.json"]);
    std::fs::remove_file(test.loose(&id.parse().unwrap())).unwrap();
    let error = signing.deploy(&branch, "production", 2).unwrap_err();
    assert!(error.to_string().contains("missing"), "{error:?}");
    assert!(error.hint().unwrap().contains("fsck"));
}

#[test]
fn a_lock_that_a_killed_git_left_on_the_branch_is_cleared_once_it_is_old() {
    let test = repo(&[]);
    let signing = Signing::new();
    let branch = branch_of(&test.open(), false);
    signing.deploy(&branch, "production", 1).unwrap();
    let path = test.write(".git/refs/heads/scap/state.lock", b"");
    let error = signing.deploy(&branch, "production", 2).unwrap_err();
    assert!(error.to_string().contains("state.lock"), "{error}");
    assert!(path.exists(), "whose it is was not known");
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(61);
    std::fs::File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_modified(old)
        .unwrap();
    signing.deploy(&branch, "production", 2).unwrap();
    assert!(!path.exists());
}

#[test]
fn a_rewritten_branch_halts_with_the_commit_that_is_gone() {
    let shared = Shared::new();
    let signing = Signing::new();
    signing.deploy(&shared.branch(0), "production", 1).unwrap();
    let old = shared.tip();
    signing.deploy(&shared.branch(0), "production", 2).unwrap();
    let gone = shared.tip();
    // Rolled back, deleted, forked: each is noticed.
    let fork = shared.upstream.git(&[
        "commit-tree",
        "-p",
        &old,
        "-m",
        "fork",
        &format!("{old}^{{tree}}"),
    ]);
    for rewrite in [
        vec!["update-ref", "refs/heads/scap/state", &old],
        vec!["update-ref", "-d", "refs/heads/scap/state"],
        vec!["update-ref", "refs/heads/scap/state", &fork],
    ] {
        shared.upstream.git(&rewrite);
        let before = shared.upstream.git(&["for-each-ref"]);
        let error = signing
            .deploy(&shared.branch(0), "production", 3)
            .unwrap_err();
        let BranchError::Rewritten { known, .. } = &error else {
            panic!("{rewrite:?}: {error:?}");
        };
        assert_eq!(known.to_string(), gone);
        assert!(error.needs_a_person());
        assert_eq!(
            before,
            shared.upstream.git(&["for-each-ref"]),
            "nothing is forced"
        );
    }
    // What the hint says.
    shared
        .upstream
        .git(&["update-ref", "refs/heads/scap/state", &gone]);
    signing.deploy(&shared.branch(0), "production", 3).unwrap();
}

#[test]
fn a_branch_without_upstream_that_was_rewritten_halts_too() {
    let test = repo(&[]);
    let signing = Signing::new();
    let branch = branch_of(&test.open(), false);
    signing.deploy(&branch, "production", 1).unwrap();
    test.git(&["update-ref", "refs/heads/scap/state", "scap/state~1"]);
    let error = signing.deploy(&branch, "production", 2).unwrap_err();
    assert!(matches!(error, BranchError::Rewritten { .. }), "{error:?}");
}

#[test]
fn a_held_lock_names_its_holder_and_is_free_when_its_lease_is_over() {
    let test = repo(&[]);
    let branch = branch_of(&test.open(), false);
    let first = ledger(&branch, "production", 0);
    first.lock("raise the limit", at(0)).unwrap();
    let lease = LEASE.as_secs();
    let second = ledger(&branch, "production", 1);
    let error = second.lock("x", at(lease)).unwrap_err();
    let said = error.to_string();
    for part in [
        first.holder().name.as_str(),
        "raise the limit",
        "for 15 min",
        "mw/config in production",
    ] {
        assert!(said.contains(part), "no {part} in {said}");
    }
    // What it writes renews it.
    first.renew(at(lease)).unwrap();
    assert!(second.lock("x", at(lease + 1)).unwrap_err().is_held());
    let found = second.lock("x", at(2 * lease + 1)).unwrap();
    assert!(found.taken_over.unwrap().contains("its lease is over"));
    let lost = first.renew(at(2 * lease + 2)).unwrap_err();
    assert!(
        matches!(&lost, BranchError::Lost { how, .. } if how.contains(&second.holder().rollout))
    );
    let said = test.git(&["log", "--format=%B", "-1", "scap/state"]);
    assert!(said.contains("Taken over from"), "{said}");
}

#[test]
fn a_broken_lock_is_recorded_and_its_holder_is_told_who_and_why() {
    let shared = Shared::new();
    let branch = shared.branch(0);
    let holder = ledger(&branch, "production", 0);
    holder.lock("deploy", at(0)).unwrap();
    let other = shared.branch(1);
    let (whose, _) =
        break_lock(&other, &place("production"), "Alice is on a plane", at(60)).unwrap();
    assert!(
        whose.contains(&holder.holder().rollout) && whose.contains("for 60 s"),
        "{whose}"
    );
    let lost = holder.renew(at(61)).unwrap_err();
    assert!(matches!(&lost, BranchError::Lost { how, .. } if how.contains("Alice is on a plane")));
    let again = break_lock(&other, &place("production"), "again", at(62)).unwrap_err();
    assert!(matches!(again, BranchError::NotLocked(_)));

    let past = history(&shared.upstream.open())
        .past(&place("production"))
        .unwrap();
    assert_eq!(past.broken_locks.len(), 1);
    assert_eq!(past.broken_locks[0].reason, "Alice is on a plane");
    let said = shared
        .upstream
        .git(&["log", "--format=%B", "-1", "scap/state"]);
    assert!(
        said.contains("lock broken") && said.contains("Alice is on a plane"),
        "{said}"
    );
    // And it is free.
    ledger(&other, "production", 70)
        .lock("deploy", at(70))
        .unwrap();
}

#[test]
fn a_clone_reads_what_it_fetched_without_a_branch_of_its_own() {
    let shared = Shared::new();
    Signing::new()
        .deploy(&shared.branch(0), "production", 1)
        .unwrap();
    let repo = shared.clones[1].open();
    assert!(
        History::open(&repo, &name(), Some("origin"))
            .unwrap()
            .is_none()
    );
    shared.clones[1].git(&["fetch", "-q"]);
    let history = History::open(&repo, &name(), Some("origin"))
        .unwrap()
        .unwrap();
    assert_eq!(history.tip().to_string(), shared.tip());
    assert_eq!(history.present().unwrap().len(), 1);
}
