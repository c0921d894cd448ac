//! The lease: "feed this host", said by a coordinator to a relay that the host stands behind.
//!
//! A host to which nothing comes is fed by the seed, if few enough ask. One that the seed cannot reach is fed by one of its
//! relays instead, which dials it and serves it what it holds.

use serde::{Deserialize, Serialize};

use crate::{
    codec::Extensible,
    extensions::Extensions,
    id::{NodeId, ReleaseId},
    identity::{Identity, Role, Trust},
    release::signed::{AuthorityError, LeafSigned, SignedObject, UnixMillis},
};

/// Who is to feed whom, beside what the plan says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Of which release.
    pub release: ReleaseId,
    /// Who feeds: a relay of the host, by the release's plan.
    pub relay: NodeId,
    /// Who is fed.
    pub host: NodeId,
    /// It is not begun after that.
    pub expires: UnixMillis,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Extensible for Lease {
    fn extensions(&self) -> &Extensions {
        &self.extensions
    }
}

impl SignedObject for Lease {
    const MAGIC: &'static str = "scap-lease/1\n";
}

/// A lease with its signature, as it travels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedLease(pub LeafSigned);

impl SignedLease {
    /// Signs `lease` with the coordinator's own key.
    pub fn sign(lease: &Lease, identity: &Identity) -> Self {
        Self(LeafSigned::sign(lease, identity))
    }

    /// Which relay it says to be for: for those who pass it on.
    pub fn relay_unverified(&self) -> Option<NodeId> {
        let lease = Lease::from_payload(&self.0.payload).ok()?;
        Some(lease.relay)
    }

    /// Checks that a coordinator of the fleet signed it, and that it is not over.
    ///
    /// # Errors
    /// [`AuthorityError::Lease`], [`AuthorityError::Codec`], [`AuthorityError::Expired`].
    pub fn verify(&self, trust: &Trust, now: UnixMillis) -> Result<Lease, AuthorityError> {
        let signer = self.0.signer(trust, now);
        if signer.is_none_or(|signer| signer.role != Role::Coordinator) {
            return Err(AuthorityError::Lease);
        }
        let lease = Lease::from_payload(&self.0.payload)?;
        if lease.expires <= now {
            return Err(AuthorityError::Expired {
                what: "the lease",
                at: lease.expires,
                now,
            });
        }
        Ok(lease)
    }
}
