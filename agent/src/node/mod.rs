//! A node: identity, chunk store, swarm and peer server. An agent is a node that activates; the
//! coordinator's seed is a node that starts out complete.
//!
//! ```text
//! accept ─┐                       ┌─ fetch task a request ── store
//! dial ───┼─ session task a link ─┤
//!         │   (serves requests)   └─ events ─▶ driver ── Swarm (decides)
//! ```

mod ask;
mod asks;
mod attach;
pub(crate) mod budget;
pub(crate) mod contain;
mod delta;
mod denials;
mod driver;
mod edges;
mod event;
mod fetch;
mod guests;
mod handles;
mod keep;
mod lanes;
mod messages;
mod readers;
mod recent;
mod redial;
mod request;
mod serve;
mod session;
mod showing;
mod shunned;
mod sightings;
mod status;
mod transfer;
mod trusting;
mod waiting;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use scap_proto::{
    id::{NodeId, ReleaseId},
    identity::{Identity, PeerIdentity, Trust, verifier::Expect},
    reason::{Because, Reason},
    release::{BytesBySource, Sighting, SignedMembership},
    transport::{BindError, DialError, Endpoint, Link, LinkSettings, RateCaps, Traffic},
    wire::close,
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use self::{
    asks::Asks, denials::Denials, driver::Driver, event::Event, recent::Recent, serve::Uploads,
    shunned::Shunned, sightings::Sightings,
};
use crate::{clock, store::Store};

pub use self::{
    ask::{AskError, Question},
    denials::Denial,
    event::{Job, Sources},
    keep::collect,
    readers::Readers,
    request::{ConfigAsked, RenewalAsked, Requested},
    session::ControlStream,
    showing::OwnMembership,
    shunned::Shun,
};

/// Most events that wait for the driver; tasks wait when it is full, and so do their peers.
const EVENTS_MAX: usize = 1024;

/// Most links whose handshake is in progress: what a restart of a big fleet brings at once.
const HANDSHAKES_MAX: usize = 64;

/// Most links on which something is asked at a time. One question is answered at a time, and people ask.
const QUESTIONS_MAX: usize = 8;

/// A running node. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Node {
    shared: Arc<Shared>,
    address: SocketAddr,
}

/// What a node does not say by itself: keep it, and [`Tasks::shutdown`] it.
#[derive(Debug)]
pub struct Tasks {
    events: mpsc::Receiver<NodeEvent>,
    cancel: CancellationToken,
    running: JoinSet<()>,
    endpoint: Endpoint,
}

/// Why a node cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address cannot be bound.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The system does not say where it was bound.
    #[error("ask where the socket is bound")]
    Address(#[source] std::io::Error),
}

/// What another node opened that the node does not see to by itself.
#[derive(Debug)]
pub enum Incoming {
    /// Orders down, reports up.
    Control(ControlStream),
    /// Which releases are stable?
    Question(Question),
    /// What would config files change?
    Config(ConfigAsked),
    /// Our next certificate.
    Renewal(RenewalAsked),
}

/// What happened on a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeEvent {
    /// All chunks of a release are here, verified and synced.
    Fetched {
        /// Which.
        release: ReleaseId,
    },
    /// A release cannot be fetched: its snapshot is not one, or our disk fails. It is not fetched any more.
    Failed {
        /// Which.
        release: ReleaseId,
        /// Why, as a chain of causes.
        reason: Because,
    },
    /// A peer did what it should not, and is asked no more on its link at least. [`Node::shunned`] says who is so on any.
    PeerDropped {
        /// Which.
        peer: NodeId,
        /// Why.
        reason: Because,
    },
    /// Another fleet trust counts from now on.
    TrustChanged,
}

/// How far a release is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransferStatus {
    /// Chunks that are here.
    pub chunks_held: u32,
    /// Chunks that there are, once that is known.
    pub chunks_total: Option<u32>,
    /// Where their bytes came from.
    pub bytes: BytesBySource,
    /// How long it took, once it is here.
    pub fetched_in: Option<Duration>,
    /// Links that there are.
    pub peers: u32,
    /// What it waits for.
    pub waiting: Option<Because>,
    /// Whether so little comes that the seed is to feed it.
    pub wants_seed: bool,
}

impl TransferStatus {
    /// Chunks that are here, that there are (0 until that is known), and what it waits for.
    pub(crate) fn counts(self) -> (u32, u32, Option<Because>) {
        (
            self.chunks_held,
            self.chunks_total.unwrap_or(0),
            self.waiting,
        )
    }
}

/// What all tasks of a node share.
#[derive(Debug)]
pub(crate) struct Shared {
    name: NodeId,
    identity: Arc<Identity>,
    /// What it shows of itself to those that it has links to.
    membership: OwnMembership,
    denials: Mutex<Denials>,
    asks: Mutex<Asks>,
    sightings: Mutex<Sightings>,
    endpoint: Endpoint,
    trust: Trust,
    store: Store,
    recent: Recent,
    uploads: Uploads,
    shunned: Shunned,
    /// Held by who decodes a delta.
    making: Mutex<()>,
    events: mpsc::Sender<Event>,
    /// Told of each chunk that is in the store and was not.
    stored: watch::Sender<()>,
    /// Where control streams and questions go; a node that takes no orders has none.
    control: Option<mpsc::Sender<Incoming>>,
}

