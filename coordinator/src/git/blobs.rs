//! Objects, streamed from one `git cat-file --batch`; and their sizes, from one `--batch-check`.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    process::{ChildStdin, ChildStdout},
};

use scap_proto::id::GitOid;

use super::{command::Running, error::GitError};

/// Most objects asked for ahead of the answers. Their names fit the smallest pipe (4,096 bytes), so
/// asking never waits for git while git waits for us to read.
pub const REQUESTS_AHEAD_MAX: usize = 4096 / (64 + 1);

/// A running reader of blobs. After an error it is of no further use.
#[derive(Debug)]
pub struct Blobs {
    running: Running,
    requests: ChildStdin,
    replies: BufReader<ChildStdout>,
}

impl Blobs {
    pub(super) fn new(mut running: Running) -> Self {
        let requests = running.child.stdin.take().expect("stdin is piped");
        let stdout = running.child.stdout.take().expect("stdout is piped");
        Self {
            running,
            requests,
            replies: BufReader::with_capacity(64 * 1024, stdout),
        }
    }

    /// Gives `each` the index and the content of each of `ids`, in order. Content is not held: `each`
    /// reads as much of it as it likes.
    ///
    /// # Errors
    /// What `each` returns; [`GitError::MissingObject`], [`GitError::OtherKind`], and those of a git
    /// that ends.
    pub fn read<E: From<GitError>>(
        &mut self,
        ids: &[GitOid],
        each: impl FnMut(usize, &mut dyn Read) -> Result<(), E>,
    ) -> Result<(), E> {
        self.read_objects("blob", ids, each)
    }

    /// As [`Self::read`], of objects that are of the kind `expected`.
    pub(super) fn read_objects<E: From<GitError>>(
        &mut self,
        expected: &'static str,
        ids: &[GitOid],
        mut each: impl FnMut(usize, &mut dyn Read) -> Result<(), E>,
    ) -> Result<(), E> {
        for (window, ids) in ids.chunks(REQUESTS_AHEAD_MAX).enumerate() {
            self.request(ids)?;
            for (index, id) in ids.iter().enumerate() {
                let size = self.read_header(expected, id)?;
                let mut content = (&mut self.replies).take(size);
                each(window * REQUESTS_AHEAD_MAX + index, &mut content)?;
                let rest = io::copy(&mut content, &mut io::sink());
                let mut newline = [0];
                if rest.is_err()
                    || content.limit() > 0
                    || self.replies.read_exact(&mut newline).is_err()
                {
                    return Err(self.running.ended_early().into());
                }
            }
        }
        Ok(())
    }

    fn request(&mut self, ids: &[GitOid]) -> Result<(), GitError> {
        let names: String = ids.iter().map(|id| format!("{id}\n")).collect();
        let written = self.requests.write_all(names.as_bytes());
        written.map_err(|_| self.running.ended_early())
    }

    /// `<id> <type> <size>\n`, or `<id> missing\n`
    fn read_header(&mut self, expected: &'static str, id: &GitOid) -> Result<u64, GitError> {
        let doing = self.running.doing;
        let mut line = String::new();
        self.replies
            .read_line(&mut line)
            .map_err(|source| GitError::Run { doing, source })?;
        if line.is_empty() {
            return Err(self.running.ended_early());
        }
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        match fields[..] {
            [_, "missing"] => Err(GitError::MissingObject(id.clone())),
            [name, kind, size] if name.parse().as_ref() == Ok(id) => match size.parse() {
                Ok(size) if kind == expected => Ok(size),
                Ok(_) => Err(GitError::OtherKind {
                    id: id.clone(),
                    kind: kind.into(),
                    expected,
                }),
                Err(_) => Err(misread(doing, &line)),
            },
            _ => Err(misread(doing, &line)),
        }
    }
}

/// A running reader of the sizes of blobs: it answers with headers alone.
#[derive(Debug)]
pub(super) struct Sizes(Blobs);

impl Sizes {
    pub(super) fn new(running: Running) -> Self {
        Self(Blobs::new(running))
    }

    /// The size of each of `ids`, in order.
    ///
    /// # Errors
    /// As [`Blobs::read`].
    pub(super) fn read(&mut self, ids: &[GitOid]) -> Result<Vec<u64>, GitError> {
        let mut sizes = Vec::with_capacity(ids.len());
        for ids in ids.chunks(REQUESTS_AHEAD_MAX) {
            self.0.request(ids)?;
            for id in ids {
                sizes.push(self.0.read_header("blob", id)?);
            }
        }
        Ok(sizes)
    }
}

fn misread(doing: &'static str, line: &str) -> GitError {
    GitError::Answer {
        doing,
        answer: line.trim_end().escape_debug().to_string(),
    }
}
