//! Compares a live tree with a commit as git itself has it.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, Read},
    os::unix::{ffi::OsStrExt, fs::PermissionsExt},
    path::{Path, PathBuf},
};

use crate::git::{GitError, Mode, Repo, TreeEntry};

/// Compares everything below `live` with everything in `commit`: names, kinds, executable bits, link
/// targets and every byte. Returns how many entries there are, or the first difference.
pub(super) fn equals_commit(live: &Path, repo: &Path, commit: &str) -> Result<usize, String> {
    let text = |error: GitError| scap_agent::error_chain(&error);
    let repo = Repo::open(repo).map_err(text)?;
    let commit = repo.resolve(commit).map_err(text)?;
    let entries: Vec<TreeEntry> = repo
        .tree(&commit.id)
        .map_err(text)?
        .collect::<Result<_, _>>()
        .map_err(text)?;
    let mut found = BTreeSet::new();
    let root = live
        .canonicalize()
        .map_err(|error| format!("{}: {error}", live.display()))?;
    list(&root, &root, &mut found).map_err(|error| format!("list {}: {error}", root.display()))?;

    let expected: BTreeSet<&[u8]> = entries.iter().map(|entry| entry.path.as_slice()).collect();
    let actual: BTreeSet<&[u8]> = found
        .iter()
        .map(|path| path.as_os_str().as_bytes())
        .collect();
    if let Some(path) = expected.symmetric_difference(&actual).next() {
        let which = if expected.contains(path) {
            "missing"
        } else {
            "extra"
        };
        return Err(format!("{which} `{}`", path.escape_ascii()));
    }
    let blobs: Vec<&TreeEntry> = entries
        .iter()
        .filter(|entry| entry.mode != Mode::Gitlink)
        .collect();
    let ids: Vec<_> = blobs.iter().map(|entry| entry.id.clone()).collect();
    let mut difference = None;
    repo.blobs()
        .map_err(text)?
        .read(&ids, |at, content| {
            if difference.is_none() {
                difference = compare(&root, blobs[at], content).err();
            }
            Ok::<_, GitError>(())
        })
        .map_err(text)?;
    match difference {
        Some(difference) => Err(difference),
        None => Ok(entries.len()),
    }
}

fn compare(root: &Path, entry: &TreeEntry, expected: &mut dyn Read) -> Result<(), String> {
    let name = entry.path.escape_ascii();
    let path = root.join(std::ffi::OsStr::from_bytes(&entry.path));
    let failed = |error: io::Error| format!("read `{name}`: {error}");
    let metadata = fs::symlink_metadata(&path).map_err(failed)?;
    if entry.mode == Mode::Symlink {
        let mut target = Vec::new();
        expected.read_to_end(&mut target).map_err(failed)?;
        let is_same = fs::read_link(&path).is_ok_and(|link| link.as_os_str().as_bytes() == target);
        return if is_same {
            Ok(())
        } else {
            Err(format!("`{name}` is not the link that it was"))
        };
    }
    let is_executable = metadata.permissions().mode() & 0o111 != 0;
    if !metadata.is_file() || is_executable != (entry.mode == Mode::Executable) {
        return Err(format!("`{name}` is of another kind or mode"));
    }
    let mut actual = io::BufReader::new(fs::File::open(&path).map_err(failed)?);
    let (mut left, mut right) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    loop {
        let length = expected.read(&mut left).map_err(failed)?;
        if length == 0 {
            let at_end = actual.read(&mut right).map_err(failed)? == 0;
            return if at_end {
                Ok(())
            } else {
                Err(format!("`{name}` is longer"))
            };
        }
        let right = &mut right[..length];
        actual
            .read_exact(right)
            .map_err(|_| format!("`{name}` is shorter"))?;
        if left[..length] != *right {
            return Err(format!("`{name}` has other bytes"));
        }
    }
}

/// Every path below `folder` that git could name: files, links, and directories with nothing in them.
fn list(root: &Path, folder: &Path, found: &mut BTreeSet<PathBuf>) -> io::Result<()> {
    let mut is_empty = true;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        is_empty = false;
        if entry.file_type()?.is_dir() {
            list(root, &entry.path(), found)?;
        } else {
            found.insert(
                entry
                    .path()
                    .strip_prefix(root)
                    .expect("it is below")
                    .to_owned(),
            );
        }
    }
    if is_empty && folder != root {
        found.insert(folder.strip_prefix(root).expect("it is below").to_owned());
    }
    Ok(())
}
