//! A directory that is deployed, or that says how: read without being led out of it.
//!
//! Whoever else may write there can put a link in the place of a folder while it is read, and a deployment would carry files of
//! this machine to the whole fleet. So each path is resolved by the kernel beneath the open directory and through no link
//! (`openat2`, Linux 5.6).

use std::{
    fs::{File, Metadata},
    io,
    os::{
        fd::OwnedFd,
        unix::ffi::{OsStrExt, OsStringExt},
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Dir, Mode, OFlags, ResolveFlags},
    io::Errno,
};

/// An open directory.
#[derive(Debug)]
pub(crate) struct Beneath(OwnedFd);

impl Beneath {
    /// Opens a directory, links followed: a deployer's path.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(rustix::fs::open(path, flags, Mode::empty())?))
    }

    /// Opens a folder of it. Paths are relative; the empty one is the directory itself.
    pub(crate) fn folder(&self, path: &Path) -> io::Result<Self> {
        if path.as_os_str().is_empty() {
            return Ok(Self(self.0.try_clone()?));
        }
        let folder = self.resolve(path, OFlags::RDONLY | OFlags::DIRECTORY);
        folder.map(Self)
    }

    /// The names in a folder of it, in no order.
    pub(crate) fn names(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.folder(path)?.0)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(std::ffi::OsStr::from_bytes(name).into());
            }
        }
        Ok(names)
    }

    /// What is at a path: of a link what the link is.
    pub(crate) fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        let handle = match path.as_os_str().is_empty() {
            true => self.0.try_clone()?,
            false => self.resolve(path, OFlags::PATH)?,
        };
        File::from(handle).metadata()
    }

    /// Opens the file at a path. Whatever else is there is an error or reads as nothing.
    pub(crate) fn file(&self, path: &Path) -> io::Result<File> {
        // A pipe would be waited for.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        self.resolve(path, flags).map(File::from)
    }

    /// Where the link at a path leads.
    pub(crate) fn link_target(&self, path: &Path) -> io::Result<PathBuf> {
        let link = self.resolve(path, OFlags::PATH)?;
        let target = rustix::fs::readlinkat(&link, "", Vec::new())?;
        Ok(std::ffi::OsString::from_vec(target.into_bytes()).into())
    }

    fn resolve(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let beneath =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        match rustix::fs::openat2(&self.0, path, flags, Mode::empty(), beneath) {
            // To a reader a link in the way is a folder that is gone.
            Err(Errno::LOOP) => Err(Errno::NOTDIR.into()),
            opened => Ok(opened?),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn c3_nothing_is_read_through_a_link_or_outside() {
        let folder = tempfile::tempdir().unwrap();
        let top = folder.path().join("top");
        fs::create_dir_all(top.join("in")).unwrap();
        fs::write(top.join("in/file"), "ours").unwrap();
        fs::write(folder.path().join("secret"), "theirs").unwrap();
        symlink("..", top.join("up")).unwrap();
        symlink("../secret", top.join("secret")).unwrap();
        symlink("in", top.join("side")).unwrap();
        symlink(&top, folder.path().join("current")).unwrap();
        let top = Beneath::open(&folder.path().join("current")).unwrap();
        let mut names = top.names(Path::new("")).unwrap();
        names.sort();
        let expected = ["in", "secret", "side", "up"];
        assert_eq!(names, expected.map(PathBuf::from));
        assert!(top.metadata(Path::new("")).unwrap().is_dir());
        let read = io::read_to_string(top.file(Path::new("in/file")).unwrap());
        assert_eq!(read.unwrap(), "ours");
        for path in [
            "up/secret",
            "secret",
            "side/file",
            "../secret",
            "/etc/passwd",
        ] {
            assert!(top.file(Path::new(path)).is_err(), "{path}");
        }
        for path in ["up", "side", "..", "/etc"] {
            assert!(top.names(Path::new(path)).is_err(), "{path}");
        }
        let link = Path::new("secret");
        assert!(top.metadata(link).unwrap().is_symlink());
        assert_eq!(top.link_target(link).unwrap(), Path::new("../secret"));
    }
}
