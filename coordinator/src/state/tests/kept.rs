//! What the records of a state directory say to keep in its store.

use std::collections::BTreeSet;

use scap_proto::{
    content::{ChunkRef, SnapshotRef},
    id::{ChunkId, SnapshotId},
    release::{DeltaRef, Grant, Release, SignedGrant, SignedRelease, UnixMillis},
};

use super::world::place;
use crate::state::{Place, Record, StateDirectory};

/// A release of a place with a delta in one part, recorded.
fn record(state: &StateDirectory, place: &Place, part: ChunkId) {
    let snapshot = SnapshotRef {
        id: SnapshotId::of(b"new"),
        descriptor_length: 1,
    };
    let delta = DeltaRef {
        base: SnapshotId::of(b"old"),
        chunks: vec![ChunkRef {
            id: part,
            plain_length: 1,
        }],
    };
    let release = Release {
        repo: place.0.clone(),
        environment: place.1.clone(),
        audience: Default::default(),
        sequence: 1,
        snapshot,
        commit: None,
        config: None,
        deltas: vec![delta],
        previous: None,
        created: UnixMillis(0),
        expires: UnixMillis(u64::MAX),
        extensions: Default::default(),
    };
    let signer = state.signer(None).unwrap();
    let signed = SignedRelease::sign(&release, &signer).unwrap();
    let key = state.begin_session(&place.0, &place.1).unwrap();
    let grant = Grant {
        release: signed.id(),
        session_key: *key.public(),
        epoch: 1,
        expires: UnixMillis(u64::MAX),
        extensions: Default::default(),
    };
    let record = Record {
        sequence: 1,
        release: signed,
        epoch: 1,
        grant: SignedGrant::sign(&grant, &release.namespace(), &signer).unwrap(),
        is_finalized: false,
        snapshots: vec![snapshot],
    };
    state.save_record(&place.0, &place.1, &record).unwrap();
}

#[test]
fn the_deltas_of_rollouts_are_kept_until_their_sessions_are_over() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    StateDirectory::init(&path, &"test".parse().unwrap(), UnixMillis(1)).unwrap();
    let state = StateDirectory::open(&path).unwrap();
    let parts = [1, 2].map(|number| ChunkId::of(&[number]));
    let places = [place("production"), place("staging")];
    for (place, part) in places.iter().zip(parts) {
        record(&state, place, part);
    }
    // One that is about to make its first record.
    let (repo, environment) = place("testing");
    state.begin_session(&repo, &environment).unwrap();
    assert_eq!(state.kept_deltas().unwrap(), BTreeSet::from(parts));
    state.end_session(&places[0].0, &places[0].1).unwrap();
    assert_eq!(state.kept_deltas().unwrap(), BTreeSet::from([parts[1]]));
    assert_eq!(state.kept_snapshots().unwrap().len(), 1);
}
