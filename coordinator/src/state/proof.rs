//! That a recorded release is one that was signed and finalized: the record itself is nobody's word.

use scap_proto::{
    id::ReleaseId,
    release::{Authority, AuthorityError, UnixMillis, VerifiedRelease},
};

use super::{
    branch::BranchError,
    folder::Which,
    history::{History, Recorded},
};

/// Why a recorded release is not taken for one that was finalized.
#[derive(Debug, thiserror::Error)]
pub enum ProofError {
    /// The branch, or its signed objects, cannot be read.
    #[error(transparent)]
    Branch(#[from] BranchError),
    /// Nothing was signed, or not that it is finalized.
    #[error("the state branch holds no signed finalization of it")]
    Missing,
    /// Signed by nobody who may, or the parts are of different releases.
    #[error("the signatures on the state branch do not hold")]
    Authority(#[from] AuthorityError),
    /// The record names one thing, and what was signed is another.
    #[error("the record says other than what was signed, which is release {}", .0.short())]
    Other(ReleaseId),
}

impl ProofError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Branch(error) => error.hint(),
            _ => Some("see with `git log` who wrote the record; `deploy --rev` releases a commit without it".into()),
        }
    }
}

impl History {
    /// The release that `recorded` tells of, from what was signed: by whom `authority` allows at `now`, for the same repo and
    /// environment, finalized by its grant's session, and in all that the record says of it the same.
    ///
    /// # Errors
    /// [`ProofError`].
    pub fn prove_finalized(
        &self,
        recorded: &Recorded,
        authority: &Authority<'_>,
        now: UnixMillis,
    ) -> Result<VerifiedRelease, ProofError> {
        // Those of the latest lack it where the same release was begun again after it was finalized.
        let (_, signed) = self
            .signed_at(&recorded.state_commit, &recorded.place, Which::Stable)?
            .ok_or(ProofError::Missing)?;
        let signed = signed.ok_or(ProofError::Missing)?;
        let release = signed.release.verify(authority, now)?;
        let grant = signed.grant.verify(&release, authority, now)?;
        let finalization = signed.finalization.ok_or(ProofError::Missing)?;
        finalization.verify(&release, &grant)?;
        let (about, rollout) = (release.release(), &recorded.rollout);
        let (repo, environment) = &recorded.place;
        let is_it = release.id() == rollout.release
            && (&about.repo, &about.environment) == (repo, environment)
            && about.sequence == rollout.sequence
            && about.snapshot == rollout.snapshot_ref()
            && about.commit == rollout.commit;
        match is_it {
            true => Ok(release),
            false => Err(ProofError::Other(release.id())),
        }
    }
}
