//! From one tree to another: what differs between two lists of entries. Pure.
//!
//! The pages of the lists are cut by content, so two lists have most of them in common, and only those that they have
//! not need to be read.

use std::{collections::HashMap, iter::Peekable};

use scap_proto::content::{ChunkRef, Entry, Node, RelPath};

use super::error::ActivateError;

/// A path where two trees differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Change {
    /// Where.
    pub(super) path: RelPath,
    /// What one tree has there.
    pub(super) old: Option<Node>,
    /// What the other has there.
    pub(super) new: Option<Node>,
}

impl Change {
    /// The entry in the tree where it comes from.
    pub(super) fn into_old(self) -> Option<Entry> {
        let path = self.path;
        self.old.map(|node| Entry { path, node })
    }

    /// The entry in the tree where it leads to.
    pub(super) fn into_new(self) -> Option<Entry> {
        let path = self.path;
        self.new.map(|node| Entry { path, node })
    }
}

/// Which pages of two lists must be read to find all differences: those that are not in both, and in both lists the
/// ones beside them, so that paths out of order are found as if all were read.
pub(super) fn pages_to_read(old: &[ChunkRef], new: &[ChunkRef]) -> [Vec<bool>; 2] {
    let places: HashMap<_, _> = old
        .iter()
        .enumerate()
        .map(|(at, page)| (page.id, at))
        .collect();
    // In rising order of both, whatever order hostile lists have.
    let mut common: Vec<(usize, usize)> = Vec::new();
    for (in_new, page) in new.iter().enumerate() {
        if let Some(in_old) = places.get(&page.id)
            && common.last().is_none_or(|(last, _)| last < in_old)
        {
            common.push((*in_old, in_new));
        }
    }
    let mut is_read = [vec![true; old.len()], vec![true; new.len()]];
    for (at, (in_old, in_new)) in common.iter().enumerate() {
        let before = match at.checked_sub(1).map(|before| common[before]) {
            Some((o, n)) => (o + 1, n + 1) == (*in_old, *in_new),
            None => (*in_old, *in_new) == (0, 0),
        };
        let behind = match common.get(at + 1) {
            Some((o, n)) => (*o, *n) == (in_old + 1, in_new + 1),
            None => (in_old + 1, in_new + 1) == (old.len(), new.len()),
        };
        if before && behind {
            is_read[0][*in_old] = false;
            is_read[1][*in_new] = false;
        }
    }
    is_read
}

/// The changes from `old` to `new`, in rising order of their paths.
pub(super) fn changes<O, N>(old: O, new: N) -> Changes<O, N>
where
    O: Iterator<Item = Result<Entry, ActivateError>>,
    N: Iterator<Item = Result<Entry, ActivateError>>,
{
    Changes {
        old: old.peekable(),
        new: new.peekable(),
    }
}

/// See [`changes`].
pub(super) struct Changes<O: Iterator, N: Iterator> {
    old: Peekable<O>,
    new: Peekable<N>,
}

impl<O, N> Iterator for Changes<O, N>
where
    O: Iterator<Item = Result<Entry, ActivateError>>,
    N: Iterator<Item = Result<Entry, ActivateError>>,
{
    type Item = Result<Change, ActivateError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (takes_old, takes_new) = match (self.old.peek(), self.new.peek()) {
                (None, None) => return None,
                (Some(Ok(old)), Some(Ok(new))) => (old.path <= new.path, new.path <= old.path),
                (old, new) => {
                    // An error comes before anything else.
                    let is_error = |side: Option<&Result<_, _>>| side.is_some_and(Result::is_err);
                    let old_fails = is_error(old);
                    (old_fails || new.is_none(), !old_fails && new.is_some())
                }
            };
            let old = if takes_old { self.old.next() } else { None };
            let new = if takes_new { self.new.next() } else { None };
            let (old, new) = match (old.transpose(), new.transpose()) {
                (Ok(old), Ok(new)) => (old, new),
                (Err(error), _) | (_, Err(error)) => return Some(Err(error)),
            };
            let change = match (old, new) {
                (Some(old), Some(new)) if is_same_on_disk(&old.node, &new.node) => continue,
                (Some(old), new) => Change {
                    path: old.path,
                    old: Some(old.node),
                    new: new.map(|new| new.node),
                },
                (None, Some(new)) => Change {
                    path: new.path,
                    old: None,
                    new: Some(new.node),
                },
                (None, None) => unreachable!("one side was taken"),
            };
            return Some(Ok(change));
        }
    }
}

