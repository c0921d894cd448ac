//! A source tree to every host, then the same with one line changed; and the same by others.

use std::path::{Path, PathBuf};
use std::time::Duration;

use scap_tests::fleet::{Host, wait_until};
use scap_tests::repo::write_source_tree;

use crate::options::Options;
use crate::others::{Theirs, Tool, Work};
use crate::ours::{Ours, REPO, Scene};
use crate::row::{Row, Target};
use crate::shape::Shape;
use crate::{KIB, MIB};

/// Files of the tree, unless said.
const FILES: usize = 13_000;
const FILES_QUICK: usize = 2_000;

/// Longer files of a real tree are left out: with this the one that continuous integration unpacks has the 84 MB in as many files that other
/// tools were measured with.
const FILE_BYTES_MAX: u64 = 300_000;

/// Whom ours is measured against.
const AGAINST: [&str; 4] = ["tar-chain", "tarball", "git-http", "rsync-proxies"];

/// How long a host may take to prepare for the next release: many times what it should.
const SPARE_MAX: Duration = Duration::from_secs(300);

/// Two rows: all of it, and the line. `None` where there can be no fleet.
pub(crate) fn measure(options: &Options, shape: &Shape) -> Option<Vec<Row>> {
    let files = match (options.files, options.quick) {
        (Some(files), _) => files,
        (None, true) => FILES_QUICK,
        (None, false) => FILES,
    };
    let scene = Scene::start(options, shape)?;
    let source = write_tree(scene.repo.dir(), files);
    let first = scene.repo.commit("all of it");
    scene.repo.pack();
    let tree = scene.repo.archived(&first);
    let bytes = tree.file_bytes();

    let cold = scene.deploy(bytes);
    scene.assert_all_run(&first);
    scene.fleet.hosts().iter().for_each(wait_for_spare);
    change_a_line(scene.repo.dir());
    let second = scene.repo.commit("one line");
    let changed = scene.repo.archived(&second);
    let update = scene.deploy(bytes);
    scene.assert_all_run(&second);
    scene.clear();

    let wanted = AGAINST.iter().filter(|name| options.wants_other(name));
    let others = wanted.map(|name| {
        let work = Work {
            fleet: &scene.fleet,
            repo: &scene.repo,
            bytes,
            bound_seconds: None,
        };
        scene.repo.go_to(&first);
        let mut session = match Tool::named(name).start(&work) {
            Ok(session) => session,
            Err(not_here) => return (not_here, None),
        };
        let all = session.deliver();
        session.assert_all_have(&tree);
        scene.repo.go_to(&second);
        let line = session.deliver();
        session.assert_all_have(&changed);
        session.end();
        (all, Some(line))
    });
    let (all, line): (Vec<_>, Vec<_>) = others.unzip();
    let line: Vec<Theirs> = line.into_iter().flatten().collect();

    let size = format!(
        "{} files, {:.1} MB, {source}, to {}",
        tree.file_count(),
        bytes as f64 / 1e6,
        shape.describe()
    );
    let mut rows = [
        Row::new("tree", format!("{size}: live and verified")),
        Row::new("one-line", format!("one line of {size}: live and verified")),
    ];
    let [cold_row, line_row] = &mut rows;
    tell(cold_row, &cold);
    if let Some((name, fastest)) = fastest(&all) {
        let what = format!("seconds / those of {name}, the fastest");
        cold_row.judge(what, cold.seconds / fastest, Target::AtMost(0.6));
    }
    tell(line_row, &update);
    let by_git = line.iter().find(|it| it.tool() == "git-http");
    if let Some(seconds) = by_git.and_then(Theirs::seconds) {
        let ratio = update.seconds / seconds;
        line_row.judge(
            "seconds / those of git over HTTP",
            ratio,
            Target::AtMost(0.4),
        );
    }
    let left = update.seed_link_bytes as f64 / KIB;
    line_row.judge("left the seed's link, KiB", left, Target::AtMost(64.0));
    for (row, ours, others) in [(cold_row, &cold, all), (line_row, &update, line)] {
        row.others = others;
        row.agent_peak_rss_bytes = Some(ours.agent_peak_rss_bytes);
        row.details = serde_json::json!({ "shape": shape, "files": tree.file_count(), "bytes": bytes, "ours": ours });
    }
    // Of a line the processors are what counts: the links are idle whatever the machine.
    rows[0].idled(cold.machine_idle_share, true);
    rows[1].idled(update.machine_idle_share, false);
    Some(rows.into())
}

