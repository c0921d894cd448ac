//! Catching up: peers are asked, and what follows is done about each repo.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{BuildHasher, RandomState},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use scap_proto::{
    id::NodeId,
    reason::{Because, Reason},
    release::{PlanHost, Stage},
    wire::{control::Finalize, stable::StableQuestion},
};
use tokio::task::JoinSet;

use super::{Daemon, RepoKey, Saved, pull::Pull};
use crate::{
    acceptance::Acceptance,
    api::CatchUpView,
    catchup::{
        Policy, Settings,
        choose::{
            ANSWERS_MIN, Behind, Claim, Conclusion, Disbelieved, Finding, Holding, Known, choose,
        },
        engine::{CatchUp, Input, Output, Round, Scope},
    },
    clock,
    relay::resolve,
    trust::HostTrust,
};

/// Most things that peers said and that were not believed, kept for the status.
const DISBELIEVED_MAX: usize = 64;

/// Longest that a peer's address is looked up: as long as a question may take.
const RESOLVE_TIME_MAX: Duration = Duration::from_secs(5);

/// What catching up is at.
pub(super) struct Catching {
    engine: CatchUp,
    settings: Settings,
    /// So many answer where all is well.
    answers_min: usize,
    started: Instant,
    pub(super) asks: JoinSet<Asked>,
    pub(super) pulls: Vec<Pull>,
    heard: BTreeMap<NodeId, Heard>,
    /// What was found out of each repo in the last round that was about it, where it is a reason to wait.
    pub(super) findings: BTreeMap<RepoKey, Because>,
    disbelieved: Vec<Disbelieved>,
    /// Who said something older in the last round.
    behind: Vec<Behind>,
    /// When enough peers answered, by [`Self::started`].
    fresh_at: Option<Duration>,
    /// How many answered the last time.
    pub(super) answered_last: Option<usize>,
    rounds: u64,
    taken: u64,
    /// Questions of others that were answered.
    pub(super) answered: u64,
}

/// What became of asking a peer.
pub(super) struct Asked {
    peer: NodeId,
    result: Result<Answer, String>,
}

struct Answer {
    claims: Vec<Claim>,
    addresses: Vec<SocketAddr>,
}

/// What was heard of a peer.
#[derive(Debug, Clone, Default)]
pub(crate) struct Heard {
    /// When it answered last, by the start of the daemon.
    pub(crate) at: Option<Duration>,
    /// Where it was reached then.
    pub(crate) addresses: Vec<SocketAddr>,
    /// Releases that it said are stable.
    pub(crate) releases: usize,
    /// Why it did not answer, the last time.
    pub(crate) error: Option<String>,
}

impl Catching {
    pub(super) fn new(settings: &Settings, trust: &HostTrust) -> Self {
        let mut settings = settings.clone();
        // One list may do for all hosts.
        settings
            .peers
            .retain(|peer| peer.name != trust.addressee.host);
        let peers = settings.peers.iter().map(|peer| peer.name.clone());
        let peers: BTreeSet<NodeId> = peers.collect();
        let answers_min = ANSWERS_MIN.min(peers.len());
        if peers.len() == 1 && trust.floors().is_empty() {
            tracing::warn!(
                "one peer alone is not believed about repos of which nothing is known here: say a second, or a floor"
            );
        }
        let engine = CatchUp::new(
            peers,
            settings.period(),
            settings.policy != Policy::Off,
            answers_min,
            RandomState::new().hash_one(std::process::id()),
        );
        Self {
            engine,
            settings,
            answers_min,
            started: Instant::now(),
            asks: JoinSet::new(),
            pulls: Vec::new(),
            heard: BTreeMap::new(),
            findings: BTreeMap::new(),
            disbelieved: Vec::new(),
            behind: Vec::new(),
            fresh_at: None,
            answered_last: None,
            rounds: 0,
            taken: 0,
            answered: 0,
        }
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// How far to go with a stable release.
    fn stage(&self) -> Stage {
        match self.settings.policy {
            Policy::Fetch => Stage::Fetch,
            Policy::Activate | Policy::Off => Stage::Promote,
        }
    }

    /// Whether it asks somebody without being told to.
    pub(super) fn asks_by_itself(&self) -> bool {
        self.has_peers() && self.settings.policy != Policy::Off
    }

    /// Whether there is anybody to ask.
    pub(super) fn has_peers(&self) -> bool {
        !self.settings.peers.is_empty()
    }

    pub(super) fn input(&mut self, input: Input) {
        self.engine.handle_input(self.now(), input);
    }

    fn providers(&self, names: &BTreeSet<NodeId>) -> Vec<PlanHost> {
        let provider = |name: &NodeId| PlanHost {
            name: name.clone(),
            addresses: self.heard[name].addresses.clone(),
            site: String::new(),
            rack: String::new(),
            wave: 0,
        };
        let names = names.iter().filter(|it| self.heard.contains_key(*it));
        names.map(provider).collect()
    }

    /// What it waits for, if anything.
    fn waiting(&self) -> Option<Because> {
        if let Some(answered) = self.answered_last.filter(|it| *it < self.answers_min) {
            let of = self.settings.peers.len();
            let again = self
                .engine
                .poll_timeout()
                .map(|at| at.saturating_sub(self.now()));
            let again = again.map_or(String::new(), |it| format!("; again in {} s", it.as_secs()));
            let text = format!("peers: {answered} of {of} answered{again}");
            return Some(Reason::TooFewPeers.because(text));
        }
        let finding = self.findings.iter().next();
        finding.map(|((repo, environment), reason)| {
            let text = format!("{repo} {environment}: {reason}");
            reason.code.because(text)
        })
    }
}

impl Daemon {
    /// Asks who is to be asked by now, and ends the pulls that are done.
    pub(super) async fn catch_up(&mut self) {
        self.catching.input(Input::Timeout);
        self.drain_catching().await;
        self.end_pulls();
    }

