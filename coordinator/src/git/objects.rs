//! Commits, folders and files of a branch of ours, read and written as objects.

use std::{
    io::{BufRead, BufReader, Write},
    process::{ChildStdin, ChildStdout, Stdio},
};

use scap_proto::id::GitOid;

use super::{
    Blobs, ChangesError, GitError, Mode, Repo,
    changes::{parse, read_whole, root},
    command::{self, Running},
};

/// One name in a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// The name, without a slash.
    pub name: Vec<u8>,
    /// `None` for a folder.
    pub mode: Option<Mode>,
    /// Its content.
    pub id: GitOid,
}

impl Item {
    /// A plain file.
    pub fn file(name: &str, id: GitOid) -> Self {
        let (name, mode) = (name.into(), Some(Mode::File));
        Self { name, mode, id }
    }

    /// A folder.
    pub fn folder(name: &str, id: GitOid) -> Self {
        let (name, mode) = (name.into(), None);
        Self { name, mode, id }
    }

    /// As `git mktree -z` reads it.
    fn line(&self) -> Vec<u8> {
        let (mode, kind) = match self.mode {
            None => ("040000", "tree"),
            Some(Mode::File) => ("100644", "blob"),
            Some(Mode::Executable) => ("100755", "blob"),
            Some(Mode::Symlink) => ("120000", "blob"),
            Some(Mode::Gitlink) => ("160000", "commit"),
        };
        let mut line = format!("{mode} {kind} {}\t", self.id).into_bytes();
        line.extend_from_slice(&self.name);
        line.push(0);
        line
    }
}

/// Reads objects by their ids, through one process.
#[derive(Debug)]
pub struct Objects(Blobs);

impl Repo {
    /// Starts a reader of objects, a process of its own.
    ///
    /// # Errors
    /// Where git cannot be started.
    pub fn objects(&self) -> Result<Objects, GitError> {
        self.blobs().map(Objects)
    }
}

impl Objects {
    /// The top folder of a commit.
    ///
    /// # Errors
    /// [`GitError::MissingObject`], [`GitError::Malformed`] among others.
    pub fn root(&mut self, commit: &GitOid) -> Result<GitOid, GitError> {
        root(&mut self.0, commit).map_err(git)
    }

    /// What is in a folder, in git's order.
    ///
    /// # Errors
    /// As [`Self::root`].
    pub fn folder(&mut self, tree: &GitOid) -> Result<Vec<Item>, GitError> {
        let content = self.content("tree", tree)?;
        let items = parse(&content, tree.as_bytes().len());
        let items = items.ok_or_else(|| GitError::Malformed(tree.clone()))?;
        let item = |item: super::changes::Item| {
            let mut name = item.key;
            name.pop_if(|last| *last == b'/');
            Item {
                name,
                mode: item.mode,
                id: item.id,
            }
        };
        Ok(items.into_iter().map(item).collect())
    }

    /// The content of a file of at most `bytes_max`.
    ///
    /// # Errors
    /// [`GitError::FileTooLarge`], and as [`Self::root`].
    pub fn file(&mut self, blob: &GitOid, bytes_max: u64) -> Result<Vec<u8>, GitError> {
        let mut content = Vec::new();
        self.files(std::slice::from_ref(blob), bytes_max, |_, read| {
            content = read.to_vec();
            Ok::<(), GitError>(())
        })?;
        Ok(content)
    }

    /// Gives `each` the index and the content of each of `blobs`, in order. Many are read far quicker than one by one.
    ///
    /// # Errors
    /// As [`Self::file`], and what `each` returns.
    pub fn files<E: From<GitError>>(
        &mut self,
        blobs: &[GitOid],
        bytes_max: u64,
        mut each: impl FnMut(usize, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        self.0.read(blobs, |index, source| {
            let blob = &blobs[index];
            let mut source = std::io::Read::take(source, bytes_max + 1);
            let content = read_whole(blob, &mut source).map_err(git)?;
            let size = content.len() as u64;
            if size > bytes_max {
                let path = blob.to_string();
                return Err(E::from(GitError::FileTooLarge {
                    path,
                    size,
                    bytes_max,
                }));
            }
            each(index, &content)
        })
    }

    /// A commit as git stores it.
    ///
    /// # Errors
    /// As [`Self::root`].
    pub fn commit(&mut self, id: &GitOid) -> Result<Vec<u8>, GitError> {
        self.content("commit", id)
    }

    fn content(&mut self, kind: &'static str, id: &GitOid) -> Result<Vec<u8>, GitError> {
        let mut content = Vec::new();
        let each = |_, source: &mut dyn std::io::Read| -> Result<(), ChangesError> {
            content = read_whole(id, source)?;
            Ok(())
        };
        self.0
            .read_objects(kind, std::slice::from_ref(id), each)
            .map_err(git)?;
        Ok(content)
    }
}

/// Who makes a commit, and when.
#[derive(Debug, Clone)]
pub struct Author {
    /// The name.
    pub name: String,
    /// The mail address, or what stands in its place.
    pub mail: String,
    /// In seconds since 1970.
    pub time: i64,
}

impl Repo {
    /// Writes files, which are few and small, and returns their ids in order.
    ///
    /// # Errors
    /// [`GitError`]; what was written by then stays, and nothing refers to it.
    pub fn write_files(&self, files: &[&[u8]]) -> Result<Vec<GitOid>, GitError> {
        let doing = "write files";
        let run = |source| GitError::Run { doing, source };
        // So that one process takes them all.
        let folder = tempfile::tempdir().map_err(run)?;
        let mut names = Vec::new();
        for (index, content) in files.iter().enumerate() {
            let path = folder.path().join(index.to_string());
            std::fs::write(&path, content).map_err(run)?;
            names.extend_from_slice(path.as_os_str().as_encoded_bytes());
            names.push(b'\n');
        }
        let mut command = self.write_command();
        command.args(["hash-object", "-w", "--no-filters", "--stdin-paths"]);
        let answer = command::output_of(command, &names, doing)?;
        let answer = String::from_utf8_lossy(&answer);
        let ids = answer
            .lines()
            .map(str::parse)
            .collect::<Result<Vec<_>, _>>();
        match ids {
            Ok(ids) if ids.len() == files.len() => Ok(ids),
            _ => Err(misread(doing, &answer)),
        }
    }

