//! The rollout engine: reports in, orders out. Sans-IO.
//!
//! Waves go one after the other. The hosts of a wave fetch, which other waves may do before their turn; when none of the wave is
//! still fetching, those that have the release promote, group by group; when none is still promoting the wave soaks, and then
//! comes the next. No host is told to promote whose own report did not say that it has the whole release, verified.
//!
//! Hosts that are lost count against the limits of their wave, from its turn on. Where those that failed alone exceed one, all hosts
//! that were touched go back, the newest wave first. Where it takes unreachable ones to exceed it, nobody promotes any more
//! until they are back, or a person says how to go on.
//!
//! A host that is gone for a while may come back; what it was told last is told again, until its own report says that it follows it.
//! Only reports are believed, since they are signed: that a host is reached or away is the word of whoever relays for it.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use scap_proto::{
    id::{NodeId, ReleaseId},
    release::{Report, Stage},
};

use super::{
    host::{HostProgress, HostState, Told, Unheard},
    policy::{Limit, Policy, Prefetch},
    wait::{Wait, WaitingOn},
};

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
    /// The waves, and what they are to keep to.
    pub policy: Policy,
    /// How long a host may be away before it counts as unreachable.
    pub away_max: Duration,
    /// How long a host may go on without any progress before it counts as failed.
    pub stall_max: Duration,
    /// How long to wait for hosts to confirm the finalization. They hold to it in any case.
    pub finalize_max: Duration,
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
    /// End now, whatever it is at: hosts hold to what they were told last.
    Detach,
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
    /// Hosts of a wave begin with a stage.
    Began {
        /// The wave's name.
        wave: String,
        /// With what.
        stage: Stage,
        /// How many hosts.
        hosts: usize,
    },
    /// A host got there, or did not, or is back.
    Settled {
        /// Which.
        host: NodeId,
        /// Where it is now.
        state: HostState,
    },
    /// It waits for something else than before.
    Waits(Wait),
    /// All that was touched goes back from here on.
    RollsBack(Cause),
    /// It is over.
    Ended(Verdict),
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Every host has it live.
    Done,
    /// It is the stable release, and some hosts, no more than may be lost, do not have it.
    Partial,
    /// All waves went through, and no host has it live.
    Failed,
    /// It ended half-way, waiting for this; hosts hold to what they were told last.
    Stopped(Option<WaitingOn>),
    /// Every host that was touched is back where it was, if any was.
    RolledBack(Cause),
    /// Hosts were to go back, and of some it is not known that they did.
    RollbackIncomplete(Cause),
}

/// Why a rollout went back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// More hosts failed than may.
    Budget {
        /// Of what.
        of: String,
        /// How many failed.
        failed: usize,
        /// How many may be lost.
        allowed: usize,
    },
    /// A person said so.
    Abort,
}

/// One rollout.
#[derive(Debug)]
pub struct Engine {
    pub(super) config: Config,
    pub(super) hosts: BTreeMap<NodeId, HostProgress>,
    pub(super) phase: Phase,
    /// Since when it is paused.
    pub(super) paused: Option<Duration>,
    /// What it waited for when it was looked at last.
    waits: Option<(WaitingOn, Option<String>, Duration)>,
    next_number: u64,
    pub(super) outputs: VecDeque<Output>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Phase {
    Connecting,
    Waves(Turn),
    RollingBack(Cause),
    Finalizing { until: Duration, again_at: Duration },
    Ended,
}

/// Whose turn it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Turn {
    /// The wave, counted from 0.
    pub(super) wave: usize,
    pub(super) is_approved: bool,
    pub(super) soak: Soak,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Soak {
    #[default]
    Before,
    Until(Duration),
    Over,
}

impl Engine {
    /// A rollout that has not begun.
    pub fn new(config: Config) -> Self {
        let mut hosts = BTreeMap::new();
        for (at, wave) in config.policy.waves.iter().enumerate() {
            for (group, names) in wave.groups.iter().enumerate() {
                let one = |host: &NodeId| (host.clone(), HostProgress::new((at, group)));
                hosts.extend(names.iter().map(one));
            }
        }
        Self {
            config,
            hosts,
            phase: Phase::Connecting,
            paused: None,
            waits: None,
            next_number: 1,
            outputs: VecDeque::new(),
        }
    }

