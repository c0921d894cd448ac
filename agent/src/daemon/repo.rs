//! One repo and environment on this host: what was ordered, how far it is, what to do next.
//!
//! Pure: the daemon feeds it and does what [`Repo::next_step`] says.

use std::collections::BTreeSet;

use scap_proto::{
    id::{ChunkId, ReleaseId},
    reason::{Because, Reason},
    release::{
        BytesBySource, Environment, Outcome, PlanHost, RepoPath, Stage, Standing, Step, report,
    },
    wire::control::Finalize,
};
use tokio::sync::watch;

use super::{dead_man::Ordered, saved::Saved, soaking::Soaking};
use crate::{
    acceptance::{Acceptance, Accepted},
    activate::process::{Activated, RepoStanding},
    clock::Moment,
    node::TransferStatus,
};

/// Times that a chunk may turn out missing in activation before the release is given up: each time it is
/// fetched again, so more than a few mean a disk that loses what it is given.
const REFETCHES_MAX: u32 = 3;

/// Hosts that tell their progress each [`super::PROGRESS_PERIOD`]: 2,000 reports a second, which take a fifth of a core to
/// check. In a fleet of 10,000 each tells it every five seconds.
const PROGRESS_OF_HOSTS_MAX: usize = 500;

#[derive(Debug)]
pub(crate) struct Repo {
    pub(crate) saved: Saved,
    /// The latest order, where it lapses.
    pub(super) ordered: Option<Ordered>,
    pub(crate) standing: RepoStanding,
    pub(crate) bytes: BytesBySource,
    pub(crate) fetch_millis: u64,
    pub(crate) prepare_millis: u64,
    pub(crate) promote_millis: u64,
    /// The release that is attached to the node, and whether all of it is here.
    attached: Option<(ReleaseId, bool)>,
    /// What the activator is at work on.
    activating: Option<Pursued>,
    /// The step that it is at, where it is at one.
    pub(super) steps: Option<watch::Receiver<Option<Step>>>,
    /// The directive that was followed to its end, and how that was.
    ended: Option<(Pursued, Result<(), Because>)>,
    refetches: u32,
    pub(super) soaking: Soaking,
    /// The release of which a check failed while it soaked, until something else is done about it.
    failed_soaking: Option<ReleaseId>,
    /// When this host last tried again to go back by itself.
    pub(super) lapse_tried_at: Option<Moment>,
    /// Who has the release that is caught up with.
    pub(crate) providers: Vec<PlanHost>,
    /// The stable releases, where they are attached beside what was accepted.
    pub(crate) beside: BTreeSet<ReleaseId>,
    /// How many hosts fetch together.
    pub(crate) fleet_size: usize,
    /// Times that progress was not told since it was.
    untold: usize,
}

/// A directive of a release, by its epoch and number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pursued {
    pub(crate) release: ReleaseId,
    directive: (u64, u64),
    stage: Stage,
}

/// What to do next about a repo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Next {
    /// Attach the accepted release to the node, in place of `instead_of`.
    Fetch { instead_of: Option<ReleaseId> },
    /// Hand the order to the activator.
    Activate,
}

impl Repo {
    pub(crate) fn new(repo: RepoPath, environment: Environment) -> Self {
        Self::restored(Saved {
            repo,
            environment,
            acceptance: Acceptance::default(),
            order: None,
            plan: None,
            finalize: None,
            open: None,
        })
    }

    /// As it was saved; what was ordered is followed again, which changes nothing where it was reached.
    pub(crate) fn restored(saved: Saved) -> Self {
        Self {
            saved,
            ordered: None,
            standing: RepoStanding::default(),
            bytes: BytesBySource::default(),
            fetch_millis: 0,
            prepare_millis: 0,
            promote_millis: 0,
            attached: None,
            activating: None,
            steps: None,
            ended: None,
            refetches: 0,
            soaking: Soaking::default(),
            failed_soaking: None,
            lapse_tried_at: None,
            providers: Vec::new(),
            beside: BTreeSet::new(),
            fleet_size: 0,
            untold: 0,
        }
    }

