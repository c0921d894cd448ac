//! A plain directory, read as it is. Links are data and never followed.

use std::{
    fs::{FileType, Metadata},
    io::{self, Cursor, Read},
    os::unix::{
        ffi::{OsStrExt, OsStringExt},
        fs::{FileTypeExt, MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use scap_proto::content::RelPath;

use super::{
    Halt,
    error::SnapshotError,
    listing::{Form, Kind, Listed, Origin, Reader, Wanted},
};
use crate::beneath::Beneath;

/// A directory, and what was in it when it was scanned. Anything that changes between the scan and
/// the end of the build is an error.
pub(super) struct Directory {
    root: Arc<Beneath>,
    /// In path order.
    entries: Vec<Listed<Stamp>>,
    /// All directories; the root is the empty path.
    directories: Vec<(PathBuf, Stamp)>,
}

/// What tells one state of a file from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }
}

impl Directory {
    /// Lists all that is beneath `path`, which may be a link itself.
    pub(super) fn scan(path: &Path) -> Result<Self, SnapshotError> {
        let open = |source| SnapshotError::Open {
            path: path.to_owned(),
            source,
        };
        let root = Beneath::open(path).map_err(open)?;
        let metadata = root.metadata(Path::new("")).map_err(open)?;
        let mut scanned = Self {
            directories: vec![(PathBuf::new(), Stamp::of(&metadata))],
            root: Arc::new(root),
            entries: Vec::new(),
        };
        let mut next = 0;
        while next < scanned.directories.len() {
            let directory = scanned.directories[next].0.clone();
            scanned.scan_one(&directory)?;
            next += 1;
        }
        scanned.entries.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        Ok(scanned)
    }

    /// Lists one directory; those in it are left for later.
    fn scan_one(&mut self, directory: &Path) -> Result<(), SnapshotError> {
        let read = |source| SnapshotError::Read {
            path: name(directory),
            source,
        };
        let mut is_empty = true;
        for name in self.root.names(directory).map_err(read)? {
            is_empty = false;
            let path = directory.join(name);
            let path = RelPath::new(path.into_os_string().into_vec())?;
            let metadata = self.root.metadata(path.as_path());
            let metadata = metadata.map_err(|source| unreadable(&path, source))?;
            if metadata.is_dir() {
                let stamp = Stamp::of(&metadata);
                self.directories.push((path.as_path().to_owned(), stamp));
            } else {
                let kind = Kind::Content {
                    form: form(&path, &metadata)?,
                    size: metadata.size(),
                    locator: Stamp::of(&metadata),
                };
                self.entries.push(Listed { path, kind });
            }
        }
        if is_empty && !directory.as_os_str().is_empty() {
            let path = RelPath::new(directory.as_os_str().as_bytes().to_vec())?;
            let kind = Kind::EmptyDirectory;
            self.entries.push(Listed { path, kind });
        }
        Ok(())
    }
}

impl Origin for Directory {
    type Locator = Stamp;
    type Reader = DirectoryReader;

    fn list(&self) -> Result<impl Iterator<Item = Result<Listed<Stamp>, Halt>>, SnapshotError> {
        Ok(self.entries.iter().cloned().map(Ok))
    }

    fn reader(&self) -> Result<DirectoryReader, SnapshotError> {
        Ok(DirectoryReader(self.root.clone()))
    }

    /// A directory's own time changes when something in it comes, goes or is renamed.
    fn finish(&self) -> Result<(), SnapshotError> {
        for (directory, stamp) in &self.directories {
            let metadata = self.root.metadata(directory);
            let metadata = metadata.map_err(|source| SnapshotError::Read {
                path: name(directory),
                source,
            })?;
            if Stamp::of(&metadata) != *stamp {
                return Err(SnapshotError::Changed(name(directory)));
            }
        }
        Ok(())
    }
}

/// Reads files beneath its root.
pub(super) struct DirectoryReader(Arc<Beneath>);

impl Reader<Stamp> for DirectoryReader {
    fn read(
        &mut self,
        wanted: &[Wanted<'_, Stamp>],
        mut each: impl FnMut(usize, &mut dyn Read) -> Result<(), Halt>,
    ) -> Result<(), Halt> {
        for (index, wanted) in wanted.iter().enumerate() {
            let path = wanted.path.as_path();
            let failed = |source| unreadable(wanted.path, source);
            if wanted.form == Form::Symlink {
                let target = self.0.link_target(path).map_err(failed)?;
                each(index, &mut Cursor::new(target.into_os_string().into_vec()))?;
                continue;
            }
            let mut file = self.0.file(path).map_err(failed)?;
            for is_read in [false, true] {
                if is_read {
                    each(index, &mut file)?;
                }
                if Stamp::of(&file.metadata().map_err(failed)?) != *wanted.locator {
                    return Err(SnapshotError::Changed(wanted.path.to_string()).into());
                }
            }
        }
        Ok(())
    }
}

fn form(path: &RelPath, metadata: &Metadata) -> Result<Form, SnapshotError> {
    let mode = metadata.permissions().mode();
    let kind = metadata.file_type();
    if kind.is_symlink() {
        Ok(Form::Symlink)
    } else if !kind.is_file() {
        Err(SnapshotError::Kind {
            path: path.clone(),
            kind: kind_name(kind),
        })
    } else if mode & 0o6000 != 0 {
        Err(SnapshotError::SetId(path.clone()))
    } else if mode & 0o100 != 0 {
        Ok(Form::Executable)
    } else {
        Ok(Form::File)
    }
}

fn kind_name(kind: FileType) -> &'static str {
    if kind.is_socket() {
        "socket"
    } else if kind.is_fifo() {
        "named pipe"
    } else {
        "device"
    }
}

/// A directory for people; the root is `.`.
fn name(directory: &Path) -> String {
    RelPath::new(directory.as_os_str().as_bytes().to_vec())
        .map_or_else(|_| ".".into(), |path| path.to_string())
}

fn unreadable(path: &RelPath, source: io::Error) -> SnapshotError {
    SnapshotError::Read {
        path: path.to_string(),
        source,
    }
}
