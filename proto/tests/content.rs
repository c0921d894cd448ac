//! The bytes of content objects: golden ones, there and back, and damaged ones.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::{collection::vec, prelude::*, sample::Index};
use scap_proto::{
    codec::CodecError,
    content::{
        ChunkRef, Descriptor, EncodedChunk, EntriesError, EntriesReader, Entry, Extent,
        FileContent, Layout, Node, RawChunk, RelPath, SnapshotRef, SnapshotWriter, SymlinkTarget,
        Totals, descriptor::DescriptorError, layout::LayoutError,
    },
    extensions::{Extension, ExtensionError, Extensions},
    id::{ChunkId, ContentHash},
    limits::CHUNK_BYTES_MAX,
};

/// Hexadecimal digits in groups, with comments from `#` to the end of the line.
fn golden(text: &str) -> Vec<u8> {
    let digits: String = text
        .lines()
        .flat_map(|line| line.split('#').next())
        .flat_map(str::split_whitespace)
        .collect();
    hex::decode(digits).unwrap()
}

const ENTRIES_PAGE: &str = "
    01                                      # one chunk in the table
      04d2649eb72531af4fa85b201f661081 4cb48e8ffb171b64bea1be6051ee8ba5
    06                                      # six records
      00                                    # a file
        07 62696e2f72756e                   #   bin/run
        01                                  #   executable
        04                                  #   4 bytes, and their hash
        e0e63aa4c8e1ed796cb104d8a074e553 c99fff18d140e886667013ef2780ae23
        01 00 00 04                         #   one extent: chunk 0, offset 0, length 4
      00                                    # a file
        05 656d707479                       #   empty
        00
        00
        af1349b9f5f9a1a6a0404dea36dcc949 9bcb25c9adc112b7cc9a93cae41f3262
        00                                  #   no extents
      00                                    # a file
        04 66696c65                         #   file
        00
        04
        ef40086ad8a395c7a05b5f70cf2575ad 187f637ad813136292cb39610694db73
        01 00 04 04                         #   one extent: chunk 0, offset 4, length 4
      01                                    # a symbolic link
        04 6c696e6b                         #   link
        04 66696c65                         #   to: file
      03                                    # a submodule
        03 737562                           #   sub
        14 0102030405060708090a0b0c0d0e0f1011121314
      02                                    # an empty directory
        04 766f6964                         #   void
";

const LIST_PAGE: &str = "
    01                                      # one chunk
      04d2649eb72531af4fa85b201f661081 4cb48e8ffb171b64bea1be6051ee8ba5
      08                                    #   of 8 bytes
";

const DESCRIPTOR: &str = "
    736361702d736e617073686f742f310a        # scap-snapshot/1\\n
    01                                      # one page of the chunk list
      4ff20109ae0f38f513ea03b3180ca90f 664d0d566a02bca8069613b51b2909a0
      22                                    #   of 34 bytes
    01                                      # one page of entries
      5956b6f1c6527ce51d0e7b3dcc3da553 ae80f74b1c453d40cfc67950f7cabcff
      d2                                    #   of 210 bytes
    06 03 08 01                             # 6 entries, 3 files, 8 bytes, 1 chunk
    00                                      # no extensions
";

const SNAPSHOT_ID: &str = "c562e0d3905fb1d11efe0a1017585843205872ba853b558f6b35956256a3ba1f";

const RAW_CHUNK: &str = "
    00                                      # raw
    6f6e650a74776f0a                        # one\\ntwo\\n
";

const ZSTD_CHUNK: &str = "
    01                                      # zstd; what follows is one of its many forms
    28b52ffd60e8024d00001061610100e32b8005
";

/// A snapshot and its chunks.
struct Written {
    snapshot: SnapshotRef,
    descriptor: Descriptor,
    pages: BTreeMap<ChunkId, Vec<u8>>,
}

impl Written {
    fn new(entries: &[Entry], plain_length: impl Fn(&ChunkId) -> u32) -> Self {
        let mut writer = SnapshotWriter::new();
        let mut pages = Vec::new();
        for entry in entries {
            pages.append(&mut writer.push(entry.clone(), &plain_length));
        }
        let mut finished = writer.finish().unwrap();
        pages.append(&mut finished.pages);
        Self {
            snapshot: finished.snapshot,
            descriptor: finished.descriptor,
            pages: pages
                .into_iter()
                .map(|page| (ChunkId::of(&page), page))
                .collect(),
        }
    }

    fn page(&self, chunk: &ChunkRef) -> &[u8] {
        let page = &self.pages[&chunk.id];
        assert_eq!(page.len(), chunk.plain_length as usize);
        page
    }

