//! The link over which a host is enrolled that has a token and no identity yet.
//!
//! It is no link of the fleet: it has an ALPN of its own, and what comes over it is of [`crate::enroll`] alone. Either side
//! dials, and one of them is a *newcomer*, who knows its token alone; the other is a coordinator, whose
//! certificate and authority the newcomer checks against the token in the handshake. The newcomer shows no
//! certificate that says anything.
//!
//! # What strangers see
//! Who dials asks for a server of the name that follows from the authority's fingerprint. Who asks for another, or
//! for none, is refused before any certificate is shown, so a scanner learns from either side that something here
//! speaks QUIC. Each address is proved by a retry before anything is kept for it.

mod tls;

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use quinn::{
    ClientConfig, Connection, ConnectionError, EndpointConfig, IdleTimeout, NoneTokenLog,
    NoneTokenStore, RecvStream, SendStream, ServerConfig, TokioRuntime, TransportConfig,
    ValidationTokenConfig, VarInt,
};
use tokio::time::timeout;

use super::{endpoint, handshake::HANDSHAKE_MAX, link::canonical};
use crate::identity::{
    AuthorityPin, FleetName, HandshakeRefusal, Identity, PeerIdentity, Refusal, RefusalKind,
    handshake_refusal, verifier::Verifier,
};
pub use crate::transport::endpoint::BindError;

/// The protocol and its major version, as agreed in the handshake.
pub const ENROLL_ALPN: &str = "scap-enroll/1";

/// Most peers that dialled and wait for us to begin, and the most bytes each may send meanwhile.
const INCOMING_MAX: usize = 64;
const INCOMING_BYTES_MAX: u64 = 8 * 1024;

/// Most bytes that are received and not yet read: an identity with a long list of signers comes in a few round
/// trips, and a stranger makes us hold no more than this.
const WINDOW_BYTES: u32 = 64 * 1024;

/// After so many seconds without hearing from the other side a link is lost, and a third of that is the time between
/// keep-alives.
const IDLE_SECS_MAX: u64 = 15;

/// What a kernel is asked for the socket's buffers, in bytes: a few handshakes at a time.
const SOCKET_BUFFER_BYTES: usize = 256 * 1024;

/// Who we are on such links.
#[derive(Debug, Clone)]
pub enum Party {
    /// A host with a token of this fleet, whose authority has this fingerprint.
    Newcomer {
        /// The fleet.
        fleet: FleetName,
        /// Its authority.
        pin: AuthorityPin,
    },
    /// A coordinator of the fleet.
    Coordinator(Arc<Identity>),
}

/// A UDP socket for such links. Cheap to clone.
#[derive(Debug, Clone)]
pub struct EnrollEndpoint {
    quic: quinn::Endpoint,
    party: Party,
    server: Option<ServerConfig>,
}

impl EnrollEndpoint {
    /// Opens one at `address` that accepts links and dials. Needs a tokio runtime.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn listen(party: Party, address: SocketAddr) -> Result<Self, BindError> {
        let crypto = tls::server(&party, None);
        let mut server = ServerConfig::with_crypto(crypto);
        let mut no_tokens = ValidationTokenConfig::default();
        no_tokens.sent(0).log(Arc::new(NoneTokenLog));
        server
            .validation_token_config(no_tokens)
            .transport_config(transport_config())
            .max_incoming(INCOMING_MAX)
            .incoming_buffer_size(INCOMING_BYTES_MAX)
            .incoming_buffer_size_total(INCOMING_MAX as u64 * INCOMING_BYTES_MAX);
        Self::open(party, address, Some(server))
    }

    /// Opens one that only dials. Needs a tokio runtime.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn dial_only(party: Party) -> Result<Self, BindError> {
        let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
        Self::open(party.clone(), any, None)
            .or_else(|_| Self::open(party, SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)), None))
    }

    fn open(
        party: Party,
        address: SocketAddr,
        server: Option<ServerConfig>,
    ) -> Result<Self, BindError> {
        let failed = |source: io::Error| BindError { address, source };
        let opened = endpoint::open_socket(address, SOCKET_BUFFER_BYTES);
        let (socket, _) = opened.map_err(failed)?;
        let (config, runtime) = (EndpointConfig::default(), Arc::new(TokioRuntime));
        let quic = quinn::Endpoint::new(config, server.clone(), socket, runtime);
        Ok(Self {
            quic: quic.map_err(failed)?,
            party,
            server,
        })
    }

    /// Where it is bound.
    ///
    /// # Errors
    /// What the system says.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.quic.local_addr()
    }

    /// Dials the other party at one address. `pin` is the authority by which both know each other.
    /// Cancel-safe.
    ///
    /// # Errors
    /// [`EnrollLinkError`].
    pub async fn dial(
        &self,
        address: SocketAddr,
        pin: AuthorityPin,
    ) -> Result<EnrollLink, EnrollLinkError> {
        let verifier = self.verifier();
        let tls = tls::client(&self.party, verifier.clone());
        let mut config = ClientConfig::new(tls);
        config
            .transport_config(transport_config())
            .token_store(Arc::new(NoneTokenStore));
        let connecting = self.quic.connect_with(config, address, &pin.server_name());
        let connecting = connecting.map_err(EnrollLinkError::Start)?;
        finish(connecting, verifier).await
    }

    /// The next that dials and has proved its address; `None` once the endpoint is closed, or where it only dials.
    /// Cancel-safe.
    pub async fn accept(&self) -> Option<EnrollIncoming> {
        self.server.as_ref()?;
        loop {
            let quic = self.quic.accept().await?;
            if !quic.remote_address_validated() {
                // It begins anew, which may fail only where it already has.
                let _ = quic.retry();
                continue;
            }
            return Some(EnrollIncoming {
                quic,
                endpoint: self.clone(),
            });
        }
    }

    /// Closes all links at once and takes no new ones, and waits until the other sides have been told.
    pub async fn close(&self, code: u32) {
        self.quic.close(VarInt::from_u32(code), b"");
        self.quic.wait_idle().await;
    }

    /// What the other side is checked by, in one handshake; a newcomer is not.
    fn verifier(&self) -> Option<Arc<Verifier>> {
        match &self.party {
            Party::Newcomer { fleet, pin } => Some(Verifier::pinned(fleet.clone(), *pin)),
            Party::Coordinator(_) => None,
        }
    }
}

