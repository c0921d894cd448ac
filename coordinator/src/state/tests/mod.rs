//! The state branch over real git.

mod going_on;
mod kept;
mod proof;
mod races;
mod refusals;
mod trust;
mod world;

use std::process::Command;

use scap_proto::release::Reach;

use self::world::*;
use super::*;
use crate::git::{Repo, tests::TestRepo};

/// Deploys twice, and looks at everything.
fn deploys_and_reads_back(test: &TestRepo, repo: &Repo) {
    let before = files(test.path());
    let signing = Signing::new();
    let branch = branch_of(repo, false);
    let first = signing.deploy(&branch, "production", 1).unwrap();
    let second = signing.deploy(&branch, "production", 2).unwrap();
    let staging = signing.deploy(&branch, "staging", 1).unwrap();
    assert_eq!(before, files(test.path()), "something else was touched");
    test.git(&["fsck", "--strict", "--no-dangling"]);

    let history = history(repo);
    let past = history.past(&place("production")).unwrap();
    let ids: Vec<_> = past.releases.iter().map(|it| it.rollout.release).collect();
    assert_eq!(ids, [second, first]);
    assert!(past.releases.iter().all(|it| it.is_finalized));
    let present = present(repo);
    let stable = |at: usize| present[at].folder.record.clone().unwrap().stable.unwrap();
    assert_eq!(present.len(), 2);
    assert_eq!((stable(0).release, stable(1).release), (second, staging));
    assert!(present.iter().all(|it| it.folder.lock.is_none()));
    assert_eq!(present[0].hosts, hosts("promoted"));

    // What was signed is there to be verified, that of the release before too.
    let signers = signing.allowed_signers();
    let authority = scap_proto::release::Authority {
        signers: &signers,
        threshold: std::num::NonZeroUsize::MIN,
    };
    for recorded in &past.releases {
        let (_, signed) = history
            .signed_at(&recorded.state_commit, &place("production"), Which::Latest)
            .unwrap()
            .unwrap();
        let signed = signed.unwrap();
        let now = scap_proto::release::UnixMillis(1);
        let release = signed.release.verify(&authority, now).unwrap();
        let grant = signed.grant.verify(&release, &authority, now).unwrap();
        assert_eq!(release.id(), recorded.rollout.release);
        signed
            .finalization
            .unwrap()
            .verify(&release, &grant)
            .unwrap();
    }
}

#[test]
fn a_work_tree_its_index_and_all_other_refs_are_left_alone() {
    let test = repo(&[]);
    test.write("a", b"changed, not added");
    test.write("b", b"added");
    test.git(&["add", "b"]);
    test.git(&["branch", "other"]);
    test.git(&["tag", "v1"]);
    deploys_and_reads_back(&test, &test.open());
}

#[test]
fn a_bare_repository_has_a_state_branch() {
    let test = TestRepo::new(&["--bare"]);
    deploys_and_reads_back(&test, &test.open());
}

#[test]
fn a_repository_of_sha256_has_a_state_branch_of_sha256() {
    let test = repo(&["--object-format=sha256"]);
    deploys_and_reads_back(&test, &test.open());
    assert_eq!(test.git(&["rev-parse", "scap/state"]).len(), 64);
}

#[test]
fn a_linked_work_tree_writes_to_the_branch_of_its_repository() {
    let test = repo(&[]);
    let beside = tempfile::tempdir().unwrap();
    let linked = beside.path().join("linked");
    test.git(&["worktree", "add", "-q", linked.to_str().unwrap()]);
    deploys_and_reads_back(&test, &Repo::open(&linked).unwrap());
    test.git(&["rev-parse", "--verify", "refs/heads/scap/state"]);
}

#[test]
fn hooks_of_the_repository_are_not_run() {
    let test = repo(&[]);
    for hook in ["reference-transaction", "pre-push", "post-commit", "update"] {
        let path = test.write(
            format!(".git/hooks/{hook}"),
            format!("#!/bin/sh\ntouch {}/ran\n", test.path().display()).as_bytes(),
        );
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(path, mode).unwrap();
    }
    Signing::new()
        .deploy(&branch_of(&test.open(), false), "production", 1)
        .unwrap();
    assert!(!test.path().join("ran").exists());
}

#[test]
fn commits_say_in_words_and_trailers_what_happened() {
    let test = repo(&[]);
    let release = Signing::new()
        .deploy(&branch_of(&test.open(), false), "production", 1)
        .unwrap();
    let subjects = test.git(&["log", "--format=%s", "scap/state"]);
    let lines: Vec<&str> = subjects.lines().collect();
    assert_eq!(
        lines,
        [
            "production mw/config: release #1 done, finalized",
            "production mw/config: release #1: wave canary is through",
            "production mw/config: release #1 begins",
            "production mw/config: locked",
        ]
    );
    let trailer = |key: &str| {
        let format = format!("--format=%(trailers:key={key},valueonly)");
        test.git(&["log", "-1", &format, "scap/state"])
    };
    assert_eq!(trailer("Scap-Release"), release.to_string());
    assert_eq!(trailer("Scap-Sequence"), "1");
    assert_eq!(trailer("Scap-Outcome"), "done");
    assert_eq!(trailer("Scap-Environment"), "production");
}

