//! A release before it is signed.

use scap_proto::{
    content::SnapshotRef,
    id::{GitOid, ReleaseId},
    release::{DeltaRef, Priority, Release, UnixMillis},
};

use crate::cli::{About, CliError, exit};

/// What is decided of a release.
pub(super) struct Draft<'a> {
    pub(super) about: &'a About,
    pub(super) commit: Option<GitOid>,
    /// The commit's object, where it is signed.
    pub(super) signed_commit: Option<&'a [u8]>,
    pub(super) snapshot: SnapshotRef,
    /// What hosts are asked.
    pub(super) config: Option<SnapshotRef>,
    pub(super) deltas: Vec<DeltaRef>,
    /// The highest sequence that is known.
    pub(super) highest: u64,
    pub(super) previous: Option<ReleaseId>,
    pub(super) priority: Priority,
    /// How long it may be begun with, in milliseconds.
    pub(super) valid_millis: u64,
}

impl Draft<'_> {
    /// The next release.
    ///
    /// # Errors
    /// Where there is no later sequence.
    pub(super) fn release(self, now: UnixMillis) -> Result<Release, CliError> {
        let (repo, environment) = self.about.clone();
        let sequence = self.highest.checked_add(1).ok_or_else(|| {
            CliError::usage(format!(
                "choose the next sequence: there is none above {}, which was signed",
                self.highest
            ))
            .code(exit::STOPPED)
            .hint(
                "somebody else has the key: see the operator's guide on a key that was stolen"
                    .to_owned(),
            )
        })?;
        let release = Release {
            repo,
            environment,
            audience: Default::default(),
            sequence,
            snapshot: self.snapshot,
            commit: self.commit,
            config: self.config,
            deltas: self.deltas,
            previous: self.previous,
            created: now,
            expires: UnixMillis(now.0.saturating_add(self.valid_millis)),
            extensions: Default::default(),
        };
        let release = release.with_priority(self.priority);
        Ok(match self.signed_commit {
            Some(object) => release.with_commit_object(object),
            None => release,
        })
    }
}
