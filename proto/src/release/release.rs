//! The release: one snapshot, in its place in the order of one repo and environment.

use std::num::NonZeroUsize;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    bounded,
    codec::{CodecError, Extensible},
    content::{ChunkRef, SnapshotRef, delta},
    extensions::Extensions,
    id::{GitOid, ReleaseId, SnapshotId},
    limits::{
        CHUNK_BYTES_MAX, DELTA_PARTS_MAX, DELTAS_MAX, DESCRIPTOR_BYTES_MAX, EXTENSION_BYTES_MAX,
        SIGNATURES_MAX,
    },
    release::{
        names::{Audience, Environment, RepoPath},
        signature::{AllowedSigners, Quorum, SignError, Signer, SshSignature, VerifiedSigner},
        signed::{AuthorityError, SignedObject, UnixMillis},
    },
};

/// What deployers sign.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// Which repo.
    pub repo: RepoPath,
    /// For which environment.
    pub environment: Environment,
    /// Which hosts may have it.
    pub audience: Audience,
    /// Its place in the order of this repo and environment: at least 1, higher is later.
    pub sequence: u64,
    /// The tree.
    pub snapshot: SnapshotRef,
    /// The commit that the tree is of; a directory has none.
    pub commit: Option<GitOid>,
    /// The configuration that goes with it, as a snapshot of its own.
    pub config: Option<SnapshotRef>,
    /// Shorter ways from snapshots that hosts may have; at most [`DELTAS_MAX`].
    pub deltas: Vec<DeltaRef>,
    /// The release before it, as the signer knew it.
    pub previous: Option<ReleaseId>,
    /// When it was signed.
    pub created: UnixMillis,
    /// After this nothing may begin with it; what is live or finalized stays so.
    pub expires: UnixMillis,
    /// Room to grow.
    pub extensions: Extensions,
}

/// What a release's id stands behind where its config snapshot is meant.
pub const CONFIG_MAGIC: &str = "scap-config-snapshot/1\n";

/// A delta: it makes chunks of the release's snapshot from those of its base.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeltaRef {
    /// What a host must have.
    pub base: SnapshotId,
    /// Its parts (see [`crate::content::delta`]), 1 to [`DELTA_PARTS_MAX`].
    pub chunks: Vec<ChunkRef>,
}

impl DeltaRef {
    /// What nodes open to fetch the parts from each other, in place of the id of `release`: the BLAKE3 of the magic of
    /// deltas, the release's id and the base's.
    pub fn id(&self, release: ReleaseId) -> ReleaseId {
        let id = [
            delta::MAGIC.as_bytes(),
            release.as_bytes(),
            self.base.as_bytes(),
        ];
        ReleaseId::of(&id.concat())
    }
}

impl Extensible for Release {
    fn extensions(&self) -> &Extensions {
        &self.extensions
    }
}

impl SignedObject for Release {
    const MAGIC: &'static str = "scap-release/1\n";
}

/// Which releases come first where a host or a link has several to do, the least urgent first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// What can wait: it gets what others leave.
    Bulk,
    /// Unless said.
    #[default]
    Normal,
    /// What cannot: all others wait for it.
    Urgent,
}

/// The first part of the commit's object, where it comes along; parts have even numbers, and who does not know them asks for none.
const COMMIT_OBJECT: u16 = 4;
/// Most parts of a commit's object.
const COMMIT_OBJECT_PARTS_MAX: usize = 4;
/// Longest commit object that comes along, in bytes: a signature has a kilobyte, and a message seldom more.
pub const COMMIT_OBJECT_BYTES_MAX: usize = COMMIT_OBJECT_PARTS_MAX * EXTENSION_BYTES_MAX;

/// The priority: one byte, 0 for bulk, 2 for urgent. Who does not know it has all releases take turns.
const PRIORITY: u16 = 2;

impl Priority {
    /// All of them, the least urgent first.
    pub const ALL: [Self; 3] = [Self::Bulk, Self::Normal, Self::Urgent];

    /// Its place in [`Self::ALL`].
    pub fn index(self) -> usize {
        self as usize
    }
}

