//! The directive: a level that hosts shall reach, not an event.

use serde::{Deserialize, Serialize};

use crate::{
    codec::Extensible,
    extensions::Extensions,
    id::{NodeId, PlanId, ReleaseId},
    identity::SecretKey,
    limits::DIRECTIVE_TARGETS_MAX,
    release::{
        grant::VerifiedGrant,
        signed::{AuthorityError, SessionSigned, SignedObject},
    },
};

/// How far a host shall take a release. Variants are only ever added at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    /// Have every chunk, verified.
    Fetch,
    /// Have it live.
    Promote,
    /// Be back at what was live before this release, or at nothing.
    Revert,
}

/// Which hosts are meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Targets {
    /// Every host that the release is addressed to.
    All,
    /// Only these, in strictly rising order; at most [`DIRECTIVE_TARGETS_MAX`].
    Only(Vec<NodeId>),
}

impl Targets {
    /// Whether `host` is meant.
    pub fn include(&self, host: &NodeId) -> bool {
        match self {
            Self::All => true,
            Self::Only(hosts) => hosts.binary_search(host).is_ok(),
        }
    }
}

/// An order about one release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Directive {
    /// Which release.
    pub release: ReleaseId,
    /// The epoch of the grant under which it is given.
    pub epoch: u64,
    /// Its place among the directives of this epoch. A host obeys only a higher (epoch, number).
    pub number: u64,
    /// Who.
    pub targets: Targets,
    /// What.
    pub stage: Stage,
    /// The plan by which hosts fetch, where it changed.
    pub plan: Option<PlanId>,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Extensible for Directive {
    fn extensions(&self) -> &Extensions {
        &self.extensions
    }
}

impl SignedObject for Directive {
    const MAGIC: &'static str = "scap-directive/1\n";
}

/// A directive with its signature, as it travels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedDirective(SessionSigned);

impl SignedDirective {
    /// Signs `directive`.
    pub fn sign(directive: &Directive, key: &SecretKey) -> Self {
        Self(SessionSigned::sign(directive, key))
    }

    /// Who is meant, by its own word: to find the way to them. None where it cannot be read.
    pub fn targets_unverified(&self) -> Option<Targets> {
        let directive = Directive::from_payload(&self.0.payload).ok()?;
        Some(directive.targets)
    }

    /// Checks that the holder of the grant gave this order under it.
    ///
    /// # Errors
    /// [`AuthorityError::SessionSignature`], [`AuthorityError::Codec`],
    /// [`AuthorityError::OtherRelease`], [`AuthorityError::OtherEpoch`],
    /// [`AuthorityError::Limit`], [`AuthorityError::Targets`].
    pub fn verify(&self, grant: &VerifiedGrant) -> Result<Directive, AuthorityError> {
        let directive: Directive = self.0.open(&grant.grant().session_key)?;
        let grant = grant.grant();
        if directive.release != grant.release {
            return Err(AuthorityError::OtherRelease {
                expected: grant.release,
                found: directive.release,
            });
        }
        if directive.epoch != grant.epoch {
            return Err(AuthorityError::OtherEpoch {
                expected: grant.epoch,
                found: directive.epoch,
            });
        }
        if let Targets::Only(hosts) = &directive.targets {
            AuthorityError::check_limit("targets", hosts.len(), 0..=DIRECTIVE_TARGETS_MAX)?;
            if !hosts.is_sorted_by(|a, b| a < b) {
                return Err(AuthorityError::Targets);
            }
        }
        Ok(directive)
    }
}
