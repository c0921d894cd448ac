//! Entries to a snapshot: the pages, the chunk list, the descriptor.

use std::collections::{HashMap, HashSet};

use crate::{
    codec,
    content::{
        descriptor::{ChunkRef, Descriptor, SnapshotRef, Totals},
        entries::{Entry, Extent, FileContent, Node, Page, Place, Record},
        layout,
        path::RelPath,
    },
    extensions::Extensions,
    id::{ChunkId, DIGEST_BYTES},
    limits::CHUNK_BYTES_MAX,
};

/// Fewest bytes in a page of entries that is cut by content.
pub const PAGE_BYTES_MIN: usize = 16 * 1024;
/// Where a page of entries is cut on average, in bytes. An edit rewrites one page; a million files
/// make some 2,000 pages, which is a descriptor of 70 KiB.
pub const PAGE_BYTES_TARGET: usize = 64 * 1024;
/// Where a page of entries is cut at the latest, in bytes; one more record may follow the limit.
pub const PAGE_BYTES_MAX: usize = 512 * 1024;

/// Most extents in one record, so that a page can be cut inside a file of any length: 1,024 extents
/// with their chunk ids are 45 KiB.
pub const RECORD_EXTENTS_MAX: usize = 1024;
const _: () =
    assert!(PAGE_BYTES_MAX + 64 * 1024 + RECORD_EXTENTS_MAX * 48 < CHUNK_BYTES_MAX as usize);

/// Fewest, average and most chunks on a page of the chunk list: an insertion rewrites one page of
/// some 18 KiB, and 20 GB of content make about 300 pages.
pub const LIST_PAGE_CHUNKS_MIN: usize = 64;
/// See [`LIST_PAGE_CHUNKS_MIN`].
pub const LIST_PAGE_CHUNKS_TARGET: u16 = 512;
/// See [`LIST_PAGE_CHUNKS_MIN`].
pub const LIST_PAGE_CHUNKS_MAX: usize = 4096;

/// Builds a snapshot from its entries, which come in order. It holds one page and the ids of the
/// content chunks.
#[derive(Debug, Default)]
pub struct SnapshotWriter {
    page: Page,
    page_bytes: usize,
    table: HashMap<ChunkId, u32>,
    entry_pages: Vec<ChunkRef>,
    list_page: Vec<ChunkRef>,
    list_pages: Vec<ChunkRef>,
    listed: HashSet<ChunkId>,
    last: Option<RelPath>,
    totals: Totals,
}

/// A page that is finished: a chunk to be stored.
pub type PageBytes = Vec<u8>;

/// A snapshot that is finished.
#[derive(Debug)]
pub struct Finished {
    /// Its name.
    pub snapshot: SnapshotRef,
    /// What it consists of.
    pub descriptor: Descriptor,
    /// The last pages, and the encoded descriptor as the last of them: chunks to be stored.
    pub pages: Vec<PageBytes>,
}

/// More pages than a descriptor can name.
#[derive(Debug, thiserror::Error)]
#[error("the tree has too many files or bytes for one snapshot: {0:?}")]
pub struct TooLarge(pub Totals);

impl SnapshotWriter {
    /// An empty snapshot.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the next entry. `plain_length` gives the length of each chunk that the entry refers to.
    /// Returns pages that are finished with it.
    ///
    /// # Panics
    /// Where `entry` is not after the one before it: the caller sorts.
    pub fn push(&mut self, entry: Entry, plain_length: impl Fn(&ChunkId) -> u32) -> Vec<PageBytes> {
        assert!(
            self.last.as_ref().is_none_or(|last| *last < entry.path),
            "entries are sorted"
        );
        let mut finished = Vec::new();
        self.totals.entries += 1;
        let path = entry.path.clone();
        match entry.node {
            Node::File(content) => {
                self.push_file(&path, false, &content, &plain_length, &mut finished);
            }
            Node::Executable(content) => {
                self.push_file(&path, true, &content, &plain_length, &mut finished);
            }
            Node::Symlink(target) => {
                self.push_record(
                    Record::Symlink {
                        path: entry.path,
                        target,
                    },
                    &[],
                    &path,
                    &mut finished,
                );
            }
            Node::EmptyDirectory => {
                self.push_record(
                    Record::EmptyDirectory { path: entry.path },
                    &[],
                    &path,
                    &mut finished,
                );
            }
            Node::Gitlink(commit) => {
                self.push_record(
                    Record::Gitlink {
                        path: entry.path,
                        commit,
                    },
                    &[],
                    &path,
                    &mut finished,
                );
            }
        }
        self.last = Some(path);
        finished
    }