    /// Starts a writer of folders, a process of its own.
    ///
    /// # Errors
    /// Where git cannot be started.
    pub fn folder_writer(&self) -> Result<Writer, GitError> {
        let mut command = self.write_command();
        command
            .args(["mktree", "-z", "--batch"])
            .stdin(Stdio::piped());
        let mut running = Running::start(command, "write folders")?;
        let stdin = running.child.stdin.take().expect("stdin is piped");
        let stdout = running.child.stdout.take().expect("stdout is piped");
        Ok(Writer {
            running,
            stdin,
            stdout: BufReader::new(stdout),
        })
    }

    /// Writes a commit of a folder.
    ///
    /// # Errors
    /// [`GitError`].
    pub fn write_commit(
        &self,
        tree: &GitOid,
        parent: Option<&GitOid>,
        author: &Author,
        message: &str,
    ) -> Result<GitOid, GitError> {
        let doing = "write a commit";
        let mut command = self.write_command();
        for who in ["AUTHOR", "COMMITTER"] {
            command
                .env(format!("GIT_{who}_NAME"), &author.name)
                .env(format!("GIT_{who}_EMAIL"), &author.mail)
                .env(format!("GIT_{who}_DATE"), format!("@{} +0000", author.time));
        }
        command.arg("commit-tree").arg(tree.to_string());
        if let Some(parent) = parent {
            command.arg("-p").arg(parent.to_string());
        }
        command.args(["-F", "-"]);
        let answer = command::output_of(command, message.as_bytes(), doing)?;
        id_of(doing, &answer)
    }

    /// Writes a commit as git stores it.
    ///
    /// # Errors
    /// [`GitError`], where git finds that it is none.
    pub fn write_raw_commit(&self, commit: &[u8]) -> Result<GitOid, GitError> {
        let doing = "write a commit";
        let mut command = self.write_command();
        command.args(["hash-object", "-t", "commit", "-w", "--stdin"]);
        id_of(doing, &command::output_of(command, commit, doing)?)
    }
}

/// Writes folders, through one process. After an error it is of no further use.
#[derive(Debug)]
pub struct Writer {
    running: Running,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Writer {
    /// Writes a folder of objects that are there, in any order.
    ///
    /// # Errors
    /// [`GitError`], where one is missing in particular.
    pub fn write(&mut self, items: &[Item]) -> Result<GitOid, GitError> {
        let doing = self.running.doing;
        let mut input = Vec::new();
        for item in items {
            input.extend_from_slice(&item.line());
        }
        // The end of this one.
        input.push(0);
        let written = self
            .stdin
            .write_all(&input)
            .and_then(|()| self.stdin.flush());
        let mut line = String::new();
        let read = written.and_then(|()| self.stdout.read_line(&mut line));
        if read.is_err() || line.is_empty() {
            return Err(self.running.ended_early());
        }
        id_of(doing, line.as_bytes())
    }
}

pub(super) fn id_of(doing: &'static str, answer: &[u8]) -> Result<GitOid, GitError> {
    let answer = String::from_utf8_lossy(answer);
    let id = answer.trim_end().parse();
    id.map_err(|_| misread(doing, &answer))
}

fn misread(doing: &'static str, answer: &str) -> GitError {
    GitError::Answer {
        doing,
        answer: answer.trim_end().escape_debug().to_string(),
    }
}

pub(super) fn git(error: ChangesError) -> GitError {
    match error {
        ChangesError::Git(error) => error,
        ChangesError::Malformed(id) => GitError::Malformed(id),
        ChangesError::Read { source, .. } => GitError::Run {
            doing: "read an object",
            source,
        },
        ChangesError::TooMany => unreachable!("nothing is compared"),
    }
}
