//! One transfer: what is held, what is wanted, who holds what, and which chunk to ask for next.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use rand::Rng;
use scap_proto::limits::SNAPSHOT_CHUNKS_MAX;

use super::{
    bitmap::{Bitmap, rarest},
    event::{Ask, Link, PeerId, Policy, Reveal},
    far::Far,
    gains::{self, Gains},
    lanes::{Feed, Follower},
    reveal::OneEach,
};

/// Once so many chunks came, it is looked which of them all were told of.
const CAME_MAX: usize = 64;

pub(super) struct Transfer {
    pub(super) policy: Policy,
    /// Plain length of each chunk, in bytes.
    pub(super) lengths: Vec<u32>,
    /// Whether these are all.
    pub(super) is_all_known: bool,
    pub(super) held: Bitmap,
    /// Lacked and asked of nobody.
    wanted: Bitmap,
    wanted_count: u32,
    pub(super) missing: u32,
    /// By chunk, how many peers that we may ask hold it.
    pub(super) holders: Vec<u16>,
    /// By chunk in flight, whom it is asked of: one peer, or two where the first is slow.
    pub(super) asked: BTreeMap<u32, Vec<PeerId>>,
    pub(super) sides: BTreeMap<PeerId, Side>,
    /// What came lately, in that order: each side was told of it up to a place.
    came: VecDeque<u32>,
    /// How much came before that.
    came_before: usize,
    /// Sides with [`Side::is_upstream`].
    upstreams: BTreeSet<PeerId>,
    /// What we push, to those that follow, or may by the plan.
    pub(super) followers: BTreeMap<PeerId, Follower>,
    /// Set where the transfer starts out complete, see [`Reveal::OneEach`].
    pub(super) one_each: Option<OneEach>,
    /// When a chunk last came, or was first known.
    pub(super) moved_at: Duration,
    /// Not fetched before then: storing failed here.
    pub(super) resume_at: Option<Duration>,
    pub(super) received_bytes: BTreeMap<PeerId, u64>,
    pub(super) duplicate_bytes: u64,
    /// What is pushed to us.
    pub(super) feed: Feed,
    pub(super) far: Far,
}

/// A peer's side of a transfer.
#[derive(Default)]
pub(super) struct Side {
    pub(super) has: Bitmap,
    /// It wants to know what we hold.
    pub(super) opened: bool,
    /// To be told, beside what came since [`Self::told`].
    pub(super) pending: Vec<u32>,
    /// How much of what came it was told of, or had itself by then.
    told: usize,
    /// What it said to hold and then, asked for it, not to.
    broken: Bitmap,
    /// How often that came to be so of a chunk a second time, and so on.
    broken_again: u32,
    /// Told, not sent yet, and since when; only with [`Reveal::OneEach`].
    pub(super) allotted: BTreeMap<u32, Allotment>,
    /// We may ask it, so it counts as a holder.
    pub(super) askable: bool,
    /// Holds nothing that is wanted. A wanted chunk that it comes to hold clears it.
    pub(super) dry: bool,
    /// It hears also of what it has: an origin that shares out what nobody holds must know what somebody does.
    pub(super) is_upstream: bool,
    /// [`Link::Far`].
    pub(super) is_far: bool,
    /// How many chunks it holds, and how that grew.
    count: u32,
    pub(super) gains: Gains,
}

pub(super) struct Allotment {
    pub(super) at: Duration,
    /// It took too long, and the chunk may go to another peer first.
    pub(super) lapsed: bool,
}

impl Transfer {
    pub(super) fn new(policy: Policy, now: Duration) -> Self {
        Self {
            policy,
            moved_at: now,
            lengths: Vec::new(),
            is_all_known: false,
            held: Bitmap::default(),
            wanted: Bitmap::default(),
            wanted_count: 0,
            missing: 0,
            holders: Vec::new(),
            asked: BTreeMap::new(),
            sides: BTreeMap::new(),
            came: VecDeque::new(),
            came_before: 0,
            upstreams: BTreeSet::new(),
            followers: BTreeMap::new(),
            one_each: match policy.reveal {
                Reveal::All => None,
                Reveal::OneEach { eager } => Some(OneEach::new(eager)),
            },
            resume_at: None,
            received_bytes: BTreeMap::new(),
            duplicate_bytes: 0,
            feed: Feed::new(policy.lanes),
            far: Far::default(),
        }
    }

    pub(super) fn chunk_count(&self) -> u32 {
        u32::try_from(self.lengths.len()).expect("grow stops at SNAPSHOT_CHUNKS_MAX")
    }

