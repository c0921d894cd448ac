//! Directories that stay open: everything is named relative to one, and no link is ever followed.
//!
//! Whoever else may write to a tree (the release's owner, a check, a service) can put a link in the place of anything at any
//! time. So the kernel is told with each name that what it resolves to must be beneath the directory, and reached through no
//! link at all (`openat2`, Linux 5.6): nothing is checked first and used afterwards.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{
        AtFlags, CWD, FileType, Mode, OFlags, RenameFlags, ResolveFlags, Stat, Timespec,
        Timestamps, UTIME_NOW,
    },
    io::Errno,
};

/// The mode of every directory of a release.
pub(super) const DIRECTORY_MODE: u32 = 0o755;

/// How what is opened is found: beneath a directory, and through no link, those of `/proc` included.
const BENEATH: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS);

/// An open directory. Names are single components: others are refused.
#[derive(Debug)]
pub(super) struct Dir(OwnedFd);

impl Dir {
    /// Opens the directory at `path`, links in it followed: an administrator's path, not a release's.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(rustix::fs::openat(CWD, path, flags, Mode::empty())?))
    }

    /// Opens the directory `name`. A link in its place is an error.
    pub(super) fn dir(&self, name: &[u8]) -> io::Result<Self> {
        self.dir_beneath(single(name)?)
    }

    /// Opens the directory at a path of several components, or of none. A link in the place of one is an error.
    pub(super) fn dir_at(&self, path: &[u8]) -> io::Result<Self> {
        match path {
            b"" => Ok(Self(self.0.try_clone()?)),
            path => self.dir_beneath(path),
        }
    }

    fn dir_beneath(&self, path: &[u8]) -> io::Result<Self> {
        match self.open_beneath(path, OFlags::RDONLY | OFlags::DIRECTORY, 0) {
            Ok(dir) => Ok(Self(dir)),
            // A link is no directory.
            Err(Errno::LOOP) => Err(Errno::NOTDIR.into()),
            Err(error) => Err(error.into()),
        }
    }

    /// Opens what is at a path, which is neither a link nor behind one, unless it is the link itself that is asked for.
    fn open_beneath(&self, path: &[u8], flags: OFlags, mode: u32) -> rustix::io::Result<OwnedFd> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat2(&self.0, path, flags, Mode::from_raw_mode(mode), BENEATH)
    }

    /// Opens the directory `name`, and makes it with exactly `mode` where nothing is there.
    pub(super) fn make_dir(&self, name: &[u8], mode: u32) -> io::Result<Self> {
        match rustix::fs::mkdirat(&self.0, single(name)?, Mode::from_raw_mode(mode)) {
            Ok(()) => {
                let dir = self.dir(name)?;
                // The umask takes bits away, a parent's set-group-id bit adds one.
                if permissions(&dir.own_stat()?) != mode {
                    rustix::fs::fchmod(&dir.0, Mode::from_raw_mode(mode))?;
                }
                Ok(dir)
            }
            Err(Errno::EXIST) => self.dir(name),
            Err(error) => Err(error.into()),
        }
    }

    /// Sets the directory's own mode.
    pub(super) fn set_mode(&self, mode: u32) -> io::Result<()> {
        Ok(rustix::fs::fchmod(&self.0, Mode::from_raw_mode(mode))?)
    }

    /// The directory's own status.
    pub(super) fn own_stat(&self) -> io::Result<Stat> {
        Ok(rustix::fs::fstat(&self.0)?)
    }

    /// What is at `name`, where anything is.
    pub(super) fn stat(&self, name: &[u8]) -> io::Result<Option<Stat>> {
        match rustix::fs::statat(&self.0, single(name)?, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The target of the link at `name`, or `None` where there is no link.
    pub(super) fn link_target(&self, name: &[u8]) -> io::Result<Option<Vec<u8>>> {
        match rustix::fs::readlinkat(&self.0, single(name)?, Vec::new()) {
            Ok(target) => Ok(Some(target.into_bytes())),
            Err(Errno::NOENT | Errno::INVAL) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Opens the file at `name` for reading. Whatever else is there is an error or reads as nothing.
    pub(super) fn file(&self, name: &[u8]) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        Ok(self.open_beneath(single(name)?, flags, 0)?.into())
    }

    /// Opens the file at `name` for its status alone; it stays the same file when the name goes.
    pub(super) fn handle(&self, name: &[u8]) -> io::Result<OwnedFd> {
        Ok(self.open_beneath(single(name)?, OFlags::PATH, 0)?)
    }

    /// Makes a file where nothing is.
    pub(super) fn create(&self, name: &[u8], mode: u32) -> io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        Ok(self.open_beneath(single(name)?, flags, mode)?.into())
    }

    /// Opens a file for writing to it alone, and makes it where nothing is.
    pub(super) fn open_or_create(&self, name: &[u8], mode: u32) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE;
        Ok(self.open_beneath(single(name)?, flags, mode)?.into())
    }

    /// Gives the file at `name` another name, in `to`, where nothing is.
    pub(super) fn link(&self, name: &[u8], to: &Self, to_name: &[u8]) -> io::Result<()> {
        Ok(rustix::fs::linkat(
            &self.0,
            single(name)?,
            &to.0,
            single(to_name)?,
            AtFlags::empty(),
        )?)
    }

    /// Makes a symbolic link where nothing is.
    pub(super) fn symlink(&self, target: &[u8], name: &[u8]) -> io::Result<()> {
        Ok(rustix::fs::symlinkat(target, &self.0, single(name)?)?)
    }

    /// Moves what is at `name`; a file or link in the new place is replaced.
    pub(super) fn rename(&self, name: &[u8], to: &Self, to_name: &[u8]) -> io::Result<()> {
        let (name, to_name) = (single(name)?, single(to_name)?);
        Ok(rustix::fs::renameat(&self.0, name, &to.0, to_name)?)
    }

    /// Swaps what is at two names of this directory, at one instant.
    pub(super) fn exchange(&self, name: &[u8], other: &[u8]) -> io::Result<()> {
        let (name, other) = (single(name)?, single(other)?);
        let flags = RenameFlags::EXCHANGE;
        Ok(rustix::fs::renameat_with(
            &self.0, name, &self.0, other, flags,
        )?)
    }

    /// Removes the file or link at `name`, where there is one.
    pub(super) fn unlink(&self, name: &[u8]) -> io::Result<()> {
        self.remove(name, AtFlags::empty())
    }

    /// Removes the empty directory at `name`, where there is one.
    pub(super) fn remove_dir(&self, name: &[u8]) -> io::Result<()> {
        self.remove(name, AtFlags::REMOVEDIR)
    }

    fn remove(&self, name: &[u8], flags: AtFlags) -> io::Result<()> {
        match rustix::fs::unlinkat(&self.0, single(name)?, flags) {
            Err(error) if error != Errno::NOENT => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// All names in the directory, in no order.
    pub(super) fn names(&self) -> io::Result<Vec<Box<[u8]>>> {
        let children = self.children()?;
        Ok(children.into_iter().map(|(name, _)| name).collect())
    }

    /// The same, and of what kind each is, where the file system tells.
    pub(super) fn children(&self) -> io::Result<Vec<(Box<[u8]>, FileType)>> {
        let mut children = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.0)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                children.push((name.into(), entry.file_type()));
            }
        }
        Ok(children)
    }

    /// Makes the names in the directory durable.
    pub(super) fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fsync(&self.0)?)
    }

    /// Makes the whole file system durable. An error that the file system met since this directory was
    /// opened is reported, once.
    pub(super) fn sync_file_system(&self) -> io::Result<()> {
        Ok(rustix::fs::syncfs(&self.0)?)
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The directory that holds one path after another beneath a root, kept open as long as the paths stay
/// in it: paths come in order, so each directory is opened about once, and few are open at a time.
#[derive(Debug)]
pub(super) struct Cursor<'a> {
    root: &'a Dir,
    makes: bool,
    path: Vec<u8>,
    dir: Option<Dir>,
}

