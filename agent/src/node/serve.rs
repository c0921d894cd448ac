//! Chunks on their way out: answers to requests, and pushes.

use std::{
    cmp,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use super::{
    Shared,
    budget::{PLACE_TIME_MAX, UPLOAD_BYTES_PER_PEER_MAX},
    handles::{Budget, Handles},
    transfer::Transfer,
};
use crate::store::{Lookup, StoreError};
use bytes::Bytes;
use quinn::SendStream;
use scap_proto::{
    content::ChunkRef,
    reason::Reason,
    release::Priority,
    transport::{Link, MESSAGES_PRIORITY, Rate},
    wire::{
        chunk::{ChunkRequest, PushHeader, ReplyHeader},
        close,
    },
};

/// Most bytes of chunks of one priority on their way to all peers at a time: about 8 chunks of the usual length, which the
/// simulator found to spread fastest. Few, so that they finish and multiply; enough for 1 Gbit/s at 12 ms
/// of round trip.
pub const UPLOAD_BYTES_MAX: u32 = 1536 * 1024;

/// Under a cap, how long what is on its way may take: so long that the next is there when one has left, and no longer, as
/// whoever asked waits for it. In milliseconds.
const UPLOAD_MILLIS_MAX: u64 = 500;

/// Most requests that wait for their turn, over all peers; the next one is told that we are busy. Each is
/// some 2 KiB of task and stream.
pub const UPLOAD_QUEUE_MAX: usize = 2048;

/// How long a request waits for its turn before it is told that we are busy: who asks others in the meantime gets it
/// sooner. Well below the 2 s after which a peer takes silence for a fault.
const TURN_WAIT_MAX: Duration = Duration::from_secs(1);

/// Who may send when, and how much was sent.
#[derive(Debug)]
pub(crate) struct Uploads {
    budget: Budget,
    /// For other sites, where a cap is on what goes there: or all would wait for those that wait for the border.
    border_budget: Budget,
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
    /// It got nothing, and that is its own doing.
    Never(Reason),
}

impl Served {
    /// What a peer did that gets nothing.
    pub(crate) fn describe(code: Reason) -> &'static str {
        match code {
            Reason::ReadsNothing => "asks, and does not read what it gets",
            _ => "took several times as much as there is",
        }
    }
}

