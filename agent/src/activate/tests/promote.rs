//! Promotions, going back, and what is kept.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
};

use scap_proto::id::ContentHash;

use super::world::*;
use crate::activate::{
    ActivateError, Deployment, KEPT, What,
    dir::{Dir, split},
    free::when_free,
    inodes::Inodes,
    standing::or_beside,
};

fn changed(tree: &Tree, path: &str, thing: Thing) -> Tree {
    let mut tree = tree.clone();
    tree.insert(path.into(), thing);
    tree
}

#[test]
fn a_then_b_then_a_are_exact_and_share_what_did_not_change() {
    let world = World::new();
    let a = small_tree();
    let b = changed(&a, "README", file("read me again\n"));
    let mut deployment = world.open();
    let first = world.target(1, &a);
    let promoted = deployment.promote(&first, &world.chunks).unwrap();
    assert!(!promoted.flipped.already_live && !promoted.prepared.already_there);
    world.assert_live(&a);
    assert_eq!(
        fs::read_link(world.path("app-cache/current"))
            .unwrap()
            .to_str()
            .unwrap(),
        format!("revs/{}", first.commit.as_ref().unwrap())
    );
    deployment.finalize(&first.release).unwrap();

    let second = world.target(2, &b);
    let built = deployment
        .promote(&second, &world.chunks)
        .unwrap()
        .prepared
        .built;
    world.assert_live(&b);
    assert_eq!((built.files_written, built.files_damaged), (1, 0));
    assert!(built.files_linked == 7 && built.bytes_reused > 1_000_000);
    let inode = |rev: &crate::activate::Installed| {
        let path = world.path(&format!("app-cache/revs/{}/a/large", rev.rev));
        fs::metadata(path).unwrap().ino()
    };
    let previous = deployment.previous().unwrap();
    assert_eq!(inode(previous), inode(deployment.live().unwrap()));
    assert_eq!(
        fs::read_link(world.path("app-cache/.done"))
            .unwrap()
            .to_str()
            .unwrap(),
        format!("revs/{}", previous.rev)
    );
    assert!(
        world
            .path("app-cache/.in-progress")
            .symlink_metadata()
            .is_ok()
    );

    // The same content under a new release: its directory is there.
    let third = world.target(3, &a);
    let promoted = deployment.promote(&third, &world.chunks).unwrap();
    assert!(promoted.prepared.already_there && !promoted.flipped.already_live);
    world.assert_live(&a);
    assert_eq!(deployment.live().unwrap().sequence, 3);
    deployment.finalize(&third.release).unwrap();
    assert!(
        world
            .path("app-cache/.in-progress")
            .symlink_metadata()
            .is_err()
    );
    assert_eq!(deployment.verify(&world.chunks).unwrap(), []);

    let again = deployment.promote(&third, &world.chunks).unwrap();
    assert!(again.flipped.already_live && again.flipped.repaired == 0);
}

#[test]
fn a_repo_that_another_process_is_at_work_on_is_opened_once_that_is_through() {
    let world = World::new();
    let deployment = world.open();
    let (tried, tries) = std::sync::mpsc::channel();
    let root = world.root();
    let open = || {
        let opened = Deployment::open(root, &World::repo());
        tried.send(opened.is_ok()).unwrap();
        opened
    };
    let stopped = when_free(&World::repo(), || true, open);
    assert!(matches!(stopped, Err(ActivateError::Busy(_))));
    assert_eq!(tries.try_iter().collect::<Vec<_>>(), [false]);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| when_free(&World::repo(), || false, open));
        assert!(!tries.recv().unwrap());
        drop(deployment);
        waiting.join().unwrap().unwrap();
    });
    assert_eq!(tries.try_iter().last(), Some(true));
}

#[test]
fn records_survive_reopening_and_only_one_process_works_on_a_repo() {
    let world = World::new();
    let target = world.target(7, &small_tree());
    let mut deployment = world.open();
    deployment.promote(&target, &world.chunks).unwrap();
    let busy = Deployment::open(world.root(), &World::repo()).unwrap_err();
    assert!(matches!(busy, ActivateError::Busy(_)), "{busy}");
    // Who starts meanwhile hears what there is.
    let told = or_beside(Err(busy), world.root(), &World::repo()).unwrap();
    assert_eq!(told.live.unwrap().release, target.release);
    assert_eq!((told.previous, told.kept.len()), (None, 1));
    drop(deployment);
    let deployment = world.open();
    assert_eq!(deployment.live().unwrap().release, target.release);
    assert_eq!(deployment.live().unwrap().sequence, 7);
    assert_eq!(
        deployment.releases().unwrap(),
        [deployment.live().unwrap().clone()]
    );
}

