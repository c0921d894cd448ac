//! A store that several have open at a time. Each opening has locks of its own, as another process would.

use std::{
    collections::BTreeSet,
    io::Write as _,
    sync::{Mutex, PoisonError},
    thread,
};

use super::*;
use crate::store::{Admission, Collecting};

fn share(directory: &Path) -> (Store, Admission, Recovery) {
    Store::open_shared(directory, CONFIG).unwrap()
}

fn collect(collecting: &Collecting, keep: &[ChunkId]) -> u64 {
    let collection = collecting.store().begin_collection();
    keep.iter().for_each(|id| collection.keep(id));
    collection.sweep().unwrap().chunks
}

#[test]
fn what_several_put_at_the_same_time_is_all_there_and_listed() {
    let directory = memory_dir();
    let (one, _in_one, _) = share(directory.path());
    let (two, _in_two, _) = share(directory.path());
    assert_eq!(one.put(&CHUNKS[0]).unwrap(), Put::New);
    assert_eq!(two.put(&CHUNKS[0]).unwrap(), Put::Present);
    two.put(&CHUNKS[1]).unwrap();
    two.sync().unwrap();
    one.put(&CHUNKS[2]).unwrap();
    one.sync().unwrap();
    assert!(holds(&one, &CHUNKS[0]) && holds(&two, &CHUNKS[0]));
    drop((one, two));
    let (store, recovery) = open(directory.path());
    assert!(recovery.is_clean(), "{recovery:?}");
    assert_eq!(recovery.durable_chunks, 3);
    assert!(CHUNKS[..3].iter().all(|chunk| holds(&store, chunk)));
}

#[test]
fn whoever_wants_a_store_to_itself_has_it_alone() {
    let directory = memory_dir();
    let (shared, admission, _) = share(directory.path());
    let refused = Store::open(directory.path(), CONFIG).unwrap_err();
    assert!(matches!(refused, StoreError::InUse { .. }), "{refused}");
    drop((shared, admission));
    let (alone, _) = open(directory.path());
    let refused = Store::open_shared(directory.path(), CONFIG).unwrap_err();
    assert!(matches!(refused, StoreError::InUse { .. }), "{refused}");
    drop(alone);
    drop(share(directory.path()));
}

#[test]
fn nobody_collects_while_somebody_counts_on_what_is_not_written_down() {
    let directory = memory_dir();
    let (one, in_one, _) = share(directory.path());
    let (two, in_two, _) = share(directory.path());
    one.put(&CHUNKS[0]).unwrap();
    two.put(&CHUNKS[1]).unwrap();
    drop(in_one);
    assert!(one.to_collect().unwrap().is_none());
    drop(in_two);
    let collecting = one.to_collect().unwrap().unwrap();
    assert!(two.to_collect().unwrap().is_none(), "two collect at a time");
    assert_eq!(collect(&collecting, &[CHUNKS[1].id()]), 1);
    drop(collecting);
    assert!(holds(&two, &CHUNKS[1]));
    // What another one removed is found gone, and can be put again.
    let found = one.get(&CHUNKS[0].id()).unwrap();
    assert!(matches!(found, Lookup::Lost));
    assert_eq!(one.put(&CHUNKS[0]).unwrap(), Put::New);
}

#[test]
fn a_collection_finds_what_others_put_since_its_store_was_opened() {
    let directory = memory_dir();
    let (one, in_one, _) = share(directory.path());
    one.put(&CHUNKS[0]).unwrap();
    drop(in_one);
    let (two, in_two, _) = share(directory.path());
    two.put(&CHUNKS[1]).unwrap();
    two.put(&CHUNKS[2]).unwrap();
    drop((two, in_two));
    assert!(!one.contains(&CHUNKS[1].id()));
    let collecting = one.to_collect().unwrap().unwrap();
    // Keeping needs reading: a snapshot's own pages name the rest.
    assert!(holds(collecting.store(), &CHUNKS[1]));
    assert_eq!(collect(&collecting, &[CHUNKS[0].id(), CHUNKS[1].id()]), 1);
    assert_eq!(
        files(directory.path()),
        BTreeSet::from([CHUNKS[0].id(), CHUNKS[1].id()])
            .into_iter()
            .collect::<Vec<_>>()
    );
}

