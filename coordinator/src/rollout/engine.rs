//! The rollout engine: reports in, orders out. Sans-IO.
//!
//! Waves go one after the other. The hosts of a wave fetch; those that have, promote, once none of the wave
//! is still fetching; the next wave starts when none is still promoting. A wave that is a gate stops the
//! rollout when one of its hosts does not get there. A host that is gone for a while may come back; what
//! it was told last is told again.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use scap_proto::{
    id::{NodeId, ReleaseId},
    release::{BytesBySource, Outcome, Report, Stage},
};

/// What differs between one rollout and another.
#[derive(Debug, Clone)]
pub struct Config {
    /// The release that reports must be about.
    pub release: ReleaseId,
    /// Its sequence.
    pub sequence: u64,
    /// The epoch of the grant.
    pub epoch: u64,
    /// The waves, in order; no host is in two.
    pub waves: Vec<Wave>,
    /// How long a host may be away before it counts as unreachable.
    pub away_max: Duration,
    /// How long a host may go on without any progress before it counts as failed.
    pub stall_max: Duration,
    /// How long to wait for hosts to confirm the finalization. They hold to it in any case.
    pub finalize_max: Duration,
}

/// Hosts that take a stage together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wave {
    /// For people.
    pub name: String,
    /// Who.
    pub hosts: BTreeSet<NodeId>,
    /// Whether the rollout stops when one of them does not get there.
    pub is_gate: bool,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Begin. Hosts that were not connected before are away.
    Start,
    /// There is a control stream to a host.
    Connected(NodeId),
    /// There is none any more, or none could be made.
    Away {
        /// To which.
        host: NodeId,
        /// Why.
        reason: String,
    },
    /// A host says something; its signature was checked.
    Report(Box<Report>),
    /// The time of [`Engine::poll_timeout`] has come.
    Timeout,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Tell these hosts; who is away is told when it comes back.
    Order {
        /// The directive's number.
        number: u64,
        /// Who, sorted.
        hosts: Vec<NodeId>,
        /// What.
        stage: Stage,
    },
    /// Tell these hosts that the release is the stable one.
    Finalize {
        /// Who.
        hosts: Vec<NodeId>,
    },
    /// A wave begins with a stage.
    Began {
        /// The wave's name.
        wave: String,
        /// With what.
        stage: Stage,
        /// How many hosts.
        hosts: usize,
    },
    /// A host got there, or did not.
    Settled {
        /// Which.
        host: NodeId,
        /// How.
        state: HostState,
    },
    /// It is over.
    Ended(Verdict),
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Every host has it live.
    Done,
    /// All waves went through, and some hosts did not get there.
    Incomplete,
    /// A gate did not open: later waves were not touched.
    Stopped {
        /// Of which wave.
        wave: String,
    },
}

/// Where one host is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostState {
    /// Its wave has not begun.
    Waiting,
    /// Told to fetch.
    Fetching,
    /// Has it all.
    Fetched,
    /// Told to promote.
    Promoting,
    /// Has it live.
    Promoted,
    /// Tried, or would not; why.
    Failed(String),
    /// Not reached, or lost for too long; why.
    Unreachable(String),
    /// Its wave never began.
    Skipped,
}

/// What is known of one host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostProgress {
    /// Where it is.
    pub state: HostState,
    /// Since when it has no control stream, by the engine's time, and why.
    pub away: Option<(Duration, String)>,
    /// Where its bytes came from.
    pub bytes: BytesBySource,
    /// Chunks it has, and knows of.
    pub chunks: (u32, u32),
    /// What it says it waits for; empty for nothing.
    pub waiting: String,
    /// How long fetching took.
    pub fetch: Duration,
    /// How long making the release's directory took.
    pub prepare: Duration,
    /// How long promoting took.
    pub promote: Duration,
    /// Whether it holds to the finalization.
    pub is_finalized: bool,
    /// The latest order for it.
    order: Option<(u64, Stage)>,
    moved_at: Duration,
    counter: u64,
    bytes_before: BytesBySource,
}

/// What a rollout that sends nothing is waiting for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WaitingOn {
    /// Hosts of a wave that fetch.
    Chunks {
        /// The wave.
        wave: String,
        /// Who.
        hosts: BTreeSet<NodeId>,
    },
    /// Hosts of a wave that promote.
    Promotion {
        /// The wave.
        wave: String,
        /// Who.
        hosts: BTreeSet<NodeId>,
    },
    /// Hosts that have not confirmed the finalization.
    Finalization {
        /// Who.
        hosts: BTreeSet<NodeId>,
    },
}

