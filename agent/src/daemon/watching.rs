//! What the local API shows of attacks.

use super::Daemon;
use crate::{
    api::{DeniedView, FreshnessView, SawView, WatchView},
    clock::Moment,
};

impl Daemon {
    /// What it saw, and what was held back.
    pub(super) fn watch_view(&self) -> WatchView {
        let stale = self.freshness.stale(&Moment::now());
        let (heard, lease) = (self.freshness.heard_at(), self.freshness.lease());
        WatchView {
            freshness: FreshnessView::new(heard, lease, stale),
            saw: self.node.sightings().into_iter().map(SawView::of).collect(),
            denied: self
                .node
                .denials()
                .into_iter()
                .map(DeniedView::of)
                .collect(),
        }
    }
}
