//! What is to be written for a release, and what can be taken from the one that is there. Pure: entries in,
//! numbers out.

use std::{
    cmp::Ordering,
    collections::{HashMap, hash_map},
    iter::Peekable,
};

use scap_proto::{
    content::{Entry, FileContent, Node, RelPath},
    id::ContentHash,
};

use super::{compare::file_mode, dir::split, error::ActivateError};

/// Most contents that are looked for at other paths of the base: memory for a directory of that many
/// renamed files, some 10 MiB. What is beyond it is written from chunks.
const MOVED_MAX: usize = 65_536;

/// What writing a release takes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Entries to be made.
    pub(super) entries: u64,
    /// Where the base has contents that the release has at other paths only.
    pub(super) moved: HashMap<ContentHash, RelPath>,
    /// Bytes of disk space, in whole blocks.
    pub(super) bytes: u64,
    /// Files, links and directories to be made; a further name of a file that is there is none.
    pub(super) inodes: u64,
}

/// Plans the writing of `new` on a file system of this block size. `base` gives the entries of the release
/// to take unchanged files from, each time from the start, or nothing.
///
/// # Errors
/// Where an entry is an error.
pub(super) fn plan<E>(
    new: E,
    base: impl Fn() -> Result<Option<E>, ActivateError>,
    block_bytes: u64,
) -> Result<Plan, ActivateError>
where
    E: Iterator<Item = Result<Entry, ActivateError>>,
{
    let mut plan = Plan::default();
    let mut wanted: HashMap<ContentHash, Need> = HashMap::new();
    let mut old = base()?.map(Merge::new);
    let mut directory = Vec::new();
    plan.count_directories(1, block_bytes);
    for entry in new {
        let entry = entry?;
        plan.entries += 1;
        let (parent, _) = split(entry.path.as_bytes());
        plan.count_directories(components_below(&directory, parent), block_bytes);
        directory.clear();
        directory.extend_from_slice(parent);
        let there = match &mut old {
            Some(old) => old.at(&entry.path)?,
            None => None,
        };
        match &entry.node {
            Node::EmptyDirectory | Node::Gitlink(_) => plan.count_directories(1, block_bytes),
            Node::Symlink(_) => plan.count(block_bytes),
            Node::File(content) | Node::Executable(content) => {
                let mode = file_mode(&entry.node);
                if there.is_some_and(|there| is_file(&there, content, mode)) {
                    continue;
                }
                let bytes = content.size.next_multiple_of(block_bytes);
                plan.count(bytes);
                let room = wanted.len() < MOVED_MAX;
                match wanted.entry(content.hash) {
                    hash_map::Entry::Occupied(mut known) if known.get().mode == mode => {
                        known.get_mut().bytes += bytes;
                        known.get_mut().inodes += 1;
                    }
                    hash_map::Entry::Vacant(slot) if room && content.size > 0 => {
                        slot.insert(Need {
                            mode,
                            bytes,
                            inodes: 1,
                        });
                    }
                    _ => {}
                }
            }
        }
    }
    if !wanted.is_empty() {
        plan.find_moved(base()?.into_iter().flatten(), wanted)?;
    }
    Ok(plan)
}

/// What all files of one content that is not where it was would take.
struct Need {
    mode: u32,
    bytes: u64,
    inodes: u64,
}

impl Plan {
    /// Refuses what does not fit. `inodes` is `None` where the file system does not count them.
    ///
    /// # Errors
    /// [`ActivateError::NoSpace`] and [`ActivateError::NoInodes`].
    pub(super) fn check_room(&self, bytes: u64, inodes: Option<u64>) -> Result<(), ActivateError> {
        if self.bytes > bytes {
            return Err(ActivateError::NoSpace {
                needed: self.bytes,
                available: bytes,
            });
        }
        match inodes {
            Some(available) if self.inodes > available => Err(ActivateError::NoInodes {
                needed: self.inodes,
                available,
            }),
            _ => Ok(()),
        }
    }

    fn count(&mut self, bytes: u64) {
        self.bytes += bytes;
        self.inodes += 1;
    }

    fn count_directories(&mut self, count: u64, block_bytes: u64) {
        self.bytes += count * block_bytes;
        self.inodes += count;
    }

    /// Finds contents in the base, which then need not be written.
    fn find_moved(
        &mut self,
        base: impl Iterator<Item = Result<Entry, ActivateError>>,
        mut wanted: HashMap<ContentHash, Need>,
    ) -> Result<(), ActivateError> {
        for entry in base {
            let entry = entry?;
            let Some(content) = entry.node.content() else {
                continue;
            };
            if let hash_map::Entry::Occupied(need) = wanted.entry(content.hash)
                && need.get().mode == file_mode(&entry.node)
            {
                let need = need.remove();
                self.bytes -= need.bytes;
                self.inodes -= need.inodes;
                self.moved.insert(content.hash, entry.path);
            }
        }
        Ok(())
    }
}

