//! Planted links, odd names, full disks, other people's permissions.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::Path,
    process::Command,
};

use bytes::Bytes;
use scap_proto::id::ChunkId;

use super::world::*;
use crate::activate::{ActivateError, ChunkSource, Deployment, SourceError};

#[test]
fn a_link_planted_in_a_release_directorys_place_is_not_followed() {
    let world = World::new();
    let a = small_tree();
    let target = world.target(1, &a);
    let outside = world.root().join("outside");
    fs::create_dir(&outside).unwrap();
    drop(world.open());
    let commit = target.commit.clone().unwrap();
    symlink(&outside, world.path(&format!("app-cache/revs/{commit}"))).unwrap();
    let mut deployment = world.open();
    deployment.promote(&target, &world.chunks).unwrap();
    world.assert_live(&a);
    assert_eq!(names(&outside), [""; 0]);
    // Both names taken.
    let mut other = world.target(2, &tree([("x", file("x"))]));
    for name in [
        commit.to_string(),
        format!("{}-{commit}", other.release.short()),
    ] {
        let _ = symlink(&outside, world.path(&format!("app-cache/revs/{name}")));
    }
    other.commit = Some(commit);
    let error = deployment.promote(&other, &world.chunks).unwrap_err();
    assert!(matches!(error, ActivateError::NameTaken(_)), "{error}");
    world.assert_live(&a);
    assert_eq!(names(&outside), [""; 0]);
}

#[test]
fn links_planted_in_a_tree_lead_no_repair_and_no_removal_outside() {
    let world = World::new();
    let a = small_tree();
    let outside = world.root().join("outside");
    fs::create_dir_all(outside.join("b/c")).unwrap();
    fs::write(outside.join("b/c/deep"), "theirs").unwrap();
    let mut deployment = world.open();
    let target = world.target(0, &a);
    deployment.promote(&target, &world.chunks).unwrap();
    fs::remove_dir_all(world.live().join("a")).unwrap();
    symlink(&outside, world.live().join("a")).unwrap();
    symlink("/", world.live().join("root")).unwrap();
    let promoted = deployment.promote(&world.target(1, &tree([("x", file("x"))])), &world.chunks);
    assert_eq!(promoted.unwrap().prepared.built.files_damaged, 0);
    deployment
        .revert(Some(&target.release), &world.chunks)
        .unwrap();
    fs::remove_file(world.live().join("root")).unwrap();
    world.assert_live(&a);

    symlink("/", world.live().join("root")).unwrap();
    symlink(&outside, world.live().join("void/inside/link")).unwrap();
    for n in 2..12 {
        let target = world.target(n, &tree([("x", file(&n.to_string()))]));
        deployment.promote(&target, &world.chunks).unwrap();
    }
    assert!(!world.revs().contains(&target.commit.unwrap().to_string()));
    assert_eq!(fs::read(outside.join("b/c/deep")).unwrap(), b"theirs");
}

#[test]
fn directories_that_others_can_change_are_refused_by_name() {
    let world = World::new();
    drop(world.open());
    for (path, mode) in [
        ("app-cache/.scap", 0o777),
        ("app-cache/revs", 0o775),
        ("app-cache", 0o757),
        ("", 0o777),
    ] {
        let path = world.path(path);
        let before = fs::metadata(&path).unwrap().permissions();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let error = Deployment::open(world.root(), &World::repo()).unwrap_err();
        assert!(matches!(error, ActivateError::Unsafe { .. }), "{error}");
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(error.to_string().contains(&format!("`{name}`")), "{error}");
        fs::set_permissions(&path, before).unwrap();
    }
    drop(world.open());
    let missing = Deployment::open(Path::new("/nonexistent/root"), &World::repo()).unwrap_err();
    assert!(
        matches!(missing, ActivateError::DeployRoot { .. }),
        "{missing}"
    );
    let file = world.root().join("file");
    fs::write(&file, "").unwrap();
    let not_a_directory = Deployment::open(&file, &World::repo()).unwrap_err();
    assert!(
        matches!(not_a_directory, ActivateError::DeployRoot { .. }),
        "{not_a_directory}"
    );
}

