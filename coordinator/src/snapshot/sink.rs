//! The chunk store as what a snapshot is built into.

use bytes::Bytes;
use scap_agent::store::Store;
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
