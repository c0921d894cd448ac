//! Runs a rollout: the engine between the hub and whoever watches.

mod look;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bytes::Bytes;
use scap_agent::{node::Node, topology::Topology};
use scap_proto::{
    id::{NodeId, PlanId, ReleaseId},
    identity::SecretKey,
    release::{
        Directive, Finalization, Outcome, Plan, SignedDirective, SignedFinalization, Stage,
        Targets, VerifiedGrant, VerifiedRelease,
    },
    wire::control::{ControlMessage, Finalize, Order},
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::{Instant, MissedTickBehavior},
};

use super::{
    Command, CommandError, Config, Engine, ExternalCheck, Input, Output, Verdict, WaitingOn,
};
use crate::fleet::{
    hub::{Hub, HubEvent},
    leases::Leases,
};

/// How often a watcher is shown the engine, at most: what a person can read, and no more.
const WATCH_PERIOD: Duration = Duration::from_millis(200);

/// All that a rollout's orders are made of.
#[derive(Debug)]
pub struct Session {
    /// The release.
    pub release: VerifiedRelease,
    /// Who directs it.
    pub grant: VerifiedGrant,
    /// The key that the grant names.
    pub key: SecretKey,
    /// How hosts fetch.
    pub plan: (PlanId, Bytes),
}

/// Who watches a rollout.
pub trait Watcher {
    /// Something happened.
    fn output(&mut self, engine: &Engine, output: &Output);
    /// Time passed: it is now so long since the rollout began.
    fn tick(&mut self, engine: &Engine, now: Duration);
    /// A person interrupted: it is paused now, or why not. One more interrupt ends it.
    fn interrupted(&mut self, paused: Result<(), CommandError>);
}

/// Where people come to.
#[derive(Debug)]
pub struct Desk {
    /// What they want.
    pub requests: mpsc::Receiver<Request>,
    /// How long to wait for somebody when too many hosts are unreachable; none for as long as it takes.
    pub budget_hold: Option<Duration>,
    /// How long to wait for an approval; none for as long as it takes.
    pub approval_hold: Option<Duration>,
}

/// What a person wants of a running rollout.
pub enum Request {
    /// Pause, and when that was done or cannot be, end.
    Interrupt,
    /// Follow a command.
    Command {
        /// Which.
        command: Command,
        /// Whether it was followed.
        answer: oneshot::Sender<Result<(), CommandError>>,
    },
    /// Have somebody look.
    Look(Look),
}

/// Something that looks at the engine, so long after the rollout began.
pub type Look = Box<dyn FnOnce(&Engine, Duration) + Send>;

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Interrupt => f.write_str("Interrupt"),
            Self::Command { command, .. } => f.debug_tuple("Command").field(command).finish(),
            Self::Look(_) => f.write_str("Look"),
        }
    }
}

/// How a rollout ended.
#[derive(Debug)]
pub struct Ended {
    /// The engine, with every host in it.
    pub engine: Engine,
    /// How it ended.
    pub verdict: Verdict,
    /// Whether the release was finalized.
    pub is_finalized: bool,
}

/// Runs a rollout to its end. `known` is what was heard of the hosts by now; `seed` serves the release, and feeds those who
/// are fed by nobody else.
///
/// Cancel-safe in that hosts hold to what they were told last.
pub async fn run(
    config: Config,
    session: &Session,
    hub: &mut Hub,
    seed: &Node,
    known: Vec<HubEvent>,
    watcher: &mut impl Watcher,
    mut desk: Desk,
) -> Ended {
    let started = Instant::now();
    let config_check = config.external_check.clone();
    let mut driver = Driver {
        session,
        started,
        hub,
        seed,
        leases: Leases::default(),
        relayed: BTreeMap::new(),
        topology: Topology::of_plan(
            &Plan::decode(session.plan.0, &session.plan.1).expect("it is our own"),
        ),
        is_finalized: config.is_finalized,
        engine: Engine::new(config),
        plan_holders: BTreeSet::new(),
        waits_since: None,
        external_check: config_check,
        looks: JoinSet::new(),
    };
    for event in known {
        let kept = kept_plan(&event);
        driver.engine.handle_input(Duration::ZERO, input(event));
        driver.note_plan(kept);
    }
    driver.engine.handle_input(Duration::ZERO, Input::Start);
    let mut watch = tokio::time::interval(WATCH_PERIOD);
    // What was not seen in time is not seen twice as fast later.
    watch.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        if let Some(verdict) = driver.drain(watcher) {
            let Driver {
                engine,
                is_finalized,
                ..
            } = driver;
            return Ended {
                engine,
                verdict,
                is_finalized,
            };
        }
        let wake = driver.engine.poll_timeout().map(|at| started + at);
        let given_up = driver.held_until(&desk);
        let input = tokio::select! {
            biased;
            // However much hosts say, people are heard.
            Some(request) = desk.requests.recv() => {
                driver.serve(request, started.elapsed(), watcher);
                continue;
            }
            Some(event) = driver.hub.events.recv() => {
                let need = need(&event, session.release.id());
                let kept = kept_plan(&event);
                driver.engine.handle_input(started.elapsed(), input(event));
                driver.note_plan(kept);
                if let Some((host, need)) = need {
                    if matches!(need, Need::Wait) {
                        driver.end_leases_of(&host);
                    }
                    driver.lease(&host, need, started.elapsed()).await;
                }
                continue;
            }
            Some(looked) = driver.looks.join_next() => {
                let (number, result) = looked.expect("looking does not panic");
                Input::Looked { number, result }
            }
            () = sleep_until(given_up) => Input::Detach,
            () = sleep_until(wake) => Input::Timeout,
            _ = watch.tick() => {
                watcher.tick(&driver.engine, started.elapsed());
                continue;
            }
        };
        driver.engine.handle_input(started.elapsed(), input);
    }
}