#[test]
fn a_lock_given_back_says_that_nothing_was_released_only_where_nothing_was_begun() {
    let test = repo(&[]);
    let branch = branch_of(&test.open(), false);
    let said = || test.git(&["log", "-1", "--format=%s", "scap/state"]);
    let first = ledger(&branch, "production", 0);
    first.lock("test", at(0)).unwrap();
    first.unlock(at(1)).unwrap();
    assert!(said().ends_with("unlocked, nothing was released"));
    let second = ledger(&branch, "production", 2);
    second.lock("test", at(2)).unwrap();
    let (rollout, signed) = Signing::new().release(&second, &place("production"), 4);
    second.begin(&rollout, &signed, at(3)).unwrap();
    second.unlock(at(4)).unwrap();
    assert!(
        said().ends_with("unlocked; how release #4 ended is not known"),
        "{}",
        said()
    );
    // The next that is given back is about itself.
    let third = ledger(&branch, "production", 5);
    third.lock("test", at(5)).unwrap();
    third.unlock(at(6)).unwrap();
    assert!(said().ends_with("unlocked, nothing was released"));
}

#[test]
fn what_became_of_the_largest_fleet_is_bounded_and_read_back() {
    use scap_proto::{
        id::NodeId,
        limits::PLAN_HOSTS_MAX,
        reason::{Because, Reason},
    };
    let names: Vec<NodeId> = (0..PLAN_HOSTS_MAX)
        .map(|number| {
            format!("{number:0>width$}", width = NodeId::BYTES_MAX)
                .parse()
                .unwrap()
        })
        .collect();
    // As JSON has it, a character of six bytes.
    let reason =
        |number: usize| Reason::Failed.because(format!("{number}{}", "\u{1}".repeat(1000)));
    let reasons: Vec<Because> = (0..PLAN_HOSTS_MAX).map(reason).collect();
    let all = names.iter().zip(&reasons);
    let grouped = Hosts::group(all.map(|(name, reason)| (name, "failed", Some(reason))));
    assert_eq!(grouped.count("failed"), PLAN_HOSTS_MAX);
    assert_eq!(grouped.groups.len(), Hosts::REASONS_MAX + 1);
    let others = grouped
        .groups
        .iter()
        .find(|it| it.reason == Hosts::OTHER_REASONS);
    assert_eq!(
        others.unwrap().hosts.len(),
        PLAN_HOSTS_MAX - Hosts::REASONS_MAX
    );

    let test = repo(&[]);
    let branch = branch_of(&test.open(), false);
    let ours = ledger(&branch, "production", 0);
    ours.lock("test", at(0)).unwrap();
    ours.end_wave("all", &grouped, at(1)).unwrap();
    let present = present(&test.open());
    assert_eq!(present[0].hosts, grouped);
}

#[test]
fn stock_tools_verify_a_release_from_any_clone() {
    let test = repo(&[]);
    let signing = Signing::new();
    signing
        .deploy(&branch_of(&test.open(), false), "production", 1)
        .unwrap();
    signing.allowed_signers();
    let clone = tempfile::tempdir().unwrap();
    let script = format!(
        "set -e; cd {}; git clone -q --bare {} c; \
         git -C c show scap/state:production/mw+config/stable/release.sig > release.sig; \
         git -C c show scap/state:production/mw+config/stable/release | \
         ssh-keygen -Y verify -f {}/allowed_signers -I deployer \
         -n scap-release:production:mw/config -s release.sig",
        clone.path().display(),
        test.path().display(),
        signing.folder.path().display(),
    );
    let status = Command::new("sh").args(["-c", &script]).status().unwrap();
    assert!(status.success());
}

#[test]
fn what_a_later_version_keeps_beside_is_kept() {
    let test = repo(&[]);
    let signing = Signing::new();
    let branch = branch_of(&test.open(), false);
    signing.deploy(&branch, "production", 1).unwrap();
    let repo = test.open();
    // A file more, in each folder.
    let index = test.path().join("index-of-test");
    let script = format!(
        "export GIT_INDEX_FILE={}; cd {}; git read-tree scap/state; \
         id=$(echo more | git hash-object -w --stdin); \
         for at in more production/more production/mw+config/more; do \
         git update-index --add --cacheinfo 100644,$id,$at; done; \
         git -c user.name=a -c user.email=a commit-tree -p scap/state -m more $(git write-tree)",
        index.display(),
        test.path().display(),
    );
    let output = Command::new("sh").args(["-c", &script]).output().unwrap();
    let commit = String::from_utf8(output.stdout).unwrap();
    test.git(&["update-ref", "refs/heads/scap/state", commit.trim()]);
    signing.deploy(&branch, "production", 2).unwrap();
    for at in ["more", "production/more", "production/mw+config/more"] {
        assert_eq!(test.git(&["show", &format!("scap/state:{at}")]), "more");
    }
    assert_eq!(
        history(&repo)
            .past(&place("production"))
            .unwrap()
            .releases
            .len(),
        2
    );
}

