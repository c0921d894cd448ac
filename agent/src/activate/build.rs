//! Writes a release's tree, where nobody else can reach it, from chunks and from files that are there.

use std::{
    fs::File,
    io::{self, Write},
};

use rustix::fs::{FileType, Stat};
use scap_proto::{
    content::{Entry, FileContent, Node, RelPath},
    id::ContentHash,
};
use serde::{Deserialize, Serialize};

use super::{
    chunks::Chunks,
    compare::{file_mode, hash_file},
    difference::Change,
    dir::{Cursor, Dir, changed_nanos, kind, modified_nanos, permissions, split},
    error::{ActivateError, Doing},
    inodes::Inodes,
    plan::{Merge, Plan},
    proof::Contents,
    trash,
    write::{EntryStream, Purpose},
};

/// Most damaged paths that are named; the rest is counted.
const DAMAGED_NAMED_MAX: usize = 16;

/// What a file takes on disk beside its bytes, about.
const BLOCK_BYTES: u64 = 4096;

/// What was made, and of what.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Built {
    /// Entries made or removed: all where there was no spare, else those that are not as in the spare.
    pub entries_touched: u64,
    /// Files written from chunks.
    pub files_written: u64,
    /// Files that are a further name of an unchanged one.
    pub files_linked: u64,
    /// Files that share the blocks of an unchanged one.
    pub files_cloned: u64,
    /// Bytes in the files written from chunks.
    pub bytes_written: u64,
    /// Bytes in the files linked and cloned.
    pub bytes_reused: u64,
    /// Files of the live release that should have served and are not what they were.
    pub files_damaged: u64,
    /// The first of them.
    pub damaged: Vec<RelPath>,
}

impl Built {
    /// Adds what was made before.
    pub(super) fn join(&mut self, before: Self) {
        self.entries_touched += before.entries_touched;
        self.files_written += before.files_written;
        self.files_linked += before.files_linked;
        self.files_cloned += before.files_cloned;
        self.bytes_written += before.bytes_written;
        self.bytes_reused += before.bytes_reused;
        self.files_damaged += before.files_damaged;
        let mut damaged = before.damaged;
        damaged.append(&mut self.damaged);
        damaged.truncate(DAMAGED_NAMED_MAX);
        self.damaged = damaged;
    }
}

/// The release that unchanged files are taken from.
pub(super) struct Base<'a> {
    cursor: Cursor<'a>,
    entries: Merge<EntryStream<'a>>,
    /// Until the file system says that it cannot.
    links: bool,
    clones: bool,
}

impl<'a> Base<'a> {
    pub(super) fn new(tree: &'a Dir, entries: EntryStream<'a>) -> Self {
        Self {
            cursor: Cursor::new(tree),
            entries: Merge::new(entries),
            links: true,
            clones: true,
        }
    }
}

/// The writing of one tree.
pub(super) struct Build<'a> {
    cursor: Cursor<'a>,
    /// The top of the tree, whose owner new files have.
    owner: (u32, u32),
    base: Option<Base<'a>>,
    plan: &'a Plan,
    purpose: Purpose<'a>,
    chunks: Chunks<'a>,
    inodes: &'a mut Inodes,
    /// The file system's time when this began.
    began: i128,
    built: Built,
    contents: Contents,
}

impl<'a> Build<'a> {
    /// In `tree`, which is empty.
    ///
    /// # Errors
    /// Where its status cannot be read.
    pub(super) fn new(
        tree: &'a Dir,
        base: Option<Base<'a>>,
        plan: &'a Plan,
        purpose: Purpose<'a>,
        chunks: Chunks<'a>,
        inodes: &'a mut Inodes,
        began: i128,
    ) -> Result<Self, ActivateError> {
        let top = tree
            .own_stat()
            .doing(|| "read the status of the release's directory".to_owned())?;
        Ok(Self {
            cursor: Cursor::making(tree),
            owner: (top.st_uid, top.st_gid),
            base,
            plan,
            purpose,
            chunks,
            inodes,
            began,
            built: Built::default(),
            contents: Contents::default(),
        })
    }

    /// Makes the next entry. Returns whether it did: a file that would have to be written beyond what the purpose allows
    /// is not begun.
    ///
    /// # Errors
    /// The tree is not complete then, and of no use.
    pub(super) fn push(&mut self, entry: &Entry) -> Result<bool, ActivateError> {
        let doing = || format!("write `{}`", entry.path);
        let path = entry.path.as_bytes();
        let Some(content) = entry.node.content() else {
            if matches!(entry.node, Node::Symlink(_)) {
                let (parent, name) = split(path);
                let dir = self.cursor.dir(parent).doing(doing)?;
                return write_node(dir, name, entry, &mut self.chunks).map(|_| true);
            }
            return self.cursor.dir(path).map(|_| true).doing(doing);
        };
        if self.reuse(entry, content)? {
            self.contents.add(entry);
            return Ok(true);
        }
        let unshared_bytes = self.unshared_bytes().saturating_add(content.size);
        if unshared_bytes > self.purpose.unshared_bytes_max() {
            return Ok(false);
        }
        let (parent, name) = split(path);
        let dir = self.cursor.dir(parent).doing(doing)?;
        if let Some(stat) = write_node(dir, name, entry, &mut self.chunks)? {
            self.inodes.note_written(&stat, content.hash);
        }
        self.contents.add(entry);
        self.built.files_written += 1;
        self.built.bytes_written += content.size;
        Ok(true)
    }

