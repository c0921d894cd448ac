//! What all signed objects have in common: payloads with a magic, and Ed25519 over them.

use std::ops::RangeInclusive;

use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    codec::{self, CodecError, Extensible},
    id::{NodeId, ReleaseId},
    identity::{self, Identity, PUBLIC_KEY_BYTES, PeerIdentity, SecretKey, Trust, Validity},
    reason::Reason,
    release::names::{Audience, Environment, RepoPath},
    release::signature::SignatureError,
    release::signers::SignersError,
};

/// Milliseconds since the Unix epoch, by the clock of whoever wrote them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct UnixMillis(pub u64);

/// An object that is signed: its payload is the magic and then its encoding.
pub trait SignedObject: Serialize + DeserializeOwned + Extensible {
    /// Kind and version, the first bytes of the payload.
    const MAGIC: &'static str;

    /// The bytes to sign, hash and send.
    fn to_payload(&self) -> Bytes {
        let mut payload = Self::MAGIC.as_bytes().to_vec();
        payload.extend_from_slice(&codec::encode(self));
        payload.into()
    }

    /// Reads a payload. It says nothing about who wrote it.
    ///
    /// # Errors
    /// [`CodecError`], with [`CodecError::Magic`] for another kind or version.
    fn from_payload(payload: &[u8]) -> Result<Self, CodecError> {
        let body = payload
            .strip_prefix(Self::MAGIC.as_bytes())
            .ok_or(CodecError::Magic {
                expected: Self::MAGIC.trim_ascii_end(),
            })?;
        codec::decode_message(body)
    }
}

/// A payload signed with a session key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionSigned {
    /// The object's payload.
    pub payload: Bytes,
    /// Ed25519 over the payload: 64 bytes.
    pub signature: Bytes,
}

impl SessionSigned {
    /// Signs `object`.
    pub fn sign<T: SignedObject>(object: &T, key: &SecretKey) -> Self {
        let payload = object.to_payload();
        let signature = Bytes::copy_from_slice(&key.sign(&payload));
        Self { payload, signature }
    }

    /// Checks the signature and then reads the object.
    ///
    /// # Errors
    /// [`AuthorityError::SessionSignature`] and [`AuthorityError::Codec`].
    pub fn open<T: SignedObject>(&self, session_key: &[u8; 32]) -> Result<T, AuthorityError> {
        match self.is_signed_by(session_key) {
            true => Ok(T::from_payload(&self.payload)?),
            false => Err(AuthorityError::SessionSignature),
        }
    }

    /// Whether the holder of a key signed it.
    pub fn is_signed_by(&self, key: &[u8; 32]) -> bool {
        let signature = self.signature.as_ref().try_into();
        signature.is_ok_and(|signature| identity::verify(key, &self.payload, signature))
    }
}

/// A payload signed with a node's own key, and the node's certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeafSigned {
    /// The object's payload.
    pub payload: Bytes,
    /// The node's leaf certificate, DER.
    pub certificate: Bytes,
    /// Ed25519 over the payload: 64 bytes.
    pub signature: Bytes,
}

impl LeafSigned {
    /// Signs `object`.
    pub fn sign<T: SignedObject>(object: &T, identity: &Identity) -> Self {
        let payload = object.to_payload();
        let signature = Bytes::copy_from_slice(&identity.sign(&payload));
        let certificate = identity.certificate();
        Self {
            payload,
            certificate,
            signature,
        }
    }

    /// The key and the validity of the certificate that came along; they are the signer's once [`Self::signer`] is known.
    pub fn certified(&self) -> Option<([u8; PUBLIC_KEY_BYTES], Validity)> {
        identity::leaf_key(&self.certificate).zip(identity::leaf_validity(&self.certificate))
    }

    /// The node of the fleet that signed the payload; `None` where none did whose certificate is valid now.
    pub fn signer(&self, trust: &Trust, now: UnixMillis) -> Option<PeerIdentity> {
        let signature = self.signature.as_ref().try_into().ok()?;
        let signer = trust.verify_signature(&self.certificate, now.0, &self.payload, signature);
        signer.ok()
    }
}

