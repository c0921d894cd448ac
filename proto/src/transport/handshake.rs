//! How a handshake ends without a link.

use std::time::Duration;

use quinn::{ConnectError, ConnectionError};

use super::tls::ALPN;
use crate::{
    identity::{HandshakeRefusal, Refusal, RefusalKind, handshake_refusal, verifier::Verifier},
    reason::Reason,
};

/// A handshake that takes longer, in seconds, is given up, on both sides: 60 of the round trips
/// that are assumed at first, and time for a host with two busy cores.
pub const HANDSHAKE_SECS_MAX: u64 = 10;

pub(super) const HANDSHAKE_MAX: Duration = Duration::from_secs(HANDSHAKE_SECS_MAX);

/// Why a handshake gave no link.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// We do not let the peer in.
    #[error("refused the peer: {0}")]
    RefusedPeer(Refusal),
    /// A refusal of which TLS knows the reason: by the peer, or by us before the peer showed a
    /// certificate.
    #[error("{0}")]
    Refused(HandshakeRefusal),
    /// The two sides share no version of the protocol.
    #[error(
        "no common version of the protocol: this side speaks {ALPN}, the peer {} \
         (hint: upgrade the older side)",
        theirs.as_deref().unwrap_or("refused that and does not say what it speaks")
    )]
    Version {
        /// What the peer offered; the side that dials does not hear it.
        theirs: Option<String>,
    },
    /// It took longer than [`HANDSHAKE_SECS_MAX`].
    #[error("the handshake did not end within {HANDSHAKE_SECS_MAX} s")]
    TimedOut,
    /// It could not be begun.
    #[error("send to this address: {0}")]
    Start(ConnectError),
    /// The connection failed.
    #[error("{0}")]
    Connection(ConnectionError),
}

impl HandshakeError {
    /// The kind of refusal, on whichever side, where it is one.
    pub fn refusal_kind(&self) -> Option<RefusalKind> {
        match self {
            Self::RefusedPeer(refusal) => Some(refusal.kind()),
            Self::Refused(refusal) => Some(refusal.kind),
            Self::Version { .. } => Some(RefusalKind::Version),
            Self::TimedOut | Self::Start(_) | Self::Connection(_) => None,
        }
    }

    /// The code of a refusal for a certificate's time.
    pub fn code(&self) -> Option<Reason> {
        match self {
            Self::RefusedPeer(Refusal::NotYetValid { .. }) => Some(Reason::ClockSkew),
            Self::RefusedPeer(Refusal::Expired { .. }) => Some(Reason::CertificateExpired),
            Self::Refused(refusal) if refusal.clocks.is_some_and(|it| it.is_skew()) => {
                Some(Reason::ClockSkew)
            }
            Self::Refused(refusal) if refusal.kind == RefusalKind::NotValidNow => {
                Some(Reason::CertificateExpired)
            }
            _ => None,
        }
    }

    /// All that is known about why this connection ended: our own verdict first.
    pub(super) fn explain(
        error: ConnectionError,
        verifier: &Verifier,
        offered: Option<String>,
    ) -> Self {
        match (verifier.verdict(), handshake_refusal(&error)) {
            (Some(Err(refusal)), _) => Self::RefusedPeer(refusal.clone()),
            (_, Some(refusal)) if refusal.kind == RefusalKind::Version => {
                Self::Version { theirs: offered }
            }
            (_, Some(refusal)) => Self::Refused(refusal),
            (_, None) => Self::Connection(error),
        }
    }
}
