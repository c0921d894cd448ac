//! What runs is noted on disk, so that it is ended when whoever ran it has died: a check must not go on beside the one that
//! is run again, nor the command of a service that is by then on its way back.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{Pid, PidfdFlags, pidfd_open},
};

use super::run::kill;

/// How long what is killed may take to be gone.
const DEATH: Duration = Duration::from_secs(5);

/// A process group that runs, noted in a file that bears its number. The note goes when this is dropped.
#[derive(Debug)]
pub(super) struct Noted(Option<PathBuf>);

impl Noted {
    /// Notes the group of a child that has not been waited for. Where that cannot be done the child runs all the same, and is
    /// not found again after a crash.
    ///
    /// A crash between the start of a child and its note leaves it running, too.
    pub(super) fn group(running: &Path, group: Pid) -> Self {
        let path = running.join(group.as_raw_nonzero().to_string());
        let note = || {
            let started = Started::of(group)?;
            if let Err(error) = fs::create_dir(running)
                && error.kind() != io::ErrorKind::AlreadyExists
            {
                return Err(error);
            }
            fs::write(&path, started.to_line())
        };
        match note() {
            Ok(()) => Self(Some(path)),
            Err(error) => {
                tracing::warn!(%error, path = %path.display(), "cannot note what runs");
                Self(None)
            }
        }
    }
}

impl Drop for Noted {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            let _ = fs::remove_file(path);
        }
    }
}

/// Kills the process groups that are noted in `running`, which nobody runs any more: whoever calls this sees to that. Their leaders
/// are gone when it returns, but for those that may not be killed or sit in a file system that hangs. Returns how many there were.
///
/// # Errors
/// Where the notes cannot be read or removed.
pub(crate) fn end_what_was_left(running: &Path) -> io::Result<usize> {
    let notes = match fs::read_dir(running) {
        Ok(notes) => notes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error),
    };
    let mut ended = 0;
    for note in notes {
        let path = note?.path();
        let number = path.file_name().and_then(|name| name.to_str());
        let group = number
            .and_then(|it| it.parse().ok())
            .and_then(Pid::from_raw);
        // One that was not written to its end names nothing.
        if let Some(group) = group
            && let Ok(line) = fs::read_to_string(&path)
            && end(group, &line)
        {
            ended += 1;
        }
        fs::remove_file(&path)?;
    }
    Ok(ended)
}

/// Kills the group if its leader is still the process that was noted; says whether it was. What cannot be killed keeps nobody from
/// going on.
fn end(group: Pid, line: &str) -> bool {
    let is_noted = || Started::of(group).is_ok_and(|started| started.to_line() == line);
    if !is_noted() {
        return false;
    }
    // By now it may have ended, and its number be that of a thread.
    let Ok(leader) = pidfd_open(group, PidfdFlags::empty()) else {
        return false;
    };
    if !is_noted() {
        return false;
    }
    if let Err(error) = kill(group) {
        tracing::warn!(%error, group = group.as_raw_nonzero(), "what was left running cannot be killed");
        return false;
    }
    let deadline = Instant::now() + DEATH;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).ok();
        match poll(&mut [PollFd::new(&leader, PollFlags::IN)], timeout.as_ref()) {
            Err(Errno::INTR) => {}
            _ => return true,
        }
    }
}

/// When a process started: with its number, what names it for good.
#[derive(Debug, PartialEq, Eq)]
struct Started {
    /// Of the running system.
    boot: String,
    /// In clock ticks since the boot.
    ticks: u64,
}

impl Started {
    fn of(process: Pid) -> io::Result<Self> {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        let stat = fs::read(format!("/proc/{}/stat", process.as_raw_nonzero()))?;
        let ticks = start_ticks(&stat).ok_or(io::ErrorKind::InvalidData)?;
        let boot = boot.trim().to_owned();
        Ok(Self { boot, ticks })
    }

    fn to_line(&self) -> String {
        format!("{} {}\n", self.boot, self.ticks)
    }
}

/// Field 22 of `/proc/PID/stat` (proc(5)). The name before it, field 2, may hold anything, brackets and spaces too.
fn start_ticks(stat: &[u8]) -> Option<u64> {
    let name_end = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(&stat[name_end + 1..]).ok()?;
    rest.split_ascii_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::{
        os::unix::process::{CommandExt, ExitStatusExt},
        process::{Child, Command},
    };

    use super::*;

    fn start() -> (Child, Pid) {
        let child = Command::new("sleep")
            .arg("1000")
            .process_group(0)
            .spawn()
            .unwrap();
        let group = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        (child, group)
    }

    #[test]
    fn what_was_noted_is_ended_and_what_has_its_number_by_now_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let running = directory.path().join("running");
        assert_eq!(end_what_was_left(&running).unwrap(), 0);
        let (mut left, left_group) = start();
        let (mut other, other_group) = start();
        // As after a crash: nobody removes them.
        std::mem::forget(Noted::group(&running, left_group));
        std::mem::forget(Noted::group(&running, other_group));
        let started = Started::of(other_group).unwrap();
        let before = Started {
            ticks: started.ticks - 1,
            ..started
        };
        let note = |name: &str, text: &str| fs::write(running.join(name), text).unwrap();
        note(&other_group.as_raw_nonzero().to_string(), &before.to_line());
        note(&std::process::id().to_string(), "");
        note("no number", "x");
        // The number of a thread is no process's.
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let (say, said) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let itself = fs::read_link("/proc/thread-self").unwrap();
            let number = itself.file_name().unwrap().to_str().unwrap();
            say.send(Pid::from_raw(number.parse().unwrap()).unwrap())
                .unwrap();
            stopped.recv()
        });
        let number = said.recv().unwrap();
        let line = Started::of(number).unwrap().to_line();
        note(&number.as_raw_nonzero().to_string(), &line);

        assert_eq!(end_what_was_left(&running).unwrap(), 1);
        assert_eq!(left.wait().unwrap().signal(), Some(9));
        assert_eq!(other.try_wait().unwrap(), None);
        assert_eq!(fs::read_dir(&running).unwrap().count(), 0);
        drop(stop);
        assert!(thread.join().unwrap().is_err(), "it ended by itself");

        // Nor what is done with.
        drop(Noted::group(&running, other_group));
        assert_eq!(end_what_was_left(&running).unwrap(), 0);
        assert_eq!(other.try_wait().unwrap(), None);
        other.kill().unwrap();
        other.wait().unwrap();
    }

    #[test]
    fn a_name_like_the_fields_around_it_hides_no_start() {
        let before = "42 (a) b) 1 2 (c) S 1 42 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0";
        let stat = format!("{before} 8888 1 2 3");
        assert_eq!(start_ticks(stat.as_bytes()), Some(8888));
        assert_eq!(start_ticks(before.as_bytes()), None);
        assert_eq!(start_ticks(b""), None);
    }
}
