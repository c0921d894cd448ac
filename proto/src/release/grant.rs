//! The grant: one human signature hands a release to a session key.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    codec::{self, CodecError, Extensible},
    extensions::Extensions,
    id::{NodeId, ReleaseId},
    identity::{Identity, Trust},
    limits::{EXTENSIONS_MAX, SIGNERS_LINKS_MAX},
    release::{
        origin::Origin,
        release::{Authority, VerifiedRelease},
        signature::{SignError, Signer, SshSignature},
        signed::{AuthorityError, SignedObject, UnixMillis},
        signers::{SignedSigners, SignersError},
    },
};

/// Who may direct a release now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Which release.
    pub release: ReleaseId,
    /// The Ed25519 public key that signs directives and the finalization.
    pub session_key: [u8; 32],
    /// Which grant of this release it is: a host obeys only the highest it has seen.
    pub epoch: u64,
    /// After this the session key may begin nothing.
    pub expires: UnixMillis,
    /// Room to grow.
    pub extensions: Extensions,
}

/// Its release names a config snapshot, on which a host acts or refuses the release; no bytes.
const NEEDS_STAGES: u16 = 1;
/// Which deployment host it is from, by its own key. Who does not know it asks for none.
const ORIGIN: u16 = 2;
/// The first of the links of the chain of signers files, each an extension of its own with an even number: who does not know
/// them goes on with the file that it has.
const SIGNERS: u16 = 16;
const _: () = assert!(SIGNERS_LINKS_MAX + 2 <= EXTENSIONS_MAX);

impl Grant {
    /// The same, from this coordinator.
    pub fn from_origin(self, identity: &Identity) -> Self {
        let bytes = Origin::of(&self).sign(identity);
        let extensions = self.extensions.with(ORIGIN, bytes);
        let extensions = extensions.expect("a certificate and two signatures are under a kilobyte");
        Self { extensions, ..self }
    }

    /// Which coordinator it is from, whose certificate was valid at `at`.
    ///
    /// # Errors
    /// [`AuthorityError::Origin`] where it does not say so, or says what is not so; [`AuthorityError::Codec`].
    pub fn origin(&self, trust: &Trust, at: UnixMillis) -> Result<NodeId, AuthorityError> {
        let bytes = self.extensions.get(ORIGIN).ok_or(AuthorityError::Origin)?;
        Origin::of(self).verify(bytes, trust, at)
    }

    /// The same with the last [`SIGNERS_LINKS_MAX`] links of the chain of signers files.
    ///
    /// # Errors
    /// [`SignersError::TooLong`].
    pub fn with_signers(self, chain: &[SignedSigners]) -> Result<Self, SignersError> {
        let last = chain.len().saturating_sub(SIGNERS_LINKS_MAX);
        let mut extensions = self.extensions;
        for (tag, link) in signers_tags().zip(&chain[last..]) {
            let with = extensions.with(tag, link.encode()?);
            extensions = with.expect("there is room for so many, and for each");
        }
        Ok(Self { extensions, ..self })
    }
    /// The grant of a release that hosts must not take without what its config snapshot asks of them. Builds that do not act
    /// on config snapshots refuse it by the extension's number.
    pub fn needing_stages(self) -> Self {
        let extensions = self.extensions.with(NEEDS_STAGES, Bytes::new());
        let extensions = extensions.expect("a grant is made with few extensions");
        Self { extensions, ..self }
    }
}

impl Extensible for Grant {
    const EXTENSIONS_KNOWN: &'static [u16] = &[NEEDS_STAGES];

    fn extensions(&self) -> &Extensions {
        &self.extensions
    }
}

impl SignedObject for Grant {
    const MAGIC: &'static str = "scap-grant/1\n";
}

/// A grant with its signature, as it travels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedGrant {
    /// The grant's payload.
    pub payload: Bytes,
    /// One armoured SSHSIG signature in the release's namespace.
    pub signature: SshSignature,
}

/// The extensions that links of the chain of signers files are in, in their order.
fn signers_tags() -> impl Iterator<Item = u16> {
    (SIGNERS..).step_by(2).take(SIGNERS_LINKS_MAX)
}

impl SignedGrant {
    /// The links of the chain of signers files that it carries, in their order. That the grant is anybody's word need not hold for
    /// them: each proves itself.
    ///
    /// # Errors
    /// [`CodecError`].
    pub fn signers(&self) -> Result<Vec<SignedSigners>, CodecError> {
        let grant = Grant::from_payload(&self.payload)?;
        let links = signers_tags().filter_map(|tag| grant.extensions.get(tag));
        links.map(|link| codec::decode(link)).collect()
    }

    /// Signs `grant` in the namespace of its release.
    ///
    /// # Errors
    /// [`SignError`].
    pub fn sign(grant: &Grant, namespace: &str, signer: &Signer) -> Result<Self, SignError> {
        let payload = grant.to_payload();
        let signature = signer.sign(namespace, &payload)?;
        Ok(Self { payload, signature })
    }

    /// By what it is known again: the BLAKE3 of its payload.
    pub fn hash(&self) -> [u8; blake3::OUT_LEN] {
        *blake3::hash(&self.payload).as_bytes()
    }

    /// The grant, where it is the one of this [hash](Self::hash) that was verified before. Its signature is not looked at: who signed it
    /// may not sign any more.
    pub fn verified_before(self, hash: &[u8; blake3::OUT_LEN]) -> Option<VerifiedGrant> {
        if self.hash() != *hash {
            return None;
        }
        let grant = Grant::from_payload(&self.payload).ok()?;
        Some(VerifiedGrant {
            grant,
            signed: self,
        })
    }

    /// Checks that one of the release's own signers granted this release.
    ///
    /// # Errors
    /// [`AuthorityError::Codec`], [`AuthorityError::Signers`], [`AuthorityError::GrantSigner`],
    /// [`AuthorityError::OtherRelease`]. Time is checked by [`VerifiedGrant::check_time`].
    pub fn verify(
        self,
        release: &VerifiedRelease,
        authority: &Authority<'_>,
        now: UnixMillis,
    ) -> Result<VerifiedGrant, AuthorityError> {
        let about = release.release();
        let signer = authority
            .signers
            .verify(&about.namespace(), &self.payload, &self.signature, now.0)
            .map_err(|source| AuthorityError::Signers {
                what: "the grant",
                environment: about.environment.clone(),
                repo: about.repo.clone(),
                source: source.into(),
            })?;
        if !release.signers().contains(&signer) {
            return Err(AuthorityError::GrantSigner);
        }
        let grant = Grant::from_payload(&self.payload)?;
        if grant.release != release.id() {
            return Err(AuthorityError::OtherRelease {
                expected: release.id(),
                found: grant.release,
            });
        }
        Ok(VerifiedGrant {
            grant,
            signed: self,
        })
    }
}

/// A grant by one of its release's signers.
#[derive(Debug, Clone)]
pub struct VerifiedGrant {
    grant: Grant,
    signed: SignedGrant,
}

impl VerifiedGrant {
    /// What it says.
    pub fn grant(&self) -> &Grant {
        &self.grant
    }

    /// As it travels.
    pub fn signed(&self) -> &SignedGrant {
        &self.signed
    }

    /// Refuses to begin anything after the grant's time.
    ///
    /// # Errors
    /// [`AuthorityError::Expired`].
    pub fn check_time(&self, now: UnixMillis) -> Result<(), AuthorityError> {
        if now <= self.grant.expires {
            return Ok(());
        }
        Err(AuthorityError::Expired {
            what: "the grant",
            at: self.grant.expires,
            now,
        })
    }
}
