use std::{fs, io::Write, os::unix::ffi::OsStrExt, path::PathBuf};

use tempfile::TempDir;

use super::*;

/// A repository of a test's own, with a fixed author and clock.
pub(crate) struct TestRepo(pub(crate) TempDir);

impl TestRepo {
    pub(crate) fn new(init: &[&str]) -> Self {
        let repo = Self(tempfile::tempdir().unwrap());
        repo.git(&[&["init", "-q", "-b", "main"], init].concat());
        repo
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn git(&self, args: &[&str]) -> String {
        self.git_with(args, b"")
    }

    /// Runs git with `input`, and returns what it wrote.
    pub(crate) fn git_with(&self, args: &[&str], input: &[u8]) -> String {
        let mut child = Command::new("git")
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_AUTHOR_NAME", "Ann")
            .env("GIT_AUTHOR_EMAIL", "ann@example.org")
            .env("GIT_COMMITTER_NAME", "Cy")
            .env("GIT_COMMITTER_EMAIL", "cy@example.org")
            .env("GIT_AUTHOR_DATE", "1700000000 +0000")
            .env("GIT_COMMITTER_DATE", "1700000001 +0200")
            .arg("-C")
            .arg(self.path())
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "git {args:?}");
        String::from_utf8(output.stdout).unwrap().trim_end().into()
    }

    pub(crate) fn write(&self, path: impl AsRef<Path>, content: &[u8]) -> PathBuf {
        let path = self.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }

    pub(crate) fn commit(&self, message: &str) -> GitOid {
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "--allow-empty", "-m", message]);
        self.git(&["rev-parse", "HEAD"]).parse().unwrap()
    }

    /// A commit of a tree that git would not make: `mode name` and object for each entry.
    pub(crate) fn commit_raw_tree(&self, entries: &[(&str, &[u8], &GitOid)]) -> GitOid {
        let tree = self.raw_tree(entries);
        let commit = self.git(&["commit-tree", "-m", "raw", &tree.to_string()]);
        commit.parse().unwrap()
    }

    pub(crate) fn raw_tree(&self, entries: &[(&str, &[u8], &GitOid)]) -> GitOid {
        let mut bytes = Vec::new();
        for (mode, name, id) in entries {
            bytes.extend_from_slice(mode.as_bytes());
            bytes.push(b' ');
            bytes.extend_from_slice(name);
            bytes.push(0);
            bytes.extend_from_slice(id.as_bytes());
        }
        let args = ["hash-object", "-t", "tree", "--literally", "-w", "--stdin"];
        self.git_with(&args, &bytes).parse().unwrap()
    }

    pub(crate) fn blob(&self, content: &[u8]) -> GitOid {
        let id = self.git_with(&["hash-object", "-w", "--stdin"], content);
        id.parse().unwrap()
    }

    pub(crate) fn open(&self) -> Repo {
        Repo::open(self.path()).unwrap()
    }

    /// The file of a loose object.
    pub(crate) fn loose(&self, id: &GitOid) -> PathBuf {
        let id = id.to_string();
        let objects = self.path().join(".git/objects");
        objects.join(&id[..2]).join(&id[2..])
    }
}

fn path(text: &str) -> RelPath {
    RelPath::new(text.as_bytes().to_vec()).unwrap()
}

fn tree(repo: &Repo, commit: &GitOid) -> Vec<TreeEntry> {
    repo.tree(commit)
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap()
}

#[test]
fn a_commit_is_found_by_branch_tag_and_abbreviated_id() {
    let test = TestRepo::new(&[]);
    test.write("a", b"1");
    let id = test.commit("First \u{e4}\nline\n\nBody");
    test.git(&["tag", "-a", "-m", "tagged", "v1"]);
    test.git(&["config", "advice.nestedTag", "false"]);
    test.git(&["tag", "-a", "-m", "tag of a tag", "v2", "v1"]);
    let repo = test.open();
    let short = id.to_string()[..8].to_owned();
    for revision in [
        "HEAD",
        "main",
        "v1",
        "v2",
        "HEAD^0",
        &id.to_string(),
        &short,
    ] {
        let commit = repo.resolve(revision).unwrap();
        assert_eq!(commit.id, id, "{revision}");
        assert_eq!(commit.subject, "First \u{e4} line");
        assert_eq!(commit.author, "Ann <ann@example.org>");
        assert_eq!(commit.time, 1_700_000_001);
    }
}

