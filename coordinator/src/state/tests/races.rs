//! Two clones and one upstream: who comes second is told, and nobody else is in the way.

use std::{thread, time::Duration};

use super::world::*;
use crate::state::{Base, Branch, BranchError, Failpoint, KnownTip, before_latest};

#[test]
fn of_two_clones_that_race_for_one_environment_exactly_one_wins() {
    for _ in 0..5 {
        let shared = Shared::new();
        let results: Vec<_> = thread::scope(|scope| {
            let racers: Vec<_> = [0, 1]
                .map(|clone| {
                    let branch = shared.branch(clone);
                    scope.spawn(move || {
                        let ledger = ledger(&branch, "production", clone as i64);
                        ledger
                            .lock("race", at(0))
                            .map(|_| ledger.holder().rollout.clone())
                    })
                })
                .into();
            racers
                .into_iter()
                .map(|racer| racer.join().unwrap())
                .collect()
        });
        let (won, lost): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
        assert_eq!((won.len(), lost.len()), (1, 1), "{won:?} {lost:?}");
        let (winner, loser) = (won[0].as_ref().unwrap(), lost[0].as_ref().unwrap_err());
        assert!(loser.is_held(), "{loser:?}");
        let said = loser.to_string();
        assert!(said.contains(winner) && said.contains("race"), "{said}");
        shared.upstream.git(&["fsck", "--strict"]);
    }
}

#[test]
fn two_environments_never_block_each_other() {
    let shared = Shared::new();
    let signing = Signing::new();
    thread::scope(|scope| {
        for clone in [0, 1] {
            let branch = shared.branch(clone);
            let signing = &signing;
            scope.spawn(move || {
                for sequence in 1..=4 {
                    let environment = ["production", "staging"][clone];
                    signing.deploy(&branch, environment, sequence).unwrap();
                }
            });
        }
    });
    let repo = shared.upstream.open();
    for environment in ["production", "staging"] {
        let past = history(&repo).past(&place(environment)).unwrap();
        assert_eq!(past.releases.len(), 4, "{environment}");
    }
}

#[test]
fn many_of_one_clone_take_turns() {
    let test = repo(&[]);
    let signing = Signing::new();
    thread::scope(|scope| {
        for number in 0..4 {
            let branch = branch_of(&test.open(), false);
            let signing = &signing;
            scope.spawn(move || signing.deploy(&branch, &format!("env{number}"), 1).unwrap());
        }
    });
    assert_eq!(history(&test.open()).present().unwrap().len(), 4);
}

#[test]
fn an_end_that_the_upstream_did_not_get_gets_there_with_the_next_change() {
    let shared = Shared::new();
    let signing = Signing::new();
    let branch = shared.branch(0);
    let ours = ledger(&branch, "production", 0);
    ours.lock("test", at(0)).unwrap();
    let (rollout, signed) = signing.release(&ours, &place("production"), 1);
    ours.begin(&rollout, &signed, at(1)).unwrap();
    shared.cut(0, true);
    // Its address was read when it was opened.
    let cut = shared.branch(0);
    let cut_ledger = cut_off(&cut, &ours);
    let end = crate::state::End {
        outcome: crate::state::Outcome::Done,
        code: None,
        hosts: hosts("promoted"),
        signed,
    };
    let updated = cut_ledger.end(&end, at(2)).unwrap();
    let problem = updated.problem.unwrap();
    assert!(
        matches!(problem, BranchError::Unreachable { .. }),
        "{problem:?}"
    );

    // Meanwhile somebody deploys elsewhere, and cannot here.
    signing.deploy(&shared.branch(1), "staging", 1).unwrap();
    let held = ledger(&shared.branch(1), "production", 5)
        .lock("x", at(5))
        .unwrap_err();
    assert!(held.is_held(), "{held:?}");

    shared.cut(0, false);
    signing.deploy(&shared.branch(0), "testing", 1).unwrap();
    let repo = shared.upstream.open();
    let past = history(&repo).past(&place("production")).unwrap();
    assert_eq!(
        past.releases[0].rollout.outcome,
        crate::state::Outcome::Done
    );
    assert!(present(&repo).iter().all(|it| it.folder.lock.is_none()));
    assert!(before_latest(&past.releases, false).is_none());
    shared.upstream.git(&["fsck", "--strict"]);
    // The other clone goes on from there.
    signing.deploy(&shared.branch(1), "production", 2).unwrap();
}

