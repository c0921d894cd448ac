//! What is still to be done after a switch: checks are run and services handled once it is made, and a crash in between must
//! not leave a service with the release before.
//!
//! It is recorded before the switch, and names what is to be live by then. Checks before a switch may have taken the host out of
//! service: where it is not made, the checks after one are owed to what still is live, and that is recorded before they are run.

use scap_proto::content::SnapshotRef;
use serde::{Deserialize, Serialize};

use super::{
    deployment::Deployment,
    error::{ActivateError, Doing},
    record::{self, Found, Record, Rev},
};

/// What a switch leaves to be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Owed {
    /// What is to be live; nothing after the first release is gone back from.
    pub(super) live: Option<Rev>,
    pub(super) after: After,
}

/// Which switch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum After {
    /// To a release, or of its config files.
    Promote,
    /// Back from a release.
    Revert {
        /// What that asked of the host: its services may run its code.
        from: Option<SnapshotRef>,
    },
    /// None: one to another release was begun, and what is live still is. Builds that do not know it take the record for a damaged
    /// one, and handle services too.
    Attempt,
}

impl Record for Owed {
    const MAGIC: &'static [u8] = b"scap-owed/1\n";
}

const OWED: &str = "owed";

impl Deployment {
    /// What is to be done for what is live, if anything.
    ///
    /// # Errors
    /// Where the record cannot be read.
    pub(super) fn owed(&self) -> Result<Option<Owed>, ActivateError> {
        let live = || self.state.live.as_ref().map(|live| live.rev.clone());
        Ok(match record::read::<Owed>(&self.own, OWED)? {
            Found::Record(owed) if owed.live == live() => Some(owed),
            // A crash came before the switch.
            Found::Record(owed) if owed.after == After::Promote => Some(Owed {
                live: live(),
                after: After::Attempt,
            }),
            Found::Record(_) => None,
            Found::Nothing => None,
            // Done once more is done.
            Found::Damaged => Some(Owed {
                live: live(),
                after: After::Promote,
            }),
        })
    }

    /// Records, before it is switched, what is to be done then.
    ///
    /// # Errors
    /// Where the disk is full or fails.
    pub(super) fn owe(&self, owed: &Owed) -> Result<(), ActivateError> {
        record::replace(&self.own, OWED, owed)
    }

    /// Records, before the checks before a switch are run, what is to be done where it is not made. What is owed already is more.
    ///
    /// # Errors
    /// As [`Self::owe`], and [`Self::owed`].
    pub(super) fn owe_attempt(&self) -> Result<(), ActivateError> {
        let Some(live) = self.state.live.as_ref() else {
            // No release is there whose checks could be run.
            return Ok(());
        };
        match self.owed()? {
            Some(_) => Ok(()),
            None => self.owe(&Owed {
                live: Some(live.rev.clone()),
                after: After::Attempt,
            }),
        }
    }

    /// Switches, and records before it what is to be done then. Where nothing was switched, what was to be done before it still is.
    ///
    /// # Errors
    /// As [`Self::owe`], and of the switch.
    pub(super) fn switch_owing<T>(
        &mut self,
        owed: Option<&Owed>,
        switch: impl FnOnce(&mut Self) -> Result<T, ActivateError>,
    ) -> Result<T, ActivateError> {
        let Some(owed) = owed else {
            return switch(self);
        };
        let live = self.state.live.clone();
        let before = self.owed()?;
        self.owe(owed)?;
        let switched = switch(self);
        if switched.is_err() && self.state.live == live {
            match &before {
                Some(before) => self.owe(before)?,
                None => self.owe_nothing()?,
            }
        }
        switched
    }

    /// Records that it is done.
    ///
    /// # Errors
    /// Where the disk fails: it is done again.
    pub(super) fn owe_nothing(&self) -> Result<(), ActivateError> {
        self.own
            .unlink(OWED.as_bytes())
            .doing(|| "record what is done".to_owned())
    }

    /// The config snapshot that is needed for what is to be done.
    pub(super) fn owed_config(&self) -> Option<SnapshotRef> {
        let owed = record::hint::<Owed>(&self.own, OWED)?;
        match owed.after {
            After::Revert { from } => from,
            After::Promote | After::Attempt => None,
        }
    }
}
