//! Trees and directories that somebody made on purpose: refused by name, or carried as data.

use scap_proto::content::path::PathProblem;

use super::*;

const NOWHERE: &str = "0123456789012345678901234567890123456789";

#[test]
fn c6_a_submodule_is_the_commit_that_belongs_there() {
    let test = TestRepo::new(&[]);
    let blob =
        test.blob(b"[submodule \"x\"]\n\tpath = x\r\n\turl = -evil\n\tupdate = !touch pwned\n");
    let other: GitOid = NOWHERE.parse().unwrap();
    let commit =
        test.commit_raw_tree(&[("100644", b".gitmodules", &blob), ("160000", b"x", &other)]);
    let (built, sink) = snapshot_of_commit(&test, &commit);
    assert_eq!(
        sink.files(&built)[&b"x"[..]],
        ('g', other.as_bytes().to_vec())
    );
}

#[test]
fn c6_gitmodules_that_is_a_link_is_refused_by_name() {
    let test = TestRepo::new(&[]);
    let target = &test.blob(b"/etc/passwd");
    let plain = tempfile::tempdir().unwrap();
    for name in [&b".gitmodules"[..], b".GITMODULES", b"gitmod~1"] {
        let commit = test.commit_raw_tree(&[("120000", name, target)]);
        let path = plain.path().join(OsStr::from_bytes(name));
        symlink("/etc/passwd", &path).unwrap();
        for error in [
            refusal_of_commit(&test, &commit),
            refusal_of_directory(plain.path()),
        ] {
            assert!(
                matches!(&error, SnapshotError::Path(path) if path.problem == PathProblem::LinkedModules),
                "{error:?}"
            );
            assert!(error.to_string().contains("[forbidden-name]"), "{error}");
        }
        fs::remove_file(path).unwrap();
    }
}

#[test]
fn c1_names_that_git_would_not_make_are_refused_by_name() {
    let test = TestRepo::new(&[]);
    let blob = &test.blob(b"x");
    for (name, expected) in [
        (&b".."[..], PathProblem::Dots),
        (b".", PathProblem::Dots),
        (b"../x", PathProblem::Dots),
        (b"/etc/passwd", PathProblem::Empty),
        (b".git", PathProblem::DotGit),
        (b".GIT", PathProblem::DotGit),
        (b"git~1", PathProblem::DotGit),
        (b".git::$INDEX_ALLOCATION", PathProblem::DotGit),
        (".g\u{200c}it".as_bytes(), PathProblem::DotGit),
        (&[b'n'; 256], PathProblem::NameTooLong),
    ] {
        let commit = test.commit_raw_tree(&[("100644", name, blob)]);
        let error = refusal_of_commit(&test, &commit);
        assert!(
            matches!(&error, SnapshotError::Path(path) if path.problem == expected),
            "{}: {error:?}",
            name.escape_ascii()
        );
        assert!(error.to_string().contains("[forbidden-name]"), "{error}");
        assert!(error.hint().is_some());
    }
}

#[test]
fn c2_what_is_below_a_link_or_a_file_is_refused_by_name() {
    let test = TestRepo::new(&[]);
    let blob = &test.blob(b"/etc");
    let below = &test.raw_tree(&[("100644", b"passwd", blob)]);
    for mode in ["120000", "100644"] {
        let commit = test.commit_raw_tree(&[
            (mode, b"a", blob),
            ("100644", b"a.b", blob),
            ("40000", b"a", below),
        ]);
        let error = refusal_of_commit(&test, &commit);
        assert!(
            matches!(&error, SnapshotError::BelowNonDirectory(path) if path.as_bytes() == b"a/passwd"),
            "{error:?}"
        );
    }
}

