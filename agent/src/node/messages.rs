//! The driver's part of a session: what peers say, and what they opened with us.

use scap_proto::{
    limits::OPEN_RELEASES_PER_PEER_MAX,
    reason::Reason,
    wire::{close, peer::PeerMessage},
};

use super::driver::Driver;
use crate::swarm::{Input, PeerId};

impl Driver {
    pub(super) async fn message(&mut self, peer: PeerId, message: PeerMessage) {
        let Some(known) = self.peers.get_mut(&peer) else {
            return;
        };
        match message {
            PeerMessage::Open { handle, release } => {
                if !self.shared.may_ask(&known.link.peer().name) {
                    let what = "opened releases more often than anybody needs".to_owned();
                    return self.found_out(peer, Reason::BrokeProtocol, what).await;
                }
                if known.waiting.len() + known.theirs.len() >= OPEN_RELEASES_PER_PEER_MAX {
                    let what = format!("opened more than {OPEN_RELEASES_PER_PEER_MAX} releases");
                    return self.found_out(peer, Reason::BrokeProtocol, what).await;
                }
                known.denied.remove(&handle);
                known.waiting.insert(handle, release);
                self.serve_waiting(peer);
            }
            PeerMessage::Close { handle } => {
                known.waiting.remove(&handle);
                known.denied.remove(&handle);
                known.follows.remove(&handle);
                known.handles.theirs.remove(handle);
                let closed = known.theirs.iter().find(|(_, theirs)| **theirs == handle);
                if let Some(transfer) = closed.map(|(transfer, _)| *transfer) {
                    known.theirs.remove(&transfer);
                    if let Some(active) = self.transfers.get_mut(&transfer) {
                        active.closed.insert(peer);
                    }
                    self.input(Input::PeerClosed { peer, transfer });
                }
            }
            PeerMessage::Follow {
                handle,
                lanes,
                held,
            } => {
                let opened = known.theirs.iter().find(|(_, theirs)| **theirs == handle);
                let opened = opened.map(|(transfer, _)| *transfer);
                if opened.is_none() && !known.waiting.contains_key(&handle) {
                    return; // it closed it
                }
                let Some(held) = held.indexes() else {
                    let what = "named chunks beyond any snapshot".to_owned();
                    return self.found_out(peer, Reason::BrokeProtocol, what).await;
                };
                known.follows.insert(handle, lanes);
                if let Some(transfer) = opened {
                    self.followed(peer, transfer, handle, held);
                }
            }
            // The session takes it.
            PeerMessage::Trust(_) => {}
            PeerMessage::Have { handle, chunks } => {
                let Some(indexes) = chunks.indexes() else {
                    let what = "named chunks beyond any snapshot".to_owned();
                    return self.found_out(peer, Reason::BrokeProtocol, what).await;
                };
                let opened = known.ours.iter().find(|(_, ours)| **ours == handle);
                // None: it crossed our closing of the handle.
                if let Some(transfer) = opened.map(|(transfer, _)| *transfer) {
                    self.input(Input::Available {
                        peer,
                        transfer,
                        indexes,
                    });
                }
            }
        }
    }

    /// Serves what the peer opened, as far as we have it and it may have it.
    pub(super) fn serve_waiting(&mut self, peer: PeerId) {
        let Some(known) = self.peers.get_mut(&peer) else {
            return;
        };
        let name = known.link.peer().name.clone();
        let (mut opened, mut denied) = (Vec::new(), Vec::new());
        known.waiting.retain(|handle, release| {
            let mut found = self.transfers.iter();
            let found = found.find(|(_, active)| active.transfer.release == *release);
            if let Some((_, active)) = found {
                let is_guest = || self.guests.may_have(active.release(), &name);
                let is_named = active.transfer.names(&name) || is_guest();
                let readers = &active.transfer.readers;
                let shown = known.membership.as_ref();
                if let Err(reason) = readers.admit(is_named, shown) {
                    // What is only kept here has no plan of a coordinator's. Who may have it is let in once it asks what is stable,
                    // and may have opened it before: as long as it was deployed.
                    let is_early = active.transfer.is_kept() && readers.admit(true, shown).is_ok();
                    if !is_early && known.denied.insert(*handle) {
                        denied.push(reason);
                    }
                    // As if it was not here.
                    return true;
                }
            }
            match found {
                // It lost chunks, and there is no message that takes back what it said to have: both begin anew.
                Some((_, active)) if active.closed.contains(&peer) => {
                    known.link.close(close::REPLACED, "opened again");
                    false
                }
                Some((id, active)) if !known.theirs.contains_key(id) => {
                    known.theirs.insert(*id, *handle);
                    known
                        .handles
                        .theirs
                        .insert(*handle, active.transfer.clone());
                    opened.push((*id, *handle));
                    false
                }
                _ => true,
            }
        });
        for reason in denied {
            self.deny(&name, reason);
        }
        for (transfer, handle) in opened {
            self.input(Input::PeerOpened { peer, transfer });
            // What it holds by now it stops at the first bytes.
            self.followed(peer, transfer, handle, Vec::new());
        }
    }
}
