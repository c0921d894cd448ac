//! The daemon behind `scap-agent run`: takes orders, has the node fetch, has the activator activate,
//! and reports.

mod activator;
mod ahead;
mod amnesia;
mod catching;
mod config_question;
mod control;
mod dead_man;
mod error;
mod freshness;
mod host;
mod kept;
mod limits;
mod pull;
mod relaying;
mod renewing;
mod repo;
mod reporting;
mod saved;
mod soaking;
mod stable;
mod status;
mod trusting;
mod verifying;
mod watching;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use scap_proto::{
    id::ReleaseId,
    reason::{Because, Reason},
    release::{Environment, Plan, RepoPath, TreeId, plan::PlanError},
    wire::control::{ControlMessage, Finalize, Order},
};
use tokio::{
    sync::{Semaphore, mpsc, watch},
    task::JoinSet,
    time::MissedTickBehavior,
};
use tokio_util::sync::CancellationToken;

use self::{
    activator::ActivatorHandle,
    ahead::Ahead,
    amnesia::Amnesia,
    catching::Catching,
    control::{Above, ControlId, FromControl},
    freshness::Freshness,
    limits::Limiter,
    relaying::Relaying,
    renewing::Renewing,
    repo::Next,
    saved::{Saved, SavedState},
};
use crate::{
    acceptance::Decision,
    activate::process::{Answer, ClientError, Request},
    api::{self, ApiError, ApiRequest, PeerView},
    clock,
    config::Config,
    confine::Confinement,
    keeper::Keeper,
    limits::Limits,
    node::{Incoming, Job, Node, NodeEvent, Readers, Sources, Tasks},
    store::{Store, StoreConfig},
    trust::{HostTrust, OrderError},
};

/// How often progress is reported while something is in progress: often enough for a person to see
/// it move, and a report is some 600 bytes.
const PROGRESS_PERIOD: Duration = Duration::from_millis(250);

/// How long the links may take to close in order when the daemon goes down.
const SHUTDOWN_MAX: Duration = Duration::from_secs(5);

/// Most control messages that wait: a coordinator sends few, and waits when it is full.
const CONTROL_MAX: usize = 256;

/// Most messages of all that are above us that wait, each at most a frame: 32 MiB, whoever sends them.
const MESSAGES_MAX: usize = 32;

/// Most peers remembered for having been dropped, for the status.
const DROPPED_PEERS_MAX: usize = 64;

/// Runs the daemon of `host` until `cancel`. Its data directory is there. `keeper` starts the activator, where no other unit does; `confinement` is what became of
/// confining this process; what comes from `limits` counts instead of [`Config::limits`] from then on.
///
/// # Errors
/// [`DaemonError`].
pub async fn run(
    host: Host,
    keeper: Option<Keeper>,
    confinement: Confinement,
    limits: mpsc::Receiver<Limits>,
    cancel: CancellationToken,
) -> Result<(), DaemonError> {
    let Host {
        config,
        trust,
        has_deployments,
    } = host;
    let (store, recovery) = Store::open(
        config.data.join(crate::store::DIRECTORY_NAME),
        StoreConfig::default(),
    )?;
    let (state, saved) = SavedState::open(&config.data)?;
    trusting::keep(&trust.identity, &config.identity, &config.data)?;
    let starts = state.count_start()?;
    let counter = u64::from(starts) << 32;
    let (controls, control_streams) = mpsc::channel(CONTROL_MAX);
    let limiter = Limiter::new(config.limits.clone());
    let (node, tasks) = Node::start_showing(
        (trust.identity.clone(), trust.membership.clone()),
        Some(config.listen),
        store,
        Some(controls),
        limiter.caps(clock::now()),
    )?;
    let (api, api_requests) = api::listen(&config.data).map_err(DaemonError::Api)?;
    let activator = ActivatorHandle::start(&config.activator_socket, keeper);
    tracing::info!(
        name = %trust.addressee.host, address = %node.address(), chunks = recovery.durable_chunks + recovery.verified_chunks,
        rehashed = recovery.verified_chunks, "agent ready"
    );
    let (control_out, control_messages) = mpsc::channel(MESSAGES_MAX);
    let (relayed_out, relayed) = mpsc::channel(CONTROL_MAX);
    let trust = Arc::new(trust);
    let mut daemon = Daemon {
        catching: Catching::new(&config.catch_up, &trust),
        freshness: Freshness::open(&state, &config.catch_up),
        amnesia: None,
        relaying: Relaying::new(node.clone(), relayed_out),
        config,
        trust,
        state,
        node,
        activator,
        repos: BTreeMap::new(),
        controls: BTreeMap::new(),
        next_control: 0,
        control_tasks: JoinSet::new(),
        control_out,
        activations: JoinSet::new(),
        counter,
        dropped: Vec::new(),
        cleaning: JoinSet::new(),
        config_turn: Arc::new(Semaphore::new(1)),
        limiter,
        confinement,
        ahead: BTreeMap::new(),
        renewing: Renewing::default(),
    };
    daemon.notice_loss(starts == 1, has_deployments);
    let result = daemon
        .run(
            saved,
            tasks,
            Inboxes {
                control_streams,
                control_messages,
                relayed,
                api_requests,
                limits,
            },
            &cancel,
        )
        .await;
    drop(api);
    result
}

