//! What processes and the machine spent: processor time and memory, read from `/proc`.

use std::time::Duration;

use rustix::process::Pid;

/// What a process, or several, spent until now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// User and system time, of children that were waited for too; exact to 10 ms a process.
    pub cpu: Duration,
    /// The most memory that any one of the processes held, bytes.
    pub peak_rss_bytes: u64,
}

impl Usage {
    /// Of one process; `None` once it is gone. A process that ended and was not waited for still
    /// has its time, and no memory.
    pub(crate) fn of(pid: Pid) -> Option<Self> {
        let pid = pid.as_raw_nonzero();
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        Some(Self {
            cpu: cpu_time(&stat)?,
            peak_rss_bytes: peak_rss_bytes(&status).unwrap_or(0),
        })
    }

    /// Of both: times add up, of memory the higher counts.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            cpu: self.cpu + other.cpu,
            peak_rss_bytes: self.peak_rss_bytes.max(other.peak_rss_bytes),
        }
    }
}

/// A reading of the whole machine's processor time.
#[derive(Debug, Clone, Copy)]
pub struct MachineTime {
    idle: u64,
    total: u64,
}

impl MachineTime {
    /// Reads it.
    ///
    /// # Panics
    /// Without `/proc/stat`.
    #[must_use]
    pub fn now() -> Self {
        let stat = std::fs::read_to_string("/proc/stat").expect("Linux has /proc/stat");
        parse_machine(&stat).expect("the first line of /proc/stat sums up all processors")
    }

    /// The share, from 0 to 1, of all processors' time since `earlier` that nobody used.
    #[must_use]
    pub fn idle_share_since(self, earlier: Self) -> f64 {
        let total = self.total.saturating_sub(earlier.total).max(1);
        self.idle.saturating_sub(earlier.idle) as f64 / total as f64
    }
}

fn cpu_time(stat: &str) -> Option<Duration> {
    // The program's name comes in parentheses and may hold anything; 11 fields later, the times.
    let (_, fields) = stat.rsplit_once(')')?;
    let times = fields.split_ascii_whitespace().skip(11).take(4);
    let ticks = times
        .map(|field| field.parse::<u64>().ok())
        .sum::<Option<u64>>()?;
    Some(Duration::from_millis(ticks * (1000 / TICKS_PER_SEC)))
}

fn peak_rss_bytes(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

fn parse_machine(stat: &str) -> Option<MachineTime> {
    let fields: Vec<u64> = stat
        .lines()
        .next()?
        .strip_prefix("cpu ")?
        .split_ascii_whitespace()
        .map(|field| field.parse().ok())
        // user nice system idle iowait irq softirq steal; guest time is part of user time
        .take(8)
        .collect::<Option<_>>()?;
    Some(MachineTime {
        idle: fields.get(3)? + fields.get(4)?,
        total: fields.iter().sum(),
    })
}

/// What the kernel counts processor time in, towards programs; the same on all our platforms.
const TICKS_PER_SEC: u64 = 100;

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_behind_any_program_name() {
        let stat = "7 (a ) b) S 1 7 7 0 -1 0 1 2 3 4 100 20 3 1 20 0 5 0 99 0 0";
        assert_eq!(cpu_time(stat), Some(Duration::from_millis(1240)));
        assert_eq!(
            peak_rss_bytes("Name:\tx\nVmHWM:\t    2048 kB\n"),
            Some(2 * 1024 * 1024)
        );
    }

    #[test]
    fn idle_is_a_share_of_the_time_between() {
        let earlier = parse_machine("cpu  10 0 10 100 0 0 0 0 0 0\n").unwrap();
        let later = parse_machine("cpu  30 0 20 160 10 0 0 0 5 0\n").unwrap();
        assert!((later.idle_share_since(earlier) - 0.7).abs() < 1e-9);
    }

    #[test]
    fn this_process_has_used_memory() {
        let usage = Usage::of(rustix::process::getpid()).unwrap();
        assert!(usage.peak_rss_bytes > 100_000, "{usage:?}");
    }
}
