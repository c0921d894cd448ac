//! A chunk on a stream of its own.

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
