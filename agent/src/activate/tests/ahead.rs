//! Writing ahead: what is made of it is what is made without, whatever comes when, and whatever happens to it.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeSet,
    fs,
    path::PathBuf,
};

use bytes::Bytes;
use scap_proto::id::ChunkId;

use super::{
    hostile::{Filling, Mount},
    world::*,
};
use crate::activate::{
    Ahead, Built, ChunkSource, Deployment, SourceError, Target, Upkeep, prepare::Prepared,
};

/// Chunks of which some have come.
struct Coming<'a> {
    chunks: &'a Chunks,
    come: RefCell<BTreeSet<ChunkId>>,
    /// One whose file in the store is not what it should be.
    damaged: Cell<Option<ChunkId>>,
}

impl<'a> Coming<'a> {
    fn none_of(chunks: &'a Chunks) -> Self {
        Self {
            chunks,
            come: RefCell::default(),
            damaged: Cell::default(),
        }
    }

    fn all_of(chunks: &'a Chunks) -> Self {
        let coming = Self::none_of(chunks);
        coming.come.borrow_mut().extend(chunks.ids());
        coming
    }
}

impl ChunkSource for Coming<'_> {
    fn plain(&self, id: &ChunkId) -> Result<Bytes, SourceError> {
        let has_come = self.come.borrow().contains(id) && self.damaged.get() != Some(*id);
        let plain = self.chunks.plain(id);
        plain.and_then(|plain| has_come.then_some(plain).ok_or(SourceError::Missing(*id)))
    }

    fn unproved(&self, id: &ChunkId) -> Result<Bytes, SourceError> {
        if self.damaged.get() == Some(*id) {
            let length = self.chunks.plain(id)?.len();
            return Ok(vec![0; length].into());
        }
        self.plain(id)
    }
}

fn write_ahead(deployment: &mut Deployment, target: &Target, coming: &Coming<'_>) -> Ahead {
    let ahead = deployment.write_ahead(target, coming, coming.chunks, &|| false);
    ahead.unwrap()
}

fn ahead(world: &World, path: &str) -> PathBuf {
    world.path("app-cache/.scap/ahead").join(path)
}

fn assert_none(world: &World) {
    for name in ["ahead", "ahead-of", "staging"] {
        let path = world.path("app-cache/.scap").join(name);
        assert!(!path.exists(), "{}", path.display());
    }
}

fn deploy(world: &World, deployment: &mut Deployment, target: &Target, tree: &Tree) -> Prepared {
    let promoted = deployment.promote(target, &world.chunks).unwrap();
    deployment.finalize(&target.release).unwrap();
    world.assert_live(tree);
    assert_none(world);
    assert_eq!(deployment.verify(&world.chunks).unwrap(), []);
    promoted.prepared
}

fn changed() -> Tree {
    let mut tree = small_tree();
    tree.insert(b"README".to_vec(), file("read me again\n"));
    tree.insert(b"bin/also".to_vec(), executable("#!/bin/false\n"));
    tree.insert(
        b"m/large".to_vec(),
        Thing::File((0..900_000_u32).map(|n| (n % 251) as u8).collect()),
    );
    tree.insert(b"zz".to_vec(), Thing::File(vec![7; 200_000]));
    tree.remove(&b"a/b/c/deep"[..]);
    tree
}

/// A world where the small tree is live, and has a spare or not.
fn world(has_spare: bool) -> World {
    let world = World::new();
    let mut deployment = world.open();
    let first = world.target(1, &small_tree());
    deploy(&world, &mut deployment, &first, &small_tree());
    let_files_age(&world);
    if has_spare {
        let done = deployment.upkeep(&world.chunks, &|| false).unwrap();
        assert_eq!(done, Upkeep::Done);
    }
    drop(deployment);
    world
}

/// What making the changed tree takes where nothing is written ahead.
fn built_without(has_spare: bool) -> Built {
    let world = world(has_spare);
    let target = world.target(2, &changed());
    deploy(&world, &mut world.open(), &target, &changed()).built
}

