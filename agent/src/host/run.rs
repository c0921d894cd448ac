//! Running one program: for a bounded time, with bounded memory for what it prints, and with nothing of it left that we wait for.

use std::{
    ffi::OsString,
    fmt,
    io::{self, PipeReader, Read},
    os::{
        fd::OwnedFd,
        unix::process::{CommandExt, ExitStatusExt},
    },
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open},
};

use super::{Paths, left::Noted};

/// Most bytes kept of what a program prints: its last words, which say why it failed, and enough of them for a stack trace.
/// All else is read and dropped, so that it neither fills memory nor stops for a reader.
pub const OUTPUT_BYTES_MAX: usize = 16 * 1024;

/// How long we read on when a program has ended, and something that it started holds its output open: what is in the pipe
/// by then is read in milliseconds, and whatever still holds it is a daemon that nobody waits for.
const LINGER: Duration = Duration::from_millis(500);

/// How long a killed program may take to be gone. The kernel kills at once, but for what sits in a file system that hangs.
const DEATH: Duration = Duration::from_secs(5);

/// How much is read at once: what a pipe holds.
const READ_BYTES: usize = 64 * 1024;

/// Variables of our own environment that what we run has too; all others are ours alone: the sockets of systemd, our
/// settings, our log filter. Those that begin with `LC_` are passed on as well.
const PASSED_ON: [&str; 18] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "LANGUAGE",
    "TZ",
    "TMPDIR",
    // For `systemctl --user`.
    "XDG_RUNTIME_DIR",
    "DBUS_SESSION_BUS_ADDRESS",
    // For what a check downloads, such as a virtual environment.
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "SSL_CERT_FILE",
];

/// Where programs are looked for if our own environment does not say.
const PATH_DEFAULT: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How often whoever gives way looks at whether to.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A program to be run.
pub(super) struct Program<'a> {
    /// A path, or a name that is looked for in `PATH`.
    pub(super) program: &'a Path,
    /// What it is given.
    pub(super) arguments: &'a [String],
    /// What it is told in its environment.
    pub(super) paths: &'a Paths,
    /// Where it is noted while it runs.
    pub(super) running: &'a Path,
    /// After this it is killed, and all of its process group with it.
    pub(super) timeout: Duration,
    /// Whether something else waits for it by now, which is more urgent: it is killed then as if its time was over.
    pub(super) gives_way: Option<&'a dyn Fn() -> bool>,
}

/// A program that ended well.
#[derive(Debug)]
pub(super) struct Ran {
    pub(super) output: Output,
    pub(super) took: Duration,
}

/// A program that did not.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) why: RunFailure,
    pub(super) output: Output,
}

/// Why something that was run did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum RunFailure {
    /// It said so.
    #[error("ended with exit code {0}")]
    Exit(i32),
    /// Something killed it, or it crashed.
    #[error("was killed by signal {0}")]
    Signal(i32),
    /// It was not done in time, and was killed with all of its process group.
    #[error("was not done within {} s, and was killed", .0.as_secs_f32())]
    TimedOut(Duration),
    /// It was killed since something else was more urgent.
    #[error("was killed to make way")]
    GaveWay,
    /// It did not begin.
    #[error("start `{program}`")]
    Start {
        /// What was to be started, escaped.
        program: String,
        /// Why it was not.
        source: io::Error,
    },
    /// We could not follow it, and killed it.
    #[error("wait for it to end")]
    Wait(#[source] io::Error),
}

/// The end of what something printed, on both its outputs together.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Output {
    tail: Vec<u8>,
    bytes: u64,
}

impl Output {
    /// Its last [`OUTPUT_BYTES_MAX`] bytes; where more was printed, from the first whole line of them on. Not escaped: who shows
    /// it sees to that.
    pub fn tail(&self) -> String {
        let mut tail = self.tail.as_slice();
        if self.is_cut() {
            let line = tail.iter().position(|byte| *byte == b'\n');
            // A single line that long has no whole line in it.
            tail = line.map_or(tail, |end| &tail[end + 1..]);
        }
        String::from_utf8_lossy(tail).into_owned()
    }

    /// How many bytes were printed.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether more was printed than is kept.
    pub fn is_cut(&self) -> bool {
        self.bytes > self.tail.len() as u64
    }