    /// Whether progress is to be told now, asked each [`super::PROGRESS_PERIOD`]. The larger the fleet, the more rarely, so that a
    /// coordinator checks no more signatures than it can.
    pub(crate) fn is_progress_due(&mut self) -> bool {
        self.untold += 1;
        let is_due = self.untold * PROGRESS_OF_HOSTS_MAX >= self.fleet_size;
        if is_due {
            self.untold = 0;
        }
        is_due
    }

    pub(crate) fn accepted(&self) -> Option<&Accepted> {
        self.saved.acceptance.accepted.as_ref()
    }

    /// What was accepted is on disk: follow it.
    pub(crate) fn follow(&mut self, saved: Saved) {
        let before = self.accepted().map(|accepted| accepted.release);
        self.saved = saved;
        if self.accepted().map(|accepted| accepted.release) != before {
            self.bytes = BytesBySource::default();
            self.fetch_millis = 0;
            self.prepare_millis = 0;
            self.promote_millis = 0;
            self.refetches = 0;
        }
    }

    /// What to do now, if anything. It counts as begun.
    pub(crate) fn next_step(&mut self) -> Option<Next> {
        let pursued = self.pursued()?;
        let Pursued { release, stage, .. } = pursued;
        if let Some(begun) = &mut self.activating {
            // Told again while it is at it: what comes of it answers the later order.
            if begun.release == release && (begun.stage, stage) == (Stage::Promote, Stage::Promote)
            {
                *begun = pursued;
            }
            return None;
        }
        self.take_renewal(pursued);
        let is_ended = match self.ended.as_ref().filter(|(ended, _)| *ended == pursued) {
            // What failed is tried again when it is ordered again.
            Some((_, Err(_))) => return None,
            Some((_, Ok(()))) => true,
            None => false,
        };
        let is_here = match self.attached {
            Some((attached, is_here)) if attached == release => is_here,
            // What is reached is still served to others; what is gone back from is not.
            other if stage != Stage::Revert => {
                self.attached = Some((release, false));
                return Some(Next::Fetch {
                    instead_of: other.map(|(attached, _)| attached),
                });
            }
            _ => false,
        };
        if is_ended || !(is_here || stage == Stage::Revert) {
            return None;
        }
        self.activating = Some(pursued);
        // Those of what it did before are over.
        self.steps = None;
        Some(Next::Activate)
    }

    /// Whether what was accepted last was tried and failed.
    pub(super) fn has_failed(&self) -> bool {
        let pursued = self.pursued();
        let ended = self.ended.as_ref();
        ended.is_some_and(|(ended, result)| Some(*ended) == pursued && result.is_err())
    }

    /// What the activator is at that ends by itself, of what a release asks.
    pub(super) fn step(&self) -> Option<Step> {
        let steps = self.steps.as_ref().filter(|_| self.activating.is_some());
        steps.and_then(|steps| steps.borrow().clone())
    }

    /// Whether the activator is at work on an order.
    pub(super) fn is_activating(&self) -> bool {
        self.activating.is_some()
    }

    /// Whoever has promoted and is told so again need do nothing: it is told that somebody still directs the release. Nor does that
    /// make well what failed since.
    fn take_renewal(&mut self, pursued: Pursued) {
        let live = self.standing.live.as_ref().map(|live| live.release);
        let is_live = live == Some(pursued.release);
        if let Some((ended, result)) = &mut self.ended
            && (result.is_ok() || self.failed_soaking == Some(pursued.release))
            && ended.release == pursued.release
            && (ended.stage, pursued.stage) == (Stage::Promote, Stage::Promote)
            && is_live
        {
            *ended = pursued;
        }
    }

    /// What the accepted order says to do.
    fn pursued(&self) -> Option<Pursued> {
        self.accepted().map(|accepted| Pursued {
            release: accepted.release,
            directive: accepted.directive,
            stage: accepted.stage,
        })
    }

    pub(crate) fn fetched(&mut self, release: ReleaseId, millis: u64) {
        if let Some((attached, is_here)) = self.attached.as_mut().filter(|(a, _)| *a == release) {
            debug_assert_eq!(*attached, release);
            *is_here = true;
            self.fetch_millis = millis;
        }
    }