impl Node {
    /// Starts a node: listening on `listen`, or only dialling. `caps` limit its traffic from the start.
    ///
    /// # Errors
    /// [`StartError`].
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start(
        identity: Arc<Identity>,
        listen: Option<SocketAddr>,
        store: Store,
        control: Option<mpsc::Sender<Incoming>>,
        caps: RateCaps,
    ) -> Result<(Self, Tasks), StartError> {
        Self::start_showing(
            (identity, OwnMembership::default()),
            listen,
            store,
            control,
            caps,
        )
    }

    /// The same as a node that shows its membership to those that it has links to.
    ///
    /// # Errors
    /// [`StartError`].
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start_showing(
        (identity, membership): (Arc<Identity>, OwnMembership),
        listen: Option<SocketAddr>,
        store: Store,
        control: Option<mpsc::Sender<Incoming>>,
        caps: RateCaps,
    ) -> Result<(Self, Tasks), StartError> {
        let name = identity.own().name.clone();
        let trust = identity.trust().clone();
        let settings = LinkSettings::default();
        let endpoint = match listen {
            Some(address) => Endpoint::listen(identity.clone(), address, &settings)?,
            None => Endpoint::dial_only(identity.clone(), &settings)?,
        };
        endpoint.set_caps(caps);
        let address = endpoint.local_address().map_err(StartError::Address)?;
        let (events, inbox) = mpsc::channel(EVENTS_MAX);
        let (out, node_events) = mpsc::channel(EVENTS_MAX);
        let shared = Arc::new(Shared {
            name,
            identity,
            trust,
            membership,
            denials: Mutex::default(),
            asks: Mutex::default(),
            sightings: Mutex::default(),
            endpoint: endpoint.clone(),
            store,
            recent: Recent::default(),
            uploads: Uploads::new(),
            shunned: Shunned::default(),
            making: Mutex::default(),
            stored: watch::Sender::default(),
            events,
            control,
        });
        let cancel = CancellationToken::new();
        let mut running = JoinSet::new();
        let driver = Driver::new(shared.clone(), rng_seed(), inbox, out);
        running.spawn(driver.run(cancel.clone()));
        if listen.is_some() {
            running.spawn(accept(shared.clone(), cancel.clone()));
        }
        let tasks = Tasks {
            events: node_events,
            cancel,
            running,
            endpoint,
        };
        Ok((Self { shared, address }, tasks))
    }

    /// The address that the node is bound to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Begins to fetch and serve a release; nothing where it does already.
    pub async fn attach(&self, job: Job) {
        let (done, attached) = oneshot::channel();
        self.shared.tell(Event::Attach { job, done }).await;
        let _ = attached.await;
    }

    /// Stops fetching and serving a release. Its chunks stay in the store.
    pub async fn detach(&self, release: ReleaseId) {
        self.shared.tell(Event::Detach { release }).await;
    }

    /// Lets a host open a release that no plan names it for, as long as the release is attached.
    pub async fn admit(&self, release: ReleaseId, host: &NodeId) {
        let host = host.clone();
        self.shared.tell(Event::Admit { release, host }).await;
    }

    /// How far a release is, or `None` where it is not attached or the node is going down.
    pub async fn status(&self, release: ReleaseId) -> Option<TransferStatus> {
        let (reply, status) = oneshot::channel();
        self.shared.tell(Event::Status { release, reply }).await;
        status.await.ok().flatten()
    }

    /// Dials an agent and keeps the link, for its session and whatever else the caller opens on it.
    ///
    /// # Errors
    /// [`DialError`].
    pub async fn dial(&self, name: &NodeId, addresses: &[SocketAddr]) -> Result<Link, DialError> {
        let link = self.shared.dial(name, addresses).await?;
        self.shared
            .tell(Event::Linked {
                link: link.clone(),
                dialled: true,
            })
            .await;
        Ok(link)
    }

    /// As a seed or a relay, feeds a host of a release from now on, though its plan does not say so; not one that it cannot
    /// reach by the plan.
    pub async fn lease(&self, release: ReleaseId, host: &NodeId) {
        let host = host.clone();
        self.shared.tell(Event::Lease { release, host }).await;
    }

    /// The link to a node, where there is one.
    pub async fn link(&self, name: &NodeId) -> Option<Link> {
        let (reply, link) = oneshot::channel();
        let name = name.clone();
        self.shared.tell(Event::Find { name, reply }).await;
        link.await.ok().flatten()
    }

    /// Limits its traffic from now on, and returns what did before.
    pub fn set_caps(&self, caps: RateCaps) -> RateCaps {
        self.shared.endpoint.set_caps(caps)
    }

    /// What has passed its socket so far.
    pub fn traffic(&self) -> Traffic {
        self.shared.endpoint.traffic()
    }

    /// Encoded bytes of chunks sent to peers since the start.
    pub fn sent_bytes(&self) -> u64 {
        self.shared.uploads.sent_bytes()
    }

