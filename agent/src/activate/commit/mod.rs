//! Whether a release is what a signed commit has: for hosts that do not leave that to the deployment host.
//!
//! The commit's object comes along in the release. It is proved to be the commit by its id, who signed it by the signature in it,
//! and the files by the tree that it names, whose id is computed here again from the chunks of which the release is made.

mod openpgp;
mod tree;

use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use scap_proto::{
    content::{Descriptor, EntriesError, EntriesReader},
    id::{GitOid, ReleaseId},
    reason::{Because, Reason},
    release::{
        Release, UnixMillis, VerifiedRelease,
        signature::{
            AllowedSigners, AllowedSignersError, ParseSignatureError, SignatureError, SshSignature,
        },
    },
};

pub(super) use self::tree::object_id;
use self::{
    openpgp::OpenPgpError,
    tree::{Sha1, TreeBuilder},
};
use super::{ActivateError, ChunkSource, SourceError};
use crate::{
    clock,
    trust::{ActivatorTrust, CommitRule},
};

/// git's namespace of SSH signatures.
const NAMESPACE: &str = "git";

/// Most releases of which it is remembered that they are what a signed commit has: those that a host is at.
const CHECKED_MAX: usize = 16;

/// Which releases were checked since the process started: to be made ready, and then to be switched to.
#[derive(Debug, Default)]
pub(super) struct Commits(Mutex<VecDeque<ReleaseId>>);

impl Commits {
    /// Checks a release where the host asks for signed commits, unless it was; says why it is refused.
    ///
    /// # Errors
    /// Where chunks cannot be read.
    pub(super) fn check(
        &self,
        trust: &ActivatorTrust,
        release: &VerifiedRelease,
        source: &dyn ChunkSource,
    ) -> Result<Result<(), Because>, ActivateError> {
        let about = release.release();
        let Some(rule) = trust.commit_rule(&about.repo, &about.environment) else {
            return Ok(Ok(()));
        };
        let checked = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if checked().contains(&release.id()) {
            return Ok(Ok(()));
        }
        if let Err(error) = check(about, rule, source, clock::now()) {
            return error.refusal().map(Err);
        }
        let mut checked = checked();
        checked.push_back(release.id());
        let surplus = checked.len().saturating_sub(CHECKED_MAX);
        checked.drain(..surplus);
        Ok(Ok(()))
    }
}

