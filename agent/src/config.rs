//! What the daemon is told about its host: a TOML file, and flags over it.

use std::{
    net::{Ipv6Addr, SocketAddr},
    num::NonZeroU32,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;

use crate::{
    activate::process::SOCKET_NAME as ACTIVATOR_SOCKET_NAME,
    catchup::{Peer, Policy, Settings},
    confine::Mode,
    host::ServiceCommands,
    limits::Limits,
};

/// The port agents listen on unless told otherwise.
pub const PORT: u16 = 7227;

/// Where the identity directory is unless told otherwise.
pub const IDENTITY_DIRECTORY: &str = "/etc/scap/identity";

/// Where the data directory is unless told otherwise.
pub const DATA_DIRECTORY: &str = "/var/lib/scap-agent";

/// A checked configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The identity directory.
    pub identity: PathBuf,
    /// Where to listen for peers and coordinators.
    pub listen: SocketAddr,
    /// The data directory: chunks, state, sockets.
    pub data: PathBuf,
    /// Where repos go live.
    pub deploy_root: PathBuf,
    /// How much of the network it may use.
    pub limits: Limits,
    /// How services are handled, which releases ask for.
    pub services: ServiceCommands,
    /// Whom it asks what is stable, and what it does then.
    pub catch_up: Settings,
    /// Whether the daemon is confined to its own directories.
    pub confinement: Mode,
    /// Where the activator listens.
    pub activator_socket: PathBuf,
}

/// The file, and what flags say over it: each may be missing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct PartialConfig {
    /// See [`Config::identity`]; `/etc/scap/identity` by default.
    pub identity: Option<PathBuf>,
    /// See [`Config::listen`]; every address, port [`PORT`], by default.
    pub listen: Option<SocketAddr>,
    /// See [`Config::data`]; [`DATA_DIRECTORY`] by default.
    pub data: Option<PathBuf>,
    /// See [`Config::deploy_root`]; `/srv/deployment` by default.
    pub deploy_root: Option<PathBuf>,
    /// See [`Config::limits`]; none by default.
    pub limits: Option<Limits>,
    /// See [`Config::services`]; systemd's way by default.
    pub services: Option<ServiceCommands>,
    /// See [`Settings::peers`]; none by default, and then nobody is asked.
    pub peers: Option<Vec<Peer>>,
    /// See [`Settings::policy`]; [`Policy::Activate`] by default.
    pub catch_up: Option<Policy>,
    /// See [`Settings::period`].
    pub catch_up_minutes: Option<NonZeroU32>,
    /// See [`Config::confinement`]; as far as the kernel can by default.
    pub confinement: Option<Mode>,
    /// See [`Config::activator_socket`]; in the data directory by default.
    pub activator_socket: Option<PathBuf>,
    /// See [`Settings::lease`].
    pub lease_seconds: Option<NonZeroU32>,
}

/// Why a configuration file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("read the configuration {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It says something else than it can.
    #[error("parse the configuration {path}")]
    Parse {
        /// Which.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
}