    /// Appends chunks; what is beyond [`SNAPSHOT_CHUNKS_MAX`] is cut off, as no snapshot has it.
    pub(super) fn grow(&mut self, plain_lengths: &[u32]) {
        let room = (SNAPSHOT_CHUNKS_MAX - self.chunk_count()) as usize;
        let start = self.chunk_count();
        self.lengths
            .extend(&plain_lengths[..plain_lengths.len().min(room)]);
        for index in start..self.chunk_count() {
            let holding = |side: &&Side| side.askable && side.has.contains(index);
            let count = self.sides.values().filter(holding).count();
            self.holders.push(u16::try_from(count).unwrap_or(u16::MAX));
            self.wanted.insert(index);
        }
        let added = self.chunk_count() - start;
        self.wanted_count += added;
        self.missing += added;
        for side in self.sides.values_mut() {
            side.dry = false;
        }
    }

    /// We hold a chunk, which came `from` a peer, where it came from one. Whether it is known and was not held before.
    pub(super) fn hold(&mut self, index: u32, from: Option<PeerId>) -> bool {
        if index >= self.chunk_count() || !self.held.insert(index) {
            return false;
        }
        self.unwant(index);
        self.missing -= 1;
        self.note_came(index);
        self.refresh_unsent(index);
        if self.one_each.is_none() {
            self.came.push_back(index);
            if self.came.len().is_multiple_of(CAME_MAX) {
                self.forget_told();
            }
            for peer in self.upstreams.iter().filter(|peer| Some(**peer) != from) {
                if let Some(side) = self.sides.get_mut(peer).filter(|side| side.opened) {
                    side.pending.push(index);
                }
            }
        }
        true
    }

    /// A peer that opens the transfer is to be told of all that is held.
    pub(super) fn tell_all(&mut self, peer: PeerId) {
        if let Some(side) = self.sides.get_mut(&peer) {
            let (held, has) = (self.held.iter(), &side.has);
            let told = held.filter(|index| side.is_upstream || !has.contains(*index));
            side.pending = told.collect();
            side.told = self.came_before + self.came.len();
        }
    }

    /// Forgets what came, as far as all who want to know were told.
    fn forget_told(&mut self) {
        let sides = self.sides.values();
        let waiting = sides.filter(|side| side.opened && !side.is_upstream);
        let all = self.came_before + self.came.len();
        let told = waiting.map(|side| side.told).min().unwrap_or(all);
        self.came.drain(..told - self.came_before);
        self.came_before = told;
    }

    /// What a peer is to be told of now, and has not itself.
    pub(super) fn take_news(&mut self, peer: PeerId) -> Vec<u32> {
        let Some(side) = self.sides.get_mut(&peer) else {
            return Vec::new();
        };
        let mut news = std::mem::take(&mut side.pending);
        if side.opened && !side.is_upstream {
            let has = &side.has;
            let fresh = self.came.range(side.told - self.came_before..).copied();
            news.extend(fresh.filter(|index| !has.contains(*index)));
            side.told = self.came_before + self.came.len();
        }
        news
    }

    /// Gives `peer` a side where it has none.
    pub(super) fn add_side(&mut self, peer: PeerId, askable: bool, link: Link) {
        if link == Link::Upstream && !self.sides.contains_key(&peer) {
            self.upstreams.insert(peer);
        }
        self.sides.entry(peer).or_insert_with(|| Side {
            askable,
            is_upstream: link == Link::Upstream,
            is_far: link == Link::Far,
            ..Side::default()
        });
    }

    /// Whether a peer on this link may be asked.
    pub(super) fn may_ask(&self, link: Link) -> bool {
        match self.policy.ask {
            Ask::Everyone => true,
            Ask::Upstream => link == Link::Upstream,
        }
    }

    /// The peer holds the chunk. Whether that makes it one to ask for something wanted.
    pub(super) fn gain(&mut self, peer: PeerId, index: u32) -> bool {
        let Some(side) = self.sides.get_mut(&peer) else {
            return false;
        };
        if index >= SNAPSHOT_CHUNKS_MAX || !side.has.insert(index) {
            return false;
        }
        side.count += 1;
        let useful = side.askable && self.wanted.contains(index) && !self.feed.awaits(index);
        if useful {
            side.dry = false;
        }
        let lapsed = side.allotted.remove(&index).is_none_or(|it| it.lapsed);
        if side.askable {
            self.count_holder(index, true);
        }
        if let Some(one_each) = &mut self.one_each
            && !lapsed
        {
            one_each.unallot(index);
        }
        self.refresh_unsent(index);
        useful
    }

    /// The peer does not hold the chunk after all.
    pub(super) fn lose(&mut self, peer: PeerId, index: u32) {
        let Some(side) = self.sides.get_mut(&peer) else {
            return;
        };
        if side.has.remove(index) {
            side.broken_again += u32::from(!side.broken.insert(index));
            side.count -= 1;
            if side.askable {
                self.count_holder(index, false);
                self.refresh_unsent(index);
            }
        }
    }

    /// How often a peer said that it holds a chunk after it had said that it does not, and did not after all.
    pub(super) fn promises_broken_again(&self, peer: PeerId) -> u32 {
        self.sides.get(&peer).map_or(0, |side| side.broken_again)
    }

