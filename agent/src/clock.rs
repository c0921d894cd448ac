//! The clock; nothing else reads it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use rustix::time::{ClockId, clock_gettime};
use scap_proto::release::UnixMillis;
use serde::{Deserialize, Serialize};

/// The wall clock, for what is signed, shown or compared with another host's time. Durations are
/// measured with [`std::time::Instant`].
pub fn now() -> UnixMillis {
    let since_epoch = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    UnixMillis(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
}

/// A time as people and programs read it; the earliest or the latest that can be said where it is outside.
pub fn timestamp(unix_ms: u64) -> Timestamp {
    i64::try_from(unix_ms)
        .ok()
        .and_then(|millis| Timestamp::from_millisecond(millis).ok())
        .unwrap_or(Timestamp::MAX)
}

/// A point in time that can be kept over restarts of this process, and of the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// The run of the kernel; empty where that is not known.
    pub boot: String,
    /// How long the machine had run, time asleep included. It never jumps.
    pub up: Duration,
    /// What the wall clock said.
    pub wall: UnixMillis,
}

impl Moment {
    /// Now.
    pub fn now() -> Self {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
        let up = clock_gettime(ClockId::Boottime);
        let (seconds, nanos) = (u64::try_from(up.tv_sec), u32::try_from(up.tv_nsec));
        Self {
            boot: boot.unwrap_or_default().trim().to_owned(),
            up: Duration::new(seconds.unwrap_or_default(), nanos.unwrap_or_default()),
            wall: now(),
        }
    }

    /// How long ago `earlier` was. Within one run of the kernel that is exact, whatever the wall clock does. Over a restart of the
    /// machine it is what the wall clock says, and no less than the machine has run since.
    pub fn since(&self, earlier: &Self) -> Duration {
        if !self.boot.is_empty() && self.boot == earlier.boot {
            return self.up.saturating_sub(earlier.up);
        }
        let wall = Duration::from_millis(self.wall.0.saturating_sub(earlier.wall.0));
        wall.max(self.up)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn at(boot: &str, up: u64, wall: u64) -> Moment {
        Moment {
            boot: boot.into(),
            up: Duration::from_secs(up),
            wall: UnixMillis(wall * 1000),
        }
    }

    #[test]
    fn the_wall_clock_may_jump_while_the_machine_runs() {
        let began = at("a", 100, 1_000_000);
        for wall in [0, 1_000_000, 9_000_000] {
            assert_eq!(at("a", 130, wall).since(&began), Duration::from_secs(30));
        }
    }

    #[test]
    fn over_a_restart_of_the_machine_the_wall_clock_counts_and_at_least_the_time_since() {
        let began = at("a", 100, 1_000_000);
        let since = |up, wall| at("b", up, wall).since(&began).as_secs();
        assert_eq!(since(20, 1_000_090), 90);
        assert_eq!(since(20, 999_000), 20);
        // Neither knows which run it is.
        let unknown = at("", 100, 1_000_000);
        assert_eq!(at("", 130, 1_000_500).since(&unknown).as_secs(), 500);
    }

    #[test]
    fn now_is_after_what_was_before() {
        let first = Moment::now();
        assert!(!first.boot.is_empty() && !first.up.is_zero());
        assert!(Moment::now().since(&first) < Duration::from_secs(3600));
    }
}
