//! What a release has its hosts do that takes a while and ends by itself: what a host may say of that, and no more.

use std::time::Duration;

use scap_proto::release::HostConfig;

/// How long a host may be at one service: its agent kills a command after 300 s, unless its configuration says otherwise, and runs
/// two. The release does not say.
const SERVICE: Duration = Duration::from_secs(3600);

/// What is granted where the release that hosts go back to is not looked at: any check that does not take an hour, and as many as a
/// long folder has.
const BACK: Steps = Steps {
    longest: Duration::from_secs(3600),
    count: 100,
    total: Duration::from_secs(3600),
};

/// Bounds to what a host says that it is at; nothing where the release asks nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Steps {
    /// The longest limit of any.
    pub longest: Duration,
    /// How many there are: checks, services and the port.
    pub count: u32,
    /// How long all of them may take together.
    pub total: Duration,
}

impl Steps {
    /// The same on the way back, where hosts are at what the release asks that is live again, and at the services of both.
    #[must_use]
    pub fn on_the_way_back(self) -> Self {
        Self {
            longest: self.longest.max(BACK.longest),
            count: self.count.max(BACK.count),
            total: self.total.max(BACK.total),
        }
    }
}

impl From<&HostConfig> for Steps {
    fn from(config: &HostConfig) -> Self {
        let millis = |millis: u32| Duration::from_millis(millis.into());
        let checks = config.checks.iter();
        let checks = checks.map(|check| millis(check.timeout_millis.get()));
        let services = config.services.units.iter().map(|_| SERVICE);
        let port = config.services.port.iter();
        let port = port.map(|_| millis(config.services.port_timeout_millis.get()));
        checks
            .chain(services)
            .chain(port)
            .fold(Self::default(), |steps, limit| Self {
                longest: steps.longest.max(limit),
                count: steps.count.saturating_add(1),
                total: steps.total.saturating_add(limit),
            })
    }
}
