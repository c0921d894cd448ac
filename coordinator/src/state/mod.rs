//! What is kept between deployments: the state directory of this machine, and the state branch, which everybody has who
//! has the repo.

mod authority;
mod branch;
mod carry;
mod configs;
mod counters;
mod directory;
mod enrolments;
mod failpoint;
mod finalized;
mod folder;
mod history;
mod ledger;
mod lock;
mod places;
mod prepared;
mod proof;
mod record;
mod renewals;
mod tip;
mod trust;

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests;

pub use self::{
    authority::{FleetAuthorityError, SignersChain},
    branch::{Base, Branch, BranchError, Change, MAY_MAX, Updated, Upstream},
    directory::{Made, Record, SNAPSHOTS_KEPT, StateDirectory, StateError},
    enrolments::{Certified, Enrolled, EnrolmentRecord, EnrolmentRecordError, How},
    failpoint::Failpoint,
    folder::{Folder, Place, SignedObjects, Which},
    history::{FindError, History, Past, Present, PresentAt, Recorded, before_latest, find},
    ledger::{End, Found, Ledger, break_lock, what},
    lock::{Holder, LEASE, Lock, ProcessMark, RENEWAL, Stale, age},
    places::{DirectoryLock, PlaceLock},
    prepared::{Prepared, PreparedError, read_signature, to_sign},
    proof::ProofError,
    record::{
        BrokenLock, Document, DocumentError, Flags, HostGroup, Hosts, Message, Outcome,
        Record as BranchRecord, Rollout, WaveEnd,
    },
    renewals::{HostRenewalError, OWN_AGE_MS_MAX, OwnRenewal},
    tip::{KnownTip, TipError},
    trust::{Rotation, TrustError, is_of_host, revoked},
};
