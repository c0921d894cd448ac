//! What differs between two commits: their trees, compared from the top, and below only where they differ.

use std::{
    cmp::Ordering,
    io::{self, Read},
};

use scap_proto::{id::GitOid, limits::PATH_BYTES_MAX};

use super::{Blobs, GitError, Mode, Repo, TreeEntry, modes::of_mode};

/// Most paths and directories that may differ. They are held at once, in some 200 bytes each; where more differ,
/// listing all files as a stream costs little more than the comparison.
pub const CHANGES_MAX: usize = 100_000;

/// One path where two commits differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Only the later commit has it.
    Added(TreeEntry),
    /// Both have it: it has another mode or content in the later one.
    Changed(TreeEntry),
    /// Only the earlier commit has it: as the tree says, not checked.
    Removed(Vec<u8>),
}

impl Change {
    /// Where: as the tree says, not checked.
    pub fn path(&self) -> &[u8] {
        match self {
            Self::Added(entry) | Self::Changed(entry) => &entry.path,
            Self::Removed(path) => path,
        }
    }
}

/// Why two commits cannot be compared.
#[derive(Debug, thiserror::Error)]
pub enum ChangesError {
    /// The repository does not give what is asked for.
    #[error(transparent)]
    Git(#[from] GitError),
    /// Something that git cannot read to its end.
    #[error("read object {id}")]
    Read {
        /// Which.
        id: GitOid,
        /// Why.
        source: io::Error,
    },
    /// A commit that names no tree, or a tree out of order, with a name twice, or with a name that is a path. Whoever
    /// lists such a tree finds what is wrong with it.
    #[error("object {0} is not as git writes it")]
    Malformed(GitOid),
    /// More than [`CHANGES_MAX`].
    #[error("more than {CHANGES_MAX} paths differ")]
    TooMany,
}

/// See [`Repo::changes`].
pub(super) fn changes(
    repo: &Repo,
    from: &GitOid,
    to: &GitOid,
) -> Result<Vec<Change>, ChangesError> {
    if from == to {
        return Ok(Vec::new());
    }
    let mut objects = repo.blobs()?;
    let before = root(&mut objects, from)?;
    let after = root(&mut objects, to)?;
    let mut comparison = Comparison::default();
    if before != after {
        comparison.below.push(Pair {
            prefix: Vec::new(),
            before: Some(before),
            after: Some(after),
        });
    }
    while !comparison.below.is_empty() {
        let level = std::mem::take(&mut comparison.below);
        comparison.descend(&mut objects, &level)?;
    }
    let mut changes = comparison.changes;
    measure(repo, &mut changes)?;
    changes.sort_unstable_by(|a, b| a.path().cmp(b.path()));
    Ok(changes)
}

/// The tree of a commit, which its first line names.
pub(super) fn root(objects: &mut Blobs, commit: &GitOid) -> Result<GitOid, ChangesError> {
    let mut content = Vec::new();
    objects.read_objects("commit", std::slice::from_ref(commit), |_, source| {
        read_whole(commit, source).map(|read| content = read)
    })?;
    let line = content.split(|byte| *byte == b'\n').next();
    let tree = line.and_then(|line| std::str::from_utf8(line).ok()?.strip_prefix("tree "));
    tree.and_then(|id| id.parse().ok())
        .ok_or_else(|| ChangesError::Malformed(commit.clone()))
}

pub(super) fn read_whole(id: &GitOid, source: &mut dyn Read) -> Result<Vec<u8>, ChangesError> {
    let mut content = Vec::new();
    source
        .read_to_end(&mut content)
        .map_err(|source| ChangesError::Read {
            id: id.clone(),
            source,
        })?;
    Ok(content)
}

/// Finds the size of each file that is there afterwards.
fn measure(repo: &Repo, changes: &mut [Change]) -> Result<(), ChangesError> {
    let mut written: Vec<&mut TreeEntry> = changes
        .iter_mut()
        .filter_map(|change| match change {
            Change::Added(entry) | Change::Changed(entry) => Some(entry),
            Change::Removed(_) => None,
        })
        .filter(|entry| entry.mode != Mode::Gitlink)
        .collect();
    if written.is_empty() {
        return Ok(());
    }
    let ids: Vec<GitOid> = written.iter().map(|entry| entry.id.clone()).collect();
    let sizes = repo.sizes()?.read(&ids)?;
    for (entry, size) in written.iter_mut().zip(sizes) {
        entry.size = size;
    }
    Ok(())
}

#[derive(Default)]
struct Comparison {
    changes: Vec<Change>,
    /// Directories that differ and were not looked into.
    below: Vec<Pair>,
}

/// A directory that differs: with its slash, and its tree in either commit.
struct Pair {
    prefix: Vec<u8>,
    before: Option<GitOid>,
    after: Option<GitOid>,
}

impl Comparison {
    /// Looks into all directories of one level.
    fn descend(&mut self, objects: &mut Blobs, level: &[Pair]) -> Result<(), ChangesError> {
        let trees = level.iter().flat_map(|pair| {
            let both = [&pair.before, &pair.after];
            both.into_iter().flatten().cloned()
        });
        let trees: Vec<GitOid> = trees.collect();
        let mut pairs = level.iter();
        let mut read: Vec<Vec<Item>> = Vec::new();
        objects.read_objects("tree", &trees, |index, source| {
            let id = &trees[index];
            let items = parse(&read_whole(id, source)?, id.as_bytes().len());
            read.push(items.ok_or_else(|| ChangesError::Malformed(id.clone()))?);
            // A pair has one tree or two, and they come one after the other.
            let pair = pairs.as_slice().first().expect("a tree is of a pair");
            let count = usize::from(pair.before.is_some()) + usize::from(pair.after.is_some());
            if read.len() == count {
                pairs.next();
                let after = pair.after.as_ref().and_then(|_| read.pop());
                let before = read.pop().unwrap_or_default();
                self.compare(&pair.prefix, before, after.unwrap_or_default())?;
            }
            Ok(())
        })
    }