/// Somebody who dialled, of whom nothing is known but the address, which is proved.
#[derive(Debug)]
pub struct EnrollIncoming {
    quic: quinn::Incoming,
    endpoint: EnrollEndpoint,
}

impl EnrollIncoming {
    /// Where from.
    pub fn remote_address(&self) -> SocketAddr {
        canonical(self.quic.remote_address())
    }

    /// Sends it away without a handshake.
    pub fn refuse(self) {
        self.quic.refuse();
    }

    /// Does the handshake. Not cancel-safe: dropping it refuses the peer.
    ///
    /// # Errors
    /// [`EnrollLinkError`].
    pub async fn finish(self) -> Result<EnrollLink, EnrollLinkError> {
        let server = self.endpoint.server.clone();
        let mut config = server.expect("only endpoints that listen accept");
        let verifier = self.endpoint.verifier();
        config.crypto = tls::server(&self.endpoint.party, verifier.clone());
        let handshake = async { self.quic.accept_with(Arc::new(config))?.await };
        finish(handshake, verifier).await
    }
}

async fn finish(
    handshake: impl Future<Output = Result<Connection, ConnectionError>>,
    verifier: Option<Arc<Verifier>>,
) -> Result<EnrollLink, EnrollLinkError> {
    match timeout(HANDSHAKE_MAX, handshake).await {
        Ok(Ok(connection)) => Ok(EnrollLink {
            peer: verifier.and_then(|it| it.verdict().cloned()?.ok()),
            connection,
        }),
        Ok(Err(error)) => match verifier.as_ref().and_then(|it| it.verdict()) {
            Some(Err(refusal)) => Err(EnrollLinkError::RefusedPeer(refusal.clone())),
            _ => Err(error.into()),
        },
        Err(_) => Err(EnrollLinkError::TimedOut),
    }
}

/// A connection between a newcomer and a coordinator. Closed when dropped.
#[derive(Debug)]
pub struct EnrollLink {
    connection: Connection,
    peer: Option<PeerIdentity>,
}

impl EnrollLink {
    /// The coordinator, where we are the newcomer; a newcomer is nobody yet.
    pub fn peer(&self) -> Option<&PeerIdentity> {
        self.peer.as_ref()
    }

    /// Where the other side is.
    pub fn remote_address(&self) -> SocketAddr {
        canonical(self.connection.remote_address())
    }

    /// Closes it.
    pub fn close(&self, code: u32) {
        self.connection.close(VarInt::from_u32(code), b"");
    }

    /// Waits until it is closed, by either side.
    pub async fn closed(&self) {
        self.connection.closed().await;
    }

    pub(crate) async fn open(&self) -> Result<(SendStream, RecvStream), EnrollLinkError> {
        Ok(self.connection.open_bi().await?)
    }

    pub(crate) async fn accept(&self) -> Result<(SendStream, RecvStream), EnrollLinkError> {
        Ok(self.connection.accept_bi().await?)
    }
}

/// Why there is no link to enrol over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnrollLinkError {
    /// Whoever is there is no coordinator of the fleet of the token.
    #[error("refused the other side: {0}")]
    RefusedPeer(Refusal),
    /// What is there speaks, and not this: an agent that is enrolled already, or one of an older build.
    #[error(
        "nobody waits there to be enrolled, or to enrol: what is there speaks another protocol"
    )]
    OtherProtocol,
    /// Refused for a reason that TLS knows.
    #[error("{0}")]
    Refused(HandshakeRefusal),
    /// It took too long.
    #[error("no answer in time")]
    TimedOut,
    /// It could not be begun.
    #[error("send to this address: {0}")]
    Start(quinn::ConnectError),
    /// The connection failed.
    #[error("{0}")]
    Connection(ConnectionError),
}

impl From<ConnectionError> for EnrollLinkError {
    fn from(error: ConnectionError) -> Self {
        match handshake_refusal(&error) {
            Some(refusal) if refusal.kind == RefusalKind::Version => Self::OtherProtocol,
            Some(refusal) => Self::Refused(refusal),
            None => Self::Connection(error),
        }
    }
}

fn transport_config() -> Arc<TransportConfig> {
    let idle = Duration::from_secs(IDLE_SECS_MAX);
    let idle_timeout = IdleTimeout::try_from(idle).expect("it is short");
    let window = VarInt::from_u32(WINDOW_BYTES);
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .stream_receive_window(window)
        .receive_window(window)
        .send_window(u64::from(WINDOW_BYTES))
        .max_idle_timeout(Some(idle_timeout))
        .keep_alive_interval(Some(idle / 3));
    Arc::new(transport)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests;
