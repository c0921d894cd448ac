//! What a rollout waits for, in the words that the command line, its JSON and the guide share.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use scap_proto::{id::NodeId, reason::Reason, release::Step};

/// One wait: for what, of whom, since when, and how long at most.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wait {
    /// For what.
    pub on: WaitingOn,
    /// The wave that it is about; none where it is about all.
    pub wave: Option<String>,
    /// The hosts that it waits for, or that hold it up.
    pub hosts: BTreeSet<NodeId>,
    /// What some of these hosts say that they are at, such as a check.
    pub steps: BTreeMap<Step, BTreeSet<NodeId>>,
    /// Since when, by the engine's time.
    pub since: Duration,
    /// When it is over whatever happens, by the engine's time; none where only a person ends it.
    pub until: Option<Duration>,
}

/// What a rollout waits for. Each is a [`Reason`].
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(into = "Reason", try_from = "Reason")]
pub enum WaitingOn {
    /// Hosts of a wave that fetch.
    Chunks,
    /// Hosts of a wave that promote.
    Promotion,
    /// That the command which looks at a wave from here says that it is well.
    ExternalCheck,
    /// That a wave has had the release live long enough.
    Soak,
    /// That a person lets a wave promote.
    Approval,
    /// That a person, who paused it, lets it go on.
    Paused,
    /// That hosts are reached again, without which a wave has lost more than it may, or that a person goes on without them.
    Budget,
    /// That somebody deploys again: hosts follow no order any more but to go back.
    Grant,
    /// Hosts that go back.
    Rollback,
    /// Hosts that have not confirmed the finalization.
    Finalization,
}

impl WaitingOn {
    /// Every one.
    pub const ALL: [Self; 10] = [
        Self::Chunks,
        Self::Promotion,
        Self::ExternalCheck,
        Self::Soak,
        Self::Approval,
        Self::Paused,
        Self::Budget,
        Self::Grant,
        Self::Rollback,
        Self::Finalization,
    ];

    /// Its code: what JSON and the guide call it.
    pub fn code(self) -> &'static str {
        let known = Reason::from(self).known();
        known.expect("each is one that this build knows")
    }

    /// Whether nothing but a person, or a host that comes back, ends it.
    pub fn needs_a_person(self) -> bool {
        matches!(
            self,
            Self::Approval | Self::Paused | Self::Budget | Self::Grant
        )
    }

    /// What a person may do about it, as commands; none where it is best left alone.
    pub fn moves(self) -> &'static str {
        match self {
            Self::Chunks => "pause, skip HOST, or abort",
            Self::Promotion | Self::ExternalCheck => "pause, or abort",
            Self::Soak => "promote (go on now), pause, or abort",
            Self::Approval => "promote (let it go), or abort",
            Self::Paused => "resume, retry --failed, skip HOST, or abort",
            Self::Budget => "retry --failed, skip HOST, resume (go on without them), or abort",
            Self::Grant => "the same command again",
            Self::Rollback | Self::Finalization => "",
        }
    }
}

impl From<WaitingOn> for Reason {
    fn from(on: WaitingOn) -> Self {
        match on {
            WaitingOn::Chunks => Self::Chunks,
            WaitingOn::Promotion => Self::Promotion,
            WaitingOn::ExternalCheck => Self::ExternalCheck,
            WaitingOn::Soak => Self::Soak,
            WaitingOn::Approval => Self::Approval,
            WaitingOn::Paused => Self::Paused,
            WaitingOn::Budget => Self::Budget,
            WaitingOn::Grant => Self::Grant,
            WaitingOn::Rollback => Self::Rollback,
            WaitingOn::Finalization => Self::Finalization,
        }
    }
}

impl TryFrom<Reason> for WaitingOn {
    type Error = String;

    fn try_from(reason: Reason) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|on| Reason::from(*on) == reason);
        found.ok_or_else(|| format!("no rollout waits for `{reason}`"))
    }
}

impl fmt::Display for WaitingOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_has_the_code_of_every_wait() {
        for on in WaitingOn::ALL {
            assert_eq!(serde_json::json!(on), on.code());
        }
    }

    #[test]
    fn a_wait_is_read_back_from_its_code_and_no_other_code_is_one() {
        for on in WaitingOn::ALL {
            assert_eq!(WaitingOn::try_from(Reason::from(on)), Ok(on));
        }
        let others = Reason::ALL
            .iter()
            .filter(|it| WaitingOn::try_from(**it).is_err());
        assert_eq!(others.count() + WaitingOn::ALL.len(), Reason::ALL.len());
    }
}