impl<'a> Cursor<'a> {
    /// Over directories that are there.
    pub(super) fn new(root: &'a Dir) -> Self {
        Self {
            root,
            makes: false,
            path: Vec::new(),
            dir: None,
        }
    }

    /// Over directories that are made, with [`DIRECTORY_MODE`], where they are not there.
    pub(super) fn making(root: &'a Dir) -> Self {
        Self {
            makes: true,
            ..Self::new(root)
        }
    }

    /// The directory at `path`.
    ///
    /// # Errors
    /// `NotFound`, or what stands in place of a directory.
    pub(super) fn dir(&mut self, path: &[u8]) -> io::Result<&Dir> {
        if self.dir.is_none() || self.path != path {
            let below = path
                .strip_prefix(self.path.as_slice())
                .filter(|rest| self.path.is_empty() || rest.first() == Some(&b'/'));
            let (from, rest) = match (&self.dir, below) {
                (Some(dir), Some(rest)) => (dir, rest),
                _ => (self.root, path),
            };
            let mut dir = from.dir_at(b"")?;
            for name in components(rest) {
                dir = if self.makes {
                    dir.make_dir(name, DIRECTORY_MODE)?
                } else {
                    dir.dir(name)?
                };
            }
            self.path.clear();
            self.path.extend_from_slice(path);
            self.dir = Some(dir);
        }
        Ok(self.dir.as_ref().expect("opened above"))
    }
}

/// A path as the directory that holds it, empty at the top, and its name there.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

/// The permission bits of a status, set-id and sticky bits included.
pub(super) fn permissions(stat: &Stat) -> u32 {
    stat.st_mode & 0o7777
}

