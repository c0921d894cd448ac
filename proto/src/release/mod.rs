//! What may be done, by whom and in which order: signed objects that travel through anyone.
//!
//! | object | says | signed by |
//! |---|---|---|
//! | [`Release`] | this snapshot is number *n* of this repo and environment | 1–8 deployers, SSHSIG |
//! | [`Grant`] | this session key may direct that release, until then | one of the release's signers, SSHSIG |
//! | [`Directive`] | these hosts shall reach this stage | the session key, Ed25519 |
//! | [`Finalization`] | this release is the stable one | the session key, Ed25519 |
//! | [`Plan`] | these are the hosts and this is how they fetch | named by its id in a directive |
//! | [`HostConfig`] | what a host renders, checks and restarts | named by its snapshot in a release |
//! | [`Report`] | what one host did and where it stands | that host's key, Ed25519 |
//! | [`Roster`] | these hosts are reached there, for those that relay orders | the coordinator's key, Ed25519 |
//! | [`Lease`] | this relay feeds that host, beside those of the plan | the coordinator's key, Ed25519 |
//! | [`ConfigQuestion`] | what would these config files change on those hosts | 1–8 deployers, SSHSIG |
//! | [`Membership`] | that host is in these environments and audiences | the coordinator's key, Ed25519 |
//! | [`Renewal`] | that host's next certificate is this one | the coordinator's key, Ed25519 |
//! | [`SignersFile`] | these keys may sign from now on | enough keys of the file before and of the new one, SSHSIG |
//! | [`Origin`] | that deployment host began to direct the release | the coordinator's key, Ed25519, inside the grant |
//!
//! Each is signed and hashed over its bytes as received, and each payload starts with a magic that
//! names kind and version, so the signature of one kind never passes for another's.

pub mod config_question;
pub mod directive;
pub mod finalization;
pub mod grant;
pub mod host_config;
pub mod lease;
pub mod membership;
pub mod names;
pub mod origin;
pub mod plan;
pub mod reach;
#[expect(
    clippy::module_inception,
    reason = "the release is what the folder is about"
)]
pub mod release;
pub mod renewal;
pub mod report;
pub mod roster;
pub mod routes;
pub mod sighting;
pub mod signature;
pub mod signed;
pub mod signers;
pub mod step;

pub use config_question::{ConfigQuestion, SignedConfigQuestion};
pub use directive::{Directive, SignedDirective, Stage, Targets};
pub use finalization::{Finalization, SignedFinalization};
pub use grant::{Grant, SignedGrant, VerifiedGrant};
pub use host_config::{HostConfig, HostConfigError};
pub use lease::{Lease, SignedLease};
pub use membership::{Membership, SignedMembership};
pub use names::{Audience, Environment, NameError, RepoPath};
pub use origin::Origin;
pub use plan::{Plan, PlanHost, TopologyKind};
pub use reach::Reach;
pub use release::{Authority, DeltaRef, Priority, Release, SignedRelease, VerifiedRelease};
pub use renewal::{Renewal, SignedRenewal};
pub use report::{
    BytesBySource, Outcome, Report, ShunnedPeer, SignedReport, Standing, TrustStanding,
};
pub use roster::{Branch, Roster, RosterHost, SignedRoster, TreeId};
pub use routes::{Routes, RoutesError};
pub use sighting::{SIGHTINGS_MAX, Sighting};
pub use signed::{AuthorityError, LeafSigned, UnixMillis};
pub use signers::{
    FollowBy, SignedSigners, SignersError, SignersFile, SignersInForce, signers_namespace,
};
pub use step::{STEP_NAME_BYTES_MAX, Step};
