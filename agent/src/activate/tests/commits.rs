//! Releases on hosts that take signed commits alone.

use std::{fs, path::PathBuf, process::Command};

use scap_proto::{
    content::SnapshotRef,
    extensions::Extensions,
    id::{GitOid, SnapshotId},
    reason::Reason,
    release::{
        Release, UnixMillis,
        signature::{Signer, allowed_signers_line},
    },
};
use tempfile::TempDir;

use super::world::{Chunks, Thing, Tree, executable, file, link, small_tree, tree};
use crate::{
    activate::commit::{CommitError, check, object_id},
    trust::CommitRule,
};

const NOW: UnixMillis = UnixMillis(1_767_323_045_000);

/// What `git write-tree` says of [`files`].
const TREE: &str = "8d151bcdc2c1abd5dd27b0e9ff3cf87c686ee1af";

/// Names that git orders otherwise than the entries are, and one of everything that git has.
fn files() -> Tree {
    tree([
        ("a-b", file("one")),
        ("a.b", file("two")),
        ("a/b", file("three")),
        ("a0", file("four")),
        ("d/e/f", file("five")),
        ("d/link", link("../x")),
        ("run", executable("#!")),
        ("sub", Thing::Gitlink),
    ])
}

struct Scene {
    directory: TempDir,
    chunks: Chunks,
    author: Signer,
    rule: CommitRule,
}

impl Scene {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let author = Signer::create(&directory.path().join("author"), "").unwrap();
        let signers = directory.path().join("signers");
        let line = allowed_signers_line("ada", "git", author.public_key());
        fs::write(&signers, line).unwrap();
        Self {
            author,
            chunks: Chunks::default(),
            rule: CommitRule {
                repo: None,
                environment: None,
                allowed_signers: Some(signers),
                keyring: None,
                takes_config: false,
            },
            directory,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A commit of this tree, signed by this key in this namespace.
    fn commit(&self, tree: &str, signer: &Signer, namespace: &str) -> Vec<u8> {
        let object = unsigned(tree);
        let signature = signer.sign(namespace, object.as_bytes()).unwrap();
        with_signature(&object, signature.as_str())
    }

    fn good(&self) -> Vec<u8> {
        self.commit(TREE, &self.author, "git")
    }

    fn check(&self, release: &Release) -> Result<(), CommitError> {
        check(release, &self.rule, &self.chunks, NOW)
    }

    /// A release of this commit with these files.
    fn release(&self, object: &[u8], tree: &Tree) -> Release {
        let id = GitOid::try_from(object_id("commit", object).to_vec()).unwrap();
        Release {
            repo: "web/site".parse().unwrap(),
            environment: Default::default(),
            audience: Default::default(),
            sequence: 1,
            snapshot: self.chunks.snapshot(tree),
            commit: Some(id),
            config: None,
            deltas: Vec::new(),
            previous: None,
            created: NOW,
            expires: NOW,
            extensions: Extensions::default(),
        }
        .with_commit_object(object)
    }
}

fn unsigned(tree: &str) -> String {
    format!(
        "tree {tree}\nauthor Ada <ada@example.org> 1767323045 +0000\n\
         committer Ada <ada@example.org> 1767323045 +0000\n\nA site\n\ngpgsig is no header here\n"
    )
}

/// As git puts it into the object: after the committer, each further line indented.
fn with_signature(object: &str, signature: &str) -> Vec<u8> {
    let (header, message) = object.split_once("\n\n").unwrap();
    let signature = signature.trim_end().replace('\n', "\n ");
    format!("{header}\ngpgsig {signature}\n\n{message}").into_bytes()
}

#[test]
fn t9_a_signed_commit_with_its_own_files_is_taken_and_with_any_others_refused() {
    let scene = Scene::new();
    let object = scene.good();
    scene.check(&scene.release(&object, &files())).unwrap();

    let changes: [fn(&mut Tree); 7] = [
        |it| drop(it.insert(b"a/b".to_vec(), file("thre3"))),
        |it| drop(it.insert(b"a/b".to_vec(), executable("three"))),
        |it| drop(it.insert(b"d/link".to_vec(), link("../y"))),
        |it| drop(it.insert(b"more".to_vec(), file(""))),
        |it| drop(it.remove(b"a0".as_slice())),
        |it| drop(it.insert(b"sub".to_vec(), file("no submodule"))),
        |it| {
            let moved = it.remove(b"a-b".as_slice()).unwrap();
            it.insert(b"a-c".to_vec(), moved);
        },
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let mut other = files();
        change(&mut other);
        let refused = scene.check(&scene.release(&object, &other)).unwrap_err();
        assert!(
            matches!(&refused, CommitError::OtherTree { expected, .. } if expected == TREE),
            "{number}: {refused}"
        );
        let reason = refused.refusal().unwrap();
        assert_eq!(reason.code, Reason::RefusedCommit);
    }
    // Of several pages and chunks; git has no empty directories.
    let refused = scene.check(&scene.release(&object, &small_tree()));
    assert!(matches!(refused, Err(CommitError::EmptyDirectory(_))));
    let mut large = small_tree();
    large.retain(|_, thing| *thing != Thing::Directory);
    let refused = scene.check(&scene.release(&object, &large));
    assert!(matches!(refused, Err(CommitError::OtherTree { .. })));
}

#[test]
fn t7_a_commit_that_nobody_who_is_named_signed_is_refused_before_a_file_is_read() {
    let scene = Scene::new();
    let stranger = Signer::create(&scene.path("stranger"), "").unwrap();
    let refused = |object: &[u8]| {
        let release = scene.release(object, &files());
        scene.chunks.lose_all();
        scene.check(&release).unwrap_err()
    };
    let by_stranger = scene.commit(TREE, &stranger, "git");
    assert!(matches!(refused(&by_stranger), CommitError::Refused(_)));
    // A release's signature by the same key is none of a commit.
    let of_release = scene.commit(TREE, &scene.author, "scap-release:production:web/site");
    assert!(matches!(refused(&of_release), CommitError::Refused(_)));
    assert!(matches!(
        refused(unsigned(TREE).as_bytes()),
        CommitError::Unsigned(_)
    ));
    let text = String::from_utf8(scene.good()).unwrap();
    for (from, to) in [
        ("A site", "B site"),
        ("author Ada", "author Eve"),
        ("tree 8d", "tree 9d"),
    ] {
        let changed = text.replacen(from, to, 1);
        assert!(matches!(
            refused(changed.as_bytes()),
            CommitError::Refused(_)
        ));
    }
    let twice =
        text.replacen("\ntree", "", 1)
            .replacen("author", &format!("tree {TREE}\nauthor"), 1);
    assert!(matches!(refused(twice.as_bytes()), CommitError::Malformed));
    let pgp = with_signature(
        &unsigned(TREE),
        "-----BEGIN PGP SIGNATURE-----\n\nx\n-----END",
    );
    assert!(matches!(refused(&pgp), CommitError::NobodyNamed { .. }));
}

#[test]
fn what_came_along_is_the_commit_of_the_release_or_it_is_refused() {
    let scene = Scene::new();
    let object = scene.good();
    let release = scene.release(&object, &files());
    let other = scene.commit(&"0".repeat(40), &scene.author, "git");
    let refused = |release: Release| scene.check(&release).unwrap_err();
    let moved = release.clone().with_commit_object(&other);
    assert!(matches!(refused(moved), CommitError::OtherCommit(_)));
    let bare = Release {
        extensions: Extensions::default(),
        ..release.clone()
    };
    assert!(matches!(refused(bare), CommitError::NotAlong));
    let of_directory = Release {
        commit: None,
        ..release.clone()
    };
    assert!(matches!(refused(of_directory), CommitError::NoCommit));
    let of_sha256 = Release {
        commit: Some(GitOid::try_from(vec![1; 32]).unwrap()),
        ..release.clone()
    };
    assert!(matches!(refused(of_sha256), CommitError::Hash(_)));
    // The coordinator makes what hosts are asked of the scap folder, and might ask for anything.
    let config = SnapshotRef {
        id: SnapshotId::of(b"config"),
        descriptor_length: 100,
    };
    let asking = Release {
        config: Some(config),
        ..release
    };
    assert!(matches!(refused(asking.clone()), CommitError::Asks));
    let rule = CommitRule {
        takes_config: true,
        ..scene.rule.clone()
    };
    assert!(check(&asking, &rule, &scene.chunks, NOW).is_ok());
    // Chunks that are lost are no fault of the release.
    scene.chunks.lose_all();
    let lost = check(&asking, &rule, &scene.chunks, NOW).unwrap_err();
    assert!(lost.refusal().is_err());
}

/// Runs gpg in a home of its own; `None` where it is not there.
fn gpg(home: &std::path::Path, arguments: &[&str], input: &[u8]) -> Option<Vec<u8>> {
    use std::{io::Write, process::Stdio};

    let mut child = Command::new("gpg")
        .arg("--homedir")
        .arg(home)
        .args([
            "--batch",
            "--quiet",
            "--no-tty",
            "--pinentry-mode",
            "loopback",
            "--passphrase",
            "",
        ])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "gpg {arguments:?}");
    Some(output.stdout)
}