/// Why a release is not taken as what a signed commit has.
#[derive(Debug, thiserror::Error)]
pub(super) enum CommitError {
    #[error("the release is not of a commit, and commits are to be signed here")]
    NoCommit,
    #[error("commit {0} has an id of another hash than SHA-1")]
    Hash(GitOid),
    #[error("the object of the commit did not come along, so who signed it is not known")]
    NotAlong,
    #[error("the object that came along is not commit {0}")]
    OtherCommit(GitOid),
    #[error("commit {0} is not signed")]
    Unsigned(GitOid),
    #[error("the commit's object cannot be read")]
    Malformed,
    #[error("the release asks something of hosts, which no commit proves (`takes_config`)")]
    Asks,
    #[error("the commit has {what}, and host.toml names nobody whose counts")]
    NobodyNamed { what: &'static str },
    #[error("read the commit's signature")]
    Signature(#[from] ParseSignatureError),
    #[error(transparent)]
    Signers(#[from] AllowedSignersError),
    #[error("check the commit's signature")]
    Refused(#[from] SignatureError),
    #[error("check the commit's OpenPGP signature")]
    OpenPgp(#[from] OpenPgpError),
    #[error("the files of the release are tree {found}, and the commit has tree {expected}")]
    OtherTree { expected: String, found: String },
    #[error("read the entries of the release")]
    Entries(#[from] EntriesError),
    #[error("`{0}` is an empty directory, which no commit has")]
    EmptyDirectory(String),
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Other(Box<ActivateError>),
}

impl CommitError {
    /// Why, for who ordered it; or what failed here, of which the release has no fault.
    pub(super) fn refusal(self) -> Result<Because, ActivateError> {
        match self {
            Self::Source(error) => Err(ActivateError::Source(error)),
            Self::Other(error) => Err(*error),
            error => Ok(Reason::RefusedCommit.because(crate::error_chain(&error))),
        }
    }
}

/// Checks that a release is of a commit that whoever `rule` names signed, and has the files of that commit and no others. It reads
/// all files of the release once.
pub(super) fn check(
    release: &Release,
    rule: &CommitRule,
    source: &dyn ChunkSource,
    now: UnixMillis,
) -> Result<(), CommitError> {
    let expected = check_signed(release, rule, now)?;
    let descriptor = source.plain(&release.snapshot.descriptor_chunk().id)?;
    let descriptor = Descriptor::decode(&descriptor)
        .map_err(|error| CommitError::Other(Box::new(error.into())))?;
    let (mut reader, mut tree) = (EntriesReader::new(), TreeBuilder::new(source));
    for page in &descriptor.entries {
        for entry in reader.read_page(&source.plain(&page.id)?)? {
            tree.add(&entry)?;
        }
    }
    if let Some(last) = reader.finish()? {
        tree.add(&last)?;
    }
    let found = hex::encode(tree.finish());
    match found == expected {
        true => Ok(()),
        false => Err(CommitError::OtherTree { expected, found }),
    }
}

/// Checks who signed the commit, and gives the id of its tree, in hex.
fn check_signed(
    release: &Release,
    rule: &CommitRule,
    now: UnixMillis,
) -> Result<String, CommitError> {
    let id = release.commit.clone().ok_or(CommitError::NoCommit)?;
    if id.as_bytes().len() != Sha1::BYTES {
        return Err(CommitError::Hash(id));
    }
    if release.config.is_some() && !rule.takes_config {
        return Err(CommitError::Asks);
    }
    let object = release.commit_object().ok_or(CommitError::NotAlong)?;
    if object_id("commit", &object) != id.as_bytes() {
        return Err(CommitError::OtherCommit(id));
    }
    let signed = Signed::of(&object).ok_or(CommitError::Malformed)?;
    let signature = signed.signature.ok_or(CommitError::Unsigned(id))?;
    if signature.starts_with("-----BEGIN SSH SIGNATURE-----") {
        let file = named(rule.allowed_signers.as_deref(), "an SSH signature")?;
        let signature: SshSignature = signature.parse()?;
        AllowedSigners::load(&file)?.verify(NAMESPACE, &signed.payload, &signature, now.0)?;
    } else {
        let keyring = named(rule.keyring.as_deref(), "an OpenPGP signature")?;
        openpgp::verify(&keyring, &signature, &signed.payload)?;
    }
    Ok(signed.tree)
}

fn named(path: Option<&Path>, what: &'static str) -> Result<PathBuf, CommitError> {
    let path = path.ok_or(CommitError::NobodyNamed { what })?;
    Ok(path.to_owned())
}

/// A commit's object, taken apart as git does to sign it.
#[derive(Debug)]
struct Signed {
    /// Its tree, in hex.
    tree: String,
    /// The signature, where it has one.
    signature: Option<String>,
    /// What is signed: all but the header with the signature.
    payload: Vec<u8>,
}

impl Signed {
    /// `None` where it is no commit, or has two trees or signatures: git takes the first, others the last.
    fn of(object: &[u8]) -> Option<Self> {
        let mut tree = None;
        let mut signature: Option<Vec<u8>> = None;
        let mut payload = Vec::with_capacity(object.len());
        let mut is_within = false;
        let mut rest = object;
        loop {
            let end = rest.iter().position(|byte| *byte == b'\n')? + 1;
            let (line, after) = rest.split_at(end);
            if line == b"\n" {
                break;
            }
            rest = after;
            if let (true, Some(more)) = (is_within, line.strip_prefix(b" ")) {
                signature.as_mut()?.extend_from_slice(more);
                continue;
            }
            is_within = false;
            if let Some(first) = line.strip_prefix(b"gpgsig ") {
                is_within = true;
                if signature.replace(first.to_vec()).is_some() {
                    return None;
                }
                continue;
            }
            // Of the other hash, which this commit is not named by.
            if line.starts_with(b"gpgsig") {
                return None;
            }
            if let Some(id) = line.strip_prefix(b"tree ") {
                let id = std::str::from_utf8(id.trim_ascii_end()).ok()?;
                let is_first = payload.is_empty() && tree.replace(id.to_owned()).is_none();
                if !is_first || id.len() != 2 * Sha1::BYTES {
                    return None;
                }
            }
            payload.extend_from_slice(line);
        }
        payload.extend_from_slice(rest);
        let signature = signature.map(String::from_utf8).transpose().ok()?;
        Some(Self {
            tree: tree?,
            signature,
            payload,
        })
    }
}
