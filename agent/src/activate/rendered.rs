//! Rendered config files in the tree of a release: written where they are not as they should be, and told from what the
//! snapshot has.

use std::{
    collections::BTreeMap,
    io::{self, Write},
};

use rustix::fs::FileType;
use scap_proto::{
    content::RelPath,
    id::ContentHash,
    release::host_config::{Destination, HostPath},
};

use super::{
    compare::{Difference, What, hash_file},
    deployment::Deployment,
    dir::{Cursor, Dir, kind, split},
    error::{ActivateError, Doing},
    links::CONFIG_FILES,
    record::Installed,
};
use crate::host::Rendered;

/// The mode of a rendered file: services read it as whatever user they run.
pub(super) const MODE: u32 = 0o644;

/// A rendered file, before it has its name.
const TEMPORARY: &[u8] = b"rendered.tmp";

/// Rendered files by their paths below a release's tree.
pub(super) type Files = BTreeMap<Vec<u8>, Vec<u8>>;

/// Where in the tree each rendered file goes.
pub(super) fn place(rendered: Vec<Rendered>) -> Files {
    let path = |destination: &Destination| match destination {
        Destination::InRelease(path) => path.as_bytes().to_vec(),
        Destination::OnHost(path) => path_of(path),
    };
    let files = rendered.into_iter();
    files
        .map(|file| (path(&file.destination), file.bytes))
        .collect()
}

/// Where in the tree the file for a place elsewhere on the host is.
pub(super) fn path_of(destination: &HostPath) -> Vec<u8> {
    let below = destination.below_root().as_bytes();
    [CONFIG_FILES.as_bytes(), b"/", below].concat()
}

/// For where the rendered file at a path of the tree is; none where that is no path of one.
pub(super) fn destination(path: &[u8]) -> Option<Destination> {
    let below = path.strip_prefix(CONFIG_FILES.as_bytes());
    match below.map(std::str::from_utf8) {
        Some(on_host) => HostPath::new(on_host.ok()?).ok().map(Destination::OnHost),
        None => RelPath::new(path.to_vec()).ok().map(Destination::InRelease),
    }
}

impl Deployment {
    /// Of `files`, the paths of those that are not in the tree as they are here.
    ///
    /// # Errors
    /// Where the tree cannot be read.
    pub(super) fn stale(
        &self,
        installed: &Installed,
        files: &Files,
    ) -> Result<Vec<Vec<u8>>, ActivateError> {
        let tree = self.tree(installed)?;
        let mut stale = Vec::new();
        for (path, bytes) in files {
            if found(&tree, path)? != Some(ContentHash::of(bytes)) {
                stale.push(path.clone());
            }
        }
        Ok(stale)
    }

    /// Writes those of `files` into the tree that are at `paths`, each whole or not at all, and makes them durable.
    ///
    /// # Errors
    /// Where a directory stands in the way, or the disk is full or fails.
    pub(super) fn write_rendered(
        &self,
        installed: &Installed,
        files: &Files,
        paths: &[Vec<u8>],
    ) -> Result<(), ActivateError> {
        let tree = self.tree(installed)?;
        let mut cursor = Cursor::making(&tree);
        for path in paths {
            let (parent, name) = split(path);
            let write = || {
                self.own.unlink(TEMPORARY)?;
                let mut file = self.own.create(TEMPORARY, MODE)?;
                file.write_all(&files[path])?;
                // Whatever the umask.
                rustix::fs::fchmod(&file, rustix::fs::Mode::from_raw_mode(MODE))?;
                file.sync_all()?;
                let dir = cursor.dir(parent)?;
                self.own.rename(TEMPORARY, dir, name)
            };
            let mut write = write;
            write().doing(|| format!("write the config file `{}`", path.escape_ascii()))?;
        }
        match paths.is_empty() {
            true => Ok(()),
            false => self.sync(),
        }
    }

    /// The rendered files of a tree that are not as they were written.
    ///
    /// # Errors
    /// Where the tree cannot be read.
    pub(super) fn rendered_differences(
        &self,
        installed: &Installed,
    ) -> Result<Vec<Difference>, ActivateError> {
        let tree = self.tree(installed)?;
        let mut differences = Vec::new();
        for (path, hash) in self.asked(&installed.rev)?.rendered {
            let what = match found(&tree, &path)? {
                Some(found) if found == hash => continue,
                Some(_) => What::Content,
                None => What::Missing,
            };
            differences.push(Difference { path, what });
        }
        Ok(differences)
    }
}

/// The hash of the file at a path, where there is one.
fn found(tree: &Dir, path: &[u8]) -> Result<Option<ContentHash>, ActivateError> {
    let (parent, name) = split(path);
    let look = || {
        let dir = tree.dir_at(parent)?;
        match dir.stat(name)? {
            Some(stat) if kind(&stat) == FileType::RegularFile => hash_file(&dir, name, &stat),
            _ => Ok(None),
        }
    };
    let there = match look() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        there => there,
    };
    there.doing(|| format!("read the config file `{}`", path.escape_ascii()))
}