struct Driver<'a> {
    session: &'a Session,
    started: Instant,
    hub: &'a mut Hub,
    seed: &'a Node,
    leases: Leases<NodeId>,
    /// Who is fed by a relay in place of the seed, and by which.
    relayed: BTreeMap<NodeId, NodeId>,
    topology: Topology,
    engine: Engine,
    /// Hosts that say that they keep the plan: what is ordered of these alone goes without it.
    plan_holders: BTreeSet<NodeId>,
    is_finalized: bool,
    /// What it waits for, and since when.
    waits_since: Option<(WaitingOn, Instant)>,
    external_check: Option<ExternalCheck>,
    /// What looks at waves now. A look that counts no more is let run to its end.
    looks: JoinSet<(u64, Result<(), String>)>,
}

impl Driver<'_> {
    /// When nobody is waited for any more.
    fn held_until(&self, desk: &Desk) -> Option<Instant> {
        let (on, since) = self.waits_since?;
        let hold = match on {
            WaitingOn::Budget => desk.budget_hold,
            WaitingOn::Approval => desk.approval_hold,
            // Nobody can end this one.
            WaitingOn::Grant => Some(Duration::ZERO),
            _ => None,
        };
        Some(since + hold?)
    }

    fn serve(&mut self, request: Request, now: Duration, watcher: &mut impl Watcher) {
        match request {
            Request::Interrupt => {
                if let Some(paused) = self.engine.interrupt(now) {
                    watcher.interrupted(paused);
                }
            }
            Request::Command { command, answer } => {
                tracing::info!(?command, "a person says");
                // Whoever asked may have left.
                let _ = answer.send(self.engine.command(now, command));
            }
            Request::Look(look) => look(&self.engine, now),
        }
    }

    /// Takes note of who keeps the plan. Who turns out not to keep it any more gets its order again, with the plan.
    fn note_plan(&mut self, kept: Option<KeptPlan>) {
        let Some(kept) = kept.filter(|it| self.engine.is_latest(&it.host, it.counter)) else {
            return;
        };
        if kept.plan == Some(self.session.plan.0) {
            self.plan_holders.insert(kept.host);
        } else if self.plan_holders.remove(&kept.host) {
            let again = Input::Connected(kept.host);
            self.engine.handle_input(self.started.elapsed(), again);
        }
    }

    /// Feeds who needs it, if few enough do.
    async fn lease(&mut self, host: &NodeId, need: Need, now: Duration) {
        match need {
            Need::Seed(counter) if self.engine.is_latest(host, counter) => {
                let place = self.topology.place(host).unwrap_or(usize::MAX);
                self.leases.ask(place, host);
            }
            Need::Nothing(counter) if self.engine.is_latest(host, counter) => {
                self.leases.end(host);
            }
            Need::Wait => self.leases.withdraw(host),
            Need::Seed(_) | Need::Nothing(_) => {}
        }
        while let Some(host) = self.leases.grant(now) {
            self.feed(&host).await;
        }
    }

    /// Feeds a host, or has one of its relays do so that is reached and has most: a host that is not reached asks for nothing.
    async fn feed(&mut self, host: &NodeId) {
        let release = self.session.release.id();
        let relays = self.topology.edges(host).map(|edges| edges.relays);
        let relays = relays.unwrap_or_default();
        if relays.is_empty() {
            tracing::info!(%host, "nobody feeds it; the seed does");
            return self.seed.lease(release, host).await;
        }
        let hosts = self.engine.hosts();
        let reached = relays.into_iter().filter(|it| hosts[it].away.is_none());
        let Some(relay) = reached.max_by_key(|relay| hosts[relay].chunks.0) else {
            return self.leases.end(host);
        };
        tracing::info!(%host, %relay, "nobody feeds it; its relay does");
        self.hub.lease(release, &relay, host);
        self.relayed.insert(host.clone(), relay);
    }

    /// Whom a lost relay fed may ask again.
    fn end_leases_of(&mut self, relay: &NodeId) {
        let is_lost = self
            .engine
            .hosts()
            .get(relay)
            .is_some_and(|it| it.away.is_some());
        let of_it = self.relayed.extract_if(.., |_, by| is_lost && by == relay);
        for (host, _) in of_it {
            self.leases.end(&host);
        }
    }

    /// Begins to look at hosts of a wave from here.
    fn look(&mut self, number: u64, wave: String, hosts: Vec<NodeId>) {
        let check = self.external_check.clone();
        let check = check.expect("without one nobody asks for a look");
        let release = self.session.release.release();
        let about = [
            ("SCAP_REPO", release.repo.to_string()),
            ("SCAP_ENVIRONMENT", release.environment.to_string()),
            ("SCAP_RELEASE", self.session.release.id().to_string()),
        ];
        tracing::info!(wave, hosts = hosts.len(), "the external check begins");
        self.looks.spawn(async move {
            let result = look::look(check, wave, hosts, about).await;
            (number, result)
        });
    }

    fn drain(&mut self, watcher: &mut impl Watcher) -> Option<Verdict> {
        let mut verdict = None;
        while let Some(output) = self.engine.poll_output() {
            watcher.output(&self.engine, &output);
            match output {
                Output::Order {
                    number,
                    hosts,
                    stage,
                } => {
                    let directive = Directive {
                        release: self.session.release.id(),
                        epoch: self.session.grant.grant().epoch,
                        number,
                        targets: Targets::Only(sorted(&hosts)),
                        stage,
                        plan: Some(self.session.plan.0),
                        extensions: Default::default(),
                    };
                    let directive = match self.engine.dead_man() {
                        Some(time) if stage != Stage::Revert => directive.lapsing_after(time),
                        _ => directive,
                    };
                    let is_kept = hosts.iter().all(|host| self.plan_holders.contains(host));
                    tracing::debug!(
                        number,
                        hosts = hosts.len(),
                        plan_bytes = if is_kept {
                            0
                        } else {
                            self.session.plan.1.len()
                        },
                        "ordered"
                    );
                    let order = Order {
                        release: self.session.release.signed().clone(),
                        grant: self.session.grant.signed().clone(),
                        directive: SignedDirective::sign(&directive, &self.session.key),
                        plan: (!is_kept).then(|| self.session.plan.1.clone()),
                    };
                    self.hub.send(ControlMessage::Order(Box::new(order)));
                }
                Output::Suspect { host } => self.hub.suspect(&host),
                Output::Finalize { hosts } => {
                    self.is_finalized = true;
                    let finalization = Finalization::of(&self.session.release);
                    let finalization = finalization.reaching(&self.engine.reach());
                    let finalize = Finalize {
                        release: self.session.release.signed().clone(),
                        grant: self.session.grant.signed().clone(),
                        finalization: SignedFinalization::sign(&finalization, &self.session.key),
                    };
                    self.hub.send(ControlMessage::FinalizeAt {
                        hosts: Targets::Only(sorted(&hosts)),
                        finalize: Box::new(finalize),
                    });
                }
                Output::Look {
                    number,
                    wave,
                    hosts,
                } => self.look(number, wave, hosts),
                Output::Waits(wait) => self.waits_since = Some((wait.on, Instant::now())),
                Output::Began { .. } | Output::Settled { .. } | Output::RollsBack(_) => {}
                Output::Ended(ended) => verdict = Some(ended),
            }
        }
        verdict
    }
}

