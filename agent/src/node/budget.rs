//! What one peer may take of a node: each bound with its reason, all in one place. What is the transport's (streams, windows,
//! handshakes) stands in [`scap_proto::transport`], how long an object may be in [`scap_proto::limits`].
//!
//! A peer that takes all of it costs some 20 MiB of memory and a tenth of a core, and what is left is for the others. Where waiting
//! is enough it waits, so that a peer which is only busy is not punished; [`super::shunned`] is for what only a peer does that means harm
//! or is broken.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::serve::UPLOAD_BYTES_MAX;
use scap_proto::wire::peer::{ChunkSet, PeerMessage};

/// Most links of one coordinator: each of its deployments under way has one, and one that died counts until its idle limit. As
/// many as control streams of a peer are taken. Of any other node a new link takes the place of the one before.
pub(crate) const COORDINATOR_LINKS_MAX: usize = 64;

/// Most links that an agent makes with us, a second and at once. One that is restarted again and again makes one a second or two;
/// more cost us a handshake each, and everybody who waits for what was on the link before.
pub(crate) const DIALS: Allowance = Allowance {
    per_sec: 2,
    burst: 64,
};

/// Most requests for chunks a second, and at once: of the usual 128 KiB they are 512 MiB, more than the fastest connection was seen to
/// carry. Who asks faster waits, as the streams that it may open run out. That costs a tenth of a core.
pub(crate) const REQUESTS: Allowance = Allowance {
    per_sec: 4096,
    burst: 1024,
};

/// What a request counts that gets no chunk: of a peer that knows what it asks for these are few, and they carry nothing.
pub(crate) const FRUITLESS_REQUEST: u32 = 8;

/// How much of a release a peer may ask for, in times of all of it, and in bytes at least. It takes one; what was lost on the way, given
/// up for another's, or spoilt on its disk makes hardly two.
pub(crate) const ROUNDS_MAX: u64 = 3;
pub(crate) const ROUNDS_BYTES_MIN: u64 = 16 * 1024 * 1024;

/// Most bytes of chunks of one priority that are on their way to one peer: half of all, so that no peer takes all the room.
pub(crate) const UPLOAD_BYTES_PER_PEER_MAX: u32 = UPLOAD_BYTES_MAX / 2;

/// How long what is on its way to a peer keeps its place among what is on its way to all, at least. One that takes longer to read keeps only its
/// own room; or two that do not read would stop all others for as long as they please. The shortest time in which anybody is taken for silent;
/// in it an uplink of 10 Mbit/s carries all that is on its way.
pub(crate) const PLACE_TIME_MAX: Duration = Duration::from_secs(2);

/// A peer that takes chunks more slowly is taken for one that does not read, and loses its link: an eighth of 1 Mbit/s, and ten seconds for a host that
/// stands still for a moment. Measured since anything was last taken on the link, and under a cap of ours below [`CAP_MBIT_HARMLESS`] so many times
/// longer as that is lower, since then it may be we who are slow.
pub(crate) const READ_BYTES_PER_SEC_MIN: u32 = 16 * 1024;
pub(crate) const READ_PAUSE_MAX: Duration = Duration::from_secs(10);

/// A cap on what leaves that makes nobody wait long, in Mbit/s.
pub(crate) const CAP_MBIT_HARMLESS: u32 = 100;

/// What the messages of a session may cost, a second and at once, in the unit of [`cost`]. At once: what a peer holds of four of the largest
/// snapshots. A second of it takes some 20 ms of the one task that all peers wait for.
pub(crate) const MESSAGES: Allowance = Allowance {
    per_sec: 4096,
    burst: 4 * 65_536,
};

/// Most messages that wait to be sent to one peer. A peer that leaves so many unread is not reading.
pub(crate) const OUTBOX_MAX: usize = 4096;

/// Most bytes of frames that are read at a time on a link, whatever the number of its streams: four of the longest. They are
/// held before anything of them is proved.
pub(crate) const FRAME_BYTES_PER_LINK_MAX: usize = 4 * 1024 * 1024;

/// How long a peer may take to say what a stream is for: it is one small frame.
pub(crate) const OPEN_TIME_MAX: Duration = Duration::from_secs(10);

/// Most control streams of one node: a coordinator has one for each deployment under way, and a host that relays for it too.
pub(crate) const CONTROLS_PER_PEER_MAX: usize = 64;

/// Most messages on the control streams of an agent, a second and at once: of the largest fleet's roster there are 256 pages, and orders are few. Each
/// may cost several signatures.
pub(crate) const CONTROL_MESSAGES: Allowance = Allowance {
    per_sec: 64,
    burst: 1024,
};

/// How much of something a peer may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Allowance {
    /// In a second, for as long as it likes.
    pub(crate) per_sec: u32,
    /// At once, after it took nothing for long.
    pub(crate) burst: u32,
}

