//! What goes into the engine and what comes out.

use std::time::Duration;

use scap_proto::{reason::Reason, release::Priority};

/// A peer, as the driver numbers it. One number for as long as its link, and what the engine thinks of
/// it, lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub u32);

/// A snapshot on its way here, on its way out, or both; as the driver numbers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TransferId(pub u32);

/// What differs between one engine and another.
#[derive(Debug, Clone)]
pub struct Config {
    /// Seeds every random choice: the same inputs then give the same outputs.
    pub seed: u64,
    /// Most plain bytes asked for and not yet received, over all peers. It bounds what the chunks
    /// being received hold in memory; at 10 Gbit/s it still covers 20 ms.
    pub in_flight_bytes_max: u64,
    /// Most requests in flight to one peer: what keeps small chunks from flooding its queue.
    pub requests_per_peer_max: usize,
    /// How long a chunk should wait at a peer before the peer turns to it. Less leaves links idle
    /// between request and answer, more makes new chunks wait behind old ones.
    pub queue_target: Duration,
}

impl Config {
    /// The defaults.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            in_flight_bytes_max: 24 * 1024 * 1024,
            requests_per_peer_max: 64,
            queue_target: Duration::from_millis(150),
        }
    }
}

/// How one transfer is shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// What a peer that opens the transfer gets to know.
    pub reveal: Reveal,
    /// Whom we ask.
    pub ask: Ask,
    /// How many lanes the plan has: chunk `i` is on lane `i` modulo this, and a set of lanes has bit `l` for lane
    /// `l`. At most 64; 0 where nothing is pushed.
    pub lanes: u32,
    /// Which chunks we ask of [`Link::Far`] peers while all is well: we are number `.0` of `.1` hosts that do, and chunk
    /// `i` is for number `i` modulo `.1`. None where `.0` is not below `.1`.
    pub far_share: (u32, u32),
    /// While anything of a transfer of higher priority can be asked of a peer, nothing of this one is.
    pub priority: Priority,
}

/// What a peer that opens a transfer is told that we hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reveal {
    /// Everything, at once and as it grows.
    All,
    /// To each peer other chunks, a few at a time, so that every chunk leaves once before any leaves
    /// twice. For a node that starts out complete.
    OneEach {
        /// Chunks of lower index are told first, and to a few peers each: the descriptor, before all
        /// others, and the chunk list, without which a peer knows no content.
        eager: u32,
    },
}

/// Whom a transfer is fetched from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// Every peer that has something.
    Everyone,
    /// [`Link::Upstream`] only.
    Upstream,
}

/// What a peer is to us in the plan, the nearest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Link {
    /// The plan lets us fetch from it whatever the topology: a tree's parent, the origin.
    Upstream,
    /// Any other peer.
    Neighbour,
    /// A host of another site.
    Far,
}

