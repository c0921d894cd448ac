//! What the configuration says about catching up.

use std::{fmt, str::FromStr, time::Duration};

use scap_proto::id::{NodeId, ParseIdError};
use serde::{Deserialize, Serialize};

/// How often peers are asked unless it is said: a host that missed a deploy runs the old release for so long at most. A
/// question is a round trip and some kilobytes for each repo.
const PERIOD: Duration = Duration::from_secs(15 * 60);

/// So many rounds may fail in a row before a host counts as stale: one that falls into the restart of its peers is no reason to wake
/// anybody.
const LEASE_PERIODS: u32 = 4;

/// What an agent does when its peers have a later stable release than it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// It fetches it and switches to it.
    #[default]
    Activate,
    /// It fetches it and makes its directory, and goes no further.
    Fetch,
    /// It asks nobody by itself; `scap-agent pull` does, and activates.
    Off,
}

/// A host that is asked, and where. Both are the configuration's word: no message names an address that is dialled for this.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Peer {
    /// Its name, which its certificate must say.
    pub name: NodeId,
    /// `host:port`.
    pub address: String,
}

/// Whom to ask, how often, and what to do then.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// Whom.
    pub peers: Vec<Peer>,
    /// What to do.
    pub policy: Policy,
    /// How often; every 15 minutes unless said.
    pub period: Option<Duration>,
    /// How long this host may hear nothing new before it counts as stale; four periods unless said, and where there is nobody to ask,
    /// for ever.
    pub lease: Option<Duration>,
}

impl Settings {
    /// How often peers are asked.
    pub fn period(&self) -> Duration {
        self.period.unwrap_or(PERIOD)
    }

    /// How long this host may hear nothing new before it counts as stale; none where that is no reason to worry.
    pub fn lease(&self) -> Option<Duration> {
        let asks = !self.peers.is_empty() && self.policy != Policy::Off;
        let by_rounds = asks.then(|| LEASE_PERIODS * self.period());
        self.lease.or(by_rounds)
    }
}

/// Not a peer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// Without a name or a port.
    #[error("`{0}` is not NAME=HOST:PORT")]
    Form(String),
    /// No name of a host.
    #[error("`{text}` does not begin with a host's name")]
    Name {
        /// What was said.
        text: String,
        /// What about it.
        source: ParseIdError,
    },
}

impl FromStr for Peer {
    type Err = PeerError;

    fn from_str(text: &str) -> Result<Self, PeerError> {
        let form = || PeerError::Form(text.to_owned());
        let (name, address) = text.split_once('=').ok_or_else(form)?;
        let (host, port) = address.rsplit_once(':').ok_or_else(form)?;
        let is_port = port.parse::<u16>().is_ok_and(|port| port != 0);
        if host.is_empty() || !is_port {
            return Err(form());
        }
        let name = name.parse().map_err(|source| PeerError::Name {
            text: text.to_owned(),
            source,
        })?;
        Ok(Self {
            name,
            address: address.to_owned(),
        })
    }
}

impl TryFrom<String> for Peer {
    type Error = PeerError;

    fn try_from(text: String) -> Result<Self, PeerError> {
        text.parse()
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.name, self.address)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_a_name_and_where_it_is_dialled() {
        for text in ["web1=10.0.0.2:7227", "web1=[fd00::2]:7227", "web1=a.b:1"] {
            let peer: Peer = text.parse().unwrap();
            assert_eq!(peer.to_string(), text);
            assert_eq!(peer.name.as_str(), "web1");
        }
        for text in ["", "web1", "10.0.0.2:7227", "web1=", "web1=a", "web1=:7"] {
            assert!(
                matches!(text.parse::<Peer>(), Err(PeerError::Form(_))),
                "{text}"
            );
        }
        for text in ["web1=a:0", "web1=a:70000", "web1=a:b"] {
            assert!(
                matches!(text.parse::<Peer>(), Err(PeerError::Form(_))),
                "{text}"
            );
        }
        let unnamed = "/etc=a:1".parse::<Peer>();
        assert!(matches!(unnamed, Err(PeerError::Name { .. })));
    }
}
