//! Whom a node believes: the authorities of its fleet, and what they vouch for.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::Duration,
};

use bytes::Bytes;
use rustls::{
    RootCertStore, SignatureScheme,
    client::verify_server_cert_signed_by_trust_anchor,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, SignatureVerificationAlgorithm, UnixTime},
    server::ParsedCertificate,
};

use super::{
    believed::Believed,
    fleet::FleetName,
    fleet_trust::{FleetTrust, TrustMark},
    keep::Keeping,
    key::{self, PUBLIC_KEY_BYTES, SIGNATURE_BYTES},
    peer::{Leaf, PeerIdentity},
    refusal::Refusal,
};

/// Whom a node of `fleet` believes. Cheap to clone, and all clones are one: what one comes to believe by a fleet trust
/// ([`Self::offer`]) all do from then on.
#[derive(Clone)]
pub struct Trust {
    fleet: FleetName,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    believed: RwLock<Arc<Believed>>,
    /// Held by who is about to believe something else.
    keeping: Mutex<Keeping>,
}

impl Trust {
    /// Trusts `authorities` for nodes of `fleet`, or gives back the index of the first that is no
    /// certificate.
    pub(super) fn new(
        fleet: FleetName,
        authorities: &[CertificateDer<'static>],
    ) -> Result<Self, usize> {
        let believed = Arc::new(Believed::only(authorities)?);
        Ok(Self {
            fleet,
            shared: Arc::new(Shared {
                believed: RwLock::new(believed),
                keeping: Mutex::default(),
            }),
        })
    }

    pub(super) fn believed(&self) -> Arc<Believed> {
        let believed = self.shared.believed.read();
        Arc::clone(&believed.unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn replace(&self, next: Arc<Believed>) {
        let believed = self.shared.believed.write();
        *believed.unwrap_or_else(PoisonError::into_inner) = next;
    }

    pub(super) fn keeping(&self) -> MutexGuard<'_, Keeping> {
        let keeping = self.shared.keeping.lock();
        keeping.unwrap_or_else(PoisonError::into_inner)
    }

    /// Which fleet trust counts here.
    pub fn mark(&self) -> TrustMark {
        self.believed().mark
    }

    /// What it says, with who is denied still that it leaves out; nothing where only the identity's own authorities are believed.
    pub fn fleet_trust(&self) -> Option<FleetTrust> {
        self.believed().trust.clone()
    }

    /// The certificates of the authorities that are believed, in DER.
    pub fn authorities(&self) -> Vec<Bytes> {
        let believed = self.believed();
        let authorities = believed.authorities.iter();
        let ders = authorities.map(|it| Bytes::copy_from_slice(&it.der));
        ders.collect()
    }

    /// The key of the authority that issued a certificate (in DER), among those that are believed.
    pub fn issuer_of(&self, der: &[u8]) -> Option<[u8; PUBLIC_KEY_BYTES]> {
        let believed = self.believed();
        let issuer = believed.authorities.iter().find(|authority| {
            let mut anchors = RootCertStore::empty();
            anchors.add(authority.der.clone()).is_ok() && is_issued_by(&anchors, der)
        });
        issuer.map(|authority| authority.key)
    }

    /// The fleet whose nodes are trusted.
    pub fn fleet(&self) -> &FleetName {
        &self.fleet
    }

    /// Who the holder of a certificate (in DER) is, where one of the authorities vouches for it at
    /// `now_unix_ms` as a member of our fleet. That its sender holds the key is for the caller to
    /// see.
    ///
    /// # Errors
    /// [`Refusal`], about the first of these that fails: form, issuer, validity, fleet.
    pub fn check(&self, der: &[u8], now_unix_ms: u64) -> Result<PeerIdentity, Refusal> {
        self.check_leaf(der, now_unix_ms).map(|leaf| leaf.identity)
    }

    /// As [`Self::check`], for a renewal and nothing else: also where the certificate has expired, for at most `grace_ms`
    /// milliseconds.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn check_expired(
        &self,
        der: &[u8],
        now_unix_ms: u64,
        grace_ms: u64,
    ) -> Result<PeerIdentity, Refusal> {
        match self.check(der, now_unix_ms) {
            Err(Refusal::Expired { validity, .. })
                if now_unix_ms - validity.not_after_unix_ms <= grace_ms =>
            {
                self.check(der, validity.not_after_unix_ms)
            }
            checked => checked,
        }
    }

    /// Who signed `message`, shown by the signer's certificate (in DER): for what a node signed and
    /// others carried.
    ///
    /// # Errors
    /// [`LeafSignatureError::Refused`] as [`Self::check`]; [`LeafSignatureError::Signature`].
    pub fn verify_signature(
        &self,
        der: &[u8],
        now_unix_ms: u64,
        message: &[u8],
        signature: &[u8; SIGNATURE_BYTES],
    ) -> Result<PeerIdentity, LeafSignatureError> {
        let leaf = self.check_leaf(der, now_unix_ms)?;
        if !key::verify(&leaf.public_key, message, signature) {
            return Err(LeafSignatureError::Signature {
                signer: leaf.identity,
            });
        }
        Ok(leaf.identity)
    }

    /// Whether one of the authorities issued this certificate at all, at whatever time.
    pub(super) fn check_issuer(&self, der: &[u8]) -> Result<Leaf, Refusal> {
        self.issued(&self.believed(), der)
    }

    fn issued(&self, believed: &Believed, der: &[u8]) -> Result<Leaf, Refusal> {
        let leaf = Leaf::parse(der).map_err(Refusal::Malformed)?;
        if is_issued_by(&believed.anchors, der) {
            return Ok(leaf);
        }
        let peer = leaf.identity;
        Err(match is_issued_by(&believed.retired, der) {
            true => Refusal::OldAuthority { peer },
            false => Refusal::UnknownIssuer { claimed: peer },
        })
    }

    /// Why the holder of a certificate (in DER) is not let in, at whatever time: no authority that is believed issued it, or
    /// it is revoked.
    pub fn cut_off(&self, der: &[u8]) -> Option<Refusal> {
        let believed = self.believed();
        match self.issued(&believed, der) {
            Ok(leaf) => revoked(&believed, &leaf).err(),
            Err(refusal) => Some(refusal),
        }
    }

    pub(super) fn check_leaf(&self, der: &[u8], now_unix_ms: u64) -> Result<Leaf, Refusal> {
        let believed = self.believed();
        let leaf = self.issued(&believed, der)?;
        let Leaf {
            identity, validity, ..
        } = &leaf;
        if now_unix_ms > validity.not_after_unix_ms {
            return Err(Refusal::Expired {
                peer: identity.clone(),
                validity: *validity,
                now_unix_ms,
            });
        }
        if now_unix_ms < validity.not_before_unix_ms {
            return Err(Refusal::NotYetValid {
                peer: identity.clone(),
                validity: *validity,
                now_unix_ms,
            });
        }
        if identity.fleet != self.fleet {
            return Err(Refusal::WrongFleet {
                peer: identity.clone(),
                ours: self.fleet.clone(),
            });
        }
        revoked(&believed, &leaf)?;
        Ok(leaf)
    }
}

fn revoked(believed: &Believed, leaf: &Leaf) -> Result<(), Refusal> {
    match believed.denial(leaf) {
        None => Ok(()),
        Some(denial) => Err(Refusal::Revoked {
            peer: leaf.identity.clone(),
            reason: denial.reason.clone(),
            since_unix_ms: denial.since.0,
        }),
    }
}

/// Whether one of some authorities issued a certificate.
fn is_issued_by(anchors: &RootCertStore, der: &[u8]) -> bool {
    let Ok(leaf) = Leaf::parse(der) else {
        return false;
    };
    // Within its own period, so that an unknown issuer is told from a wrong time.
    let when = Duration::from_millis(leaf.validity.not_before_unix_ms);
    let der = CertificateDer::from(der);
    let verified = ParsedCertificate::try_from(&der).and_then(|parsed| {
        verify_server_cert_signed_by_trust_anchor(
            &parsed,
            anchors,
            &[],
            UnixTime::since_unix_epoch(when),
            ed25519(),
        )
    });
    verified.is_ok()
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Trust({} authorities of {})",
            self.believed().authorities.len(),
            self.fleet
        )
    }
}

