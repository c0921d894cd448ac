//! Disks that are full, or take no writes.

use std::path::{Path, PathBuf};

use crate::fleet::{mount_tmpfs, remount};

/// A directory on a file system of its own, in memory; mounted until the fleet ends.
#[must_use]
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts one of `bytes` over a directory, which must be empty and inside a fleet's.
    ///
    /// # Panics
    /// When it cannot.
    pub fn mount(dir: &Path, bytes: u64) -> Self {
        mount_tmpfs(dir, Some(bytes));
        Self(dir.to_owned())
    }

    /// Makes it this large from now on.
    ///
    /// # Panics
    /// When it holds more.
    pub fn resize(&self, bytes: u64) {
        remount(&self.0, &format!("size={bytes}"));
    }

    /// Refuses every write from now on, as a disk that failed does.
    ///
    /// # Panics
    /// When a file on it is open for writing.
    pub fn make_read_only(&self) {
        remount(&self.0, "ro");
    }

    /// Takes writes again.
    ///
    /// # Panics
    /// When it cannot.
    pub fn make_writable(&self) {
        remount(&self.0, "rw");
    }
}