/// Whether nothing is to be done to make one of the other. Where the bytes of a file are in chunks makes no difference.
fn is_same_on_disk(old: &Node, new: &Node) -> bool {
    match (old, new) {
        (Node::File(old), Node::File(new)) | (Node::Executable(old), Node::Executable(new)) => {
            (old.size, old.hash) == (new.size, new.hash)
        }
        (Node::Symlink(old), Node::Symlink(new)) => old == new,
        (Node::EmptyDirectory | Node::Gitlink(_), Node::EmptyDirectory | Node::Gitlink(_)) => true,
        _ => false,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use scap_proto::{
        content::{FileContent, SymlinkTarget},
        id::{ChunkId, ContentHash, GitOid},
    };

    use super::*;

    fn page(name: u8) -> ChunkRef {
        ChunkRef {
            id: ChunkId::of(&[name]),
            plain_length: 1,
        }
    }

    /// The letters of the pages that are read of each list.
    fn read(old: &str, new: &str) -> [String; 2] {
        let lists = [old, new].map(|list| list.bytes().map(page).collect::<Vec<_>>());
        let is_read = pages_to_read(&lists[0], &lists[1]);
        [(old, &is_read[0]), (new, &is_read[1])].map(|(list, is_read)| {
            assert_eq!(list.len(), is_read.len());
            let read = list.chars().zip(is_read).filter(|(_, is_read)| **is_read);
            read.map(|(letter, _)| letter).collect()
        })
    }

    #[test]
    fn pages_are_read_where_they_differ_and_beside() {
        for (old, new, expected) in [
            ("", "", ["", ""]),
            ("abcdef", "abcdef", ["", ""]),
            ("abcdef", "abcXef", ["cde", "cXe"]),
            ("abcdef", "Xbcdef", ["ab", "Xb"]),
            ("abcdef", "abcdeX", ["ef", "eX"]),
            ("abcdef", "abcXYef", ["cde", "cXYe"]),
            ("abcdef", "abcef", ["cde", "ce"]),
            ("abcdef", "abcdefX", ["f", "fX"]),
            ("abcdef", "bcdef", ["ab", "b"]),
            ("abcdefgh", "aXcdefYh", ["abcfgh", "aXcfYh"]),
            ("", "abc", ["", "abc"]),
            ("abc", "", ["abc", ""]),
            ("abc", "def", ["abc", "def"]),
        ] {
            assert_eq!(read(old, new), expected.map(String::from), "{old} {new}");
        }
    }

    #[test]
    fn pages_out_of_order_are_read() {
        assert_eq!(read("abcdef", "abdcef")[1], "bdce");
        assert_eq!(read("abcdef", "abcdab")[1], "dab");
        let [_, all] = read("abcdef", "fedcba");
        assert_eq!(all, "fedcba");
    }

    fn entry(path: &str, node: Node) -> Entry {
        let path = RelPath::new(path.as_bytes().to_vec()).unwrap();
        Entry { path, node }
    }

    fn content(text: &str) -> FileContent {
        FileContent {
            size: text.len() as u64,
            hash: ContentHash::of(text.as_bytes()),
            extents: Vec::new(),
        }
    }

    fn differences(old: &[Entry], new: &[Entry]) -> Vec<String> {
        let all = |list: &[Entry]| list.iter().cloned().map(Ok).collect::<Vec<_>>().into_iter();
        let describe = |change: Result<Change, ActivateError>| {
            let Change { path, old, new } = change.unwrap();
            format!(
                "{path} {}{}",
                u8::from(old.is_some()),
                u8::from(new.is_some())
            )
        };
        changes(all(old), all(new)).map(describe).collect()
    }

    #[test]
    fn changes_are_what_shows_on_disk() {
        let file = |path: &str, text: &str| entry(path, Node::File(content(text)));
        let gitlink = |byte| Node::Gitlink(GitOid::try_from(vec![byte; 20]).unwrap());
        let link = |target: &'static str| Node::Symlink(SymlinkTarget::new(target).unwrap());
        let mut elsewhere = content("same");
        elsewhere.extents.push(scap_proto::content::Extent {
            chunk: ChunkId::of(b"another bundle"),
            offset: 0,
            length: 4,
        });
        let old = [
            file("changed", "old"),
            file("gone", "x"),
            entry("link", link("a")),
            entry("module", gitlink(1)),
            file("same", "same"),
            entry("void", Node::EmptyDirectory),
        ];
        let new = [
            file("added", "x"),
            file("changed", "new"),
            entry("link", link("b")),
            entry("module", gitlink(2)),
            entry("same", Node::File(elsewhere.clone())),
            file("void/inside", "x"),
        ];
        let expected = [
            "added 01",
            "changed 11",
            "gone 10",
            "link 11",
            "void 10",
            "void/inside 01",
        ];
        assert_eq!(differences(&old, &new), expected);
        assert_eq!(differences(&new, &new), [""; 0]);
        assert_eq!(
            differences(
                &[file("same", "same")],
                &[entry("same", Node::Executable(elsewhere))]
            ),
            ["same 11"]
        );
    }

    #[test]
    fn an_error_on_either_side_is_told() {
        let fails = || std::iter::once(Err(ActivateError::NameTaken(String::new())));
        let one = || std::iter::once(Ok(entry("a", Node::EmptyDirectory)));
        let is_told = |mut found: Vec<Result<Change, ActivateError>>| found.remove(0).is_err();
        assert!(is_told(changes(fails(), one()).collect()));
        assert!(is_told(changes(one(), fails()).collect()));
        assert!(is_told(changes(fails(), std::iter::empty()).collect()));
        assert!(is_told(changes(std::iter::empty(), fails()).collect()));
    }
}
