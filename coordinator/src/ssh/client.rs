//! One command on one host, over OpenSSH's client: a command line, three streams with an end, and a deadline.

use std::{
    io,
    path::{Path, PathBuf},
    process::{self, ExitStatus, Stdio},
    time::Duration,
};

use rustix::fs::{CWD, Mode};
use scap_proto::reason::Reason;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::unix::pipe,
    process::{Child, ChildStdin, Command},
    time::{Instant, sleep_until},
};

use super::{
    known::{self, Known, Places},
    log::{SshLog, Verdict},
    target::Target,
};

/// Most that is read of each of a host's two outputs, and of ssh's own log, in bytes. A request and a certificate are 2 KiB; the
/// rest is for what a login shell greets with. With so many hosts at a time, it is what a hostile fleet can have us hold.
pub const OUTPUT_BYTES_MAX: usize = 64 * 1024;

/// How long is waited for the rest of an output once ssh itself has ended: what it started may hold it open.
const LINGER: Duration = Duration::from_secs(1);

/// How ssh is run.
#[derive(Debug, Clone)]
pub struct Ssh {
    /// Its config file, in place of the user's and the system's.
    pub config: Option<PathBuf>,
    /// More of its options, which stand below ours.
    pub options: Vec<String>,
    /// Take the key of a host that has none known, and remember it. A changed one is refused all the same.
    pub accept_new: bool,
    /// Ask nobody for a password or passphrase.
    pub batch: bool,
    /// How long one connection may take, from its start to its end.
    pub timeout: Duration,
}

/// What came of a command.
#[derive(Debug)]
pub struct Said {
    /// How it ended: as the command, or 255 where ssh failed.
    pub status: ExitStatus,
    /// Its standard output; not escaped.
    pub stdout: String,
    /// The last line of its standard error that is not empty; not escaped.
    pub last_error: Option<String>,
    /// What ssh says of the connection.
    pub log: SshLog,
}

