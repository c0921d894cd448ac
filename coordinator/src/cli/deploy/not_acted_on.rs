//! What a scap folder asks of hosts and what hosts of this version do not do.

use scap_proto::content::SnapshotRef;

use crate::scap::Scap;

/// The config snapshot that a release names: none, since agents of this version fetch no chunks but those of the tree, and a
/// release is not to name what its hosts do not have. [`Scap::pack`] builds it.
pub(super) const CONFIG_SNAPSHOT: Option<SnapshotRef> = None;

/// Tells what is not done, where the folder asks for it.
pub(super) fn warn(scap: &Scap) {
    let hosts = &scap.hosts;
    let asked = [
        (hosts.config_files.len(), "config file"),
        (hosts.checks.len(), "check"),
        (hosts.services.units.len(), "service"),
    ];
    let asked = asked.into_iter().filter(|(count, _)| *count > 0);
    let asked =
        asked.map(|(count, what)| format!("{count} {what}{}", if count == 1 { "" } else { "s" }));
    let asked: Vec<String> = asked.collect();
    if !asked.is_empty() {
        eprintln!(
            "warning: hosts of this version do not render, run or restart anything: {} of the scap folder are left out",
            asked.join(", ")
        );
    }
}