pub use self::{
    error::DaemonError,
    host::Host,
    saved::SavedError,
    trusting::{ENROLLED_FILE, TrustKeptError},
};

pub(crate) use self::{catching::Heard, repo::Repo};

type RepoKey = (RepoPath, Environment);

/// What the activator was asked about a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum About {
    Order,
    Finalization,
    Recheck,
}

/// What the activator said to what.
struct Activation {
    key: RepoKey,
    release: ReleaseId,
    about: About,
    answer: Result<Answer, ClientError>,
}

/// What comes to the daemon.
struct Inboxes {
    control_streams: mpsc::Receiver<Incoming>,
    control_messages: mpsc::Receiver<FromControl>,
    relayed: mpsc::Receiver<(TreeId, ControlMessage)>,
    api_requests: mpsc::Receiver<ApiRequest>,
    limits: mpsc::Receiver<Limits>,
}

struct Daemon {
    config: Config,
    trust: Arc<HostTrust>,
    state: SavedState,
    node: Node,
    activator: ActivatorHandle,
    repos: BTreeMap<RepoKey, Repo>,
    controls: BTreeMap<ControlId, Above>,
    relaying: Relaying,
    next_control: u64,
    control_tasks: JoinSet<ControlId>,
    control_out: mpsc::Sender<FromControl>,
    activations: JoinSet<Activation>,
    counter: u64,
    dropped: Vec<PeerView>,
    cleaning: JoinSet<()>,
    /// Held by the question about config files that is being answered.
    config_turn: Arc<Semaphore>,
    limiter: Limiter,
    catching: Catching,
    confinement: Confinement,
    ahead: BTreeMap<RepoKey, Ahead>,
    freshness: Freshness,
    /// What waits while it is not known where others are.
    amnesia: Option<Amnesia>,
    renewing: Renewing,
}

impl Daemon {
    async fn run(
        mut self,
        saved: Vec<Saved>,
        mut tasks: Tasks,
        mut inboxes: Inboxes,
        cancel: &CancellationToken,
    ) -> Result<(), DaemonError> {
        for saved in saved {
            self.restore(saved).await;
        }
        let mut progress = tokio::time::interval(PROGRESS_PERIOD);
        progress.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let result = loop {
            tokio::select! {
                biased;
                () = cancel.cancelled() => break Ok(()),
                event = tasks.next() => match event {
                    Some(event) => self.node_event(event).await,
                    None => break Err(DaemonError::NodeEnded),
                },
                () = self.activator.lost() => break Err(DaemonError::KeeperEnded),
                Some(incoming) = inboxes.control_streams.recv() => match incoming {
                    Incoming::Control(stream) => self.control_opened(stream),
                    Incoming::Question(question) => self.question(question).await,
                    Incoming::Config(asked) => self.config_asked(asked),
                    Incoming::Renewal(asked) => self.renewal_asked(asked),
                },
                Some(asked) = self.catching.asks.join_next() => {
                    self.heard(asked.expect("asking a peer does not panic")).await;
                }
                Some(from) = inboxes.control_messages.recv() => self.control_message(from).await,
                Some((tree, message)) = inboxes.relayed.recv() => self.pass_up(tree, &message),
                Some(done) = self.activations.join_next() => {
                    self.activated(done.expect("asking the activator does not panic")).await;
                }
                Some(id) = self.control_tasks.join_next() => {
                    self.control_closed(id.expect("what may panic is contained"));
                }
                Some(request) = inboxes.api_requests.recv() => self.api_request(request).await,
                Some(_) = self.cleaning.join_next() => {}
                Some(limits) = inboxes.limits.recv() => {
                    self.limiter.configure(limits);
                    self.apply_limits();
                }
                _ = progress.tick() => {
                    let live = self.controls.values().filter_map(Above::tree);
                    self.relaying.prune(&live.collect());
                    // The time of day may have come for others.
                    self.apply_limits();
                    self.limiter.sample(Instant::now(), self.node.traffic());
                    self.watch_for_lapses().await;
                    self.check_what_soaks();
                    self.warn_of_the_end();
                    self.report_progress().await;
                    self.catch_up().await;
                }
            }
        };
        // First those who dial, or they would dial again what is being closed.
        self.relaying.end();
        self.activator.shutdown().await;
        tasks.shutdown(SHUTDOWN_MAX).await;
        result
    }

