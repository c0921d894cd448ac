//! The locks of a state directory: one a repo and environment, so that deployments of different ones run at the same time.
//!
//! Whoever deploys holds `locks/<repo>@<environment>.lock`, in which it says who it is, why and since when. The kernel gives
//! a lock back when its process dies; what it said stays, and counts for nothing. Whoever uses the directory holds `lock`
//! with others: an older program wants that alone, so neither of the two begins while the other one is at it.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read as _, Seek as _, Write as _},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use scap_agent::store::durable::PRIVATE;

use super::{
    StateDirectory, StateError,
    directory::file_name,
    folder::Place,
    ledger::what,
    lock::{Holder, Lock, ProcessMark},
    record::Document,
};

/// How long it is waited for the holder of a lock to say who it is: it does so at once.
const SAID_WITHIN: Duration = Duration::from_secs(1);

/// How often it is looked for that.
const LOOK_PERIOD: Duration = Duration::from_millis(10);

/// Longest file of a lock that is read, in bytes: what it says is a few hundred.
const LOCK_BYTES_MAX: u64 = 64 * 1024;

/// The state directory, used beside others; given back when dropped, and when the process dies.
#[derive(Debug)]
pub struct DirectoryLock {
    file: File,
}

/// A repo and environment of a state directory, locked; given back when dropped, and when the process dies.
#[derive(Debug)]
pub struct PlaceLock {
    file: File,
    _directory: DirectoryLock,
}

impl StateDirectory {
    /// Uses the directory beside others.
    ///
    /// # Errors
    /// [`StateError::Locked`], where a program that wants it alone uses it.
    pub fn share(&self) -> Result<DirectoryLock, StateError> {
        let path = self.directory_lock();
        let mut file = open(&path)?;
        match file.try_lock_shared() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let holder = fs::read_to_string(&path).unwrap_or_default();
                let holder = match holder.trim() {
                    "" => String::new(),
                    pid => format!(" (process {})", pid.escape_debug()),
                };
                return Err(StateError::Locked { path, holder });
            }
            Err(TryLockError::Error(source)) => return Err(failed("lock", &path)(source)),
        }
        // For an older program that finds it: one of those who hold it.
        say(&mut file, format!("{}\n", std::process::id()).as_bytes())
            .map_err(failed("write", &path))?;
        Ok(DirectoryLock { file })
    }

    /// Takes the lock of a repo and environment, and says why.
    ///
    /// # Errors
    /// [`StateError::Held`], with who holds it, why, and since when; and as [`Self::share`].
    pub fn lock(
        &self,
        place: &Place,
        reason: &str,
        now: Timestamp,
    ) -> Result<PlaceLock, StateError> {
        let directory = self.share()?;
        let locks = self.locks()?;
        let path = locks.join(format!("{}.lock", file_name(&place.0, &place.1)));
        let mut file = open(&path)?;
        let started = Instant::now();
        while let Err(error) = file.try_lock() {
            let TryLockError::WouldBlock = error else {
                return Err(failed("lock", &path)(error.into()));
            };
            let holder = match holder(&mut file) {
                Some(lock) => lock.describe(now),
                None if started.elapsed() < SAID_WITHIN => {
                    thread::sleep(LOOK_PERIOD);
                    continue;
                }
                None => format!(
                    "a process that does not say who it is in {}",
                    path.display()
                ),
            };
            return Err(StateError::Held {
                what: what(place),
                holder,
                state: self.to_string(),
            });
        }
        let process = ProcessMark::here();
        let holder = Holder::here(&process, now);
        let lock = Lock::new(holder, reason.into(), process, now);
        say(&mut file, &lock.to_json()).map_err(failed("write", &path))?;
        Ok(PlaceLock {
            file,
            _directory: directory,
        })
    }

    /// The places of which somebody holds the lock now, sorted.
    ///
    /// # Errors
    /// [`StateError::Io`].
    pub fn held(&self) -> Result<Vec<Place>, StateError> {
        let folder = self.locks()?;
        let mut held = Vec::new();
        for entry in fs::read_dir(&folder).map_err(failed("read", &folder))? {
            let path = entry.map_err(failed("read", &folder))?.path();
            let Some(place) = place_of(&path) else {
                continue;
            };
            let file = File::open(&path).map_err(failed("open", &path))?;
            match file.try_lock_shared() {
                // Whoever comes meanwhile looks again.
                Ok(()) => file.unlock().map_err(failed("unlock", &path))?,
                Err(TryLockError::WouldBlock) => held.push(place),
                Err(TryLockError::Error(source)) => return Err(failed("lock", &path)(source)),
            }
        }
        held.sort();
        Ok(held)
    }

    /// Keeps others from making the repository of directories' state branch; waits for one that does.
    pub(crate) fn making_state_repo(&self) -> Result<DirectoryLock, StateError> {
        let path = self.locks()?.join("state.git.making");
        let file = open(&path)?;
        file.lock().map_err(failed("lock", &path))?;
        Ok(DirectoryLock { file })
    }

    /// The folder of the locks, made where there is none.
    fn locks(&self) -> Result<PathBuf, StateError> {
        let path = self.locks_path();
        let mut folder = fs::DirBuilder::new();
        let made = folder.recursive(true).mode(0o700).create(&path);
        made.map_err(failed("make", &path))?;
        Ok(path)
    }
}

