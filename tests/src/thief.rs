//! A thief: a peer with an identity that was valid once, which holds links open and tells when they are closed on it.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use scap_proto::frame;
use scap_proto::id::NodeId;
use scap_proto::identity::{Identity, SignedFleetTrust, TrustMark, verifier::Expect};
use scap_proto::transport::{Endpoint, Link, LinkSettings, RecvStream, SendStream};
use scap_proto::wire::{Envelope, Hello, Open, peer::PeerMessage};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

/// Dropping it ends it.
pub struct Thief {
    runtime: Runtime,
    endpoint: Endpoint,
    held: Vec<Held>,
}

/// A link, and what tells when and how it ended.
struct Held {
    by: NodeId,
    send: SendStream,
    _receive: RecvStream,
    ended: JoinHandle<(Option<u64>, Instant)>,
}

/// How a link that it held was closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closed {
    /// By whom.
    pub by: NodeId,
    /// The code that it was closed with, where the other side closed it.
    pub code: Option<u64>,
    /// How long after the instant that was asked about.
    pub after: Duration,
}

impl Thief {
    /// Comes with the identity in a folder. It listens, too.
    ///
    /// # Panics
    /// Where the identity is none, or there is no socket.
    #[must_use]
    pub fn with(identity: &Path) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a thread can be started");
        let identity = Identity::load(identity).unwrap_or_else(|error| panic!("{error}"));
        let endpoint = {
            let _inside = runtime.enter();
            let any = "127.0.0.1:0".parse().expect("an address");
            Endpoint::listen(Arc::new(identity), any, &LinkSettings::default())
                .unwrap_or_else(|error| panic!("{error}"))
        };
        let listening = endpoint.clone();
        runtime.spawn(async move {
            // Whoever dials it is let in, if it is by that one.
            while let Some(incoming) = listening.accept().await {
                tokio::spawn(async move {
                    if let Ok(link) = incoming.finish(Expect::ANY).await {
                        link.closed().await;
                    }
                });
            }
        });
        Self {
            runtime,
            endpoint,
            held: Vec::new(),
        }
    }

    /// Where it listens.
    ///
    /// # Panics
    /// Never: it is bound.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.endpoint.local_address().expect("it is bound")
    }

    /// Dials an agent; what became of it, in words, where that does not let it in.
    ///
    /// # Errors
    /// Why it was not let in.
    pub fn dial(&self, name: &NodeId, address: SocketAddr) -> Result<Link, String> {
        let expect = Expect::agent(name.clone());
        let addresses = [address];
        let dial = self.endpoint.dial(&addresses, &expect);
        self.runtime
            .block_on(dial)
            .map_err(|error| error.to_string())
    }

    /// Holds a link with a session to an agent. In that it says to hold to `trust`, or, as an old build, nothing.
    ///
    /// # Panics
    /// Where it is not let in.
    pub fn hold(&mut self, name: &NodeId, address: SocketAddr, trust: Option<TrustMark>) {
        let link = self
            .dial(name, address)
            .unwrap_or_else(|error| panic!("{error}"));
        let open = Envelope::from(Open::Session(Hello::ours()));
        let open = match trust {
            Some(mark) => open.trusting(mark),
            None => open,
        };
        let (send, receive) = self.runtime.block_on(async {
            let (mut send, mut receive) = link.open_bi().await.expect("a link just made");
            let opened = frame::write_message(&mut send, &open).await;
            opened.expect("a stream just opened");
            let hello = frame::read_message::<_, Envelope<Hello>>(&mut receive).await;
            hello.expect("an answer").expect("an answer");
            (send, receive)
        });
        let ended = self.runtime.spawn(async move {
            let error = link.closed().await;
            (error.close_code(), Instant::now())
        });
        self.held.push(Held {
            by: name.clone(),
            send,
            _receive: receive,
            ended,
        });
    }

    /// Hands a fleet trust over on the last link that it holds.
    pub fn hand_over(&mut self, signed: &SignedFleetTrust) {
        let message = Envelope::from(PeerMessage::Trust(Box::new(signed.clone())));
        let Some(Held { send, .. }) = self.held.last_mut() else {
            return;
        };
        // The link may be closed on it meanwhile, which is what it is after.
        let _ = self.runtime.block_on(frame::write_message(send, &message));
    }

    /// Waits until all links that it holds are closed, for at most `limit` from `since` on; how each was.
    ///
    /// # Panics
    /// Where one is open still.
    #[must_use]
    pub fn until_all_are_closed(&mut self, since: Instant, limit: Duration) -> Vec<Closed> {
        let mut closed = Vec::new();
        for held in self.held.drain(..) {
            let (by, left) = (held.by, limit.saturating_sub(since.elapsed()));
            let waiting = async { tokio::time::timeout(left, held.ended).await };
            let ended = self.runtime.block_on(waiting);
            let ended = ended.unwrap_or_else(|_| panic!("{by} keeps its link after {limit:?}"));
            let (code, at) = ended.expect("waiting does not panic");
            let after = at.saturating_duration_since(since);
            closed.push(Closed { by, code, after });
        }
        closed
    }
}