#[test]
fn a_release_that_is_prepared_changes_nothing_until_it_is_flipped() {
    let world = World::new();
    let (a, b) = (small_tree(), tree([("only", file("b"))]));
    let mut deployment = world.open();
    deployment
        .promote(&world.target(1, &a), &world.chunks)
        .unwrap();
    let next = world.target(2, &b);
    let missing = deployment.flip(&next.release, &world.chunks).unwrap_err();
    assert!(
        matches!(missing, ActivateError::NotPrepared(_)),
        "{missing}"
    );
    deployment.prepare(&next, &world.chunks).unwrap();
    assert!(
        deployment
            .prepare(&next, &world.chunks)
            .unwrap()
            .already_there
    );
    world.assert_live(&a);
    let other = deployment.finalize(&next.release).unwrap_err();
    assert!(matches!(other, ActivateError::NotLive(_)), "{other}");
    // The tree is there, so the chunks need not be.
    world.chunks.lose_all();
    deployment.flip(&next.release, &world.chunks).unwrap();
    world.assert_live(&b);
}

#[test]
fn going_back_leads_to_the_previous_release_and_then_to_nothing() {
    let world = World::new();
    let (a, b) = (small_tree(), tree([("only", file("b"))]));
    let mut deployment = world.open();
    let first = world.target(1, &a);
    deployment.promote(&first, &world.chunks).unwrap();
    deployment
        .promote(&world.target(2, &b), &world.chunks)
        .unwrap();
    world.chunks.lose_all();
    let previous = deployment.previous().unwrap().release;
    assert_eq!(previous, first.release);
    deployment.revert(Some(&previous), &world.chunks).unwrap();
    world.assert_live(&a);
    assert!(
        deployment
            .revert(Some(&previous), &world.chunks)
            .unwrap()
            .already_live
    );
    assert_eq!(deployment.previous(), None);

    deployment.revert(None, &world.chunks).unwrap();
    assert!(world.live().symlink_metadata().is_err());
    assert!(world.path("app-cache/current").symlink_metadata().is_err());
    assert_eq!(deployment.live(), None);
    assert!(deployment.revert(None, &world.chunks).unwrap().already_live);
    let nothing = deployment.verify(&world.chunks).unwrap_err();
    assert!(
        matches!(nothing, ActivateError::NothingLive(_)),
        "{nothing}"
    );
    // Its directory is still there.
    deployment
        .revert(Some(&first.release), &world.chunks)
        .unwrap();
    world.assert_live(&a);
}

#[test]
fn thirty_promotions_leave_five_directories_and_records_of_no_more() {
    let world = World::new();
    let mut deployment = world.open();
    let mut records = Vec::new();
    for n in 0..30_u64 {
        let tree = changed(&small_tree(), "version", file(&n.to_string()));
        let target = world.target(n, &tree);
        deployment.promote(&target, &world.chunks).unwrap();
        assert!(world.revs().len() <= KEPT + 1);
        if n % 3 == 2 {
            deployment.finalize(&target.release).unwrap();
            assert!(world.revs().len() <= KEPT);
        }
        world.assert_live(&tree);
        records.push(
            fs::metadata(world.path("app-cache/.scap/inodes"))
                .unwrap()
                .len(),
        );
    }
    assert_eq!(world.revs().len(), KEPT);
    assert_eq!(deployment.releases().unwrap().len(), KEPT);
    assert_eq!(names(&world.path("app-cache/.scap/entries")), world.revs());
    assert!(records.iter().max().unwrap() < &2_000, "{records:?}");
    let state = [
        deployment.live(),
        deployment.previous(),
        deployment.finalized(),
    ];
    for needed in state.into_iter().flatten() {
        assert!(world.revs().contains(&needed.rev.to_string()));
    }
}

