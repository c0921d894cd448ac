//! Transfers come and go: a release's own, and those of its deltas.

use std::{collections::BTreeSet, sync::Arc, time::Instant};

use scap_proto::{
    content::Layout,
    id::{NodeId, ReleaseId},
    release::BytesBySource,
    wire::peer::PeerMessage,
};

use super::{
    delta::{self, Awaited},
    driver::{Active, Driver, Growing},
    edges::Edges,
    event::Job,
    transfer::Transfer,
};
use crate::swarm::{Input, Policy, TransferId};

impl Driver {
    /// Begins to fetch and serve a release, and those of its deltas that are of use; nothing where it does already.
    pub(super) fn attach(&mut self, job: &Job) {
        if self.find(job.release).is_some() {
            return;
        }
        let edges = Edges::of(&job.plan, &self.shared.name, job.list_end);
        let mut added = Vec::new();
        let mut awaits = None;
        for (delta, is_awaited) in delta::choose(job, &self.shared.store) {
            let parts = Layout::of_parts(delta.chunks.clone());
            let active = self.add(delta.id(job.release), parts, job, edges.clone().of_delta());
            active.delta_of = Some(job.release);
            let id = active.transfer.id;
            added.push(id);
            awaits = is_awaited.then(|| Awaited::new(id)).or(awaits);
        }
        let active = self.add(job.release, Layout::new(job.snapshot), job, edges);
        active.awaits = awaits;
        added.push(active.transfer.id);
        for id in &added {
            let active = &self.transfers[id];
            if active.awaits.is_none() {
                let growth = active.transfer.first_growth();
                self.learn(*id, growth);
            }
        }
        for peer in self.peers.keys().copied().collect::<Vec<_>>() {
            self.introduce(peer);
            for id in &added {
                self.open(peer, *id);
                self.serve_lanes(peer, *id);
            }
        }
        // Once it is known who stands at the top of the lanes: what is theirs is told to nobody else.
        for peer in self.peers.keys().copied().collect::<Vec<_>>() {
            self.serve_waiting(peer);
        }
        self.dial_missing();
    }

    /// Adds one transfer, of which the engine knows nothing yet.
    fn add(&mut self, release: ReleaseId, known: Layout, job: &Job, edges: Edges) -> &mut Active {
        let id = TransferId(self.next_transfer);
        self.next_transfer += 1;
        let hold = self.shared.store.hold();
        let transfer = Transfer::new(id, release, job, known, hold);
        let policy = Policy {
            priority: job.priority,
            ..edges.policy
        };
        let active = Active {
            transfer: Arc::new(transfer),
            edges,
            delta_of: None,
            awaits: None,
            bytes: BytesBySource::default(),
            held: 0,
            is_all_known: false,
            is_done: false,
            growing: Growing::No,
            started: Instant::now(),
            fetched_in: None,
            closed: BTreeSet::new(),
        };
        self.input(Input::TransferAdded {
            transfer: id,
            policy,
        });
        self.transfers.entry(id).or_insert(active)
    }

    /// Ends a release and its deltas, and dials that only they wanted.
    pub(super) fn detach(&mut self, release: ReleaseId) {
        let is_of = |it: &Active| it.transfer.release == release || it.delta_of == Some(release);
        let all = self.transfers.iter().filter(|(_, active)| is_of(active));
        for id in all.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.remove(id);
        }
        let needed: Vec<NodeId> = self.wanted_dials().into_keys().collect();
        self.dialling.retain(|name, dial| {
            let keep = needed.contains(name);
            if !keep {
                dial.abort();
            }
            keep
        });
    }

    /// Ends one transfer: a release's own, or a delta's.
    pub(super) fn remove(&mut self, id: TransferId) {
        let Some(active) = self.transfers.remove(&id) else {
            return;
        };
        let release = active.transfer.release;
        self.fetching.retain(|(_, transfer, _), fetch| {
            if *transfer == id {
                fetch.abort();
            }
            *transfer != id
        });
        for peer in self.peers.keys().copied().collect::<Vec<_>>() {
            let known = self.peers.get_mut(&peer).expect("the key was just read");
            if let Some(handle) = known.theirs.remove(&id) {
                known.handles.theirs.remove(handle);
                // It did not close it: it is served again if it is attached again.
                known.waiting.insert(handle, release);
            }
            if let Some(handle) = known.ours.remove(&id) {
                known.handles.followed.remove(handle);
                self.say(peer, PeerMessage::Close { handle });
            }
        }
        self.input(Input::TransferRemoved { transfer: id });
    }

    /// Starts a transfer again from what the store really has: a stored chunk turned out to be damaged.
    pub(super) fn reattach(&mut self, id: TransferId) {
        let Some(active) = self.transfers.get(&id) else {
            return;
        };
        if active.delta_of.is_some() {
            return self.drop_delta(id);
        }
        let transfer = active.transfer.clone();
        tracing::warn!(release = %transfer.release.short(), "a stored chunk is damaged; fetching it again");
        let job = Job {
            release: transfer.release,
            snapshot: transfer.snapshot(),
            plan: transfer.plan.clone(),
            list_end: 0,
            deltas: Vec::new(),
            priority: transfer.priority,
        };
        let bytes = active.bytes;
        self.detach(job.release);
        self.attach(&job);
        if let Some(active) = self.transfers.values_mut().next_back() {
            active.bytes = bytes;
        }
    }
}
