//! The ways to answer a request for a chunk, other than with the chunk.

use std::time::Duration;

use bytes::Bytes;
use quinn::{SendStream, WriteError};
use scap_proto::content::EncodedChunk;
use scap_proto::wire::{chunk::ReplyHeader, close};

use super::Original;

/// How an evil peer answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conduct {
    /// With the chunk, one bit of its plain bytes flipped, well encoded.
    FlipsOneBit,
    /// With half of what it announced, and a clean end.
    ShortThenFin,
    /// With half of what it announced, and a reset.
    ResetsMidChunk,
    /// With the chunk, and then with more for as long as anybody takes it.
    Endless,
    /// With a frame that decodes to a thousand times what it should, and asks for a window of 2 GiB.
    Bomb,
    /// With another chunk of the same snapshot.
    OtherChunk,
    /// With one byte more than any encoding of the chunk has, announced as such.
    AnnouncesTooLong,
    /// Not at all.
    NeverAnswers,
    /// With the chunk, a byte a second.
    OneBytePerSecond,
    /// That it has it not; and then says again that it has.
    BreaksPromises,
}

impl Conduct {
    /// Whether nobody honest could have answered so.
    #[must_use]
    pub fn is_wrong_bytes(self) -> bool {
        match self {
            Self::FlipsOneBit
            | Self::Endless
            | Self::Bomb
            | Self::OtherChunk
            | Self::AnnouncesTooLong => true,
            Self::ShortThenFin
            | Self::ResetsMidChunk
            | Self::NeverAnswers
            | Self::OneBytePerSecond
            | Self::BreaksPromises => false,
        }
    }

    /// Answers one request for a chunk of `original`.
    pub(super) async fn answer(
        self,
        chunk: &EncodedChunk,
        original: &Original,
        send: &mut SendStream,
    ) -> Result<(), WriteError> {
        let right = chunk.bytes();
        match self {
            Self::FlipsOneBit => reply(send, &flipped(chunk)).await?,
            Self::Bomb => reply(send, &bomb(right.len().max(BOMB_BYTES_MIN))).await?,
            Self::OtherChunk => {
                let other = original.other_than(chunk);
                reply(send, other.unwrap_or(&flipped(chunk))).await?;
            }
            Self::AnnouncesTooLong => {
                reply(send, &vec![0; chunk.plain_length() as usize + 2]).await?;
            }
            Self::ShortThenFin => announce(send, right, right.len() / 2).await?,
            Self::ResetsMidChunk => {
                announce(send, right, right.len() / 2).await?;
                let _ = send.reset(close::INTERNAL.into());
            }
            Self::Endless => {
                reply(send, right).await?;
                loop {
                    send.write_all(&[7; 64 * 1024]).await?;
                }
            }
            Self::NeverAnswers => drop(send.stopped().await),
            // By who keeps the session.
            Self::BreaksPromises => {
                send.write_all(&ReplyHeader::NotHeld.encode()).await?;
            }
            Self::OneBytePerSecond => {
                announce(send, right, 0).await?;
                for byte in right {
                    send.write_all(&[*byte]).await?;
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
        let _ = send.finish();
        Ok(())
    }
}

pub(super) async fn reply(send: &mut SendStream, bytes: &[u8]) -> Result<(), WriteError> {
    announce(send, bytes, bytes.len()).await
}

/// Announces `bytes` and sends the first `sent` of them.
async fn announce(send: &mut SendStream, bytes: &[u8], sent: usize) -> Result<(), WriteError> {
    let length = u32::try_from(bytes.len()).expect("about the length of a chunk");
    send.write_all(&ReplyHeader::Found(length).encode()).await?;
    send.write_all(&bytes[..sent]).await
}

/// Another chunk, of the same length, which only its hash tells from the right one.
fn flipped(chunk: &EncodedChunk) -> Bytes {
    let mut plain = chunk.plain().to_vec();
    let middle = plain.len() / 2;
    plain[middle] ^= 1;
    EncodedChunk::from_plain(&plain).bytes().clone()
}

/// An encoded chunk of at most `bytes_max`, at least [`BOMB_BYTES_MIN`], that is a zstd frame of as many
/// blocks as fit, each of one byte repeated 128 Ki times.
fn bomb(bytes_max: usize) -> Bytes {
    let mut bytes = vec![CODEC_ZSTD];
    bytes.extend_from_slice(&ZSTD_MAGIC);
    // No size, no checksum, no dictionary; then the window, 2^(10 + 21).
    bytes.extend_from_slice(&[0, 21 << 3]);
    let blocks = (bytes_max - bytes.len()) / RLE_BLOCK_BYTES;
    for block in 1..=blocks {
        let header = (BLOCK_PLAIN_BYTES << 3) | (BLOCK_RLE << 1) | u32::from(block == blocks);
        bytes.extend_from_slice(&header.to_le_bytes()[..3]);
        bytes.push(b'x');
    }
    bytes.into()
}

/// The codec byte of a compressed chunk.
const CODEC_ZSTD: u8 = 1;

/// RFC 8878, section 3.1.1: a frame's magic, and of a block (3.1.1.2) its type for one byte repeated, its length
/// with that byte, and how much it can stand for.
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
const BLOCK_RLE: u32 = 1;
const RLE_BLOCK_BYTES: usize = 4;
const BLOCK_PLAIN_BYTES: u32 = 128 * 1024;

/// The shortest bomb, in bytes: one block.
const BOMB_BYTES_MIN: usize = 1 + 4 + 2 + RLE_BLOCK_BYTES;

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use scap_proto::content::{ChunkError, RawChunk};
    use scap_proto::id::ChunkId;

    use super::*;

    #[test]
    fn a_bomb_is_a_frame_that_decodes_where_there_is_room_for_it() {
        let plain = vec![b'x'; BLOCK_PLAIN_BYTES as usize];
        let (id, length) = (ChunkId::of(&plain), BLOCK_PLAIN_BYTES);
        let one = RawChunk::new(bomb(BOMB_BYTES_MIN));
        assert_eq!(one.verify(id, length).unwrap().plain(), plain);

        let many = bomb(32 * 1024);
        assert!((32 * 1024 - RLE_BLOCK_BYTES..=32 * 1024).contains(&many.len()));
        let refused = RawChunk::new(many).verify(id, length).err();
        assert_eq!(refused, Some(ChunkError::Decode(length)));
    }

    #[test]
    fn a_flipped_bit_leaves_a_chunk_that_decodes_to_the_same_length() {
        let chunk = EncodedChunk::from_plain(&[7; 1000]);
        let flipped = RawChunk::new(flipped(&chunk));
        let refused = flipped.verify(chunk.id(), chunk.plain_length()).err();
        assert!(matches!(refused, Some(ChunkError::OtherContent { .. })));
    }
}