/// How many files of the live tree need not be read to know what they hold.
fn proved(world: &World, expected: &Tree) -> usize {
    let own = Dir::open(&world.path("app-cache/.scap")).unwrap();
    let inodes = Inodes::load(&own, "inodes").unwrap();
    let live = Dir::open(&world.live()).unwrap();
    let is_proved = |(path, thing): &(&Vec<u8>, &Thing)| {
        let (Thing::File(bytes) | Thing::Executable(bytes)) = thing else {
            return false;
        };
        let (parent, name) = split(path);
        let stat = live.dir_at(parent).unwrap().stat(name).unwrap().unwrap();
        inodes.proves(&stat, &ContentHash::of(bytes))
    };
    expected.iter().filter(is_proved).count()
}

#[test]
fn unchanged_files_that_have_aged_are_not_read_again_whatever_is_linked_or_removed() {
    let world = World::new();
    let mut deployment = world.open();
    let mut tree = small_tree();
    let target = world.target(0, &tree);
    deployment.promote(&target, &world.chunks).unwrap();
    let_files_age(&world);
    // Reads what was too new to be recorded, and records it.
    deployment.flip(&target.release, &world.chunks).unwrap();
    assert_eq!(proved(&world, &tree), 8);
    for n in 1..10 {
        tree.insert(b"README".to_vec(), file(&n.to_string()));
        let target = world.target(n, &tree);
        let built = deployment
            .promote(&target, &world.chunks)
            .unwrap()
            .prepared
            .built;
        assert_eq!((built.files_linked, built.files_written), (7, 1));
        deployment.finalize(&target.release).unwrap();
        assert!(proved(&world, &tree) >= 7, "{n}");
    }
    assert!(world.revs().len() == KEPT);
}

#[test]
fn a_live_file_edited_in_place_is_named_and_not_passed_on() {
    let world = World::new();
    let a = small_tree();
    let b = changed(&a, "README", file("b"));
    let mut deployment = world.open();
    let first = world.target(1, &a);
    deployment.promote(&first, &world.chunks).unwrap();
    let_files_age(&world);
    fs::write(world.live().join("a/b/c/deep"), "evil\n").unwrap();
    let differences = deployment.verify(&world.chunks).unwrap();
    assert_eq!(differences.len(), 1);
    assert_eq!(differences[0].to_string(), "a/b/c/deep: other content");

    let built = deployment
        .promote(&world.target(2, &b), &world.chunks)
        .unwrap()
        .prepared
        .built;
    assert_eq!((built.files_damaged, built.files_written), (1, 2));
    assert_eq!(built.damaged[0].as_bytes(), b"a/b/c/deep");
    world.assert_live(&b);
    // Going back repairs the damaged release first.
    let flipped = deployment
        .revert(Some(&first.release), &world.chunks)
        .unwrap();
    assert_eq!(flipped.repaired, 1);
    world.assert_live(&a);
}

#[test]
fn an_edit_through_a_shared_inode_is_repaired_before_the_flip_and_nowhere_else() {
    let world = World::new();
    let a = small_tree();
    let b = changed(&a, "README", file("b"));
    let mut deployment = world.open();
    deployment
        .promote(&world.target(1, &a), &world.chunks)
        .unwrap();
    let next = world.target(2, &b);
    deployment.prepare(&next, &world.chunks).unwrap();
    let_files_age(&world);
    // The same length, and the old time put back: only the time of the status tells.
    let path = world.live().join("a/b/c/deep");
    let modified = fs::metadata(&path).unwrap().modified().unwrap();
    fs::write(&path, "evil\n").unwrap();
    fs::File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_modified(modified)
        .unwrap();
    let kept = fs::metadata(&path).unwrap().ino();
    let flipped = deployment.flip(&next.release, &world.chunks).unwrap();
    assert_eq!(flipped.repaired, 1);
    world.assert_live(&b);
    assert_ne!(
        fs::metadata(world.live().join("a/b/c/deep")).unwrap().ino(),
        kept
    );
}

