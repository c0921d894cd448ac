//! While a release is live by an order and not yet the stable one, checks of it are run again, if it says so of any; one that fails by
//! then fails the host as it does after the switch.

use std::time::{Duration, Instant};

use scap_proto::{id::ReleaseId, release::RepoPath};

use super::{Daemon, RepoKey};
use crate::{
    activate::process::{Answer, ClientError, Recheck, Request},
    host::CheckedAgain,
};

/// When the activator is first asked: no check is run again before, and most releases are the stable one by then.
const FIRST: Duration = Duration::from_secs(1);

/// How long after the activator could not say anything it is asked again.
const AGAIN: Duration = Duration::from_secs(30);

/// What soaks of a repo, if anything, and up to when its checks were looked at.
#[derive(Debug, Default)]
pub(super) struct Soaking(Option<Watch>);

#[derive(Debug)]
struct Watch {
    release: ReleaseId,
    since: Instant,
    /// Whose time came by this was run.
    looked: Duration,
    /// Up to when the activator was asked last.
    asked: Duration,
    /// When the next one's time comes; none where no check is run again.
    next: Option<Duration>,
    /// Whether the activator is at it.
    is_looking: bool,
}

/// What the activator says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Looked {
    /// All well, until the time of the next check comes, if it does, since the release is live.
    Passed { next: Option<Duration> },
    /// Nothing yet; it is to be asked again so long after it was asked.
    Again { after: Duration },
}

impl Soaking {
    /// What to ask the activator now, if anything; `soaks` is the release that soaks by now. It counts as asked.
    pub(super) fn due(
        &mut self,
        repo: &RepoPath,
        soaks: Option<ReleaseId>,
        now: Instant,
    ) -> Option<Recheck> {
        let release = soaks.or_else(|| {
            self.0 = None;
            None
        })?;
        self.0.take_if(|watch| watch.release != release);
        let watch = self.0.get_or_insert(Watch {
            release,
            since: now,
            looked: Duration::ZERO,
            asked: Duration::ZERO,
            // What is run again is not known before it is asked.
            next: Some(FIRST),
            is_looking: false,
        });
        let elapsed = now.saturating_duration_since(watch.since);
        if watch.is_looking || watch.next.is_none_or(|next| elapsed < next) {
            return None;
        }
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let recheck = Recheck {
            repo: repo.clone(),
            release,
            after_millis: millis(watch.looked),
            until_millis: millis(elapsed),
        };
        watch.asked = elapsed;
        watch.is_looking = true;
        Some(recheck)
    }

    /// What became of what was asked about a release.
    fn looked(&mut self, release: ReleaseId, looked: Looked) {
        let Some(watch) = self.0.as_mut().filter(|watch| watch.release == release) else {
            return;
        };
        watch.is_looking = false;
        watch.next = match looked {
            Looked::Passed { next } => {
                watch.looked = watch.asked;
                next
            }
            Looked::Again { after } => Some(watch.asked + after),
        };
    }
}

impl Daemon {
    /// Asks the activator to run the checks again whose time came.
    pub(super) fn check_what_soaks(&mut self) {
        let now = Instant::now();
        let mut due = Vec::new();
        for (key, repo) in &mut self.repos {
            let soaks = repo.soaks();
            let asked = repo.soaking.due(&key.0, soaks, now);
            due.extend(asked.map(|recheck| (key.clone(), recheck)));
        }
        for (key, recheck) in due {
            self.hand_to_activator(&key, Request::Recheck(recheck));
        }
    }

    /// What came of it.
    pub(super) async fn checked_again(
        &mut self,
        key: &RepoKey,
        release: ReleaseId,
        answer: Result<Answer, ClientError>,
    ) {
        let looked = match answer {
            Ok(Answer::Rechecked(CheckedAgain::Passed { next })) => Looked::Passed {
                next: next.map(Duration::from_millis),
            },
            Ok(Answer::Rechecked(CheckedAgain::GaveWay)) => Looked::Again { after: FIRST },
            Ok(Answer::Stopped { reason, .. }) => {
                tracing::error!(repo = %key.0, release = %release.short(), code = %reason.code, %reason, "a check fails by now");
                self.repo(key).soak_failed(release, reason);
                return self.report_now(key).await;
            }
            other => {
                tracing::warn!(repo = %key.0, release = %release.short(), ?other, "checks are not run again");
                Looked::Again { after: AGAIN }
            }
        };
        self.repo(key).soaking.looked(release, looked);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn what_soaks_is_looked_at_when_the_next_check_is_due_and_each_time_only_once() {
        let (one, two) = (ReleaseId::of(b"1"), ReleaseId::of(b"2"));
        let repo: RepoPath = "site".parse().unwrap();
        let start = Instant::now();
        let mut soaking = Soaking::default();
        let passed = |next: Option<u64>| Looked::Passed {
            next: next.map(Duration::from_millis),
        };
        let at = |millis: u64| start + Duration::from_millis(millis);
        let due = |soaking: &mut Soaking, soaks: Option<ReleaseId>, millis: u64| {
            let asked = soaking.due(&repo, soaks, at(millis));
            asked.map(|it| (it.release, it.after_millis, it.until_millis))
        };
        assert_eq!(due(&mut soaking, None, 0), None);
        assert_eq!(due(&mut soaking, Some(one), 10), None);
        assert_eq!(due(&mut soaking, Some(one), 1009), None);
        assert_eq!(due(&mut soaking, Some(one), 1010), Some((one, 0, 1000)));
        assert_eq!(
            due(&mut soaking, Some(one), 5000),
            None,
            "it is asked already"
        );
        soaking.looked(one, passed(Some(2000)));
        assert_eq!(due(&mut soaking, Some(one), 2009), None);
        assert_eq!(due(&mut soaking, Some(one), 2260), Some((one, 1000, 2250)));
        soaking.looked(two, passed(None));
        // What gave way is made up for.
        let after = Duration::from_millis(750);
        soaking.looked(one, Looked::Again { after });
        assert_eq!(due(&mut soaking, Some(one), 3009), None);
        assert_eq!(due(&mut soaking, Some(one), 3010), Some((one, 1000, 3000)));
        // Another one begins anew, and so does the same after something else.
        assert_eq!(due(&mut soaking, Some(two), 3500), None);
        assert_eq!(due(&mut soaking, Some(two), 4500), Some((two, 0, 1000)));
        soaking.looked(two, passed(None));
        assert_eq!(
            due(&mut soaking, Some(two), 99_000),
            None,
            "nothing is run again"
        );
        assert_eq!(due(&mut soaking, None, 99_000), None);
        assert_eq!(due(&mut soaking, Some(two), 99_500), None);
        assert_eq!(due(&mut soaking, Some(two), 100_500), Some((two, 0, 1000)));
    }
}
