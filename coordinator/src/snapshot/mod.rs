//! A commit, or a directory, to a snapshot: its chunks go to a [`ChunkSink`].
//!
//! # How it flows
//! A *lister* names what there is in path order, in batches. *Readers* read batches, hash them and
//! cut large files. The *assembly*, on the caller's thread, takes the batches in their order again,
//! bundles small files and writes the pages. *Encoders* compress what the sink does not have yet.
//! All queues are bounded, so memory does not grow with the content; what grows is about 100 bytes
//! a chunk, and for a directory some 150 bytes and the path a file. The snapshot does not depend on
//! how many threads there are, nor on whether only what changed since an earlier one is read ([`Earlier`]).

mod assembly;
mod chunks;
mod commit;
mod delta;
mod directory;
mod earlier;
mod error;
mod held;
mod listing;
mod sink;

use std::{
    error::Error,
    num::NonZeroUsize,
    path::Path,
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use scap_proto::{
    content::{Descriptor, EncodedChunk, Layout, SnapshotRef},
    id::{ChunkId, GitOid, SnapshotId},
};

use self::{
    assembly::Assembly,
    chunks::{Chunks, Encoders},
    commit::CommitTree,
    directory::Directory,
    earlier::{ChangedTree, EarlierError, Kept},
    held::Held,
    listing::{Listing, Origin},
};
pub use self::{
    chunks::ChunkSums,
    delta::{Delta, build_delta},
    earlier::Earlier,
    error::SnapshotError,
    held::{HeldFile, HeldFiles, read_files},
};
use crate::git::{GitError, Repo};

/// Where chunks go. Called from several threads at once.
pub trait ChunkSink: Sync {
    /// The length of the encoded chunk in bytes, where the sink has it.
    fn encoded_length(&self, id: &ChunkId) -> Option<u32>;

    /// The plain bytes of a chunk, proved to be those that the id names; `None` where the sink does not have it whole.
    ///
    /// # Errors
    /// Why it cannot look; the build goes on without what it has.
    fn plain(&self, id: &ChunkId) -> Result<Option<Bytes>, SinkError>;

    /// Takes a chunk. Making it durable is for the caller, once the snapshot is built.
    ///
    /// # Errors
    /// Why it cannot; the build ends with it.
    fn put(&self, chunk: &EncodedChunk) -> Result<(), SinkError>;
}

/// Why a sink does not take a chunk.
pub type SinkError = Box<dyn Error + Send + Sync>;

/// What a snapshot is made of.
#[derive(Debug, Clone, Copy)]
pub enum Source<'a> {
    /// The tree of a commit; modes are as git reads them.
    Commit {
        /// Where it is.
        repo: &'a Repo,
        /// Its full id.
        commit: &'a GitOid,
    },
    /// All that is in a directory. A file is executable where its owner may execute it.
    Directory(&'a Path),
    /// Files in memory.
    Files(&'a HeldFiles),
}

/// How a snapshot is built; it makes no difference to what comes out.
#[derive(Debug, Clone)]
pub struct Options {
    /// How many readers and how many encoders there are.
    pub threads: NonZeroUsize,
    /// An earlier snapshot: of a commit only what changed since is read. Where it is of no use, which a debug line
    /// tells, all is read; so is a directory.
    pub earlier: Option<Earlier>,
}

impl Default for Options {
    /// As many as the machine runs at once.
    fn default() -> Self {
        Self {
            threads: thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            earlier: None,
        }
    }
}

/// How far a build is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Entries found so far.
    pub listed_entries: u64,
    /// Bytes of files found so far.
    pub listed_bytes: u64,
    /// Whether all are found, so that those two are totals.
    pub is_listed: bool,
    /// Entries that are part of the snapshot already.
    pub done_entries: u64,
    /// Bytes of files read so far.
    pub read_bytes: u64,
    /// Chunks that the sink did not have, so far.
    pub new: ChunkSums,
}

/// A snapshot that is built. All its chunks are in the sink.
#[derive(Debug)]
pub struct Built {
    /// Its name.
    pub snapshot: SnapshotRef,
    /// What it consists of, sums included.
    pub descriptor: Descriptor,
    /// All its chunks by number.
    pub layout: Layout,
    /// Sums over all its chunks: pages and descriptor included, each counted once.
    pub all: ChunkSums,
    /// Sums over those that the sink did not have.
    pub new: ChunkSums,
    /// How many of its entries were not looked at, since an earlier snapshot has them too.
    pub kept_entries: u64,
    /// How long it took.
    pub elapsed: Duration,
}

/// Batches under way at once, for each reader: how far others read ahead while one reads a large
/// file. A batch holds at most 320 KiB of small files.
const BATCHES_PER_THREAD: usize = 16;

/// Builds a snapshot. `progress` is called on this thread: after each batch of files,
/// and ten times a second while a batch takes longer.
///
/// # Errors
/// [`SnapshotError`]. The sink keeps the chunks that it was given; they are found again.
pub fn build(
    source: Source<'_>,
    sink: &dyn ChunkSink,
    options: Options,
    mut progress: impl FnMut(Progress),
) -> Result<Built, SnapshotError> {
    let started = Instant::now();
    let threads = options.threads;
    let built = match (source, options.earlier) {
        (Source::Directory(path), _) => run(&Directory::scan(path)?, sink, None, threads, progress),
        (Source::Files(files), _) => run(&Held(files), sink, None, threads, progress),
        (Source::Commit { repo, commit }, None) => {
            let tree = CommitTree { repo, commit };
            run(&tree, sink, None, threads, progress)
        }
        (Source::Commit { repo, commit }, Some(earlier)) => {
            let tree = CommitTree { repo, commit };
            match run_changes(&tree, &earlier, sink, threads, &mut progress) {
                Err(Halt::Earlier(reason)) => {
                    let reason: &dyn Error = &reason;
                    tracing::debug!(reason, commit = %earlier.commit, "an earlier snapshot is of no use: all is read");
                    run(&tree, sink, None, threads, progress)
                }
                done => done,
            }
        }
    };
    let mut built = built.map_err(|halt| match halt {
        Halt::Failed(error) => error,
        Halt::Earlier(_) => unreachable!("without an earlier snapshot nothing is wrong with it"),
        Halt::Stopped => unreachable!("work stops only with a failure"),
    })?;
    built.elapsed = started.elapsed();
    Ok(built)
}

/// A snapshot that was built before, if the sink still has all its chunks.
///
/// # Errors
/// What it lacks, or what is wrong with it.
pub fn stored(snapshot: SnapshotRef, sink: &dyn ChunkSink) -> Result<Built, StoredError> {
    let started = Instant::now();
    let built = Kept::read(snapshot, sink).and_then(|kept| kept.into_built(snapshot, sink));
    let mut built = built.map_err(|error| StoredError::new(snapshot, error))?;
    built.elapsed = started.elapsed();
    Ok(built)
}

/// Why a snapshot is not there any more.
#[derive(Debug, thiserror::Error)]
#[error("snapshot {snapshot} is not whole in the store")]
pub struct StoredError {
    snapshot: SnapshotId,
    source: Box<dyn Error + Send + Sync>,
}

impl StoredError {
    fn new(snapshot: SnapshotRef, error: EarlierError) -> Self {
        Self {
            snapshot: snapshot.id,
            source: Box::new(error),
        }
    }
}

/// What stops a part of the pipeline.
enum Halt {
    /// Its own failure.
    Failed(SnapshotError),
    /// The earlier snapshot is of no use.
    Earlier(EarlierError),
    /// Another part's failure.
    Stopped,
}

impl From<SnapshotError> for Halt {
    fn from(error: SnapshotError) -> Self {
        Self::Failed(error)
    }
}

impl From<EarlierError> for Halt {
    fn from(error: EarlierError) -> Self {
        Self::Earlier(error)
    }
}

impl From<GitError> for Halt {
    fn from(error: GitError) -> Self {
        Self::Failed(error.into())
    }
}

/// Reads what changed since an earlier snapshot, and takes over the rest.
fn run_changes(
    tree: &CommitTree<'_>,
    earlier: &Earlier,
    sink: &dyn ChunkSink,
    threads: NonZeroUsize,
    progress: impl FnMut(Progress),
) -> Result<Built, Halt> {
    let kept = Kept::read(earlier.snapshot, sink)?;
    let repo = tree.repo;
    let changes = repo
        .changes(&earlier.commit, tree.commit)
        .map_err(EarlierError::from)?;
    if changes.is_empty() {
        return Ok(kept.into_built(earlier.snapshot, sink)?);
    }
    let changed = ChangedTree {
        repo,
        sink,
        kept: &kept,
        changes,
    };
    run(&changed, sink, Some(&kept), threads, progress)
}

fn run<O: Origin>(
    origin: &O,
    sink: &dyn ChunkSink,
    kept: Option<&Kept>,
    threads: NonZeroUsize,
    progress: impl FnMut(Progress),
) -> Result<Built, Halt> {
    let threads = threads.get();
    let encoders = Encoders::new(sink, kept);
    let listing = Listing::default();
    let readers = (0..threads)
        .map(|_| origin.reader())
        .collect::<Result<Vec<_>, _>>()?;
    let result = thread::scope(|scope| {
        // For each encoder one chunk at work and one at hand.
        let (queue, encoder_jobs) = mpsc::sync_channel(threads);
        let encoder_jobs = Shared::new(encoder_jobs);
        for _ in 0..threads {
            let jobs = encoder_jobs.clone();
            let encoders = &encoders;
            scope.spawn(move || encoders.run(&jobs));
        }
        drop(encoder_jobs);
        let chunks = Chunks::new(&encoders, queue);

        let window = BATCHES_PER_THREAD * threads;
        let (jobs, reader_jobs) = mpsc::sync_channel(window);
        let reader_jobs = Shared::new(reader_jobs);
        for reader in readers {
            let (jobs, chunks) = (reader_jobs.clone(), chunks.clone());
            scope.spawn(move || listing::read_batches::<O>(reader, &jobs, &chunks));
        }
        drop(reader_jobs);
        // Its bound is what keeps readers from going further ahead.
        let (replies, in_order) = mpsc::sync_channel(window);
        let listing = &listing;
        scope.spawn(move || listing.run(origin, &jobs, &replies));

        let result = Assembly::new(chunks, listing, progress).run(&in_order);
        if result.is_err() {
            encoders.stop();
        }
        result
    });
    // Encoders end last, so theirs may be the only failure.
    let failure = encoders.failure();
    match (result, failure) {
        (Ok(finished), None) => {
            origin.finish()?;
            Ok(finished.into_built(&encoders))
        }
        (Ok(_) | Err(Halt::Stopped), Some(error)) => Err(error.into()),
        (Err(halt), _) => Err(halt),
    }
}

/// The receiving end of a queue with several takers. It closes when the last of them is gone.
struct Shared<T>(Arc<Mutex<mpsc::Receiver<T>>>);

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Shared<T> {
    fn new(receiver: mpsc::Receiver<T>) -> Self {
        Self(Arc::new(Mutex::new(receiver)))
    }

    /// The next, or `None` where no more will come.
    fn take(&self) -> Option<T> {
        let receiver = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        receiver.recv().ok()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests;
