//! Where the scap folder of a deployment is: in the commit, in a submodule, or beside it.

use std::{
    fmt, fs,
    io::{self, Read},
    os::unix::{ffi::OsStrExt, fs::PermissionsExt},
    path::{Path, PathBuf},
};

use scap_proto::{content::RelPath, id::GitOid};

use super::{
    error::{Notice, Origin, ScapError},
    files::{Collector, FILE_BYTES_MAX, Files},
    settings::name,
};
use crate::{
    beneath::Beneath,
    git::{GitError, Mode, Repo, TreeEntry},
    snapshot::{HeldFile, HeldFiles},
};

/// The folder's name in a repo.
const FOLDER: &str = "scap";
/// What is wrong with a file or a link of that name.
const NO_FOLDER: &str = "is a file or a link; a folder was expected";

/// What is deployed, and where its scap folder may be.
#[derive(Debug, Clone, Copy)]
pub enum Source<'a> {
    /// A commit.
    Commit {
        /// Of which repository.
        repo: &'a Repo,
        /// Its id.
        commit: &'a GitOid,
        /// The top of its work tree, where it has one.
        top: Option<&'a Path>,
    },
    /// A directory.
    Directory(&'a Path),
}

/// A scap folder, or that there is none.
#[derive(Debug, Clone)]
pub struct Found {
    /// Where it was.
    pub place: Place,
    pub(super) files: Files,
    pub(super) notices: Vec<Notice>,
}

/// Where a scap folder was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// There is none.
    Nowhere,
    /// In the commit.
    Commit(GitOid),
    /// In the commit of a submodule that the commit names.
    Submodule(GitOid),
    /// In the work tree and not in the commit, or in the directory that is deployed.
    Beside(PathBuf),
    /// Where the command line says.
    Named(PathBuf),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nowhere => f.write_str("none"),
            Self::Commit(commit) => write!(f, "{FOLDER}/ of commit {commit}"),
            Self::Submodule(commit) => write!(f, "submodule {FOLDER} at its commit {commit}"),
            Self::Beside(path) => write!(f, "{}, which is in no commit", path.display()),
            Self::Named(path) => write!(f, "{}, as --scap says", path.display()),
        }
    }
}

impl Found {
    /// The folder of a source: that of the commit, else of the submodule that the commit has there, else the one beside it. Blocking.
    ///
    /// # Errors
    /// [`ScapError`]; [`ScapError::Unclear`] where something is called so that is no folder, or has neither `scap.cfg` nor `scap.toml`:
    /// to take it for nothing would be to deploy to the whole fleet.
    pub fn of(source: Source<'_>) -> Result<Self, ScapError> {
        let (repo, commit, top) = match source {
            Source::Directory(path) => return beside(path),
            Source::Commit { repo, commit, top } => (repo, commit, top),
        };
        let folder = RelPath::new(FOLDER).expect("it is a plain name");
        let entries = repo
            .tree_below(commit, &folder)?
            .collect::<Result<Vec<_>, _>>()?;
        if let [
            TreeEntry {
                mode: Mode::Gitlink,
                id,
                path,
                ..
            },
        ] = entries.as_slice()
            && path == FOLDER.as_bytes()
        {
            let place = Place::Submodule(id.clone());
            let (submodule, entries) = submodule(repo, top, id)?;
            return of_entries(place, &submodule, entries, "");
        }
        let place = Place::Commit(commit.clone());
        match (entries.as_slice(), top) {
            ([], Some(top)) => beside(top),
            ([], None) => Ok(Self::nothing()),
            ([entry], _) if entry.path == FOLDER.as_bytes() => Err(ScapError::Unclear {
                place: place.to_string(),
                problem: NO_FOLDER,
            }),
            _ => of_entries(place, repo, entries, "scap/"),
        }
    }

    /// The folder that somebody names. Blocking.
    ///
    /// # Errors
    /// [`ScapError::NotAFolder`] and others.
    pub fn named(path: &Path) -> Result<Self, ScapError> {
        let open = Beneath::open(path).map_err(|source| {
            let path = path.into();
            ScapError::Read { path, source }
        })?;
        let (files, notices) = read_directory(path, &open)?;
        if !files.is_scap() {
            return Err(ScapError::NotAFolder(path.into()));
        }
        Self::checked(Place::Named(path.into()), (files, notices))
    }

    /// What was read there, if it is a scap folder.
    fn checked(place: Place, (files, notices): (Files, Vec<Notice>)) -> Result<Self, ScapError> {
        match files.is_scap() {
            true => Ok(Self {
                place,
                files,
                notices,
            }),
            false => Err(ScapError::Unclear {
                place: place.to_string(),
                problem: "has neither scap.cfg nor scap.toml",
            }),
        }
    }

    /// The folder that these files are, by their paths in it, as if they were at `place`.
    ///
    /// # Errors
    /// [`ScapError::TooLarge`] and [`ScapError::Unclear`], as of any other folder; a path that is not UTF-8.
    pub fn held(place: Place, files: &HeldFiles) -> Result<Self, ScapError> {
        let mut collector = Collector::default();
        for (
            path,
            HeldFile {
                bytes,
                is_executable,
            },
        ) in files
        {
            let path = path_of(path.as_bytes())?;
            collector.admit(&path, bytes.len() as u64)?;
            collector.add_file(&path, bytes.to_vec(), *is_executable);
        }
        Self::checked(place, collector.finish())
    }

    /// That there is none.
    pub fn nothing() -> Self {
        Self {
            place: Place::Nowhere,
            files: Files::default(),
            notices: Vec::new(),
        }
    }
}