    fn entries(&self) -> Vec<Entry> {
        let pages = self.descriptor.entries.iter().map(|page| self.page(page));
        read_entries(pages).unwrap()
    }

    fn layout(&self) -> Layout {
        let mut layout = Layout::new(self.snapshot);
        layout.add_descriptor(&self.descriptor);
        let pages = self
            .descriptor
            .chunk_list
            .iter()
            .map(|page| self.page(page));
        layout.add_chunk_list(pages).unwrap();
        layout
    }
}

fn read_entries<'a>(pages: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<Entry>, EntriesError> {
    let mut reader = EntriesReader::new();
    let mut entries = Vec::new();
    for page in pages {
        entries.append(&mut reader.read_page(page)?);
    }
    entries.extend(reader.finish()?);
    Ok(entries)
}

fn path(text: &str) -> RelPath {
    RelPath::new(text.as_bytes().to_vec()).unwrap()
}

/// Six entries, of every kind.
fn sample() -> Vec<Entry> {
    let chunk = ChunkId::of(b"one\ntwo\n");
    let file = |content: &[u8], offset| FileContent {
        size: content.len() as u64,
        hash: ContentHash::of(content),
        extents: vec![Extent {
            chunk,
            offset,
            length: 4,
        }],
    };
    let commit = "0102030405060708090a0b0c0d0e0f1011121314".parse().unwrap();
    [
        ("bin/run", Node::Executable(file(b"one\n", 0))),
        ("empty", Node::File(FileContent::empty())),
        ("file", Node::File(file(b"two\n", 4))),
        ("link", Node::Symlink(SymlinkTarget::new("file").unwrap())),
        ("sub", Node::Gitlink(commit)),
        ("void", Node::EmptyDirectory),
    ]
    .map(|(name, node)| Entry {
        path: path(name),
        node,
    })
    .to_vec()
}

#[test]
fn pages_and_descriptor_have_golden_bytes() {
    let written = Written::new(&sample(), |_| 8);
    assert_eq!(
        written.page(&written.descriptor.entries[0]),
        golden(ENTRIES_PAGE)
    );
    assert_eq!(
        written.page(&written.descriptor.chunk_list[0]),
        golden(LIST_PAGE)
    );
    let descriptor = written.page(&written.snapshot.descriptor_chunk());
    assert_eq!(descriptor, golden(DESCRIPTOR));
    assert_eq!(written.snapshot.id.to_string(), SNAPSHOT_ID);
    assert_eq!(Descriptor::decode(descriptor).unwrap(), written.descriptor);
    assert_eq!(written.entries(), sample());
    let content = written.layout().get(3).unwrap();
    assert_eq!(content.id, ChunkId::of(b"one\ntwo\n"));
    assert_eq!(content.plain_length, 8);
}

#[test]
fn the_empty_snapshot_has_golden_bytes() {
    let written = Written::new(&[], |_| 0);
    let descriptor = written.page(&written.snapshot.descriptor_chunk());
    assert_eq!(
        descriptor,
        golden("736361702d736e617073686f742f310a 00 00 00 00 00 00 00")
    );
    assert_eq!(written.layout().total(), Some(1));
}

#[test]
fn encoded_chunks_have_golden_bytes() {
    let chunk = EncodedChunk::from_plain(b"one\ntwo\n");
    assert_eq!(chunk.bytes(), &golden(RAW_CHUNK));
    let plain = [b'a'; 1000];
    let (chunk, found) = RawChunk::new(golden(ZSTD_CHUNK).into())
        .verify_with_plain(ChunkId::of(&plain), 1000)
        .unwrap();
    assert_eq!(found, plain[..]);
    assert_eq!(chunk.plain(), plain[..]);
}

/// The sample's descriptor with one extension: the last byte of [`DESCRIPTOR`] replaced.
fn with_extension(extension: &str) -> Vec<u8> {
    let mut bytes = golden(DESCRIPTOR);
    bytes.pop();
    bytes.extend(golden(extension));
    bytes
}

#[test]
fn an_unknown_even_extension_is_ignored_and_an_unknown_odd_one_refused() {
    let even = with_extension("01 04 02 abcd    # one extension: tag 4, two bytes");
    let descriptor = Descriptor::decode(&even).unwrap();
    assert_eq!(descriptor.totals.entries, 6);
    assert_eq!(descriptor.extensions.get(4).unwrap().as_ref(), [0xab, 0xcd]);
    assert_eq!(descriptor.encode().unwrap().1, even);

    let odd = with_extension("02 04 00 07 00     # two extensions: tags 4 and 7, no bytes");
    let Err(DescriptorError::Codec(CodecError::Extension(refused))) = Descriptor::decode(&odd)
    else {
        panic!("an odd tag must be refused");
    };
    assert_eq!(refused, ExtensionError::Required(7));
    assert!(refused.to_string().contains('7'));
}

