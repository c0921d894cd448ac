//! The demo's git repo: a small one of its own, or a copy of the user's.

use std::{
    fs,
    io::Write,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    process::{Command, Stdio},
};

use super::CliError;
use crate::git::{Mode, Repo, TreeEntry};

/// Largest file that gets the one-line change, in bytes: it is held in memory.
const EDIT_BYTES_MAX: u64 = 1024 * 1024;

/// Makes a repo at `path` and returns three commits of it, each of the later ones a one-line change after the one before. A user's
/// repository is only read: what is made is made in a copy that borrows its objects.
pub(super) fn make(path: &Path, of: Option<&Path>) -> Result<[String; 3], CliError> {
    match of {
        Some(user) => {
            let source = Repo::open(user)
                .map_err(|error| CliError::failed("open --repo", &error).hint(error.hint()))?;
            let mut clone = git(Path::new("."));
            clone
                .args(["clone", "--quiet", "--bare", "--shared", "--"])
                .arg(source.git_dir());
            output(clone.arg(path), "copy the repo")?;
        }
        None => {
            output(
                git(Path::new("."))
                    .args(["init", "--quiet", "--bare", "--"])
                    .arg(path),
                "make a repo",
            )?;
            sample(path)?;
        }
    }
    let repo = Repo::open(path).map_err(|error| CliError::failed("open the repo", &error))?;
    let first = repo
        .resolve("HEAD")
        .map_err(|error| CliError::failed("find its HEAD", &error).hint(error.hint()))?;
    let first = first.id.to_string();
    let second = change_a_line(path, &repo, &first)?;
    let third = change_a_line(path, &repo, &second)?;
    Ok([first, second, third])
}

/// Commits a tree with one of each: folders, an executable, a link, an empty file, a binary.
fn sample(repo: &Path) -> Result<(), CliError> {
    let tree = repo.with_file_name("tree");
    let write = || -> std::io::Result<()> {
        for folder in ["bin", "src/lib", "static/img"] {
            fs::create_dir_all(tree.join(folder))?;
        }
        fs::write(tree.join("README.md"), "# A site\n\nVersion 1\n")?;
        fs::write(tree.join("bin/serve"), "#!/bin/sh\nexec echo serving\n")?;
        fs::set_permissions(tree.join("bin/serve"), fs::Permissions::from_mode(0o755))?;
        symlink("bin/serve", tree.join("serve"))?;
        fs::write(tree.join("static/.keep"), "")?;
        // 256 KiB that no compressor shortens.
        let mut noise = blake3::Hasher::new().update(b"demo").finalize_xof();
        let mut binary = vec![0; 256 * 1024];
        noise.fill(&mut binary);
        fs::write(tree.join("static/img/photo.bin"), binary)?;
        for n in 0..200 {
            let text = format!("// Part {n} of the site.\n").repeat(1 + n % 40);
            fs::write(tree.join(format!("src/lib/part{n:03}.js")), text)?;
        }
        Ok(())
    };
    write().map_err(|error| CliError::failed("make the sample's files", &error))?;
    output(
        git(repo)
            .arg("--work-tree")
            .arg(&tree)
            .args(["add", "--all"]),
        "add the files",
    )?;
    let id = output(git(repo).arg("write-tree"), "write the tree")?;
    commit(repo, &id, None, "A site")
        .and_then(|id| output(git(repo).args(["update-ref", "HEAD", &id]), "set HEAD"))
        .map(|_| ())
}

/// Commits the tree of `parent` with a line added to its first text file.
fn change_a_line(path: &Path, repo: &Repo, parent: &str) -> Result<String, CliError> {
    let failed = |error: crate::git::GitError| CliError::failed("read the first commit", &error);
    let id = parent.parse().expect("a resolved id");
    let is_small = |entry: &TreeEntry| {
        matches!(entry.mode, Mode::File | Mode::Executable)
            && (1..=EDIT_BYTES_MAX).contains(&entry.size)
    };
    let mut edited = None;
    for entry in repo.tree(&id).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if !is_small(&entry) {
            continue;
        }
        let mut content = Vec::new();
        repo.blobs()
            .map_err(failed)?
            .read(std::slice::from_ref(&entry.id), |_, source| {
                source
                    .read_to_end(&mut content)
                    .map(|_| ())
                    .map_err(|source| crate::git::GitError::Run {
                        doing: "read a file of the commit",
                        source,
                    })
            })
            .map_err(failed)?;
        if !content.contains(&0) {
            edited = Some((entry, content));
            break;
        }
    }
    let (entry, mut content) = edited.ok_or_else(|| {
        CliError::usage("the repo's HEAD has no text file of at most 1 MiB to change a line of")
    })?;
    content.extend_from_slice(b"One line more.\n");
    let blob = input(
        git(path).args(["hash-object", "-w", "--stdin"]),
        &content,
        "write the changed file",
    )?;
    output(git(path).args(["read-tree", parent]), "read the first tree")?;
    let mode = if entry.mode == Mode::Executable {
        "100755"
    } else {
        "100644"
    };
    let mut line = format!("{mode} {blob}\t").into_bytes();
    line.extend_from_slice(&entry.path);
    line.push(0);
    input(
        git(path).args(["update-index", "-z", "--index-info"]),
        &line,
        "change the tree",
    )?;
    let tree = output(git(path).arg("write-tree"), "write the second tree")?;
    commit(path, &tree, Some(parent), "Change one line")
}

fn commit(
    repo: &Path,
    tree: &str,
    parent: Option<&str>,
    message: &str,
) -> Result<String, CliError> {
    let mut command = git(repo);
    command.args(["commit-tree", tree, "-m", message]);
    if let Some(parent) = parent {
        command.args(["-p", parent]);
    }
    output(&mut command, "commit")
}

/// Git on the repo at `git_dir`, which this program made, with nobody's configuration.
fn git(git_dir: &Path) -> Command {
    let mut command = Command::new("git");
    command
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_INDEX_FILE", git_dir.join("demo-index"));
    for (role, name) in [("AUTHOR", "Demo"), ("COMMITTER", "Demo")] {
        command
            .env(format!("GIT_{role}_NAME"), name)
            .env(format!("GIT_{role}_EMAIL"), "demo@scap.invalid")
            .env(format!("GIT_{role}_DATE"), "@1767225600 +0000");
    }
    if git_dir != Path::new(".") {
        command.arg("--git-dir").arg(git_dir);
    }
    command
}

fn output(command: &mut Command, doing: &str) -> Result<String, CliError> {
    input(command, b"", doing)
}

fn input(command: &mut Command, bytes: &[u8], doing: &str) -> Result<String, CliError> {
    let failed = |error: std::io::Error| {
        let hint = (error.kind() == std::io::ErrorKind::NotFound)
            .then(|| "install git; the demo deploys a git repo".to_owned());
        CliError::failed(&format!("{doing} with git"), &error).hint(hint)
    };
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().map_err(failed)?;
    // Git may end without reading what it does not need.
    let _ = child.stdin.take().expect("stdin is piped").write_all(bytes);
    let output = child.wait_with_output().map_err(failed)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout)
            .trim_end()
            .to_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(CliError::usage(format!(
        "{doing}: git says: {}",
        said.trim_end().escape_debug()
    ))
    .code(super::exit::FAILED))
}
