//! What a rollout waits for, in the words that the command line, its JSON and the guide share.

use std::{collections::BTreeSet, fmt, time::Duration};

use scap_proto::id::NodeId;

/// One wait: for what, of whom, since when, and how long at most.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wait {
    /// For what.
    pub on: WaitingOn,
    /// The wave that it is about; none where it is about all.
    pub wave: Option<String>,
    /// The hosts that it waits for, or that hold it up.
    pub hosts: BTreeSet<NodeId>,
    /// Since when, by the engine's time.
    pub since: Duration,
    /// When it is over whatever happens, by the engine's time; none where only a person ends it.
    pub until: Option<Duration>,
}

/// What a rollout waits for. Each has a section of its code in `docs/waits.md`.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum WaitingOn {
    /// Hosts of a wave that fetch.
    Chunks,
    /// Hosts of a wave that promote.
    Promotion,
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
    pub const ALL: [Self; 9] = [
        Self::Chunks,
        Self::Promotion,
        Self::Soak,
        Self::Approval,
        Self::Paused,
        Self::Budget,
        Self::Grant,
        Self::Rollback,
        Self::Finalization,
    ];

    /// Its code, in lower-case kebab: what JSON and the guide call it. It never changes.
    pub fn code(self) -> &'static str {
        match self {
            Self::Chunks => "chunks",
            Self::Promotion => "promotion",
            Self::Soak => "soak",
            Self::Approval => "approval",
            Self::Paused => "paused",
            Self::Budget => "budget",
            Self::Grant => "grant",
            Self::Rollback => "rollback",
            Self::Finalization => "finalization",
        }
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
            Self::Promotion => "pause, or abort",
            Self::Soak => "promote (go on now), pause, or abort",
            Self::Approval => "promote (let it go), or abort",
            Self::Paused => "resume, retry --failed, skip HOST, or abort",
            Self::Budget => "retry --failed, skip HOST, resume (go on without them), or abort",
            Self::Grant => "the same command again",
            Self::Rollback | Self::Finalization => "",
        }
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
    fn every_wait_has_a_section_in_the_guide_under_its_code() {
        let guide = include_str!("../../../docs/waits.md");
        for on in WaitingOn::ALL {
            let heading = format!("\n## {on}\n");
            assert_eq!(guide.matches(&heading).count(), 1, "`## {on}`");
        }
        let headings = guide.matches("\n## ").count();
        assert_eq!(headings, WaitingOn::ALL.len(), "a section of no wait");
    }
}
