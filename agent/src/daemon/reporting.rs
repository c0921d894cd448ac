//! What the daemon says to who is above it.

use scap_proto::{
    extensions::Extensions,
    id::ReleaseId,
    reason::{Because, Reason},
    release::{Audience, Outcome, Report, ShunnedPeer, SignedReport, Stage, UnixMillis, report},
    wire::control::{ControlMessage, Order},
};

use super::{Daemon, Repo, RepoKey, control::ControlId};
use crate::{
    clock::{self, Moment},
    node::{Readers, TransferStatus},
};

impl Daemon {
    pub(super) async fn report_progress(&mut self) {
        if self.controls.is_empty() {
            return;
        }
        let repos = self.repos.iter_mut();
        let due = repos.filter_map(|(key, repo)| {
            (repo.is_working() && repo.is_progress_due()).then(|| key.clone())
        });
        for key in due.collect::<Vec<_>>() {
            self.report_now(&key).await;
        }
    }

    pub(super) async fn report_now(&mut self, key: &RepoKey) {
        if let Some(report) = self.report(key).await {
            self.send(None, key, report);
        }
    }

    /// Who ordered takes us to keep the plan. That we do not is in our report, and then it comes along.
    pub(super) async fn report_lack_of_plan(&mut self, key: &RepoKey, order: &Order) {
        let targets = order.directive.targets_unverified();
        if targets.is_some_and(|it| it.include(&self.trust.addressee.host)) {
            tracing::debug!(repo = %key.0, "an order without its plan, which is not here");
            self.report_now(key).await;
        }
    }

    /// Says so, once, and then where we stand: whoever sent it, it changes nothing of what we follow.
    pub(super) async fn refuse(
        &mut self,
        id: ControlId,
        key: &RepoKey,
        release: ReleaseId,
        reason: Because,
    ) {
        use Reason::{RefusedEquivocation, RefusedSequence, RefusedSignature};
        // Nobody honest orders these, or passes them on unasked.
        if let RefusedEquivocation | RefusedSequence | RefusedSignature = reason.code {
            let from = self.controls.get(&id).map(|above| &above.from);
            self.node.saw(reason.code, from);
        }
        tracing::warn!(repo = %key.0, environment = %key.1, code = %reason.code, %reason, "order refused");
        self.report_refusal(key, release, reason).await;
        if self.repos.contains_key(key) {
            self.report_now(key).await;
        } else {
            // As many numbers are used up: or who sees two reports about another repo would learn from them whether this one is here.
            self.counter += 1;
        }
    }

    /// Says that an order about a release was refused.
    pub(super) async fn report_refusal(
        &mut self,
        key: &RepoKey,
        release: ReleaseId,
        reason: Because,
    ) {
        let report = self.unsigned(key).await;
        let code = reason.code;
        let reason = report::bounded_reason(reason.text);
        let report = Report {
            outcome: Outcome::Refused { reason },
            extensions: Extensions::default(),
            ..report
        };
        let report = report.refusing(release).because(code);
        let report = self.with_what_it_saw(report);
        let report = SignedReport::sign(&report, &self.trust.identity);
        self.send(None, key, report);
    }

    pub(super) async fn report(&mut self, key: &RepoKey) -> Option<SignedReport> {
        let report = self.unsigned(key).await;
        Some(SignedReport::sign(&report, &self.trust.identity))
    }

    /// The same report, with what this host saw, whom it shuns, and since when it has heard nothing new.
    fn with_what_it_saw(&self, report: Report) -> Report {
        let report = report.having_seen(&self.node.sightings());
        let shunned = self.node.shunned().into_iter();
        let shunned = shunned.map(|shun| ShunnedPeer {
            peer: shun.peer,
            code: shun.code,
        });
        let shunned: Vec<_> = shunned.collect();
        let report = match shunned.is_empty() {
            true => report,
            false => report.shunning(&shunned),
        };
        match self.freshness.stale(&Moment::now()) {
            Some((since, _)) => report.stale(since),
            None => report,
        }
    }

