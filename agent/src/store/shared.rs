//! A store that several processes have open at a time: the deployments of one deployment host.
//!
//! An agent has its store to itself, by [`Store::open`]. Beside each other have it those who open it with
//! [`Store::open_shared`]. What each holds in memory is what was there when it opened, and what it put itself; so it may
//! know less than there is, and of what it does not count on, more. Three files are locked, in this order:
//!
//! - `admissions`, with others, while somebody counts on chunks that nothing names yet where collections look:
//!   [`Admission`]. Whoever collects has it alone ([`Collecting`]), and finds all that is there. This is [`gc`](super::gc)'s
//!   rule between processes.
//! - `changes`, alone and for a moment each: to open, to append to the index, to remove files. It counts the openings.
//! - `lock`, with others, as long as the store is open. A process that has the store to itself, as older programs want
//!   it, has it alone.
//!
//! A chunk's file never takes the place of another's of its name, which the index may list as durable. A process that dies
//! gives back all locks; what it put and did not sync is hashed by the next opening, and its half-written files are
//! cleared by the next that finds nobody else.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Write as _},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use scap_proto::id::ChunkId;

use super::{
    Put, Recovery, Store, StoreConfig, StoreError, chunks, durable,
    index::{AppendError, Record},
    layout::{Layout, Temporary},
};
use crate::lock::{FileLock, Take};

/// How long a change of another process is waited for. The longest is an opening after a crash, which hashes what was not
/// synced: 20 GB from a slow disk take some minutes.
const BUSY_MAX: Duration = Duration::from_secs(600);

/// After how long it is said that there is a wait.
const SAY_AFTER: Duration = Duration::from_secs(2);

/// How often it is tried again.
const LOOK_PERIOD: Duration = Duration::from_millis(20);

/// How a store is shared.
#[derive(Debug)]
pub(super) struct Shared {
    /// The number of this opening.
    opening: u64,
    /// Whether nobody had the store open then.
    was_alone: bool,
}

impl Shared {
    pub(super) fn was_alone(&self) -> bool {
        self.was_alone
    }
}

/// Keeps every process from collecting, until what was counted on is written down where collections look.
#[derive(Debug)]
#[must_use = "an admission that is dropped keeps nobody from collecting"]
pub struct Admission {
    _lock: FileLock,
}

/// The right to collect, for one process at a time, while nobody has an [`Admission`].
#[derive(Debug)]
#[must_use = "it is to be held while it is collected"]
pub struct Collecting {
    store: Store,
    _lock: FileLock,
}

impl Collecting {
    /// The store with all that is in it, whoever put it.
    pub fn store(&self) -> &Store {
        &self.store
    }
}

impl Store {
    /// Opens the store in `directory`, or makes one there, beside other processes that have opened it so. Waits, with a
    /// limit, for one that just collects or opens.
    ///
    /// # Errors
    /// As [`Self::open`], and [`StoreError::Busy`]. In use it is where somebody has it alone.
    pub fn open_shared(
        directory: impl Into<PathBuf>,
        config: StoreConfig,
    ) -> Result<(Self, Admission, Recovery), StoreError> {
        let layout = Layout::new(directory.into());
        layout.make()?;
        let lock = wait(&layout.admissions(), FileLock::try_share)?;
        let (store, recovery) = Self::open_beside(layout, config)?;
        Ok((store, Admission { _lock: lock }, recovery))
    }

