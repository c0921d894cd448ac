//! A peer with a valid identity that misbehaves.
//!
//! It is a node of the fleet as far as TLS can tell, says that it has every chunk of whatever is opened with
//! it, takes its share of what the seed allots and never fetches it, answers requests for content as its
//! [`Conduct`] says, after it has won trust with the snapshot's own pages, dials again whoever closes the link on
//! it, and neither follows orders nor reports.

mod assault;
mod conduct;
pub mod datagrams;
mod original;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quinn::SendStream;
use scap_proto::frame::{self, FrameError};
use scap_proto::id::{NodeId, ReleaseId};
use scap_proto::identity::{Identity, verifier::Expect};
use scap_proto::limits::SNAPSHOT_CHUNKS_MAX;
use scap_proto::transport::{Endpoint, Link, LinkSettings, RecvStream};
use scap_proto::wire::{
    Envelope, Hello, Open,
    chunk::ReplyHeader,
    control::{ControlMessage, Finalize},
    peer::{ChunkSet, PeerMessage},
};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

pub use assault::Assault;
pub use conduct::Conduct;
pub use original::Original;

/// A running evil peer; dropping it ends it.
pub struct EvilPeer {
    evil: Arc<Evil>,
    address: SocketAddr,
    /// Ends every task when dropped.
    runtime: Runtime,
}

struct Evil {
    endpoint: Endpoint,
    conduct: Conduct,
    original: Original,
    seen: Mutex<Seen>,
    /// What it calls stable.
    stable: Mutex<Vec<Finalize>>,
}

/// What it has seen of others.
#[derive(Default)]
struct Seen {
    linked: BTreeSet<NodeId>,
    misled: BTreeMap<NodeId, usize>,
    /// Which sessions were told that it has everything, by the handles of those who asked.
    promised: Vec<(mpsc::UnboundedSender<PeerMessage>, u32, ReleaseId)>,
}

impl EvilPeer {
    /// Starts it at an address of this machine, or of the station [inside](crate::fleet::Station::inside) which this
    /// is called; port 0 is any.
    ///
    /// # Panics
    /// When it cannot listen.
    #[must_use]
    pub fn start(
        identity: Identity,
        listen: SocketAddr,
        original: Original,
        conduct: Conduct,
    ) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a thread can be started");
        let endpoint = {
            let _inside = runtime.enter();
            Endpoint::listen(Arc::new(identity), listen, &LinkSettings::default())
                .unwrap_or_else(|error| panic!("{error}"))
        };
        let address = endpoint.local_address().expect("it is bound");
        let evil = Arc::new(Evil {
            endpoint,
            conduct,
            original,
            seen: Mutex::default(),
            stable: Mutex::default(),
        });
        runtime.spawn(evil.clone().accept());
        Self {
            evil,
            address,
            runtime,
        }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Dials an agent, now and each time that their link ends.
    pub fn pursue(&self, name: NodeId, address: SocketAddr) {
        let evil = self.evil.clone();
        self.runtime.spawn(async move {
            loop {
                if let Ok(link) = evil
                    .endpoint
                    .dial(&[address], &Expect::agent(name.clone()))
                    .await
                {
                    evil.clone().serve(link, true).await;
                }
                tokio::time::sleep(REDIAL_PAUSE).await;
            }
        });
    }

    /// Does that to a node, now and each time that their link ends. What is returned counts what it got through.
    ///
    /// # Panics
    /// Where the node is not reached at first.
    pub fn assault(
        &self,
        how: Assault,
        name: NodeId,
        address: SocketAddr,
        release: ReleaseId,
    ) -> Arc<AtomicU64> {
        let evil = self.evil.clone();
        let done = Arc::<AtomicU64>::default();
        let counted = done.clone();
        self.runtime.spawn(async move {
            loop {
                let expect = Expect::agent(name.clone());
                if let Ok(link) = evil.endpoint.dial(&[address], &expect).await {
                    let _ = assault::assault(how, link, release, counted.clone()).await;
                }
                tokio::time::sleep(assault::AGAIN).await;
            }
        });
        done
    }

