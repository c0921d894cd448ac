//! What one deployment finds of another that it goes on with, and what that one is told.

use scap_proto::reason::Reason;

use super::*;

#[test]
fn a_lock_may_be_taken_from_somebody_who_is_there_and_both_are_told() {
    let shared = Shared::new();
    let signing = Signing::new();
    let branch = shared.branch(0);
    let first = ledger(&branch, "production", 0);
    first.lock("deploy", at(0)).unwrap();
    let place = place("production");
    let (rollout, signed) = signing.release(&first, &place, 1);
    first.begin(&rollout, &signed, at(1)).unwrap();
    let other = shared.branch(1);
    let second = ledger(&other, "production", 60);
    assert!(second.lock("resume #1", at(60)).unwrap_err().is_held());
    let found = second
        .take_over("resume #1", "the laptop sleeps", at(60))
        .unwrap();
    let said = found.taken_over.unwrap();
    assert!(
        said.contains(&first.holder().rollout) && said.contains("the laptop sleeps"),
        "{said}"
    );
    assert_eq!(found.signed, Some(signed.clone()));
    let broken = found.record.broken_lock.unwrap();
    assert_eq!(
        (broken.rollout.as_str(), broken.reason.as_str()),
        (first.holder().rollout.as_str(), "the laptop sleeps")
    );
    let lost = |at_second: i64| match first.renew(at(at_second)).unwrap_err() {
        BranchError::Lost { how, .. } => how,
        error => panic!("{error:?}"),
    };
    let how = lost(61);
    assert!(how.contains(&second.holder().rollout), "{how}");
    assert!(how.contains("resume #1"), "{how}");
    // And once that is through.
    let rollout = Rollout {
        rollout: second.holder().rollout.clone(),
        ..rollout
    };
    second.begin(&rollout, &signed, at(62)).unwrap();
    let end = End {
        outcome: Outcome::Done,
        code: None,
        hosts: hosts("promoted"),
        signed,
    };
    second.end(&end, at(63)).unwrap();
    let how = lost(64);
    assert!(how.contains("the laptop sleeps"), "{how}");
    // A lock that is nobody's is no broken one.
    let third = ledger(&other, "production", 70);
    let found = third.take_over("deploy", "why not", at(70)).unwrap();
    assert_eq!(found.taken_over, None);
    assert_eq!(
        found.record.broken_lock.unwrap().reason,
        "the laptop sleeps"
    );
}

#[test]
fn whoever_lost_a_lease_is_told_who_went_on_and_how_that_ended() {
    let test = repo(&[]);
    let signing = Signing::new();
    let branch = branch_of(&test.open(), false);
    let first = ledger(&branch, "production", 0);
    first.lock("deploy", at(0)).unwrap();
    let late = LEASE.as_secs() + 1;
    let second = ledger(&branch, "production", late);
    second.lock("resume #1", at(late)).unwrap();
    let place = place("production");
    let (rollout, signed) = signing.release(&second, &place, 1);
    second.begin(&rollout, &signed, at(late + 1)).unwrap();
    let end = End {
        outcome: Outcome::Done,
        code: None,
        hosts: hosts("promoted"),
        signed,
    };
    second.end(&end, at(late + 2)).unwrap();
    let lost = first.renew(at(late + 3)).unwrap_err().to_string();
    let rollout = &second.holder().rollout;
    let said = format!("({rollout}) went on with release #1, which is done");
    assert!(lost.contains(&said), "{lost}");
}

#[test]
fn that_hosts_go_back_is_recorded_when_they_begin_to() {
    let test = repo(&[]);
    let signing = Signing::new();
    let branch = branch_of(&test.open(), false);
    let ledger = ledger(&branch, "production", 0);
    ledger.lock("deploy", at(0)).unwrap();
    let (rollout, signed) = signing.release(&ledger, &place("production"), 1);
    ledger.begin(&rollout, &signed, at(1)).unwrap();
    let latest = || {
        let present = present(&test.open());
        present[0].folder.record.clone().unwrap().latest.unwrap()
    };
    assert_eq!(latest().going_back, None);
    let why = Reason::Aborted.because("a person said so");
    ledger.go_back(&why, at(2)).unwrap();
    assert_eq!(latest().code, Some(Reason::Aborted));
    assert_eq!(latest().going_back.as_deref(), Some("a person said so"));
    assert_eq!(latest().outcome, Outcome::Running);
    let said = test.git(&["log", "--format=%s", "-1", "scap/state"]);
    assert!(said.contains("release #1 is rolled back"), "{said}");
    // Gone on with, it is the same again, begun anew.
    ledger.begin(&rollout, &signed, at(3)).unwrap();
    assert_eq!(latest().going_back, None);
}