    /// A peer answered, or did not.
    pub(super) async fn heard(&mut self, Asked { peer, result }: Asked) {
        let now = self.catching.now();
        let heard = self.catching.heard.entry(peer.clone()).or_default();
        let input = match result {
            Ok(Answer { claims, addresses }) => {
                *heard = Heard {
                    at: Some(now),
                    addresses,
                    releases: claims.len(),
                    error: None,
                };
                Input::Answered { peer, claims }
            }
            Err(reason) => {
                heard.error = Some(reason.clone());
                tracing::info!(%peer, reason, "a peer does not say what is stable");
                Input::Unanswered { peer, reason }
            }
        };
        self.catching.input(input);
        self.drain_catching().await;
    }

    pub(super) async fn drain_catching(&mut self) {
        while let Some(output) = self.catching.engine.poll_output() {
            match output {
                Output::Ask { peer, scope } => self.ask_peer(peer, scope),
                Output::Ended(round) => self.round_ended(round).await,
            }
        }
    }

    fn ask_peer(&mut self, peer: NodeId, scope: Scope) {
        let configured = &self.catching.settings.peers;
        let addresses = configured.iter().filter(|it| it.name == peer);
        let addresses: Vec<String> = addresses.map(|it| it.address.clone()).collect();
        let question = StableQuestion {
            repo: scope.repo,
            environment: scope.environment,
            membership: self.trust.membership.get(),
        };
        let (node, trust) = (self.node.clone(), self.trust.clone());
        self.catching.asks.spawn(async move {
            let asking = async {
                let resolving = tokio::time::timeout(RESOLVE_TIME_MAX, resolve(&addresses));
                let addresses = resolving
                    .await
                    .map_err(|_| "look up its address: no answer")?;
                let addresses =
                    addresses.map_err(|error| format!("look up its address: {error}"))?;
                let asked = node.ask_stable(&peer, &addresses, &question).await;
                let stable = asked.map_err(|error| crate::error_chain(&error))?;
                let claims = check(trust, stable).await;
                Ok(Answer { claims, addresses })
            };
            let result = asking.await;
            Asked { peer, result }
        });
    }

    async fn round_ended(&mut self, mut round: Round) {
        let answered = round.answered();
        self.add_given(&mut round);
        let now = self.catching.now();
        self.catching.rounds += 1;
        self.catching.answered_last = Some(answered);
        let is_fresh = answered > 0 && answered >= self.catching.answers_min;
        if answered >= self.catching.answers_min {
            self.catching.fresh_at = Some(now);
        }
        if is_fresh {
            self.freshness.heard();
        }
        let Conclusion {
            findings,
            disbelieved,
            behind,
        } = self.conclude(&round);
        for Behind {
            peer,
            of,
            sequence,
            stable,
        } in &behind
        {
            tracing::info!(%peer, repo = %of.0, environment = %of.1, sequence, stable, "a peer says that an older release is stable");
        }
        self.catching.behind = behind;
        for said in disbelieved {
            let Disbelieved {
                peer,
                release,
                reason,
            } = &said;
            tracing::warn!(%peer, release = %release.short(), reason, "a peer's stable release is not believed");
            self.node.saw(Reason::RefusedSignature, Some(peer));
            if self.catching.disbelieved.len() == DISBELIEVED_MAX {
                self.catching.disbelieved.remove(0);
            }
            self.catching.disbelieved.push(said);
        }
        let scope = round.scope.clone();
        let outside = |key: &RepoKey| !scope.includes(&key.0, &key.1);
        self.catching.findings.retain(|key, _| outside(key));
        for (key, finding) in &findings {
            if matches!(finding, Finding::Equivocation { .. }) {
                self.node.saw(Reason::RefusedEquivocation, None);
            }
            if let Some(reason) = reason_of(finding) {
                self.catching.findings.insert(key.clone(), reason);
            }
        }
        let offered: BTreeSet<RepoKey> = findings.keys().cloned().collect();
        for (key, finding) in findings {
            match finding {
                Finding::Take {
                    acceptance,
                    finalize,
                    from,
                } => self.take(&key, acceptance, *finalize, &from).await,
                Finding::Current { from } => self.take_again(&key, &from).await,
                Finding::Older
                | Finding::Others
                | Finding::Led
                | Finding::GoneBack { .. }
                | Finding::TooFew { .. }
                | Finding::Equivocation { .. } => {}
            }
        }
        self.round_for_pulls(&scope, answered, &offered);
        self.end_pulls();
        if is_fresh {
            self.end_amnesia().await;
        }
    }

