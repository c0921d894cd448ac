//! What the driver is told.

use std::sync::Arc;

use scap_proto::{
    content::SnapshotRef,
    id::{NodeId, ReleaseId},
    identity::TrustMark,
    reason::Reason,
    release::{DeltaRef, Membership, Plan, Priority},
    transport::Link,
    wire::peer::PeerMessage,
};
use tokio::sync::oneshot;

use super::{Readers, TransferStatus, fetch::FetchError};
use crate::swarm::{PeerId, TransferId};

/// A snapshot that this node shall fetch and serve.
#[derive(Debug, Clone)]
pub struct Job {
    /// The release it is of, by which peers ask for it.
    pub release: ReleaseId,
    /// The snapshot.
    pub snapshot: SnapshotRef,
    /// Whom it is addressed to.
    pub readers: Readers,
    /// Who else fetches it, and how.
    pub plan: Arc<Plan>,
    /// From whom it is fetched.
    pub sources: Sources,
    /// How many of the first chunks are the descriptor and the chunk list, where that is known: 0 elsewhere. A
    /// node that starts out complete sends them first.
    pub list_end: u32,
    /// Shorter ways to the snapshot, as the release lists them. Each has 1 to
    /// [`DELTA_PARTS_MAX`](scap_proto::limits::DELTA_PARTS_MAX) parts.
    pub deltas: Vec<DeltaRef>,
    /// What the release asks of hosts: a snapshot that is fetched and served beside the release's own.
    pub config: Option<SnapshotRef>,
    /// What comes first where there are several.
    pub priority: Priority,
}

/// From whom a node fetches a release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sources {
    /// From those that the plan says.
    Plan,
    /// From these hosts, all of which it dials where the plan has them, and nobody else; without any it only serves.
    Only(Vec<NodeId>),
}

/// What tasks tell the driver.
#[derive(Debug)]
pub(crate) enum Event {
    Linked {
        link: Link,
        dialled: bool,
    },
    /// What the peer is in, by a coordinator's word.
    Shown {
        peer: PeerId,
        membership: Membership,
    },
    Message {
        peer: PeerId,
        message: PeerMessage,
    },
    Served {
        peer: PeerId,
        transfer: TransferId,
        index: u32,
    },
    /// The peer pushed a chunk, which is verified and stored, or was refused.
    Pushed {
        peer: PeerId,
        transfer: TransferId,
        index: u32,
        result: Result<u64, FetchError>,
    },
    Lost {
        transfer: TransferId,
    },
    /// The peer did what it should not.
    FoundOut {
        peer: PeerId,
        code: Reason,
        what: String,
    },
    Attach {
        job: Job,
        done: oneshot::Sender<()>,
    },
    Detach {
        release: ReleaseId,
    },
    Status {
        release: ReleaseId,
        reply: oneshot::Sender<Option<TransferStatus>>,
    },
    Lease {
        release: ReleaseId,
        host: NodeId,
    },
    Admit {
        release: ReleaseId,
        host: NodeId,
    },
    Find {
        name: NodeId,
        reply: oneshot::Sender<Option<Link>>,
    },
    /// A peer holds to that fleet trust.
    PeerTrusts {
        peer: PeerId,
        mark: TrustMark,
    },
    /// We hold to another one.
    TrustChanged,
}
