//! The spare: what is made of it is what is made without one, whatever happens to it.

use std::{
    cell::Cell,
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use proptest::{collection::btree_map, prelude::*};
use rustix::fs::IFlags;

use super::{
    hostile::{Filling, Mount},
    world::*,
};
use crate::activate::{Deployment, KEPT, Target, Upkeep, prepare::Prepared};

/// Never stops.
fn upkeep(world: &World, deployment: &mut Deployment) {
    let done = deployment.upkeep(&world.chunks, &|| false).unwrap();
    assert_eq!(done, Upkeep::Done);
}

/// Makes `tree` live and finalizes it.
fn deploy(world: &World, deployment: &mut Deployment, sequence: u64, tree: &Tree) -> Prepared {
    let target = world.target(sequence, tree);
    let promoted = deployment.promote(&target, &world.chunks).unwrap();
    deployment.finalize(&target.release).unwrap();
    world.assert_live(tree);
    assert_eq!(deployment.verify(&world.chunks).unwrap(), []);
    promoted.prepared
}

fn changed(tree: &Tree, path: &str, thing: Thing) -> Tree {
    let mut tree = tree.clone();
    tree.insert(path.into(), thing);
    tree
}

fn spare(world: &World) -> PathBuf {
    world.path("app-cache/.scap/spare")
}

/// A world where the small tree is live and has a spare.
fn with_spare() -> (World, Tree) {
    let world = World::new();
    let mut deployment = world.open();
    let tree = small_tree();
    deploy(&world, &mut deployment, 1, &tree);
    let_files_age(&world);
    upkeep(&world, &mut deployment);
    assert_tree(&spare(&world), &tree);
    drop(deployment);
    (world, tree)
}

#[test]
fn a_release_is_made_of_the_spare_by_what_is_different() {
    let (world, a) = with_spare();
    let mut deployment = world.open();
    let mut b = changed(&a, "README", file("read me again\n"));
    b.remove(&b"a/b/c/deep"[..]);
    b.insert(b"bin/also".to_vec(), executable("#!/bin/sh\n"));
    b.insert(b"latest".to_vec(), link("bin/also"));
    let prepared = deploy(&world, &mut deployment, 2, &b);
    let built = prepared.built;
    // Three made, `bin/also` of a file that stays and is not looked for, and one removed.
    assert_eq!((built.entries_touched, built.files_written), (4, 2));
    assert_eq!((built.files_linked, built.files_cloned), (0, 0));
    assert!(!spare(&world).exists());
    let inode = |path: &str| fs::metadata(world.path(path)).unwrap().ino();
    let before = &deployment.previous().unwrap().rev;
    let same = format!("app-cache/revs/{before}/a/large");
    assert_eq!(inode("app/a/large"), inode(&same));
    assert_tree(&world.path(&format!("app-cache/revs/{before}")), &a);

    // And so on, with the next spare.
    upkeep(&world, &mut deployment);
    assert_tree(&spare(&world), &b);
    let built = deploy(&world, &mut deployment, 3, &a).built;
    assert_eq!(built.entries_touched, 0, "its directory is still there");
    upkeep(&world, &mut deployment);
    assert_tree(&spare(&world), &a);
}

#[test]
fn a_renamed_file_is_a_further_name_of_it() {
    let (world, a) = with_spare();
    let mut b = a.clone();
    let large = b.remove(&b"a/large"[..]).unwrap();
    b.insert(b"z/larger".to_vec(), large);
    let built = deploy(&world, &mut world.open(), 2, &b).built;
    assert_eq!((built.entries_touched, built.files_linked), (2, 1));
    assert_eq!(built.files_written, 0);
}

#[test]
fn a_release_that_is_back_to_back_with_the_last_is_made_of_as_much_of_a_spare_as_there_is() {
    let world = World::new();
    let mut deployment = world.open();
    let a = small_tree();
    deploy(&world, &mut deployment, 1, &a);
    let_files_age(&world);
    let mut b = changed(&a, "README", file("b"));
    b.remove(&b"a/b/c/deep"[..]);
    b.insert(b"zz".to_vec(), link("new"));
    let mut rounds = 0;
    loop {
        // It asks before it begins, and before each entry.
        let asked = Cell::new(0);
        let is_awaited = || asked.replace(asked.get() + 1) >= 5;
        let upkeep = deployment.upkeep(&world.chunks, &is_awaited).unwrap();
        rounds += 1;
        if upkeep == Upkeep::Done {
            break;
        }
    }
    assert_eq!(
        rounds,
        a.len().div_ceil(4),
        "each round goes on where the last stopped"
    );
    assert_tree(&spare(&world), &a);

    for (sequence, made) in (2..).zip([0, 1, 3, 7, 11]) {
        let tree = if sequence % 2 == 0 { &b } else { &a };
        let tree = changed(tree, "n", file(&sequence.to_string()));
        let asked = Cell::new(0);
        let is_awaited = || {
            asked.set(asked.get() + 1);
            asked.get() > made + 1
        };
        // What the last deployment made is finalized, and its spare is begun.
        let_files_age(&world);
        if sequence > 2 {
            let stopped = deployment.upkeep(&world.chunks, &is_awaited).unwrap();
            assert_eq!(stopped, Upkeep::Stopped, "{sequence}");
        }
        let built = deploy(&world, &mut deployment, sequence, &tree).built;
        assert!(built.files_written <= 3, "{sequence}: {built:?}");
        if sequence > 2 {
            let all = tree.len() as u64;
            assert!(built.entries_touched >= all - made, "{sequence}: {built:?}");
            assert!(
                built.entries_touched <= all - made + 4,
                "{sequence}: {built:?}"
            );
        }
    }
}

#[test]
fn an_edit_of_a_file_that_the_spare_shares_does_not_go_live() {
    let (world, a) = with_spare();
    fs::write(world.live().join("a/b/c/deep"), "evil\n").unwrap();
    let mut deployment = world.open();
    let b = changed(&a, "README", file("b"));
    let promoted = deployment
        .promote(&world.target(2, &b), &world.chunks)
        .unwrap();
    assert_eq!(promoted.flipped.repaired, 1);
    world.assert_live(&b);
    let before = deployment.previous().unwrap().rev.clone();
    let edited = world.path(&format!("app-cache/revs/{before}/a/b/c/deep"));
    assert_eq!(
        fs::read(edited).unwrap(),
        b"evil\n",
        "what was live is as it was"
    );
}

#[test]
fn what_somebody_did_to_a_live_file_is_not_in_the_next_release_though_it_was_repaired_in_this() {
    type Damage = fn(&World);
    let damages: [Damage; 2] = [
        |world| {
            let mode = fs::Permissions::from_mode(0o600);
            fs::set_permissions(world.live().join("a/b/c/deep"), mode).unwrap();
        },
        |world| {
            fs::write(world.live().join("README"), "deep\n").unwrap();
            fs::write(world.live().join("a/b/c/deep"), "read me\n").unwrap();
        },
    ];
    for damage in damages {
        let (world, a) = with_spare();
        let mut deployment = world.open();
        damage(&world);
        let_files_age(&world);
        let live = deployment.live().unwrap().release;
        let flipped = deployment.flip(&live, &world.chunks).unwrap();
        assert!(flipped.repaired > 0);
        deployment.finalize(&live).unwrap();
        let_files_age(&world);
        deploy(
            &world,
            &mut deployment,
            2,
            &changed(&a, "bin/new", file("b")),
        );
    }
}

#[test]
fn what_somebody_did_while_a_spare_was_made_is_not_in_the_next_release() {
    type Damage = fn(&World);
    let damages: [Damage; 2] = [
        |world| {
            for name in ["y-1", "y-2"] {
                let mode = fs::Permissions::from_mode(0o755);
                fs::set_permissions(world.live().join(name), mode).unwrap();
            }
        },
        |world| {
            fs::write(world.live().join("y-1"), "two").unwrap();
            fs::write(world.live().join("y-2"), "one").unwrap();
        },
    ];
    for damage in damages {
        let world = World::new();
        let mut deployment = world.open();
        let first = tree([("x-1", file("one")), ("x-2", file("two"))]);
        deploy(&world, &mut deployment, 1, &first);
        let_files_age(&world);
        // Two names each for the files of the first.
        let second = tree([
            ("y-1", file("one")),
            ("y-2", file("two")),
            ("z", link("x-1")),
        ]);
        let mut second: Tree = first.into_iter().chain(second).collect();
        deploy(&world, &mut deployment, 2, &second);
        let inode = |name: &str| fs::metadata(world.live().join(name)).unwrap().ino();
        assert_eq!(inode("x-1"), inode("y-1"));

        // The spare has the first two names when somebody comes.
        let asked = Cell::new(0);
        let is_awaited = || asked.replace(asked.get() + 1) >= 3;
        let stopped = deployment.upkeep(&world.chunks, &is_awaited).unwrap();
        assert_eq!(stopped, Upkeep::Stopped);
        assert_eq!(names(&spare(&world)), ["x-1", "x-2"]);
        damage(&world);
        // What takes the place of the others is written slowly enough to be known by its rows.
        let is_slow = || {
            let_files_age(&world);
            false
        };
        let done = deployment.upkeep(&world.chunks, &is_slow).unwrap();
        assert_eq!(done, Upkeep::Done);
        second.insert(b"new".to_vec(), file("new"));
        deploy(&world, &mut deployment, 3, &second);
    }
}

#[test]
fn going_back_to_a_damaged_release_does_not_wait_for_what_is_in_the_trash() {
    let (world, a) = with_spare();
    let mut deployment = world.open();
    let first = deployment.live().unwrap().clone();
    let b = changed(&a, "README", file("b"));
    deploy(&world, &mut deployment, 2, &b);
    let trash = world.path("app-cache/.scap/trash");
    fs::create_dir(trash.join("large")).unwrap();
    let file = world.path(&format!("app-cache/revs/{}/bin/run", first.rev));
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    let back = deployment.revert(Some(&first.release), &world.chunks);
    assert_eq!(back.unwrap().repaired, 1);
    world.assert_live(&a);
    assert_eq!(
        names(&trash).len(),
        2,
        "what was there and what was removed"
    );
    upkeep(&world, &mut deployment);
    assert_eq!(names(&trash), [""; 0]);
}

#[test]
fn a_check_of_the_spare_counts_for_a_moment_and_for_its_release_alone() {
    let b = changed(&small_tree(), "README", file("b"));
    for (age, repaired) in [(0, 0), (2, 0), (6, 1), (-6, 1)] {
        let (world, _) = with_spare();
        let mut deployment = world.open();
        let target = world.target(2, &b);
        let prepared = deployment.prepare(&target, &world.chunks).unwrap();
        assert_eq!(prepared.built.entries_touched, 1);
        fs::write(world.live().join("a/b/c/deep"), "evil\n").unwrap();
        let at = deployment.now().unwrap() - age * 1_000_000_000;
        deployment.note_checked(&prepared.installed, at).unwrap();
        let flipped = deployment.flip(&target.release, &world.chunks).unwrap();
        assert_eq!(flipped.repaired, repaired, "{age} s");
        // It counts once: the same order again finds what is wrong.
        let flipped = deployment.flip(&target.release, &world.chunks).unwrap();
        assert_eq!(flipped.repaired, 1 - repaired, "{age} s");
        world.assert_live(&b);
    }
    let (world, _) = with_spare();
    let mut deployment = world.open();
    let other = deployment.live().unwrap().clone();
    let target = world.target(2, &b);
    deployment.prepare(&target, &world.chunks).unwrap();
    fs::write(world.live().join("a/b/c/deep"), "evil\n").unwrap();
    let now = deployment.now().unwrap();
    deployment.note_checked(&other, now).unwrap();
    let flipped = deployment.flip(&target.release, &world.chunks).unwrap();
    assert_eq!(flipped.repaired, 1);
}

#[test]
fn a_release_of_a_spare_that_nobody_touched_is_found_right_by_looking_at_the_spare() {
    let (world, a) = with_spare();
    let mut deployment = world.open();
    let b = changed(&a, "README", file("b"));
    let target = world.target(2, &b);
    deployment.prepare(&target, &world.chunks).unwrap();
    let checked = world.path("app-cache/.scap/checked");
    assert!(checked.exists());
    deployment.flip(&target.release, &world.chunks).unwrap();
    assert!(!checked.exists());
    deployment.finalize(&target.release).unwrap();
    let_files_age(&world);
    upkeep(&world, &mut deployment);

    fs::write(world.live().join("a/b/c/deep"), "evil\n").unwrap();
    deployment
        .prepare(
            &world.target(3, &changed(&a, "README", file("c"))),
            &world.chunks,
        )
        .unwrap();
    assert!(!checked.exists(), "a file of the spare was written to");
}

#[test]
fn a_check_that_cannot_be_noted_is_made_by_the_switch() {
    let (world, a) = with_spare();
    fs::create_dir(world.path("app-cache/.scap/checked")).unwrap();
    let mut deployment = world.open();
    let b = changed(&a, "README", file("b"));
    let target = world.target(2, &b);
    deployment.prepare(&target, &world.chunks).unwrap();
    fs::write(world.live().join("a/b/c/deep"), "evil\n").unwrap();
    let flipped = deployment.flip(&target.release, &world.chunks).unwrap();
    assert_eq!(flipped.repaired, 1);
    world.assert_live(&b);
}

#[test]
fn a_live_file_that_is_not_what_it_should_be_is_right_in_the_spare() {
    let world = World::new();
    let mut deployment = world.open();
    let a = small_tree();
    deploy(&world, &mut deployment, 1, &a);
    fs::write(world.live().join("a/b/c/deep"), "evil\n").unwrap();
    upkeep(&world, &mut deployment);
    assert_tree(&spare(&world), &a);
}

#[test]
fn a_tree_that_shares_nothing_is_not_copied_for_a_spare_and_what_there_is_of_one_is_used() {
    let world = World::new();
    let mut deployment = world.open();
    let bytes = |n: u8| Thing::File(vec![n; 3_000_000]);
    let mut a: Tree = (0..10)
        .map(|n| (format!("large-{n}").into_bytes(), bytes(n)))
        .collect();
    deploy(&world, &mut deployment, 1, &a);
    // Another mode than the release's: such files get no further names.
    for n in 0..10 {
        let path = world.live().join(format!("large-{n}"));
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    }
    upkeep(&world, &mut deployment);
    let copied: Vec<String> = (0..5).map(|n| format!("large-{n}")).collect();
    if names(&spare(&world)).len() == 10 {
        println!("not tested: the file system shares blocks");
        return;
    }
    assert_eq!(names(&spare(&world)), copied);
    upkeep(&world, &mut deployment);
    assert_eq!(names(&spare(&world)), copied, "once is enough");
    a.insert(b"large-1".to_vec(), file("small"));
    let built = deploy(&world, &mut deployment, 2, &a).built;
    assert_eq!((built.entries_touched, built.files_written), (6, 6));
}

#[test]
fn a_file_that_is_too_large_to_be_copied_is_not_begun() {
    let world = World::new();
    let mut deployment = world.open();
    let large = Thing::File(vec![1; 17 * 1024 * 1024]);
    let a = tree([("a", file("a")), ("large", large), ("z", file("z"))]);
    deploy(&world, &mut deployment, 1, &a);
    let mode = fs::Permissions::from_mode(0o600);
    fs::set_permissions(world.live().join("large"), mode).unwrap();
    let_files_age(&world);
    upkeep(&world, &mut deployment);
    if spare(&world).join("large").exists() {
        println!("not tested: the file system shares blocks");
        return;
    }
    assert_eq!(names(&spare(&world)), ["a"]);
    deploy(&world, &mut deployment, 2, &changed(&a, "a", file("b")));
}

#[test]
fn a_disk_that_has_no_room_for_a_spare_is_tried_once_for_each_release() {
    let Some(mount) = Mount::new("size=8m,mode=755") else {
        return;
    };
    let world = World::at(mount.path());
    let mut deployment = world.open();
    let bytes = |count| Thing::File(vec![1; count]);
    let a = tree([("a", bytes(120_000)), ("b", bytes(2_000_000))]);
    let first = world.target(1, &a);
    deployment.promote(&first, &world.chunks).unwrap();
    // Another mode than the release's: such files get no further names.
    for name in ["a", "b"] {
        let mode = fs::Permissions::from_mode(0o600);
        fs::set_permissions(world.live().join(name), mode).unwrap();
    }
    deployment.finalize(&first.release).unwrap();
    // Somebody else takes the room while it is made.
    let source = Filling(&world.chunks, world.root().join("filler"));
    let error = deployment.upkeep(&source, &|| false).unwrap_err();
    assert!(error.is_no_space(), "{error}");
    assert_eq!(names(&spare(&world)), [""; 0]);
    upkeep(&world, &mut deployment);
    fs::remove_file(world.root().join("filler")).unwrap();
    upkeep(&world, &mut deployment);
    assert_eq!(names(&spare(&world)), [""; 0], "once is enough");

    let b = tree([("c", file("c"))]);
    deploy(&world, &mut deployment, 2, &b);
    upkeep(&world, &mut deployment);
    assert_tree(&spare(&world), &b);
}

#[test]
fn a_copy_of_a_large_file_that_fits_as_a_further_name_fits_with_a_spare_too() {
    let Some(mount) = Mount::new("size=5m,mode=755") else {
        return;
    };
    let world = World::at(mount.path());
    let mut deployment = world.open();
    let large = Thing::File(vec![1; 3_000_000]);
    let a = tree([("large", large.clone())]);
    deploy(&world, &mut deployment, 1, &a);
    let_files_age(&world);
    upkeep(&world, &mut deployment);
    assert_tree(&spare(&world), &a);
    let b = changed(&a, "copy", large);
    let built = deploy(&world, &mut deployment, 2, &b).built;
    assert_eq!((built.files_linked, built.files_written), (2, 0));
}

/// A file that not even root can remove, until this is dropped.
struct Immutable(fs::File);

impl Immutable {
    fn new(path: &Path) -> Option<Self> {
        fs::write(path, "").unwrap();
        let file = fs::File::open(path).unwrap();
        match rustix::fs::ioctl_setflags(&file, IFlags::IMMUTABLE) {
            Ok(()) => Some(Self(file)),
            Err(error) => {
                println!("skipped: making a file immutable: {error}");
                None
            }
        }
    }
}

impl Drop for Immutable {
    fn drop(&mut self) {
        let _ = rustix::fs::ioctl_setflags(&self.0, IFlags::empty());
    }
}

#[test]
fn something_that_cannot_be_removed_stays_alone_and_stops_nothing() {
    let (world, a) = with_spare();
    let mut deployment = world.open();
    deploy(
        &world,
        &mut deployment,
        2,
        &changed(&a, "README", file("b")),
    );
    let trash = world.path("app-cache/.scap/trash");
    for path in ["old/a/x", "old/z/x"] {
        fs::create_dir_all(trash.join(path)).unwrap();
    }
    fs::write(trash.join("old/a/zz"), "").unwrap();
    fs::write(trash.join("zz"), "").unwrap();
    let Some(stuck) = Immutable::new(&trash.join("old/a/stuck")) else {
        return;
    };
    deployment.upkeep(&world.chunks, &|| false).unwrap_err();
    let [left] = &names(&trash)[..] else {
        panic!("{:?}", names(&trash));
    };
    assert_eq!(names(&trash.join(left)), ["stuck"]);
    assert!(spare(&world).exists());
    deploy(&world, &mut deployment, 3, &a);
    drop(stuck);
    upkeep(&world, &mut deployment);
    assert_eq!(names(&trash), [""; 0]);
}

#[test]
fn a_release_fits_where_enough_of_the_trash_can_be_removed() {
    let Some(mount) = Mount::new("size=5m,mode=755") else {
        return;
    };
    let world = World::at(mount.path());
    let mut deployment = world.open();
    let trash = world.path("app-cache/.scap/trash");
    let Some(_stuck) = Immutable::new(&trash.join("a")) else {
        return;
    };
    fs::write(trash.join("b"), vec![1; 3_000_000]).unwrap();
    let a = tree([("large", Thing::File(vec![1; 3_000_000]))]);
    deploy(&world, &mut deployment, 1, &a);
    assert_eq!(names(&trash), ["a"]);
}

#[test]
fn a_spare_that_is_not_what_it_was_costs_time_and_nothing_else() {
    type Damage = fn(&World);
    let damages: [Damage; 8] = [
        |world| fs::remove_dir_all(spare(world)).unwrap(),
        |world| fs::remove_dir_all(spare(world).join("bin")).unwrap(),
        |world| {
            fs::remove_dir_all(spare(world).join("bin")).unwrap();
            symlink(world.root().join("outside"), spare(world).join("bin")).unwrap();
        },
        |world| {
            fs::remove_file(spare(world).join("README")).unwrap();
            fs::create_dir(spare(world).join("README")).unwrap();
        },
        |world| fs::write(spare(world).join("bin/new"), "planted").unwrap(),
        |world| fs::write(world.path("app-cache/.scap/spare-of"), "damaged").unwrap(),
        |world| fs::remove_file(world.path("app-cache/.scap/spare-of")).unwrap(),
        |world| {
            fs::remove_file(world.path("app-cache/.scap/spare-of")).unwrap();
            fs::create_dir(world.path("app-cache/.scap/spare-of")).unwrap();
        },
    ];
    for (n, damage) in damages.iter().enumerate() {
        let (world, a) = with_spare();
        let outside = world.root().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("run"), "theirs").unwrap();
        damage(&world);
        let mut b = changed(&a, "README", link("elsewhere"));
        b.insert(b"bin/run".to_vec(), executable("new"));
        b.insert(b"bin/new".to_vec(), file("new"));
        let mut deployment = world.open();
        let built = deploy(&world, &mut deployment, 2, &b).built;
        assert_eq!(built.entries_touched, b.len() as u64, "{n}: all is written");
        assert_eq!(fs::read(outside.join("run")).unwrap(), b"theirs");
        upkeep(&world, &mut deployment);
        assert_tree(&spare(&world), &b);
        assert_eq!(names(&world.path("app-cache/.scap/trash")), [""; 0]);
    }
}

