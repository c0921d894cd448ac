//! The rule by which rustls lets a peer in: our authorities, the right role and, when dialling, the
//! right name.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use rustls::{
    DigitallySignedStruct, DistinguishedName, Error as TlsError, PeerIncompatible, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{aws_lc_rs, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};

use super::{
    fleet::{FleetName, Role},
    peer::PeerIdentity,
    pin::AuthorityPin,
    refusal::Refusal,
    renewal::RENEWAL_GRACE_MS,
    trust::Trust,
};
use crate::id::NodeId;

/// Whom a handshake may end with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expect {
    /// In one of these roles.
    pub roles: &'static [Role],
    /// Under this name; any, where there is none.
    pub name: Option<NodeId>,
    /// For how many milliseconds its certificate may have been over: 0, but where a link is for a renewal alone.
    pub(crate) expired_ms_max: u64,
}

impl Expect {
    /// Any node of the fleet.
    pub const ANY: Self = Self {
        roles: &[Role::Agent, Role::Coordinator],
        name: None,
        expired_ms_max: 0,
    };

    /// Any agent.
    pub const AGENT: Self = Self {
        roles: &[Role::Agent],
        name: None,
        expired_ms_max: 0,
    };

    /// The agent of this name.
    pub fn agent(name: NodeId) -> Self {
        Self {
            name: Some(name),
            ..Self::AGENT
        }
    }

    /// The agent of this name, to renew its certificate and for nothing else: it may have expired, for at most
    /// [`RENEWAL_GRACE_DAYS`](super::RENEWAL_GRACE_DAYS).
    pub(crate) fn agent_to_renew(name: NodeId) -> Self {
        Self {
            expired_ms_max: RENEWAL_GRACE_MS,
            ..Self::agent(name)
        }
    }

    fn check(&self, peer: PeerIdentity) -> Result<PeerIdentity, Refusal> {
        if !self.roles.contains(&peer.role) {
            return Err(Refusal::WrongRole {
                peer,
                expected: self.roles,
            });
        }
        match &self.name {
            Some(expected) if *expected != peer.name => Err(Refusal::WrongName {
                expected: expected.clone(),
                peer,
            }),
            _ => Ok(peer),
        }
    }
}

/// Checks the peer of one handshake, on either side, and remembers what it found. TLS 1.3 only.
///
/// It is for one handshake: resumption must be off, or a peer comes in unchecked.
#[derive(Debug)]
pub struct Verifier {
    whom: Whom,
    verdict: OnceLock<Result<PeerIdentity, Refusal>>,
}

/// Who is let in.
#[derive(Debug)]
enum Whom {
    /// Who is certified by an authority that we believe, and is expected.
    Expected { trust: Trust, expect: Expect },
    /// A coordinator of the fleet, by an authority of which we know the fingerprint alone.
    Pinned { fleet: FleetName, pin: AuthorityPin },
}

impl Verifier {
    /// For one handshake.
    pub fn new(trust: Trust, expect: Expect) -> Arc<Self> {
        Self::of(Whom::Expected { trust, expect })
    }

    /// For one handshake with a coordinator, which shows beside its certificate that of the pinned authority.
    pub(crate) fn pinned(fleet: FleetName, pin: AuthorityPin) -> Arc<Self> {
        Self::of(Whom::Pinned { fleet, pin })
    }

    fn of(whom: Whom) -> Arc<Self> {
        Arc::new(Self {
            whom,
            verdict: OnceLock::new(),
        })
    }

    /// What was found; nothing, where the peer has shown no certificate.
    pub fn verdict(&self) -> Option<&Result<PeerIdentity, Refusal>> {
        self.verdict.get()
    }

    fn check(
        &self,
        leaf: &CertificateDer<'_>,
        shown: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), TlsError> {
        let now_unix_ms = Duration::from_secs(now.as_secs()).as_millis();
        let now_unix_ms = u64::try_from(now_unix_ms).unwrap_or(u64::MAX);
        self.verdict
            .get_or_init(|| match &self.whom {
                Whom::Expected { trust, expect } => trust
                    .check_expired(leaf, now_unix_ms, expect.expired_ms_max)
                    .and_then(|peer| expect.check(peer)),
                Whom::Pinned { fleet, pin } => pin.judge(fleet, leaf, shown, now_unix_ms),
            })
            .as_ref()
            .map(|_| ())
            .map_err(TlsError::from)
    }
}

/// Whether the peer has the key of the certificate that it shows.
pub(super) fn check_key(
    message: &[u8],
    leaf: &CertificateDer<'_>,
    signature: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, TlsError> {
    let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms;
    verify_tls13_signature(message, leaf, signature, &algorithms)
}

/// TLS 1.2 is not offered, so nothing can be signed in it.
pub(super) fn no_tls12() -> Result<HandshakeSignatureValid, TlsError> {
    Err(PeerIncompatible::Tls12NotOfferedOrEnabled.into())
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        shown: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        self.check(leaf, shown, now)
            .map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _leaf: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        check_key(message, leaf, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

impl ClientCertVerifier for Verifier {
    /// None: a stranger learns nothing about our authorities, and a node has one certificate to
    /// show anyway.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        shown: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, TlsError> {
        self.check(leaf, shown, now)
            .map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _leaf: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        check_key(message, leaf, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}