#[test]
fn a_tree_whose_chunks_come_in_any_order_is_whole_with_the_last_and_nothing_is_written_after_it() {
    for has_spare in [false, true] {
        for is_backwards in [false, true] {
            let world = world(has_spare);
            let target = world.target(2, &changed());
            let coming = Coming::none_of(&world.chunks);
            // Their names are hashes, so this is no order of the tree.
            let mut ids = world.chunks.ids();
            ids.sort();
            if is_backwards {
                ids.reverse();
            }
            let mut rounds = 0;
            for id in &ids {
                coming.come.borrow_mut().insert(*id);
                // Each time as after a restart.
                let made = write_ahead(&mut world.open(), &target, &coming);
                world.assert_live(&small_tree());
                rounds += usize::from(made == Ahead::Stopped);
            }
            assert!(rounds > 1, "{rounds}");
            let mut deployment = world.open();
            assert_eq!(write_ahead(&mut deployment, &target, &coming), Ahead::Whole);
            assert_tree(&ahead(&world, ""), &changed());
            let written = fs::metadata(ahead(&world, "m/large")).unwrap();

            // Not one chunk is needed any more, not even for the entries.
            world.chunks.lose_all();
            let built = deploy(&world, &mut deployment, &target, &changed()).built;
            assert_eq!(built, built_without(has_spare));
            let live = fs::metadata(world.live().join("m/large")).unwrap();
            assert_eq!(
                written.modified().unwrap(),
                live.modified().unwrap(),
                "the same file"
            );
        }
    }
}

#[test]
fn a_file_that_is_not_whole_is_removed_and_what_is_before_it_stays() {
    let world = world(false);
    let target = world.target(2, &changed());
    let tree = changed();
    let Thing::File(large) = &tree[&b"m/large"[..]] else {
        panic!("it is a file")
    };
    let missing = ChunkId::of(&large[800_000..]);
    let coming = Coming::all_of(&world.chunks);
    coming.come.borrow_mut().remove(&missing);
    let mut deployment = world.open();
    assert_eq!(
        write_ahead(&mut deployment, &target, &coming),
        Ahead::Stopped
    );
    assert!(ahead(&world, "bin/also").exists() && !ahead(&world, "m/large").exists());
    assert!(!ahead(&world, "zz").exists(), "in order");

    // It came, and is not what it should be: as if it had not.
    coming.come.borrow_mut().insert(missing);
    coming.damaged.set(Some(missing));
    assert_eq!(
        write_ahead(&mut deployment, &target, &coming),
        Ahead::Stopped
    );
    assert!(!ahead(&world, "m/large").exists());
    // The release is told so, and what was written is gone then.
    let error = deployment.promote(&target, &coming).unwrap_err();
    let said = crate::error_chain(&error);
    assert!(said.contains(&missing.to_string()), "{said}");
    assert_none(&world);
    coming.damaged.set(None);
    deploy(&world, &mut deployment, &target, &changed());
}

#[test]
fn it_gives_way_between_two_entries_and_the_release_goes_on_where_it_was() {
    for has_spare in [false, true] {
        for made in [0, 1, 2, 3, 5, 8] {
            let world = world(has_spare);
            let target = world.target(2, &changed());
            let mut deployment = world.open();
            let asked = Cell::new(0);
            let is_awaited = || asked.replace(asked.get() + 1) >= made;
            let coming = Coming::all_of(&world.chunks);
            let ahead = deployment
                .write_ahead(&target, &coming, &world.chunks, &is_awaited)
                .unwrap();
            let all = built_without(has_spare);
            let is_whole = made > 4 && has_spare;
            assert_eq!(ahead == Ahead::Whole, is_whole, "{made}");
            world.assert_live(&small_tree());
            drop(deployment);
            // Another request looks at the repo meanwhile.
            drop(world.open());
            let built = deploy(&world, &mut world.open(), &target, &changed()).built;
            assert_eq!(built, all, "{made}, {has_spare}");
        }
    }
}

