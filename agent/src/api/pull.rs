//! What the local API shows of catching up.

use std::{collections::BTreeMap, time::Duration};

use scap_proto::{
    codec::{self, CodecError},
    id::{NodeId, ReleaseId},
    reason::{Because, Reason},
    release::{Environment, RepoPath},
    wire::control::Finalize,
};
use serde::{Deserialize, Serialize};

use super::view::as_text;
use crate::{
    catchup::{
        Policy, Settings,
        choose::{Behind, Disbelieved},
    },
    daemon::{Heard, Repo},
};

/// A stable release that whoever pulls knows of: its encoding, in hex.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Given(String);

impl Given {
    /// This one.
    pub fn new(finalize: &Finalize) -> Self {
        Self(hex::encode(codec::encode(finalize)))
    }

    /// What it is. Whether it was signed is another question.
    pub(crate) fn read(&self) -> Result<Finalize, GivenError> {
        Ok(codec::decode(&hex::decode(&self.0)?)?)
    }
}

/// Not a stable release.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GivenError {
    /// Not hexadecimal.
    #[error(transparent)]
    Hex(#[from] hex::FromHexError),
    /// Nothing that was encoded.
    #[error(transparent)]
    Codec(#[from] CodecError),
}

/// What catching up with peers is at: `catch_up` in `scap.agent-status/1`.
#[derive(Debug, Clone, Serialize)]
pub struct CatchUpView {
    /// What is done with a later stable release.
    pub policy: Policy,
    /// How often peers are asked, in seconds.
    pub period_secs: u64,
    /// Those that are asked.
    pub peers: Vec<AskedView>,
    /// Rounds in which all were asked, since the start.
    pub rounds: u64,
    /// Releases that were taken from them.
    pub taken: u64,
    /// Questions of other hosts that were answered.
    pub answered: u64,
    /// For how long too few of them have answered, in seconds, and no coordinator was heard either; null where it is not so.
    pub stale_secs: Option<u64>,
    /// What it waits for.
    pub waiting: Option<String>,
    /// The code of that.
    pub waiting_code: Option<Reason>,
    /// Who said in the last round that a release is stable which a later one has followed.
    pub behind: Vec<BehindView>,
    /// What peers said that was not believed, the latest last.
    pub disbelieved: Vec<DisbelievedView>,
}

/// A peer that is asked.
#[derive(Debug, Clone, Serialize)]
pub struct AskedView {
    /// Its name.
    pub name: NodeId,
    /// Where it is dialled.
    pub address: String,
    /// When it answered last, in seconds before now.
    pub heard_secs_ago: Option<u64>,
    /// Stable releases that it told of then.
    pub releases: usize,
    /// Why it did not answer the last time.
    pub error: Option<String>,
}

/// A peer that was away itself, or would have this host go back.
#[derive(Debug, Clone, Serialize)]
pub struct BehindView {
    /// Which peer.
    pub peer: NodeId,
    /// Of which repo.
    pub repo: RepoPath,
    /// In which environment.
    pub environment: Environment,
    /// The sequence that it says.
    pub sequence: u64,
    /// The sequence that is stable.
    pub stable: u64,
}

/// A release that a peer called stable and that was not believed.
#[derive(Debug, Clone, Serialize)]
pub struct DisbelievedView {
    /// Which peer.
    pub peer: NodeId,
    /// Which release.
    pub release: String,
    /// Why not.
    pub reason: String,
}

impl CatchUpView {
    pub(crate) fn new(
        settings: &Settings,
        heard: &BTreeMap<NodeId, Heard>,
        now: Duration,
        (disbelieved, behind): (Vec<Disbelieved>, &[Behind]),
    ) -> Self {
        let nothing = Heard::default();
        let peers = settings.peers.iter().map(|peer| {
            let heard = heard.get(&peer.name).unwrap_or(&nothing);
            AskedView {
                name: peer.name.clone(),
                address: peer.address.clone(),
                heard_secs_ago: heard.at.map(|at| now.saturating_sub(at).as_secs()),
                releases: heard.releases,
                error: heard.error.clone(),
            }
        });
        let disbelieved = disbelieved.into_iter().map(|it| DisbelievedView {
            peer: it.peer,
            release: it.release.to_string(),
            reason: it.reason,
        });
        let behind = behind.iter().map(|it| BehindView {
            peer: it.peer.clone(),
            repo: it.of.0.clone(),
            environment: it.of.1.clone(),
            sequence: it.sequence,
            stable: it.stable,
        });
        Self {
            policy: settings.policy,
            period_secs: settings.period().as_secs(),
            peers: peers.collect(),
            rounds: 0,
            taken: 0,
            answered: 0,
            stale_secs: None,
            waiting: None,
            waiting_code: None,
            behind: behind.collect(),
            disbelieved: disbelieved.collect(),
        }
    }

    pub(crate) fn counting(self, rounds: u64, taken: u64, answered: u64) -> Self {
        Self {
            rounds,
            taken,
            answered,
            ..self
        }
    }

    pub(crate) fn waiting(self, waiting: Option<Because>, stale: Option<Duration>) -> Self {
        Self {
            waiting_code: waiting.as_ref().map(|waiting| waiting.code),
            waiting: waiting.map(|waiting| waiting.text),
            stale_secs: stale.map(|it| it.as_secs()),
            ..self
        }
    }
}

/// Answer to a pull: `scap.pull/1`.
#[derive(Debug, Clone, Serialize)]
pub struct PullView {
    /// Name and version of this object.
    pub schema: &'static str,
    /// Whether this host has, of all that was asked for, what is stable.
    pub ok: bool,
    /// Whether anything is other than it was before.
    pub changed: bool,
    /// Each repo that it was about.
    pub repos: Vec<PulledView>,
    /// Peers that answered.
    pub peers_answered: usize,
    /// Why it is not well, where that is not about one repo.
    pub reason: Option<String>,
}

/// What a pull did about one repo.
#[derive(Debug, Clone, Serialize)]
pub struct PulledView {
    /// The repo.
    pub repo: RepoPath,
    /// The environment.
    pub environment: Environment,
    /// Whether another release is live, or fetched, than before.
    pub changed: bool,
    /// `done`; `led` where a coordinator leads a rollout here; `working`, `waiting` or `failed`, for a reason; `idle`.
    pub state: &'static str,
    /// What it waits for, or why it failed.
    pub reason: Option<String>,
    /// The code of that, where it has one.
    pub code: Option<Reason>,
    /// The sequence accepted; 0 for none.
    pub sequence: u64,
    /// The release accepted.
    #[serde(serialize_with = "as_text")]
    pub release: Option<ReleaseId>,
    /// The live commit.
    pub live_commit: Option<String>,
}

impl PullView {
    pub(crate) fn new(repos: Vec<PulledView>, answered: usize, reason: Option<String>) -> Self {
        let is_well = |it: &PulledView| ["done", "led", "idle"].contains(&it.state);
        Self {
            schema: "scap.pull/1",
            ok: reason.is_none() && repos.iter().all(is_well),
            changed: repos.iter().any(|it| it.changed),
            repos,
            peers_answered: answered,
            reason,
        }
    }
}

impl PulledView {
    pub(crate) fn new(
        (name, environment): &(RepoPath, Environment),
        repo: &Repo,
        changed: bool,
        state: &'static str,
        (reason, code): (Option<String>, Option<Reason>),
    ) -> Self {
        let accepted = repo.accepted();
        let live = repo.standing.live.as_ref();
        let commit = live.and_then(|live| live.commit.as_ref());
        Self {
            repo: name.clone(),
            environment: environment.clone(),
            changed,
            state,
            reason,
            code,
            sequence: accepted.map_or(0, |it| it.sequence),
            release: accepted.map(|it| it.release),
            live_commit: commit.map(ToString::to_string),
        }
    }

    /// Of a repo of which nothing was taken.
    pub(crate) fn unknown(
        (repo, environment): &(RepoPath, Environment),
        waiting: Option<Because>,
    ) -> Self {
        Self {
            repo: repo.clone(),
            environment: environment.clone(),
            changed: false,
            state: "waiting",
            code: waiting.as_ref().map(|waiting| waiting.code),
            reason: waiting.map(|waiting| waiting.text),
            sequence: 0,
            release: None,
            live_commit: None,
        }
    }
}
