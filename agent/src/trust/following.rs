//! Which signers file a host follows: the one that it was enrolled with, and those that followed on it.
//!
//! What was taken is on disk before it counts. The daemon and the activator each keep their own record, and read the other's
//! when they start: one that was lost, or put back to an earlier state, is noticed as long as the other is there.

use std::{
    io,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use scap_proto::{
    codec,
    identity::{FleetName, VouchedSigners},
    release::{FollowBy, SignedSigners, SignersError, SignersInForce, UnixMillis},
};
use serde::{Deserialize, Serialize};

use crate::store::durable;

/// The daemon's record, in its data directory.
pub(super) const DAEMON_FILE: &str = "signers";
/// The activator's record, in the deploy root: no repo's name begins with a dot.
pub(super) const ACTIVATOR_FILE: &str = ".scap-signers";

/// The first bytes of a record: kind and version.
const MAGIC: &[u8] = b"scap-agent-signers/1\n";

/// The record is no secret, and the other process may have another user.
const MODE: u32 = 0o644;

/// The signers file in force, and how it came to be.
#[derive(Debug)]
pub(super) struct Following {
    fleet: FleetName,
    threshold: NonZeroUsize,
    enrolled: SignersInForce,
    now: RwLock<Arc<Followed>>,
    /// Held by who takes further links.
    taking: Mutex<()>,
    record: Option<PathBuf>,
}

/// The signers file in force, and the links that lead to it from the one that the host was enrolled with.
#[derive(Debug)]
pub(super) struct Followed {
    pub(super) signers: SignersInForce,
    links: Vec<SignedSigners>,
}

/// What a record says.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    /// The number and the hash of the file that the host was enrolled with.
    enrolled: (u64, [u8; 32]),
    links: Vec<SignedSigners>,
}

/// Why the record of signers files cannot be gone on with.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// It cannot be read or written.
    #[error("{doing} {path}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// With what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// It is damaged, and so is, or is not there, the other one.
    #[error("{0}, the record of the signers files that were taken, is damaged")]
    Damaged(PathBuf),
    /// The identity is older than what was followed.
    #[error(
        "this identity was enrolled with signers file {enrolled}, and {followed} was followed here by {path}"
    )]
    Behind {
        /// The number of the identity's file.
        enrolled: u64,
        /// That of the file followed.
        followed: u64,
        /// Which record says so.
        path: PathBuf,
    },
    /// What it has does not follow on the identity's file.
    #[error("{path} does not follow on the identity's signers file")]
    Chain {
        /// Which record.
        path: PathBuf,
        /// What is wrong.
        source: Box<SignersError>,
    },
}

impl Following {
    /// The file that the host was enrolled with, and `threshold` keys for each that follows.
    pub(super) fn new(enrolled: SignersInForce, fleet: FleetName, threshold: NonZeroUsize) -> Self {
        let followed = Followed {
            signers: enrolled.clone(),
            links: Vec::new(),
        };
        Self {
            fleet,
            threshold,
            enrolled,
            now: RwLock::new(Arc::new(followed)),
            taking: Mutex::new(()),
            record: None,
        }
    }

    /// Goes on with what `own` says, and keeps it there from now on. `other` is the record of the other process, which is only read:
    /// where it is further, ours was lost or put back, which is said, and made good.
    ///
    /// # Errors
    /// [`FollowError`].
    pub(super) fn keep_in(
        &mut self,
        own: &Path,
        other: &Path,
        now: UnixMillis,
    ) -> Result<(), FollowError> {
        let ours = self.read(own, |before, link| before.retaken(link));
        // Its writer is not believed more than a peer is.
        let theirs = self.read(other, |before, link| {
            before.next(link, &self.fleet, self.threshold, now)
        });
        let (ours, theirs) = match (ours, theirs) {
            // The other one's user may let nobody read it, and it may be begun anew where we are not.
            (Ok(ours), Err(error)) => {
                let error = crate::error_chain(&error);
                tracing::warn!(
                    error,
                    "the other process's record of signers files does not count"
                );
                (ours, None)
            }
            (Err(FollowError::Damaged(_)), Ok(Some(theirs))) => (None, Some(theirs)),
            (ours, theirs) => (ours?, theirs?),
        };
        let number = |followed: &Option<Followed>| {
            let number = followed.as_ref().map(|it| it.signers.number());
            number.unwrap_or(self.enrolled.number())
        };
        let (here, there) = (number(&ours), number(&theirs));
        self.record = Some(own.to_owned());
        let followed = match theirs {
            Some(theirs) if there > here => {
                tracing::warn!(
                    path = %own.display(), ours = here, theirs = there,
                    "the record of signers files was lost or put back: went on with that of the other process"
                );
                // Where its folder is lost too, it is written at the next start: what counts is on disk there.
                if let Err(error) = self.save(&theirs) {
                    let error = crate::error_chain(&error);
                    tracing::warn!(error, "the record of signers files is not written yet");
                }
                Some(theirs)
            }
            _ => ours,
        };
        if let Some(followed) = followed {
            *self.now.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(followed);
        }
        Ok(())
    }