#[test]
fn where_both_have_changed_the_same_a_person_is_asked() {
    let shared = Shared::new();
    let signing = Signing::new();
    signing.deploy(&shared.branch(0), "production", 1).unwrap();
    signing.deploy(&shared.branch(1), "production", 2).unwrap();
    // Offline, clone 0 does not know of that.
    let offline = shared.offline(0);
    signing.deploy(&offline, "production", 2).unwrap();
    let ours = shared.clones[0].git(&["rev-parse", "scap/state"]);
    let tip = shared.tip();
    let production = || signing.deploy(&shared.branch(0), "production", 3);
    let error = production().unwrap_err();
    assert!(matches!(&error, BranchError::Diverged { what, .. } if what == "production mw/config"));
    assert!(error.needs_a_person());
    assert_eq!(tip, shared.tip(), "nothing is forced");
    assert!(error.hint().unwrap().contains("git update-ref refs/heads/"));

    // All else goes on, and it stays halted, with what was here at hand.
    for sequence in 1..=2 {
        signing
            .deploy(&shared.branch(0), "staging", sequence)
            .unwrap();
        signing
            .deploy(&shared.branch(1), "testing", sequence)
            .unwrap();
    }
    let error = production().unwrap_err();
    assert!(error.needs_a_person(), "{error:?}");
    let aside = "refs/scap/diverged/scap/state/production/mw+config";
    assert_eq!(shared.clones[0].git(&["rev-parse", aside]), ours);
    let past = history(&shared.upstream.open())
        .past(&place("production"))
        .unwrap();
    assert_eq!(
        past.releases.len(),
        2,
        "what was here is not at the upstream"
    );

    // What the hint says.
    let hint = error.hint().unwrap();
    let command = hint.split_once("git ").unwrap().1;
    let words: Vec<&str> = command.split(' ').collect();
    shared.clones[0].git(&words);
    production().unwrap();
}

#[test]
fn a_lock_that_is_anothers_at_the_upstream_is_lost_though_it_is_ours_here() {
    let shared = Shared::new();
    let ours = ledger(&shared.branch(0), "production", 0);
    ours.lock("test", at(0)).unwrap();
    // Out of reach for a while, in which somebody breaks the lock and deploys.
    shared.cut(0, true);
    let cut = cut_off(&shared.branch(0), &ours);
    assert!(cut.renew(at(1)).unwrap().is_here_only);
    crate::state::break_lock(&shared.branch(1), &place("production"), "gone", at(2)).unwrap();
    let theirs = ledger(&shared.branch(1), "production", 3);
    theirs.lock("mine now", at(3)).unwrap();
    shared.cut(0, false);
    let back = cut_off(&shared.branch(0), &ours);
    let lost = back.renew(at(4)).unwrap_err();
    assert!(
        matches!(&lost, BranchError::Lost { how, .. } if how.contains("mine now")),
        "{lost:?}"
    );
}

#[test]
fn a_fresh_clone_begins_offline_on_what_it_fetched() {
    let shared = Shared::new();
    let signing = Signing::new();
    signing.deploy(&shared.branch(0), "production", 1).unwrap();
    shared.clones[1].git(&["fetch", "-q"]);
    signing.deploy(&shared.offline(1), "staging", 1).unwrap();
    let roots = [
        "rev-list",
        "--max-parents=0",
        "scap/state",
        "origin/scap/state",
    ];
    assert_eq!(shared.clones[1].git(&roots).lines().count(), 1);
    signing.deploy(&shared.branch(1), "testing", 1).unwrap();
    let present = present(&shared.upstream.open());
    assert_eq!(present.len(), 3);
}

#[test]
fn what_the_upstream_has_is_done_though_the_branch_here_cannot_follow() {
    let shared = Shared::new();
    let branch = shared.branch(0);
    let ours = ledger(&branch, "production", 0);
    ours.lock("test", at(0)).unwrap();
    let lock = shared.clones[0].write(".git/refs/heads/scap/state.lock", b"");
    let updated = ours.renew(at(1)).unwrap();
    assert!(!updated.is_here_only);
    let problem = updated.problem.unwrap();
    assert!(problem.to_string().contains("state.lock"), "{problem}");
    assert_eq!(shared.tip(), updated.commit.to_string());
    std::fs::remove_file(lock).unwrap();

    // And one that cannot be remembered.
    let dangling = shared.clones[0].path().join(".git/objects/dangling");
    std::os::unix::fs::symlink("nowhere", &dangling).unwrap();
    let repo = shared.clones[0].open();
    let base = Base::Upstream(repo.remote("origin", Duration::from_secs(20)).unwrap());
    let known = KnownTip::new(dangling.join("tip"), "one".into());
    let branch = Branch::new(repo, name(), base, Some(known), Failpoint::default());
    let updated = ours.through(branch).unlock(at(2)).unwrap();
    assert!(matches!(updated.problem, Some(BranchError::Tip(_))));
    assert_eq!(shared.tip(), updated.commit.to_string());
}

#[test]
fn an_upstream_out_of_reach_lets_nothing_begin() {
    let shared = Shared::new();
    shared.cut(0, true);
    let error = Signing::new()
        .deploy(&shared.branch(0), "production", 1)
        .unwrap_err();
    assert!(
        matches!(error, BranchError::Unreachable { .. }),
        "{error:?}"
    );
    assert!(error.hint().unwrap().contains("--offline"));
    let repo = shared.clones[0].open();
    assert_eq!(repo.tip(&name()).unwrap(), None, "nothing was written");
}

/// The same run, through another look at the repository.
fn cut_off(branch: &Branch, ledger: &crate::state::Ledger) -> crate::state::Ledger {
    ledger.through(branch.clone())
}
