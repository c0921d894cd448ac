//! Somebody who may write to a release's tree puts links in the place of its folders while a release is built from it, it is
//! checked, repaired and removed: nothing outside is read into a release, changed or removed.

use std::{
    fs,
    os::{
        fd::OwnedFd,
        unix::fs::{MetadataExt, PermissionsExt, symlink},
    },
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use rustix::fs::{CWD, Mode, OFlags, RenameFlags};

use super::world::*;

/// How long the race goes on: each round is some milliseconds, and each exchange some microseconds.
const RACE: Duration = Duration::from_secs(2);

/// Files that must stay as they are: of the same paths, contents and modes as those of the release, so that whoever is led to
/// them takes them for its own.
struct Outside(PathBuf);

impl Outside {
    fn make(world: &World) -> Self {
        let outside = world.root().join("outside");
        fs::create_dir_all(outside.join("b/c")).unwrap();
        for (name, thing) in small_tree() {
            let name = String::from_utf8_lossy(&name).into_owned();
            if let (Some(below), Thing::File(bytes)) = (name.strip_prefix("a/"), thing) {
                fs::write(outside.join(below), bytes).unwrap();
                let mode = fs::Permissions::from_mode(0o644);
                fs::set_permissions(outside.join(below), mode).unwrap();
            }
        }
        Self(outside)
    }

    /// All that would tell of a link, a change of mode or owner, a write or a removal.
    fn state(&self) -> Vec<(String, u32, u32, u64, i64, i64)> {
        ["", "b", "b/c", "b/c/deep", "large"]
            .map(|below| {
                let found = fs::symlink_metadata(self.0.join(below)).unwrap();
                let (mode, uid, links) = (found.mode(), found.uid(), found.nlink());
                (
                    below.into(),
                    mode,
                    uid,
                    links,
                    found.ctime(),
                    found.ctime_nsec(),
                )
            })
            .to_vec()
    }
}

/// Puts a link in the place of folder `a` of a tree and takes it away again, as fast as it can. It has the tree open, and
/// follows it wherever it is moved to.
fn race(tree: &Path, outside: &Path, is_over: &AtomicBool, exchanges: &AtomicU64) {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(tree): Result<OwnedFd, _> = rustix::fs::openat(CWD, tree, flags, Mode::empty()) else {
        return;
    };
    // It may be there from the round before.
    let _ = rustix::fs::symlinkat(outside, &tree, "aside");
    while !is_over.load(Ordering::Relaxed) {
        if rustix::fs::renameat_with(&tree, "a", &tree, "aside", RenameFlags::EXCHANGE).is_ok() {
            exchanges.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[test]
fn c3_links_put_in_the_place_of_folders_at_any_time_lead_nobody_out_of_a_tree() {
    let world = World::new();
    let outside = Outside::make(&world);
    let before = outside.state();
    let exchanges = AtomicU64::new(0);
    let mut deployment = world.open();
    let first = small_tree();
    deployment
        .promote(&world.target(0, &first), &world.chunks)
        .unwrap();
    let start = Instant::now();
    let mut round = 0;
    while start.elapsed() < RACE {
        round += 1;
        let is_over = AtomicBool::new(false);
        let live = fs::canonicalize(world.live()).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| race(&live, &outside.0, &is_over, &exchanges));
            // Built of the live tree's files, checked and repaired before it goes live; what is no longer kept is removed.
            let target = world.target(round, &with_round(&first, "round", round));
            // Any of it may fail: the tree is another one at each look.
            let promoted = deployment.promote(&target, &world.chunks);
            let _ = deployment.verify(&world.chunks);
            let _ = deployment.prune(0);
            let _ = deployment.revert(None, &world.chunks);
            let mut inodes = deployment.load_inodes().unwrap();
            let _ = deployment.empty_trash(&mut inodes);
            is_over.store(true, Ordering::Relaxed);
            drop(promoted);
        });
        assert_eq!(outside.state(), before, "after round {round}");
        if !world.live().exists() {
            // A round that ended with nothing live starts the next from a whole tree.
            let target = world.target(1_000_000 + round, &with_round(&first, "again", round));
            deployment.promote(&target, &world.chunks).unwrap();
        }
    }
    let exchanges = exchanges.load(Ordering::Relaxed);
    println!("{round} rounds, {exchanges} exchanges");
    assert!(
        round > 3 && exchanges > 100,
        "{round} rounds, {exchanges} exchanges"
    );
    // Nothing of it was taken into a release either.
    let target = world.target(2_000_000, &with_round(&first, "last", 0));
    deployment.promote(&target, &world.chunks).unwrap();
    assert_eq!(deployment.verify(&world.chunks).unwrap(), []);
}

#[test]
fn c3_links_in_a_release_lead_no_check_repair_or_removal_to_their_targets() {
    let world = World::new();
    let outside = Outside::make(&world);
    let before = outside.state();
    let mut tree = small_tree();
    let up = "../".repeat(30);
    for (name, target) in [
        ("absolute", outside.0.to_str().unwrap().to_owned()),
        ("file", outside.0.join("large").to_str().unwrap().to_owned()),
        ("up", format!("{up}{}", outside.0.display())),
        ("itself", "itself".into()),
    ] {
        tree.insert(name.into(), link(&target));
    }
    let mut deployment = world.open();
    let target = world.target(1, &tree);
    deployment.promote(&target, &world.chunks).unwrap();
    world.assert_live(&tree);
    assert_eq!(deployment.verify(&world.chunks).unwrap(), []);
    // A link that is damaged is repaired, and not what it leads to.
    fs::remove_file(world.live().join("file")).unwrap();
    symlink(outside.0.join("b/c/deep"), world.live().join("file")).unwrap();
    assert_eq!(deployment.verify(&world.chunks).unwrap().len(), 1);
    for n in 2..12 {
        let target = world.target(n, &file_tree(n));
        deployment.promote(&target, &world.chunks).unwrap();
    }
    assert!(!world.revs().contains(&target.commit.unwrap().to_string()));
    assert_eq!(outside.state(), before);
}

fn with_round(tree: &Tree, name: &str, round: u64) -> Tree {
    let mut tree = tree.clone();
    tree.insert(name.into(), file(&round.to_string()));
    tree
}

fn file_tree(n: u64) -> Tree {
    tree([("x", file(&n.to_string()))])
}
