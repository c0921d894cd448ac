//! Lanes: chunks that are pushed along the plan's trees, without a question and without news of them.
//!
//! Who lacks much of a transfer *follows*: once it knows all chunks it tells those that the plan puts above it what it
//! holds, and they push it the rest of their lanes as they come to hold it. What a live upstream will push is asked of
//! nobody else. Where others have held a chunk for a while and it has not come, its lane is given up: what is left of it is
//! asked for like any other chunk. So a slow or silent upstream costs seconds, and needs no verdict.
//!
//! Where many hosts are bad, all below them have little, and nobody among these more than another. So who gets far less than most
//! (see [`gains`]) is given up by those right below it; all others wait for these, who go on passing on what they get by asking.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use crate::topology::LaneSet;

use super::{
    bitmap::Bitmap,
    engine::{Swarm, TICK},
    event::{Output, PeerId, TransferId},
    gains::{self, GAIN_TIME},
    peer::{Meter, bytes_in},
    transfer::{Allotment, Side, Transfer},
};

/// Who lacks fewer chunks than this asks for them: a one-line update is over before a push would come.
const FOLLOW_MIN: u32 = 32;

/// How far a lane may be behind the first of them, and fall back further, or all may stand still, while others hold what is
/// missing, before we give it up and ask for its chunks: its upstream is dead, or slower than the rest. News take up to
/// a second.
const BEHIND_MAX: Duration = Duration::from_secs(4);

/// So many chunks a lane may be behind besides: it comes through up to a dozen hosts, each of which sends four chunks at
/// a time to those below it, and had to get the lists first.
const BEHIND_CHUNKS_MAX: u32 = 64;

/// A lane falls back if in [`BEHIND_MAX`] less than 3 in 4 chunks come of what comes on the first. One that is behind and
/// comes as fast as others does not get better by being given up: everybody below would have it later still.
const PACE_MIN: (u32, u32) = (3, 4);

/// Who lacks more than this is not at the end.
const END_MAX: u32 = 256;

/// How long an origin keeps the chunks of a lane for the host that the plan puts at its top, before that said whether it
/// follows: it first gets the lists.
const FOLLOW_WAIT: Duration = Duration::from_secs(2);

/// How far an origin runs ahead in one lane of what it has not sent in another, in chunks of all lanes. Lanes that end
/// together keep all links busy to the end.
const PUSH_SPAN: u32 = 8;

/// How long nobody else may hold anything of what an origin pushed to the top of a lane before other hosts get it: what is
/// passed on is heard of within two seconds or three.
const UNSEEN_MAX: Duration = Duration::from_secs(5);

/// The same of a single chunk where others come, but fewer than a quarter of what is pushed: who passes on far too slowly is
/// no better than who does not. The hosts that tell an origin of it may be far down in a lane that is a little behind at
/// each level, and yet keeps up.
const UNSEEN_CHUNK_MAX: Duration = Duration::from_secs(7);

/// Least pushes under way to one peer: one arrives, and one follows it without a gap.
const PUSHES_MIN: usize = 2;

/// How long a pushed chunk may wait at a link: it is sent while the next is fetched from the disk, and while two lanes share a border
/// unevenly for a moment. With a third of it a border of 20 Mbit/s was idle for a tenth of the time, in simulation.
const PUSH_QUEUE: Duration = Duration::from_millis(60);

/// A transfer's lanes, as we are fed by them.
#[derive(Default)]
pub(super) struct Feed {
    /// Of the plan; 0 for none.
    pub(super) count: u32,
    /// Connected peers that push to us, and on which lanes.
    parents: BTreeMap<PeerId, LaneSet>,
    /// Whether we follow: known once all chunks are.
    pub(super) follows: Option<bool>,
    /// The lanes that some live peer pushes to us.
    covered: LaneSet,
    /// By lane.
    lanes: Vec<Lane>,
    /// How many chunks had come on each lane, at times up to [`BEHIND_MAX`] ago.
    history: VecDeque<(Duration, Vec<u32>)>,
    /// What was ever on a [`Lane::behind`].
    noted: Bitmap,
    /// Asked for although their lane comes.
    late: Bitmap,
}

