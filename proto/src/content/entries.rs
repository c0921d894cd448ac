//! What is at each path, as a stream of pages that is never held whole.
//!
//! Entries are in strictly rising order of the bytes of their paths. A page stands alone: it has a
//! table of the chunks it refers to, so an edit elsewhere does not change it. A file of many chunks
//! goes on in a continuation record, in the next page if need be.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    codec::{self, CodecError},
    content::path::{PathError, RelPath},
    id::{ChunkId, ContentHash, GitOid},
    limits::{CHUNK_BYTES_MAX, SYMLINK_BYTES_MAX},
};

/// One path and what is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where.
    pub path: RelPath,
    /// What.
    pub node: Node,
}

/// What can be at a path. Directories other than empty ones follow from the paths below them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// A file (git mode 100644).
    File(FileContent),
    /// An executable file (git mode 100755).
    Executable(FileContent),
    /// A symbolic link; its target is data and never followed by us.
    Symlink(SymlinkTarget),
    /// A directory with nothing in it, which git has no way to record.
    EmptyDirectory,
    /// A submodule: an empty directory, and the commit that belongs there.
    Gitlink(GitOid),
}

impl Node {
    /// The content of a file of either kind.
    pub fn content(&self) -> Option<&FileContent> {
        match self {
            Self::File(content) | Self::Executable(content) => Some(content),
            _ => None,
        }
    }
}

/// The bytes of one file: their hash, and where they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileContent {
    /// The file's length.
    pub size: u64,
    /// The BLAKE3 of all its bytes.
    pub hash: ContentHash,
    /// Where its bytes are, in order; their lengths sum to `size`.
    pub extents: Vec<Extent>,
}

impl FileContent {
    /// The content of an empty file.
    pub fn empty() -> Self {
        Self {
            size: 0,
            hash: ContentHash::of(b""),
            extents: Vec::new(),
        }
    }
}

/// A run of bytes inside one chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// The chunk.
    pub chunk: ChunkId,
    /// Where in its plain bytes the run starts.
    pub offset: u32,
    /// How long the run is: at least 1.
    pub length: u32,
}

/// The target of a symbolic link: 1 to [`SYMLINK_BYTES_MAX`] bytes without NUL.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Bytes", into = "Bytes")]
pub struct SymlinkTarget(Bytes);

impl SymlinkTarget {
    /// Checks a target, or returns `None` where no file system could hold it.
    pub fn new(bytes: impl Into<Bytes>) -> Option<Self> {
        let bytes = bytes.into();
        let fits = (1..=SYMLINK_BYTES_MAX).contains(&bytes.len());
        (fits && !bytes.contains(&0)).then_some(Self(bytes))
    }

    /// The target.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl TryFrom<Bytes> for SymlinkTarget {
    type Error = &'static str;

    fn try_from(bytes: Bytes) -> Result<Self, Self::Error> {
        Self::new(bytes).ok_or("a symlink target is 1 to 4095 bytes without NUL")
    }
}

impl From<SymlinkTarget> for Bytes {
    fn from(target: SymlinkTarget) -> Self {
        target.0
    }
}

impl std::fmt::Debug for SymlinkTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

/// One page as it is encoded.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Page {
    /// The chunks that the records of this page refer to, in order of first use.
    pub(crate) chunks: Vec<ChunkId>,
    /// The records, in order.
    pub(crate) records: Vec<Record>,
}

/// One record of a page. Variants are only ever added at the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Record {
    File {
        path: RelPath,
        executable: bool,
        size: u64,
        hash: ContentHash,
        extents: Vec<Place>,
    },
    Symlink {
        path: RelPath,
        target: SymlinkTarget,
    },
    EmptyDirectory {
        path: RelPath,
    },
    Gitlink {
        path: RelPath,
        commit: GitOid,
    },
    /// The next extents of the file before this record.
    More {
        extents: Vec<Place>,
    },
}

/// An [`Extent`] by the index of its chunk in the page's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Place {
    pub(crate) chunk: u32,
    pub(crate) offset: u32,
    pub(crate) length: u32,
}

/// Reads pages in order and gives back entries, checked.
#[derive(Debug, Default)]
pub struct EntriesReader {
    /// The last entry read, which the next record may go on with.
    open: Option<Entry>,
    /// Entries that are no directories and whose paths are prefixes of the last path, longest last.
    prefixes: Vec<RelPath>,
    /// Whether records that go on with an entry of a page that was not read are passed over.
    is_within: bool,
}

impl EntriesReader {
    /// Before the first page.
    pub fn new() -> Self {
        Self::default()
    }

    /// Before a page in the middle. What goes on in it from the page before is passed over.
    pub fn in_the_middle() -> Self {
        Self {
            is_within: true,
            ..Self::default()
        }
    }

    /// Whether some of the last entry's bytes are placed by the pages that follow.
    pub fn goes_on(&self) -> bool {
        let content = self.open.as_ref().and_then(|entry| entry.node.content());
        content.is_some_and(|content| placed(content) < content.size)
    }

