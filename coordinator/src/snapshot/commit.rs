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

impl<'a> Origin for CommitTree<'a> {
    type Locator = GitOid;
    type Reader = BlobReader<'a>;

    fn list(&self) -> Result<impl Iterator<Item = Result<Listed<GitOid>, Halt>>, SnapshotError> {
        self.repo.check_modes(self.commit)?;
        let tree = self.repo.tree(self.commit)?;
        Ok(tree.map(|entry| Ok(listed(entry?)?)))
    }

    fn reader(&self) -> Result<BlobReader<'a>, SnapshotError> {
        Ok(BlobReader::new(self.repo))
    }

    /// A commit does not change.
    fn finish(&self) -> Result<(), SnapshotError> {
        Ok(())
    }
}

/// Reads files, by a git that runs once it has something to read.
pub(super) struct BlobReader<'a> {
    repo: &'a Repo,
    blobs: Option<Blobs>,
}

impl<'a> BlobReader<'a> {
    pub(super) fn new(repo: &'a Repo) -> Self {
        Self { repo, blobs: None }
    }
}

impl Reader<GitOid> for BlobReader<'_> {
    fn read(
        &mut self,
        wanted: &[Wanted<'_, GitOid>],
        each: impl FnMut(usize, &mut dyn Read) -> Result<(), Halt>,
    ) -> Result<(), Halt> {
        if wanted.is_empty() {
            return Ok(());
        }
        let blobs = match &mut self.blobs {
            Some(blobs) => blobs,
            none => none.insert(self.repo.blobs()?),
        };
        let ids: Vec<GitOid> = wanted.iter().map(|file| file.locator.clone()).collect();
        blobs.read(&ids, each)
    }
}

pub(super) fn listed(entry: TreeEntry) -> Result<Listed<GitOid>, SnapshotError> {
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
