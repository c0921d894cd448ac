//! A delta: the chunks that one snapshot has and another lacks, made of chunks that the other has.
//!
//! It consists of *parts*, each a chunk that is fetched and passed on like any other. A part stands alone: it names base
//! chunks and the chunks to make, and holds one zstd frame, which decodes to the plain bytes of the latter, one after the
//! other, with those of the former as its prefix. Where the base is from is the release's to say; what comes out is proved
//! by the ids. So a part that lies makes nothing, and what a delta does not make is fetched as if there were none.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use zstd::zstd_safe::{CCtx, CParameter, DCtx, compress_bound, get_error_name};

use crate::{
    codec::{self, CodecError, Extensible},
    content::{chunk::EncodedChunk, descriptor::ChunkRef},
    extensions::Extensions,
    id::ChunkId,
    limits::{CHUNK_BYTES_MAX, DELTA_BASE_BYTES_MAX, DELTA_MADE_BYTES_MAX},
};

/// The first bytes of each part: its kind and version.
pub const MAGIC: &str = "scap-delta/1\n";

/// The zstd level of parts: they are made once, for many hosts, of little. At 6 with long-distance matching one core makes
/// some 100 MB/s.
const LEVEL: i32 = 6;

/// A part of a delta.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    base: Vec<ChunkId>,
    made: Vec<ChunkRef>,
    frame: Bytes,
    extensions: Extensions,
}

impl Extensible for Part {
    fn extensions(&self) -> &Extensions {
        &self.extensions
    }
}

/// Some chunks and their plain bytes, one after the other.
#[derive(Debug, Clone, Default)]
pub struct Run {
    chunks: Vec<ChunkRef>,
    bytes: Vec<u8>,
}

impl Run {
    /// Adds a chunk, whose plain bytes these are.
    pub fn push(&mut self, id: ChunkId, plain: &[u8]) {
        let plain_length = u32::try_from(plain.len()).expect("a chunk is at most CHUNK_BYTES_MAX");
        self.chunks.push(ChunkRef { id, plain_length });
        self.bytes.extend_from_slice(plain);
    }

    /// How many bytes there are.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

impl Part {
    /// The encoded part that makes `made` of `base`. It may be too long for a chunk.
    ///
    /// # Panics
    /// Where there are more than [`DELTA_BASE_BYTES_MAX`] or [`DELTA_MADE_BYTES_MAX`] bytes, or nothing to make.
    pub fn encode(base: &Run, made: &Run) -> Vec<u8> {
        assert!(base.len() <= DELTA_BASE_BYTES_MAX && made.len() <= DELTA_MADE_BYTES_MAX);
        assert!(!made.is_empty(), "a part makes something");
        let part = Self {
            base: base.chunks.iter().map(|chunk| chunk.id).collect(),
            made: made.chunks.clone(),
            frame: compress(&base.bytes, &made.bytes).into(),
            extensions: Extensions::default(),
        };
        let mut bytes = MAGIC.as_bytes().to_vec();
        bytes.extend_from_slice(&codec::encode(&part));
        bytes
    }

    /// Reads a part, and checks every number in it against its limit.
    ///
    /// # Errors
    /// [`DeltaError::Codec`], [`DeltaError::Length`], [`DeltaError::Limit`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DeltaError> {
        let body = bytes
            .strip_prefix(MAGIC.as_bytes())
            .ok_or(CodecError::Magic {
                expected: MAGIC.trim_ascii_end(),
            })?;
        let part: Self = codec::decode_message(body)?;
        let is_bad = |chunk: &&ChunkRef| !(1..=CHUNK_BYTES_MAX).contains(&chunk.plain_length);
        if let Some(bad) = part.made.iter().find(is_bad) {
            return Err(DeltaError::Length(*bad));
        }
        match part.made_length() {
            0 => Err(DeltaError::Nothing),
            length if length > DELTA_MADE_BYTES_MAX as u64 => Err(DeltaError::Limit {
                what: "to make",
                max: DELTA_MADE_BYTES_MAX,
            }),
            _ => Ok(part),
        }
    }

    /// The chunks that it makes, as it says.
    pub fn made(&self) -> &[ChunkRef] {
        &self.made
    }

