//! What the local API shows of attacks: what was held back, seen and asked for.

use std::time::Duration;

use jiff::Timestamp;
use scap_proto::{
    id::NodeId,
    reason::Reason,
    release::{Sighting, UnixMillis},
};
use serde::Serialize;

use crate::node::Denial;

/// What a host saw of attacks: fields of `scap.agent-status/1`.
#[derive(Debug, Clone, Serialize)]
pub struct WatchView {
    /// Since when it has heard nothing new.
    pub freshness: FreshnessView,
    /// What it saw in the last day that nobody honest does.
    pub saw: Vec<SawView>,
    /// What others asked for since the start and may not have.
    pub denied: Vec<DeniedView>,
}

/// Whether something new was heard in time: `freshness` in `scap.agent-status/1`.
#[derive(Debug, Clone, Serialize)]
pub struct FreshnessView {
    /// When something new was heard last.
    pub heard: Option<Timestamp>,
    /// For how long it may hear nothing; null where that is no reason to worry.
    pub lease_secs: Option<u64>,
    /// Since when it has heard nothing; null as long as its lease is not over.
    pub stale_since: Option<Timestamp>,
    /// For how long, in seconds; 0 as long as its lease is not over. A gauge to alarm on.
    pub stale_secs: u64,
}

impl FreshnessView {
    pub(crate) fn new(
        heard: UnixMillis,
        lease: Option<Duration>,
        stale: Option<(UnixMillis, Duration)>,
    ) -> Self {
        Self {
            heard: time(heard),
            lease_secs: lease.map(|lease| lease.as_secs()),
            stale_since: stale.and_then(|(since, _)| time(since)),
            stale_secs: stale.map_or(0, |(_, silent)| silent.as_secs()),
        }
    }
}

/// What nobody honest does, and who did it: one of `saw` in `scap.agent-status/1`.
#[derive(Debug, Clone, Serialize)]
pub struct SawView {
    /// What.
    pub code: Reason,
    /// By whom it came, where that is known.
    pub peer: Option<NodeId>,
    /// How often.
    pub count: u32,
    /// When last.
    pub last: Option<Timestamp>,
}

impl SawView {
    pub(crate) fn of(sighting: Sighting) -> Self {
        Self {
            code: sighting.code,
            peer: sighting.peer,
            count: sighting.count,
            last: time(sighting.last),
        }
    }
}

/// What somebody asked for and may not have: one of `denied` in `scap.agent-status/1`.
#[derive(Debug, Clone, Serialize)]
pub struct DeniedView {
    /// Who.
    pub peer: NodeId,
    /// Why not.
    pub code: Reason,
    /// How often, since the start.
    pub count: u64,
    /// When last, in seconds before now.
    pub last_secs_ago: u64,
}

impl DeniedView {
    pub(crate) fn of(denial: Denial) -> Self {
        Self {
            peer: denial.peer,
            code: denial.reason,
            count: denial.count,
            last_secs_ago: denial.last.elapsed().as_secs(),
        }
    }
}

fn time(at: UnixMillis) -> Option<Timestamp> {
    Timestamp::from_millisecond(i64::try_from(at.0).ok()?).ok()
}
