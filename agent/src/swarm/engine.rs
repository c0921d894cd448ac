//! The engine: one event in, what to do about it out.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use rand::SeedableRng;
use rand_pcg::Pcg64Mcg;

use super::{
    event::{Config, DropReason, Failure, Input, Output, PeerId, TransferId},
    peer::{Pace, Peer},
    telling::{TOLD_AT_ONCE_MAX, Telling},
    transfer::Transfer,
};

/// How often requests and allotments are looked at for having run out. Every limit that is checked
/// so is at least some times longer.
pub(super) const TICK: Duration = Duration::from_millis(100);

/// How long nothing is asked for after we could not store something.
const LOCAL_PAUSE: Duration = Duration::from_millis(1000);

/// Decides which chunks to ask of whom, and what to tell whom. See the [module](super).
pub struct Swarm {
    pub(super) config: Config,
    pub(super) rng: Pcg64Mcg,
    pub(super) pace: Pace,
    pub(super) peers: BTreeMap<PeerId, Peer>,
    pub(super) transfers: BTreeMap<TransferId, Transfer>,
    /// Peers that may have room for a request, and something to ask for.
    pub(super) hungry: BTreeSet<PeerId>,
    /// The peer asked last: the hungry take turns.
    pub(super) turn: PeerId,
    /// Sides with something to tell.
    pub(super) pending: BTreeSet<(TransferId, PeerId)>,
    pub(super) telling: Telling,
    pub(super) in_flight_bytes: u64,
    pub(super) tick_at: Option<Duration>,
    pub(super) outputs: VecDeque<Output>,
}

impl Swarm {
    /// An engine that knows no peer and no transfer. Its clock starts at zero.
    pub fn new(config: Config) -> Self {
        Self {
            rng: Pcg64Mcg::seed_from_u64(config.seed),
            config,
            pace: Pace::new(),
            peers: BTreeMap::new(),
            transfers: BTreeMap::new(),
            hungry: BTreeSet::new(),
            turn: PeerId(0),
            pending: BTreeSet::new(),
            telling: Telling::default(),
            in_flight_bytes: 0,
            tick_at: None,
            outputs: VecDeque::new(),
        }
    }

    /// Takes in one event at `now`, the time since the engine was made. Events about peers and
    /// transfers that are unknown, or gone, are ignored: they may cross what ended them.
    pub fn handle_input(&mut self, now: Duration, input: Input) {
        self.pace.now = self.pace.now.max(now);
        match input {
            Input::Timeout => self.timeout(),
            Input::TransferAdded { transfer, policy } => {
                self.transfers
                    .entry(transfer)
                    .or_insert_with(|| Transfer::new(policy, self.pace.now));
            }
            Input::TransferGrown {
                transfer,
                plain_lengths,
                is_all,
            } => self.grown(transfer, &plain_lengths, is_all),
            Input::TransferHolds { transfer, indexes } => self.holds(transfer, &indexes),
            Input::TransferRemoved { transfer } => self.removed(transfer),
            Input::PeerConnected { peer, link } => {
                self.peers
                    .entry(peer)
                    .or_insert_with(|| Peer::new(link))
                    .link = link;
                self.forgive(peer);
            }
            Input::PeerDisconnected { peer } => self.disconnected(peer),
            Input::PeerOpened { peer, transfer } => {
                if let Some(it) = self.side(peer, transfer) {
                    it.open(peer);
                    self.share_with(transfer, peer);
                }
            }
            Input::PeerClosed { peer, transfer } => {
                if let Some(it) = self.transfers.get_mut(&transfer) {
                    it.close(peer);
                }
                self.share(transfer);
            }
            Input::Available {
                peer,
                transfer,
                indexes,
            } => self.available(peer, transfer, &indexes),
            Input::Received {
                peer,
                transfer,
                index,
                encoded_bytes,
            } => self.received(peer, transfer, index, encoded_bytes),
            Input::Failed {
                peer,
                transfer,
                index,
                failure,
            } => self.failed(peer, transfer, index, failure),
            Input::Served {
                peer,
                transfer,
                index,
            } => {
                let now = self.pace.now;
                self.push_ended(peer, transfer, index);
                if let Some(it) = self.side(peer, transfer) {
                    it.served(peer, index, now);
                    // Others may have waited for this lane to catch up.
                    self.push_all(transfer);
                    self.share_with(transfer, peer);
                }
            }
            Input::LanesFrom {
                peer,
                transfer,
                lanes,
            } => self.lanes_from(peer, transfer, lanes),
            Input::LanesTo {
                peer,
                transfer,
                lanes,
            } => self.lanes_to(peer, transfer, lanes),
            Input::Followed {
                peer,
                transfer,
                lanes,
                held,
            } => self.followed(peer, transfer, lanes, &held),
            Input::NotTaken {
                peer,
                transfer,
                index,
            } => self.not_taken(peer, transfer, index),
        }
        self.tell_news();
        self.fill();
    }

