//! What a tree that only this process can reach holds, known by the rows of its inodes alone.
//!
//! A spare shares its files with the live tree, and through that anybody may have written to them. So before a release is
//! made of it each of its inodes is looked at: one system call a file, and no entry is read.

use std::io;

use rustix::fs::FileType;
use scap_proto::{content::Entry, id::ContentHash};
use serde::{Deserialize, Serialize};

use super::{
    compare::file_mode,
    deployment::Deployment,
    dir::{Cursor, Dir, kind, permissions},
    error::ActivateError,
    inodes::Inodes,
    record::{self, Installed, Record, Rev},
};

/// Files, all together: equal for the same paths, modes and contents, in whatever order they are added.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Contents {
    files: u64,
    /// Of the first half of each file's hash, as a number, modulo 2^128.
    sum: u128,
}

impl Contents {
    /// Adds the file of an entry; one that is of no file adds nothing.
    pub(super) fn add(&mut self, entry: &Entry) {
        if let Some(content) = entry.node.content() {
            let mode = file_mode(&entry.node);
            self.add_file(entry.path.as_bytes(), mode, &content.hash);
        }
    }

    /// Adds all files of another sum.
    pub(super) fn join(&mut self, other: Self) {
        self.files += other.files;
        self.sum = self.sum.wrapping_add(other.sum);
    }

    /// A row tells what an inode holds and follows whatever is read anew, so the path and the mode are in the sum: not
    /// what a file holds is proved, but that it is the one that should be here.
    fn add_file(&mut self, path: &[u8], mode: u32, hash: &ContentHash) {
        let mut hasher = blake3::Hasher::new();
        // The path is the last, and the rest of one length.
        hasher.update(&mode.to_le_bytes());
        hasher.update(hash.as_bytes());
        hasher.update(path);
        let half = *hasher
            .finalize()
            .as_bytes()
            .first_chunk()
            .expect("16 of 32");
        self.files += 1;
        self.sum = self.sum.wrapping_add(u128::from_le_bytes(half));
    }
}

/// All files beneath `tree`, or `None` where one is not proved to hold anything.
///
/// # Errors
/// Where something cannot be read.
pub(super) fn contents_of(tree: &Dir, inodes: &Inodes) -> io::Result<Option<Contents>> {
    let mut contents = Contents::default();
    let mut cursor = Cursor::new(tree);
    let mut directories = vec![Vec::new()];
    while let Some(path) = directories.pop() {
        let dir = cursor.dir(&path)?;
        for (name, mut found) in dir.children()? {
            let stat = match found {
                FileType::Directory | FileType::Symlink => None,
                _ => dir.stat(&name)?,
            };
            if let Some(stat) = &stat {
                // Not every file system tells it in the listing.
                found = kind(stat);
            }
            let below = || {
                let slash: &[u8] = if path.is_empty() { b"" } else { b"/" };
                [&path, slash, &name].concat()
            };
            match (found, stat) {
                (FileType::Directory, _) => directories.push(below()),
                (FileType::Symlink, _) => {}
                (FileType::RegularFile, Some(stat)) => match inodes.content(&stat) {
                    Some(hash) => contents.add_file(&below(), permissions(&stat), hash),
                    None => return Ok(None),
                },
                _ => return Ok(None),
            }
        }
    }
    Ok(Some(contents))
}

/// Says that a tree was checked, and when.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Checked {
    rev: Rev,
    /// By the file system's clock, in nanoseconds since 1970: when the check began.
    at: i128,
}

impl Record for Checked {
    const MAGIC: &'static [u8] = b"scap-checked/1\n";
}

const CHECKED: &str = "checked";

/// How old a check may be when its tree goes live, in nanoseconds: 5 s. To check the largest trees takes about as long,
/// so what is known of their first files is as old in any case.
const CHECK_AGE_MAX: i128 = 5_000_000_000;

impl Deployment {
    /// Notes that the tree of a release was found right by a check that began at `at`.
    pub(super) fn note_checked(
        &self,
        installed: &Installed,
        at: i128,
    ) -> Result<(), ActivateError> {
        let checked = Checked {
            rev: installed.rev.clone(),
            at,
        };
        record::note(&self.own, CHECKED, &checked)
    }

