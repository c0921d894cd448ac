//! Why a snapshot cannot be built, and what to do about it.

use std::{io, path::PathBuf};

use scap_proto::content::{PathError, RelPath, path::PathProblem, writer::TooLarge};

use super::SinkError;
use crate::git::GitError;

/// Why a snapshot cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The repository does not give what is asked for.
    #[error("read the commit")]
    Git(#[from] GitError),
    /// The directory cannot be opened.
    #[error("open the directory {}", .path.display())]
    Open {
        /// As it was given.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A path that would be unsafe, or impossible, to create on a host.
    #[error(transparent)]
    Path(#[from] PathError),
    /// A tree that is not in order, or names something twice.
    #[error("`{0}` is in the tree twice, or out of order")]
    Order(RelPath),
    /// A tree that names something as a file and as a directory.
    #[error("`{0}` is below something that is not a directory")]
    BelowNonDirectory(RelPath),
    /// Something that is neither file, link nor directory.
    #[error("`{path}` is a {kind}")]
    Kind {
        /// Where.
        path: RelPath,
        /// What it is.
        kind: &'static str,
    },
    /// A file with a set-user-id or set-group-id bit, which a snapshot cannot record.
    #[error("`{0}` has a set-user-id or set-group-id bit")]
    SetId(RelPath),
    /// A link whose target no file system could hold.
    #[error("the target of the symbolic link `{0}` is empty, longer than 4095 bytes or has a NUL")]
    SymlinkTarget(RelPath),
    /// A file or a directory that cannot be read.
    #[error("read `{path}`")]
    Read {
        /// Where; `.` for the directory itself.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// A file or directory that somebody writes to.
    #[error("`{0}` changed while it was read")]
    Changed(String),
    /// More files or bytes than the format allows.
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
    /// The sink does not take a chunk.
    #[error("store a chunk")]
    Store(#[source] SinkError),
}

impl SnapshotError {
    /// What a person can do about it.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Git(error) => return error.hint(),
            Self::Open { .. } => "name a directory",
            Self::Path(error) if error.problem == PathProblem::DotGit => {
                "deploy a git repository with --repo; a plain directory must not hold one"
            }
            Self::Path(_) => "rename it",
            Self::Order(_) | Self::BelowNonDirectory(_) => {
                "the tree was not made by git: see `git fsck`"
            }
            Self::Kind { .. } => {
                "remove it: only files, directories and symbolic links are deployed"
            }
            Self::SetId(_) => "clear the bit: chmod ug-s",
            Self::Read { .. } => "see that it is readable by this user, and that the disk is sound",
            Self::Changed(_) => "wait until whatever writes there is done, and try again",
            Self::SymlinkTarget(_) | Self::TooLarge(_) | Self::Store(_) => return None,
        };
        Some(hint.into())
    }
}