#[test]
fn what_is_no_commit_is_refused_by_what_it_is() {
    let test = TestRepo::new(&[]);
    let empty = test.open();
    assert!(matches!(
        empty.resolve("HEAD"),
        Err(GitError::UnknownRevision(_))
    ));
    test.write("a", b"1");
    test.commit("c");
    let repo = test.open();
    for unknown in [
        "nope",
        "",
        "^HEAD",
        "HEAD..HEAD",
        "--all",
        "--output=pwned",
        "-n1",
        "a\nb",
        "a\0b",
        "0123456789012345678901234567890123456789",
    ] {
        let error = repo.resolve(unknown).unwrap_err();
        assert!(
            matches!(&error, GitError::UnknownRevision(revision) if revision == unknown),
            "{unknown:?}: {error}"
        );
        assert!(error.hint().is_some());
        assert!(!error.to_string().contains('\n'));
    }
    for (revision, expected) in [("HEAD:a", "blob"), ("HEAD^{tree}", "tree")] {
        let error = repo.resolve(revision).unwrap_err();
        assert!(
            matches!(&error, GitError::NotACommit { kind, .. } if kind == expected),
            "{error}"
        );
    }
}

#[test]
fn what_cannot_be_opened_says_so_and_what_to_do() {
    let test = TestRepo::new(&[]);
    let file = test.write("sub/file", b"");
    let plain = tempfile::tempdir().unwrap();
    for not_a_repository in [plain.path(), file.parent().unwrap()] {
        let error = Repo::open(not_a_repository).unwrap_err();
        assert!(matches!(error, GitError::NotARepository(_)), "{error}");
        assert!(error.hint().unwrap().contains("--dir"));
    }
    for missing in [&file, &test.path().join("missing")] {
        let error = Repo::open(missing).unwrap_err();
        assert!(matches!(error, GitError::Open { .. }), "{error}");
        assert!(error.to_string().contains(missing.to_str().unwrap()));
    }
    let no_git = plain.path().join("git");
    let error = Repo::open_with(no_git.as_os_str(), test.path()).unwrap_err();
    assert!(matches!(error, GitError::Run { .. }), "{error}");
    assert!(error.hint().unwrap().contains("install git"));
}

#[test]
fn a_repository_of_another_user_is_refused_unless_trusted() {
    let test = TestRepo::new(&[]);
    let other = Some(12_345);
    if std::os::unix::fs::chown(test.path(), other, other).is_err() {
        println!("skipped: only root can give a directory away");
        return;
    }
    let error = Repo::open(test.path()).unwrap_err();
    assert!(matches!(error, GitError::OtherOwner(_)), "{error}");
    assert!(error.hint().unwrap().contains("safe.directory"));
}

#[test]
fn bare_repositories_linked_work_trees_and_git_directories_open() {
    let test = TestRepo::new(&[]);
    test.write("a", b"1");
    let id = test.commit("c");
    test.git(&["clone", "-q", "--bare", ".", "bare.git"]);
    test.git(&["worktree", "add", "-q", "linked"]);
    for place in [".", ".git", "bare.git", "linked"] {
        let repo = Repo::open(&test.path().join(place)).unwrap();
        assert!(repo.git_dir().is_absolute());
        assert_eq!(repo.resolve("HEAD").unwrap().id, id, "{place}");
        assert_eq!(tree(&repo, &id).len(), 1, "{place}");
    }
}

#[test]
fn sha256_repositories_are_read() {
    let test = TestRepo::new(&["--object-format=sha256"]);
    test.write("a", b"content");
    let id = test.commit("c");
    assert_eq!(id.as_bytes().len(), 32);
    let repo = test.open();
    assert_eq!(repo.resolve("HEAD").unwrap().id, id);
    let read = repo.read_file(&id, &path("a"), 100).unwrap();
    assert_eq!(read.unwrap(), b"content");
}

#[test]
fn entries_come_in_the_order_of_whole_paths_with_any_bytes_in_names() {
    let test = TestRepo::new(&[]);
    let odd = [
        &b"a/b"[..],
        b"a-b",
        b"a.c",
        b"new\nline",
        b"tab\there",
        b"\xff\xfe",
        b"-rf",
        b"q\"uote",
        b" space ",
        b"a0",
    ];
    for name in odd {
        test.write(OsStr::from_bytes(name), name);
    }
    let id = test.commit("c");
    let entries = tree(&test.open(), &id);
    let mut expected = odd.to_vec();
    expected.sort_unstable();
    let found: Vec<&[u8]> = entries.iter().map(|entry| entry.path.as_slice()).collect();
    assert_eq!(found, expected);
    assert!(
        entries
            .iter()
            .all(|entry| entry.size == entry.path.len() as u64)
    );
}

