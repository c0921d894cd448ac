//! Orders down and reports up. All of them are signed objects that anyone may carry.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::release::{
    Environment, RepoPath, SignedDirective, SignedFinalization, SignedGrant, SignedRelease,
    SignedReport,
};

/// One message of a control stream. Variants are only ever added at the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ControlMessage {
    /// Where do you stand with this repo? The answer is a report.
    Ask {
        /// Which repo.
        repo: RepoPath,
        /// In which environment.
        environment: Environment,
    },
    /// Do this.
    Order(Box<Order>),
    /// This release is the stable one.
    Finalize(Box<Finalize>),
    /// What a host says.
    Report(Box<SignedReport>),
}

/// A directive with all that is needed to verify and follow it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// The release.
    pub release: SignedRelease,
    /// Who may direct it.
    pub grant: SignedGrant,
    /// What to do.
    pub directive: SignedDirective,
    /// The encoded plan that the directive names, where it names one.
    pub plan: Option<Bytes>,
}

/// A finalization with all that is needed to verify it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finalize {
    /// The release.
    pub release: SignedRelease,
    /// Who may direct it.
    pub grant: SignedGrant,
    /// That it is stable.
    pub finalization: SignedFinalization,
}
