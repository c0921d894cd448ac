//! The fleet trust: whose certificates count in a fleet from now on, and whose no more.
//!
//! One numbered object holds both the authorities and the denials, so there is one order in which they change. It is
//! signed by an authority that its receiver believes already, since that is what says who is in the fleet: neither a
//! coordinator's key, which is at work on every deployment, nor those who sign releases can let anybody in or cut anybody
//! off. It travels through anyone.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{
    authority::{CLOCK_SKEW_SECS, CertificateAuthority},
    fleet::{FleetName, Role},
    key::PUBLIC_KEY_BYTES,
    peer::{AuthorityCertificate, Leaf},
};
use crate::{
    codec::{CodecError, Extensible},
    extensions::Extensions,
    id::NodeId,
    limits::{
        AUTHORITIES_MAX, AUTHORITY_BYTES_MAX, DENIAL_REASON_BYTES_MAX, DENIALS_MAX,
        FLEET_TRUST_BYTES_MAX,
    },
    release::{
        UnixMillis,
        signed::{SessionSigned, SignedObject},
    },
};

/// Whose certificates count in a fleet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FleetTrust {
    /// Of which fleet.
    pub fleet: FleetName,
    /// Higher than that of all before it; from 1 on.
    pub number: u64,
    /// When it was signed.
    pub issued: UnixMillis,
    /// The certificates of the authorities, in DER: 1 to [`AUTHORITIES_MAX`].
    pub authorities: Vec<Bytes>,
    /// Those of authorities that were believed and are not any more, in DER, so that hosts which still have certificates of
    /// theirs are told so; at most [`AUTHORITIES_MAX`].
    pub retired: Vec<Bytes>,
    /// Who is cut off; at most [`DENIALS_MAX`].
    pub denials: Vec<Denial>,
    /// Room to grow.
    pub extensions: Extensions,
}

/// Somebody who is cut off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Denial {
    /// Who.
    pub who: Denied,
    /// Why, for people; at most [`DENIAL_REASON_BYTES_MAX`] bytes.
    pub reason: String,
    /// Since when.
    pub since: UnixMillis,
    /// Whether it was enrolled again since: what it had before still does not count, and it is no more called revoked.
    pub is_enrolled_again: bool,
}

/// Which certificates are denied. Variants are only ever added at the end.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Denied {
    /// All of a node that were issued until then: also those that nobody knows of. One that is issued later is of a node
    /// that was enrolled again, and counts.
    Node {
        /// What it is.
        role: Role,
        /// Its name.
        name: NodeId,
        /// Until when, this instant included.
        issued_until: UnixMillis,
    },
    /// All of a key, whenever they were issued.
    Key([u8; PUBLIC_KEY_BYTES]),
}

impl Denied {
    /// Whether it means all certificates that the other means.
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (
                Self::Node {
                    role,
                    name,
                    issued_until,
                },
                Self::Node {
                    role: other_role,
                    name: other_name,
                    issued_until: until,
                },
            ) => (role, name) == (other_role, other_name) && issued_until >= until,
            _ => self == other,
        }
    }

    /// Whether it means a certificate.
    pub(super) fn means(&self, leaf: &Leaf) -> bool {
        match self {
            Self::Key(key) => *key == leaf.public_key,
            Self::Node {
                role,
                name,
                issued_until,
            } => {
                *role == leaf.identity.role
                    && *name == leaf.identity.name
                    && issued_at(leaf) <= *issued_until
            }
        }
    }
}

/// When a certificate of this software was issued: it is valid from [`CLOCK_SKEW_SECS`] before.
fn issued_at(leaf: &Leaf) -> UnixMillis {
    let valid_from = leaf.validity.not_before_unix_ms;
    UnixMillis(valid_from.saturating_add(CLOCK_SKEW_SECS * 1000))
}

impl FleetTrust {
    /// Whether it says of somebody who was denied that this goes on, or that it is over.
    pub(super) fn has_or_lifts(&self, who: &Denied) -> bool {
        self.lifts(who) || self.denials.iter().any(|it| it.who.covers(who))
    }