/// How one lane comes.
#[derive(Default)]
struct Lane {
    /// Chunks that came since we follow.
    came: u32,
    /// How many had come when it last was seen to move, and when that was.
    moved: Option<(u32, Duration)>,
    /// What others hold of it and we do not, by when we came to know, to within a [`TICK`].
    behind: VecDeque<(Duration, Vec<u32>)>,
}

impl Lane {
    /// Others hold a chunk that we do not.
    fn note_behind(&mut self, now: Duration, index: u32) {
        match self.behind.back_mut() {
            Some((since, indexes)) if now < *since + TICK => indexes.push(index),
            _ => self.behind.push_back((now, vec![index])),
        }
    }
}

impl Feed {
    pub(super) fn new(count: u32) -> Self {
        Self {
            count,
            ..Self::default()
        }
    }

    fn lane(&self, index: u32) -> LaneSet {
        1 << (index % self.count)
    }

    /// Of the 64 indexes of `word`, those on `lanes`.
    pub(super) fn mask(&self, lanes: LaneSet, word: u32) -> u64 {
        if self.count == 0 || lanes == 0 {
            return 0;
        }
        (0..64).fold(0, |bits, at| {
            let is_on = lanes & self.lane(word * 64 + at) != 0;
            bits | u64::from(is_on) << at
        })
    }

    /// Of the 64 indexes of `word`, those that will be pushed, and are not late.
    pub(super) fn awaited(&self, word: u32) -> u64 {
        self.mask(self.covered, word) & !self.late.word(word)
    }

    /// Whether a chunk will be pushed, and is not late.
    pub(super) fn awaits(&self, index: u32) -> bool {
        self.covered != 0 && self.covered & self.lane(index) != 0 && !self.late.contains(index)
    }

    /// Who pushes to us, and on which lanes.
    pub(super) fn parents(&self) -> impl Iterator<Item = (PeerId, LaneSet)> + '_ {
        self.parents.iter().map(|(&peer, &lanes)| (peer, lanes))
    }

    /// Whether nothing came for so long on a lane that we follow, while it `waits`: its upstream holds more. To be asked now
    /// and then.
    pub(super) fn is_still(
        &mut self,
        lane: u32,
        waits: bool,
        limit: Duration,
        now: Duration,
    ) -> bool {
        let Some(it) = self.lanes.get_mut(lane as usize) else {
            return false;
        };
        if let Some((came, since)) = it.moved
            && waits
            && came == it.came
        {
            return since + limit <= now;
        }
        it.moved = Some((it.came, now));
        false
    }

    /// The lanes that some live peer pushes to us.
    pub(super) fn covered(&self) -> LaneSet {
        self.covered
    }

    /// Whether anything is pushed to us.
    pub(super) fn is_fed(&self) -> bool {
        self.covered != 0
    }
}

/// A side's lanes, as we push to it.
#[derive(Default)]
pub(super) struct Follower {
    /// By the plan, and since when we know.
    expected: Option<(LaneSet, Duration)>,
    /// What it wants; `None` until it said.
    lanes: Option<LaneSet>,
    /// To be pushed, in order. An origin has none: it chooses as it goes.
    queue: VecDeque<u32>,
    /// On their way.
    pushing: BTreeMap<u32, Push>,
    in_flight_bytes: u64,
    meter: Meter,
    latency_min: Option<Duration>,
    /// At an origin, what it got, and when, that nobody else was seen to hold.
    unseen: VecDeque<(Duration, u32)>,
    /// How many of them were seen at somebody else.
    seen: u32,
    /// When that was counted, up to [`UNSEEN_MAX`] ago, and how many it had got by then.
    counted: VecDeque<(Duration, u32, u32)>,
    /// At an origin, since when it takes it far slower than another.
    slow_since: Option<Duration>,
}

