//! An authority by its fingerprint, for a host that knows nothing else of its fleet.

use std::{fmt, str::FromStr, sync::Arc};

use aws_lc_rs::digest;
use rcgen::{CertificateParams, DistinguishedName};
use rustls::{
    DigitallySignedStruct, Error as TlsError, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime},
    sign::{CertifiedKey, SingleCertAndKey},
};

use super::{
    fleet::{FleetName, Role},
    key::SecretKey,
    peer::{Leaf, PeerIdentity},
    refusal::Refusal,
    trust::{Trust, provider},
    verifier::{check_key, no_tls12},
};

/// The fingerprint of one authority: the SHA-256 of its certificate in DER, as `openssl x509
/// -fingerprint -sha256` prints it. Its text is 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AuthorityPin([u8; 32]);

impl AuthorityPin {
    /// Of a certificate in DER.
    pub fn of(der: &[u8]) -> Self {
        let hash = digest::digest(&digest::SHA256, der);
        Self(hash.as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }

    /// What is asked for as the server's name on a link to enrol over: who does not know the authority
    /// cannot say it, and is shown no certificate. It is a hash of the fingerprint, since it travels
    /// where whoever is on the path can read it.
    pub(crate) fn server_name(&self) -> String {
        let salted = [SERVER_NAME_SALT, &self.0].concat();
        let hash = digest::digest(&digest::SHA256, &salted);
        format!("scap-{}", hex::encode(&hash.as_ref()[..16]))
    }
}

const SERVER_NAME_SALT: &[u8] = b"scap-enroll/1 server name\n";

impl FromStr for AuthorityPin {
    type Err = ParsePinError;

    fn from_str(text: &str) -> Result<Self, ParsePinError> {
        let mut bytes = [0; 32];
        let is_lower = !text.bytes().any(|byte| byte.is_ascii_uppercase());
        match hex::decode_to_slice(text, &mut bytes) {
            Ok(()) if is_lower => Ok(Self(bytes)),
            _ => Err(ParsePinError),
        }
    }
}

impl fmt::Display for AuthorityPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for AuthorityPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AuthorityPin({})", hex::encode(&self.0[..4]))
    }
}

/// A text that is no fingerprint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the fingerprint of an authority is 64 lower-case hex digits")]
pub struct ParsePinError;

