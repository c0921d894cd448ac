//! Collection, and the holds that keep it from taking what somebody counts on.
//!
//! The rule, for one who admits releases and one who collects, in any interleaving:
//!
//! 1. An admission opens a [`Hold`], and counts chunks through [`Hold::contains`]. From then on
//!    neither what it counted nor what anyone puts is collected, until the hold is dropped.
//! 2. It writes down, where collections look, that its release is to be kept, and drops the hold
//!    after that.
//! 3. A collection begins ([`Store::begin_collection`]) *before* it looks there, and says for each
//!    release found which chunks to keep.
//!
//! Then a chunk that was counted as held is held: either the hold was open when the collection began,
//! which spares everything touched since the hold was opened; or it was opened later, and what it
//! touched is spared for that; or it was dropped before, and the collection finds the release.
//! The mechanism is in `have`: no lock is held while either side thinks.

use std::fmt;

use scap_proto::id::ChunkId;

use super::{Store, StoreError, stripe};

/// Chunks removed under one lock and one sync of the index. A put of a chunk with the same start of
/// its id waits that long: tens of milliseconds on a slow disk.
const BATCH_CHUNKS: usize = 1024;

/// Keeps what is counted through it, and all that is put while it is open, from being collected.
///
/// Cheap, and may be open for as long as an admission or a fetch takes; what is dropped by others
/// meanwhile is collected after it.
#[must_use = "a hold that is dropped holds nothing"]
pub struct Hold {
    store: Store,
    generation: u32,
}

impl Hold {
    /// As [`Store::contains`]; and while the answer is yes, it stays so until the hold is dropped,
    /// unless a read finds the chunk's file damaged.
    pub fn contains(&self, id: &ChunkId) -> bool {
        self.store.have().touch(id).is_some()
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.store.have().close_hold(self.generation);
    }
}

impl fmt::Debug for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hold")
            .field("generation", &self.generation)
            .finish()
    }
}

/// A collection that is finding out what to keep. Dropped, it removes nothing.
#[must_use = "a collection removes only what `sweep` does"]
pub struct Collection {
    store: Store,
    cut: u32,
}

/// What a collection removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Collected {
    /// How many chunks.
    pub chunks: u64,
    /// Their encoded bytes.
    pub bytes: u64,
}

impl Collection {
    /// Spares a chunk, if it is there.
    pub fn keep(&self, id: &ChunkId) {
        self.store.have().touch(id);
    }

    /// Removes all that was not kept, and not counted or put since this collection began or since
    /// any hold was opened that was open then.
    ///
    /// A crash leaves a part of it undone, which the next collection does. It makes room also where
    /// there is no room left to note in the index what is gone.
    ///
    /// # Errors
    /// [`StoreError::Io`]: a file could not be removed. It is offered no more, and found again at the
    /// next opening.
    pub fn sweep(self) -> Result<Collected, StoreError> {
        let mut collected = Collected::default();
        let old = self.store.have().older(self.cut);
        for ids in old.chunk_by(|a, b| stripe(a) == stripe(b)) {
            for batch in ids.chunks(BATCH_CHUNKS) {
                let _stripe = self.store.lock_stripe(&batch[0]);
                let removed = self
                    .store
                    .forget(batch, |have, id| have.remove_older(id, self.cut))?;
                collected.chunks += removed.chunks;
                collected.bytes += removed.bytes;
            }
        }
        self.store.compact_index()?;
        Ok(collected)
    }
}

impl fmt::Debug for Collection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Collection")
            .field("cut", &self.cut)
            .finish()
    }
}

impl Store {
    /// Opens a hold. See [`gc`](self) for the rule.
    pub fn hold(&self) -> Hold {
        Hold {
            generation: self.have().open_hold(),
            store: self.clone(),
        }
    }

    /// Begins a collection: first this, then find out what to keep. See [`gc`](self) for the rule.
    pub fn begin_collection(&self) -> Collection {
        Collection {
            cut: self.have().begin_collection(),
            store: self.clone(),
        }
    }
}