struct Push {
    at: Duration,
    bytes: u32,
    delivered: u64,
}

impl Follower {
    fn has_room(&self) -> bool {
        let count = self.pushing.len();
        let most = scap_proto::transport::PUSHES_MAX as usize;
        let target = match (self.meter.rate, self.latency_min) {
            (Some(rate), Some(latency)) => bytes_in(rate, latency + PUSH_QUEUE),
            _ => 0,
        };
        count < PUSHES_MIN || count < most && self.in_flight_bytes < target
    }

    fn end(&mut self, index: u32) -> Option<Push> {
        let push = self.pushing.remove(&index)?;
        self.in_flight_bytes -= u64::from(push.bytes);
        Some(push)
    }

    /// Of what it got, how many chunks were seen at somebody else in the last [`UNSEEN_MAX`], and how many it got. To be
    /// asked now and then.
    fn count_lately(&mut self, now: Duration) -> (u32, u32) {
        let waiting = u32::try_from(self.unseen.len()).unwrap_or(u32::MAX);
        let got = self.seen.saturating_add(waiting);
        self.counted.push_back((now, self.seen, got));
        while self.counted.len() > 1 && self.counted[1].0 + UNSEEN_MAX <= now {
            self.counted.pop_front();
        }
        let (_, seen_then, got_then) = self.counted[0];
        (self.seen - seen_then, got.saturating_sub(got_then))
    }

    /// What was pushed did not get there in time: it is too slow to stand at the top of a lane.
    pub(super) fn demote(&mut self, index: u32) {
        if self.pushing.contains_key(&index) {
            self.lanes = Some(0);
        }
    }

    /// The lanes that it takes, or may still say to take.
    fn claims(&self, now: Duration) -> LaneSet {
        match (self.lanes, self.expected) {
            (Some(lanes), _) => lanes,
            (None, Some((lanes, since))) if now < since + FOLLOW_WAIT => lanes,
            _ => 0,
        }
    }
}

impl Transfer {
    /// Decides what is late, and which lanes are given up.
    pub(super) fn find_late(&mut self, now: Duration) -> LaneSet {
        if !self.feed.is_fed() {
            return 0;
        }
        self.note_gains(now);
        let is_end = self.others_are_done();
        let came: Vec<u32> = self.feed.lanes.iter().map(|lane| lane.came).collect();
        let first = (0..came.len()).max_by_key(|&lane| came[lane]).unwrap_or(0);
        self.feed.history.push_back((now, came.clone()));
        // The last that is old enough stays at the front.
        while self.feed.history.len() > 1 && self.feed.history[1].0 + BEHIND_MAX <= now {
            self.feed.history.pop_front();
        }
        let (since, long_ago) = &self.feed.history[0];
        let is_known = *since + BEHIND_MAX <= now && long_ago.len() == came.len();
        let gain = |lane: usize| came[lane].saturating_sub(long_ago[lane]);
        let mut given_up = 0;
        for (number, lane) in self.feed.lanes.iter_mut().enumerate() {
            let held = &self.held;
            lane.behind.retain_mut(|(_, indexes)| {
                indexes.retain(|index| !held.contains(*index));
                !indexes.is_empty()
            });
            // At first it has to get here.
            let patience = if lane.came == 0 {
                2 * BEHIND_MAX
            } else {
                BEHIND_MAX
            };
            let is_due = lane.behind.front();
            let is_due = is_due.is_some_and(|(since, _)| *since + patience < now);
            if is_end {
                let behind = lane.behind.drain(..);
                for index in behind.flat_map(|(_, indexes)| indexes) {
                    self.feed.late.insert(index);
                    for side in self.sides.values_mut() {
                        side.dry &= !side.has.contains(index);
                    }
                }
            } else if is_due && is_known {
                let is_behind = lane.came < long_ago[first];
                let is_far_behind = is_behind && lane.came + BEHIND_CHUNKS_MAX < came[first];
                let falls_back = PACE_MIN.1 * gain(number) < PACE_MIN.0 * gain(first);
                let has_stopped = is_behind && gain(number) == 0;
                if is_far_behind && falls_back || has_stopped || gain(first) == 0 {
                    given_up |= 1 << number;
                }
            }
        }
        for (peer, lanes) in self.feed.parents() {
            if lanes != 0 && self.is_slow(peer) {
                given_up |= lanes;
            }
        }
        given_up & self.feed.covered
    }

