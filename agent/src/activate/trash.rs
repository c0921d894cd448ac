//! Trees on their way out. A directory is first moved here, at one instant, and then taken apart; what a
//! crash leaves is taken apart the next time.

use std::io;

use rustix::fs::FileType;

use super::{
    dir::{Dir, kind, permissions},
    inodes::Inodes,
    spare::Upkeep,
};

/// The folder that things are moved to before they are removed.
#[derive(Debug)]
pub(super) struct Trash(Dir);

impl Trash {
    /// Over a folder that only this process uses.
    pub(super) fn new(dir: Dir) -> Self {
        Self(dir)
    }

    /// Moves what is at `name` in `dir` out of the way, where anything is.
    ///
    /// # Errors
    /// Where it cannot be moved: it is still there.
    pub(super) fn take(&self, dir: &Dir, name: &[u8]) -> io::Result<()> {
        match dir.rename(name, &self.0, &self.free_name(&mut 0)?) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Whether nothing waits to be removed.
    ///
    /// # Errors
    /// Where the folder cannot be read.
    pub(super) fn is_empty(&self) -> io::Result<bool> {
        Ok(self.0.names()?.is_empty())
    }

    /// Removes all that is here, until `is_awaited`. Files that have names elsewhere are followed through it in `inodes`.
    ///
    /// Directories are moved up and taken apart one by one, so that no depth costs memory or descriptors.
    ///
    /// # Errors
    /// Where something cannot be removed; the rest waits for the next time.
    pub(super) fn empty(
        &self,
        inodes: &mut Inodes,
        is_awaited: &dyn Fn() -> bool,
    ) -> io::Result<Upkeep> {
        let mut last = 0;
        loop {
            let names = self.0.names()?;
            if names.is_empty() {
                return Ok(Upkeep::Done);
            }
            for name in names {
                match self.0.stat(&name)?.map(|stat| kind(&stat)) {
                    Some(FileType::Directory) => {
                        if self.flatten(&name, &mut last, inodes, is_awaited)? == Upkeep::Stopped {
                            return Ok(Upkeep::Stopped);
                        }
                        self.0.remove_dir(&name)?;
                    }
                    _ => remove_file(&self.0, &name, inodes)?,
                }
            }
        }
    }

    fn flatten(
        &self,
        name: &[u8],
        last: &mut u64,
        inodes: &mut Inodes,
        is_awaited: &dyn Fn() -> bool,
    ) -> io::Result<Upkeep> {
        let dir = self.0.dir(name)?;
        make_ours(&dir)?;
        for child in dir.names()? {
            if is_awaited() {
                return Ok(Upkeep::Stopped);
            }
            match dir.stat(&child)?.map(|stat| kind(&stat)) {
                Some(FileType::Directory) => {
                    make_ours(&dir.dir(&child)?)?;
                    dir.rename(&child, &self.0, &self.free_name(last)?)?;
                }
                _ => remove_file(&dir, &child, inodes)?,
            }
        }
        Ok(Upkeep::Done)
    }

    fn free_name(&self, last: &mut u64) -> io::Result<Vec<u8>> {
        loop {
            *last += 1;
            let name = last.to_string().into_bytes();
            if self.0.stat(&name)?.is_none() {
                return Ok(name);
            }
        }
    }
}

/// Gives us the right to take the directory apart and to move it, whoever took it away.
fn make_ours(dir: &Dir) -> io::Result<()> {
    match permissions(&dir.own_stat()?) & 0o700 {
        0o700 => Ok(()),
        _ => dir.set_mode(0o700),
    }
}

/// Removes a file or link. One that has names elsewhere is followed through it in `inodes`.
pub(super) fn remove_file(dir: &Dir, name: &[u8], inodes: &mut Inodes) -> io::Result<()> {
    let Some(stat) = dir.stat(name)? else {
        return Ok(());
    };
    if stat.st_nlink == 1 {
        inodes.forget(stat.st_ino);
        return dir.unlink(name);
    }
    let handle = dir.handle(name)?;
    let before = rustix::fs::fstat(&handle)?;
    dir.unlink(name)?;
    inodes.restate(&before, &rustix::fs::fstat(&handle)?);
    Ok(())
}
