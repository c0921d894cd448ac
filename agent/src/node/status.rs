//! How far a release is, with all that is fetched beside its tree.

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
        let mut parts = self.parts_of(release);
        let config = parts.find(|(part, it)| *part != id && it.fetched_in.is_none());
        let config = config.map(|(part, _)| part);
        drop(parts);
        let is_starving = |id| self.swarm.is_starving(id, now);
        let wants_seed = is_starving(fetched) || config.is_some_and(is_starving);
        if wants_seed {
            for id in [id, fetched].into_iter().chain(config) {
                let active = self.transfers.get_mut(&id);
                let origins = active.map(|it| it.edges.fetch_from_origins());
                for origin in origins.unwrap_or_default() {
                    self.edges_changed(id, &origin);
                }
            }
        }
        let active = &self.transfers[&id];
        let mut bytes = active.bytes;
        let others = self.transfers.values();
        let others = others.filter(|it| it.beside.is_some() && it.release() == release);
        for other in others {
            bytes.seed += other.bytes.seed;
            bytes.peers += other.bytes.peers;
            // What a delta made counts as the tree's.
            let has_own_reuse = !other.is_delta();
            bytes.reuse += if has_own_reuse { other.bytes.reuse } else { 0 };
        }
        let is_tree_here = active.fetched_in.is_some();
        let waits = config.filter(|_| is_tree_here).unwrap_or(fetched);
        let waiting = self.swarm.waiting(waits);
        let waiting =
            waiting.map(|waiting| waiting.reason().because(waiting::describe(&waiting, now)));
        Some(TransferStatus {
            chunks_held: active.held,
            chunks_total: active.transfer.total(),
            bytes,
            fetched_in: match config {
                Some(_) => None,
                None => active.fetched_in,
            },
            peers: u32::try_from(self.peers.len()).unwrap_or(u32::MAX),
            waiting,
            wants_seed,
        })
    }
}
