//! What a directory holds, for comparing a live tree with what it should be.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::Metadata;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use blake3::Hash;

/// Everything beneath a directory, by path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree(BTreeMap<PathBuf, Entry>);

/// A thing in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    what: What,
    /// Its permission bits, where they are looked at; those of a link say nothing.
    mode: Option<u32>,
}

/// As much of a thing as git records, and directories.
#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    Directory,
    File {
        executable: bool,
        bytes: u64,
        hash: Hash,
    },
    Link {
        /// Not a path, for which `a/` is the same as `a`.
        target: OsString,
    },
    Other,
}

impl Tree {
    /// Reads a directory; where `root` itself is a link, what it leads to.
    ///
    /// # Panics
    /// When something cannot be read.
    #[must_use]
    pub fn read(root: &Path) -> Self {
        Self::read_by(root, |_| false, |_| None)
    }

    /// The same, and what permission bits there are, of directories too; without what is left out, and what is below that,
    /// which may change meanwhile.
    ///
    /// # Panics
    /// When something cannot be read.
    #[must_use]
    pub fn read_with_modes(root: &Path, is_left_out: impl Fn(&Path) -> bool) -> Self {
        Self::read_by(root, is_left_out, |meta| {
            (!meta.is_symlink()).then(|| meta.permissions().mode() & 0o7777)
        })
    }

    fn read_by(
        root: &Path,
        is_left_out: impl Fn(&Path) -> bool,
        mode: impl Fn(&Metadata) -> Option<u32>,
    ) -> Self {
        let mut entries = BTreeMap::new();
        let mut folders = vec![PathBuf::new()];
        while let Some(folder) = folders.pop() {
            let at = root.join(&folder);
            let listing =
                std::fs::read_dir(&at).unwrap_or_else(|e| panic!("{}: {e}", at.display()));
            for listed in listing {
                let name = listed
                    .unwrap_or_else(|e| panic!("{}: {e}", at.display()))
                    .file_name();
                let path = folder.join(name);
                if is_left_out(&path) {
                    continue;
                }
                let at = root.join(&path);
                let meta = std::fs::symlink_metadata(&at);
                let meta = meta.unwrap_or_else(|e| panic!("{}: {e}", at.display()));
                let entry = Entry {
                    what: What::read(&at, &meta),
                    mode: mode(&meta),
                };
                if entry.what == What::Directory {
                    folders.push(path.clone());
                }
                entries.insert(path, entry);
            }
        }
        Self(entries)
    }

    /// How many files it holds; links and directories are none.
    #[must_use]
    pub fn file_count(&self) -> usize {
        self.0
            .values()
            .filter(|entry| matches!(entry.what, What::File { .. }))
            .count()
    }

    /// How long its files are together.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        let bytes = |entry: &Entry| {
            if let What::File { bytes, .. } = entry.what {
                bytes
            } else {
                0
            }
        };
        self.0.values().map(bytes).sum()
    }

    /// What `actual` has otherwise, too much, or not at all; a line each.
    #[must_use]
    pub fn differences(&self, actual: &Self) -> Vec<String> {
        let mut found = Vec::new();
        for (path, expected) in &self.0 {
            match actual.0.get(path) {
                None => found.push(format!("missing: {path:?}")),
                Some(entry) if entry != expected => {
                    found.push(format!("{path:?} is {entry:?}, not {expected:?}"));
                }
                Some(_) => {}
            }
        }
        let extra = actual.0.keys().filter(|path| !self.0.contains_key(*path));
        found.extend(extra.map(|path| format!("too much: {path:?}")));
        found
    }

    /// Asserts that a directory holds just this.
    ///
    /// # Panics
    /// When it does not, with the first differences.
    #[track_caller]
    pub fn assert_is(&self, actual: &Path) {
        let found = self.differences(&Self::read(actual));
        assert!(
            found.is_empty(),
            "{}: {} differences, the first:\n{}",
            actual.display(),
            found.len(),
            found[..found.len().min(20)].join("\n")
        );
    }
}

