//! File systems that a fleet mounts below its directory.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Mounts an empty file system in memory, of at most `bytes`, over a directory.
///
/// # Panics
/// When it cannot.
pub(crate) fn mount_tmpfs(dir: &Path, bytes: Option<u64>) {
    // As a directory that its owner made: others may not write there.
    let size = bytes.map_or("100%".to_owned(), |bytes| bytes.to_string());
    mount_tmpfs_with(dir, &format!("size={size},mode=0755"));
}

/// As [`mount_tmpfs`], with options of the file system's.
///
/// # Panics
/// When it cannot.
pub(crate) fn mount_tmpfs_with(dir: &Path, options: &str) {
    run("mount", &["-t", "tmpfs", "-o", options, "tmpfs"], dir);
}

/// Changes options of what is mounted on a directory.
///
/// # Panics
/// When it cannot.
pub(crate) fn remount(dir: &Path, options: &str) {
    run("mount", &["-o", &format!("remount,{options}")], dir);
}

/// Unmounts whatever is mounted on a directory or below it; the last mounted goes first.
pub(crate) fn unmount_beneath(dir: &Path) {
    let mut below: Vec<_> = mounts()
        .into_iter()
        .filter(|(at, _)| at.starts_with(dir))
        .collect();
    below.reverse();
    for (at, _) in below {
        // Lazily: a killed process may still be on its way out.
        let _ = Command::new("umount").arg("--lazy").arg(at).status();
    }
}

/// The kind of file system that holds a path.
pub(crate) fn filesystem_of(path: &Path) -> String {
    mounts()
        .into_iter()
        .filter(|(at, _)| path.starts_with(at))
        .max_by_key(|(at, _)| at.components().count())
        .map_or_else(|| "unknown".to_owned(), |(_, kind)| kind)
}

fn mounts() -> Vec<(PathBuf, String)> {
    let table = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    table
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let at = fields.next()?.replace("\\040", " ");
            Some((PathBuf::from(at), fields.next()?.to_owned()))
        })
        .collect()
}

fn run(program: &str, args: &[&str], dir: &Path) {
    let output = Command::new(program)
        .args(args)
        .arg(dir)
        .output()
        .unwrap_or_else(|error| panic!("start {program}: {error}"));
    assert!(
        output.status.success(),
        "{program} {args:?} {}: {}",
        dir.display(),
        String::from_utf8_lossy(&output.stderr)
    );
}