    /// Ends the snapshot.
    ///
    /// # Errors
    /// [`TooLarge`].
    pub fn finish(mut self) -> Result<Finished, TooLarge> {
        let mut pages = Vec::new();
        self.cut_entries(&mut pages);
        self.cut_list(&mut pages);
        let descriptor = Descriptor {
            chunk_list: self.list_pages,
            entries: self.entry_pages,
            totals: self.totals,
            extensions: Extensions::default(),
        };
        let (snapshot, bytes) = descriptor.encode().ok_or(TooLarge(self.totals))?;
        pages.push(bytes.to_vec());
        Ok(Finished {
            snapshot,
            descriptor,
            pages,
        })
    }

    fn push_file(
        &mut self,
        path: &RelPath,
        executable: bool,
        content: &FileContent,
        plain_length: &impl Fn(&ChunkId) -> u32,
        finished: &mut Vec<PageBytes>,
    ) {
        self.totals.files += 1;
        self.totals.bytes += content.size;
        for extent in &content.extents {
            if self.listed.insert(extent.chunk) {
                let chunk = ChunkRef {
                    id: extent.chunk,
                    plain_length: plain_length(&extent.chunk),
                };
                self.push_listed(chunk, finished);
            }
        }
        let mut parts = content.extents.chunks(RECORD_EXTENTS_MAX);
        let first = parts.next().unwrap_or_default();
        let file = Record::File {
            path: path.clone(),
            executable,
            size: content.size,
            hash: content.hash,
            extents: Vec::new(),
        };
        self.push_record(file, first, path, finished);
        for part in parts {
            self.push_record(
                Record::More {
                    extents: Vec::new(),
                },
                part,
                path,
                finished,
            );
        }
    }

    /// Adds a record, whose extents are `extents`, and cuts the page where its path says so: where the
    /// hash of the path, as a fraction, is below the record's share of the average page. So where a
    /// page ends does not depend on what is in the files.
    fn push_record(
        &mut self,
        mut record: Record,
        extents: &[Extent],
        path: &RelPath,
        finished: &mut Vec<PageBytes>,
    ) {
        let table_before = self.table.len();
        if let Record::File {
            extents: places, ..
        }
        | Record::More { extents: places } = &mut record
        {
            *places = extents.iter().map(|extent| self.place(extent)).collect();
        }
        let new_ids = self.table.len() - table_before;
        let bytes = codec::encode(&record).len() + new_ids * DIGEST_BYTES;
        self.page_bytes += bytes;
        self.page.records.push(record);
        let draw = u64::from_le_bytes(
            blake3::hash(path.as_bytes()).as_bytes()[..8]
                .try_into()
                .expect("8 of 32 bytes"),
        );
        let average = (PAGE_BYTES_TARGET - PAGE_BYTES_MIN) as u128;
        let is_cut = u128::from(draw) * average < (bytes as u128) << 64;
        if self.page_bytes >= PAGE_BYTES_MAX || (self.page_bytes >= PAGE_BYTES_MIN && is_cut) {
            self.cut_entries(finished);
        }
    }

    fn place(&mut self, extent: &Extent) -> Place {
        let next = u32::try_from(self.table.len()).expect("a page has few chunks");
        let chunk = *self.table.entry(extent.chunk).or_insert_with(|| {
            self.page.chunks.push(extent.chunk);
            next
        });
        Place {
            chunk,
            offset: extent.offset,
            length: extent.length,
        }
    }

    fn cut_entries(&mut self, finished: &mut Vec<PageBytes>) {
        if self.page.records.is_empty() {
            return;
        }
        let bytes = codec::encode(&std::mem::take(&mut self.page));
        self.page_bytes = 0;
        self.table.clear();
        self.entry_pages.push(chunk_ref(&bytes));
        finished.push(bytes);
    }

    /// Lists a content chunk, and cuts the page where the chunk's id says so.
    fn push_listed(&mut self, chunk: ChunkRef, finished: &mut Vec<PageBytes>) {
        self.totals.chunks += 1;
        self.list_page.push(chunk);
        let id = chunk.id.as_bytes();
        let is_cut = u16::from_le_bytes([id[0], id[1]]).is_multiple_of(LIST_PAGE_CHUNKS_TARGET);
        let length = self.list_page.len();
        if length >= LIST_PAGE_CHUNKS_MAX || (length >= LIST_PAGE_CHUNKS_MIN && is_cut) {
            self.cut_list(finished);
        }
    }

