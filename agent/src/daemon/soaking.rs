//! While a release is live by an order and not yet the stable one, checks of it are run again, if it says so of any; one that fails by
//! then fails the host as it does after the switch.

use std::time::{Duration, Instant};

use scap_proto::{id::ReleaseId, release::RepoPath};

use super::{Daemon, RepoKey};
use crate::activate::process::{Answer, ClientError, Recheck, Request};

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
    /// When the next one's time comes; none where no check is run again.
    next: Option<Duration>,
    /// Whether the activator is at it.
    is_looking: bool,
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
        watch.looked = elapsed;
        watch.is_looking = true;
        Some(recheck)
    }

    /// The activator said when the next check of a release is to be run: so long after the time that it was asked about.
    fn looked(&mut self, release: ReleaseId, next: Option<Duration>) {
        if let Some(watch) = self.0.as_mut().filter(|watch| watch.release == release) {
            watch.is_looking = false;
            watch.next = next.map(|next| watch.looked + next);
        }
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
        let repo = self.repo(key);
        let next = match answer {
            Ok(Answer::Rechecked { next_millis }) => next_millis.map(Duration::from_millis),
            Ok(Answer::Stopped { reason, standing }) => {
                tracing::error!(repo = %key.0, release = %release.short(), reason, "a check fails by now");
                repo.standing = standing;
                repo.soak_failed(release, reason);
                self.report_now(key).await;
                None
            }
            other => {
                tracing::warn!(repo = %key.0, release = %release.short(), ?other, "checks are not run again");
                Some(AGAIN)
            }
        };
        self.repo(key).soaking.looked(release, next);
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
        soaking.looked(one, Some(Duration::from_millis(1000)));
        assert_eq!(due(&mut soaking, Some(one), 2009), None);
        assert_eq!(due(&mut soaking, Some(one), 2260), Some((one, 1000, 2250)));
        soaking.looked(two, None);
        soaking.looked(one, Some(Duration::from_millis(750)));
        assert_eq!(due(&mut soaking, Some(one), 3010), Some((one, 2250, 3000)));
        // Another one begins anew, and so does the same after something else.
        assert_eq!(due(&mut soaking, Some(two), 3500), None);
        assert_eq!(due(&mut soaking, Some(two), 4500), Some((two, 0, 1000)));
        soaking.looked(two, None);
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