/// One rollout.
#[derive(Debug)]
pub struct Engine {
    config: Config,
    hosts: BTreeMap<NodeId, HostProgress>,
    phase: Phase,
    next_number: u64,
    outputs: VecDeque<Output>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    Connecting,
    Wave { at: usize, stage: Stage },
    Finalizing { until: Duration, verdict: Verdict },
    Ended,
}

impl Engine {
    /// A rollout that has not begun.
    pub fn new(config: Config) -> Self {
        let hosts = config
            .waves
            .iter()
            .flat_map(|wave| wave.hosts.iter().cloned());
        let hosts = hosts.map(|host| (host, HostProgress::new())).collect();
        Self {
            config,
            hosts,
            phase: Phase::Connecting,
            next_number: 1,
            outputs: VecDeque::new(),
        }
    }

    /// Takes one event in. Drain [`Self::poll_output`] before the next.
    pub fn handle_input(&mut self, now: Duration, input: Input) {
        match input {
            Input::Start => {
                if self.phase == Phase::Connecting {
                    self.begin_wave(now, 0);
                }
            }
            Input::Connected(host) => {
                if let Some(progress) = self.hosts.get_mut(&host) {
                    progress.away = None;
                    progress.moved_at = now;
                    // What it was told may not have reached it.
                    if let Some((number, stage)) = progress.order.filter(|_| progress.is_busy()) {
                        self.outputs.push_back(Output::Order {
                            number,
                            hosts: vec![host],
                            stage,
                        });
                    }
                }
            }
            Input::Away { host, reason } => {
                if let Some(progress) = self.hosts.get_mut(&host) {
                    let since = progress.away.as_ref().map_or(now, |(since, _)| *since);
                    progress.away = Some((since, reason));
                }
            }
            Input::Report(report) => self.report(now, *report),
            Input::Timeout => self.expire(now),
        }
        self.advance(now);
    }

    /// What to do next.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to feed [`Input::Timeout`].
    pub fn poll_timeout(&self) -> Option<Duration> {
        if let Phase::Finalizing { until, .. } = &self.phase {
            return Some(*until);
        }
        let busy = self.hosts.values().filter(|progress| progress.is_busy());
        busy.map(|progress| progress.deadline(&self.config)).min()
    }

    /// Every host and where it is.
    pub fn hosts(&self) -> &BTreeMap<NodeId, HostProgress> {
        &self.hosts
    }

    /// The wave in progress, counted from 0, and what it does.
    pub fn wave(&self) -> Option<(usize, &Wave, Stage)> {
        match self.phase {
            Phase::Wave { at, stage } => Some((at, &self.config.waves[at], stage)),
            _ => None,
        }
    }

    /// Which hosts it waits for, and for what.
    pub fn waiting_on(&self) -> Option<WaitingOn> {
        match &self.phase {
            Phase::Connecting | Phase::Ended => None,
            Phase::Wave { at, stage } => {
                let wave = &self.config.waves[*at];
                let busy = wave.hosts.iter().filter(|host| self.hosts[*host].is_busy());
                let (wave, hosts) = (wave.name.clone(), busy.cloned().collect());
                Some(match stage {
                    Stage::Fetch => WaitingOn::Chunks { wave, hosts },
                    _ => WaitingOn::Promotion { wave, hosts },
                })
            }
            Phase::Finalizing { .. } => Some(WaitingOn::Finalization {
                hosts: self.unfinalized().cloned().collect(),
            }),
        }
    }

