//! The renewal: a host's next certificate, as its coordinator sends it.
//!
//! The certificate is for the key that the host has already, so whoever else gets it can do nothing with it. The coordinator
//! signs what belongs together, so that nobody on the way puts an old membership beside a new certificate.

use serde::{Deserialize, Serialize};

use crate::{
    codec::{CodecError, Extensible},
    extensions::Extensions,
    id::NodeId,
    identity::{Identity, Role, Trust},
    release::{
        membership::SignedMembership,
        signed::{LeafSigned, SignedObject, UnixMillis},
    },
};

/// Longest certificate in a renewal, in bytes of PEM: ours have some 700.
pub const RENEWAL_CERTIFICATE_BYTES_MAX: usize = 4096;

/// What one host is to use from now on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renewal {
    /// Which host.
    pub host: NodeId,
    /// Its next certificate, in PEM; at most [`RENEWAL_CERTIFICATE_BYTES_MAX`].
    pub certificate: String,
    /// What it is in, said anew: the one that it has is believed no longer than the certificate of the coordinator that signed
    /// it is valid. None where the coordinator does not know; the host then keeps what it has.
    pub membership: Option<SignedMembership>,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Extensible for Renewal {
    fn extensions(&self) -> &Extensions {
        &self.extensions
    }
}

impl SignedObject for Renewal {
    const MAGIC: &'static str = "scap-renewal/1\n";
}

/// A renewal with its signature, as it travels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedRenewal(pub LeafSigned);

impl SignedRenewal {
    /// Signs `renewal` with the coordinator's own key.
    pub fn sign(renewal: &Renewal, identity: &Identity) -> Self {
        Self(LeafSigned::sign(renewal, identity))
    }

    /// Which host it says to be for: for those who pass it on.
    pub fn host_unverified(&self) -> Option<NodeId> {
        let renewal = Renewal::from_payload(&self.0.payload).ok()?;
        Some(renewal.host)
    }

    /// Checks that a coordinator of the fleet, whose certificate is valid now, sent it to `host`. What is in it is for
    /// [`Identity::renew`] and [`SignedMembership::verify`] to check.
    ///
    /// # Errors
    /// [`RenewalError`].
    pub fn verify(
        &self,
        trust: &Trust,
        host: &NodeId,
        now: UnixMillis,
    ) -> Result<Renewal, RenewalError> {
        let signer = self.0.signer(trust, now);
        if signer.is_none_or(|signer| signer.role != Role::Coordinator) {
            return Err(RenewalError::Signer);
        }
        let renewal = Renewal::from_payload(&self.0.payload)?;
        if renewal.host != *host {
            return Err(RenewalError::Host(renewal.host));
        }
        match renewal.certificate.len() {
            ..=RENEWAL_CERTIFICATE_BYTES_MAX => Ok(renewal),
            found => Err(RenewalError::TooLong(found)),
        }
    }
}

/// Why a renewal is none.
#[derive(Debug, thiserror::Error)]
pub enum RenewalError {
    /// No coordinator signed it.
    #[error(
        "a renewal that no coordinator of this fleet signed, whose certificate is valid by this clock"
    )]
    Signer,
    /// It cannot be read.
    #[error("read a renewal")]
    Codec(#[from] CodecError),
    /// It is another host's.
    #[error("a renewal for {0}")]
    Host(NodeId),
    /// It is longer than certificates are.
    #[error(
        "a renewal with a certificate of {0} bytes, at most {RENEWAL_CERTIFICATE_BYTES_MAX} are taken"
    )]
    TooLong(usize),
}
