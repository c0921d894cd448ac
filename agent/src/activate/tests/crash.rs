//! A process that dies, at every place where it matters.

use std::{
    env, fs,
    path::Path,
    process::{Command, Stdio},
};

use super::world::*;
use crate::activate::{Ahead, Deployment, Failpoints, Target, Upkeep};

/// Where the child finds its deploy root and what to do: `ROOT`, a line break, the failpoint.
const CHILD: &str = "SCAP_TEST_ACTIVATE_CHILD";

const ALL: [&str; 4] = [
    Failpoints::AFTER_JOURNAL,
    Failpoints::MID_WRITE,
    Failpoints::BEFORE_FLIP,
    Failpoints::AFTER_FLIP,
];

fn old() -> Tree {
    small_tree()
}

fn new() -> Tree {
    let mut tree = small_tree();
    tree.insert(b"README".to_vec(), file("new\n"));
    tree.insert(b"added/file".to_vec(), file("new\n"));
    tree.remove(&b"empty"[..]);
    tree
}

fn targets(world: &World) -> (Target, Target) {
    (world.target(1, &old()), world.target(2, &new()))
}

/// Not a test of its own: what the other tests run as a process that may die.
#[test]
fn child() {
    let Ok(order) = env::var(CHILD) else {
        return;
    };
    let (root, failpoint) = order.split_once('\n').unwrap();
    let world = World::at(Path::new(root));
    let (first, second) = targets(&world);
    let mut deployment = world.open().with_failpoints(Failpoints::at(failpoint));
    match deployment.live() {
        Some(live) if live.release == second.release => {
            deployment
                .revert(Some(&first.release), &world.chunks)
                .unwrap();
        }
        _ => {
            deployment.promote(&second, &world.chunks).unwrap();
        }
    }
}

/// Not a test of its own: has a spare made by a process that may die.
#[test]
fn upkeep_child() {
    let Ok(order) = env::var(CHILD) else {
        return;
    };
    let (root, failpoint) = order.split_once('\n').unwrap();
    let world = World::at(Path::new(root));
    // What is live can be read from the records and the tree alone.
    let mut deployment = world.open().with_failpoints(Failpoints::at(failpoint));
    deployment.upkeep(&world.chunks, &|| false).unwrap();
}

/// Not a test of its own: has a release written ahead by a process that may die.
#[test]
fn ahead_child() {
    let Ok(order) = env::var(CHILD) else {
        return;
    };
    let (root, failpoint) = order.split_once('\n').unwrap();
    let world = World::at(Path::new(root));
    let (_, second) = targets(&world);
    let mut deployment = world.open().with_failpoints(Failpoints::at(failpoint));
    let source = &world.chunks;
    let ahead = deployment.write_ahead(&second, source, source, &|| false);
    assert_eq!(ahead.unwrap(), Ahead::Whole);
}

fn child_name() -> String {
    let (_, module) = module_path!().split_once("::").unwrap();
    format!("{module}::child")
}

/// Runs [`child`], and returns whether it lived.
fn run_child(root: &Path, failpoint: &str) -> bool {
    run(&child_name(), root, failpoint)
}

fn run(child: &str, root: &Path, failpoint: &str) -> bool {
    let output = Command::new(this_executable())
        .args([child, "--exact", "--nocapture"])
        .env(CHILD, format!("{}\n{failpoint}", root.display()))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.code() != Some(101),
        "the child failed: {text}"
    );
    output.status.success()
}

/// Asserts that the live tree is whole, and returns whether it is the new one.
fn is_new(world: &World) -> bool {
    let is_new = fs::read(world.live().join("README")).unwrap() == b"new\n";
    world.assert_live(&if is_new { new() } else { old() });
    is_new
}