/// The repository of the submodule, and its files at a commit.
fn submodule(
    repo: &Repo,
    top: Option<&Path>,
    commit: &GitOid,
) -> Result<(Repo, Vec<TreeEntry>), ScapError> {
    let kept = repo.git_dir().join("modules").join(FOLDER);
    let mut places = top
        .map(|top| top.join(FOLDER))
        .into_iter()
        .chain([kept])
        .peekable();
    loop {
        let place = places.next().expect("the last one returns");
        let found = Repo::open(&place).and_then(|repo| {
            let entries = repo.tree(commit)?.collect::<Result<Vec<_>, GitError>>()?;
            Ok((repo, entries))
        });
        match found {
            Ok(found) => return Ok(found),
            Err(_) if places.peek().is_some() => {}
            Err(source) => {
                let commit = commit.to_string();
                return Err(ScapError::Submodule { commit, source });
            }
        }
    }
}

/// The files of a tree, of which `prefix` is not part of their names.
fn of_entries(
    place: Place,
    repo: &Repo,
    entries: Vec<TreeEntry>,
    prefix: &str,
) -> Result<Found, ScapError> {
    let mut collector = Collector::default();
    let mut wanted = Vec::new();
    for entry in entries {
        let path = path_of(&entry.path)?;
        let path = path.strip_prefix(prefix).unwrap_or(&path).to_owned();
        if Collector::wants(&path) && entry.mode != Mode::Gitlink {
            collector.admit(&path, entry.size)?;
            wanted.push((path, entry));
        }
    }
    let ids: Vec<GitOid> = wanted.iter().map(|(_, entry)| entry.id.clone()).collect();
    repo.blobs()?.read(&ids, |index, content: &mut dyn Read| {
        let (path, entry) = &wanted[index];
        let mut bytes = Vec::new();
        content
            .read_to_end(&mut bytes)
            .map_err(|source| GitError::Run {
                doing: "read the scap folder of the commit",
                source,
            })?;
        match entry.mode {
            Mode::Symlink => collector.add_link(path, &String::from_utf8_lossy(&bytes)),
            mode => collector.add_file(path, bytes, mode == Mode::Executable),
        }
        Ok::<_, GitError>(())
    })?;
    Found::checked(place, collector.finish())
}

/// The folder in a directory, if there is one.
fn beside(directory: &Path) -> Result<Found, ScapError> {
    let path = directory.join(FOLDER);
    let found = Beneath::open(directory).and_then(|directory| {
        let metadata = directory.metadata(Path::new(FOLDER))?;
        Ok((directory, metadata))
    });
    match found {
        Ok((directory, metadata)) if metadata.is_dir() => {
            let folder = directory.folder(Path::new(FOLDER));
            let folder = folder.map_err(|source| {
                let path = path.clone();
                ScapError::Read { path, source }
            })?;
            let read = read_directory(&path, &folder)?;
            Found::checked(Place::Beside(path), read)
        }
        Ok(_) => Err(ScapError::Unclear {
            place: Place::Beside(path).to_string(),
            problem: NO_FOLDER,
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Found::nothing()),
        Err(source) => Err(ScapError::Read { path, source }),
    }
}

/// Reads the folder at `top`, which is open.
fn read_directory(top: &Path, open: &Beneath) -> Result<(Files, Vec<Notice>), ScapError> {
    let mut collector = Collector::default();
    let mut folders = vec![String::new()];
    while let Some(folder) = folders.pop() {
        let failed = |source| ScapError::Read {
            path: top.join(&folder),
            source,
        };
        for name in open.names(Path::new(&folder)).map_err(failed)? {
            let name = path_of(name.as_os_str().as_bytes())?;
            let path = if folder.is_empty() {
                name
            } else {
                format!("{folder}/{name}")
            };
            if !Collector::wants(&path) {
                continue;
            }
            let at = Path::new(&path);
            let failed = |source| ScapError::Read {
                path: top.join(&path),
                source,
            };
            let metadata = open.metadata(at).map_err(failed)?;
            if metadata.is_dir() {
                folders.push(path);
            } else if metadata.is_symlink() {
                collector.admit(&path, 0)?;
                let target = open.link_target(at).map_err(failed)?;
                collector.add_link(&path, &target.to_string_lossy());
            } else if metadata.is_file() {
                collector.admit(&path, metadata.len())?;
                let is_executable = metadata.permissions().mode() & 0o100 != 0;
                let bytes = open.file(at).and_then(|file| read(&file));
                collector.add_file(&path, bytes.map_err(failed)?, is_executable);
            }
        }
    }
    Ok(collector.finish())
}

/// A file of this machine that may not be there, such as a host list: for [`super::Scap::read`]. Blocking.
///
/// # Errors
/// [`ScapError::Read`].
pub fn read_machine(path: &Path) -> Result<Option<Vec<u8>>, ScapError> {
    match open(path).and_then(|file| read(&file)) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            Ok(None)
        }
        Err(source) => Err(ScapError::Read {
            path: path.into(),
            source,
        }),
    }
}

fn open(path: &Path) -> io::Result<fs::File> {
    // A pipe would be waited for.
    match fs::metadata(path)?.is_file() {
        true => fs::File::open(path),
        false => Err(io::ErrorKind::InvalidInput.into()),
    }
}

/// The bytes of a file, if they are not too many.
fn read(file: &fs::File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(bytes)
}

/// A path as text.
fn path_of(bytes: &[u8]) -> Result<String, ScapError> {
    String::from_utf8(bytes.to_vec()).map_err(|_| {
        let file = name(bytes.escape_ascii().to_string());
        ScapError::invalid(&Origin::File { file, line: 1 }, "a name that is not UTF-8")
    })
}
