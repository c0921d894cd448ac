//! Hosts that may open a release though its plan does not name them: they catch up.

use std::collections::{BTreeMap, BTreeSet};

use scap_proto::{
    id::{NodeId, ReleaseId},
    limits::PLAN_HOSTS_MAX,
};

use super::driver::Driver;

/// Whom the daemon admitted to what.
#[derive(Debug, Default)]
pub(crate) struct Guests(BTreeMap<ReleaseId, BTreeSet<NodeId>>);

impl Guests {
    /// Admits a host; one more than a plan could name is not.
    fn add(&mut self, release: ReleaseId, host: NodeId) {
        let hosts = self.0.entry(release).or_default();
        if hosts.len() < PLAN_HOSTS_MAX {
            hosts.insert(host);
        }
    }

    pub(crate) fn may_have(&self, release: ReleaseId, host: &NodeId) -> bool {
        self.0.get(&release).is_some_and(|it| it.contains(host))
    }
}

impl Driver {
    /// Lets a host open a release, as long as that is attached; another attachment of it counts too.
    pub(super) fn admit(&mut self, release: ReleaseId, host: NodeId) {
        if self.find(release).is_none() {
            return;
        }
        let active = self.transfers.values().map(|it| it.transfer.release);
        let active: BTreeSet<ReleaseId> = active.collect();
        self.guests.0.retain(|release, _| active.contains(release));
        self.guests.add(release, host);
        for peer in self.peers.keys().copied().collect::<Vec<_>>() {
            self.serve_waiting(peer);
        }
    }
}