    /// Whether it holds no more than it may, and its authorities are such of its fleet.
    ///
    /// # Errors
    /// [`FleetTrustError`].
    pub fn check(&self) -> Result<(), FleetTrustError> {
        let limit = |what, found: usize, most| match found <= most {
            true => Ok(()),
            false => Err(FleetTrustError::TooMuch { what, found, most }),
        };
        limit("authorities", self.authorities.len(), AUTHORITIES_MAX)?;
        limit("retired authorities", self.retired.len(), AUTHORITIES_MAX)?;
        limit("denials", self.denials.len(), DENIALS_MAX)?;
        for denial in &self.denials {
            let length = denial.reason.len();
            limit("bytes of a reason", length, DENIAL_REASON_BYTES_MAX)?;
        }
        if self.number == 0 || self.authorities.is_empty() {
            return Err(FleetTrustError::Empty);
        }
        for der in self.authorities.iter().chain(&self.retired) {
            limit("bytes of an authority", der.len(), AUTHORITY_BYTES_MAX)?;
            let parsed = AuthorityCertificate::parse(der).map_err(FleetTrustError::Authority)?;
            if parsed.fleet != self.fleet {
                return Err(FleetTrustError::OtherFleet(parsed.fleet));
            }
        }
        Ok(())
    }
}

impl Extensible for FleetTrust {
    fn extensions(&self) -> &Extensions {
        &self.extensions
    }
}

impl SignedObject for FleetTrust {
    const MAGIC: &'static str = "scap-trust/1\n";
}

/// A fleet trust with its signature, as it travels and is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedFleetTrust(pub SessionSigned);

impl SignedFleetTrust {
    /// Signs `trust` with an authority's key.
    pub fn sign(trust: &FleetTrust, authority: &CertificateAuthority) -> Self {
        Self(SessionSigned::sign(trust, authority.key()))
    }

    /// Reads what one of the authorities whose keys these are signed.
    ///
    /// # Errors
    /// [`FleetTrustError`].
    pub(super) fn verify<'a>(
        &self,
        mut authorities: impl Iterator<Item = &'a [u8; PUBLIC_KEY_BYTES]>,
        fleet: &FleetName,
    ) -> Result<FleetTrust, FleetTrustError> {
        let (found, most) = (self.0.payload.len(), FLEET_TRUST_BYTES_MAX);
        if found > most {
            let what = "bytes";
            return Err(FleetTrustError::TooMuch { what, found, most });
        }
        if !authorities.any(|key| self.0.is_signed_by(key)) {
            return Err(FleetTrustError::Signature);
        }
        let trust = FleetTrust::from_payload(&self.0.payload)?;
        trust.check()?;
        match trust.fleet == *fleet {
            true => Ok(trust),
            false => Err(FleetTrustError::OtherFleet(trust.fleet)),
        }
    }

    /// Which one it is, as it says of itself.
    pub fn mark(&self, number: u64) -> TrustMark {
        let hash = blake3::hash(&self.0.payload);
        let digest = hash.as_bytes().first_chunk().expect("a hash has 32 bytes");
        TrustMark {
            number,
            digest: *digest,
        }
    }
}

/// Which fleet trust a node holds to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct TrustMark {
    /// Its number; 0 for none.
    pub number: u64,
    /// The first bytes of the BLAKE3 of its payload, by which two of one number are told apart.
    pub digest: [u8; 8],
}

impl TrustMark {
    /// Bytes of one.
    pub const BYTES: usize = 16;

    /// The number, little-endian, and the digest.
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..8].copy_from_slice(&self.number.to_le_bytes());
        bytes[8..].copy_from_slice(&self.digest);
        bytes
    }

    /// Reads what [`Self::to_bytes`] made; bytes after it are of later versions.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (number, rest) = bytes.split_first_chunk()?;
        Some(Self {
            number: u64::from_le_bytes(*number),
            digest: *rest.first_chunk()?,
        })
    }
}

/// Why something is not the trust of our fleet.
#[derive(Debug, thiserror::Error)]
pub enum FleetTrustError {
    /// None of the authorities that are believed here signed it.
    #[error("a fleet trust that no authority which is believed here signed")]
    Signature,
    /// It cannot be read.
    #[error("read a fleet trust")]
    Codec(#[from] CodecError),
    /// It is of another fleet, or has an authority of one.
    #[error("a fleet trust of fleet {0}")]
    OtherFleet(FleetName),
    /// It holds more than it may.
    #[error("a fleet trust with {found} {what}, at most {most} are allowed")]
    TooMuch {
        /// Of what.
        what: &'static str,
        /// How many.
        found: usize,
        /// How many may be.
        most: usize,
    },
    /// It has no number, or no authority.
    #[error("a fleet trust without a number, or without an authority")]
    Empty,
    /// An authority of it is none.
    #[error("a fleet trust with an authority that is none: {0}")]
    Authority(&'static str),
}
