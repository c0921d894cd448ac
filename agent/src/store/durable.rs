//! Writing that survives a power cut.
//!
//! State is replaced whole, one file at a time: [`replace_file`]. Bulk data is written without a
//! sync and synced once per batch: `sync_filesystem`.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// Mode of a file that only its owner may read.
pub const PRIVATE: u32 = 0o600;

/// Replaces the file at `path`, or makes it, readable by its owner alone. After a crash at any
/// instant it holds all of the old bytes or all of the new ones; once this returns, the new ones.
///
/// The bytes go through `.<name>.tmp` beside the file, so a crash leaves at most that one file, which
/// the next call clears away. One writer at a time.
///
/// # Errors
/// Any of the steps; the old file is still there. After a failed sync the new bytes may be in place
/// and not be durable.
pub fn replace_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace_file_with(path, PRIVATE, |file| file.write_all(bytes))
}

/// As [`replace_file`], for bytes that `write` makes as it goes and for any `mode`, from which the
/// umask takes away.
///
/// # Errors
/// As [`replace_file`], and whatever `write` returns.
pub fn replace_file_with(
    path: &Path,
    mode: u32,
    write: impl FnOnce(&mut BufWriter<&File>) -> io::Result<()>,
) -> io::Result<()> {
    let temporary = temporary_beside(path)?;
    let written = write_synced(&temporary, mode, write).and_then(|()| fs::rename(&temporary, path));
    if let Err(error) = written {
        // It may not be there, and the error to tell is the first one.
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    sync_directory(parent(path))
}

/// Makes the names in a directory durable: what was made, renamed and removed there.
///
/// # Errors
/// As `open` and `fsync`.
pub fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Makes everything that was written to the file system of `directory` durable. It also fails where
/// a write was lost after `directory` was opened (Linux 5.8 and newer), so the handle must be older
/// than the writes, and a failure is told only once.
pub(super) fn sync_filesystem(directory: &File) -> io::Result<()> {
    Ok(rustix::fs::syncfs(directory)?)
}

fn write_synced(
    path: &Path,
    mode: u32,
    write: impl FnOnce(&mut BufWriter<&File>) -> io::Result<()>,
) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)?;
    let mut writer = BufWriter::new(&file);
    write(&mut writer)?;
    writer.flush()?;
    file.sync_all()
}

fn temporary_beside(path: &Path) -> io::Result<PathBuf> {
    let name = path
        .file_name()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "a path without a file name"))?;
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(name);
    temporary.push(".tmp");
    Ok(parent(path).join(temporary))
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn names(directory: &Path) -> Vec<std::ffi::OsString> {
        let entries = fs::read_dir(directory).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_replaced_file_is_private_and_leaves_nothing_beside_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        // As a crash between writing and renaming would leave it.
        fs::write(directory.path().join(".state.tmp"), b"half").unwrap();
        replace_file(&path, b"one").unwrap();
        replace_file(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(names(directory.path()), ["state"]);
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, PRIVATE);
    }

    #[test]
    fn a_write_that_fails_leaves_the_old_file_and_nothing_beside_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        replace_file(&path, b"old").unwrap();
        let failed = replace_file_with(&path, PRIVATE, |file| {
            file.write_all(b"half")?;
            Err(io::ErrorKind::StorageFull.into())
        });
        assert_eq!(failed.unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(directory.path()), ["state"]);
    }

    #[test]
    fn a_path_without_a_file_name_is_refused() {
        let refused = replace_file(Path::new("/"), b"");
        assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
