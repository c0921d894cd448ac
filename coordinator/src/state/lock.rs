//! The lock of one repo in one environment: who deploys, why, since when, and until when that is to be believed.

use std::{fs, process};

use jiff::{SignedDuration, Timestamp};
use rustix::{
    io::Errno,
    process::{Pid, test_kill_process},
};
use serde::{Deserialize, Serialize};

use super::record::Document;

/// How long a lock is believed after its holder last wrote: long beside the time that an upstream may be out of reach, short
/// beside what anybody waits for a machine that died.
pub const LEASE: SignedDuration = SignedDuration::from_mins(15);
/// How often a holder that writes nothing else says that it is still there.
pub const RENEWAL: SignedDuration = SignedDuration::from_mins(5);
const _: () = assert!(LEASE.as_secs() >= 3 * RENEWAL.as_secs());

/// Who deploys: `lock.json`, there while a rollout runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lock {
    /// Who.
    #[serde(flatten)]
    pub holder: Holder,
    /// What for. Not escaped.
    pub reason: String,
    /// Since when.
    pub since: Timestamp,
    /// Until when it is believed, unless it is renewed.
    pub until: Timestamp,
    /// The process that holds it.
    pub process: ProcessMark,
}

impl Document for Lock {
    const KIND: &'static str = "scap.lock";
}

/// Who does something to the branch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// `user@host`. Not escaped.
    #[serde(rename = "holder")]
    pub name: String,
    /// The id of this run of the coordinator.
    pub rollout: String,
}

/// A process, told from all others of all machines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessMark {
    /// The run of the kernel.
    pub boot: String,
    /// The namespace that its number is of.
    pub namespace: String,
    /// Its number.
    pub pid: u32,
    /// When it was started, in the kernel's ticks since it runs; 0 where that is not known.
    pub started: u64,
}

/// Why a lock is nobody's any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stale {
    /// Its lease is over.
    Lease,
    /// It is of this machine, and the process is gone.
    Gone,
}

impl Stale {
    /// For people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Lease => "its lease is over",
            Self::Gone => "its process is gone",
        }
    }
}

impl Lock {
    /// A lock from `now` on.
    pub fn new(holder: Holder, reason: String, process: ProcessMark, now: Timestamp) -> Self {
        Self {
            holder,
            reason,
            since: now,
            until: now + LEASE,
            process,
        }
    }

    /// Whether it is nobody's any more at `now`, as seen by the process `here`; `is_gone` says whether a process of this
    /// machine is known to have ended.
    pub fn stale(
        &self,
        now: Timestamp,
        here: &ProcessMark,
        is_gone: impl Fn(&ProcessMark) -> bool,
    ) -> Option<Stale> {
        let is_of_here = !here.boot.is_empty()
            && !here.namespace.is_empty()
            && self.process.boot == here.boot
            && self.process.namespace == here.namespace;
        if is_of_here && is_gone(&self.process) {
            return Some(Stale::Gone);
        }
        (now > self.until).then_some(Stale::Lease)
    }

    /// For people, on one line and inert on a terminal: who, what for, and since when.
    pub fn describe(&self, now: Timestamp) -> String {
        format!(
            "{} ({}): {}, for {}",
            self.holder.name.escape_debug(),
            self.holder.rollout.escape_debug(),
            self.reason.escape_debug(),
            age(self.since, now),
        )
    }
}

impl Holder {
    /// Whoever runs this process, for one run.
    pub fn here(process: &ProcessMark, now: Timestamp) -> Self {
        let user = ["USER", "LOGNAME"].into_iter().find_map(|name| {
            let user = std::env::var(name).ok()?;
            (!user.is_empty()).then_some(user)
        });
        let user = user.unwrap_or_else(|| format!("uid{}", rustix::process::getuid().as_raw()));
        let host = read("/proc/sys/kernel/hostname");
        let run = format!("{process:?} {now}");
        Self {
            name: format!("{user}@{host}"),
            rollout: format!("r-{:.6}", blake3::hash(run.as_bytes()).to_hex()),
        }
    }
}

impl ProcessMark {
    /// This process.
    pub fn here() -> Self {
        let namespace = fs::read_link("/proc/self/ns/pid");
        Self {
            boot: read("/proc/sys/kernel/random/boot_id"),
            namespace: namespace.unwrap_or_default().to_string_lossy().into_owned(),
            pid: process::id(),
            started: match state_of(process::id()) {
                Some(Seen::Started(at)) => at,
                _ => 0,
            },
        }
    }

