//! Paths inside a snapshot: bytes that are safe to create beneath a directory.

use std::{ffi::OsStr, fmt, os::unix::ffi::OsStrExt, path::Path};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::limits::{NAME_BYTES_MAX, PATH_BYTES_MAX};

/// A relative path of one or more components separated by `/`, in any encoding.
///
/// No component is empty, `.`, `..`, or a name that some file system takes for `.git`; none holds a
/// NUL. So joining it to a directory stays beneath that directory as long as no component on disk is
/// a symbolic link, which whoever opens it must see to.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Bytes", into = "Bytes")]
pub struct RelPath(Bytes);

impl RelPath {
    /// Checks `bytes`.
    ///
    /// # Errors
    /// [`PathError`] with the path and what is wrong with it.
    pub fn new(bytes: impl Into<Bytes>) -> Result<Self, PathError> {
        let bytes = bytes.into();
        match problem(&bytes) {
            None => Ok(Self(bytes)),
            Some(problem) => {
                let path = bytes.escape_ascii().to_string().chars().take(256).collect();
                Err(PathError { path, problem })
            }
        }
    }

    /// The path as it is.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The path for system calls.
    pub fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.0))
    }

    /// Its components, at least one.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.0.split(|byte| *byte == b'/')
    }

    /// Whether this is a proper ancestor of `other`.
    pub fn is_ancestor_of(&self, other: &Self) -> bool {
        other
            .0
            .strip_prefix(self.0.as_ref())
            .is_some_and(|rest| rest.first() == Some(&b'/'))
    }
}

impl TryFrom<Bytes> for RelPath {
    type Error = PathError;

    fn try_from(bytes: Bytes) -> Result<Self, PathError> {
        Self::new(bytes)
    }
}

impl From<RelPath> for Bytes {
    fn from(path: RelPath) -> Self {
        path.0
    }
}

/// Escaped, so that it is inert on a terminal and in a log.
impl fmt::Display for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match std::str::from_utf8(&self.0) {
            Ok(text) if !text.chars().any(|c| c.is_control() || is_invisible(c)) => {
                f.write_str(text)
            }
            _ => write!(f, "{}", self.0.escape_ascii()),
        }
    }
}

impl fmt::Debug for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// A path that a snapshot may not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("path `{path}` {problem}")]
pub struct PathError {
    /// The path, escaped, its first 256 characters.
    pub path: String,
    /// What is wrong with it.
    pub problem: PathProblem,
}

/// What is wrong with a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathProblem {
    /// Longer than [`PATH_BYTES_MAX`].
    #[error("is longer than {PATH_BYTES_MAX} bytes")]
    TooLong,
    /// A component longer than [`NAME_BYTES_MAX`].
    #[error("has a component longer than {NAME_BYTES_MAX} bytes")]
    NameTooLong,
    /// Empty, absolute, or with `//` or a trailing `/`.
    #[error("has an empty component")]
    Empty,
    /// `.` or `..`.
    #[error("has a component `.` or `..`")]
    Dots,
    /// A NUL byte.
    #[error("has a NUL byte")]
    Nul,
    /// `.git`, or what HFS+ or NTFS take for it.
    #[error("has a component that means `.git` on some file system")]
    DotGit,
}

fn problem(path: &[u8]) -> Option<PathProblem> {
    if path.len() > PATH_BYTES_MAX {
        return Some(PathProblem::TooLong);
    }
    path.split(|byte| *byte == b'/').find_map(|name| {
        if name.is_empty() {
            Some(PathProblem::Empty)
        } else if name.len() > NAME_BYTES_MAX {
            Some(PathProblem::NameTooLong)
        } else if name == b"." || name == b".." {
            Some(PathProblem::Dots)
        } else if name.contains(&0) {
            Some(PathProblem::Nul)
        } else if means_dot_git(name) {
            Some(PathProblem::DotGit)
        } else {
            None
        }
    })
}

/// Whether `name` is `.git` in any letter case, or is taken for it by NTFS (trailing dots and spaces,
/// streams, the short name `git~1`) or by HFS+ (code points that it ignores).
fn means_dot_git(name: &[u8]) -> bool {
    let ntfs = name
        .split(|byte| *byte == b':' || *byte == b'\\')
        .next()
        .unwrap_or(name);
    let end = ntfs
        .iter()
        .rposition(|byte| !matches!(byte, b'.' | b' '))
        .map_or(0, |last| last + 1);
    let ntfs = &ntfs[..end];
    if ntfs.eq_ignore_ascii_case(b".git") || ntfs.eq_ignore_ascii_case(b"git~1") {
        return true;
    }
    std::str::from_utf8(name).is_ok_and(|text| {
        let visible: String = text.chars().filter(|c| !is_invisible(*c)).collect();
        visible.eq_ignore_ascii_case(".git")
    })
}

/// The code points that HFS+ ignores in names (Apple technical note 1150), which also turn text
/// around on a terminal.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200c}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{206a}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn refused(path: &[u8]) -> PathProblem {
        RelPath::new(path.to_vec()).unwrap_err().problem
    }

    #[test]
    fn dangerous_names_are_refused_by_rule() {
        for path in [&b""[..], b"/etc/passwd", b"a//b", b"a/"] {
            assert_eq!(refused(path), PathProblem::Empty);
        }
        for path in [&b"."[..], b"..", b"a/../b", b"../x"] {
            assert_eq!(refused(path), PathProblem::Dots);
        }
        for path in [
            &b".git"[..],
            b"a/.GIT/hooks",
            b"git~1",
            b"GIT~1/x",
            ".g\u{200c}it".as_bytes(),
            b".git.",
            b".git . ",
            b".git::$INDEX_ALLOCATION",
            b".git\\x",
        ] {
            assert_eq!(
                refused(path),
                PathProblem::DotGit,
                "{}",
                path.escape_ascii()
            );
        }
        assert_eq!(refused(b"a\0b"), PathProblem::Nul);
        assert_eq!(refused(&[b'a'; 256]), PathProblem::NameTooLong);
        assert_eq!(refused(&b"a/".repeat(2048)), PathProblem::TooLong);
    }

    #[test]
    fn legal_odd_names_are_kept_to_the_byte_and_shown_inert() {
        for path in [
            &b".gitignore"[..],
            b"a b",
            b"git~2",
            b"\xff\xfe",
            b"-rf",
            b"trailing\r",
            b"...",
        ] {
            assert_eq!(RelPath::new(path.to_vec()).unwrap().as_bytes(), path);
        }
        assert_eq!(
            RelPath::new(&b"\x1b[31m\n"[..]).unwrap().to_string(),
            r"\x1b[31m\n"
        );
        assert_eq!(
            RelPath::new("b\u{e4}r".as_bytes()).unwrap().to_string(),
            "b\u{e4}r"
        );
    }
}