#[test]
fn another_version_or_kind_is_refused_by_its_magic() {
    let mut newer = golden(DESCRIPTOR);
    newer[14] = b'2';
    for bytes in [&newer[..], b"", b"scap-snapshot", b"\x7fELF"] {
        assert!(matches!(
            Descriptor::decode(bytes),
            Err(DescriptorError::Codec(CodecError::Magic { .. }))
        ));
    }
}

#[test]
fn a_chunk_list_that_lies_teaches_nothing() {
    let written = Written::new(&sample(), |_| 8);
    let layout = || {
        let mut layout = Layout::new(written.snapshot);
        layout.add_descriptor(&written.descriptor);
        layout
    };
    let page = golden(LIST_PAGE);
    let empty = [0_u8];
    let mut long = page.clone();
    long.pop();
    // A varint of 32 bits: one byte more than a chunk may have.
    long.push(252);
    long.extend((CHUNK_BYTES_MAX + 1).to_le_bytes());
    let mut none = page.clone();
    *none.last_mut().unwrap() = 0;
    for pages in [vec![], vec![&empty[..]], vec![&page, &page]] {
        let mut layout = layout();
        assert!(matches!(
            layout.add_chunk_list(pages),
            Err(LayoutError::Count { expected: 1, .. })
        ));
        assert_eq!(layout.known(), 3);
    }
    for page in [&long, &none] {
        assert!(matches!(
            layout().add_chunk_list([page.as_slice()]),
            Err(LayoutError::Length(_))
        ));
    }
    assert!(matches!(
        layout().add_chunk_list([&page[..20]]),
        Err(LayoutError::Codec(_))
    ));
}

/// Names of files that can be below the same directories: `d<n>/…` holds files named `f…`.
fn any_path() -> impl Strategy<Value = RelPath> {
    let directories = vec(0..4_u8, 0..4);
    let name = vec(prop_oneof![1..=46_u8, 48..=255_u8], 0..12);
    (directories, name).prop_map(|(directories, name)| {
        let mut bytes: Vec<u8> = Vec::new();
        for directory in directories {
            bytes.extend([b'd', b'0' + directory, b'/']);
        }
        bytes.push(b'f');
        bytes.extend(name);
        RelPath::new(bytes).unwrap()
    })
}

fn any_content() -> impl Strategy<Value = FileContent> {
    let extent = (0..50_u8, 0..1000_u32, 1..1000_u32).prop_map(|(chunk, offset, length)| Extent {
        chunk: ChunkId::of(&[chunk]),
        offset,
        length,
    });
    (vec(extent, 0..6), any::<[u8; 32]>()).prop_map(|(extents, hash)| FileContent {
        size: extents.iter().map(|extent| u64::from(extent.length)).sum(),
        hash: ContentHash::from_bytes(hash),
        extents,
    })
}

fn any_node() -> impl Strategy<Value = Node> {
    let target = vec(1..=255_u8, 1..40).prop_map(|bytes| SymlinkTarget::new(bytes).unwrap());
    let commit = prop_oneof![vec(any::<u8>(), 20), vec(any::<u8>(), 32)];
    prop_oneof![
        any_content().prop_map(Node::File),
        any_content().prop_map(Node::Executable),
        target.prop_map(Node::Symlink),
        commit.prop_map(|bytes| Node::Gitlink(bytes.try_into().unwrap())),
        Just(Node::EmptyDirectory),
    ]
}

fn any_entries() -> impl Strategy<Value = Vec<Entry>> {
    proptest::collection::btree_map(any_path(), any_node(), 0..200).prop_map(|map| {
        map.into_iter()
            .map(|(path, node)| Entry { path, node })
            .collect()
    })
}

fn any_descriptor() -> impl Strategy<Value = Descriptor> {
    let page = (any::<[u8; 32]>(), 1..=CHUNK_BYTES_MAX).prop_map(|(id, plain_length)| ChunkRef {
        id: ChunkId::from_bytes(id),
        plain_length,
    });
    let pages = || vec(page.clone(), 0..20);
    let totals =
        (any::<[u64; 3]>(), 0..1_000_000_u32).prop_map(|([entries, files, bytes], chunks)| {
            Totals {
                entries,
                files,
                bytes,
                chunks,
            }
        });
    let extensions =
        proptest::collection::btree_map(0..=u16::MAX / 2, vec(any::<u8>(), 0..20), 0..4).prop_map(
            |map| {
                let list = map.into_iter().map(|(half, bytes)| Extension {
                    tag: half * 2,
                    bytes: bytes.into(),
                });
                Extensions::try_from(list.collect::<Vec<_>>()).unwrap()
            },
        );
    (pages(), pages(), totals, extensions).prop_map(|(chunk_list, entries, totals, extensions)| {
        Descriptor {
            chunk_list,
            entries,
            totals,
            extensions,
        }
    })
}