/// Why a command was not run, or not to its end.
#[derive(Debug, thiserror::Error)]
pub enum SshError {
    /// OpenSSH's client cannot be run.
    #[error("run ssh")]
    Spawn(#[source] io::Error),
    /// A pipe between ssh and us.
    #[error("{0} ssh")]
    Pipe(&'static str, #[source] io::Error),
    /// Not in time.
    #[error("no end after {} s", .0.as_secs())]
    Timeout(Duration),
    /// More than is read.
    #[error("more than {OUTPUT_BYTES_MAX} bytes of {0}")]
    Output(&'static str),
    /// No key is known for the host.
    #[error("its host key is not known: {0}")]
    Unknown(String),
    /// Another key is known for the host.
    #[error("its host key is not the known one: it shows {shown}")]
    Changed {
        /// What it shows.
        shown: String,
        /// The command that forgets the known one.
        remedy: Option<String>,
    },
    /// Its key was revoked.
    #[error("its host key was revoked: {0}")]
    Revoked(String),
    /// Whether a key is known for it cannot be told, since a file that may have one is not found from here.
    #[error("whether its host key is known cannot be told: ssh looks into {0}")]
    Unclear(String),
    /// Its key was taken, and could not be written down: each time another one would be.
    #[error("its host key was not kept: {0}")]
    Unkept(String),
    /// It does not let us in.
    #[error("{0}")]
    Refused(String),
    /// It was not reached, or ssh failed on the way.
    #[error("{0}")]
    Failed(String),
}

impl SshError {
    /// Its code.
    pub fn code(&self) -> Reason {
        match self {
            Self::Spawn(_) | Self::Pipe(..) | Self::Failed(_) => Reason::SshFailed,
            Self::Timeout(_) => Reason::SshTimeout,
            Self::Output(_) => Reason::SshOutput,
            Self::Unknown(_) | Self::Unclear(_) | Self::Unkept(_) => Reason::HostKeyUnknown,
            Self::Changed { .. } | Self::Revoked(_) => Reason::HostKeyChanged,
            Self::Refused(_) => Reason::SshRefused,
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Spawn(_) => Some("install OpenSSH's client".into()),
            Self::Unknown(_) => Some(
                "compare that with what the host's console says; then --accept-new takes it".into(),
            ),
            Self::Unclear(_) => Some(
                "name the whole path in UserKnownHostsFile or GlobalKnownHostsFile, or leave out --accept-new"
                    .into(),
            ),
            Self::Unkept(_) => Some("make that file one that you can write to".into()),
            Self::Changed { remedy, .. } => remedy
                .as_ref()
                .map(|remedy| format!("find out why; if the host was installed anew: {remedy}")),
            _ => None,
        }
    }
}

impl Ssh {
    /// Runs `command` by the login shell of `target`. Where `until` is in its standard output, `answer` says what is written to
    /// its standard input, which ends then; where it never is, that is left open until ssh ends.
    ///
    /// Dropped, it ends ssh.
    ///
    /// # Errors
    /// [`SshError`], and whatever `answer` returns: ssh is ended then, and the command with it.
    pub async fn converse<E: From<SshError>>(
        &self,
        target: &Target,
        command: &str,
        until: &str,
        answer: impl FnOnce(&str, &SshLog) -> Result<Vec<u8>, E>,
    ) -> Result<Said, E> {
        let deadline = Instant::now() + self.timeout;
        let known = tokio::time::timeout_at(deadline, self.known(target)).await;
        let looked = known.map_err(|_| SshError::Timeout(self.timeout))??;
        let mut running = Running::start(self, target, command, looked)?;
        running.read(deadline, self.timeout, Some(until)).await?;
        if running.stdout.text().contains(until) {
            // All that ssh says of the host's key it said before.
            running.refuse_unkept()?;
            let bytes = answer(&running.stdout.text(), &running.log.log())?;
            running.to_write = bytes;
        }
        running.is_answered = true;
        running.read(deadline, self.timeout, None).await?;
        Ok(running.said()?)
    }

    /// Where a key of the host is known, whichever kind it is of.
    async fn known(&self, target: &Target) -> Result<Looked, SshError> {
        let mut has_command = true;
        let mut told = self.settings(target, has_command).await?;
        if !told.status.success() && lacks_known_hosts_command(&told.stderr) {
            has_command = false;
            told = self.settings(target, has_command).await?;
        }
        let Some(places) = Places::parse(&String::from_utf8_lossy(&told.stdout)) else {
            let said = String::from_utf8_lossy(&told.stderr);
            let last = last_line(&said).unwrap_or("ssh does not say how it would reach it");
            return Err(SshError::Failed(last.escape_debug().to_string()));
        };
        let places = places.expanded().await;
        let unclear = places.unclear().map(str::to_owned);
        let find = places.find().await;
        let known = find.map_err(|error| SshError::Pipe("look for a known key for", error))?;
        match (&known, unclear) {
            (None, Some(word)) if self.accept_new => {
                Err(SshError::Unclear(word.escape_debug().to_string()))
            }
            _ => Ok(Looked { known, has_command }),
        }
    }

    /// What `ssh -G` prints.
    async fn settings(
        &self,
        target: &Target,
        has_command: bool,
    ) -> Result<process::Output, SshError> {
        let mut asks = Command::new("ssh");
        asks.arg("-G");
        self.give_options(&mut asks, target, "yes", has_command);
        asks.arg("--").arg(&target.host);
        known::output(&mut asks).await.map_err(SshError::Spawn)
    }

    /// A command on the host, after what was found of its key.
    fn command(&self, target: &Target, log: &Path, command: &str, looked: &Looked) -> Command {
        let checking = match self.accept_new && looked.known.is_none() {
            true => "accept-new",
            false => "yes",
        };
        let mut ssh = Command::new("ssh");
        ssh.arg("-T").arg("-E").arg(log);
        self.give_options(&mut ssh, target, checking, looked.has_command);
        ssh.arg("--").arg(&target.host).arg(command);
        ssh
    }

    /// `checking` is as ssh's StrictHostKeyChecking; `has_command` whether this ssh knows KnownHostsCommand.
    fn give_options(&self, ssh: &mut Command, target: &Target, checking: &str, has_command: bool) {
        if let Some(config) = &self.config {
            ssh.arg("-F").arg(config);
        }
        let checking = format!("StrictHostKeyChecking={checking}");
        let user = target.user.as_ref().map(|user| format!("User={user}"));
        let batch = self.batch.then(|| "BatchMode=yes".to_owned());
        let command = has_command.then(|| NO_COMMAND.to_owned());
        let said = [Some(checking), user, batch, command];
        let said = said.iter().flatten().map(String::as_str);
        // The first that is said of an option holds: no config weakens ours.
        let ours = OPTIONS.iter().copied().chain(said);
        for option in ours.chain(self.options.iter().map(String::as_str)) {
            ssh.arg("-o").arg(option);
        }
    }
}

/// What holds of every connection, whatever ssh's config says.
const OPTIONS: [&str; 13] = [
    // Says which key the host shows.
    "LogLevel=DEBUG1",
    // A connection that is shared with others was checked by them, if at all.
    "ControlMaster=no",
    "ControlPath=none",
    "NoHostAuthenticationForLocalhost=no",
    // Keys are known by files alone: an answer of DNS would stand in for them, of a changed key too.
    "VerifyHostKeyDNS=no",
    // What is learned of host keys is what was shown.
    "UpdateHostKeys=no",
    // A stranger gets nothing of ours.
    "ForwardAgent=no",
    "GSSAPIDelegateCredentials=no",
    "ForwardX11=no",
    "ClearAllForwardings=yes",
    "PermitLocalCommand=no",
    "ConnectTimeout=15",
    "EscapeChar=none",
];

/// Keys are known by files alone, in the words of an ssh that could ask a command for them too (OpenSSH 8.5 and later).
const NO_COMMAND: &str = "KnownHostsCommand=none";

/// Whether ssh says that it does not know the option: then no config turns it on either.
fn lacks_known_hosts_command(stderr: &[u8]) -> bool {
    let said = String::from_utf8_lossy(stderr).to_lowercase();
    said.lines().any(|line| {
        line.starts_with("command-line")
            && line.contains(": bad configuration option: knownhostscommand")
    })
}

/// What was found out before a connection.
struct Looked {
    /// Where a key of the host is known.
    known: Option<Known>,
    /// Whether this ssh could ask a command for keys.
    has_command: bool,
}

/// One output, as far as it was read.
struct Output {
    name: &'static str,
    bytes: Vec<u8>,
    has_ended: bool,
}

impl Output {
    fn new(name: &'static str) -> Self {
        Self {
            name,
            bytes: Vec::new(),
            has_ended: false,
        }
    }

    fn add(&mut self, read: &io::Result<usize>, buffer: &[u8]) -> Result<(), SshError> {
        match read {
            // A pipe that breaks has ended.
            Ok(0) | Err(_) => self.has_ended = true,
            Ok(length) => self.bytes.extend_from_slice(&buffer[..*length]),
        }
        match self.bytes.len() <= OUTPUT_BYTES_MAX {
            true => Ok(()),
            false => Err(SshError::Output(self.name)),
        }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    fn log(&self) -> SshLog {
        SshLog::parse(&self.text())
    }

    fn last_line(&self) -> Option<String> {
        last_line(&self.text()).map(str::to_owned)
    }
}

/// The last line that is not empty.
fn last_line(text: &str) -> Option<&str> {
    text.lines()
        .rev()
        .map(str::trim)
        .find(|line| !line.is_empty())
}

struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    to_write: Vec<u8>,
    written: usize,
    is_answered: bool,
    stdout: Output,
    stderr: Output,
    log: Output,
    log_pipe: pipe::Receiver,
    status: Option<ExitStatus>,
    known: Option<Known>,
    /// Holds the pipe by which ssh tells its log.
    _folder: tempfile::TempDir,
}

impl Running {
    fn start(ssh: &Ssh, target: &Target, command: &str, looked: Looked) -> Result<Self, SshError> {
        let pipe = |doing| move |error| SshError::Pipe(doing, error);
        let folder = tempfile::Builder::new()
            .prefix("scap-ssh-")
            .tempdir()
            .map_err(pipe("make a directory for"))?;
        let path = folder.path().join("log");
        rustix::fs::mkfifoat(CWD, &path, Mode::RUSR | Mode::WUSR)
            .map_err(|error| SshError::Pipe("make a pipe for", error.into()))?;
        // Held open for writing too, or it would have ended before ssh opens it.
        let log_pipe = pipe::OpenOptions::new()
            .read_write(true)
            .open_receiver(&path)
            .map_err(pipe("open a pipe for"))?;
        let mut child = ssh
            .command(target, &path, command, &looked)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(SshError::Spawn)?;
        Ok(Self {
            stdin: child.stdin.take(),
            child,
            to_write: Vec::new(),
            written: 0,
            is_answered: false,
            stdout: Output::new("standard output"),
            stderr: Output::new("standard error"),
            log: Output::new("ssh's own log"),
            log_pipe,
            status: None,
            known: looked.known,
            _folder: folder,
        })
    }

    /// Reads on until `until` is in the standard output, or until all has ended.
    async fn read(
        &mut self,
        deadline: Instant,
        timeout: Duration,
        until: Option<&str>,
    ) -> Result<(), SshError> {
        let mut stdout = self.child.stdout.take();
        let mut stderr = self.child.stderr.take();
        let (mut out, mut err, mut log) = ([0; 4096], [0; 4096], [0; 4096]);
        let mut lingers_until = deadline;
        let ended = loop {
            if until.is_some_and(|until| self.stdout.text().contains(until)) {
                break Ok(());
            }
            if self.is_answered && self.written == self.to_write.len() {
                // The end of its input.
                self.stdin = None;
            }
            let outputs_ended = self.stdout.has_ended && self.stderr.has_ended;
            if self.status.is_some() && outputs_ended {
                break Ok(());
            }
            let (has_ended, has_more) = (self.status.is_some(), self.written < self.to_write.len());
            tokio::select! {
                biased;
                () = sleep_until(lingers_until.min(deadline)) => break match has_ended {
                    true => Ok(()),
                    false => Err(SshError::Timeout(timeout)),
                },
                read = read_some(&mut stdout, &mut out), if !self.stdout.has_ended => {
                    self.stdout.add(&read, &out)?;
                }
                read = read_some(&mut stderr, &mut err), if !self.stderr.has_ended => {
                    self.stderr.add(&read, &err)?;
                }
                read = self.log_pipe.read(&mut log) => self.log.add(&read, &log)?,
                wrote = write_some(&mut self.stdin, &self.to_write[self.written..]), if has_more => {
                    match wrote {
                        Ok(length) => self.written += length,
                        // Nobody reads it any more; how it ended says why.
                        Err(_) => self.written = self.to_write.len(),
                    }
                }
                status = self.child.wait(), if !has_ended => {
                    self.status = Some(status.map_err(|error| SshError::Pipe("wait for", error))?);
                    lingers_until = Instant::now() + LINGER;
                }
            }
        };
        self.child.stdout = stdout;
        self.child.stderr = stderr;
        ended
    }

    /// Reads what ssh wrote of itself until now.
    fn read_log(&mut self) -> Result<SshLog, SshError> {
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = self.log_pipe.try_read(&mut buffer) {
            self.log.add(&Ok(length), &buffer)?;
        }
        Ok(self.log.log())
    }

    /// Goes no further where the host's key was taken and not written down.
    fn refuse_unkept(&mut self) -> Result<(), SshError> {
        match self.read_log()?.unkept {
            Some(line) => Err(SshError::Unkept(line.escape_debug().to_string())),
            None => Ok(()),
        }
    }

    fn said(mut self) -> Result<Said, SshError> {
        self.refuse_unkept()?;
        let log = self.log.log();
        let status = self.status.ok_or(SshError::Pipe(
            "wait for",
            io::ErrorKind::UnexpectedEof.into(),
        ))?;
        if status.code() == Some(SSH_FAILED) || status.code().is_none() {
            return Err(self.failure(log));
        }
        Ok(Said {
            status,
            stdout: self.stdout.text(),
            last_error: self.stderr.last_line(),
            log,
        })
    }

    fn failure(&self, log: SshLog) -> SshError {
        let shown = log.host_key.map(|key| key.fingerprint);
        let shown = shown
            .as_deref()
            .unwrap_or("none")
            .escape_debug()
            .to_string();
        match (log.verdict, &self.known) {
            // Another one is, of another kind.
            (Some(Verdict::Unknown), Some(known)) => SshError::Changed {
                shown,
                remedy: remedy(&known.name, Some(&known.file)),
            },
            (Some(Verdict::Unknown), None) => SshError::Unknown(shown),
            (Some(Verdict::Changed { name, file }), _) => SshError::Changed {
                shown,
                remedy: remedy(&name, file.as_deref()),
            },
            (Some(Verdict::Revoked), _) => SshError::Revoked(shown),
            (Some(Verdict::Refused(line)), _) => SshError::Refused(line.escape_debug().to_string()),
            (None, _) => {
                // A jump host's ssh writes beside it.
                let line = log.last.or_else(|| self.stderr.last_line());
                let line = line.unwrap_or_else(|| "ssh ended without a word".into());
                SshError::Failed(line.escape_debug().to_string())
            }
        }
    }
}

/// The exit code by which ssh says that it is not the command's.
const SSH_FAILED: i32 = 255;

/// The command that forgets the known key of a host, quoted for a shell.
fn remedy(name: &str, file: Option<&Path>) -> Option<String> {
    let quoted = |text: &str| {
        let is_plain = |c: char| c.is_ascii_graphic() && c != '\'' || c == ' ';
        text.chars().all(is_plain).then(|| format!("'{text}'"))
    };
    let file = match file {
        Some(file) => format!("-f {} ", quoted(file.to_str()?)?),
        None => String::new(),
    };
    Some(format!("ssh-keygen {file}-R {}", quoted(name)?))
}

async fn read_some<R: AsyncRead + Unpin>(
    from: &mut Option<R>,
    buffer: &mut [u8],
) -> io::Result<usize> {
    match from {
        Some(from) => from.read(buffer).await,
        None => Ok(0),
    }
}

async fn write_some(to: &mut Option<ChildStdin>, bytes: &[u8]) -> io::Result<usize> {
    match to {
        Some(to) => to.write(bytes).await,
        None => Err(io::ErrorKind::BrokenPipe.into()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn c12_the_host_comes_after_two_dashes_and_our_options_before_those_of_others() {
        let weaker = [
            "StrictHostKeyChecking=no",
            "VerifyHostKeyDNS=yes",
            "KnownHostsCommand=/bin/keys",
            "GSSAPIDelegateCredentials=yes",
        ];
        let ssh = Ssh {
            config: Some("ssh_config".into()),
            options: weaker.map(str::to_owned).to_vec(),
            accept_new: false,
            batch: true,
            timeout: Duration::from_secs(1),
        };
        let target = "root@web1".parse().unwrap();
        let looked = Looked {
            known: None,
            has_command: true,
        };
        let command = ssh.command(&target, Path::new("log"), "scap-agent", &looked);
        let arguments = command.as_std().get_args();
        let arguments: Vec<_> = arguments.map(|it| it.to_str().unwrap()).collect();
        let place = |wanted: &str| arguments.iter().position(|it| *it == wanted).unwrap();
        let ours = [
            "StrictHostKeyChecking=yes",
            "VerifyHostKeyDNS=no",
            "KnownHostsCommand=none",
            "GSSAPIDelegateCredentials=no",
        ];
        for (ours, weaker) in ours.into_iter().zip(weaker) {
            assert!(place(ours) < place(weaker), "{arguments:?}");
        }
        assert_eq!(
            &arguments[arguments.len() - 3..],
            ["--", "web1", "scap-agent"]
        );
        assert!(place("User=root") < place("--"));
        assert_eq!(arguments[place("-F") + 1], "ssh_config");
    }

    #[test]
    fn an_ssh_that_has_no_command_for_keys_is_not_told_of_it() {
        let old = b"command-line: line 0: Bad configuration option: knownhostscommand\r\n";
        assert!(lacks_known_hosts_command(old));
        // Where a config says it, or another is bad, ssh refuses as before.
        for other in [
            "config: line 3: Bad configuration option: knownhostscommand",
            "command-line: line 0: Bad configuration option: nonsense",
            "",
        ] {
            assert!(!lacks_known_hosts_command(other.as_bytes()), "{other}");
        }
    }

    #[test]
    fn a_remedy_is_a_line_for_a_shell_or_none() {
        let file = Path::new("/home/a b/known_hosts");
        let line = remedy("[127.0.0.1]:2222", Some(file));
        let expected = "ssh-keygen -f '/home/a b/known_hosts' -R '[127.0.0.1]:2222'";
        assert_eq!(line.as_deref(), Some(expected));
        assert_eq!(remedy("it's", None), None);
    }
}