#[test]
fn a_release_is_found_by_its_sequence_or_the_start_of_its_id() {
    let test = repo(&[]);
    let signing = Signing::new();
    let branch = branch_of(&test.open(), false);
    let ids: Vec<_> = (1..=3)
        .map(|sequence| signing.deploy(&branch, "production", sequence).unwrap())
        .collect();
    signing.deploy(&branch, "staging", 3).unwrap();
    let history = history(&test.open());
    let mut all = history.past(&place("production")).unwrap().releases;
    for name in ["#2", "2", &ids[1].to_string()[..8]] {
        assert_eq!(find(&all, name).unwrap().rollout.release, ids[1], "{name}");
    }
    for name in ["#4", "4", "", "zzzz", &ids[1].to_string()[..3]] {
        assert!(
            matches!(find(&all, name), Err(FindError::Unknown(_))),
            "{name}"
        );
    }
    all.extend(history.past(&place("staging")).unwrap().releases);
    assert!(matches!(find(&all, "#3"), Err(FindError::Ambiguous { .. })));
}

#[test]
fn going_back_is_to_the_last_finalized_release_of_another_tree() {
    let releases = |what: &[(u64, u8, bool, Option<u64>)]| -> Vec<Recorded> {
        let recorded = |(sequence, tree, is_finalized, back): &(u64, u8, bool, Option<u64>)| {
            let mut rollout = record::tests::rollout(*sequence);
            rollout.snapshot = scap_proto::id::SnapshotId::of(&[*tree]);
            rollout.rolls_back_to = *back;
            Recorded {
                place: place("production"),
                rollout,
                is_finalized: *is_finalized,
                state_commit: vec![0; 20].try_into().unwrap(),
            }
        };
        what.iter().rev().map(recorded).collect()
    };
    let to = |what: &[_]| before_latest(&releases(what), false).map(|it| it.rollout.sequence);
    assert_eq!(to(&[]), None);
    assert_eq!(to(&[(1, 1, true, None)]), None);
    assert_eq!(to(&[(1, 1, true, None), (2, 2, true, None)]), Some(1));
    // Of the same tree it would change nothing.
    assert_eq!(
        to(&[(1, 1, true, None), (2, 2, true, None), (3, 2, true, None)]),
        Some(1)
    );
    // One that never became stable is nothing to go back to.
    assert_eq!(
        to(&[(1, 1, true, None), (2, 2, false, None), (3, 3, true, None)]),
        Some(1)
    );
    assert_eq!(
        to(&[(1, 1, true, None), (2, 2, true, None), (3, 3, false, None)]),
        Some(2)
    );
    // A rollback that was interrupted goes on.
    assert_eq!(
        to(&[
            (1, 1, true, None),
            (2, 2, true, None),
            (3, 1, false, Some(1))
        ]),
        Some(1)
    );
    // What was stable for some hosts alone is nothing for all to go back to.
    let mut all = releases(&[(1, 1, true, None), (2, 2, true, None), (3, 3, true, None)]);
    all[1].rollout.is_limited = true;
    let to = |is_for_chosen| before_latest(&all, is_for_chosen).map(|it| it.rollout.sequence);
    assert_eq!((to(false), to(true)), (Some(1), Some(2)));
}

#[test]
fn beside_what_is_stable_for_some_hosts_alone_stays_what_is_so_for_all() {
    let test = repo(&[]);
    let branch = branch_of(&test.open(), false);
    let signing = Signing::new();
    let only = Reach::Only(["web1".parse().unwrap()].into());
    let folders = |reach: &Reach, sequence: u64| {
        signing
            .deploy_to(&branch, "production", sequence, reach)
            .unwrap();
        let at = "scap/state:production/mw+config";
        let names = test.git(&["ls-tree", "--name-only", "-d", at]);
        let id = |name: &str| test.git(&["rev-parse", &format!("{at}/{name}")]);
        let open = names.contains("open").then(|| id("open"));
        (id("stable"), open)
    };
    let (_, open) = folders(&only, 1);
    assert_eq!(open, None, "nothing was so for all");
    let (second, open) = folders(&Reach::All, 2);
    assert_eq!(open, None);
    for sequence in [3, 4] {
        let (stable, open) = folders(&only, sequence);
        assert_eq!(open.as_ref(), Some(&second));
        assert_ne!(stable, second);
    }
    assert_eq!(folders(&Reach::All, 5).1, None);
}