/// Why something is not what a node of our fleet signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LeafSignatureError {
    /// The certificate that came with it is refused.
    #[error("refused the signer")]
    Refused(#[from] Refusal),
    /// The signature is not by the key of that certificate, or of another message.
    #[error("not signed by {signer}")]
    Signature {
        /// Whose certificate it is.
        signer: PeerIdentity,
    },
}

/// The one provider of cryptography, named wherever one is needed: there is no process-wide
/// default.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// How certificates are signed here; everything else is refused.
fn ed25519() -> &'static [&'static dyn SignatureVerificationAlgorithm] {
    aws_lc_rs::default_provider()
        .signature_verification_algorithms
        .mapping
        .iter()
        .find(|(scheme, _)| *scheme == SignatureScheme::ED25519)
        .map(|(_, algorithms)| *algorithms)
        .expect("the provider verifies Ed25519")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::identity::{CertificateAuthority, Role, SecretKey, Validity};

    const NOW: u64 = 1_767_323_045_000;

    fn authority() -> CertificateAuthority {
        CertificateAuthority::create(&"prod".parse().unwrap(), NOW).unwrap()
    }

    fn trust(authorities: &[&CertificateAuthority]) -> Trust {
        let der: Vec<_> = authorities
            .iter()
            .map(|a| a.certificate().der.clone())
            .collect();
        Trust::new("prod".parse().unwrap(), &der).unwrap()
    }

    fn leaf(authority: &CertificateAuthority, key: &SecretKey) -> CertificateDer<'static> {
        let node = authority.node(Role::Agent, "web1".parse().unwrap());
        let issued = authority.issue(&node, key.public(), Validity::leaf(NOW));
        issued.unwrap().der
    }

    #[test]
    fn what_a_node_signed_is_known_as_its_own_whoever_carried_it() {
        let (fleet, key) = (authority(), SecretKey::generate());
        let (trust, der) = (trust(&[&fleet]), leaf(&fleet, &key));
        let signature = key.sign(b"report");
        let signer = trust
            .verify_signature(&der, NOW, b"report", &signature)
            .unwrap();
        assert_eq!(signer.to_uri(), "scap://prod/agent/web1");
        for (message, signature) in [
            (&b"rapport"[..], signature),
            (b"report", SecretKey::generate().sign(b"report")),
        ] {
            let refused = trust
                .verify_signature(&der, NOW, message, &signature)
                .unwrap_err();
            assert_eq!(
                refused.to_string(),
                "not signed by agent web1 of fleet prod"
            );
        }
        let stranger = leaf(&authority(), &key);
        let refused = trust.verify_signature(&stranger, NOW, b"report", &signature);
        assert!(matches!(
            refused,
            Err(LeafSignatureError::Refused(Refusal::UnknownIssuer { .. }))
        ));
    }

    #[test]
    fn a_certificate_is_valid_from_its_first_second_to_its_last() {
        let (fleet, key) = (authority(), SecretKey::generate());
        let (trust, der) = (trust(&[&fleet]), leaf(&fleet, &key));
        let Validity {
            not_before_unix_ms: first,
            not_after_unix_ms: last,
        } = Leaf::parse(&der).unwrap().validity;
        assert!(trust.check(&der, first).is_ok());
        assert!(trust.check(&der, last).is_ok());
        assert!(matches!(
            trust.check(&der, first - 1),
            Err(Refusal::NotYetValid { .. })
        ));
        assert!(matches!(
            trust.check(&der, last + 1),
            Err(Refusal::Expired { .. })
        ));
    }

    #[test]
    fn what_has_expired_is_let_in_for_a_renewal_for_as_long_as_is_said_and_only_by_who_certified_it()
     {
        let (fleet, key) = (authority(), SecretKey::generate());
        let (ours, der) = (trust(&[&fleet]), leaf(&fleet, &key));
        let last = Leaf::parse(&der).unwrap().validity.not_after_unix_ms;
        assert!(ours.check_expired(&der, last, 0).is_ok());
        assert!(ours.check_expired(&der, last + 1000, 1000).is_ok());
        assert!(matches!(
            ours.check_expired(&der, last + 1001, 1000),
            Err(Refusal::Expired { now_unix_ms, .. }) if now_unix_ms == last + 1001
        ));
        assert!(matches!(
            ours.check_expired(&der, 0, u64::MAX),
            Err(Refusal::NotYetValid { .. })
        ));
        assert!(matches!(
            trust(&[&authority()]).check_expired(&der, last + 1, 1000),
            Err(Refusal::UnknownIssuer { .. })
        ));
    }

    #[test]
    fn a_fleet_that_moves_to_a_new_authority_trusts_both_meanwhile() {
        let (old, new, key) = (authority(), authority(), SecretKey::generate());
        let both = trust(&[&old, &new]);
        for authority in [&old, &new] {
            assert!(both.check(&leaf(authority, &key), NOW).is_ok());
        }
        assert!(matches!(
            trust(&[&new]).check(&leaf(&old, &key), NOW),
            Err(Refusal::UnknownIssuer { .. })
        ));
    }

    #[test]
    fn an_expired_stranger_is_a_stranger() {
        let (ours, theirs) = (authority(), authority());
        let der = leaf(&theirs, &SecretKey::generate());
        let later = NOW + 20 * 365 * 24 * 3600 * 1000;
        let refused = trust(&[&ours]).check(&der, later);
        assert!(matches!(refused, Err(Refusal::UnknownIssuer { .. })));
    }

    #[test]
    fn neither_an_authority_nor_a_damaged_certificate_is_a_node() {
        let fleet = authority();
        let trust = trust(&[&fleet]);
        let refused = trust.check(&fleet.certificate().der, NOW);
        assert!(matches!(refused, Err(Refusal::Malformed(_))));
        let der = leaf(&fleet, &SecretKey::generate());
        for index in 0..der.len() {
            let mut damaged = der.to_vec();
            damaged[index] ^= 1;
            assert!(trust.check(&damaged, NOW).is_err(), "byte {index}");
        }
    }

    #[test]
    fn what_a_node_certified_is_not_trusted() {
        let fleet = authority();
        let (node, victim) = (SecretKey::generate(), SecretKey::generate());
        let issuer_der = leaf(&fleet, &node);
        let issuer = rcgen::Issuer::from_ca_cert_der(&issuer_der, node.pair()).unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.subject_alt_names = vec![rcgen::SanType::URI(
            "scap://prod/coordinator/evil".try_into().unwrap(),
        )];
        let forged = params.signed_by(victim.pair(), &issuer).unwrap();
        let refused = trust(&[&fleet]).check(forged.der(), NOW);
        assert!(matches!(refused, Err(Refusal::UnknownIssuer { .. })));
    }
}
