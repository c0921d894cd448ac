//! A host that has a release live, and hears of nobody who directs it any more, goes back by itself.
//!
//! An order may lapse: [`Directive::dead_man`] says after how long. Each further order of the release, and that it is the stable
//! one, ends that; only what is signed and new counts, so nobody who relays can keep a host waiting by sending the same again. Since
//! when it counts is on disk before the order is followed, so neither a restart nor a reboot begins it anew.

use std::{path::PathBuf, time::Duration};

use scap_proto::{
    codec,
    id::ReleaseId,
    reason::{Because, Reason},
    release::{Directive, Stage},
    wire::control::Order,
};
use serde::{Deserialize, Serialize};

use super::{
    Daemon, Repo, RepoKey,
    saved::{Saved, SavedState},
};
use crate::{
    acceptance::Decision,
    activate::process::Request,
    clock::Moment,
    store::durable,
    trust::{FollowedGrant, VerifiedOrder},
};

/// The first bytes of each file: kind and version. One of another version is as if it were not there.
const MAGIC: &[u8] = b"scap-agent-heard/1\n";
const EXTENSION: &str = "heard";

/// How long after a try to go back that failed the next one is made: a full disk or an activator that is started anew is no
/// matter of seconds.
const RETRY_PAUSE: Duration = Duration::from_secs(30);

/// When an order came that lapses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Heard {
    release: ReleaseId,
    directive: (u64, u64),
    at: Moment,
}

/// What the latest order says beside what was accepted of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ordered {
    stage: Stage,
    /// After how long it lapses.
    lapses_after: Duration,
    heard: Heard,
}

impl Ordered {
    /// An order that lapses, which came at `at`; none where it does not.
    pub(crate) fn of(directive: &Directive, at: Moment) -> Option<Self> {
        Some(Self {
            stage: directive.stage,
            lapses_after: directive.dead_man()?,
            heard: Heard {
                release: directive.release,
                directive: (directive.epoch, directive.number),
                at,
            },
        })
    }
}

impl Repo {
    /// For how long the latest order was to be kept to without another one, where it has lapsed.
    pub(crate) fn lapsed(&self) -> Option<Duration> {
        let (accepted, ordered) = (self.accepted()?, self.ordered.as_ref()?);
        let has_gone_back = accepted.stage == Stage::Revert && ordered.stage != Stage::Revert;
        has_gone_back.then_some(ordered.lapses_after)
    }

    /// How long there still is to hear from whoever directs the release, before this host goes back by itself; none where it does not.
    pub(crate) fn lapses_in(&self, now: &Moment) -> Option<Duration> {
        let (accepted, ordered) = (self.accepted()?, self.ordered.as_ref()?);
        let finalized = self.saved.acceptance.finalized;
        let is_stable = finalized.is_some_and(|it| it.release == accepted.release);
        let live = self.standing.live.as_ref();
        let is_live = live.is_some_and(|live| live.release == accepted.release);
        let may_be_live = accepted.stage == Stage::Promote || is_live;
        if is_stable || accepted.stage == Stage::Revert || !may_be_live {
            return None;
        }
        Some(
            ordered
                .lapses_after
                .saturating_sub(now.since(&ordered.heard.at)),
        )
    }

    /// Whether going back by itself failed and is to be tried again, which counts as begun.
    pub(crate) fn retries_lapse(&mut self, now: &Moment) -> bool {
        let release = self.accepted().map(|accepted| accepted.release);
        let live = self.standing.live.as_ref().map(|live| live.release);
        let is_stuck = self.lapsed().is_some() && live == release && self.has_failed();
        let was_tried = self.lapse_tried_at.as_ref();
        if !is_stuck || was_tried.is_some_and(|at| now.since(at) < RETRY_PAUSE) {
            return false;
        }
        self.lapse_tried_at = Some(now.clone());
        self.begin_anew();
        true
    }

    /// What the activator is asked about the latest order.
    pub(super) fn request(&self, order: Order) -> Request {
        match self.lapsed() {
            Some(_) => Request::Lapse(Box::new(order)),
            None => Request::Order(Box::new(order)),
        }
    }

    /// Why a host that went back by itself did.
    pub(super) fn why_lapsed(&self) -> Option<Because> {
        let after = self.lapsed()?.as_secs();
        let reason = format!("it went back by itself: nobody directed the release for {after} s");
        Some(Reason::WentBackByItself.because(reason))
    }
}

impl SavedState {
    fn heard_path(&self, (repo, environment): &RepoKey) -> PathBuf {
        self.file_of(repo, environment, EXTENSION)
    }

    /// Notes when an order came that lapses, before it is accepted: one that is accepted is never without it.
    pub(super) fn save_heard(&self, key: &RepoKey, ordered: &Ordered) -> std::io::Result<()> {
        let body = codec::encode(&ordered.heard);
        let bytes = [MAGIC, blake3::hash(&body).as_bytes(), &body].concat();
        durable::replace_file(&self.heard_path(key), &bytes)
    }

