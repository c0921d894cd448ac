//! What disks do to files, and that no read lets it through.

use std::{
    fs::File,
    io,
    sync::atomic::{AtomicBool, Ordering},
};

use proptest::prelude::*;

use super::*;

/// What happened to the file of one chunk.
#[derive(Debug, Clone, Copy)]
pub(super) enum Damage {
    Remove,
    Empty,
    /// To this many bytes, modulo its length.
    Truncate(u64),
    /// This bit, modulo their number.
    FlipBit(u64),
    /// Another chunk's file in its place.
    Copy,
    /// Bytes after its end.
    Lengthen,
}

impl Damage {
    pub(super) fn any() -> impl Strategy<Value = Self> {
        prop_oneof![
            Just(Self::Remove),
            Just(Self::Empty),
            any::<u64>().prop_map(Self::Truncate),
            any::<u64>().prop_map(Self::FlipBit),
            Just(Self::Copy),
            Just(Self::Lengthen),
        ]
    }

    /// Does it to chunk `n`; false where the file is gone already, or is as it was.
    pub(super) fn apply(self, directory: &Path, n: usize) -> bool {
        let path = file(directory, &CHUNKS[n].id());
        let Ok(old) = fs::read(&path) else {
            return false;
        };
        let length = old.len() as u64;
        let new = match self {
            Self::Remove => {
                fs::remove_file(&path).unwrap();
                return true;
            }
            Self::Empty => Vec::new(),
            Self::Truncate(to) => old[..usize::try_from(to % length.max(1)).unwrap()].to_vec(),
            Self::FlipBit(bit) if !old.is_empty() => {
                let bit = usize::try_from(bit % (length * 8)).unwrap();
                let mut new = old.clone();
                new[bit / 8] ^= 1 << (bit % 8);
                new
            }
            Self::FlipBit(_) => return false,
            Self::Copy => whole_file((n + 1) % CHUNKS.len()),
            Self::Lengthen => [old.as_slice(), b"more"].concat(),
        };
        fs::write(&path, &new).unwrap();
        // Damage on damage may, in principle, undo it: then the chunk would be whole.
        assert!(new != whole_file(n), "two damages made one chunk whole");
        new != old
    }
}

/// The bytes of the file of chunk `n`.
fn whole_file(n: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    chunks::write(&mut bytes, &CHUNKS[n]).unwrap();
    bytes
}

#[test]
fn every_flipped_bit_of_a_chunk_file_is_found_dropped_and_put_again() {
    let directory = memory_dir();
    let (store, _) = open(directory.path());
    let chunk = &CHUNKS[2];
    let bits = (24 + chunk.bytes().len() as u64) * 8;
    for bit in 0..bits {
        assert_eq!(store.put(chunk).unwrap(), Put::New);
        assert!(Damage::FlipBit(bit).apply(directory.path(), 2));
        assert!(matches!(store.get(&chunk.id()).unwrap(), Lookup::Lost));
        assert!(!store.contains(&chunk.id()));
        assert!(matches!(store.get(&chunk.id()).unwrap(), Lookup::Absent));
        assert!(files(directory.path()).is_empty());
    }
    assert_eq!(store.usage().unwrap().damaged_chunks, bits);
    store.put(chunk).unwrap();
    assert!(holds(&store, chunk));
}

#[test]
fn a_file_made_with_care_but_of_other_content_gives_no_plain_bytes_and_is_not_recovered() {
    let directory = memory_dir();
    let (store, _) = open(directory.path());
    let (id, other) = (CHUNKS[0].id(), &CHUNKS[1]);
    store.put(&CHUNKS[0]).unwrap();
    let mut bytes = whole_file(1);
    bytes[8..24].copy_from_slice(&chunks::checksum(&id, other.plain_length(), other.bytes()));
    let forge = || fs::write(file(directory.path(), &id), &bytes).unwrap();
    forge();
    let stored = store.get(&id).unwrap().found().unwrap();
    assert!(stored.plain().is_err());
    let reader = StoreReader::open(directory.path()).unwrap();
    assert_eq!(reader.plain(&id).unwrap(), Lookup::Lost);
    assert_eq!(store.plain(&id).unwrap(), Lookup::Lost);
    drop(store);
    forge();
    let (store, recovery) = open(directory.path());
    assert_eq!(recovery.removed_files, 1);
    assert!(!store.contains(&id));
}

