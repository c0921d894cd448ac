//! The driver's part of the lanes: what we follow, and what we push to those who follow us.

use scap_proto::wire::peer::{ChunkSet, PeerMessage};

use super::{contain::contained, driver::Driver, serve::Served};
use crate::{
    swarm::{Input, PeerId, TransferId},
    topology::LaneSet,
};

impl Driver {
    /// Tells a peer what to push, and lets it.
    pub(super) fn follow(
        &mut self,
        peer: PeerId,
        transfer: TransferId,
        lanes: LaneSet,
        held: &[u32],
    ) {
        let (Some(known), Some(active)) = (self.peers.get(&peer), self.transfers.get(&transfer))
        else {
            return;
        };
        let Some(&handle) = known.ours.get(&transfer) else {
            return;
        };
        if lanes != 0 {
            known
                .handles
                .followed
                .insert(handle, active.transfer.clone());
        }
        let held = ChunkSet::from_sorted(held);
        self.say(
            peer,
            PeerMessage::Follow {
                handle,
                lanes,
                held,
            },
        );
    }

    /// Tells the engine what the plan has us push to a peer, if it opens the transfer.
    pub(super) fn serve_lanes(&mut self, peer: PeerId, transfer: TransferId) {
        let (Some(known), Some(active)) = (self.peers.get(&peer), self.transfers.get(&transfer))
        else {
            return;
        };
        let lanes = active.edges.lanes_to(&known.link.peer().name);
        if lanes != 0 {
            self.input(Input::LanesTo {
                peer,
                transfer,
                lanes,
            });
        }
    }

    /// Tells the engine what a peer follows, of what the plan lets it, if it said so, and what it holds.
    pub(super) fn followed(
        &mut self,
        peer: PeerId,
        transfer: TransferId,
        handle: u32,
        held: Vec<u32>,
    ) {
        let (Some(known), Some(active)) = (self.peers.get(&peer), self.transfers.get(&transfer))
        else {
            return;
        };
        let Some(lanes) = known.follows.get(&handle) else {
            return;
        };
        let lanes = lanes & active.edges.lanes_to(&known.link.peer().name);
        self.input(Input::Followed {
            peer,
            transfer,
            lanes,
            held,
        });
    }

    /// Pushes a peer a chunk.
    pub(super) fn push(&mut self, peer: PeerId, transfer: TransferId, index: u32) {
        let (Some(known), Some(active)) = (self.peers.get(&peer), self.transfers.get(&transfer))
        else {
            return;
        };
        let Some(&handle) = known.theirs.get(&transfer) else {
            return;
        };
        let (shared, link, of) = (
            self.shared.clone(),
            known.link.clone(),
            active.transfer.clone(),
        );
        let (name, handles) = (link.peer().name.clone(), known.handles.clone());
        self.pushes.spawn(async move {
            let pushing = async move {
                let what = (&*of, handle, index);
                shared.uploads.push(&shared, &link, &handles, what).await
            };
            let pushed = contained("a push", name, pushing).await;
            (peer, transfer, index, pushed.unwrap_or(Served::Not))
        });
    }

    pub(super) async fn push_ended(
        &mut self,
        peer: PeerId,
        transfer: TransferId,
        index: u32,
        served: Served,
    ) {
        let input = match served {
            Served::Sent => Input::Served {
                peer,
                transfer,
                index,
            },
            Served::Lost | Served::Not | Served::Never(_) => Input::NotTaken {
                peer,
                transfer,
                index,
            },
        };
        self.input(input);
        match served {
            Served::Lost => self.reattach(transfer),
            Served::Never(code) => {
                let what = Served::describe(code).to_owned();
                self.found_out(peer, code, what).await;
            }
            Served::Sent | Served::Not => {}
        }
    }
}