    /// Whether this node is known to hold a chunk.
    pub fn holds_chunk(&self, transfer: TransferId, index: u32) -> bool {
        let it = self.transfers.get(&transfer);
        it.is_some_and(|it| it.held.contains(index))
    }

    /// The next thing to do; `None` when there is nothing left to do about the events so far.
    pub fn poll_output(&mut self) -> Option<Output> {
        if let Some(output) = self.outputs.pop_front() {
            return Some(output);
        }
        self.next_announcement()
    }

    /// When to feed [`Input::Timeout`], if nothing else happens before.
    pub fn poll_timeout(&self) -> Option<Duration> {
        let tell_at = self.telling.wait_until();
        self.tick_at.into_iter().chain(tell_at).min()
    }

    fn grown(&mut self, id: TransferId, plain_lengths: &[u32], is_all: bool) {
        if let Some(transfer) = self.transfers.get_mut(&id) {
            transfer.grow(plain_lengths);
            transfer.moved_at = self.pace.now;
            transfer.is_all_known |= is_all;
            self.hungry.extend(transfer.sides.keys());
        }
    }

    fn holds(&mut self, id: TransferId, indexes: &[u32]) {
        if let Some(transfer) = self.transfers.get_mut(&id) {
            let fresh = indexes
                .iter()
                .copied()
                .filter(|&index| transfer.hold(index, None))
                .collect();
            self.held(id, fresh);
        }
        // What of it is held already counts.
        if self.transfers.get(&id).is_some_and(|it| it.is_all_known) {
            self.decide_to_follow(id);
        }
    }

    /// These chunks of a transfer are held now, and were not before.
    fn held(&mut self, id: TransferId, fresh: Vec<u32>) {
        let Some(transfer) = self.transfers.get(&id) else {
            return;
        };
        let complete = transfer.missing == 0 && !fresh.is_empty();
        let sides = transfer.sides.iter();
        let opened = sides.filter(|(_, side)| side.opened);
        if transfer.feed.is_fed() {
            self.telling.add_unhurried(id, self.pace.now);
        } else if opened.clone().count() <= TOLD_AT_ONCE_MAX {
            self.pending.extend(opened.map(|(&peer, _)| (id, peer)));
        } else {
            self.telling.add(id, fresh.len());
        }
        if let Some(it) = self.transfers.get_mut(&id) {
            it.moved_at = self.pace.now;
            it.queue_pushes(&fresh);
        }
        self.push_all(id);
        for index in fresh {
            let asked = self.transfers.get(&id).and_then(|it| it.asked.get(&index));
            if let Some(losers) = asked.cloned() {
                self.cancel_all(id, index, &losers);
            }
        }
        if complete {
            self.telling.hurry();
            self.outputs.push_back(Output::Complete { transfer: id });
        }
        self.share(id);
    }

    fn removed(&mut self, id: TransferId) {
        let Some(transfer) = self.transfers.get(&id) else {
            return;
        };
        for (index, peers) in transfer.asked.clone() {
            self.cancel_all(id, index, &peers);
        }
        self.transfers.remove(&id);
    }

    fn disconnected(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get(&id) else {
            return;
        };
        for key in peer.requests.keys().copied().collect::<Vec<_>>() {
            self.take_request(id, key);
        }
        self.peers.remove(&id);
        self.hungry.remove(&id);
        for transfer in self.transfers.keys().copied().collect::<Vec<_>>() {
            if let Some(it) = self.transfers.get_mut(&transfer) {
                it.remove_side(id);
                self.hungry.extend(it.sides.keys());
            }
            self.share(transfer);
        }
    }

    pub(super) fn available(&mut self, id: PeerId, transfer: TransferId, indexes: &[u32]) {
        let now = self.pace.now;
        let Some(it) = self.side(id, transfer) else {
            return;
        };
        it.note_has(now, id, indexes);
        let mut useful = false;
        for &index in indexes {
            useful |= it.gain(id, index);
        }
        let shares = it.one_each.is_some();
        let waits = it.feed.is_fed() || it.sides.get(&id).is_some_and(|side| side.is_far);
        if useful {
            self.hungry.insert(id);
        }
        if waits {
            self.wake_at(now + TICK);
        }
        if shares {
            self.share_with(transfer, id);
        }
    }

    fn received(&mut self, id: PeerId, transfer: TransferId, index: u32, bytes: u64) {
        let Some(it) = self.transfers.get_mut(&transfer) else {
            return;
        };
        // It had the chunk, also where it never said so.
        it.gain(id, index);
        // Held first, so that the end of the request does not make it wanted again.
        let fresh = it.hold(index, Some(id));
        *it.received_bytes.entry(id).or_default() += bytes;
        if !fresh {
            it.duplicate_bytes += bytes;
        }
        let sent = self.take_request(id, (transfer, index));
        if let (Some(sent), Some(peer)) = (sent, self.peers.get_mut(&id)) {
            peer.answered(&sent, bytes, &mut self.pace);
            self.hungry.insert(id);
        }
        if fresh {
            self.held(transfer, vec![index]);
        }
    }

