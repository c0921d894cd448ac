//! The origin: which deployment host began to direct a release, said inside the grant.
//!
//! Links authenticate hop by hop, and orders go through relays, so the name of who dialled says little about where an order
//! comes from. The coordinator signs the grant's release, session key and epoch with its own node key, and the grant carries
//! that: who has a deployer's key alone cannot make it.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    codec::{self, Extensible},
    extensions::Extensions,
    id::{NodeId, ReleaseId},
    identity::{Identity, Role, Trust},
    release::{
        grant::Grant,
        signed::{AuthorityError, LeafSigned, SignedObject, UnixMillis},
    },
};

/// What a coordinator says of a grant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Which release is directed.
    pub release: ReleaseId,
    /// By whom.
    pub session_key: [u8; 32],
    /// The grant's epoch.
    pub epoch: u64,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Extensible for Origin {
    fn extensions(&self) -> &Extensions {
        &self.extensions
    }
}

impl SignedObject for Origin {
    const MAGIC: &'static str = "scap-origin/1\n";
}

impl Origin {
    /// What is to be said of `grant`.
    pub fn of(grant: &Grant) -> Self {
        Self {
            release: grant.release,
            session_key: grant.session_key,
            epoch: grant.epoch,
            extensions: Extensions::default(),
        }
    }

    /// The bytes that the grant carries.
    pub(super) fn sign(&self, identity: &Identity) -> Bytes {
        codec::encode(&LeafSigned::sign(self, identity)).into()
    }

    /// Which coordinator, whose certificate was valid at `at`, said this in `bytes`.
    ///
    /// # Errors
    /// [`AuthorityError::Origin`], [`AuthorityError::Codec`].
    pub(super) fn verify(
        &self,
        bytes: &[u8],
        trust: &Trust,
        at: UnixMillis,
    ) -> Result<NodeId, AuthorityError> {
        let signed: LeafSigned = codec::decode(bytes)?;
        let signer = signed.signer(trust, at).ok_or(AuthorityError::Origin)?;
        if signer.role != Role::Coordinator {
            return Err(AuthorityError::Origin);
        }
        match Self::from_payload(&signed.payload)? == *self {
            true => Ok(signer.name),
            false => Err(AuthorityError::Origin),
        }
    }
}
