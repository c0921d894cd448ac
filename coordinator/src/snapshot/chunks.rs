//! Chunks on their way to the sink: each is taken once, and encoded where the sink lacks it.

use std::{
    collections::HashMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::SyncSender,
    },
};

use bytes::Bytes;
use scap_proto::{content::EncodedChunk, id::ChunkId};

use super::{
    ChunkSink, Halt, Shared,
    earlier::{EarlierError, Kept, plain},
    error::SnapshotError,
};

/// Sums over chunks, each counted once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ChunkSums {
    /// How many.
    pub chunks: u64,
    /// Their plain bytes.
    pub plain_bytes: u64,
    /// Their encoded bytes, as stored and sent.
    pub encoded_bytes: u64,
}

impl ChunkSums {
    pub(super) fn add(&mut self, plain_length: u32, encoded_length: u32) {
        self.chunks += 1;
        self.plain_bytes += u64::from(plain_length);
        self.encoded_bytes += u64::from(encoded_length);
    }
}

impl std::ops::AddAssign for ChunkSums {
    fn add_assign(&mut self, other: Self) {
        self.chunks += other.chunks;
        self.plain_bytes += other.plain_bytes;
        self.encoded_bytes += other.encoded_bytes;
    }
}

/// A chunk to be encoded and stored.
pub(super) type EncodeJob = (ChunkId, Vec<u8>);

/// The far end of the pipeline, and what all its ends share.
pub(super) struct Encoders<'a> {
    sink: &'a dyn ChunkSink,
    /// Where chunks may be taken over from.
    kept: Option<&'a Kept>,
    /// All chunks that were ever added, with their plain length.
    seen: Mutex<HashMap<ChunkId, u32>>,
    sums: Mutex<Sums>,
    read_bytes: AtomicU64,
    is_stopped: AtomicBool,
    failure: Mutex<Option<SnapshotError>>,
}

#[derive(Default)]
struct Sums {
    all: ChunkSums,
    new: ChunkSums,
}

impl<'a> Encoders<'a> {
    pub(super) fn new(sink: &'a dyn ChunkSink, kept: Option<&'a Kept>) -> Self {
        Self {
            sink,
            kept,
            seen: Mutex::default(),
            sums: Mutex::default(),
            read_bytes: AtomicU64::new(0),
            is_stopped: AtomicBool::new(false),
            failure: Mutex::default(),
        }
    }

    /// One encoder: works until there are no more jobs, or until the build has failed.
    pub(super) fn run(&self, jobs: &Shared<EncodeJob>) {
        while let Some((id, plain)) = jobs.take() {
            if self.is_stopped.load(Ordering::Relaxed) {
                return;
            }
            if let Err(error) = self.store(id, &plain) {
                lock(&self.failure).get_or_insert(error);
                self.stop();
                return;
            }
        }
    }

    /// Ends the work early: what is added from now on may be refused.
    pub(super) fn stop(&self) {
        self.is_stopped.store(true, Ordering::Relaxed);
    }

    /// Why an encoder failed, if one did. Taken once.
    pub(super) fn failure(&self) -> Option<SnapshotError> {
        lock(&self.failure).take()
    }

    /// Sums over all chunks so far, and over those that the sink did not have.
    pub(super) fn sums(&self) -> (ChunkSums, ChunkSums) {
        let sums = lock(&self.sums);
        (sums.all, sums.new)
    }

    /// Bytes of files read so far.
    pub(super) fn read_bytes(&self) -> u64 {
        self.read_bytes.load(Ordering::Relaxed)
    }

    fn store(&self, id: ChunkId, plain: &[u8]) -> Result<(), SnapshotError> {
        let plain_length = u32::try_from(plain.len()).expect("a chunk is at most CHUNK_BYTES_MAX");
        if let Some(encoded_length) = self.sink.encoded_length(&id) {
            lock(&self.sums).all.add(plain_length, encoded_length);
            return Ok(());
        }
        let chunk = EncodedChunk::with_id(id, plain);
        self.sink.put(&chunk).map_err(SnapshotError::Store)?;
        let encoded_length = u32::try_from(chunk.bytes().len())
            .expect("an encoded chunk is at most ENCODED_CHUNK_BYTES_MAX");
        let mut sums = lock(&self.sums);
        sums.all.add(plain_length, encoded_length);
        sums.new.add(plain_length, encoded_length);
        Ok(())
    }
}

/// The near end: takes chunks from readers and from the assembly.
#[derive(Clone)]
pub(super) struct Chunks<'a> {
    encoders: &'a Encoders<'a>,
    queue: SyncSender<EncodeJob>,
}

impl<'a> Chunks<'a> {
    pub(super) fn new(encoders: &'a Encoders<'a>, queue: SyncSender<EncodeJob>) -> Self {
        Self { encoders, queue }
    }

    /// Takes a chunk, waiting while encoders are busy.
    pub(super) fn add(&self, plain: Vec<u8>) -> Result<ChunkId, Halt> {
        if self.encoders.is_stopped.load(Ordering::Relaxed) {
            return Err(Halt::Stopped);
        }
        let id = ChunkId::of(&plain);
        let length = u32::try_from(plain.len()).expect("a chunk is at most CHUNK_BYTES_MAX");
        let is_first = lock(&self.encoders.seen).insert(id, length).is_none();
        if is_first {
            // It fails only where all encoders have ended, which they do early only when stopped.
            self.queue.send((id, plain)).map_err(|_| Halt::Stopped)?;
        }
        Ok(id)
    }

    /// Takes a chunk over from the earlier snapshot: the sink has it.
    pub(super) fn take_over(&self, id: &ChunkId) -> Result<(), Halt> {
        let lost = || EarlierError::Lost(*id);
        let plain_length = self.kept_length(id).ok_or_else(lost)?;
        let is_first = lock(&self.encoders.seen)
            .insert(*id, plain_length)
            .is_none();
        if is_first {
            let encoded_length = self.encoders.sink.encoded_length(id).ok_or_else(lost)?;
            let mut sums = lock(&self.encoders.sums);
            sums.all.add(plain_length, encoded_length);
        }
        Ok(())
    }

    /// The plain length of a chunk of the earlier snapshot.
    pub(super) fn kept_length(&self, id: &ChunkId) -> Option<u32> {
        self.encoders.kept?.plain_length(id)
    }

    /// The plain bytes of a chunk of the earlier snapshot.
    pub(super) fn kept_bytes(&self, id: &ChunkId) -> Result<Bytes, Halt> {
        Ok(plain(self.encoders.sink, id)?)
    }

    /// The plain length of a chunk that was added or taken over.
    pub(super) fn plain_length(&self, id: &ChunkId) -> u32 {
        *lock(&self.encoders.seen)
            .get(id)
            .expect("entries refer to chunks that were added")
    }

    pub(super) fn count_read(&self, bytes: u64) {
        self.encoders.read_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn encoders(&self) -> &'a Encoders<'a> {
        self.encoders
    }
}

/// A panic elsewhere ends the build anyway, and no value here is ever half changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