    async fn restore(&mut self, saved: Saved) {
        let key = (saved.repo.clone(), saved.environment.clone());
        let mut repo = Repo::restored(saved);
        repo.ordered = self.state.ordered(&repo.saved);
        match self
            .activator
            .ask(Request::Standing {
                repo: key.0.clone(),
            })
            .await
        {
            Ok(Answer::Standing(standing)) => repo.standing = standing,
            other => {
                tracing::warn!(repo = %key.0, ?other, "the activator does not say what is live");
            }
        }
        self.notice_setback(&repo);
        self.repos.insert(key.clone(), repo);
        self.pursue(&key).await;
    }

    // Orders.

    async fn control_message(&mut self, FromControl { id, message }: FromControl) {
        match message {
            ControlMessage::Roster(roster) => return self.roster(id, *roster),
            ControlMessage::Relay { tree, branches } => return self.relay(id, tree, branches),
            ControlMessage::Ask { .. }
            | ControlMessage::Order(_)
            | ControlMessage::Finalize(_)
            | ControlMessage::FinalizeAt { .. }
            | ControlMessage::Lease(_)
            | ControlMessage::Renewal(_) => {
                let is_new = self.pass_down(id, message.clone());
                // Each who asks gets an answer.
                if !is_new && !matches!(message, ControlMessage::Ask { .. }) {
                    return;
                }
            }
            // What goes up is not passed down.
            _ => {}
        }
        let us = &self.trust.addressee.host;
        match message {
            ControlMessage::Ask { repo, environment } => {
                let key = (repo, environment);
                if self.admits(id, &key) {
                    self.controls.entry(id).and_modify(|it| it.was_asked(&key));
                    if let Some(report) = self.report(&key).await {
                        self.send(Some(id), &key, report);
                    }
                }
            }
            ControlMessage::Order(order) => {
                // Else it is for those that it was passed on to.
                let targets = order.directive.targets_unverified();
                if targets.is_none_or(|targets| targets.include(us)) {
                    self.order(id, *order).await;
                }
            }
            ControlMessage::Finalize(finalize) => self.finalize(*finalize).await,
            ControlMessage::FinalizeAt { hosts, finalize } => {
                if hosts.include(us) {
                    self.finalize(*finalize).await;
                }
            }
            ControlMessage::Lease(lease) => self.lease(&lease).await,
            ControlMessage::Renewal(renewal) => self.renewal(*renewal),
            ControlMessage::Roster(_) | ControlMessage::Relay { .. } => {}
            // These go up; who sends one down is of another mind than we.
            ControlMessage::Report(_)
            | ControlMessage::Reports(_)
            | ControlMessage::News(_)
            | ControlMessage::Beat => tracing::warn!("a report came down; ignored"),
        }
    }

