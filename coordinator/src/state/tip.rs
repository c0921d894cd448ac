//! Which commit of the state branch was written last from here, so that a rewritten branch is noticed.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use scap_agent::store::durable;
use scap_proto::id::GitOid;

/// A file that remembers it, for one clone of one repository.
#[derive(Debug, Clone)]
pub struct KnownTip {
    path: PathBuf,
    /// Of which clone and branch: another one's tip says nothing about this.
    of: String,
}

/// Why it is not read or written.
#[derive(Debug, thiserror::Error)]
#[error("{doing} {}", path.display())]
pub struct TipError {
    doing: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl KnownTip {
    /// What the file at `path` remembers of the branch `of`.
    pub fn new(path: PathBuf, of: String) -> Self {
        Self { path, of }
    }

    /// Where it is remembered.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The commit; `None` where nothing was written from here yet.
    ///
    /// # Errors
    /// Where the file cannot be read, or is none of this kind.
    pub fn read(&self) -> Result<Option<GitOid>, TipError> {
        let text = match fs::read_to_string(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            text => text.map_err(self.failed("read"))?,
        };
        let (id, of) = text.trim_end().split_once(' ').unwrap_or_default();
        if of != self.of && !of.is_empty() {
            return Ok(None);
        }
        let damaged = |_| io::Error::new(io::ErrorKind::InvalidData, "it names no commit");
        id.parse()
            .map(Some)
            .map_err(damaged)
            .map_err(self.failed("read"))
    }

    /// Remembers a commit, durably.
    ///
    /// # Errors
    /// Where the file cannot be written; the old one stays.
    pub fn save(&self, commit: &GitOid) -> Result<(), TipError> {
        let text = format!("{commit} {}\n", self.of);
        let parent = self.path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(parent)
            .and_then(|()| durable::replace_file(&self.path, text.as_bytes()))
            .map_err(self.failed("write"))
    }

    fn failed(&self, doing: &'static str) -> impl FnOnce(io::Error) -> TipError {
        let path = self.path.clone();
        move |source| TipError {
            doing,
            path,
            source,
        }
    }
}
