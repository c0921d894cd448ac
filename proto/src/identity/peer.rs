//! What a node's certificate says.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use x509_parser::{
    certificate::X509Certificate, extensions::GeneralName, oid_registry::OID_SIG_ED25519,
    parse_x509_certificate, time::ASN1Time,
};

use super::{authority::Validity, fleet::FleetName, fleet::Role, key::PUBLIC_KEY_BYTES};
use crate::id::NodeId;

/// Who a node is, as the authority of its fleet certified it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PeerIdentity {
    /// Its fleet.
    pub fleet: FleetName,
    /// What it is there.
    pub role: Role,
    /// Its name there.
    pub name: NodeId,
}

impl PeerIdentity {
    /// The form it has in a certificate: `scap://<fleet>/<role>/<name>`.
    pub fn to_uri(&self) -> String {
        format!("{SCHEME}{}/{}/{}", self.fleet, self.role, self.name)
    }

    fn from_uri(uri: &str) -> Option<Self> {
        let mut parts = uri.strip_prefix(SCHEME)?.split('/');
        let identity = Self {
            fleet: FleetName::from_str(parts.next()?).ok()?,
            role: Role::from_str(parts.next()?).ok()?,
            name: NodeId::from_str(parts.next()?).ok()?,
        };
        parts.next().is_none().then_some(identity)
    }
}

impl fmt::Display for PeerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} of fleet {}", self.role, self.name, self.fleet)
    }
}

/// A certificate that has the form of a node's. Nothing vouches for it yet.
pub(super) struct Leaf {
    pub(super) identity: PeerIdentity,
    pub(super) public_key: [u8; PUBLIC_KEY_BYTES],
    pub(super) validity: Validity,
}

impl Leaf {
    /// Reads a certificate in DER, or says what about it is not a node's.
    pub(super) fn parse(der: &[u8]) -> Result<Self, &'static str> {
        let x509 = parse(der)?;
        Ok(Self {
            identity: single_uri(&x509)
                .and_then(PeerIdentity::from_uri)
                .ok_or("it does not name one node as scap://<fleet>/<role>/<name>")?,
            public_key: public_key(&x509).ok_or("its key is not Ed25519")?,
            validity: validity(&x509).ok_or("it has no sensible period of validity")?,
        })
    }
}

/// The public key of a node's certificate, in DER; none where it has not the form of one.
pub(crate) fn leaf_key(der: &[u8]) -> Option<[u8; PUBLIC_KEY_BYTES]> {
    Leaf::parse(der).ok().map(|leaf| leaf.public_key)
}

/// When a node's certificate, in DER, is valid; none where it has not the form of one.
pub(crate) fn leaf_validity(der: &[u8]) -> Option<Validity> {
    Leaf::parse(der).ok().map(|leaf| leaf.validity)
}

/// A certificate that has the form of an authority's.
pub(super) struct AuthorityCertificate {
    pub(super) fleet: FleetName,
    pub(super) public_key: [u8; PUBLIC_KEY_BYTES],
    pub(super) validity: Validity,
}

impl AuthorityCertificate {
    /// Reads a certificate in DER, or says what about it is not an authority's.
    pub(super) fn parse(der: &[u8]) -> Result<Self, &'static str> {
        let x509 = parse(der)?;
        if !x509.is_ca() {
            return Err("it is not an authority's");
        }
        Ok(Self {
            fleet: single_uri(&x509)
                .and_then(|uri| uri.strip_prefix(SCHEME))
                .and_then(|name| name.parse().ok())
                .ok_or("it does not name one fleet as scap://<fleet>")?,
            public_key: public_key(&x509).ok_or("its key is not Ed25519")?,
            validity: validity(&x509).ok_or("it has no sensible period of validity")?,
        })
    }
}

/// The form of a fleet's name in its authority's certificate.
pub(super) fn fleet_uri(fleet: &FleetName) -> String {
    format!("{SCHEME}{fleet}")
}

const SCHEME: &str = "scap://";

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, &'static str> {
    match parse_x509_certificate(der) {
        Ok((&[], x509)) => Ok(x509),
        _ => Err("it is not an X.509 certificate"),
    }
}

fn public_key(x509: &X509Certificate<'_>) -> Option<[u8; PUBLIC_KEY_BYTES]> {
    let key = x509.public_key();
    let is_ed25519 = key.algorithm.algorithm == OID_SIG_ED25519;
    is_ed25519
        .then(|| key.subject_public_key.data.as_ref().try_into().ok())
        .flatten()
}

/// The subject's one alternative name, where it is a URI.
fn single_uri<'a>(x509: &'a X509Certificate<'_>) -> Option<&'a str> {
    let names = x509.subject_alternative_name().ok()??;
    match names.value.general_names.as_slice() {
        [GeneralName::URI(uri)] => Some(uri),
        _ => None,
    }
}

fn validity(x509: &X509Certificate<'_>) -> Option<Validity> {
    let unix_ms = |time: &ASN1Time| u64::try_from(time.timestamp()).ok()?.checked_mul(1000);
    let validity = Validity {
        not_before_unix_ms: unix_ms(&x509.validity().not_before)?,
        not_after_unix_ms: unix_ms(&x509.validity().not_after)?,
    };
    (validity.not_before_unix_ms <= validity.not_after_unix_ms).then_some(validity)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_uri_names_exactly_one_node() {
        let uri = "scap://prod/agent/web1.example.org";
        assert_eq!(PeerIdentity::from_uri(uri).unwrap().to_uri(), uri);
        for bad in [
            "scap://prod/agent",
            "scap://prod/agent/web1/",
            "scap://prod/agent/web1/x",
            "scap://prod/root/web1",
            "scap://prod/Agent/web1",
            "scap:///agent/web1",
            "SCAP://prod/agent/web1",
            "spiffe://prod/agent/web1",
            "scap://prod/agent/web1%2f",
        ] {
            assert!(PeerIdentity::from_uri(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn bytes_that_are_no_certificate_are_refused_and_do_not_panic() {
        for bytes in [&b""[..], b"\x30", b"\x30\x82\xff\xff", &[0xff; 300]] {
            assert!(Leaf::parse(bytes).is_err());
        }
    }
}