#[test]
fn modes_are_as_git_reads_them() {
    let test = TestRepo::new(&[]);
    let blob = test.blob(b"x");
    let id = test.commit_raw_tree(&[
        ("100644", b"a", &blob),
        ("100664", b"b", &blob),
        ("100755", b"c", &blob),
        ("104775", b"d", &blob),
        ("120000", b"e", &blob),
        ("160000", b"f", &blob),
    ]);
    let modes: Vec<Mode> = tree(&test.open(), &id).iter().map(|e| e.mode).collect();
    assert_eq!(
        modes,
        [
            Mode::File,
            Mode::File,
            Mode::Executable,
            Mode::Executable,
            Mode::Symlink,
            Mode::Gitlink,
        ]
    );
}

#[test]
fn one_file_is_read_whole_and_within_its_limit() {
    let test = TestRepo::new(&[]);
    test.write("dir/file", b"0123456789");
    test.write("star*", b"star");
    test.write("stark", b"stark");
    std::os::unix::fs::symlink("dir/file", test.path().join("link")).unwrap();
    let id = test.commit("c");
    // What the work tree holds does not matter.
    test.write("dir/file", b"dirty");
    let repo = test.open();
    let read = |name: &str| repo.read_file(&id, &path(name), 10);
    assert_eq!(read("dir/file").unwrap().unwrap(), b"0123456789");
    assert_eq!(read("star*").unwrap().unwrap(), b"star");
    assert_eq!(read("missing").unwrap(), None);
    assert_eq!(read("dir/file/below").unwrap(), None);
    for other in ["dir", "link"] {
        assert!(matches!(read(other), Err(GitError::NotAFile(_))), "{other}");
    }
    assert!(matches!(
        repo.read_file(&id, &path("dir/file"), 9),
        Err(GitError::FileTooLarge {
            size: 10,
            bytes_max: 9,
            ..
        })
    ));
}

#[test]
fn blobs_come_in_order_whether_they_are_read_to_the_end_or_not() {
    let test = TestRepo::new(&[]);
    let contents: Vec<Vec<u8>> = (0..200_u32)
        .map(|i| vec![b'x'; (i * 37) as usize])
        .collect();
    let ids: Vec<GitOid> = contents.iter().map(|content| test.blob(content)).collect();
    let mut blobs = test.open().blobs().unwrap();
    for _ in 0..2 {
        let mut next = 0;
        let read = |index: usize, source: &mut dyn Read| {
            assert_eq!(index, next);
            next += 1;
            let mut content = Vec::new();
            let wanted = if index.is_multiple_of(3) { 5 } else { u64::MAX };
            source.take(wanted).read_to_end(&mut content).unwrap();
            let expected = &contents[index];
            let end = expected.len().min(usize::try_from(wanted).unwrap());
            assert_eq!(content, expected[..end]);
            Ok::<(), GitError>(())
        };
        blobs.read(&ids, read).unwrap();
        assert_eq!(next, ids.len());
    }
}

#[test]
fn missing_and_damaged_objects_are_named() {
    let test = TestRepo::new(&[]);
    let read = |id: &GitOid| {
        let mut blobs = test.open().blobs().unwrap();
        blobs.read(std::slice::from_ref(id), |_, source| {
            // Whether or not reading shows it, the end of it does.
            let _ = io::copy(source, &mut io::sink());
            Ok::<(), GitError>(())
        })
    };
    let tree: GitOid = test.git_with(&["mktree"], b"").parse().unwrap();
    assert!(matches!(read(&tree), Err(GitError::OtherKind { kind, .. }) if kind == "tree"));
    let missing: GitOid = "0123456789012345678901234567890123456789".parse().unwrap();
    assert!(matches!(read(&missing), Err(GitError::MissingObject(id)) if id == missing));

    let mut noise = vec![0; 100_000];
    blake3::Hasher::new().finalize_xof().fill(&mut noise);
    let id = test.blob(&noise);
    let loose = test.loose(&id);
    let bytes = fs::read(&loose).unwrap();
    fs::remove_file(&loose).unwrap();
    fs::write(&loose, &bytes[..bytes.len() / 2]).unwrap();
    let error = read(&id).unwrap_err();
    assert!(matches!(error, GitError::Failed { .. }), "{error:?}");
    assert!(error.to_string().contains(&id.to_string()), "{error}");
}

