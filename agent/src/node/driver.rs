//! The one task that owns the engine: events in, requests and messages out.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use scap_proto::{
    id::{NodeId, ReleaseId},
    identity::{Role, TrustMark},
    reason::Because,
    release::{BytesBySource, Membership},
    transport::Link,
    wire::{
        chunk::ChunkRequest,
        close,
        peer::{ChunkSet, PeerMessage},
    },
};
use tokio::{
    sync::mpsc,
    task::{AbortHandle, JoinSet},
    time::MissedTickBehavior,
};
use tokio_util::sync::CancellationToken;

use super::{
    NodeEvent, Shared,
    budget::{COORDINATOR_LINKS_MAX, OUTBOX_MAX},
    contain::contained,
    delta::{Awaited, LOOK_PERIOD, Made, MakeError},
    edges::Edges,
    event::Event,
    fetch::{self, FetchError},
    guests::Guests,
    handles::Handles,
    serve::Served,
    session::{self, SessionError},
    transfer::{GrowError, Growth, Transfer},
    trusting::close_if_cut_off,
};
use crate::swarm::{Config, Failure, Input, Link as PeerLink, Output, PeerId, Swarm, TransferId};
use crate::topology::LaneSet;

pub(crate) struct Driver {
    pub(super) shared: Arc<Shared>,
    pub(super) swarm: Swarm,
    started: Instant,
    events: mpsc::Receiver<Event>,
    pub(super) out: mpsc::Sender<NodeEvent>,
    pub(super) peers: BTreeMap<PeerId, Peer>,
    /// The latest link to each.
    by_name: BTreeMap<NodeId, PeerId>,
    pub(super) transfers: BTreeMap<TransferId, Active>,
    next_peer: u32,
    pub(super) next_transfer: u32,
    links: JoinSet<(PeerId, SessionError)>,
    fetches: JoinSet<(PeerId, TransferId, u32, Result<u64, FetchError>)>,
    pub(super) fetching: HashMap<(PeerId, TransferId, u32), AbortHandle>,
    pub(super) pushes: JoinSet<(PeerId, TransferId, u32, Served)>,
    grows: JoinSet<(TransferId, Result<Option<Growth>, GrowError>)>,
    syncs: JoinSet<(TransferId, Result<(), crate::store::StoreError>)>,
    pub(super) makes: JoinSet<(TransferId, Result<Made, MakeError>)>,
    dials: JoinSet<(NodeId, Link)>,
    pub(super) dialling: BTreeMap<NodeId, AbortHandle>,
    pub(super) guests: Guests,
}

pub(super) struct Peer {
    pub(super) link: Link,
    outbox: mpsc::Sender<PeerMessage>,
    pub(super) handles: Arc<Handles>,
    /// Our handle for each transfer that we opened with it.
    pub(super) ours: BTreeMap<TransferId, u32>,
    /// Its handle for each transfer that it opened with us.
    pub(super) theirs: BTreeMap<TransferId, u32>,
    /// What it opened that we cannot serve (yet): unknown to us, or not for it.
    pub(super) waiting: BTreeMap<u32, ReleaseId>,
    /// Those of them that it may not have, as far as that was noted.
    pub(super) denied: BTreeSet<u32>,
    /// What it is in, by the word of a coordinator that it showed.
    pub(super) membership: Option<Membership>,
    /// What it said to follow, by its handles.
    pub(super) follows: BTreeMap<u32, LaneSet>,
    next_handle: u32,
    /// Which fleet trust it holds to, or was told of; none where it does not say.
    pub(super) trust: Option<TrustMark>,
    /// Whether the engine knows it.
    pub(super) is_greeted: bool,
}

pub(super) struct Active {
    pub(super) transfer: Arc<Transfer>,
    pub(super) edges: Edges,
    /// Set where it is not a release's own tree.
    pub(super) beside: Option<Beside>,
    /// The delta to be used before chunks are asked for.
    pub(super) awaits: Option<Awaited>,
    pub(super) bytes: BytesBySource,
    pub(super) held: u32,
    /// Whether the engine knows all chunks. The layout may know them earlier, from another task.
    pub(super) is_all_known: bool,
    pub(super) is_done: bool,
    pub(super) growing: Growing,
    pub(super) started: Instant,
    pub(super) fetched_in: Option<Duration>,
    /// Who opened it with us on a link that there is, and closed it.
    pub(super) closed: BTreeSet<PeerId>,
}

