//! Why a release was not activated.

use std::{io, path::PathBuf};

use scap_proto::{
    content::{EntriesError, RelPath, descriptor::DescriptorError},
    id::{ChunkId, ReleaseId},
    release::RepoPath,
};

/// Why a release was not activated, put back or checked. Whatever it is, the final path is what it was
/// before: the whole old tree, or the whole new one where the flip itself had been made.
#[derive(Debug, thiserror::Error)]
pub enum ActivateError {
    /// The deploy root is missing, or no directory.
    #[error("open the deploy root {}", path.display())]
    DeployRoot {
        /// Where it should be.
        path: PathBuf,
        /// What was found.
        source: io::Error,
    },
    /// Others than the agent's user and root can put things into a directory that must be ours.
    #[error(
        "`{path}` can be changed by others (owner {uid}, mode {mode:04o}): chown it to the agent's user, and `chmod go-w` it"
    )]
    Unsafe {
        /// The directory, relative to the deploy root.
        path: String,
        /// Its owner.
        uid: u32,
        /// Its mode.
        mode: u32,
    },
    /// The deploy root's file system is mounted read-only.
    #[error("the file system of {} is read-only", .0.display())]
    ReadOnly(PathBuf),
    /// Another process is activating the same repo.
    #[error("another process is at work on `{0}`")]
    Busy(RepoPath),
    /// The tree does not fit. Nothing was touched.
    #[error("the release needs {needed} bytes of disk space, {available} are available")]
    NoSpace {
        /// Bytes that would be written.
        needed: u64,
        /// Bytes that this user may write.
        available: u64,
    },
    /// The tree has more files than the file system has left. Nothing was touched.
    #[error("the release needs {needed} new files, the file system has room for {available}")]
    NoInodes {
        /// Files, links and directories that would be made.
        needed: u64,
        /// How many can be.
        available: u64,
    },
    /// A system call failed.
    #[error("{doing}")]
    Io {
        /// What was being done, and to which path.
        doing: String,
        /// How it failed.
        source: io::Error,
    },
    /// A chunk of the snapshot could not be had.
    #[error("read the release's chunks")]
    Source(#[from] SourceError),
    /// The descriptor is not one of the snapshot that the release names.
    #[error("read the snapshot's descriptor")]
    Descriptor(#[from] DescriptorError),
    /// The entries are not acceptable.
    #[error("read the snapshot's entries")]
    Entries(#[from] EntriesError),
    /// A chunk is not what its id says, so whoever verified it did not.
    #[error("chunk {0} is not what its id says")]
    WrongChunk(ChunkId),
    /// The chunks of a file do not make the content that the snapshot says.
    #[error("the chunks of `{0}` do not make its content")]
    WrongContent(RelPath),
    /// Both names that the release's directory could have are taken by something that is not ours.
    #[error("`revs/{0}` is taken by something else; move it away")]
    NameTaken(String),
    /// The release is not prepared here, or no longer kept.
    #[error("release {} is not prepared on this host", .0.short())]
    NotPrepared(ReleaseId),
    /// Only what is live can be finalized.
    #[error("release {} is not live on this host", .0.short())]
    NotLive(ReleaseId),
    /// Nothing of ours is live, so there is nothing to compare.
    #[error("nothing is deployed at `{0}`")]
    NothingLive(RepoPath),
    /// Something that is not ours stands in the final path's place.
    #[error("`{0}` is not a link to one of its releases: something else was put in its place")]
    Foreign(RepoPath),
}

impl ActivateError {
    /// Whether it would go better with more disk space.
    pub fn is_no_space(&self) -> bool {
        match self {
            Self::NoSpace { .. } | Self::NoInodes { .. } => true,
            Self::Io { source, .. } => source.kind() == io::ErrorKind::StorageFull,
            _ => false,
        }
    }
}

/// Why a chunk could not be had.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// It is not there.
    #[error("chunk {0} is not in the store")]
    Missing(ChunkId),
    /// It could not be read, or was damaged.
    #[error("read chunk {chunk}")]
    Read {
        /// Which.
        chunk: ChunkId,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Says what was being done when a system call failed.
pub(super) trait Doing<T> {
    /// As `map_err`, with what was being done.
    fn doing(self, doing: impl FnOnce() -> String) -> Result<T, ActivateError>;
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, doing: impl FnOnce() -> String) -> Result<T, ActivateError> {
        self.map_err(|source| ActivateError::Io {
            doing: doing(),
            source,
        })
    }
}
