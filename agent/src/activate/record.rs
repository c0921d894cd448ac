//! What is remembered on disk, each record with its kind and version in front and its hash behind.

use std::{
    fmt,
    io::{self, Write},
};

use scap_proto::{
    codec,
    content::SnapshotRef,
    id::{GitOid, ReleaseId, SnapshotId},
    limits::HOST_CONFIG_BYTES_MAX,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{dir::Dir, error::ActivateError, error::Doing};

/// The name of a release's directory beneath `revs`.
///
/// The commit, or the snapshot of a release without one; where that name is taken by other content,
/// the release's first 8 digits and `-` before it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Rev(String);

impl Rev {
    /// The name as text: safe as a path component.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name that a release's directory has, and the one where that is taken.
    pub(super) fn candidates(
        release: &ReleaseId,
        commit: Option<&GitOid>,
        snapshot: &SnapshotId,
    ) -> [Self; 2] {
        let content = commit.map_or_else(|| snapshot.to_string(), GitOid::to_string);
        let longer = format!("{}-{content}", release.short());
        [Self(content), Self(longer)]
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl TryFrom<String> for Rev {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, &'static str> {
        let is_name = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        let parts: Vec<&str> = text.split('-').collect();
        let good = |part: &&str| (8..=64).contains(&part.len()) && part.bytes().all(is_name);
        if parts.len() <= 2 && parts.iter().all(good) {
            Ok(Self(text))
        } else {
            Err("not the name of a release's directory")
        }
    }
}

impl From<Rev> for String {
    fn from(rev: Rev) -> Self {
        rev.0
    }
}

impl fmt::Display for Rev {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Rev {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A release that is on this host, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Installed {
    /// The release.
    pub release: ReleaseId,
    /// Its sequence.
    pub sequence: u64,
    /// Its content.
    pub snapshot: SnapshotRef,
    /// The commit it is of, where it is of one.
    pub commit: Option<GitOid>,
    /// Its directory.
    pub rev: Rev,
}

/// What the final path and the links beside it should be: the truth that the links follow.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    /// What is live.
    pub(super) live: Option<Installed>,
    /// What was live before it, the latest last; at most [`HISTORY_MAX`].
    pub(super) history: Vec<Installed>,
    /// What was last finalized.
    pub(super) done: Option<Installed>,
    /// What is prepared and not finalized.
    pub(super) in_progress: Option<Rev>,
    /// Where in the final path's folder that is which our first release took the place of.
    pub(super) aside: Option<String>,
}

/// How many releases back are remembered: as many as directories are kept, the live one not counted.
pub(super) const HISTORY_MAX: usize = 4;

impl State {
    /// The state once `next` is live.
    pub(super) fn promoted(&self, next: Installed) -> Self {
        let mut state = self.clone();
        if state.live.as_ref() != Some(&next) {
            state.history.extend(state.live.replace(next));
            let excess = state.history.len().saturating_sub(HISTORY_MAX);
            state.history.drain(..excess);
        }
        state
    }

    /// The state once all that came after `target` is undone; `None` is before the first release.
    pub(super) fn reverted(&self, target: Option<Installed>) -> Self {
        let mut state = self.clone();
        let kept = target.as_ref().map_or(0, |target| {
            let found = state
                .history
                .iter()
                .rposition(|past| past.release == target.release);
            found.unwrap_or(state.history.len())
        });
        state.history.truncate(kept);
        state.live = target;
        state.in_progress = None;
        state
    }
}

/// What is being done, so that whoever comes next can finish or undo it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Journal {
    /// A tree is written; until the journal goes it may be incomplete.
    Build {
        /// Its directory.
        rev: Rev,
    },
    /// The final path is switched.
    Flip {
        /// What is true once it is.
        next: Box<State>,
        /// The name beside the final path by which it is switched, where it is by an exchange.
        through: Option<String>,
    },
}

/// A kind of record, and the file it is in.
pub(super) trait Record: Serialize + DeserializeOwned {
    /// Kind and version.
    const MAGIC: &'static [u8];
}

impl Record for Installed {
    const MAGIC: &'static [u8] = b"scap-installed/1\n";
}

impl Record for State {
    const MAGIC: &'static [u8] = b"scap-live/1\n";
}

impl Record for Journal {
    const MAGIC: &'static [u8] = b"scap-journal/1\n";
}

/// What a record's file holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found<T> {
    /// The record.
    Record(T),
    /// No file.
    Nothing,
    /// A file that is not what was written, or of a version that this one does not know.
    Damaged,
}

impl<T> Found<T> {
    /// The record, where it is there and whole.
    pub(super) fn record(self) -> Option<T> {
        match self {
            Self::Record(record) => Some(record),
            Self::Nothing | Self::Damaged => None,
        }
    }
}

/// Reads the record at `name`.
///
/// # Errors
/// Where the file cannot be read.
pub(super) fn read<T: Record>(dir: &Dir, name: &str) -> Result<Found<T>, ActivateError> {
    let mut bytes = Vec::new();
    let opened = dir.file(name.as_bytes());
    match opened
        .and_then(|file| io::Read::read_to_end(&mut io::Read::take(file, RECORD_MAX), &mut bytes))
    {
        Ok(_) => Ok(unseal(&bytes).map_or(Found::Damaged, Found::Record)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Found::Nothing),
        Err(error) => Err(error).doing(|| format!("read the record `{name}`")),
    }
}

/// The record at `name` where it only helps: one that cannot be read is none.
pub(super) fn hint<T: Record>(dir: &Dir, name: &str) -> Option<T> {
    read(dir, name).ok().and_then(Found::record)
}

/// Replaces the record at `name`: a crash leaves the old one or the new one, and once this returns, the
/// new one.
///
/// # Errors
/// Where the disk is full or fails; the old record is still there.
pub(super) fn replace<T: Record>(dir: &Dir, name: &str, record: &T) -> Result<(), ActivateError> {
    let temporary = format!("{name}{TEMPORARY_SUFFIX}");
    let write = || {
        dir.unlink(temporary.as_bytes())?;
        let mut file = dir.create(temporary.as_bytes(), 0o600)?;
        file.write_all(&seal(record))?;
        file.sync_all()?;
        dir.rename(temporary.as_bytes(), dir, name.as_bytes())?;
        dir.sync()
    };
    write().doing(|| format!("write the record `{name}`"))
}

/// Replaces the record at `name`, as the next reader finds it. After a power cut the old one may be there, the new one,
/// or none that is whole.
///
/// # Errors
/// Where the disk is full or fails.
pub(super) fn note<T: Record>(dir: &Dir, name: &str, record: &T) -> Result<(), ActivateError> {
    let temporary = format!("{name}{TEMPORARY_SUFFIX}");
    let write = || {
        dir.unlink(temporary.as_bytes())?;
        dir.create(temporary.as_bytes(), 0o600)?
            .write_all(&seal(record))?;
        dir.rename(temporary.as_bytes(), dir, name.as_bytes())
    };
    write().doing(|| format!("write the record `{name}`"))
}

/// What a record's file ends with while it is written.
pub(super) const TEMPORARY_SUFFIX: &str = ".tmp";

/// Longest record file, in bytes: a state of 7 releases is under 2 KiB, and of each config file that a release asks for, in at
/// most [`HOST_CONFIG_BYTES_MAX`] together, its path and hash are recorded.
const RECORD_MAX: u64 = 4 * HOST_CONFIG_BYTES_MAX as u64;

fn seal<T: Record>(record: &T) -> Vec<u8> {
    let mut bytes = T::MAGIC.to_vec();
    bytes.extend_from_slice(&codec::encode(record));
    let hash = blake3::hash(&bytes);
    bytes.extend_from_slice(hash.as_bytes());
    bytes
}

fn unseal<T: Record>(bytes: &[u8]) -> Option<T> {
    let (body, hash) = bytes.split_last_chunk::<{ blake3::OUT_LEN }>()?;
    if blake3::hash(body) != *hash {
        return None;
    }
    codec::decode(body.strip_prefix(T::MAGIC)?).ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn installed(n: u8) -> Installed {
        let snapshot = SnapshotRef {
            id: SnapshotId::of(&[n]),
            descriptor_length: 1,
        };
        let release = ReleaseId::of(&[n]);
        let [rev, _] = Rev::candidates(&release, None, &snapshot.id);
        Installed {
            release,
            sequence: n.into(),
            snapshot,
            commit: None,
            rev,
        }
    }

    #[test]
    fn a_flipped_bit_or_a_short_record_is_found() {
        let root = tempfile::tempdir().unwrap();
        let dir = Dir::open(root.path()).unwrap();
        assert_eq!(read::<State>(&dir, "live").unwrap(), Found::Nothing);
        let state = State::default().promoted(installed(1));
        replace(&dir, "live", &state).unwrap();
        assert_eq!(read(&dir, "live").unwrap(), Found::Record(state));
        assert_eq!(read::<Journal>(&dir, "live").unwrap(), Found::Damaged);
        let bytes = std::fs::read(root.path().join("live")).unwrap();
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 4;
            std::fs::write(root.path().join("live"), bad).unwrap();
            assert_eq!(read::<State>(&dir, "live").unwrap(), Found::Damaged);
            std::fs::write(root.path().join("live"), &bytes[..at]).unwrap();
            assert_eq!(read::<State>(&dir, "live").unwrap(), Found::Damaged);
        }
    }

    #[test]
    fn going_back_forgets_what_is_undone_and_never_goes_forward_again() {
        let [a, b, c] = [installed(1), installed(2), installed(3)];
        let state = State::default().promoted(a.clone()).promoted(b.clone());
        let state = state.promoted(c.clone()).promoted(c.clone());
        assert_eq!(state.history, [a.clone(), b.clone()]);
        let back = state.reverted(Some(b.clone()));
        assert_eq!(
            (back.live.clone(), back.history.clone()),
            (Some(b), vec![a.clone()])
        );
        let back = back.reverted(Some(a.clone()));
        assert_eq!((back.live.clone(), back.history.clone()), (Some(a), vec![]));
        assert_eq!(back.reverted(None), State::default());
    }

    #[test]
    fn history_is_bounded() {
        let state = (0..30).fold(State::default(), |state, n| state.promoted(installed(n)));
        assert_eq!(state.history.len(), HISTORY_MAX);
        assert_eq!(state.history.last(), Some(&installed(28)));
    }

    #[test]
    fn a_directory_name_from_disk_is_hex_and_nothing_else() {
        let good = [
            "a".repeat(40),
            format!("{}-{}", "0".repeat(8), "f".repeat(64)),
        ];
        for name in good {
            assert_eq!(Rev::try_from(name.clone()).unwrap().as_str(), name);
        }
        for name in ["", "..", "a/b", "abc", &"A".repeat(40), &"a-".repeat(20)] {
            assert!(Rev::try_from(name.to_owned()).is_err(), "{name}");
        }
    }
}
