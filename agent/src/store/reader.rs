//! The store as a process sees it that only reads it, beside the one that has it open.

use std::path::PathBuf;

use bytes::Bytes;
use scap_proto::id::ChunkId;

use super::{
    Lookup, StoreError,
    chunks::{self, ReadError, StoredChunk},
    layout::Layout,
};

/// A view without lock and index: each read looks for the chunk's file and checks it.
///
/// What it finds damaged stays where it is, for the process that has the store open to drop. A chunk
/// may be collected between two reads, unless that process holds it.
#[derive(Debug)]
pub struct StoreReader {
    layout: Layout,
}

impl StoreReader {
    /// Looks at the store in `directory`, which need not be ours.
    ///
    /// # Errors
    /// [`StoreError::Version`], or [`StoreError::Io`] where there is no store.
    pub fn open(directory: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let layout = Layout::new(directory.into());
        layout.check_version()?;
        Ok(Self { layout })
    }

    /// The chunk as it is stored, its checksum checked.
    ///
    /// # Errors
    /// [`StoreError::Io`]: the file may be whole, and could not be read.
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

    /// What the chunk's file holds, decoded, and not proved to be what the id names: for who proves the whole that
    /// it is part of, and asks [`Self::plain`] where that fails.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub fn unproved(&self, id: &ChunkId) -> Result<Lookup<Bytes>, StoreError> {
        self.read(id, chunks::read_unproved)
    }

    fn read<T>(
        &self,
        id: &ChunkId,
        read: fn(&std::path::Path, &ChunkId) -> Result<T, ReadError>,
    ) -> Result<Lookup<T>, StoreError> {
        let path = self.layout.chunk(id);
        match read(&path, id) {
            Ok(found) => Ok(Lookup::Found(found)),
            Err(ReadError::Gone) => Ok(Lookup::Absent),
            Err(ReadError::Io(source)) => Err(StoreError::io("read", &path)(source)),
            Err(_) => Ok(Lookup::Lost),
        }
    }
}