    fn conclude(&self, round: &Round) -> Conclusion {
        let holdings = self.repos.iter().map(|(key, repo)| {
            let holding = Holding {
                acceptance: repo.saved.acceptance.clone(),
                is_limited: repo.saved.is_limited(),
                is_led: repo.is_working() && self.is_led(Some(key)),
            };
            (key.clone(), holding)
        });
        let known = Known {
            us: &self.trust.addressee,
            holdings: &holdings.collect(),
            floors: self.trust.floors(),
            stage: self.catching.stage(),
        };
        choose(round, &known)
    }

    /// Whether somebody who may leads what is done about a repo here, or with `None` about any.
    fn is_led(&self, key: Option<&RepoKey>) -> bool {
        let now = clock::now();
        self.controls.values().any(|above| above.leads(key, now))
    }

    /// Accepts a stable release, durably, and begins to fetch it.
    async fn take(
        &mut self,
        key: &RepoKey,
        acceptance: Acceptance,
        finalize: Finalize,
        from: &BTreeSet<NodeId>,
    ) {
        let providers = self.catching.providers(from);
        let repo = self.repo(key);
        let release = finalize.release.id();
        let is_same = repo.accepted().map(|it| it.release) == Some(release);
        let mut saved = Saved {
            acceptance,
            order: None,
            plan: repo.saved.plan.clone().filter(|_| is_same),
            ..repo.saved.clone()
        };
        saved.hold(finalize);
        if let Err(error) = self.state.save(&saved) {
            let error = crate::error_chain(&error);
            return tracing::error!(repo = %key.0, error, "not caught up");
        }
        let names: Vec<&str> = from.iter().map(NodeId::as_str).collect();
        tracing::info!(
            repo = %key.0, environment = %key.1, release = %release.short(),
            sequence = saved.acceptance.sequence(), from = names.join(" "), "catching up with what is stable"
        );
        self.catching.taken += 1;
        self.repo(key).follow(saved);
        self.begin_anew(key, providers).await;
    }

    /// What was accepted is not reached yet: with those that have it now it is begun anew.
    async fn take_again(&mut self, key: &RepoKey, from: &BTreeSet<NodeId>) {
        let providers = self.catching.providers(from);
        let repo = self.repo(key);
        if !repo.is_reached() && repo.saved.order.is_none() && !repo.is_coming_from(&providers) {
            self.begin_anew(key, providers).await;
        }
    }

    async fn begin_anew(&mut self, key: &RepoKey, providers: Vec<PlanHost>) {
        let repo = self.repo(key);
        repo.providers = providers;
        if let Some(release) = repo.begin_anew() {
            self.node.detach(release).await;
        }
        self.pursue(key).await;
        self.report_now(key).await;
    }

    pub(super) fn catch_up_view(&self) -> CatchUpView {
        let catching = &self.catching;
        let now = catching.now();
        let is_stale = catching.answered_last;
        let is_stale = is_stale.is_some_and(|it| it < catching.answers_min);
        let stale = is_stale && !self.is_led(None);
        CatchUpView::new(
            &catching.settings,
            &catching.heard,
            now,
            (catching.disbelieved.clone(), &catching.behind),
        )
        .counting(catching.rounds, catching.taken, catching.answered)
        .waiting(
            catching.waiting(),
            stale.then(|| now.saturating_sub(catching.fresh_at.unwrap_or_default())),
        )
    }
}

/// Why nothing is done about an offered release, where something might be.
fn reason_of(finding: &Finding) -> Option<Because> {
    let (code, text) = match finding {
        Finding::Take { .. } | Finding::Current { .. } | Finding::Older => return None,
        Finding::Others => (
            Reason::ForOthers,
            "what peers have is the stable release of other hosts alone: it was deployed without this one"
                .into(),
        ),
        Finding::Led => (
            Reason::Led,
            "a coordinator leads a rollout of it here".into(),
        ),
        Finding::GoneBack { release } => (
            Reason::GoneBack,
            format!(
                "this host went back from release {}: a deployment is to say what comes next",
                release.short()
            ),
        ),
        Finding::TooFew { answered } => (
            Reason::TooFewPeers,
            format!(
                "{answered} of {ANSWERS_MIN} peers answered that it takes, as nothing is known here and there is no floor"
            ),
        ),
        Finding::Equivocation { sequence } => (
            Reason::Equivocation,
            format!("two releases are said to be number {sequence}: neither is taken"),
        ),
    };
    Some(code.because(text))
}

/// Checks the signatures of all that a peer says.
async fn check(trust: Arc<HostTrust>, stable: Vec<Finalize>) -> Vec<Claim> {
    let now = clock::now();
    let check = move || {
        let claims = stable.into_iter();
        claims.map(|it| Claim::check(&trust, it, now)).collect()
    };
    let checked = tokio::task::spawn_blocking(check).await;
    checked.expect("checking signatures does not panic")
}
