//! How far apart the hosts of one wave switch that have all fetched: the first flip to the last.

use std::os::unix::fs::MetadataExt as _;

use scap_tests::fleet::Host;
use scap_tests::repo::write_source_tree;

use crate::options::Options;
use crate::ours::{REPO, Scene};
use crate::row::Row;
use crate::shape::Shape;

const FILES: usize = 1_000;

/// `None` where there can be no fleet.
pub(crate) fn measure(options: &Options, shape: &Shape) -> Option<Row> {
    let scene = Scene::start(options, shape)?;
    write_source_tree(scene.repo.dir(), FILES, 1);
    let what = format!("{FILES} files to {}: first to last flip", shape.describe());
    let mut row = Row::new("switch", what);
    let mut details = Vec::new();
    for (name, note) in [("first deployment", "one"), ("one line", "two")] {
        scene
            .repo
            .write("names/two words", format!("line {note}\n"));
        let commit = scene.repo.commit(name);
        let bytes = scene.repo.archived(&commit).file_bytes();
        let ours = scene.deploy(bytes);
        scene.assert_all_run(&commit);
        let mut flips: Vec<f64> = scene.fleet.hosts().iter().map(flipped_at).collect();
        flips.sort_by(f64::total_cmp);
        let (first, last) = (flips[0], flips[flips.len() - 1]);
        row.tell(format!("{name}: spread, ms"), (last - first) * 1000.0);
        let median = flips[flips.len() / 2];
        row.tell(
            format!("{name}: half of them, ms"),
            (median - first) * 1000.0,
        );
        row.tell(
            format!("{name}: slowest promote, ms"),
            ours.phase("promote") * 1000.0,
        );
        row.tell(format!("{name}: in all, s"), ours.seconds);
        row.idled(ours.machine_idle_share, false);
        row.agent_peak_rss_bytes = row
            .agent_peak_rss_bytes
            .max(Some(ours.agent_peak_rss_bytes));
        details.push(
            serde_json::json!({ "what": name, "spread_seconds": last - first, "ours": ours }),
        );
    }
    row.notes.push("by the time of change of each final path's link; all hosts share this machine's processors".to_owned());
    row.details = details.into();
    Some(row)
}

/// When the final path was renamed into its place, seconds since 1970.
fn flipped_at(host: &Host) -> f64 {
    let link = host.live(REPO).symlink_metadata();
    let link = link.expect("the release is live");
    link.ctime() as f64 + link.ctime_nsec() as f64 / 1e9
}