    fn compare(
        &mut self,
        prefix: &[u8],
        before: Vec<Item>,
        after: Vec<Item>,
    ) -> Result<(), ChangesError> {
        let mut before = before.into_iter().peekable();
        let mut after = after.into_iter().peekable();
        loop {
            let order = match (before.peek(), after.peek()) {
                (None, None) => return Ok(()),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(before), Some(after)) => before.key.cmp(&after.key),
            };
            let old = before.next_if(|_| order.is_le());
            let new = after.next_if(|_| order.is_ge());
            if old != new {
                self.add(prefix, old, new)?;
            }
        }
    }

    /// Takes a name that differs.
    fn add(
        &mut self,
        prefix: &[u8],
        before: Option<Item>,
        after: Option<Item>,
    ) -> Result<(), ChangesError> {
        let had_it = before.is_some();
        let item = after.as_ref().or(before.as_ref());
        let item = item.expect("a name is in one of the trees");
        let (mode, path) = (item.mode, [prefix, &item.key].concat());
        // What is below it has a path that no host could have.
        if mode.is_none() && path.len() > PATH_BYTES_MAX {
            return Err(ChangesError::Malformed(item.id.clone()));
        }
        match (mode, after) {
            (None, after) => self.below.push(Pair {
                prefix: path,
                before: before.map(|item| item.id),
                after: after.map(|item| item.id),
            }),
            (Some(mode), Some(Item { id, .. })) => {
                let entry = TreeEntry {
                    mode,
                    id,
                    size: 0,
                    path,
                };
                self.changes.push(if had_it {
                    Change::Changed(entry)
                } else {
                    Change::Added(entry)
                });
            }
            (Some(_), None) => self.changes.push(Change::Removed(path)),
        }
        if self.changes.len() + self.below.len() > CHANGES_MAX {
            return Err(ChangesError::TooMany);
        }
        Ok(())
    }
}

/// One name in a tree.
#[derive(PartialEq, Eq)]
pub(super) struct Item {
    /// The name; a directory's has a slash at its end, as which git sorts it.
    pub(super) key: Vec<u8>,
    /// `None` for a directory.
    pub(super) mode: Option<Mode>,
    pub(super) id: GitOid,
}

/// Reads a tree. `None` where git would not have written it so.
pub(super) fn parse(tree: &[u8], id_bytes: usize) -> Option<Vec<Item>> {
    let mut items: Vec<Item> = Vec::new();
    for item in raw_items(tree, id_bytes) {
        let RawItem { mode, name, id } = item?;
        if name.is_empty() || name.contains(&b'/') {
            return None;
        }
        let mode = of_mode(mode).ok()?;
        let slash: &[u8] = if mode.is_none() { b"/" } else { b"" };
        let key = [name, slash].concat();
        if items.last().is_some_and(|last| last.key >= key) {
            return None;
        }
        let id = GitOid::try_from(id.to_vec()).ok()?;
        items.push(Item { key, mode, id });
    }
    Some(items)
}

/// One name in a tree, as it stands there.
pub(super) struct RawItem<'a> {
    pub(super) mode: u32,
    pub(super) name: &'a [u8],
    pub(super) id: &'a [u8],
}

/// What stands in a tree. `None`, again and again, where it goes on otherwise.
pub(super) fn raw_items(
    mut tree: &[u8],
    id_bytes: usize,
) -> impl Iterator<Item = Option<RawItem<'_>>> {
    std::iter::from_fn(move || {
        if tree.is_empty() {
            return None;
        }
        let first = first_item(tree, id_bytes);
        Some(first.map(|(item, rest)| {
            tree = rest;
            item
        }))
    })
}

/// `<octal mode> <name>\0<id>`, and what comes after it.
fn first_item(tree: &[u8], id_bytes: usize) -> Option<(RawItem<'_>, &[u8])> {
    let space = tree.iter().position(|byte| *byte == b' ')?;
    let (mode, rest) = (&tree[..space], &tree[space + 1..]);
    let end = rest.iter().position(|byte| *byte == 0)?;
    let (name, rest) = (&rest[..end], &rest[end + 1..]);
    let (id, rest) = rest.split_at_checked(id_bytes)?;
    // Without a sign, which Rust would read and git does not.
    if !mode.iter().all(|digit| (b'0'..=b'7').contains(digit)) {
        return None;
    }
    let mode = u32::from_str_radix(std::str::from_utf8(mode).ok()?, 8).ok()?;
    Some((RawItem { mode, name, id }, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c4_a_mode_that_git_does_not_read_or_write_makes_it_no_tree() {
        let tree = |mode: &str| [mode.as_bytes(), b" a\0", &[7; 20]].concat();
        for mode in ["100644", "100664", "100755", "120000", "160000", "40000"] {
            assert!(parse(&tree(mode), 20).is_some(), "{mode:?}");
        }
        for mode in ["104755", "100666", "60000", "140000", "0", "77777777777"] {
            assert!(parse(&tree(mode), 20).is_none(), "{mode:?}");
        }
        for mode in ["+100644", "-100644", "100648", "10064x", ""] {
            assert!(parse(&tree(mode), 20).is_none(), "{mode:?}");
        }
    }
}
