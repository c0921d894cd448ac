//! Which config snapshots are kept: what hosts were asked by the latest releases of a repo and environment.
//!
//! They are in a file of their own beside the record. A tree is built again from its commit; what a scap folder outside the
//! commit said then is only here.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use scap_agent::store::durable;
use scap_proto::{
    codec,
    content::SnapshotRef,
    release::{Environment, RepoPath},
};

use super::{StateDirectory, StateError};

/// The first bytes of the file: kind and version.
const MAGIC: &[u8] = b"scap-coordinator-configs/1\n";

/// Its name is the record's with this in place of `record`.
const EXTENSION: &str = "configs";

/// Most config snapshots that are kept of one repo and environment. They are small, and change more rarely than the trees: so
/// many are months of most repos.
const KEPT_MAX: usize = 32;

impl StateDirectory {
    /// Keeps the chunks of a config snapshot of a repo and environment, beside those of the latest before it. To be said before a
    /// release names it.
    ///
    /// # Errors
    /// [`StateError::Io`]; those before it are kept.
    pub fn keep_config(
        &self,
        repo: &RepoPath,
        environment: &Environment,
        config: SnapshotRef,
    ) -> Result<(), StateError> {
        let path = self
            .record_path(repo, environment)
            .with_extension(EXTENSION);
        let before = read(&path)?;
        if before.first() == Some(&config) {
            return Ok(());
        }
        let others = before.into_iter().filter(|other| *other != config);
        let kept: Vec<_> = std::iter::once(config)
            .chain(others)
            .take(KEPT_MAX)
            .collect();
        let body = codec::encode(&kept);
        let bytes = [MAGIC, blake3::hash(&body).as_bytes(), &body].concat();
        fs::create_dir_all(self.records())
            .and_then(|()| durable::replace_file(&path, &bytes))
            .map_err(|source| StateError::Io {
                doing: "write",
                path,
                source,
            })
    }
}

/// The config snapshots that a file of the records' folder says to keep, where it is of that kind.
///
/// # Errors
/// [`StateError::Io`], [`StateError::Record`].
pub(super) fn kept(path: &Path) -> Result<Vec<SnapshotRef>, StateError> {
    match path.extension() {
        Some(extension) if extension == EXTENSION => read(path),
        _ => Ok(Vec::new()),
    }
}

fn read(path: &Path) -> Result<Vec<SnapshotRef>, StateError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => {
            return Err(StateError::Io {
                doing: "read",
                path: path.to_owned(),
                source,
            });
        }
    };
    let damaged = || StateError::Record(PathBuf::from(path));
    let rest = bytes.strip_prefix(MAGIC).ok_or_else(damaged)?;
    let (checksum, body) = rest.split_at_checked(blake3::OUT_LEN).ok_or_else(damaged)?;
    match blake3::hash(body).as_bytes() == checksum {
        true => codec::decode(body).map_err(|_| damaged()),
        false => Err(damaged()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use scap_proto::{id::SnapshotId, release::UnixMillis};

    use super::*;

    fn snapshot(number: u8) -> SnapshotRef {
        SnapshotRef {
            id: SnapshotId::of(&[number]),
            descriptor_length: 1,
        }
    }

    #[test]
    fn the_latest_config_snapshots_are_kept_and_collections_hear_of_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        StateDirectory::init(&path, &"test".parse().unwrap(), UnixMillis(1)).unwrap();
        let state = StateDirectory::open(&path).unwrap();
        let (repo, environment) = ("web/site".parse().unwrap(), Environment::default());
        for number in (0..40).chain([20]) {
            state
                .keep_config(&repo, &environment, snapshot(number))
                .unwrap();
        }
        let kept = state.kept_snapshots().unwrap();
        assert_eq!(kept.len(), KEPT_MAX);
        for number in 0..40 {
            let is_kept = kept.contains(&snapshot(number));
            assert_eq!(is_kept, number >= 8, "{number}");
        }

        let file = state
            .record_path(&repo, &environment)
            .with_extension(EXTENSION);
        let mut bytes = fs::read(&file).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&file, bytes).unwrap();
        assert!(matches!(state.kept_snapshots(), Err(StateError::Record(_))));
    }
}
