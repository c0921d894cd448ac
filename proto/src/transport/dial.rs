//! Dialling a peer at one of its addresses.

use std::{fmt, net::SocketAddr, sync::Arc, time::Duration};

use quinn::{ClientConfig, NoneTokenStore};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    endpoint::Endpoint,
    handshake::{HANDSHAKE_MAX, HandshakeError},
    link::Link,
    tls::{self, ALPN, QUESTION_ALPN, RENEWAL_ALPN},
};
use crate::{
    id::NodeId,
    identity::{
        RefusalKind,
        verifier::{Expect, Verifier},
    },
    reason::Reason,
};

/// How long an address may stay silent before the next is tried beside it: the delay of RFC 8305,
/// section 5. Several round trips between sites, and short enough for a person to wait for.
const STAGGER: Duration = Duration::from_millis(250);

impl Endpoint {
    /// Dials the peer at its addresses, in their order, and gives the first link that comes about.
    /// An address that fails or stays silent for 250 ms is followed by the next; the others are
    /// dropped once one has answered. Takes at most
    /// [`HANDSHAKE_SECS_MAX`](super::HANDSHAKE_SECS_MAX) and 250 ms for each address but the first.
    /// Cancel-safe: dropping it ends what it began.
    ///
    /// # Errors
    /// [`DialError`], with what became of each address.
    pub async fn dial(&self, addresses: &[SocketAddr], expect: &Expect) -> Result<Link, DialError> {
        self.dial_for(ALPN, addresses, expect).await
    }

    /// As [`Self::dial`], to ask one question and no more: the link takes the place of no other of ours with that peer. A
    /// peer of a build that knows no such links refuses it for its version.
    ///
    /// # Errors
    /// [`DialError`].
    pub async fn dial_to_ask(
        &self,
        addresses: &[SocketAddr],
        expect: &Expect,
    ) -> Result<Link, DialError> {
        self.dial_for(QUESTION_ALPN, addresses, expect).await
    }

    /// As [`Self::dial`], to renew the certificate of the agent `name`, which may have expired, for at most
    /// [`RENEWAL_GRACE_DAYS`](crate::identity::RENEWAL_GRACE_DAYS).
    ///
    /// # Errors
    /// [`DialError`].
    pub async fn dial_to_renew(
        &self,
        addresses: &[SocketAddr],
        name: NodeId,
    ) -> Result<Link, DialError> {
        let expect = Expect::agent_to_renew(name);
        self.dial_for(RENEWAL_ALPN, addresses, &expect).await
    }

    pub(super) async fn dial_for(
        &self,
        alpn: &'static str,
        addresses: &[SocketAddr],
        expect: &Expect,
    ) -> Result<Link, DialError> {
        let mut left = addresses.iter().copied();
        let mut attempts = JoinSet::new();
        let mut failures = Vec::new();
        loop {
            if let Some(address) = left.next() {
                let attempt = attempt(self.clone(), alpn, address, expect.clone());
                attempts.spawn(async move { (address, attempt.await) });
            }
            tokio::select! {
                biased;
                done = attempts.join_next() => match done {
                    Some(Ok((_, Ok(link)))) => return Ok(link),
                    Some(Ok((address, Err(error)))) => failures.push((address, error)),
                    Some(Err(error)) => {
                        // Nobody aborts an attempt while the dial goes on, but a runtime that shuts
                        // down.
                        if let Ok(panic) = error.try_into_panic() {
                            std::panic::resume_unwind(panic);
                        }
                    }
                    None => {
                        return Err(DialError { name: expect.name.clone(), failures });
                    }
                },
                () = sleep(STAGGER), if left.len() > 0 => {}
            }
        }
    }
}

async fn attempt(
    endpoint: Endpoint,
    alpn: &str,
    address: SocketAddr,
    expect: Expect,
) -> Result<Link, HandshakeError> {
    let verifier = Verifier::new(endpoint.identity.trust().clone(), expect);
    let tls = tls::client(&endpoint.identity, Arc::clone(&verifier), alpn);
    let mut config = ClientConfig::new(tls);
    let window = endpoint.pace.first_window();
    config
        .transport_config(endpoint.settings.transport_config(address, window))
        .token_store(Arc::new(NoneTokenStore));
    let connecting = endpoint
        .quic
        .connect_with(config, address, SERVER_NAME)
        .map_err(HandshakeError::Start)?;

    let handshake = async {
        let connection = connecting.await?;
        // The welcome: the peer has seen our certificate and lets us in.
        connection.accept_uni().await?;
        Ok(connection)
    };
    match timeout(HANDSHAKE_MAX, handshake).await {
        Ok(Ok(connection)) => match verifier.verdict() {
            Some(Ok(peer)) => Ok(Link::new(connection, peer.clone(), &endpoint.pace, window)),
            _ => unreachable!("a handshake ends well only after a good verdict"),
        },
        Ok(Err(error)) => Err(HandshakeError::explain(error, &verifier, None)),
        Err(_) => Err(HandshakeError::TimedOut),
    }
}

/// The TLS library wants a name; it is neither sent nor looked at.
const SERVER_NAME: &str = "scap";

/// A peer that could not be reached at any of its addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DialError {
    /// Who was dialled, where a name was asked for.
    pub name: Option<NodeId>,
    /// What became of each address, in the order in which they failed; empty where none was given.
    pub failures: Vec<(SocketAddr, HandshakeError)>,
}

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("dial ")?;
        match &self.name {
            Some(name) => write!(f, "{name}")?,
            None => f.write_str("a peer")?,
        }
        if self.failures.is_empty() {
            return f.write_str(": it has no address");
        }
        for (index, (address, error)) in self.failures.iter().enumerate() {
            let separator = if index == 0 { " at" } else { "; at" };
            write!(f, "{separator} {address}: {error}")?;
        }
        if self
            .failures
            .iter()
            .any(|(_, error)| *error == HandshakeError::TimedOut)
        {
            f.write_str(" (hint: is the agent running, and is UDP let through to it?)")?;
        }
        Ok(())
    }
}

impl DialError {
    /// Whether the peer, where it was reached, speaks another version of the protocol than was asked for.
    pub fn is_version(&self) -> bool {
        let mut failures = self.failures.iter();
        failures.any(|(_, error)| error.refusal_kind() == Some(RefusalKind::Version))
    }
}

impl DialError {
    /// Why, as far as certificates and clocks are the reason: what is worth more than that the peer is not reached.
    pub fn code(&self) -> Reason {
        let refusals = self.failures.iter().map(|(_, error)| error.code());
        refusals.flatten().next().unwrap_or(Reason::Unreachable)
    }
}

impl std::error::Error for DialError {}
