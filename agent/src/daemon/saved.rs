//! What the daemon must not forget: one file a repo and environment, replaced whole.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use scap_proto::{
    codec::{self, CodecError},
    id::PlanId,
    place::{self, PlaceError},
    release::{Environment, RepoPath, SignedRelease, Stage},
    wire::control::{Finalize, Order},
};
use serde::{Deserialize, Serialize};

use crate::{acceptance::Acceptance, activate::process::StableRequest, store::durable};

/// The first bytes of each file: kind and version. A file of another version is refused by name, and
/// nothing is lost: its repo must be ordered again.
const MAGIC: &[u8] = b"scap-agent-repo/1\n";
/// The same, of a repo whose release was accepted by its finalization alone.
const MAGIC_STABLE: &[u8] = b"scap-agent-repo/2\n";
/// The same, followed by what is stable for the hosts that the latest finalization is not for.
const MAGIC_OPEN: &[u8] = b"scap-agent-repo/3\n";
const CHECKSUM_BYTES: usize = 32;
const EXTENSION: &str = "repo";

/// One repo and environment as it is on disk. It is saved before anything is done about it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Saved {
    pub(crate) repo: RepoPath,
    pub(crate) environment: Environment,
    pub(crate) acceptance: Acceptance,
    /// The latest order, without its plan; none where the release was accepted by its finalization alone.
    pub(crate) order: Option<Order>,
    /// The latest plan for the release of that order.
    pub(crate) plan: Option<(PlanId, Bytes)>,
    /// The latest finalization.
    pub(crate) finalize: Option<Finalize>,
    /// Where that is for some hosts alone: the latest before it that was not, for all others that ask.
    #[serde(skip)]
    pub(crate) open: Option<Finalize>,
}

impl Saved {
    /// The release that was accepted: by an order, or by its finalization alone.
    pub(crate) fn accepted_release(&self) -> Option<&SignedRelease> {
        let order = self.order.as_ref().map(|it| &it.release);
        order.or_else(|| self.finalize.as_ref().map(|it| &it.release))
    }

    /// What the activator is asked where the release was accepted by its finalization alone.
    pub(crate) fn stable_request(&self) -> Option<StableRequest> {
        let accepted = self.acceptance.accepted.as_ref()?;
        let finalize = self.finalize.clone()?;
        Some(StableRequest {
            finalize,
            promotes: accepted.stage == Stage::Promote,
        })
    }

    /// Holds to a finalization. One of the same release that more hosts are meant by stays.
    pub(crate) fn hold(&mut self, finalize: Finalize) {
        let is_open = finalize.is_open();
        if let Some(before) = self.finalize.take() {
            let was_open = before.is_open();
            let is_same = before.release.id() == finalize.release.id();
            if is_same && (was_open && !is_open || is_wider(&before, &finalize)) {
                self.finalize = Some(before);
                return;
            }
            if was_open {
                self.open = Some(before);
            }
        }
        if is_open {
            self.open = None;
        }
        self.finalize = Some(finalize);
    }

    /// Whether the latest finalization is for some hosts alone.
    pub(crate) fn is_limited(&self) -> bool {
        self.finalize.as_ref().is_some_and(|it| !it.is_open())
    }

    /// What is stable, for whomever: the latest, and where that is for some hosts alone the latest that is not.
    pub(crate) fn stable(&self) -> impl Iterator<Item = &Finalize> {
        self.finalize.iter().chain(&self.open)
    }

    /// Of which version the file is: builds that know the first alone take each accepted release to have an order.
    fn magic(&self) -> &'static [u8] {
        if self.open.is_some() {
            return MAGIC_OPEN;
        }
        match self.acceptance.accepted.is_some() && self.order.is_none() {
            true => MAGIC_STABLE,
            false => MAGIC,
        }
    }
}

/// Why saved state cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SavedError {
    /// A file or folder cannot be read or written.
    #[error("{doing} {path}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// With what.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// Not what was written, or by another version.
    #[error(
        "{0} is damaged or of another version; move it away, and deploy that repo again so that this host learns where it stands"
    )]
    Corrupt(PathBuf),
    /// Its content is not what this version writes.
    #[error("read {path}")]
    Codec {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: CodecError,
    },
    /// The folder is not ours alone.
    #[error(transparent)]
    Place(#[from] PlaceError),
}

