//! Opening: what the directory really holds.
//!
//! A chunk file that the index lists was covered by a sync, and is taken as it is; reading checks it.
//! Any other file was put after the last sync: it is read from the disk, decoded and hashed, and kept
//! only where it is the chunk that its name says. What the index lists and is not there is forgotten.

use std::{fs, io, path::Path};

use scap_proto::id::ChunkId;

use super::{
    chunks::{self, ReadError},
    error::{StoreError, says_full},
    have::{Have, Held, UNSEEN},
    index::{self, Index},
    layout::{Layout, prefixes},
    shared::Shared,
};

/// What opening a store found. After a clean stop everything but `durable_chunks` is 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Chunks that a sync had covered.
    pub durable_chunks: u64,
    /// Chunks put after the last sync that were hashed again, and kept.
    pub verified_chunks: u64,
    /// Files that were not the chunk that their name says, and were removed.
    pub removed_files: u64,
    /// Chunks that a sync had covered, and whose files are gone.
    pub missing_chunks: u64,
    /// Half-written files that were removed.
    pub temporary_files: u64,
    /// Records of the index that were damaged; what they listed was hashed again.
    pub damaged_records: u64,
}

impl Recovery {
    /// Whether the store was as a clean stop leaves it.
    pub fn is_clean(&self) -> bool {
        let clean = Self {
            durable_chunks: self.durable_chunks,
            ..Self::default()
        };
        *self == clean
    }
}

/// Reads the index, looks for every file, and verifies those that no sync covered: one reading of
/// what was put since the last sync. A store that is shared is nobody else's to open or change meanwhile; where others have
/// it open, their half-written files stay.
pub(super) fn recover(
    layout: &Layout,
    shared: Option<&Shared>,
) -> Result<(Have, Index, Recovery), StoreError> {
    let path = layout.index();
    let mut have = Have::new();
    let contents = index::load(&path, &mut have).map_err(StoreError::io("read", &path))?;
    let mut recovery = Recovery {
        damaged_records: contents.damaged,
        temporary_files: match shared.is_none_or(Shared::was_alone) {
            true => layout.clear_temporaries()?,
            false => 0,
        },
        ..Recovery::default()
    };
    for prefix in prefixes() {
        recover_prefix(layout, &prefix, &mut have, &mut recovery)?;
    }
    for id in have.older(UNSEEN + 1) {
        have.remove(&id);
        recovery.missing_chunks += 1;
    }
    recovery.durable_chunks = have.count() - recovery.verified_chunks;

    let is_sound = path.exists() && recovery.damaged_records == 0 && recovery.missing_chunks == 0;
    let index = if is_sound && !index::is_wasteful(contents.records, recovery.durable_chunks) {
        Index::open(path.clone(), contents.records)
    } else {
        create_index(&path, &have)
    };
    let index = index.map_err(|source| {
        let needed = index::bytes(recovery.durable_chunks);
        layout.write_error("write", &path, needed, source)
    })?;
    Ok((have, index.shared(shared.is_some()), recovery))
}

/// On a full disk the old index makes room for the new one, so that the store opens and can be
/// collected; a crash between the two costs hashing every chunk.
fn create_index(path: &Path, have: &Have) -> io::Result<Index> {
    let create = || {
        Index::create(path.to_owned(), |last, count| {
            have.durable_after(last, count)
        })
    };
    match create() {
        Err(error) if says_full(&error) && path.exists() => {
            fs::remove_file(path)?;
            create()
        }
        result => result,
    }
}

fn recover_prefix(
    layout: &Layout,
    prefix: &str,
    have: &mut Have,
    recovery: &mut Recovery,
) -> Result<(), StoreError> {
    let directory = layout.prefix(prefix);
    let listing = |source: io::Error| StoreError::io("list", &directory)(source);
    for entry in fs::read_dir(&directory).map_err(listing)? {
        let entry = entry.map_err(listing)?;
        // A name that is no chunk's is not ours to judge.
        let Some(id) = chunk_id(prefix, entry.file_name().to_str()) else {
            continue;
        };
        if have.touch(&id).is_some() {
            continue;
        }
        match verify(&entry.path(), &id)? {
            Some(held) => {
                have.insert(id, held);
                recovery.verified_chunks += 1;
            }
            None => recovery.removed_files += 1,
        }
    }
    Ok(())
}

fn chunk_id(prefix: &str, rest: Option<&str>) -> Option<ChunkId> {
    format!("{prefix}{}", rest?).parse().ok()
}

/// `None`: it was not the chunk, and is removed.
fn verify(path: &Path, id: &ChunkId) -> Result<Option<Held>, StoreError> {
    match chunks::read_uncached(path, id) {
        Ok(chunk) => Ok(Some(Held {
            plain_length: chunk.plain_length(),
            encoded_length: chunk.encoded_length(),
            durable: false,
        })),
        Err(ReadError::Io(source)) => Err(StoreError::io("read", path)(source)),
        Err(_) => {
            fs::remove_file(path).map_err(StoreError::io("remove", path))?;
            Ok(None)
        }
    }
}
