//! What peers are told: everything, or, by a node that starts out complete, to each its own share.
//!
//! The origin's uplink is the scarcest link of a rollout: each chunk that leaves it twice delays one
//! that has not left at all. So the origin tells each peer of a few chunks that nobody has been told
//! of, and of others as it sends them. What a peer then holds it tells the others, and so, whoever
//! has it, they can only get it from each other. When every chunk is out, the rarest follow.

use std::time::Duration;

use rand::Rng;

use super::{
    bitmap::{Bitmap, rarest},
    event::PeerId,
    transfer::{Allotment, Side, Transfer},
};

/// Chunks allotted and not sent yet, over all peers: what keeps an uplink busy while requests and
/// news of them travel. At 128 KiB a chunk they are 8 MiB: 1 Gbit/s over 67 ms.
const ALLOTTED: usize = 64;

/// Least and most of them for one peer. Two, so that it has one to ask for while one is sent.
const ALLOTTED_PER_PEER: (usize, usize) = (2, 32);

/// Second copies wait until no more chunks than this have not left at all: the uplink needs something
/// to do, and what is left should not queue behind it.
const FIRST_COPIES_LEFT: usize = 8;

/// How long after the last push second copies wait: what is on its way down the lanes needs none.
const SECOND_COPIES_WAIT: Duration = Duration::from_secs(1);

/// Copies that leave of a chunk without which peers know no content, before any content leaves:
/// from so many it spreads at once, and more would keep the uplink from the rest.
const EAGER_COPIES: u32 = 4;

/// An allotment lapses after this many times what they usually take, and [`LAPSE_MIN`].
const LAPSE: u32 = 4;

/// No allotment lapses earlier: 8 MiB at 100 Mbit/s take about as long.
const LAPSE_MIN: Duration = Duration::from_millis(1000);

/// What an allotment takes before any was sent: 8 MiB at 30 Mbit/s.
const TOOK_UNMEASURED: Duration = Duration::from_millis(2500);

pub(super) struct OneEach {
    pub(super) eager: u32,
    /// Held here, and neither allotted to a peer nor held by one; or of the eager, to and by fewer
    /// than [`EAGER_COPIES`].
    unsent: Bitmap,
    unsent_count: u32,
    /// By chunk, how many peers it is allotted to.
    allotted: Vec<u16>,
    /// Mean time from allotment to sent.
    took: Duration,
    /// When a chunk was last sent.
    sent_at: Duration,
}

impl OneEach {
    pub(super) fn new(eager: u32) -> Self {
        Self {
            eager,
            unsent: Bitmap::default(),
            unsent_count: 0,
            allotted: Vec::new(),
            took: TOOK_UNMEASURED,
            sent_at: Duration::ZERO,
        }
    }

    pub(super) fn unallot(&mut self, index: u32) {
        if let Some(count) = self.allotted.get_mut(index as usize) {
            *count = count.saturating_sub(1);
        }
    }

    /// Of the 64 indexes of `word`, those that are not eager and of which no copy is out or on its way.
    pub(super) fn unsent_word(&self, word: u32) -> u64 {
        self.unsent.word(word) & !below(self.eager, word)
    }

    pub(super) fn allot(&mut self, index: u32) {
        let position = index as usize;
        if position >= self.allotted.len() {
            self.allotted.resize(position + 1, 0);
        }
        self.allotted[position] += 1;
    }

    fn allotted(&self, index: u32) -> u32 {
        self.allotted
            .get(index as usize)
            .map_or(0, |&count| u32::from(count))
    }
}

impl Transfer {
    /// The peer wants to know what we hold.
    pub(super) fn open(&mut self, peer: PeerId) {
        let Some(side) = self.sides.get_mut(&peer) else {
            return;
        };
        if side.opened {
            return;
        }
        side.opened = true;
        if self.one_each.is_none() {
            self.tell_all(peer);
        }
    }

    /// The peer no longer wants to know: what was allotted to it goes to others.
    pub(super) fn close(&mut self, peer: PeerId) {
        let Some(side) = self.sides.get_mut(&peer) else {
            return;
        };
        side.opened = false;
        side.pending.clear();
        let allotted = std::mem::take(&mut side.allotted);
        self.followers.remove(&peer);
        for (index, allotment) in allotted {
            self.release(index, allotment.lapsed);
        }
    }

    /// The peer got a chunk from us.
    pub(super) fn served(&mut self, peer: PeerId, index: u32, now: Duration) {
        if let (Some(one_each), Some(side)) = (&mut self.one_each, self.sides.get(&peer))
            && let Some(allotment) = side.allotted.get(&index)
        {
            let took = now.saturating_sub(allotment.at);
            one_each.took = one_each.took * 7 / 8 + took / 8;
            one_each.sent_at = now;
        }
        self.gain(peer, index);
    }

