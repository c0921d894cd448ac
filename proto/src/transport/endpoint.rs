//! A UDP socket with links on it.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::{Arc, Once},
    thread,
};

use quinn::{EndpointConfig, NoneTokenLog, ServerConfig, ValidationTokenConfig, VarInt};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with, sockopt};
use tokio::sync::Semaphore;

use super::{
    accept::{HANDSHAKES_MAX, Sources},
    first_packets::FirstPackets,
    pace::{Pace, PacedRuntime, PacedSocket, RateCaps, Traffic},
    settings::LinkSettings,
    tls,
    unproved::Unproved,
};
use crate::identity::{
    Identity,
    verifier::{Expect, Verifier},
};

/// Where a node's links begin and end. Cheap to clone. Links outlive it, unless it is closed.
#[derive(Debug, Clone)]
pub struct Endpoint {
    pub(super) quic: quinn::Endpoint,
    pub(super) identity: Arc<Identity>,
    pub(super) settings: LinkSettings,
    pub(super) pace: Arc<Pace>,
    /// What each accepted handshake starts from.
    pub(super) server: Option<ServerConfig>,
    /// A permit for each handshake that is being accepted.
    pub(super) handshakes: Arc<Semaphore>,
    /// How many of them are of whom.
    pub(super) sources: Arc<Sources>,
    first: Option<Arc<FirstPackets>>,
    pub(super) unproved: Arc<Unproved>,
    buffers: SocketBuffers,
}

/// What the kernel gave for the buffers of a socket, in bytes as it accounts for them (about twice
/// the payload).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SocketBuffers {
    /// For what has arrived.
    pub receive_bytes: usize,
    /// For what is to leave.
    pub send_bytes: usize,
}

impl Endpoint {
    /// Opens an endpoint at `address` that accepts links and dials. Needs a tokio runtime.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn listen(
        identity: Arc<Identity>,
        address: SocketAddr,
        settings: &LinkSettings,
    ) -> Result<Self, BindError> {
        let verifier = Verifier::new(identity.trust().clone(), Expect::ANY);
        let mut server =
            ServerConfig::with_crypto(tls::server(&identity, verifier, Arc::default()));
        let mut no_tokens = ValidationTokenConfig::default();
        no_tokens.sent(0).log(Arc::new(NoneTokenLog));
        server
            .validation_token_config(no_tokens)
            .max_incoming(INCOMING_MAX)
            .incoming_buffer_size(INCOMING_BYTES_MAX)
            .incoming_buffer_size_total(INCOMING_MAX as u64 * INCOMING_BYTES_MAX / 4);
        Self::open(identity, address, settings, Some(server))
    }

    /// Opens an endpoint that only dials, at a port of the system's choice, to IPv4 and, where the
    /// host has it, IPv6. Needs a tokio runtime.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn dial_only(identity: Arc<Identity>, settings: &LinkSettings) -> Result<Self, BindError> {
        let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
        Self::open(Arc::clone(&identity), any, settings, None).or_else(|_| {
            let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
            Self::open(identity, any, settings, None)
        })
    }

    /// Whose endpoint it is.
    pub fn identity(&self) -> &Arc<Identity> {
        &self.identity
    }

    /// Where it is bound.
    ///
    /// # Errors
    /// What the system says.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.quic.local_addr()
    }

    /// What the kernel gave it. Less than was asked for is normal without privilege; the limits are
    /// `net.core.rmem_max` and `net.core.wmem_max`.
    pub fn socket_buffers(&self) -> SocketBuffers {
        self.buffers
    }

    /// The caps that count now.
    pub fn caps(&self) -> RateCaps {
        self.pace.caps()
    }

    /// Other caps from now on; returns those before. A lower cap on what arrives takes hold as peers use up what they were allowed to send before.
    pub fn set_caps(&self, caps: RateCaps) -> RateCaps {
        self.pace.set_caps(caps)
    }

    /// What has passed so far.
    pub fn traffic(&self) -> Traffic {
        self.pace.traffic()
    }

    /// How many first packets of handshakes were dropped unread, because their source sent more of them than are looked at.
    pub fn first_packets_dropped(&self) -> u64 {
        self.first.as_ref().map_or(0, |first| first.dropped())
    }

    /// Closes all links at once and takes no new ones. `reason` is for the peers' logs.
    pub fn close(&self, code: u32, reason: &str) {
        self.quic.close(VarInt::from_u32(code), reason.as_bytes());
    }

    /// Waits until the peers have been told of all closed links, for at most 3 round trips each.
    pub async fn wait_idle(&self) {
        self.quic.wait_idle().await;
    }

    fn open(
        identity: Arc<Identity>,
        address: SocketAddr,
        settings: &LinkSettings,
        server: Option<ServerConfig>,
    ) -> Result<Self, BindError> {
        let failed = |source: io::Error| BindError { address, source };
        gather_randomness();
        let (socket, buffers) =
            open_socket(address, settings.socket_buffer_bytes as usize).map_err(failed)?;
        let mut config = EndpointConfig::default();
        config
            .max_udp_payload_size(settings.udp_payload_bytes_max())
            .expect("the settings keep it in range");
        let pace = Arc::new(Pace::new(settings.window_bytes()));
        let unproved = Arc::<Unproved>::default();
        let first = server.is_some().then(|| Arc::new(FirstPackets::new()));
        let socket = PacedSocket::new(
            socket,
            Arc::clone(&pace),
            first.clone(),
            Arc::clone(&unproved),
        )
        .map_err(failed)?;
        let (socket, runtime) = (Arc::new(socket), Arc::new(PacedRuntime));
        let quic =
            quinn::Endpoint::new_with_abstract_socket(config, server.clone(), socket, runtime)
                .map_err(failed)?;
        Ok(Self {
            quic,
            identity,
            settings: *settings,
            pace,
            server,
            handshakes: Arc::new(Semaphore::new(HANDSHAKES_MAX)),
            sources: Arc::default(),
            first,
            unproved,
            buffers,
        })
    }
}

