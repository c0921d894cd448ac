//! What a peer and we may send each other on a link, by the handles that either side gave.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use scap_proto::{release::Priority, transport::Rate};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::{
    budget::{
        Bucket, CAP_MBIT_HARMLESS, FRAME_BYTES_PER_LINK_MAX, FRUITLESS_REQUEST, MESSAGES,
        READ_BYTES_PER_SEC_MIN, READ_PAUSE_MAX, REQUESTS, ROUNDS_BYTES_MIN, ROUNDS_MAX,
        UPLOAD_BYTES_PER_PEER_MAX,
    },
    transfer::Transfer,
};
use crate::swarm::Bitmap;

/// A release that one side of a link opened.
#[derive(Debug)]
pub(crate) struct Opening {
    pub(crate) transfer: Arc<Transfer>,
    /// What it was sent, also of the same again.
    sent_bytes: AtomicU64,
    /// Chunks that the peer has whole from us: a bit each, up to the last of them.
    sent: Mutex<Bitmap>,
}

impl Opening {
    fn new(transfer: Arc<Transfer>) -> Self {
        Self {
            transfer,
            sent_bytes: AtomicU64::new(0),
            sent: Mutex::default(),
        }
    }

    /// Whether it was sent no more than anybody needs.
    pub(crate) fn may_ask(&self) -> bool {
        let bytes = self.sent_bytes.load(Ordering::Relaxed);
        bytes <= ROUNDS_BYTES_MIN || bytes <= ROUNDS_MAX * self.transfer.plain_bytes()
    }

    /// A chunk of so many bytes is sent to it.
    pub(crate) fn note_sending(&self, bytes: u32) {
        self.sent_bytes.fetch_add(bytes.into(), Ordering::Relaxed);
    }

    /// It did not wait for all of it: a quarter counts, since an honest peer does so where it was too slow, and a leech for the last byte.
    pub(crate) fn note_cancelled(&self, bytes: u32) {
        let rest = u64::from(bytes - bytes / 4);
        self.sent_bytes.fetch_sub(rest, Ordering::Relaxed);
    }

    pub(crate) fn was_sent(&self, index: u32) -> bool {
        self.lock().contains(index)
    }

    pub(crate) fn note_sent(&self, index: u32) {
        self.lock().insert(index);
    }

    fn lock(&self) -> MutexGuard<'_, Bitmap> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Releases by the handles that one side of a link gave them.
#[derive(Debug, Default)]
pub(crate) struct Opened(Mutex<HashMap<u32, Arc<Opening>>>);

impl Opened {
    pub(crate) fn insert(&self, handle: u32, transfer: Arc<Transfer>) {
        self.lock().insert(handle, Arc::new(Opening::new(transfer)));
    }

    pub(crate) fn remove(&self, handle: u32) {
        self.lock().remove(&handle);
    }

    pub(crate) fn get(&self, handle: u32) -> Option<Arc<Opening>> {
        self.lock().get(&handle).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u32, Arc<Opening>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a peer and we may send each other on a link, and what it may take of us.
#[derive(Debug)]
pub(crate) struct Handles {
    /// What it opened with us, and may ask for.
    pub(crate) theirs: Opened,
    /// What we opened with it and said to follow: it may push.
    pub(crate) followed: Opened,
    /// How much it may have asked for at a time.
    pub(crate) budget: Budget,
    pub(crate) requests: Bucket,
    pub(crate) messages: Bucket,
    /// A permit for each byte of a frame that has not come whole.
    pub(crate) frames: Arc<Semaphore>,
    pub(crate) reading: Reading,
}

impl Handles {
    pub(crate) fn new() -> Self {
        let now = Instant::now();
        Self {
            theirs: Opened::default(),
            followed: Opened::default(),
            budget: Budget::new(UPLOAD_BYTES_PER_PEER_MAX),
            requests: Bucket::new(REQUESTS, now),
            messages: Bucket::new(MESSAGES, now),
            frames: Arc::new(Semaphore::new(FRAME_BYTES_PER_LINK_MAX)),
            reading: Reading::new(),
        }
    }

    /// A request got no chunk.
    pub(crate) fn fruitless(&self) {
        self.requests.charge(FRUITLESS_REQUEST - 1, Instant::now());
    }
}

/// How many bytes may be on their way, of each priority: what is urgent does not wait until what is not has left.
#[derive(Debug)]
pub(crate) struct Budget([Semaphore; Priority::ALL.len()]);

impl Budget {
    pub(crate) fn new(bytes: u32) -> Self {
        Self(Priority::ALL.map(|_| Semaphore::new(bytes as usize)))
    }

    pub(crate) async fn acquire(&self, priority: Priority, bytes: u32) -> SemaphorePermit<'_> {
        let permit = self.0[priority.index()].acquire_many(bytes).await;
        permit.expect("never closed")
    }

    /// Bytes that may be sent now.
    pub(crate) fn left(&self, priority: Priority) -> usize {
        self.0[priority.index()].available_permits()
    }
}

/// Whether a peer reads what it asked for: when it last took something whole.
#[derive(Debug)]
pub(crate) struct Reading(Mutex<Instant>);

impl Reading {
    fn new() -> Self {
        Self(Mutex::new(Instant::now()))
    }

    /// It took all of something.
    pub(crate) fn took(&self) {
        *self.lock() = Instant::now();
    }

    /// Waits until so many bytes should long have been taken, by one that takes one thing after the other, and nothing was.
    pub(crate) async fn stands_still(&self, bytes: u32, cap: Option<Rate>) {
        self.takes_nothing_for(still_max(bytes, cap)).await;
    }

    /// Waits until nothing was taken for so long, from now on at the soonest.
    pub(crate) async fn takes_nothing_for(&self, time: Duration) {
        let begun = Instant::now();
        loop {
            let at = self.still_at(time, begun);
            if at <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(at.into()).await;
        }
    }

    fn still_at(&self, time: Duration, begun: Instant) -> Instant {
        begun.max(*self.lock()) + time
    }

    fn lock(&self) -> MutexGuard<'_, Instant> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn still_max(bytes: u32, cap: Option<Rate>) -> Duration {
    let times_slower = cap.map_or(1, |cap| CAP_MBIT_HARMLESS.div_ceil(cap.mbit()));
    times_slower * (READ_PAUSE_MAX + Duration::from_secs(1) * bytes / READ_BYTES_PER_SEC_MIN)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_slow_reader_has_time_for_one_after_the_other_and_one_that_reads_nothing_has_not() {
        let usual = 128 * 1024;
        let reading = Reading::new();
        let begun = Instant::now();
        let at = |secs| begun + Duration::from_secs(secs);
        let limit = still_max(usual, None);
        assert_eq!(reading.still_at(limit, begun), at(18));
        assert_eq!(still_max(8 * usual, None), Duration::from_secs(74));
        // Where we are slow ourselves, it may be that.
        assert_eq!(still_max(usual, Rate::from_mbit(10)), 10 * limit);
        assert_eq!(still_max(usual, Rate::from_mbit(1000)), limit);
        // Six on their way at 16 KiB/s: the last one takes 48 s, and is no fault.
        for secs in [8, 16, 24, 32, 40] {
            *reading.lock() = at(secs);
            assert_eq!(reading.still_at(limit, begun), at(secs + 18));
        }
    }
}