#[test]
fn a_spare_of_what_is_no_longer_live_is_made_anew_and_used_as_long_as_its_release_is_kept() {
    let (world, a) = with_spare();
    let mut deployment = world.open();
    let first = deployment.live().unwrap().release;
    // Of the spare, then back by what is kept: a spare of `a` that is not live.
    let b = changed(&a, "README", file("b"));
    deploy(&world, &mut deployment, 2, &b);
    deployment.revert(Some(&first), &world.chunks).unwrap();
    upkeep(&world, &mut deployment);
    assert!(
        !spare(&world).exists(),
        "what is live is not what was finalized"
    );
    deployment.finalize(&first).unwrap();
    upkeep(&world, &mut deployment);
    let inode = fs::metadata(spare(&world)).unwrap().ino();
    upkeep(&world, &mut deployment);
    assert_eq!(
        fs::metadata(spare(&world)).unwrap().ino(),
        inode,
        "once is enough"
    );
    deploy(&world, &mut deployment, 3, &b);
    upkeep(&world, &mut deployment);
    assert_tree(&spare(&world), &b);
    assert_ne!(fs::metadata(spare(&world)).unwrap().ino(), inode);
}

#[test]
fn the_spare_is_none_of_the_releases_that_are_kept() {
    let world = World::new();
    let mut deployment = world.open();
    for n in 1..12 {
        let tree = changed(&small_tree(), "version", file(&n.to_string()));
        let built = deploy(&world, &mut deployment, n, &tree).built;
        assert_eq!(
            built.entries_touched,
            if n == 1 { tree.len() as u64 } else { 1 }
        );
        upkeep(&world, &mut deployment);
        assert_eq!(world.revs().len(), KEPT.min(usize::try_from(n).unwrap()));
        assert_tree(&spare(&world), &tree);
    }
    let own = world.path("app-cache/.scap");
    assert_eq!(names(&own.join("trash")), [""; 0]);
    assert_eq!(names(&own.join("entries")), world.revs());
    assert_eq!(names(&own.join("pages")).len(), KEPT, "a page each");
}

