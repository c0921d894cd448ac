//! A chunk on a stream of its own: asked for on a bidirectional one, or pushed on a unidirectional one to a peer that
//! said with [`super::peer::PeerMessage::Follow`] that it wants it.

use serde::{Deserialize, Serialize};

use crate::limits::ENCODED_CHUNK_BYTES_MAX;

/// Asks for one chunk of a release that the asker opened on this link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkRequest {
    /// The asker's handle of the release.
    pub handle: u32,
    /// The chunk's index in the release's layout.
    pub index: u32,
}

/// The first bytes of the answer: a status byte, and for [`ReplyHeader::Found`] the length of the
/// encoded bytes that follow, as a little-endian `u32`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyHeader {
    /// So many encoded bytes follow.
    Found(u32),
    /// The peer does not have it (any more).
    NotHeld,
    /// The peer has too much to do; ask later, or another.
    Busy,
}

/// The first bytes of a push: what follows, to the end of the stream, are the encoded bytes of a chunk. Three
/// little-endian `u32`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PushHeader {
    /// The receiver's handle of the release.
    pub handle: u32,
    /// The chunk's index in the release's layout.
    pub index: u32,
    /// How many encoded bytes follow.
    pub length: u32,
}

impl PushHeader {
    /// Bytes of a header.
    pub const BYTES: usize = 12;

    /// The header as bytes.
    pub fn encode(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        for (to, number) in bytes
            .chunks_exact_mut(4)
            .zip([self.handle, self.index, self.length])
        {
            to.copy_from_slice(&number.to_le_bytes());
        }
        bytes
    }

    /// Reads a header.
    ///
    /// # Errors
    /// [`ReplyHeaderError::Length`].
    pub fn decode(bytes: [u8; Self::BYTES]) -> Result<Self, ReplyHeaderError> {
        let [h0, h1, h2, h3, i0, i1, i2, i3, length @ ..] = bytes;
        let length = u32::from_le_bytes(length);
        if !(1..=ENCODED_CHUNK_BYTES_MAX).contains(&length) {
            return Err(ReplyHeaderError::Length(length));
        }
        Ok(Self {
            handle: u32::from_le_bytes([h0, h1, h2, h3]),
            index: u32::from_le_bytes([i0, i1, i2, i3]),
            length,
        })
    }
}

/// A header that is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReplyHeaderError {
    /// A status that this version does not know.
    #[error("unknown status {0} of a chunk reply")]
    Status(u8),
    /// Empty, or longer than any chunk.
    #[error("a chunk reply of {0} bytes, 1 to {ENCODED_CHUNK_BYTES_MAX} are allowed")]
    Length(u32),
}

impl ReplyHeader {
    /// Bytes of a header.
    pub const BYTES: usize = 5;

    /// The header as bytes.
    pub fn encode(self) -> [u8; Self::BYTES] {
        let (status, length) = match self {
            Self::Found(length) => (0, length),
            Self::NotHeld => (1, 0),
            Self::Busy => (2, 0),
        };
        let mut bytes = [status; Self::BYTES];
        bytes[1..].copy_from_slice(&length.to_le_bytes());
        bytes
    }

    /// Reads a header.
    ///
    /// # Errors
    /// [`ReplyHeaderError`].
    pub fn decode(bytes: [u8; Self::BYTES]) -> Result<Self, ReplyHeaderError> {
        let [status, length @ ..] = bytes;
        let length = u32::from_le_bytes(length);
        match status {
            0 if (1..=ENCODED_CHUNK_BYTES_MAX).contains(&length) => Ok(Self::Found(length)),
            0 => Err(ReplyHeaderError::Length(length)),
            1 => Ok(Self::NotHeld),
            2 => Ok(Self::Busy),
            other => Err(ReplyHeaderError::Status(other)),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_push_says_what_it_is_and_how_long() {
        let header = PushHeader {
            handle: 1,
            index: 0x0203,
            length: 4,
        };
        let bytes = [1, 0, 0, 0, 3, 2, 0, 0, 4, 0, 0, 0];
        assert_eq!(header.encode(), bytes);
        assert_eq!(PushHeader::decode(bytes).unwrap(), header);
        for length in [[0; 4], [255; 4]] {
            let mut bytes = bytes;
            bytes[8..].copy_from_slice(&length);
            let length = u32::from_le_bytes(length);
            let refused = PushHeader::decode(bytes);
            assert_eq!(refused, Err(ReplyHeaderError::Length(length)));
        }
    }

    #[test]
    fn a_header_says_one_of_three_things() {
        for header in [
            ReplyHeader::Found(7),
            ReplyHeader::NotHeld,
            ReplyHeader::Busy,
        ] {
            assert_eq!(ReplyHeader::decode(header.encode()).unwrap(), header);
        }
        assert_eq!(ReplyHeader::Found(0x0102).encode(), [0, 2, 1, 0, 0]);
        assert_eq!(
            ReplyHeader::decode([0; 5]),
            Err(ReplyHeaderError::Length(0))
        );
        assert_eq!(
            ReplyHeader::decode([0, 255, 255, 255, 255]),
            Err(ReplyHeaderError::Length(u32::MAX))
        );
        assert_eq!(
            ReplyHeader::decode([9, 0, 0, 0, 0]),
            Err(ReplyHeaderError::Status(9))
        );
    }
}
