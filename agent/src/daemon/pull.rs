//! `scap-agent pull`: a round of questions now, and what became of each repo.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use scap_proto::{
    id::ReleaseId,
    reason::Because,
    release::{Outcome, Stage},
    wire::control::Finalize,
};
use tokio::sync::oneshot;

use super::{Daemon, RepoKey};
use crate::{
    api::{ApiError, PullView, PulledView},
    catchup::{
        choose::Claim,
        engine::{Input, Round, Scope},
    },
    clock,
};

/// Longest that a pull waits for releases to be fetched and made live: then it says how far they are. What is begun goes on.
const PULL_TIME_MAX: Duration = Duration::from_secs(3600);

/// One that waits.
pub(super) struct Pull {
    scope: Scope,
    began: Instant,
    /// What each repo had live, and how far it was accepted, when it began.
    before: BTreeMap<RepoKey, Before>,
    /// Once peers were asked: the repos that it is about, and how many peers answered.
    asked: Option<(BTreeSet<RepoKey>, usize)>,
    /// What whoever asked knows to be stable.
    given: Vec<Finalize>,
    reply: oneshot::Sender<Result<PullView, ApiError>>,
}

/// Where a repo stood.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Before {
    live: Option<ReleaseId>,
    /// The release whose directory is made, though it is not live.
    fetched: Option<ReleaseId>,
}

impl Daemon {
    pub(super) async fn pull(
        &mut self,
        scope: Scope,
        given: Vec<Finalize>,
        reply: oneshot::Sender<Result<PullView, ApiError>>,
    ) {
        if !self.catching.has_peers() {
            let none = "no peers are configured: `peers` in the configuration, or `--peer`";
            let _ = reply.send(Err(ApiError(none.into())));
            return;
        }
        let repos = self.repos.keys().cloned();
        let before = repos.map(|key| (key.clone(), self.stands(&key))).collect();
        self.catching.pulls.push(Pull {
            scope: scope.clone(),
            began: Instant::now(),
            before,
            asked: None,
            given,
            reply,
        });
        self.catching.input(Input::Pull(scope));
        self.drain_catching().await;
    }

    /// What those who wait for this round know themselves: this host's own word beside that of its peers.
    pub(super) fn add_given(&mut self, round: &mut Round) {
        let us = &self.trust.addressee.host;
        for pull in &mut self.catching.pulls {
            if pull.asked.is_some() || !round.scope.covers(&pull.scope) {
                continue;
            }
            for given in pull.given.drain(..) {
                let claim = Claim::check(&self.trust, given, clock::now());
                let ours = round.answers.entry(us.clone()).or_insert(Ok(Vec::new()));
                if let Ok(claims) = ours {
                    claims.push(claim);
                }
            }
        }
    }

    /// A round is over: those whose question it answers wait for their repos now.
    pub(super) fn round_for_pulls(
        &mut self,
        scope: &Scope,
        answered: usize,
        offered: &BTreeSet<RepoKey>,
    ) {
        let known: BTreeSet<RepoKey> = self.repos.keys().cloned().collect();
        for pull in &mut self.catching.pulls {
            if pull.asked.is_none() && scope.covers(&pull.scope) {
                let about = offered
                    .union(&known)
                    .filter(|key| pull.scope.includes(&key.0, &key.1));
                pull.asked = Some((about.cloned().collect(), answered));
            }
        }
    }

    /// Answers the pulls that have nothing to wait for any more.
    pub(super) fn end_pulls(&mut self) {
        // Who asked may have gone.
        self.catching.pulls.retain(|pull| !pull.reply.is_closed());
        let pulls = std::mem::take(&mut self.catching.pulls);
        for pull in pulls {
            let is_over = match &pull.asked {
                None => false,
                Some((keys, _)) => {
                    let mut repos = keys.iter().filter_map(|key| self.repos.get(key));
                    let is_late = pull.began.elapsed() > PULL_TIME_MAX;
                    is_late || !repos.any(|repo| repo.saved.order.is_none() && repo.is_working())
                }
            };
            match is_over {
                true => {
                    let view = self.pulled(&pull);
                    let _ = pull.reply.send(Ok(view));
                }
                false => self.catching.pulls.push(pull),
            }
        }
    }

    fn pulled(&self, pull: &Pull) -> PullView {
        let (keys, answered) = pull.asked.clone().unwrap_or_default();
        let mut repos: Vec<PulledView> = Vec::new();
        for key in &keys {
            repos.push(self.pulled_repo(key, pull.before.get(key).copied()));
        }
        let mut reason = None;
        if answered == 0 {
            reason = Some("no peer answered; `scap-agent status` says why".to_owned());
        } else if let Some(repo) = &pull.scope.repo
            && repos.iter().all(|it| it.release.is_none())
        {
            reason = Some(format!(
                "none of {answered} peers that answered has a stable release of {repo} for this host"
            ));
        }
        PullView::new(repos, answered, reason)
    }

    fn pulled_repo(&self, key: &RepoKey, before: Option<Before>) -> PulledView {
        let waiting = self.catching.findings.get(key).cloned();
        let Some(repo) = self.repos.get(key) else {
            return PulledView::unknown(key, waiting);
        };
        if let Some(Because { code, text }) = waiting {
            let said = (Some(text), Some(code));
            let changed = self.stands(key) != before.unwrap_or_default();
            return PulledView::new(key, repo, changed, "waiting", said);
        }
        let (outcome, code) = repo.outcome_and_code(None);
        let (state, reason) = match outcome {
            Outcome::Idle => ("idle", None),
            Outcome::Done => ("done", None),
            Outcome::Working { waiting, .. } if repo.saved.order.is_none() => {
                ("working", Some(waiting))
            }
            Outcome::Working { .. } => ("led", None),
            Outcome::Failed { reason } | Outcome::Refused { reason } => ("failed", Some(reason)),
        };
        let changed = self.stands(key) != before.unwrap_or_default();
        let code = code.filter(|_| reason.is_some());
        PulledView::new(key, repo, changed, state, (reason, code))
    }

    fn stands(&self, key: &RepoKey) -> Before {
        let Some(repo) = self.repos.get(key) else {
            return Before::default();
        };
        let accepted = repo.accepted().filter(|it| it.stage == Stage::Fetch);
        Before {
            live: repo.standing.live.as_ref().map(|live| live.release),
            fetched: accepted.filter(|_| repo.is_reached()).map(|it| it.release),
        }
    }
}
