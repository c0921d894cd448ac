//! Chunks from the chunk store, which another process may write to meanwhile.

use bytes::Bytes;
use scap_proto::id::ChunkId;

use super::{ChunkSource, SourceError};
use crate::store::{Lookup, StoreError, StoreReader};

impl ChunkSource for StoreReader {
    fn plain(&self, id: &ChunkId) -> Result<Bytes, SourceError> {
        found(id, self.plain(id))
    }

    fn unproved(&self, id: &ChunkId) -> Result<Bytes, SourceError> {
        found(id, self.unproved(id))
    }
}

fn found(id: &ChunkId, read: Result<Lookup<Bytes>, StoreError>) -> Result<Bytes, SourceError> {
    match read {
        Ok(Lookup::Found(plain)) => Ok(plain),
        Ok(Lookup::Absent | Lookup::Lost) => Err(SourceError::Missing(*id)),
        Err(error) => Err(SourceError::Read {
            chunk: *id,
            source: error.into(),
        }),
    }
}
