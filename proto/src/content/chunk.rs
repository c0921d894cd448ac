//! One chunk: 1 byte to 1 MiB of content, plain or encoded.
//!
//! The encoded form, in which chunks are stored and sent, is a codec byte (0 raw, 1 zstd) and the
//! payload. It is never longer than the plain form and one byte.

use std::fmt;

use bytes::Bytes;

use crate::{
    id::ChunkId,
    limits::{CHUNK_BYTES_MAX, ENCODED_CHUNK_BYTES_MAX},
};

/// The zstd level of new chunks. At 3 one core encodes some 300 MB/s of source code, more than a
/// 1 Gbit/s link of encoded bytes takes; each chunk is encoded once in its life.
pub const ZSTD_LEVEL: i32 = 3;

const CODEC_RAW: u8 = 0;
const CODEC_ZSTD: u8 = 1;

/// A chunk in its encoded form, proved to decode to the bytes that its id names.
#[derive(Clone, PartialEq, Eq)]
pub struct EncodedChunk {
    id: ChunkId,
    plain_length: u32,
    bytes: Bytes,
}

impl EncodedChunk {
    /// Encodes plain bytes, compressed where that makes them shorter.
    ///
    /// # Panics
    /// Where `plain` is empty or longer than [`CHUNK_BYTES_MAX`]: chunkers make no such chunk.
    pub fn from_plain(plain: &[u8]) -> Self {
        Self::with_id(ChunkId::of(plain), plain)
    }

    /// As [`Self::from_plain`], for bytes whose id is known already.
    ///
    /// # Panics
    /// As [`Self::from_plain`].
    pub fn with_id(id: ChunkId, plain: &[u8]) -> Self {
        let plain_length = u32::try_from(plain.len())
            .ok()
            .filter(|length| (1..=CHUNK_BYTES_MAX).contains(length))
            .expect("chunkers make chunks of 1 byte to CHUNK_BYTES_MAX");
        // One byte less than the plain form: what does not fit there is better kept raw.
        let mut encoded = vec![0; plain.len()];
        encoded[0] = CODEC_ZSTD;
        let bytes = match zstd::bulk::compress_to_buffer(plain, &mut encoded[1..], ZSTD_LEVEL) {
            Ok(length) => {
                encoded.truncate(1 + length);
                encoded.shrink_to_fit();
                encoded
            }
            Err(_) => raw(plain),
        };
        Self {
            id,
            plain_length,
            bytes: bytes.into(),
        }
    }

    /// The chunk's id.
    pub fn id(&self) -> ChunkId {
        self.id
    }

    /// Length of the plain bytes.
    pub fn plain_length(&self) -> u32 {
        self.plain_length
    }

    /// The encoded bytes, as stored and sent.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The plain bytes.
    ///
    /// # Panics
    /// Never: that it decodes was proved when this value was made.
    pub fn plain(&self) -> Bytes {
        decode(&self.bytes, self.plain_length).expect("an encoded chunk was proved to decode")
    }
}

impl fmt::Debug for EncodedChunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EncodedChunk")
            .field("id", &self.id)
            .field("plain_length", &self.plain_length)
            .finish_non_exhaustive()
    }
}

/// Encoded bytes as a peer sent them or a disk gave them back, not yet proved to be anything.
#[derive(Clone)]
pub struct RawChunk(Bytes);

impl RawChunk {
    /// Wraps what arrived. At most [`ENCODED_CHUNK_BYTES_MAX`] are ever read for one.
    pub fn new(bytes: Bytes) -> Self {
        Self(bytes)
    }

    /// Decodes the bytes, and proves nothing of what they are: for who proves the whole that they are part of.
    /// What it may allocate is bounded by `plain_length`; what is stored plain is not copied.
    ///
    /// # Errors
    /// [`ChunkError`]: they are no encoding of that many bytes.
    pub fn decode(&self, plain_length: u32) -> Result<Bytes, ChunkError> {
        decode(&self.0, plain_length)
    }

    /// Proves that the bytes decode to the `plain_length` bytes that `id` names. What decoding may
    /// allocate is bounded by `plain_length`.
    ///
    /// # Errors
    /// [`ChunkError`]: what is wrong with them.
    pub fn verify(self, id: ChunkId, plain_length: u32) -> Result<EncodedChunk, ChunkError> {
        self.verify_with_plain(id, plain_length)
            .map(|(chunk, _)| chunk)
    }

