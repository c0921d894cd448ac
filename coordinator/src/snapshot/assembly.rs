//! Entries in order to bundles, pages and the descriptor.

use std::{
    collections::HashSet,
    sync::mpsc::{Receiver, RecvTimeoutError},
    time::Duration,
};

use bytes::Bytes;
use scap_proto::{
    codec,
    content::{
        ChunkRef, Descriptor, Entry, Extent, FileContent, Layout, Node, SnapshotRef,
        SnapshotWriter,
        chunker::{Bundle, Bundler, LARGE_FILE_BYTES},
        writer::{LIST_PAGE_CHUNKS_MAX, PageBytes, TooLarge},
    },
    id::{ChunkId, ContentHash},
    limits::SNAPSHOT_CHUNKS_MAX,
};

use super::{
    Built, Halt, Progress,
    chunks::{Chunks, Encoders},
    earlier::EarlierError,
    error::SnapshotError,
    listing::{Listing, ReadEntry, Reply},
};

/// How often progress is told while a large file is read.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// Takes entries in path order and writes the snapshot.
pub(super) struct Assembly<'a, P> {
    chunks: Chunks<'a>,
    listing: &'a Listing,
    progress: P,
    done_entries: u64,
    kept_entries: u64,
    writer: SnapshotWriter,
    bundler: Bundler<Bundled>,
    /// The chunk of the earlier snapshot that was read last.
    kept_chunk: Option<(ChunkId, Bytes)>,
    /// The entries since the open bundle's first file: their places are known when it ends.
    waiting: Vec<Entry>,
    /// The chunks of files, in order of first use.
    content: Vec<ChunkRef>,
    listed: HashSet<ChunkId>,
}

/// A file of a bundle.
struct Bundled {
    /// Its place among the entries that wait.
    waiting: usize,
    content: Content,
}

/// Where the bytes of a small file are.
enum Content {
    Read(Vec<u8>),
    /// In a chunk of the earlier snapshot.
    Kept(Extent),
}

/// What the assembly made. The last of its chunks may still be on their way to the sink.
pub(super) struct Assembled {
    snapshot: SnapshotRef,
    descriptor: Descriptor,
    layout: Layout,
    kept_entries: u64,
}

impl Assembled {
    /// With the sums, once the encoders have ended.
    pub(super) fn into_built(self, encoders: &Encoders<'_>) -> Built {
        let (all, new) = encoders.sums();
        Built {
            snapshot: self.snapshot,
            descriptor: self.descriptor,
            layout: self.layout,
            all,
            new,
            kept_entries: self.kept_entries,
            elapsed: Duration::ZERO,
        }
    }
}

impl<'a, P: FnMut(Progress)> Assembly<'a, P> {
    pub(super) fn new(chunks: Chunks<'a>, listing: &'a Listing, progress: P) -> Self {
        Self {
            chunks,
            listing,
            progress,
            done_entries: 0,
            kept_entries: 0,
            writer: SnapshotWriter::new(),
            bundler: Bundler::new(),
            kept_chunk: None,
            waiting: Vec::new(),
            content: Vec::new(),
            listed: HashSet::new(),
        }
    }

    /// Takes all batches, each when it has been read, and ends the snapshot.
    pub(super) fn run(mut self, batches: &Receiver<Receiver<Reply>>) -> Result<Assembled, Halt> {
        while let Ok(reply) = batches.recv() {
            let entries = self.wait_for(&reply)?;
            for entry in entries {
                self.push(entry)?;
            }
            self.tell();
        }
        self.finish()
    }

    fn wait_for(&mut self, reply: &Receiver<Reply>) -> Reply {
        loop {
            match reply.recv_timeout(PROGRESS_INTERVAL) {
                Ok(read) => return read,
                Err(RecvTimeoutError::Timeout) => self.tell(),
                // Its reader ended, with a failure that an earlier batch or an encoder tells of.
                Err(RecvTimeoutError::Disconnected) => return Err(Halt::Stopped),
            }
        }
    }

    fn push(&mut self, entry: ReadEntry) -> Result<(), Halt> {
        self.done_entries += 1;
        match entry {
            ReadEntry::Whole(entry) => self.push_whole(entry),
            ReadEntry::Small {
                path,
                is_executable,
                hash,
                content,
            } => {
                let file = FileContent {
                    size: content.len() as u64,
                    hash,
                    extents: Vec::new(),
                };
                let kind = if is_executable {
                    Node::Executable
                } else {
                    Node::File
                };
                let node = kind(file);
                self.push_small(Entry { path, node }, Content::Read(content))
            }
            ReadEntry::Kept(entry) => {
                self.kept_entries += 1;
                self.push_kept(entry)
            }
        }
    }

    fn push_kept(&mut self, mut entry: Entry) -> Result<(), Halt> {
        if let Node::File(file) | Node::Executable(file) = &mut entry.node {
            if (1..LARGE_FILE_BYTES as u64).contains(&file.size) {
                // The bundle that it is in may be another one now.
                let [extent] = std::mem::take(&mut file.extents)[..] else {
                    return Err(EarlierError::Mismatch(entry.path.as_bytes().into()).into());
                };
                return self.push_small(entry, Content::Kept(extent));
            }
            for extent in &file.extents {
                self.chunks.take_over(&extent.chunk)?;
            }
        }
        self.push_whole(entry)
    }

    /// Takes an entry of which all is known. Those before it are written first.
    fn push_whole(&mut self, entry: Entry) -> Result<(), Halt> {
        if self.waiting.is_empty() {
            return self.write(entry);
        }
        self.waiting.push(entry);
        Ok(())
    }