    pub(crate) fn fetch_failed(&mut self, release: ReleaseId, reason: Because) {
        if self
            .attached
            .is_some_and(|(attached, _)| attached == release)
        {
            self.attached = None;
            self.ended = self.pursued().map(|pursued| (pursued, Err(reason)));
        }
    }

    /// The activator did what [`Next::Activate`] was about. A later order is still to be followed.
    pub(crate) fn activated(&mut self, done: Activated) {
        self.standing = done.standing;
        self.failed_soaking = None;
        if let Some(pursued) = self.activating.take() {
            match pursued.stage {
                Stage::Fetch => self.prepare_millis = done.millis,
                Stage::Promote | Stage::Revert => self.promote_millis = done.millis,
            }
            self.ended = Some((pursued, Ok(())));
        }
    }

    pub(crate) fn activation_failed(&mut self, reason: Because) {
        let activating = self.activating.take();
        self.ended = activating.map(|pursued| (pursued, Err(reason)));
    }

    /// The release that was promoted by an order, is live, and not yet the stable one.
    pub(super) fn soaks(&self) -> Option<ReleaseId> {
        let pursued = self.pursued()?;
        let live = self.standing.live.as_ref()?.release;
        let stable = self.saved.acceptance.finalized.map(|it| it.release);
        let is_promoted = pursued.stage == Stage::Promote
            && matches!(&self.ended, Some((ended, Ok(()))) if *ended == pursued);
        // What is caught up with is by no order.
        let is_ordered = pursued.directive != (0, 0) && self.activating.is_none();
        let soaks = is_promoted && is_ordered && live == pursued.release && stable != Some(live);
        soaks.then_some(live)
    }

    /// A check of the release that soaks fails by now.
    pub(super) fn soak_failed(&mut self, release: ReleaseId, reason: Because) {
        if self.soaks() == Some(release) {
            self.ended = self.pursued().map(|pursued| (pursued, Err(reason)));
            self.failed_soaking = Some(release);
            self.soaking = Soaking::default();
        }
    }

    /// A chunk was not there, or damaged. Returns whether to detach the release, so that what is
    /// missing is fetched again.
    pub(crate) fn missing_chunk(&mut self, chunk: ChunkId) -> bool {
        self.refetches += 1;
        if self.refetches > REFETCHES_MAX {
            let text = format!("chunk {chunk} is missing from the store again and again");
            self.activation_failed(Reason::MissingChunk.because(text));
            return false;
        }
        self.activating = None;
        self.attached = None;
        true
    }

    pub(crate) fn finalized(&mut self, acceptance: Acceptance, finalize: Finalize) -> Saved {
        let mut saved = Saved {
            acceptance,
            ..self.saved.clone()
        };
        saved.hold(finalize);
        saved
    }

    /// The stable releases, where they are not the one that is attached since it was accepted: during a rollout of a later one, and
    /// after one was gone back from.
    pub(crate) fn stable_beside(&self) -> BTreeSet<ReleaseId> {
        let latest = self.saved.acceptance.finalized.map(|it| it.release);
        let open = self.saved.open.as_ref().map(|it| it.release.id());
        let attached = self.attached.map(|(attached, _)| attached);
        let stable = latest.into_iter().chain(open);
        stable.filter(|it| attached != Some(*it)).collect()
    }

    /// What failed, or is not here yet, is begun anew. Returns the release to detach first, if any.
    pub(crate) fn begin_anew(&mut self) -> Option<ReleaseId> {
        self.refetches = 0;
        self.ended = self.ended.take().filter(|(_, result)| result.is_ok());
        let attached = self.attached.take_if(|(_, is_here)| !*is_here);
        attached.map(|(release, _)| release)
    }

    /// Whether all that was accepted is done.
    pub(crate) fn is_reached(&self) -> bool {
        self.outcome(None) == Outcome::Done
    }

    /// Whether it is on its way from just these.
    pub(crate) fn is_coming_from(&self, providers: &[PlanHost]) -> bool {
        self.is_working() && self.providers == providers
    }

    pub(crate) fn is_working(&self) -> bool {
        matches!(self.outcome(None), Outcome::Working { .. })
    }