fn assert_clean(world: &World, deployment: &mut Deployment) {
    let done = deployment.upkeep(&world.chunks, &|| false).unwrap();
    assert_eq!(done, Upkeep::Done);
    let own = world.path("app-cache/.scap");
    let rest: Vec<String> = names(&own)
        .into_iter()
        .filter(|name| {
            !["failpoint-", "spare", "checked"]
                .iter()
                .any(|ours| name.starts_with(ours))
        })
        .collect();
    assert_eq!(
        rest,
        [
            "entries", "inodes", "live", "lock", "pages", "releases", "trash"
        ]
    );
    let spare = ["spare", "spare-of"].map(|name| own.join(name).exists());
    assert_eq!(spare[0], spare[1]);
    assert_eq!(names(&own.join("trash")), [""; 0]);
    let revs = world.revs();
    assert_eq!(names(&own.join("entries")), revs);
    assert_eq!(names(&own.join("releases")), revs);
}

#[test]
fn wherever_a_promotion_dies_the_old_or_the_new_tree_is_whole_and_the_next_try_completes() {
    for failpoint in ALL {
        let world = World::new();
        let (first, second) = targets(&world);
        world.open().promote(&first, &world.chunks).unwrap();
        assert!(
            !run_child(world.root(), failpoint),
            "{failpoint}: did not die"
        );
        assert!(
            world.path("app-cache/.scap/journal").exists(),
            "{failpoint}"
        );
        assert_eq!(
            is_new(&world),
            failpoint == Failpoints::AFTER_FLIP,
            "{failpoint}"
        );

        let mut deployment = world.open();
        let is_new = is_new(&world);
        let live = deployment.live().unwrap().release;
        assert_eq!(
            live,
            if is_new {
                second.release
            } else {
                first.release
            },
            "{failpoint}"
        );
        assert_eq!(deployment.previous().is_some(), is_new);
        let current = fs::read_link(world.path("app-cache/current")).unwrap();
        assert_eq!(
            current,
            Path::new("revs").join(deployment.live().unwrap().rev.as_str())
        );
        assert_clean(&world, &mut deployment);
        drop(deployment);

        let mut deployment = world.open().with_failpoints(Failpoints::at(failpoint));
        deployment.promote(&second, &world.chunks).unwrap();
        world.assert_live(&new());
        assert_eq!(deployment.previous().unwrap().release, first.release);
        assert_eq!(deployment.verify(&world.chunks).unwrap(), []);
        assert_clean(&world, &mut deployment);
    }
}

#[test]
fn wherever_the_making_of_a_spare_dies_there_is_none_and_the_next_try_makes_it() {
    for failpoint in [Failpoints::MID_SPARE, Failpoints::SPARE_MADE] {
        let world = World::new();
        let (first, second) = targets(&world);
        let mut deployment = world.open();
        deployment.promote(&first, &world.chunks).unwrap();
        deployment.finalize(&first.release).unwrap();
        drop(deployment);
        let_files_age(&world);
        let child = child_name().replace("::child", "::upkeep_child");
        assert!(
            !run(&child, world.root(), failpoint),
            "{failpoint}: did not die"
        );
        world.assert_live(&old());
        let own = world.path("app-cache/.scap");
        assert!(!own.join("spare-of").exists(), "{failpoint}");

        let mut deployment = world.open();
        assert!(!own.join("spare").exists(), "{failpoint}");
        assert_clean(&world, &mut deployment);
        assert_tree(&own.join("spare"), &old());
        assert_eq!(deployment.verify(&world.chunks).unwrap(), []);
        let promoted = deployment.promote(&second, &world.chunks).unwrap();
        assert_eq!(promoted.prepared.built.entries_touched, 3);
        world.assert_live(&new());
    }
}