impl Release {
    /// What nodes open to fetch the config snapshot of `release` from each other, in place of that id: the BLAKE3 of
    /// [`CONFIG_MAGIC`] and the id.
    pub fn config_id(release: ReleaseId) -> ReleaseId {
        ReleaseId::of(&[CONFIG_MAGIC.as_bytes(), release.as_bytes()].concat())
    }

    /// The same release, with a priority.
    pub fn with_priority(self, priority: Priority) -> Self {
        if priority == self.priority() {
            return self;
        }
        let byte = Bytes::copy_from_slice(&[priority as u8]);
        let extensions = self.extensions.with(PRIORITY, byte);
        let extensions = extensions.expect("a release is made with few extensions");
        Self { extensions, ..self }
    }

    /// The same, with the object of its commit as git hashes it, without git's header: for hosts that check who signed the commit. One
    /// longer than [`COMMIT_OBJECT_BYTES_MAX`] is left out.
    pub fn with_commit_object(self, object: &[u8]) -> Self {
        if object.len() > COMMIT_OBJECT_BYTES_MAX {
            return self;
        }
        let mut extensions = self.extensions;
        for (tag, part) in commit_object_tags().zip(object.chunks(EXTENSION_BYTES_MAX)) {
            let with = extensions.with(tag, Bytes::copy_from_slice(part));
            extensions = with.expect("a release is made with few extensions");
        }
        Self { extensions, ..self }
    }

    /// The object of its commit, where it came along. Whether it is that is for the reader to see.
    pub fn commit_object(&self) -> Option<Vec<u8>> {
        let parts = commit_object_tags().map_while(|tag| self.extensions.get(tag));
        let parts: Vec<&[u8]> = parts.map(Bytes::as_ref).collect();
        (!parts.is_empty()).then(|| parts.concat())
    }

    /// Its priority; normal where it says none, or none that this version knows.
    pub fn priority(&self) -> Priority {
        match self.extensions.get(PRIORITY).map(Bytes::as_ref) {
            Some([0]) => Priority::Bulk,
            Some([2]) => Priority::Urgent,
            _ => Priority::Normal,
        }
    }

    /// The SSHSIG namespace in which this release and its grants are signed, and which the
    /// `namespaces=` patterns of an allowed-signers file match.
    pub fn namespace(&self) -> String {
        namespace(&self.environment, &self.repo)
    }

    fn check_limits(&self) -> Result<(), AuthorityError> {
        for snapshot in [Some(self.snapshot), self.config].into_iter().flatten() {
            AuthorityError::check_limit(
                "bytes of descriptor",
                snapshot.descriptor_length as usize,
                1..=DESCRIPTOR_BYTES_MAX as usize,
            )?;
        }
        AuthorityError::check_limit("deltas", self.deltas.len(), 0..=DELTAS_MAX)?;
        for delta in &self.deltas {
            let parts = delta.chunks.len();
            AuthorityError::check_limit("parts of a delta", parts, 1..=DELTA_PARTS_MAX)?;
            for part in &delta.chunks {
                let bytes = part.plain_length as usize;
                let allowed = 1..=CHUNK_BYTES_MAX as usize;
                AuthorityError::check_limit("bytes in a part of a delta", bytes, allowed)?;
            }
        }
        Ok(())
    }
}

fn commit_object_tags() -> impl Iterator<Item = u16> {
    (COMMIT_OBJECT..).step_by(2).take(COMMIT_OBJECT_PARTS_MAX)
}

/// The namespace of all that may be signed only by who may release `repo` for `environment`. The magic of the payload tells kinds apart.
pub(super) fn namespace(environment: &Environment, repo: &RepoPath) -> String {
    format!("scap-release:{environment}:{repo}")
}

/// Most signatures that are read: one too many is refused by name, and not so many that it costs memory.
const SIGNATURES_READ_MAX: usize = 8 * SIGNATURES_MAX;