    /// Gets ready to collect a store that was opened with [`Self::open_shared`]; `None` while a process, also this one, has
    /// an [`Admission`]. Whoever has it can collect once it is through.
    ///
    /// # Errors
    /// As [`Self::open_shared`], where the store has to be looked through anew, since others have it or had it too.
    pub fn to_collect(&self) -> Result<Option<Collecting>, StoreError> {
        let path = self.0.layout.admissions();
        let lock = match FileLock::try_take(open(&path)?) {
            Ok(lock) => lock,
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(source)) => return Err(StoreError::io("lock", &path)(source)),
        };
        // Nobody opens it now.
        let opening = openings(&self.0.layout.changes())?;
        let is_mine = self.0.shared.as_ref();
        let is_mine = is_mine.is_none_or(|it| it.was_alone && it.opening == opening);
        let store = match is_mine {
            true => self.clone(),
            false => {
                let layout = Layout::new(self.0.layout.directory().to_owned());
                Self::open_beside(layout, self.0.config)?.0
            }
        };
        Ok(Some(Collecting { store, _lock: lock }))
    }

    fn open_beside(layout: Layout, config: StoreConfig) -> Result<(Self, Recovery), StoreError> {
        let changes = layout.changes();
        let turn = wait(&changes, FileLock::try_take)?;
        let was_alone = match layout.lock(FileLock::try_take) {
            Ok(_) => true,
            Err(StoreError::InUse { .. }) => false,
            Err(error) => return Err(error),
        };
        // In between only somebody can have come who wants it alone: others would need the turn.
        let lock = layout.lock(FileLock::try_share)?;
        let opening = openings(&changes)? + 1;
        // In its place, so that a full disk does not set it back.
        let count = format!("{opening:020}\n");
        let counted = open(&changes)?.write_all(count.as_bytes());
        counted.map_err(StoreError::io("write", &changes))?;
        let shared = Shared { opening, was_alone };
        let opened = Self::opened(layout, config, durable::sync_filesystem, lock, Some(shared));
        drop(turn);
        opened
    }

    /// Keeps other processes from opening the store and from changing its index and removing files, where there may be any.
    /// Whoever holds the index waits for it, and nobody the other way round.
    pub(super) fn turn(&self) -> Result<Option<FileLock>, StoreError> {
        let shared = self.0.shared.as_ref();
        let turn = shared.map(|_| wait(&self.0.layout.changes(), FileLock::try_take));
        turn.transpose()
    }

    /// Gives a chunk's file its name, unless another process did since this one opened the store.
    pub(super) fn name_beside(
        &self,
        temporary: &Temporary,
        path: &Path,
        id: &ChunkId,
        needed: u64,
    ) -> Result<Put, StoreError> {
        let link = || match temporary.link(path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(self.0.layout.write_error("name", path, needed, error)),
        };
        if link()? {
            return Ok(Put::New);
        }
        if chunks::read(path, id).is_ok() {
            return Ok(Put::Present);
        }
        let mut index = self.index();
        let _turn = self.turn()?;
        if chunks::read(path, id).is_ok() {
            return Ok(Put::Present);
        }
        // It may be listed as durable, and what comes in its place is not.
        match index.append(&[Record::Removed(*id)]) {
            Ok(()) | Err(AppendError::Full) => {}
            Err(AppendError::Failed(source)) => {
                index.fail();
                return Err(StoreError::io("append to", &self.0.layout.index())(source));
            }
        }
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(StoreError::io("remove", path)(error));
            }
            _ => {}
        }
        match link()? {
            true => Ok(Put::New),
            false => Ok(Put::Present),
        }
    }
}

/// How often the store was opened with others; 0 where that is not known, as before the first time.
fn openings(changes: &Path) -> Result<u64, StoreError> {
    let text = fs::read_to_string(changes).map_err(StoreError::io("read", changes))?;
    Ok(text.trim().parse().unwrap_or(0))
}

fn open(path: &Path) -> Result<File, StoreError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(StoreError::io("open", path))
}

/// Locks a file once others let it go.
fn wait(path: &Path, take: Take) -> Result<FileLock, StoreError> {
    let started = Instant::now();
    let mut is_said = false;
    loop {
        match take(open(path)?) {
            Ok(lock) => return Ok(lock),
            Err(TryLockError::Error(source)) => return Err(StoreError::io("lock", path)(source)),
            Err(TryLockError::WouldBlock) if started.elapsed() >= BUSY_MAX => {
                return Err(StoreError::Busy {
                    path: path.to_owned(),
                    waited: started.elapsed(),
                });
            }
            Err(TryLockError::WouldBlock) => {}
        }
        if !is_said && started.elapsed() >= SAY_AFTER {
            is_said = true;
            tracing::warn!(path = %path.display(), "waiting for another process that changes the chunk store");
        }
        thread::sleep(LOOK_PERIOD);
    }
}
