//! What is live of a repo, and what is kept beside it, also while another process is at work on it.

use std::path::Path;

use scap_proto::release::RepoPath;

use super::{
    ActivateError, Deployment,
    process::{LiveRelease, RepoStanding},
    record::Installed,
};

pub(super) fn standing(deployment: &Deployment) -> Result<RepoStanding, ActivateError> {
    let release = |installed: &Installed| LiveRelease {
        release: installed.release,
        sequence: installed.sequence,
        snapshot: installed.snapshot,
        commit: installed.commit.clone(),
        // One that cannot be told is fetched again when it is needed.
        config: deployment.config_of(installed).ok().flatten(),
    };
    Ok(RepoStanding {
        live: deployment.live().map(release),
        previous: deployment.previous().map(release),
        kept: deployment.releases()?.iter().map(release).collect(),
    })
}

/// What was told under the lock; where another process has it, what is recorded now. A daemon that starts asks, and cannot wait
/// until the activator before this one has ended what it does: what comes of that, the answer to the order tells, which is
/// given again.
pub(super) fn or_beside(
    told: Result<RepoStanding, ActivateError>,
    deploy_root: &Path,
    repo: &RepoPath,
) -> Result<RepoStanding, ActivateError> {
    match told {
        Err(ActivateError::Busy(_)) => standing(&Deployment::open_beside(deploy_root, repo)?),
        told => told,
    }
}
