//! Answering a peer that dials.

use std::{net::SocketAddr, sync::Arc};

use quinn::{Connection, ConnectionError};
use tokio::{sync::OwnedSemaphorePermit, time::timeout};

use super::{
    endpoint::Endpoint,
    handshake::{HANDSHAKE_MAX, HandshakeError},
    link::{Link, canonical},
    tls::{self, OfferedVersions},
};
use crate::identity::verifier::{Expect, Verifier};

/// Most handshakes that are accepted at a time. Each costs a signature, a key agreement and some
/// 100 KiB; the others wait, few and briefly, in the endpoint.
pub(super) const HANDSHAKES_MAX: usize = 64;

/// With fewer than this many handshakes to spare, a peer must first show that it receives at its
/// address, so that forged addresses cannot use up the rest.
const UNPROVED_SPARE_MIN: usize = HANDSHAKES_MAX / 2;

/// A peer that dialled and of which nothing is known but an address. Dropping it refuses it.
#[derive(Debug)]
pub struct Incoming {
    quic: quinn::Incoming,
    endpoint: Endpoint,
    _permit: OwnedSemaphorePermit,
}

impl Endpoint {
    /// The next peer that dials; `None` once the endpoint is closed or where it only dials.
    /// Cancel-safe.
    ///
    /// Waits while 64 handshakes are in progress, so finish each in a task of its own.
    pub async fn accept(&self) -> Option<Incoming> {
        self.server.as_ref()?;
        loop {
            let permit = Arc::clone(&self.handshakes).acquire_owned().await;
            let permit = permit.expect("the semaphore is never closed");
            let quic = self.quic.accept().await?;
            let busy = self.handshakes.available_permits() < UNPROVED_SPARE_MIN;
            if busy && !quic.remote_address_validated() {
                // The peer begins anew, which may fail only where it already has.
                let _ = quic.retry();
                continue;
            }
            return Some(Incoming {
                quic,
                endpoint: self.clone(),
                _permit: permit,
            });
        }
    }
}

impl Incoming {
    /// Where it dials from.
    pub fn remote_address(&self) -> SocketAddr {
        canonical(self.quic.remote_address())
    }

    /// Whether it has shown that it receives what is sent there.
    pub fn proved_its_address(&self) -> bool {
        self.quic.remote_address_validated()
    }

    /// Lets the peer in where it is as expected, and tells it so. Not cancel-safe: dropping it
    /// refuses the peer.
    ///
    /// # Errors
    /// [`AcceptError`].
    pub async fn finish(self, expect: Expect) -> Result<Link, AcceptError> {
        let address = self.remote_address();
        let identity = &self.endpoint.identity;
        let verifier = Verifier::new(identity.trust().clone(), expect);
        let offered = Arc::<OfferedVersions>::default();
        let mut config = self
            .endpoint
            .server
            .clone()
            .expect("only endpoints that listen accept");
        config.crypto = tls::server(identity, Arc::clone(&verifier), Arc::clone(&offered));
        let Endpoint { settings, pace, .. } = &self.endpoint;
        let window = pace.first_window();
        config.transport_config(settings.transport_config(address, window));

        let handshake = async {
            let connection = self.quic.accept_with(Arc::new(config))?.await?;
            welcome(&connection).await?;
            Ok(connection)
        };
        let error = match timeout(HANDSHAKE_MAX, handshake).await {
            Ok(Ok(connection)) => match verifier.verdict() {
                Some(Ok(peer)) => return Ok(Link::new(connection, peer.clone(), pace, window)),
                _ => unreachable!("a handshake ends well only after a good verdict"),
            },
            Ok(Err(error)) => HandshakeError::explain(error, &verifier, offered.get()),
            Err(_) => HandshakeError::TimedOut,
        };
        Err(AcceptError {
            address,
            source: error,
        })
    }
}

/// Tells the dialling side that it is let in.
async fn welcome(connection: &Connection) -> Result<(), ConnectionError> {
    let mut stream = connection.open_uni().await?;
    // Fails only where the stream is finished or reset, and it is new.
    let _ = stream.finish();
    Ok(())
}

/// A peer that dialled and got no link.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("accept a link from {address}")]
pub struct AcceptError {
    /// Where it dialled from.
    pub address: SocketAddr,
    /// Why not.
    pub source: HandshakeError,
}
