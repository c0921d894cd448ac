//! What a person may tell a running rollout.

use std::time::Duration;

use scap_proto::{id::NodeId, reason::Reason};

use super::{
    engine::{Cause, Engine, Input, Phase},
    host::{HostProgress, HostState},
    wait::WaitingOn,
    waves::{Soak, Turn},
};

/// What a person wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Stop advancing: hosts finish what they were told, and nobody is told anything new.
    Pause,
    /// Go on: from a pause, and without hosts that are lost beyond what a wave may lose.
    Resume,
    /// End the one wait that a person saw: the soak of a wave, or that for its approval.
    Promote {
        /// For what it was seen to wait.
        on: WaitingOn,
        /// Of which wave.
        wave: String,
    },
    /// Take every host that was touched back to what it ran.
    Abort,
    /// Try hosts again that failed or were not reached.
    RetryFailed,
    /// Go on without a host that does not have the release live.
    Skip {
        /// Which.
        host: NodeId,
        /// Why, for the record.
        reason: String,
    },
}

/// Why a command cannot be followed now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// It has not begun.
    #[error("the rollout has not begun")]
    NotBegun,
    /// All waves went through.
    #[error(
        "all waves went through, and the release is being finalized: to go back, deploy the older revision"
    )]
    Finalizing,
    /// It was finalized before this rollout of it.
    #[error("the release is the stable one: to go back, deploy the older revision")]
    Finalized,
    /// It goes back already.
    #[error("the rollout is rolling back, and does nothing else")]
    RollingBack,
    /// It is over.
    #[error("the rollout is over")]
    Over,
    /// Nothing to resume.
    #[error("the rollout is not paused")]
    NotPaused,
    /// Nothing to promote.
    #[error("nothing but its hosts holds the rollout back")]
    NotHeld,
    /// It has gone on since somebody looked.
    #[error(
        "it went on meanwhile, from wave {seen:?} to wave {wave:?} or another wait of it: look again"
    )]
    Elsewhere {
        /// Where it is.
        wave: String,
        /// Where it was.
        seen: String,
    },
    /// Paused, which `promote` does not end.
    #[error("the rollout is paused: resume it first")]
    Paused,
    /// A limit, which `promote` does not lift.
    #[error(
        "{lost} hosts of {of} are lost, and {allowed} may be: skip or retry them, or resume to go on without them"
    )]
    Budget {
        /// Of what.
        of: String,
        /// How many are lost.
        lost: usize,
        /// How many may be.
        allowed: usize,
    },
    /// Nobody to try again.
    #[error("no host failed, and all are reached")]
    NoneLost,
    /// A host that is not in the fleet.
    #[error("host {0} is not in this rollout")]
    UnknownHost(NodeId),
    /// A host that has it.
    #[error("host {0} has the release live, or may have: abort takes it back")]
    Touched(NodeId),
}

impl Engine {
    /// Follows a command. Drain [`Self::poll_output`] before the next, as with an input.
    ///
    /// # Errors
    /// [`CommandError`]; then nothing is changed. A command that asks for what is so already is followed.
    pub fn command(&mut self, now: Duration, command: Command) -> Result<(), CommandError> {
        self.is_out_of_grant |= self.config.granted_until <= now;
        let turn = match (&self.phase, &command) {
            (Phase::Waves(_), Command::Abort) if self.config.is_finalized => {
                return Err(CommandError::Finalized);
            }
            (Phase::Waves(turn), _) => *turn,
            (Phase::RollingBack(_), Command::Abort) => return Ok(()),
            (Phase::RollingBack(_), _) => return Err(CommandError::RollingBack),
            (Phase::Connecting, _) => return Err(CommandError::NotBegun),
            (Phase::Finalizing { .. }, _) => return Err(CommandError::Finalizing),
            (Phase::Ended, _) => return Err(CommandError::Over),
        };
        match command {
            Command::Pause => {
                self.paused.get_or_insert(now);
            }
            Command::Resume => self.resume(turn)?,
            Command::Promote { on, wave } => self.promote_now(turn, on, &wave)?,
            Command::Abort => self.roll_back(Cause::Abort),
            Command::RetryFailed => self.retry_failed()?,
            Command::Skip { host, reason } => self.skip(host, reason)?,
        }
        self.advance(now);
        Ok(())
    }