#[test]
fn c3_a_target_that_no_link_could_have_is_refused_and_any_other_is_data() {
    let test = TestRepo::new(&[]);
    for target in [&b""[..], b"a\0b", &[b't'; 4096]] {
        let blob = &test.blob(target);
        let commit = test.commit_raw_tree(&[("120000", b"link", blob)]);
        let error = refusal_of_commit(&test, &commit);
        assert!(
            matches!(error, SnapshotError::SymlinkTarget(_)),
            "{error:?}"
        );
    }
    for target in [
        &b"/etc/shadow"[..],
        b"../../../etc/shadow",
        b"\x1b[2J\xff",
        b"link",
    ] {
        let blob = &test.blob(target);
        let commit = test.commit_raw_tree(&[("120000", b"link", blob)]);
        let (built, sink) = snapshot_of_commit(&test, &commit);
        assert_eq!(sink.files(&built)[&b"link"[..]], ('l', target.to_vec()));
    }
}

#[test]
fn c4_modes_that_git_does_not_write_are_refused_by_name_wherever_they_are() {
    let test = TestRepo::new(&[]);
    let blob = &test.blob(b"x");
    for mode in [
        "104755", "102755", "101644", "100666", "100777", "100600", "60000", "20000", "10000",
        "140000", "40755", "41777",
    ] {
        let inner = &test.raw_tree(&[(mode, b"odd", blob)]);
        let folder = &test.raw_tree(&[("40000", b"inner", inner)]);
        let commit = test.commit_raw_tree(&[("100644", b"a", blob), ("40000", b"b", folder)]);
        let error = refusal_of_commit(&test, &commit);
        assert!(
            matches!(&error, SnapshotError::Git(GitError::Mode { name, .. }) if name == "odd"),
            "{mode}: {error:?}"
        );
        let text = scap_agent::error_chain(&error);
        assert!(text.contains(mode), "{text}");
        assert!(error.hint().unwrap().contains("fsck"));
    }
    let other: &GitOid = &NOWHERE.parse().unwrap();
    let inner = &test.raw_tree(&[("100755", b"x", blob)]);
    let commit = test.commit_raw_tree(&[
        ("100644", b"a", blob),
        ("100664", b"b", blob),
        ("120000", b"c", blob),
        ("40000", b"d", inner),
        ("160000", b"e", other),
    ]);
    let (built, sink) = snapshot_of_commit(&test, &commit);
    let kinds: String = sink.files(&built).values().map(|(kind, _)| *kind).collect();
    assert_eq!(kinds, "fflxg");
}

#[test]
fn c5_a_name_that_comes_twice_or_out_of_order_is_refused() {
    let test = TestRepo::new(&[]);
    let blob = &test.blob(b"x");
    let twice = test.commit_raw_tree(&[("100644", b"a", blob), ("100644", b"a", blob)]);
    let unsorted = test.commit_raw_tree(&[("100644", b"b", blob), ("100644", b"a", blob)]);
    for commit in [twice, unsorted] {
        let error = refusal_of_commit(&test, &commit);
        assert!(
            matches!(&error, SnapshotError::Order(path) if path.as_bytes() == b"a"),
            "{error:?}"
        );
    }
}

#[test]
fn objects_of_another_kind_or_none_are_refused_by_their_ids() {
    let test = TestRepo::new(&[]);
    let blob = &test.blob(b"x");
    let below = &test.raw_tree(&[("100644", b"passwd", blob)]);
    let not_a_blob = test.commit_raw_tree(&[("100644", b"a", below)]);
    let missing: &GitOid = &NOWHERE.parse().unwrap();
    let missing = test.commit_raw_tree(&[("100644", b"a", missing)]);
    for commit in [not_a_blob, missing] {
        let error = refusal_of_commit(&test, &commit);
        assert!(
            matches!(
                error,
                SnapshotError::Git(GitError::OtherKind { .. } | GitError::MissingObject(_))
            ),
            "{error:?}"
        );
        assert!(error.hint().unwrap().contains("fsck"));
    }
}

