//! One repo and environment on this host: what was ordered, how far it is, what to do next.
//!
//! Pure: the daemon feeds it and does what [`Repo::next_step`] says.

use scap_proto::{
    id::{ChunkId, ReleaseId},
    release::{BytesBySource, Environment, Outcome, RepoPath, Stage, Standing, report},
    wire::control::Finalize,
};

use super::saved::Saved;
use crate::{
    acceptance::{Acceptance, Accepted},
    activate::process::{Activated, RepoStanding},
};

/// Times that a chunk may turn out missing in activation before the release is given up: each time it is
/// fetched again, so more than a few mean a disk that loses what it is given.
const REFETCHES_MAX: u32 = 3;

#[derive(Debug)]
pub(crate) struct Repo {
    pub(crate) saved: Saved,
    pub(crate) standing: RepoStanding,
    pub(crate) bytes: BytesBySource,
    pub(crate) fetch_millis: u64,
    pub(crate) promote_millis: u64,
    /// The release that is attached to the node, and whether all of it is here.
    attached: Option<(ReleaseId, bool)>,
    is_activating: bool,
    /// The directive that was followed to its end, and how that was.
    ended: Option<Ended>,
    /// An order that was refused after the one obeyed.
    refused: Option<String>,
    refetches: u32,
}

/// A release and directive, and how following it ended.
type Ended = (ReleaseId, (u64, u64), Result<(), String>);

/// What to do next about a repo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
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
        })
    }

    /// As it was saved; what was ordered is followed again, which changes nothing where it was reached.
    pub(crate) fn restored(saved: Saved) -> Self {
        Self {
            saved,
            standing: RepoStanding::default(),
            bytes: BytesBySource::default(),
            fetch_millis: 0,
            promote_millis: 0,
            attached: None,
            is_activating: false,
            ended: None,
            refused: None,
            refetches: 0,
        }
    }

    pub(crate) fn accepted(&self) -> Option<&Accepted> {
        self.saved.acceptance.accepted.as_ref()
    }

    /// What was accepted is on disk: follow it.
    pub(crate) fn follow(&mut self, saved: Saved) {
        let before = self.accepted().map(|accepted| accepted.release);
        self.saved = saved;
        self.refused = None;
        if self.accepted().map(|accepted| accepted.release) != before {
            self.bytes = BytesBySource::default();
            self.fetch_millis = 0;
            self.promote_millis = 0;
            self.refetches = 0;
        }
    }

    pub(crate) fn refuse(&mut self, reason: String) {
        self.refused = Some(reason);
    }

    /// What to do now, if anything. It counts as begun.
    pub(crate) fn next_step(&mut self) -> Option<Step> {
        let Accepted {
            release,
            directive,
            stage,
            ..
        } = *self.accepted()?;
        if self.is_activating {
            return None;
        }
        let ended = self
            .ended
            .as_ref()
            .filter(|(r, d, _)| (*r, *d) == (release, directive));
        let is_ended = match ended {
            // What failed is tried again when it is ordered again.
            Some((_, _, Err(_))) => return None,
            Some((_, _, Ok(()))) => true,
            None => false,
        };
        let is_here = match self.attached {
            Some((attached, is_here)) if attached == release => is_here,
            // What is reached is still served to others; what is gone back from is not.
            other if stage != Stage::Revert => {
                self.attached = Some((release, false));
                return Some(Step::Fetch {
                    instead_of: other.map(|(attached, _)| attached),
                });
            }
            _ => false,
        };
        if is_ended {
            return None;
        }
        match stage {
            Stage::Fetch if is_here => {
                self.ended = Some((release, directive, Ok(())));
                None
            }
            Stage::Promote if is_here => {
                self.is_activating = true;
                Some(Step::Activate)
            }
            Stage::Fetch | Stage::Promote => None,
            Stage::Revert => {
                self.is_activating = true;
                Some(Step::Activate)
            }
        }
    }

    pub(crate) fn fetched(&mut self, release: ReleaseId, millis: u64) {
        if let Some((attached, is_here)) = self.attached.as_mut().filter(|(a, _)| *a == release) {
            debug_assert_eq!(*attached, release);
            *is_here = true;
            self.fetch_millis = millis;
        }
    }

    pub(crate) fn fetch_failed(&mut self, release: ReleaseId, reason: String) {
        if self
            .attached
            .is_some_and(|(attached, _)| attached == release)
        {
            self.attached = None;
            self.end(release, Err(reason));
        }
    }

    pub(crate) fn activated(&mut self, release: ReleaseId, done: Activated) {
        self.is_activating = false;
        self.standing = done.standing;
        self.promote_millis = done.millis;
        self.end(release, Ok(()));
    }

    pub(crate) fn activation_failed(&mut self, release: ReleaseId, reason: String) {
        self.is_activating = false;
        self.end(release, Err(reason));
    }

    /// A chunk was not there, or damaged. Returns whether to detach the release, so that what is
    /// missing is fetched again.
    pub(crate) fn missing_chunk(&mut self, release: ReleaseId, chunk: ChunkId) -> bool {
        self.is_activating = false;
        self.refetches += 1;
        if self.refetches > REFETCHES_MAX {
            let reason = format!("chunk {chunk} is missing from the store again and again");
            self.end(release, Err(reason));
            return false;
        }
        self.attached = None;
        true
    }

    pub(crate) fn finalized(&mut self, acceptance: Acceptance, finalize: Finalize) -> Saved {
        Saved {
            acceptance,
            finalize: Some(finalize),
            ..self.saved.clone()
        }
    }

    pub(crate) fn is_working(&self) -> bool {
        matches!(self.outcome(None), Outcome::Working { .. })
    }

    /// How far the latest order is; `progress` is what the node says of the release.
    pub(crate) fn outcome(&self, progress: Option<(u32, u32, Option<String>)>) -> Outcome {
        if let Some(reason) = &self.refused {
            return Outcome::Refused {
                reason: report::bounded_reason(reason.clone()),
            };
        }
        let Some(accepted) = self.accepted() else {
            return Outcome::Idle;
        };
        match &self.ended {
            Some((release, directive, result))
                if (*release, *directive) == (accepted.release, accepted.directive) =>
            {
                match result {
                    Ok(()) => Outcome::Done,
                    Err(reason) => Outcome::Failed {
                        reason: report::bounded_reason(reason.clone()),
                    },
                }
            }
            _ => {
                let (chunks_held, chunks_total, waiting) = progress.unwrap_or_default();
                let activating = self.is_activating.then(|| "the activator".to_owned());
                let waiting = report::bounded_reason(activating.or(waiting).unwrap_or_default());
                Outcome::Working {
                    chunks_held,
                    chunks_total,
                    waiting,
                }
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

    fn end(&mut self, release: ReleaseId, result: Result<(), String>) {
        if let Some(accepted) = self
            .accepted()
            .filter(|accepted| accepted.release == release)
        {
            self.ended = Some((release, accepted.directive, result));
        }
    }
}