#[test]
fn wherever_writing_ahead_dies_nothing_is_left_of_it_and_the_release_is_made() {
    for (failpoint, has_spare) in [
        (Failpoints::MID_AHEAD, false),
        (Failpoints::MID_AHEAD, true),
        (Failpoints::AHEAD_MADE, false),
    ] {
        let world = World::new();
        let (first, second) = targets(&world);
        let mut deployment = world.open();
        deployment.promote(&first, &world.chunks).unwrap();
        deployment.finalize(&first.release).unwrap();
        if has_spare {
            deployment.upkeep(&world.chunks, &|| false).unwrap();
        }
        drop(deployment);
        let child = child_name().replace("::child", "::ahead_child");
        assert!(
            !run(&child, world.root(), failpoint),
            "{failpoint}: did not die"
        );
        world.assert_live(&old());
        let own = world.path("app-cache/.scap");
        assert!(!own.join("ahead-of").exists(), "{failpoint}");

        let mut deployment = world.open();
        assert!(!own.join("ahead").exists() && !own.join("staging").exists());
        assert_clean(&world, &mut deployment);
        drop(deployment);
        // It lives the second time, and what it wrote outlives it.
        assert!(run(&child, world.root(), failpoint), "{failpoint}");
        assert!(own.join("ahead-of").exists(), "{failpoint}");
        let mut deployment = world.open();
        deployment.promote(&second, &world.chunks).unwrap();
        world.assert_live(&new());
        assert_eq!(deployment.verify(&world.chunks).unwrap(), []);
        deployment.finalize(&second.release).unwrap();
        assert_clean(&world, &mut deployment);
    }
}

#[test]
fn wherever_a_promotion_from_a_spare_dies_a_tree_is_whole_and_the_next_try_completes() {
    for failpoint in ALL.into_iter().chain([Failpoints::SPARE_TAKEN]) {
        let world = World::new();
        let (first, second) = targets(&world);
        let mut deployment = world.open();
        deployment.promote(&first, &world.chunks).unwrap();
        deployment.finalize(&first.release).unwrap();
        deployment.upkeep(&world.chunks, &|| false).unwrap();
        drop(deployment);
        let own = world.path("app-cache/.scap");
        assert!(own.join("spare").exists());
        assert!(
            !run_child(world.root(), failpoint),
            "{failpoint}: did not die"
        );
        assert!(!own.join("spare-of").exists(), "{failpoint}");
        assert_eq!(
            is_new(&world),
            failpoint == Failpoints::AFTER_FLIP,
            "{failpoint}"
        );
        let before = world.path(&format!(
            "app-cache/revs/{}",
            first.commit.as_ref().unwrap()
        ));
        assert_tree(&before, &old());

        let mut deployment = world.open();
        assert!(!own.join("staging").exists() && !own.join("spare").exists());
        deployment.promote(&second, &world.chunks).unwrap();
        world.assert_live(&new());
        assert_tree(&before, &old());
        assert_eq!(deployment.verify(&world.chunks).unwrap(), []);
        deployment.finalize(&second.release).unwrap();
        assert_clean(&world, &mut deployment);
        assert_tree(&own.join("spare"), &new());
    }
}

#[test]
fn wherever_going_back_dies_a_tree_is_whole_and_the_next_try_completes() {
    for failpoint in [Failpoints::BEFORE_FLIP, Failpoints::AFTER_FLIP] {
        let world = World::new();
        let (first, second) = targets(&world);
        let mut deployment = world.open();
        deployment.promote(&first, &world.chunks).unwrap();
        deployment.promote(&second, &world.chunks).unwrap();
        drop(deployment);
        assert!(!run_child(world.root(), failpoint));
        assert_eq!(is_new(&world), failpoint == Failpoints::BEFORE_FLIP);
        let mut deployment = world.open();
        deployment
            .revert(Some(&first.release), &world.chunks)
            .unwrap();
        world.assert_live(&old());
        assert_eq!(deployment.previous(), None);
        assert_clean(&world, &mut deployment);
    }
}

