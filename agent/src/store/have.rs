//! What the store holds, in memory, and the generations by which collection spares what is counted on.
//!
//! Every look that counts on a chunk (putting it, keeping it, counting it under a hold) *touches* it:
//! the chunk takes the current generation. Opening a hold and starting a collection each begin a new
//! generation. A collection removes what was last touched before the *cut*: its own start, or the
//! start of the oldest hold that is open then, whichever is earlier.

use std::collections::{BTreeMap, BTreeSet};

use scap_proto::id::ChunkId;

/// The generation of what an index lists until its file has been seen.
pub(super) const UNSEEN: u32 = 0;

/// What is known of one chunk without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) plain_length: u32,
    pub(super) encoded_length: u32,
    /// Whether a sync has covered the file, or is still to do so.
    pub(super) durable: bool,
}

#[derive(Debug)]
struct Entry {
    held: Held,
    generation: u32,
}

// A B-tree's leaf holds 11 entries and is at least half full, so a chunk costs 48 to 96 bytes: a
// million chunks fit in 100 MB at worst, and the usual 160,000 in 8 to 15.
const _: () = assert!(size_of::<(ChunkId, Entry)>() <= 48);

/// The chunks that the store offers.
#[derive(Debug)]
pub(super) struct Have {
    chunks: BTreeMap<ChunkId, Entry>,
    encoded_bytes: u64,
    /// What was put since the last sync; some of it may be gone again.
    unsynced: Vec<ChunkId>,
    /// Of this opening: 4 billion holds and collections are a thousand years of one every 8 s.
    generation: u32,
    holds: BTreeSet<u32>,
    damaged: u64,
}

impl Have {
    pub(super) fn new() -> Self {
        Self {
            chunks: BTreeMap::new(),
            encoded_bytes: 0,
            unsynced: Vec::new(),
            generation: UNSEEN + 1,
            holds: BTreeSet::new(),
            damaged: 0,
        }
    }

    pub(super) fn get(&self, id: &ChunkId) -> Option<Held> {
        self.chunks.get(id).map(|entry| entry.held)
    }

    /// As [`Self::get`], and whoever asks counts on it from now on.
    pub(super) fn touch(&mut self, id: &ChunkId) -> Option<Held> {
        let entry = self.chunks.get_mut(id)?;
        entry.generation = self.generation;
        Some(entry.held)
    }

    pub(super) fn insert(&mut self, id: ChunkId, held: Held) {
        if !held.durable {
            self.unsynced.push(id);
        }
        self.insert_at(id, held, self.generation);
    }

    /// Adds what an index lists and nobody has seen yet.
    pub(super) fn insert_unseen(&mut self, id: ChunkId, held: Held) {
        self.insert_at(id, held, UNSEEN);
    }

    fn insert_at(&mut self, id: ChunkId, held: Held, generation: u32) {
        self.encoded_bytes += u64::from(held.encoded_length);
        let entry = Entry { held, generation };
        if let Some(old) = self.chunks.insert(id, entry) {
            self.encoded_bytes -= u64::from(old.held.encoded_length);
        }
    }

    pub(super) fn remove(&mut self, id: &ChunkId) -> Option<Held> {
        let held = self.chunks.remove(id)?.held;
        self.encoded_bytes -= u64::from(held.encoded_length);
        Some(held)
    }

    /// As [`Self::remove`], for what was last touched before `cut`.
    pub(super) fn remove_older(&mut self, id: &ChunkId, cut: u32) -> Option<Held> {
        (self.chunks.get(id)?.generation < cut)
            .then(|| self.remove(id))
            .flatten()
    }

    /// What was last touched before `cut`, in order.
    pub(super) fn older(&self, cut: u32) -> Vec<ChunkId> {
        let old = self.chunks.iter().filter(|(_, e)| e.generation < cut);
        old.map(|(id, _)| *id).collect()
    }

    /// What was put since this was last asked.
    pub(super) fn take_unsynced(&mut self) -> Vec<ChunkId> {
        std::mem::take(&mut self.unsynced)
    }

    /// Gives back what [`Self::take_unsynced`] gave, as it could not be made durable.
    pub(super) fn still_unsynced(&mut self, mut ids: Vec<ChunkId>) {
        self.unsynced.append(&mut ids);
    }

    pub(super) fn mark_durable(&mut self, ids: &[ChunkId]) {
        for id in ids {
            if let Some(entry) = self.chunks.get_mut(id) {
                entry.held.durable = true;
            }
        }
    }

    /// Up to `count` durable chunks in order, those after `last`.
    pub(super) fn durable_after(
        &self,
        last: Option<ChunkId>,
        count: usize,
    ) -> Vec<(ChunkId, Held)> {
        use std::ops::Bound::{Excluded, Unbounded};
        self.chunks
            .range((last.map_or(Unbounded, Excluded), Unbounded))
            .filter(|(_, entry)| entry.held.durable)
            .take(count)
            .map(|(id, entry)| (*id, entry.held))
            .collect()
    }

    /// Begins a hold, and names it.
    pub(super) fn open_hold(&mut self) -> u32 {
        self.generation += 1;
        self.holds.insert(self.generation);
        self.generation
    }

    pub(super) fn close_hold(&mut self, hold: u32) {
        self.holds.remove(&hold);
    }

    /// Begins a collection, and returns its cut.
    pub(super) fn begin_collection(&mut self) -> u32 {
        self.generation += 1;
        self.holds.first().copied().unwrap_or(self.generation)
    }

    pub(super) fn count_damaged(&mut self) {
        self.damaged += 1;
    }

    pub(super) fn damaged(&self) -> u64 {
        self.damaged
    }

    pub(super) fn count(&self) -> u64 {
        self.chunks.len() as u64
    }

    pub(super) fn encoded_bytes(&self) -> u64 {
        self.encoded_bytes
    }
}