/// The folder of saved state.
#[derive(Debug, Clone)]
pub(crate) struct SavedState {
    directory: PathBuf,
}

impl SavedState {
    /// Opens the folder and reads all that is in it.
    pub(crate) fn open(data: &Path) -> Result<(Self, Vec<Saved>), SavedError> {
        let directory = data.join("state");
        let failed = |doing| {
            move |source| SavedError::Io {
                doing,
                path: data.join("state"),
                source,
            }
        };
        place::make(&directory)?;
        let mut all = Vec::new();
        for entry in std::fs::read_dir(&directory).map_err(failed("list"))? {
            let path = entry.map_err(failed("list"))?.path();
            if path
                .extension()
                .is_some_and(|extension| extension == EXTENSION)
            {
                all.push(read(&path)?);
            }
        }
        Ok((Self { directory }, all))
    }

    /// Where a file of one repo and environment is.
    pub(super) fn file_of(
        &self,
        repo: &RepoPath,
        environment: &Environment,
        extension: &str,
    ) -> PathBuf {
        // Names hold no `@`, and none holds `+`.
        let repo = repo.as_str().replace('/', "+");
        self.directory
            .join(format!("{repo}@{environment}.{extension}"))
    }

    /// Where a file of another name is.
    pub(super) fn file_named(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Replaces the file of one repo and environment. A crash leaves the old or the new one.
    pub(crate) fn save(&self, saved: &Saved) -> Result<(), SavedError> {
        let path = self.file_of(&saved.repo, &saved.environment, EXTENSION);
        let body = match &saved.open {
            Some(open) => codec::encode(&(saved, open)),
            None => codec::encode(saved),
        };
        let mut bytes = saved.magic().to_vec();
        bytes.extend_from_slice(blake3::hash(&body).as_bytes());
        bytes.extend_from_slice(&body);
        durable::replace_file(&path, &bytes).map_err(|source| SavedError::Io {
            doing: "replace",
            path,
            source,
        })
    }

    /// Counts one more start of the daemon, durably, and returns how many that makes: the high half of
    /// report counters.
    pub(crate) fn count_start(&self) -> Result<u32, SavedError> {
        let path = self.directory.join("starts");
        let failed = |doing| {
            let path = path.clone();
            move |source| SavedError::Io {
                doing,
                path,
                source,
            }
        };
        let before = match std::fs::read_to_string(&path) {
            Ok(text) => text
                .trim()
                .parse()
                .map_err(|_| SavedError::Corrupt(path.clone()))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => 0u32,
            Err(error) => return Err(failed("read")(error)),
        };
        let starts = before.saturating_add(1);
        durable::replace_file(&path, format!("{starts}\n").as_bytes())
            .map_err(failed("replace"))?;
        Ok(starts)
    }
}

fn read(path: &Path) -> Result<Saved, SavedError> {
    let bytes = std::fs::read(path).map_err(|source| SavedError::Io {
        doing: "read",
        path: path.to_owned(),
        source,
    })?;
    let corrupt = || SavedError::Corrupt(path.to_owned());
    let with_open = bytes.strip_prefix(MAGIC_OPEN);
    let rest = bytes.strip_prefix(MAGIC).or(with_open);
    let rest = rest.or_else(|| bytes.strip_prefix(MAGIC_STABLE));
    let rest = rest.ok_or_else(corrupt)?;
    let (checksum, body) = rest.split_at_checked(CHECKSUM_BYTES).ok_or_else(corrupt)?;
    if blake3::hash(body).as_bytes() != checksum {
        return Err(corrupt());
    }
    let saved = match with_open {
        Some(_) => codec::decode(body).map(|(saved, open): (Saved, Finalize)| Saved {
            open: Some(open),
            ..saved
        }),
        None => codec::decode(body),
    };
    saved.map_err(|source| SavedError::Codec {
        path: path.to_owned(),
        source,
    })
}

/// Whether one is for all hosts that the other is for, and for others.
fn is_wider(one: &Finalize, other: &Finalize) -> bool {
    let reach = |of: &Finalize| of.finalization.reach_unverified();
    match (reach(one), reach(other)) {
        (Ok(one), Ok(other)) => one != other && one.clone().and(other) == one,
        _ => false,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use scap_proto::release::Reach;

    use super::*;
    use crate::trust::tests::{Draft, NOW, World};

    #[test]
    fn beside_what_is_stable_for_some_hosts_alone_stays_what_is_so_for_all() {
        let world = World::new();
        let at = |sequence| world.finalize(&Draft::new(sequence));
        let only = |sequence| {
            let us = world.trust.addressee.host.clone();
            world.finalize_reaching(&Draft::new(sequence), &Reach::Only([us].into()))
        };
        let folder = tempfile::tempdir().unwrap();
        let (state, _) = SavedState::open(folder.path()).unwrap();
        let mut saved = Saved {
            repo: "mw/config".parse().unwrap(),
            environment: Environment::default(),
            acceptance: Acceptance::default(),
            order: None,
            plan: None,
            finalize: None,
            open: None,
        };
        let mut hold = |finalize: &Finalize| {
            saved.hold(finalize.clone());
            state.save(&saved).unwrap();
            let (_, read) = SavedState::open(folder.path()).unwrap();
            let stable: Vec<_> = read[0].stable().cloned().collect();
            (stable, saved.is_limited(), saved.magic())
        };
        assert_eq!(hold(&only(5)), (vec![only(5)], true, MAGIC));
        assert_eq!(hold(&at(6)), (vec![at(6)], false, MAGIC));
        assert_eq!(hold(&only(7)), (vec![only(7), at(6)], true, MAGIC_OPEN));
        assert_eq!(hold(&only(8)), (vec![only(8), at(6)], true, MAGIC_OPEN));
        // The same release for all, and nobody takes that back.
        assert_eq!(hold(&at(8)), (vec![at(8)], false, MAGIC));
        assert_eq!(hold(&only(8)), (vec![at(8)], false, MAGIC));
        let without = |names: &[&str], sequence| {
            let hosts = names.iter().map(|name| name.parse().unwrap()).collect();
            world.finalize_reaching(&Draft::new(sequence), &Reach::AllBut(hosts))
        };
        assert_eq!(hold(&without(&["x"], 8)), (vec![at(8)], false, MAGIC));
        let (two, one) = (without(&["x", "y"], 9), without(&["x"], 9));
        assert_eq!(hold(&two), (vec![two.clone()], false, MAGIC));
        assert_eq!(hold(&one), (vec![one.clone()], false, MAGIC));
        assert_eq!(hold(&two), (vec![one], false, MAGIC));
    }

    #[test]
    fn what_was_caught_up_with_is_read_again_and_earlier_builds_see_that_it_is_not_theirs() {
        let world = World::new();
        let finalize = world.finalize(&Draft::new(7));
        let verified = world.trust.verify_finalization(finalize.clone(), NOW);
        let verified = verified.unwrap();
        let decision = Acceptance::default().consider_stable(
            &world.trust.addressee,
            &verified,
            Stage::Promote,
            0,
        );
        let Ok(crate::acceptance::Decision::Follow(acceptance)) = decision else {
            panic!("the first is followed: {decision:?}");
        };
        let mut saved = Saved {
            repo: "mw/config".parse().unwrap(),
            environment: Environment::default(),
            acceptance,
            order: None,
            plan: None,
            finalize: Some(finalize.clone()),
            open: None,
        };
        let data = tempfile::tempdir().unwrap();
        let path = data.path().join("state/mw+config@production.repo");
        for (order, magic) in [
            (None, MAGIC_STABLE),
            (Some(world.sign(&Draft::new(7))), MAGIC),
        ] {
            saved.order = order;
            let (state, _) = SavedState::open(data.path()).unwrap();
            state.save(&saved).unwrap();
            assert!(std::fs::read(&path).unwrap().starts_with(magic));
            let (_, read) = SavedState::open(data.path()).unwrap();
            assert_eq!(read.len(), 1);
            assert_eq!(read[0].acceptance, saved.acceptance);
            let release = read[0].accepted_release().unwrap();
            assert_eq!(release.id(), finalize.release.id());
            assert!(read[0].stable_request().unwrap().promotes);
        }
    }
}