#[test]
fn very_deep_trees_and_long_names_are_deployed_compared_and_removed() {
    let world = World::new();
    let deep = "d/".repeat(2047) + "f";
    let long = "n".repeat(255);
    let a = tree([(&deep[..], file("deep")), (&long[..], file("long"))]);
    let mut deployment = world.open();
    let first = world.target(1, &a);
    deployment.promote(&first, &world.chunks).unwrap();
    assert_eq!(deployment.verify(&world.chunks).unwrap(), []);
    assert_eq!(fs::read(world.live().join(&long)).unwrap(), b"long");
    let changed = tree([(&deep[..], file("deep")), (&long[..], file("changed"))]);
    let built = deployment
        .promote(&world.target(2, &changed), &world.chunks)
        .unwrap()
        .prepared
        .built;
    assert_eq!((built.files_linked, built.files_written), (1, 1));
    for n in 3..9 {
        let target = world.target(n, &tree([("x", file(&n.to_string()))]));
        deployment.promote(&target, &world.chunks).unwrap();
    }
    assert!(!world.revs().contains(&first.commit.unwrap().to_string()));
}

/// A source that answers as told, and otherwise from the chunks.
struct Lying<'a>(&'a Chunks, ChunkId, Result<Vec<u8>, ()>);

impl ChunkSource for Lying<'_> {
    fn plain(&self, id: &ChunkId) -> Result<Bytes, SourceError> {
        match &self.2 {
            _ if *id != self.1 => self.0.plain(id),
            Ok(bytes) => Ok(bytes.clone().into()),
            Err(()) => Err(SourceError::Missing(*id)),
        }
    }
}

#[test]
fn chunks_that_are_missing_or_wrong_leave_what_was_live_and_nothing_else() {
    let world = World::new();
    let a = tree([("a", file("a"))]);
    let mut deployment = world.open();
    deployment
        .promote(&world.target(1, &a), &world.chunks)
        .unwrap();
    let next = world.target(2, &tree([("b", file("new bytes"))]));
    let content = ChunkId::of(b"new bytes");
    let descriptor = next.snapshot.id.descriptor_chunk();
    let lies = [
        (content, Err(())),
        (content, Ok(b"other one".to_vec())),
        (content, Ok(b"short".to_vec())),
        (descriptor, Err(())),
        (descriptor, Ok(b"other".to_vec())),
    ];
    for (id, lie) in lies {
        let source = Lying(&world.chunks, id, lie);
        let error = deployment.promote(&next, &source).unwrap_err();
        assert!(
            matches!(
                error,
                ActivateError::Source(_)
                    | ActivateError::WrongContent(_)
                    | ActivateError::WrongChunk(_)
            ),
            "{error}"
        );
        world.assert_live(&a);
        assert_eq!(world.revs().len(), 1);
        assert!(!world.path("app-cache/.scap/staging").exists());
        assert!(!world.path("app-cache/.scap/journal").exists());
    }
    deployment.promote(&next, &world.chunks).unwrap();
    world.assert_live(&tree([("b", file("new bytes"))]));
}

#[test]
fn permissions_do_not_depend_on_the_umask_of_the_process() {
    // The umask belongs to the process: another one is needed for each.
    for umask in ["077", "022", "002"] {
        let world = World::new();
        let status = Command::new("sh")
            .args([
                "-c",
                "umask \"$1\"; exec \"$2\" --exact activate::tests::hostile::umask_child",
                "sh",
                umask,
            ])
            .arg(this_executable())
            .env(UMASK_CHILD, world.root())
            .output()
            .unwrap();
        assert!(
            status.status.success(),
            "{}",
            String::from_utf8_lossy(&status.stdout)
        );
        world.assert_live(&small_tree());
        let own = fs::metadata(world.path("app-cache/.scap")).unwrap();
        assert_eq!(own.mode() & 0o7777, 0o700);
    }
}

const UMASK_CHILD: &str = "SCAP_TEST_UMASK_CHILD";

