//! The descriptor: the one small chunk from which a whole snapshot is found.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    codec::{self, CodecError, Extensible},
    extensions::Extensions,
    id::{ChunkId, SnapshotId},
    limits::{CHUNK_BYTES_MAX, DESCRIPTOR_BYTES_MAX, SNAPSHOT_CHUNKS_MAX},
};

/// The first bytes of each descriptor: its kind and version.
pub const MAGIC: &str = "scap-snapshot/1\n";

/// A chunk by id and plain length: what is needed to ask for it and to bound the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ChunkRef {
    /// The chunk.
    pub id: ChunkId,
    /// Length of its plain bytes: 1 to [`CHUNK_BYTES_MAX`].
    pub plain_length: u32,
}

/// A snapshot by id and the length of its descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SnapshotRef {
    /// The snapshot.
    pub id: SnapshotId,
    /// Length of the encoded descriptor: 1 to [`DESCRIPTOR_BYTES_MAX`].
    pub descriptor_length: u32,
}

impl SnapshotRef {
    /// The descriptor as a chunk.
    pub fn descriptor_chunk(&self) -> ChunkRef {
        ChunkRef {
            id: self.id.descriptor_chunk(),
            plain_length: self.descriptor_length,
        }
    }
}

/// Sums over a snapshot, for people and for the check of free space.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Entries of all kinds.
    pub entries: u64,
    /// Files, executable or not.
    pub files: u64,
    /// Bytes in all files.
    pub bytes: u64,
    /// Content chunks in the chunk list, each counted once.
    pub chunks: u32,
}

/// What a snapshot consists of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Descriptor {
    /// The pages of the chunk list, in order.
    pub chunk_list: Vec<ChunkRef>,
    /// The pages of the entries, in order.
    pub entries: Vec<ChunkRef>,
    /// Sums.
    pub totals: Totals,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Extensible for Descriptor {
    fn extensions(&self) -> &Extensions {
        &self.extensions
    }
}

impl Descriptor {
    /// The encoded descriptor and the reference that names it, or `None` where it is longer than
    /// [`DESCRIPTOR_BYTES_MAX`]: the snapshot has too many pages.
    pub fn encode(&self) -> Option<(SnapshotRef, Bytes)> {
        let mut bytes = MAGIC.as_bytes().to_vec();
        bytes.extend_from_slice(&codec::encode(self));
        let descriptor_length = u32::try_from(bytes.len())
            .ok()
            .filter(|length| *length <= DESCRIPTOR_BYTES_MAX)?;
        let id = SnapshotId::of(&bytes);
        Some((
            SnapshotRef {
                id,
                descriptor_length,
            },
            bytes.into(),
        ))
    }

    /// Reads a descriptor and checks every number in it against its limit.
    ///
    /// # Errors
    /// [`DescriptorError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DescriptorError> {
        let body = bytes
            .strip_prefix(MAGIC.as_bytes())
            .ok_or(CodecError::Magic {
                expected: MAGIC.trim_ascii_end(),
            })?;
        let descriptor: Self = codec::decode_canonical(body)?;
        descriptor
            .extensions
            .require_known(Self::EXTENSIONS_KNOWN)
            .map_err(CodecError::from)?;
        let pages = descriptor.chunk_list.iter().chain(&descriptor.entries);
        let page_count = descriptor.chunk_list.len() + descriptor.entries.len();
        let chunk_count = 1 + page_count as u64 + u64::from(descriptor.totals.chunks);
        if chunk_count > u64::from(SNAPSHOT_CHUNKS_MAX) {
            return Err(DescriptorError::TooManyChunks(chunk_count));
        }
        for page in pages {
            if page.plain_length == 0 || page.plain_length > CHUNK_BYTES_MAX {
                return Err(DescriptorError::PageLength(*page));
            }
        }
        Ok(descriptor)
    }
}

/// Why bytes are not a descriptor.
#[derive(Debug, thiserror::Error)]
pub enum DescriptorError {
    /// Not an encoding of one.
    #[error("decode a snapshot's descriptor")]
    Codec(#[from] CodecError),
    /// More than [`SNAPSHOT_CHUNKS_MAX`].
    #[error("a snapshot of {0} chunks, at most {SNAPSHOT_CHUNKS_MAX} are allowed")]
    TooManyChunks(u64),
    /// A page of no bytes, or longer than a chunk.
    #[error("page {} has {} bytes", .0.id, .0.plain_length)]
    PageLength(ChunkRef),
}
