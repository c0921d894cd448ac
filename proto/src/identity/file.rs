//! Key and certificate files: written whole or not at all, never over another, never readable by
//! others.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

/// Longest key, certificate or signer file that is read, in bytes: a bundle of 100 authorities or a
/// thousand signers fit, a device or a log file named by mistake does not.
pub(super) const FILE_BYTES_MAX: u64 = 256 * 1024;

/// Why a key or certificate file could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("read {}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It holds a secret and others than its owner may read or change it.
    #[error(
        "{} has mode {mode:03o}, and it holds a secret (hint: chmod 600 {})",
        path.display(), path.display()
    )]
    Exposed {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It is too long for what it should be.
    #[error("{} is longer than {FILE_BYTES_MAX} bytes", path.display())]
    TooLong {
        /// Which file.
        path: PathBuf,
    },
    /// It is there already, and it is never replaced.
    #[error(
        "{} exists already (hint: choose another directory, or move it away first)",
        path.display()
    )]
    Exists {
        /// Which file.
        path: PathBuf,
    },
    /// It cannot be written.
    #[error("write {}", path.display())]
    Write {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Reads a text file.
pub(crate) fn read_file(path: &Path) -> Result<String, FileError> {
    open(path)
        .and_then(|file| read(&file, path))
        .map(|text| text.to_string())
}

/// Reads a file of any bytes.
pub(crate) fn read_bytes(path: &Path) -> Result<Vec<u8>, FileError> {
    let mut bytes = Vec::new();
    open(path)?
        .take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|source| read_error(path, source))?;
    match bytes.len() as u64 <= FILE_BYTES_MAX {
        true => Ok(bytes),
        false => Err(FileError::TooLong { path: path.into() }),
    }
}

/// Reads a file that holds a secret, and refuses one that group or others may access. The mode is
/// that of the opened file, so nothing can be put in its place between the check and the read.
pub(crate) fn read_secret_file(path: &Path) -> Result<Zeroizing<String>, FileError> {
    let file = open(path)?;
    let metadata = file.metadata().map_err(|source| read_error(path, source))?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(FileError::Exposed {
            path: path.into(),
            mode,
        });
    }
    read(&file, path)
}

/// Writes a new file that all may read. After a crash it is there whole or not at all.
pub(crate) fn create_file(path: &Path, text: &str) -> Result<(), FileError> {
    create(path, text.as_bytes(), 0o644)
}

/// Writes a new file that only its owner may read. After a crash it is there whole or not at all.
pub(crate) fn create_secret_file(path: &Path, text: &str) -> Result<(), FileError> {
    create(path, text.as_bytes(), 0o600)
}

/// Replaces a file in which there is no secret, or makes it, readable by all who get to its directory: a host's activator may
/// have another user. After a crash it holds all of the old bytes or all of the new ones.
pub(crate) fn replace_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.{}", std::process::id()));
    // A predecessor with our process id may have been killed here.
    let _ = fs::remove_file(&temporary);
    write(&temporary, bytes, 0o644).and_then(|()| fs::rename(&temporary, path))?;
    File::open(directory_of(path))?.sync_all()
}

fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Waits until no other process holds the lock of a file, which is made where it is absent. It is held for as long as the file is
/// open; the kernel gives it back when we die.
///
/// # Errors
/// What opening or locking it gave.
pub fn lock_file(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    let file = options
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)?;
    file.lock()?;
    Ok(file)
}

/// Makes a directory, and those above it, for its owner alone; or takes it as it is.
pub(crate) fn create_private_directory(path: &Path) -> Result<(), FileError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| FileError::Write {
            path: path.into(),
            source,
        })
}

fn open(path: &Path) -> Result<File, FileError> {
    File::open(path).map_err(|source| read_error(path, source))
}

fn read(file: &File, path: &Path) -> Result<Zeroizing<String>, FileError> {
    let mut text = Zeroizing::new(String::new());
    let length = file
        .take(FILE_BYTES_MAX + 1)
        .read_to_string(&mut text)
        .map_err(|source| read_error(path, source))?;
    if length as u64 > FILE_BYTES_MAX {
        return Err(FileError::TooLong { path: path.into() });
    }
    Ok(text)
}

/// Writes a new file. After a crash it is there whole or not at all.
pub(crate) fn create(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FileError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.{}", std::process::id()));
    let directory = directory_of(path);
    // A predecessor with our process id may have been killed here.
    let _ = fs::remove_file(&temporary);
    let linked = write(&temporary, bytes, mode).and_then(|()| fs::hard_link(&temporary, path));
    let removed = fs::remove_file(&temporary);
    linked
        .and(removed)
        .and_then(|()| File::open(directory)?.sync_all())
        .map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => FileError::Exists { path: path.into() },
            _ => FileError::Write {
                path: path.into(),
                source,
            },
        })
}

fn write(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn read_error(path: &Path, source: io::Error) -> FileError {
    FileError::Read {
        path: path.into(),
        source,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_secret_file_is_for_its_owner_and_is_refused_once_others_can_read_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("node.key");
        create_secret_file(&path, "secret").unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(read_secret_file(&path).unwrap().as_str(), "secret");

        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let refusal = read_secret_file(&path).unwrap_err().to_string();
        assert!(refusal.contains("node.key has mode 640"), "{refusal}");
        assert!(refusal.contains("chmod 600"), "{refusal}");
    }

    #[test]
    fn a_file_that_exists_is_kept_and_nothing_else_is_left_behind() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ca.key");
        create_secret_file(&path, "first").unwrap();
        assert!(matches!(
            create_secret_file(&path, "second"),
            Err(FileError::Exists { .. })
        ));
        assert_eq!(read_file(&path).unwrap(), "first");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_without_end_is_not_read_to_its_end() {
        assert!(matches!(
            read_file(Path::new("/dev/zero")),
            Err(FileError::TooLong { .. })
        ));
    }
}