/// Not a test of its own: what the one above runs.
#[test]
fn umask_child() {
    let Ok(root) = std::env::var(UMASK_CHILD) else {
        return;
    };
    let world = World::at(Path::new(&root));
    world
        .open()
        .promote(&world.target(1, &small_tree()), &world.chunks)
        .unwrap();
}

/// A small file system, unmounted at the end.
pub(super) struct Mount(tempfile::TempDir);

impl Mount {
    pub(super) fn new(options: &str) -> Option<Self> {
        let at = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", options, "tmpfs"])
            .arg(at.path());
        match mount.output() {
            Ok(output) if output.status.success() => Some(Self(at)),
            _ => {
                println!("skipped: mounting a file system needs root");
                None
            }
        }
    }

    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }

    fn remount(&self, options: &str) {
        let status = Command::new("mount")
            .args(["-o", options])
            .arg(self.0.path())
            .status()
            .unwrap();
        assert!(status.success());
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[test]
fn a_disk_that_fills_up_or_turns_read_only_leaves_what_is_live() {
    let Some(mount) = Mount::new("size=4m,mode=755") else {
        return;
    };
    let world = World::at(mount.0.path());
    let a = small_tree();
    let first = world.target(1, &a);
    world.open().promote(&first, &world.chunks).unwrap();
    let big = |n: u8| Thing::File((0..2_000_000_u32).map(|at| (at % 251) as u8 ^ n).collect());
    let mut b = Tree::new();
    b.insert(b"big1".to_vec(), big(1));
    b.insert(b"big2".to_vec(), big(2));
    let next = world.target(2, &b);
    let mut deployment = world.open();
    let error = deployment.promote(&next, &world.chunks).unwrap_err();
    assert!(
        matches!(error, ActivateError::NoSpace { needed, available } if needed > available && needed > 4_000_000),
        "{error}"
    );
    world.assert_live(&a);
    assert_eq!(names(&world.path("app-cache/.scap/entries")), world.revs());

    // One of them fits, and somebody else takes the room while it is written.
    b.remove(&b"big2"[..]);
    let next = world.target(2, &b);
    let filler = world.root().join("filler");
    let source = Filling(&world.chunks, filler.clone());
    let error = deployment.promote(&next, &source).unwrap_err();
    assert!(error.is_no_space(), "{error}");
    world.assert_live(&a);
    assert!(!world.path("app-cache/.scap/staging").exists());
    fs::remove_file(&filler).unwrap();
    drop(deployment);

    mount.remount("remount,ro");
    let error = Deployment::open(world.root(), &World::repo()).unwrap_err();
    assert!(matches!(error, ActivateError::ReadOnly(_)), "{error}");
    world.assert_live(&a);
    mount.remount("remount,rw");
    world.open().promote(&next, &world.chunks).unwrap();
    world.assert_live(&b);
}

#[test]
fn a_file_system_without_room_for_more_files_refuses_before_anything_is_written() {
    let Some(mount) = Mount::new("size=8m,nr_inodes=60,mode=755") else {
        return;
    };
    let world = World::at(mount.0.path());
    let a = small_tree();
    world
        .open()
        .promote(&world.target(1, &a), &world.chunks)
        .unwrap();
    let many: Tree = (0..60_u8)
        .map(|n| {
            (
                vec![b'a', b'a' + n % 26, b'0' + n / 26],
                Thing::File(vec![n]),
            )
        })
        .collect();
    let error = world
        .open()
        .promote(&world.target(2, &many), &world.chunks)
        .unwrap_err();
    assert!(matches!(error, ActivateError::NoInodes { .. }), "{error}");
    world.assert_live(&a);
}

/// Fills the disk as soon as content is asked for.
pub(super) struct Filling<'a>(pub(super) &'a Chunks, pub(super) std::path::PathBuf);

impl ChunkSource for Filling<'_> {
    fn plain(&self, id: &ChunkId) -> Result<Bytes, SourceError> {
        let plain = self.0.plain(id)?;
        if plain.len() == 100_000 && !self.1.exists() {
            let full = fs::write(&self.1, vec![0; 16_000_000]).unwrap_err();
            assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
        }
        Ok(plain)
    }
}
