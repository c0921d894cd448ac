//! A branch: its tip, what came before it, and moving it from one tip to the next.

use std::{
    ffi::OsString,
    fmt, io,
    os::unix::{ffi::OsStringExt, fs::MetadataExt},
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use scap_proto::id::{GitOid, is_plain_name};

use super::{
    GitError, Repo,
    command::{self, Running},
    objects::id_of,
};

/// How old a lock on a branch must be to be that of a git that was killed: git holds one for milliseconds.
const LOCK_AGE_MIN: Duration = Duration::from_secs(60);

/// The name of a branch, without `refs/heads/`: plain names with slashes between, which git takes as they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BranchName(String);

impl BranchName {
    /// Longest part between slashes, in bytes.
    const PART_MAX: usize = 100;

    /// As git knows it: `refs/heads/…`.
    pub fn full(&self) -> String {
        format!("refs/heads/{}", self.0)
    }
}

impl FromStr for BranchName {
    type Err = BranchNameError;

    fn from_str(text: &str) -> Result<Self, BranchNameError> {
        let good = |part: &str| {
            is_plain_name(part, Self::PART_MAX)
                && !part.contains("..")
                && !part.ends_with('.')
                && !part.ends_with(".lock")
        };
        if text.split('/').all(good) {
            Ok(Self(text.into()))
        } else {
            Err(BranchNameError(text.escape_debug().take(64).collect()))
        }
    }
}

impl fmt::Display for BranchName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A text that is no such name.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a name of a branch: letters, digits, `.`, `_`, `-`, with slashes between")]
pub struct BranchNameError(String);

/// A commit that wrote a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Which.
    pub commit: GitOid,
    /// What it wrote; `None` where it removed the file.
    pub file: Option<GitOid>,
    /// Where.
    pub path: String,
}

impl Repo {
    /// The tip of a branch, where there is one.
    ///
    /// # Errors
    /// [`GitError`].
    pub fn tip(&self, branch: &BranchName) -> Result<Option<GitOid>, GitError> {
        self.tip_of(&branch.full())
    }

    /// What was last fetched of a remote's branch, where that is tracked.
    ///
    /// # Errors
    /// [`GitError`].
    pub fn tracked_tip(
        &self,
        remote: &str,
        branch: &BranchName,
    ) -> Result<Option<GitOid>, GitError> {
        self.tip_of(&format!("refs/remotes/{remote}/{branch}"))
    }

    fn tip_of(&self, name: &str) -> Result<Option<GitOid>, GitError> {
        let doing = "read the branch";
        let mut command = self.command();
        command.args(["for-each-ref", "--format=%(refname) %(objectname)"]);
        command.arg(name);
        let answer = command::output(command, doing)?;
        let answer = String::from_utf8_lossy(&answer);
        // Those below it are listed too.
        let of_it = |line: &str| {
            line.strip_prefix(name)?
                .strip_prefix(' ')
                .map(str::to_owned)
        };
        match answer.lines().find_map(of_it) {
            Some(id) => id_of(doing, id.as_bytes()).map(Some),
            None => Ok(None),
        }
    }

    /// Whether a commit is here.
    ///
    /// # Errors
    /// [`GitError`].
    pub fn has_commit(&self, id: &GitOid) -> Result<bool, GitError> {
        Ok(self.kind(id)?.as_deref() == Some("commit"))
    }

    /// Moves a branch from `old` (`None`: it is not there) to `new`, with `why` in its log. Whether it was at `old`, without
    /// which nothing is done. A crash leaves the one or the other.
    ///
    /// # Errors
    /// [`GitError`].
    pub fn move_branch(
        &self,
        branch: &BranchName,
        old: Option<&GitOid>,
        new: &GitOid,
        why: &str,
    ) -> Result<bool, GitError> {
        let moved = self.try_move(branch, old, new, why);
        let Err(error @ GitError::Failed { .. }) = moved else {
            return moved.map(|()| true);
        };
        if self.tip(branch)?.as_ref() != old {
            return Ok(false);
        }
        if !self.clear_stale_lock(branch)? {
            return Err(error);
        }
        self.try_move(branch, old, new, why).map(|()| true)
    }

    fn try_move(
        &self,
        branch: &BranchName,
        old: Option<&GitOid>,
        new: &GitOid,
        why: &str,
    ) -> Result<(), GitError> {
        let mut command = self.write_command();
        command
            .env("GIT_COMMITTER_NAME", "scap")
            .env("GIT_COMMITTER_EMAIL", "scap")
            .args(["update-ref", "-m", why])
            .arg(branch.full())
            .arg(new.to_string())
            .arg(old.map(ToString::to_string).unwrap_or_default());
        command::output(command, "move the branch").map(|_| ())
    }

    /// Whether a commit is kept under the ref `name`.
    ///
    /// # Errors
    /// [`GitError`].
    pub fn is_set_aside(&self, name: &str) -> Result<bool, GitError> {
        Ok(self.tip_of(name)?.is_some())
    }