    /// A chunk is held now.
    pub(super) fn note_came(&mut self, index: u32) {
        if self.feed.is_fed() {
            let lane = (index % self.feed.count) as usize;
            self.feed.lanes[lane].came += 1;
        }
    }

    /// Whether there is a lane to watch.
    pub(super) fn has_lanes_to_watch(&self) -> bool {
        self.feed.is_fed() && self.missing > 0
    }

    /// Whether half of the hosts that we may ask hold all that we lack: their links are idle.
    fn others_are_done(&self) -> bool {
        if self.missing == 0 || self.missing > END_MAX || !self.is_all_known {
            return false;
        }
        let lacked = |index: &u32| !self.held.contains(*index);
        let missing: Vec<u32> = (0..self.chunk_count()).filter(lacked).collect();
        let peers = self.sides.values();
        let (mut all, mut done) = (0, 0);
        for side in peers.filter(|side| side.askable && !side.is_upstream && !side.is_far) {
            all += 1;
            done += usize::from(missing.iter().all(|index| side.has.contains(*index)));
        }
        2 * done >= all
    }

    /// A peer holds these.
    pub(super) fn note_has(&mut self, now: Duration, peer: PeerId, indexes: &[u32]) {
        if !self.feed.is_fed() {
            return;
        }
        let is_origin = |peer| self.sides.get(peer).is_some_and(|side| side.is_upstream);
        let says_more = is_origin(&peer);
        if self.sides.get(&peer).is_some_and(|side| side.is_far) {
            // It may be ahead of all that is here.
            return;
        }
        let pushes = self.feed.parents.get(&peer).copied().unwrap_or(0);
        let parents = self.feed.parents.iter();
        let from_origin = parents.filter(|(peer, _)| is_origin(peer));
        let from_origin = from_origin.fold(0, |all, (_, lanes)| all | lanes);
        for &index in indexes {
            if index >= self.chunk_count() || self.held.contains(index) {
                continue;
            }
            let lane = self.feed.lane(index);
            // An origin tells us of what nobody else is to get first, so nobody will push it; and what somebody has
            // an origin will not push, since it would have gone through us.
            if pushes & lane == 0 && (says_more || from_origin & lane != 0) {
                self.feed.late.insert(index);
                continue;
            }
            if self.feed.noted.insert(index) {
                let lane = (index % self.feed.count) as usize;
                self.feed.lanes[lane].note_behind(now, index);
            }
        }
    }

    /// Which lanes are covered, after a change to who pushes to us.
    pub(super) fn refresh_covered(&mut self) {
        let live = |(peer, lanes): (&PeerId, &u64)| {
            let askable = self.sides.get(peer).is_some_and(|side| side.askable);
            if askable { *lanes } else { 0 }
        };
        let covered = match self.feed.follows {
            Some(true) => self.feed.parents.iter().map(live).fold(0, |a, b| a | b),
            _ => 0,
        };
        if covered != self.feed.covered {
            self.feed.covered = covered;
            for side in self.sides.values_mut() {
                side.dry = false;
            }
        }
    }

    /// A peer that pushed to us is gone.
    pub(super) fn forget_parent(&mut self, peer: PeerId) {
        if self.feed.parents.remove(&peer).is_some() {
            self.refresh_covered();
        }
    }

