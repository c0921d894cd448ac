//! Where peers stand: who pauses, who is dropped and why, who gets another chance.

use std::time::Duration;

use rand::Rng;

use super::{
    engine::Swarm,
    event::{DropReason, Link, Output, PeerId},
    peer::{DEMERIT, DEMERITS_MAX, Peer, Sent},
};

/// First pause after a peer was busy, and after one let requests run out; each doubles up to
/// [`PAUSE_DOUBLINGS`] times.
const BUSY_PAUSE: Duration = Duration::from_millis(50);
const DEMERIT_PAUSE: Duration = Duration::from_millis(500);
const PAUSE_DOUBLINGS: u32 = 5;

impl Swarm {
    /// Ends a peer's pause that is over, and takes back requests that ran out.
    pub(super) fn check_peer(&mut self, id: PeerId) {
        let now = self.pace.now;
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        if peer.resume_at.is_some_and(|at| at <= now) {
            peer.resume_at = None;
            self.hungry.insert(id);
        }
        let Some(oldest) = peer.oldest_request_at() else {
            return;
        };
        if now.saturating_sub(oldest) <= peer.timeout(&self.pace) {
            return;
        }
        let keys: Vec<_> = peer.requests.keys().copied().collect();
        for (transfer, index) in keys {
            self.cancel_all(transfer, index, &[id]);
        }
        // Only where others send is it the peer, and not our own link or host, that stands still.
        let others_send = self.peers.iter().any(|(&other, peer)| {
            other != id && peer.last_received_at.is_some_and(|at| at > oldest)
        });
        if others_send {
            let sent = self
                .peers
                .get(&id)
                .is_some_and(Peer::sent_since_first_demerit);
            let reason = if sent {
                DropReason::Slow
            } else {
                DropReason::Stalled
            };
            self.demerit(id, reason);
        } else if let Some(peer) = self.peers.get_mut(&id) {
            peer.patience += 1;
        }
    }

    /// A peer has no room now: it pauses, longer each time in a row.
    pub(super) fn busy(&mut self, id: PeerId) {
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.busy += 1;
            let doublings = peer.busy - 1;
            self.pause(id, BUSY_PAUSE, doublings);
        }
    }

    /// Whether a request that failed tells more of a peer than its last demerit: one that was under way then was
    /// ended by the same event.
    pub(super) fn is_news(&self, id: PeerId, sent: &Sent) -> bool {
        let peer = self.peers.get(&id);
        peer.is_some_and(|peer| peer.demerit_at.is_none_or(|at| sent.at > at))
    }

    /// Counts a fault of a peer: it pauses, and after three in a row it is dropped. A peer that alone
    /// holds something missing is kept for as long as it sends anything, an upstream always.
    pub(super) fn demerit(&mut self, id: PeerId, reason: DropReason) {
        let now = self.pace.now;
        let Some(peer) = self.peers.get_mut(&id).filter(|it| !it.shunned) else {
            return;
        };
        peer.add_demerit(now);
        let demerits = peer.demerits;
        let hope = peer.link == Link::Upstream || reason == DropReason::Slow;
        let needed = hope && self.transfers.values().any(|it| it.is_sole_holder(id));
        if demerits >= DEMERITS_MAX && !needed {
            self.shun(id, reason);
        } else {
            self.pause(id, DEMERIT_PAUSE, demerits / DEMERIT);
        }
    }

    /// Leaves a peer alone for a while, half to one and a half times `base` doubled so often.
    fn pause(&mut self, id: PeerId, base: Duration, doublings: u32) {
        let pause = base * 2u32.pow(doublings.min(PAUSE_DOUBLINGS));
        let at = self.pace.now + pause * self.rng.random_range(50..150) / 100;
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.resume_at = peer.resume_at.max(Some(at));
        }
        self.wake_at(at);
    }

    /// Asks a peer no more.
    pub(super) fn shun(&mut self, id: PeerId, reason: DropReason) {
        let Some(peer) = self.peers.get_mut(&id).filter(|it| !it.shunned) else {
            return;
        };
        peer.shunned = true;
        for (transfer, index) in peer.requests.keys().copied().collect::<Vec<_>>() {
            self.cancel_all(transfer, index, &[id]);
        }
        for transfer in self.transfers.values_mut() {
            transfer.set_askable(id, false);
            self.hungry.extend(transfer.sides.keys());
        }
        self.outputs.push_back(Output::Drop { peer: id, reason });
    }

    /// Asks a peer again as if nothing had been.
    pub(super) fn forgive(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get_mut(&id).filter(|it| it.shunned) else {
            return;
        };
        *peer = Peer::new(peer.link);
        let link = peer.link;
        for transfer in self.transfers.values_mut() {
            let askable = transfer.may_ask(link);
            transfer.set_askable(id, askable);
        }
        self.hungry.insert(id);
    }
}
