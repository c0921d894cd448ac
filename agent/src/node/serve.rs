//! Answers to requests for chunks.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use quinn::SendStream;
use scap_proto::{
    content::ChunkRef,
    wire::{
        chunk::{ChunkRequest, ReplyHeader},
        close,
    },
};
use tokio::sync::Semaphore;

use super::{Shared, transfer::Transfer};
use crate::store::{Lookup, StoreError};

/// Most bytes of chunks on their way to all peers at a time: about 8 chunks of the usual length, which the
/// simulator found to spread fastest. Few, so that they finish and multiply; enough for 1 Gbit/s at 12 ms
/// of round trip.
pub const UPLOAD_BYTES_MAX: u32 = 1536 * 1024;

/// Most of them to one peer, so that no peer takes all the room.
pub const UPLOAD_BYTES_PER_PEER_MAX: u32 = UPLOAD_BYTES_MAX / 2;

/// Most requests that wait for their turn, over all peers; the next one is told that we are busy. Each is
/// some 2 KiB of task and stream.
pub const UPLOAD_QUEUE_MAX: usize = 2048;

/// What a peer may ask on its link: which releases it has opened, by its handles, and how much at a time.
#[derive(Debug)]
pub(crate) struct Handles {
    opened: Mutex<HashMap<u32, Arc<Transfer>>>,
    budget: Semaphore,
}

impl Handles {
    pub(crate) fn new() -> Self {
        Self {
            opened: Mutex::default(),
            budget: Semaphore::new(UPLOAD_BYTES_PER_PEER_MAX as usize),
        }
    }

    pub(crate) fn insert(&self, handle: u32, transfer: Arc<Transfer>) {
        self.lock().insert(handle, transfer);
    }

    pub(crate) fn remove(&self, handle: u32) {
        self.lock().remove(&handle);
    }

    fn get(&self, handle: u32) -> Option<Arc<Transfer>> {
        self.lock().get(&handle).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u32, Arc<Transfer>>> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who may send when, and how much was sent.
#[derive(Debug)]
pub(crate) struct Uploads {
    budget: Semaphore,
    waiting: AtomicUsize,
    sent_bytes: AtomicU64,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Served {
    /// The peer has all of the chunk.
    Sent,
    /// It was told that we do not have it, though we should: the stored chunk is lost.
    Lost,
    /// It got nothing, or did not wait for all.
    Not,
}

impl Uploads {
    pub(crate) fn new() -> Self {
        Self {
            budget: Semaphore::new(UPLOAD_BYTES_MAX as usize),
            waiting: AtomicUsize::new(0),
            sent_bytes: AtomicU64::new(0),
        }
    }

    /// Encoded bytes of chunks sent since the start.
    pub(crate) fn sent_bytes(&self) -> u64 {
        self.sent_bytes.load(Ordering::Relaxed)
    }

    /// Answers one request, when it is its turn, and waits until the peer has the bytes. Cancel-safe: the
    /// stream is reset.
    pub(crate) async fn serve(
        &self,
        shared: &Shared,
        handles: &Handles,
        request: ChunkRequest,
        mut stream: SendStream,
    ) -> Option<(Arc<Transfer>, Served)> {
        let Some(transfer) = handles.get(request.handle) else {
            let _ = stream.reset(close::PROTOCOL.into());
            return None;
        };
        let Some(chunk) = transfer.chunk(request.index) else {
            let _ = answer(&mut stream, ReplyHeader::NotHeld, Bytes::new()).await;
            return Some((transfer, Served::Not));
        };
        let Some(waiting) = Waiting::begin(&self.waiting) else {
            let _ = answer(&mut stream, ReplyHeader::Busy, Bytes::new()).await;
            return Some((transfer, Served::Not));
        };
        // The peer's own first, so that one that asks much waits for itself and not for others.
        let length = chunk.plain_length;
        let ours = handles
            .budget
            .acquire_many(length.min(UPLOAD_BYTES_PER_PEER_MAX))
            .await;
        let turn = self.budget.acquire_many(length.min(UPLOAD_BYTES_MAX)).await;
        drop(waiting);
        let _turns = (ours.expect("never closed"), turn.expect("never closed"));

        let encoded = match encoded(shared, &chunk).await {
            Ok(Lookup::Found(encoded)) => encoded,
            // It asks for what we did not say we have.
            Ok(Lookup::Absent) => {
                let _ = answer(&mut stream, ReplyHeader::NotHeld, Bytes::new()).await;
                return Some((transfer, Served::Not));
            }
            Ok(Lookup::Lost) => {
                let _ = answer(&mut stream, ReplyHeader::NotHeld, Bytes::new()).await;
                return Some((transfer, Served::Lost));
            }
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                tracing::error!(chunk = %chunk.id, error, "could not read a stored chunk");
                let _ = stream.reset(close::INTERNAL.into());
                return Some((transfer, Served::Not));
            }
        };
        let length = u32::try_from(encoded.len()).expect("a chunk is at most 1 MiB and a byte");
        let sent = answer(&mut stream, ReplyHeader::Found(length), encoded).await;
        let served = if sent.is_ok() {
            self.sent_bytes.fetch_add(length.into(), Ordering::Relaxed);
            Served::Sent
        } else {
            Served::Not
        };
        Some((transfer, served))
    }
}

/// The encoded bytes of a chunk that should be held.
async fn encoded(shared: &Shared, chunk: &ChunkRef) -> Result<Lookup<Bytes>, StoreError> {
    if let Some(encoded) = shared.recent.get(&chunk.id) {
        return Ok(Lookup::Found(encoded));
    }
    let (store, id) = (shared.store.clone(), chunk.id);
    let read = tokio::task::spawn_blocking(move || store.get(&id)).await;
    let found = read.expect("reading a chunk does not panic")?;
    Ok(found.map(|chunk| chunk.encoded().clone()))
}

/// A request's place in the queue, given up when dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    /// Takes a place, unless all [`UPLOAD_QUEUE_MAX`] are taken.
    fn begin(count: &'a AtomicUsize) -> Option<Self> {
        let place = Self(count);
        (count.fetch_add(1, Ordering::Relaxed) < UPLOAD_QUEUE_MAX).then_some(place)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Sends an answer and waits until the peer has it or wants no more.
async fn answer(
    stream: &mut SendStream,
    header: ReplyHeader,
    body: Bytes,
) -> Result<(), AnswerError> {
    let header = Bytes::copy_from_slice(&header.encode());
    stream
        .write_all_chunks(&mut [header, body])
        .await
        .map_err(|_| AnswerError)?;
    stream.finish().map_err(|_| AnswerError)?;
    match stream.stopped().await {
        Ok(None) => Ok(()),
        Ok(Some(_)) | Err(_) => Err(AnswerError),
    }
}

/// The peer stopped the stream, or the link is gone; it knows.
struct AnswerError;
