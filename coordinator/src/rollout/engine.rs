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
    reason::Reason,
    release::{Reach, Report, Stage},
};

use super::{
    external::ExternalCheck,
    host::{HostProgress, HostState, Told},
    policy::Policy,
    spent::Spent,
    steps::Steps,
    wait::{Wait, WaitingOn},
    waves::{Soak, Turn},
};

/// How often hosts are told of the finalization that have not confirmed it.
pub(super) const REFINALIZE: Duration = Duration::from_secs(2);

/// How far above ours an epoch may be that a host says it follows: each is one person's going on with a release, which has a week
/// to begin, so one that is further away is no other coordinator's.
pub const EPOCH_JUMP_MAX: u64 = 1_000;

/// What differs between one rollout and another.
#[derive(Debug, Clone)]
pub struct Config {
    /// The release that reports must be about.
    pub release: ReleaseId,
    /// Its sequence.
    pub sequence: u64,
    /// The epoch of the grant. Above 1 somebody directed the release before, and hosts that have said nothing may have it live.
    pub epoch: u64,
    /// Whether it was going back before this grant, and so does nothing else.
    pub goes_back: bool,
    /// Whether it is the stable release already, and this is for hosts that were lost: then nobody goes back from it.
    pub is_finalized: bool,
    /// For whom it is so already, where it is: that stays as it is.
    pub reach: Option<Reach>,
    /// After how long a host goes back by itself that has the release live and hears of nobody; none where it keeps it.
    pub dead_man: Option<Duration>,
    /// Until when hosts may be told to fetch or promote: they refuse what is told later. They may always be told to go back.
    pub granted_until: Duration,
    /// The waves, and what they are to keep to.
    pub policy: Policy,
    /// How long a host may be away before it counts as unreachable.
    pub away_max: Duration,
    /// How long a host may go on without any progress before it counts as failed.
    pub stall_max: Duration,
    /// Whether that holds also for a host that is at a step which may take longer: a person said so.
    pub is_stall_exact: bool,
    /// What the release has hosts do that takes a while and ends by itself.
    pub steps: Steps,
    /// The same while it goes back.
    pub steps_back: Steps,
    /// What looks at each wave from here, once it has the release live.
    pub external_check: Option<ExternalCheck>,
    /// The highest counter of each host's reports that was heard before this rollout: lower ones are old.
    pub counters: BTreeMap<NodeId, u64>,
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
    /// What the look of that number found.
    Looked {
        /// Which, as [`Output::Look`] said.
        number: u64,
        /// That all is well, or why not.
        result: Result<(), String>,
    },
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
    /// Look at these hosts from here, and say what was found.
    Look {
        /// Each look has another.
        number: u64,
        /// The wave's name.
        wave: String,
        /// Those of it that have the release live.
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
    /// Every host has it live, and said that it is its stable one.
    Done,
    /// It is the stable release, and some hosts do not have it, or did not say so.
    Partial,
    /// All waves went through, and no host has it live.
    Failed,
    /// It ended half-way, waiting for this; hosts hold to what they were told last.
    Stopped(Option<WaitingOn>),
    /// Every host that was touched is back where it was, if any was.
    RolledBack(Cause),
    /// Hosts were to go back, and of some it is not known that they did.
    RollbackIncomplete(Cause),
    /// Somebody else directs the release by a later grant: hosts follow that, and nothing that is said from here.
    TakenOver {
        /// The host that said so first.
        host: NodeId,
        /// The epoch that it follows.
        epoch: u64,
    },
}

impl Verdict {
    /// The code of why it ended so; none where all is well.
    pub fn code(&self) -> Option<Reason> {
        Some(match self {
            Self::Done => return None,
            Self::Partial => Reason::HostsLost,
            Self::Failed => Reason::NoneLive,
            Self::Stopped(None) => Reason::Interrupted,
            Self::Stopped(Some(on)) => (*on).into(),
            Self::RolledBack(cause) | Self::RollbackIncomplete(cause) => cause.code(),
            Self::TakenOver { .. } => Reason::TakenOver,
        })
    }
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
    /// What looks at waves from here found one that is not well.
    External {
        /// Which.
        wave: String,
        /// Why not.
        reason: String,
    },
    /// A person said so.
    Abort,
    /// The rollout that this one goes on with was going back.
    Before,
}

impl Cause {
    /// Its code.
    pub fn code(&self) -> Reason {
        match self {
            Self::Budget { .. } => Reason::BudgetExceeded,
            Self::External { .. } => Reason::ExternalCheckFailed,
            Self::Abort => Reason::Aborted,
            Self::Before => Reason::WasGoingBack,
        }
    }
}

/// One rollout.
#[derive(Debug)]
pub struct Engine {
    pub(super) config: Config,
    pub(super) hosts: BTreeMap<NodeId, HostProgress>,
    pub(super) phase: Phase,
    /// Since when it is paused.
    pub(super) paused: Option<Duration>,
    /// Whether the last interrupt could not pause it.
    pub(super) was_warned: bool,
    /// Whether the grant is over.
    pub(super) is_out_of_grant: bool,
    /// What it waited for when it was looked at last, and since when.
    pub(super) waits: Option<(WaitingOn, Option<String>, Duration)>,
    /// How long its waits before that one took.
    pub(super) spent: Spent,
    pub(super) next_number: u64,
    /// How often waves were looked at.
    pub(super) looks: u64,
    /// What was seen there, and is to be acted upon.
    pub(super) ill: Option<Cause>,
    /// When hosts heard last that it goes on.
    pub(super) renewed_at: Duration,
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

impl Engine {
    /// A rollout that has not begun.
    pub fn new(config: Config) -> Self {
        let mut hosts = BTreeMap::new();
        let may_be_live = config.epoch > 1 && !config.is_finalized;
        for (at, wave) in config.policy.waves.iter().enumerate() {
            for (group, names) in wave.groups.iter().enumerate() {
                let one = |host: &NodeId| {
                    let mut progress = HostProgress::new((at, group));
                    progress.is_touched = may_be_live;
                    progress.counter_before = config.counters.get(host).copied().unwrap_or(0);
                    (host.clone(), progress)
                };
                hosts.extend(names.iter().map(one));
            }
        }
        Self {
            config,
            hosts,
            phase: Phase::Connecting,
            paused: None,
            was_warned: false,
            is_out_of_grant: false,
            waits: None,
            spent: Spent::default(),
            next_number: 1,
            looks: 0,
            ill: None,
            renewed_at: Duration::ZERO,
            outputs: VecDeque::new(),
        }
    }