#[test]
fn damage_that_cannot_be_repaired_stops_the_flip_and_what_is_live_stays() {
    let world = World::new();
    let (a, b) = (small_tree(), tree([("only", file("b"))]));
    let mut deployment = world.open();
    let first = world.target(1, &a);
    deployment.promote(&first, &world.chunks).unwrap();
    let rev = deployment.live().unwrap().rev.clone();
    deployment
        .promote(&world.target(2, &b), &world.chunks)
        .unwrap();
    fs::write(world.path(&format!("app-cache/revs/{rev}/README")), "evil").unwrap();
    world.chunks.lose_all();
    let error = deployment
        .revert(Some(&first.release), &world.chunks)
        .unwrap_err();
    assert!(matches!(error, ActivateError::Source(_)), "{error}");
    world.assert_live(&b);
    assert_eq!(deployment.live().unwrap().sequence, 2);
}

#[test]
fn everything_that_can_be_wrong_with_a_tree_is_repaired_by_promoting_again() {
    let world = World::new();
    let a = small_tree();
    let target = world.target(1, &a);
    let mut deployment = world.open();
    deployment.promote(&target, &world.chunks).unwrap();
    let live = world.live();
    let mode = |path: &str, mode| {
        fs::set_permissions(live.join(path), fs::Permissions::from_mode(mode)).unwrap();
    };
    fs::remove_file(live.join("README")).unwrap();
    mode("bin/run", 0o777);
    mode("a/b", 0o2700);
    fs::remove_file(live.join("latest")).unwrap();
    symlink("elsewhere", live.join("latest")).unwrap();
    fs::remove_file(live.join("outside")).unwrap();
    fs::create_dir_all(live.join("outside/x/y")).unwrap();
    fs::remove_dir(live.join("module")).unwrap();
    fs::write(live.join("module"), "a file").unwrap();
    fs::remove_dir_all(live.join("void")).unwrap();
    let elsewhere = world.root().join("elsewhere");
    fs::rename(live.join("bin.d"), &elsewhere).unwrap();
    symlink(&elsewhere, live.join("bin.d")).unwrap();
    fs::write(live.join("extra"), "").unwrap();
    fs::create_dir(live.join(".git")).unwrap();

    let found = deployment.verify(&world.chunks).unwrap();
    let found: Vec<String> = found.iter().map(ToString::to_string).collect();
    let mut expected = vec![
        "README: missing",
        "bin/run: mode 0777, should be 0755",
        "a/b: mode 2700, should be 0755",
        "latest: links to another target",
        "outside: is a directory, should be a symbolic link",
        "module: is a file, should be a directory",
        "void/inside: missing",
        "bin.d: is a symbolic link, should be a directory",
        "bin.d/x: missing",
        "extra: not in the snapshot",
        ".git: not in the snapshot",
    ];
    let mut sorted = found.clone();
    sorted.sort();
    expected.sort_unstable();
    assert_eq!(sorted, expected);

    let flipped = deployment.promote(&target, &world.chunks).unwrap().flipped;
    assert_eq!((flipped.already_live, flipped.repaired), (true, 9));
    // What the link led to was not touched, and what is not in the snapshot is the service's own.
    assert_eq!(names(&elsewhere), ["x"]);
    fs::remove_file(live.join("extra")).unwrap();
    fs::remove_dir(live.join(".git")).unwrap();
    world.assert_live(&a);
    assert_eq!(deployment.verify(&world.chunks).unwrap(), []);
}

#[test]
fn a_final_path_that_leads_elsewhere_is_named_and_put_right() {
    let world = World::new();
    let a = small_tree();
    let target = world.target(1, &a);
    let mut deployment = world.open();
    deployment.promote(&target, &world.chunks).unwrap();
    fs::remove_file(world.live()).unwrap();
    symlink("/nowhere", world.live()).unwrap();
    let differences = deployment.verify(&world.chunks).unwrap();
    assert_eq!(differences[0].what, What::NotLive);
    let error = deployment.revert(None, &world.chunks).unwrap_err();
    assert!(matches!(error, ActivateError::Foreign(_)), "{error}");
    deployment.promote(&target, &world.chunks).unwrap();
    world.assert_live(&a);
    assert_eq!(
        fs::read_link(world.path("app.replaced-1"))
            .unwrap()
            .to_str(),
        Some("/nowhere")
    );
}