    /// Takes one event in. Drain [`Self::poll_output`] before the next.
    pub fn handle_input(&mut self, now: Duration, input: Input) {
        match input {
            Input::Start => {
                if self.phase == Phase::Connecting {
                    self.phase = Phase::Waves(Turn::default());
                }
            }
            Input::Connected(host) => {
                if let Some(progress) = self.hosts.get_mut(&host) {
                    progress.tell_soon(now);
                }
            }
            Input::Away { host, reason } => {
                if let Some(progress) = self.hosts.get_mut(&host) {
                    let since = progress.away.as_ref().map_or(now, |(since, _)| *since);
                    progress.away = Some((since, reason));
                }
            }
            Input::Report(report) if self.phase != Phase::Ended => self.report(now, *report),
            Input::Report(_) => {}
            Input::Detach => {
                if self.phase != Phase::Ended {
                    let waits = self.waits.as_ref().map(|(on, ..)| *on);
                    self.end(Verdict::Stopped(waits));
                }
            }
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
        let watched = self.hosts.values().filter(|it| self.is_watched(it));
        let wakes = watched.flat_map(|progress| {
            let told = progress.order.as_ref().filter(|_| progress.is_busy());
            let told = told.and_then(Told::wake_at);
            std::iter::once(progress.deadline(&self.config)).chain(told)
        });
        let soaked = match self.phase {
            Phase::Waves(Turn {
                soak: Soak::Until(until),
                ..
            }) => Some(until),
            _ => None,
        };
        wakes.chain(soaked).min()
    }

    /// Every host and where it is.
    pub fn hosts(&self) -> &BTreeMap<NodeId, HostProgress> {
        &self.hosts
    }

    /// What it was to keep to.
    pub fn policy(&self) -> &Policy {
        &self.config.policy
    }

    /// Whether a host's latest report has this counter: others were replayed, or overtaken.
    pub fn is_latest(&self, host: &NodeId, counter: u64) -> bool {
        let progress = self.hosts.get(host);
        progress.is_some_and(|progress| progress.counter == counter)
    }

    /// What it waits for; none before it begins and once it is over.
    pub fn wait(&self) -> Option<Wait> {
        let on = self.waiting_on()?;
        let since = match &self.waits {
            Some((last, wave, since)) if (*last, wave) == (on.on, &on.wave) => *since,
            _ => on.since,
        };
        Some(Wait { since, ..on })
    }

    /// Whether a host may be given up where it is.
    fn is_watched(&self, progress: &HostProgress) -> bool {
        match &self.phase {
            Phase::Waves(turn) => {
                let is_held_for = match progress.state {
                    HostState::Promoted => {
                        progress.place.0 == turn.wave && turn.soak != Soak::Before
                    }
                    HostState::Fetched => progress.place.0 <= turn.wave,
                    _ => false,
                };
                progress.is_busy() || (is_held_for && progress.away.is_some())
            }
            Phase::RollingBack(_) => progress.state == HostState::Reverting,
            _ => false,
        }
    }

    fn report(&mut self, now: Duration, report: Report) {
        let Config {
            release,
            sequence,
            epoch,
            ..
        } = self.config;
        let Some(progress) = self.hosts.get_mut(&report.host) else {
            return;
        };
        let host = report.host.clone();
        let counter = progress.counter;
        let state = progress.hear(now, report, release, sequence, epoch);
        let is_awaited = match self.phase {
            Phase::Waves(_) => true,
            Phase::RollingBack(_) => progress.is_touched,
            _ => false,
        };
        let is_back =
            progress.counter > counter && matches!(progress.state, HostState::Unreachable(_));
        if let Some(state) = state {
            self.settle(&host, state);
        } else if is_back && is_awaited {
            progress.gave_up = false;
            progress.is_excused = false;
            self.settle(&host, HostState::Waiting);
        }
    }

    pub(super) fn settle(&mut self, host: &NodeId, state: HostState) {
        let is_rolling_back = matches!(self.phase, Phase::RollingBack(_));
        let progress = self
            .hosts
            .get_mut(host)
            .expect("only hosts of the rollout settle");
        progress.state = state.clone();
        if let HostState::Failed(reason) | HostState::Unreachable(reason) = &state {
            progress.failure.get_or_insert_with(|| reason.clone());
            progress.gave_up = is_rolling_back;
        }
        self.outputs.push_back(Output::Settled {
            host: host.clone(),
            state,
        });
    }

    fn expire(&mut self, now: Duration) {
        let is_late = |it: &&HostProgress| self.is_watched(it) && it.deadline(&self.config) <= now;
        let late: Vec<(NodeId, HostState)> = self
            .hosts
            .iter()
            .filter(|(_, progress)| is_late(progress))
            .map(|(host, progress)| (host.clone(), progress.given_up(&self.config)))
            .collect();
        for (host, state) in late {
            self.settle(&host, state);
        }
    }

    /// Tells again who did not say that it follows what it was told.
    fn tell_again(&mut self, now: Duration) {
        let mut orders: BTreeMap<(u64, u8), (Stage, Vec<NodeId>)> = BTreeMap::new();
        let mut refused = Vec::new();
        let is_rolling_back = matches!(self.phase, Phase::RollingBack(_));
        for (host, progress) in &mut self.hosts {
            // Whoever still fetches while others go back may do so or not.
            let is_awaited = match is_rolling_back {
                true => progress.state == HostState::Reverting,
                false => progress.is_busy(),
            };
            let Some(told) = progress.order.as_mut().filter(|_| is_awaited) else {
                continue;
            };
            match told.take_due(now) {
                Unheard::Nothing => continue,
                Unheard::Refused(reason) => {
                    refused.push((host.clone(), HostState::Failed(reason)));
                    continue;
                }
                Unheard::Tell { is_suspect: true } => {
                    let host = host.clone();
                    self.outputs.push_back(Output::Suspect { host });
                }
                Unheard::Tell { is_suspect: false } => {}
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

    /// Does all that may be done now.
    pub(super) fn advance(&mut self, now: Duration) {
        loop {
            let has_moved = match self.phase.clone() {
                Phase::Connecting | Phase::Ended => false,
                Phase::Waves(turn) => self.advance_waves(now, turn),
                Phase::RollingBack(cause) => self.advance_rollback(now, cause),
                Phase::Finalizing { until, .. } => {
                    let is_over = self.unfinalized().next().is_none() || until <= now;
                    if is_over {
                        let is_complete = self.promoted().count() == self.hosts.len();
                        self.end(match is_complete {
                            true => Verdict::Done,
                            false => Verdict::Partial,
                        });
                    }
                    is_over
                }
            };
            if !has_moved {
                break;
            }
        }
        let waits = self.waiting_on();
        let last = self.waits.as_ref().map(|(on, wave, _)| (on, wave));
        if last == waits.as_ref().map(|wait| (&wait.on, &wait.wave)) {
            return;
        }
        self.waits = waits.as_ref().map(|wait| (wait.on, wait.wave.clone(), now));
        if let Some(wait) = waits {
            let wait = Wait { since: now, ..wait };
            self.outputs.push_back(Output::Waits(wait));
        }
    }

    /// Takes one step in the waves, if one may be taken.
    fn advance_waves(&mut self, now: Duration, mut turn: Turn) -> bool {
        if let Some((limit, failed)) = self.exceeded_by_failures(turn) {
            let cause = Cause::Budget {
                of: limit.of.clone(),
                failed,
                allowed: limit.allowed,
            };
            self.roll_back(cause);
            return true;
        }
        if matches!(turn.soak, Soak::Until(until) if until <= now) {
            turn.soak = Soak::Over;
            self.phase = Phase::Waves(turn);
        }
        if self.paused.is_some() {
            return false;
        }
        if self.begin_fetch(now, turn) {
            return true;
        }
        if self.exceeded(turn).is_some() {
            return false;
        }
        let wave = &self.config.policy.waves[turn.wave];
        let is_approved = turn.is_approved || !wave.needs_approval;
        // Also hosts of earlier waves that came back.
        let waves = turn.wave + usize::from(is_approved);
        if (0..waves).any(|at| self.begin_promote(now, at)) {
            return true;
        }
        is_approved && self.end_turn(now, turn)
    }

    /// Has all hosts fetch that may and were not told to, wave by wave.
    fn begin_fetch(&mut self, now: Duration, turn: Turn) -> bool {
        let is_canary_live = turn.wave > 0 || turn.soak != Soak::Before;
        let may_fetch = |wave: usize| match self.config.policy.prefetch {
            Prefetch::All => true,
            Prefetch::Canary => wave == 0 || is_canary_live,
            Prefetch::Wave => wave <= turn.wave,
        };
        let is_due = |progress: &HostProgress| {
            progress.state == HostState::Waiting && may_fetch(progress.place.0)
        };
        let due = self.hosts.iter().filter(|(_, it)| is_due(it));
        let due: Vec<NodeId> = due.map(|(host, _)| host.clone()).collect();
        let mut waves: BTreeMap<usize, Vec<NodeId>> = BTreeMap::new();
        for host in &due {
            let progress = &self.hosts[host];
            match &progress.away {
                // It had its time to be reached before the rollout began, or has had it since.
                Some((since, reason))
                    if progress.counter == 0 || *since + self.config.away_max <= now =>
                {
                    let state = HostState::Unreachable(reason.clone());
                    self.settle(host, state);
                }
                _ => waves
                    .entry(progress.place.0)
                    .or_default()
                    .push(host.clone()),
            }
        }
        self.order(now, Stage::Fetch, waves);
        !due.is_empty()
    }

    /// Has the next group of a wave promote, once nobody of the wave is still fetching, none that has fetched is away, and the group
    /// before it is through.
    fn begin_promote(&mut self, now: Duration, at: usize) -> bool {
        use HostState::{Fetched, Fetching, Promoting, Waiting};
        let of_wave = || self.hosts.iter().filter(|(_, it)| it.place.0 == at);
        let holds = |it: &HostProgress| match it.state {
            Fetching | Waiting | Promoting => true,
            Fetched => it.away.is_some(),
            _ => false,
        };
        if of_wave().any(|(_, it)| holds(it)) {
            return false;
        }
        let ready = || of_wave().filter(|(_, it)| it.state == Fetched);
        let Some(group) = ready().map(|(_, it)| it.place.1).min() else {
            return false;
        };
        let hosts = ready().filter(|(_, it)| it.place.1 == group);
        let hosts = hosts.map(|(host, _)| host.clone()).collect();
        self.order(now, Stage::Promote, BTreeMap::from([(at, hosts)]));
        true
    }

    /// Begins to soak, or ends the turn, once all hosts of the wave are settled.
    fn end_turn(&mut self, now: Duration, turn: Turn) -> bool {
        use HostState::{Fetched, Promoted, Waiting};
        let of_wave = || self.hosts.values().filter(|it| it.place.0 == turn.wave);
        if of_wave().any(|it| it.is_busy() || matches!(it.state, Fetched | Waiting)) {
            return false;
        }
        let wave = &self.config.policy.waves[turn.wave];
        let promoted = || of_wave().filter(|it| it.state == Promoted);
        if turn.soak == Soak::Before && promoted().next().is_some() && !wave.soak.is_zero() {
            let soak = Soak::Until(now + wave.soak);
            self.phase = Phase::Waves(Turn { soak, ..turn });
            return true;
        }
        // Who is away has not been seen to bear it.
        let is_away = || turn.soak == Soak::Over && promoted().any(|it| it.away.is_some());
        if matches!(turn.soak, Soak::Until(_)) || is_away() {
            return false;
        }
        if turn.wave + 1 < self.config.policy.waves.len() {
            let wave = turn.wave + 1;
            self.phase = Phase::Waves(Turn {
                wave,
                ..Turn::default()
            });
            return true;
        }
        if self.hosts.values().any(HostProgress::is_busy) {
            return false;
        }
        self.finalize(now);
        true
    }

    /// Gives hosts of these waves one order.
    pub(super) fn order(
        &mut self,
        now: Duration,
        stage: Stage,
        waves: BTreeMap<usize, Vec<NodeId>>,
    ) {
        let mut hosts: Vec<NodeId> = waves.values().flatten().cloned().collect();
        if hosts.is_empty() {
            return;
        }
        hosts.sort();
        let number = self.next_number;
        self.next_number += 1;
        for (at, hosts) in &waves {
            self.outputs.push_back(Output::Began {
                wave: self.config.policy.waves[*at].name.clone(),
                stage,
                hosts: hosts.len(),
            });
        }
        for host in &hosts {
            let progress = self.hosts.get_mut(host).expect("a wave's hosts are known");
            progress.order = Some(Told::new(now, number, stage));
            progress.moved_at = now;
            progress.state = match stage {
                Stage::Fetch => HostState::Fetching,
                Stage::Promote => HostState::Promoting,
                Stage::Revert => HostState::Reverting,
            };
            progress.is_touched |= stage == Stage::Promote && !progress.is_finalized;
        }
        self.outputs.push_back(Output::Order {
            number,
            hosts,
            stage,
        });
    }

    /// The first limit, of a wave whose turn has come, that failed hosts alone exceed, and how many failed.
    fn exceeded_by_failures(&self, turn: Turn) -> Option<(&Limit, usize)> {
        let is_failed =
            |it: &HostProgress| matches!(it.state, HostState::Failed(_)) && it.is_lost();
        self.first_exceeded(turn, is_failed)
    }

    /// The first limit, of a wave whose turn has come, that all lost hosts together exceed, and how many are lost.
    pub(super) fn exceeded(&self, turn: Turn) -> Option<(&Limit, usize)> {
        self.first_exceeded(turn, HostProgress::is_lost)
    }

    fn first_exceeded(
        &self,
        turn: Turn,
        counts: impl Fn(&HostProgress) -> bool,
    ) -> Option<(&Limit, usize)> {
        let waves = &self.config.policy.waves[..=turn.wave];
        let mut limits = waves.iter().flat_map(|wave| &wave.limits);
        limits.find_map(|limit| {
            let lost = limit.hosts.iter().filter(|host| counts(&self.hosts[*host]));
            let lost = lost.count();
            (lost > limit.allowed).then_some((limit, lost))
        })
    }

    /// All waves went through: who was lost is no more than may be, and catches up.
    fn finalize(&mut self, now: Duration) {
        let promoted = self.promoted().cloned().collect::<Vec<_>>();
        if promoted.is_empty() {
            return self.end(Verdict::Failed);
        }
        self.outputs.push_back(Output::Finalize { hosts: promoted });
        self.phase = Phase::Finalizing {
            until: now + self.config.finalize_max,
            again_at: now + REFINALIZE,
        };
    }

    pub(super) fn end(&mut self, verdict: Verdict) {
        self.phase = Phase::Ended;
        self.outputs.push_back(Output::Ended(verdict));
    }

    fn promoted(&self) -> impl Iterator<Item = &NodeId> {
        let is_one = |it: &HostProgress| it.state == HostState::Promoted;
        let promoted = self.hosts.iter().filter(move |(_, it)| is_one(it));
        promoted.map(|(host, _)| host)
    }

    pub(super) fn unfinalized(&self) -> impl Iterator<Item = &NodeId> {
        self.promoted().filter(|host| {
            let progress = &self.hosts[*host];
            !progress.is_finalized && progress.away.is_none()
        })
    }
}