    /// As [`Self::verify`], and hands on the plain bytes, which it had to make.
    ///
    /// # Errors
    /// As [`Self::verify`].
    pub fn verify_with_plain(
        self,
        id: ChunkId,
        plain_length: u32,
    ) -> Result<(EncodedChunk, Bytes), ChunkError> {
        let plain = decode(&self.0, plain_length)?;
        match ChunkId::of(&plain) {
            found if found == id => Ok((
                EncodedChunk {
                    id,
                    plain_length,
                    bytes: self.0,
                },
                plain,
            )),
            found => Err(ChunkError::OtherContent {
                expected: id,
                found,
            }),
        }
    }
}

/// Why encoded bytes are not the chunk that they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChunkError {
    /// Longer than any encoding of a chunk of that length, or empty.
    #[error("{encoded} encoded bytes for a chunk of {plain} bytes")]
    Length {
        /// How many arrived.
        encoded: usize,
        /// How long the chunk is.
        plain: u32,
    },
    /// A codec byte that this version does not know.
    #[error("unknown codec {0}")]
    Codec(u8),
    /// Bytes that do not decode, or decode to another length.
    #[error("bytes that do not decode to {0} bytes")]
    Decode(u32),
    /// Bytes that decode to something else.
    #[error("the bytes of {found}, not of {expected}")]
    OtherContent {
        /// What was asked for.
        expected: ChunkId,
        /// What it is.
        found: ChunkId,
    },
}

fn raw(plain: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1 + plain.len());
    bytes.push(CODEC_RAW);
    bytes.extend_from_slice(plain);
    bytes
}

fn decode(encoded: &Bytes, plain_length: u32) -> Result<Bytes, ChunkError> {
    let length_error = ChunkError::Length {
        encoded: encoded.len(),
        plain: plain_length,
    };
    if plain_length == 0 || plain_length > CHUNK_BYTES_MAX {
        return Err(length_error);
    }
    const _: () = assert!(ENCODED_CHUNK_BYTES_MAX == CHUNK_BYTES_MAX + 1);
    if encoded.len() > plain_length as usize + 1 {
        return Err(length_error);
    }
    let Some((codec, payload)) = encoded.split_first() else {
        return Err(length_error);
    };
    let plain = match *codec {
        CODEC_RAW => encoded.slice(1..),
        CODEC_ZSTD => zstd::bulk::decompress(payload, plain_length as usize)
            .map_err(|_| ChunkError::Decode(plain_length))?
            .into(),
        other => return Err(ChunkError::Codec(other)),
    };
    if plain.len() == plain_length as usize {
        Ok(plain)
    } else {
        Err(ChunkError::Decode(plain_length))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn noise(length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        bytes
    }

    #[test]
    fn an_encoded_chunk_is_never_longer_than_its_plain_bytes_and_one() {
        for plain in [
            noise(1),
            noise(4096),
            noise(CHUNK_BYTES_MAX as usize),
            vec![7; 100_000],
        ] {
            let chunk = EncodedChunk::from_plain(&plain);
            assert!(chunk.bytes().len() <= plain.len() + 1);
            assert_eq!(chunk.plain(), plain);
            let back = RawChunk::new(chunk.bytes().clone());
            assert!(back.verify(chunk.id(), chunk.plain_length()).unwrap() == chunk);
        }
        assert!(EncodedChunk::from_plain(&[7; 100_000]).bytes().len() < 100);
    }

    #[test]
    fn any_flipped_bit_short_read_or_other_chunk_is_refused() {
        for plain in [noise(300), vec![7; 300]] {
            let chunk = EncodedChunk::from_plain(&plain);
            for bit in 0..chunk.bytes().len() * 8 {
                let mut bytes = chunk.bytes().to_vec();
                bytes[bit / 8] ^= 1 << (bit % 8);
                // zstd has don't-care bits: what decodes to the same plain bytes is the chunk.
                if let Ok(same) = RawChunk::new(bytes.into()).verify(chunk.id(), 300) {
                    assert_eq!(same.plain(), plain);
                }
            }
            let short = RawChunk::new(chunk.bytes().slice(..chunk.bytes().len() - 1));
            assert!(short.verify(chunk.id(), 300).is_err());
            let other = RawChunk::new(EncodedChunk::from_plain(b"other").bytes().clone());
            assert!(other.verify(chunk.id(), 5).is_err());
        }
    }

    #[test]
    fn a_bomb_allocates_no_more_than_the_chunk_is_long() {
        let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 19).unwrap();
        let mut bytes = vec![CODEC_ZSTD];
        bytes.extend_from_slice(&bomb);
        let refused = RawChunk::new(bytes.into()).verify(ChunkId::of(b""), CHUNK_BYTES_MAX);
        assert_eq!(refused.err(), Some(ChunkError::Decode(CHUNK_BYTES_MAX)));
    }
}
