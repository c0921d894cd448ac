//! Where a value was said, and what is wrong with it.

use std::{fmt, io, path::PathBuf, sync::Arc};

use scap_proto::release::HostConfigError;

use super::MACHINE_CONFIG;
use crate::{git::GitError, snapshot::SnapshotError};

/// Where something was said.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// Nowhere: it is so unless somebody says otherwise.
    Default,
    /// In a file.
    File {
        /// As people know it: `scap/scap.cfg`, `/etc/scap.cfg`.
        file: Arc<str>,
        /// The line, from 1.
        line: usize,
    },
    /// On the command line, with this flag.
    Flag(&'static str),
}

impl Origin {
    /// Whether it is the machine's own file, which is the same for every repo.
    pub fn is_of_machine(&self) -> bool {
        matches!(self, Self::File { file, .. } if **file == *MACHINE_CONFIG)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { file, line } => write!(f, "{file}:{line}"),
            Self::Flag(flag) => f.write_str(flag),
        }
    }
}

/// Why a scap folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ScapError {
    /// Something is said that cannot be; what was expected is part of the problem.
    #[error("{at}: {problem}")]
    Invalid {
        /// Where.
        at: Origin,
        /// What is wrong, and what was expected.
        problem: String,
    },
    /// A file or directory cannot be read.
    #[error("read {}", .path.display().to_string().escape_debug())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The folder cannot be read from the repository.
    #[error("read the scap folder of the commit")]
    Git(#[from] GitError),
    /// The folder is in a submodule that is not checked out.
    #[error("the scap folder is a submodule, at commit {commit}, which is not here")]
    Submodule {
        /// The commit that is wanted.
        commit: String,
        /// Why it is not here.
        source: GitError,
    },
    /// The folder that was named is none.
    #[error("{} has neither scap.cfg nor scap.toml", .0.display())]
    NotAFolder(PathBuf),
    /// There is something called so that cannot be read as a scap folder, and may be meant as one.
    #[error("{place} {problem}")]
    Unclear {
        /// Where it is.
        place: String,
        /// What it is.
        problem: &'static str,
    },
    /// More than a folder of configuration holds.
    #[error("{what} of the scap folder: {found}, at most {allowed} are allowed")]
    TooLarge {
        /// Of what: `files`, `bytes in checks.yaml`.
        what: String,
        /// How many there are.
        found: u64,
        /// The limit.
        allowed: u64,
    },
    /// What goes to the hosts is too much.
    #[error("put together what hosts need of the scap folder")]
    Encode(#[source] HostConfigError),
    /// What goes to the hosts could not be put together.
    #[error("put together what hosts need of the scap folder")]
    Pack(#[source] SnapshotError),
}

impl ScapError {
    /// What to do about it, where that is not said.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Submodule { .. } => "`git submodule update --init scap` fetches it",
            Self::NotAFolder(_) => "--scap names the folder itself, such as repo/scap",
            Self::Unclear { .. } | Self::TooLarge { .. } => {
                "--scap names the folder that counts; an empty scap.cfg in it says nothing"
            }
            Self::Git(error) => return error.hint(),
            Self::Pack(error) => return error.hint(),
            Self::Invalid { .. } | Self::Read { .. } | Self::Encode(_) => return None,
        };
        Some(hint.to_owned())
    }

    pub(super) fn invalid(at: &Origin, problem: impl Into<String>) -> Self {
        Self::Invalid {
            at: at.clone(),
            problem: problem.into(),
        }
    }
}

/// Something that is said and not acted on, or that is probably meant otherwise.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Notice {
    /// Where it is said.
    pub at: Origin,
    /// What, and what comes of it.
    pub text: String,
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.at, self.text)
    }
}

/// The one of `known` that was probably meant by `word`: at most a third of its letters are wrong.
pub(super) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let scored = known.into_iter().map(|name| (distance(word, name), name));
    let (distance, name) = scored.min_by_key(|(distance, _)| *distance)?;
    (distance <= word.len().max(3) / 3).then_some(name)
}

/// `, did you mean …?`, or nothing.
pub(super) fn did_you_mean<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    nearest(word, known).map_or_else(String::new, |name| format!("; did you mean `{name}`?"))
}

/// How many letters are to be put in, taken out or changed (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, letter) in a.chars().take(LETTERS_MAX).enumerate() {
        let mut before = std::mem::replace(&mut row[0], i + 1);
        for (j, other) in b.iter().enumerate() {
            let changed = before + usize::from(letter != *other);
            before = row[j + 1];
            row[j + 1] = changed.min(before + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

/// Letters that are compared of a word: names of keys are shorter.
const LETTERS_MAX: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_pen_is_recognised_and_another_word_is_not() {
        let known = ["dsh_targets", "git_repo", "group_size"];
        for (word, meant) in [
            ("dsh_target", Some("dsh_targets")),
            ("gitrepo", Some("git_repo")),
            ("groupsize", Some("group_size")),
            ("completely_else", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, known), meant, "{word}");
        }
    }
}
