//! Directories of ours: nobody but their user may change them, or put another one in their place.
//!
//! Keys, the chunks that were verified and the record of what is deployed are believed because of where they are. So what is
//! started looks first at the directory and at all those above it, as sshd does with the files of its users.

use std::{
    ffi::OsString,
    fs::{self, DirBuilder, Metadata},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Component, Path, PathBuf},
};

use crate::reason::Reason;

/// Mode of a directory of ours that is made.
pub const PRIVATE_MODE: u32 = 0o700;

/// Most links on the way to a directory, as the kernel has it.
const LINKS_MAX: usize = 40;

/// Makes a directory of ours (mode 0700), with those above it, where it is not there; and checks it as [`check`] does. Where
/// somebody else could lead us astray, nothing is made.
///
/// # Errors
/// [`PlaceError`].
pub fn make(path: &Path) -> Result<(), PlaceError> {
    check_above(path)?;
    DirBuilder::new()
        .recursive(true)
        .mode(PRIVATE_MODE)
        .create(path)
        .map_err(io_error("make", path))?;
    check(path)
}

/// Checks that a directory belongs to our user or to root, that neither its group nor others may write to it, and that those
/// above it are such that nobody else can put another one in its place.
///
/// # Errors
/// [`PlaceError`].
pub fn check(path: &Path) -> Result<(), PlaceError> {
    check_above(path)?;
    let metadata = fs::metadata(path).map_err(io_error("look at", path))?;
    let trusted = Trusted::find()?;
    if !trusted.owns(&metadata) {
        return Err(PlaceError::Owner {
            path: path.to_owned(),
            found: metadata.uid(),
            expected: trusted.user,
        });
    }
    let mode = metadata.mode() & 0o7777;
    match mode & 0o022 {
        0 => Ok(()),
        _ => Err(PlaceError::Writable {
            path: path.to_owned(),
            mode,
        }),
    }
}

/// Checks the directories above one alone, which need not be there, and the links that lead to it.
///
/// A group may write there: its members are who works together on the host, and where each user has a group of their own it is
/// nobody else.
///
/// # Errors
/// [`PlaceError::Above`], and where one cannot be looked at.
pub fn check_above(path: &Path) -> Result<(), PlaceError> {
    let whole = std::path::absolute(path).map_err(io_error("find", path))?;
    let trusted = Trusted::find()?;
    let mut at = PathBuf::from("/");
    // The next is the last.
    let mut names = names(&whole);
    let mut links = 0;
    while let Some(name) = names.pop() {
        if name == ".." {
            at.pop();
            continue;
        }
        let next = at.join(name);
        let metadata = match fs::symlink_metadata(&next) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            found => found.map_err(io_error("look at", &next))?,
        };
        if !metadata.is_symlink() && names.is_empty() {
            return Ok(());
        }
        let mode = metadata.mode() & 0o7777;
        // Where it is sticky, as `/tmp` is, others may add to it and rename only what is theirs. A link's mode says nothing.
        let is_open = !metadata.is_symlink() && mode & 0o002 != 0 && mode & 0o1000 == 0;
        if is_open || !trusted.owns(&metadata) {
            return Err(PlaceError::Above {
                path: path.to_owned(),
                above: next,
                uid: metadata.uid(),
                mode,
            });
        }
        if !metadata.is_symlink() {
            at = next;
            continue;
        }
        links += 1;
        if links > LINKS_MAX {
            let error = rustix::io::Errno::LOOP.into();
            return Err(io_error("find", path)(error));
        }
        let target = fs::read_link(&next).map_err(io_error("look at", &next))?;
        if target.is_absolute() {
            at = PathBuf::from("/");
        }
        names.extend(self::names(&target));
    }
    Ok(())
}

/// The names in a path, the first one last.
fn names(path: &Path) -> Vec<OsString> {
    let names = path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::Prefix(_) | Component::RootDir | Component::CurDir => None,
    });
    let mut names: Vec<OsString> = names.collect();
    names.reverse();
    names
}

/// Who may change what we believe.
struct Trusted {
    user: u32,
    /// Root, or who that is outside of a user namespace where it is not mapped: whoever owns `/` owns the host.
    host: u32,
}

impl Trusted {
    fn find() -> Result<Self, PlaceError> {
        Ok(Self {
            user: rustix::process::geteuid().as_raw(),
            host: fs::metadata("/")
                .map_err(io_error("look at", Path::new("/")))?
                .uid(),
        })
    }

    fn owns(&self, metadata: &Metadata) -> bool {
        [0, self.user, self.host].contains(&metadata.uid())
    }
}