/// Why a signed object has no authority here and now.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// Not such an object.
    #[error("read a signed object")]
    Codec(#[from] CodecError),
    /// No signature of enough allowed signers.
    #[error("{what} is not signed by enough allowed signers for {environment}:{repo}")]
    Signers {
        /// Which object.
        what: &'static str,
        /// For which environment it says to be.
        environment: Environment,
        /// For which repo it says to be.
        repo: RepoPath,
        /// What is wrong with the signatures.
        source: Box<SignatureError>,
    },
    /// A grant or a directive that comes with another release than its own.
    #[error("for release {found}, not for {expected}")]
    OtherRelease {
        /// What it should be for.
        expected: ReleaseId,
        /// What it is for.
        found: ReleaseId,
    },
    /// A directive that comes with another grant than its own.
    #[error("a directive of epoch {found}, under a grant of epoch {expected}")]
    OtherEpoch {
        /// The grant's epoch.
        expected: u64,
        /// The directive's.
        found: u64,
    },
    /// Longer, shorter, more or fewer than the format allows.
    #[error("{found} {what}, {least} to {most} are allowed")]
    Limit {
        /// Of what.
        what: &'static str,
        /// How many there are.
        found: usize,
        /// Fewest allowed.
        least: usize,
        /// Most allowed.
        most: usize,
    },
    /// Targets of which a search would miss some.
    #[error("the targets of a directive are not in strictly rising order")]
    Targets,
    /// A dead-man time that is none.
    #[error("a directive that lapses after a time that is not 4 bytes of 10 s to 24 h")]
    DeadMan,
    /// The grant's signer did not sign the release.
    #[error("the grant is signed by a key that did not sign the release")]
    GrantSigner,
    /// Not signed with the session key that the grant names.
    #[error("not signed with the session key that the grant names")]
    SessionSignature,
    /// Past its time; nothing may begin.
    #[error("{what} expired at {at:?}, this clock says {now:?}")]
    Expired {
        /// Which object.
        what: &'static str,
        /// When it expired.
        at: UnixMillis,
        /// What the clock said.
        now: UnixMillis,
    },
    /// For an environment that this host is not in.
    #[error("addressed to environment {0}, which this host is not in")]
    Environment(Environment),
    /// For an audience that this host is not in.
    #[error("addressed to audience {0}, which this host is not in")]
    Audience(Audience),
    /// The finalization does not name the release it comes with.
    #[error("the finalization names other values than its release")]
    Finalization,
    /// The signers file that came along is not taken, and by the one that is followed it is not signed.
    #[error("take the signers file that came along")]
    SignersFile(#[source] Box<SignersError>),
    /// Not from a deployment host that proves to be it.
    #[error("the grant does not prove from which deployment host of this fleet it is")]
    Origin,
    /// From a deployment host that this host does not follow.
    #[error("directed from {found}, and this host follows {followed} alone")]
    OtherOrigin {
        /// From where it is.
        found: NodeId,
        /// Which this host follows, as text.
        followed: String,
    },
    /// A report that its host did not sign.
    #[error("a report for {claimed} that is not signed by it")]
    Report {
        /// Whose it says to be.
        claimed: NodeId,
    },
    /// A roster that no coordinator signed.
    #[error("a roster that no coordinator of this fleet signed")]
    Roster,
    /// A lease that no coordinator signed.
    #[error("a lease that no coordinator of this fleet signed")]
    Lease,
    /// A membership that no coordinator signed, or another host's.
    #[error("a membership that no coordinator of this fleet signed for {host}")]
    Membership {
        /// Who showed it.
        host: NodeId,
    },
}

impl AuthorityError {
    /// Its code, where it is why an order is refused.
    pub fn code(&self) -> Reason {
        match self {
            Self::Signers { .. }
            | Self::GrantSigner
            | Self::SessionSignature
            | Self::Report { .. }
            | Self::Roster
            | Self::Lease
            | Self::Membership { .. } => Reason::RefusedSignature,
            Self::Codec(_)
            | Self::OtherRelease { .. }
            | Self::OtherEpoch { .. }
            | Self::Limit { .. }
            | Self::Targets
            | Self::DeadMan
            | Self::Finalization => Reason::RefusedMalformed,
            Self::Expired { .. } => Reason::RefusedExpired,
            Self::SignersFile(_) => Reason::RefusedSigners,
            Self::Origin | Self::OtherOrigin { .. } => Reason::RefusedOrigin,
            Self::Environment(_) => Reason::RefusedEnvironment,
            Self::Audience(_) => Reason::RefusedAudience,
        }
    }

    /// Refuses a number of things that the format does not allow.
    pub(super) fn check_limit(
        what: &'static str,
        found: usize,
        allowed: RangeInclusive<usize>,
    ) -> Result<(), Self> {
        if allowed.contains(&found) {
            return Ok(());
        }
        let (least, most) = allowed.into_inner();
        Err(Self::Limit {
            what,
            found,
            least,
            most,
        })
    }
}
