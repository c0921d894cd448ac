//! What a release's config files would change on a host.
//!
//! A coordinator dials with [`QUESTION_ALPN`](crate::transport::QUESTION_ALPN), opens a stream with [`super::Open::Config`] and ends its side. The answer is one [`ConfigAnswer`], and the end
//! of the stream. The host renders in memory and writes nothing.

use serde::{Deserialize, Serialize};

use crate::{id::ReleaseId, release::host_config::Destination};

/// What a host answers. Variants are only ever added at the end.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ConfigAnswer {
    /// How each config file differs from what is there.
    Changes(ConfigChanges),
    /// Who asks may not; why. At most [`crate::limits::REASON_BYTES_MAX`] bytes.
    Refused(String),
    /// It answers somebody else now: ask later.
    Busy,
    /// It cannot tell; why. At most [`crate::limits::REASON_BYTES_MAX`] bytes.
    Failed(String),
}

/// How config files differ from what is there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ConfigChanges {
    /// The release that is live, and its sequence; none where none is.
    pub live: Option<(ReleaseId, u64)>,
    /// The files in the order of their destinations: those that would be rendered, and those that would be no more.
    pub files: Vec<FileChange>,
    /// How many more files there are than the answer has room for.
    pub files_left_out: u32,
}

/// How one file differs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FileChange {
    /// Where it goes.
    pub destination: Destination,
    /// In short.
    pub status: FileStatus,
    /// A unified diff without names of files: empty where no line differs, none where it is not told line by line.
    pub diff: Option<String>,
    /// How many lines at the end of the diff are left out.
    pub diff_lines_left_out: u32,
    /// Mode and owner as they are and as they would be, where these differ.
    pub attributes: Option<(Attributes, Attributes)>,
    /// What else is to be said, for people: most of it why there is no diff, or what becomes of what is there.
    pub note: Option<String>,
}

/// What would become of a file. Variants are only ever added at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum FileStatus {
    /// Nothing is there.
    New,
    /// Something else is there, or of another mode or owner.
    Changed,
    /// It would be rendered no more.
    Removed,
    /// The same is there.
    Unchanged,
    /// It cannot be rendered, or not in the time that there is, or not be put there.
    Error,
}

/// The mode and the owner of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Attributes {
    /// Permission bits.
    pub mode: u32,
    /// The user's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
}
