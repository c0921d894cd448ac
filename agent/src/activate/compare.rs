//! A tree on disk against the entries that it should consist of.

use std::{collections::HashSet, fmt, io, mem};

use rustix::fs::{FileType, Stat};
use scap_proto::{
    content::{Entry, FileContent, Node, RelPath},
    id::ContentHash,
};

use super::{
    dir::{Cursor, DIRECTORY_MODE, Dir, kind, permissions, split},
    error::{ActivateError, Doing},
};

/// One way in which a tree is not what the snapshot says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The path's bytes, relative to the release's directory. Empty for the directory itself.
    pub path: Vec<u8>,
    /// What is different there.
    pub what: What,
}

/// What is different at one path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// Nothing is there.
    Missing,
    /// Something is there that is not in the snapshot. Of a directory only its own path is named.
    Extra,
    /// Something of another kind is there.
    Kind {
        /// What the snapshot has.
        expected: &'static str,
        /// What is there.
        found: &'static str,
    },
    /// A file holds other bytes.
    Content,
    /// Other permission bits.
    Mode {
        /// What the snapshot has.
        expected: u32,
        /// What is there.
        found: u32,
    },
    /// A symbolic link has another target.
    Target,
    /// The final path does not lead to the release that was made live.
    NotLive,
}

/// The path, escaped, and what is different.
impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match RelPath::new(self.path.clone()) {
            Ok(path) => write!(f, "{path}: ")?,
            Err(_) if self.path.is_empty() => f.write_str(".: ")?,
            Err(_) => write!(f, "{}: ", self.path.escape_ascii())?,
        }
        match &self.what {
            What::Missing => f.write_str("missing"),
            What::Extra => f.write_str("not in the snapshot"),
            What::Kind { expected, found } => write!(f, "is a {found}, should be a {expected}"),
            What::Content => f.write_str("other content"),
            What::Mode { expected, found } => {
                write!(f, "mode {found:04o}, should be {expected:04o}")
            }
            What::Target => f.write_str("links to another target"),
            What::NotLive => f.write_str("the final path does not lead here"),
        }
    }
}

/// Who decides about content, and hears of differences.
pub(super) trait Judge {
    /// Whether names that are not in the snapshot are looked for: it costs reading every directory.
    const SEEKS_EXTRA: bool;

    /// Whether the file `name` in `dir`, of this status and of the right size, has this content.
    ///
    /// # Errors
    /// Where it cannot be read.
    fn has_content(
        &mut self,
        dir: &Dir,
        name: &[u8],
        stat: &Stat,
        content: &FileContent,
    ) -> io::Result<bool>;

    /// A difference, and the entry that should be there. Without an entry it is an extra, or it is
    /// about a directory that other entries are in. What is made at the path is not looked at again.
    ///
    /// # Errors
    /// Ends the comparison.
    fn differs(
        &mut self,
        difference: Difference,
        entry: Option<&Entry>,
    ) -> Result<(), ActivateError>;
}

/// Compares `tree` with `entries`. It holds the names of the directories between the top and one entry.
///
/// # Errors
/// Where something cannot be read, or an entry is an error.
pub(super) fn compare<J: Judge>(
    tree: &Dir,
    entries: impl Iterator<Item = Result<Entry, ActivateError>>,
    judge: &mut J,
) -> Result<(), ActivateError> {
    let mut walk = Walk {
        cursor: Cursor::new(tree),
        levels: Vec::new(),
        path: Vec::new(),
        judge,
    };
    walk.enter(b"", true)?;
    for entry in entries {
        let entry = entry?;
        walk.entry(&entry)?;
    }
    while !walk.levels.is_empty() {
        walk.leave()?;
    }
    Ok(())
}

/// A directory on the way to the entry that is looked at. In byte order of the paths, all entries of one
/// directory follow each other, so each is entered and left once.
struct Level {
    /// How much of the walk's path leads here.
    path_length: usize,
    /// Whether it is there on disk.
    there: bool,
    /// Names in it that no entry has spoken of.
    unseen: HashSet<Box<[u8]>>,
}

struct Walk<'a, J> {
    cursor: Cursor<'a>,
    levels: Vec<Level>,
    /// The directory that the last level is.
    path: Vec<u8>,
    judge: &'a mut J,
}

