//! The finalization: "this is the stable one".

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    codec::{CodecError, Extensible},
    extensions::Extensions,
    id::ReleaseId,
    identity::SecretKey,
    release::{
        grant::VerifiedGrant,
        names::{Audience, Environment, RepoPath},
        reach::Reach,
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

/// For whom it is, where that is not all. Required: who does not know it would take the release for the stable one of all hosts.
const REACH: u16 = 1;

impl Extensible for Finalization {
    const EXTENSIONS_KNOWN: &'static [u16] = &[REACH];

    fn extensions(&self) -> &Extensions {
        &self.extensions
    }
}

impl SignedObject for Finalization {
    const MAGIC: &'static str = "scap-finalization/1\n";
}

impl Finalization {
    /// The finalization of `release` for all hosts.
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

    /// The same for these hosts.
    pub fn reaching(self, reach: &Reach) -> Self {
        let Some(bytes) = reach.encode() else {
            return self;
        };
        let extensions = self.extensions.with(REACH, bytes.into());
        let extensions = extensions.expect("it is no longer than allowed, and few are there");
        Self { extensions, ..self }
    }

    /// For which hosts it is.
    ///
    /// # Errors
    /// Where there is something else. One that was verified has none.
    pub fn reach(&self) -> Result<Reach, CodecError> {
        match self.extensions.get(REACH) {
            Some(bytes) => Reach::decode(bytes),
            None => Ok(Reach::All),
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

    /// For whom it says to be, before anybody knows whether it was signed.
    ///
    /// # Errors
    /// Where it is none.
    pub fn reach_unverified(&self) -> Result<Reach, CodecError> {
        Finalization::from_payload(&self.0.payload)?.reach()
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
        found.reach()?;
        let mut expected = Finalization::of(release);
        expected.extensions = found.extensions.clone();
        if found == expected {
            Ok(found)
        } else {
            Err(AuthorityError::Finalization)
        }
    }
}