/// What a host needs of the seed.
enum Need {
    /// To be fed, by the report of that counter.
    Seed(u64),
    /// It gets what it needs.
    Wait,
    /// It has everything, or cannot use it, by the report of that counter.
    Nothing(u64),
}

fn need(event: &HubEvent, release: ReleaseId) -> Option<(NodeId, Need)> {
    match event {
        HubEvent::Connected(_) => None,
        HubEvent::Away { host, .. } => Some((host.clone(), Need::Wait)),
        HubEvent::Report(report) if report.release != Some(release) => None,
        HubEvent::Report(report) => {
            let need = match &report.outcome {
                _ if report.wants_seed() => Need::Seed(report.counter),
                Outcome::Working { .. } | Outcome::Refused { .. } => Need::Wait,
                _ => Need::Nothing(report.counter),
            };
            Some((report.host.clone(), need))
        }
    }
}

/// Which plan a host keeps, by the report of that counter.
struct KeptPlan {
    host: NodeId,
    counter: u64,
    plan: Option<PlanId>,
}

fn kept_plan(event: &HubEvent) -> Option<KeptPlan> {
    match event {
        // What is refused says nothing of where the host stands; that follows.
        HubEvent::Report(report) if !matches!(report.outcome, Outcome::Refused { .. }) => {
            Some(KeptPlan {
                host: report.host.clone(),
                counter: report.counter,
                plan: report.held_plan(),
            })
        }
        _ => None,
    }
}

fn sorted(hosts: &[NodeId]) -> Vec<NodeId> {
    hosts
        .iter()
        .cloned()
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect()
}

fn input(event: HubEvent) -> Input {
    match event {
        HubEvent::Connected(host) => Input::Connected(host),
        HubEvent::Away { host, reason } => Input::Away { host, reason },
        HubEvent::Report(report) => Input::Report(report),
    }
}

async fn sleep_until(wake: Option<Instant>) {
    match wake {
        Some(wake) => tokio::time::sleep_until(wake).await,
        None => std::future::pending().await,
    }
}