    /// What is in force.
    pub(super) fn now(&self) -> Arc<Followed> {
        self.now
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Takes the links of a chain that follow on what is in force, durably, and says what is in force then. `vouched` is the file that the
    /// fleet's authority knows to be in force, where it said so.
    ///
    /// # Errors
    /// [`SignersError`]; of a record that cannot be written it is told in the log, and nothing is taken.
    pub(super) fn take(
        &self,
        chain: &[SignedSigners],
        now: UnixMillis,
        vouched: Option<VouchedSigners>,
    ) -> Result<Arc<Followed>, SignersError> {
        let _taking = self.taking.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.now();
        let by = FollowBy {
            fleet: &self.fleet,
            threshold: self.threshold,
            now,
            vouched,
        };
        let signers = before.signers.follow_by(chain, &by)?;
        if signers.number() == before.signers.number() {
            return Ok(before);
        }
        let number = |link: &SignedSigners| link.read_unverified().map(|file| file.number);
        let mut links = before.links.clone();
        for link in chain {
            if number(link)? > before.signers.number() {
                links.push(link.clone());
            }
        }
        let followed = Followed { signers, links };
        if let Err(error) = self.save(&followed) {
            let error = crate::error_chain(&error);
            tracing::error!(error, "a signers file was not taken");
            return Ok(before);
        }
        tracing::info!(
            number = followed.signers.number(),
            before = before.signers.number(),
            "signers file taken"
        );
        let followed = Arc::new(followed);
        *self.now.write().unwrap_or_else(PoisonError::into_inner) = followed.clone();
        Ok(followed)
    }

    fn save(&self, followed: &Followed) -> Result<(), FollowError> {
        let Some(path) = &self.record else {
            return Ok(());
        };
        let record = Record {
            enrolled: (self.enrolled.number(), self.enrolled.hash()),
            links: followed.links.clone(),
        };
        let body = codec::encode(&record);
        let bytes = [MAGIC, blake3::hash(&body).as_bytes(), &body].concat();
        durable::replace_file_with(path, MODE, |file| io::Write::write_all(file, &bytes)).map_err(
            |source| FollowError::Io {
                doing: "write",
                path: path.clone(),
                source,
            },
        )
    }

    /// What a record says, where it is of this enrolment and each link holds; none where there is none, or it is of an enrolment
    /// before this one.
    fn read(
        &self,
        path: &Path,
        next: impl Fn(&SignersInForce, &SignedSigners) -> Result<SignersInForce, SignersError>,
    ) -> Result<Option<Followed>, FollowError> {
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => {
                let (doing, path) = ("read", path.to_owned());
                return Err(FollowError::Io {
                    doing,
                    path,
                    source,
                });
            }
        };
        let damaged = || FollowError::Damaged(path.to_owned());
        let rest = bytes.strip_prefix(MAGIC).ok_or_else(damaged)?;
        let (checksum, body) = rest.split_at_checked(blake3::OUT_LEN).ok_or_else(damaged)?;
        if blake3::hash(body).as_bytes() != checksum {
            return Err(damaged());
        }
        let record: Record = codec::decode(body).map_err(|_| damaged())?;
        let last = match record.links.last() {
            Some(link) => link.read_unverified().map_err(|_| damaged())?.number,
            None => record.enrolled.0,
        };
        if record.enrolled != (self.enrolled.number(), self.enrolled.hash()) {
            return match self.enrolled.number() >= last {
                true => Ok(None),
                false => Err(FollowError::Behind {
                    enrolled: self.enrolled.number(),
                    followed: last,
                    path: path.to_owned(),
                }),
            };
        }
        let mut signers = self.enrolled.clone();
        for link in &record.links {
            signers = next(&signers, link).map_err(|source| FollowError::Chain {
                path: path.to_owned(),
                source: source.into(),
            })?;
        }
        let links = record.links;
        Ok(Some(Followed { signers, links }))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests;