/// A release with its signatures, as it travels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedRelease {
    /// The release's payload: what `ssh-keygen -Y verify` reads on its standard input.
    pub payload: Bytes,
    /// Armoured SSHSIG signatures, 1 to [`SIGNATURES_MAX`].
    #[serde(deserialize_with = "bounded::list::<_, _, SIGNATURES_READ_MAX>")]
    pub signatures: Vec<SshSignature>,
}

impl SignedRelease {
    /// Signs `release` with one key. More signatures can be added to the value.
    ///
    /// # Errors
    /// [`SignError`] from the key file or the ssh-agent.
    pub fn sign(release: &Release, signer: &Signer) -> Result<Self, SignError> {
        let payload = release.to_payload();
        let signature = signer.sign(&release.namespace(), &payload)?;
        Ok(Self {
            payload,
            signatures: vec![signature],
        })
    }

    /// The release's id, which does not depend on who signed it.
    pub fn id(&self) -> ReleaseId {
        ReleaseId::of(&self.payload)
    }

    /// What it says, which is not proved to be anybody's word.
    ///
    /// # Errors
    /// [`CodecError`].
    pub fn read_unverified(&self) -> Result<Release, CodecError> {
        Release::from_payload(&self.payload)
    }

    /// The release, where it is the one that was verified before. Its signatures are not looked at: who signed it may not sign any more, and
    /// none of them is named as its signer.
    pub fn verified_before(self, id: &ReleaseId) -> Option<VerifiedRelease> {
        if self.id() != *id {
            return None;
        }
        Some(VerifiedRelease {
            id: *id,
            release: self.read_unverified().ok()?,
            signers: Vec::new(),
            signed: self,
        })
    }

    /// Checks that enough allowed signers signed exactly these bytes for exactly this repo and
    /// environment. Whether it is addressed to this host, in order and in time are other questions.
    ///
    /// # Errors
    /// [`AuthorityError::Codec`], [`AuthorityError::Limit`], [`AuthorityError::Signers`].
    pub fn verify(
        self,
        authority: &Authority<'_>,
        now: UnixMillis,
    ) -> Result<VerifiedRelease, AuthorityError> {
        AuthorityError::check_limit("signatures", self.signatures.len(), 1..=SIGNATURES_MAX)?;
        let release = self.read_unverified()?;
        let signers = authority
            .signers
            .verify_threshold(
                &release.namespace(),
                &self.payload,
                Quorum {
                    signatures: &self.signatures,
                    threshold: authority.threshold,
                },
                now.0,
            )
            .map_err(|source| AuthorityError::Signers {
                what: "the release",
                environment: release.environment.clone(),
                repo: release.repo.clone(),
                source: source.into(),
            })?;
        release.check_limits()?;
        Ok(VerifiedRelease {
            id: self.id(),
            release,
            signers,
            signed: self,
        })
    }
}

/// Who may release: keys with the namespaces they may sign for, and how many of them it takes.
#[derive(Debug, Clone, Copy)]
pub struct Authority<'a> {
    /// The keys.
    pub signers: &'a AllowedSigners,
    /// How many distinct keys must have signed.
    pub threshold: NonZeroUsize,
}

/// A release that enough allowed signers signed.
#[derive(Debug, Clone)]
pub struct VerifiedRelease {
    id: ReleaseId,
    release: Release,
    signers: Vec<VerifiedSigner>,
    signed: SignedRelease,
}

impl VerifiedRelease {
    /// Its id.
    pub fn id(&self) -> ReleaseId {
        self.id
    }

    /// What it says.
    pub fn release(&self) -> &Release {
        &self.release
    }

    /// The distinct allowed keys that signed it.
    pub fn signers(&self) -> &[VerifiedSigner] {
        &self.signers
    }

    /// As it travels.
    pub fn signed(&self) -> &SignedRelease {
        &self.signed
    }

    /// Refuses to begin anything after the release's time.
    ///
    /// # Errors
    /// [`AuthorityError::Expired`].
    pub fn check_time(&self, now: UnixMillis) -> Result<(), AuthorityError> {
        if now <= self.release.expires {
            return Ok(());
        }
        Err(AuthorityError::Expired {
            what: "the release",
            at: self.release.expires,
            now,
        })
    }
}
