//! Transfers come and go: a release's own, that of what it asks of hosts, and those of its deltas.

use std::{collections::BTreeSet, sync::Arc, time::Instant};

use scap_proto::{
    content::{Layout, SnapshotRef},
    id::{NodeId, ReleaseId},
    release::{BytesBySource, Release},
    wire::peer::PeerMessage,
};

use super::{
    delta::{self, Awaited},
    driver::{Active, Beside, Driver, Growing, What},
    edges::Edges,
    event::{Job, Sources},
    transfer::Transfer,
};
use crate::swarm::{Input, Policy, TransferId};

impl Driver {
    /// Begins to fetch and serve a release with what it asks of hosts, and those of its deltas that are of use; nothing where
    /// it does already.
    pub(super) fn attach(&mut self, job: &Job) {
        if self.find(job.release).is_some() {
            return;
        }
        let edges = match &job.sources {
            Sources::Plan => Edges::of(&job.plan, &self.shared.name, job.list_end),
            Sources::Only(peers) => Edges::only(peers),
        };
        let mut added = Vec::new();
        let mut awaits = None;
        for (delta, is_awaited) in delta::choose(job, &self.shared.store) {
            let parts = Layout::of_parts(delta.chunks.clone());
            let snapshot = (job.snapshot, parts);
            let edges = edges.clone().without_lanes();
            let active = self.add(delta.id(job.release), snapshot, job, edges);
            active.beside = Some(Beside {
                release: job.release,
                what: What::Delta,
            });
            let id = active.transfer.id;
            added.push(id);
            awaits = is_awaited.then(|| Awaited::new(id)).or(awaits);
        }
        if let Some(config) = job.config {
            let id = Release::config_id(job.release);
            let snapshot = (config, Layout::new(config));
            let active = self.add(id, snapshot, job, edges.clone().without_lanes());
            active.beside = Some(Beside {
                release: job.release,
                what: What::Config,
            });
            added.push(active.transfer.id);
        }
        let snapshot = (job.snapshot, Layout::new(job.snapshot));
        let active = self.add(job.release, snapshot, job, edges);
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
    fn add(
        &mut self,
        release: ReleaseId,
        (snapshot, known): (SnapshotRef, Layout),
        job: &Job,
        edges: Edges,
    ) -> &mut Active {
        let id = TransferId(self.next_transfer);
        self.next_transfer += 1;
        let hold = self.shared.store.hold();
        let transfer = Transfer::new(id, (release, snapshot), job, known, hold);
        let policy = Policy {
            priority: job.priority,
            ..edges.policy
        };
        let active = Active {
            transfer: Arc::new(transfer),
            edges,
            beside: None,
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

    /// Ends a release and all that is beside it, and dials that only they wanted.
    pub(super) fn detach(&mut self, release: ReleaseId) {
        let all = self.transfers.iter();
        let all = all.filter(|(_, active)| active.release() == release);
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

    /// Ends one transfer.
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
        if active.is_delta() {
            return self.drop_delta(id);
        }
        let release = active.release();
        tracing::warn!(release = %release.short(), "a stored chunk is damaged; fetching it again");
        let snapshot_of = |what: Option<What>| {
            let mut parts = self.parts_of(release);
            let part = parts.find(|(_, part)| part.beside.map(|it| it.what) == what);
            part.map(|(_, part)| part.transfer.snapshot())
        };
        let Some(snapshot) = snapshot_of(None) else {
            return;
        };
        let job = Job {
            release,
            snapshot,
            readers: active.transfer.readers.clone(),
            plan: active.transfer.plan.clone(),
            sources: active.transfer.sources.clone(),
            list_end: 0,
            deltas: Vec::new(),
            config: snapshot_of(Some(What::Config)),
            priority: active.transfer.priority,
        };
        let parts = self.parts_of(release);
        let bytes: Vec<_> = parts.map(|(_, part)| (part.beside, part.bytes)).collect();
        self.detach(release);
        self.attach(&job);
        for active in self.transfers.values_mut() {
            let mut before = bytes.iter();
            let before = before.find(|(beside, _)| *beside == active.beside);
            if let Some((_, bytes)) = before.filter(|_| active.release() == release) {
                active.bytes = *bytes;
            }
        }
    }
}
