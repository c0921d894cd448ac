//! Orders down and reports up. All of them are signed objects that anyone may carry.
//!
//! A control stream is between a host and who is above it in a control tree: a coordinator, or another host that relays
//! for it. Who relays passes on what concerns those below, and makes nothing up.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    bounded,
    limits::{BATCH_MAX, BRANCHES_MAX},
    release::{
        Branch, Environment, RepoPath, SignedDirective, SignedFinalization, SignedGrant,
        SignedLease, SignedRelease, SignedRenewal, SignedReport, SignedRoster, Targets, TreeId,
    },
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
    /// Down: a page of a roster, for the branches that follow.
    Roster(Box<SignedRoster>),
    /// Down: pass on to these hosts what comes for them, and what they say, from now on to these and no others. Who is the
    /// first to be reached of a branch passes on to the others in it.
    Relay {
        /// In which tree.
        tree: TreeId,
        /// The hosts; at most [`crate::limits::BRANCHES_MAX`].
        #[serde(deserialize_with = "bounded::list::<_, _, BRANCHES_MAX>")]
        branches: Vec<Branch>,
    },
    /// Up: what hosts further down say. At most [`crate::limits::BATCH_MAX`].
    Reports(#[serde(deserialize_with = "bounded::list::<_, _, BATCH_MAX>")] Vec<SignedReport>),
    /// Up: hosts further down that are reached now, or not. At most [`crate::limits::BATCH_MAX`].
    News(#[serde(deserialize_with = "bounded::list::<_, _, BATCH_MAX>")] Vec<HostNews>),
    /// Up: nothing else to say; sent so that whoever is above knows that we are there.
    Beat,
    /// Down: this release is the stable one, for these.
    FinalizeAt {
        /// For whom.
        hosts: Targets,
        /// That it is.
        finalize: Box<Finalize>,
    },
    /// Down, to the relay that it names: feed a host.
    Lease(Box<SignedLease>),
    /// Down, to the host that it names: your next certificate. Only for who says in its [`super::Hello`] that it takes them.
    Renewal(Box<SignedRenewal>),
}

/// Whether a host of a control tree is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostNews {
    /// Its place in the roster.
    pub host: u32,
    /// Why it is not reached; none where it is. At most [`crate::limits::REASON_BYTES_MAX`] bytes.
    pub away: Option<String>,
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

impl Finalize {
    /// Whether it says to be for all hosts but those that a person went on without.
    pub fn is_open(&self) -> bool {
        let reach = self.finalization.reach_unverified();
        reach.is_ok_and(|reach| reach.is_open())
    }
}
