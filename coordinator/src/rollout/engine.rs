//! The rollout engine: reports in, orders out. Sans-IO.
//!
//! Waves go one after the other. The hosts of a wave fetch; those that have, promote, once none of the wave
//! is still fetching; the next wave starts when none is still promoting. A wave that is a gate stops the
//! rollout when one of its hosts does not get there. A host that is gone for a while may come back; what
//! it was told last is told again, until its own report says that it follows it. Only reports are believed, since they are
//! signed: that a host is reached or away is the word of whoever relays for it.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use scap_proto::{
    id::{NodeId, ReleaseId},
    release::{BytesBySource, Outcome, Report, Stage},
};

/// How long a host may take to say that it follows an order before it is told again; then twice as long, and so on up to the
/// second. It says so at once.
const RETELL: (Duration, Duration) = (Duration::from_secs(3), Duration::from_secs(30));

/// How soon a host that is said to be reached again is told again: others that come with it are told in the same breath.
const RETELL_SOON: Duration = Duration::from_millis(50);

/// How often a host may be told in vain before it is dialled from here: whoever relays for it may not do so.
const TOLD_IN_VAIN_MAX: u32 = 2;

/// How long a refusal stands before it counts: who follows our order says so right after it refused what somebody else sent.
const REFUSAL: Duration = Duration::from_secs(2);

/// How often hosts are told of the finalization that have not confirmed it.
const REFINALIZE: Duration = Duration::from_secs(2);

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
    /// A host is said to be reached.
    Connected(NodeId),
    /// It is said not to be reached any more.
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
    /// Dial this host from here.
    Suspect {
        /// Which.
        host: NodeId,
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
    order: Option<Told>,
    moved_at: Duration,
    counter: u64,
    bytes_before: BytesBySource,
}

/// An order to one host.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Told {
    number: u64,
    stage: Stage,
    /// Whether it said that it follows it.
    is_heard: bool,
    /// When it is told again, unless it says so before.
    again_at: Duration,
    /// How often it was told again.
    times: u32,
    /// Since when it refuses it, and why.
    refused: Option<(Duration, String)>,
}

impl Told {
    fn new(now: Duration, number: u64, stage: Stage) -> Self {
        Self {
            number,
            stage,
            is_heard: false,
            again_at: now + RETELL.0,
            times: 0,
            refused: None,
        }
    }

    /// When there is something to do about it.
    fn wake_at(&self) -> Option<Duration> {
        let refused = self.refused.as_ref().map(|(since, _)| *since + REFUSAL);
        let again_at = (!self.is_heard).then_some(self.again_at);
        refused.into_iter().chain(again_at).min()
    }
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
    Wave {
        at: usize,
        stage: Stage,
    },
    Finalizing {
        until: Duration,
        again_at: Duration,
        verdict: Verdict,
    },
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
                // What it was told may not have reached it.
                let told = self.hosts.get_mut(&host);
                if let Some(told) = told.and_then(|progress| progress.order.as_mut()) {
                    told.again_at = told.again_at.min(now + RETELL_SOON);
                }
            }
            Input::Away { host, reason } => {
                if let Some(progress) = self.hosts.get_mut(&host) {
                    let since = progress.away.as_ref().map_or(now, |(since, _)| *since);
                    progress.away = Some((since, reason));
                }
            }
            Input::Report(report) => self.report(now, *report),
            Input::Timeout => {
                self.expire(now);
                self.tell_again(now);
            }
        }
        self.advance(now);
    }

    /// What to do next.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to feed [`Input::Timeout`].
    pub fn poll_timeout(&self) -> Option<Duration> {
        if let Phase::Finalizing {
            until, again_at, ..
        } = &self.phase
        {
            return Some(*until.min(again_at));
        }
        let busy = self.hosts.values().filter(|progress| progress.is_busy());
        let wakes = busy.flat_map(|progress| {
            let told = progress.order.as_ref().and_then(Told::wake_at);
            std::iter::once(progress.deadline(&self.config)).chain(told)
        });
        wakes.min()
    }

    /// Every host and where it is.
    pub fn hosts(&self) -> &BTreeMap<NodeId, HostProgress> {
        &self.hosts
    }

    /// Whether a host's latest report has this counter: others were replayed, or overtaken.
    pub fn is_latest(&self, host: &NodeId, counter: u64) -> bool {
        let progress = self.hosts.get(host);
        progress.is_some_and(|progress| progress.counter == counter)
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
        let report_refuses = report.refused_release();
        let Some(progress) = self.hosts.get_mut(&report.host) else {
            return;
        };
        // A counter never repeats: what is not newer was replayed, or overtaken on its way.
        if report.counter <= progress.counter {
            return;
        }
        progress.counter = report.counter;
        progress.away = None;
        if progress.order.is_none() && report.release == Some(self.config.release) {
            // It had been told of this release before: what it fetched then is not fetched now.
            progress.bytes_before = report.bytes;
        }
        if let Outcome::Refused { reason } = report.outcome {
            if report_refuses == Some(self.config.release)
                && let Some(told) = progress.order.as_mut().filter(|told| !told.is_heard)
            {
                told.refused.get_or_insert((now, reason));
            }
            return;
        }
        if report.release != Some(self.config.release) {
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
        let epoch = self.config.epoch;
        let told = progress.order.as_ref().map(|told| (epoch, told.number));
        if let Some(order) = progress.order.as_mut()
            && Some(report.directive) == told
        {
            order.is_heard = true;
            order.refused = None;
        }
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

    /// Tells again who did not say that it follows what it was told.
    fn tell_again(&mut self, now: Duration) {
        let mut orders: BTreeMap<(u64, u8), (Stage, Vec<NodeId>)> = BTreeMap::new();
        let mut refused = Vec::new();
        for (host, progress) in &mut self.hosts {
            let is_busy = progress.is_busy();
            let Some(told) = progress.order.as_mut().filter(|_| is_busy) else {
                continue;
            };
            if let Some((since, reason)) = &told.refused
                && *since + REFUSAL <= now
            {
                let reason = format!("refused: {reason}");
                refused.push((host.clone(), HostState::Failed(reason)));
                continue;
            }
            if told.is_heard || told.again_at > now {
                continue;
            }
            let (first, longest) = RETELL;
            told.again_at = now + (first * 2_u32.pow(told.times.min(8))).min(longest);
            told.times += 1;
            if told.times == TOLD_IN_VAIN_MAX {
                let host = host.clone();
                self.outputs.push_back(Output::Suspect { host });
            }
            let order = orders.entry((told.number, told.stage as u8));
            let (_, hosts) = order.or_insert((told.stage, Vec::new()));
            hosts.push(host.clone());
        }
        for ((number, _), (stage, hosts)) in orders {
            self.outputs.push_back(Output::Order {
                number,
                hosts,
                stage,
            });
        }
        for (host, state) in refused {
            self.settle(&host, state);
        }
        let again: Vec<NodeId> = self.unfinalized().cloned().collect();
        if let Phase::Finalizing { again_at, .. } = &mut self.phase
            && *again_at <= now
        {
            *again_at = now + REFINALIZE;
            self.outputs.push_back(Output::Finalize { hosts: again });
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
                Phase::Finalizing { until, verdict, .. } => {
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
            progress.order = Some(Told::new(now, number, stage));
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
            again_at: now + REFINALIZE,
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