/// Ways to damage bytes: each sets one, cuts there, or repeats one.
fn damage(bytes: &mut Vec<u8>, damages: &[(Index, u8, u8)]) {
    for (at, way, value) in damages {
        if bytes.is_empty() {
            return;
        }
        let at = at.index(bytes.len());
        match way % 4 {
            0 | 1 => bytes[at] = *value,
            2 => bytes.truncate(at),
            _ => bytes.insert(at, bytes[at]),
        }
    }
}

fn any_damages() -> impl Strategy<Value = Vec<(Index, u8, u8)>> {
    vec(any::<(Index, u8, u8)>(), 1..4)
}

/// What decodes at all has these bytes as its only encoding.
fn check_descriptor(bytes: &[u8]) {
    if let Ok(descriptor) = Descriptor::decode(bytes) {
        let (snapshot, encoded) = descriptor.encode().unwrap();
        assert_eq!(encoded, bytes);
        assert_eq!(snapshot.descriptor_chunk().id, ChunkId::of(bytes));
    }
}

/// What reads at all is in order and sums up.
fn check_entries_page(bytes: &[u8]) {
    if let Ok(entries) = read_entries([bytes]) {
        assert!(entries.is_sorted_by(|a, b| a.path < b.path));
        for content in entries.iter().filter_map(|entry| entry.node.content()) {
            let placed: u64 = content.extents.iter().map(|e| u64::from(e.length)).sum();
            assert_eq!(placed, content.size);
        }
    }
}

/// What verifies at all is the bytes that the id names.
fn check_chunk(bytes: Bytes, id: ChunkId, plain_length: u32) {
    if let Ok((chunk, plain)) = RawChunk::new(bytes).verify_with_plain(id, plain_length) {
        assert_eq!(ChunkId::of(&plain), id);
        assert_eq!(plain.len(), plain_length as usize);
        assert_eq!(chunk.plain(), plain);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn entries_come_back_from_their_pages(entries in any_entries()) {
        let written = Written::new(&entries, |_| 2000);
        prop_assert_eq!(written.entries(), entries);
        prop_assert!(written.layout().is_complete());
    }

    #[test]
    fn descriptors_come_back_from_their_bytes(descriptor in any_descriptor()) {
        let (snapshot, bytes) = descriptor.encode().unwrap();
        prop_assert_eq!(snapshot.descriptor_length as usize, bytes.len());
        prop_assert_eq!(Descriptor::decode(&bytes).unwrap(), descriptor);
    }

    #[test]
    fn chunks_come_back_from_their_encoding(plain in vec(any::<u8>(), 1..5000), repeat in 1..40_usize) {
        let plain = plain.repeat(repeat);
        let chunk = EncodedChunk::from_plain(&plain);
        prop_assert!(chunk.bytes().len() <= plain.len() + 1);
        let length = chunk.plain_length();
        let (back, found) = RawChunk::new(chunk.bytes().clone())
            .verify_with_plain(chunk.id(), length)
            .unwrap();
        prop_assert!(found == plain);
        prop_assert!(back == chunk);
    }

    #[test]
    fn no_damage_panics_or_passes_for_something_else(
        descriptor in any_descriptor(),
        entries in any_entries(),
        plain in vec(0..4_u8, 1..2000),
        damages in any_damages(),
    ) {
        let mut bytes = descriptor.encode().unwrap().1.to_vec();
        damage(&mut bytes, &damages);
        check_descriptor(&bytes);

        let written = Written::new(&entries, |_| 2000);
        if let Some(page) = written.descriptor.entries.first() {
            let mut bytes = written.page(page).to_vec();
            damage(&mut bytes, &damages);
            check_entries_page(&bytes);
        }

        let chunk = EncodedChunk::from_plain(&plain);
        let mut bytes = chunk.bytes().to_vec();
        damage(&mut bytes, &damages);
        check_chunk(bytes.into(), chunk.id(), chunk.plain_length());
    }

    #[test]
    fn no_bytes_panic(bytes in vec(any::<u8>(), 0..300), length in any::<u32>()) {
        check_descriptor(&bytes);
        check_descriptor(&[b"scap-snapshot/1\n", bytes.as_slice()].concat());
        check_entries_page(&bytes);
        let id = ChunkId::of(&bytes);
        check_chunk(bytes.clone().into(), id, length);
        check_chunk(bytes.into(), id, length % 4096);
    }
}