impl AuthorityPin {
    /// Lets in a coordinator of the fleet, which shows beside its certificate that of this authority, and nobody else.
    pub(super) fn judge(
        &self,
        fleet: &FleetName,
        leaf: &CertificateDer<'_>,
        shown: &[CertificateDer<'_>],
        now_unix_ms: u64,
    ) -> Result<PeerIdentity, Refusal> {
        let claimed = Leaf::parse(leaf).map_err(Refusal::Malformed)?.identity;
        let shown = shown.iter().take(AUTHORITIES_SHOWN_MAX);
        let pinned = shown.filter(|der| Self::of(der) == *self);
        let pinned: Vec<_> = pinned.map(|der| der.clone().into_owned()).collect();
        let trust = match Trust::new(fleet.clone(), &pinned) {
            Ok(trust) if !pinned.is_empty() => trust,
            _ => return Err(Refusal::UnknownIssuer { claimed }),
        };
        let peer = trust.check(leaf, now_unix_ms)?;
        if peer.role != Role::Coordinator {
            return Err(Refusal::WrongRole {
                peer,
                expected: &[Role::Coordinator],
            });
        }
        Ok(peer)
    }
}

/// Most authorities that a coordinator shows and that are looked at: two while a fleet moves from one to
/// the next, and hashing four costs nothing.
pub(crate) const AUTHORITIES_SHOWN_MAX: usize = 4;

/// Takes whoever answers, since a host that is not enrolled has nothing to be known by: its token, which
/// it sends afterwards, says who it is. Nothing is told to it before.
#[derive(Debug)]
pub(crate) struct AnyNewcomer;

impl ServerCertVerifier for AnyNewcomer {
    fn verify_server_cert(
        &self,
        _leaf: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        Ok(ServerCertVerified::assertion())
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

/// What a newcomer shows where TLS wants a certificate: of a key that nobody sees again, in the name of nobody.
///
/// # Panics
/// Where the system has no randomness to give.
pub(crate) fn newcomer_resolver() -> Arc<SingleCertAndKey> {
    let key = SecretKey::generate();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let certificate = params.self_signed(key.pair());
    let certificate = certificate.expect("an Ed25519 key signs a certificate without a name");
    let secret = PrivateKeyDer::Pkcs8(key.to_pkcs8());
    let certified = CertifiedKey::from_der(vec![certificate.into()], secret, &provider());
    let certified = certified.expect("the TLS library takes Ed25519 keys");
    Arc::new(SingleCertAndKey::from(certified))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::identity::{CertificateAuthority, Validity};

    const NOW: u64 = 1_767_323_045_000;

    fn authority() -> CertificateAuthority {
        CertificateAuthority::create(&"prod".parse().unwrap(), NOW).unwrap()
    }

    fn leaf(authority: &CertificateAuthority, role: Role) -> CertificateDer<'static> {
        let node = authority.node(role, "deploy1".parse().unwrap());
        let key = SecretKey::generate();
        let issued = authority.issue(&node, key.public(), Validity::leaf(NOW));
        issued.unwrap().der
    }

    fn judge(
        pinned: &CertificateAuthority,
        leaf: &CertificateDer<'_>,
        shown: &[&CertificateAuthority],
        now_unix_ms: u64,
    ) -> Result<PeerIdentity, Refusal> {
        let pin = AuthorityPin::of(&pinned.certificate().der);
        let shown: Vec<_> = shown
            .iter()
            .map(|it| it.certificate().der.clone())
            .collect();
        pin.judge(&"prod".parse().unwrap(), leaf, &shown, now_unix_ms)
    }

    #[test]
    fn only_a_coordinator_of_the_pinned_authority_is_let_in() {
        let (ours, theirs) = (authority(), authority());
        let coordinator = leaf(&ours, Role::Coordinator);
        let let_in = judge(&ours, &coordinator, &[&theirs, &ours], NOW).unwrap();
        assert_eq!(let_in.to_uri(), "scap://prod/coordinator/deploy1");

        for shown in [&[][..], &[&theirs]] {
            let refused = judge(&ours, &coordinator, shown, NOW);
            assert!(
                matches!(refused, Err(Refusal::UnknownIssuer { .. })),
                "{refused:?}"
            );
        }
        // Whoever shows our authority is not certified by it for that.
        let forged = leaf(&theirs, Role::Coordinator);
        let refused = judge(&ours, &forged, &[&ours, &theirs], NOW);
        assert!(
            matches!(refused, Err(Refusal::UnknownIssuer { .. })),
            "{refused:?}"
        );
        let refused = judge(&ours, &leaf(&ours, Role::Agent), &[&ours], NOW);
        assert!(
            matches!(refused, Err(Refusal::WrongRole { .. })),
            "{refused:?}"
        );
        let late = NOW + 400 * 24 * 3600 * 1000;
        let refused = judge(&ours, &coordinator, &[&ours], late);
        assert!(
            matches!(refused, Err(Refusal::Expired { .. })),
            "{refused:?}"
        );
        let many: Vec<_> = std::iter::repeat_n(&theirs, AUTHORITIES_SHOWN_MAX).collect();
        let refused = judge(&ours, &coordinator, &[&many[..], &[&ours]].concat(), NOW);
        assert!(
            matches!(refused, Err(Refusal::UnknownIssuer { .. })),
            "{refused:?}"
        );
    }

    #[test]
    fn a_pin_is_read_back_from_its_text_and_its_server_name_does_not_show_it() {
        let pin = AuthorityPin::of(b"certificate");
        let text = pin.to_string();
        assert_eq!(text.parse(), Ok(pin));
        let name = pin.server_name();
        assert!(ServerName::try_from(name.clone()).is_ok(), "{name}");
        assert!(!text.contains(&name[5..]));
        for bad in [&text[1..], &text.to_uppercase(), "", "x"] {
            assert_eq!(bad.parse::<AuthorityPin>(), Err(ParsePinError), "{bad}");
        }
    }
}