    /// At an origin, the lanes whose chunks go to the hosts that follow there, and to nobody else.
    pub(super) fn reserved(&self, now: Duration) -> LaneSet {
        let claims = |follower: &Follower| follower.claims(now);
        self.followers.values().map(claims).fold(0, |a, b| a | b)
    }

    /// At an origin, finds hosts that take a lane and pass nothing on. What they have counts as not sent. Whether there
    /// is anything left to watch.
    pub(super) fn find_sinks(&mut self, now: Duration) -> bool {
        let is_near = |side: &&Side| side.opened && !side.is_far;
        let opened = self.sides.values().filter(is_near).count();
        if self.one_each.is_none() || opened < 2 {
            // Who is alone, a canary say, or has only slow borders to pass on over: that is not held against it.
            for follower in self.followers.values_mut() {
                follower.unseen.clear();
            }
            return false;
        }
        self.note_gains(now);
        let slow = self.slow_followers(now);
        let (mut sinks, mut left) = (Vec::new(), false);
        let holders = &self.holders;
        for (&peer, follower) in &mut self.followers {
            let is_alone = |index: u32| holders.get(index as usize).is_some_and(|count| *count < 2);
            while (follower.unseen.front()).is_some_and(|(_, index)| !is_alone(*index)) {
                follower.unseen.pop_front();
                follower.seen += 1;
            }
            left |= !follower.unseen.is_empty();
            let oldest = follower.unseen.front().map_or(now, |(since, _)| *since);
            let (seen, got) = follower.count_lately(now);
            let is_stuck = oldest + UNSEEN_MAX < now && seen == 0;
            let is_too_slow = oldest + UNSEEN_CHUNK_MAX < now && 4 * seen < got;
            let is_slow = slow.contains(&peer) && follower.lanes != Some(0);
            if is_stuck || is_too_slow || is_slow {
                sinks.push(peer);
                follower.unseen.clear();
                follower.lanes = Some(0);
            }
        }
        for peer in sinks {
            self.set_askable(peer, false);
        }
        left
    }

    /// Hosts that have taken what is pushed to them far slower than another for a while. Lanes are kept in step, so all others get no
    /// more.
    fn slow_followers(&mut self, now: Duration) -> BTreeSet<PeerId> {
        let takes = |follower: &Follower| follower.lanes.is_some_and(|lanes| lanes != 0);
        let rates = self.followers.values().filter(|it| takes(it));
        let most = rates.filter_map(|it| it.meter.rate).max().unwrap_or(0);
        let mut slow = BTreeSet::new();
        for (&peer, follower) in &mut self.followers {
            let rate = follower.meter.rate.filter(|_| takes(follower));
            if rate.is_some_and(|rate| gains::is_far_below(rate, most)) {
                let since = *follower.slow_since.get_or_insert(now);
                if since + GAIN_TIME <= now {
                    slow.insert(peer);
                }
            } else {
                follower.slow_since = None;
            }
        }
        slow
    }

    /// We hold these now: they go to those who follow.
    pub(super) fn queue_pushes(&mut self, fresh: &[u32]) {
        if self.feed.count == 0 || self.one_each.is_some() {
            return;
        }
        for (peer, follower) in &mut self.followers {
            let Some(side) = self.sides.get(peer) else {
                continue;
            };
            let Some(lanes) = follower.lanes.filter(|lanes| *lanes != 0) else {
                continue;
            };
            let wanted =
                |index: &u32| lanes & self.feed.lane(*index) != 0 && !side.has.contains(*index);
            let wanted = fresh.iter().copied().filter(wanted);
            follower.queue.extend(wanted);
        }
    }

