//! Trees of unusual shapes, and modes under any umask.

use std::{fs, path::Path, process::Command};

use super::world::*;
use crate::activate::{Deployment, What};

/// As deep as a path can be: 2,048 names of one byte.
fn deepest() -> Vec<u8> {
    let mut path = b"d/".repeat(2047);
    path.push(b'f');
    assert_eq!(path.len(), scap_proto::limits::PATH_BYTES_MAX);
    path
}

#[test]
fn c11_the_deepest_paths_and_the_longest_names_are_built_checked_and_removed() {
    let world = World::new();
    let mut deep = tree([("x", file("x"))]);
    deep.insert(deepest(), file("deep"));
    deep.insert(vec![b'n'; 255], file("long"));
    deep.insert(
        [&[b'a'; 255][..], &[0xff; 255], &[b'z'; 255]].join(&b'/'),
        executable("long"),
    );
    // A small stack shows what would use one level of it for each folder.
    let thread = std::thread::Builder::new().stack_size(256 * 1024);
    let work = move || {
        let mut deployment = world.open();
        let first = world.target(1, &deep);
        deployment.promote(&first, &world.chunks).unwrap();
        assert_eq!(deployment.verify(&world.chunks).unwrap(), []);
        let changed = {
            let mut tree = deep.clone();
            tree.insert(deepest(), file("deep again"));
            tree
        };
        let built = deployment.promote(&world.target(2, &changed), &world.chunks);
        assert_eq!(built.unwrap().prepared.built.files_written, 1);
        assert_eq!(deployment.verify(&world.chunks).unwrap(), []);
        for n in 3..12 {
            let target = world.target(n, &tree([("x", file(&n.to_string()))]));
            deployment.promote(&target, &world.chunks).unwrap();
        }
        assert!(!world.revs().contains(&first.commit.unwrap().to_string()));
        let mut inodes = deployment.load_inodes().unwrap();
        deployment.empty_trash(&mut inodes).unwrap();
        assert_eq!(names(&world.path("app-cache/.scap/trash")), [""; 0]);
        world
    };
    let world = thread.spawn(work).unwrap().join().unwrap();
    assert_eq!(names(&world.live()), ["x"]);
}

#[test]
fn c11_a_folder_of_very_many_files_is_built_checked_and_removed() {
    const FILES: u32 = 10_000;
    let world = World::new();
    let many: Tree = (0..FILES)
        .map(|n| (format!("many/{n:06}").into_bytes(), file("")))
        .collect();
    let mut deployment = world.open();
    let first = world.target(1, &many);
    let built = deployment
        .promote(&first, &world.chunks)
        .unwrap()
        .prepared
        .built;
    assert_eq!(built.entries_touched, u64::from(FILES));
    assert_eq!(deployment.verify(&world.chunks).unwrap(), []);
    fs::remove_file(world.live().join("many/000007")).unwrap();
    let differences = deployment.verify(&world.chunks).unwrap();
    assert_eq!(differences.len(), 1);
    assert_eq!(differences[0].what, What::Missing);
}

/// The test below runs itself again in a process with another umask, which only a process as a whole can have.
const UMASK_ROOT: &str = "SCAP_TEST_UMASK_ROOT";

#[test]
fn c10_modes_are_those_of_the_release_under_any_umask_fresh_and_over_what_is_there() {
    if let Some(root) = std::env::var_os(UMASK_ROOT) {
        return deploy_twice(Path::new(&root));
    }
    for umask in ["077", "022", "000"] {
        let root = tempfile::tempdir().unwrap();
        let this = "activate::tests::shapes::c10_modes_are_those_of_the_release_under_any_umask_fresh_and_over_what_is_there";
        let ended = Command::new("sh")
            .args(["-c", "umask $1; shift; exec \"$@\"", "sh", umask])
            .arg(this_executable())
            .args(["--exact", this, "--nocapture"])
            .env(UMASK_ROOT, root.path())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&ended.stdout);
        assert!(ended.status.success(), "umask {umask}: {said}");
        assert!(said.contains("1 passed"), "{said}");
    }
}

fn deploy_twice(root: &Path) {
    let world = World::at(root);
    let mut deployment: Deployment = world.open();
    let first = small_tree();
    deployment
        .promote(&world.target(1, &first), &world.chunks)
        .unwrap();
    world.assert_live(&first);
    // The same names with the bit the other way round, and with other content.
    let mut second = first.clone();
    second.insert(b"bin/run".to_vec(), file("#!/bin/sh\n"));
    second.insert(b"README".to_vec(), executable("read me\n"));
    second.insert(b"empty".to_vec(), executable("no more\n"));
    let second_target = world.target(2, &second);
    deployment.promote(&second_target, &world.chunks).unwrap();
    world.assert_live(&second);
    // And over a file whose mode somebody has changed.
    let path = world.live().join("a/b/c/deep");
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    fs::set_permissions(&path, open).unwrap();
    deployment
        .promote(&world.target(3, &first), &world.chunks)
        .unwrap();
    world.assert_live(&first);
    assert_eq!(deployment.verify(&world.chunks).unwrap(), []);
}
