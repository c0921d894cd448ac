//! Where the state branch is: flags that several commands share, and opening it.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use jiff::Timestamp;
use scap_agent::clock;
use scap_proto::release::{Environment, RepoPath};

use super::{CliError, exit};
use crate::{
    git::{BranchName, GitError, Repo},
    state::{
        Base, Branch, BranchError, Failpoint, History, KnownTip, Place, Present, StateDirectory,
    },
};

/// How long the upstream may take for one answer. It is asked twice or three times for each change.
const UPSTREAM_MAX: Duration = Duration::from_secs(10);
/// The remote that is the upstream where nothing else is said.
const REMOTE: &str = "origin";
/// What says that there is no upstream.
const NO_REMOTE: &str = "none";

/// Which branch.
#[derive(Debug, Clone, Args)]
pub(super) struct BranchArgs {
    /// The branch that records what is deployed
    #[arg(
        long,
        value_name = "BRANCH",
        env = "SCAP_STATE_BRANCH",
        default_value = "scap/state"
    )]
    pub(super) state_branch: BranchName,
    /// The remote whose branch it is too, or `none` [default: origin, where there is one]
    #[arg(long, value_name = "REMOTE", env = "SCAP_STATE_REMOTE")]
    pub(super) state_remote: Option<String>,
}

/// Writing to it.
#[derive(Debug, Clone, Args)]
pub(super) struct RecordArgs {
    #[command(flatten)]
    pub(super) branch: BranchArgs,
    /// Do not ask the upstream of the state branch who else deploys; it is recorded
    #[arg(long)]
    pub(super) offline: bool,
}

impl BranchArgs {
    /// Whether there is an upstream.
    pub(super) fn has_remote(&self, repo: &Repo) -> Result<bool, CliError> {
        self.remote(repo).map(|it| it.is_some()).map_err(git_error)
    }

    /// The remote that is the upstream, if there is one.
    fn remote(&self, repo: &Repo) -> Result<Option<&str>, GitError> {
        match self.state_remote.as_deref() {
            Some(NO_REMOTE) => Ok(None),
            None if !repo.has_remote(REMOTE)? => Ok(None),
            name => Ok(Some(name.unwrap_or(REMOTE))),
        }
    }
}

impl BranchArgs {
    /// The branch as it is here, or as its upstream says that it is, where there is one.
    pub(super) fn history(&self, repo: &Repo, fetch: bool) -> Result<Option<History>, CliError> {
        let name = &self.state_branch;
        let remote = self.remote(repo).map_err(git_error)?;
        if !fetch {
            return History::open(repo, name, remote).map_err(|error| failed(&error));
        }
        let remote = remote.ok_or_else(|| {
            CliError::usage("--fetch: the state branch has no upstream")
                .hint("leave --fetch out, or name its remote with --state-remote".to_owned())
        })?;
        let remote = repo.remote(remote, UPSTREAM_MAX).map_err(git_error)?;
        let here = repo.tip(name).map_err(git_error)?;
        let Some(there) = remote.tip(name).map_err(git_error)? else {
            return Ok(here.map(|tip| History::at(repo, name, tip)));
        };
        if !repo.has_commit(&there).map_err(git_error)? {
            remote.fetch(name).map_err(git_error)?;
        }
        let is_further = match &here {
            // With what the upstream has not got yet.
            Some(here) => repo.is_ancestor(&there, here).map_err(git_error)?,
            None => false,
        };
        let tip = here.filter(|_| is_further).unwrap_or(there);
        Ok(Some(History::at(repo, name, tip)))
    }
}

impl RecordArgs {
    /// The branch in `repo`, to be written. With `state` it is noticed when it was rewritten since this machine wrote it.
    pub(super) fn open(
        &self,
        repo: Repo,
        place: &Place,
        state: Option<&StateDirectory>,
    ) -> Result<Branch, BranchError> {
        let remote = self.branch.remote(&repo)?.map(str::to_owned);
        let base = match &remote {
            None => Base::Here,
            // That there is such a remote is looked at all the same.
            Some(name) => {
                let remote = repo.remote(name, UPSTREAM_MAX)?;
                if self.offline {
                    Base::Offline(remote)
                } else {
                    Base::Upstream(remote)
                }
            }
        };
        let name = self.branch.state_branch.clone();
        let known = state.map(|state| {
            let remote = remote.as_deref().unwrap_or(NO_REMOTE);
            let of = format!("{name} {remote} {}", repo.git_dir().display());
            KnownTip::new(state.tip_path(&place.0, &place.1), of)
        });
        let failpoint = Failpoint::new(std::env::var("SCAP_FAILPOINT").ok());
        Ok(Branch::new(repo, name, base, known, failpoint))
    }
}

/// What is read of it.
#[derive(Debug, Clone, Args)]
pub(super) struct ReadArgs {
    /// The git repository with the state branch [default: the current directory, else the one in --state]
    #[arg(long, value_name = "PATH")]
    pub(super) repo: Option<PathBuf>,
    /// The state directory, for what was deployed with --dir
    #[arg(long, value_name = "DIR", env = "SCAP_STATE")]
    pub(super) state: Option<PathBuf>,
    #[command(flatten)]
    pub(super) branch: BranchArgs,
    /// Only of this environment
    #[arg(long, value_name = "ENV")]
    pub(super) environment: Option<Environment>,
    /// Only of the repo of this name
    #[arg(long, value_name = "REPO")]
    pub(super) name: Option<RepoPath>,
    /// Ask the upstream first
    #[arg(long)]
    pub(super) fetch: bool,
    /// Print one JSON object
    #[arg(long)]
    pub(super) json: bool,
}

