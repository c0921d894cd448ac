//! For whom the latest release of a repo and environment is the stable one, as it was told to hosts.
//!
//! It is in a file of its own beside the record, written before the record says that it is finalized: a coordinator that is killed
//! then has not written it to the state branch yet.

use std::{fs, io};

use scap_agent::store::durable;
use scap_proto::{
    codec,
    id::ReleaseId,
    release::{Environment, Finalization, Reach, RepoPath},
};

use super::{
    StateDirectory, StateError,
    directory::{read, read_record},
};

/// The first bytes of the file: kind and version.
const MAGIC: &[u8] = b"scap-coordinator-finalization/1\n";

/// That of the file of the grant by which it was made so: its BLAKE3, in hex.
const GRANT_EXTENSION: &str = "stable-grant";

/// Its name is the record's with this in place of `record`.
const EXTENSION: &str = "finalization";

impl StateDirectory {
    /// Keeps what hosts are about to be told is stable, and for whom.
    ///
    /// # Errors
    /// [`StateError::Io`]; what was kept before is.
    pub fn keep_finalization(&self, finalization: &Finalization) -> Result<(), StateError> {
        let path = self
            .record_path(&finalization.repo, &finalization.environment)
            .with_extension(EXTENSION);
        self.keep_stable_grant(finalization)?;
        let body = codec::encode(finalization);
        let bytes = [MAGIC, blake3::hash(&body).as_bytes(), &body].concat();
        fs::create_dir_all(self.records())
            .and_then(|()| durable::replace_file(&path, &bytes))
            .map_err(|source| StateError::Io {
                doing: "write",
                path,
                source,
            })
    }

    /// The grant of the latest release is noted, where that is the one that is made stable: one that follows and fails takes its place in
    /// the record.
    fn keep_stable_grant(&self, finalization: &Finalization) -> Result<(), StateError> {
        let (repo, environment) = (&finalization.repo, &finalization.environment);
        let latest = self.record(repo, environment)?;
        let Some(latest) = latest.filter(|it| it.release.id() == finalization.release) else {
            return Ok(());
        };
        let path = self
            .record_path(repo, environment)
            .with_extension(GRANT_EXTENSION);
        let text = format!("{}\n", hex::encode(latest.grant.hash()));
        durable::replace_file(&path, text.as_bytes()).map_err(|source| StateError::Io {
            doing: "write",
            path,
            source,
        })
    }

    /// By which grants what is stable was made so, of all repos and environments that were deployed from here; in hashes.
    ///
    /// # Errors
    /// [`StateError::Io`].
    pub(super) fn stable_grants(&self) -> Result<Vec<[u8; blake3::OUT_LEN]>, StateError> {
        let folder = self.records();
        if !folder.exists() {
            return Ok(Vec::new());
        }
        let mut grants = Vec::new();
        for path in self.recorded()? {
            // Builds before this one noted no grant.
            if path.extension().is_some_and(|it| it == "record") {
                let record = read_record(&path)?;
                grants.extend(record.is_finalized.then(|| record.grant.hash()));
                continue;
            }
            if path.extension().is_none_or(|it| it != GRANT_EXTENSION) {
                continue;
            }
            let text = read(&path)?;
            let hash = hex::decode(text.trim_ascii()).ok();
            let hash = hash.and_then(|hash| hash.try_into().ok());
            grants.push(hash.ok_or(StateError::Record(path))?);
        }
        grants.sort_unstable();
        grants.dedup();
        Ok(grants)
    }

    /// For whom a release is the stable one, where that is kept.
    ///
    /// # Errors
    /// [`StateError::Io`], [`StateError::Record`].
    pub fn reach(
        &self,
        repo: &RepoPath,
        environment: &Environment,
        release: &ReleaseId,
    ) -> Result<Option<Reach>, StateError> {
        let path = self
            .record_path(repo, environment)
            .with_extension(EXTENSION);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => {
                return Err(StateError::Io {
                    doing: "read",
                    path,
                    source,
                });
            }
        };
        let read = || {
            let rest = bytes.strip_prefix(MAGIC)?;
            let (checksum, body) = rest.split_at_checked(blake3::OUT_LEN)?;
            let is_whole = blake3::hash(body).as_bytes() == checksum;
            let finalization: Finalization = codec::decode(body).ok().filter(|_| is_whole)?;
            let reach = finalization.reach().ok()?;
            Some((finalization.release, reach))
        };
        let (of, reach) = read().ok_or(StateError::Record(path))?;
        Ok((of == *release).then_some(reach))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use scap_proto::release::UnixMillis;

    use super::*;

    #[test]
    fn for_whom_a_release_is_stable_is_kept_and_counts_for_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        StateDirectory::init(&path, &"test".parse().unwrap(), UnixMillis(1)).unwrap();
        let state = StateDirectory::open(&path).unwrap();
        let (repo, environment): (RepoPath, _) =
            ("web/site".parse().unwrap(), Environment::default());
        let [this, other] = [[1; 32], [2; 32]].map(ReleaseId::from_bytes);
        assert_eq!(state.reach(&repo, &environment, &this).unwrap(), None);
        let reach = Reach::Only(["web1".parse().unwrap()].into());
        let finalization = Finalization {
            release: this,
            repo: repo.clone(),
            environment: environment.clone(),
            audience: Default::default(),
            sequence: 1,
            extensions: Default::default(),
        };
        state
            .keep_finalization(&finalization.reaching(&reach))
            .unwrap();
        assert_eq!(
            state.reach(&repo, &environment, &this).unwrap(),
            Some(reach)
        );
        assert_eq!(state.reach(&repo, &environment, &other).unwrap(), None);

        let file = state
            .record_path(&repo, &environment)
            .with_extension(EXTENSION);
        let mut bytes = fs::read(&file).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&file, bytes).unwrap();
        let damaged = state.reach(&repo, &environment, &this);
        assert!(matches!(damaged, Err(StateError::Record(_))));
    }
}