/// Of which place a lock is; none where it is something else.
fn place_of(path: &Path) -> Option<Place> {
    let name = path.file_name()?.to_str()?.strip_suffix(".lock")?;
    let (repo, environment) = name.rsplit_once('@')?;
    // No name has a `+`.
    let repo = repo.replace('+', "/").parse().ok()?;
    Some((repo, environment.parse().ok()?))
}

/// Who holds a lock that is held, as far as that is said: what one says that died is of a holder before.
fn holder(file: &mut File) -> Option<Lock> {
    let mut bytes = Vec::new();
    file.rewind().ok()?;
    file.take(LOCK_BYTES_MAX).read_to_end(&mut bytes).ok()?;
    let lock = Lock::from_json(&bytes).ok()?;
    let here = ProcessMark::here();
    let is_of_here = lock.process.boot == here.boot && lock.process.namespace == here.namespace;
    let is_over = is_of_here && lock.process.is_gone();
    (!is_over).then_some(lock)
}

fn say(file: &mut File, bytes: &[u8]) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(bytes)
}

fn open(path: &Path) -> Result<File, StateError> {
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .mode(PRIVATE)
        .open(path)
        .map_err(failed("open", path))
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StateError {
    move |source| StateError::Io {
        doing,
        path: path.to_owned(),
        source,
    }
}

impl Drop for DirectoryLock {
    fn drop(&mut self) {
        // Closing is not enough: a child of ours that is not yet at its `exec` still has the file open.
        let _ = self.file.unlock();
    }
}

impl Drop for PlaceLock {
    fn drop(&mut self) {
        // What it said counts for nothing once it is free.
        let _ = self.file.set_len(0);
        let _ = self.file.unlock();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use scap_proto::release::UnixMillis;

    use super::*;

    fn state(folder: &Path) -> StateDirectory {
        let path = folder.join("state");
        StateDirectory::init(&path, &"test".parse().unwrap(), UnixMillis(1)).unwrap();
        StateDirectory::open(&path).unwrap()
    }

    fn place(repo: &str, environment: &str) -> Place {
        (repo.parse().unwrap(), environment.parse().unwrap())
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).unwrap()
    }

    #[test]
    fn the_places_that_are_held_are_told_from_those_that_were() {
        let folder = tempfile::tempdir().unwrap();
        let state = state(folder.path());
        assert_eq!(state.held().unwrap(), []);
        let [site, shop] = ["web/site", "shop"].map(|repo| place(repo, "staging"));
        let first = state.lock(&site, "deploy", at(0)).unwrap();
        let second = state.lock(&shop, "deploy", at(0)).unwrap();
        assert_eq!(state.held().unwrap(), [shop.clone(), site]);
        drop(first);
        assert_eq!(state.held().unwrap(), [shop]);
        drop(second);
    }

    #[test]
    fn a_place_is_locked_for_one_and_others_are_free() {
        let folder = tempfile::tempdir().unwrap();
        let state = state(folder.path());
        let held = state
            .lock(&place("web/site", "production"), "deploy a\nb", at(0))
            .unwrap();
        let refused = state.lock(&place("web/site", "production"), "mine", at(90));
        let refused = refused.unwrap_err().to_string();
        let me = Holder::here(&ProcessMark::here(), at(0));
        assert_eq!(
            refused,
            format!(
                "web/site in production is locked by {} ({}): deploy a\\nb, for 90 s",
                me.name, me.rollout
            )
        );
        for other in [place("web/site", "staging"), place("web", "production")] {
            state.lock(&other, "other", at(1)).unwrap();
        }
        drop(held);
        state
            .lock(&place("web/site", "production"), "mine", at(2))
            .unwrap();
    }

    #[test]
    fn what_a_process_said_that_died_is_not_taken_for_the_holders_words() {
        let folder = tempfile::tempdir().unwrap();
        let state = state(folder.path());
        let place = place("web/site", "production");
        let held = state.lock(&place, "new", at(0)).unwrap();
        let path = state.locks().unwrap().join("web+site@production.lock");
        let process = ProcessMark {
            started: 1,
            ..ProcessMark::here()
        };
        let old = Lock::new(Holder::here(&process, at(0)), "old".into(), process, at(0));
        for said in [old.to_json(), b"{".to_vec(), Vec::new()] {
            fs::write(&path, said).unwrap();
            let refused = state.lock(&place, "mine", at(1)).unwrap_err().to_string();
            assert!(refused.contains("does not say who it is"), "{refused}");
        }
        drop(held);
        fs::write(&path, old.to_json()).unwrap();
        state.lock(&place, "mine", at(1)).unwrap();
    }

    #[test]
    fn an_older_program_and_this_one_keep_each_other_out() {
        let folder = tempfile::tempdir().unwrap();
        let state = state(folder.path());
        // As it locks: the whole directory, for itself.
        let older = open(&state.directory_lock()).unwrap();
        older.try_lock().unwrap();
        fs::write(state.directory_lock(), "4711\n").unwrap();
        let refused = state.lock(&place("site", "production"), "mine", at(0));
        let refused = refused.unwrap_err();
        assert!(matches!(refused, StateError::Locked { .. }), "{refused:?}");
        assert!(refused.to_string().ends_with("(process 4711)"), "{refused}");
        older.unlock().unwrap();

        let one = state
            .lock(&place("site", "production"), "one", at(0))
            .unwrap();
        let two = state.lock(&place("site", "staging"), "two", at(0)).unwrap();
        drop(one);
        assert!(older.try_lock().is_err());
        drop(two);
        older.try_lock().unwrap();
    }
}
