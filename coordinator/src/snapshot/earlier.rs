//! What is taken over from an earlier snapshot, so that only what changed since is read.
//!
//! A file at the same path with the same mode and git id is the same: its entry is taken from the earlier snapshot's
//! pages. All entries go through the assembly as ever, which decides from hashes and lengths where bundles end; so what
//! comes out is what reading everything gives. A chunk is taken over where a bundle has just its files; for any other
//! bundle the content of old files is cut from the old chunks.
//!
//! Nothing here is an error of the build: whatever is wrong with the earlier snapshot, everything is read instead.

use std::{
    cmp::Ordering,
    collections::{HashMap, HashSet},
    iter::Peekable,
    slice, vec,
};

use scap_proto::{
    content::{
        ChunkRef, Descriptor, EntriesReader, Entry, Layout, RelPath, SnapshotRef,
        descriptor::DescriptorError, entries::EntriesError, layout::LayoutError,
    },
    id::{ChunkId, GitOid},
};

use super::{
    Built, ChunkSink, ChunkSums, Halt, SinkError,
    commit::{BlobReader, listed},
    error::SnapshotError,
    listing::{Kind, Listed, Origin},
};
use crate::git::{Change, ChangesError, Repo};

/// A snapshot that was built before, and of what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Earlier {
    /// The commit, of the same repository.
    pub commit: GitOid,
    /// Its snapshot, whose chunks should be in the sink.
    pub snapshot: SnapshotRef,
}

