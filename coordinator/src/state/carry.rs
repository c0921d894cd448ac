//! Carrying commits that the upstream has not onto its tip, but for those of folders that it has changed too.

use std::collections::{BTreeMap, BTreeSet};

use scap_proto::id::GitOid;

use super::branch::{Branch, BranchError, folder_in, open_root, put};
use crate::git::{Item, Objects};

/// The name of a folder: environment and repo.
pub(super) type Key = (Vec<u8>, Vec<u8>);

/// The folders of a commit.
type Folders = BTreeMap<Key, GitOid>;

/// What could be carried.
pub(super) struct Carried {
    /// The last commit.
    pub(super) tip: GitOid,
    /// The folders that the upstream has changed too: all that was written of them here is left out.
    pub(super) left: BTreeSet<Key>,
}

/// Makes the commits of `local` that `there` has not once more, on `there`, with the same words, authors and times. No ref is
/// moved.
///
/// # Errors
/// [`BranchError::Diverged`] where `there` has nothing in common with `local`, which concerns all of it.
pub(super) fn carry(
    branch: &Branch,
    local: &GitOid,
    there: &GitOid,
) -> Result<Carried, BranchError> {
    let diverged = |what: String| BranchError::Diverged {
        what,
        branch: branch.name.clone(),
        there: there.clone(),
        aside: None,
    };
    if branch.repo.merge_base(local, there)?.is_none() {
        return Err(diverged("everything: they have no commit in common".into()));
    }
    let mut objects = branch.repo.objects()?;
    let mut tip = there.clone();
    let mut now = folders(&mut objects, branch, &tip)?;
    let mut left = BTreeSet::new();
    for id in branch.repo.commits_between(there, local)? {
        let raw = objects.commit(&id)?;
        let parent = only_parent(&raw).ok_or_else(|| diverged(format!("commit {id}")))?;
        let before = folders(&mut objects, branch, &parent)?;
        let after = folders(&mut objects, branch, &id)?;
        let mut taken = Folders::new();
        for (place, folder) in after {
            if before.get(&place) == Some(&folder) {
                continue;
            }
            if left.contains(&place) || now.get(&place) != before.get(&place) {
                left.insert(place);
                continue;
            }
            now.insert(place.clone(), folder.clone());
            taken.insert(place, folder);
        }
        if !taken.is_empty() {
            let tree = write(branch, &mut objects, &tip, &taken)?;
            tip = branch.repo.write_raw_commit(&moved(&raw, &tree, &tip))?;
        }
    }
    Ok(Carried { tip, left })
}

/// The tree of `tip` with other folders.
fn write(
    branch: &Branch,
    objects: &mut Objects,
    tip: &GitOid,
    new: &Folders,
) -> Result<GitOid, BranchError> {
    let mut writer = branch.repo.folder_writer()?;
    let mut root = open_root(objects, &branch.name, tip)?;
    for ((environment, repo), folder) in new {
        let (environment, repo) = (text(environment), text(repo));
        let mut items = match folder_in(&root, &environment) {
            Some(item) => objects.folder(&item.id)?,
            None => Vec::new(),
        };
        put(&mut items, Item::folder(&repo, folder.clone()));
        let id = writer.write(&items)?;
        put(&mut root, Item::folder(&environment, id.clone()));
    }
    Ok(writer.write(&root)?)
}

fn folders(
    objects: &mut Objects,
    branch: &Branch,
    commit: &GitOid,
) -> Result<Folders, BranchError> {
    let mut found = Folders::new();
    let root = open_root(objects, &branch.name, commit)?;
    for environment in root.iter().filter(|item| item.mode.is_none()) {
        for repo in objects.folder(&environment.id)? {
            if repo.mode.is_none() {
                found.insert((environment.name.clone(), repo.name), repo.id);
            }
        }
    }
    Ok(found)
}

/// The parent of a commit that has just one.
fn only_parent(raw: &[u8]) -> Option<GitOid> {
    let header = raw
        .split(|byte| *byte == b'\n')
        .take_while(|line| !line.is_empty());
    let mut parents = header.filter_map(|line| line.strip_prefix(b"parent "));
    let parent = std::str::from_utf8(parents.next()?).ok()?.parse().ok()?;
    parents.next().is_none().then_some(parent)
}

/// A commit with one parent, of another tree and on another parent.
fn moved(raw: &[u8], tree: &GitOid, parent: &GitOid) -> Vec<u8> {
    // `tree` and `parent` are its first two lines.
    let rest = raw
        .splitn(3, |byte| *byte == b'\n')
        .nth(2)
        .unwrap_or_default();
    let mut commit = format!("tree {tree}\nparent {parent}\n").into_bytes();
    commit.extend_from_slice(rest);
    commit
}

fn text(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}