#[test]
fn a_reader_in_another_process_sees_damage_and_leaves_it_to_the_owner() {
    let directory = tempfile::tempdir().unwrap();
    assert!(StoreReader::open(directory.path()).is_err());
    let (store, _) = open(directory.path());
    let reader = StoreReader::open(directory.path()).unwrap();
    let (id, other) = (CHUNKS[0].id(), CHUNKS[1].id());
    assert!(matches!(reader.get(&id).unwrap(), Lookup::Absent));
    store.put(&CHUNKS[0]).unwrap();
    assert_eq!(reader.plain(&id).unwrap(), Lookup::Found(CHUNKS[0].plain()));
    let found = reader.get(&id).unwrap().found().unwrap();
    assert_eq!(found.encoded(), CHUNKS[0].bytes());
    assert!(matches!(reader.get(&other).unwrap(), Lookup::Absent));
    assert!(Damage::FlipBit(500).apply(directory.path(), 0));
    assert!(matches!(reader.get(&id).unwrap(), Lookup::Lost));
    assert!(matches!(reader.plain(&id).unwrap(), Lookup::Lost));
    assert_eq!(files(directory.path()), [id]);
    assert!(matches!(store.get(&id).unwrap(), Lookup::Lost));
}

#[test]
fn any_damage_to_the_index_costs_hashing_and_no_chunk() {
    let directory = memory_dir();
    let path = directory.path().join("index");
    let (store, _) = open(directory.path());
    for chunk in CHUNKS.iter() {
        store.put(chunk).unwrap();
    }
    store.sync().unwrap();
    drop(store);
    let whole = fs::read(&path).unwrap();
    let count = CHUNKS.len() as u64;
    let reopen_with = |bytes: Option<&[u8]>| {
        match bytes {
            Some(bytes) => fs::write(&path, bytes).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
        let (store, recovery) = open(directory.path());
        assert!(CHUNKS.iter().all(|chunk| holds(&store, chunk)));
        store.sync().unwrap();
        drop(store);
        // It heals: the next opening hashes nothing.
        let (_, healed) = open(directory.path());
        assert!(
            healed.is_clean() && healed.durable_chunks == count,
            "{healed:?}"
        );
        recovery
    };
    assert!(reopen_with(Some(&whole)).is_clean());
    for length in (0..whole.len()).step_by(7) {
        let recovery = reopen_with(Some(&whole[..length]));
        let durable = (length.saturating_sub(16) / 48) as u64;
        assert_eq!(recovery.durable_chunks, durable, "{length} bytes of index");
        assert_eq!(recovery.verified_chunks, count - durable);
    }
    for at in (0..whole.len()).step_by(11) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x40;
        let recovery = reopen_with(Some(&bytes));
        assert_eq!(recovery.damaged_records, 1);
        assert_eq!(recovery.verified_chunks, if at < 16 { count } else { 1 });
    }
    assert_eq!(reopen_with(None).verified_chunks, count);
}

#[test]
fn a_chunk_that_was_durable_lost_and_put_again_is_not_taken_for_durable() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(directory.path());
    store.put(&CHUNKS[0]).unwrap();
    store.sync().unwrap();
    assert!(Damage::Empty.apply(directory.path(), 0));
    assert!(matches!(store.get(&CHUNKS[0].id()).unwrap(), Lookup::Lost));
    store.put(&CHUNKS[0]).unwrap();
    drop(store);
    // The power cut: the file has its name and none of its bytes.
    assert!(Damage::Empty.apply(directory.path(), 0));
    let (store, recovery) = open(directory.path());
    assert_eq!(recovery.removed_files, 1);
    assert!(!store.contains(&CHUNKS[0].id()));
}

#[test]
fn a_sync_that_failed_is_not_retried_into_success() {
    static HAS_FAILED: AtomicBool = AtomicBool::new(false);
    fn fails_once(_: &File) -> io::Result<()> {
        match HAS_FAILED.swap(true, Ordering::Relaxed) {
            false => Err(rustix::io::Errno::IO.into()),
            true => Ok(()),
        }
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_owned();
    let (store, _) = Store::open_with(path, CONFIG, fails_once).unwrap();
    store.sync().unwrap();
    store.put(&CHUNKS[0]).unwrap();
    assert!(matches!(
        store.sync(),
        Err(StoreError::Io { action: "sync", .. })
    ));
    for _ in 0..2 {
        assert!(matches!(store.sync(), Err(StoreError::NotDurable { .. })));
        store.put(&CHUNKS[1]).unwrap();
    }
    assert!(holds(&store, &CHUNKS[1]));
    drop(store);
    let (store, recovery) = open(directory.path());
    assert_eq!((recovery.durable_chunks, recovery.verified_chunks), (0, 2));
    store.sync().unwrap();
}
