//! A connection between two nodes that know each other.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use quinn::{Connection, ConnectionError, VarInt, crypto::rustls::HandshakeData};
use rustls::pki_types::CertificateDer;

use super::{
    pace::{Content, Pace, Registered},
    tls::{QUESTION_ALPN, RENEWAL_ALPN},
};
use crate::{
    id::NodeId,
    identity::{PUBLIC_KEY_BYTES, PeerIdentity, Refusal, Trust, Validity, leaf_key, leaf_validity},
};

/// The sending half of a stream.
pub type SendStream = quinn::SendStream;
/// The receiving half of a stream.
pub type RecvStream = quinn::RecvStream;

/// The priority of messages: what is sent on such streams goes before content, whose streams have 0. Streams that
/// [`Link::open_bi`] opens are of messages; of those that are accepted only the user knows.
pub const MESSAGES_PRIORITY: i32 = 2;

/// A connection whose peer is known. Cheap to clone; closed when the last clone is dropped.
#[derive(Debug, Clone)]
pub struct Link {
    connection: Connection,
    peer: Arc<PeerIdentity>,
    paced: Arc<Registered>,
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
    /// `window_bytes` is the receive window that the connection began with.
    pub(super) fn new(
        connection: Connection,
        peer: PeerIdentity,
        pace: &Arc<Pace>,
        window_bytes: u64,
    ) -> Self {
        let address = canonical(connection.remote_address());
        let paced = Registered::new(Arc::clone(pace), &connection, address, window_bytes);
        Self {
            connection,
            peer: Arc::new(peer),
            paced: Arc::new(paced),
        }
    }

    /// Who is at the other end.
    pub fn peer(&self) -> &PeerIdentity {
        &self.peer
    }

    /// The public key of its certificate.
    pub fn peer_key(&self) -> Option<[u8; PUBLIC_KEY_BYTES]> {
        leaf_key(&self.peer_certificate()?)
    }

    fn peer_certificate(&self) -> Option<CertificateDer<'static>> {
        let shown = self.connection.peer_identity()?;
        let chain = shown.downcast::<Vec<CertificateDer<'static>>>().ok()?;
        chain.first().cloned()
    }

    /// Why its peer would not be let in any more, by what is believed now: it is revoked, or its authority is. That its time
    /// is over ends no link.
    pub fn cut_off(&self, trust: &Trust) -> Option<Refusal> {
        // A link has a peer, and that a certificate.
        let certificate = self.peer_certificate()?;
        trust.cut_off(&certificate)
    }

    /// When the certificate that the peer showed is valid.
    pub fn peer_validity(&self) -> Option<Validity> {
        let shown = self.connection.peer_identity()?;
        let chain = shown.downcast::<Vec<CertificateDer<'static>>>().ok()?;
        leaf_validity(chain.first()?)
    }

    /// Whether it was dialled by [`Endpoint::dial_to_ask`](super::Endpoint::dial_to_ask).
    pub fn is_question(&self) -> bool {
        self.is_for(QUESTION_ALPN)
    }

    /// Whether it was dialled by [`Endpoint::dial_to_renew`](super::Endpoint::dial_to_renew).
    pub fn is_renewal(&self) -> bool {
        self.is_for(RENEWAL_ALPN)
    }

    fn is_for(&self, wanted: &str) -> bool {
        let agreed = self.connection.handshake_data();
        let agreed = agreed.and_then(|it| it.downcast::<HandshakeData>().ok());
        let alpn = agreed.and_then(|agreed| agreed.protocol);
        alpn.is_some_and(|alpn| alpn == wanted.as_bytes())
    }

    /// Where the other end is now.
    pub fn remote_address(&self) -> SocketAddr {
        canonical(self.connection.remote_address())
    }

    /// Whether it is the same connection, and not only one to the same peer.
    pub fn is_same(&self, other: &Self) -> bool {
        self.connection.stable_id() == other.connection.stable_id()
    }

    /// Opens a stream to send messages on. The peer sees it once something is sent on it. Waits while
    /// [`STREAMS_MAX`](super::STREAMS_MAX) are open. Cancel-safe.
    ///
    /// # Errors
    /// [`LinkError::Open`] where the link is gone.
    pub async fn open_bi(&self) -> Result<(SendStream, RecvStream), LinkError> {
        let opened = self.connection.open_bi().await;
        let (send, receive) = opened.map_err(|source| LinkError::Open {
            peer: self.peer.name.clone(),
            source,
        })?;
        // Fails only where the stream is finished or reset, and it is new.
        let _ = send.set_priority(MESSAGES_PRIORITY);
        Ok((send, receive))
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

    /// Content is expected on a stream of the link, and read through what this returns.
    pub fn content(&self) -> Content {
        Content::new(Arc::clone(&self.paced))
    }

    /// Says whether the peer is in another site, so that the caps of the border count; at first it is not. The peer is known by
    /// its address for this, so if that changes the link must be made again.
    pub fn set_border(&self, is_border: bool) {
        self.paced.set_border(is_border);
    }

    /// Whether the peer is in another site, as [`Self::set_border`] said.
    pub fn is_border(&self) -> bool {
        self.paced.is_border()
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
