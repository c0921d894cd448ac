//! The look from outside: a command that is run here once a wave has the release live, since a host's own word that it is well is no
//! proof.
//!
//! It is run after the hosts of a wave promoted, and once more when they have soaked. While it has not passed, nobody of the next
//! wave promotes, and nothing is finalized; where it fails, all that was touched goes back.

use std::time::Duration;

use scap_proto::id::NodeId;

use super::{
    engine::{Cause, Engine, Output, Phase},
    host::HostState,
    waves::Turn,
};

/// How long it may take unless that is said.
pub const TIMEOUT: Duration = Duration::from_secs(60);

/// What looks at a wave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExternalCheck {
    /// The program and its first arguments; the names of the hosts follow. At least one.
    pub command: Vec<String>,
    /// After so long it is killed with its process group, and has failed.
    pub timeout: Duration,
}

/// How far looking at the wave is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Looked {
    /// It is to be looked at.
    #[default]
    NotYet,
    /// It is being looked at, by the run of this number, since then.
    Looking(u64, Duration),
    /// It is well.
    Passed,
}

impl Engine {
    /// Has a wave looked at, before it soaks and before its turn ends. Whether there is something to wait for, or was just begun.
    pub(super) fn look_from_outside(&mut self, now: Duration, turn: Turn) -> Option<bool> {
        // From what is stable nobody goes back, whatever is seen.
        let is_stable = self.config.is_finalized;
        self.config.external_check.as_ref().filter(|_| !is_stable)?;
        match turn.looked {
            Looked::Passed => None,
            Looked::Looking(..) => Some(false),
            Looked::NotYet => {
                let live = self
                    .hosts
                    .iter()
                    .filter(|(_, it)| it.place.0 == turn.wave && it.state == HostState::Promoted);
                let hosts: Vec<NodeId> = live.map(|(host, _)| host.clone()).collect();
                if hosts.is_empty() {
                    return None;
                }
                self.looks += 1;
                let number = self.looks;
                self.outputs.push_back(Output::Look {
                    number,
                    wave: self.config.policy.waves[turn.wave].name.clone(),
                    hosts,
                });
                let looked = Looked::Looking(number, now);
                self.phase = Phase::Waves(Turn { looked, ..turn });
                Some(true)
            }
        }
    }

    /// It was looked at. What is not the latest look says nothing.
    pub(super) fn looked(&mut self, number: u64, result: Result<(), String>) {
        let Phase::Waves(turn) = &mut self.phase else {
            return;
        };
        if !matches!(turn.looked, Looked::Looking(latest, _) if latest == number) {
            return;
        }
        turn.looked = match &result {
            Ok(()) => Looked::Passed,
            Err(_) => Looked::NotYet,
        };
        let wave = self.config.policy.waves[turn.wave].name.clone();
        self.ill = result.err().map(|reason| Cause::External { wave, reason });
    }
}