    async fn order(&mut self, id: ControlId, mut order: Order) {
        // Whose it says to be, for the answer; believed only once verified.
        let Ok(claimed) = order.release.read_unverified() else {
            return tracing::warn!("an order whose release cannot be read");
        };
        if self.waits(id, &order) {
            return;
        }
        let key = (claimed.repo, claimed.environment);
        let release = order.release.id();
        let now = clock::now();
        let is_without_plan = order.plan.is_none();
        if is_without_plan {
            let kept = self.repos.get(&key).and_then(|it| it.saved.plan.as_ref());
            order.plan = kept.map(|(_, bytes)| bytes.clone());
        }
        let verified = match self.trust.verify_order(order.clone(), now) {
            Ok(verified) => verified,
            Err(OrderError::NoPlan(_) | OrderError::Plan(PlanError::OtherPlan))
                if is_without_plan =>
            {
                return self.report_lack_of_plan(&key, &order).await;
            }
            Err(error) => match self.verify_way_back(&key, &order) {
                Some(verified) => verified,
                None => return self.refuse(id, &key, release, error.because()).await,
            },
        };
        let acceptance = self
            .repos
            .get(&key)
            .map(|repo| repo.saved.acceptance.clone());
        let decision = acceptance.unwrap_or_default().consider(
            &self.trust.addressee,
            &verified.release,
            &verified.grant,
            &verified.directive,
            now,
        );
        if decision.is_ok()
            && let Some(above) = self.controls.get_mut(&id)
        {
            above.brought(key.clone(), verified.grant.grant().expires);
        }
        match decision {
            Ok(Decision::NotForUs) => {}
            Ok(Decision::Again) => self.report_now(&key).await,
            Ok(Decision::Follow(acceptance)) => {
                let ordered = match self.note_order(&key, &verified.directive) {
                    Ok(ordered) => ordered,
                    Err(reason) => return self.refuse(id, &key, release, reason).await,
                };
                let repo = self.repo(&key);
                let is_same = repo.accepted().map(|a| a.release) == Some(verified.release.id());
                let plan = match (verified.directive.plan, &order.plan) {
                    (Some(id), Some(bytes)) => Some((id, bytes.clone())),
                    _ if is_same => repo.saved.plan.clone(),
                    _ => None,
                };
                let order = Some(Order {
                    plan: None,
                    ..order
                });
                let saved = Saved {
                    acceptance,
                    order,
                    plan,
                    ..repo.saved.clone()
                };
                if let Err(error) = self.state.save(&saved) {
                    let reason = Reason::RefusedState.because(crate::error_chain(&error));
                    return self.refuse(id, &key, release, reason).await;
                }
                tracing::info!(
                    repo = %key.0, release = %verified.release.id().short(),
                    sequence = verified.release.release().sequence,
                    stage = ?verified.directive.stage,
                    plan = if is_without_plan { "kept" } else { "came" },
                    "order accepted"
                );
                self.freshness.heard();
                let repo = self.repo(&key);
                repo.ordered = ordered;
                repo.follow(saved);
                self.pursue(&key).await;
                self.report_now(&key).await;
            }
            Err(refusal) => {
                self.refuse(id, &key, release, refusal.because()).await;
            }
        }
    }

    async fn finalize(&mut self, finalize: Finalize) {
        let verified = match self
            .trust
            .verify_finalization(finalize.clone(), clock::now())
        {
            Ok(verified) => verified,
            Err(error) => {
                let error = crate::error_chain(&error);
                return tracing::warn!(error, "finalization refused");
            }
        };
        let about = verified.release.release();
        let key = (about.repo.clone(), about.environment.clone());
        let acceptance = self.repo(&key).saved.acceptance.clone();
        let accepted = match acceptance.consider_finalization(&self.trust.addressee, &verified) {
            Ok(Decision::Follow(accepted)) => accepted,
            Ok(_) => acceptance.clone(),
            Err(refusal) => {
                let error = crate::error_chain(&refusal);
                return tracing::warn!(error, "finalization refused");
            }
        };
        let repo = self.repo(&key);
        let saved = repo.finalized(accepted, finalize.clone());
        // Also one that was heard may be for more hosts now: those that ask are to hear so.
        if saved.acceptance != acceptance || saved.finalize != repo.saved.finalize {
            if let Err(error) = self.state.save(&saved) {
                return tracing::error!(error = crate::error_chain(&error), "not finalized");
            }
            self.repo(&key).saved = saved;
            self.freshness.heard();
        }
        self.hand_to_activator(&key, Request::Finalize(Box::new(finalize)));
    }