    /// Takes one event in. Drain [`Self::poll_output`] before the next.
    pub fn handle_input(&mut self, now: Duration, input: Input) {
        self.is_out_of_grant |= self.config.granted_until <= now;
        match input {
            Input::Start => {
                if self.phase == Phase::Connecting && self.config.goes_back {
                    self.roll_back(Cause::Before);
                } else if self.phase == Phase::Connecting {
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
            Input::Looked { number, result } => self.looked(number, result),
            Input::Detach => {
                if self.phase != Phase::Ended {
                    let waits = self.waits.as_ref().map(|(on, ..)| *on);
                    self.end(Verdict::Stopped(waits));
                }
            }
            Input::Timeout => {
                self.expire(now);
                self.renew(now);
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
            let is_told_again = progress.is_busy() && !self.is_out_of_grant_for(progress);
            let told = progress.order.as_ref().filter(|_| is_told_again);
            let told = told.and_then(Told::wake_at);
            std::iter::once(progress.deadline(&self.config)).chain(told)
        });
        let next = match self.phase {
            Phase::Waves(Turn {
                soak: Soak::Until(until),
                ..
            }) => Some(until),
            Phase::RollingBack(_) => self.rollback_held_until(),
            _ => None,
        };
        let is_running_out = matches!(self.phase, Phase::Waves(_)) && !self.is_out_of_grant;
        let granted_until = is_running_out.then_some(self.config.granted_until);
        let renewals = self
            .renewal_at()
            .into_iter()
            .chain(self.retell_renewal_at());
        wakes.chain(next).chain(granted_until).chain(renewals).min()
    }

    /// Whether what a host was told last is not told again, since it would refuse it.
    pub(super) fn is_out_of_grant_for(&self, progress: &HostProgress) -> bool {
        self.is_out_of_grant && progress.state != HostState::Reverting
    }

    /// Every host and where it is.
    pub fn hosts(&self) -> &BTreeMap<NodeId, HostProgress> {
        &self.hosts
    }

    /// For whom the release is the stable one, now or once it is: for all, or where a person chose its hosts for these; never for
    /// those that a person went on without. Who was not reached is meant, and catches up.
    pub fn reach(&self) -> Reach {
        if let Some(reach) = &self.config.reach {
            return reach.clone();
        }
        let is_skipped = |it: &HostProgress| matches!(it.state, HostState::Skipped(_));
        let hosts = |skipped: bool| {
            let hosts = self.hosts.iter();
            let hosts = hosts.filter(move |(_, it)| is_skipped(it) == skipped);
            hosts.map(|(host, _)| host.clone()).collect()
        };
        match self.config.policy.is_limited {
            true => Reach::Only(hosts(false)),
            false => Reach::all_but(hosts(true)),
        }
    }

    /// The counter of the latest report of each host that said anything.
    pub fn counters(&self) -> BTreeMap<NodeId, u64> {
        let heard = self.hosts.iter().filter(|(_, it)| it.counter > 0);
        heard.map(|(host, it)| (host.clone(), it.counter)).collect()
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

    fn report(&mut self, now: Duration, report: Report) {
        let Config {
            release,
            epoch,
            is_finalized,
            ..
        } = self.config;
        let Some(progress) = self.hosts.get_mut(&report.host) else {
            return;
        };
        let host = report.host.clone();
        let counter = progress.counter;
        let followed = report.directive.0;
        let is_of_another = followed > epoch && followed <= epoch.saturating_add(EPOCH_JUMP_MAX);
        // While hosts go back nobody's word stops that: whoever took over would have them go back, too.
        let may_end = !matches!(self.phase, Phase::RollingBack(_));
        // Nor that of who says again what was said before this rollout.
        let may_end = may_end && report.counter > progress.counter_before;
        if may_end && report.release == Some(release) && report.counter > counter && is_of_another {
            let epoch = followed;
            return self.end(Verdict::TakenOver { host, epoch });
        }
        let was_live = progress.is_live;
        let state = progress.hear(now, report, &self.config);
        if is_finalized {
            progress.is_touched = false;
            if progress.is_live && !was_live && !progress.is_finalized {
                let hosts = vec![host.clone()];
                self.outputs.push_back(Output::Finalize { hosts });
            }
        }
        let is_awaited = match self.phase {
            Phase::Waves(_) => true,
            Phase::RollingBack(_) => progress.is_touched,
            _ => false,
        };
        let is_back =
            progress.counter > counter && matches!(progress.state, HostState::Unreachable(_));
        if let Some(state) = state {
            let is_live = state == HostState::Promoted;
            self.settle(&host, state);
            if is_live {
                self.soak_late(now, &host);
            }
        } else if is_back && is_awaited {
            progress.gave_up = false;
            progress.is_excused = false;
            self.settle(&host, HostState::Waiting);
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
                        self.settle_unconfirmed();
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
        self.spent = self.spent(now);
        self.waits = waits.as_ref().map(|wait| (wait.on, wait.wave.clone(), now));
        if let Some(wait) = waits {
            let wait = Wait { since: now, ..wait };
            self.outputs.push_back(Output::Waits(wait));
        }
    }

    /// All waves went through: who was lost is no more than may be, and catches up.
    pub(super) fn finalize(&mut self, now: Duration) {
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

    /// Whoever did not confirm the finalization in time is no host of which it is known that all is well.
    fn settle_unconfirmed(&mut self) {
        let unconfirmed: Vec<NodeId> = self.unfinalized().cloned().collect();
        for host in unconfirmed {
            let state = match &self.hosts[&host].away {
                Some((_, reason)) => HostState::Unreachable(Reason::Unreachable.because(reason)),
                None => HostState::Failed(Reason::Unconfirmed.because(format!(
                    "it has the release live, and did not confirm within {} s that it is the stable one",
                    self.config.finalize_max.as_secs()
                ))),
            };
            self.settle(&host, state);
        }
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
        self.promoted()
            .filter(|host| !self.hosts[*host].is_finalized)
    }
}
