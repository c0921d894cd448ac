//! The chunks that files are written from, the last few of them decoded.

use std::collections::VecDeque;

use bytes::Bytes;
use scap_proto::{
    content::{Extent, FileContent},
    id::ChunkId,
};

use super::{ChunkSource, error::ActivateError};

/// Most decoded bytes that are kept, the last chunk not counted: 8 chunks of the largest size, or some
/// 64 of the usual one. Files of one bundle follow each other, so one chunk would mostly do.
const CACHE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// A chunk source and what it gave last, which is not proved: whoever writes a file hashes the whole of it, and a
/// hash of each of its chunks would only tell the same again.
pub(super) struct Chunks<'a> {
    source: &'a dyn ChunkSource,
    /// The latest last.
    cached: VecDeque<(ChunkId, Bytes)>,
    cached_bytes: usize,
}

impl<'a> Chunks<'a> {
    pub(super) fn new(source: &'a dyn ChunkSource) -> Self {
        Self {
            source,
            cached: VecDeque::new(),
            cached_bytes: 0,
        }
    }

    /// Hands the bytes of `extent` to `take`. They are not proved to be those of the chunk: where the file that they
    /// make is not what it should be, [`Self::blame`] tells why.
    ///
    /// # Errors
    /// Where the source does not have the chunk, or the chunk is too short for the extent.
    pub(super) fn with<T>(
        &mut self,
        extent: &Extent,
        take: impl FnOnce(&[u8]) -> T,
    ) -> Result<T, ActivateError> {
        let plain = self.unproved(&extent.chunk)?;
        let start = extent.offset as usize;
        match plain.get(start..start + extent.length as usize) {
            Some(bytes) => Ok(take(bytes)),
            None => {
                self.source.plain(&extent.chunk)?;
                Err(ActivateError::WrongChunk(extent.chunk))
            }
        }
    }

    /// Looks for the chunk that makes `content` another than it should be.
    ///
    /// # Errors
    /// Where the source does not have one of its chunks as it should be.
    pub(super) fn blame(&self, content: &FileContent) -> Result<(), ActivateError> {
        for extent in &content.extents {
            self.source.plain(&extent.chunk)?;
        }
        Ok(())
    }

    fn unproved(&mut self, id: &ChunkId) -> Result<Bytes, ActivateError> {
        if let Some(at) = self.cached.iter().rposition(|(cached, _)| cached == id) {
            let hit = self.cached.remove(at).expect("found there");
            self.cached.push_back(hit);
        } else {
            let plain = self.source.unproved(id)?;
            while self.cached_bytes > CACHE_BYTES_MAX - plain.len().min(CACHE_BYTES_MAX) {
                let (_, oldest) = self.cached.pop_front().expect("bytes are of something");
                self.cached_bytes -= oldest.len();
            }
            self.cached_bytes += plain.len();
            self.cached.push_back((*id, plain));
        }
        let (_, plain) = self.cached.back().expect("pushed above");
        Ok(plain.clone())
    }
}