    fn add(&mut self, read: &[u8]) {
        self.bytes += read.len() as u64;
        let new = &read[read.len().saturating_sub(OUTPUT_BYTES_MAX)..];
        let old = self.tail.len().min(OUTPUT_BYTES_MAX - new.len());
        self.tail.drain(..self.tail.len() - old);
        self.tail.extend_from_slice(new);
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Output({} bytes)", self.bytes)
    }
}

/// Runs a program to its end, in a process group of its own, in `/`, with nothing to read.
///
/// When it returns, the program has ended. What it left in the background lives on if it let go of its output, and is killed
/// if it did not; but for what made itself a process group of its own, as daemons do.
pub(super) fn run(program: &Program<'_>) -> Result<Ran, Failed> {
    let began = Instant::now();
    let failed = |why| Failed {
        why,
        output: Output::default(),
    };
    let mut watched = Watched::start(program).map_err(|source| {
        let program = program.program.to_string_lossy();
        let program = program.escape_debug().to_string();
        failed(RunFailure::Start { program, source })
    })?;
    let is_done = watched.watch(began + program.timeout, program.gives_way);
    let status = is_done.and_then(|is_done| watched.end(is_done));
    let output = std::mem::take(&mut watched.output);
    let status = match status {
        Ok(status) => status,
        Err(source) => {
            let why = RunFailure::Wait(source);
            return Err(Failed { why, output });
        }
    };
    let why = match status {
        Some(status) if status.success() => {
            let took = began.elapsed();
            return Ok(Ran { output, took });
        }
        None if began.elapsed() < program.timeout => RunFailure::GaveWay,
        None => RunFailure::TimedOut(program.timeout),
        Some(status) => match (status.code(), status.signal()) {
            (Some(code), _) => RunFailure::Exit(code),
            (None, signal) => RunFailure::Signal(signal.unwrap_or_default()),
        },
    };
    Err(Failed { why, output })
}

/// A child and what it prints. Until it is waited for, its number names it and its group and nothing else.
struct Watched {
    child: Child,
    group: Pid,
    /// Readable once the child has ended.
    ended: OwnedFd,
    /// Until all who could write to it are gone.
    pipe: Option<PipeReader>,
    output: Output,
    _noted: Noted,
}

impl Watched {
    fn start(program: &Program<'_>) -> io::Result<Self> {
        let (pipe, writer) = io::pipe()?;
        let mut command = Command::new(program.program);
        command
            .args(program.arguments)
            .env_clear()
            .envs(environment(std::env::vars_os()))
            .envs(program.paths.environment())
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(writer.try_clone()?)
            .stderr(writer);
        let mut child = command.process_group(0).spawn()?;
        // Our copies of the writing end go with it.
        drop(command);
        let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let group = group.expect("a child has a number above 0");
        match pidfd_open(group, PidfdFlags::empty()) {
            Ok(ended) => Ok(Self {
                child,
                group,
                ended,
                pipe: Some(pipe),
                output: Output::default(),
                _noted: Noted::group(program.running, group),
            }),
            Err(error) => {
                kill(group)?;
                child.wait()?;
                Err(error.into())
            }
        }
    }

    /// Reads what is printed until the child has ended and nobody holds its output any more, or until `deadline`, or until it gives
    /// way. Says whether the child has ended.
    fn watch(
        &mut self,
        mut deadline: Instant,
        gives_way: Option<&dyn Fn() -> bool>,
    ) -> io::Result<bool> {
        let mut buffer = vec![0; READ_BYTES];
        let mut has_ended = false;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let is_over = left.is_zero() || (has_ended && self.pipe.is_none());
            if is_over || (!has_ended && gives_way.is_some_and(|gives_way| gives_way())) {
                return Ok(has_ended);
            }
            let left = match gives_way {
                Some(_) => left.min(LOOK_EVERY),
                None => left,
            };
            let mut waits = Vec::with_capacity(2);
            if !has_ended {
                waits.push(PollFd::new(&self.ended, PollFlags::IN));
            }
            waits.extend(
                self.pipe
                    .as_ref()
                    .map(|pipe| PollFd::new(pipe, PollFlags::IN)),
            );
            let timeout = Timespec::try_from(left).ok();
            match poll(&mut waits, timeout.as_ref()) {
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            let ready: Vec<bool> = waits
                .iter()
                .map(|wait| !wait.revents().is_empty())
                .collect();
            let mut ready = ready.into_iter();
            if !has_ended && ready.next() == Some(true) {
                has_ended = true;
                deadline = Instant::now() + LINGER;
            }
            if let Some(pipe) = &mut self.pipe
                && ready.next() == Some(true)
            {
                match pipe.read(&mut buffer)? {
                    0 => self.pipe = None,
                    read => self.output.add(&buffer[..read]),
                }
            }
        }
    }

