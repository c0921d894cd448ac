//! The numbered sequence of chunks that a snapshot is on the wire.
//!
//! Index 0 is the descriptor; then come the pages of the chunk list, the pages of the entries, and
//! the content chunks in the order of the chunk list. Each stage is known once the one before it has
//! arrived, so a receiver's layout grows twice; an index never changes its meaning.

use crate::{
    codec::{self, CodecError},
    content::descriptor::{ChunkRef, Descriptor, SnapshotRef},
    limits::{CHUNK_BYTES_MAX, DELTA_PARTS_MAX},
};

/// What is known so far of a snapshot's chunks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    refs: Vec<ChunkRef>,
    list_pages: usize,
    entry_pages: usize,
    content_chunks: Option<u32>,
}

impl Layout {
    /// Only the descriptor is known.
    pub fn new(snapshot: SnapshotRef) -> Self {
        let refs = vec![snapshot.descriptor_chunk()];
        Self {
            refs,
            list_pages: 0,
            entry_pages: 0,
            content_chunks: None,
        }
    }

    /// The parts of a delta: a sequence of chunks that is all known, and has no descriptor.
    ///
    /// # Panics
    /// Where there are none, or more than [`DELTA_PARTS_MAX`].
    pub fn of_parts(parts: Vec<ChunkRef>) -> Self {
        assert!((1..=DELTA_PARTS_MAX).contains(&parts.len()));
        // The first stands where a snapshot has its descriptor.
        let others = u32::try_from(parts.len() - 1).expect("at most DELTA_PARTS_MAX");
        Self {
            refs: parts,
            list_pages: 0,
            entry_pages: 0,
            content_chunks: Some(others),
        }
    }

    /// Learns the pages, and returns how many chunks are known now.
    ///
    /// # Panics
    /// Where it was called before: a layout has one descriptor.
    pub fn add_descriptor(&mut self, descriptor: &Descriptor) -> u32 {
        assert!(self.content_chunks.is_none(), "a layout has one descriptor");
        self.refs.extend(&descriptor.chunk_list);
        self.refs.extend(&descriptor.entries);
        self.list_pages = descriptor.chunk_list.len();
        self.entry_pages = descriptor.entries.len();
        self.content_chunks = Some(descriptor.totals.chunks);
        self.known()
    }

    /// Learns the content chunks from the plain bytes of all pages of the chunk list, in order, and
    /// returns how many chunks are known now. Nothing is learnt from pages that lie.
    ///
    /// # Errors
    /// [`LayoutError`].
    ///
    /// # Panics
    /// Before [`Self::add_descriptor`], or a second time.
    pub fn add_chunk_list<'a>(
        &mut self,
        pages: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<u32, LayoutError> {
        let expected = self.content_chunks.expect("the descriptor comes first");
        assert!(
            self.refs.len() == self.page_end(),
            "a layout has one chunk list"
        );
        let mut content = Vec::with_capacity(expected as usize);
        for page in pages {
            content.append(&mut decode_list_page(page)?);
            if content.len() > expected as usize {
                break;
            }
        }
        if content.len() != expected as usize {
            return Err(LayoutError::Count {
                expected,
                found: content.len(),
            });
        }
        if let Some(bad) = content
            .iter()
            .find(|chunk| !is_chunk_length(chunk.plain_length))
        {
            return Err(LayoutError::Length(*bad));
        }
        self.refs.append(&mut content);
        Ok(self.known())
    }

    /// How many chunks are known.
    pub fn known(&self) -> u32 {
        u32::try_from(self.refs.len()).expect("SNAPSHOT_CHUNKS_MAX fits a u32")
    }

    /// How many chunks the snapshot has, once the descriptor is known.
    pub fn total(&self) -> Option<u32> {
        let pages = u32::try_from(self.page_end()).expect("SNAPSHOT_CHUNKS_MAX fits a u32");
        self.content_chunks.map(|content| pages + content)
    }

    /// Whether nothing more is to be learnt.
    pub fn is_complete(&self) -> bool {
        self.total() == Some(self.known())
    }

    /// The chunk at `index`, where it is known.
    pub fn get(&self, index: u32) -> Option<ChunkRef> {
        self.refs.get(index as usize).copied()
    }

    /// All that are known, in order of their index.
    pub fn refs(&self) -> &[ChunkRef] {
        &self.refs
    }

    /// The indexes of the pages of the chunk list.
    pub fn list_pages(&self) -> std::ops::Range<u32> {
        range(1, self.list_pages)
    }

    /// The indexes of the pages of the entries.
    pub fn entry_pages(&self) -> std::ops::Range<u32> {
        range(1 + self.list_pages, self.entry_pages)
    }

    fn page_end(&self) -> usize {
        1 + self.list_pages + self.entry_pages
    }
}

/// The plain bytes of one page of the chunk list.
pub(crate) fn encode_list_page(chunks: &[ChunkRef]) -> Vec<u8> {
    codec::encode(&chunks)
}

fn decode_list_page(bytes: &[u8]) -> Result<Vec<ChunkRef>, CodecError> {
    codec::decode_canonical(bytes)
}

fn is_chunk_length(length: u32) -> bool {
    (1..=CHUNK_BYTES_MAX).contains(&length)
}

fn range(start: usize, length: usize) -> std::ops::Range<u32> {
    let to_index = |at: usize| u32::try_from(at).expect("SNAPSHOT_CHUNKS_MAX fits a u32");
    to_index(start)..to_index(start + length)
}

/// Why a chunk list is refused.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// A page is not one.
    #[error("decode a page of the chunk list")]
    Codec(#[from] CodecError),
    /// More or fewer chunks than the descriptor says.
    #[error("the chunk list has {found} chunks, the descriptor says {expected}")]
    Count {
        /// What the descriptor says.
        expected: u32,
        /// What the pages hold, or the first count beyond it.
        found: usize,
    },
    /// A chunk of no bytes, or too long.
    #[error("chunk {} has {} bytes", .0.id, .0.plain_length)]
    Length(ChunkRef),
}
