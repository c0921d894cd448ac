//! Which snapshots a host keeps the chunks of.

use std::collections::BTreeSet;

use scap_proto::{content::SnapshotRef, release::Release};

use super::Daemon;
use crate::activate::process::LiveRelease;

impl Daemon {
    /// What is live, what was live before it, what is accepted, and what is stable; of each its tree and what it asks of hosts.
    pub(super) fn kept_snapshots(&self) -> BTreeSet<SnapshotRef> {
        let mut keep = BTreeSet::new();
        for repo in self.repos.values() {
            let stable = repo.saved.stable().map(|it| &it.release);
            for release in repo.saved.accepted_release().into_iter().chain(stable) {
                let about: Option<Release> = release.read_unverified().ok();
                keep.extend(about.map(|about| (about.snapshot, about.config)));
            }
            let standing = &repo.standing;
            let installed = [standing.live.as_ref(), standing.previous.as_ref()];
            let both = |it: &LiveRelease| (it.snapshot, it.config);
            keep.extend(installed.into_iter().flatten().map(both));
        }
        let snapshots =
            |(tree, asked): (SnapshotRef, Option<_>)| std::iter::once(tree).chain(asked);
        keep.into_iter().flat_map(snapshots).collect()
    }
}
