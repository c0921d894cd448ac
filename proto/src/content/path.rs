//! Paths inside a snapshot: bytes that are safe to create beneath a directory.

use std::{ffi::OsStr, fmt, os::unix::ffi::OsStrExt, path::Path};

use bytes::Bytes;
use gix_validate::path::component;
use serde::{Deserialize, Serialize};

use crate::{
    limits::{NAME_BYTES_MAX, PATH_BYTES_MAX},
    reason::Reason,
};

/// A relative path of one or more components separated by `/`, in any encoding.
///
/// No component is empty, `.`, `..`, or a name that git refuses because some file system takes it for `.git`; none holds
/// a NUL. So joining it to a directory stays beneath that directory as long as no component on disk is
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
            Some(problem) => Err(PathError::new(&bytes, problem)),
        }
    }

    /// Whether a symbolic link may be here: git reads `.gitmodules` of a work tree, and a link could have it read any
    /// file of the host.
    ///
    /// # Errors
    /// [`PathProblem::LinkedModules`].
    pub fn check_link(&self) -> Result<(), PathError> {
        let name = self.0.rsplit(|byte| *byte == b'/').next();
        match name.map(|name| git_problem(name, Some(component::Mode::Symlink))) {
            Some(Some(problem)) => Err(PathError::new(&self.0, problem)),
            _ => Ok(()),
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
#[error("path `{path}` {problem} [{}]", Reason::ForbiddenName)]
pub struct PathError {
    /// The path, escaped, its first 256 characters.
    pub path: String,
    /// What is wrong with it.
    pub problem: PathProblem,
}

impl PathError {
    fn new(path: &[u8], problem: PathProblem) -> Self {
        let path = path.escape_ascii().to_string().chars().take(256).collect();
        Self { path, problem }
    }
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
    /// A symbolic link at `.gitmodules`, or at what HFS+ or NTFS take for it.
    #[error("is a symbolic link, and means `.gitmodules` on some file system")]
    LinkedModules,
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
        } else {
            git_problem(name, None)
        }
    })
}

/// What git has against a name, with its protections for HFS+ (code points that are ignored there) and NTFS (trailing dots
/// and spaces, streams, short names). Those for Windows itself refuse names that Linux and git have no trouble with, `a:b` and
/// `nul.txt` among them, and are not asked for.
fn git_problem(name: &[u8], mode: Option<component::Mode>) -> Option<PathProblem> {
    let options = component::Options {
        protect_windows: false,
        protect_hfs: true,
        protect_ntfs: true,
    };
    // To NTFS a backslash is a slash, as `git fsck` knows.
    let mut parts = name.split(|byte| *byte == b'\\');
    parts.find_map(|part| match component(part.into(), mode, options) {
        Err(component::Error::DotGitDir) => Some(PathProblem::DotGit),
        Err(component::Error::SymlinkedGitModules) => Some(PathProblem::LinkedModules),
        // The rest is asked before, of the whole name.
        Err(_) | Ok(_) => None,
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
    fn c1_dangerous_names_are_refused_by_rule() {
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
            b"a\\.git",
            b".GiT ...",
            ".gi\u{200d}t".as_bytes(),
            "\u{feff}.git".as_bytes(),
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
    fn c1_legal_odd_names_are_kept_to_the_byte_and_shown_inert() {
        for path in [
            &b".gitignore"[..],
            b"a b",
            b"git~2",
            b"\xff\xfe",
            b"-rf",
            b"trailing\r",
            b"...",
            b"a:b",
            b"nul.txt",
            b"a\\b",
            b"new\nline",
            &[b'n'; NAME_BYTES_MAX],
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

    #[test]
    fn c6_a_link_that_means_gitmodules_is_refused_where_a_file_may_be() {
        for path in [
            &b".gitmodules"[..],
            b"below/.GITMODULES",
            b"gitmod~1",
            b".gitmodules ",
            b".gitmodules:x",
            ".git\u{200c}modules".as_bytes(),
        ] {
            let problem = RelPath::new(path.to_vec())
                .unwrap()
                .check_link()
                .unwrap_err();
            assert_eq!(problem.problem, PathProblem::LinkedModules);
            assert!(
                problem.to_string().ends_with("[forbidden-name]"),
                "{problem}"
            );
        }
        for path in [&b".gitmodules/x"[..], b".gitmodules.d", b".gitattributes"] {
            RelPath::new(path.to_vec()).unwrap().check_link().unwrap();
        }
    }
}