    /// Removes what there is of a file whose writing was stopped.
    ///
    /// # Errors
    /// Where it cannot be removed.
    pub(super) fn take_back(&mut self, entry: &Entry) -> Result<(), ActivateError> {
        let (parent, name) = split(entry.path.as_bytes());
        let dir = self.cursor.dir(parent);
        dir.and_then(|dir| dir.unlink(name))
            .doing(|| format!("remove `{}`, which is not whole", entry.path))
    }

    /// Bytes on disk of the files written so far, about: those that nothing was shared for.
    fn unshared_bytes(&self) -> u64 {
        self.built.bytes_written + self.built.files_written * BLOCK_BYTES
    }

    /// What was made, and what the files hold.
    pub(super) fn finish(self) -> (Built, Contents) {
        (self.built, self.contents)
    }

    /// Makes the file of one in the base, where it has the same content at this path or at another.
    fn reuse(&mut self, entry: &Entry, content: &FileContent) -> Result<bool, ActivateError> {
        let Some(base) = &mut self.base else {
            return Ok(false);
        };
        let unchanged = base
            .entries
            .at(&entry.path)?
            .is_some_and(|old| old.content().is_some_and(|old| old.hash == content.hash));
        let source = if unchanged {
            &entry.path
        } else if let Some(path) = self.plan.moved.get(&content.hash) {
            path
        } else {
            return Ok(false);
        };
        let (from, from_name) = split(source.as_bytes());
        let proved = match base.cursor.dir(from) {
            Ok(dir) => prove(dir, from_name, content, self.inodes, self.began)
                .map(|proved| proved.map(|stat| (dir, stat))),
            Err(error) => Err(error),
        };
        let Ok(Some((from, stat))) = proved else {
            // Another file, none, or one that cannot be read: it is written from chunks.
            self.built.files_damaged += 1;
            if self.built.damaged.len() < DAMAGED_NAMED_MAX {
                self.built.damaged.push(source.clone());
            }
            return Ok(false);
        };
        let doing = || format!("write `{}`", entry.path);
        let (to, to_name) = split(entry.path.as_bytes());
        let to = self.cursor.dir(to).doing(doing)?;
        let mode = file_mode(&entry.node);
        let is_like = permissions(&stat) == mode && (stat.st_uid, stat.st_gid) == self.owner;
        if base.links && is_like {
            match from.link(from_name, to, to_name) {
                Ok(()) => {
                    let after = to.stat(to_name).doing(doing)?;
                    if let Some(after) = after.filter(|after| is_unwritten(&stat, after)) {
                        self.inodes.restate(&stat, &after);
                        self.built.files_linked += 1;
                        self.built.bytes_reused += content.size;
                        return Ok(true);
                    }
                    // Written to, or another file, since it was proved.
                    to.unlink(to_name).doing(doing)?;
                    return Ok(false);
                }
                // A file with all the names it can have is no reason to stop for the others.
                Err(error) => base.links = error.kind() == io::ErrorKind::TooManyLinks,
            }
        }
        if base.clones {
            match clone_file(from, from_name, &stat, to, to_name, mode) {
                Ok(Some(stat)) => {
                    self.inodes.note_written(&stat, content.hash);
                    self.built.files_cloned += 1;
                    self.built.bytes_reused += content.size;
                    return Ok(true);
                }
                Ok(None) => {}
                Err(_) => base.clones = false,
            }
            to.unlink(to_name).doing(doing)?;
        }
        Ok(false)
    }
}

/// Removes from `tree` what is not to be there, or to be otherwise, and directories that nothing is left in. Returns how
/// many entries are gone for good.
///
/// # Errors
/// Where the tree is not as it was, or something cannot be removed.
pub(super) fn remove_old(
    tree: &Dir,
    changes: impl Iterator<Item = Result<Change, ActivateError>>,
    inodes: &mut Inodes,
) -> Result<u64, ActivateError> {
    let mut cursor = Cursor::new(tree);
    let mut gone = 0;
    for change in changes {
        let Change { path, old, new } = change?;
        let Some(old) = old else {
            continue;
        };
        let doing = || format!("remove `{path}`");
        let (mut parent, name) = split(path.as_bytes());
        let dir = cursor.dir(parent).doing(doing)?;
        match old {
            Node::EmptyDirectory | Node::Gitlink(_) => dir.remove_dir(name),
            _ => trash::remove_file(dir, name, inodes),
        }
        .doing(doing)?;
        if new.is_some() {
            continue;
        }
        gone += 1;
        while !parent.is_empty() {
            let (above, name) = split(parent);
            match cursor.dir(above).and_then(|above| above.remove_dir(name)) {
                Ok(()) => parent = above,
                Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => break,
                Err(error) => return Err(error).doing(doing),
            }
        }
    }
    Ok(gone)
}