    /// Whether we may ask the peer changed: it counts as a holder, or no longer does.
    pub(super) fn set_askable(&mut self, peer: PeerId, askable: bool) {
        let Some(side) = self.sides.get_mut(&peer) else {
            return;
        };
        if side.askable == askable {
            return;
        }
        side.askable = askable;
        side.dry = false;
        let has = std::mem::take(&mut side.has);
        for index in has.iter() {
            self.count_holder(index, askable);
            self.refresh_unsent(index);
        }
        if let Some(side) = self.sides.get_mut(&peer) {
            side.has = has;
        }
        self.refresh_covered();
    }

    /// The link is gone.
    pub(super) fn remove_side(&mut self, peer: PeerId) {
        self.close(peer);
        self.set_askable(peer, false);
        self.forget_parent(peer);
        self.upstreams.remove(&peer);
        self.followers.remove(&peer);
        self.sides.remove(&peer);
    }

    /// The chunk is asked of one more peer.
    pub(super) fn ask(&mut self, peer: PeerId, index: u32) {
        self.unwant(index);
        self.asked.entry(index).or_default().push(peer);
    }

    /// A request ended. Whether its chunk is wanted again.
    pub(super) fn unask(&mut self, peer: PeerId, index: u32) -> bool {
        if let Some(peers) = self.asked.get_mut(&index) {
            peers.retain(|&asked| asked != peer);
            if !peers.is_empty() {
                return false;
            }
            self.asked.remove(&index);
        }
        if index >= self.chunk_count() || self.held.contains(index) || !self.wanted.insert(index) {
            return false;
        }
        self.wanted_count += 1;
        for side in self.sides.values_mut() {
            side.dry &= !side.has.contains(index);
        }
        true
    }

    /// What to ask a peer for: of what it has and is wanted, the rarest.
    pub(super) fn pick(&self, side: &Side, rng: &mut impl Rng) -> Option<u32> {
        if self.wanted_count == 0 {
            return None;
        }
        rarest(
            self.words(),
            |word| {
                let has = self.wanted.word(word) & side.has.word(word);
                match has {
                    0 => 0,
                    _ if side.is_far => has & !self.feed.awaited(word) & self.far_word(word),
                    _ => has & !self.feed.awaited(word),
                }
            },
            |index| self.holders_of(index),
            rng,
        )
    }

    /// Notes what peers hold, to see how fast they get on.
    pub(super) fn note_gains(&mut self, now: Duration) {
        for side in self.sides.values_mut() {
            side.gains.note(now, side.count);
        }
    }

    /// Whether a peer gets far less than most do, and so has little to pass on.
    pub(super) fn is_slow(&self, peer: PeerId) -> bool {
        let Some(side) = self.sides.get(&peer).filter(|side| !side.is_upstream) else {
            return false;
        };
        let is_under_way = |side: &&Side| side.count < self.chunk_count() && !side.is_upstream;
        let gained = |is_far: bool| {
            let sides = self.sides.iter().filter(|(id, _)| **id != peer);
            let sides = sides.map(|(_, side)| side).filter(is_under_way);
            let sides = sides.filter(move |side| side.is_far == is_far);
            gains::usual(sides.filter_map(|side| side.gains.lately()))
        };
        let usual = gained(false).max(gained(true)).unwrap_or(0);
        is_under_way(&side)
            && side
                .gains
                .lately()
                .is_some_and(|it| gains::is_slow(it, usual))
    }

    /// Whether all that is missing is in flight.
    pub(super) fn is_ending(&self) -> bool {
        self.wanted_count == 0 && !self.asked.is_empty()
    }

    /// Whether the peer alone holds something that is missing.
    pub(super) fn is_sole_holder(&self, peer: PeerId) -> bool {
        let Some(side) = self.sides.get(&peer) else {
            return false;
        };
        let alone = |index: u32| {
            index < self.chunk_count() && !self.held.contains(index) && self.holders_of(index) == 1
        };
        side.askable && self.missing > 0 && side.has.iter().any(alone)
    }

    /// Missing chunks that no peer holds.
    pub(super) fn nobody_has(&self) -> u32 {
        let count = (0..self.chunk_count())
            .filter(|&index| self.holders_of(index) == 0 && !self.held.contains(index))
            .count();
        u32::try_from(count).expect("at most chunk_count")
    }

    /// How many peers that we may ask hold the chunk.
    pub(super) fn holders_of(&self, index: u32) -> u32 {
        let count = self.holders.get(index as usize);
        count.map_or(0, |&count| u32::from(count))
    }

    pub(super) fn words(&self) -> u32 {
        self.chunk_count().div_ceil(64)
    }

    fn unwant(&mut self, index: u32) {
        if self.wanted.remove(index) {
            self.wanted_count -= 1;
        }
    }

    fn count_holder(&mut self, index: u32, more: bool) {
        if let Some(count) = self.holders.get_mut(index as usize) {
            *count = if more {
                count.saturating_add(1)
            } else {
                count.saturating_sub(1)
            };
        }
    }
}