impl<J: Judge> Walk<'_, J> {
    fn entry(&mut self, entry: &Entry) -> Result<(), ActivateError> {
        let (parent, name) = split(entry.path.as_bytes());
        while !is_within(parent, &self.path) {
            self.leave()?;
        }
        let below = parent[self.path.len()..].split(|byte| *byte == b'/');
        for name in below.filter(|name| !name.is_empty()) {
            self.descend(name, None)?;
        }
        if matches!(entry.node, Node::EmptyDirectory | Node::Gitlink(_)) {
            return self.descend(name, Some(entry));
        }
        let difference = if self.see(name) {
            self.look(entry, name)
                .doing(|| format!("compare `{}`", entry.path))?
        } else {
            Some(What::Missing)
        };
        match difference {
            Some(what) => self.report(entry.path.as_bytes(), what, Some(entry)),
            None => Ok(()),
        }
    }

    /// Whether the current directory is there; `name` in it is spoken of now.
    fn see(&mut self, name: &[u8]) -> bool {
        let level = self.levels.last_mut().expect("the top is left last");
        level.unseen.remove(name);
        level.there
    }

    /// Goes into the directory `name` of the current one, which is an entry itself or has entries in it.
    fn descend(&mut self, name: &[u8], entry: Option<&Entry>) -> Result<(), ActivateError> {
        let path = join(&self.path, name);
        let stat = if self.see(name) {
            self.cursor
                .dir(&self.path)
                .and_then(|dir| dir.stat(name))
                .doing(|| format!("compare `{}`", path.escape_ascii()))?
        } else {
            None
        };
        let there = match stat {
            Some(stat) if kind(&stat) == FileType::Directory => true,
            Some(stat) => {
                self.report(&path, other_kind(FileType::Directory, &stat), entry)?;
                false
            }
            None => {
                if entry.is_some() {
                    self.report(&path, What::Missing, entry)?;
                }
                false
            }
        };
        self.enter(&path, there)
    }

    fn enter(&mut self, path: &[u8], there: bool) -> Result<(), ActivateError> {
        let mut unseen = HashSet::new();
        if there {
            let doing = || format!("compare the directory `{}`", path.escape_ascii());
            let dir = self.cursor.dir(path).doing(doing)?;
            let mode = permissions(&dir.own_stat().doing(doing)?);
            if J::SEEKS_EXTRA {
                unseen.extend(dir.names().doing(doing)?);
            }
            if mode != DIRECTORY_MODE {
                self.report(path, other_mode(DIRECTORY_MODE, mode), None)?;
            }
        }
        self.levels.push(Level {
            path_length: path.len(),
            there,
            unseen,
        });
        self.path.clear();
        self.path.extend_from_slice(path);
        Ok(())
    }

    fn leave(&mut self) -> Result<(), ActivateError> {
        let level = self.levels.pop().expect("the top is left last");
        let mut path = mem::take(&mut self.path);
        let mut extra: Vec<_> = level.unseen.into_iter().collect();
        extra.sort_unstable();
        for name in extra {
            self.report(&join(&path, &name), What::Extra, None)?;
        }
        path.truncate(self.levels.last().map_or(0, |above| above.path_length));
        self.path = path;
        Ok(())
    }

    /// What is different at `name` in the current directory, which is there.
    fn look(&mut self, entry: &Entry, name: &[u8]) -> io::Result<Option<What>> {
        let dir = self.cursor.dir(&self.path)?;
        let Some(stat) = dir.stat(name)? else {
            return Ok(Some(What::Missing));
        };
        let expected = match &entry.node {
            Node::Symlink(_) => FileType::Symlink,
            _ => FileType::RegularFile,
        };
        if kind(&stat) != expected {
            return Ok(Some(other_kind(expected, &stat)));
        }
        if let Node::Symlink(target) = &entry.node {
            let is_same = dir.link_target(name)?.as_deref() == Some(target.as_bytes());
            return Ok((!is_same).then_some(What::Target));
        }
        let content = entry.node.content().expect("a file has content");
        let is_size = u64::try_from(stat.st_size) == Ok(content.size);
        if !is_size || !self.judge.has_content(dir, name, &stat, content)? {
            return Ok(Some(What::Content));
        }
        let (expected, found) = (file_mode(&entry.node), permissions(&stat));
        Ok((expected != found).then(|| other_mode(expected, found)))
    }

    fn report(
        &mut self,
        path: &[u8],
        what: What,
        entry: Option<&Entry>,
    ) -> Result<(), ActivateError> {
        let path = path.to_vec();
        self.judge.differs(Difference { path, what }, entry)
    }
}

/// The permission bits of a file of this kind.
pub(super) fn file_mode(node: &Node) -> u32 {
    match node {
        Node::Executable(_) => 0o755,
        _ => 0o644,
    }
}

/// The hash of the file `name` in `dir`, where it is still the file of status `stat` when it has been read.
///
/// # Errors
/// Where it cannot be read.
pub(super) fn hash_file(dir: &Dir, name: &[u8], stat: &Stat) -> io::Result<Option<ContentHash>> {
    let file = dir.file(name)?;
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(&file)?;
    let after = rustix::fs::fstat(&file)?;
    let is_same = is_same_file(stat, &after);
    Ok(is_same.then(|| ContentHash::from_bytes(*hasher.finalize().as_bytes())))
}

fn is_same_file(before: &Stat, after: &Stat) -> bool {
    use super::dir::changed_nanos;
    before.st_ino == after.st_ino
        && before.st_dev == after.st_dev
        && before.st_size == after.st_size
        && changed_nanos(before) == changed_nanos(after)
}

fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    let slash: &[u8] = if directory.is_empty() { b"" } else { b"/" };
    [directory, slash, name].concat()
}

/// Whether `path` is `directory` or beneath it.
fn is_within(path: &[u8], directory: &[u8]) -> bool {
    directory.is_empty()
        || path
            .strip_prefix(directory)
            .is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}

fn other_kind(expected: FileType, found: &Stat) -> What {
    What::Kind {
        expected: kind_name(expected),
        found: kind_name(kind(found)),
    }
}

fn other_mode(expected: u32, found: u32) -> What {
    What::Mode { expected, found }
}

fn kind_name(kind: FileType) -> &'static str {
    match kind {
        FileType::RegularFile => "file",
        FileType::Directory => "directory",
        FileType::Symlink => "symbolic link",
        FileType::Fifo => "pipe",
        FileType::Socket => "socket",
        FileType::CharacterDevice | FileType::BlockDevice => "device",
        FileType::Unknown => "thing of unknown kind",
    }
}