    /// Takes a file for a bundle; its place is not known yet.
    fn push_small(&mut self, entry: Entry, content: Content) -> Result<(), Halt> {
        let file = entry.node.content().expect("it is a file");
        let (hash, length) = (file.hash, length_of(file));
        let bundled = Bundled {
            waiting: self.waiting.len(),
            content,
        };
        self.waiting.push(entry);
        match self.bundler.push(bundled, &hash, length) {
            Some(bundle) => self.close(bundle),
            None => Ok(()),
        }
    }

    /// Ends a bundle: its last file is the last entry that waits.
    fn close(&mut self, bundle: Bundle<Bundled>) -> Result<(), Halt> {
        let chunk = match self.kept_whole(&bundle) {
            Some(chunk) => {
                self.chunks.take_over(&chunk)?;
                chunk
            }
            None => {
                let bytes = self.bytes_of(&bundle)?;
                self.chunks.add(bytes)?
            }
        };
        for (bundled, offset) in bundle.files {
            let node = &mut self.waiting[bundled.waiting].node;
            if let Node::File(file) | Node::Executable(file) = node {
                let length = length_of(file);
                file.extents.push(Extent {
                    chunk,
                    offset,
                    length,
                });
            }
        }
        std::mem::take(&mut self.waiting)
            .into_iter()
            .try_for_each(|entry| self.write(entry))
    }

    /// The chunk of the earlier snapshot that has these files in this order, and nothing else.
    fn kept_whole(&self, bundle: &Bundle<Bundled>) -> Option<ChunkId> {
        let chunk = |(bundled, start): &(Bundled, u32)| match bundled.content {
            Content::Kept(extent) if extent.offset == *start => Some(extent.chunk),
            _ => None,
        };
        let first = chunk(bundle.files.first()?)?;
        let is_whole = self.chunks.kept_length(&first) == Some(bundle.length)
            && bundle.files.iter().all(|file| chunk(file) == Some(first));
        is_whole.then_some(first)
    }

    fn bytes_of(&mut self, bundle: &Bundle<Bundled>) -> Result<Vec<u8>, Halt> {
        let mut bytes = Vec::with_capacity(bundle.length as usize);
        for (bundled, _) in &bundle.files {
            match &bundled.content {
                Content::Read(content) => bytes.extend_from_slice(content),
                Content::Kept(extent) => {
                    let chunk = self.kept_chunk(&extent.chunk)?;
                    let start = extent.offset as usize;
                    let content = chunk.get(start..start + extent.length as usize);
                    let entry = &self.waiting[bundled.waiting];
                    let file = entry.node.content().expect("it is a file");
                    // It is read, so it may as well be proved.
                    let content = content.filter(|content| ContentHash::of(content) == file.hash);
                    bytes.extend_from_slice(
                        content
                            .ok_or_else(|| EarlierError::Mismatch(entry.path.as_bytes().into()))?,
                    );
                }
            }
        }
        Ok(bytes)
    }

    /// The bytes of a chunk of the earlier snapshot. Files that come one after the other are mostly in the same.
    fn kept_chunk(&mut self, id: &ChunkId) -> Result<Bytes, Halt> {
        match &self.kept_chunk {
            Some((last, bytes)) if last == id => Ok(bytes.clone()),
            _ => {
                let bytes = self.chunks.kept_bytes(id)?;
                self.kept_chunk = Some((*id, bytes.clone()));
                Ok(bytes)
            }
        }
    }

    fn write(&mut self, entry: Entry) -> Result<(), Halt> {
        let extents = entry.node.content().map(|file| file.extents.as_slice());
        for extent in extents.unwrap_or_default() {
            if self.listed.insert(extent.chunk) {
                self.content.push(ChunkRef {
                    id: extent.chunk,
                    plain_length: self.chunks.plain_length(&extent.chunk),
                });
            }
        }
        let pages = self
            .writer
            .push(entry, |chunk| self.chunks.plain_length(chunk));
        self.keep(pages)
    }

    fn keep(&self, pages: Vec<PageBytes>) -> Result<(), Halt> {
        pages
            .into_iter()
            .try_for_each(|page| self.chunks.add(page).map(|_| ()))
    }

    fn finish(mut self) -> Result<Assembled, Halt> {
        if let Some(bundle) = self.bundler.finish() {
            self.close(bundle)?;
        }
        let finished = std::mem::take(&mut self.writer)
            .finish()
            .map_err(SnapshotError::from)?;
        self.keep(finished.pages)?;
        let descriptor = finished.descriptor;
        let mut layout = Layout::new(finished.snapshot);
        layout.add_descriptor(&descriptor);
        if layout
            .total()
            .is_none_or(|total| total > SNAPSHOT_CHUNKS_MAX)
        {
            return Err(SnapshotError::from(TooLarge(descriptor.totals)).into());
        }
        let pages: Vec<Vec<u8>> = self
            .content
            .chunks(LIST_PAGE_CHUNKS_MAX)
            .map(|page| codec::encode(&page))
            .collect();
        layout
            .add_chunk_list(pages.iter().map(Vec::as_slice))
            .expect("the writer lists the same chunks");
        self.tell();
        Ok(Assembled {
            snapshot: finished.snapshot,
            descriptor,
            layout,
            kept_entries: self.kept_entries,
        })
    }

    fn tell(&mut self) {
        let (listed_entries, listed_bytes, is_listed) = self.listing.sums();
        let encoders = self.chunks.encoders();
        (self.progress)(Progress {
            listed_entries,
            listed_bytes,
            is_listed,
            done_entries: self.done_entries,
            read_bytes: encoders.read_bytes(),
            new: encoders.sums().1,
        });
    }
}

/// The length of a file that goes into a bundle.
fn length_of(file: &FileContent) -> u32 {
    u32::try_from(file.size).expect("a small file fits a chunk")
}
