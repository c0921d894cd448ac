//! Answering a peer that dials.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use quinn::{Connection, ConnectionError};
use tokio::{sync::OwnedSemaphorePermit, time::timeout};

use super::{
    endpoint::Endpoint,
    first_packets::of_source,
    handshake::{HANDSHAKE_MAX, HandshakeError},
    link::{Link, canonical},
    tls::{self, OfferedVersions},
    unproved::Watched,
};
use crate::identity::verifier::{Expect, Verifier};

/// Most handshakes that are accepted at a time. Each costs a signature, a key agreement and some
/// 100 KiB; the others wait, few and briefly, in the endpoint.
pub(super) const HANDSHAKES_MAX: usize = 64;

/// With fewer than this many handshakes to spare, a peer must first show that it receives at its
/// address, so that forged addresses cannot use up the rest.
const UNPROVED_SPARE_MIN: usize = HANDSHAKES_MAX / 2;

/// Most of them with one source that has shown that it receives there, so that one that begins and does not go on leaves room for others:
/// with all that need not show it 48 of the 64. Who is turned away is heard when it sends again, 150 ms later.
pub const HANDSHAKES_PER_SOURCE_MAX: usize = 16;
const _: () =
    assert!(HANDSHAKES_MAX - UNPROVED_SPARE_MIN + HANDSHAKES_PER_SOURCE_MAX < HANDSHAKES_MAX);

/// A peer that dialled and of which nothing is known but an address. Dropping it refuses it.
#[derive(Debug)]
pub struct Incoming {
    quic: quinn::Incoming,
    endpoint: Endpoint,
    _permit: OwnedSemaphorePermit,
    _place: Option<Place>,
    _watched: Option<Watched>,
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
            // An address that may be forged counts for nobody: who owns it would pay for it.
            let is_proved = quic.remote_address_validated();
            let watched = (!is_proved).then(|| self.unproved.watch(quic.remote_address()));
            let place = if is_proved {
                let Some(place) = self.sources.enter(quic.remote_address().ip()) else {
                    quic.ignore();
                    continue;
                };
                Some(place)
            } else {
                None
            };
            return Some(Incoming {
                quic,
                endpoint: self.clone(),
                _permit: permit,
                _place: place,
                _watched: watched,
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

/// How many handshakes are in progress with each source that has shown that it receives there.
#[derive(Debug, Default)]
pub(super) struct Sources(Mutex<HashMap<IpAddr, usize>>);

/// One of a source's handshakes, until it is dropped.
#[derive(Debug)]
struct Place {
    sources: Arc<Sources>,
    source: IpAddr,
}

impl Sources {
    fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let source = of_source(address);
        let mut counts = self.lock();
        let count = counts.entry(source).or_default();
        if *count >= HANDSHAKES_PER_SOURCE_MAX {
            return None;
        }
        *count += 1;
        Some(Place {
            sources: Arc::clone(self),
            source,
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.sources.lock();
        if let Some(count) = counts.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.source);
            }
        }
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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_source_has_so_many_handshakes_at_a_time_and_another_has_its_own() {
        let sources = Arc::<Sources>::default();
        let [one, other]: [IpAddr; 2] = ["10.0.0.1", "10.0.0.2"].map(|it| it.parse().unwrap());
        let enter = |_| sources.enter(one);
        let places: Vec<_> = (0..100).filter_map(enter).collect();
        assert_eq!(places.len(), HANDSHAKES_PER_SOURCE_MAX);
        assert!(sources.enter(other).is_some());
        drop(places);
        assert!(sources.enter(one).is_some());
        assert!(sources.lock().is_empty());
    }
}