/// Why an earlier snapshot is of no use.
#[derive(Debug, thiserror::Error)]
pub(super) enum EarlierError {
    #[error("compare the commits")]
    Changes(#[from] ChangesError),
    #[error("chunk {0} is not in the store any more")]
    Lost(ChunkId),
    #[error("read or write the store")]
    Store(#[source] SinkError),
    #[error("read the descriptor")]
    Descriptor(#[from] DescriptorError),
    #[error("read the chunk list")]
    Layout(#[from] LayoutError),
    #[error("read the entries")]
    Entries(#[from] EntriesError),
    #[error("at `{}` it has not what its commit has", .0.escape_ascii())]
    Mismatch(Vec<u8>),
    #[error("`{0}` is not what was looked for: a small file, whose content is what its entry says")]
    Content(RelPath),
}

/// An earlier snapshot as it was found in the sink: its descriptor and chunk list.
pub(super) struct Kept {
    descriptor: Descriptor,
    layout: Layout,
    plain_lengths: HashMap<ChunkId, u32>,
}

impl Kept {
    pub(super) fn read(snapshot: SnapshotRef, sink: &dyn ChunkSink) -> Result<Self, EarlierError> {
        let descriptor = plain(sink, &snapshot.descriptor_chunk().id)?;
        let descriptor = Descriptor::decode(&descriptor)?;
        let pages = descriptor.chunk_list.iter();
        let pages = pages
            .map(|page| plain(sink, &page.id))
            .collect::<Result<Vec<_>, _>>()?;
        let mut layout = Layout::new(snapshot);
        layout.add_descriptor(&descriptor);
        layout.add_chunk_list(pages.iter().map(|page| &**page))?;
        let plain_lengths = layout
            .refs()
            .iter()
            .map(|chunk| (chunk.id, chunk.plain_length))
            .collect();
        Ok(Self {
            descriptor,
            layout,
            plain_lengths,
        })
    }

    /// Its chunks, in order.
    pub(super) fn refs(&self) -> &[ChunkRef] {
        self.layout.refs()
    }

    /// Its entries, in order.
    pub(super) fn entries<'a>(&'a self, sink: &'a dyn ChunkSink) -> Entries<'a> {
        Entries {
            sink,
            pages: self.descriptor.entries.iter(),
            reader: Some(EntriesReader::new()),
            read: Vec::new().into_iter(),
        }
    }

    /// The plain length of one of its chunks.
    pub(super) fn plain_length(&self, id: &ChunkId) -> Option<u32> {
        self.plain_lengths.get(id).copied()
    }

    /// The same snapshot again, where nothing changed.
    pub(super) fn into_built(
        self,
        snapshot: SnapshotRef,
        sink: &dyn ChunkSink,
    ) -> Result<Built, EarlierError> {
        let mut all = ChunkSums::default();
        let mut counted = HashSet::new();
        for ChunkRef { id, plain_length } in self.layout.refs() {
            let encoded_length = sink.encoded_length(id).ok_or(EarlierError::Lost(*id))?;
            if counted.insert(id) {
                all.add(*plain_length, encoded_length);
            }
        }
        Ok(Built {
            snapshot,
            kept_entries: self.descriptor.totals.entries,
            descriptor: self.descriptor,
            layout: self.layout,
            all,
            new: ChunkSums::default(),
            elapsed: Default::default(),
        })
    }
}

/// The plain bytes of a chunk, proved.
pub(super) fn plain(sink: &dyn ChunkSink, id: &ChunkId) -> Result<bytes::Bytes, EarlierError> {
    sink.plain(id)
        .map_err(EarlierError::Store)?
        .ok_or(EarlierError::Lost(*id))
}

/// The tree of a commit, as an earlier snapshot and what changed since.
pub(super) struct ChangedTree<'a> {
    pub(super) repo: &'a Repo,
    pub(super) sink: &'a dyn ChunkSink,
    pub(super) kept: &'a Kept,
    /// In path order.
    pub(super) changes: Vec<Change>,
}

impl<'a> Origin for ChangedTree<'a> {
    type Locator = GitOid;
    type Reader = BlobReader<'a>;

    fn list(&self) -> Result<impl Iterator<Item = Result<Listed<GitOid>, Halt>>, SnapshotError> {
        Ok(Merged {
            entries: self.kept.entries(self.sink).peekable(),
            changes: self.changes.iter().peekable(),
        })
    }

    fn reader(&self) -> Result<BlobReader<'a>, SnapshotError> {
        Ok(BlobReader::new(self.repo))
    }

    /// A commit does not change.
    fn finish(&self) -> Result<(), SnapshotError> {
        Ok(())
    }
}

/// The entries of an earlier snapshot, a page at a time. After an error there is nothing more.
pub(super) struct Entries<'a> {
    sink: &'a dyn ChunkSink,
    pages: slice::Iter<'a, ChunkRef>,
    /// `None` after the last page.
    reader: Option<EntriesReader>,
    read: vec::IntoIter<Entry>,
}

impl Entries<'_> {
    fn read_on(&mut self) -> Result<Option<Entry>, EarlierError> {
        loop {
            if let Some(entry) = self.read.next() {
                return Ok(Some(entry));
            }
            match (&mut self.reader, self.pages.next()) {
                (None, _) => return Ok(None),
                (Some(reader), Some(page)) => {
                    let page = plain(self.sink, &page.id)?;
                    self.read = reader.read_page(&page)?.into_iter();
                }
                (reader, None) => {
                    let last = reader.take().expect("it was looked at").finish()?;
                    return Ok(last);
                }
            }
        }
    }
}

impl Iterator for Entries<'_> {
    type Item = Result<Entry, EarlierError>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.read_on().transpose();
        if let Some(Err(_)) = next {
            self.reader = None;
        }
        next
    }
}

/// Entries and changes in path order.
struct Merged<'a> {
    entries: Peekable<Entries<'a>>,
    changes: Peekable<slice::Iter<'a, Change>>,
}

impl Merged<'_> {
    fn read_on(&mut self) -> Result<Option<Listed<GitOid>>, Halt> {
        loop {
            let order = match (self.entries.peek(), self.changes.peek()) {
                (None, None) => return Ok(None),
                (Some(Err(_)), _) | (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(Ok(entry)), Some(change)) => entry.path.as_bytes().cmp(change.path()),
            };
            let entry = self.entries.next_if(|_| order.is_le()).transpose()?;
            let change = self.changes.next_if(|_| order.is_ge());
            match (entry, change) {
                (Some(Entry { path, node }), None) => {
                    let kind = Kind::Kept(node);
                    return Ok(Some(Listed { path, kind }));
                }
                (Some(_), Some(Change::Removed(_))) => {}
                (Some(_), Some(Change::Changed(entry))) | (None, Some(Change::Added(entry))) => {
                    return Ok(Some(listed(entry.clone())?));
                }
                (_, Some(change)) => {
                    return Err(EarlierError::Mismatch(change.path().into()).into());
                }
                (None, None) => unreachable!("what comes first is taken"),
            }
        }
    }
}

impl Iterator for Merged<'_> {
    type Item = Result<Listed<GitOid>, Halt>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read_on().transpose()
    }
}