    /// Does what is to be done next about a repo.
    async fn pursue(&mut self, key: &RepoKey) {
        while let Some(step) = self.repo(key).next_step() {
            match step {
                Next::Fetch { instead_of } => {
                    if let Some(old) = instead_of {
                        self.node.detach(old).await;
                    }
                    match self.job(key) {
                        Ok(job) => {
                            self.end_beside(key, job.release).await;
                            self.repo(key).fleet_size = job.plan.hosts.len();
                            self.node.attach(job).await;
                            self.begin_ahead(key);
                        }
                        Err((release, reason)) => self.repo(key).fetch_failed(release, reason),
                    }
                }
                Next::Activate => match self.repo(key).saved.order.clone() {
                    Some(order) => {
                        let plan = self.repo(key).saved.plan.clone().map(|(_, bytes)| bytes);
                        let request = self.repo(key).request(Order { plan, ..order });
                        self.hand_to_activator(key, request);
                    }
                    None => {
                        let request = self.repo(key).saved.stable_request();
                        let request = request.expect("without an order it is by a finalization");
                        self.hand_to_activator(key, Request::Stable(Box::new(request)));
                    }
                },
            }
        }
        self.serve_beside(key).await;
    }

    fn job(&mut self, key: &RepoKey) -> Result<Job, (ReleaseId, Because)> {
        let saved = &self.repo(key).saved;
        let release = saved
            .acceptance
            .accepted
            .as_ref()
            .expect("a job is of an order")
            .release;
        let failed = |code: Reason, text: String| (release, code.because(text));
        let about = saved.accepted_release();
        let about = about.expect("what is accepted was saved with its order or finalization");
        let about = about
            .read_unverified()
            .map_err(|e| failed(Reason::RecordDamaged, crate::error_chain(&e)))?;
        if saved.order.is_none() {
            return Ok(self.own_job(key, release, &about));
        }
        let Some((id, bytes)) = &saved.plan else {
            return Err(failed(
                Reason::BadPlan,
                "the order came without a plan".into(),
            ));
        };
        let plan = Plan::decode(*id, bytes);
        let plan = plan.map_err(|e| failed(Reason::BadPlan, crate::error_chain(&e)))?;
        Ok(Job {
            release,
            readers: Readers::of(&about),
            snapshot: about.snapshot,
            plan: Arc::new(plan),
            sources: Sources::Plan,
            list_end: 0,
            priority: about.priority(),
            deltas: about.deltas,
            config: about.config,
        })
    }

    fn hand_to_activator(&mut self, key: &RepoKey, request: Request) {
        let Some(release) = self.repo(key).accepted().map(|accepted| accepted.release) else {
            return;
        };
        let about = match &request {
            Request::Finalize(_) => About::Finalization,
            Request::Recheck(_) => About::Recheck,
            _ => About::Order,
        };
        let (begun, begins) = watch::channel(None);
        if about == About::Order {
            self.repo(key).steps = Some(begins);
        }
        let ahead = self.take_ahead(key, &request);
        let (key, activator) = (key.clone(), self.activator.clone());
        self.activations.spawn(async move {
            let begins = |step| drop(begun.send_replace(step));
            let answer = ahead::then(ahead, activator.ask_hearing(request, begins)).await;
            Activation {
                key,
                release,
                about,
                answer,
            }
        });
    }