impl ReadArgs {
    /// The repository that it is in.
    pub(super) fn repo(&self) -> Result<Repo, CliError> {
        let open = |path: PathBuf| {
            Repo::open(&path)
                .map_err(|error| CliError::failed("open the repo", &error).hint(error.hint()))
        };
        if let Some(path) = &self.repo {
            return open(path.clone());
        }
        let of_directories = self.state.as_ref().map(|state| state.join("state.git"));
        match Repo::open(".".as_ref()) {
            Ok(repo) => Ok(repo),
            Err(_) => match of_directories.filter(|path| path.is_dir()) {
                Some(path) => open(path),
                None => Err(
                    CliError::usage("the current directory is no git repository").hint(
                        "name one with --repo, or with --state where directories are deployed"
                            .to_owned(),
                    ),
                ),
            },
        }
    }

    /// What is wanted of what the branch has now. A place that cannot be read is told.
    ///
    /// # Errors
    /// Where it is the only one, or none can be read.
    pub(super) fn present(&self, history: Option<&History>) -> Result<Vec<Present>, CliError> {
        let Some(history) = history else {
            return Ok(Vec::new());
        };
        let all = history.present().map_err(|error| failed(&error))?;
        let wanted: Vec<_> = all
            .into_iter()
            .filter(|(place, _)| self.is_wanted(place))
            .collect();
        let is_one = wanted.len() == 1;
        let mut read = Vec::new();
        for ((repo, environment), present) in wanted {
            match present {
                Ok(present) => read.push(present),
                Err(error) if is_one => return Err(failed(&error)),
                Err(error) => {
                    let error = scap_agent::error_chain(&error);
                    eprintln!("warning: {environment} {repo} is left out: {error}");
                }
            }
        }
        Ok(read)
    }

    /// The branch as it is now, where there is one.
    pub(super) fn open(&self) -> Result<(Repo, Option<History>), CliError> {
        let repo = self.repo()?;
        let history = self.branch.history(&repo, self.fetch)?;
        Ok((repo, history))
    }

    /// Whether only a state directory was named, in which nothing was deployed with `--dir` yet.
    pub(super) fn is_of_state_alone(&self) -> bool {
        self.repo.is_none() && self.state.is_some()
    }

    /// Whether a place was asked for.
    pub(super) fn is_wanted(&self, (repo, environment): &Place) -> bool {
        self.name.as_ref().is_none_or(|name| name == repo)
            && self
                .environment
                .as_ref()
                .is_none_or(|name| name == environment)
    }
}

/// The repository with the state branch of what is deployed: the one that it is in, or that of directories.
pub(super) fn repo_of(repo: Option<&Repo>, state: &StateDirectory) -> Result<Repo, CliError> {
    if let Some(repo) = repo {
        return Ok(repo.clone());
    }
    let path = state.state_repo();
    if let Ok(repo) = Repo::open(&path) {
        return Ok(repo);
    }
    let _making = state.making_state_repo().map_err(|error| {
        CliError::failed("make the repository of the state branch", &error).hint(error.hint())
    })?;
    open_or_make(&path).map_err(|error| {
        CliError::failed("open the repository of the state branch", &error).hint(error.hint())
    })
}

/// The bare repository at `path`, made where there is none, and made whole where that was begun and not ended. What is in it
/// stays.
fn open_or_make(path: &Path) -> Result<Repo, GitError> {
    if path.is_dir() {
        match Repo::open(path) {
            Err(GitError::NotARepository(_)) => {}
            opened => return opened,
        }
        // Git's own, of when it was killed: whoever makes it is alone in here.
        for lock in ["HEAD.lock", "config.lock"] {
            let _ = fs::remove_file(path.join(lock));
        }
    }
    Repo::init_bare(path)
}

/// The time, as the branch has it.
pub(super) fn now() -> Timestamp {
    let millis = i64::try_from(clock::now().0).unwrap_or(i64::MAX);
    Timestamp::from_millisecond(millis).unwrap_or(Timestamp::MAX)
}

/// How a command fails on the branch.
pub(super) fn failed(error: &BranchError) -> CliError {
    let code = match error {
        _ if error.is_held() => exit::LOCKED,
        _ if error.is_misuse() => exit::USAGE,
        _ if error.needs_a_person() => exit::STOPPED,
        _ => exit::FAILED,
    };
    CliError::failed("use the state branch", error)
        .code(code)
        .hint(error.hint())
}

fn git_error(error: GitError) -> CliError {
    failed(&BranchError::from(error))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_repository_that_was_half_made_is_made_whole() {
        let folder = tempfile::tempdir().unwrap();
        let half: [&[(&str, &str)]; 4] = [
            &[],
            &[("config.lock", "")],
            &[
                ("HEAD", "ref: refs/he"),
                ("config", "[core]\n"),
                ("config.lock", "[core]\n\tb"),
            ],
            &[("HEAD", "ref: refs/heads/main\n"), ("HEAD.lock", "")],
        ];
        for (number, files) in half.iter().enumerate() {
            let path = folder.path().join(format!("{number}.git"));
            fs::create_dir(&path).unwrap();
            for (name, content) in *files {
                fs::write(path.join(name), content).unwrap();
            }
            assert!(Repo::open(&path).is_err(), "{number} is whole");
            let made = open_or_make(&path).unwrap();
            made.write_files(&[b"one"]).unwrap();
            // And stays as it is.
            fs::write(path.join("description"), "ours").unwrap();
            open_or_make(&path).unwrap();
            assert_eq!(fs::read(path.join("description")).unwrap(), b"ours");
        }
    }
}
