//! Many small files on one host whose link is no limit: how fast they are made and switched to.

use scap_tests::fleet::DeployReport;
use scap_tests::repo::write_source_tree;

use crate::options::Options;
use crate::ours::{REPO, Scene};
use crate::row::Row;
use crate::shape::Shape;
use crate::{KIB, MIB};

const FILES: usize = 20_000;
const FILES_QUICK: usize = 2_000;

/// `None` where there can be no fleet.
pub(crate) fn measure(options: &Options, shape: &Shape) -> Option<Row> {
    let files = match (options.files, options.quick) {
        (Some(files), _) => files,
        (None, true) => FILES_QUICK,
        (None, false) => FILES,
    };
    let scene = Scene::start(options, shape)?;
    write_source_tree(scene.repo.dir(), files, 1);
    let commit = scene.repo.commit("files");
    let tree = scene.repo.archived(&commit);
    let first = scene.deploy(tree.file_bytes());
    scene.assert_all_run(&commit);
    scene.repo.write("names/two words", "another line\n");
    let commit = scene.repo.commit("one line");
    let update = scene.deploy(tree.file_bytes());
    scene.assert_all_run(&commit);

    let what = format!(
        "{} files, {:.1} MiB, to {}, on {}",
        tree.file_count(),
        tree.file_bytes() as f64 / MIB,
        shape.describe(),
        first.filesystem
    );
    let mut row = Row::new("activation", what);
    let rate = tree.file_count() as f64 / activation_seconds(&first.report);
    row.tell("files activated/s", rate);
    row.tell("one-line update, s", update.seconds);
    row.tell("of it activating, s", activation_seconds(&update.report));
    let fetched = update.report.host("host1").bytes;
    let fetched = (fetched.seed + fetched.peers) as f64 / KIB;
    row.tell("one-line update fetched, KiB", fetched);
    row.idled(first.machine_idle_share, false);
    row.agent_peak_rss_bytes = Some(first.agent_peak_rss_bytes.max(update.agent_peak_rss_bytes));
    row.details = serde_json::json!({
        "repo": REPO,
        "files": tree.file_count(),
        "bytes": tree.file_bytes(),
        "first": first,
        "update": update,
    });
    Some(row)
}

/// To make the tree, to check it and to switch to it.
fn activation_seconds(report: &DeployReport) -> f64 {
    let host = report.host("host1");
    let seconds = host.prepare_seconds.zip(host.promote_seconds);
    let (prepare, promote) = seconds.expect("it prepared and promoted");
    prepare + promote
}
