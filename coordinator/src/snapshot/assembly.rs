//! Entries in order to bundles, pages and the descriptor.

use std::{
    collections::HashSet,
    sync::mpsc::{Receiver, RecvTimeoutError},
    time::Duration,
};

use scap_proto::{
    codec,
    content::{
        ChunkRef, Descriptor, Entry, Extent, FileContent, Layout, Node, SnapshotRef,
        SnapshotWriter,
        chunker::{Bundle, Bundler},
        writer::{LIST_PAGE_CHUNKS_MAX, PageBytes, TooLarge},
    },
    id::ChunkId,
    limits::SNAPSHOT_CHUNKS_MAX,
};

use super::{
    Built, Halt, Progress,
    chunks::{Chunks, Encoders},
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
    writer: SnapshotWriter,
    bundler: Bundler<usize>,
    /// The entries since the open bundle's first file: their places are known when it ends.
    waiting: Vec<Entry>,
    /// The chunks of files, in order of first use.
    content: Vec<ChunkRef>,
    listed: HashSet<ChunkId>,
}

/// What the assembly made. The last of its chunks may still be on their way to the sink.
pub(super) struct Assembled {
    snapshot: SnapshotRef,
    descriptor: Descriptor,
    layout: Layout,
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
            writer: SnapshotWriter::new(),
            bundler: Bundler::new(),
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
            ReadEntry::Whole(entry) if self.waiting.is_empty() => self.write(entry),
            ReadEntry::Whole(entry) => {
                self.waiting.push(entry);
                Ok(())
            }
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
                let index = self.waiting.len();
                self.waiting.push(Entry { path, node });
                match self.bundler.push(index, &hash, &content) {
                    Some(bundle) => self.close(bundle),
                    None => Ok(()),
                }
            }
        }
    }

    /// Ends a bundle: its last file is the last entry that waits.
    fn close(&mut self, bundle: Bundle<usize>) -> Result<(), Halt> {
        let chunk = self.chunks.add(bundle.bytes)?;
        for (index, offset) in bundle.files {
            if let Node::File(file) | Node::Executable(file) = &mut self.waiting[index].node {
                let length = u32::try_from(file.size).expect("a small file fits a chunk");
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