#[test]
fn t7_an_openpgp_signature_counts_by_a_key_of_the_keyring_and_no_other() {
    use std::os::unix::fs::PermissionsExt;

    let mut scene = Scene::new();
    let have = |tool: &str| Command::new(tool).arg("--version").output().is_ok();
    if !have("gpg") || !have("gpgv") {
        println!("skipped: gpg or gpgv is not installed");
        return;
    }
    let home = scene.path("gpg");
    fs::create_dir(&home).unwrap();
    fs::set_permissions(&home, fs::Permissions::from_mode(0o700)).unwrap();
    let make = |who: &str| {
        let make = ["--quick-generate-key", who, "ed25519", "sign", "never"];
        gpg(&home, &make, b"").unwrap();
    };
    make("ada@example.org");
    make("eve@example.org");
    let keyring = gpg(&home, &["--export", "ada@example.org"], b"").unwrap();
    fs::write(scene.path("keyring"), keyring).unwrap();
    scene.rule.keyring = Some(scene.path("keyring"));
    let signed = |who: &str, object: &str| {
        let sign = ["--armor", "--detach-sign", "--local-user", who];
        let signature = gpg(&home, &sign, object.as_bytes()).unwrap();
        with_signature(&unsigned(TREE), &String::from_utf8(signature).unwrap())
    };
    let good = signed("ada@example.org", &unsigned(TREE));
    scene.check(&scene.release(&good, &files())).unwrap();
    for (who, object) in [
        ("eve@example.org", unsigned(TREE)),
        ("ada@example.org", unsigned(&"0".repeat(40))),
    ] {
        let refused = scene.check(&scene.release(&signed(who, &object), &files()));
        assert!(matches!(refused, Err(CommitError::OpenPgp(_))), "{who}");
    }
    let _ = Command::new("gpgconf")
        .arg("--homedir")
        .arg(&home)
        .args(["--kill", "all"])
        .output();
}