#[test]
fn what_the_first_release_took_the_place_of_is_kept_and_gone_back_to() {
    let world = World::new();
    let a = small_tree();
    fs::create_dir_all(world.live().join("old")).unwrap();
    let target = world.target(1, &a);
    let mut deployment = world.open();
    deployment.promote(&target, &world.chunks).unwrap();
    world.assert_live(&a);
    assert_eq!(names(&world.path("app.replaced-1")), ["old"]);
    drop(deployment);
    let mut deployment = world.open();
    deployment.revert(None, &world.chunks).unwrap();
    assert!(world.live().symlink_metadata().unwrap().is_dir());
    assert_eq!(names(&world.live()), ["old"]);
    assert!(world.path("app.replaced-1").symlink_metadata().is_err());

    // Once a release is finalized there is no way back to before it.
    deployment.promote(&target, &world.chunks).unwrap();
    deployment.finalize(&target.release).unwrap();
    deployment.revert(None, &world.chunks).unwrap();
    assert!(world.live().symlink_metadata().is_err());
    assert_eq!(names(&world.path("app.replaced-1")), ["old"]);
}

#[test]
fn scap3_links_and_directories_are_left_as_they_are_until_ours_replace_them() {
    let world = World::new();
    let a = small_tree();
    let target = world.target(1, &a);
    let commit = target.commit.as_ref().unwrap();
    let theirs = world.path(&format!("app-cache/revs/{commit}"));
    fs::create_dir_all(theirs.join(".git")).unwrap();
    for (link, to) in [
        ("app", "app-cache/revs/"),
        ("app-cache/.done", "revs/"),
        ("app-cache/current", "revs/"),
    ] {
        symlink(format!("{to}{commit}"), world.path(link)).unwrap();
    }
    let mut deployment = world.open();
    assert!(world.path("app-cache/current").symlink_metadata().is_ok());
    deployment.promote(&target, &world.chunks).unwrap();
    world.assert_live(&a);
    let rev = deployment.live().unwrap().rev.to_string();
    assert_eq!(rev, format!("{}-{commit}", target.release.short()));
    assert_eq!(names(&theirs), [".git"]);
    deployment.revert(None, &world.chunks).unwrap();
    assert_eq!(
        fs::read_link(world.live()).unwrap().to_str().unwrap(),
        format!("app-cache/revs/{commit}")
    );
}

#[test]
fn a_commit_with_other_content_and_a_release_without_a_commit_have_names_of_their_own() {
    let world = World::new();
    let mut deployment = world.open();
    let first = world.target(1, &tree([("f", file("1"))]));
    let mut second = world.target(2, &tree([("f", file("2"))]));
    second.commit.clone_from(&first.commit);
    let mut third = world.target(3, &tree([("f", file("3"))]));
    third.commit = None;
    for target in [&first, &second, &third] {
        deployment.promote(target, &world.chunks).unwrap();
    }
    let commit = first.commit.unwrap();
    let mut expected = [
        commit.to_string(),
        format!("{}-{commit}", second.release.short()),
        third.snapshot.id.to_string(),
    ];
    expected.sort();
    assert_eq!(world.revs(), expected);
}

#[test]
fn moved_files_are_linked_and_files_of_another_mode_are_not() {
    let world = World::new();
    let mut deployment = world.open();
    let a = tree([
        ("old/x", file("moved")),
        ("old/y", file("moved too")),
        ("tool", file("#!/bin/sh")),
    ]);
    let b = tree([
        ("new/x", file("moved")),
        ("new/y", file("moved too")),
        ("tool", executable("#!/bin/sh")),
    ]);
    deployment
        .promote(&world.target(1, &a), &world.chunks)
        .unwrap();
    let built = deployment
        .promote(&world.target(2, &b), &world.chunks)
        .unwrap()
        .prepared
        .built;
    assert_eq!(built.files_linked, 2);
    assert_eq!(built.files_written + built.files_cloned, 1);
    world.assert_live(&b);
}

#[test]
fn an_empty_tree_and_a_change_of_every_kind_are_deployed() {
    let world = World::new();
    let mut deployment = world.open();
    let trees = [
        Tree::new(),
        tree([("x", file("1"))]),
        tree([("x/y", file("1"))]),
        tree([("x", link("y"))]),
        tree([("x", Thing::Directory)]),
        tree([("x", executable("1"))]),
        Tree::new(),
    ];
    for (sequence, tree) in (1..).zip(&trees) {
        deployment
            .promote(&world.target(sequence, tree), &world.chunks)
            .unwrap();
        world.assert_live(tree);
    }
}
