//! Peers of other sites: few of a site's hosts ask them, and only for what nobody near holds, so that a chunk crosses a
//! border about once.

use std::time::Duration;

use crate::topology::LaneSet;

use super::{
    engine::Swarm,
    event::TransferId,
    gains::{self, Gains},
    reveal::below,
    transfer::{Side, Transfer},
};

/// How long, at least, none of what another host of our site is to fetch may come, while a far peer holds it, before we
/// fetch it too; where chunks usually take longer than a quarter of this, four times as long as they do.
const STALL_MAX: Duration = Duration::from_secs(3);

/// How long nothing may come on a lane from another site, while that holds more of it, before we give it up. How far it is
/// ahead says nothing: the border may be slow.
const LANE_STALL_MAX: Duration = Duration::from_secs(5);

/// The same on a lane from a host of our own site: by then that has given up its own.
const NEAR_LANE_STALL_MAX: Duration = Duration::from_secs(10);

/// How long a gateway waits for the one before it to make up for one that is slow; the first of them for those before it in other
/// sites, who notice at the same time.
const TURN: Duration = Duration::from_secs(3);

/// What we may ask of far peers.
#[derive(Default)]
pub(super) struct Far {
    /// By number of [`super::Policy::far_share`], how many chunks of it we lacked when one last came, and when that was.
    progress: Vec<(u32, Duration)>,
    /// Those numbers whose chunks we may ask for, whoever else is to: none came for too long.
    open: u64,
    /// By number, how that grows, and since when far less came of it than of another.
    gains: Vec<(Gains, Option<Duration>)>,
    /// Those of which nothing came for too long though somebody near holds some: until one comes, these count as well.
    starved: u64,
}

impl Transfer {
    /// Of the 64 indexes of `word`, those that far peers may be asked for.
    pub(super) fn far_word(&self, word: u32) -> u64 {
        let (number, count) = self.policy.far_share;
        let near = self.held_by(word, |side| !side.is_far);
        (0..count).fold(0, |bits, it| {
            let is_ours = it == number || self.far.open & 1 << it != 0;
            let share = if is_ours {
                self.share_word(it, word)
            } else {
                0
            };
            let near = if self.is_starved(it) { 0 } else { near };
            bits | share & !near
        })
    }

    /// Whether a peer may be asked for a chunk beside others.
    pub(super) fn may_ask_beside(&self, side: &Side, index: u32) -> bool {
        let (_, count) = self.policy.far_share;
        !side.is_far || self.is_starved(index % count.max(1))
    }

    fn is_starved(&self, number: u32) -> bool {
        self.far.starved & 1 << number != 0
    }

    /// Whether there are far peers to watch, and something to get. Finds out what we may ask of them, and which lanes from
    /// them stand still.
    pub(super) fn watch_far(&mut self, now: Duration, stall: Duration) -> Option<LaneSet> {
        let is_source = |side: &&mut Side| side.is_far && side.askable;
        let mut sources = self.sides.values_mut().filter(is_source).peekable();
        if self.missing == 0 || sources.peek().is_none() {
            return None;
        }
        // What a near peer that is gone held is to be asked of far ones.
        for side in sources {
            side.dry = false;
        }
        let (ours, count) = self.policy.far_share;
        self.far.progress.resize(count as usize, (u32::MAX, now));
        // By number, how many chunks we lack, and whether somebody is to get us one.
        let mut parts = vec![(0, false); count as usize];
        for word in 0..self.words() {
            let lacked = !self.held.word(word) & below(self.chunk_count(), word);
            if lacked == 0 {
                continue;
            }
            let near = self.held_by(word, |side| !side.is_far);
            let far = self.held_by(word, |side| side.is_far) & !self.feed.awaited(word);
            for (number, (lacks, waits)) in (0..count).zip(&mut parts) {
                let share = lacked & self.share_word(number, word);
                // What only far peers hold and is for us we ask for; the border may be slow.
                let others = if number == ours { near } else { u64::MAX };
                *lacks += share.count_ones();
                *waits |= share & far & others != 0;
            }
        }
        for (number, (lacks, waits)) in parts.into_iter().enumerate() {
            let progress = &mut self.far.progress[number];
            if progress.0 != lacks || !waits {
                *progress = (lacks, now);
                self.far.starved &= !(1 << number);
            } else if progress.1 + stall <= now {
                self.far.open |= 1 << number;
                self.far.starved |= 1 << number;
            }
        }
        Some(self.find_still_lanes(now) | self.find_slow_parts(now))
    }

