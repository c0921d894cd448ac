//! What there is, in path order and in batches; and how batches are read.

use std::{
    io::Read,
    sync::{
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
};

use scap_proto::{
    content::{
        Entry, Extent, FileContent, Node, RelPath, SymlinkTarget,
        chunker::{BUNDLE_BYTES_MAX, LARGE_FILE_BYTES, LargeFile},
    },
    id::{ContentHash, GitOid},
    limits::SYMLINK_BYTES_MAX,
};

use super::{Halt, Shared, chunks::Chunks, error::SnapshotError};
use crate::git::REQUESTS_AHEAD_MAX;

/// A tree that can be listed and read.
pub(super) trait Origin: Sync {
    /// What finds the bytes of one file.
    type Locator: Send;
    /// What reads them.
    type Reader: Reader<Self::Locator>;

    /// All entries, in the order of their paths' bytes.
    fn list(
        &self,
    ) -> Result<impl Iterator<Item = Result<Listed<Self::Locator>, Halt>>, SnapshotError>;

    /// A reader, for a thread of its own.
    fn reader(&self) -> Result<Self::Reader, SnapshotError>;

    /// Whether the tree is still what was listed, after all was read.
    fn finish(&self) -> Result<(), SnapshotError>;
}

/// Reads files of a tree. After an error it is of no further use.
pub(super) trait Reader<L>: Send {
    /// Gives `each` the index and the bytes of each of `wanted`, in order.
    fn read(
        &mut self,
        wanted: &[Wanted<'_, L>],
        each: impl FnMut(usize, &mut dyn Read) -> Result<(), Halt>,
    ) -> Result<(), Halt>;
}

/// One entry before it was read.
#[derive(Debug, Clone)]
pub(super) struct Listed<L> {
    pub(super) path: RelPath,
    pub(super) kind: Kind<L>,
}

#[derive(Debug, Clone)]
pub(super) enum Kind<L> {
    /// A file or a link: it has bytes to read.
    Content {
        form: Form,
        size: u64,
        locator: L,
    },
    EmptyDirectory,
    Gitlink(GitOid),
    /// What it was in an earlier snapshot.
    Kept(Node),
}

impl<L> Kind<L> {
    fn is_link(&self) -> bool {
        match self {
            Self::Content { form, .. } => *form == Form::Symlink,
            Self::Kept(node) => matches!(node, Node::Symlink(_)),
            Self::EmptyDirectory | Self::Gitlink(_) => false,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    File,
    Executable,
    Symlink,
}

/// An entry whose bytes are to be read.
pub(super) struct Wanted<'a, L> {
    pub(super) path: &'a RelPath,
    pub(super) form: Form,
    pub(super) size: u64,
    pub(super) locator: &'a L,
}

/// One entry after it was read.
pub(super) enum ReadEntry {
    /// All is known of it.
    Whole(Entry),
    /// A file of 1 to [`LARGE_FILE_BYTES`] - 1 bytes, which goes into a bundle.
    Small {
        path: RelPath,
        is_executable: bool,
        hash: ContentHash,
        content: Vec<u8>,
    },
    /// As it was in an earlier snapshot, whose chunks it names.
    Kept(Entry),
}

/// Most entries in one batch, where few of them are to be read: handing them on costs little each, and a batch of them
/// is some 256 KiB.
const BATCH_ENTRIES_MAX: usize = 1024;
const _: () = assert!(BATCH_ENTRIES_MAX >= REQUESTS_AHEAD_MAX);

type Batch<L> = Vec<Listed<L>>;
pub(super) type Reply = Result<Vec<ReadEntry>, Halt>;
/// A batch, and where its reply goes.
pub(super) type ReadJob<L> = (Batch<L>, SyncSender<Reply>);

/// What was listed so far.
#[derive(Debug, Default)]
pub(super) struct Listing {
    entries: AtomicU64,
    bytes: AtomicU64,
    is_done: AtomicBool,
}

impl Listing {
    /// Entries and bytes so far, and whether that is all.
    pub(super) fn sums(&self) -> (u64, u64, bool) {
        // Read first: once it is set, the sums are final.
        let is_done = self.is_done.load(Ordering::Acquire);
        let sum = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (sum(&self.entries), sum(&self.bytes), is_done)
    }

    /// Lists `origin`. The replies to the `jobs` are in `replies` in path order; so is an error.
    pub(super) fn run<O: Origin>(
        &self,
        origin: &O,
        jobs: &SyncSender<ReadJob<O::Locator>>,
        replies: &SyncSender<Receiver<Reply>>,
    ) {
        let listed = self.list(origin, |batch| {
            let (reply, receiver) = sync_channel(1);
            // Either fails only where the build is over already.
            let sent = replies.send(receiver).is_ok() && jobs.send((batch, reply)).is_ok();
            if sent { Ok(()) } else { Err(Halt::Stopped) }
        });
        match listed {
            Ok(()) => self.is_done.store(true, Ordering::Release),
            Err(halt) => {
                let (reply, receiver) = sync_channel(1);
                reply.send(Err(halt)).expect("a channel of one is empty");
                // Nobody listens where the build is over already.
                let _ = replies.send(receiver);
            }
        }
    }

    fn list<O: Origin>(
        &self,
        origin: &O,
        mut send: impl FnMut(Batch<O::Locator>) -> Result<(), Halt>,
    ) -> Result<(), Halt> {
        let mut order = PathOrder::default();
        let mut batch = Batch::new();
        let (mut wanted, mut wanted_bytes) = (0, 0);
        for listed in origin.list()? {
            let listed = listed?;
            order.admit(&listed.path)?;
            if listed.kind.is_link() {
                listed.path.check_link().map_err(SnapshotError::from)?;
            }
            self.entries.fetch_add(1, Ordering::Relaxed);
            let file_bytes = match &listed.kind {
                Kind::Content { size, form, .. } => {
                    wanted += 1;
                    wanted_bytes += size;
                    if *form == Form::Symlink { 0 } else { *size }
                }
                Kind::Kept(node) => node.content().map_or(0, |file| file.size),
                Kind::EmptyDirectory | Kind::Gitlink(_) => 0,
            };
            self.bytes.fetch_add(file_bytes, Ordering::Relaxed);
            batch.push(listed);
            if wanted >= REQUESTS_AHEAD_MAX
                || wanted_bytes >= BUNDLE_BYTES_MAX as u64
                || batch.len() >= BATCH_ENTRIES_MAX
            {
                (wanted, wanted_bytes) = (0, 0);
                send(std::mem::take(&mut batch))?;
            }
        }
        if batch.is_empty() {
            Ok(())
        } else {
            send(batch)
        }
    }
}

/// Checks that paths rise, and that none is below one that came before.
#[derive(Default)]
struct PathOrder {
    /// Those before that are prefixes of the last, which is the last of them.
    prefixes: Vec<RelPath>,
}

impl PathOrder {
    fn admit(&mut self, path: &RelPath) -> Result<(), SnapshotError> {
        if self.prefixes.last().is_some_and(|last| last >= path) {
            return Err(SnapshotError::Order(path.clone()));
        }
        // In byte order, all that lies between `a` and `a/b` starts with `a`.
        self.prefixes
            .retain(|prefix| path.as_bytes().starts_with(prefix.as_bytes()));
        if self
            .prefixes
            .iter()
            .any(|prefix| prefix.is_ancestor_of(path))
        {
            return Err(SnapshotError::BelowNonDirectory(path.clone()));
        }
        self.prefixes.push(path.clone());
        Ok(())
    }
}

/// Reads batches until there are no more, or until nobody wants them.
pub(super) fn read_batches<O: Origin>(
    mut reader: O::Reader,
    jobs: &Shared<ReadJob<O::Locator>>,
    chunks: &Chunks<'_>,
) {
    while let Some((batch, reply)) = jobs.take() {
        let read = read_batch(&mut reader, batch, chunks);
        let is_over = read.is_err();
        if reply.send(read).is_err() || is_over {
            return;
        }
    }
}

fn read_batch<L>(reader: &mut impl Reader<L>, batch: Batch<L>, chunks: &Chunks<'_>) -> Reply {
    let wanted: Vec<Wanted<'_, L>> = batch
        .iter()
        .filter_map(|listed| match &listed.kind {
            Kind::Content {
                form,
                size,
                locator,
            } => Some(Wanted {
                path: &listed.path,
                form: *form,
                size: *size,
                locator,
            }),
            _ => None,
        })
        .collect();
    let mut contents = Vec::with_capacity(wanted.len());
    reader.read(&wanted, |index, source| {
        contents.push(read_entry(&wanted[index], source, chunks)?);
        Ok(())
    })?;
    drop(wanted);
    let mut contents = contents.into_iter();
    let entries = batch.into_iter().map(|listed| {
        let node = match listed.kind {
            Kind::Content { .. } => return contents.next().expect("each wanted entry was read"),
            Kind::EmptyDirectory => Node::EmptyDirectory,
            Kind::Gitlink(commit) => Node::Gitlink(commit),
            Kind::Kept(node) => {
                let path = listed.path;
                return ReadEntry::Kept(Entry { path, node });
            }
        };
        ReadEntry::Whole(Entry {
            path: listed.path,
            node,
        })
    });
    Ok(entries.collect())
}

fn read_entry<L>(
    wanted: &Wanted<'_, L>,
    source: &mut dyn Read,
    chunks: &Chunks<'_>,
) -> Result<ReadEntry, Halt> {
    let path = wanted.path.clone();
    let is_executable = wanted.form == Form::Executable;
    let whole = |content| {
        let kind = if is_executable {
            Node::Executable
        } else {
            Node::File
        };
        ReadEntry::Whole(Entry {
            path: path.clone(),
            node: kind(content),
        })
    };
    if wanted.form == Form::Symlink {
        // One byte more than a target may have, so that a longer one is refused.
        let target = read_small(wanted, source, SYMLINK_BYTES_MAX as u64 + 1)?;
        let node = SymlinkTarget::new(target)
            .map(Node::Symlink)
            .ok_or_else(|| SnapshotError::SymlinkTarget(path.clone()))?;
        return Ok(ReadEntry::Whole(Entry { path, node }));
    }
    if wanted.size >= LARGE_FILE_BYTES as u64 {
        return read_large(wanted, source, chunks).map(whole);
    }
    let content = read_small(wanted, source, wanted.size + 1)?;
    check_size(wanted, content.len() as u64)?;
    chunks.count_read(wanted.size);
    if content.is_empty() {
        return Ok(whole(FileContent::empty()));
    }
    Ok(ReadEntry::Small {
        path,
        is_executable,
        hash: ContentHash::of(&content),
        content,
    })
}

fn read_small<L>(
    wanted: &Wanted<'_, L>,
    source: &mut dyn Read,
    bytes_max: u64,
) -> Result<Vec<u8>, SnapshotError> {
    let mut content = Vec::new();
    source
        .take(bytes_max)
        .read_to_end(&mut content)
        .map_err(|source| SnapshotError::Read {
            path: wanted.path.to_string(),
            source,
        })?;
    Ok(content)
}

fn read_large<L>(
    wanted: &Wanted<'_, L>,
    source: &mut dyn Read,
    chunks: &Chunks<'_>,
) -> Result<FileContent, Halt> {
    let mut hasher = blake3::Hasher::new();
    let mut extents = Vec::new();
    let mut size = 0;
    for chunk in LargeFile::new(source) {
        let chunk = chunk.map_err(|source| SnapshotError::Read {
            path: wanted.path.to_string(),
            source,
        })?;
        hasher.update(&chunk);
        let length = u32::try_from(chunk.len()).expect("a chunk is at most CHUNK_BYTES_MAX");
        size += u64::from(length);
        chunks.count_read(u64::from(length));
        extents.push(Extent {
            chunk: chunks.add(chunk)?,
            offset: 0,
            length,
        });
    }
    check_size(wanted, size)?;
    Ok(FileContent {
        size,
        hash: ContentHash::from_bytes(*hasher.finalize().as_bytes()),
        extents,
    })
}

/// The size decides how a file is cut, so it must be what was listed.
fn check_size<L>(wanted: &Wanted<'_, L>, found: u64) -> Result<(), SnapshotError> {
    if found == wanted.size {
        Ok(())
    } else {
        Err(SnapshotError::Changed(wanted.path.to_string()))
    }
}