    fn cut_list(&mut self, finished: &mut Vec<PageBytes>) {
        if self.list_page.is_empty() {
            return;
        }
        let bytes = layout::encode_list_page(&std::mem::take(&mut self.list_page));
        self.list_pages.push(chunk_ref(&bytes));
        finished.push(bytes);
    }
}

fn chunk_ref(plain: &[u8]) -> ChunkRef {
    let plain_length = u32::try_from(plain.len()).expect("a page is shorter than a chunk");
    ChunkRef {
        id: ChunkId::of(plain),
        plain_length,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{
        content::{EntriesError, EntriesReader, Layout, SymlinkTarget},
        id::ContentHash,
    };

    fn path(text: &str) -> RelPath {
        RelPath::new(text.as_bytes().to_vec()).unwrap()
    }

    fn file(name: &str, chunks: u32) -> Entry {
        let extent = |i: u32| Extent {
            chunk: ChunkId::of(format!("{name}{i}").as_bytes()),
            offset: 0,
            length: 1000,
        };
        let content = FileContent {
            size: u64::from(chunks) * 1000,
            hash: ContentHash::of(name.as_bytes()),
            extents: (0..chunks).map(extent).collect(),
        };
        Entry {
            path: path(name),
            node: Node::File(content),
        }
    }

    fn write(entries: &[Entry]) -> (Finished, BTreeMap<ChunkId, Vec<u8>>) {
        let mut writer = SnapshotWriter::new();
        let mut store = BTreeMap::new();
        let mut keep = |pages: &[Vec<u8>]| {
            for page in pages {
                store.insert(ChunkId::of(page), page.clone());
            }
        };
        for entry in entries {
            keep(&writer.push(entry.clone(), |_| 1000));
        }
        let finished = writer.finish().unwrap();
        keep(&finished.pages);
        (finished, store)
    }

    fn read(
        finished: &Finished,
        store: &BTreeMap<ChunkId, Vec<u8>>,
    ) -> Result<Vec<Entry>, EntriesError> {
        let mut reader = EntriesReader::new();
        let mut entries = Vec::new();
        for page in &finished.descriptor.entries {
            entries.append(&mut reader.read_page(&store[&page.id])?);
        }
        entries.extend(reader.finish()?);
        Ok(entries)
    }

    #[test]
    fn entries_come_back_as_they_went_in_and_the_layout_numbers_all_chunks() {
        let mut entries: Vec<Entry> = (0..5000)
            .map(|i| file(&format!("dir{}/f{i:05}", i / 70), 1))
            .collect();
        entries.push(file("huge", 20_000));
        entries.push(Entry {
            path: path("link"),
            node: Node::Symlink(SymlinkTarget::new("a").unwrap()),
        });
        entries.push(Entry {
            path: path("void"),
            node: Node::EmptyDirectory,
        });
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        let (finished, store) = write(&entries);
        assert!(
            finished.descriptor.entries.len() > 5,
            "{:?}",
            finished.descriptor.totals
        );
        assert_eq!(read(&finished, &store).unwrap(), entries);

        let mut layout = Layout::new(finished.snapshot);
        let descriptor_bytes = &store[&finished.snapshot.descriptor_chunk().id];
        assert_eq!(layout.known(), 1);
        layout.add_descriptor(&Descriptor::decode(descriptor_bytes).unwrap());
        let pages: Vec<&[u8]> = layout
            .list_pages()
            .map(|index| store[&layout.get(index).unwrap().id].as_slice())
            .collect();
        assert_eq!(
            layout.add_chunk_list(pages).unwrap(),
            layout.total().unwrap()
        );
        assert!(layout.is_complete());
        assert_eq!(finished.descriptor.totals.chunks, 25_000);
    }

    #[test]
    fn a_reader_in_the_middle_passes_over_what_began_before_and_says_what_goes_on() {
        let entries = [file("a", 1), file("huge", 100_000), file("z", 1)];
        let (finished, store) = write(&entries);
        let pages = &finished.descriptor.entries;
        assert!(pages.len() > 3, "{}", pages.len());
        let mut reader = EntriesReader::new();
        assert_eq!(
            reader.read_page(&store[&pages[0].id]).unwrap(),
            entries[..1]
        );
        assert!(reader.goes_on());

        let mut reader = EntriesReader::in_the_middle();
        for page in &pages[1..] {
            assert_eq!(reader.read_page(&store[&page.id]).unwrap(), []);
            assert!(!reader.goes_on());
        }
        assert_eq!(reader.finish().unwrap().as_ref(), entries.last());
    }

    #[test]
    fn one_changed_file_changes_one_page_of_each_list() {
        let entries: Vec<Entry> = (0..20_000).map(|i| file(&format!("f{i:05}"), 1)).collect();
        let (before, _) = write(&entries);
        let mut changed = entries.clone();
        if let Node::File(content) = &mut changed[9_000].node {
            content.hash = ContentHash::of(b"new");
            content.extents[0].chunk = ChunkId::of(b"new");
        }
        let (after, _) = write(&changed);
        let new =
            |a: &[ChunkRef], b: &[ChunkRef]| b.iter().filter(|page| !a.contains(page)).count();
        assert_eq!(
            new(&before.descriptor.entries, &after.descriptor.entries),
            1
        );
        assert!(new(&before.descriptor.chunk_list, &after.descriptor.chunk_list) <= 2);
        assert!(before.descriptor.entries.len() > 10);
    }

    #[test]
    fn an_empty_tree_is_a_snapshot_of_its_own() {
        let (finished, store) = write(&[]);
        assert_eq!(read(&finished, &store).unwrap(), []);
        assert_eq!(finished.descriptor.totals, Totals::default());
    }

    fn read_records(
        chunks: Vec<ChunkId>,
        records: Vec<Record>,
    ) -> Result<Vec<Entry>, EntriesError> {
        let mut reader = EntriesReader::new();
        let mut entries = reader.read_page(&codec::encode(&Page { chunks, records }))?;
        entries.extend(reader.finish()?);
        Ok(entries)
    }

    #[test]
    fn c5_entries_out_of_order_or_twice_are_refused() {
        let directory = |p: &str| Record::EmptyDirectory { path: path(p) };
        for [one, next] in [["b", "a"], ["a", "a"], ["a/b", "a/b"]] {
            let refused = read_records(vec![], vec![directory(one), directory(next)]);
            assert!(matches!(refused, Err(EntriesError::Order(_))));
        }
        // Where a file system folds case, it is the host that refuses them.
        let both = vec![directory("README"), directory("readme")];
        assert!(read_records(vec![], both).is_ok());
    }

    #[test]
    fn c2_pages_that_lie_are_refused() {
        let directory = |p: &str| Record::EmptyDirectory { path: path(p) };
        let link = |p: &str| Record::Symlink {
            path: path(p),
            target: SymlinkTarget::new("/etc").unwrap(),
        };
        assert!(matches!(
            read_records(vec![], vec![link("a/.gitmodules")]),
            Err(EntriesError::Path(_))
        ));
        // Byte order puts `a-b` and `a.txt` between `a` and `a/passwd`.
        assert!(matches!(
            read_records(
                vec![],
                vec![
                    link("a"),
                    directory("a-b"),
                    directory("a.txt"),
                    directory("a/passwd")
                ]
            ),
            Err(EntriesError::BelowNonDirectory(_))
        ));
        assert!(
            read_records(
                vec![],
                vec![directory("a-b"), directory("a/b"), directory("ab")]
            )
            .is_ok()
        );
        assert!(matches!(
            read_records(
                vec![],
                vec![directory("a"), Record::More { extents: vec![] }]
            ),
            Err(EntriesError::MoreOfNothing)
        ));
        let file = |size, extents| Record::File {
            path: path("f"),
            executable: false,
            size,
            hash: ContentHash::of(b""),
            extents,
        };
        let place = |chunk, offset, length| Place {
            chunk,
            offset,
            length,
        };
        let table = vec![ChunkId::of(b"x")];
        assert!(matches!(
            read_records(table.clone(), vec![file(5, vec![place(0, 0, 4)])]),
            Err(EntriesError::Size { .. })
        ));
        for lie in [
            place(1, 0, 5),
            place(0, u32::MAX, 5),
            place(0, CHUNK_BYTES_MAX, 5),
            place(0, 0, 0),
        ] {
            let read = read_records(table.clone(), vec![file(5, vec![lie])]);
            assert!(matches!(read, Err(EntriesError::Place(_))), "{lie:?}");
        }
    }
}
