//! Git repos to deploy, made the same each time from a seed.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rand::{Rng as _, RngCore as _, SeedableRng as _};
use rand_pcg::Pcg64;

use crate::tree::Tree;

/// A repo with a work tree.
pub struct SourceRepo {
    dir: PathBuf,
}

impl SourceRepo {
    /// Makes an empty one; the directory is created.
    ///
    /// # Panics
    /// When git fails.
    #[must_use]
    pub fn create(dir: &Path) -> Self {
        std::fs::create_dir_all(dir).unwrap_or_else(|e| panic!("create {}: {e}", dir.display()));
        let repo = Self {
            dir: dir.to_owned(),
        };
        repo.git(&["init", "--quiet", "--initial-branch=main"]);
        repo
    }

    /// Its work tree.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Writes a file of the work tree, and the directories above it.
    ///
    /// # Panics
    /// When it cannot.
    pub fn write(&self, path: impl AsRef<Path>, content: impl AsRef<[u8]>) {
        write(&self.dir.join(path), content.as_ref());
    }

    /// Commits the whole work tree and returns the commit's id.
    ///
    /// # Panics
    /// When git fails, as it does where nothing has changed.
    pub fn commit(&self, message: &str) -> String {
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--message", message]);
        self.git(&["rev-parse", "HEAD"]).trim().to_owned()
    }

    /// Moves branch and work tree to a commit.
    ///
    /// # Panics
    /// When git fails.
    pub fn go_to(&self, commit: &str) {
        self.git(&["reset", "--quiet", "--hard", commit]);
    }

    /// Has git keep what it has in one pack, as in a repo that was cloned or has been used for a while.
    ///
    /// # Panics
    /// When git fails.
    pub fn pack(&self) {
        self.git(&["repack", "-a", "-d", "--quiet"]);
    }

    /// What git says a commit holds: the output of `git archive`, unpacked.
    ///
    /// # Panics
    /// When git or tar fails.
    #[must_use]
    pub fn archived(&self, commit: &str) -> Tree {
        let beside = self.dir.parent().expect("a repo is in a directory");
        let dir = tempfile::tempdir_in(beside).expect("the repo was created there");
        let mut archive = self.command(&["archive", "--format=tar", commit]);
        let mut archive = archive
            .stdout(Stdio::piped())
            .spawn()
            .expect("git was there before");
        let unpacked = Command::new("tar")
            .args(["--extract", "--directory"])
            .arg(dir.path())
            .stdin(archive.stdout.take().expect("it is piped"))
            .status();
        assert!(
            unpacked.is_ok_and(|status| status.success()),
            "unpack {commit}"
        );
        assert!(
            archive.wait().is_ok_and(|status| status.success()),
            "git archive {commit}"
        );
        Tree::read(dir.path())
    }

    fn git(&self, args: &[&str]) -> String {
        let output = self.command(args).output().expect("git is installed");
        assert!(output.status.success(), "git {args:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Git without the user's configuration, and with a name and a date that never change.
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("git");
        command
            .arg("-C")
            .arg(&self.dir)
            // No clean-up in the background: it would go on while the test measures.
            .args(["-c", "gc.auto=0", "-c", "maintenance.auto=false"])
            .args(args)
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env_remove("GIT_DIR")
            .env_remove("GIT_WORK_TREE");
        for who in ["AUTHOR", "COMMITTER"] {
            command
                .env(format!("GIT_{who}_NAME"), "Ada")
                .env(format!("GIT_{who}_EMAIL"), "ada@example.org")
                .env(format!("GIT_{who}_DATE"), "2026-11-22T10:00:00Z");
        }
        command
    }
}

/// Fills a directory with what a source package looks like: `files` files of text, most of a
/// few kilobytes and some large, about 3 KB a file on average, nested; executables, empty files,
/// a binary, links to files, to directories and to nowhere, and names that are not nice.
///
/// # Panics
/// When a file cannot be written.
pub fn write_source_tree(dir: &Path, files: usize, seed: u64) {
    let mut rng = Pcg64::seed_from_u64(seed);
    let text = text_pool(&mut rng);
    for (name, content) in [
        (b"names/caf\xe9.txt".as_slice(), b"not UTF-8\n".as_slice()),
        (b"names/two words", b"a space\n"),
        (b"names/two\nlines", b"a newline\n"),
        (b"names/-rf", b"an option\n"),
        (b"names/\xe2\x80\xaertl", b"an override\n"),
        (b"empty/nothing", b""),
    ] {
        write(&dir.join(OsStr::from_bytes(name)), content);
    }
    write_incompressible(&dir.join("assets/logo.bin"), 300_000, seed);
    let deep = dir.join("deep").join(["d"; 60].join("/"));
    write(&deep.join("down"), b"below sixty directories\n");
    for (link, target) in [
        ("links/file", "../empty/nothing"),
        ("links/directory", "../names"),
        ("links/nowhere", "../not/there"),
        ("links/itself", "itself"),
        ("links/absolute", "/etc/hostname"),
    ] {
        make_link(&dir.join(link), target);
    }

    for number in 0..files.saturating_sub(FILES_BESIDES) {
        let folder = format!("src/{:02}/{:02}", number / 400 % 100, number / 20 % 20);
        let name = format!(
            "{}_{number}.{}",
            pick(&mut rng, WORDS),
            pick(&mut rng, ENDINGS)
        );
        let path = dir.join(&folder).join(&name);
        let bytes = file_bytes(&mut rng);
        let start = rng.random_range(0..text.len() - bytes);
        let head = if bytes == 0 {
            String::new()
        } else {
            format!("# {folder}/{name}\n")
        };
        write(
            &path,
            &[head.as_bytes(), &text[start..start + bytes]].concat(),
        );
        if number % 40 == 7 {
            make_executable(&path);
        }
        if number % 100 == 9 {
            make_link(&path.with_extension("link"), &name);
        }
    }
}

/// Fills a directory with at least `files` files: a tree that people deploy, where `SCAP_TESTS_TREE` in the environment names one
/// (`.ci/run` unpacks Debian's MediaWiki), with all that [`write_source_tree`] makes beside it, or that alone. Says which.
///
/// # Panics
/// When the tree cannot be copied, or is smaller than that.
pub fn write_large_tree(dir: &Path, files: usize, seed: u64) {
    let Some(tree) = std::env::var_os("SCAP_TESTS_TREE") else {
        eprintln!("SCAP_TESTS_TREE is not set: the tree is a made-up one");
        return write_source_tree(dir, files, seed);
    };
    let copied = Command::new("cp")
        .args(["--archive", "--no-target-directory", "--"])
        .args([Path::new(&tree), &dir.join("tree")])
        .status();
    assert!(copied.is_ok_and(|it| it.success()), "copy {tree:?}");
    let count = Tree::read(&dir.join("tree")).file_count();
    assert!(count >= files, "{tree:?} has {count} files, not {files}");
    eprintln!("the tree is {} with {count} files", tree.display());
    write_source_tree(dir, 1_000, seed);
}

/// Writes a file that no compressor makes smaller, the same for the same seed.
///
/// # Panics
/// When it cannot be written.
pub fn write_incompressible(path: &Path, bytes: usize, seed: u64) {
    let mut content = vec![0; bytes];
    Pcg64::seed_from_u64(seed).fill_bytes(&mut content);
    write(path, &content);
}

fn write(path: &Path, content: &[u8]) {
    let parent = path.parent().expect("it is in the work tree");
    std::fs::create_dir_all(parent)
        .and_then(|()| std::fs::write(path, content))
        .unwrap_or_else(|error| panic!("write {}: {error}", path.display()));
}

/// Sets the executable bits of a file.
///
/// # Panics
/// When it cannot.
pub fn make_executable(path: &Path) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))
        .unwrap_or_else(|error| panic!("chmod {}: {error}", path.display()));
}

