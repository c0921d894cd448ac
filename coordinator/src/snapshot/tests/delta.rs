//! Deltas: what is made by them is what is missing, and takes nothing but the base.

use std::collections::BTreeSet;

use proptest::{collection::vec, prelude::*, sample::Index};
use scap_proto::{content::delta::Part, limits::DELTA_PARTS_MAX};

use super::{
    earlier::{
        Model, any_edit, any_path, any_thing, apply, build_since, commit_all, one_line_edit, put,
    },
    *,
};

/// The chunks that a delta makes for who has the base and nothing else. Asserts that it has them not, and needs them.
#[track_caller]
fn made_by(delta: &Delta, base: &Built, new: &Built, sink: &MemorySink) -> BTreeSet<ChunkId> {
    let ids = |built: &Built| -> BTreeSet<ChunkId> {
        built.layout.refs().iter().map(|chunk| chunk.id).collect()
    };
    let (held, wanted) = (ids(base), ids(new));
    assert_eq!(delta.reference.base, base.snapshot.id);
    assert!((1..=DELTA_PARTS_MAX).contains(&delta.reference.chunks.len()));
    let mut made = BTreeSet::new();
    for part in &delta.reference.chunks {
        let bytes = sink.plain(&part.id);
        assert_eq!(bytes.len(), part.plain_length as usize);
        let part = Part::decode(&bytes).unwrap();
        let look_up = |id: &ChunkId| {
            assert!(held.contains(id), "{id} is not of the base");
            Ok::<_, scap_proto::content::DeltaError>(sink.plain(id).into())
        };
        let base = part.collect_base(look_up).unwrap();
        for chunk in part.make(&base).unwrap() {
            let id = chunk.unwrap().id();
            assert!(
                wanted.contains(&id) && !held.contains(&id) && made.insert(id),
                "{id}"
            );
        }
    }
    assert_eq!(made.len() as u64, delta.saves.chunks);
    assert!(2 * delta.encoded_bytes <= delta.saves.encoded_bytes + made.len() as u64);
    made
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        // Each is some repo with two commits.
        cases: ProptestConfig::default().cases / 4,
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_delta_makes_missing_chunks_of_the_base_alone(
        first in vec((any_path(), any_thing()), 0..60),
        edits in vec(any_edit(), 0..6),
        other in any::<Index>(),
    ) {
        let mut model = Model::new();
        for (path, thing) in first {
            put(&mut model, path, thing);
        }
        let mut models = vec![model.clone()];
        for edit in edits {
            apply(&mut model, edit);
            models.push(model.clone());
        }
        let test = TestRepo::new(&["--bare"]);
        let commits = commit_all(&test, &models, 40);
        let (repo, sink) = (&test.open(), MemorySink::default());
        let build = |commit: &GitOid| build_quietly(Source::Commit { repo, commit }, &sink).unwrap();
        let base = build(&commits[other.index(commits.len())]);
        let new = build(commits.last().unwrap());
        match build_delta(base.snapshot.id, &new.layout, &sink) {
            None => {}
            Some(_) if base.snapshot == new.snapshot => prop_assert!(false, "nothing is missing"),
            Some(delta) => {
                made_by(&delta, &base, &new, &sink);
            }
        }
    }
}

/// The sample repo, its line edited, and both snapshots in one sink.
fn edited() -> (Built, Built, MemorySink) {
    let (test, before, after) = one_line_edit();
    let (base, sink) = snapshot_of_commit(&test, &before);
    let (new, _) = build_since(&test.open(), &after, (&before, &base), &sink, 2).unwrap();
    (base, new, sink)
}

#[test]
fn a_one_line_edit_is_a_delta_of_a_kilobyte_that_leaves_nothing_to_fetch() {
    let (base, new, sink) = edited();
    let delta = build_delta(base.snapshot.id, &new.layout, &sink).unwrap();
    let made = made_by(&delta, &base, &new, &sink);
    let held = |id: &ChunkId| base.layout.refs().iter().any(|chunk| chunk.id == *id);
    let missing = new.layout.refs().iter().filter(|chunk| !held(&chunk.id));
    assert_eq!(made, missing.map(|chunk| chunk.id).collect());
    assert_eq!(delta.reference.chunks.len(), 1);
    assert!(delta.encoded_bytes < 2048, "{} bytes", delta.encoded_bytes);
}

#[test]
fn without_a_chunk_of_the_base_there_is_no_delta() {
    let (base, new, sink) = edited();
    let has = |id: &ChunkId| new.layout.refs().iter().any(|chunk| chunk.id == *id);
    let gone = base.layout.refs().iter().filter(|chunk| !has(&chunk.id));
    for gone in gone {
        let taken = sink.chunks.lock().unwrap().remove(&gone.id).unwrap();
        assert!(build_delta(base.snapshot.id, &new.layout, &sink).is_none());
        sink.chunks.lock().unwrap().insert(gone.id, taken);
    }
    assert!(build_delta(base.snapshot.id, &new.layout, &sink).is_some());
    assert!(
        build_delta(base.snapshot.id, &base.layout, &sink).is_none(),
        "nothing changed"
    );
}

#[test]
fn what_a_delta_gains_nothing_by_stays_out_of_it() {
    let (test, before, _) = one_line_edit();
    let (base, sink) = snapshot_of_commit(&test, &before);
    test.write("sizes/3000000", &noise(77, 5_000_000));
    test.write("many/3/150", b"edited again\n");
    let after = test.commit("a file of noise");
    let (new, _) = build_since(&test.open(), &after, (&before, &base), &sink, 2).unwrap();
    let delta = build_delta(base.snapshot.id, &new.layout, &sink).unwrap();
    made_by(&delta, &base, &new, &sink);
    assert!(delta.encoded_bytes < 8192, "{} bytes", delta.encoded_bytes);
    let missing = new.new.encoded_bytes - delta.saves.encoded_bytes;
    assert!(
        (5_000_000..5_100_000).contains(&missing),
        "{missing} bytes are left to fetch"
    );
}

#[test]
fn a_change_of_many_megabytes_is_made_in_several_parts() {
    let test = TestRepo::new(&[]);
    let file = |seed| noise(seed, 3_000_000);
    for seed in 0..8 {
        test.write(format!("large/{seed}"), &file(seed));
    }
    let before = test.commit("before");
    for seed in 0..8 {
        let mut bytes = file(seed);
        // A byte in each chunk, and a beginning that moves all the others.
        bytes.iter_mut().step_by(30_000).for_each(|byte| *byte ^= 1);
        bytes.splice(0..0, *b"new");
        test.write(format!("large/{seed}"), &bytes);
    }
    let after = test.commit("after");
    let (base, sink) = snapshot_of_commit(&test, &before);
    let (new, _) = build_since(&test.open(), &after, (&before, &base), &sink, 2).unwrap();
    let delta = build_delta(base.snapshot.id, &new.layout, &sink).unwrap();
    let made = made_by(&delta, &base, &new, &sink);
    assert!((6..=8).contains(&delta.reference.chunks.len()), "{delta:?}");
    assert_eq!(made.len() as u64, new.new.chunks);
    assert!(
        delta.encoded_bytes < 100_000,
        "{} bytes",
        delta.encoded_bytes
    );
}
