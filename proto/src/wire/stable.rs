//! Which releases are the stable ones, for a host that catches up while no coordinator is there.
//!
//! Whoever asks opens a stream with [`super::Open::Stable`] and ends its side. The answer is a [`super::control::Finalize`] a
//! frame, for each repo and environment of which the host asked has the stable release whole, and the end of the stream;
//! at most [`crate::limits::STABLE_ANSWERS_MAX`]. From then on whoever asked may open these releases. What the other side
//! does not have, and what the asker may not have, are answered alike: by nothing.

use serde::{Deserialize, Serialize};

use crate::release::{Environment, RepoPath, SignedMembership};

/// Which of them, and why the asker may have them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StableQuestion {
    /// Of this repo alone; of all where it is not said.
    pub repo: Option<RepoPath>,
    /// In this environment alone; in all where it is not said.
    pub environment: Option<Environment>,
    /// What the asker is in; a host that was enrolled without one gets what a plan names it for.
    pub membership: Option<SignedMembership>,
}