impl What {
    fn read(path: &Path, meta: &Metadata) -> Self {
        let fail = |error| -> ! { panic!("{}: {error}", path.display()) };
        let kind = meta.file_type();
        if kind.is_dir() {
            Self::Directory
        } else if kind.is_symlink() {
            Self::Link {
                target: std::fs::read_link(path).unwrap_or_else(|e| fail(e)).into(),
            }
        } else if kind.is_file() {
            let file = std::fs::File::open(path).unwrap_or_else(|e| fail(e));
            let mut hasher = blake3::Hasher::new();
            hasher.update_reader(file).unwrap_or_else(|e| fail(e));
            let executable = meta.permissions().mode() & 0o100 != 0;
            Self::File {
                executable,
                bytes: meta.len(),
                hash: hasher.finalize(),
            }
        } else {
            Self::Other
        }
    }
}

/// Where a live path leads: the name of the release directory.
///
/// # Errors
/// Why it leads nowhere.
pub fn live_release(live: &Path) -> Result<String, String> {
    let target = std::fs::read_link(live).map_err(|e| format!("{}: {e}", live.display()))?;
    let name = target
        .file_name()
        .ok_or_else(|| format!("{} -> {target:?}", live.display()))?;
    Ok(String::from_utf8_lossy(name.as_bytes()).into_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn change(edit: impl Fn(&Path)) -> Vec<String> {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        for dir in &dirs {
            std::fs::create_dir(dir.path().join("sub")).unwrap();
            std::fs::write(dir.path().join("sub/file"), "text").unwrap();
            crate::repo::make_link(&dir.path().join("link"), "sub");
        }
        edit(dirs[1].path());
        Tree::read(dirs[0].path()).differences(&Tree::read(dirs[1].path()))
    }

    #[test]
    fn equal_trees_do_not_differ() {
        assert!(change(|_| {}).is_empty());
    }

    #[test]
    fn permission_bits_are_told_apart_where_they_are_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let (file, sub) = (dir.path().join("file"), dir.path().join("sub"));
        std::fs::write(&file, "text").unwrap();
        std::fs::create_dir(&sub).unwrap();
        let set = |path: &Path, mode| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        set(&file, 0o644);
        set(&sub, 0o755);
        let with_modes = || Tree::read_with_modes(dir.path(), |_| false);
        let (plain, whole) = (Tree::read(dir.path()), with_modes());
        set(&file, 0o600);
        set(&sub, 0o700);
        assert!(plain.differences(&Tree::read(dir.path())).is_empty());
        let found = whole.differences(&with_modes());
        assert_eq!(found.len(), 2, "{found:?}");
        let alone = Tree::read_with_modes(dir.path(), |path| path == Path::new("sub"));
        let found = with_modes().differences(&alone);
        assert_eq!(found, ["missing: \"sub\""]);
    }

    #[test]
    fn every_kind_of_difference_is_found() {
        for (edit, expected) in [
            (
                (|dir| std::fs::write(dir.join("sub/file"), "Text").unwrap()) as fn(&Path),
                "\"sub/file\" is",
            ),
            (
                |dir| crate::repo::make_executable(&dir.join("sub/file")),
                "\"sub/file\" is",
            ),
            (
                |dir| std::fs::remove_file(dir.join("sub/file")).unwrap(),
                "missing: \"sub/file\"",
            ),
            (
                |dir| std::fs::create_dir(dir.join("more")).unwrap(),
                "too much: \"more\"",
            ),
            (
                |dir| {
                    std::fs::remove_file(dir.join("link")).unwrap();
                    crate::repo::make_link(&dir.join("link"), "sub/");
                },
                "\"link\" is",
            ),
        ] {
            let found = change(edit);
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(found[0].starts_with(expected), "{found:?}");
        }
    }
}
