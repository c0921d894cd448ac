//! What the command lines print with `--json`, as far as tests look at it.

use std::collections::BTreeMap;

use serde::Deserialize;

/// The object on `deploy --json`'s standard output.
#[derive(Debug, Clone, Deserialize)]
pub struct DeployReport {
    /// `scap.deploy/1`.
    pub schema: String,
    /// The release's id.
    pub release: String,
    /// The snapshot's id.
    pub snapshot: String,
    /// The commit; `None` for a directory.
    pub commit: Option<String>,
    /// One per host of the fleet file.
    pub hosts: Vec<HostReport>,
    /// Duration by phase.
    pub seconds: BTreeMap<String, f64>,
    /// Chunk bytes that left the seed, encoded.
    pub seed_bytes_sent: u64,
    /// Time needed over the least possible time, where link rates are known.
    pub bound_ratio: Option<f64>,
}

impl DeployReport {
    /// The report of the host called `name`.
    ///
    /// # Panics
    /// When there is none.
    pub fn host(&self, name: &str) -> &HostReport {
        self.hosts
            .iter()
            .find(|host| host.name == name)
            .unwrap_or_else(|| panic!("no {name} in {self:#?}"))
    }

    /// Names of the hosts that report an error, in order.
    #[must_use]
    pub fn failed(&self) -> Vec<&str> {
        self.hosts
            .iter()
            .filter(|host| host.error.is_some())
            .map(|h| h.name.as_str())
            .collect()
    }
}

/// One host of a deploy.
#[derive(Debug, Clone, Deserialize)]
pub struct HostReport {
    /// As in the fleet file.
    pub name: String,
    /// One word.
    pub outcome: String,
    /// Where its bytes came from.
    pub bytes: BytesBySource,
    /// How long it fetched; `None` where it never did.
    pub fetch_seconds: Option<f64>,
    /// How long it made the release's directory.
    pub prepare_seconds: Option<f64>,
    /// How long it promoted; `None` where it never did.
    pub promote_seconds: Option<f64>,
    /// Why it is not done.
    pub error: Option<String>,
}

/// Bytes that make up a release on a host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub struct BytesBySource {
    /// From the coordinator.
    pub seed: u64,
    /// From other agents.
    pub peers: u64,
    /// Held before.
    pub reuse: u64,
}

/// The object on the agent's `status --json`.
#[derive(Debug, Clone, Deserialize)]
pub struct AgentStatus {
    /// `scap.agent-status/1`.
    pub schema: String,
    /// The name in its certificate.
    pub name: String,
    /// Those that it holds or fetches.
    pub releases: Vec<ReleaseStatus>,
    /// What it waits for.
    pub waiting: Option<String>,
    /// Peers that it asks no more.
    pub dropped_peers: Vec<DroppedPeer>,
}

/// A peer that an agent asks no more.
#[derive(Debug, Clone, Deserialize)]
pub struct DroppedPeer {
    /// The name in its certificate.
    pub name: String,
    /// A sentence.
    pub reason: String,
}

/// One release on one host.
#[derive(Debug, Clone, Deserialize)]
pub struct ReleaseStatus {
    /// The path below the deploy root.
    pub repo: String,
    /// `production` unless said.
    pub environment: String,
    /// Its number in repo and environment.
    pub sequence: u64,
    /// Its id.
    pub release: String,
    /// Its snapshot's id.
    pub snapshot: String,
    /// The commit; `None` for a directory.
    pub commit: Option<String>,
    /// One word.
    pub state: String,
    /// Verified and stored.
    pub chunks_held: u64,
    /// In the whole snapshot; 0 until the chunk list is there.
    pub chunks_total: u64,
    /// Where its bytes came from.
    pub bytes: BytesBySource,
    /// Whether it is what the final path shows.
    pub live: bool,
}

impl ReleaseStatus {
    /// The share of its chunks that is held, from 0 to 1.
    #[must_use]
    pub fn share_held(&self) -> f64 {
        if self.chunks_total == 0 {
            return 0.0;
        }
        self.chunks_held as f64 / self.chunks_total as f64
    }
}