#[test]
fn another_release_or_none_removes_what_was_written_ahead() {
    let world = world(true);
    let mut deployment = world.open();
    let coming = Coming::all_of(&world.chunks);
    let target = world.target(2, &changed());
    coming.come.borrow_mut().extend(world.chunks.ids());
    assert_eq!(write_ahead(&mut deployment, &target, &coming), Ahead::Whole);
    deployment.drop_ahead().unwrap();
    assert_none(&world);

    assert_eq!(write_ahead(&mut deployment, &target, &coming), Ahead::Whole);
    let other = tree([("other", file("other"))]);
    let third = world.target(3, &other);
    coming.come.borrow_mut().extend(world.chunks.ids());
    let mut without = coming.come.borrow_mut();
    without.remove(&ChunkId::of(b"other"));
    drop(without);
    assert_eq!(
        write_ahead(&mut deployment, &third, &coming),
        Ahead::Stopped
    );
    assert!(!ahead(&world, "zz").exists());
    deploy(&world, &mut deployment, &target, &changed());
    deploy(&world, &mut deployment, &third, &other);
    let done = deployment.upkeep(&world.chunks, &|| false).unwrap();
    assert_eq!(done, Upkeep::Done);
    let trash = names(&world.path("app-cache/.scap/trash"));
    assert_eq!(trash, [""; 0]);
}

#[test]
fn what_was_written_ahead_counts_only_with_its_record_and_where_it_is_there() {
    for damage in ["record", "tree", "part"] {
        let world = world(false);
        let target = world.target(2, &changed());
        let coming = Coming::all_of(&world.chunks);
        let whole = write_ahead(&mut world.open(), &target, &coming);
        assert_eq!(whole, Ahead::Whole);
        match damage {
            "record" => fs::write(world.path("app-cache/.scap/ahead-of"), "?").unwrap(),
            "tree" => fs::remove_dir_all(ahead(&world, "")).unwrap(),
            // The switch finds out, as of any tree.
            _ => fs::remove_file(ahead(&world, "README")).unwrap(),
        }
        let mut deployment = world.open();
        if damage != "part" {
            assert_none(&world);
        }
        deploy(&world, &mut deployment, &target, &changed());
    }
}

#[test]
fn without_twice_the_room_nothing_is_written_ahead_and_the_release_is_made_all_the_same() {
    let Some(mount) = Mount::new("size=5m,mode=755") else {
        return;
    };
    let world = World::at(mount.path());
    let large = tree([("large", Thing::File(vec![1; 3_000_000]))]);
    let target = world.target(1, &large);
    let coming = Coming::all_of(&world.chunks);
    let mut deployment = world.open();
    let error = deployment
        .write_ahead(&target, &coming, &world.chunks, &|| false)
        .unwrap_err();
    assert!(error.is_no_space(), "{error}");
    assert_none(&world);
    deploy(&world, &mut deployment, &target, &large);
}

#[test]
fn a_disk_that_fills_up_while_it_is_written_ahead_has_none_of_it() {
    let Some(mount) = Mount::new("size=8m,mode=755") else {
        return;
    };
    let world = World::at(mount.path());
    let bytes = (0..2_000_000_u32).map(|n| (n % 251) as u8).collect();
    let large = tree([("a", file("a")), ("large", Thing::File(bytes))]);
    let target = world.target(1, &large);
    let filler = world.root().join("filler");
    let source = Filling(&world.chunks, filler.clone());
    let mut deployment = world.open();
    let error = deployment
        .write_ahead(&target, &source, &world.chunks, &|| false)
        .unwrap_err();
    assert!(error.is_no_space(), "{error}");
    assert_none(&world);
    // The release itself says so.
    let error = deployment.promote(&target, &world.chunks).unwrap_err();
    assert!(error.is_no_space(), "{error}");
    fs::remove_file(filler).unwrap();
    deploy(&world, &mut deployment, &target, &large);
}
