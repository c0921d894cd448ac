//! What is shown of a rollout at one moment, read from its engine.

use std::{collections::BTreeMap, time::Duration};

use scap_proto::id::NodeId;

use super::{
    hosts::{HostLine, Shown, host_lines},
    rates::Rates,
    sheet::Sheet,
};
use crate::rollout::{At, Engine, Glance, HostProgress, HostState, WaitingOn};

/// All of it.
#[derive(Debug, Clone)]
pub(in crate::cli) struct View {
    /// Since the rollout began.
    pub(super) now: Duration,
    pub(super) glance: Glance,
    pub(super) is_paused: bool,
    /// Bytes a second that all hosts fetch.
    pub(super) rate: Option<f64>,
    pub(super) slow: Option<Slow>,
    /// Hosts by why they were lost, the largest group.
    pub(super) lost: Option<Lost>,
    /// The wave that comes after the one in turn, how many hosts it has, and whether somebody must let it go.
    pub(super) next: Option<(String, usize, bool)>,
    /// How long the wave in turn soaks.
    pub(super) soak: Duration,
    /// How long the slowest host fetched that is through, and how many bytes each took from others, in the mean of those that took
    /// some.
    pub(super) fetched: Option<(Duration, f64)>,
    /// What a person may do, as commands.
    pub(super) commands: Vec<&'static str>,
    /// Each host, where these are to be shown.
    pub(super) hosts: Vec<HostLine>,
}

/// The host that is furthest behind of those that fetch.
#[derive(Debug, Clone)]
pub(super) struct Slow {
    pub(super) host: NodeId,
    pub(super) chunks: (u32, u32),
    pub(super) rate: Option<f64>,
    pub(super) upstream: Option<NodeId>,
    /// How long it has made no move.
    pub(super) still: Duration,
}

/// Hosts that were lost for one reason.
#[derive(Debug, Clone)]
pub(super) struct Lost {
    /// How many were lost in all.
    pub(super) all: usize,
    /// Not escaped; its first line.
    pub(super) reason: String,
    pub(super) hosts: Vec<NodeId>,
}

impl View {
    pub(in crate::cli) fn of(
        engine: &Engine,
        now: Duration,
        rates: &Rates,
        sheet: &Sheet,
        shown: Shown,
    ) -> Self {
        let glance = engine.glance(now);
        let hosts = engine.hosts();
        let of_all = hosts.iter().map(|(name, host)| rates.of(now, name, host));
        let policy = engine.policy();
        let turn = match glance.at {
            At::Wave(at) => Some(at),
            _ => None,
        };
        let next = turn.and_then(|at| policy.waves.get(at + 1));
        Self {
            now,
            is_paused: engine.is_paused(),
            rate: of_all.sum(),
            slow: slow(engine, now, rates, sheet),
            lost: lost(hosts),
            next: next.map(|it| (it.name.clone(), it.hosts().count(), it.needs_approval)),
            soak: turn.map_or(Duration::ZERO, |at| policy.waves[at].soak),
            fetched: fetched(hosts),
            commands: engine.moves().iter().map(|it| it.command).collect(),
            hosts: host_lines(engine, now, rates, sheet, shown),
            glance,
        }
    }

    /// How many times as long the slowest host took as so many bytes take at least where all hosts fetch at once.
    pub(super) fn bound(&self, sheet: &Sheet) -> Option<f64> {
        let (time, bytes) = self.fetched?;
        Some(time.as_secs_f64() / (sheet.seconds_per_byte? * bytes))
    }

    /// How long what it waits for may last, where that is bounded.
    pub(super) fn limit(&self, sheet: &Sheet) -> Option<Duration> {
        let wait = self.glance.wait.as_ref()?;
        match wait.on {
            WaitingOn::Budget => sheet.budget_hold,
            WaitingOn::Approval => sheet.approval_hold,
            WaitingOn::Soak if wait.hosts.is_empty() => {
                wait.until.map(|until| until.saturating_sub(wait.since))
            }
            WaitingOn::Finalization => wait.until.map(|until| until.saturating_sub(wait.since)),
            _ => None,
        }
    }
}

fn slow(engine: &Engine, now: Duration, rates: &Rates, sheet: &Sheet) -> Option<Slow> {
    let is_fetching = |it: &HostProgress| it.state == HostState::Fetching && it.away.is_none();
    let fetching = engine.hosts().iter().filter(|(_, it)| is_fetching(it));
    // Of 2^20 parts, so that shares compare as numbers.
    let share = |(held, known): (u32, u32)| match known {
        0 => 0,
        known => (u64::from(held) << 20) / u64::from(known),
    };
    let (name, host) = fetching.min_by_key(|(_, it)| share(it.chunks))?;
    let upstreams = sheet.places.around(name).upstreams;
    Some(Slow {
        host: name.clone(),
        chunks: host.chunks,
        rate: rates.of(now, name, host),
        upstream: upstreams.into_iter().next(),
        still: host.still(now),
    })
}

fn fetched(hosts: &BTreeMap<NodeId, HostProgress>) -> Option<(Duration, f64)> {
    let took = |it: &HostProgress| it.bytes.seed + it.bytes.peers;
    let through = hosts
        .values()
        .filter(|it| took(it) > 0 && it.chunks_are_all());
    let (mut slowest, mut bytes, mut count) = (Duration::ZERO, 0, 0_u32);
    for host in through {
        slowest = slowest.max(host.fetch);
        bytes += took(host);
        count += 1;
    }
    #[expect(clippy::cast_precision_loss, reason = "shown to three digits")]
    let mean = bytes as f64 / f64::from(count);
    (count > 0 && !slowest.is_zero()).then_some((slowest, mean))
}

fn lost(hosts: &BTreeMap<NodeId, HostProgress>) -> Option<Lost> {
    let mut groups: BTreeMap<&str, Vec<NodeId>> = BTreeMap::new();
    for (name, host) in hosts.iter().filter(|(_, it)| it.is_lost()) {
        let reason = crate::cli::rollout_status::reason(host);
        let first = reason.and_then(|reason| reason.text.lines().next());
        let first = first.unwrap_or_default();
        groups.entry(first).or_default().push(name.clone());
    }
    let all = groups.values().map(Vec::len).sum();
    let largest = groups.into_iter().max_by_key(|(_, hosts)| hosts.len());
    largest.map(|(reason, hosts)| Lost {
        all,
        reason: reason.to_owned(),
        hosts,
    })
}
