//! What the activator does while nobody waits for it: one thread of low priority that gives way to every request.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use scap_proto::release::RepoPath;

/// Who is at work on which repo: one at a time, requests before the background.
#[derive(Debug, Default)]
pub(super) struct Turns(Mutex<BTreeMap<RepoPath, Arc<Turn>>>);

/// The right to work on one repo.
#[derive(Debug, Default)]
pub(super) struct Turn {
    lock: Mutex<()>,
    /// How many requests wait for it.
    waiting: AtomicUsize,
    /// How many times something was begun to be written ahead: the last of them counts.
    aheads: AtomicU64,
    /// Counts what who writes ahead may wait for: chunks, and requests that come and are through.
    news: Mutex<u64>,
    told: Condvar,
}

impl Turns {
    /// The turn of a repo, to be taken.
    pub(super) fn of(&self, repo: &RepoPath) -> Arc<Turn> {
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        turns.entry(repo.clone()).or_default().clone()
    }
}

impl Turn {
    /// Waits for the turn, and has who works in the background give it up.
    pub(super) fn take(&self) -> MutexGuard<'_, ()> {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        self.tell();
        let turn = self.take_in_background();
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        self.tell();
        turn
    }

    /// The same for who writes ahead, once nobody else waits.
    pub(super) fn take_after_others(&self) -> MutexGuard<'_, ()> {
        loop {
            let seen = self.news();
            if !self.is_awaited() {
                return self.take();
            }
            self.wait_for_news(seen);
        }
    }

    /// Something is begun to be written ahead, in place of what was begun before. Returns its number.
    pub(super) fn begin_ahead(&self) -> u64 {
        let number = self.aheads.fetch_add(1, Ordering::SeqCst) + 1;
        self.tell();
        number
    }

    /// The number of what is written ahead.
    pub(super) fn ahead(&self) -> u64 {
        self.aheads.load(Ordering::SeqCst)
    }

    /// There is something that may have been waited for.
    pub(super) fn tell(&self) {
        *self.lock_news() += 1;
        self.told.notify_all();
    }

    /// How often there was.
    pub(super) fn news(&self) -> u64 {
        *self.lock_news()
    }

    /// Waits until there was more often.
    pub(super) fn wait_for_news(&self, seen: u64) {
        let news = self.told.wait_while(self.lock_news(), |news| *news == seen);
        drop(news.unwrap_or_else(PoisonError::into_inner));
    }

    fn lock_news(&self) -> MutexGuard<'_, u64> {
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the turn, to be given up as soon as [`Self::is_awaited`].
    pub(super) fn take_in_background(&self) -> MutexGuard<'_, ()> {
        // What a panic left half-done is what `Deployment::open` recovers from.
        self.lock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a request waits.
    pub(super) fn is_awaited(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) > 0
    }
}

/// The repos that the background is to look after.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    state: Mutex<WantedState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct WantedState {
    repos: BTreeSet<RepoPath>,
    is_ended: bool,
}

impl Wanted {
    /// Something was done with a repo.
    pub(super) fn add(&self, repo: RepoPath) {
        self.lock().repos.insert(repo);
        self.changed.notify_one();
    }

    /// Nothing more is to be done.
    pub(super) fn end(&self) {
        self.lock().is_ended = true;
        self.changed.notify_one();
    }

    /// Waits for the next repo; `None` once all has ended.
    pub(super) fn next(&self) -> Option<RepoPath> {
        let mut state = self.lock();
        loop {
            if state.is_ended {
                return None;
            }
            if let Some(repo) = state.repos.pop_first() {
                return Some(repo);
            }
            let woken = self.changed.wait(state);
            state = woken.unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, WantedState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The niceness of the background: beside one busy thread it gets a quarter of a core. Whoever is awaited while it has a
/// repo's turn cannot raise itself again without privilege, so at 19, with a seventieth of a core, a request would wait
/// for what is left to be done as if it were nobody's.
const NICENESS: i32 = 5;

/// Lets the kernel prefer everything else to this thread. On Linux a niceness is a thread's own, and input and output
/// follow it where the scheduler of the disk has priorities.
pub(super) fn lower_priority() {
    let lowered = rustix::process::getpriority_process(None)
        .and_then(|now| rustix::process::setpriority_process(None, now.max(NICENESS)));
    if let Err(error) = lowered {
        tracing::debug!(%error, "the background runs at the usual priority");
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn who_writes_ahead_wakes_for_a_request_and_goes_on_after_it() {
        let turns = Turns::default();
        let repo: RepoPath = "group/app".parse().unwrap();
        let turn = turns.of(&repo);
        let ahead = turn.take_after_others();
        let seen = turn.news();
        thread::scope(|scope| {
            let request = scope.spawn(|| {
                let own = turns.of(&repo);
                drop(own.take());
            });
            // As if for a chunk, which never comes.
            turn.wait_for_news(seen);
            assert!(turn.is_awaited());
            drop(ahead);
            let again = turn.take_after_others();
            assert!(!turn.is_awaited());
            drop(again);
            request.join().unwrap();
        });
        let number = turn.begin_ahead();
        assert_eq!(turn.ahead(), number);
        assert!(turn.begin_ahead() > number, "the later one counts");
    }

    #[test]
    fn who_works_in_the_background_is_told_of_a_request_and_goes_before_none() {
        let turns = Turns::default();
        let repo: RepoPath = "group/app".parse().unwrap();
        let turn = turns.of(&repo);
        let background = turn.take_in_background();
        assert!(!turn.is_awaited());
        thread::scope(|scope| {
            let request = scope.spawn(|| drop(turns.of(&repo).take()));
            while !turn.is_awaited() {
                thread::yield_now();
            }
            drop(background);
            request.join().unwrap();
        });
        assert!(!turn.is_awaited());
    }

    #[test]
    fn a_repo_that_is_wanted_twice_is_looked_after_once() {
        let wanted = Wanted::default();
        let [a, b]: [RepoPath; 2] = ["a", "b"].map(|name| name.parse().unwrap());
        for repo in [&b, &a, &b] {
            wanted.add(repo.clone());
        }
        assert_eq!((wanted.next(), wanted.next()), (Some(a.clone()), Some(b)));
        thread::scope(|scope| {
            let waiting = scope.spawn(|| wanted.next());
            wanted.add(a.clone());
            assert_eq!(waiting.join().unwrap(), Some(a));
        });
        wanted.end();
        assert_eq!(wanted.next(), None);
    }

    #[test]
    fn only_this_thread_is_of_low_priority() {
        let before = rustix::process::getpriority_process(None).unwrap();
        let within = thread::spawn(|| {
            lower_priority();
            rustix::process::getpriority_process(None).unwrap()
        });
        assert_eq!(within.join().unwrap(), NICENESS.max(before));
        assert_eq!(rustix::process::getpriority_process(None).unwrap(), before);
    }
}
