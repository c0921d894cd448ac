//! What can go wrong in the store.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file system refused.
    #[error("{action} {}", path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// No room, or none above the reserve of [`super::StoreConfig::free_bytes_min`]. Nothing was
    /// stored; it works again once there is room.
    #[error(
        "no room for {needed} bytes in {}: {available} bytes available{}",
        path.display(),
        if available < needed { "" } else { ", so it is a quota, or the number of files" }
    )]
    Full {
        /// The store's directory.
        path: PathBuf,
        /// Bytes that were to be written.
        needed: u64,
        /// Bytes that the store may still take from the file system.
        available: u64,
    },
    /// Another process has the store open.
    #[error("{} is in use by another process; each agent needs a directory of its own", path.display())]
    InUse {
        /// The store's directory.
        path: PathBuf,
    },
    /// Another process changes it for too long.
    #[error("another process has had {} locked for {} s", path.display(), waited.as_secs())]
    Busy {
        /// What is locked.
        path: PathBuf,
        /// How long it was waited for.
        waited: Duration,
    },
    /// Somebody else owns the directory, who could change what we verified.
    #[error(
        "{0} belongs to user {found}, not to user {expected} who runs this; \
         use `chown -R {expected} {0}` or another directory",
        path.display()
    )]
    Owner {
        /// The directory.
        path: PathBuf,
        /// Its owner's number.
        found: u32,
        /// Our user's number.
        expected: u32,
    },
    /// Others may write to the directory, and so change what we verified.
    #[error("{0} can be written by others (mode {mode:o}); use `chmod go-w {0}`", path.display())]
    Writable {
        /// The directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The directory holds something, and it is no store.
    #[error("{} is not empty and not a chunk store; use another directory", path.display())]
    NotAStore {
        /// The directory.
        path: PathBuf,
    },
    /// A store of another program version, or a damaged version file.
    #[error(
        "{} says `{found}`, and this program knows `{expected}`; \
         use the program that made it, or remove the store and fetch again",
        path.display()
    )]
    Version {
        /// The version file.
        path: PathBuf,
        /// The start of what it says.
        found: String,
        /// What it would say in a store of ours.
        expected: &'static str,
    },
    /// The disk failed while chunks were made durable, so no later sync of this opening can be
    /// believed: the kernel reports a lost write once and forgets it.
    #[error(
        "an earlier sync of {} failed, so what it holds is not durable; \
         restart to verify it again",
        path.display()
    )]
    NotDurable {
        /// The store's directory.
        path: PathBuf,
    },
}

impl StoreError {
    /// Whether it works again once there is room.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Full { .. })
    }

    /// For `map_err`: says what was being done to what.
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }
}

/// Whether the file system said that it, or our quota on it, is full.
pub(super) fn says_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}
