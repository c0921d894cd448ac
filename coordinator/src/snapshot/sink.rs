//! The chunk store as what a snapshot is built into, or read from.

use bytes::Bytes;
use scap_agent::store::{Store, StoreReader};
use scap_proto::{content::EncodedChunk, id::ChunkId};

use super::{ChunkSink, SinkError};

impl ChunkSink for Store {
    fn encoded_length(&self, id: &ChunkId) -> Option<u32> {
        self.encoded_length(id)
    }

    fn plain(&self, id: &ChunkId) -> Result<Option<Bytes>, SinkError> {
        Ok(self.plain(id)?.found())
    }

    fn put(&self, chunk: &EncodedChunk) -> Result<(), SinkError> {
        self.put(chunk)?;
        Ok(())
    }
}

/// Of a store that another process may have open; it takes nothing.
impl ChunkSink for StoreReader {
    fn encoded_length(&self, id: &ChunkId) -> Option<u32> {
        let chunk = self.get(id).ok()?.found()?;
        u32::try_from(chunk.encoded().len()).ok()
    }

    fn plain(&self, id: &ChunkId) -> Result<Option<Bytes>, SinkError> {
        Ok(self.plain(id)?.found())
    }

    fn put(&self, _: &EncodedChunk) -> Result<(), SinkError> {
        Err("the store is only read".into())
    }
}