impl Uploads {
    pub(crate) fn new() -> Self {
        Self {
            budget: Budget::new(UPLOAD_BYTES_MAX),
            border_budget: Budget::new(UPLOAD_BYTES_MAX),
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
        link: &Link,
        handles: &Handles,
        request: ChunkRequest,
        mut stream: SendStream,
    ) -> Option<(Arc<Transfer>, Served)> {
        // We may have ended it just now, and whoever asks may still hear so: nothing of it is held any more.
        let Some(opening) = handles.theirs.get(request.handle) else {
            refuse(handles, &mut stream, ReplyHeader::NotHeld).await;
            return None;
        };
        let transfer = opening.transfer.clone();
        let Some(chunk) = transfer.chunk(request.index) else {
            refuse(handles, &mut stream, ReplyHeader::NotHeld).await;
            return Some((transfer, Served::Not));
        };
        let (length, priority) = (chunk.plain_length, transfer.priority);
        if !opening.may_ask() {
            refuse(handles, &mut stream, ReplyHeader::Busy).await;
            return Some((transfer, Served::Never(Reason::AsksTooMuch)));
        }
        // What it has it gets again where nobody needs the room.
        if opening.was_sent(request.index) && self.is_busy(priority) {
            refuse(handles, &mut stream, ReplyHeader::Busy).await;
            return Some((transfer, Served::Not));
        }
        let Some(waiting) = Waiting::begin(&self.waiting) else {
            let _ = answer(&mut stream, ReplyHeader::Busy, Bytes::new()).await;
            return Some((transfer, Served::Not));
        };
        let cap = cap_towards(shared, link);
        let has_border_cap = link.is_border() && shared.endpoint.caps().border_upload.is_some();
        let budget = match has_border_cap {
            true => &self.border_budget,
            false => &self.budget,
        };
        let turn = async {
            // The peer's own first, so that one that asks much waits for itself and not for others.
            let ours = length.min(UPLOAD_BYTES_PER_PEER_MAX);
            let ours = handles.budget.acquire(priority, ours).await;
            let all = budget.acquire(priority, permits(length, cap)).await;
            (ours, all)
        };
        let turn = tokio::time::timeout(turn_wait_max(length, cap), turn).await;
        drop(waiting);
        let Ok((_ours, place)) = turn else {
            let _ = answer(&mut stream, ReplyHeader::Busy, Bytes::new()).await;
            return Some((transfer, Served::Not));
        };

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
        let _ = stream.set_priority(stream_priority(priority));
        let header = ReplyHeader::Found(length_of(&encoded));
        opening.note_sending(length);
        let sent = {
            let mut sending = pin!(answer(&mut stream, header, encoded.clone()));
            let reading = &handles.reading;
            tokio::select! {
                sent = &mut sending => Some(sent),
                () = reading.takes_nothing_for(place_time_max(length, cap)) => {
                    drop(place);
                    tokio::select! {
                        sent = &mut sending => Some(sent),
                        () = reading.stands_still(length, cap) => None,
                    }
                }
            }
        };
        let Some(sent) = sent else {
            let _ = stream.reset(close::SLOW.into());
            return Some((transfer, Served::Never(Reason::ReadsNothing)));
        };
        match &sent {
            Ok(()) => {
                handles.reading.took();
                opening.note_sent(request.index);
            }
            Err(_) => {
                handles.fruitless();
                opening.note_cancelled(length);
            }
        }
        let served = self.sent(&encoded, &sent);
        Some((transfer, served))
    }

    /// Pushes one chunk, and waits until the peer has the bytes. `handle` is the peer's.
    pub(crate) async fn push(
        &self,
        shared: &Shared,
        link: &Link,
        handles: &Handles,
        (transfer, handle, index): (&Transfer, u32, u32),
    ) -> Served {
        let Some(chunk) = transfer.chunk(index) else {
            return Served::Not;
        };
        let encoded = match encoded(shared, &chunk).await {
            Ok(Lookup::Found(encoded)) => encoded,
            Ok(Lookup::Absent | Lookup::Lost) => return Served::Lost,
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                tracing::error!(chunk = %chunk.id, error, "could not read a stored chunk");
                return Served::Not;
            }
        };
        let Ok(mut stream) = link.open_uni().await else {
            return Served::Not;
        };
        let _ = stream.set_priority(stream_priority(transfer.priority));
        let length = length_of(&encoded);
        let header = PushHeader {
            handle,
            index,
            length,
        };
        let header = header.encode();
        let pushed = tokio::select! {
            pushed = send(&mut stream, &header, encoded.clone()) => pushed,
            () = handles.reading.stands_still(length, cap_towards(shared, link)) => {
                return Served::Never(Reason::ReadsNothing);
            }
        };
        handles.reading.took();
        self.sent(&encoded, &pushed)
    }

    /// Whether others wait, or half of what may be on its way is.
    fn is_busy(&self, priority: Priority) -> bool {
        let is_half_used = self.budget.left(priority) < UPLOAD_BYTES_MAX as usize / 2;
        is_half_used || self.waiting.load(Ordering::Relaxed) > 0
    }

    fn sent(&self, encoded: &Bytes, result: &Result<(), SendError>) -> Served {
        if result.is_err() {
            return Served::Not;
        }
        let length = u64::from(length_of(encoded));
        self.sent_bytes.fetch_add(length, Ordering::Relaxed);
        Served::Sent
    }
}

/// That of a stream of content: what is urgent goes before all other content of its link, and after messages.
fn stream_priority(priority: Priority) -> i32 {
    match priority {
        Priority::Bulk => -1,
        Priority::Normal => 0,
        Priority::Urgent => MESSAGES_PRIORITY - 1,
    }
}

