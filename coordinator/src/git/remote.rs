//! A branch at a remote: its tip, fetching it, pushing to it. Each within a limit, and without asking anybody.

use std::{
    fs::File,
    io::{Read, Seek},
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};
use scap_proto::id::GitOid;

use super::{BranchName, GitError, Repo, command, objects::id_of};

/// A configured remote of a repository.
#[derive(Debug, Clone)]
pub struct Remote {
    repo: Repo,
    name: String,
    push_url: String,
    /// What runs ssh, where the user says nothing about it: it asks nobody anything.
    ssh: Option<&'static str>,
    limit: Duration,
}

/// What came of a push.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pushed {
    /// The branch is there what it is here.
    Done,
    /// The remote would not; why. It may be that it moved meanwhile.
    Refused(String),
}

impl Repo {
    /// Whether a remote of this name is configured.
    ///
    /// # Errors
    /// [`GitError`].
    pub fn has_remote(&self, name: &str) -> Result<bool, GitError> {
        let mut command = command::network(&self.program, &self.git_dir);
        command.arg("remote");
        let answer = command::output(command, "list the remotes")?;
        Ok(String::from_utf8_lossy(&answer)
            .lines()
            .any(|line| line == name))
    }

    /// The remote of this name; each thing that is asked of it may take up to `limit`.
    ///
    /// # Errors
    /// [`GitError::NoRemote`] among others.
    pub fn remote(&self, name: &str, limit: Duration) -> Result<Remote, GitError> {
        if name.starts_with('-') || !self.has_remote(name)? {
            return Err(GitError::NoRemote(name.into()));
        }
        let config = |arguments: &[&str]| {
            let mut command = command::network(&self.program, &self.git_dir);
            command.args(arguments);
            let answer = command::output(command, "read the configuration")?;
            Ok::<_, GitError>(String::from_utf8_lossy(&answer).trim_end().to_owned())
        };
        let push_url = config(&["remote", "get-url", "--push", name])?;
        let is_said = ["GIT_SSH", "GIT_SSH_COMMAND"]
            .iter()
            .any(|name| std::env::var_os(name).is_some())
            || config(&["config", "core.sshCommand"]).is_ok();
        Ok(Remote {
            repo: self.clone(),
            name: name.into(),
            push_url,
            ssh: (!is_said).then_some("ssh -o BatchMode=yes"),
            limit,
        })
    }
}

impl Remote {
    /// The same, with at most `limit` for each thing that is asked of it.
    #[must_use]
    pub fn within(self, limit: Duration) -> Self {
        let limit = limit.min(self.limit);
        Self { limit, ..self }
    }

    /// What it is called here.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its tip of a branch, where there is one.
    ///
    /// # Errors
    /// [`GitError::Failed`], [`GitError::TimedOut`].
    pub fn tip(&self, branch: &BranchName) -> Result<Option<GitOid>, GitError> {
        let doing = "ask the upstream";
        let mut command = self.command();
        command.args(["ls-remote", "--quiet", "--", &self.name, &branch.full()]);
        let answer = self.run(command, doing)?;
        // What ends in the same way is listed too.
        let of_it = |line: &str| {
            let (id, name) = line.split_once('\t')?;
            (name == branch.full()).then(|| id.to_owned())
        };
        match answer.lines().find_map(of_it) {
            Some(id) => id_of(doing, id.as_bytes()).map(Some),
            None => Ok(None),
        }
    }

    /// Gets the objects of a branch. No ref is written.
    ///
    /// # Errors
    /// As [`Self::tip`].
    pub fn fetch(&self, branch: &BranchName) -> Result<(), GitError> {
        let mut command = self.command();
        command
            .args(["fetch", "--quiet", "--no-tags", "--no-write-fetch-head"])
            .args(["--no-recurse-submodules", "--no-auto-maintenance"])
            // Not what it is tracked by.
            .args(["--refmap=", "--", &self.name, &branch.full()]);
        self.run(command, "fetch from the upstream")?;
        Ok(())
    }

    /// Makes `commit` its tip of a branch, if that is where the branch is now, or what comes after it.
    ///
    /// # Errors
    /// As [`Self::tip`].
    pub fn push(&self, commit: &GitOid, branch: &BranchName) -> Result<Pushed, GitError> {
        let doing = "push to the upstream";
        let mut command = self.command();
        command
            .args(["push", "--porcelain", "--no-verify", "--no-follow-tags"])
            .args(["--no-signed", "--recurse-submodules=no", "--"])
            // By its address, so that what tracks it is left alone.
            .arg(&self.push_url)
            .arg(format!("{commit}:{}", branch.full()));
        let Refusal { error, answer } = match self.run(command, doing) {
            Ok(_) => return Ok(Pushed::Done),
            Err(refusal) => refusal,
        };
        // `!\t<from>:<to>\t<reason>`
        match answer.lines().find_map(|line| line.strip_prefix("!\t")) {
            Some(refused) => {
                let reason = refused.rsplit('\t').next().unwrap_or_default();
                let printable = |c: &char| !c.is_control();
                Ok(Pushed::Refused(reason.chars().filter(printable).collect()))
            }
            None => Err(error),
        }
    }

    fn command(&self) -> Command {
        let mut command = command::network(&self.repo.program, &self.repo.git_dir);
        if let Some(ssh) = self.ssh {
            command.env("GIT_SSH_COMMAND", ssh);
        }
        command
    }

    /// Runs a command to its end, or ends it with all that it started.
    fn run(&self, mut command: Command, doing: &'static str) -> Result<String, Refusal> {
        let failed = |source| GitError::Run { doing, source };
        let failed = |source| Refusal::from(failed(source));
        // Files, not pipes: an ssh that stays for the next connection would hold them open.
        let mut stdout = tempfile::tempfile().map_err(failed)?;
        let mut stderr = tempfile::tempfile().map_err(failed)?;
        let to = |file: &File| file.try_clone().map(Stdio::from);
        command.stdout(to(&stdout).map_err(failed)?);
        command.stderr(to(&stderr).map_err(failed)?);
        let mut child = command.spawn().map_err(failed)?;
        let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let (ended, end) = mpsc::channel();
        thread::spawn(move || {
            // Nobody waits for it any more after the limit.
            let _ = ended.send(child.wait());
        });
        let status = match end.recv_timeout(self.limit) {
            Ok(status) => status.map_err(failed)?,
            Err(_) => {
                if let Some(group) = group {
                    let _ = kill_process_group(group, Signal::KILL);
                }
                let limit = self.limit;
                return Err(GitError::TimedOut { doing, limit }.into());
            }
        };
        let answer = read(&mut stdout).map_err(failed)?;
        if status.success() {
            return Ok(String::from_utf8_lossy(&answer).into_owned());
        }
        let said = command::said(&read(&mut stderr).map_err(failed)?);
        Err(Refusal {
            error: GitError::Failed { doing, said },
            answer: String::from_utf8_lossy(&answer).into_owned(),
        })
    }
}

/// A command that failed, and what it wrote.
struct Refusal {
    error: GitError,
    answer: String,
}

impl From<GitError> for Refusal {
    fn from(error: GitError) -> Self {
        Self {
            error,
            answer: String::new(),
        }
    }
}

impl From<Refusal> for GitError {
    fn from(refusal: Refusal) -> Self {
        refusal.error
    }
}

fn read(file: &mut File) -> std::io::Result<Vec<u8>> {
    let mut content = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut content)?;
    Ok(content)
}