    fn failed(&mut self, id: PeerId, transfer: TransferId, index: u32, failure: Failure) {
        let sent = self.take_request(id, (transfer, index));
        let asked = sent.is_some();
        match failure {
            Failure::WrongBytes => self.shun(id, DropReason::WrongBytes { transfer, index }),
            Failure::NotHeld => {
                let Some(it) = self.transfers.get_mut(&transfer) else {
                    return;
                };
                it.lose(id, index);
                // What it says crosses what it answers, so some promises are broken twice by chance: no more than it is asked for
                // at a time.
                if it.promises_broken_again(id) as usize > self.config.requests_per_peer_max {
                    return self.shun(id, DropReason::BrokenPromises);
                }
                self.hungry.insert(id);
            }
            Failure::Busy if asked => {
                self.busy(id);
            }
            Failure::Reset if sent.is_some_and(|sent| self.is_news(id, &sent)) => {
                self.demerit(id, DropReason::Resets);
            }
            Failure::Busy | Failure::Reset => {}
            Failure::Local => {
                let resume_at = self.pace.now + LOCAL_PAUSE;
                if let Some(it) = self.transfers.get_mut(&transfer) {
                    it.resume_at = Some(resume_at);
                }
                self.hungry.insert(id);
                self.wake_at(resume_at);
            }
        }
    }

    fn timeout(&mut self) {
        let now = self.pace.now;
        if self.tick_at.is_none_or(|at| now < at) {
            return;
        }
        self.tick_at = None;
        for id in self.peers.keys().copied().collect::<Vec<_>>() {
            self.check_peer(id);
        }
        let mut busy = self.in_flight_bytes > 0;
        for id in self.transfers.keys().copied().collect::<Vec<_>>() {
            let Some(transfer) = self.transfers.get_mut(&id) else {
                continue;
            };
            if let Some(at) = transfer.resume_at {
                busy = true;
                if at <= now {
                    transfer.resume_at = None;
                    for (peer, side) in &mut transfer.sides {
                        side.dry = false;
                        self.hungry.insert(*peer);
                    }
                }
            }
            busy |= transfer.lapse(now);
            let given_up = transfer.find_late(now);
            busy |= transfer.has_lanes_to_watch() || transfer.is_pushing(now);
            busy |= transfer.find_sinks(now);
            if transfer.feed.is_fed() {
                self.hungry.extend(transfer.sides.keys());
            }
            if given_up != 0 {
                self.give_up(id, given_up);
            }
            busy |= self.check_far(id);
            self.share(id);
            self.ask_seconds(id);
        }
        let resumes = self.peers.values().filter_map(|it| it.resume_at).min();
        if let Some(at) = resumes {
            self.wake_at(at);
        }
        if busy {
            self.wake_at(now + TICK);
        }
    }

    /// Tells peers of the chunks that came, where that is due.
    fn tell_news(&mut self) {
        for id in self.telling.due(self.pace.now) {
            if let Some(transfer) = self.transfers.get(&id) {
                let sides = transfer.sides.keys();
                self.pending.extend(sides.map(|&peer| (id, peer)));
            }
        }
    }

    fn next_announcement(&mut self) -> Option<Output> {
        while let Some((transfer, peer)) = self.pending.pop_first() {
            let it = self.transfers.get_mut(&transfer);
            let indexes = it.map(|it| it.take_news(peer));
            if let Some(indexes) = indexes.filter(|it| !it.is_empty()) {
                return Some(Output::Announce {
                    peer,
                    transfer,
                    indexes,
                });
            }
        }
        None
    }

    /// Tells every peer of its share of a transfer, where shares may have come free.
    pub(super) fn share(&mut self, id: TransferId) {
        let Some(transfer) = self.transfers.get(&id) else {
            return;
        };
        if transfer.one_each.is_some() {
            for peer in transfer.sides.keys().copied().collect::<Vec<_>>() {
                self.share_with(id, peer);
            }
        }
    }

    /// Tells a peer what is pending, and of its share.
    fn share_with(&mut self, id: TransferId, peer: PeerId) {
        let Some(transfer) = self.transfers.get_mut(&id) else {
            return;
        };
        if transfer.allot(peer, self.pace.now, &mut self.rng) {
            self.wake_at(self.pace.now + TICK);
        }
        self.pending.insert((id, peer));
    }

    /// A transfer in which a connected peer has a side from now on.
    pub(super) fn side(&mut self, peer: PeerId, transfer: TransferId) -> Option<&mut Transfer> {
        let known = self.peers.get(&peer)?;
        let it = self.transfers.get_mut(&transfer)?;
        let askable = !known.shunned && it.may_ask(known.link);
        it.add_side(peer, askable, known.link);
        Some(it)
    }

    pub(super) fn wake_at(&mut self, at: Duration) {
        self.tick_at = Some(self.tick_at.map_or(at, |earlier| earlier.min(at)));
    }
}