    /// Tells a peer of more chunks, where it has used up its share. Whether there were any.
    pub(super) fn allot(&mut self, peer: PeerId, now: Duration, rng: &mut impl Rng) -> bool {
        if self.one_each.is_none() {
            return false;
        }
        let mut told = false;
        let opened = self.sides.values().filter(|side| side.opened).count();
        let (least, most) = ALLOTTED_PER_PEER;
        let share = (ALLOTTED / opened.max(1)).clamp(least, most);
        loop {
            let Some(side) = self.sides.get(&peer).filter(|side| side.opened) else {
                return told;
            };
            // Who asks for nothing of its share may hold all of it, and lack just what nobody was told of.
            let takes = |side: &Side| {
                side.allotted.len() < share || side.allotted.values().any(|it| !it.lapsed)
            };
            let has_room = side.allotted.len() < share
                || !self.sides.values().any(|side| side.opened && takes(side));
            if !has_room {
                return told;
            }
            let Some(index) = self.next_share(peer, now, rng) else {
                return told;
            };
            told = true;
            if let (Some(one_each), Some(side)) = (&mut self.one_each, self.sides.get_mut(&peer)) {
                one_each.allot(index);
                let lapsed = false;
                side.allotted.insert(index, Allotment { at: now, lapsed });
                side.pending.push(index);
            }
            self.refresh_unsent(index);
        }
    }

    /// What to tell a peer of: of what it lacks, the descriptor first, then the rest of the eager, then what
    /// never left, then the rarest.
    fn next_share(&self, peer: PeerId, now: Duration, rng: &mut impl Rng) -> Option<u32> {
        let (one_each, side) = (self.one_each.as_ref()?, self.sides.get(&peer)?);
        // What will be pushed to another host is not told to this one.
        let reserved = self.reserved(now);
        let pushed = |word: u32| self.feed.mask(reserved, word) & !below(one_each.eager, word);
        let lacked = |word: u32| {
            let told = side.allotted.range(word * 64..(word + 1) * 64);
            let lacked = self.held.word(word) & !side.has.word(word);
            told.fold(lacked, |bits, (index, _)| bits & !(1 << (index % 64)))
        };
        let unsent = |word| lacked(word) & one_each.unsent.word(word) & !pushed(word);
        let first = |end: u32| move |word| unsent(word) & below(end, word);
        let copies = |index| self.holders_of(index) + one_each.allotted(index);
        let mut index = None;
        if one_each.unsent_count > 0 {
            // The others of the eager are known by the descriptor, and may be more than one share.
            let ends = [one_each.eager.min(1), one_each.eager, u32::MAX];
            index = ends.into_iter().find_map(|end| {
                let words = end.div_ceil(64).min(self.words());
                rarest(words, first(end), copies, rng)
            });
        }
        if index.is_some() {
            return index;
        }
        if self.is_pushing(now) || self.first_copies_left() > FIRST_COPIES_LEFT {
            return None;
        }
        rarest(self.words(), lacked, copies, rng)
    }

    /// Whether an origin pushed so lately that no second copies leave yet.
    pub(super) fn is_pushing(&self, now: Duration) -> bool {
        self.one_each.as_ref().is_some_and(|one_each| {
            self.reserved(now) != 0 && now < one_each.sent_at + SECOND_COPIES_WAIT
        })
    }

    /// Chunks allotted to peers, of which no copy is out.
    fn first_copies_left(&self) -> usize {
        let allotted = self.sides.values().flat_map(|side| &side.allotted);
        let first = allotted.filter(|(index, it)| !it.lapsed && self.holders_of(**index) == 0);
        first.count()
    }

    /// Takes back what peers have been allotted for too long. Whether there are allotments left to
    /// watch.
    pub(super) fn lapse(&mut self, now: Duration) -> bool {
        let Some(one_each) = &self.one_each else {
            return false;
        };
        let limit = (LAPSE * one_each.took).max(LAPSE_MIN);
        let mut left = false;
        let mut lapsed = Vec::new();
        for (peer, side) in &mut self.sides {
            for (&index, allotment) in &mut side.allotted {
                left = true;
                if !allotment.lapsed && now.saturating_sub(allotment.at) > limit {
                    allotment.lapsed = true;
                    if let Some(follower) = self.followers.get_mut(peer) {
                        follower.demote(index);
                    }
                    lapsed.push(index);
                }
            }
        }
        for index in lapsed {
            self.release(index, false);
        }
        left
    }

    /// Keeps [`OneEach::unsent`] right after a change to who holds, or is allotted, a chunk.
    pub(super) fn refresh_unsent(&mut self, index: u32) {
        let holders = self.holders_of(index);
        let Some(one_each) = &mut self.one_each else {
            return;
        };
        let wanted = if index < one_each.eager {
            EAGER_COPIES
        } else {
            1
        };
        let copies = holders + one_each.allotted(index);
        let unsent = copies < wanted && self.held.contains(index);
        if unsent && one_each.unsent.insert(index) {
            one_each.unsent_count += 1;
        } else if !unsent && one_each.unsent.remove(index) {
            one_each.unsent_count -= 1;
        }
    }

    /// An allotment ended without effect.
    pub(super) fn release(&mut self, index: u32, lapsed: bool) {
        if let Some(one_each) = &mut self.one_each
            && !lapsed
        {
            one_each.unallot(index);
        }
        self.refresh_unsent(index);
    }
}

/// Of the 64 indexes of `word`, those below `end`.
pub(super) fn below(end: u32, word: u32) -> u64 {
    let above = u64::MAX.checked_shl(end.saturating_sub(word * 64));
    !above.unwrap_or(0)
}
