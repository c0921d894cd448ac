//! Which commits a host takes only where they are signed, and by whom.

use std::path::PathBuf;

use scap_proto::release::{Environment, RepoPath};
use serde::{Deserialize, Serialize};

/// One `[[signed_commits]]` table: a commit that is released is signed by who is named here, and the release is what the commit has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommitRule {
    /// Of this repo; of all where it says none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repo: Option<RepoPath>,
    /// In this environment; in all where it says none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<Environment>,
    /// Whose SSH signatures count, in git's namespace: OpenSSH's `allowed_signers` format.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed_signers: Option<PathBuf>,
    /// Whose OpenPGP signatures count: a keyring as `gpgv` reads it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keyring: Option<PathBuf>,
    /// Whether a release may ask something of hosts all the same: that is made of the commit's scap folder by the coordinator, and
    /// the commit does not prove it.
    #[serde(default)]
    pub takes_config: bool,
}

impl CommitRule {
    pub(super) fn is_about(&self, repo: &RepoPath, environment: &Environment) -> bool {
        self.repo.as_ref().is_none_or(|it| it == repo)
            && self.environment.as_ref().is_none_or(|it| it == environment)
    }
}