    /// Whether a tree was found right a moment ago. It is told once; where it cannot be found out, or would be told again,
    /// it was not.
    pub(super) fn was_checked(&self, installed: &Installed) -> bool {
        let Some(checked) = record::hint::<Checked>(&self.own, CHECKED) else {
            return false;
        };
        let (Ok(()), Ok(now)) = (self.own.unlink(CHECKED.as_bytes()), self.now()) else {
            return false;
        };
        checked.rev == installed.rev && (0..=CHECK_AGE_MAX).contains(&(now - checked.at))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::{super::dir::split, *};

    fn hash(text: &str) -> ContentHash {
        ContentHash::of(text.as_bytes())
    }

    #[test]
    fn what_a_tree_holds_is_known_where_every_file_has_a_row_and_differs_with_any_file() {
        let root = tempfile::tempdir().unwrap();
        let own = Dir::open(root.path()).unwrap();
        let tree = own.make_dir(b"tree", 0o755).unwrap();
        let mut inodes = Inodes::load(&own, "inodes").unwrap();
        let write = |path: &str| {
            let full = root.path().join("tree").join(path);
            fs::create_dir_all(full.parent().unwrap()).unwrap();
            fs::write(full, path).unwrap();
            let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
            let dir = tree.dir_at(dir.as_bytes()).unwrap();
            dir.stat(name.as_bytes()).unwrap().unwrap()
        };
        let mut expected = Contents::default();
        for path in ["b/c/d", "a", "b/e"] {
            let stat = write(path);
            assert_eq!(contents_of(&tree, &inodes).unwrap(), None, "{path}");
            inodes.note_written(&stat, hash(path));
            expected.add_file(path.as_bytes(), permissions(&stat), &hash(path));
        }
        tree.symlink(b"a", b"link").unwrap();
        let mut halves = [Contents::default(); 2];
        for (half, path) in [(0, "a"), (1, "b/e"), (0, "b/c/d")] {
            halves[half].add_file(path.as_bytes(), 0o644, &hash(path));
        }
        let mut joined = halves[1];
        joined.join(halves[0]);
        assert_eq!(joined, expected);
        assert_eq!(contents_of(&tree, &inodes).unwrap(), Some(expected));

        // The same contents elsewhere, or in a file that everybody may run.
        let mut hold = |contents: [&str; 2]| {
            for (path, content) in [&b"b/c/d"[..], b"b/e"].into_iter().zip(contents) {
                let (dir, name) = split(path);
                let dir = tree.dir_at(dir).unwrap();
                let stat = dir.stat(name).unwrap().unwrap();
                inodes.note_written(&stat, hash(content));
            }
            contents_of(&tree, &inodes).unwrap()
        };
        assert_ne!(hold(["b/e", "b/c/d"]), Some(expected));
        assert_eq!(hold(["b/c/d", "b/e"]), Some(expected));
        for mode in [0o755, 0o644] {
            let permissions = fs::Permissions::from_mode(mode);
            fs::set_permissions(root.path().join("tree/a"), permissions).unwrap();
            inodes.note_written(&tree.stat(b"a").unwrap().unwrap(), hash("a"));
            let found = contents_of(&tree, &inodes).unwrap();
            assert_eq!(found == Some(expected), mode == 0o644);
        }

        let planted = write("planted");
        inodes.note_written(&planted, hash("planted"));
        assert_ne!(contents_of(&tree, &inodes).unwrap(), Some(expected));
        tree.unlink(b"planted").unwrap();
        assert_eq!(contents_of(&tree, &inodes).unwrap(), Some(expected));
        // Another file of as many bytes, with a row that is as good.
        let stat = tree.stat(b"a").unwrap().unwrap();
        inodes.note_written(&stat, hash("x"));
        assert_ne!(contents_of(&tree, &inodes).unwrap(), Some(expected));
        fs::write(root.path().join("tree/a"), "longer").unwrap();
        assert_eq!(contents_of(&tree, &inodes).unwrap(), None);
    }
}
