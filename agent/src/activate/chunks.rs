//! The chunks that files are written from, the last few of them decoded.

use std::{collections::VecDeque, rc::Rc};

use scap_proto::{content::Extent, id::ChunkId};

use super::{ChunkSource, error::ActivateError};

/// Most decoded bytes that are kept, the last chunk not counted: 8 chunks of the largest size, or some
/// 64 of the usual one. Files of one bundle follow each other, so one chunk would mostly do.
const CACHE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// A chunk source and what it gave last.
pub(super) struct Chunks<'a> {
    source: &'a dyn ChunkSource,
    /// The latest last.
    cached: VecDeque<(ChunkId, Rc<Vec<u8>>)>,
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

    /// Hands the bytes of `extent` to `take`.
    ///
    /// # Errors
    /// Where the source does not have the chunk, or the chunk is too short for the extent.
    pub(super) fn with<T>(
        &mut self,
        extent: &Extent,
        take: impl FnOnce(&[u8]) -> T,
    ) -> Result<T, ActivateError> {
        let plain = self.plain(&extent.chunk)?;
        let start = extent.offset as usize;
        let bytes = plain.get(start..start + extent.length as usize);
        bytes
            .map(take)
            .ok_or(ActivateError::WrongChunk(extent.chunk))
    }

    fn plain(&mut self, id: &ChunkId) -> Result<Rc<Vec<u8>>, ActivateError> {
        if let Some(at) = self.cached.iter().rposition(|(cached, _)| cached == id) {
            let hit = self.cached.remove(at).expect("found there");
            self.cached.push_back(hit);
        } else {
            let plain = Rc::new(self.source.plain(id)?);
            while self.cached_bytes > CACHE_BYTES_MAX - plain.len().min(CACHE_BYTES_MAX) {
                let (_, oldest) = self.cached.pop_front().expect("bytes are of something");
                self.cached_bytes -= oldest.len();
            }
            self.cached_bytes += plain.len();
            self.cached.push_back((*id, plain));
        }
        let (_, plain) = self.cached.back().expect("pushed above");
        Ok(Rc::clone(plain))
    }
}
