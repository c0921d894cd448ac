//! Content, which is named by its hash and so is what its maker made, and whose maker may be anybody.

use std::collections::BTreeMap;

use bytes::Bytes;
use scap_proto::{
    content::{
        DeltaError, Descriptor, EntriesReader, Entry, Layout, RawChunk, RelPath, SnapshotWriter,
        SymlinkTarget, delta::Part,
    },
    id::{ChunkId, SnapshotId},
    limits::{
        CHUNK_BYTES_MAX, DELTA_BASE_BYTES_MAX, DELTA_MADE_BYTES_MAX, NAME_BYTES_MAX,
        PATH_BYTES_MAX, SNAPSHOT_CHUNKS_MAX, SYMLINK_BYTES_MAX,
    },
};

use super::{parts, shown};

/// A snapshot's descriptor, and what a swarm counts by it.
pub fn descriptor(bytes: &[u8]) {
    let Ok(descriptor) = Descriptor::decode(bytes).map_err(shown) else {
        return;
    };
    let Some((snapshot, ours)) = descriptor.encode() else {
        return;
    };
    assert_eq!(ours, bytes, "there is one encoding");
    assert_eq!(snapshot.id, SnapshotId::of(bytes));
    let mut layout = Layout::new(snapshot);
    let known = layout.add_descriptor(&descriptor);
    assert_eq!(known, layout.known());
    let total = layout.total().expect("the descriptor says it");
    assert!(
        known <= total && total <= SNAPSHOT_CHUNKS_MAX,
        "{known} of {total}"
    );
    for chunk in &layout.refs()[1..] {
        assert!((1..=CHUNK_BYTES_MAX).contains(&chunk.plain_length));
    }
}

/// The pages of a manifest one after the other, [joined](super::joined).
pub fn entries(bytes: &[u8]) {
    let pages = parts(bytes);
    // An upgraded host goes on in the middle of what it knows.
    let mut middle = EntriesReader::in_the_middle();
    for page in &pages {
        if middle.read_page(page).map_err(shown).is_err() {
            break;
        }
        middle.goes_on();
    }
    if let Some(entries) = read_pages(pages) {
        check_entries(&entries);
        assert_eq!(
            read_pages(rewritten(&entries).iter().map(Vec::as_slice)),
            Some(entries),
            "it says something else when it is written again"
        );
    }
}

fn read_pages<'a>(pages: impl IntoIterator<Item = &'a [u8]>) -> Option<Vec<Entry>> {
    let mut reader = EntriesReader::new();
    let mut entries = Vec::new();
    for page in pages {
        entries.extend(reader.read_page(page).map_err(shown).ok()?);
    }
    entries.extend(reader.finish().map_err(shown).ok()?);
    Some(entries)
}

fn check_entries(entries: &[Entry]) {
    for pair in entries.windows(2) {
        let (one, next) = (&pair[0].path, &pair[1].path);
        assert!(one < next, "{one} is before {next}");
    }
    let mut before: Vec<&RelPath> = Vec::new();
    for entry in entries {
        before.retain(|path| entry.path.as_bytes().starts_with(path.as_bytes()));
        let above = before.iter().find(|path| path.is_ancestor_of(&entry.path));
        assert_eq!(above, None, "{} is below a file", entry.path);
        before.push(&entry.path);
        let Some(content) = entry.node.content() else {
            continue;
        };
        let mut size = 0;
        for extent in &content.extents {
            let end = u64::from(extent.offset) + u64::from(extent.length);
            assert!(extent.length > 0 && end <= u64::from(CHUNK_BYTES_MAX));
            size += u64::from(extent.length);
        }
        assert_eq!(size, content.size, "{}", entry.path);
    }
}

