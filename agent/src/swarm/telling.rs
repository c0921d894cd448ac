//! When peers are told of chunks that came: the first few at once, then several at a time.
//!
//! A chunk is told to every peer that lacks it, so in a swarm of N there are N announcements for each chunk that
//! arrives, each a packet on the wire and a wake-up at either end. They cost more than the chunk itself where every
//! one is told alone. A transfer of a few chunks, whose time is latency, is told of at once all the same.

use std::{collections::BTreeSet, time::Duration};

use super::event::TransferId;

/// So few peers are told of each chunk as it comes, as in a tree, where a chunk that waited at each hop would wait long.
pub(super) const TOLD_AT_ONCE_MAX: usize = 4;

/// How often there is an announcement while chunks keep coming: some 14 chunks at 100 Mbit/s. It delays a chunk by half
/// of it per hop, of which a swarm has few.
const INTERVAL: Duration = Duration::from_millis(150);

/// The same of a transfer that is pushed, where nobody asks for what he was told of before it is late.
const INTERVAL_UNHURRIED: Duration = Duration::from_secs(1);

/// Announcements that go out at once after a pause: more than a one-line update has chunks.
const AT_ONCE: u32 = 8;

/// So many chunks are told without waiting longer: on a fast link peers would run out of things to ask for.
const NEWS_MAX: u32 = 16;

/// What is to be told, and since when nothing was.
#[derive(Default)]
pub(super) struct Telling {
    /// Transfers with chunks that came and were not told.
    news: BTreeSet<TransferId>,
    /// How many chunks.
    count: u32,
    /// Whether all of them are of transfers that are pushed, and since when.
    unhurried_since: Option<Duration>,
    /// When the announcements so far would have been made, one each [`INTERVAL`]: ahead of the clock by
    /// what was made at once.
    paced_until: Duration,
}

impl Telling {
    /// Chunks of a transfer came.
    pub(super) fn add(&mut self, transfer: TransferId, chunks: usize) {
        if chunks > 0 {
            self.news.insert(transfer);
            self.unhurried_since = None;
            let chunks = u32::try_from(chunks).unwrap_or(u32::MAX);
            self.count = self.count.saturating_add(chunks);
        }
    }

    /// Chunks of a transfer came that is pushed.
    pub(super) fn add_unhurried(&mut self, transfer: TransferId, now: Duration) {
        if self.news.is_empty() {
            self.unhurried_since = Some(now);
        }
        self.news.insert(transfer);
    }

    /// Nothing more will come of a transfer for now: it is told without waiting.
    pub(super) fn hurry(&mut self) {
        self.count = NEWS_MAX;
    }

    /// The transfers to tell of now.
    pub(super) fn due(&mut self, now: Duration) -> BTreeSet<TransferId> {
        if self.wait_until().is_none_or(|at| at > now) {
            return BTreeSet::new();
        }
        let ahead_max = now + AT_ONCE * INTERVAL;
        self.paced_until = (self.paced_until.max(now) + INTERVAL).min(ahead_max);
        self.count = 0;
        self.unhurried_since = None;
        std::mem::take(&mut self.news)
    }

    /// When something is to be told, if anything is.
    pub(super) fn wait_until(&self) -> Option<Duration> {
        if self.news.is_empty() {
            None
        } else if self.count >= NEWS_MAX {
            Some(Duration::ZERO)
        } else if let Some(since) = self.unhurried_since {
            Some(since + INTERVAL_UNHURRIED)
        } else {
            let at_once = (AT_ONCE - 1) * INTERVAL;
            Some(self.paced_until.saturating_sub(at_once))
        }
    }
}
