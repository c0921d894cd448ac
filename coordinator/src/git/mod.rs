//! Git repositories, by the git program: revisions, trees and blobs straight from the object database, and what is
//! written to a branch of ours straight into it. Index and work tree are not touched, and nothing in the repository is
//! executed, but for what its configuration names to reach a remote.

mod blobs;
mod changes;
mod command;
mod error;
mod modes;
mod objects;
mod refs;
mod remote;
mod tree;

use std::{
    ffi::{OsStr, OsString},
    io::{self, Read},
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use scap_proto::{content::RelPath, id::GitOid};

use self::{blobs::Sizes, command::Running};
pub use self::{
    blobs::{Blobs, REQUESTS_AHEAD_MAX},
    changes::{CHANGES_MAX, Change, ChangesError},
    error::GitError,
    objects::{Author, Item, Objects, Writer},
    refs::{BranchName, BranchNameError, Written},
    remote::{Pushed, Remote},
    tree::{Mode, Tree, TreeEntry},
};

/// A repository: bare or not, a linked work tree too, of SHA-1 or SHA-256.
#[derive(Debug, Clone)]
pub struct Repo {
    program: OsString,
    git_dir: PathBuf,
}

/// A commit, and what people know it by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// Its id.
    pub id: GitOid,
    /// The first paragraph of its message, as one line. Not escaped.
    pub subject: String,
    /// `Name <mail>`. Not escaped.
    pub author: String,
    /// When it was committed, in seconds since 1970.
    pub time: i64,
}

impl Commit {
    /// The author without the mail address. Not escaped.
    pub fn author_name(&self) -> &str {
        let (name, _) = self.author.rsplit_once(" <").unwrap_or((&self.author, ""));
        name
    }
}

impl Repo {
    /// Opens the repository whose top, or whose git directory, is `path`.
    ///
    /// # Errors
    /// [`GitError`]; one of another user is refused unless the user's configuration trusts it.
    pub fn open(path: &Path) -> Result<Self, GitError> {
        Self::open_with(OsStr::new("git"), path)
    }

    fn open_with(program: &OsStr, path: &Path) -> Result<Self, GitError> {
        let open = |source| GitError::Open {
            path: path.to_owned(),
            source,
        };
        let directory = path.canonicalize().map_err(open)?;
        if !directory.is_dir() {
            return Err(open(io::ErrorKind::NotADirectory.into()));
        }
        let mut command = command::discover(program, &directory);
        command.args(["rev-parse", "--absolute-git-dir"]);
        let mut git_dir = match command::output(command, "open the repository") {
            Err(GitError::Failed { said, .. }) if said.contains("dubious ownership") => {
                return Err(GitError::OtherOwner(directory));
            }
            Err(GitError::Failed { said, .. }) if said.contains("not a git repository") => {
                return Err(GitError::NotARepository(directory));
            }
            other => other?,
        };
        git_dir.pop_if(|last| *last == b'\n');
        Ok(Self {
            program: program.to_owned(),
            git_dir: OsString::from_vec(git_dir).into(),
        })
    }

    /// Makes an empty bare repository.
    ///
    /// # Errors
    /// [`GitError::Open`], and those of git.
    pub fn init_bare(path: &Path) -> Result<Self, GitError> {
        let program = OsStr::new("git");
        let mut command = command::bare(program);
        command
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .args(["init", "--quiet", "--bare", "--template=", "--"])
            .arg(path);
        command::output(command, "make a repository")?;
        Self::open_with(program, path)
    }