/// The kind of thing that a status is of.
pub(super) fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// Sets the time of a file's last change to now, by the file system's own clock, and returns that now
/// in nanoseconds.
pub(super) fn touch(file: &File) -> io::Result<i128> {
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: UTIME_NOW,
    };
    let both = Timestamps {
        last_access: now,
        last_modification: now,
    };
    rustix::fs::futimens(file, &both)?;
    Ok(changed_nanos(&rustix::fs::fstat(file)?))
}

/// When content or status of a file last changed, in nanoseconds since 1970.
pub(super) fn changed_nanos(stat: &Stat) -> i128 {
    i128::from(stat.st_ctime) * 1_000_000_000 + i128::from(stat.st_ctime_nsec)
}

/// When content of a file last changed, in nanoseconds since 1970.
pub(super) fn modified_nanos(stat: &Stat) -> i128 {
    i128::from(stat.st_mtime) * 1_000_000_000 + i128::from(stat.st_mtime_nsec)
}

/// A name that leads to nothing but what is in its directory.
fn single(name: &[u8]) -> io::Result<&[u8]> {
    match name {
        b"" | b"." | b".." => Err(Errno::INVAL.into()),
        name if name.contains(&b'/') => Err(Errno::INVAL.into()),
        name => Ok(name),
    }
}

fn components(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/')
        .filter(|name| !name.is_empty())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn c2_no_path_leads_out_of_a_directory_or_through_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        fs::create_dir_all(root.join("in/side")).unwrap();
        fs::create_dir(folder.path().join("out")).unwrap();
        symlink("/etc", root.join("etc")).unwrap();
        symlink("in", root.join("link")).unwrap();
        symlink("../out", root.join("out")).unwrap();
        symlink("/proc/self/cwd", root.join("magic")).unwrap();
        symlink("nothing", root.join("dangling")).unwrap();
        let root = Dir::open(&root).unwrap();
        assert!(root.dir_at(b"in/side").is_ok());
        for path in [
            "etc",
            "link",
            "link/side",
            "out",
            "magic",
            "etc/ssl",
            "in/../..",
        ] {
            let error = root.dir_at(path.as_bytes()).unwrap_err();
            let kind = error.raw_os_error().map(Errno::from_raw_os_error);
            assert!(
                matches!(kind, Some(Errno::NOTDIR | Errno::XDEV)),
                "{path}: {error}"
            );
        }
        for name in ["etc", "link", "dangling"] {
            assert!(root.file(name.as_bytes()).is_err(), "{name}");
            assert!(root.create(name.as_bytes(), 0o600).is_err(), "{name}");
            assert!(root.open_or_create(name.as_bytes(), 0o600).is_err());
            // What is there is the link itself.
            assert!(root.link_target(name.as_bytes()).unwrap().is_some());
            let handle = root.handle(name.as_bytes()).unwrap();
            assert_eq!(
                kind(&rustix::fs::fstat(&handle).unwrap()),
                FileType::Symlink
            );
        }
        assert!(!folder.path().join("root/nothing").exists());
    }

    #[test]
    fn c1_a_name_that_is_a_path_is_refused_by_each_call() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("root/in")).unwrap();
        fs::write(folder.path().join("root/in/file"), "").unwrap();
        let root = Dir::open(&folder.path().join("root")).unwrap();
        for name in [&b""[..], b".", b"..", b"in/file", b"../new", b"/etc"] {
            let refused = [
                root.dir(name).map(drop),
                root.make_dir(name, 0o700).map(drop),
                root.stat(name).map(drop),
                root.link_target(name).map(drop),
                root.file(name).map(drop),
                root.handle(name).map(drop),
                root.create(name, 0o600).map(drop),
                root.open_or_create(name, 0o600).map(drop),
                root.link(name, &root, b"new"),
                root.symlink(b"in", name),
                root.rename(b"in", &root, name),
                root.exchange(b"in", name),
                root.unlink(name),
                root.remove_dir(name),
            ];
            for refused in refused {
                let error = refused.unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{error}");
            }
        }
        assert_eq!(root.names().unwrap(), [Box::<[u8]>::from(&b"in"[..])]);
    }

    #[test]
    fn c5_nothing_is_made_over_what_is_there() {
        // As `readme` is over `README` where the file system folds case, which none here does.
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("readme"), "first").unwrap();
        let root = Dir::open(folder.path()).unwrap();
        let other = root.create(b"other", 0o644).map(drop);
        other.unwrap();
        for refused in [
            root.create(b"readme", 0o644).map(drop),
            root.symlink(b"target", b"readme"),
            root.link(b"other", &root, b"readme"),
            root.make_dir(b"readme", 0o755).map(drop),
        ] {
            refused.unwrap_err();
        }
        let kept = fs::read(folder.path().join("readme")).unwrap();
        assert_eq!(kept, b"first");
    }
}
