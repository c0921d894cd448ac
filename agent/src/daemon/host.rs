//! What a daemon looks at before it is confined.

use scap_proto::place;

use super::{DaemonError, amnesia::has_deployments};
use crate::{clock, config::Config, trust::HostTrust};

/// The host that a daemon is to be of. Nothing was made or changed to know it.
#[derive(Debug)]
pub struct Host {
    pub(super) config: Config,
    pub(super) trust: HostTrust,
    /// Whether something was deployed here: below the deploy root a confined daemon does not look.
    pub(super) has_deployments: bool,
}

impl Host {
    /// Looks at the identity, and below the deploy root.
    ///
    /// # Errors
    /// Where there is no identity, or others may change it.
    pub fn look(config: Config) -> Result<Self, DaemonError> {
        let trust = HostTrust::of_daemon(&config, clock::now()).map_err(|source| {
            let path = config.identity.clone();
            DaemonError::Trust { path, source }
        })?;
        place::check(&config.identity)?;
        Ok(Self {
            has_deployments: has_deployments(&config.deploy_root),
            trust,
            config,
        })
    }
}