/// Makes a symbolic link, and the directories above it.
///
/// # Panics
/// When it cannot.
pub fn make_link(path: &Path, target: &str) {
    std::fs::create_dir_all(path.parent().expect("it is in the work tree"))
        .and_then(|()| symlink(target, path))
        .unwrap_or_else(|error| panic!("link {}: {error}", path.display()));
}

/// Text with the entropy of source code; files are slices of it.
fn text_pool(rng: &mut Pcg64) -> Vec<u8> {
    let mut text = Vec::with_capacity(TEXT_BYTES + 32);
    while text.len() < TEXT_BYTES {
        text.extend_from_slice(pick(rng, WORDS).as_bytes());
        match rng.random_range(0..12) {
            0 => text.extend_from_slice(b" {\n    "),
            1 => text.extend_from_slice(b";\n"),
            2 => text.extend_from_slice(format!("({}) ", rng.random_range(0..9999)).as_bytes()),
            _ => text.push(b' '),
        }
    }
    text
}

fn file_bytes(rng: &mut Pcg64) -> usize {
    match rng.random_range(0..1000) {
        0..20 => 0,
        20..820 => rng.random_range(60..2_500),
        820..970 => rng.random_range(2_500..8_000),
        970..999 => rng.random_range(8_000..40_000),
        _ => rng.random_range(200_000..1_000_000),
    }
}

fn pick<'a>(rng: &mut Pcg64, words: &[&'a str]) -> &'a str {
    words[rng.random_range(0..words.len())]
}

const TEXT_BYTES: usize = 4 * 1024 * 1024;

/// Files of a source tree that are not numbered ones.
const FILES_BESIDES: usize = 8;

const ENDINGS: &[&str] = &["rs", "c", "h", "php", "json", "yaml", "md", "sh"];

const WORDS: &[&str] = &[
    "address", "agent", "array", "before", "branch", "buffer", "bytes", "cache", "channel",
    "check", "client", "commit", "config", "const", "count", "default", "deploy", "else", "entry",
    "error", "false", "fleet", "function", "handle", "host", "index", "instance", "job", "key",
    "let", "limit", "list", "message", "name", "null", "number", "object", "option", "path",
    "peer", "public", "queue", "record", "release", "remote", "result", "return", "server", "size",
    "source", "state", "static", "string", "struct", "table", "target", "time", "token", "tree",
    "true", "update", "user", "value", "while",
];

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_makes_the_same_commit() {
        let commits: Vec<_> = (0..2)
            .map(|_| {
                let dir = tempfile::tempdir().unwrap();
                let repo = SourceRepo::create(dir.path());
                write_source_tree(dir.path(), 500, 7);
                repo.commit("everything")
            })
            .collect();
        assert_eq!(commits[0], commits[1]);
    }

    #[test]
    fn an_archive_is_the_work_tree_without_git() {
        let dir = tempfile::tempdir().unwrap();
        let repo = SourceRepo::create(dir.path());
        write_source_tree(dir.path(), 300, 3);
        let commit = repo.commit("everything");
        let archived = repo.archived(&commit);
        assert_eq!(archived.file_count(), 300);
        std::fs::remove_dir_all(dir.path().join(".git")).unwrap();
        assert_eq!(
            archived.differences(&Tree::read(dir.path())),
            Vec::<String>::new()
        );
    }
}
