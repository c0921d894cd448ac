//! Which snapshots a host keeps the chunks of, and the collection of all others.

use std::collections::BTreeSet;

use scap_proto::{content::SnapshotRef, release::Release};

use super::Daemon;
use crate::{activate::process::LiveRelease, api::GcView, node, store::StoreError};

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

    pub(super) fn collect_in_background(&mut self) {
        let collecting = self.begin_collecting();
        self.cleaning.spawn(async move {
            match collecting.await {
                Ok(view) => tracing::info!(
                    chunks = view.chunks_removed,
                    bytes = view.bytes_removed,
                    "store collected"
                ),
                Err(error) => {
                    tracing::warn!(error = crate::error_chain(&error), "store not collected");
                }
            }
        });
    }

    /// Begins a collection, and only then looks at what is to be kept: a release that is accepted from now on counts
    /// its chunks in a later generation.
    pub(super) fn begin_collecting(
        &self,
    ) -> impl Future<Output = Result<GcView, StoreError>> + use<> {
        let store = self.node.store().clone();
        let collection = store.begin_collection();
        let keep = self.kept_snapshots();
        async move {
            let work = move || node::collect(collection, &store, &keep);
            let collected = tokio::task::spawn_blocking(work).await;
            let collected = collected.expect("collecting does not panic")?;
            Ok(GcView::new(collected.chunks, collected.bytes))
        }
    }
}