    async fn activated(&mut self, activation: Activation) {
        let Activation {
            key,
            release,
            about,
            answer,
        } = activation;
        if about == About::Recheck {
            return self.checked_again(&key, release, answer).await;
        }
        let repo = self.repo(&key);
        if about == About::Finalization {
            match answer {
                Ok(Answer::Done(done)) => {
                    tracing::info!(repo = %key.0, release = %release.short(), "finalized");
                    repo.standing = done.standing;
                    self.collect_in_background();
                }
                other => tracing::error!(repo = %key.0, ?other, "the activator did not finalize"),
            }
            return self.report_now(&key).await;
        }
        match answer {
            Ok(Answer::Done(done)) => {
                tracing::info!(
                    repo = %key.0, release = %release.short(), millis = done.millis,
                    touched = done.entries_touched, written = done.files_written,
                    reused = done.files_reused, "activated"
                );
                repo.activated(*done);
                if repo.saved.order.is_none() {
                    self.collect_in_background();
                }
            }
            Ok(Answer::MissingChunk(chunk)) => {
                tracing::warn!(repo = %key.0, %chunk, "a chunk is missing; fetching it again");
                if repo.missing_chunk(chunk) {
                    // The store finds out too that it does not have it.
                    let store = self.node.store().clone();
                    let look = tokio::task::spawn_blocking(move || store.get(&chunk).map(drop));
                    if let Err(error) = look.await.expect("reading a chunk does not panic") {
                        tracing::warn!(error = crate::error_chain(&error), "read a chunk");
                    }
                    self.node.detach(release).await;
                }
            }
            Ok(Answer::Refused(reason) | Answer::Failed(reason)) => {
                tracing::error!(repo = %key.0, release = %release.short(), code = %reason.code, %reason, "not activated");
                repo.activation_failed(reason);
            }
            Ok(Answer::Stopped { reason, standing }) => {
                tracing::error!(repo = %key.0, release = %release.short(), code = %reason.code, %reason, "not activated");
                repo.standing = standing;
                repo.activation_failed(reason);
            }
            Ok(_) => {
                repo.activation_failed(
                    Reason::ActivatorLost.because("the activator answered something else"),
                );
            }
            Err(error) => {
                repo.activation_failed(Reason::ActivatorLost.because(crate::error_chain(&error)));
            }
        }
        self.pursue(&key).await;
        self.report_now(&key).await;
    }

    async fn node_event(&mut self, event: NodeEvent) {
        match event {
            NodeEvent::Fetched { release } => {
                let status = self.node.status(release).await;
                let millis = status
                    .as_ref()
                    .and_then(|s| s.fetched_in)
                    .unwrap_or_default();
                let millis = u64::try_from(millis.as_millis()).unwrap_or(u64::MAX);
                for key in self.keys_of(release) {
                    let repo = self.repo(&key);
                    if let Some(status) = &status {
                        repo.bytes = status.bytes;
                    }
                    repo.fetched(release, millis);
                    tracing::info!(repo = %key.0, release = %release.short(), millis, "fetched");
                    self.pursue(&key).await;
                    self.report_now(&key).await;
                }
            }
            NodeEvent::Failed { release, reason } => {
                tracing::error!(release = %release.short(), code = %reason.code, %reason, "not fetched");
                for key in self.keys_of(release) {
                    self.ahead.remove(&key);
                    self.repo(&key).fetch_failed(release, reason.clone());
                    self.report_now(&key).await;
                }
            }
            NodeEvent::PeerDropped { peer, reason } => {
                if self.dropped.len() == DROPPED_PEERS_MAX {
                    self.dropped.remove(0);
                }
                let (code, reason) = (reason.code, reason.text);
                self.dropped.push(PeerView {
                    name: peer,
                    reason,
                    code,
                });
            }
            NodeEvent::TrustChanged => self.trust_changed().await,
        }
    }

    // Local API.

    async fn api_request(&mut self, request: ApiRequest) {
        match request {
            ApiRequest::Status { reply } => {
                let view = self.status().await;
                let _ = reply.send(view);
            }
            ApiRequest::Verify { repo, reply } => self.verify(repo, reply),
            ApiRequest::Pull {
                scope,
                given,
                reply,
            } => self.pull(scope, given, reply).await,
            ApiRequest::Limit { reset, caps, reply } => {
                self.limiter.ask(reset, caps);
                self.apply_limits();
                let _ = reply.send(self.limiter.view(clock::now()));
            }
            ApiRequest::Collect { reply } => {
                let collecting = self.begin_collecting();
                self.cleaning.spawn(async move {
                    let result = collecting.await;
                    let _ = reply.send(result.map_err(|e| ApiError(crate::error_chain(&e))));
                });
            }
        }
    }

    fn repo(&mut self, key: &RepoKey) -> &mut Repo {
        let make = || Repo::new(key.0.clone(), key.1.clone());
        self.repos.entry(key.clone()).or_insert_with(make)
    }
}
