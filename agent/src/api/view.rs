//! What the local API shows. Schemas grow by additions only.

use std::{collections::BTreeSet, net::SocketAddr, path::PathBuf};

use jiff::Timestamp;
use scap_proto::{
    content::SnapshotRef,
    id::{NodeId, ReleaseId, SnapshotId},
    identity::{Identity, Life},
    reason::Reason,
    release::{BytesBySource, Environment, Outcome, Release, RepoPath, Stage, UnixMillis},
};
use serde::Serialize;

use super::{CatchUpView, TrustView, WatchView};
use crate::{
    clock::{self, Moment},
    confine::{Confinement, Level, Mode},
    daemon::Repo,
    limits::Source,
    node::{Shun, TransferStatus},
    trust::{HostTrust, Origins},
};

/// Answer to a status request: `scap.agent-status/1`.
#[derive(Debug, Clone, Serialize)]
pub struct StatusView {
    /// Name and version of this object.
    pub schema: &'static str,
    /// This host.
    pub name: NodeId,
    /// Its certificate.
    pub identity: IdentityView,
    /// Where it listens.
    pub address: SocketAddr,
    /// Where its repos go live.
    pub deploy_root: PathBuf,
    /// Each repo and environment that it knows.
    pub releases: Vec<RepoView>,
    /// What the first that is not done waits for.
    pub waiting: Option<String>,
    /// The code of that.
    pub waiting_code: Option<Reason>,
    /// Chunks in the store.
    pub store_chunks: Option<u64>,
    /// Their encoded bytes.
    pub store_bytes: Option<u64>,
    /// Peers that are asked no more since the start, the latest last.
    pub dropped_peers: Vec<PeerView>,
    /// Peers that it has no dealings with for now, by name.
    pub shunned: Vec<ShunView>,
    /// First packets of handshakes that were dropped unread since the start, because their source sent too many.
    pub first_packets_dropped: u64,
    /// How much of the network it may use, and does.
    pub limits: LimitsView,
    /// What catching up with peers is at.
    pub catch_up: CatchUpView,
    /// What it saw of attacks.
    #[serde(flatten)]
    pub watch: WatchView,
    /// Whose certificates count here.
    pub trust: TrustView,
    /// Whose releases it takes.
    pub authority: AuthorityView,
    /// How far the kernel holds the daemon to its own directories.
    pub confinement: ConfinementView,
}

/// How far the kernel holds the daemon to its own directories.
#[derive(Debug, Clone, Serialize)]
pub struct ConfinementView {
    /// What was asked for: `required`, `best-effort` or `off`.
    pub mode: Mode,
    /// What there is: `full`, `partial` or `none`.
    pub level: Level,
    /// `not-confined`, where it is not full.
    pub code: Option<Reason>,
    /// The same in words.
    pub text: String,
}

impl From<Confinement> for ConfinementView {
    fn from(confinement: Confinement) -> Self {
        let Confinement { mode, level } = confinement;
        Self {
            mode,
            level,
            code: (level != Level::Full).then_some(Reason::NotConfined),
            text: confinement.to_string(),
        }
    }
}

/// Whose releases a host takes.
#[derive(Debug, Clone, Serialize)]
pub struct AuthorityView {
    /// The number of the signers file that it follows.
    pub signers_file: u64,
    /// From which deployment hosts alone; null for any.
    pub origins: Option<BTreeSet<NodeId>>,
    /// The same in words.
    pub directed_from: String,
}

impl AuthorityView {
    pub(crate) fn of(trust: &HostTrust) -> Self {
        let origins = trust.origins();
        Self {
            signers_file: trust.signers_number(),
            origins: match origins {
                Origins::Only(names) => Some(names.clone()),
                Origins::Any { .. } => None,
            },
            directed_from: origins.to_string(),
        }
    }
}