/// Whether `node` is a file of this content and mode, so that it can have a further name.
fn is_file(node: &Node, content: &FileContent, mode: u32) -> bool {
    file_mode(node) == mode && node.content().is_some_and(|old| old.hash == content.hash)
}

/// Entries that are asked for in rising order of their paths.
pub(super) struct Merge<E: Iterator>(Peekable<E>);

impl<E: Iterator<Item = Result<Entry, ActivateError>>> Merge<E> {
    pub(super) fn new(entries: E) -> Self {
        Self(entries.peekable())
    }

    /// What is at `path`. Everything before it is passed over.
    ///
    /// # Errors
    /// Where an entry up to there is an error.
    pub(super) fn at(&mut self, path: &RelPath) -> Result<Option<Node>, ActivateError> {
        loop {
            let order = match self.0.peek() {
                None => return Ok(None),
                Some(Ok(entry)) => entry.path.cmp(path),
                Some(Err(_)) => Ordering::Less,
            };
            match order {
                Ordering::Greater => return Ok(None),
                Ordering::Equal => return Ok(self.0.next().transpose()?.map(|entry| entry.node)),
                Ordering::Less => drop(self.0.next().transpose()?),
            }
        }
    }
}

/// How many directories lead from the one at `from`, or from one above it, to the one at `to`.
fn components_below(from: &[u8], to: &[u8]) -> u64 {
    let mut from = from.split(|byte| *byte == b'/').filter(|n| !n.is_empty());
    let mut below = 0;
    for name in to.split(|byte| *byte == b'/').filter(|n| !n.is_empty()) {
        if below > 0 || from.next() != Some(name) {
            below += 1;
        }
    }
    below
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> Entry {
        let content = FileContent {
            size: text.len() as u64,
            hash: ContentHash::of(text.as_bytes()),
            extents: Vec::new(),
        };
        Entry {
            path: RelPath::new(path.as_bytes().to_vec()).unwrap(),
            node: Node::File(content),
        }
    }

    fn plan_of(new: &[Entry], base: Option<&[Entry]>) -> Plan {
        let entries = |list: &[Entry]| list.iter().cloned().map(Ok).collect::<Vec<_>>().into_iter();
        plan(entries(new), || Ok(base.map(entries)), 4096).unwrap()
    }

    #[test]
    fn without_a_base_every_file_and_directory_takes_its_blocks() {
        let plan = plan_of(
            &[
                file("a/b/c", "1"),
                file("a/d", "2"),
                file("e", &"3".repeat(5000)),
            ],
            None,
        );
        // The top, `a`, `a/b`, and three files of which one takes two blocks.
        assert_eq!((plan.inodes, plan.bytes), (6, 7 * 4096));
    }

    #[test]
    fn what_is_unchanged_or_moved_takes_nothing() {
        let base = [file("a", "1"), file("b", "2"), file("c", "3")];
        let new = [
            file("a", "1"),
            file("b", "new"),
            file("x/c", "3"),
            file("y", "3"),
        ];
        let plan = plan_of(&new, Some(&base));
        // The top, `x`, and `b`.
        assert_eq!((plan.inodes, plan.bytes), (3, 3 * 4096));
        assert_eq!(plan.moved.len(), 1);
        assert_eq!(plan.moved[&ContentHash::of(b"3")].as_bytes(), b"c");
    }

    #[test]
    fn a_file_of_another_mode_is_written_anew() {
        let mut changed = file("a", "1");
        changed.node = Node::Executable(changed.node.content().unwrap().clone());
        let plan = plan_of(&[changed], Some(&[file("a", "1")]));
        assert_eq!((plan.inodes, plan.moved.len()), (2, 0));
    }

    #[test]
    fn what_does_not_fit_to_the_block_is_refused() {
        let plan = plan_of(&[file("a", "1")], None);
        plan.check_room(2 * 4096, Some(2)).unwrap();
        plan.check_room(2 * 4096, None).unwrap();
        let no_space = plan.check_room(2 * 4096 - 1, None).unwrap_err();
        assert!(matches!(
            no_space,
            ActivateError::NoSpace {
                needed: 8192,
                available: 8191
            }
        ));
        let no_inodes = plan.check_room(u64::MAX, Some(1)).unwrap_err();
        assert!(matches!(
            no_inodes,
            ActivateError::NoInodes {
                needed: 2,
                available: 1
            }
        ));
        assert!(no_space.is_no_space() && no_inodes.is_no_space());
    }
}