fn tell(row: &mut Row, ours: &Ours) {
    row.tell("seconds", ours.seconds);
    for phase in [
        "connect", "snapshot", "deltas", "fetch", "prepare", "promote",
    ] {
        row.tell(format!("{phase}, s"), ours.phase(phase));
    }
    row.tell(
        "left the seed's link, MiB",
        ours.seed_link_bytes as f64 / MIB,
    );
    row.tell("CPU s, all processes", ours.cpu_seconds);
    row.tell(
        "agent peak RSS, MiB",
        ours.agent_peak_rss_bytes as f64 / MIB,
    );
}

fn fastest(others: &[Theirs]) -> Option<(&'static str, f64)> {
    let times = others
        .iter()
        .filter_map(|it| Some((it.tool(), it.seconds()?)));
    times.min_by(|one, other| one.1.total_cmp(&other.1))
}

/// In production there are minutes between two releases; what an agent prepares meanwhile is there by then.
fn wait_for_spare(host: &Host) {
    let own = host.deploy_root().join(format!("{REPO}-cache/.scap"));
    wait_until("a spare", SPARE_MAX, || {
        let missing = ["spare", "spare-of"].map(|name| (name, own.join(name).exists()));
        missing
            .iter()
            .all(|(_, exists)| *exists)
            .then_some(())
            .ok_or(missing)
    });
}

/// So many files of the tree that `SCAP_TESTS_TREE` names, spread evenly over it in the order of their paths, or a made-up tree. Says
/// which it is.
fn write_tree(dir: &Path, files: usize) -> &'static str {
    let Some(tree) = std::env::var_os("SCAP_TESTS_TREE") else {
        write_source_tree(dir, files, 1);
        return "made up";
    };
    let tree = Path::new(&tree);
    let mut all = files_below(tree);
    all.sort();
    assert!(
        all.len() >= files,
        "{}: only {} files",
        tree.display(),
        all.len()
    );
    let copy = |path: &PathBuf| -> std::io::Result<()> {
        let to = dir.join(path.strip_prefix(tree).expect("it is below"));
        std::fs::create_dir_all(to.parent().expect("it is below"))?;
        std::fs::copy(path, to).map(drop)
    };
    for number in 0..files {
        let path = &all[number * all.len() / files];
        copy(path).unwrap_or_else(|error| panic!("copy {}: {error}", path.display()));
    }
    "of a real tree"
}

fn files_below(root: &Path) -> Vec<PathBuf> {
    let (mut files, mut dirs) = (Vec::new(), vec![root.to_owned()]);
    while let Some(dir) = dirs.pop() {
        let listing = std::fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
        for entry in listing {
            let path = entry.expect("a directory can be read to its end").path();
            let meta = path.symlink_metadata().expect("it was just listed");
            if meta.is_dir() {
                dirs.push(path);
            } else if meta.is_file() && meta.len() <= FILE_BYTES_MAX {
                files.push(path);
            }
        }
    }
    files
}

/// Adds a line to a source file of usual length.
fn change_a_line(dir: &Path) {
    let mut files = files_below(dir);
    files.retain(|path| !path.starts_with(dir.join(".git")));
    files.sort();
    let is_usual = |path: &&PathBuf| {
        let bytes = path.metadata().map_or(0, |meta| meta.len());
        let ending = path.extension().and_then(|ending| ending.to_str());
        (2_000..20_000).contains(&bytes) && ending.is_some_and(|it| ["php", "rs"].contains(&it))
    };
    let usual: Vec<&PathBuf> = files.iter().filter(is_usual).collect();
    let path = usual[usual.len() / 2];
    let mut text = std::fs::read(path).expect("it is ours");
    text.extend_from_slice(b"// another line\n");
    std::fs::write(path, text).expect("it is ours");
}
