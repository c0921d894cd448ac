//! Waiting for a state, with a limit.

use std::fmt::Debug;
use std::time::{Duration, Instant};

/// Looks at a state until it is the wanted one.
///
/// `look` gives `Ok` when there is nothing more to wait for, else the state that it saw.
///
/// # Panics
/// After `limit`, with `what` was waited for and the last state seen.
#[track_caller]
pub fn wait_until<T, S: Debug>(
    what: &str,
    limit: Duration,
    mut look: impl FnMut() -> Result<T, S>,
) -> T {
    let start = Instant::now();
    loop {
        match look() {
            Ok(found) => return found,
            Err(state) if start.elapsed() >= limit => {
                panic!("{what}: not within {limit:?}; last seen: {state:#?}")
            }
            Err(_) => std::thread::sleep(POLL_EVERY),
        }
    }
}

/// Short against what is waited for, long against what a look costs.
pub(crate) const POLL_EVERY: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_look_may_be_enough() {
        assert_eq!(wait_until("nothing", Duration::ZERO, || Ok::<_, ()>(7)), 7);
    }

    #[test]
    #[should_panic(expected = "rain: not within 20ms; last seen: \"sun\"")]
    fn a_failure_names_the_last_state() {
        wait_until("rain", Duration::from_millis(20), || Err::<(), _>("sun"));
    }
}
