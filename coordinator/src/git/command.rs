//! How git is run: the one place that builds its commands.

use std::{
    ffi::OsStr,
    io::{Read, Write},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
};

use super::error::GitError;

/// Most bytes of standard error that are shown.
const SAID_BYTES_MAX: usize = 2048;

/// A command on the repository at `git_dir` that reads objects. It sees no environment, no
/// configuration but the repository's own, no replaced objects and no network, and takes no locks.
///
/// Since the directory is explicit, git does not ask who owns it: that is asked once, by
/// [`discover`].
pub(super) fn read(program: &OsStr, git_dir: &Path) -> Command {
    let mut command = bare(program);
    command
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_NO_REPLACE_OBJECTS", "1")
        .env("GIT_NO_LAZY_FETCH", "1")
        // Before 2.44 git fetches what a partial clone lacks all the same: allow it no protocol.
        .env("GIT_ALLOW_PROTOCOL", "")
        .env("GIT_LITERAL_PATHSPECS", "1")
        .arg("--git-dir")
        .arg(git_dir)
        .args(["-c", "core.fsmonitor=false"])
        .args(["-c", "i18n.logOutputEncoding=UTF-8"])
        // Stream what is longer, instead of holding it.
        .args(["-c", "core.bigFileThreshold=1m"]);
    command
}

/// A command on the repository at `git_dir` that writes objects and moves a ref of ours. As [`read`], and it runs no hooks. What
/// it wrote is on the disk when it ends.
pub(super) fn write(program: &OsStr, git_dir: &Path) -> Command {
    let mut command = read(program, git_dir);
    command
        .args(["-c", "core.hooksPath=/dev/null"])
        .args(["-c", "core.fsync=committed,loose-object,reference"])
        .args(["-c", "i18n.commitEncoding=UTF-8"])
        // Another git may be at the same ref for a moment.
        .args(["-c", "core.filesRefLockTimeout=2000"]);
    command
}

/// A command on the repository at `git_dir` that talks to a remote: it sees the user's configuration, keys and proxies, and may
/// run what these and the repository's configuration name to reach it. It asks nobody anything, runs no hooks, and is in a process group of its
/// own, so that all of it can be ended.
pub(super) fn network(program: &OsStr, git_dir: &Path) -> Command {
    let mut command = bare(program);
    for name in NETWORK_ENVIRONMENT {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command
        .env("GIT_NO_REPLACE_OBJECTS", "1")
        .env("SSH_ASKPASS_REQUIRE", "never")
        .process_group(0)
        .arg("--git-dir")
        .arg(git_dir)
        .args(["-c", "core.askPass="])
        .args(["-c", "core.hooksPath=/dev/null"])
        .args(["-c", "core.fsync=committed,loose-object,reference"])
        .args(["-c", "gc.auto=0", "-c", "maintenance.auto=false"]);
    command
}

/// What a command that talks to a remote sees of the environment.
const NETWORK_ENVIRONMENT: [&str; 20] = [
    "HOME",
    "USER",
    "LOGNAME",
    "XDG_CONFIG_HOME",
    "XDG_RUNTIME_DIR",
    "SSH_AUTH_SOCK",
    "GIT_SSH",
    "GIT_SSH_COMMAND",
    "GIT_SSL_CAINFO",
    "GIT_SSL_CAPATH",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "KRB5CCNAME",
    "http_proxy",
    "https_proxy",
    "HTTPS_PROXY",
    "all_proxy",
    "ALL_PROXY",
    "no_proxy",
    "NO_PROXY",
];

/// A command that looks for a repository in `directory` and not above it. It alone sees the user's
/// configuration, which says whose repositories are trusted (`safe.directory`).
pub(super) fn discover(program: &OsStr, directory: &Path) -> Command {
    let mut command = bare(program);
    for name in ["HOME", "XDG_CONFIG_HOME", "SUDO_UID"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    if let Some(above) = directory.parent() {
        command.env("GIT_CEILING_DIRECTORIES", above);
    }
    command
        .arg("-C")
        .arg(directory)
        .args(["-c", "safe.bareRepository=all"]);
    command
}

pub(super) fn bare(program: &OsStr) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("LC_ALL", "C")
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_OPTIONAL_LOCKS", "0")
        .arg("--no-pager")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Runs a command to its end and returns what it wrote.
///
/// # Errors
/// [`GitError::Run`], and [`GitError::Failed`] where it ends with another code than 0.
pub(super) fn output(mut command: Command, doing: &'static str) -> Result<Vec<u8>, GitError> {
    let output = command
        .output()
        .map_err(|source| GitError::Run { doing, source })?;
    if output.status.success() {
        Ok(output.stdout)
    } else {
        let said = said(&output.stderr);
        Err(GitError::Failed { doing, said })
    }
}

/// Runs a command with `input` to its end, and returns what it wrote: little, so that neither side waits for the other.
///
/// # Errors
/// As [`output`].
pub(super) fn output_of(
    mut command: Command,
    input: &[u8],
    doing: &'static str,
) -> Result<Vec<u8>, GitError> {
    let run = |source| GitError::Run { doing, source };
    command.stdin(Stdio::piped());
    let mut child = command.spawn().map_err(run)?;
    let mut stdin = child.stdin.take().expect("stdin is piped");
    // One that ends before it has read everything says why.
    let _ = stdin.write_all(input);
    drop(stdin);
    let output = child.wait_with_output().map_err(run)?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = said(&output.stderr);
    Err(GitError::Failed { doing, said })
}

/// A command that runs while its output is read; dropping it ends it.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) child: Child,
    pub(super) doing: &'static str,
}

impl Running {
    pub(super) fn start(mut command: Command, doing: &'static str) -> Result<Self, GitError> {
        let child = command
            .spawn()
            .map_err(|source| GitError::Run { doing, source })?;
        Ok(Self { child, doing })
    }

    /// Waits for the end, once all output was read.
    ///
    /// # Errors
    /// As [`output`].
    pub(super) fn finish(&mut self) -> Result<(), GitError> {
        let doing = self.doing;
        let run = |source| GitError::Run { doing, source };
        // What a command of ours says fits the pipe, so it never waits for us to read it.
        let mut text = Vec::new();
        if let Some(stderr) = self.child.stderr.take() {
            stderr
                .take(SAID_BYTES_MAX as u64)
                .read_to_end(&mut text)
                .map_err(run)?;
        }
        if self.child.wait().map_err(run)?.success() {
            Ok(())
        } else {
            let said = said(&text);
            Err(GitError::Failed { doing, said })
        }
    }

    /// Why its output ended before its time.
    pub(super) fn ended_early(&mut self) -> GitError {
        match self.finish() {
            Err(error) => error,
            Ok(()) => GitError::Failed {
                doing: self.doing,
                said: "nothing, and ended".into(),
            },
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only where it has ended and was waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Standard error as one line that is inert on a terminal.
pub(super) fn said(stderr: &[u8]) -> String {
    let end = stderr.len().min(SAID_BYTES_MAX);
    String::from_utf8_lossy(&stderr[..end])
        .trim()
        .replace('\n', "; ")
        .chars()
        .filter(|c| !c.is_control())
        .collect()
}
