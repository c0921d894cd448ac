//! Requests: who is asked for what, when a second peer is asked, and how a request ends.

use std::{ops::Bound, time::Duration};

use super::{
    engine::{Swarm, TICK},
    event::{Output, PeerId, TransferId},
    peer::Sent,
};

/// Least time a request at the end of a transfer gets before a second peer is asked too: a pause that
/// a busy host or a lost packet explains.
const SECOND_REQUEST_MIN: Duration = Duration::from_millis(100);

impl Swarm {
    /// Sends requests for as long as there are peers with room and chunks to ask them for.
    pub(super) fn fill(&mut self) {
        while let Some(id) = self.next_hungry() {
            if self.in_flight_bytes > 0 && self.in_flight_bytes >= self.pace.budget(&self.config) {
                return;
            }
            self.turn = id;
            match self.choose(id) {
                Some((transfer, index)) => self.request(id, transfer, index),
                None => {
                    self.hungry.remove(&id);
                }
            }
        }
    }

    fn next_hungry(&self) -> Option<PeerId> {
        let after = (Bound::Excluded(self.turn), Bound::Unbounded);
        let next = self.hungry.range(after).next();
        next.or_else(|| self.hungry.first()).copied()
    }

    /// What to ask a peer for next, if it has room: of its transfers those of the highest priority take turns.
    fn choose(&mut self, id: PeerId) -> Option<(TransferId, u32)> {
        let peer = self.peers.get(&id)?;
        if !peer.has_room(&self.config) {
            return None;
        }
        let last = peer.last_transfer.unwrap_or(TransferId(0));
        let after = self
            .transfers
            .range((Bound::Excluded(last), Bound::Unbounded));
        let order = after.chain(self.transfers.range(..=last));
        let mut dry = Vec::new();
        let mut choice = None;
        let mut chosen = None;
        for (&transfer, it) in order {
            if chosen >= Some(it.policy.priority) {
                continue;
            }
            let Some(side) = it.sides.get(&id) else {
                continue;
            };
            if !side.askable || side.dry || it.resume_at.is_some() {
                continue;
            }
            if let Some(index) = it.pick(side, &mut self.rng) {
                choice = Some((transfer, index));
                chosen = Some(it.policy.priority);
                continue;
            }
            dry.push(transfer);
        }
        for transfer in dry {
            if let Some(it) = self.transfers.get_mut(&transfer)
                && let Some(side) = it.sides.get_mut(&id)
            {
                side.dry = true;
            }
        }
        choice
    }

    fn request(&mut self, id: PeerId, transfer: TransferId, index: u32) {
        let (Some(peer), Some(it)) = (self.peers.get_mut(&id), self.transfers.get_mut(&transfer))
        else {
            return;
        };
        let plain_bytes = it.lengths[index as usize];
        it.ask(id, index);
        peer.ask((transfer, index), plain_bytes, &self.pace);
        self.in_flight_bytes += u64::from(plain_bytes);
        self.outputs.push_back(Output::Request {
            peer: id,
            transfer,
            index,
        });
        self.wake_at(self.pace.now + TICK);
    }

    /// Ends a request on our books: its chunk is wanted again unless it is held or asked of another.
    pub(super) fn take_request(&mut self, id: PeerId, key: (TransferId, u32)) -> Option<Sent> {
        let sent = self.peers.get_mut(&id)?.take(key)?;
        self.in_flight_bytes -= u64::from(sent.plain_bytes);
        if let Some(transfer) = self.transfers.get_mut(&key.0)
            && transfer.unask(id, key.1)
        {
            let holding = transfer
                .sides
                .iter()
                .filter(|(_, side)| side.has.contains(key.1));
            self.hungry.extend(holding.map(|(&peer, _)| peer));
        }
        Some(sent)
    }

    pub(super) fn cancel_all(&mut self, transfer: TransferId, index: u32, peers: &[PeerId]) {
        for &peer in peers {
            if self.take_request(peer, (transfer, index)).is_some() {
                self.hungry.insert(peer);
                self.outputs.push_back(Output::Cancel {
                    peer,
                    transfer,
                    index,
                });
            }
        }
    }

    /// At the end of a transfer, asks a second peer for what the first is slow to send.
    pub(super) fn ask_seconds(&mut self, id: TransferId) {
        let Some(transfer) = self.transfers.get(&id).filter(|it| it.is_ending()) else {
            return;
        };
        let limit = (2 * self.pace.completion.average()).max(SECOND_REQUEST_MIN);
        let late = |index: u32, asked: &[PeerId]| match asked {
            [only] => self
                .peers
                .get(only)
                .and_then(|peer| peer.requests.get(&(id, index)))
                .is_some_and(|sent| self.pace.now.saturating_sub(sent.at) > limit),
            _ => false,
        };
        let late: Vec<u32> = transfer
            .asked
            .iter()
            .filter(|(index, asked)| late(**index, asked))
            .map(|(&index, _)| index)
            .collect();
        for index in late {
            let Some(transfer) = self.transfers.get(&id) else {
                return;
            };
            let second = transfer
                .sides
                .iter()
                .filter(|(peer, side)| {
                    side.askable
                        && transfer.may_ask_beside(side, index)
                        && side.has.contains(index)
                        && !transfer.asked[&index].contains(peer)
                })
                .filter_map(|(&peer, _)| Some((peer, self.peers.get(&peer)?)))
                .filter(|(_, peer)| peer.has_room(&self.config))
                .min_by_key(|(_, peer)| peer.requests.len());
            if let Some((peer, _)) = second {
                self.request(peer, id, index);
            }
        }
    }
}
