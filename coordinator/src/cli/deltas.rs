//! Which deltas a release lists: from what hosts run now to what they shall run.

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use scap_agent::store::Store;
use scap_proto::{id::SnapshotId, limits::DELTAS_MAX};
use serde_json::{Value, json};

use crate::{
    snapshot::{Built, Delta, build_delta},
    state::Record,
};

/// The deltas of a release.
#[derive(Debug, Default)]
pub(super) struct Deltas {
    pub(super) all: Vec<Delta>,
    pub(super) elapsed: Duration,
}

impl Deltas {
    /// Makes deltas to what was built from each of `bases`, at the same time. Their parts are in the store then. Of a base
    /// that the store has not there is none.
    pub(super) async fn build(store: Store, built: Arc<Built>, bases: Vec<SnapshotId>) -> Self {
        let started = Instant::now();
        let build = move || {
            let make = |base: &SnapshotId| build_delta(*base, &built.layout, &store);
            thread::scope(|scope| {
                let make = &make;
                let makers: Vec<_> = bases
                    .iter()
                    .map(|it| scope.spawn(move || make(it)))
                    .collect();
                let made = makers.into_iter().map(|maker| maker.join());
                made.filter_map(|made| made.expect("making a delta does not panic"))
                    .collect()
            })
        };
        let all = tokio::task::spawn_blocking(build).await;
        Self {
            all: all.expect("making deltas does not panic"),
            elapsed: started.elapsed(),
        }
    }

    pub(super) fn json(&self) -> Value {
        let one = |delta: &Delta| {
            json!({
                "base": delta.reference.base.to_string(),
                "encoded_bytes": delta.encoded_bytes,
                "saved_encoded_bytes": delta.saves.encoded_bytes,
            })
        };
        self.all.iter().map(one).collect()
    }
}

/// What deltas to the snapshot `now` are made from: what most of the hosts run, and what was released last, since hosts
/// that cannot be asked now most likely run that. `live` are the hosts' words, and count where the chunks are here, as `has` says. Where the last release is of this snapshot
/// too, it is its bases again, since it may be gone on with.
pub(super) fn bases(
    live: impl Iterator<Item = SnapshotId>,
    last: Option<&Record>,
    now: SnapshotId,
    has: impl Fn(&SnapshotId) -> bool,
) -> Vec<SnapshotId> {
    let last_release = last.and_then(|record| record.release.read_unverified().ok());
    if let Some(again) = last_release.filter(|release| release.snapshot.id == now) {
        return again.deltas.iter().map(|delta| delta.base).collect();
    }
    let mut hosts = BTreeMap::<SnapshotId, usize>::new();
    for snapshot in live {
        *hosts.entry(snapshot).or_default() += 1;
    }
    let released = last.and_then(|record| record.snapshots.first());
    if let Some(released) = released {
        hosts.entry(released.id).or_default();
    }
    hosts.remove(&now);
    let mut bases: Vec<_> = hosts.into_iter().filter(|(base, _)| has(base)).collect();
    bases.sort_by_key(|(_, count)| Reverse(*count));
    bases.truncate(DELTAS_MAX);
    bases.into_iter().map(|(base, _)| base).collect()
}