    /// Makes a link with a node, ends it, and so on as fast as it can.
    pub fn pursue_in_vain(&self, name: NodeId, address: SocketAddr) {
        let evil = self.evil.clone();
        self.runtime.spawn(async move {
            loop {
                let expect = Expect::agent(name.clone());
                if let Ok(link) = evil.endpoint.dial(&[address], &expect).await {
                    link.close(0, "");
                }
            }
        });
    }

    /// Says something on a control stream of its own to an agent, as if it were above it. The stream ends with this peer.
    ///
    /// # Panics
    /// When the agent is not reached.
    pub fn command(&self, name: NodeId, address: SocketAddr, messages: Vec<ControlMessage>) {
        let evil = self.evil.clone();
        let saying = async move {
            let expect = Expect::agent(name);
            let link = evil.endpoint.dial(&[address], &expect).await;
            let link = link.unwrap_or_else(|error| panic!("{error}"));
            let (mut send, receive) = link.open_bi().await.expect("a link just made");
            let open = Envelope::from(Open::Control(Hello::ours()));
            let opened = frame::write_message(&mut send, &open).await;
            opened.expect("a stream just opened");
            for message in messages {
                let said = frame::write_message(&mut send, &Envelope::from(message)).await;
                said.expect("it is read");
            }
            (link, send, receive)
        };
        let held = self.runtime.block_on(saying);
        self.runtime.spawn(async move {
            let _held = held;
            std::future::pending::<()>().await;
        });
    }

    /// Opens a control stream to an agent, as a coordinator or a relay would, and says nothing on it from then on. It
    /// ends with this peer.
    ///
    /// # Panics
    /// When the agent is not reached.
    pub fn hold_control(&self, name: NodeId, address: SocketAddr) {
        let evil = self.evil.clone();
        let opening = async move {
            let expect = Expect::agent(name);
            let link = evil.endpoint.dial(&[address], &expect).await;
            let link = link.unwrap_or_else(|error| panic!("{error}"));
            let (mut send, receive) = link.open_bi().await.expect("a link just made");
            let open = Envelope::from(Open::Control(Hello::ours()));
            let opened = frame::write_message(&mut send, &open).await;
            opened.expect("a stream just opened");
            (link, send, receive)
        };
        let held = self.runtime.block_on(opening);
        self.runtime.spawn(async move {
            let _held = held;
            std::future::pending::<()>().await;
        });
    }

    /// Calls these stable from now on, to everybody who asks.
    pub fn call_stable(&self, stable: Vec<Finalize>) {
        *self
            .evil
            .stable
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = stable;
    }

    /// Who has a link to it now.
    #[must_use]
    pub fn linked(&self) -> BTreeSet<NodeId> {
        self.evil.seen().linked.clone()
    }

    /// How many requests of a node it has answered as its conduct says.
    #[must_use]
    pub fn misled(&self, name: &NodeId) -> usize {
        self.evil.seen().misled.get(name).copied().unwrap_or(0)
    }
}

impl Evil {
    async fn accept(self: Arc<Self>) {
        let mut links = JoinSet::new();
        while let Some(incoming) = self.endpoint.accept().await {
            let evil = self.clone();
            links.spawn(async move {
                if let Ok(link) = incoming.finish(Expect::ANY).await {
                    evil.serve(link, false).await;
                }
            });
        }
    }

    /// Serves a link, in its way, until the link ends.
    async fn serve(self: Arc<Self>, link: Link, dialled: bool) {
        let name = link.peer().name.clone();
        self.seen().linked.insert(name.clone());
        // Dropped with this future, and with it every task of the link.
        let mut tasks = JoinSet::new();
        if dialled && let Ok((mut send, receive)) = link.open_bi().await {
            let evil = self.clone();
            tasks.spawn(async move {
                let open = Envelope::from(Open::Session(Hello::ours()));
                if frame::write_message(&mut send, &open).await.is_ok() {
                    let _ = evil.session(send, receive, true).await;
                }
            });
        }
        while let Ok((send, receive)) = link.accept_bi().await {
            tasks.spawn(self.clone().stream(name.clone(), send, receive));
        }
        self.seen().linked.remove(&name);
    }