    /// The order that was accepted last, where it lapses. When it came is not known where the note of it is lost: then it is as if it came
    /// now.
    pub(super) fn ordered(&self, saved: &Saved) -> Option<Ordered> {
        let directive = saved.order.as_ref()?.directive.read_unverified()?;
        let now = Ordered::of(&directive, Moment::now())?;
        let noted = self.read_heard(&(saved.repo.clone(), saved.environment.clone()));
        let is_it =
            |it: &Heard| (it.release, it.directive) == (now.heard.release, now.heard.directive);
        let heard = noted.filter(is_it).unwrap_or_else(|| now.heard.clone());
        Some(Ordered { heard, ..now })
    }

    fn read_heard(&self, key: &RepoKey) -> Option<Heard> {
        let bytes = std::fs::read(self.heard_path(key)).ok()?;
        let (hash, body) = bytes
            .strip_prefix(MAGIC)?
            .split_at_checked(blake3::OUT_LEN)?;
        (blake3::hash(body).as_bytes() == hash).then(|| codec::decode(body).ok())?
    }
}

impl Daemon {
    /// Takes note of an order that is about to be accepted, where it lapses, or says why it is not.
    pub(super) fn note_order(
        &self,
        key: &RepoKey,
        directive: &Directive,
    ) -> Result<Option<Ordered>, Because> {
        let repo = self.repos.get(key);
        let accepted = repo.and_then(|repo| repo.accepted());
        // Whoever renewed it did not know yet. Forward again it goes from the start, and by a person's will.
        if accepted.is_some_and(|it| it.release == directive.release)
            && directive.stage == Stage::Promote
            && let Some(reason) = repo.and_then(Repo::why_lapsed)
        {
            return Err(Reason::RefusedLapsed.because(reason.text));
        }
        let ordered = Ordered::of(directive, Moment::now());
        let noted = ordered.as_ref().map(|it| self.state.save_heard(key, it));
        match noted {
            Some(Err(error)) => Err(Reason::RefusedState.because(crate::error_chain(&error))),
            _ => Ok(ordered),
        }
    }

    /// An order that has no authority here any more, where it is to go back from what was followed, by whom it was directed then.
    pub(super) fn verify_way_back(&self, key: &RepoKey, order: &Order) -> Option<VerifiedOrder> {
        let saved = self.repos.get(key)?.saved.order.as_ref()?;
        let followed = FollowedGrant::of(saved.release.id(), &saved.grant);
        let verified = self.trust.verify_way_back(order.clone(), Some(&followed))?;
        (verified.directive.stage == Stage::Revert).then_some(verified)
    }

    /// Goes back from what nobody directs any more.
    pub(super) async fn watch_for_lapses(&mut self) {
        let is_watched = |repo: &&Repo| repo.ordered.is_some();
        if !self.repos.values().any(|repo| is_watched(&repo)) {
            return;
        }
        let now = Moment::now();
        let due = self.repos.iter().filter(|(_, repo)| {
            // What the activator has begun it ends first.
            !repo.is_activating() && repo.lapses_in(&now).is_some_and(|left| left.is_zero())
        });
        for key in due.map(|(key, _)| key.clone()).collect::<Vec<_>>() {
            self.lapse(&key).await;
        }
        // What stood in the way may be gone.
        let stuck = self.repos.iter_mut();
        let stuck = stuck.filter_map(|(key, repo)| repo.retries_lapse(&now).then(|| key.clone()));
        for key in stuck.collect::<Vec<_>>() {
            self.pursue(&key).await;
            self.report_now(&key).await;
        }
    }

    async fn lapse(&mut self, key: &RepoKey) {
        let us = self.trust.addressee.clone();
        let repo = self.repo(key);
        let order = repo.saved.order.as_ref();
        let Some(directive) = order.and_then(|order| order.directive.read_unverified()) else {
            return;
        };
        let acceptance = &repo.saved.acceptance;
        let decision = acceptance.lapse(&us, directive.release, &directive);
        let Ok(Decision::Follow(acceptance)) = decision else {
            return;
        };
        let saved = Saved {
            acceptance,
            ..repo.saved.clone()
        };
        if let Err(error) = self.state.save(&saved) {
            let error = crate::error_chain(&error);
            return tracing::error!(repo = %key.0, error, "this host is to go back by itself, and cannot note it");
        }
        let repo = self.repo(key);
        repo.follow(saved);
        let seconds = repo.lapsed().unwrap_or_default().as_secs();
        tracing::warn!(
            repo = %key.0, release = %directive.release.short(), seconds,
            "nobody directs the release any more: going back"
        );
        self.pursue(key).await;
        self.report_now(key).await;
    }
}