impl PartialConfig {
    /// Reads a file. Unknown keys are errors.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        toml::from_str(&text).map_err(|error| ConfigError::Parse {
            path: path.to_owned(),
            source: error.into(),
        })
    }

    /// What is said here over what is said in `below`.
    #[must_use]
    pub fn over(self, below: Self) -> Self {
        Self {
            identity: self.identity.or(below.identity),
            listen: self.listen.or(below.listen),
            data: self.data.or(below.data),
            deploy_root: self.deploy_root.or(below.deploy_root),
            limits: self.limits.or(below.limits),
            services: self.services.or(below.services),
            peers: self.peers.or(below.peers),
            catch_up: self.catch_up.or(below.catch_up),
            catch_up_minutes: self.catch_up_minutes.or(below.catch_up_minutes),
            confinement: self.confinement.or(below.confinement),
            activator_socket: self.activator_socket.or(below.activator_socket),
            lease_seconds: self.lease_seconds.or(below.lease_seconds),
        }
    }

    /// With the defaults for what nobody said.
    pub fn complete(self) -> Config {
        let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, PORT));
        let data = self.data.unwrap_or_else(|| DATA_DIRECTORY.into());
        let socket = self.activator_socket;
        Config {
            identity: self.identity.unwrap_or_else(|| IDENTITY_DIRECTORY.into()),
            listen: self.listen.unwrap_or(any),
            confinement: self.confinement.unwrap_or_default(),
            activator_socket: socket.unwrap_or_else(|| data.join(ACTIVATOR_SOCKET_NAME)),
            data,
            deploy_root: self.deploy_root.unwrap_or_else(|| "/srv/deployment".into()),
            limits: self.limits.unwrap_or_default(),
            services: self.services.unwrap_or_default(),
            catch_up: Settings {
                peers: self.peers.unwrap_or_default(),
                policy: self.catch_up.unwrap_or_default(),
                period: self
                    .catch_up_minutes
                    .map(|it| Duration::from_secs(60 * u64::from(it.get()))),
                lease: self
                    .lease_seconds
                    .map(|it| Duration::from_secs(it.get().into())),
            },
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn flags_stand_over_the_file_and_the_file_over_defaults() {
        let file: PartialConfig =
            toml::from_str("listen = '10.0.0.2:7000'\ndeploy-root = '/srv/a'").unwrap();
        let flags = PartialConfig {
            deploy_root: Some("/srv/b".into()),
            ..Default::default()
        };
        let config = flags.over(file).complete();
        assert_eq!(config.listen, "10.0.0.2:7000".parse().unwrap());
        assert_eq!(config.deploy_root, Path::new("/srv/b"));
        assert_eq!(config.data, Path::new(DATA_DIRECTORY));
    }

    #[test]
    fn the_daemon_is_confined_as_far_as_the_kernel_can_unless_it_is_said() {
        let read = |text: &str| toml::from_str::<PartialConfig>(text);
        let none = PartialConfig::default().complete();
        assert_eq!(none.confinement, Mode::BestEffort);
        let socket = Path::new("/var/lib/scap-agent/activator.sock");
        assert_eq!(none.activator_socket, socket);
        let text = "confinement = 'required'\nactivator-socket = '/run/scap-activator/socket'";
        let said = read(text).unwrap().complete();
        assert_eq!(said.confinement, Mode::Required);
        assert_eq!(
            said.activator_socket,
            Path::new("/run/scap-activator/socket")
        );
        assert!(read("confinement = 'yes'").is_err());
    }

    #[test]
    fn peers_are_asked_every_quarter_of_an_hour_unless_it_is_said_and_nobody_where_none_is_named() {
        let none = PartialConfig::default().complete().catch_up;
        assert_eq!((none.peers.len(), none.policy), (0, Policy::Activate));
        assert_eq!(none.period(), Duration::from_secs(900));
        assert_eq!(none.lease(), None, "nobody is asked");
        let text = "peers = ['web1=a:1', 'web2=[::1]:2']\ncatch-up = 'fetch'\ncatch-up-minutes = 5";
        let said = toml::from_str::<PartialConfig>(text).unwrap().complete();
        let names: Vec<_> = said
            .catch_up
            .peers
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(names, ["web1=a:1", "web2=[::1]:2"]);
        assert_eq!(said.catch_up.policy, Policy::Fetch);
        assert_eq!(said.catch_up.period(), Duration::from_secs(300));
        assert_eq!(said.catch_up.lease(), Some(Duration::from_secs(1200)));
        let lease = toml::from_str::<PartialConfig>("lease-seconds = 7").unwrap();
        let lease = lease.complete().catch_up.lease();
        assert_eq!(lease, Some(Duration::from_secs(7)));
        for text in [
            "peers = ['web1']",
            "catch-up = 'now'",
            "catch-up-minutes = 0",
        ] {
            assert!(toml::from_str::<PartialConfig>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_unknown_key_is_an_error_that_names_it() {
        let error = toml::from_str::<PartialConfig>("lissten = 'x'").unwrap_err();
        assert!(error.to_string().contains("lissten"), "{error}");
    }
}
