//! What the store promises, tested against what disks, kills and other threads do.

mod collection;
mod damage;
mod kill;
mod model;
mod opening;
mod room;
mod shared;

use std::{fs, path::Path, sync::LazyLock};

use scap_proto::{content::EncodedChunk, id::ChunkId};

use super::{Lookup, Put, Recovery, Store, StoreConfig, StoreError, StoreReader, chunks};

/// No reserve: what the machine that runs the tests has free is its own affair.
const CONFIG: StoreConfig = StoreConfig { free_bytes_min: 0 };

fn open(directory: &Path) -> (Store, Recovery) {
    Store::open(directory, CONFIG).unwrap()
}

/// A directory in memory where the machine has one: for tests of what we do, often, and not of disks.
fn memory_dir() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

/// Chunk number `n`: 1 byte to 16 KiB of noise, or of text that compresses.
fn chunk(n: u32) -> EncodedChunk {
    let mut reader = blake3::Hasher::new()
        .update(&n.to_le_bytes())
        .finalize_xof();
    let mut bytes = vec![0; [5000, 16_384, 7, 300][n as usize % 4]];
    reader.fill(&mut bytes);
    if n.is_multiple_of(3) {
        bytes.iter_mut().for_each(|byte| *byte &= 3);
    }
    EncodedChunk::from_plain(&bytes)
}

/// The chunk files in a store, by id.
fn files(directory: &Path) -> Vec<ChunkId> {
    let mut ids = Vec::new();
    for prefix in fs::read_dir(directory.join("chunks")).unwrap() {
        let prefix = prefix.unwrap();
        for file in fs::read_dir(prefix.path()).unwrap() {
            let mut name = prefix.file_name();
            name.push(file.unwrap().file_name());
            ids.push(name.to_str().unwrap().parse().unwrap());
        }
    }
    ids.sort();
    ids
}

fn file(directory: &Path, id: &ChunkId) -> std::path::PathBuf {
    let hex = id.to_string();
    directory.join("chunks").join(&hex[..2]).join(&hex[2..])
}

/// Whether the store gives the chunk in both forms, and they are right.
fn holds(store: &Store, chunk: &EncodedChunk) -> bool {
    let encoded = store.get(&chunk.id()).unwrap().found();
    let plain = store.plain(&chunk.id()).unwrap().found();
    match (encoded, plain) {
        (Some(encoded), Some(plain)) => {
            assert_eq!(encoded.encoded(), chunk.bytes());
            assert_eq!(encoded.plain_length(), chunk.plain_length());
            assert_eq!(plain, chunk.plain());
            true
        }
        (None, None) => false,
        _ => panic!("the two forms of {} differ", chunk.id()),
    }
}

/// Chunks 0 to 23, made once.
static CHUNKS: LazyLock<Vec<EncodedChunk>> = LazyLock::new(|| (0..24).map(chunk).collect());
