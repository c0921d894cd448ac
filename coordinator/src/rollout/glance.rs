//! A rollout at a glance: what a person is shown of it while it goes on.

use std::time::Duration;

use scap_proto::{id::NodeId, release::BytesBySource};

use super::{
    engine::{Engine, Phase},
    host::{HostProgress, HostState},
    policy::Wave,
    wait::{Wait, WaitingOn},
};

/// All of it, as of one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glance {
    /// What it is at.
    pub at: At,
    /// Each wave, in order.
    pub waves: Vec<WaveGlance>,
    /// Hosts that are reached and have the release live.
    pub new: usize,
    /// Hosts that are reached and do not.
    pub old: usize,
    /// Hosts that are not reached: what they run is not known.
    pub unknown: usize,
    /// Where the bytes of all hosts came from.
    pub bytes: BytesBySource,
    /// What it waits for.
    pub wait: Option<Wait>,
    /// Of the hosts that it waits for, the one that is given up first if it makes no move.
    pub oldest: Option<Oldest>,
}

/// What a rollout is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// It has not begun.
    Start,
    /// At a wave, counted from 0.
    Wave(usize),
    /// Hosts go back.
    RollingBack,
    /// All waves are through.
    Finalizing,
    /// It is over.
    End,
}

/// One wave of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaveGlance {
    /// What it is called. Not escaped.
    pub name: String,
    /// How many hosts it has.
    pub hosts: usize,
    /// How many have the whole release, live or not.
    pub fetched: usize,
    /// How many say that they have it live.
    pub promoted: usize,
    /// How many have it live with all that is asked of them done, and are reached.
    pub healthy: usize,
    /// How many went back.
    pub reverted: usize,
    /// How many are to go back, those that did included.
    pub to_revert: usize,
    /// How many are lost, of which no more than [`Self::allowed`] may be.
    pub lost: usize,
    /// How many of the whole wave may be lost.
    pub allowed: usize,
}

/// A host that is waited for, and how long it has made no move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Oldest {
    /// Which.
    pub host: NodeId,
    /// How long it has made no move, or was not reached.
    pub still: Duration,
    /// After how long it is given up.
    pub limit: Duration,
    /// What it says it waits for; empty for nothing. Not escaped.
    pub waiting: String,
}

impl Engine {
    /// All of it, as of `now`.
    pub fn glance(&self, now: Duration) -> Glance {
        let hosts = || self.hosts.values();
        let is_new = |it: &&HostProgress| it.away.is_none() && it.is_live;
        let new = hosts().filter(is_new).count();
        let unknown = hosts().filter(|it| it.away.is_some()).count();
        let bytes = hosts().fold(BytesBySource::default(), |sum, host| BytesBySource {
            seed: sum.seed + host.bytes.seed,
            peers: sum.peers + host.bytes.peers,
            reuse: sum.reuse + host.bytes.reuse,
        });
        let wait = self.wait();
        let oldest = wait.as_ref().and_then(|wait| self.oldest(wait, now));
        Glance {
            at: match &self.phase {
                Phase::Connecting => At::Start,
                Phase::Waves(turn) => At::Wave(turn.wave),
                Phase::RollingBack(_) => At::RollingBack,
                Phase::Finalizing { .. } => At::Finalizing,
                Phase::Ended => At::End,
            },
            waves: self
                .config
                .policy
                .waves
                .iter()
                .map(|wave| self.glance_at(wave))
                .collect(),
            new,
            old: self.hosts.len() - new - unknown,
            unknown,
            bytes,
            wait,
            oldest,
        }
    }

    fn glance_at(&self, wave: &Wave) -> WaveGlance {
        use HostState::{Promoted, Reverted, Reverting};
        let count = |is_one: fn(&HostProgress) -> bool| {
            let hosts = wave.hosts().map(|host| &self.hosts[host]);
            hosts.filter(|it| is_one(it)).count()
        };
        WaveGlance {
            name: wave.name.clone(),
            hosts: wave.hosts().count(),
            fetched: count(HostProgress::chunks_are_all),
            promoted: count(|it| it.is_live),
            healthy: count(|it| it.state == Promoted && it.away.is_none()),
            reverted: count(|it| it.state == Reverted),
            to_revert: count(|it| it.is_touched || matches!(it.state, Reverting | Reverted)),
            lost: count(HostProgress::is_lost),
            allowed: wave.limits.first().map_or(0, |limit| limit.allowed),
        }
    }

    fn oldest(&self, wait: &Wait, now: Duration) -> Option<Oldest> {
        use WaitingOn::{Chunks, Promotion, Rollback, Soak};
        if !matches!(wait.on, Chunks | Promotion | Rollback | Soak) {
            return None;
        }
        let hosts = wait.hosts.iter().map(|host| (host, &self.hosts[host]));
        let (host, progress) = hosts.min_by_key(|(_, it)| it.deadline(&self.config))?;
        let (since, limit) = match &progress.away {
            Some((since, _)) => (*since, self.config.away_max),
            None => (progress.moved_at, progress.patience(&self.config)),
        };
        Some(Oldest {
            host: host.clone(),
            still: now.saturating_sub(since),
            limit,
            waiting: progress.waiting.clone(),
        })
    }
}

impl HostProgress {
    /// Whether it has the whole release, live or not.
    pub fn chunks_are_all(&self) -> bool {
        use HostState::{Fetched, Promoted, Promoting, Reverted, Reverting};
        let (held, known) = self.chunks;
        let is_past = matches!(
            self.state,
            Fetched | Promoting | Promoted | Reverting | Reverted
        );
        is_past || self.is_live || (known > 0 && held == known)
    }
}