    /// What to push to a peer next.
    fn next_push(&mut self, peer: PeerId, now: Duration) -> Option<u32> {
        let (side, follower) = (self.sides.get(&peer)?, self.followers.get_mut(&peer)?);
        let lanes = follower.lanes.filter(|lanes| *lanes != 0)?;
        if !side.opened || !follower.has_room() {
            return None;
        }
        let Some(one_each) = &self.one_each else {
            while let Some(index) = follower.queue.pop_front() {
                if !side.has.contains(index) {
                    return Some(index);
                }
            }
            return None;
        };
        let reserved = self.reserved(now);
        let unsent = |lanes, word| one_each.unsent_word(word) & self.feed.mask(lanes, word);
        let mut first = None;
        for word in 0..self.words() {
            let next = unsent(reserved, word);
            if next != 0 {
                first = first.or(Some(word * 64 + next.trailing_zeros()));
            }
            if first.is_some_and(|first| word * 64 >= first + PUSH_SPAN) {
                return None;
            }
            let fit = unsent(lanes, word) & !side.has.word(word);
            if fit != 0 {
                let index = word * 64 + fit.trailing_zeros();
                let is_near = first.is_none_or(|first| index < first + PUSH_SPAN);
                return is_near.then_some(index);
            }
        }
        None
    }
}

impl Swarm {
    pub(super) fn lanes_from(&mut self, peer: PeerId, transfer: TransferId, lanes: LaneSet) {
        if let Some(it) = self.side(peer, transfer) {
            it.feed.parents.insert(peer, lanes);
            it.feed.history.clear();
            if let Some(follows) = it.feed.follows {
                let held = it.held.iter().collect();
                let lanes = if follows { lanes } else { 0 };
                it.refresh_covered();
                self.outputs.push_back(Output::Follow {
                    peer,
                    transfer,
                    lanes,
                    held,
                });
            }
        }
    }

    /// All chunks of a transfer are known: whether we follow is decided.
    pub(super) fn decide_to_follow(&mut self, transfer: TransferId) {
        let Some(it) = self.transfers.get_mut(&transfer) else {
            return;
        };
        if it.feed.count == 0 || it.feed.follows.is_some() {
            return;
        }
        let now = self.pace.now;
        let follows = it.missing >= FOLLOW_MIN;
        it.feed.follows = Some(follows);
        let count = it.feed.count as usize;
        it.feed.lanes.resize_with(count, Lane::default);
        it.refresh_covered();
        // What peers said before they were asked to push counts from now on.
        let has = |side: &Side| side.has.iter().collect::<Vec<u32>>();
        let known: Vec<_> = it
            .sides
            .iter()
            .map(|(&peer, side)| (peer, has(side)))
            .collect();
        for (peer, has) in known {
            it.note_has(now, peer, &has);
        }
        let held: Vec<u32> = it.held.iter().collect();
        for (&peer, &lanes) in &it.feed.parents {
            let lanes = if follows { lanes } else { 0 };
            let held = held.clone();
            self.outputs.push_back(Output::Follow {
                peer,
                transfer,
                lanes,
                held,
            });
        }
        self.wake_at(now + TICK);
    }

    /// Asks for what an upstream does not push in time.
    pub(super) fn give_up(&mut self, transfer: TransferId, lanes: LaneSet) {
        let Some(it) = self.transfers.get_mut(&transfer) else {
            return;
        };
        let held: Vec<u32> = it.held.iter().collect();
        for (&peer, pushes) in &mut it.feed.parents {
            if *pushes & lanes != 0 {
                *pushes &= !lanes;
                let (lanes, held) = (*pushes, held.clone());
                self.outputs.push_back(Output::Follow {
                    peer,
                    transfer,
                    lanes,
                    held,
                });
            }
        }
        it.refresh_covered();
    }

    pub(super) fn lanes_to(&mut self, peer: PeerId, transfer: TransferId, lanes: LaneSet) {
        let now = self.pace.now;
        if let Some(it) = self.side(peer, transfer) {
            it.followers.entry(peer).or_default().expected = Some((lanes, now));
            self.wake_at(now + FOLLOW_WAIT);
        }
    }

