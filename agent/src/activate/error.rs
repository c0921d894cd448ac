//! Why a release was not activated.

use std::{io, path::PathBuf};

use scap_proto::{
    content::{EntriesError, RelPath, descriptor::DescriptorError},
    id::{ChunkId, ReleaseId},
    place::PlaceError,
    reason::{Because, Reason},
    release::{HostConfigError, RepoPath},
};

use crate::{
    host::{CheckError, CheckFailure, RenderError, RunFailure, ServiceError},
    store::io_code,
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
    /// Others could put another directory in the place of the deploy root.
    #[error(transparent)]
    Place(#[from] PlaceError),
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
    /// It is neither what was live nor what will be.
    #[error(
        "`{0}` does not lead to what is recorded as live: it is being switched, or the switch was interrupted, or somebody moved the link"
    )]
    Changing(RepoPath),
    /// The record of what is live is not what was written. The next order makes it again.
    #[error("the record of what is live, .scap/live, is damaged")]
    LiveDamaged,
    /// What the release asks is not a config snapshot.
    #[error("what the release asks of this host is no config snapshot: {0}")]
    NoConfig(&'static str),
    /// Its file cannot be read.
    #[error(transparent)]
    HostConfig(#[from] HostConfigError),
    /// It is not known what goes with a release's directory.
    #[error(
        "the record of what goes with `revs/{0}`, .scap/asked/{0}, is damaged; move it away, and the directory too, to have both made anew"
    )]
    AskedDamaged(String),
    /// It is not known which links are ours.
    #[error(
        "the record of the config files' links, .scap/links, is damaged; move it away, and what it led to stays where it is"
    )]
    LinksDamaged,
    /// A directory stands where a config file goes.
    #[error("a directory stands in the place of the config file {}: move it away", .0.display())]
    FolderInPlace(PathBuf),
    /// Something that the release asks failed.
    #[error(transparent)]
    Stage(#[from] StageError),
}

/// What a release asks failed: a check, a template or a service. The first line says what, those after it have the end of what it
/// printed.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct StageError {
    code: Reason,
    reason: String,
}

/// Most lines, and bytes, of output that go with it: they travel in a report, with room for what it is about.
const OUTPUT_LINES_MAX: usize = 20;
/// See [`OUTPUT_LINES_MAX`].
const OUTPUT_BYTES_MAX: usize = 2048;

impl StageError {
    /// `when` is around which stage.
    pub(super) fn of_check(when: &str, error: &CheckError) -> Self {
        let code = match error.why {
            CheckFailure::Run(RunFailure::TimedOut(_)) => Reason::CheckTimeout,
            CheckFailure::Run(_) | CheckFailure::Nrpe(_) => Reason::CheckFailed,
        };
        Self::new(code, when, error, &error.output.tail())
    }

    pub(super) fn of_template(when: &str, error: &RenderError) -> Self {
        Self::new(Reason::TemplateError, when, error, "")
    }

    fn new(
        code: Reason,
        when: &str,
        error: &(dyn std::error::Error + 'static),
        output: &str,
    ) -> Self {
        let mut reason = format!("{when}: {}", crate::error_chain(error));
        let lines: Vec<&str> = output.lines().collect();
        let lines = &lines[lines.len().saturating_sub(OUTPUT_LINES_MAX)..];
        let mut tail = lines.join("\n");
        let cut = tail.len().saturating_sub(OUTPUT_BYTES_MAX);
        let cut = (cut..=tail.len()).find(|at| tail.is_char_boundary(*at));
        tail.drain(..cut.expect("the end is one"));
        if !tail.trim().is_empty() {
            reason.push('\n');
            reason.push_str(&tail);
        }
        Self { code, reason }
    }

    pub(super) fn of_service(error: &ServiceError) -> Self {
        let (code, output) = match error {
            ServiceError::Command { output, .. } => (Reason::ServiceFailed, output.tail()),
            ServiceError::Port { .. } => (Reason::PortSilent, String::new()),
        };
        Self::new(code, "handle_service", error, &output)
    }
}

impl ActivateError {
    /// Its code.
    pub fn code(&self) -> Reason {
        match self {
            Self::DeployRoot { .. } | Self::Unsafe { .. } => Reason::UnsafePath,
            Self::Place(error) => error.code(),
            Self::Entries(EntriesError::Path(_)) => Reason::ForbiddenName,
            Self::ReadOnly(_) => Reason::ReadOnly,
            Self::Busy(_) | Self::Changing(_) => Reason::Busy,
            Self::NoSpace { .. } | Self::NoInodes { .. } => Reason::DiskFull,
            Self::Io { source, .. } => io_code(source),
            Self::Source(SourceError::Missing(_)) => Reason::MissingChunk,
            Self::Source(SourceError::Read { .. }) => Reason::IoError,
            Self::Descriptor(_)
            | Self::Entries(_)
            | Self::WrongChunk(_)
            | Self::WrongContent(_) => Reason::BadContent,
            Self::NameTaken(_) | Self::Foreign(_) | Self::FolderInPlace(_) => Reason::PathTaken,
            Self::NotPrepared(_) => Reason::NotPrepared,
            Self::NotLive(_) | Self::NothingLive(_) => Reason::NotLive,
            Self::NoConfig(_) | Self::HostConfig(_) => Reason::BadConfig,
            Self::AskedDamaged(_) | Self::LinksDamaged | Self::LiveDamaged => Reason::RecordDamaged,
            Self::Stage(failed) => failed.code,
        }
    }

    /// Why, for who asked: its code, and the whole chain of causes.
    pub fn because(&self) -> Because {
        let text = match self {
            // It has its causes in it, and lines of output after them.
            Self::Stage(failed) => failed.to_string(),
            error => crate::error_chain(error),
        };
        self.code().because(text)
    }

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