    fn report(&mut self, now: Duration, report: Report) {
        let Some(progress) = self.hosts.get_mut(&report.host) else {
            return;
        };
        // A counter never repeats: what is not newer was replayed, or overtaken on its way.
        if report.counter <= progress.counter {
            return;
        }
        progress.counter = report.counter;
        if progress.order.is_none() && report.release == Some(self.config.release) {
            // It had been told of this release before: what it fetched then is not fetched now.
            progress.bytes_before = report.bytes;
        }
        let is_refusal = matches!(report.outcome, Outcome::Refused { .. });
        if report.release != Some(self.config.release) && !is_refusal {
            return;
        }
        if report.standing.finalized_sequence >= self.config.sequence {
            progress.is_finalized = true;
        }
        let before = (progress.chunks, progress.bytes);
        progress.bytes = moved(report.bytes, progress.bytes_before);
        progress.fetch = Duration::from_millis(report.fetch_millis);
        progress.prepare = Duration::from_millis(report.prepare_millis);
        progress.promote = Duration::from_millis(report.promote_millis);
        progress.waiting.clear();
        let told = progress
            .order
            .map(|(number, _)| (self.config.epoch, number));
        let state = match (report.outcome, &progress.state) {
            (
                Outcome::Working {
                    chunks_held,
                    chunks_total,
                    waiting,
                },
                _,
            ) => {
                progress.chunks = (chunks_held, chunks_total);
                progress.waiting = waiting;
                if (progress.chunks, progress.bytes) != before {
                    progress.moved_at = now;
                }
                return;
            }
            (Outcome::Idle, _) => return,
            (Outcome::Refused { reason }, HostState::Fetching | HostState::Promoting) => {
                HostState::Failed(format!("refused: {reason}"))
            }
            // About an order before the latest: it will speak about that one too.
            _ if Some(report.directive) != told => return,
            (Outcome::Failed { reason }, HostState::Fetching | HostState::Promoting) => {
                HostState::Failed(reason)
            }
            (Outcome::Done, HostState::Fetching) => HostState::Fetched,
            (Outcome::Done, HostState::Promoting)
                if report.standing.live == Some(self.config.release) =>
            {
                HostState::Promoted
            }
            _ => return,
        };
        progress.moved_at = now;
        self.settle(&report.host, state);
    }

    fn settle(&mut self, host: &NodeId, state: HostState) {
        let progress = self
            .hosts
            .get_mut(host)
            .expect("only hosts of the rollout settle");
        progress.state = state.clone();
        self.outputs.push_back(Output::Settled {
            host: host.clone(),
            state,
        });
    }

    fn expire(&mut self, now: Duration) {
        let late =
            |progress: &HostProgress| progress.is_busy() && progress.deadline(&self.config) <= now;
        let late: Vec<NodeId> = self
            .hosts
            .iter()
            .filter(|(_, p)| late(p))
            .map(|(host, _)| host.clone())
            .collect();
        for host in late {
            let progress = &self.hosts[&host];
            let state = match &progress.away {
                Some((_, reason)) => HostState::Unreachable(reason.clone()),
                None if progress.waiting.is_empty() => HostState::Failed(format!(
                    "no progress for {} s",
                    self.config.stall_max.as_secs()
                )),
                None => HostState::Failed(format!(
                    "no progress for {} s; it waits for {}",
                    self.config.stall_max.as_secs(),
                    progress.waiting
                )),
            };
            self.settle(&host, state);
        }
    }

    fn advance(&mut self, now: Duration) {
        loop {
            match self.phase.clone() {
                Phase::Connecting | Phase::Ended => return,
                Phase::Wave { at, stage } => {
                    let wave = &self.config.waves[at];
                    if wave.hosts.iter().any(|host| self.hosts[host].is_busy()) {
                        return;
                    }
                    if wave.is_gate && wave.hosts.iter().any(|host| self.hosts[host].is_lost()) {
                        return self.end(Verdict::Stopped {
                            wave: wave.name.clone(),
                        });
                    }
                    let fetched: Vec<NodeId> = wave
                        .hosts
                        .iter()
                        .filter(|host| self.hosts[*host].state == HostState::Fetched)
                        .cloned()
                        .collect();
                    if stage == Stage::Fetch && !fetched.is_empty() {
                        self.begin_stage(now, at, Stage::Promote, fetched);
                    } else {
                        self.begin_wave(now, at + 1);
                    }
                }
                Phase::Finalizing { until, verdict } => {
                    if self.unfinalized().next().is_none() || until <= now {
                        self.end(verdict);
                    }
                    return;
                }
            }
        }
    }