    pub(super) fn followed(
        &mut self,
        peer: PeerId,
        transfer: TransferId,
        lanes: LaneSet,
        held: &[u32],
    ) {
        self.available(peer, transfer, held);
        let Some(it) = self.transfers.get_mut(&transfer) else {
            return;
        };
        if it.feed.count == 0 {
            return;
        }
        let Some(side) = it.sides.get_mut(&peer) else {
            return;
        };
        let follower = it.followers.entry(peer).or_default();
        follower.lanes = Some(lanes);
        follower.queue.clear();
        if it.one_each.is_none() {
            let wanted =
                |index: &u32| lanes & it.feed.lane(*index) != 0 && !side.has.contains(*index);
            follower.queue = it.held.iter().filter(wanted).collect();
        }
        // What it was told of it no longer asks for, but waits for.
        let feed = &it.feed;
        let told = side
            .allotted
            .extract_if(.., |index, _| lanes & feed.lane(*index) != 0);
        for (index, allotment) in told.collect::<Vec<_>>() {
            it.release(index, allotment.lapsed);
        }
        self.push_all(transfer);
        self.share(transfer);
    }

    /// Pushes everybody what they want, while there is room.
    pub(super) fn push_all(&mut self, transfer: TransferId) {
        let Some(it) = self.transfers.get(&transfer).filter(|it| it.feed.count > 0) else {
            return;
        };
        for peer in it.followers.keys().copied().collect::<Vec<_>>() {
            self.push(transfer, peer);
        }
    }

    /// Pushes a peer what it wants, while there is room.
    pub(super) fn push(&mut self, transfer: TransferId, peer: PeerId) {
        let now = self.pace.now;
        let Some(it) = self.transfers.get_mut(&transfer) else {
            return;
        };
        while let Some(index) = it.next_push(peer, now) {
            let bytes = it.lengths[index as usize];
            let (Some(side), Some(follower)) =
                (it.sides.get_mut(&peer), it.followers.get_mut(&peer))
            else {
                return;
            };
            follower.in_flight_bytes += u64::from(bytes);
            let delivered = follower.meter.delivered;
            let at = now;
            follower.pushing.insert(
                index,
                Push {
                    at,
                    bytes,
                    delivered,
                },
            );
            if let Some(one_each) = &mut it.one_each {
                one_each.allot(index);
                let lapsed = false;
                side.allotted.insert(index, Allotment { at, lapsed });
                it.refresh_unsent(index);
            }
            self.outputs.push_back(Output::Push {
                peer,
                transfer,
                index,
            });
        }
        if it.one_each.is_some() {
            self.wake_at(now + TICK);
        }
    }

    /// A push ended, and the peer has the chunk.
    pub(super) fn push_ended(&mut self, peer: PeerId, transfer: TransferId, index: u32) {
        let now = self.pace.now;
        let Some(it) = self.transfers.get_mut(&transfer) else {
            return;
        };
        if let Some(follower) = it.followers.get_mut(&peer)
            && let Some(push) = follower.end(index)
        {
            let took = now.saturating_sub(push.at);
            let least = follower.latency_min.map_or(took, |least| least.min(took));
            follower.latency_min = Some(least);
            follower
                .meter
                .add(u64::from(push.bytes), push.delivered, took);
            if it.one_each.is_some() {
                follower.unseen.push_back((now, index));
            }
        }
    }

    /// A push ended without effect.
    pub(super) fn not_taken(&mut self, peer: PeerId, transfer: TransferId, index: u32) {
        let Some(it) = self.transfers.get_mut(&transfer) else {
            return;
        };
        if let Some(follower) = it.followers.get_mut(&peer) {
            follower.end(index);
        }
        // Most likely it has it; if not, it asks.
        it.gain(peer, index);
        self.push_all(transfer);
    }
}