    /// Ends what has not ended, and says how the child ended by itself.
    fn end(&mut self, has_ended: bool) -> io::Result<Option<ExitStatus>> {
        if has_ended {
            if self.pipe.is_some() {
                kill(self.group)?;
            }
            return self.child.wait().map(Some);
        }
        kill(self.group)?;
        if self.watch(Instant::now() + DEATH, None)? {
            self.child.wait()?;
        }
        Ok(None)
    }
}

/// A child that we lose sight of is not left running.
impl Drop for Watched {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = kill(self.group);
            let _ = self.child.try_wait();
        }
    }
}

/// Kills a process group; one that is gone is killed.
pub(super) fn kill(group: Pid) -> io::Result<()> {
    match kill_process_group(group, Signal::KILL) {
        Ok(()) | Err(Errno::SRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// What of our own environment is passed on.
fn environment(
    ours: impl Iterator<Item = (OsString, OsString)>,
) -> impl Iterator<Item = (OsString, OsString)> {
    let is_passed_on = |name: &OsString| {
        let name = name.to_str();
        name.is_some_and(|name| name.starts_with("LC_") || PASSED_ON.contains(&name))
    };
    let path = (OsString::from("PATH"), OsString::from(PATH_DEFAULT));
    // The later one counts.
    std::iter::once(path).chain(ours.filter(move |(name, _)| is_passed_on(name)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn output(parts: &[&[u8]]) -> Output {
        let mut output = Output::default();
        for part in parts {
            output.add(part);
        }
        output
    }

    #[test]
    fn the_end_of_what_is_printed_is_kept_from_a_whole_line_on() {
        assert_eq!(output(&[]).tail(), "");
        let all = output(&[b"one\n", b"", b"two\xff"]);
        assert_eq!(all.tail(), "one\ntwo\u{fffd}");
        assert!(!all.is_cut());
        let full = vec![b'x'; OUTPUT_BYTES_MAX];
        let kept = output(&[&full]);
        assert!(!kept.is_cut());
        assert_eq!(kept.tail().len(), OUTPUT_BYTES_MAX);
        // A byte more, in any parts.
        for parts in [
            vec![b"1\n2\n".as_slice(), &full[4..], b"y"],
            vec![b"1\n2\n", &full[4..OUTPUT_BYTES_MAX - 7], b"xxxxxxxy"],
        ] {
            let cut = output(&parts);
            assert_eq!(cut.bytes(), OUTPUT_BYTES_MAX as u64 + 1);
            assert!(cut.is_cut());
            let tail = cut.tail();
            assert!(
                tail.starts_with("2\nxx") && tail.ends_with("xy"),
                "{parts:?}"
            );
        }
        let line = output(&[&full, b"y"]);
        assert_eq!(line.tail().len(), OUTPUT_BYTES_MAX);
        let last = output(&[&full, &full, b"\nlast"]);
        assert_eq!(last.tail(), "last");
        assert_eq!(last.bytes(), 2 * OUTPUT_BYTES_MAX as u64 + 5);
    }

    #[test]
    fn only_what_is_not_our_own_is_passed_on() {
        let ours = [
            "HOME",
            "LC_ALL",
            "NOTIFY_SOCKET",
            "RUST_LOG",
            "SCAP_REV_PATH",
            "PATH",
        ];
        let ours = ours.map(|name| (name.into(), "x".into()));
        let passed: Vec<_> = environment(ours.into_iter()).collect();
        let names: Vec<_> = passed
            .iter()
            .map(|(name, _)| name.to_str().unwrap())
            .collect();
        assert_eq!(names, ["PATH", "HOME", "LC_ALL", "PATH"]);
        assert_eq!(passed[0].1, PATH_DEFAULT);
    }
}
