//! What the engine knows of one peer: what is asked of it, how fast it answers, how it stands.

use std::{collections::BTreeMap, time::Duration};

use super::event::{Config, Link, TransferId};

/// Requests in flight to a peer that has not answered any: one to answer, and one to follow it
/// without a gap.
const REQUESTS_UNMEASURED: usize = 2;

/// What one request that ran out weighs, in timely chunks that make up for it.
pub(super) const DEMERIT: u32 = 4;

/// Demerits at which a peer is dropped: three requests that ran out in a row.
pub(super) const DEMERITS_MAX: u32 = 3 * DEMERIT;

/// Bytes in flight over all peers: what comes in half a second, which fills all queues without making
/// new chunks wait behind old ones, and a part that is equal for all, so that a host which has
/// fallen behind catches up; for the smallest links it is what keeps several peers asked.
const BUDGET_TIME: Duration = Duration::from_millis(500);
const BUDGET_BYTES: u64 = 2 * 1024 * 1024;

/// How often the limit for a request is doubled at most: to 8 minutes, in which a lone upstream on
/// the slowest of links has sent a chunk.
const PATIENCE_MAX: u32 = 4;

/// A request on its way.
pub(super) struct Sent {
    pub(super) at: Duration,
    pub(super) plain_bytes: u32,
    /// [`Meter::delivered`] of the peer and of all peers when it left.
    delivered: (u64, u64),
}

pub(super) struct Peer {
    pub(super) link: Link,
    /// Dropped, and not forgiven since.
    pub(super) shunned: bool,
    pub(super) requests: BTreeMap<(TransferId, u32), Sent>,
    in_flight_bytes: u64,
    meter: Meter,
    latency_min: Option<Duration>,
    completion: Completion,
    pub(super) demerits: u32,
    first_demerit_at: Duration,
    /// When it got the last one.
    pub(super) demerit_at: Option<Duration>,
    /// How often requests ran out with nobody else to prove that it was the peer's fault; each
    /// doubles how long it gets.
    pub(super) patience: u32,
    /// Times in a row that it was busy.
    pub(super) busy: u32,
    /// Not asked before then.
    pub(super) resume_at: Option<Duration>,
    pub(super) last_received_at: Option<Duration>,
    /// The transfer asked for last, so that transfers take turns.
    pub(super) last_transfer: Option<TransferId>,
}

impl Peer {
    pub(super) fn new(link: Link) -> Self {
        Self {
            link,
            shunned: false,
            requests: BTreeMap::new(),
            in_flight_bytes: 0,
            meter: Meter::default(),
            latency_min: None,
            completion: Completion::default(),
            demerits: 0,
            first_demerit_at: Duration::ZERO,
            demerit_at: None,
            patience: 0,
            busy: 0,
            resume_at: None,
            last_received_at: None,
            last_transfer: None,
        }
    }

    /// Whether one more request keeps the peer's link busy rather than its queue long: in flight
    /// are the bytes it sends in one round trip and [`Config::queue_target`].
    pub(super) fn has_room(&self, config: &Config) -> bool {
        if self.shunned || self.resume_at.is_some() {
            return false;
        }
        let count = self.requests.len();
        match (self.meter.rate, self.latency_min) {
            (Some(rate), Some(latency)) => {
                let target = bytes_in(rate, latency + config.queue_target);
                count == 0 || count < config.requests_per_peer_max && self.in_flight_bytes < target
            }
            _ => count < REQUESTS_UNMEASURED,
        }
    }

    pub(super) fn ask(&mut self, key: (TransferId, u32), plain_bytes: u32, pace: &Pace) {
        let sent = Sent {
            at: pace.now,
            plain_bytes,
            delivered: (self.meter.delivered, pace.meter.delivered),
        };
        self.in_flight_bytes += u64::from(plain_bytes);
        self.last_transfer = Some(key.0);
        self.requests.insert(key, sent);
    }

    /// A request ended, whichever way.
    pub(super) fn take(&mut self, key: (TransferId, u32)) -> Option<Sent> {
        let sent = self.requests.remove(&key)?;
        self.in_flight_bytes -= u64::from(sent.plain_bytes);
        Some(sent)
    }

    /// A request ended with its chunk.
    pub(super) fn answered(&mut self, sent: &Sent, bytes: u64, pace: &mut Pace) {
        let took = pace.now.saturating_sub(sent.at);
        self.meter.add(bytes, sent.delivered.0, took);
        pace.meter.add(bytes, sent.delivered.1, took);
        pace.completion.add(took);
        self.completion.add(took);
        self.latency_min = Some(self.latency_min.map_or(took, |least| least.min(took)));
        self.last_received_at = Some(pace.now);
        self.demerits = self.demerits.saturating_sub(1);
        self.patience = 0;
        self.busy = 0;
    }