/// Why a request ended without its chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The peer sent other bytes. Links are authenticated and a chunk is verified whole, so this is
    /// always the peer's fault.
    WrongBytes,
    /// The peer does not hold it.
    NotHeld,
    /// The peer has no room for the request now.
    Busy,
    /// The peer, or the link, ended the stream.
    Reset,
    /// We could not store it: no fault of the peer.
    Local,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// The time of [`super::Swarm::poll_timeout`] has come.
    Timeout,
    /// A transfer begins, with no chunk known.
    TransferAdded {
        /// Which; its number is new.
        transfer: TransferId,
        /// How it is shared.
        policy: Policy,
    },
    /// More chunks of a transfer are known: they follow those before in index.
    TransferGrown {
        /// Which.
        transfer: TransferId,
        /// Their plain lengths, in bytes.
        plain_lengths: Vec<u32>,
        /// Whether that is all there are.
        is_all: bool,
    },
    /// Chunks that this node holds, verified, however they came. Unknown indexes are ignored.
    TransferHolds {
        /// Which.
        transfer: TransferId,
        /// Of what.
        indexes: Vec<u32>,
    },
    /// A transfer is over: its requests are cancelled and it is forgotten.
    TransferRemoved {
        /// Which.
        transfer: TransferId,
    },
    /// There is a link to a peer. For a peer that is already connected: it is forgiven what it was
    /// dropped for, and what it holds is remembered.
    PeerConnected {
        /// Which.
        peer: PeerId,
        /// What it is to us. For a peer that is already connected it counts for what it says from now on.
        link: Link,
    },
    /// The link is gone, and with it all requests on it.
    PeerDisconnected {
        /// Which.
        peer: PeerId,
    },
    /// The peer wants to know what we hold of a transfer.
    PeerOpened {
        /// Who.
        peer: PeerId,
        /// Of what.
        transfer: TransferId,
    },
    /// The peer no longer wants to know.
    PeerClosed {
        /// Who.
        peer: PeerId,
        /// Of what.
        transfer: TransferId,
    },
    /// The peer says that it holds these, known to us yet or not.
    Available {
        /// Who.
        peer: PeerId,
        /// Of what.
        transfer: TransferId,
        /// Beyond [`scap_proto::limits::SNAPSHOT_CHUNKS_MAX`] they are ignored.
        indexes: Vec<u32>,
    },
    /// A chunk came, is verified and stored.
    Received {
        /// From whom.
        peer: PeerId,
        /// Of what.
        transfer: TransferId,
        /// Which.
        index: u32,
        /// What it took on the wire.
        encoded_bytes: u64,
    },
    /// A request ended without its chunk.
    Failed {
        /// By whom.
        peer: PeerId,
        /// Of what.
        transfer: TransferId,
        /// Which.
        index: u32,
        /// Why.
        failure: Failure,
    },
    /// We have sent a peer a chunk, asked for or pushed.
    Served {
        /// To whom.
        peer: PeerId,
        /// Of what.
        transfer: TransferId,
        /// Which.
        index: u32,
    },
    /// By the plan a connected peer pushes these lanes to us, once it knows that we follow.
    LanesFrom {
        /// Who.
        peer: PeerId,
        /// Of what.
        transfer: TransferId,
        /// Which.
        lanes: u64,
    },
    /// By the plan we push these lanes to a connected peer, if it follows.
    LanesTo {
        /// Whom.
        peer: PeerId,
        /// Of what.
        transfer: TransferId,
        /// Which.
        lanes: u64,
    },
    /// The peer wants these lanes pushed, or none.
    Followed {
        /// Who.
        peer: PeerId,
        /// Of what.
        transfer: TransferId,
        /// Which.
        lanes: u64,
        /// What it holds.
        held: Vec<u32>,
    },
    /// The peer did not take a chunk that we pushed: it has it, or will not have it from us.
    NotTaken {
        /// Who.
        peer: PeerId,
        /// Of what.
        transfer: TransferId,
        /// Which.
        index: u32,
    },
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Ask a peer for a chunk. Answer with [`Input::Received`] or [`Input::Failed`].
    Request {
        /// Whom.
        peer: PeerId,
        /// Of what.
        transfer: TransferId,
        /// For which.
        index: u32,
    },
    /// A request is of no more use: end it if it has not ended. No answer is due; one that crosses is
    /// harmless.
    Cancel {
        /// To whom it went.
        peer: PeerId,
        /// Of what.
        transfer: TransferId,
        /// Which.
        index: u32,
    },
    /// Tell a peer that we hold these.
    Announce {
        /// Whom.
        peer: PeerId,
        /// Of what.
        transfer: TransferId,
        /// All that there was to tell when it was polled.
        indexes: Vec<u32>,
    },
    /// Ask a peer to push these lanes, or tell it that we need none.
    Follow {
        /// Whom.
        peer: PeerId,
        /// Of what.
        transfer: TransferId,
        /// Which; 0 for none.
        lanes: u64,
        /// What we hold, in rising order.
        held: Vec<u32>,
    },
    /// Push a peer a chunk. Answer with [`Input::Served`] or [`Input::NotTaken`].
    Push {
        /// Whom.
        peer: PeerId,
        /// Of what.
        transfer: TransferId,
        /// Which.
        index: u32,
    },
    /// Every chunk that is known of a transfer is held. Grow it, or it is done.
    Complete {
        /// Which.
        transfer: TransferId,
    },
    /// A peer is asked no more. Its link may stay, to serve it, unless it
    /// [misbehaved](DropReason::is_misbehaviour); [`Input::PeerConnected`] gives it another chance.
    Drop {
        /// Whom.
        peer: PeerId,
        /// Why: for the log, the report and the dashboard.
        reason: DropReason,
    },
}

/// Why a peer is asked no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DropReason {
    /// It sent bytes that are not those of the chunk.
    WrongBytes {
        /// Of what.
        transfer: TransferId,
        /// Which.
        index: u32,
    },
    /// Time and again it let requests run out, and sent nothing, while others sent.
    Stalled,
    /// Time and again it let requests run out, and sent little, while others sent.
    Slow,
    /// It kept ending requests without an answer.
    Resets,
    /// It kept saying that it holds what it had said that it does not.
    BrokenPromises,
}

impl DropReason {
    /// Whether an honest peer on a bad link could not have done this: close its link.
    pub fn is_misbehaviour(self) -> bool {
        matches!(self, Self::WrongBytes { .. })
    }

    /// Its code.
    pub fn code(self) -> Reason {
        match self {
            Self::WrongBytes { .. } => Reason::WrongBytes,
            Self::Stalled | Self::Slow => Reason::SlowPeer,
            Self::Resets => Reason::BrokenStreams,
            Self::BrokenPromises => Reason::BrokenPromises,
        }
    }

    /// What it did, as people read it.
    pub fn describe(self) -> String {
        match self {
            Self::WrongBytes { index, .. } => format!("sent wrong bytes for chunk {index}"),
            Self::Stalled => "sent nothing, time and again, while others sent".into(),
            Self::Slow => "sent too little, time and again, while others sent".into(),
            Self::Resets => "kept ending requests without an answer".into(),
            Self::BrokenPromises => "kept promising chunks that it then did not have".into(),
        }
    }
}
