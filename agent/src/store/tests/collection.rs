//! Collection beside everything else.

use std::{
    collections::BTreeSet,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
};

use rand::{Rng, SeedableRng, seq::IndexedRandom};
use rand_pcg::Pcg64;

use super::*;

#[test]
fn a_collection_removes_what_is_not_kept_and_a_reopened_store_agrees() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(directory.path());
    CHUNKS
        .iter()
        .for_each(|chunk| assert_eq!(store.put(chunk).unwrap(), Put::New));
    store.sync().unwrap();
    drop(store.begin_collection());
    assert_eq!(store.usage().unwrap().chunks, CHUNKS.len() as u64);

    let collection = store.begin_collection();
    CHUNKS[..5]
        .iter()
        .for_each(|chunk| collection.keep(&chunk.id()));
    let collected = collection.sweep().unwrap();
    let bytes = CHUNKS[5..].iter().map(|chunk| chunk.bytes().len() as u64);
    assert_eq!(collected.chunks, CHUNKS.len() as u64 - 5);
    assert_eq!(collected.bytes, bytes.sum::<u64>());
    drop(store);
    let (store, recovery) = open(directory.path());
    assert!(
        recovery.is_clean() && recovery.durable_chunks == 5,
        "{recovery:?}"
    );
    assert!(CHUNKS[..5].iter().all(|chunk| holds(&store, chunk)));
    assert_eq!(files(directory.path()).len(), 5);
}

#[test]
fn what_a_hold_counted_is_spared_until_it_is_dropped() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(directory.path());
    CHUNKS[..4]
        .iter()
        .for_each(|chunk| assert_eq!(store.put(chunk).unwrap(), Put::New));
    let hold = store.hold();
    assert!(hold.contains(&CHUNKS[0].id()));
    assert!(!hold.contains(&CHUNKS[9].id()));
    // A look without the hold is no promise.
    assert!(store.contains(&CHUNKS[1].id()));
    store.put(&CHUNKS[5]).unwrap();
    for removed in [3, 0] {
        let collected = store.begin_collection().sweep().unwrap();
        assert_eq!(collected.chunks, removed);
    }
    assert!(holds(&store, &CHUNKS[0]) && holds(&store, &CHUNKS[5]));
    // One that began while the hold was open spares it, although it is dropped before the sweep.
    let collection = store.begin_collection();
    drop(hold);
    assert_eq!(collection.sweep().unwrap().chunks, 0);
    assert_eq!(store.begin_collection().sweep().unwrap().chunks, 2);
}

#[test]
fn what_is_put_while_a_collection_thinks_is_spared() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(directory.path());
    store.put(&CHUNKS[0]).unwrap();
    store.put(&CHUNKS[1]).unwrap();
    let collection = store.begin_collection();
    store.put(&CHUNKS[2]).unwrap();
    assert_eq!(store.put(&CHUNKS[1]).unwrap(), Put::Present);
    assert_eq!(collection.sweep().unwrap().chunks, 1);
    assert!(!store.contains(&CHUNKS[0].id()));
    assert!(holds(&store, &CHUNKS[1]) && holds(&store, &CHUNKS[2]));
}

