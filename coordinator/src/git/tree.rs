//! The files of a commit, as a stream.

use std::{
    io::{BufRead, BufReader},
    process::ChildStdout,
};

use scap_proto::id::GitOid;

use super::{command::Running, error::GitError};

/// One file of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeEntry {
    /// What it is. Git reads other modes than its own as one of these: 100664 as a file, say.
    pub mode: Mode,
    /// Its content, or the commit of a submodule.
    pub id: GitOid,
    /// The size of its content in bytes; 0 for a submodule.
    pub size: u64,
    /// Where it is: as the tree says, not checked.
    pub path: Vec<u8>,
}

/// What a tree holds, but for other trees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// 100644
    File,
    /// 100755
    Executable,
    /// 120000
    Symlink,
    /// 160000, a submodule
    Gitlink,
}

/// Reads the output of `git ls-tree -r -z --long`. After an error there is nothing more.
#[derive(Debug)]
pub struct Tree {
    running: Running,
    output: BufReader<ChildStdout>,
    is_done: bool,
}

impl Tree {
    pub(super) fn new(mut running: Running) -> Self {
        let stdout = running.child.stdout.take().expect("stdout is piped");
        Self {
            running,
            output: BufReader::new(stdout),
            is_done: false,
        }
    }

    fn read_next(&mut self) -> Result<Option<TreeEntry>, GitError> {
        let doing = self.running.doing;
        let mut line = Vec::new();
        self.output
            .read_until(0, &mut line)
            .map_err(|source| GitError::Run { doing, source })?;
        match line.split_last() {
            None => self.running.finish().map(|()| None),
            Some((0, line)) => parse(doing, line).map(Some),
            Some(_) => Err(self.running.ended_early()),
        }
    }
}

impl Iterator for Tree {
    type Item = Result<TreeEntry, GitError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_done {
            return None;
        }
        let next = self.read_next().transpose();
        self.is_done = !matches!(next, Some(Ok(_)));
        next
    }
}

/// `<mode> <type> <id> <padded size>\t<path>`
fn parse(doing: &'static str, line: &[u8]) -> Result<TreeEntry, GitError> {
    let misread = || GitError::Answer {
        doing,
        answer: line.escape_ascii().to_string(),
    };
    let tab = line.iter().position(|b| *b == b'\t').ok_or_else(misread)?;
    let fields = std::str::from_utf8(&line[..tab]).map_err(|_| misread())?;
    let mut fields = fields.split_ascii_whitespace();
    let (Some(mode), Some(_), Some(id), Some(size), None) = (
        fields.next(),
        fields.next(),
        fields.next(),
        fields.next(),
        fields.next(),
    ) else {
        return Err(misread());
    };
    let id: GitOid = id.parse().map_err(|_| misread())?;
    let mode = match mode {
        "100644" => Mode::File,
        "100755" => Mode::Executable,
        "120000" => Mode::Symlink,
        "160000" => Mode::Gitlink,
        _ => return Err(misread()),
    };
    let size = match size {
        "-" => 0,
        "BAD" => return Err(GitError::MissingObject(id)),
        size => size.parse().map_err(|_| misread())?,
    };
    let path = line[tab + 1..].to_vec();
    Ok(TreeEntry {
        mode,
        id,
        size,
        path,
    })
}
