//! A lock on a file, given back when dropped, also where a child process still has the file open.

use std::fs::{File, TryLockError};

/// A file that this process has locked. The kernel gives it back when the process dies.
#[derive(Debug)]
pub(crate) struct FileLock(File);

/// How a file is locked.
pub(crate) type Take = fn(File) -> Result<FileLock, TryLockError>;

impl FileLock {
    /// Locks `file`, if nobody else has.
    ///
    /// # Errors
    /// As [`File::try_lock`].
    pub(crate) fn try_take(file: File) -> Result<Self, TryLockError> {
        file.try_lock()?;
        Ok(Self(file))
    }

    /// Locks `file` beside others that do so, if nobody has it alone.
    ///
    /// # Errors
    /// As [`File::try_lock_shared`].
    pub(crate) fn try_share(file: File) -> Result<Self, TryLockError> {
        file.try_lock_shared()?;
        Ok(Self(file))
    }

    /// What is locked.
    pub(crate) fn file(&self) -> &File {
        &self.0
    }
}

impl Drop for FileLock {
    fn drop(&mut self) {
        // Closing is not enough: a child of ours that is not yet at its `exec` still has the file open.
        // Without a lock there would be nothing to give back.
        let _ = self.0.unlock();
    }
}
