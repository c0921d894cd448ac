//! What the daemon says to who is above it.

use scap_proto::{
    extensions::Extensions,
    id::ReleaseId,
    reason::Because,
    release::{Outcome, Report, SignedReport, Stage, report},
    wire::control::{ControlMessage, Order},
};

use super::{Daemon, Repo, RepoKey, control::ControlId};
use crate::node::TransferStatus;

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
            self.send(None, report);
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
        self.send(None, SignedReport::sign(&report, &self.trust.identity));
    }

    pub(super) async fn report(&mut self, key: &RepoKey) -> Option<SignedReport> {
        let report = self.unsigned(key).await;
        Some(SignedReport::sign(&report, &self.trust.identity))
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

    pub(super) fn send(&mut self, to: Option<ControlId>, report: SignedReport) {
        let message = ControlMessage::Report(Box::new(report));
        self.say(|id, _| to.is_none_or(|to| to == id), &message);
    }
}
