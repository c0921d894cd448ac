//! Chunks that came a moment ago: what peers ask for next, kept where it needs no disk.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, PoisonError},
};

use bytes::Bytes;
use scap_proto::{content::EncodedChunk, id::ChunkId};

/// Most encoded bytes that are kept: what comes in half a second at 100 Mbit/s, in which a chunk that was rare is asked
/// for by those who heard of it.
pub(crate) const RECENT_BYTES_MAX: usize = 6 * 1024 * 1024;

/// The chunks that came last, verified and stored.
#[derive(Debug, Default)]
pub(crate) struct Recent(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    chunks: HashMap<ChunkId, Bytes>,
    /// The oldest first.
    order: VecDeque<ChunkId>,
    bytes: usize,
}

impl Recent {
    /// Keeps a chunk that is stored, and lets the oldest go.
    pub(crate) fn add(&self, chunk: &EncodedChunk) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // The same chunk may come encoded in another way, of another length: what is counted is what stays.
        if kept.chunks.contains_key(&chunk.id()) {
            return;
        }
        kept.chunks.insert(chunk.id(), chunk.bytes().clone());
        kept.order.push_back(chunk.id());
        kept.bytes += chunk.bytes().len();
        while kept.bytes > RECENT_BYTES_MAX {
            let oldest = kept.order.pop_front().expect("bytes are of something");
            let gone = kept.chunks.remove(&oldest);
            kept.bytes -= gone.map_or(0, |bytes| bytes.len());
        }
    }

    /// The encoded bytes of a chunk, where it is among the last.
    pub(crate) fn get(&self, id: &ChunkId) -> Option<Bytes> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.chunks.get(id).cloned()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use scap_proto::content::RawChunk;

    use super::*;

    fn chunk(n: u8) -> EncodedChunk {
        // One that does not compress, so that its length is known.
        let mut plain = vec![0; 1024 * 1024];
        blake3::Hasher::new()
            .update(&[n])
            .finalize_xof()
            .fill(&mut plain);
        EncodedChunk::from_plain(&plain)
    }

    #[test]
    fn a_chunk_that_comes_again_encoded_otherwise_counts_as_it_is_kept() {
        let recent = Recent::default();
        let plain = vec![7; 1024 * 1024];
        let short = EncodedChunk::from_plain(&plain);
        let raw = Bytes::from([&[0][..], &plain].concat());
        let length = short.plain_length();
        let long = RawChunk::new(raw).verify(short.id(), length).unwrap();
        recent.add(&short);
        recent.add(&long);
        let kept = recent.get(&short.id()).map(|bytes| bytes.len());
        assert_eq!(kept, Some(short.bytes().len()));
        for n in 0..20 {
            recent.add(&chunk(n));
        }
        assert_eq!(recent.get(&short.id()), None);
    }

    #[test]
    fn the_last_chunks_are_kept_and_no_more_than_their_bytes_allow() {
        let recent = Recent::default();
        let chunks: Vec<_> = (0..7).map(chunk).collect();
        for chunk in &chunks {
            recent.add(chunk);
            recent.add(chunk);
        }
        // Each is a byte longer than a sixth of what there is room for.
        let kept: Vec<_> = chunks.iter().map(|chunk| recent.get(&chunk.id())).collect();
        assert_eq!(kept.iter().flatten().count(), 5);
        assert!(kept[0].is_none() && kept[1].is_none());
        assert_eq!(kept[6].as_ref(), Some(chunks[6].bytes()));
    }
}