/// Until when a host is who it is.
#[derive(Debug, Clone, Serialize)]
pub struct IdentityView {
    /// From when its certificate is valid.
    pub valid_from: Timestamp,
    /// Until when.
    pub valid_until: Timestamp,
    /// How much is left, in seconds; 0 once it has expired.
    pub valid_seconds_left: u64,
    /// `good`; `due` for renewal; `expired`, and only to be renewed; `over`, and not even that; `early`, where a clock is wrong.
    pub state: &'static str,
}

impl IdentityView {
    /// Of an identity now.
    pub fn new(identity: &Identity, now: UnixMillis) -> Self {
        let validity = identity.validity();
        Self {
            valid_from: clock::timestamp(validity.not_before_unix_ms),
            valid_until: clock::timestamp(validity.not_after_unix_ms),
            valid_seconds_left: validity.left_ms(now.0) / 1000,
            state: match validity.life(now.0) {
                Life::Early => "early",
                Life::Good => "good",
                Life::Due => "due",
                Life::Expired => "expired",
                Life::Over => "over",
            },
        }
    }
}

/// Answer to a limit request: `scap.limits/1`.
#[derive(Debug, Clone, Serialize)]
pub struct LimitsView {
    /// Name and version of this object.
    pub schema: &'static str,
    /// All that leaves.
    pub upload: LimitView,
    /// All that arrives.
    pub download: LimitView,
    /// What goes to other sites.
    pub border_upload: LimitView,
    /// What comes from other sites.
    pub border_download: LimitView,
}

/// A cap, and what is used of it.
#[derive(Debug, Clone, Serialize)]
pub struct LimitView {
    /// The cap; null for none.
    pub cap_mbit: Option<u32>,
    /// Where that comes from.
    pub source: Source,
    /// The rate over the last second, headers included.
    pub rate_mbit: f64,
}

/// A peer and what became of it.
#[derive(Debug, Clone, Serialize)]
pub struct PeerView {
    /// Which.
    pub name: NodeId,
    /// Why.
    pub reason: String,
    /// The code of that.
    pub code: Reason,
}

/// A peer that the host has no dealings with for a while.
#[derive(Debug, Clone, Serialize)]
pub struct ShunView {
    /// Which.
    pub name: NodeId,
    /// The code of why.
    pub code: Reason,
    /// For how much longer.
    pub seconds_left: u64,
    /// Whether no link is taken from it either.
    pub barred: bool,
}

impl From<Shun> for ShunView {
    fn from(shun: Shun) -> Self {
        Self {
            name: shun.peer,
            code: shun.code,
            seconds_left: shun.left.as_secs(),
            barred: shun.is_barred,
        }
    }
}

/// One repo and environment.
#[derive(Debug, Clone, Serialize)]
pub struct RepoView {
    /// The repo.
    pub repo: RepoPath,
    /// The environment.
    pub environment: Environment,
    /// The sequence accepted; 0 for none.
    pub sequence: u64,
    /// The release accepted.
    #[serde(serialize_with = "as_text")]
    pub release: Option<ReleaseId>,
    /// Its snapshot.
    #[serde(serialize_with = "as_text")]
    pub snapshot: Option<SnapshotId>,
    /// Its commit.
    pub commit: Option<String>,
    /// The stage that was ordered: `fetch`, `promote` or `revert`.
    pub stage: &'static str,
    /// `idle`, `working`, `done`, `failed` or `refused`.
    pub state: &'static str,
    /// Why it failed or was refused.
    pub reason: Option<String>,
    /// What it waits for, where it does.
    pub waiting: Option<String>,
    /// The code of what it waits for, or of why it failed or was refused.
    pub code: Option<Reason>,
    /// Chunks that are here.
    pub chunks_held: u32,
    /// Chunks that are known.
    pub chunks_total: u32,
    /// Where the bytes came from.
    pub bytes: BytesView,
    /// Whether the release accepted is the live one.
    pub live: bool,
    /// The live release.
    #[serde(serialize_with = "as_text")]
    pub live_release: Option<ReleaseId>,
    /// The live commit.
    pub live_commit: Option<String>,
    /// The sequence finalized; 0 for none.
    pub finalized_sequence: u64,
    /// In how many seconds this host goes back by itself, unless somebody directs the release until then.
    pub goes_back_in_seconds: Option<u64>,
    /// Releases whose directories are kept.
    pub kept: usize,
}