/// A token bucket.
#[derive(Debug)]
pub(crate) struct Bucket {
    allowance: Allowance,
    /// What is left, and when that was so. Below 0 it is owed.
    left: Mutex<(f64, Instant)>,
}

impl Bucket {
    /// A full one.
    pub(crate) fn new(allowance: Allowance, now: Instant) -> Self {
        Self {
            allowance,
            left: Mutex::new((allowance.burst.into(), now)),
        }
    }

    /// Takes so much, and waits until it is paid for. Cancel-safe: it counts as taken.
    pub(crate) async fn take(&self, amount: u32) {
        let now = Instant::now();
        let paid_at = self.charge(amount, now);
        if paid_at > now {
            tokio::time::sleep_until(paid_at.into()).await;
        }
    }

    /// Takes so much and does not wait; returns when it is paid for.
    pub(crate) fn charge(&self, amount: u32, now: Instant) -> Instant {
        let owed = (-self.add(-f64::from(amount), now)).max(0.0);
        now + Duration::from_secs_f64(owed / f64::from(self.allowance.per_sec))
    }

    /// Takes one where one is left.
    pub(crate) fn try_take(&self, now: Instant) -> bool {
        let is_left = self.add(0.0, now) >= 1.0;
        if is_left {
            self.add(-1.0, now);
        }
        is_left
    }

    /// Whether it is as full as it gets.
    pub(crate) fn is_full(&self, now: Instant) -> bool {
        self.add(0.0, now) >= f64::from(self.allowance.burst)
    }

    /// What is left, with so much more.
    fn add(&self, amount: f64, now: Instant) -> f64 {
        let (rate, burst) = (
            f64::from(self.allowance.per_sec),
            f64::from(self.allowance.burst),
        );
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let gained = now.saturating_duration_since(left.1).as_secs_f64() * rate;
        // Nobody owes more than is let through at once: whoever does waits for that.
        let balance = ((left.0 + gained).min(burst) + amount).max(-burst);
        *left = (balance, left.1.max(now));
        balance
    }
}

/// What a message costs the driver, in hundredths of a millisecond or less: each chunk that it names is looked at, and who opens something makes
/// it look at all that the peer has open.
pub(crate) fn cost(message: &PeerMessage) -> u32 {
    let chunks = |chunks: &ChunkSet| match chunks {
        ChunkSet::Indexes(indexes) => indexes.len(),
        ChunkSet::Bitmap { bits, .. } => 8 * bits.len(),
    };
    let (own, chunks) = match message {
        PeerMessage::Open { .. } | PeerMessage::Close { .. } | PeerMessage::Trust(_) => (32, 0),
        PeerMessage::Have { chunks: said, .. } => (1, chunks(said)),
        PeerMessage::Follow { held, .. } => (32, chunks(held)),
    };
    own + u32::try_from(chunks / 64).unwrap_or(u32::MAX / 2)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use scap_proto::limits::SNAPSHOT_CHUNKS_MAX;

    use super::*;

    const FEW: Allowance = Allowance {
        per_sec: 10,
        burst: 20,
    };

    #[test]
    fn who_takes_faster_than_it_may_waits_and_gets_no_more_than_the_rate() {
        let start = Instant::now();
        let bucket = Bucket::new(FEW, start);
        let mut now = start;
        for _ in 0..120 {
            now = bucket.charge(1, now).max(now);
        }
        let took = (now - start).as_secs_f64();
        assert!((9.99..10.01).contains(&took), "{took} s");
    }

    #[test]
    fn a_debt_has_a_bound_and_is_paid_off_in_time() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let bucket = Bucket::new(FEW, start);
        assert_eq!(bucket.charge(1_000_000, start), at(2000));
        assert!(!bucket.try_take(start) && !bucket.is_full(start));
        assert!(bucket.try_take(at(2101)) && !bucket.try_take(at(2101)));
        assert!(bucket.is_full(at(3_600_000)));
    }

    #[test]
    fn what_a_peer_holds_of_the_largest_snapshot_can_be_said_at_once_and_not_again_and_again() {
        let all = PeerMessage::Have {
            handle: 0,
            chunks: ChunkSet::Bitmap {
                first: 0,
                bits: vec![0xff; SNAPSHOT_CHUNKS_MAX as usize / 8].into(),
            },
        };
        let often = MESSAGES.burst / cost(&all);
        assert!((3..=4).contains(&often), "{often}");
        assert!(cost(&all) / MESSAGES.per_sec >= 15);
        let one = PeerMessage::Have {
            handle: 0,
            chunks: ChunkSet::Indexes(vec![7]),
        };
        assert_eq!(cost(&one), 1);
    }
}
