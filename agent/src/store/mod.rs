//! The chunk store: what was verified, kept for serving, activating and the next release.
//!
//! All calls block, on the disk or for a moment on each other; async code makes them on the blocking
//! pool. Three promises, at any crash:
//!
//! - *Verified before stored.* [`Store::put`] takes only an [`EncodedChunk`], and a chunk is offered
//!   from the moment its whole file has its name.
//! - *Checked on each read.* A damaged file is dropped when it is found, and told as [`Lookup::Lost`],
//!   so that the chunk is fetched again.
//! - *Durable after [`Store::sync`]*, once per batch. What was not synced is verified again at the
//!   next opening, so a killed process loses nothing, and a power cut only what was not synced.
//!
//! Collection and its rule are in [`gc`]; how several processes share a store, in `shared`. Three kinds of locks, taken in this order: a *stripe*, which
//! serialises what changes the file of a chunk; the index, which serialises syncs and removals; and
//! what we have, held for look-ups only.

mod chunks;
pub mod durable;
mod error;
pub mod gc;
mod have;
mod index;
mod layout;
mod reader;
mod recover;
mod shared;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests;

use std::{
    fmt,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
};

use bytes::Bytes;
use scap_proto::{content::EncodedChunk, id::ChunkId};

use self::{
    chunks::ReadError,
    have::{Have, Held},
    index::{AppendError, Index, Record},
    layout::Layout,
    shared::Shared,
};
pub use self::{
    chunks::StoredChunk,
    error::StoreError,
    gc::{Collected, Collection, Hold},
    reader::StoreReader,
    recover::Recovery,
    shared::{Admission, Collecting},
};
use crate::lock::FileLock;

/// The store's name in a data directory.
pub const DIRECTORY_NAME: &str = "store";

/// Locks for files of chunks: a few times the threads that ever write at once. They go by the first
/// bits of the id, so that chunks in order come stripe by stripe.
const STRIPES: usize = 16;

/// How a store behaves.
#[derive(Debug, Clone, Copy)]
pub struct StoreConfig {
    /// Bytes to leave free in the file system: where less would be left, a put is refused as
    /// [`StoreError::Full`].
    pub free_bytes_min: u64,
}

impl Default for StoreConfig {
    /// An agent is a guest: 64 MiB are left, in which the host can write its logs and we our state.
    fn default() -> Self {
        Self {
            free_bytes_min: 64 * 1024 * 1024,
        }
    }
}

/// The store that this process has open, to itself or beside others. Clones share it.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    layout: Layout,
    config: StoreConfig,
    have: Mutex<Have>,
    index: Mutex<Index>,
    stripes: [Mutex<()>; STRIPES],
    /// Opened before anything was written, so that its sync tells of each write that was lost.
    directory: File,
    sync_filesystem: fn(&File) -> io::Result<()>,
    /// Keeps other processes out that want it to themselves, until the last clone is dropped.
    _lock: FileLock,
    /// How it is shared with other processes; `None` where it is not.
    shared: Option<Shared>,
}

/// What putting a chunk did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// It was stored.
    New,
    /// It was there.
    Present,
}

/// What looking for a chunk found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Lookup<T> {
    /// The chunk.
    Found(T),
    /// Nothing.
    Absent,
    /// It was held until this read found its file damaged or gone; now it is not, and has to be
    /// fetched again.
    Lost,
}

impl<T> Lookup<T> {
    /// What was found, made into something else.
    pub fn map<U>(self, make: impl FnOnce(T) -> U) -> Lookup<U> {
        match self {
            Self::Found(found) => Lookup::Found(make(found)),
            Self::Absent => Lookup::Absent,
            Self::Lost => Lookup::Lost,
        }
    }

    /// The chunk, for those to whom absent and lost are the same.
    pub fn found(self) -> Option<T> {
        match self {
            Self::Found(found) => Some(found),
            Self::Absent | Self::Lost => None,
        }
    }
}