fn thing() -> impl Strategy<Value = Thing> {
    prop_oneof![
        4 => "[ab]{0,2}".prop_map(|text| Thing::File(text.into_bytes())),
        2 => "[ab]{0,2}".prop_map(|text| Thing::Executable(text.into_bytes())),
        1 => "[ab]{1,2}".prop_map(|text| Thing::Link(text.into_bytes())),
        1 => Just(Thing::Directory),
        1 => Just(Thing::Gitlink),
    ]
}

/// Trees of few names, so that everything takes the place of everything else.
fn any_tree() -> impl Strategy<Value = Tree> {
    btree_map("[ab.](/[ab.]{1,2}){0,3}", thing(), 0..12).prop_map(|things| {
        let is_path = |path: &str| path.split('/').all(|name| !name.chars().all(|c| c == '.'));
        let things = things.into_iter().filter(|(path, _)| is_path(path));
        let mut tree = Tree::new();
        for (path, thing) in things {
            let above = |other: &[u8]| {
                path.as_bytes()
                    .strip_prefix(other)
                    .is_some_and(|rest| rest.starts_with(b"/"))
            };
            if !tree.keys().any(|other: &Vec<u8>| above(other)) {
                tree.insert(path.into_bytes(), thing);
            }
        }
        tree
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn whatever_the_trees_are_spare_and_difference_make_what_is_made_without(
        trees in proptest::collection::vec((any_tree(), proptest::option::of(0..12_u64)), 2..5)
    ) {
        let world = World::new();
        let mut deployment = world.open();
        for (sequence, (tree, asked_max)) in (1..).zip(&trees) {
            let target: Target = world.target(sequence, tree);
            deployment.promote(&target, &world.chunks).unwrap();
            deployment.finalize(&target.release).unwrap();
            world.assert_live(tree);
            prop_assert_eq!(deployment.verify(&world.chunks).unwrap(), vec![]);
            let asked = Cell::new(0);
            let is_awaited = || {
                asked.set(asked.get() + 1);
                asked_max.is_some_and(|max| asked.get() > max)
            };
            deployment.upkeep(&world.chunks, &is_awaited).unwrap();
        }
        for kept in deployment.releases().unwrap() {
            let (tree, _) = &trees[usize::try_from(kept.sequence).unwrap() - 1];
            assert_tree(&world.path(&format!("app-cache/revs/{}", kept.rev)), tree);
        }
    }
}
