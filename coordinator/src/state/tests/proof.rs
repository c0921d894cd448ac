//! What is gone back to was signed, whatever a record says.

use std::num::NonZeroUsize;

use scap_proto::release::{Authority, UnixMillis};

use super::world::*;
use crate::state::{Ledger, ProofError, Recorded};

/// The release `sequence` of a repository's branch, against those whom `signing` allows.
fn prove(
    test: &crate::git::tests::TestRepo,
    signing: &Signing,
    edit: impl Fn(&mut Recorded),
) -> Result<u64, ProofError> {
    let history = history(&test.open());
    let mut recorded = history
        .past(&place("production"))
        .unwrap()
        .releases
        .remove(0);
    edit(&mut recorded);
    let signers = signing.allowed_signers();
    let authority = Authority {
        signers: &signers,
        threshold: NonZeroUsize::MIN,
    };
    let release = history.prove_finalized(&recorded, &authority, UnixMillis(1))?;
    Ok(release.release().sequence)
}

#[test]
fn a_finalized_release_is_proven_and_one_by_a_stranger_is_not() {
    let test = repo(&[]);
    let signing = Signing::new();
    signing
        .deploy(&branch_of(&test.open(), false), "production", 7)
        .unwrap();
    assert_eq!(prove(&test, &signing, |_| ()).unwrap(), 7);
    let error = prove(&test, &Signing::new(), |_| ()).unwrap_err();
    assert!(matches!(error, ProofError::Authority(_)), "{error:?}");
}

#[test]
fn a_record_that_names_other_than_what_was_signed_proves_nothing() {
    let test = repo(&[]);
    let signing = Signing::new();
    signing
        .deploy(&branch_of(&test.open(), false), "production", 1)
        .unwrap();
    let edits: [fn(&mut Recorded); 5] = [
        |it| it.rollout.commit = Some(vec![7; 20].try_into().unwrap()),
        |it| it.rollout.snapshot = scap_proto::id::SnapshotId::of(b"another"),
        |it| it.rollout.descriptor_length += 1,
        |it| it.rollout.sequence += 1,
        |it| it.rollout.release = scap_proto::id::ReleaseId::of(b"another"),
    ];
    for (number, edit) in edits.into_iter().enumerate() {
        let error = prove(&test, &signing, edit).unwrap_err();
        assert!(matches!(error, ProofError::Other(_)), "{number}: {error:?}");
    }
}

#[test]
fn a_release_that_was_begun_again_after_it_was_finalized_is_still_proven() {
    let test = repo(&[]);
    let signing = Signing::new();
    let branch = branch_of(&test.open(), false);
    signing.deploy(&branch, "production", 1).unwrap();
    let again: Ledger = ledger(&branch, "production", 9);
    again.lock("again", at(9)).unwrap();
    let (rollout, signed) = signing.release(&again, &place("production"), 1);
    again.begin(&rollout, &signed, at(10)).unwrap();
    assert_eq!(prove(&test, &signing, |_| ()).unwrap(), 1);
}

#[test]
fn a_record_that_calls_an_unfinalized_release_finalized_proves_nothing() {
    let test = repo(&[]);
    let signing = Signing::new();
    let ours = ledger(&branch_of(&test.open(), false), "production", 0);
    ours.lock("test", at(0)).unwrap();
    let (rollout, signed) = signing.release(&ours, &place("production"), 1);
    ours.begin(&rollout, &signed, at(1)).unwrap();
    let error = prove(&test, &signing, |it| it.is_finalized = true).unwrap_err();
    assert!(matches!(error, ProofError::Missing), "{error:?}");
}