    /// Hears whenever chunks are in the store that were not.
    pub(crate) fn stored(&self) -> watch::Receiver<()> {
        self.shared.stored.subscribe()
    }

    /// The peers that it has no dealings with for now, by name.
    pub fn shunned(&self) -> Vec<Shun> {
        self.shared.shunned.list(Instant::now())
    }

    /// How many first packets of handshakes were dropped unread since the start: somebody floods it.
    pub fn first_packets_dropped(&self) -> u64 {
        self.shared.endpoint.first_packets_dropped()
    }

    /// What it shows of itself.
    pub fn membership(&self) -> Option<SignedMembership> {
        self.shared.membership.get()
    }

    /// Notes that a peer asked for what it may not have.
    pub fn deny(&self, peer: &NodeId, reason: Reason) {
        self.shared.denials().note(peer, reason);
    }

    /// Notes that a peer, or nobody knows who, did what nobody honest does.
    pub fn saw(&self, code: Reason, peer: Option<&NodeId>) {
        self.shared.sightings().note(code, peer, clock::now());
    }

    /// What was seen in the last day that nobody honest does.
    pub fn sightings(&self) -> Vec<Sighting> {
        self.shared.sightings().told(clock::now())
    }

    /// What peers asked for since the start and may not have.
    pub fn denials(&self) -> Vec<Denial> {
        self.shared.denials().all()
    }

    /// The chunk store.
    pub fn store(&self) -> &Store {
        &self.shared.store
    }
}

impl Tasks {
    /// What happens next; `None` when a part of the node ended though nobody asked it to: a bug, after which the
    /// process should end. Cancel-safe.
    pub async fn next(&mut self) -> Option<NodeEvent> {
        tokio::select! {
            event = self.events.recv() => event,
            _ = self.running.join_next() => None,
        }
    }

    /// Closes all links, and waits until peers were told or `deadline` passed.
    pub async fn shutdown(mut self, deadline: Duration) {
        self.cancel.cancel();
        let end = async {
            while self.running.join_next().await.is_some() {}
            self.endpoint.wait_idle().await;
        };
        let _ = tokio::time::timeout(deadline, end).await;
    }
}

impl Shared {
    /// Tells the driver; waits while it has too much to do, and drops the event once it is gone.
    async fn tell(&self, event: Event) {
        let _ = self.events.send(event).await;
    }

    /// Takes one ask of a peer, if any is left to it.
    fn may_ask(&self, peer: &NodeId) -> bool {
        let mut asks = self.asks.lock().unwrap_or_else(PoisonError::into_inner);
        asks.take(peer, Instant::now())
    }

    fn sightings(&self) -> MutexGuard<'_, Sightings> {
        self.sightings
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn denials(&self) -> MutexGuard<'_, Denials> {
        // Counters: one that was added half is no worse than none.
        self.denials.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn dial(&self, name: &NodeId, addresses: &[SocketAddr]) -> Result<Link, DialError> {
        self.endpoint
            .dial(addresses, &Expect::agent(name.clone()))
            .await
    }
}

/// A seed for the engine's random choices, other on each node and at each start.
fn rng_seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};

    RandomState::new().hash_one(std::process::id())
}

/// Accepts links until `cancel`.
async fn accept(shared: Arc<Shared>, cancel: CancellationToken) {
    let mut handshakes: JoinSet<Option<Link>> = JoinSet::new();
    let mut questions = JoinSet::new();
    loop {
        let incoming = tokio::select! {
            () = cancel.cancelled() => return,
            Some(done) = handshakes.join_next(), if !handshakes.is_empty() => {
                match done.ok().flatten() {
                    Some(link) if questions.len() < QUESTIONS_MAX && link.is_renewal() => {
                        questions.spawn(request::renewal(link, shared.clone()));
                    }
                    Some(link) if questions.len() < QUESTIONS_MAX => {
                        questions.spawn(request::config_question(link, shared.clone()));
                    }
                    Some(link) => link.close(close::BUSY, "too much is asked"),
                    None => {}
                }
                continue;
            }
            Some(_) = questions.join_next(), if !questions.is_empty() => continue,
            incoming = shared.endpoint.accept(), if handshakes.len() < HANDSHAKES_MAX => incoming,
        };
        let Some(incoming) = incoming else { return };
        let shared = shared.clone();
        handshakes.spawn(async move {
            let from = incoming.remote_address();
            match incoming.finish(Expect::ANY).await {
                Ok(link) => {
                    let PeerIdentity { role, name, .. } = link.peer();
                    tracing::debug!(%from, %role, %name, "accepted");
                    if link.is_question() || link.is_renewal() {
                        return Some(link);
                    }
                    shared
                        .tell(Event::Linked {
                            link,
                            dialled: false,
                        })
                        .await;
                }
                Err(error) if error.source.refusal_kind().is_some() => {
                    tracing::warn!(%from, error = crate::error_chain(&error), "link refused");
                }
                // Nobody was refused: the peer gave its dial up, as it does when it no longer needs us, or went away.
                Err(error) => {
                    tracing::info!(%from, error = crate::error_chain(&error), "link not made");
                }
            }
            None
        });
    }
}