    pub(super) fn add_demerit(&mut self, now: Duration) {
        if self.demerits == 0 {
            self.first_demerit_at = now;
        }
        self.demerits += DEMERIT;
        self.demerit_at = Some(now);
    }

    /// Whether it sent anything since it last was beyond reproach.
    pub(super) fn sent_since_first_demerit(&self) -> bool {
        self.last_received_at
            .is_some_and(|at| at > self.first_demerit_at)
    }

    /// When a request to it has run out: 4 times what is usual for it, at least 2 s and at most 30 s. In
    /// 2 s a link of 10 Mbit/s carries two of the largest chunks, and a faster one stalls longer than
    /// that only when something is wrong; who takes 30 s is of no use. Of who never answered, what is usual for all
    /// is expected, and twice the least: its link may be slower than theirs.
    pub(super) fn timeout(&self, pace: &Pace) -> Duration {
        let (usual, least) = match self.completion.estimate {
            Some(_) => (self.completion.usual(), 2),
            None => (pace.completion.usual(), 4),
        };
        let limit = (4 * usual).clamp(Duration::from_secs(least), Duration::from_secs(30));
        limit * 2u32.pow(self.patience.min(PATIENCE_MAX))
    }

    pub(super) fn oldest_request_at(&self) -> Option<Duration> {
        self.requests.values().map(|sent| sent.at).min()
    }
}

/// How fast bytes come, measured over the life of each request: what came between its departure and
/// its answer, whichever request it belonged to.
#[derive(Default)]
pub(super) struct Meter {
    pub(super) delivered: u64,
    /// Bytes per second, the last few answers weighing most.
    pub(super) rate: Option<u64>,
}

impl Meter {
    pub(super) fn add(&mut self, bytes: u64, delivered_then: u64, took: Duration) {
        self.delivered += bytes;
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1);
        let came = self.delivered - delivered_then;
        let sample = came.saturating_mul(1_000_000) / micros;
        self.rate = Some(
            self.rate
                .map_or(sample, |rate| rate - rate / 4 + sample / 4),
        );
    }
}

/// How long requests take from departure to chunk: mean and mean deviation, as TCP estimates round
/// trips (RFC 6298).
#[derive(Default)]
pub(super) struct Completion {
    estimate: Option<(Duration, Duration)>,
}

impl Completion {
    /// Used before anything was measured: what the twelve chunks of the default size at 10 Mbit/s, or
    /// three of the largest, take that may be ahead in a queue.
    const UNMEASURED: Duration = Duration::from_millis(2500);

    fn add(&mut self, took: Duration) {
        self.estimate = Some(match self.estimate {
            None => (took, took / 2),
            Some((mean, deviation)) => {
                let off = took.abs_diff(mean);
                (mean * 7 / 8 + took / 8, deviation * 3 / 4 + off / 4)
            }
        });
    }

    pub(super) fn average(&self) -> Duration {
        self.measured().unwrap_or(Self::UNMEASURED)
    }

    /// The mean, once there is one.
    pub(super) fn measured(&self) -> Option<Duration> {
        self.estimate.map(|(mean, _)| mean)
    }

    /// How long it takes at most when all is well.
    fn usual(&self) -> Duration {
        self.estimate
            .map_or(Self::UNMEASURED, |(mean, deviation)| mean + 4 * deviation)
    }
}

/// How fast everything goes, over all peers.
pub(super) struct Pace {
    pub(super) now: Duration,
    pub(super) meter: Meter,
    pub(super) completion: Completion,
}

impl Pace {
    pub(super) fn new() -> Self {
        Self {
            now: Duration::ZERO,
            meter: Meter::default(),
            completion: Completion::default(),
        }
    }

    /// Most bytes in flight over all peers.
    pub(super) fn budget(&self, config: &Config) -> u64 {
        let budget = match self.meter.rate {
            Some(rate) => BUDGET_BYTES + bytes_in(rate, BUDGET_TIME),
            None => 2 * BUDGET_BYTES,
        };
        budget.min(config.in_flight_bytes_max)
    }
}

pub(super) fn bytes_in(bytes_per_sec: u64, time: Duration) -> u64 {
    let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    (bytes_per_sec / 1000).saturating_mul(micros) / 1000
}