    /// How far the latest order is; `progress` is what the node says of the release.
    pub(crate) fn outcome(&self, progress: Option<TransferStatus>) -> Outcome {
        self.outcome_and_code(progress).0
    }

    /// The same, with the code of what it waits for or why it failed.
    pub(crate) fn outcome_and_code(
        &self,
        progress: Option<TransferStatus>,
    ) -> (Outcome, Option<Reason>) {
        let failed = |Because { code, text }| {
            let reason = report::bounded_reason(text);
            (Outcome::Failed { reason }, Some(code))
        };
        if self.accepted().is_none() {
            return (Outcome::Idle, None);
        }
        match &self.ended {
            Some((ended, Ok(()))) if Some(*ended) == self.pursued() => match self.why_lapsed() {
                Some(reason) => failed(reason),
                None => (Outcome::Done, None),
            },
            Some((ended, Err(reason))) if Some(*ended) == self.pursued() => failed(reason.clone()),
            _ => {
                let progress = progress.map(TransferStatus::counts);
                let (chunks_held, chunks_total, waiting) = progress.unwrap_or_default();
                let activating = self.activating.map(|_| match self.step() {
                    Some(step) => step.code.because(step.to_string()),
                    None => Reason::Activator.because("the activator"),
                });
                let waiting = activating.or(waiting);
                let code = waiting.as_ref().map(|waiting| waiting.code);
                let waiting = waiting.map_or_else(String::new, |waiting| waiting.text);
                let working = Outcome::Working {
                    chunks_held,
                    chunks_total,
                    waiting: report::bounded_reason(waiting),
                };
                (working, code)
            }
        }
    }

