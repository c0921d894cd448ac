//! The finalization: "this is the stable one".

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    codec::Extensible,
    extensions::Extensions,
    id::ReleaseId,
    identity::SecretKey,
    release::{
        grant::VerifiedGrant,
        names::{Audience, Environment, RepoPath},
        release::VerifiedRelease,
        signed::{AuthorityError, SessionSigned, SignedObject},
    },
};

/// Closes a rollout. It never expires.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finalization {
    /// Which release.
    pub release: ReleaseId,
    /// Its repo.
    pub repo: RepoPath,
    /// Its environment.
    pub environment: Environment,
    /// Its audience.
    pub audience: Audience,
    /// Its sequence.
    pub sequence: u64,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Extensible for Finalization {
    fn extensions(&self) -> &Extensions {
        &self.extensions
    }
}

impl SignedObject for Finalization {
    const MAGIC: &'static str = "scap-finalization/1\n";
}

impl Finalization {
    /// The finalization of `release`.
    pub fn of(release: &VerifiedRelease) -> Self {
        let about = release.release();
        Self {
            release: release.id(),
            repo: about.repo.clone(),
            environment: about.environment.clone(),
            audience: about.audience.clone(),
            sequence: about.sequence,
            extensions: Extensions::default(),
        }
    }
}

/// A finalization with its signature, as it travels, with its release and grant beside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedFinalization(SessionSigned);

impl SignedFinalization {
    /// Signs `finalization`.
    pub fn sign(finalization: &Finalization, key: &SecretKey) -> Self {
        Self(SessionSigned::sign(finalization, key))
    }

    /// Its payload and the signature over it, to be kept as files.
    pub fn parts(&self) -> (&Bytes, &Bytes) {
        (&self.0.payload, &self.0.signature)
    }

    /// One that was kept as files. Whether it is any, [`Self::verify`] tells.
    pub fn from_parts(payload: Bytes, signature: Bytes) -> Self {
        Self(SessionSigned { payload, signature })
    }

    /// Checks that the holder of the grant finalized exactly this release.
    ///
    /// # Errors
    /// [`AuthorityError::SessionSignature`], [`AuthorityError::Codec`],
    /// [`AuthorityError::Finalization`].
    pub fn verify(
        &self,
        release: &VerifiedRelease,
        grant: &VerifiedGrant,
    ) -> Result<Finalization, AuthorityError> {
        let found: Finalization = self.0.open(&grant.grant().session_key)?;
        let mut expected = Finalization::of(release);
        expected.extensions = found.extensions.clone();
        if found == expected {
            Ok(found)
        } else {
            Err(AuthorityError::Finalization)
        }
    }
}