/// The pages of a snapshot of these entries.
fn rewritten(entries: &[Entry]) -> Vec<Vec<u8>> {
    let mut writer = SnapshotWriter::new();
    let mut pages = Vec::new();
    for entry in entries {
        pages.extend(writer.push(entry.clone(), |_| CHUNK_BYTES_MAX));
    }
    let finished = writer.finish().expect("an input is short");
    pages.extend(finished.pages);
    let by_id: BTreeMap<ChunkId, Vec<u8>> = pages
        .into_iter()
        .map(|page| (ChunkId::of(&page), page))
        .collect();
    let page = |page: &scap_proto::content::ChunkRef| by_id[&page.id].clone();
    finished.descriptor.entries.iter().map(page).collect()
}

/// A path in a tree, and a symlink's target.
pub fn names(bytes: &[u8]) {
    if let Some(target) = SymlinkTarget::new(bytes.to_vec()) {
        assert_eq!(target.as_bytes(), bytes);
        assert!(!bytes.contains(&0) && bytes.len() <= SYMLINK_BYTES_MAX);
        is_inert(&format!("{target:?}"));
    }
    match RelPath::new(bytes.to_vec()) {
        Ok(path) => {
            assert_eq!(path.as_bytes(), bytes);
            assert!(bytes.len() <= PATH_BYTES_MAX && !bytes.contains(&0));
            for name in path.components() {
                assert!((1..=NAME_BYTES_MAX).contains(&name.len()));
                assert!(name != b"." && name != b".." && !name.contains(&b'/'));
                assert!(!name.eq_ignore_ascii_case(b".git"), "{path}");
            }
            assert!(path.as_path().is_relative());
            is_inert(&path.to_string());
        }
        Err(error) => is_inert(&error.to_string()),
    }
}

fn is_inert(text: &str) {
    assert!(!text.chars().any(char::is_control), "{text:?}");
}

/// Encoded bytes of a chunk after four bytes that say how long it is, little-endian.
pub fn chunk(bytes: &[u8]) {
    let Some((length, encoded)) = bytes.split_first_chunk() else {
        return;
    };
    let length = u32::from_le_bytes(*length);
    let raw = RawChunk::new(Bytes::copy_from_slice(encoded));
    let Ok(plain) = raw.decode(length).map_err(shown) else {
        assert!(raw.verify(ChunkId::of(encoded), length).is_err());
        return;
    };
    assert_eq!(plain.len(), length as usize, "as long as it was said to be");
    assert!((1..=CHUNK_BYTES_MAX).contains(&length));
    let id = ChunkId::of(&plain);
    let other = raw.clone().verify(ChunkId::of(id.as_bytes()), length);
    assert!(other.is_err(), "it passes for another");
    let chunk = raw.verify(id, length).expect("it is what it is");
    assert_eq!(chunk.plain(), plain);
    assert_eq!(chunk.plain_length(), length);
}

/// The only base chunk that [`delta`] has, whatever it is asked for.
pub const BASE: &[u8] = b"what a host has of an older snapshot, and makes a newer one of: \
    the same again, and again, but for a word here and there";

/// A part of a delta.
pub fn delta(bytes: &[u8]) {
    let Ok(part) = Part::decode(bytes).map_err(shown) else {
        return;
    };
    let lengths = || part.made().iter().map(|chunk| chunk.plain_length as usize);
    assert!(lengths().all(|length| (1..=CHUNK_BYTES_MAX as usize).contains(&length)));
    assert!((1..=DELTA_MADE_BYTES_MAX).contains(&lengths().sum::<usize>()));
    let base = part.collect_base::<DeltaError>(|_| Ok(Bytes::from_static(BASE)));
    let Ok(base) = base.map_err(shown) else {
        return;
    };
    assert!(base.len() <= DELTA_BASE_BYTES_MAX);
    let Ok(chunks) = part.make(&base).map_err(shown) else {
        return;
    };
    for (chunk, said) in chunks.zip(part.made()) {
        let Ok(chunk) = chunk.map_err(shown) else {
            continue;
        };
        assert_eq!(chunk.id(), said.id);
        assert_eq!(chunk.plain_length(), said.plain_length);
        assert_eq!(ChunkId::of(&chunk.plain()), said.id);
    }
}
