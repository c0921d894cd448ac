//! The session between two nodes: which releases they open with each other, and what they have.
//!
//! Each side opens releases with handles of its own choice; a [`PeerMessage::Have`] names the handle of the
//! side that it is sent to. Opening is where the audience is checked. A release that the other side
//! does not know, and one that the asker may not have, are answered alike: not at all, until it can
//! be served.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{id::ReleaseId, identity::SignedFleetTrust, limits::SNAPSHOT_CHUNKS_MAX};

/// One message of a session. Variants are only ever added at the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum PeerMessage {
    /// I want to fetch this release from you and call it `handle` from now on.
    Open {
        /// Chosen by the sender, fresh on this link.
        handle: u32,
        /// The release.
        release: ReleaseId,
    },
    /// I am done with your answers about `handle`.
    Close {
        /// The sender's handle.
        handle: u32,
    },
    /// I can serve these chunks of what you call `handle`, beyond what I said before.
    Have {
        /// The receiver's handle.
        handle: u32,
        /// Which.
        chunks: ChunkSet,
    },
    /// I know all chunks of what I call `handle`. Push me those of these lanes as you come to hold them; of none,
    /// where I lack so little that I rather ask.
    Follow {
        /// The sender's handle.
        handle: u32,
        /// Bit `l` is lane `l`: the chunks whose index, divided by how many lanes the plan has, leaves `l`.
        lanes: u64,
        /// What I hold.
        held: ChunkSet,
    },
    /// Whose certificates count: a fleet trust that is newer than what you said to hold to, or one from which that follows.
    /// Said only to who said which it holds to.
    Trust(Box<SignedFleetTrust>),
}

/// Some chunks of a release, by index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChunkSet {
    /// A few, each named.
    Indexes(Vec<u32>),
    /// Many: a bitmap, least significant bit first, from index `first` on.
    Bitmap {
        /// The index of the first bit.
        first: u32,
        /// The bits.
        bits: Bytes,
    },
}

impl ChunkSet {
    /// The shorter form of `indexes`, which are sorted.
    pub fn from_sorted(indexes: &[u32]) -> Self {
        let (Some(first), Some(last)) = (indexes.first(), indexes.last()) else {
            return Self::Indexes(Vec::new());
        };
        let span_bytes = (last - first) as usize / 8 + 1;
        if span_bytes >= 3 * indexes.len() {
            return Self::Indexes(indexes.to_vec());
        }
        let mut bits = vec![0u8; span_bytes];
        for index in indexes {
            let at = (index - first) as usize;
            bits[at / 8] |= 1 << (at % 8);
        }
        Self::Bitmap {
            first: *first,
            bits: bits.into(),
        }
    }

    /// The indexes, in rising order for a bitmap; `None` where one is beyond any snapshot.
    pub fn indexes(&self) -> Option<Vec<u32>> {
        let indexes = match self {
            Self::Indexes(indexes) => indexes.clone(),
            Self::Bitmap { first, bits } => {
                let end = u64::from(*first) + 8 * bits.len() as u64;
                if end > u64::from(SNAPSHOT_CHUNKS_MAX) + 8 {
                    return None;
                }
                let set = |at: &u32| bits[*at as usize / 8] & (1 << (at % 8)) != 0;
                let count = u32::try_from(8 * bits.len()).expect("at most SNAPSHOT_CHUNKS_MAX + 8");
                (0..count).filter(set).map(|at| first + at).collect()
            }
        };
        indexes
            .iter()
            .all(|index| *index < SNAPSHOT_CHUNKS_MAX)
            .then_some(indexes)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::codec;

    #[test]
    fn a_set_of_chunks_is_sent_in_its_shorter_form() {
        let all: Vec<u32> = (5..10_000).collect();
        for (indexes, bytes_max) in [
            (vec![], 4),
            (vec![7], 8),
            (vec![1, 4_000_000], 16),
            (all.clone(), 1300),
            (vec![9, 10], 8),
        ] {
            let set = ChunkSet::from_sorted(&indexes);
            assert!(codec::encode(&set).len() <= bytes_max, "{indexes:?}");
            assert_eq!(set.indexes().unwrap(), indexes);
        }
    }

    #[test]
    fn a_set_beyond_any_snapshot_is_refused() {
        assert!(
            ChunkSet::Indexes(vec![SNAPSHOT_CHUNKS_MAX])
                .indexes()
                .is_none()
        );
        let beyond = ChunkSet::Bitmap {
            first: u32::MAX,
            bits: Bytes::from_static(&[1]),
        };
        assert!(beyond.indexes().is_none());
        let edge = ChunkSet::Bitmap {
            first: SNAPSHOT_CHUNKS_MAX,
            bits: Bytes::from_static(&[1]),
        };
        assert!(edge.indexes().is_none());
    }
}