/// The status of the file `name` in `dir`, where it is proved to hold `content`.
fn prove(
    dir: &Dir,
    name: &[u8],
    content: &FileContent,
    inodes: &mut Inodes,
    began: i128,
) -> io::Result<Option<Stat>> {
    let is_candidate = |stat: &Stat| {
        kind(stat) == FileType::RegularFile && u64::try_from(stat.st_size) == Ok(content.size)
    };
    let Some(stat) = dir.stat(name)?.filter(is_candidate) else {
        return Ok(None);
    };
    let is_proved = inodes.proves(&stat, &content.hash)
        || is_hashed_to(dir, name, &stat, &content.hash, inodes, began)?;
    Ok(is_proved.then_some(stat))
}

/// Whether the file hashes to `hash`, by reading it; what is found is recorded.
pub(super) fn is_hashed_to(
    dir: &Dir,
    name: &[u8],
    stat: &Stat,
    hash: &ContentHash,
    inodes: &mut Inodes,
    began: i128,
) -> io::Result<bool> {
    match hash_file(dir, name, stat)? {
        Some(found) => {
            inodes.note_read(stat, found, began);
            Ok(found == *hash)
        }
        None => {
            inodes.forget(stat.st_ino);
            Ok(false)
        }
    }
}

/// Whether a file that got a further name in between was not written to.
fn is_unwritten(before: &Stat, after: &Stat) -> bool {
    before.st_ino == after.st_ino
        && before.st_size == after.st_size
        && before.st_mode == after.st_mode
        && modified_nanos(before) == modified_nanos(after)
}

/// Makes a file that shares the blocks of another one; `None` where that one changed meanwhile.
fn clone_file(
    from: &Dir,
    from_name: &[u8],
    before: &Stat,
    to: &Dir,
    to_name: &[u8],
    mode: u32,
) -> io::Result<Option<Stat>> {
    let source = from.file(from_name)?;
    let copy = to.create(to_name, mode)?;
    rustix::fs::ioctl_ficlone(&copy, &source)?;
    let after = rustix::fs::fstat(&source)?;
    if before.st_ino != after.st_ino || changed_nanos(before) != changed_nanos(&after) {
        return Ok(None);
    }
    with_mode(&copy, mode).map(Some)
}

/// Makes the file, link or empty directory of `entry` at `name` in `dir`, where nothing is. Returns the
/// status of a file.
///
/// # Errors
/// Where a chunk is missing, the chunks do not make the content, or the disk is full or fails. Part of a
/// file may be there.
pub(super) fn write_node(
    dir: &Dir,
    name: &[u8],
    entry: &Entry,
    chunks: &mut Chunks<'_>,
) -> Result<Option<Stat>, ActivateError> {
    let doing = || format!("write `{}`", entry.path);
    match &entry.node {
        Node::Symlink(target) => {
            dir.symlink(target.as_bytes(), name).doing(doing)?;
            Ok(None)
        }
        Node::EmptyDirectory | Node::Gitlink(_) => {
            dir.make_dir(name, super::dir::DIRECTORY_MODE)
                .doing(doing)?;
            Ok(None)
        }
        Node::File(content) | Node::Executable(content) => {
            let mode = file_mode(&entry.node);
            let mut file = dir.create(name, mode).doing(doing)?;
            let mut hasher = blake3::Hasher::new();
            for extent in &content.extents {
                let write = |bytes: &[u8]| {
                    hasher.update(bytes);
                    file.write_all(bytes)
                };
                chunks.with(extent, write)?.doing(doing)?;
            }
            if *hasher.finalize().as_bytes() != *content.hash.as_bytes() {
                chunks.blame(content)?;
                return Err(ActivateError::WrongContent(entry.path.clone()));
            }
            with_mode(&file, mode).map(Some).doing(doing)
        }
    }
}

/// Gives a new file exactly this mode, whatever the umask is, and returns its status.
fn with_mode(file: &File, mode: u32) -> io::Result<Stat> {
    let stat = rustix::fs::fstat(file)?;
    if permissions(&stat) == mode {
        return Ok(stat);
    }
    rustix::fs::fchmod(file, rustix::fs::Mode::from_raw_mode(mode))?;
    Ok(rustix::fs::fstat(file)?)
}