    /// What we say of a repo now.
    async fn unsigned(&mut self, key: &RepoKey) -> Report {
        let progress = self.progress(key).await;
        let wants_seed = progress.as_ref().is_some_and(|status| status.wants_seed);
        self.counter += 1;
        let counter = self.counter;
        let host = self.trust.addressee.host.clone();
        let unknown;
        let repo = match self.repos.get(key) {
            Some(repo) => repo,
            None => {
                unknown = Repo::new(key.0.clone(), key.1.clone());
                &unknown
            }
        };
        let accepted = repo.accepted();
        let (outcome, code) = repo.outcome_and_code(progress);
        let step = repo.step();
        let report = Report {
            host,
            repo: key.0.clone(),
            environment: key.1.clone(),
            release: accepted.map(|accepted| accepted.release),
            counter,
            stage: accepted.map_or(Stage::Fetch, |accepted| accepted.stage),
            directive: accepted.map_or((0, 0), |accepted| accepted.directive),
            outcome,
            bytes: repo.bytes,
            fetch_millis: repo.fetch_millis,
            prepare_millis: repo.prepare_millis,
            promote_millis: repo.promote_millis,
            standing: repo.report_standing(),
            extensions: Default::default(),
        };
        let report = report.trusting(&self.trust_standing());
        let report = match &repo.standing.live {
            Some(live) => report.running(live.snapshot.id),
            None => report,
        };
        let report = match &repo.saved.plan {
            Some((plan, _)) => report.holding(*plan),
            None => report,
        };
        let report = match (step, code) {
            (Some(step), _) => report.at(&step),
            (None, Some(code)) => report.because(code),
            (None, None) => report,
        };
        let report = self.with_what_it_saw(report);
        match wants_seed {
            true => report.wanting_seed(),
            false => report,
        }
    }

    pub(super) async fn progress(&mut self, key: &RepoKey) -> Option<TransferStatus> {
        let release = self.repos.get(key)?.accepted()?.release;
        let status = self.node.status(release).await?;
        self.repo(key).bytes = status.bytes;
        Some(status)
    }

    /// Says it to all that are above us, or to one of them, as far as they may hear it.
    pub(super) fn send(&mut self, to: Option<ControlId>, key: &RepoKey, report: SignedReport) {
        let message = ControlMessage::Report(Box::new(report));
        let (readers, is_unknown, now) = self.readers_of(key);
        self.say(
            |id, above| {
                let is_meant = to.is_none_or(|to| to == id);
                is_meant && above.admit(key, &readers, is_unknown, now).is_ok()
            },
            &message,
        );
    }

    /// Whether who is above us on a stream may hear where we stand. If not, that is noted, and it hears nothing, as of what we
    /// know nothing about.
    pub(super) fn admits(&self, id: ControlId, key: &RepoKey) -> bool {
        let Some(above) = self.controls.get(&id) else {
            return false;
        };
        let (readers, is_unknown, now) = self.readers_of(key);
        let admitted = above.admit(key, &readers, is_unknown, now);
        if let Err(reason) = admitted {
            self.node.deny(&above.from, reason);
        }
        admitted.is_ok()
    }

    /// Whom the latest release of a repo is addressed to; and whether we show no membership ourselves. One of a repo of which we know
    /// nothing may be for any audience that we are in. So who is outside one of them hears nothing either way, and not from that
    /// which of its repos we have.
    fn readers_of(&self, key: &RepoKey) -> (Vec<Readers>, bool, UnixMillis) {
        let repo = self.repos.get(key);
        let about = repo.and_then(|repo| repo.saved.accepted_release());
        let about = about.and_then(|release| release.read_unverified().ok());
        let readers = match about {
            Some(about) => vec![Readers::of(&about)],
            None => {
                let audiences = self.trust.addressee.audiences.iter();
                let of = |audience: &Audience| Readers {
                    environment: key.1.clone(),
                    audience: audience.clone(),
                };
                audiences.map(of).collect()
            }
        };
        (readers, self.trust.membership.get().is_none(), clock::now())
    }
}
