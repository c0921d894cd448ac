//! The membership: which environments and audiences a host is in, said by the coordinator that enrolled it.
//!
//! A host's certificate says who it is. What releases it may have it shows with this to hosts that cannot know: those whose
//! plan does not name it, as it was installed since.

use serde::{Deserialize, Serialize};

use crate::{
    codec::Extensible,
    extensions::Extensions,
    id::NodeId,
    identity::{Identity, Role, Trust},
    limits::MEMBERSHIP_NAMES_MAX,
    release::{
        names::{Audience, Environment},
        signed::{AuthorityError, LeafSigned, SignedObject, UnixMillis},
    },
};

/// What one host is in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// Which host.
    pub host: NodeId,
    /// Its environments; at most [`MEMBERSHIP_NAMES_MAX`].
    pub environments: Vec<Environment>,
    /// Its audiences; at most [`MEMBERSHIP_NAMES_MAX`].
    pub audiences: Vec<Audience>,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Membership {
    /// Whether a release for these is for the host.
    pub fn includes(&self, environment: &Environment, audience: &Audience) -> bool {
        self.environments.contains(environment) && self.audiences.contains(audience)
    }
}

impl Extensible for Membership {
    fn extensions(&self) -> &Extensions {
        &self.extensions
    }
}

impl SignedObject for Membership {
    const MAGIC: &'static str = "scap-membership/1\n";
}

/// A membership with its signature, as the host keeps and shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedMembership(pub LeafSigned);

impl SignedMembership {
    /// Signs `membership` with the coordinator's own key.
    pub fn sign(membership: &Membership, identity: &Identity) -> Self {
        Self(LeafSigned::sign(membership, identity))
    }

    /// Checks that a coordinator of the fleet, whose certificate is valid now, said it of `host`.
    ///
    /// # Errors
    /// [`AuthorityError::Membership`], [`AuthorityError::Codec`], [`AuthorityError::Limit`].
    pub fn verify(
        &self,
        trust: &Trust,
        host: &NodeId,
        now: UnixMillis,
    ) -> Result<Membership, AuthorityError> {
        let refused = || AuthorityError::Membership { host: host.clone() };
        let signer = self.0.signer(trust, now).ok_or_else(refused)?;
        if signer.role != Role::Coordinator {
            return Err(refused());
        }
        let membership = Membership::from_payload(&self.0.payload)?;
        let (environments, audiences) = (&membership.environments, &membership.audiences);
        let allowed = 0..=MEMBERSHIP_NAMES_MAX;
        AuthorityError::check_limit("environments", environments.len(), allowed.clone())?;
        AuthorityError::check_limit("audiences", audiences.len(), allowed)?;
        match membership.host == *host {
            true => Ok(membership),
            false => Err(refused()),
        }
    }
}
