//! How far a release is.

use scap_proto::id::ReleaseId;

use super::{TransferStatus, driver::Driver, waiting};

impl Driver {
    /// How far it is; and where nothing comes, it is fetched from the seed too from now on, or from those that it
    /// stands behind, once they are linked to us.
    pub(super) fn status(&mut self, release: ReleaseId) -> Option<TransferStatus> {
        let id = self.find(release)?;
        let now = self.now();
        let active = &self.transfers[&id];
        // What is fetched now: the delta, as long as it is awaited.
        let fetched = active.awaits.as_ref().map_or(id, |it| it.transfer);
        let wants_seed = self.swarm.is_starving(fetched, now);
        if wants_seed {
            for id in [id, fetched] {
                let active = self.transfers.get_mut(&id);
                let origins = active.map(|it| it.edges.fetch_from_origins());
                for origin in origins.unwrap_or_default() {
                    self.edges_changed(id, &origin);
                }
            }
        }
        let active = &self.transfers[&id];
        let mut bytes = active.bytes;
        let deltas = self.transfers.values();
        for delta in deltas.filter(|it| it.delta_of == Some(release)) {
            bytes.seed += delta.bytes.seed;
            bytes.peers += delta.bytes.peers;
        }
        let waiting = self.swarm.waiting(fetched);
        let waiting = waiting.map(|waiting| waiting::describe(&waiting, now));
        Some(TransferStatus {
            chunks_held: active.held,
            chunks_total: active.transfer.total(),
            bytes,
            fetched_in: active.fetched_in,
            peers: u32::try_from(self.peers.len()).unwrap_or(u32::MAX),
            waiting,
            wants_seed,
        })
    }
}