    /// Collects the plain bytes of the base chunks, each of which `plain` looks up.
    ///
    /// # Errors
    /// What `plain` returns; [`DeltaError::Limit`], before much more than [`DELTA_BASE_BYTES_MAX`] are held.
    pub fn collect_base<E: From<DeltaError>>(
        &self,
        mut plain: impl FnMut(&ChunkId) -> Result<Bytes, E>,
    ) -> Result<Vec<u8>, E> {
        let mut base = Vec::new();
        for id in &self.base {
            let bytes = plain(id)?;
            if base.len() + bytes.len() > DELTA_BASE_BYTES_MAX {
                let max = DELTA_BASE_BYTES_MAX;
                return Err(DeltaError::Limit {
                    what: "of base",
                    max,
                }
                .into());
            }
            base.extend_from_slice(&bytes);
        }
        Ok(base)
    }

    /// Makes the chunks, each proved to be what its id names. `base` is what [`Self::collect_base`] gave. What decoding may
    /// allocate is bounded by [`DELTA_MADE_BYTES_MAX`].
    ///
    /// # Errors
    /// [`DeltaError::Decode`], and of each chunk [`DeltaError::OtherContent`].
    pub fn make(
        &self,
        base: &[u8],
    ) -> Result<impl Iterator<Item = Result<EncodedChunk, DeltaError>>, DeltaError> {
        let length = usize::try_from(self.made_length()).expect("decode checked it");
        let plain = decompress(base, &self.frame, length)?;
        let mut start = 0;
        Ok(self.made.iter().map(move |chunk| {
            let end = start + chunk.plain_length as usize;
            let bytes = &plain[start..end];
            start = end;
            match ChunkId::of(bytes) {
                found if found == chunk.id => Ok(EncodedChunk::with_id(chunk.id, bytes)),
                found => Err(DeltaError::OtherContent {
                    expected: chunk.id,
                    found,
                }),
            }
        }))
    }

    fn made_length(&self) -> u64 {
        let lengths = self.made.iter().map(|chunk| u64::from(chunk.plain_length));
        lengths.sum()
    }
}

/// Why a part of a delta is refused.
#[derive(Debug, thiserror::Error)]
pub enum DeltaError {
    /// Not an encoding of one.
    #[error("decode a part of a delta")]
    Codec(#[from] CodecError),
    /// A chunk of no bytes, or too long.
    #[error("a part of a delta makes chunk {} of {} bytes", .0.id, .0.plain_length)]
    Length(ChunkRef),
    /// It makes nothing.
    #[error("a part of a delta makes nothing")]
    Nothing,
    /// More bytes than one part may take.
    #[error("a part of a delta has more than {max} bytes {what}")]
    Limit {
        /// Of what.
        what: &'static str,
        /// How many are allowed.
        max: usize,
    },
    /// A frame that does not decode, or decodes to another length.
    #[error("a part of a delta does not decode to {length} bytes: {reason}")]
    Decode {
        /// How many it says it makes.
        length: usize,
        /// In zstd's words.
        reason: &'static str,
    },
    /// A frame that decodes to something else than it says: the base, or the delta, is not what its maker had.
    #[error("a part of a delta makes {found}, and says that it makes {expected}")]
    OtherContent {
        /// What it says.
        expected: ChunkId,
        /// What it is.
        found: ChunkId,
    },
}

fn compress(base: &[u8], plain: &[u8]) -> Vec<u8> {
    let own = "zstd takes these parameters";
    let mut context = CCtx::create();
    let window_log = (base.len() + plain.len())
        .next_power_of_two()
        .ilog2()
        .max(WINDOW_LOG_MIN);
    for parameter in [
        CParameter::CompressionLevel(LEVEL),
        CParameter::WindowLog(window_log),
        CParameter::EnableLongDistanceMatching(true),
    ] {
        context.set_parameter(parameter).expect(own);
    }
    context.ref_prefix(base).expect(own);
    let mut frame = Vec::with_capacity(compress_bound(plain.len()));
    context
        .compress2(&mut frame, plain)
        .expect("it is compressed into as much as it may take");
    frame
}

/// The smallest window that zstd takes.
const WINDOW_LOG_MIN: u32 = 10;

fn decompress(base: &[u8], frame: &[u8], length: usize) -> Result<Vec<u8>, DeltaError> {
    let failed = |reason| DeltaError::Decode { length, reason };
    let mut context = DCtx::create();
    let mut plain = Vec::with_capacity(length);
    context
        .ref_prefix(base)
        .and_then(|_| context.decompress(&mut plain, frame))
        .map_err(|code| failed(get_error_name(code)))?;
    if plain.len() == length {
        Ok(plain)
    } else {
        Err(failed("too short"))
    }
}