    /// Keeps a commit under the ref `name`, in the place of any other.
    ///
    /// # Errors
    /// [`GitError`].
    pub fn set_aside(&self, name: &str, commit: &GitOid) -> Result<(), GitError> {
        let mut command = self.write_command();
        command.args(["update-ref", name]).arg(commit.to_string());
        command::output(command, "set a commit aside").map(|_| ())
    }

    /// Removes the lock that a git which was killed has left on the branch: one of ours that is older than any git works on a
    /// branch. Whether there was one.
    fn clear_stale_lock(&self, branch: &BranchName) -> Result<bool, GitError> {
        let doing = "look for a lock on the branch";
        let run = |source| GitError::Run { doing, source };
        let mut command = self.command();
        command.args(["rev-parse", "--git-path"]);
        command.arg(format!("{}.lock", branch.full()));
        let mut path = command::output(command, doing)?;
        path.pop_if(|last| *last == b'\n');
        let path = PathBuf::from(OsString::from_vec(path));
        let found = match path.symlink_metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            found => found.map_err(run)?,
        };
        let age = found.modified().ok().and_then(|at| at.elapsed().ok());
        let is_ours = found.uid() == rustix::process::geteuid().as_raw();
        if !is_ours || age.is_none_or(|age| age < LOCK_AGE_MIN) {
            return Ok(false);
        }
        tracing::warn!(path = %path.display(), "removing the lock of a git that was killed");
        std::fs::remove_file(&path).map_err(run)?;
        Ok(true)
    }

    /// Whether `older` is `newer` or came before it. A commit that is not here came before nothing.
    ///
    /// # Errors
    /// [`GitError`].
    pub fn is_ancestor(&self, older: &GitOid, newer: &GitOid) -> Result<bool, GitError> {
        if older == newer {
            return Ok(true);
        }
        if !self.has_commit(older)? {
            return Ok(false);
        }
        // What is in `older` and not in `newer`: nothing, then.
        let mut command = self.command();
        command.args(["rev-list", "--max-count=1"]);
        command.arg(older.to_string()).arg(format!("^{newer}"));
        Ok(command::output(command, "compare commits")?.is_empty())
    }

    /// The latest commit that both came from.
    ///
    /// # Errors
    /// [`GitError`].
    pub fn merge_base(&self, one: &GitOid, other: &GitOid) -> Result<Option<GitOid>, GitError> {
        let doing = "compare commits";
        let mut command = self.command();
        command
            .arg("merge-base")
            .arg(one.to_string())
            .arg(other.to_string());
        match command::output(command, doing) {
            Ok(answer) => id_of(doing, &answer).map(Some),
            // It says nothing where there is none.
            Err(GitError::Failed { said, .. }) if said.is_empty() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The commits of `newer` that `older` has not, the earliest first.
    ///
    /// # Errors
    /// [`GitError`].
    pub fn commits_between(&self, older: &GitOid, newer: &GitOid) -> Result<Vec<GitOid>, GitError> {
        let doing = "list commits";
        let mut command = self.command();
        command.args(["rev-list", "--reverse", "--topo-order"]);
        command.arg(newer.to_string()).arg(format!("^{older}"));
        let answer = command::output(command, doing)?;
        let answer = String::from_utf8_lossy(&answer);
        answer
            .lines()
            .map(|line| id_of(doing, line.as_bytes()))
            .collect()
    }

    /// Each writing of a file at `path`, or below it, in the history of `tip`, the latest first.
    ///
    /// # Errors
    /// [`GitError`].
    pub fn writings(&self, tip: &GitOid, path: &str) -> Result<Vec<Written>, GitError> {
        let doing = "read the branch's history";
        let mut command = self.command();
        command
            .arg("rev-list")
            .arg(tip.to_string())
            .args(["--", path]);
        let mut list = Running::start(command, doing)?;
        let commits = list.child.stdout.take().expect("stdout is piped");
        let mut command = self.command();
        command
            .args(["diff-tree", "--stdin", "--root", "-r", "-m", "--no-renames"])
            .args(["--no-ext-diff", "--no-abbrev", "--raw", "--", path])
            .stdin(commits);
        let answer = command::output(command, doing)?;
        list.finish()?;
        let answer = String::from_utf8_lossy(&answer);
        let mut found = Vec::new();
        let mut commit = None;
        for line in answer.lines() {
            let misread = || GitError::Answer {
                doing,
                answer: line.escape_debug().to_string(),
            };
            let Some(raw) = line.strip_prefix(':') else {
                commit = Some(id_of(
                    doing,
                    line.split(' ').next().unwrap_or(line).as_bytes(),
                )?);
                continue;
            };
            // `<old mode> <new mode> <old id> <new id> <what>\t<path>`
            let (fields, path) = raw.split_once('\t').ok_or_else(misread)?;
            let file = fields.split(' ').nth(3).ok_or_else(misread)?;
            let is_gone = file.bytes().all(|digit| digit == b'0');
            found.push(Written {
                commit: commit.clone().ok_or_else(misread)?,
                file: match is_gone {
                    true => None,
                    false => Some(id_of(doing, file.as_bytes())?),
                },
                path: path.to_owned(),
            });
        }
        Ok(found)
    }
}