#[test]
fn whoever_has_been_alone_collects_without_looking_through_the_store_anew() {
    let directory = memory_dir();
    let (one, admission, _) = share(directory.path());
    one.put(&CHUNKS[0]).unwrap();
    drop(admission);
    // Only a look through it would find this.
    let path = file(directory.path(), &CHUNKS[1].id());
    let mut bytes = Vec::new();
    chunks::write(&mut bytes, &CHUNKS[1]).unwrap();
    fs::write(path, bytes).unwrap();
    let collecting = one.to_collect().unwrap().unwrap();
    assert!(!collecting.store().contains(&CHUNKS[1].id()));
    drop(collecting);
    drop(share(directory.path()));
    let collecting = one.to_collect().unwrap().unwrap();
    assert!(collecting.store().contains(&CHUNKS[1].id()));
}

#[test]
fn an_index_that_another_one_wrote_anew_or_left_half_written_is_appended_to() {
    let directory = memory_dir();
    let index = directory.path().join("index");
    let half_a_record = || {
        let mut file = fs::OpenOptions::new().append(true).open(&index).unwrap();
        file.write_all(&[7; 20]).unwrap();
    };
    let (one, _in_one, _) = share(directory.path());
    one.put(&CHUNKS[0]).unwrap();
    one.sync().unwrap();
    // As one that was killed while it appended leaves it; the next opening writes it anew.
    half_a_record();
    let (two, _in_two, recovery) = share(directory.path());
    assert_eq!(recovery.damaged_records, 1);
    one.put(&CHUNKS[1]).unwrap();
    one.sync().unwrap();
    half_a_record();
    two.put(&CHUNKS[2]).unwrap();
    two.sync().unwrap();
    drop((one, two));
    let (_, recovery) = open(directory.path());
    assert!(recovery.is_clean(), "{recovery:?}");
    assert_eq!(recovery.durable_chunks, 3);
}

#[test]
fn half_written_files_are_cleared_only_by_who_finds_nobody_else() {
    let directory = memory_dir();
    let (one, in_one, _) = share(directory.path());
    let half = directory.path().join("tmp/of another one");
    fs::write(&half, b"half").unwrap();
    let (two, in_two, recovery) = share(directory.path());
    assert_eq!(recovery.temporary_files, 0);
    assert!(half.exists());
    drop((one, in_one, two, in_two));
    let (_, _, recovery) = share(directory.path());
    assert_eq!(recovery.temporary_files, 1);
    assert!(!half.exists());
}

#[test]
fn a_damaged_file_of_another_one_is_replaced() {
    let directory = memory_dir();
    let (one, _in_one, _) = share(directory.path());
    let (two, _in_two, _) = share(directory.path());
    two.put(&CHUNKS[0]).unwrap();
    two.sync().unwrap();
    let path = file(directory.path(), &CHUNKS[0].id());
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, bytes).unwrap();
    assert_eq!(one.put(&CHUNKS[0]).unwrap(), Put::New);
    assert!(holds(&one, &CHUNKS[0]) && holds(&two, &CHUNKS[0]));
    drop((one, two));
    // It was not synced, and so not taken for the one that was.
    let (_, recovery) = open(directory.path());
    assert_eq!((recovery.durable_chunks, recovery.verified_chunks), (0, 1));
}

#[test]
fn what_is_written_down_is_never_collected_however_many_come_and_go() {
    let directory = memory_dir();
    let recorded = Mutex::new(vec![BTreeSet::new(); 4]);
    let all = || {
        let recorded = recorded.lock().unwrap_or_else(PoisonError::into_inner);
        recorded.iter().flatten().copied().collect::<Vec<_>>()
    };
    thread::scope(|scope| {
        for number in 0..4_usize {
            let (recorded, all, directory) = (&recorded, &all, directory.path());
            scope.spawn(move || {
                for round in 0..20_usize {
                    let (store, admission, _) = share(directory);
                    // Half of them are others' too, and each round leaves some behind.
                    let wanted: Vec<_> = (0..6)
                        .map(|at| &CHUNKS[(number * 3 + round * 5 + at) % CHUNKS.len()])
                        .collect();
                    for chunk in &wanted {
                        store.put(chunk).unwrap();
                    }
                    store.sync().unwrap();
                    recorded.lock().unwrap()[number] = wanted.iter().map(|it| it.id()).collect();
                    drop(admission);
                    if let Some(collecting) = store.to_collect().unwrap() {
                        collect(&collecting, &all());
                    }
                    for chunk in wanted {
                        assert!(holds(&store, chunk), "{number} lost one in round {round}");
                    }
                }
            });
        }
    });
    let (store, _, _) = share(directory.path());
    let collecting = store.to_collect().unwrap().unwrap();
    collect(&collecting, &all());
    let kept: BTreeSet<_> = all().into_iter().collect();
    assert_eq!(
        files(directory.path()),
        kept.into_iter().collect::<Vec<_>>()
    );
}
