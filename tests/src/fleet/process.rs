//! One process in a station's namespace: started, watched, signalled, and ended with its handle.

use std::cell::Cell;
use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group, waitid,
};

use super::wait::POLL_EVERY;
use super::{Usage, logs};

/// A running process. Dropping it kills it and what is in its process group.
///
/// The kernel kills it also when the thread that started it ends, so that nothing outlives a test
/// process that is itself killed.
pub struct Process {
    name: String,
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
    started: Instant,
    usage: Cell<Usage>,
    /// Its status was taken: the id may be another's by now.
    ended: bool,
}

/// What a process left.
#[derive(Debug)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// All that it wrote to stdout.
    pub stdout: String,
    /// All that it wrote to stderr.
    pub stderr: String,
    /// From its start to its end, exact to the 10 ms between two looks.
    pub elapsed: Duration,
    /// What it used, with the children it waited for; the memory as of the last look.
    pub usage: Usage,
}

impl Output {
    /// The exit code; `None` when a signal ended it.
    #[must_use]
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }
}

/// Where to run a program, and where its output goes.
pub(crate) struct Spawn<'a> {
    pub(crate) name: &'a str,
    pub(crate) namespace: &'a Path,
    pub(crate) program: &'a [PathBuf],
    pub(crate) home: &'a Path,
    pub(crate) stdout: PathBuf,
    pub(crate) stderr: PathBuf,
}

impl Spawn<'_> {
    /// Starts the program in a process group of its own, with an environment of its own. Output is
    /// appended, so that one file tells the whole story of a process that is started again.
    ///
    /// # Panics
    /// When it cannot be started.
    pub(crate) fn start<A: AsRef<OsStr>>(
        self,
        args: impl IntoIterator<Item = A>,
        env: &[(&str, &str)],
    ) -> Process {
        let append = |path: &Path| {
            OpenOptions::new()
                .create(true)
                .append(true)
                .open(path)
                .unwrap_or_else(|error| panic!("open {}: {error}", path.display()))
        };
        let mut net = std::ffi::OsString::from("--net=");
        net.push(self.namespace);
        let mut command = Command::new("nsenter");
        command
            .arg(net)
            .args(["setpriv", "--pdeathsig", "KILL", "--"])
            .args(self.program)
            .args(args)
            .env_clear()
            .env("HOME", self.home)
            .env("LANG", "C.UTF-8")
            .env("RUST_BACKTRACE", "1")
            .envs(
                PASSED_ON
                    .iter()
                    .filter_map(|name| Some((name, std::env::var_os(name)?))),
            )
            .envs(env.iter().copied())
            .current_dir(self.home)
            .stdin(Stdio::null())
            .stdout(append(&self.stdout))
            .stderr(append(&self.stderr))
            .process_group(0);
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("start {command:?}: {error}"));
        Process {
            name: self.name.to_owned(),
            child,
            stdout: self.stdout,
            stderr: self.stderr,
            started: Instant::now(),
            usage: Cell::default(),
            ended: false,
        }
    }
}

impl Process {
    /// Its process id.
    ///
    /// # Panics
    /// Never; the kernel gives no other ids.
    pub fn pid(&self) -> Pid {
        let raw = i32::try_from(self.child.id()).expect("process ids fit");
        Pid::from_raw(raw).expect("process ids are positive")
    }

    /// Whether it has not ended.
    ///
    /// # Panics
    /// When it was waited for elsewhere.
    pub fn is_running(&self) -> bool {
        // Without taking its status away: until then `/proc` tells what it used.
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let state = waitid(WaitId::Pid(self.pid()), options)
            .unwrap_or_else(|error| panic!("look at {}: {error}", self.name));
        if let Some(now) = Usage::of(self.pid()) {
            let peak_rss_bytes = self.usage.get().peak_rss_bytes.max(now.peak_rss_bytes);
            self.usage.set(Usage {
                peak_rss_bytes,
                ..now
            });
        }
        state.is_none()
    }

    /// Looks at something again and again while it runs.
    pub fn while_running(&self, mut look: impl FnMut()) {
        while self.is_running() {
            look();
            std::thread::sleep(POLL_EVERY);
        }
    }

    /// Waits until it has ended by itself.
    ///
    /// # Panics
    /// When it has not `limit` after its start.
    #[track_caller]
    pub fn wait(mut self, limit: Duration) -> Output {
        while self.is_running() {
            assert!(
                self.started.elapsed() < limit,
                "{}: still running after {limit:?}; last of its stdout: {:?}",
                self.name,
                logs::read(&self.stdout).lines().last()
            );
            std::thread::sleep(POLL_EVERY);
        }
        Output {
            elapsed: self.started.elapsed(),
            status: self.reap(),
            stdout: logs::read(&self.stdout),
            stderr: logs::read(&self.stderr),
            usage: self.usage.get(),
        }
    }

    /// Asks it to end (SIGTERM) and waits until it has.
    ///
    /// # Panics
    /// When it has not after `limit`.
    #[track_caller]
    pub fn terminate(mut self, limit: Duration) -> ExitStatus {
        self.signal(Signal::TERM);
        let asked = Instant::now();
        while self.is_running() {
            assert!(
                asked.elapsed() < limit,
                "{}: did not end on SIGTERM in {limit:?}",
                self.name
            );
            std::thread::sleep(POLL_EVERY);
        }
        self.reap()
    }

    /// Sends it the signal by which daemons read their configuration again.
    pub fn hangup(&self) {
        self.signal(Signal::HUP);
    }

    /// Kills this one process, as an out-of-memory kill would; its children see what they see.
    pub fn kill9(mut self) {
        self.signal(Signal::KILL);
        self.reap();
    }

    /// Halts it and its process group (SIGSTOP) until [`Self::cont`].
    pub fn stop(&self) {
        let _ = kill_process_group(self.pid(), Signal::STOP);
    }

    /// Lets it go on.
    pub fn cont(&self) {
        let _ = kill_process_group(self.pid(), Signal::CONT);
    }

    fn reap(&mut self) -> ExitStatus {
        self.ended = true;
        self.child
            .wait()
            .expect("a child that nobody else waits for")
    }

    fn signal(&self, signal: Signal) {
        // It may have ended by itself.
        let _ = kill_process(self.pid(), signal);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.ended {
            let _ = kill_process_group(self.pid(), Signal::KILL);
            self.reap();
        }
    }
}

/// What a process gets to see of the test's environment: where programs are, and how much to log.
const PASSED_ON: [&str; 3] = ["PATH", "RUST_LOG", "TMPDIR"];