    fn begin_wave(&mut self, now: Duration, at: usize) {
        let Some(wave) = self.config.waves.get(at) else {
            return self.finalize(now);
        };
        let away: Vec<(NodeId, String)> = wave
            .hosts
            .iter()
            .filter_map(|host| {
                let (_, reason) = self.hosts[host].away.as_ref()?;
                Some((host.clone(), reason.clone()))
            })
            .collect();
        let hosts = wave
            .hosts
            .iter()
            .filter(|host| self.hosts[*host].away.is_none());
        let hosts: Vec<NodeId> = hosts.cloned().collect();
        for (host, reason) in away {
            self.settle(&host, HostState::Unreachable(reason));
        }
        self.phase = Phase::Wave {
            at,
            stage: Stage::Fetch,
        };
        if !hosts.is_empty() {
            self.begin_stage(now, at, Stage::Fetch, hosts);
        }
    }

    fn begin_stage(&mut self, now: Duration, at: usize, stage: Stage, hosts: Vec<NodeId>) {
        let number = self.next_number;
        self.next_number += 1;
        self.phase = Phase::Wave { at, stage };
        let wave = self.config.waves[at].name.clone();
        self.outputs.push_back(Output::Began {
            wave,
            stage,
            hosts: hosts.len(),
        });
        for host in &hosts {
            let progress = self.hosts.get_mut(host).expect("a wave's hosts are known");
            progress.order = Some((number, stage));
            progress.moved_at = now;
            progress.state = match stage {
                Stage::Fetch => HostState::Fetching,
                Stage::Promote | Stage::Revert => HostState::Promoting,
            };
        }
        self.outputs.push_back(Output::Order {
            number,
            hosts,
            stage,
        });
    }

    /// All waves went through. The release is stable unless a host failed with it: one that was not
    /// reached catches up.
    fn finalize(&mut self, now: Duration) {
        let states = || self.hosts.values().map(|progress| &progress.state);
        let is_complete = states().all(|state| *state == HostState::Promoted);
        let verdict = if is_complete {
            Verdict::Done
        } else {
            Verdict::Incomplete
        };
        let promoted = self.promoted().cloned().collect::<Vec<_>>();
        if promoted.is_empty() || states().any(|state| matches!(state, HostState::Failed(_))) {
            return self.end(verdict);
        }
        self.outputs.push_back(Output::Finalize { hosts: promoted });
        self.phase = Phase::Finalizing {
            until: now + self.config.finalize_max,
            verdict,
        };
    }

    fn end(&mut self, verdict: Verdict) {
        self.phase = Phase::Ended;
        let untouched = |progress: &&mut HostProgress| progress.state == HostState::Waiting;
        for progress in self.hosts.values_mut().filter(untouched) {
            progress.state = HostState::Skipped;
        }
        self.outputs.push_back(Output::Ended(verdict));
    }

    fn promoted(&self) -> impl Iterator<Item = &NodeId> {
        let promoted = self
            .hosts
            .iter()
            .filter(|(_, p)| p.state == HostState::Promoted);
        promoted.map(|(host, _)| host)
    }

    fn unfinalized(&self) -> impl Iterator<Item = &NodeId> {
        self.promoted().filter(|host| {
            let progress = &self.hosts[*host];
            !progress.is_finalized && progress.away.is_none()
        })
    }
}

impl HostProgress {
    fn new() -> Self {
        Self {
            state: HostState::Waiting,
            away: Some((Duration::ZERO, "not connected".into())),
            bytes: BytesBySource::default(),
            chunks: (0, 0),
            waiting: String::new(),
            fetch: Duration::ZERO,
            prepare: Duration::ZERO,
            promote: Duration::ZERO,
            is_finalized: false,
            order: None,
            moved_at: Duration::ZERO,
            counter: 0,
            bytes_before: BytesBySource::default(),
        }
    }

    fn is_busy(&self) -> bool {
        matches!(self.state, HostState::Fetching | HostState::Promoting)
    }

    fn is_lost(&self) -> bool {
        matches!(self.state, HostState::Failed(_) | HostState::Unreachable(_))
    }

    fn deadline(&self, config: &Config) -> Duration {
        match &self.away {
            Some((since, _)) => *since + config.away_max,
            None => self.moved_at + config.stall_max,
        }
    }
}

/// What was fetched since `before`; the rest was held already. An agent that restarted counts from 0 again.
fn moved(now: BytesBySource, before: BytesBySource) -> BytesBySource {
    if now.seed < before.seed || now.peers < before.peers {
        return now;
    }
    let (seed, peers) = (now.seed - before.seed, now.peers - before.peers);
    BytesBySource {
        seed,
        peers,
        reuse: now.reuse + before.seed + before.peers,
    }
}