    /// Whether it is known to have ended, where it is of this machine. One that cannot be looked at (another user's, where
    /// `/proc` is mounted with `hidepid`) may still run.
    pub fn is_gone(&self) -> bool {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        pid.is_some_and(|pid| self.has_ended(test_kill_process(pid), state_of(self.pid)))
    }

    /// From how the process of its number answers a signal that does nothing, and what is seen of it.
    fn has_ended(&self, answer: rustix::io::Result<()>, seen: Option<Seen>) -> bool {
        match (answer, seen) {
            (_, Some(Seen::Remains)) => true,
            (_, Some(Seen::Started(at))) => self.started != 0 && at != self.started,
            (Err(Errno::SRCH), None) => self.started != 0,
            (_, None) => false,
        }
    }
}

/// How long ago something was, in the largest unit that fits.
pub fn age(since: Timestamp, now: Timestamp) -> String {
    let seconds = now.duration_since(since).as_secs().max(0);
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86400),
    }
}

/// What `/proc` shows of a process.
#[derive(Debug, Clone, Copy)]
enum Seen {
    /// When it was started, in the kernel's ticks.
    Started(u64),
    /// It ended, and nobody has asked how.
    Remains,
}

/// What is seen of a process; `None` where there is none, or where it may not be seen.
fn state_of(pid: u32) -> Option<Seen> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // After the command's name, which is in parentheses and may hold any: state, and 18 more before it.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    if matches!(fields.next(), Some("Z" | "X")) {
        return Some(Seen::Remains);
    }
    fields.nth(18)?.parse().ok().map(Seen::Started)
}

fn read(path: &str) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.trim().to_owned()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).unwrap()
    }

    fn lock() -> Lock {
        let process = ProcessMark::here();
        Lock::new(
            Holder::here(&process, at(0)),
            "deploy".into(),
            process,
            at(0),
        )
    }

    #[test]
    fn a_lock_is_held_until_its_lease_is_over_and_not_a_second_longer() {
        let lock = lock();
        let mut elsewhere = ProcessMark::here();
        elsewhere.boot = "another".into();
        let nobody = |_: &ProcessMark| true;
        let lease = LEASE.as_secs();
        assert_eq!(lock.stale(at(lease), &elsewhere, nobody), None);
        assert_eq!(
            lock.stale(at(lease + 1), &elsewhere, nobody),
            Some(Stale::Lease)
        );
    }

    #[test]
    fn a_lock_of_this_machine_is_free_when_its_process_is_gone() {
        let lock = lock();
        let here = ProcessMark::here();
        assert_eq!(lock.stale(at(1), &here, ProcessMark::is_gone), None);
        assert_eq!(lock.stale(at(1), &here, |_| true), Some(Stale::Gone));
        // Its number is of another container: it says nothing here.
        let mut container = here.clone();
        container.namespace = "pid:[1]".into();
        assert_eq!(lock.stale(at(1), &container, |_| true), None);
        // Neither knows of which it is: that makes them no neighbours.
        let mut unknown = lock.clone();
        unknown.process.namespace.clear();
        let mut here = here;
        here.namespace.clear();
        assert_eq!(unknown.stale(at(1), &here, |_| true), None);
    }

    #[test]
    fn a_process_is_told_from_one_that_has_its_number_later() {
        let here = ProcessMark::here();
        assert!(!here.is_gone());
        let before = ProcessMark {
            started: here.started - 1,
            ..here
        };
        assert!(before.is_gone());
        let mut child = process::Command::new("true").spawn().unwrap();
        let mark = ProcessMark {
            pid: child.id(),
            started: 1,
            ..ProcessMark::here()
        };
        child.wait().unwrap();
        assert!(mark.is_gone());
    }

    #[test]
    fn a_process_that_may_not_be_looked_at_is_not_taken_for_gone() {
        let mark = ProcessMark::here();
        // As with `hidepid`: another user's, then one's own.
        assert!(!mark.has_ended(Err(Errno::PERM), None));
        assert!(!mark.has_ended(Ok(()), None));
        assert!(mark.has_ended(Err(Errno::SRCH), None));
        assert!(mark.has_ended(Ok(()), Some(Seen::Remains)));
        // One that did not know when it was started.
        let unknown = ProcessMark { started: 0, ..mark };
        assert!(!unknown.has_ended(Err(Errno::SRCH), None));
        assert!(!unknown.has_ended(Ok(()), Some(Seen::Started(5))));
    }

    #[test]
    fn a_lock_is_read_as_it_was_written() {
        let lock = lock();
        assert_eq!(Lock::from_json(&lock.to_json()).unwrap(), lock);
        assert!(lock.describe(at(90)).ends_with("deploy, for 90 s"));
    }
}
