//! Differences found by the pages that two lists do not share, against those found by reading all.

use proptest::prelude::*;
use scap_proto::{
    content::{Entry, Extent, FileContent, Node, RelPath, SnapshotRef, SnapshotWriter},
    id::{ChunkId, ContentHash, ReleaseId},
};

use super::world::Chunks;
use crate::activate::{
    ActivateError, Installed, Rev,
    difference::{Change, changes, pages_to_read},
    dir::Dir,
    entries::{EntryStore, Listing},
};

/// A file of so many pieces, all of which follow from `version`.
fn file(path: &str, version: u32, pieces: u32) -> Entry {
    let extent = |piece: u32| Extent {
        chunk: ChunkId::of(format!("{path} {version} {piece}").as_bytes()),
        offset: 0,
        length: 1,
    };
    let content = FileContent {
        size: pieces.into(),
        hash: ContentHash::of(format!("{path} {version}").as_bytes()),
        extents: (0..pieces).map(extent).collect(),
    };
    Entry {
        path: RelPath::new(path.as_bytes().to_vec()).unwrap(),
        node: Node::File(content),
    }
}

fn snapshot(chunks: &Chunks, entries: &[Entry]) -> SnapshotRef {
    let mut writer = SnapshotWriter::new();
    for entry in entries {
        for page in writer.push(entry.clone(), |_| 1) {
            chunks.put(&page);
        }
    }
    let finished = writer.finish().unwrap();
    for page in &finished.pages {
        chunks.put(page);
    }
    finished.snapshot
}

fn installed(snapshot: SnapshotRef) -> Installed {
    Installed {
        release: ReleaseId::of(snapshot.id.as_bytes()),
        sequence: 1,
        snapshot,
        commit: None,
        rev: Rev::try_from(snapshot.id.to_string()).unwrap(),
    }
}

fn all_changes(old: &Listing<'_>, new: &Listing<'_>, pages: [Vec<bool>; 2]) -> Vec<Change> {
    let [old_pages, new_pages] = pages;
    let found = changes(old.entries_of(old_pages), new.entries_of(new_pages));
    found.collect::<Result<_, ActivateError>>().unwrap()
}

/// What becomes of one entry of the old list.
#[derive(Debug, Clone, Copy)]
enum Edit {
    Change,
    Remove,
    AddBehind,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn the_pages_that_differ_have_all_differences_and_few_other_entries(
        large in proptest::collection::btree_set(0..6000_usize, 0..3),
        edits in proptest::collection::btree_map(
            0..6000_usize,
            prop_oneof![Just(Edit::Change), Just(Edit::Remove), Just(Edit::AddBehind)],
            0..6,
        ),
    ) {
        // A large file takes several pages for itself.
        let pieces = |at: usize| if large.contains(&at) { 30_000 } else { 1 };
        let path = |at: usize| format!("directory-{}/file-{at:05}", at / 100);
        let mut new = Vec::new();
        for at in 0..6000 {
            let (there, added) = match edits.get(&at) {
                None => (Some(1), false),
                Some(Edit::Change) => (Some(2), false),
                Some(Edit::Remove) => (None, false),
                Some(Edit::AddBehind) => (Some(1), true),
            };
            new.extend(there.map(|version| file(&path(at), version, pieces(at))));
            if added {
                new.push(file(&format!("{}-", path(at)), 1, pieces(at)));
            }
        }
        let mut old: Vec<Entry> = (0..6000).map(|at| file(&path(at), 1, pieces(at))).collect();
        for list in [&mut old, &mut new] {
            list.sort_by(|a, b| a.path.cmp(&b.path));
        }

        let chunks = Chunks::default();
        let [old, new] = [old, new].map(|list| installed(snapshot(&chunks, &list)));
        let root = tempfile::tempdir().unwrap();
        let own = Dir::open(root.path()).unwrap();
        let folder = |name: &[u8]| own.make_dir(name, 0o700).unwrap();
        let store = EntryStore::new(folder(b"entries"), folder(b"pages"));
        let [old, new] = [&old, &new].map(|list| store.open(list, &chunks).unwrap());
        let some = pages_to_read(old.pages(), new.pages());
        let read = some[1].iter().filter(|is_read| **is_read).count();
        let all = [&old, &new].map(|list| vec![true; list.pages().len()]);
        prop_assert!(read <= 2 + 12 * edits.len() + 8 * large.len() || edits.is_empty());
        prop_assert!(edits.is_empty() == (read == 0));
        let found = all_changes(&old, &new, some);
        prop_assert_eq!(found.len(), edits.len());
        prop_assert_eq!(found, all_changes(&old, &new, all));
    }
}
