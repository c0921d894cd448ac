//! A connection between two nodes that know each other.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use quinn::{Connection, ConnectionError, VarInt};

use crate::{id::NodeId, identity::PeerIdentity};

/// The sending half of a stream.
pub type SendStream = quinn::SendStream;
/// The receiving half of a stream.
pub type RecvStream = quinn::RecvStream;

/// A connection whose peer is known. Cheap to clone; closed when the last clone is dropped.
#[derive(Debug, Clone)]
pub struct Link {
    connection: Connection,
    peer: Arc<PeerIdentity>,
}

/// What a link has done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkStats {
    /// The round trip as now estimated.
    pub rtt: Duration,
    /// Bytes of UDP payload sent, everything included.
    pub bytes_sent: u64,
    /// Bytes of UDP payload received, everything included.
    pub bytes_received: u64,
    /// Packets found lost.
    pub packets_lost: u64,
    /// Largest UDP payload that the path carries, as far as tried, in bytes.
    pub udp_payload_bytes: u16,
}

impl Link {
    pub(super) fn new(connection: Connection, peer: PeerIdentity) -> Self {
        Self {
            connection,
            peer: Arc::new(peer),
        }
    }

    /// Who is at the other end.
    pub fn peer(&self) -> &PeerIdentity {
        &self.peer
    }

    /// Where the other end is now.
    pub fn remote_address(&self) -> SocketAddr {
        canonical(self.connection.remote_address())
    }

    /// Whether it is the same connection, and not only one to the same peer.
    pub fn is_same(&self, other: &Self) -> bool {
        self.connection.stable_id() == other.connection.stable_id()
    }

    /// Opens a stream. The peer sees it once something is sent on it. Waits while
    /// [`STREAMS_MAX`](super::STREAMS_MAX) are open. Cancel-safe.
    ///
    /// # Errors
    /// [`LinkError::Open`] where the link is gone.
    pub async fn open_bi(&self) -> Result<(SendStream, RecvStream), LinkError> {
        self.connection
            .open_bi()
            .await
            .map_err(|source| LinkError::Open {
                peer: self.peer.name.clone(),
                source,
            })
    }

    /// The next stream that the peer opened. Cancel-safe.
    ///
    /// # Errors
    /// [`LinkError::Accept`] where the link is gone.
    pub async fn accept_bi(&self) -> Result<(SendStream, RecvStream), LinkError> {
        self.connection
            .accept_bi()
            .await
            .map_err(|source| LinkError::Accept {
                peer: self.peer.name.clone(),
                source,
            })
    }

    /// Opens a stream to push on.
    ///
    /// # Errors
    /// [`LinkError::Open`] where the link is gone.
    pub async fn open_uni(&self) -> Result<SendStream, LinkError> {
        self.connection
            .open_uni()
            .await
            .map_err(|source| LinkError::Open {
                peer: self.peer.name.clone(),
                source,
            })
    }

    /// The next stream on which the peer pushes. Cancel-safe.
    ///
    /// # Errors
    /// [`LinkError::Accept`] where the link is gone.
    pub async fn accept_uni(&self) -> Result<RecvStream, LinkError> {
        self.connection
            .accept_uni()
            .await
            .map_err(|source| LinkError::Accept {
                peer: self.peer.name.clone(),
                source,
            })
    }

    /// Closes the link at once: what is not yet acknowledged is lost. `reason` is for the peer's
    /// log.
    pub fn close(&self, code: u32, reason: &str) {
        self.connection
            .close(VarInt::from_u32(code), reason.as_bytes());
    }

    /// Waits until the link is gone, and says why. Cancel-safe.
    pub async fn closed(&self) -> LinkError {
        LinkError::Closed {
            peer: self.peer.name.clone(),
            source: self.connection.closed().await,
        }
    }

    /// What it has done so far.
    pub fn stats(&self) -> LinkStats {
        let stats = self.connection.stats();
        LinkStats {
            rtt: stats.path.rtt,
            bytes_sent: stats.udp_tx.bytes,
            bytes_received: stats.udp_rx.bytes,
            packets_lost: stats.path.lost_packets,
            udp_payload_bytes: stats.path.current_mtu,
        }
    }
}

/// What ended a link, and what was being done on it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// While opening a stream.
    #[error("open a stream to {peer}")]
    Open {
        /// The other end.
        peer: NodeId,
        /// What ended it.
        source: ConnectionError,
    },
    /// While waiting for a stream.
    #[error("accept a stream from {peer}")]
    Accept {
        /// The other end.
        peer: NodeId,
        /// What ended it.
        source: ConnectionError,
    },
    /// While nothing was being done.
    #[error("the link to {peer} ended")]
    Closed {
        /// The other end.
        peer: NodeId,
        /// What ended it.
        source: ConnectionError,
    },
}

impl LinkError {
    /// The code that the peer closed the link with, where it did.
    pub fn close_code(&self) -> Option<u64> {
        let (Self::Open { source, .. } | Self::Accept { source, .. } | Self::Closed { source, .. }) =
            self;
        match source {
            ConnectionError::ApplicationClosed(close) => Some(close.error_code.into()),
            _ => None,
        }
    }
}

/// An IPv4 address that a socket for both families shows as IPv6, as what it is.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