#[test]
fn c11_a_tree_ten_thousand_folders_deep_is_refused_and_nobody_runs_out_of_stack() {
    const DEPTH: usize = 10_000;
    let test = TestRepo::new(&[]);
    // By one git: a process a folder takes a minute.
    let path = "d/".repeat(DEPTH);
    let stream = format!(
        "commit refs/heads/deep\ncommitter x <x> 0 +0000\ndata 0\nM 100644 inline {path}f\ndata 1\nx\n"
    );
    test.git_with(&["fast-import", "--quiet"], stream.as_bytes());
    let commit: GitOid = test.git(&["rev-parse", "deep"]).parse().unwrap();
    let error = thread::scope(|scope| {
        let small = thread::Builder::new().stack_size(512 * 1024);
        let refused = small.spawn_scoped(scope, || refusal_of_commit(&test, &commit));
        refused.unwrap().join().unwrap()
    });
    let is_too_long =
        matches!(&error, SnapshotError::Path(path) if path.problem == PathProblem::TooLong);
    // Git has a limit of its own, since 2.43.
    let is_too_deep = matches!(&error, SnapshotError::Git(_));
    assert!(is_too_long || is_too_deep, "{error:?}");
}

#[test]
fn c11_a_directory_as_deep_as_a_path_can_be_is_read_and_a_deeper_one_is_refused() {
    use std::os::fd::OwnedFd;

    use rustix::fs::{CWD, Mode, OFlags};

    let plain = tempfile::tempdir().unwrap();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let open = |at: &OwnedFd, name: &str| rustix::fs::openat(at, name, flags, Mode::empty());
    let mut at = rustix::fs::openat(CWD, plain.path(), flags, Mode::empty()).unwrap();
    for _ in 0..2047 {
        rustix::fs::mkdirat(&at, "d", Mode::RWXU).unwrap();
        at = open(&at, "d").unwrap();
    }
    let file = OFlags::CREATE | OFlags::WRONLY;
    rustix::fs::openat(&at, "f", file, Mode::RUSR).unwrap();
    let (built, sink) = snapshot_of(plain.path());
    assert_eq!(sink.files(&built).keys().map(Vec::len).max(), Some(4095));

    rustix::fs::mkdirat(&at, "deeper", Mode::RWXU).unwrap();
    let error = refusal_of_directory(plain.path());
    assert!(
        matches!(&error, SnapshotError::Path(path) if path.problem == PathProblem::TooLong),
        "{error:?}"
    );
    // Rust's own way takes a descriptor for each level.
    let removed = Command::new("rm").arg("-r").arg(plain.path()).status();
    assert!(removed.unwrap().success());
}

/// Somebody puts a link in the place of a folder while a directory is read.
#[test]
fn c3_a_link_put_in_the_place_of_a_folder_leads_nobody_out_of_a_directory() {
    use std::{sync::atomic::AtomicBool, time::Instant};

    use rustix::fs::{CWD, RenameFlags};

    let plain = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    for (at, text) in [
        (plain.path().join("a"), "ours"),
        (outside.path().into(), "theirs"),
    ] {
        fs::create_dir_all(&at).unwrap();
        fs::write(at.join("file"), text).unwrap();
    }
    let tree = plain.path();
    let aside = tempfile::tempdir().unwrap();
    symlink(outside.path(), aside.path().join("link")).unwrap();
    let is_over = AtomicBool::new(false);
    let mut whole = 0;
    thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                let (a, link) = (tree.join("a"), aside.path().join("link"));
                let flags = RenameFlags::EXCHANGE;
                rustix::fs::renameat_with(CWD, &a, CWD, &link, flags).unwrap();
            }
        });
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(1) {
            let sink = MemorySink::default();
            let Ok(built) = build_quietly(Source::Directory(tree), &sink) else {
                continue;
            };
            for (path, (kind, bytes)) in sink.files(&built) {
                let is_data = kind == 'l' && path == b"a";
                let is_ours = path == b"a/file" && bytes == b"ours";
                assert!(is_data || is_ours, "{} {kind}", path.escape_ascii());
            }
            whole += 1;
        }
        is_over.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    println!("{whole} snapshots");
}