    /// The top of its work tree, as an absolute path, where `path` is that or the `.git` in it; `None` of a bare one.
    ///
    /// # Errors
    /// [`GitError`].
    pub fn work_tree(&self, path: &Path) -> Result<Option<PathBuf>, GitError> {
        let above = self.git_dir.parent();
        let above = above.filter(|_| self.git_dir.ends_with(".git"));
        for directory in std::iter::once(path).chain(above) {
            let mut command = command::discover(&self.program, directory);
            command.args(["rev-parse", "--show-toplevel"]);
            match command::output(command, "find the work tree") {
                Ok(mut top) => {
                    top.pop_if(|last| *last == b'\n');
                    return Ok(Some(OsString::from_vec(top).into()));
                }
                Err(GitError::Failed { said, .. }) if said.contains("in a work tree") => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Where its objects and refs are: an absolute path.
    pub fn git_dir(&self) -> &Path {
        &self.git_dir
    }

    /// The commit that `revision` names, through tags.
    ///
    /// # Errors
    /// [`GitError::UnknownRevision`] and [`GitError::NotACommit`] among others.
    pub fn resolve(&self, revision: &str) -> Result<Commit, GitError> {
        let unknown = || GitError::UnknownRevision(revision.into());
        if revision.contains('\0') {
            return Err(unknown());
        }
        let Some(object) = self.parse_revision(revision)? else {
            return Err(unknown());
        };
        match self.parse_revision(&format!("{object}^{{commit}}"))? {
            Some(id) => self.describe(id),
            None => match self.kind(&object)? {
                Some(kind) => Err(GitError::NotACommit {
                    revision: revision.into(),
                    kind,
                }),
                None => Err(unknown()),
            },
        }
    }

    /// The object of a commit, where it has a signature: what git hashes for its id, without the header.
    ///
    /// # Errors
    /// [`GitError`].
    pub fn signed_object(&self, commit: &GitOid) -> Result<Option<Vec<u8>>, GitError> {
        let mut command = self.command();
        command.args(["cat-file", "commit", &commit.to_string()]);
        let object = command::output(command, "read the commit")?;
        let mut header = object.split(|byte| *byte == b'\n');
        let is_signed = header
            .by_ref()
            .take_while(|line| !line.is_empty())
            .any(|line| line.starts_with(b"gpgsig "));
        Ok(is_signed.then_some(object))
    }

    /// The files of a commit in the order of their paths' bytes, as long as its trees are in order.
    ///
    /// # Errors
    /// Where git cannot be started. Others come with the entries.
    pub fn tree(&self, commit: &GitOid) -> Result<Tree, GitError> {
        self.list(commit, None)
    }

    /// What a commit has at `path`: a file, all files of a directory, or nothing.
    ///
    /// # Errors
    /// As [`Self::tree`].
    pub fn tree_below(&self, commit: &GitOid, path: &RelPath) -> Result<Tree, GitError> {
        self.list(commit, Some(path))
    }

    /// Starts a reader of blobs, a process of its own.
    ///
    /// # Errors
    /// Where git cannot be started.
    pub fn blobs(&self) -> Result<Blobs, GitError> {
        let mut command = self.command();
        command.args(["cat-file", "--batch"]).stdin(Stdio::piped());
        Running::start(command, "read files of the commit").map(Blobs::new)
    }

    /// What is to be done to the files of commit `from` to get those of commit `to`, in the order of their paths'
    /// bytes. What the two have in common is not looked at.
    ///
    /// # Errors
    /// [`ChangesError`].
    pub fn changes(&self, from: &GitOid, to: &GitOid) -> Result<Vec<Change>, ChangesError> {
        changes::changes(self, from, to)
    }

    fn sizes(&self) -> Result<Sizes, GitError> {
        let mut command = self.command();
        command
            .args(["cat-file", "--batch-check"])
            .stdin(Stdio::piped());
        Running::start(command, "look at files of the commit").map(Sizes::new)
    }

    /// The content of the file at `path`, or `None` where the commit has nothing there.
    ///
    /// # Errors
    /// [`GitError::NotAFile`], [`GitError::FileTooLarge`] among others.
    pub fn read_file(
        &self,
        commit: &GitOid,
        path: &RelPath,
        bytes_max: u64,
    ) -> Result<Option<Vec<u8>>, GitError> {
        let Some(entry) = self.list(commit, Some(path))?.next().transpose()? else {
            return Ok(None);
        };
        // A directory lists what is in it.
        let is_file = matches!(entry.mode, Mode::File | Mode::Executable);
        if !is_file || entry.path != path.as_bytes() {
            return Err(GitError::NotAFile(path.to_string()));
        }
        if entry.size > bytes_max {
            return Err(GitError::FileTooLarge {
                path: path.to_string(),
                size: entry.size,
                bytes_max,
            });
        }
        let mut content = Vec::new();
        let read = |_, source: &mut dyn Read| {
            source
                .read_to_end(&mut content)
                .map(|_| ())
                .map_err(|source| GitError::Run {
                    doing: "read a file of the commit",
                    source,
                })
        };
        self.blobs()?.read(&[entry.id], read)?;
        Ok(Some(content))
    }

    fn list(&self, commit: &GitOid, path: Option<&RelPath>) -> Result<Tree, GitError> {
        let mut command = self.command();
        command
            .args(["ls-tree", "-r", "-z", "--long", "--full-tree"])
            .arg(commit.to_string())
            .arg("--")
            .args(path.map(RelPath::as_path));
        Running::start(command, "list the files of the commit").map(Tree::new)
    }

    /// The object that `revision` names, whether the repository has it or not.
    fn parse_revision(&self, revision: &str) -> Result<Option<GitOid>, GitError> {
        let mut command = self.command();
        command.args(["rev-parse", "--verify", "--quiet", "--end-of-options"]);
        command.arg(revision);
        match command::output(command, "look up the revision") {
            // `^REV` verifies, and its answer is no id.
            Ok(answer) => Ok(String::from_utf8_lossy(&answer).trim_end().parse().ok()),
            Err(GitError::Failed { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn kind(&self, object: &GitOid) -> Result<Option<String>, GitError> {
        let mut command = self.command();
        command.args(["cat-file", "-t"]).arg(object.to_string());
        match command::output(command, "look up the revision") {
            Ok(kind) => Ok(Some(String::from_utf8_lossy(&kind).trim_end().into())),
            Err(GitError::Failed { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The commits of `newer` that `older` has not, the latest first, `count_max` at most.
    ///
    /// # Errors
    /// [`GitError`].
    pub fn log(
        &self,
        older: &GitOid,
        newer: &GitOid,
        count_max: usize,
    ) -> Result<Vec<Commit>, GitError> {
        self.describe_all(&[&newer.to_string(), &format!("^{older}")], count_max)
    }

    fn describe(&self, id: GitOid) -> Result<Commit, GitError> {
        let mut commits = self.describe_all(&[&id.to_string()], 1)?;
        commits.pop().ok_or(GitError::MissingObject(id))
    }

    fn describe_all(&self, range: &[&str], count_max: usize) -> Result<Vec<Commit>, GitError> {
        let doing = "read the commit";
        let mut command = self.command();
        command
            .args(["rev-list", &format!("--max-count={count_max}")])
            .arg("--format=%H%x00%ct%x00%an <%ae>%x00%s")
            .args(range);
        let answer = command::output(command, doing)?;
        let answer = String::from_utf8_lossy(&answer);
        let parse = |line: &str| {
            let mut fields = line.splitn(4, '\0');
            Some(Commit {
                id: fields.next()?.parse().ok()?,
                time: fields.next()?.parse().ok()?,
                author: fields.next()?.into(),
                subject: fields.next()?.into(),
            })
        };
        // Each comes after a line `commit <id>`.
        let lines = answer.lines().skip(1).step_by(2);
        lines
            .map(|line| {
                parse(line).ok_or_else(|| GitError::Answer {
                    doing,
                    answer: line.escape_debug().to_string(),
                })
            })
            .collect()
    }

    fn command(&self) -> Command {
        command::read(&self.program, &self.git_dir)
    }

    fn write_command(&self) -> Command {
        command::write(&self.program, &self.git_dir)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
pub(crate) mod tests;