    pub(crate) fn report_standing(&self) -> Standing {
        let acceptance = &self.saved.acceptance;
        Standing {
            accepted_sequence: acceptance.sequence(),
            accepted: acceptance
                .accepted
                .as_ref()
                .map(|accepted| accepted.release),
            live: self.standing.live.as_ref().map(|live| live.release),
            finalized_sequence: acceptance.finalized_sequence(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::time::Duration;

    use scap_proto::{
        content::SnapshotRef,
        id::SnapshotId,
        release::{Directive, Targets, UnixMillis},
    };

    use super::*;
    use crate::{acceptance::Finalized, activate::process::LiveRelease};

    const RELEASE: ReleaseId = ReleaseId::from_bytes([7; 32]);

    fn repo() -> Repo {
        Repo::new("group/app".parse().unwrap(), "production".parse().unwrap())
    }

    fn order(repo: &mut Repo, number: u64, stage: Stage) {
        let accepted = Accepted {
            sequence: 1,
            release: RELEASE,
            directive: (1, number),
            stage,
        };
        let mut saved = repo.saved.clone();
        saved.acceptance.accepted = Some(accepted);
        repo.follow(saved);
    }

    /// A repo whose release is here.
    fn fetched() -> Repo {
        let mut repo = repo();
        order(&mut repo, 1, Stage::Fetch);
        let instead_of = None;
        assert_eq!(repo.next_step(), Some(Next::Fetch { instead_of }));
        assert_eq!(repo.next_step(), None);
        repo.fetched(RELEASE, 5);
        repo
    }

    fn activated(repo: &mut Repo, millis: u64) {
        repo.activated(Activated {
            millis,
            ..Activated::default()
        });
    }

    #[test]
    fn fetching_ends_with_the_directory_made_and_promoting_with_the_switch() {
        let mut repo = fetched();
        assert_eq!(repo.next_step(), Some(Next::Activate));
        assert!(repo.is_working());
        activated(&mut repo, 10);
        assert_eq!(repo.next_step(), None);
        assert_eq!(repo.outcome(None), Outcome::Done);
        order(&mut repo, 2, Stage::Promote);
        assert!(repo.is_working());
        assert_eq!(repo.next_step(), Some(Next::Activate));
        activated(&mut repo, 3);
        assert_eq!(repo.outcome(None), Outcome::Done);
        assert_eq!((repo.prepare_millis, repo.promote_millis), (10, 3));
    }

    #[test]
    fn what_the_activator_is_at_is_said_by_its_name_until_that_is_over() {
        let mut repo = fetched();
        assert_eq!(repo.next_step(), Some(Next::Activate));
        let said = |repo: &Repo| match repo.outcome_and_code(None) {
            (Outcome::Working { waiting, .. }, code) => (waiting, code.unwrap()),
            other => panic!("{other:?}"),
        };
        let at_work = ("the activator".to_owned(), Reason::Activator);
        assert_eq!((said(&repo), repo.step()), (at_work.clone(), None));
        let (begun, begins) = watch::channel(None);
        repo.steps = Some(begins);
        let step = Step::new(Reason::Check, "http", Duration::from_secs(9));
        begun.send_replace(Some(step.clone()));
        assert_eq!(said(&repo), ("check `http`".to_owned(), Reason::Check));
        assert_eq!(repo.step(), Some(step));
        activated(&mut repo, 1);
        assert_eq!(repo.step(), None);
        order(&mut repo, 2, Stage::Promote);
        assert_eq!(repo.next_step(), Some(Next::Activate));
        assert_eq!((said(&repo), repo.step()), (at_work, None), "not yet");
    }

    #[test]
    fn an_order_that_comes_while_the_activator_works_is_followed_after_it() {
        for (first, second) in [
            (Stage::Fetch, Stage::Promote),
            (Stage::Promote, Stage::Revert),
        ] {
            let mut repo = fetched();
            order(&mut repo, 2, first);
            assert_eq!(repo.next_step(), Some(Next::Activate));
            order(&mut repo, 3, second);
            assert_eq!(repo.next_step(), None, "one at a time");
            activated(&mut repo, 1);
            assert!(repo.is_working(), "{second:?} is not done by {first:?}");
            assert_eq!(repo.next_step(), Some(Next::Activate));
            activated(&mut repo, 1);
            assert_eq!(repo.outcome(None), Outcome::Done);
        }
    }

    #[test]
    fn what_failed_while_it_soaked_stays_failed_when_the_order_is_renewed_and_is_tried_again_after_another()
     {
        let mut repo = fetched();
        repo.next_step();
        activated(&mut repo, 1);
        order(&mut repo, 2, Stage::Promote);
        assert_eq!(repo.next_step(), Some(Next::Activate));
        live(&mut repo);
        assert_eq!(repo.soaks(), Some(RELEASE));
        repo.soak_failed(
            ReleaseId::from_bytes([8; 32]),
            Reason::CheckFailed.because("of another"),
        );
        assert_eq!(repo.outcome(None), Outcome::Done);
        repo.soak_failed(RELEASE, Reason::CheckFailed.because("ill"));
        let failed = Outcome::Failed {
            reason: "ill".to_owned(),
        };
        assert_eq!((repo.outcome(None), repo.soaks()), (failed.clone(), None));
        order(&mut repo, 3, Stage::Promote);
        assert_eq!((repo.next_step(), repo.outcome(None)), (None, failed));
        order(&mut repo, 4, Stage::Fetch);
        assert_eq!(repo.next_step(), Some(Next::Activate));
        live(&mut repo);
        order(&mut repo, 5, Stage::Promote);
        assert_eq!(repo.next_step(), Some(Next::Activate));
    }

    fn stable(repo: &mut Repo, release: ReleaseId) {
        let mut saved = repo.saved.clone();
        let sequence = 1;
        saved.acceptance.finalized = Some(Finalized { sequence, release });
        repo.follow(saved);
    }

    #[test]
    fn what_is_stable_is_served_beside_what_is_rolled_out_and_after_that_was_gone_back_from() {
        let mut repo = fetched();
        assert_eq!(repo.stable_beside(), [].into(), "nothing is");
        stable(&mut repo, RELEASE);
        assert_eq!(
            repo.stable_beside(),
            [].into(),
            "it is attached as it was accepted"
        );
        let later = ReleaseId::from_bytes([8; 32]);
        let mut saved = repo.saved.clone();
        saved.acceptance.accepted = Some(Accepted {
            sequence: 2,
            release: later,
            directive: (1, 1),
            stage: Stage::Fetch,
        });
        repo.follow(saved.clone());
        let instead_of = Some(RELEASE);
        assert_eq!(repo.next_step(), Some(Next::Fetch { instead_of }));
        assert_eq!(repo.stable_beside(), [RELEASE].into());
        // As after a restart.
        saved.acceptance.accepted.as_mut().unwrap().stage = Stage::Revert;
        let mut reverted = Repo::restored(saved);
        assert_eq!(reverted.next_step(), Some(Next::Activate));
        assert_eq!(reverted.stable_beside(), [RELEASE].into());
    }

    #[test]
    fn what_does_not_come_or_failed_is_begun_anew_and_what_is_here_is_not() {
        let mut repo = fetched();
        assert_eq!(repo.begin_anew(), None);
        assert_eq!(repo.next_step(), Some(Next::Activate));
        repo.activation_failed(Reason::DiskFull.because("disk full"));
        assert!(!repo.is_reached() && !repo.is_coming_from(&[]));
        assert_eq!(repo.next_step(), None);
        assert_eq!(repo.begin_anew(), None);
        assert_eq!(repo.next_step(), Some(Next::Activate));
        activated(&mut repo, 1);
        assert_eq!(repo.begin_anew(), None);
        assert!(repo.is_reached());
        assert_eq!(repo.next_step(), None);

        let mut coming = self::repo();
        order(&mut coming, 1, Stage::Fetch);
        let fetch = Some(Next::Fetch { instead_of: None });
        assert_eq!(coming.next_step(), fetch);
        assert!(coming.is_coming_from(&[]));
        assert_eq!(coming.begin_anew(), Some(RELEASE));
        assert_eq!(coming.next_step(), fetch);
    }

    /// The order that is accepted lapses after a minute; it came when the machine had run for 100 s.
    fn lapsing(repo: &mut Repo) {
        let accepted = repo.accepted().unwrap();
        let directive = Directive {
            release: RELEASE,
            epoch: accepted.directive.0,
            number: accepted.directive.1,
            targets: Targets::All,
            stage: accepted.stage,
            plan: None,
            extensions: Default::default(),
        };
        let directive = directive.lapsing_after(Duration::from_secs(60));
        repo.ordered = Ordered::of(&directive, at(100));
    }

    fn at(up: u64) -> Moment {
        Moment {
            boot: "a".into(),
            up: Duration::from_secs(up),
            wall: UnixMillis(0),
        }
    }

    fn live(repo: &mut Repo) {
        let live = LiveRelease {
            release: RELEASE,
            sequence: 1,
            snapshot: SnapshotRef {
                id: SnapshotId::from_bytes([1; 32]),
                descriptor_length: 1,
            },
            commit: None,
            config: None,
        };
        repo.activated(Activated {
            standing: RepoStanding {
                live: Some(live),
                ..RepoStanding::default()
            },
            ..Activated::default()
        });
    }

    /// A repo that has promoted, by an order that lapses.
    fn promoted() -> Repo {
        let mut repo = fetched();
        order(&mut repo, 2, Stage::Promote);
        lapsing(&mut repo);
        assert_eq!(repo.next_step(), Some(Next::Activate));
        live(&mut repo);
        assert_eq!(repo.outcome(None), Outcome::Done);
        repo
    }

    /// What is left to the second.
    fn left(repo: &Repo, up: u64) -> Option<u64> {
        repo.lapses_in(&at(up)).map(|left| left.as_secs())
    }

    #[test]
    fn who_has_promoted_goes_back_when_the_time_is_over_and_says_why() {
        let mut repo = promoted();
        assert_eq!([left(&repo, 100), left(&repo, 159)], [Some(60), Some(1)]);
        assert_eq!([left(&repo, 160), left(&repo, 900)], [Some(0), Some(0)]);
        assert_eq!(repo.lapsed(), None);
        // As the daemon does then.
        let mut saved = repo.saved.clone();
        saved.acceptance.accepted.as_mut().unwrap().stage = Stage::Revert;
        repo.follow(saved);
        assert_eq!(repo.next_step(), Some(Next::Activate));
        activated(&mut repo, 1);
        let reason = "it went back by itself: nobody directed the release for 60 s".to_owned();
        let code = Some(Reason::WentBackByItself);
        assert_eq!(
            repo.outcome_and_code(None),
            (Outcome::Failed { reason }, code)
        );
        assert_eq!(left(&repo, 900), None, "once is enough");
        // Told to fetch, it begins anew.
        order(&mut repo, 3, Stage::Fetch);
        repo.ordered = None;
        assert_eq!(repo.lapsed(), None);
    }

    #[test]
    fn going_back_by_itself_is_tried_again_after_a_while_where_it_failed() {
        let mut repo = promoted();
        let mut saved = repo.saved.clone();
        saved.acceptance.accepted.as_mut().unwrap().stage = Stage::Revert;
        repo.follow(saved);
        assert_eq!(repo.next_step(), Some(Next::Activate));
        repo.activation_failed(Reason::DiskFull.because("disk full"));
        assert_eq!(repo.next_step(), None);
        assert!(repo.retries_lapse(&at(170)));
        assert_eq!(repo.next_step(), Some(Next::Activate));
        repo.activation_failed(Reason::DiskFull.because("disk full"));
        assert!(!repo.retries_lapse(&at(199)));
        assert!(repo.retries_lapse(&at(200)));
        assert_eq!(repo.next_step(), Some(Next::Activate));
        activated(&mut repo, 1);
        assert!(!repo.retries_lapse(&at(900)));
    }

    #[test]
    fn a_promotion_that_fails_is_not_begun_again_by_a_renewal_that_came_meanwhile() {
        let mut repo = fetched();
        order(&mut repo, 2, Stage::Promote);
        assert_eq!(repo.next_step(), Some(Next::Activate));
        order(&mut repo, 3, Stage::Promote);
        assert_eq!(repo.next_step(), None);
        repo.activation_failed(Reason::CheckFailed.because("a check"));
        assert_eq!(repo.next_step(), None);
        let reason = "a check".to_owned();
        assert_eq!(repo.outcome(None), Outcome::Failed { reason });
    }

    #[test]
    fn whoever_is_told_again_to_promote_what_is_live_has_nothing_to_do() {
        let mut repo = promoted();
        for number in 3..6 {
            order(&mut repo, number, Stage::Promote);
            assert_eq!(repo.next_step(), None);
            assert_eq!(repo.outcome(None), Outcome::Done);
        }
        // After fetching anew it is promoted anew, so that a tree is repaired.
        order(&mut repo, 6, Stage::Fetch);
        assert_eq!(repo.next_step(), Some(Next::Activate));
        live(&mut repo);
        order(&mut repo, 7, Stage::Promote);
        assert_eq!(repo.next_step(), Some(Next::Activate));
    }

    #[test]
    fn what_is_stable_or_only_fetched_does_not_lapse() {
        let mut repo = promoted();
        repo.saved.acceptance.finalized = Some(Finalized {
            sequence: 1,
            release: RELEASE,
        });
        assert_eq!(left(&repo, 900), None);
        let mut fetching = fetched();
        lapsing(&mut fetching);
        assert_eq!(left(&fetching, 900), None);
        // Live from before, by a coordinator that goes on with it: it does.
        let mut again = promoted();
        order(&mut again, 3, Stage::Fetch);
        lapsing(&mut again);
        assert_eq!(left(&again, 170), Some(0));
    }

    #[test]
    fn progress_is_told_the_more_rarely_the_larger_the_fleet_is() {
        let mut repo = repo();
        for (hosts, told) in [(0, 100), (500, 100), (501, 50), (10_000, 5)] {
            repo.fleet_size = hosts;
            repo.untold = 0;
            let due = (0..100).filter(|_| repo.is_progress_due()).count();
            assert_eq!(due, told, "{hosts} hosts");
        }
    }

    #[test]
    fn what_failed_is_tried_again_when_it_is_ordered_again() {
        let mut repo = fetched();
        assert_eq!(repo.next_step(), Some(Next::Activate));
        repo.activation_failed(Reason::DiskFull.because("disk full"));
        assert_eq!(repo.next_step(), None);
        assert!(matches!(repo.outcome(None), Outcome::Failed { .. }));
        order(&mut repo, 2, Stage::Fetch);
        assert_eq!(repo.next_step(), Some(Next::Activate));
    }
}
