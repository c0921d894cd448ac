//! What an honest peer would send: the chunks of a snapshot, by their index.

use std::path::Path;

use anyhow::Context as _;
use bytes::Bytes;
use scap_agent::store::StoreReader;
use scap_proto::content::{Descriptor, EncodedChunk, Layout, RawChunk, SnapshotRef};
use scap_proto::id::{ChunkId, SnapshotId};

/// All chunks of one snapshot.
pub struct Original {
    chunks: Vec<EncodedChunk>,
    page_count: u32,
}

impl Original {
    /// Of nothing: for who sends no chunks.
    #[must_use]
    pub fn none() -> Self {
        Self {
            chunks: Vec::new(),
            page_count: 0,
        }
    }

    /// Reads them from a store.
    ///
    /// # Errors
    /// Where it does not have them all, whole.
    ///
    /// # Panics
    /// When the snapshot's own pages are not pages.
    pub fn read(store: &Path, snapshot: SnapshotId) -> anyhow::Result<Self> {
        let store = StoreReader::open(store)?;
        let chunk = |id: ChunkId| -> anyhow::Result<EncodedChunk> {
            let stored = store.get(&id)?.found();
            let stored = stored.with_context(|| format!("{id} is not in the store, or damaged"))?;
            let raw = RawChunk::new(stored.encoded().clone());
            Ok(raw.verify(id, stored.plain_length())?)
        };
        let descriptor = chunk(snapshot.descriptor_chunk())?;
        let mut layout = Layout::new(SnapshotRef {
            id: snapshot,
            descriptor_length: descriptor.plain_length(),
        });
        let descriptor = Descriptor::decode(&descriptor.plain()).expect("it was just verified");
        layout.add_descriptor(&descriptor);
        let pages = descriptor.chunk_list.iter();
        let pages: Vec<_> = pages
            .map(|page| Ok(chunk(page.id)?.plain()))
            .collect::<anyhow::Result<_>>()?;
        layout
            .add_chunk_list(pages.iter().map(|page| &**page))
            .expect("its pages were just verified");
        let chunks = layout.refs().iter().map(|it| chunk(it.id));
        Ok(Self {
            chunks: chunks.collect::<anyhow::Result<_>>()?,
            page_count: layout.entry_pages().end,
        })
    }

    /// How many there are.
    #[must_use]
    pub fn chunk_count(&self) -> u32 {
        u32::try_from(self.chunks.len()).expect("a snapshot has at most SNAPSHOT_CHUNKS_MAX chunks")
    }

    /// How many of the first are the snapshot's own pages; content follows.
    #[must_use]
    pub fn page_count(&self) -> u32 {
        self.page_count
    }

    pub(super) fn get(&self, index: u32) -> Option<&EncodedChunk> {
        self.chunks.get(index as usize)
    }

    /// The bytes of another chunk, the longest that are no longer than those of `wanted` may be.
    pub(super) fn other_than(&self, wanted: &EncodedChunk) -> Option<&Bytes> {
        let others = self.chunks.iter().filter(|it| it.id() != wanted.id());
        others
            .map(EncodedChunk::bytes)
            .filter(|it| it.len() <= wanted.plain_length() as usize + 1)
            .max_by_key(|it| it.len())
    }
}
