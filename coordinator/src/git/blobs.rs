//! The contents of files, streamed from one `git cat-file --batch`.

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
    /// What `each` returns; [`GitError::MissingObject`], [`GitError::NotABlob`], and those of a git
    /// that ends.
    pub fn read<E: From<GitError>>(
        &mut self,
        ids: &[GitOid],
        mut each: impl FnMut(usize, &mut dyn Read) -> Result<(), E>,
    ) -> Result<(), E> {
        for (window, ids) in ids.chunks(REQUESTS_AHEAD_MAX).enumerate() {
            let names: String = ids.iter().map(|id| format!("{id}\n")).collect();
            if self.requests.write_all(names.as_bytes()).is_err() {
                return Err(self.running.ended_early().into());
            }
            for (index, id) in ids.iter().enumerate() {
                let size = self.read_header(id)?;
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

    /// `<id> <type> <size>\n`, or `<id> missing\n`
    fn read_header(&mut self, id: &GitOid) -> Result<u64, GitError> {
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
                Ok(size) if kind == "blob" => Ok(size),
                Ok(_) => Err(GitError::NotABlob {
                    id: id.clone(),
                    kind: kind.into(),
                }),
                Err(_) => Err(misread(doing, &line)),
            },
            _ => Err(misread(doing, &line)),
        }
    }
}

fn misread(doing: &'static str, line: &str) -> GitError {
    GitError::Answer {
        doing,
        answer: line.trim_end().escape_debug().to_string(),
    }
}