#[test]
fn a_first_release_over_a_directory_dies_and_leaves_one_of_them_whole() {
    for failpoint in [Failpoints::BEFORE_FLIP, Failpoints::AFTER_FLIP] {
        let world = World::new();
        let (_, second) = targets(&world);
        fs::create_dir_all(world.live().join("theirs")).unwrap();
        assert!(!run_child(world.root(), failpoint));
        if failpoint == Failpoints::BEFORE_FLIP {
            assert_eq!(names(&world.live()), ["theirs"]);
        } else {
            world.assert_live(&new());
        }
        let mut deployment = world.open();
        deployment.promote(&second, &world.chunks).unwrap();
        world.assert_live(&new());
        assert_eq!(
            names(&world.path("")),
            ["app", "app-cache", "app.replaced-1"]
        );
        assert_eq!(names(&world.path("app.replaced-1")), ["theirs"]);
        deployment.revert(None, &world.chunks).unwrap();
        assert_eq!(names(&world.live()), ["theirs"]);
    }
}

#[test]
fn many_deaths_leave_nothing_behind() {
    let world = World::new();
    let (first, second) = targets(&world);
    world.open().promote(&first, &world.chunks).unwrap();
    for round in 0..12 {
        let failpoint = ALL[round % ALL.len()];
        let mark = world.path(&format!("app-cache/.scap/failpoint-{failpoint}"));
        let _ = fs::remove_file(mark);
        run_child(world.root(), failpoint);
        is_new(&world);
    }
    let mut deployment = world.open();
    deployment.promote(&second, &world.chunks).unwrap();
    world.assert_live(&new());
    assert_clean(&world, &mut deployment);
    assert_eq!(world.revs().len(), 2);
}

#[test]
fn a_sync_that_fails_leaves_no_release_that_counts_as_written() {
    if Command::new("strace").arg("-V").output().is_err() {
        println!("skipped: strace is not installed");
        return;
    }
    let world = World::new();
    let (first, second) = targets(&world);
    world.open().promote(&first, &world.chunks).unwrap();
    let output = Command::new("strace")
        .args([
            "-f",
            "-o",
            "/dev/null",
            "-e",
            "trace=syncfs",
            "-e",
            "inject=syncfs:error=EIO:when=1",
        ])
        .arg(this_executable())
        .args([&child_name(), "--exact"])
        .env(CHILD, format!("{}\n", world.root().display()))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("make the release durable"), "{text}");
    assert_clean(&world, &mut world.open());
    assert_eq!(world.revs().len(), 1);
    assert!(!is_new(&world));
    let promoted = world.open().promote(&second, &world.chunks).unwrap();
    assert!(!promoted.prepared.already_there);
    world.assert_live(&new());
}

#[test]
fn damaged_records_are_made_again_and_what_is_live_stays() {
    for name in ["live", "journal", "inodes"] {
        let world = World::new();
        let (first, second) = targets(&world);
        let mut deployment = world.open();
        deployment.promote(&first, &world.chunks).unwrap();
        deployment.finalize(&first.release).unwrap();
        drop(deployment);
        let path = world.path("app-cache/.scap").join(name);
        for bytes in [&b""[..], &[0xff; 5000]] {
            fs::write(&path, bytes).unwrap();
            let deployment = world.open();
            world.assert_live(&old());
            assert_eq!(deployment.live().unwrap().release, first.release, "{name}");
            assert_eq!(
                deployment.finalized().unwrap().release,
                first.release,
                "{name}"
            );
        }
        let mut deployment = world.open();
        deployment.promote(&second, &world.chunks).unwrap();
        world.assert_live(&new());
        assert_eq!(deployment.previous().unwrap().release, first.release);
        assert_clean(&world, &mut deployment);
    }
}

#[test]
fn damaged_records_of_a_release_are_made_again() {
    let world = World::new();
    let (first, _) = targets(&world);
    let mut deployment = world.open();
    deployment.promote(&first, &world.chunks).unwrap();
    let rev = deployment.live().unwrap().rev.to_string();
    drop(deployment);
    for folder in ["releases", "entries"] {
        let path = world.path("app-cache/.scap").join(folder).join(&rev);
        fs::write(path, "damaged").unwrap();
    }
    let mut deployment = world.open();
    let promoted = deployment.promote(&first, &world.chunks).unwrap();
    assert!(promoted.prepared.already_there && promoted.flipped.already_live);
    assert_eq!(world.revs(), [rev]);
    assert_clean(&world, &mut deployment);
}
