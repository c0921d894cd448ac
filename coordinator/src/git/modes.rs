//! Modes in trees: git shows each as one of the five that it writes, so others are found in the trees themselves.

use std::collections::HashSet;

use scap_proto::id::GitOid;

use super::{
    ChangesError, GitError, Mode, Repo,
    changes::{raw_items, read_whole, root},
    objects::git,
};

impl Repo {
    /// Looks through all trees of a commit for a mode that git does not write: with a set-user-id, set-group-id or sticky bit, open to
    /// all, or of a device. Each tree is read once, a level of folders at a time, so depth costs nothing.
    ///
    /// # Errors
    /// [`GitError::Mode`], and where a tree cannot be read.
    pub fn check_modes(&self, commit: &GitOid) -> Result<(), GitError> {
        let mut objects = self.blobs()?;
        let mut level = vec![root(&mut objects, commit).map_err(git)?];
        let mut seen = HashSet::new();
        while !level.is_empty() {
            let mut below = Vec::new();
            objects
                .read_objects("tree", &level, |index, source| {
                    let tree = &level[index];
                    let content = read_whole(tree, source)?;
                    // Who lists a tree that is none says what is wrong with it.
                    for item in raw_items(&content, tree.as_bytes().len()).map_while(|item| item) {
                        match of_mode(item.mode) {
                            Ok(Some(_)) => {}
                            Ok(None) => {
                                let id = GitOid::try_from(item.id.to_vec());
                                let id = id.map_err(|_| ChangesError::Malformed(tree.clone()))?;
                                if seen.insert(id.clone()) {
                                    below.push(id);
                                }
                            }
                            Err(Forbidden) => {
                                return Err(ChangesError::Git(GitError::Mode {
                                    tree: tree.clone(),
                                    name: item.name.escape_ascii().to_string(),
                                    mode: item.mode,
                                }));
                            }
                        }
                    }
                    Ok(())
                })
                .map_err(git)?;
            level = below;
        }
        Ok(())
    }
}

/// A mode that git does not write.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Forbidden;

/// What a mode is of; `None` for a directory. Files that their group may write are of gits of 2005, and `git fsck` lets them
/// pass.
pub(super) fn of_mode(mode: u32) -> Result<Option<Mode>, Forbidden> {
    match mode {
        0o040_000 => Ok(None),
        0o100_644 | 0o100_664 => Ok(Some(Mode::File)),
        0o100_755 => Ok(Some(Mode::Executable)),
        0o120_000 => Ok(Some(Mode::Symlink)),
        0o160_000 => Ok(Some(Mode::Gitlink)),
        _ => Err(Forbidden),
    }
}
