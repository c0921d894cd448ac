//! A repo that another process is still at work on: the activator of a daemon that was killed ends what it does.

use std::{
    thread,
    time::{Duration, Instant},
};

use scap_proto::release::RepoPath;

use super::ActivateError;

/// How long another process may be at work on a repo before a request for it fails. One activator takes the place of another within
/// what a stage takes, checks and services included; a coordinator gives a host up that makes no progress for as long as this.
const BUSY_MAX: Duration = Duration::from_secs(300);

/// Pause before a repo is tried again: nothing next to what a stage takes.
const BUSY_PAUSE: Duration = Duration::from_millis(20);

/// Opens a repo once no other process has it, unless `is_cancelled` before.
///
/// # Errors
/// As `open`; [`ActivateError::Busy`] where another process keeps it for too long.
pub(super) fn when_free<T>(
    repo: &RepoPath,
    is_cancelled: impl Fn() -> bool,
    open: impl Fn() -> Result<T, ActivateError>,
) -> Result<T, ActivateError> {
    let began = Instant::now();
    let mut opened = open();
    if matches!(opened, Err(ActivateError::Busy(_))) {
        tracing::info!(%repo, "waiting for the activator before this one, which ends what it does");
    }
    while matches!(opened, Err(ActivateError::Busy(_)))
        && began.elapsed() < BUSY_MAX
        && !is_cancelled()
    {
        thread::sleep(BUSY_PAUSE);
        opened = open();
    }
    opened
}