/// Lets the crypto library seed its generator, which takes 40 ms of a processor once per process (it measures the
/// processor's jitter, beside what the system gives), before a handshake would wait for it.
fn gather_randomness() {
    static GATHER: Once = Once::new();
    GATHER.call_once(|| {
        let gather = || aws_lc_rs::rand::fill(&mut [0]);
        // Where no thread can be started, the first handshake does it.
        let _ = thread::Builder::new()
            .name("randomness".to_owned())
            .spawn(gather);
    });
}

/// Why no endpoint could be opened.
#[derive(Debug, thiserror::Error)]
#[error("open UDP port {} at {}{}", address.port(), address.ip(), hint(source))]
pub struct BindError {
    /// Where.
    pub address: SocketAddr,
    /// What the system said.
    pub source: io::Error,
}

/// Most dialling peers that wait for us to answer, and the most bytes each may send meanwhile: two
/// first packets of a handshake and their repetitions. Together with the limit on all of them at
/// most 1 MiB.
const INCOMING_MAX: usize = 256;
const INCOMING_BYTES_MAX: u64 = 16 * 1024;

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => " (hint: another process has that port)",
        io::ErrorKind::AddrNotAvailable => " (hint: this host does not have that address)",
        io::ErrorKind::PermissionDenied => " (hint: ports below 1024 need privilege)",
        _ => "",
    }
}

pub(super) fn open_socket(
    address: SocketAddr,
    bytes: usize,
) -> io::Result<(UdpSocket, SocketBuffers)> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let socket = socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, false)?;
    }
    // Beyond the system's limit where we may, else up to it; either way what we got is reported.
    let _ = sockopt::set_socket_recv_buffer_size_force(&socket, bytes)
        .or_else(|_| sockopt::set_socket_recv_buffer_size(&socket, bytes));
    let _ = sockopt::set_socket_send_buffer_size_force(&socket, bytes)
        .or_else(|_| sockopt::set_socket_send_buffer_size(&socket, bytes));
    bind(&socket, &address)?;
    let buffers = SocketBuffers {
        receive_bytes: sockopt::socket_recv_buffer_size(&socket)?,
        send_bytes: sockopt::socket_send_buffer_size(&socket)?,
    };
    Ok((UdpSocket::from(socket), buffers))
}