/// Why a directory is not to be used.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// Somebody else owns it.
    #[error(
        "{0} belongs to user {found}, who could change what user {expected} keeps there; run this as user {found}, use \
         `chown -R {expected} {0}`, or another directory [{1}]",
        path.display(), Reason::UnsafePath
    )]
    Owner {
        /// The directory.
        path: PathBuf,
        /// Its owner's number.
        found: u32,
        /// Our user's number.
        expected: u32,
    },
    /// Others may write to it.
    #[error(
        "{0} can be written by others (mode {mode:04o}); use `chmod go-w {0}` [{1}]",
        path.display(), Reason::UnsafePath
    )]
    Writable {
        /// The directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Others could put another directory in its place, or have a link lead to another one.
    #[error(
        "{1} (user {uid}, mode {mode:04o}) leads to {0}, and others could have it lead elsewhere; use `chown -h root {1}` and \
         `chmod o-w {1}`, or another directory [{2}]",
        path.display(), above.display(), Reason::UnsafePath
    )]
    Above {
        /// The directory.
        path: PathBuf,
        /// The one above it, or the link.
        above: PathBuf,
        /// That one's owner's number.
        uid: u32,
        /// That one's permission bits.
        mode: u32,
    },
    /// A step on the disk.
    #[error("{doing} the directory {}", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// With what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl PlaceError {
    /// Its code.
    pub fn code(&self) -> Reason {
        match self {
            Self::Owner { .. } | Self::Writable { .. } | Self::Above { .. } => Reason::UnsafePath,
            Self::Io { .. } => Reason::IoError,
        }
    }
}

fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PlaceError {
    move |source| PlaceError::Io {
        doing,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    use super::*;

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn c8_a_directory_is_made_for_us_alone_with_those_above_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b");
        make(&path).unwrap();
        make(&path).unwrap();
        for made in [&path, &folder.path().join("a")] {
            assert_eq!(fs::metadata(made).unwrap().mode() & 0o7777, PRIVATE_MODE);
        }
        let link = folder.path().join("link");
        symlink(&path, &link).unwrap();
        check(&link).unwrap();
    }

    #[test]
    fn c8_a_directory_that_others_can_write_to_is_refused_with_the_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("st");
        make(&path).unwrap();
        for mode in [0o777, 0o770, 0o702, 0o1777] {
            set_mode(&path, mode);
            for refused in [check(&path), make(&path)] {
                let error = refused.unwrap_err();
                assert_eq!(error.code(), Reason::UnsafePath);
                let remedy = format!("chmod go-w {}", path.display());
                assert!(error.to_string().contains(&remedy), "{error}");
            }
        }
        set_mode(&path, 0o755);
        check(&path).unwrap();
    }

    #[test]
    fn c8_a_directory_below_one_that_others_can_write_to_is_refused_and_nothing_is_made_there() {
        let folder = tempfile::tempdir().unwrap();
        let open = folder.path().join("open");
        let path = open.join("st");
        make(&path).unwrap();
        set_mode(&open, 0o777);
        for refused in [&path, &open.join("new"), &open.join("new/er")] {
            let error = make(refused).unwrap_err();
            assert!(
                matches!(error, PlaceError::Above { mode: 0o777, .. }),
                "{error}"
            );
        }
        assert!(!open.join("new").exists());
        // As `/tmp` is, and as a group's folder is.
        for mode in [0o1777, 0o775] {
            set_mode(&open, mode);
            make(&path).unwrap();
        }
    }

    #[test]
    fn c8_a_directory_of_somebody_else_or_in_one_is_refused_also_to_root() {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: only root gives directories away");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("home/st");
        make(&path).unwrap();
        chown(&path, Some(65534), None).unwrap();
        let error = check(&path).unwrap_err();
        assert!(
            matches!(error, PlaceError::Owner { found: 65534, .. }),
            "{error}"
        );
        assert!(
            error.to_string().contains("run this as user 65534"),
            "{error}"
        );
        chown(&path, Some(0), None).unwrap();
        // A link of theirs, where all may make one, to a directory of ours.
        let shared = folder.path().join("shared");
        fs::create_dir(&shared).unwrap();
        set_mode(&shared, 0o1777);
        let link = shared.join("link");
        symlink(&path, &link).unwrap();
        check(&link).unwrap();
        std::os::unix::fs::lchown(&link, Some(65534), None).unwrap();
        let error = check(&link).unwrap_err();
        assert!(
            matches!(error, PlaceError::Above { uid: 65534, .. }),
            "{error}"
        );

        chown(path.parent().unwrap(), Some(65534), None).unwrap();
        for refused in [&path, &folder.path().join("home/new")] {
            let error = make(refused).unwrap_err();
            assert!(
                matches!(error, PlaceError::Above { uid: 65534, .. }),
                "{error}"
            );
        }
        assert!(!folder.path().join("home/new").exists());
    }
}