/// What is fetched and served beside a release's own tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Beside {
    /// The release.
    pub(super) release: ReleaseId,
    /// What it is of it.
    pub(super) what: What,
}

/// What of a release is not its tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    /// A delta, which may be given up.
    Delta,
    /// What it asks of hosts, without which it is not here.
    Config,
}

impl Active {
    /// The release that it is of.
    pub(super) fn release(&self) -> ReleaseId {
        let own = self.transfer.release;
        self.beside.map_or(own, |beside| beside.release)
    }

    pub(super) fn is_delta(&self) -> bool {
        self.beside.is_some_and(|beside| beside.what == What::Delta)
    }
}

/// Whether a task looks for what the pages in the store say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Growing {
    No,
    Yes,
    /// A page came after it began to look.
    AndAgain,
}

impl Driver {
    pub(crate) fn new(
        shared: Arc<Shared>,
        seed: u64,
        events: mpsc::Receiver<Event>,
        out: mpsc::Sender<NodeEvent>,
    ) -> Self {
        Self {
            shared,
            swarm: Swarm::new(Config::new(seed)),
            started: Instant::now(),
            events,
            out,
            peers: BTreeMap::new(),
            by_name: BTreeMap::new(),
            transfers: BTreeMap::new(),
            next_peer: 0,
            next_transfer: 0,
            links: JoinSet::new(),
            fetches: JoinSet::new(),
            fetching: HashMap::new(),
            pushes: JoinSet::new(),
            grows: JoinSet::new(),
            syncs: JoinSet::new(),
            makes: JoinSet::new(),
            dials: JoinSet::new(),
            dialling: BTreeMap::new(),
            guests: Guests::default(),
        }
    }

