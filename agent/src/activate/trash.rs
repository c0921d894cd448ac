//! Trees on their way out. A directory is first moved here, at one instant, and then taken apart; what a
//! crash leaves is taken apart the next time.

use std::{collections::HashSet, io};

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
    /// Where something cannot be removed: the first of it. All else is gone.
    pub(super) fn empty(
        &self,
        inodes: &mut Inodes,
        is_awaited: &dyn Fn() -> bool,
    ) -> io::Result<Upkeep> {
        let mut last = 0;
        let mut stays = HashSet::new();
        let mut first_error = None;
        loop {
            let mut names = self.0.names()?;
            names.retain(|name| !stays.contains(name));
            if names.is_empty() {
                return first_error.map_or(Ok(Upkeep::Done), Err);
            }
            for name in names {
                match self.remove(&name, &mut last, inodes, is_awaited) {
                    Ok(Upkeep::Done) => {}
                    Ok(Upkeep::Stopped) => return Ok(Upkeep::Stopped),
                    Err(error) => {
                        first_error.get_or_insert(error);
                        stays.insert(name);
                    }
                }
            }
        }
    }

    /// Removes what is at `name`; directories in it are left in the folder.
    fn remove(
        &self,
        name: &[u8],
        last: &mut u64,
        inodes: &mut Inodes,
        is_awaited: &dyn Fn() -> bool,
    ) -> io::Result<Upkeep> {
        if !is_directory(&self.0, name)? {
            remove_file(&self.0, name, inodes)?;
            return Ok(Upkeep::Done);
        }
        let dir = self.0.dir(name)?;
        make_ours(&dir)?;
        let mut removed = Ok(());
        for child in dir.names()? {
            if is_awaited() {
                return Ok(Upkeep::Stopped);
            }
            removed = removed.and(self.remove_child(&dir, &child, last, inodes));
        }
        removed?;
        self.0.remove_dir(name)?;
        Ok(Upkeep::Done)
    }

    fn remove_child(
        &self,
        dir: &Dir,
        name: &[u8],
        last: &mut u64,
        inodes: &mut Inodes,
    ) -> io::Result<()> {
        if !is_directory(dir, name)? {
            return remove_file(dir, name, inodes);
        }
        make_ours(&dir.dir(name)?)?;
        dir.rename(name, &self.0, &self.free_name(last)?)
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

fn is_directory(dir: &Dir, name: &[u8]) -> io::Result<bool> {
    let stat = dir.stat(name)?;
    Ok(stat.is_some_and(|stat| kind(&stat) == FileType::Directory))
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