    async fn stream(self: Arc<Self>, from: NodeId, mut send: SendStream, mut receive: RecvStream) {
        let Ok(Some(open)) = frame::read_message::<_, Envelope<Open>>(&mut receive).await else {
            return;
        };
        match open.message {
            Open::Session(_) => {
                let hello = Envelope::from(Hello::ours());
                if frame::write_message(&mut send, &hello).await.is_ok() {
                    let _ = self.session(send, receive, false).await;
                }
            }
            Open::Chunk(request) => {
                let Some(chunk) = self.original.get(request.index) else {
                    return;
                };
                let is_trap = request.index >= self.original.page_count();
                if is_trap && self.conduct == Conduct::BreaksPromises {
                    *self.seen().misled.entry(from.clone()).or_default() += 1;
                    let _ = send.write_all(&ReplyHeader::NotHeld.encode()).await;
                    let _ = send.finish();
                    self.promise_again();
                    return;
                }
                // Where it fails, whoever asked has had enough of it.
                let _ = if is_trap || self.conduct == Conduct::NeverAnswers {
                    *self.seen().misled.entry(from).or_default() += 1;
                    self.conduct.answer(chunk, &self.original, &mut send).await
                } else {
                    conduct::reply(&mut send, chunk.bytes()).await
                };
            }
            Open::Stable(_) => {
                for finalize in self.called_stable() {
                    let _ = frame::write_message(&mut send, &Envelope::from(finalize)).await;
                }
                let _ = send.finish();
            }
            // It is not even told that somebody listens.
            Open::Control(_) | Open::Config(_) => std::future::pending().await,
        }
    }

    /// Claims everything, and wants everything.
    async fn session(
        &self,
        mut send: SendStream,
        mut receive: RecvStream,
        dialled: bool,
    ) -> Result<(), FrameError> {
        if dialled {
            frame::read_message::<_, Envelope<Hello>>(&mut receive).await?;
        }
        let (out, mut messages) = mpsc::unbounded_channel();
        let read = async {
            let mut opened = BTreeSet::new();
            while let Some(said) =
                frame::read_message::<_, Envelope<PeerMessage>>(&mut receive).await?
            {
                if let PeerMessage::Open { handle, release } = said.message {
                    for message in self.lies(handle, release, opened.insert(release)) {
                        let _ = out.send(message);
                    }
                    let said = (out.clone(), handle, release);
                    self.seen().promised.push(said);
                }
            }
            Ok(())
        };
        let write = async {
            while let Some(message) = messages.recv().await {
                frame::write_message(&mut send, &Envelope::from(message)).await?;
            }
            Ok(())
        };
        tokio::select! {
            ended = read => ended,
            ended = write => ended,
        }
    }

    /// Says to everybody again that it has everything.
    fn promise_again(&self) {
        let promised = self.seen().promised.clone();
        for (out, handle, release) in promised {
            for message in self.lies(handle, release, false) {
                // Some have gone.
                let _ = out.send(message);
            }
        }
    }

    fn lies(&self, handle: u32, release: ReleaseId, is_first: bool) -> Vec<PeerMessage> {
        let all: Vec<u32> = (0..self.original.chunk_count() + CHUNKS_BEYOND).collect();
        let chunks = ChunkSet::from_sorted(&all);
        let beyond = ChunkSet::Indexes(vec![SNAPSHOT_CHUNKS_MAX - 1]);
        let have = [chunks, beyond].map(|chunks| PeerMessage::Have { handle, chunks });
        let open = is_first.then_some(PeerMessage::Open { handle: 0, release });
        have.into_iter().chain(open).collect()
    }

    fn called_stable(&self) -> Vec<Finalize> {
        let stable = self.stable.lock().unwrap_or_else(PoisonError::into_inner);
        stable.clone()
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Pause before it dials again: so short that whoever does not shun it is not left in peace.
const REDIAL_PAUSE: Duration = Duration::from_millis(100);

/// Chunks that it says it has and that do not exist.
const CHUNKS_BEYOND: u32 = 500;