    /// Runs until `cancel`, then closes every link in order.
    pub(crate) async fn run(mut self, cancel: CancellationToken) {
        let mut looks = tokio::time::interval(LOOK_PERIOD);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.drain().await;
            let now = self.now();
            let wake = self.swarm.poll_timeout().map(|at| at.saturating_sub(now));
            let forgiven = self.shared.shunned.next_end();
            let forgiven = forgiven.map(|at| at.saturating_duration_since(Instant::now()));
            tokio::select! {
                biased;
                () = cancel.cancelled() => break,
                Some(event) = self.events.recv() => self.handle(event).await,
                Some(ended) = self.fetches.join_next() => {
                    // An aborted fetch has nothing to say.
                    if let Ok((peer, transfer, index, result)) = ended {
                        self.fetched(peer, transfer, index, result);
                    }
                }
                Some(ended) = self.pushes.join_next() => {
                    let (peer, transfer, index, served) = ended.expect("what may panic is contained");
                    self.push_ended(peer, transfer, index, served).await;
                }
                Some(grown) = self.grows.join_next() => {
                    let (transfer, growth) = grown.expect("growing does not panic");
                    self.grown(transfer, growth).await;
                }
                Some(synced) = self.syncs.join_next() => {
                    let (transfer, result) = synced.expect("syncing does not panic");
                    self.synced(transfer, result).await;
                }
                Some(made) = self.makes.join_next() => {
                    let (delta, made) = made.expect("making does not panic");
                    self.delta_made(delta, made);
                }
                Some(ended) = self.links.join_next() => {
                    let (peer, error) = ended.expect("what may panic is contained");
                    if let Some((code, what)) = error.fault() {
                        self.found_out(peer, code, what).await;
                    }
                    self.unlinked(peer, &error);
                }
                Some(dialled) = self.dials.join_next() => {
                    if let Ok((name, link)) = dialled {
                        self.dialling.remove(&name);
                        self.linked(link, true).await;
                    }
                }
                () = sleep(forgiven) => self.forgive(),
                () = sleep(wake) => self.input(Input::Timeout),
                _ = looks.tick(), if self.awaits_deltas() => self.look_at_deltas(),
            }
        }
        for peer in self.peers.values() {
            peer.link.close(close::DONE, "going down");
        }
    }

    /// The engine's time.
    pub(super) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    pub(super) fn input(&mut self, input: Input) {
        self.swarm.handle_input(self.now(), input);
    }

    async fn drain(&mut self) {
        while let Some(output) = self.swarm.poll_output() {
            match output {
                Output::Request {
                    peer,
                    transfer,
                    index,
                } => self.request(peer, transfer, index),
                Output::Cancel {
                    peer,
                    transfer,
                    index,
                } => {
                    if let Some(fetch) = self.fetching.remove(&(peer, transfer, index)) {
                        fetch.abort();
                    }
                }
                Output::Announce {
                    peer,
                    transfer,
                    mut indexes,
                } => {
                    indexes.sort_unstable();
                    let handle = self.peers.get(&peer).and_then(|p| p.theirs.get(&transfer));
                    if let Some(handle) = handle.copied() {
                        let chunks = ChunkSet::from_sorted(&indexes);
                        self.say(peer, PeerMessage::Have { handle, chunks });
                    }
                }
                Output::Follow {
                    peer,
                    transfer,
                    lanes,
                    held,
                } => self.follow(peer, transfer, lanes, &held),
                Output::Push {
                    peer,
                    transfer,
                    index,
                } => self.push(peer, transfer, index),
                Output::Complete { transfer } => self.all_known_held(transfer),
                Output::Drop { peer, reason } => self.dropped(peer, reason).await,
            }
        }
    }

    async fn handle(&mut self, event: Event) {
        match event {
            Event::Linked { link, dialled } => self.linked(link, dialled).await,
            Event::Shown { peer, membership } => self.shown(peer, membership),
            Event::Message { peer, message } => self.message(peer, message).await,
            Event::FoundOut { peer, code, what } => self.found_out(peer, code, what).await,
            Event::Served {
                peer,
                transfer,
                index,
            } => {
                self.input(Input::Served {
                    peer,
                    transfer,
                    index,
                });
            }
            Event::Pushed {
                peer,
                transfer,
                index,
                result,
            } => self.fetched(peer, transfer, index, result),
            Event::Lost { transfer } => self.reattach(transfer),
            Event::Attach { job, done } => {
                self.attach(&job);
                let _ = done.send(());
            }
            Event::Detach { release } => self.detach(release),
            Event::Status { release, reply } => {
                let _ = reply.send(self.status(release));
            }
            Event::Lease { release, host } => {
                if let Some(id) = self.find(release) {
                    let active = self.transfers.get_mut(&id).expect("it was just found");
                    if active.transfer.plan.reaches(&self.shared.name, &host) {
                        active.edges.lease(&host);
                        self.edges_changed(id, &host);
                    }
                }
            }
            Event::Admit { release, host } => self.admit(release, host),
            Event::Find { name, reply } => {
                let peer = self.by_name.get(&name).map(|peer| &self.peers[peer]);
                let _ = reply.send(peer.map(|peer| peer.link.clone()));
            }
            Event::PeerTrusts { peer, mark } => self.peer_trusts(peer, mark),
            Event::TrustChanged => self.trust_changed().await,
        }
    }

    // Transfers.

    pub(super) fn find(&self, release: ReleaseId) -> Option<TransferId> {
        let found = self
            .transfers
            .iter()
            .find(|(_, active)| active.transfer.release == release);
        found.map(|(id, _)| *id)
    }

    /// What must be here for a release to be: its tree, and what it asks of hosts.
    pub(super) fn parts_of(
        &self,
        release: ReleaseId,
    ) -> impl Iterator<Item = (TransferId, &Active)> {
        let all = self.transfers.iter().map(|(id, active)| (*id, active));
        all.filter(move |(_, it)| it.release() == release && !it.is_delta())
    }

    pub(super) fn learn(&mut self, id: TransferId, growth: Growth) {
        let Some(active) = self.transfers.get_mut(&id) else {
            return;
        };
        active.is_all_known |= growth.is_complete;
        active.bytes.reuse += growth.held_bytes;
        active.held += u32::try_from(growth.held.len()).expect("fewer than chunks of a snapshot");
        self.input(Input::TransferGrown {
            transfer: id,
            plain_lengths: growth.plain_lengths,
            is_all: growth.is_complete,
        });
        self.input(Input::TransferHolds {
            transfer: id,
            indexes: growth.held,
        });
    }

    /// Every known chunk is held: there is more to learn, or it is done.
    fn all_known_held(&mut self, id: TransferId) {
        let Some(active) = self.transfers.get_mut(&id) else {
            return;
        };
        if !active.is_all_known {
            self.start_growing(id);
        } else if !active.is_done {
            active.is_done = true;
            if active.is_delta() {
                return self.delta_came(id);
            }
            let store = self.shared.store.clone();
            self.syncs.spawn(async move {
                let sync = tokio::task::spawn_blocking(move || store.sync());
                (id, sync.await.expect("syncing does not panic"))
            });
        }
    }

    fn start_growing(&mut self, id: TransferId) {
        let Some(active) = self.transfers.get_mut(&id) else {
            return;
        };
        if active.growing != Growing::No {
            active.growing = Growing::AndAgain;
            return;
        }
        active.growing = Growing::Yes;
        let (transfer, store) = (active.transfer.clone(), self.shared.store.clone());
        self.grows.spawn(async move {
            let grow = tokio::task::spawn_blocking(move || transfer.grow(&store));
            (id, grow.await.expect("growing does not panic"))
        });
    }

    async fn grown(&mut self, id: TransferId, growth: Result<Option<Growth>, GrowError>) {
        let Some(active) = self.transfers.get_mut(&id) else {
            return;
        };
        let looks_again = active.growing == Growing::AndAgain;
        active.growing = Growing::No;
        match growth {
            Ok(Some(growth)) => {
                let is_complete = growth.is_complete;
                let is_empty = growth.plain_lengths.is_empty();
                self.learn(id, growth);
                if is_empty {
                    // The engine heard of nothing new: an empty tree is its descriptor alone.
                    self.all_known_held(id);
                } else if !is_complete {
                    // The pages of the list may all be here already.
                    self.start_growing(id);
                }
            }
            Ok(None) if looks_again => self.start_growing(id),
            Ok(None) => {}
            Err(GrowError::Lost) => self.reattach(id),
            Err(error) => {
                let reason = error.code().because(crate::error_chain(&error));
                self.fail(id, reason).await;
            }
        }
    }

    async fn synced(&mut self, id: TransferId, result: Result<(), crate::store::StoreError>) {
        if let Err(error) = result {
            let reason = error.code().because(crate::error_chain(&error));
            return self.fail(id, reason).await;
        }
        let Some(active) = self.transfers.get_mut(&id) else {
            return;
        };
        active.fetched_in = Some(active.started.elapsed());
        let release = active.release();
        let mut parts = self.parts_of(release);
        if parts.all(|(_, part)| part.fetched_in.is_some()) {
            let _ = self.out.send(NodeEvent::Fetched { release }).await;
        }
    }

    async fn fail(&mut self, id: TransferId, reason: Because) {
        let Some(active) = self.transfers.get(&id) else {
            return;
        };
        let release = active.release();
        let _ = self.out.send(NodeEvent::Failed { release, reason }).await;
        self.detach(release);
    }

    /// What a node is to us in a transfer changed.
    pub(super) fn edges_changed(&mut self, id: TransferId, node: &NodeId) {
        for peer in self.links_to(node) {
            self.introduce(peer);
            self.open(peer, id);
        }
        self.dial_missing();
    }

    // Requests.

    fn request(&mut self, peer: PeerId, transfer: TransferId, index: u32) {
        let (Some(known), Some(active)) = (self.peers.get(&peer), self.transfers.get(&transfer))
        else {
            return;
        };
        let (Some(handle), Some(chunk)) = (
            known.ours.get(&transfer).copied(),
            active.transfer.chunk(index),
        ) else {
            return;
        };
        let (link, shared) = (known.link.clone(), self.shared.clone());
        let request = ChunkRequest { handle, index };
        let fetch = self.fetches.spawn(async move {
            let name = link.peer().name.clone();
            let fetching = async move { fetch::fetch(&link, request, chunk, shared).await };
            let fetched = contained("a fetch", name, fetching).await;
            let fetched = fetched.unwrap_or(Err(FetchError::Panicked));
            (peer, transfer, index, fetched)
        });
        self.fetching.insert((peer, transfer, index), fetch);
    }

    fn fetched(
        &mut self,
        peer: PeerId,
        transfer: TransferId,
        index: u32,
        result: Result<u64, FetchError>,
    ) {
        self.fetching.remove(&(peer, transfer, index));
        let Some(active) = self.transfers.get_mut(&transfer) else {
            return;
        };
        let Some(known) = self.peers.get(&peer) else {
            // It was stored, and its peer is gone: the engine learns that we hold it.
            if result.is_ok() {
                self.input(Input::TransferHolds {
                    transfer,
                    indexes: vec![index],
                });
            }
            return;
        };
        let is_new = !self.swarm.holds_chunk(transfer, index);
        match result {
            Ok(encoded_bytes) => {
                let plain = active
                    .transfer
                    .chunk(index)
                    .map_or(0, |chunk| chunk.plain_length);
                let source = match known.link.peer().role {
                    Role::Coordinator => &mut active.bytes.seed,
                    Role::Agent => &mut active.bytes.peers,
                };
                if is_new {
                    *source += u64::from(plain);
                }
                active.held += u32::from(is_new);
                let grows = active.transfer.leads_to_growth(index);
                self.input(Input::Received {
                    peer,
                    transfer,
                    index,
                    encoded_bytes,
                });
                if grows {
                    self.start_growing(transfer);
                }
            }
            Err(error) => {
                let failure = error.failure();
                let name = &known.link.peer().name;
                let error = crate::error_chain(&error);
                match failure {
                    Failure::WrongBytes | Failure::Local => {
                        tracing::warn!(peer = %name, index, error, "a chunk was not fetched");
                    }
                    _ => tracing::debug!(peer = %name, index, error, "a chunk was not fetched"),
                }
                self.input(Input::Failed {
                    peer,
                    transfer,
                    index,
                    failure,
                });
            }
        }
    }

    // Peers.

    async fn linked(&mut self, link: Link, dialled: bool) {
        if self.turned_away(&link, dialled).await {
            return;
        }
        // It was let in a moment ago, by what was believed then.
        if close_if_cut_off(&link, &self.shared.trust).is_some() {
            return;
        }
        let peer = PeerId(self.next_peer);
        self.next_peer += 1;
        let name = link.peer().name.clone();
        let role = link.peer().role;
        let links_max = match role {
            Role::Coordinator => COORDINATOR_LINKS_MAX,
            _ => 1,
        };
        let before = self.links_to(&name);
        for old in before
            .iter()
            .take((before.len() + 1).saturating_sub(links_max))
        {
            self.peers[old].link.close(close::REPLACED, "a new link");
            self.forget(*old);
        }
        self.by_name.insert(name.clone(), peer);
        if let Some(dial) = self.dialling.remove(&name) {
            dial.abort();
        }
        let (outbox, inbox) = mpsc::channel(OUTBOX_MAX);
        let handles = Arc::new(Handles::new());
        let session = session::run(
            self.shared.clone(),
            link.clone(),
            peer,
            dialled,
            handles.clone(),
            inbox,
        );
        let session = contained("a link", name.clone(), session);
        self.links
            .spawn(async move { (peer, session.await.unwrap_or(SessionError::Panicked)) });
        tracing::debug!(peer = %name, %role, dialled, "linked");
        self.peers.insert(
            peer,
            Peer {
                link,
                outbox,
                handles,
                ours: BTreeMap::new(),
                theirs: BTreeMap::new(),
                waiting: BTreeMap::new(),
                denied: BTreeSet::new(),
                membership: None,
                follows: BTreeMap::new(),
                next_handle: 0,
                trust: None,
                is_greeted: false,
            },
        );
        self.introduce(peer);
        for transfer in self.transfers.keys().copied().collect::<Vec<_>>() {
            self.open(peer, transfer);
            self.serve_lanes(peer, transfer);
        }
    }

    /// Tells the engine of a peer, and what it is to us by the plans of now.
    pub(super) fn introduce(&mut self, peer: PeerId) {
        let name = &self.peers[&peer].link.peer().name;
        let links = self.transfers.values();
        let links = links.filter_map(|it| it.edges.link(name));
        // In one plan it may be what it is not in another: then the nearer counts.
        let link = links.min().unwrap_or(PeerLink::Neighbour);
        let us = &self.shared.name;
        let mut plans = self.transfers.values().map(|it| &it.transfer.plan);
        let is_border = plans.any(|plan| plan.are_apart(us, name));
        self.peers[&peer].link.set_border(is_border);
        self.greet(peer, link);
    }

    pub(super) async fn say_event(&self, event: NodeEvent) {
        let _ = self.out.send(event).await;
    }

    pub(super) fn unlinked(&mut self, peer: PeerId, error: &SessionError) {
        let Some(known) = self.peers.get(&peer) else {
            return;
        };
        let name = known.link.peer().name.clone();
        known.link.close(error.close_code(), "the session ended");
        tracing::debug!(peer = %name, error = crate::error_chain(error), "unlinked");
        self.forget(peer);
        match self.links_to(&name).last() {
            Some(other) => self.by_name.insert(name, *other),
            None => self.by_name.remove(&name),
        };
        self.dial_missing();
    }

    /// The links to a node, the latest last.
    pub(super) fn links_to(&self, name: &NodeId) -> Vec<PeerId> {
        if !self.by_name.contains_key(name) {
            return Vec::new();
        }
        let links = self.peers.iter();
        let links = links.filter(|(_, peer)| peer.link.peer().name == *name);
        links.map(|(id, _)| *id).collect()
    }

    fn forget(&mut self, peer: PeerId) {
        self.peers.remove(&peer);
        for active in self.transfers.values_mut() {
            active.closed.remove(&peer);
        }
        self.fetching.retain(|(of, _, _), fetch| {
            if *of == peer {
                fetch.abort();
            }
            *of != peer
        });
        self.input(Input::PeerDisconnected { peer });
    }

    /// Opens a transfer with a peer that may have chunks of it for us.
    pub(super) fn open(&mut self, peer: PeerId, transfer: TransferId) {
        let (Some(known), Some(active)) =
            (self.peers.get_mut(&peer), self.transfers.get(&transfer))
        else {
            return;
        };
        let name = &known.link.peer().name;
        let is_source = active.edges.opens_with(name);
        let is_shunned = self.shared.shunned.contains(name, Instant::now());
        if known.ours.contains_key(&transfer) || !is_source || is_shunned {
            return;
        }
        let handle = known.next_handle;
        known.next_handle += 1;
        known.ours.insert(transfer, handle);
        let release = active.transfer.release;
        let lanes = active.edges.lanes_from(name);
        self.say(peer, PeerMessage::Open { handle, release });
        if lanes != 0 {
            self.input(Input::LanesFrom {
                peer,
                transfer,
                lanes,
            });
        }
    }

    pub(super) fn say(&mut self, peer: PeerId, message: PeerMessage) {
        let Some(known) = self.peers.get(&peer) else {
            return;
        };
        if known.outbox.try_send(message).is_err() {
            // Full: it does not read. Closed: its session is over, and its end is on its way to us.
            known.link.close(close::SLOW, "messages are not read");
        }
    }

    // Dialling.

    pub(super) fn wanted_dials(&self) -> BTreeMap<NodeId, Vec<SocketAddr>> {
        let now = Instant::now();
        let mut wanted = BTreeMap::new();
        for active in self.transfers.values() {
            let names = active.edges.dial.iter();
            for name in names.filter(|name| !self.shared.shunned.contains(name, now)) {
                if let Some(host) = active.transfer.plan.host(name) {
                    wanted.insert(name.clone(), host.addresses.clone());
                }
            }
        }
        wanted
    }

    /// Dials every peer that the plans want dialled and that there is no link to.
    pub(super) fn dial_missing(&mut self) {
        for (name, addresses) in self.wanted_dials() {
            if self.by_name.contains_key(&name) || self.dialling.contains_key(&name) {
                continue;
            }
            let (shared, to) = (self.shared.clone(), name.clone());
            let dial = self.dials.spawn(async move {
                let link = shared.dial_until_linked(&to, &addresses).await;
                (to, link)
            });
            self.dialling.insert(name, dial);
        }
    }
}

async fn sleep(wait: Option<Duration>) {
    match wait {
        Some(wait) => tokio::time::sleep(wait).await,
        None => std::future::pending().await,
    }
}
