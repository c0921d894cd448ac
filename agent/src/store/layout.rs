//! Where things are in a store's directory, and who may be there.
//!
//! ```text
//! version            what this store is; written first
//! lock               flock of the process that has it open, or of those that share it
//! admissions         see `shared`
//! changes            see `shared`
//! index              see `index`
//! tmp/<run>-<n>      chunks being written; emptied by an opening that finds nobody else
//! chunks/ab/<62 hex> see `chunks`
//! ```

use std::{
    fs::{self, DirBuilder, OpenOptions, TryLockError},
    hash::{BuildHasher, RandomState},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use scap_proto::{content::EncodedChunk, id::ChunkId};

use super::{
    chunks, durable,
    error::{StoreError, says_full},
};
use crate::lock::{FileLock, Take};

const VERSION: &str = "scap store 1";

/// Directories of ours alone.
const OURS: u32 = 0o700;
/// Directories that our group reads: for an activator of another user, who is of that group. The umask says the same of
/// the files in them.
const OUR_GROUPS: u32 = 0o750;

/// The names of the 256 directories below `chunks`: the first byte of the ids in them.
pub(super) fn prefixes() -> impl Iterator<Item = String> {
    (0..=u8::MAX).map(|byte| format!("{byte:02x}"))
}

/// The paths of a store.
#[derive(Debug)]
pub(super) struct Layout {
    directory: PathBuf,
    /// Of its directories: [`OURS`], or [`OUR_GROUPS`] where the one that the store is in has just that mode.
    mode: u32,
    /// Another one at each opening: what one that died left may not be cleared yet.
    run: u64,
    temporaries: AtomicU64,
}

impl Layout {
    /// Where a store is or is going to be.
    pub(super) fn new(directory: PathBuf) -> Self {
        let around = directory.parent().map(fs::metadata);
        let is_shared = around.is_some_and(|it| it.is_ok_and(|it| it.mode() & 0o777 == OUR_GROUPS));
        Self {
            directory,
            mode: if is_shared { OUR_GROUPS } else { OURS },
            run: RandomState::new().hash_one(std::process::id()),
            temporaries: AtomicU64::new(0),
        }
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(super) fn index(&self) -> PathBuf {
        self.directory.join("index")
    }

    pub(super) fn admissions(&self) -> PathBuf {
        self.directory.join("admissions")
    }

    pub(super) fn changes(&self) -> PathBuf {
        self.directory.join("changes")
    }

    pub(super) fn chunk(&self, id: &ChunkId) -> PathBuf {
        let hex = id.to_string();
        let (prefix, rest) = hex.split_at(2);
        let mut path = self.chunks();
        path.push(prefix);
        path.push(rest);
        path
    }

    pub(super) fn prefix(&self, prefix: &str) -> PathBuf {
        self.chunks().join(prefix)
    }

    /// Makes the store's directory where there is none, or makes sure that nobody else may write there.
    ///
    /// # Errors
    /// [`StoreError`]: why this cannot be, or become, our store.
    pub(super) fn make(&self) -> Result<(), StoreError> {
        make_directory(&self.directory, self.mode)
    }

    /// Makes the store in its directory, which is locked, where there is none.
    ///
    /// # Errors
    /// As [`Self::make`].
    pub(super) fn prepare(&self) -> Result<(), StoreError> {
        self.prepare_version()?;
        for directory in [self.chunks(), self.tmp()] {
            make_directory(&directory, self.mode)?;
        }
        for prefix in prefixes() {
            make_directory(&self.prefix(&prefix), self.mode)?;
        }
        Ok(())
    }

    /// # Errors
    /// [`StoreError::Version`] or [`StoreError::Io`].
    pub(super) fn check_version(&self) -> Result<(), StoreError> {
        let path = self.version();
        let bytes = fs::read(&path).map_err(StoreError::io("read", &path))?;
        if bytes.strip_suffix(b"\n") == Some(VERSION.as_bytes()) {
            return Ok(());
        }
        let found = String::from_utf8_lossy(&bytes[..bytes.len().min(64)]);
        Err(StoreError::Version {
            found: found.trim_end().escape_debug().to_string(),
            expected: VERSION,
            path,
        })
    }

    /// Removes what crashes left half written, and returns how many files.
    pub(super) fn clear_temporaries(&self) -> Result<u64, StoreError> {
        let tmp = self.tmp();
        let mut removed = 0;
        for entry in fs::read_dir(&tmp).map_err(StoreError::io("list", &tmp))? {
            let path = entry.map_err(StoreError::io("list", &tmp))?.path();
            fs::remove_file(&path).map_err(StoreError::io("remove", &path))?;
            removed += 1;
        }
        Ok(removed)
    }

    /// Writes a chunk's file where nobody looks for chunks.
    ///
    /// # Errors
    /// [`StoreError::Full`] or [`StoreError::Io`]; nothing is left.
    pub(super) fn write_temporary(&self, chunk: &EncodedChunk) -> Result<Temporary, StoreError> {
        let number = self.temporaries.fetch_add(1, Ordering::Relaxed);
        let temporary = Temporary {
            path: self.tmp().join(format!("{:016x}-{number}", self.run)),
            is_renamed: false,
        };
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&temporary.path)
            .and_then(|mut file| chunks::write(&mut file, chunk))
            .map_err(|source| {
                self.write_error("write", &temporary.path, chunks::file_bytes(chunk), source)
            })?;
        Ok(temporary)
    }

    /// Bytes that the file system has left for this user.
    pub(super) fn free_bytes(&self) -> Result<u64, StoreError> {
        let found = rustix::fs::statvfs(&self.directory)
            .map_err(|error| StoreError::io("ask the room in", &self.directory)(error.into()))?;
        Ok(found.f_bavail.saturating_mul(found.f_frsize))
    }

    /// The error of a write that needed so many bytes.
    pub(super) fn write_error(
        &self,
        action: &'static str,
        path: &Path,
        needed: u64,
        source: io::Error,
    ) -> StoreError {
        if !says_full(&source) {
            return StoreError::io(action, path)(source);
        }
        StoreError::Full {
            path: self.directory.clone(),
            needed,
            // The error to tell is that it is full, whether or not the room can be told.
            available: self.free_bytes().unwrap_or(0),
        }
    }

    fn chunks(&self) -> PathBuf {
        self.directory.join("chunks")
    }

    fn tmp(&self) -> PathBuf {
        self.directory.join("tmp")
    }

    fn version(&self) -> PathBuf {
        self.directory.join("version")
    }

    /// Locks the store, as `take` does.
    ///
    /// # Errors
    /// [`StoreError::InUse`] or [`StoreError::Io`].
    pub(super) fn lock(&self, take: Take) -> Result<FileLock, StoreError> {
        let path = self.directory.join("lock");
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(StoreError::io("open", &path))?;
        take(file).map_err(|error| match error {
            TryLockError::WouldBlock => StoreError::InUse {
                path: self.directory.clone(),
            },
            TryLockError::Error(source) => StoreError::io("lock", &path)(source),
        })
    }

    /// A directory without a version becomes a store only where it is empty: its owner may have named
    /// the wrong one.
    fn prepare_version(&self) -> Result<(), StoreError> {
        let path = self.version();
        if path.exists() {
            return self.check_version();
        }
        let directory = &self.directory;
        for entry in fs::read_dir(directory).map_err(StoreError::io("list", directory))? {
            let entry = entry.map_err(StoreError::io("list", directory))?;
            // What we leave when we crash right here.
            let ours = ["lock", ".version.tmp", "admissions", "changes"];
            if !ours.iter().any(|name| entry.file_name() == *name) {
                return Err(StoreError::NotAStore {
                    path: directory.clone(),
                });
            }
        }
        // Readable for the process that only reads; who gets this far is up to the directory.
        durable::replace_file_with(&path, 0o644, |file| {
            io::Write::write_all(file, format!("{VERSION}\n").as_bytes())
        })
        .map_err(|source| self.write_error("write", &path, VERSION.len() as u64, source))
    }
}

/// A chunk's file that has not been given its name; removed unless it is.
#[derive(Debug)]
pub(super) struct Temporary {
    path: PathBuf,
    is_renamed: bool,
}

impl Temporary {
    pub(super) fn rename(mut self, path: &Path) -> io::Result<()> {
        fs::rename(&self.path, path)?;
        self.is_renamed = true;
        Ok(())
    }

    /// Gives it another name, which nothing has: what there may be stays.
    pub(super) fn link(&self, path: &Path) -> io::Result<()> {
        fs::hard_link(&self.path, path)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.is_renamed {
            // It may never have been made; and the next opening clears what stays.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Makes a directory, or makes sure that the one there is ours and only ours to write. One that is to be our group's to read is
/// made so: an activator of another user came to be since.
fn make_directory(path: &Path, wanted: u32) -> Result<(), StoreError> {
    DirBuilder::new()
        .recursive(true)
        .mode(wanted)
        .create(path)
        .map_err(StoreError::io("make the directory", path))?;
    let found = fs::metadata(path).map_err(StoreError::io("look at", path))?;
    let expected = rustix::process::geteuid().as_raw();
    if found.uid() != expected {
        return Err(StoreError::Owner {
            path: path.to_owned(),
            found: found.uid(),
            expected,
        });
    }
    let mode = found.mode() & 0o7777;
    if mode & 0o022 != 0 {
        return Err(StoreError::Writable {
            path: path.to_owned(),
            mode,
        });
    }
    if wanted & !mode != 0 {
        fs::set_permissions(path, fs::Permissions::from_mode(wanted))
            .map_err(StoreError::io("set the mode of", path))?;
    }
    Ok(())
}
