//! Where the time of a rollout goes: its waits, summed by kind.

use std::time::Duration;

use super::{engine::Engine, wait::WaitingOn};

/// How long a rollout waited for what. At each moment it waits for one thing, so these add up to how long it has gone on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Spent {
    /// For hosts that fetch.
    pub fetch: Duration,
    /// For hosts that promote, go back, or confirm the finalization.
    pub activate: Duration,
    /// For waves that soak.
    pub soak: Duration,
    /// For somebody who approves, resumes, or brings lost hosts back.
    pub people: Duration,
}

impl Spent {
    /// The same, and so long for one more wait.
    #[must_use]
    pub(super) fn and(mut self, on: WaitingOn, time: Duration) -> Self {
        let sum = match on {
            WaitingOn::Chunks => &mut self.fetch,
            WaitingOn::Promotion
            | WaitingOn::ExternalCheck
            | WaitingOn::Rollback
            | WaitingOn::Finalization => &mut self.activate,
            WaitingOn::Soak => &mut self.soak,
            WaitingOn::Approval | WaitingOn::Paused | WaitingOn::Budget | WaitingOn::Grant => {
                &mut self.people
            }
        };
        *sum += time;
        self
    }
}

impl Engine {
    /// How long it has waited for what by `now`; once it is over, by then.
    pub fn spent(&self, now: Duration) -> Spent {
        match &self.waits {
            Some((on, _, since)) => self.spent.and(*on, now.saturating_sub(*since)),
            None => self.spent,
        }
    }
}