#[test]
fn c6_nothing_that_a_repository_says_is_executed_or_replaced() {
    let test = TestRepo::new(&[]);
    test.write("a", b"real");
    let id = test.commit("real");
    let real = test.git(&["rev-parse", "HEAD:a"]);
    let fake = test.blob(b"fake").to_string();
    test.git(&["replace", &real, &fake]);
    let witness = test.path().join("witness");
    let script = test.write(
        "evil",
        format!("#!/bin/sh\ntouch {}\n", witness.display()).as_bytes(),
    );
    let script = script.to_str().unwrap();
    fs::set_permissions(script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    for key in [
        "core.fsmonitor",
        "core.pager",
        "pager.ls-tree",
        "core.sshCommand",
        "core.editor",
        "alias.ls-tree",
        "filter.x.smudge",
        "filter.x.clean",
        "filter.x.process",
        "diff.x.textconv",
        "diff.x.command",
        "diff.external",
        "core.alternateRefsCommand",
        "uploadpack.packObjectsHook",
        "submodule.x.update",
        "gpg.program",
    ] {
        test.git(&["config", key, script]);
    }
    test.git(&["config", "log.showSignature", "true"]);
    let repo = test.open();
    assert_eq!(repo.resolve("HEAD").unwrap().id, id);
    let read = repo.read_file(&id, &path("a"), 100).unwrap();
    assert_eq!(read.unwrap(), b"real");
    assert!(!witness.exists());
}

#[test]
fn changes_are_told_by_path_with_what_is_there_now() {
    for format in ["sha1", "sha256"] {
        let test = TestRepo::new(&[&format!("--object-format={format}")]);
        for name in [
            "same/below",
            "edited",
            "gone",
            "moved",
            "file",
            "dir/in/it",
            "mode",
        ] {
            test.write(name, name.as_bytes());
        }
        let before = test.commit("before");
        test.write("edited", b"longer than before");
        for name in ["gone", "file"] {
            fs::remove_file(test.path().join(name)).unwrap();
        }
        fs::rename(test.path().join("moved"), test.path().join("a.moved")).unwrap();
        fs::remove_dir_all(test.path().join("dir")).unwrap();
        test.write("dir", b"a file now");
        test.write(OsStr::from_bytes(b"file/\xff\n"), b"below");
        test.git(&["update-index", "--add", "--chmod=+x", "mode"]);
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(test.path().join("mode"), mode).unwrap();
        std::os::unix::fs::symlink("dir", test.path().join("link")).unwrap();
        let id = format!("160000,{before},sub");
        test.git(&["update-index", "--add", "--cacheinfo", &id]);
        fs::create_dir(test.path().join("sub")).unwrap();
        test.git(&["config", "diff.ignoreSubmodules", "all"]);
        let after = test.commit("after");
        let repo = test.open();

        let now = tree(&repo, &after);
        let at = |path: &[u8]| now.iter().find(|entry| entry.path == path).unwrap().clone();
        let expected = [
            Change::Added(at(b"a.moved")),
            Change::Added(at(b"dir")),
            Change::Removed(b"dir/in/it".into()),
            Change::Changed(at(b"edited")),
            Change::Removed(b"file".into()),
            Change::Added(at(b"file/\xff\n")),
            Change::Removed(b"gone".into()),
            Change::Added(at(b"link")),
            Change::Changed(at(b"mode")),
            Change::Removed(b"moved".into()),
            Change::Added(at(b"sub")),
        ];
        assert_eq!(repo.changes(&before, &after).unwrap(), expected, "{format}");
        assert_eq!(repo.changes(&after, &after).unwrap(), []);
        assert_eq!(repo.changes(&after, &before).unwrap().len(), expected.len());
    }
}

#[test]
fn more_changes_than_are_held_are_refused() {
    let test = TestRepo::new(&["--bare"]);
    let empty = test.raw_tree(&[]).to_string();
    let before = test
        .git(&["commit-tree", "-m", "nothing", &empty])
        .parse()
        .unwrap();
    let blob = test.blob(b"x");
    let names: Vec<String> = (0..=CHANGES_MAX).map(|file| format!("{file:06}")).collect();
    let all: Vec<(&str, &[u8], &GitOid)> = names
        .iter()
        .map(|name| ("100644", name.as_bytes(), &blob))
        .collect();
    let repo = test.open();
    let changes = |count| repo.changes(&before, &test.commit_raw_tree(&all[..count]));
    assert_eq!(changes(CHANGES_MAX).unwrap().len(), CHANGES_MAX);
    let error = changes(CHANGES_MAX + 1).unwrap_err();
    assert!(matches!(error, ChangesError::TooMany), "{error:?}");
}

#[test]
fn a_directory_too_deep_for_any_path_is_not_looked_into() {
    let test = TestRepo::new(&["--bare"]);
    let name = [b'n'; 250];
    let mut tree = test.raw_tree(&[("100644", b"file", &test.blob(b"x"))]);
    let mut commits = Vec::new();
    for _ in 0..17 {
        tree = test.raw_tree(&[("40000", &name, &tree)]);
        let commit = test.git(&["commit-tree", "-m", "deep", &tree.to_string()]);
        commits.push(commit.parse().unwrap());
    }
    let repo = test.open();
    assert_eq!(repo.changes(&commits[0], &commits[15]).unwrap().len(), 2);
    let error = repo.changes(&commits[0], &commits[16]).unwrap_err();
    assert!(matches!(error, ChangesError::Malformed(_)), "{error:?}");
}