/// What the store takes, and what it may still take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Chunks held.
    pub chunks: u64,
    /// Their encoded bytes; files add 24 bytes each, and what the file system rounds up.
    pub encoded_bytes: u64,
    /// Bytes that the store may still take: those free in the file system, less the reserve.
    pub free_bytes: u64,
    /// Chunks found damaged or gone since the store was opened.
    pub damaged_chunks: u64,
}

impl Store {
    /// Opens the store in `directory`, or makes one there with mode 0700.
    ///
    /// It lists all chunk files, and reads those that were put after the last sync.
    ///
    /// # Errors
    /// [`StoreError`]: it is in use, not ours alone, of another version, or cannot be read.
    pub fn open(
        directory: impl Into<PathBuf>,
        config: StoreConfig,
    ) -> Result<(Self, Recovery), StoreError> {
        Self::open_with(directory.into(), config, durable::sync_filesystem)
    }

    fn open_with(
        directory: PathBuf,
        config: StoreConfig,
        sync_filesystem: fn(&File) -> io::Result<()>,
    ) -> Result<(Self, Recovery), StoreError> {
        let layout = Layout::new(directory);
        layout.make()?;
        let lock = layout.lock(FileLock::try_take)?;
        Self::opened(layout, config, sync_filesystem, lock, None)
    }

    /// Of a directory that was made, and locked.
    fn opened(
        layout: Layout,
        config: StoreConfig,
        sync_filesystem: fn(&File) -> io::Result<()>,
        lock: FileLock,
        shared: Option<Shared>,
    ) -> Result<(Self, Recovery), StoreError> {
        layout.prepare()?;
        let directory =
            File::open(layout.directory()).map_err(StoreError::io("open", layout.directory()))?;
        let (have, index, recovery) = recover::recover(&layout, shared.as_ref())?;
        let inner = Inner {
            layout,
            config,
            have: Mutex::new(have),
            index: Mutex::new(index),
            stripes: Default::default(),
            directory,
            sync_filesystem,
            _lock: lock,
            shared,
        };
        Ok((Self(Arc::new(inner)), recovery))
    }

    /// Whether the chunk is held. To count on that, ask through [`Self::hold`].
    pub fn contains(&self, id: &ChunkId) -> bool {
        self.have().get(id).is_some()
    }

    /// Length of the plain bytes of a chunk that is held.
    pub fn plain_length(&self, id: &ChunkId) -> Option<u32> {
        Some(self.have().get(id)?.plain_length)
    }

    /// Length of the encoded bytes of a chunk that is held.
    pub fn encoded_length(&self, id: &ChunkId) -> Option<u32> {
        Some(self.have().get(id)?.encoded_length)
    }

    /// Stores a chunk. It is offered from now on, survives a kill, and a power cut once
    /// [`Self::sync`] was called.
    ///
    /// # Errors
    /// [`StoreError::Full`] or [`StoreError::Io`]; nothing was stored.
    pub fn put(&self, chunk: &EncodedChunk) -> Result<Put, StoreError> {
        let id = chunk.id();
        if self.have().touch(&id).is_some() {
            return Ok(Put::Present);
        }
        let needed = chunks::file_bytes(chunk);
        let available = self.available_bytes()?;
        if available < needed {
            return Err(StoreError::Full {
                path: self.0.layout.directory().to_owned(),
                needed,
                available,
            });
        }
        let temporary = self.0.layout.write_temporary(chunk)?;
        let _stripe = self.lock_stripe(&id);
        if self.have().touch(&id).is_some() {
            return Ok(Put::Present);
        }
        let path = self.0.layout.chunk(&id);
        let put = match self.0.shared {
            Some(_) => self.name_beside(&temporary, &path, &id, needed)?,
            None => {
                let named = temporary.rename(&path);
                named.map_err(|source| self.0.layout.write_error("name", &path, needed, source))?;
                Put::New
            }
        };
        let held = Held {
            plain_length: chunk.plain_length(),
            encoded_length: u32::try_from(chunk.bytes().len())
                .expect("an encoded chunk is at most ENCODED_CHUNK_BYTES_MAX long"),
            durable: false,
        };
        self.have().insert(id, held);
        Ok(put)
    }

