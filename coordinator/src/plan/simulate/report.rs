//! What a simulation came to.

use std::time::Duration;

use scap_agent::swarm::DropReason;

use super::{NodeIndex, ORIGIN, Setup, Simulation};

/// What a simulation came to.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// When each host was complete, if it is.
    pub completed_at: Vec<Option<Duration>>,
    /// No way of spreading the content is faster: `max(F/u_s, F/d_min, N·F/(u_s + Σu_i))`, with `F`
    /// its size, `u_s` the origin's uplink, `u_i` and `d_i` the hosts' links; and where there are sites `F/b` for each
    /// border `b`, that of the origin's site included: all that leaves it goes once at least.
    pub bound: Duration,
    /// Bytes that crossed each site's border, in and out, in copies of the content.
    pub border_copies: Vec<(f64, f64)>,
    /// Bytes that left the origin, in copies of the content.
    pub origin_copies: f64,
    /// Of the bytes that hosts received, the share that was of no use: chunks they had by then, and
    /// parts of chunks that were cancelled.
    pub duplicate_share: f64,
    /// Announcements, requests and so on.
    pub messages: u64,
    /// Peers that were dropped, in order.
    pub dropped: Vec<Dropped>,
    /// Digest of all events: equal for equal runs.
    pub trace: u64,
}

/// A peer that an engine gave up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dropped {
    /// When.
    pub at: Duration,
    /// Whose engine.
    pub by: NodeIndex,
    /// Which peer.
    pub peer: NodeIndex,
    /// Why.
    pub reason: DropReason,
}

impl Outcome {
    /// When the last host was complete; `None` if one is not.
    pub fn last_completed_at(&self) -> Option<Duration> {
        self.completed_at
            .iter()
            .copied()
            .try_fold(Duration::ZERO, |last, at| Some(last.max(at?)))
    }

    /// [`Self::last_completed_at`] as a multiple of the bound.
    pub fn bound_ratio(&self) -> Option<f64> {
        Some(self.last_completed_at()?.as_secs_f64() / self.bound.as_secs_f64())
    }
}

impl Simulation {
    /// What it has come to so far.
    pub fn outcome(&self) -> Outcome {
        let hosts = 1..self.nodes.len();
        let received: u64 = hosts.clone().map(|at| self.network.taken_bytes(at)).sum();
        let stored: u64 = self.nodes[1..].iter().map(|it| u64::from(it.stored)).sum();
        let useful = stored * u64::from(self.setup.chunk_bytes);
        Outcome {
            completed_at: self.nodes[1..].iter().map(|it| it.completed_at).collect(),
            bound: bound(&self.setup),
            border_copies: self.border_copies(),
            origin_copies: self.network.sent_bytes(ORIGIN) as f64 / size(&self.setup),
            duplicate_share: received.saturating_sub(useful) as f64 / received.max(1) as f64,
            messages: self.messages,
            dropped: self.dropped.clone(),
            trace: self.network.trace(),
        }
    }
}

impl Simulation {
    fn border_copies(&self) -> Vec<(f64, f64)> {
        let copies = |bytes: u64| bytes as f64 / size(&self.setup);
        let crossed = self.network.crossed_bytes().into_iter();
        crossed
            .map(|(into, out)| (copies(into), copies(out)))
            .collect()
    }
}

fn bound(setup: &Setup) -> Duration {
    let size = size(setup);
    let origin = setup.origin.up_bytes_per_sec as f64;
    let up: f64 = setup
        .hosts
        .iter()
        .map(|host| host.up_bytes_per_sec as f64)
        .sum();
    let slowest = setup
        .hosts
        .iter()
        .map(|host| host.down_bytes_per_sec)
        .min()
        .unwrap_or(u64::MAX) as f64;
    let all = setup.hosts.len() as f64 * size;
    let borders = setup.borders.iter().map(|border| border.bytes_per_sec);
    let border = borders.min().map_or(0.0, |slowest| size / slowest as f64);
    let least = (size / origin).max(size / slowest).max(all / (origin + up));
    Duration::from_secs_f64(least.max(border))
}

fn size(setup: &Setup) -> f64 {
    f64::from(setup.chunk_bytes) * f64::from(setup.chunk_count())
}
