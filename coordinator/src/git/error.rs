//! Why something could not be learnt from a repository, and what to do about it.

use std::{io, path::PathBuf, time::Duration};

use scap_proto::id::GitOid;

/// Why something could not be learnt from a repository.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    /// There is no such directory, or it may not be entered.
    #[error("open the repository {}", .path.display())]
    Open {
        /// As it was given.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A directory that is not the top of a repository.
    #[error("{} is not a git repository", .0.display())]
    NotARepository(PathBuf),
    /// A repository of another user, whose configuration could run programs as us.
    #[error("{} belongs to another user", .0.display())]
    OtherOwner(PathBuf),
    /// No commit by that name.
    #[error("the repository has no revision `{}`", .0.escape_debug())]
    UnknownRevision(String),
    /// A name of something else.
    #[error("revision `{}` is a {kind}, not a commit", .revision.escape_debug())]
    NotACommit {
        /// As it was given.
        revision: String,
        /// What it is: `blob` or `tree`.
        kind: String,
    },
    /// A path that is a directory, a link or a submodule where a file is wanted.
    #[error("`{0}` is not a file in that commit")]
    NotAFile(String),
    /// A file that is larger than its reader allows.
    #[error("`{path}` has {size} bytes, at most {bytes_max} are allowed")]
    FileTooLarge {
        /// Which.
        path: String,
        /// Its size in bytes.
        size: u64,
        /// The limit in bytes.
        bytes_max: u64,
    },
    /// An object that the repository refers to and does not have.
    #[error("object {0} is missing from the repository")]
    MissingObject(GitOid),
    /// An object of another kind than what refers to it says.
    #[error("object {id} is a {kind}, where a {expected} belongs")]
    OtherKind {
        /// The object.
        id: GitOid,
        /// What it is.
        kind: String,
        /// What it should be: `blob`, `tree` or `commit`.
        expected: &'static str,
    },
    /// A commit or a tree that is not as git writes it.
    #[error("object {0} is not as git writes it")]
    Malformed(GitOid),
    /// A mode that git does not write: a set-user-id bit, say.
    #[error("`{name}` in tree {tree} has mode {mode:06o}, which is none of git's")]
    Mode {
        /// The tree.
        tree: GitOid,
        /// The name in it, escaped.
        name: String,
        /// The mode.
        mode: u32,
    },
    /// A remote that is not configured.
    #[error("the repository has no remote `{}`", .0.escape_debug())]
    NoRemote(String),
    /// A remote did not answer in time.
    #[error("{doing}: no end after {} s", .limit.as_secs())]
    TimedOut {
        /// What for it was asked.
        doing: &'static str,
        /// How long it had.
        limit: Duration,
    },
    /// The git program could not be started or talked to.
    #[error("{doing}: run git")]
    Run {
        /// What for.
        doing: &'static str,
        /// Why.
        source: io::Error,
    },
    /// Git gave up.
    #[error("{doing}: git says: {said}")]
    Failed {
        /// What it was run for.
        doing: &'static str,
        /// The first of what it wrote to standard error, without control characters.
        said: String,
    },
    /// Git answered something that this version does not understand.
    #[error("{doing}: git answered `{answer}`")]
    Answer {
        /// What it was run for.
        doing: &'static str,
        /// The answer, escaped.
        answer: String,
    },
}

impl GitError {
    /// What a person can do about it.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Open { .. } => "name the top directory of the repository".into(),
            Self::NotARepository(_) => {
                "name the top directory of a repository, or deploy a plain directory with --dir"
                    .into()
            }
            Self::OtherOwner(path) => format!(
                "run as its owner, or trust it: git config --global --add safe.directory '{}'",
                path.display()
            ),
            Self::UnknownRevision(_) => {
                "name a branch, a tag or a commit id; `git fetch` if it is not here yet".into()
            }
            Self::NotACommit { .. } => "name a branch, a tag or a commit id".into(),
            Self::MissingObject(_) => {
                "the clone is partial or damaged: see `git fsck`, and fetch it with `git fetch --refetch`"
                    .into()
            }
            Self::OtherKind { .. } | Self::Malformed(_) | Self::Mode { .. } => {
                "the repository is damaged: see `git fsck`".into()
            }
            Self::Run { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                "install git, or add it to PATH".into()
            }
            _ => return None,
        };
        Some(hint)
    }
}