/// Three admitters and a collector, each following the rule in `gc`, while a fourth thread syncs. Each
/// admitter keeps its last release, and what it has counted must be there as long as it is kept.
#[test]
fn nothing_that_an_admission_counted_as_held_is_collected() {
    const ADMITTERS: usize = 3;
    /// Of each admitter: at least, and at most until enough was contended for.
    const ROUNDS: (u32, u32) = (100, 20_000);
    const CONTENDED: u64 = 200;
    let directory = memory_dir();
    let (store, _) = open(directory.path());
    let kept = [const { Mutex::new(BTreeSet::<usize>::new()) }; ADMITTERS];
    let is_done = AtomicBool::new(false);
    let (counted, collected) = (AtomicU64::new(0), AtomicU64::new(0));

    let admit = |mut random: Pcg64, kept: &Mutex<BTreeSet<usize>>| {
        let all: Vec<usize> = (0..CHUNKS.len()).collect();
        for round in 0..ROUNDS.1 {
            let is_contended = [&counted, &collected]
                .iter()
                .all(|count| count.load(Ordering::Relaxed) >= CONTENDED);
            if round >= ROUNDS.0 && is_contended {
                break;
            }
            let release: BTreeSet<usize> = all.choose_multiple(&mut random, 8).copied().collect();
            let hold = store.hold();
            let (present, missing): (Vec<usize>, Vec<usize>) = release
                .iter()
                .partition(|n| hold.contains(&CHUNKS[**n].id()));
            counted.fetch_add(present.len() as u64, Ordering::Relaxed);
            for n in missing {
                store.put(&CHUNKS[n]).unwrap();
                if random.random_ratio(1, 4) {
                    thread::yield_now();
                }
            }
            assert!(
                release.iter().all(|n| holds(&store, &CHUNKS[*n])),
                "collected under a hold"
            );
            kept.lock().unwrap().clone_from(&release);
            drop(hold);
            thread::yield_now();
            assert!(
                release.iter().all(|n| holds(&store, &CHUNKS[*n])),
                "collected though kept"
            );
        }
    };
    thread::scope(|scope| {
        let admitters: Vec<_> = (0..)
            .zip(&kept)
            .map(|(n, kept)| scope.spawn(move || admit(Pcg64::seed_from_u64(n), kept)))
            .collect();
        scope.spawn(|| {
            while !is_done.load(Ordering::Relaxed) {
                let collection = store.begin_collection();
                for kept in &kept {
                    let kept = kept.lock().unwrap().clone();
                    kept.iter().for_each(|n| collection.keep(&CHUNKS[*n].id()));
                }
                thread::yield_now();
                collected.fetch_add(collection.sweep().unwrap().chunks, Ordering::Relaxed);
            }
        });
        scope.spawn(|| {
            while !is_done.load(Ordering::Relaxed) {
                store.sync().unwrap();
            }
        });
        let results: Vec<_> = admitters.into_iter().map(|thread| thread.join()).collect();
        is_done.store(true, Ordering::Relaxed);
        results.into_iter().for_each(|result| result.unwrap());
    });
    assert!(
        counted.into_inner() >= CONTENDED && collected.into_inner() >= CONTENDED,
        "nothing was contended"
    );
    assert_eq!(store.usage().unwrap().damaged_chunks, 0);
    store.sync().unwrap();
    drop(store);
    let (store, recovery) = open(directory.path());
    assert!(recovery.is_clean(), "{recovery:?}");
    assert!(files(directory.path()).iter().all(|id| store.contains(id)));
}

#[test]
fn many_threads_that_put_and_lose_the_same_chunks_store_each_once() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(directory.path());
    let new = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for chunk in CHUNKS.iter() {
                    if store.put(chunk).unwrap() == Put::New {
                        new.fetch_add(1, Ordering::Relaxed);
                    }
                    assert!(holds(&store, chunk));
                }
            });
        }
    });
    assert_eq!(new.into_inner(), CHUNKS.len() as u64);
    assert_eq!(
        fs::read_dir(directory.path().join("tmp")).unwrap().count(),
        0
    );
}

#[test]
fn an_index_of_mostly_stale_records_is_written_anew() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(directory.path());
    store.put(&CHUNKS[0]).unwrap();
    store.sync().unwrap();
    drop(store);
    let path = directory.path().join("index");
    let record = fs::read(&path).unwrap()[16..].to_vec();
    // The same chunk again and again, as after a year of deploys; the last opening leaves one more
    // than is worth keeping.
    let mut bytes = fs::read(&path).unwrap();
    bytes.extend(record.repeat(65_536));
    fs::write(&path, &bytes).unwrap();
    let (store, _) = open(directory.path());
    assert_eq!(fs::metadata(&path).unwrap().len(), bytes.len() as u64);
    store.put(&CHUNKS[1]).unwrap();
    store.sync().unwrap();
    let collection = store.begin_collection();
    collection.keep(&CHUNKS[0].id());
    collection.sweep().unwrap();
    assert_eq!(fs::metadata(&path).unwrap().len(), 16 + 48);
    store.put(&CHUNKS[2]).unwrap();
    store.sync().unwrap();
    drop(store);
    let (_, recovery) = open(directory.path());
    assert!(
        recovery.is_clean() && recovery.durable_chunks == 2,
        "{recovery:?}"
    );
}
