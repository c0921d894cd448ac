//! The tree of a commit, read from the object database.

use std::io::Read;

use scap_proto::{content::RelPath, id::GitOid};

use super::{
    Halt,
    error::SnapshotError,
    listing::{Form, Kind, Listed, Origin, Reader, Wanted},
};
use crate::git::{Blobs, Mode, Repo, TreeEntry};

/// A commit of a repository.
pub(super) struct CommitTree<'a> {
    pub(super) repo: &'a Repo,
    pub(super) commit: &'a GitOid,
}

impl Origin for CommitTree<'_> {
    type Locator = GitOid;
    type Reader = Blobs;

    fn list(
        &self,
    ) -> Result<impl Iterator<Item = Result<Listed<GitOid>, SnapshotError>>, SnapshotError> {
        let tree = self.repo.tree(self.commit)?;
        Ok(tree.map(|entry| listed(entry?)))
    }

    fn reader(&self) -> Result<Blobs, SnapshotError> {
        Ok(self.repo.blobs()?)
    }

    /// A commit does not change.
    fn finish(&self) -> Result<(), SnapshotError> {
        Ok(())
    }
}

impl Reader<GitOid> for Blobs {
    fn read(
        &mut self,
        wanted: &[Wanted<'_, GitOid>],
        each: impl FnMut(usize, &mut dyn Read) -> Result<(), Halt>,
    ) -> Result<(), Halt> {
        let ids: Vec<GitOid> = wanted.iter().map(|file| file.locator.clone()).collect();
        Self::read(self, &ids, each)
    }
}

fn listed(entry: TreeEntry) -> Result<Listed<GitOid>, SnapshotError> {
    let path = RelPath::new(entry.path)?;
    let form = match entry.mode {
        Mode::File => Form::File,
        Mode::Executable => Form::Executable,
        Mode::Symlink => Form::Symlink,
        Mode::Gitlink => {
            return Ok(Listed {
                path,
                kind: Kind::Gitlink(entry.id),
            });
        }
    };
    Ok(Listed {
        path,
        kind: Kind::Content {
            form,
            size: entry.size,
            locator: entry.id,
        },
    })
}