    /// The chunk as it is stored, its checksum checked.
    ///
    /// # Errors
    /// [`StoreError::Io`]: the file may be whole, and could not be read; the chunk is still held.
    pub fn get(&self, id: &ChunkId) -> Result<Lookup<StoredChunk>, StoreError> {
        self.read(id, chunks::read)
    }

    /// The chunk's plain bytes, proved to be those that the id names.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub fn plain(&self, id: &ChunkId) -> Result<Lookup<Bytes>, StoreError> {
        self.read(id, chunks::read_plain)
    }

    /// Makes all that was put before this call durable: one sync of the file system, and one of the
    /// index. Does nothing where nothing was put.
    ///
    /// # Errors
    /// [`StoreError::Full`]: there is no room for the index; it works again once there is. Any other
    /// is final: each later sync of this opening fails with [`StoreError::NotDurable`], since a
    /// second attempt could succeed without having written what the first one lost.
    pub fn sync(&self) -> Result<(), StoreError> {
        let mut index = self.index();
        if index.has_failed() {
            return Err(StoreError::NotDurable {
                path: self.0.layout.directory().to_owned(),
            });
        }
        let put = self.have().take_unsynced();
        if put.is_empty() {
            return Ok(());
        }
        if let Err(source) = (self.0.sync_filesystem)(&self.0.directory) {
            index.fail();
            return Err(StoreError::io("sync", self.0.layout.directory())(source));
        }
        // Nothing is removed while we have the index, so what is held now was synced.
        let records: Vec<_> = {
            let have = self.have();
            let held = put.iter().filter_map(|id| Some((*id, have.get(id)?)));
            held.map(|(id, held)| Record::Durable(id, held)).collect()
        };
        let turn = self.turn()?;
        let appended = index.append(&records);
        drop(turn);
        match appended {
            Ok(()) => {
                self.have().mark_durable(&put);
                Ok(())
            }
            Err(AppendError::Full) => {
                self.have().still_unsynced(put);
                let full = io::ErrorKind::StorageFull.into();
                let needed = index::bytes(records.len() as u64);
                Err(self
                    .0
                    .layout
                    .write_error("append to", &self.0.layout.index(), needed, full))
            }
            Err(AppendError::Failed(source)) => {
                index.fail();
                Err(StoreError::io("append to", &self.0.layout.index())(source))
            }
        }
    }

    /// What the store takes, and what it may still take.
    ///
    /// # Errors
    /// [`StoreError::Io`]: the file system does not say.
    pub fn usage(&self) -> Result<Usage, StoreError> {
        let free_bytes = self.available_bytes()?;
        let have = self.have();
        Ok(Usage {
            chunks: have.count(),
            encoded_bytes: have.encoded_bytes(),
            free_bytes,
            damaged_chunks: have.damaged(),
        })
    }

    fn available_bytes(&self) -> Result<u64, StoreError> {
        let free = self.0.layout.free_bytes()?;
        Ok(free.saturating_sub(self.0.config.free_bytes_min))
    }

    fn read<T>(
        &self,
        id: &ChunkId,
        read: fn(&Path, &ChunkId) -> Result<T, ReadError>,
    ) -> Result<Lookup<T>, StoreError> {
        if !self.contains(id) {
            return Ok(Lookup::Absent);
        }
        let path = self.0.layout.chunk(id);
        let attempt = || match read(&path, id) {
            Ok(found) => Ok(Ok(found)),
            Err(ReadError::Io(source)) => Err(StoreError::io("read", &path)(source)),
            Err(damage) => Ok(Err(damage)),
        };
        if let Ok(found) = attempt()? {
            return Ok(Lookup::Found(found));
        }
        // Meanwhile it may have been collected, or lost and put again: look again where nobody
        // changes it.
        let _stripe = self.lock_stripe(id);
        if !self.contains(id) {
            return Ok(Lookup::Absent);
        }
        let mut index = self.index();
        let _turn = self.turn()?;
        match attempt()? {
            Ok(found) => Ok(Lookup::Found(found)),
            Err(damage) => {
                let damage: &dyn std::error::Error = &damage;
                tracing::warn!(chunk = %id, damage, "dropped a damaged chunk");
                self.have().count_damaged();
                if let Err(error) = self.forget_in(&mut index, &[*id], Have::remove) {
                    let error: &dyn std::error::Error = &error;
                    tracing::warn!(chunk = %id, error, "a damaged chunk's file stays");
                }
                Ok(Lookup::Lost)
            }
        }
    }

    /// Removes chunks of one stripe, which the caller has locked: those for which `remove` did.
    ///
    /// First from what is offered, then from the index, and the files last; so a file that is put
    /// again under the same name is never taken for the durable one.
    fn forget(
        &self,
        ids: &[ChunkId],
        remove: impl Fn(&mut Have, &ChunkId) -> Option<Held>,
    ) -> Result<Collected, StoreError> {
        let mut index = self.index();
        let _turn = self.turn()?;
        self.forget_in(&mut index, ids, remove)
    }

    /// The same, where the index is the caller's, and so is the turn.
    fn forget_in(
        &self,
        index: &mut Index,
        ids: &[ChunkId],
        remove: impl Fn(&mut Have, &ChunkId) -> Option<Held>,
    ) -> Result<Collected, StoreError> {
        let mut removed = Vec::with_capacity(ids.len());
        let mut collected = Collected::default();
        {
            let mut have = self.have();
            for id in ids {
                if let Some(held) = remove(&mut have, id) {
                    removed.push((*id, held.durable));
                    collected.chunks += 1;
                    collected.bytes += u64::from(held.encoded_length);
                }
            }
        }
        let durable = removed.iter().filter(|(_, durable)| *durable);
        let records: Vec<_> = durable.map(|(id, _)| Record::Removed(*id)).collect();
        if !records.is_empty() && !index.has_failed() {
            match index.append(&records) {
                // A full disk must not keep us from making room. Then the index lists files that are
                // gone, which the next opening sees.
                Ok(()) | Err(AppendError::Full) => {}
                Err(AppendError::Failed(source)) => {
                    index.fail();
                    let error = StoreError::io("append to", &self.0.layout.index())(source);
                    tracing::error!(error = &error as &dyn std::error::Error, "the index failed");
                }
            }
        }
        for (id, _) in removed {
            let path = self.0.layout.chunk(&id);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(StoreError::io("remove", &path)(error));
                }
                _ => {}
            }
        }
        Ok(collected)
    }

    /// Writes the index anew where most of it has no effect.
    fn compact_index(&self) -> Result<(), StoreError> {
        if self.0.shared.is_some() {
            // Others may know of more than we do: the next opening writes it anew.
            return Ok(());
        }
        let mut index = self.index();
        let live = self.have().count();
        match index.compact(live, |last, count| self.have().durable_after(last, count)) {
            // It can wait until there is room.
            Err(error) if error::says_full(&error) => Ok(()),
            result => result.map_err(StoreError::io("write", &self.0.layout.index())),
        }
    }

    fn have(&self) -> MutexGuard<'_, Have> {
        self.0
            .have
            .lock()
            .expect("nothing panics holding what we have")
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.0
            .index
            .lock()
            .expect("nothing panics holding the index")
    }

    fn lock_stripe(&self, id: &ChunkId) -> MutexGuard<'_, ()> {
        let stripe = &self.0.stripes[stripe(id)];
        stripe.lock().expect("nothing panics holding a stripe")
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Store")
            .field(&self.0.layout.directory())
            .finish()
    }
}

fn stripe(id: &ChunkId) -> usize {
    usize::from(id.as_bytes()[0]) * STRIPES / 256
}