/// Plain bytes of chunks by where they came from.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct BytesView {
    /// From the seed.
    pub seed: u64,
    /// From other agents.
    pub peers: u64,
    /// Held already.
    pub reuse: u64,
}

impl From<BytesBySource> for BytesView {
    fn from(BytesBySource { seed, peers, reuse }: BytesBySource) -> Self {
        Self { seed, peers, reuse }
    }
}

impl RepoView {
    pub(crate) fn new(
        repo: &Repo,
        about: Option<&Release>,
        progress: Option<TransferStatus>,
    ) -> Self {
        let counts = progress.clone().map(TransferStatus::counts);
        let (chunks_held, chunks_total, _) = counts.unwrap_or_default();
        let (outcome, code) = repo.outcome_and_code(progress);
        let (state, reason, waiting) = match outcome {
            Outcome::Idle => ("idle", None, None),
            Outcome::Working { waiting, .. } => (
                "working",
                None,
                Some(waiting).filter(|waiting| !waiting.is_empty()),
            ),
            Outcome::Done => ("done", None, None),
            Outcome::Failed { reason } => ("failed", Some(reason), None),
            Outcome::Refused { reason } => ("refused", Some(reason), None),
        };
        let accepted = repo.accepted();
        let live = repo.standing.live.as_ref();
        Self {
            repo: repo.saved.repo.clone(),
            environment: repo.saved.environment.clone(),
            sequence: repo.saved.acceptance.sequence(),
            release: accepted.map(|accepted| accepted.release),
            snapshot: about
                .map(|about| about.snapshot)
                .map(|SnapshotRef { id, .. }| id),
            commit: about
                .and_then(|about| about.commit.as_ref())
                .map(ToString::to_string),
            stage: accepted.map_or("none", |accepted| match accepted.stage {
                Stage::Fetch => "fetch",
                Stage::Promote => "promote",
                Stage::Revert => "revert",
            }),
            state,
            reason,
            waiting,
            code,
            chunks_held,
            chunks_total,
            bytes: repo.bytes.into(),
            live: live.is_some_and(|live| Some(live.release) == accepted.map(|a| a.release)),
            live_release: live.map(|live| live.release),
            live_commit: live
                .and_then(|live| live.commit.as_ref())
                .map(ToString::to_string),
            finalized_sequence: repo.saved.acceptance.finalized_sequence(),
            goes_back_in_seconds: repo.lapses_in(&Moment::now()).map(|left| left.as_secs()),
            kept: repo.standing.kept.len(),
        }
    }
}

/// Answer to a verification: `scap.verify/1`.
#[derive(Debug, Clone, Serialize)]
pub struct VerifyView {
    /// Name and version of this object.
    pub schema: &'static str,
    /// Which repo.
    pub repo: RepoPath,
    /// Whether the live tree is what was signed.
    pub ok: bool,
    /// Each difference, in a line.
    pub differences: Vec<String>,
}

impl VerifyView {
    pub(crate) fn new(repo: RepoPath, differences: Vec<String>) -> Self {
        Self {
            schema: "scap.verify/1",
            repo,
            ok: differences.is_empty(),
            differences,
        }
    }
}

/// Answer to a collection: `scap.gc/1`.
#[derive(Debug, Clone, Serialize)]
pub struct GcView {
    /// Name and version of this object.
    pub schema: &'static str,
    /// Chunks removed.
    pub chunks_removed: u64,
    /// Their encoded bytes.
    pub bytes_removed: u64,
}

impl GcView {
    pub(crate) fn new(chunks_removed: u64, bytes_removed: u64) -> Self {
        Self {
            schema: "scap.gc/1",
            chunks_removed,
            bytes_removed,
        }
    }
}

pub(super) fn as_text<T: ToString, S: serde::Serializer>(
    value: &Option<T>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    value
        .as_ref()
        .map(ToString::to_string)
        .serialize(serializer)
}