    /// The lanes whose chunks come into our site far slower than others, though far peers hold more: its entry there is slow, or what feeds it.
    /// The gateways take it over, one after the other for as long as that is not enough.
    fn find_slow_parts(&mut self, now: Duration) -> LaneSet {
        let (ours, count) = self.policy.far_share;
        if self.feed.count != count || count < 2 {
            return 0;
        }
        let mut held = vec![(0, false); count as usize];
        for word in 0..self.words() {
            let here = self.held.word(word) | self.held_by(word, |side| !side.is_far);
            let far = self.held_by(word, |side| side.is_far) & !here;
            for (number, (held, waits)) in (0..count).zip(&mut held) {
                let share = self.share_word(number, word);
                *held += (here & share).count_ones();
                *waits |= far & share != 0;
            }
        }
        let far = &mut self.far;
        far.gains.resize_with(count as usize, Default::default);
        for ((gains, _), (held, _)) in far.gains.iter_mut().zip(&held) {
            gains.note(now, *held);
        }
        let most = far
            .gains
            .iter()
            .filter_map(|(gains, _)| gains.lately())
            .max();
        let most = most.unwrap_or(0);
        let mut slow = 0;
        for (number, ((gains, since), (_, waits))) in (0..count).zip(far.gains.iter_mut().zip(held))
        {
            let is_slow = waits && gains.lately().is_some_and(|it| gains::is_slow(it, most));
            let begun = *since.get_or_insert(now);
            if !is_slow {
                *since = None;
                continue;
            }
            let turn = if ours < count {
                (ours + count - number) % count
            } else {
                ours
            };
            if turn > 0 && begun + turn * TURN <= now {
                far.open |= 1 << number;
                slow |= 1 << number;
            }
        }
        slow & self.feed.covered()
    }

    /// The lanes on which nothing came for too long though somebody holds more: the upstream, or one above it, has
    /// nothing to pass on.
    fn find_still_lanes(&mut self, now: Duration) -> LaneSet {
        let mut lanes: Vec<(u32, bool, Duration)> = Vec::new();
        for (peer, pushes) in self.feed.parents() {
            let Some(side) = self.sides.get(&peer) else {
                continue;
            };
            let limit = if side.is_far {
                LANE_STALL_MAX
            } else {
                NEAR_LANE_STALL_MAX
            };
            for lane in (0..LaneSet::BITS).filter(|lane| pushes & 1 << lane != 0) {
                let lacked = |word: u32| !self.held.word(word) & self.feed.mask(1 << lane, word);
                let waits = |word: u32| lacked(word) & self.held_by(word, |_| true) != 0;
                lanes.push((lane, (0..self.words()).any(waits), limit));
            }
        }
        let is_still = |&(lane, waits, limit): &(u32, bool, Duration)| {
            let still = self.feed.is_still(lane, waits, limit, now);
            still.then_some(1 << lane)
        };
        let still = lanes.iter().filter_map(is_still);
        still.fold(0, |all: LaneSet, lane: LaneSet| all | lane)
    }

    /// Of the 64 indexes of `word`, those of one number of [`super::Policy::far_share`].
    fn share_word(&self, number: u32, word: u32) -> u64 {
        let (_, count) = self.policy.far_share;
        let first = (number + count - word * 64 % count) % count;
        (first..64)
            .step_by(count as usize)
            .fold(0, |bits, at| bits | 1 << at)
    }

    /// Of the 64 indexes of `word`, those that a peer that we may ask holds.
    fn held_by(&self, word: u32, of: impl Fn(&Side) -> bool) -> u64 {
        let sides = self.sides.values().filter(|side| side.askable && of(side));
        sides.fold(0, |bits, side| bits | side.has.word(word))
    }
}

impl Swarm {
    /// Watches the far peers of a transfer; whether there are any.
    pub(super) fn check_far(&mut self, transfer: TransferId) -> bool {
        let now = self.pace.now;
        let Some(it) = self.transfers.get_mut(&transfer) else {
            return false;
        };
        let usual = self.pace.completion.measured().unwrap_or_default();
        let stall = STALL_MAX.max(4 * usual);
        let still = it.watch_far(now, stall);
        if still.is_some() {
            let far = it.sides.iter().filter(|(_, side)| side.is_far);
            self.hungry.extend(far.map(|(&peer, _)| peer));
        }
        let watches = still.is_some();
        if let Some(lanes) = still.filter(|lanes| *lanes != 0) {
            self.give_up(transfer, lanes);
        }
        watches
    }
}
