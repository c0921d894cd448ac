//! What the daemon must not forget: one file a repo and environment, replaced whole.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use scap_proto::{
    codec::{self, CodecError},
    id::PlanId,
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

    /// Of which version the file is: builds that know the first alone take each accepted release to have an order.
    fn magic(&self) -> &'static [u8] {
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
        std::fs::create_dir_all(&directory).map_err(failed("make"))?;
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

    /// Replaces the file of one repo and environment. A crash leaves the old or the new one.
    pub(crate) fn save(&self, saved: &Saved) -> Result<(), SavedError> {
        let path = self.file_of(&saved.repo, &saved.environment, EXTENSION);
        let body = codec::encode(saved);
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
    let rest = bytes.strip_prefix(MAGIC);
    let rest = rest.or_else(|| bytes.strip_prefix(MAGIC_STABLE));
    let rest = rest.ok_or_else(corrupt)?;
    let (checksum, body) = rest.split_at_checked(CHECKSUM_BYTES).ok_or_else(corrupt)?;
    if blake3::hash(body).as_bytes() != checksum {
        return Err(corrupt());
    }
    codec::decode(body).map_err(|source| SavedError::Codec {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::trust::tests::{Draft, NOW, World};

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