/// The cap on what we send on a link: that on all, or on what crosses the border, whichever is lower.
fn cap_towards(shared: &Shared, link: &Link) -> Option<Rate> {
    let caps = shared.endpoint.caps();
    let border = caps.border_upload.filter(|_| link.is_border());
    caps.upload.into_iter().chain(border).min()
}

/// What a chunk takes of a budget of [`UPLOAD_BYTES_MAX`]: its length, and under a low cap so much more that what is on its
/// way together takes [`UPLOAD_MILLIS_MAX`], or is one chunk.
fn permits(length: u32, cap: Option<Rate>) -> u32 {
    let all = u64::from(UPLOAD_BYTES_MAX);
    let bytes_max = cap.map_or(all, |cap| {
        let in_time = cap.bytes_per_sec() * UPLOAD_MILLIS_MAX / 1000;
        cmp::min(all, in_time)
    });
    let permits = u64::from(length) * all / bytes_max;
    u32::try_from(permits).map_or(UPLOAD_BYTES_MAX, |permits| permits.min(UPLOAD_BYTES_MAX))
}

/// How long a request for a chunk waits for its turn: under a low cap two chunks' time, or the second in a queue would
/// always be turned away.
fn turn_wait_max(length: u32, cap: Option<Rate>) -> Duration {
    let millis = cap.map_or(0, |cap| 2000 * u64::from(length) / cap.bytes_per_sec());
    TURN_WAIT_MAX.max(Duration::from_millis(millis))
}

/// How long a chunk on its way keeps others from theirs, at least: under a low cap four chunks' time, since others are on their way beside it.
fn place_time_max(length: u32, cap: Option<Rate>) -> Duration {
    let millis = cap.map_or(0, |cap| 4000 * u64::from(length) / cap.bytes_per_sec());
    PLACE_TIME_MAX.max(Duration::from_millis(millis))
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

/// The length of an encoded chunk.
fn length_of(encoded: &Bytes) -> u32 {
    u32::try_from(encoded.len()).expect("a chunk is at most 1 MiB and a byte")
}

/// Gives a request no chunk, which counts.
async fn refuse(handles: &Handles, stream: &mut SendStream, header: ReplyHeader) {
    handles.fruitless();
    let _ = answer(stream, header, Bytes::new()).await;
}

async fn answer(
    stream: &mut SendStream,
    header: ReplyHeader,
    body: Bytes,
) -> Result<(), SendError> {
    send(stream, &header.encode(), body).await
}

/// Sends all there is to a stream, and waits until the peer has it or wants no more.
async fn send(stream: &mut SendStream, header: &[u8], body: Bytes) -> Result<(), SendError> {
    let header = Bytes::copy_from_slice(header);
    stream
        .write_all_chunks(&mut [header, body])
        .await
        .map_err(|_| SendError)?;
    stream.finish().map_err(|_| SendError)?;
    match stream.stopped().await {
        Ok(None) => Ok(()),
        Ok(Some(_)) | Err(_) => Err(SendError),
    }
}

/// The peer stopped the stream, or the link is gone; it knows.
struct SendError;

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn under_a_low_cap_fewer_chunks_are_on_their_way_and_at_least_one() {
        let usual = 128 * 1024;
        let at_a_time = |mbit| {
            let cap = Rate::from_mbit(mbit);
            assert_eq!(cap.is_none(), mbit == 0);
            UPLOAD_BYTES_MAX / permits(usual, cap)
        };
        assert_eq!(at_a_time(0), 12);
        assert_eq!(at_a_time(1000), 12);
        // 625,000 bytes in half a second.
        assert_eq!(at_a_time(10), 4);
        assert_eq!(at_a_time(1), 1);
        assert_eq!(permits(1024 * 1024, Rate::from_mbit(1)), UPLOAD_BYTES_MAX);
    }

    #[test]
    fn a_request_waits_a_second_for_its_turn_and_under_a_low_cap_longer() {
        let wait = |mbit| turn_wait_max(128 * 1024, Rate::from_mbit(mbit));
        assert_eq!(wait(0), TURN_WAIT_MAX);
        assert_eq!(wait(100), TURN_WAIT_MAX);
        assert_eq!(wait(1), Duration::from_millis(2097));
    }
}