    /// A person interrupts: that pauses it, or says why it cannot be paused. None where they know that already: then it ends. Drain
    /// [`Self::poll_output`] before the next, as with an input.
    pub fn interrupt(&mut self, now: Duration) -> Option<Result<(), CommandError>> {
        let was_paused = self.is_paused();
        let paused = self.command(now, Command::Pause);
        if was_paused || (paused.is_err() && self.was_warned) {
            self.handle_input(now, Input::Detach);
            return None;
        }
        self.was_warned = paused.is_err();
        Some(paused)
    }

    /// Whether a person paused it.
    pub fn is_paused(&self) -> bool {
        self.paused.is_some()
    }

    fn resume(&mut self, turn: Turn) -> Result<(), CommandError> {
        // What a person saw when it was paused is what they go on from: a limit is lifted when it is what holds.
        if self.paused.take().is_some() {
            return Ok(());
        }
        if self.exceeded(turn).is_none() {
            return Err(CommandError::NotPaused);
        }
        let has_begun = |it: &&mut HostProgress| it.place.0 <= turn.wave;
        for progress in self.hosts.values_mut().filter(has_begun) {
            progress.is_excused |= progress.is_lost();
        }
        Ok(())
    }

    fn promote_now(
        &mut self,
        turn: Turn,
        seen_on: WaitingOn,
        seen_wave: &str,
    ) -> Result<(), CommandError> {
        if self.paused.is_some() {
            return Err(CommandError::Paused);
        }
        if let Some((limit, lost)) = self.exceeded(turn) {
            return Err(CommandError::Budget {
                of: limit.of.clone(),
                lost,
                allowed: limit.allowed,
            });
        }
        let on = self.waiting_on().map(|wait| wait.on);
        let next = match on {
            Some(WaitingOn::Approval) => Turn {
                is_approved: true,
                ..turn
            },
            Some(WaitingOn::Soak) if matches!(turn.soak, Soak::Until(_)) => Turn {
                soak: Soak::Over,
                ..turn
            },
            _ => return Err(CommandError::NotHeld),
        };
        let wave = &self.config.policy.waves[turn.wave].name;
        if (on, wave.as_str()) != (Some(seen_on), seen_wave) {
            return Err(CommandError::Elsewhere {
                wave: wave.clone(),
                seen: seen_wave.to_owned(),
            });
        }
        self.phase = Phase::Waves(next);
        Ok(())
    }

    fn retry_failed(&mut self) -> Result<(), CommandError> {
        let is_lost = |it: &HostProgress| {
            matches!(it.state, HostState::Failed(_) | HostState::Unreachable(_))
        };
        let lost = self.hosts.iter().filter(|(_, it)| is_lost(it));
        let lost: Vec<NodeId> = lost.map(|(host, _)| host.clone()).collect();
        if lost.is_empty() {
            return Err(CommandError::NoneLost);
        }
        for host in lost {
            let progress = self.hosts.get_mut(&host).expect("it was just found");
            progress.is_excused = false;
            self.settle(&host, HostState::Waiting);
        }
        Ok(())
    }

    fn skip(&mut self, host: NodeId, reason: String) -> Result<(), CommandError> {
        let Some(progress) = self.hosts.get(&host) else {
            return Err(CommandError::UnknownHost(host));
        };
        let is_lost = matches!(
            progress.state,
            HostState::Failed(_) | HostState::Unreachable(_)
        );
        // One that is lost may be touched: a rollback still reaches it.
        if progress.is_touched && !is_lost {
            return Err(CommandError::Touched(host));
        }
        self.settle(&host, HostState::Skipped(Reason::Skipped.because(reason)));
        Ok(())
    }
}