    /// Reads the next page and returns the entries that are complete with it. The last entry of a
    /// page comes back with the next page, or from [`Self::finish`].
    ///
    /// # Errors
    /// [`EntriesError`]; nothing after it can be relied on.
    pub fn read_page(&mut self, bytes: &[u8]) -> Result<Vec<Entry>, EntriesError> {
        let Page { chunks, records } = codec::decode_canonical(bytes)?;
        let mut entries = Vec::with_capacity(records.len());
        for record in records {
            let (path, node) = match record {
                Record::More { .. } if self.is_within => continue,
                Record::More { extents } => {
                    self.extend_open(&chunks, &extents)?;
                    continue;
                }
                Record::File {
                    path,
                    executable,
                    size,
                    hash,
                    extents,
                } => {
                    let extents = resolve(&path, &chunks, &extents)?;
                    let content = FileContent {
                        size,
                        hash,
                        extents,
                    };
                    let kind = if executable {
                        Node::Executable
                    } else {
                        Node::File
                    };
                    (path, kind(content))
                }
                Record::Symlink { path, target } => (path, Node::Symlink(target)),
                Record::EmptyDirectory { path } => (path, Node::EmptyDirectory),
                Record::Gitlink { path, commit } => (path, Node::Gitlink(commit)),
            };
            self.is_within = false;
            entries.extend(self.close()?);
            self.admit(&path)?;
            if let Node::Symlink(_) = node {
                path.check_link()?;
            }
            self.open = Some(Entry { path, node });
        }
        Ok(entries)
    }

    /// The last entry, after the last page.
    ///
    /// # Errors
    /// [`EntriesError::Size`] where its bytes are not all there.
    pub fn finish(mut self) -> Result<Option<Entry>, EntriesError> {
        self.close()
    }

    fn extend_open(&mut self, chunks: &[ChunkId], places: &[Place]) -> Result<(), EntriesError> {
        match self.open.as_mut() {
            Some(Entry {
                path,
                node: Node::File(content) | Node::Executable(content),
            }) => {
                content.extents.append(&mut resolve(path, chunks, places)?);
                Ok(())
            }
            _ => Err(EntriesError::MoreOfNothing),
        }
    }

    fn close(&mut self) -> Result<Option<Entry>, EntriesError> {
        let Some(entry) = self.open.take() else {
            return Ok(None);
        };
        if let Some(content) = entry.node.content() {
            let found = placed(content);
            if found != content.size {
                return Err(EntriesError::Size {
                    path: entry.path,
                    size: content.size,
                    found,
                });
            }
        }
        self.prefixes.push(entry.path.clone());
        Ok(Some(entry))
    }

    /// Refuses a path that is not after the last one, or that is below something that is no directory.
    fn admit(&mut self, path: &RelPath) -> Result<(), EntriesError> {
        if self.prefixes.last().is_some_and(|last| last >= path) {
            return Err(EntriesError::Order(path.clone()));
        }
        // In byte order, all that lies between `a` and `a/b` starts with `a`: so what can be above
        // `path` is still on the stack of prefixes.
        while self
            .prefixes
            .last()
            .is_some_and(|p| !path.as_bytes().starts_with(p.as_bytes()))
        {
            self.prefixes.pop();
        }
        match self
            .prefixes
            .iter()
            .find(|prefix| prefix.is_ancestor_of(path))
        {
            Some(_) => Err(EntriesError::BelowNonDirectory(path.clone())),
            None => Ok(()),
        }
    }
}

/// How many bytes of a file have a place so far.
fn placed(content: &FileContent) -> u64 {
    let lengths = content
        .extents
        .iter()
        .map(|extent| u64::from(extent.length));
    lengths.sum()
}

fn resolve(
    path: &RelPath,
    table: &[ChunkId],
    places: &[Place],
) -> Result<Vec<Extent>, EntriesError> {
    let extent = |place: &Place| {
        let chunk = *table.get(place.chunk as usize)?;
        let end = place.offset.checked_add(place.length)?;
        let fits = place.length > 0 && end <= CHUNK_BYTES_MAX;
        fits.then_some(Extent {
            chunk,
            offset: place.offset,
            length: place.length,
        })
    };
    let extents: Option<Vec<Extent>> = places.iter().map(extent).collect();
    extents.ok_or_else(|| EntriesError::Place(path.clone()))
}

/// Why a page of entries is refused.
#[derive(Debug, thiserror::Error)]
pub enum EntriesError {
    /// Not an encoding of a page: a malformed one, or one with a forbidden path.
    #[error("decode a page of entries")]
    Codec(#[from] CodecError),
    /// A symbolic link where none may be.
    #[error(transparent)]
    Path(#[from] PathError),
    /// Out of order, or twice.
    #[error("`{0}` is not after the entry before it")]
    Order(RelPath),
    /// Below a file or a link.
    #[error("`{0}` is below something that is not a directory")]
    BelowNonDirectory(RelPath),
    /// A chunk that is not in the page's table, or a run that is not inside a chunk.
    #[error("`{0}` has bytes in no chunk")]
    Place(RelPath),
    /// More, or fewer, bytes than the file's size.
    #[error("`{path}` has {size} bytes, but {found} are placed")]
    Size {
        /// The file.
        path: RelPath,
        /// Its size.
        size: u64,
        /// The sum of its extents.
        found: u64,
    },
    /// A continuation without a file before it.
    #[error("a continuation without a file before it")]
    MoreOfNothing,
}
