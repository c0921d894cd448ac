//! Deltas on a node: which of a release's are fetched and served, and what is made of one before any chunk of the release
//! itself is asked for.
//!
//! A delta is a transfer of its own beside the release's, with the same plan and neighbours. Until it is used or given up the
//! engine knows no chunk of the release, so nothing of that is asked for. What was made is then found held, and told to
//! peers like anything else; what is missing is fetched.

use std::{sync::PoisonError, time::Duration};

use bytes::Bytes;
use scap_proto::{
    content::{ChunkRef, DeltaError, delta::Part},
    id::ChunkId,
    limits::DELTA_PARTS_MAX,
    release::DeltaRef,
};

use super::{Shared, driver::Driver, event::Job};
use crate::{
    store::{Store, StoreError},
    swarm::{TransferId, Waiting},
};

/// How often it is looked whether peers still have the delta that a release waits for.
pub(super) const LOOK_PERIOD: Duration = Duration::from_millis(100);

/// How long peers may offer the release's own chunks and none the delta. Who fetched the delta tells of it before it tells of
/// what it made; this is for news from several peers that arrive in another order, and for a part that is on its way to
/// the first of them: a part of a large change takes as long on a link of 10 Mbit/s.
const PASSED_OVER_MAX: Duration = Duration::from_millis(800);

/// How long a delta of which something is on its way is waited for after its last part, or the beginning. Of the largest parts
/// one takes 17 s at 500 kbit/s; a peer that sends nothing is found out before.
const COMING_MAX: Duration = Duration::from_secs(30);

/// The delta that a release waits for.
#[derive(Debug)]
pub(super) struct Awaited {
    pub(super) transfer: TransferId,
    /// Since when peers offer the release's own chunks and none the delta, on the engine's clock.
    passed_over_since: Option<Duration>,
}

impl Awaited {
    pub(super) fn new(transfer: TransferId) -> Self {
        Self {
            transfer,
            passed_over_since: None,
        }
    }
}

/// What a delta came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Made {
    chunks: u32,
    plain_bytes: u64,
}

/// Why a delta is of no use. What it had made by then is kept.
#[derive(Debug, thiserror::Error)]
pub(super) enum MakeError {
    #[error("chunk {0} of the base is missing or damaged")]
    Base(ChunkId),
    #[error("part {0} of the delta is missing or damaged")]
    Part(ChunkId),
    #[error("the delta is not as its maker meant it")]
    Delta(#[from] DeltaError),
    #[error("read or write the store")]
    Store(#[from] StoreError),
}

/// Of a job's deltas, those to attach: what is here already, to serve it, and the first whose base is here, where the
/// snapshot is not. With each goes whether it is that one.
pub(super) fn choose<'a>(job: &'a Job, store: &Store) -> Vec<(&'a DeltaRef, bool)> {
    let is_begun = store.contains(&job.snapshot.descriptor_chunk().id);
    let helps = |delta: &DeltaRef| !is_begun && store.contains(&delta.base.descriptor_chunk());
    // A build that knew of no parts may have accepted one of any number.
    let has_parts = |delta: &&DeltaRef| (1..=DELTA_PARTS_MAX).contains(&delta.chunks.len());
    let deltas: Vec<&DeltaRef> = job.deltas.iter().filter(has_parts).collect();
    let helpful = deltas.iter().position(|delta| helps(delta));
    let is_here = |delta: &DeltaRef| delta.chunks.iter().all(|part| store.contains(&part.id));
    let all = deltas.into_iter().enumerate();
    all.map(|(number, delta)| (delta, helpful == Some(number)))
        .filter(|(delta, is_helpful)| *is_helpful || is_here(delta))
        .collect()
}

impl Driver {
    /// All parts of a delta are here: makes of them what the release that waits for it lacks. Where none does, it is served.
    pub(super) fn delta_came(&mut self, delta: TransferId) {
        let (Some(active), Some(_)) = (self.transfers.get(&delta), self.who_awaits(delta)) else {
            return;
        };
        let (parts, shared) = (active.transfer.chunks(), self.shared.clone());
        self.makes.spawn(async move {
            let make = move || make(&shared, &parts);
            let made = tokio::task::spawn_blocking(make).await;
            (delta, made.expect("decoding a delta does not panic"))
        });
    }

    /// What is still missing is fetched from now on, which is nothing where the delta was as it should be.
    pub(super) fn delta_made(&mut self, delta: TransferId, made: Result<Made, MakeError>) {
        let Some(id) = self.who_awaits(delta) else {
            return;
        };
        let release = self.transfers[&id].transfer.release.short();
        match made {
            Ok(Made {
                chunks,
                plain_bytes,
            }) => {
                tracing::info!(release, chunks, plain_bytes, "made from a delta");
            }
            Err(error) => {
                let error = crate::error_chain(&error);
                tracing::warn!(release, error, "a delta is of no use: chunks are fetched");
            }
        }
        self.fetch_itself(id);
    }

    pub(super) fn awaits_deltas(&self) -> bool {
        self.transfers.values().any(|it| it.awaits.is_some())
    }

    /// Gives up deltas that nobody has while the chunks themselves are to be had: all whom we may ask have another base,
    /// or know of no deltas; or those who had it are gone, or silent.
    pub(super) fn look_at_deltas(&mut self) {
        let now = self.now();
        let mut given_up = Vec::new();
        for (id, active) in &mut self.transfers {
            let Some(awaited) = &mut active.awaits else {
                continue;
            };
            let waiting = self.swarm.waiting(awaited.transfer);
            let has_nobody = matches!(waiting, Some(Waiting::NobodyHas { .. } | Waiting::NoPeers));
            let is_coming = matches!(waiting, Some(Waiting::InFlight { oldest, .. }) if now < oldest + COMING_MAX);
            let is_starving = !is_coming && self.swarm.is_starving(awaited.transfer, now);
            if !(self.swarm.is_offered(*id) && (has_nobody || is_starving)) {
                awaited.passed_over_since = None;
                continue;
            }
            let since = *awaited.passed_over_since.get_or_insert(now);
            if is_starving || since + PASSED_OVER_MAX <= now {
                given_up.push((*id, awaited.transfer));
            }
        }
        for (id, delta) in given_up {
            let release = self.transfers[&id].transfer.release.short();
            tracing::info!(release, "no peer has the delta: chunks are fetched");
            self.drop_delta(delta);
        }
    }

    /// A delta is given up, or a stored part of it turned out to be damaged: who wants it gets it elsewhere.
    pub(super) fn drop_delta(&mut self, delta: TransferId) {
        let awaiting = self.who_awaits(delta);
        let bytes = self.transfers.get(&delta).map(|active| active.bytes);
        self.remove(delta);
        if let Some(id) = awaiting {
            // They came for it, to no use.
            if let (Some(active), Some(bytes)) = (self.transfers.get_mut(&id), bytes) {
                active.bytes.seed += bytes.seed;
                active.bytes.peers += bytes.peers;
            }
            self.fetch_itself(id);
        }
    }

    fn who_awaits(&self, delta: TransferId) -> Option<TransferId> {
        let awaits = |it: &Option<Awaited>| it.as_ref().is_some_and(|it| it.transfer == delta);
        let mut all = self.transfers.iter();
        all.find(|(_, active)| awaits(&active.awaits))
            .map(|(id, _)| *id)
    }

    fn fetch_itself(&mut self, id: TransferId) {
        if let Some(active) = self.transfers.get_mut(&id) {
            active.awaits = None;
            let growth = active.transfer.first_growth();
            self.learn(id, growth);
        }
    }
}

/// Decodes all parts of a delta into the store. Blocking; one at a time on a node, since each takes up to 14 MiB.
fn make(shared: &Shared, parts: &[ChunkRef]) -> Result<Made, MakeError> {
    // It guards nothing that a panic could leave half done.
    let _turn = shared.making.lock().unwrap_or_else(PoisonError::into_inner);
    let store = &shared.store;
    let mut made = Made::default();
    for part in parts {
        let bytes = stored(store, &part.id)?.ok_or(MakeError::Part(part.id))?;
        let part = Part::decode(&bytes)?;
        let base = part.collect_base(|id| stored(store, id)?.ok_or(MakeError::Base(*id)))?;
        for chunk in part.make(&base)? {
            let chunk = chunk?;
            store.put(&chunk)?;
            made.chunks += 1;
            made.plain_bytes += u64::from(chunk.plain_length());
        }
    }
    Ok(made)
}

fn stored(store: &Store, id: &ChunkId) -> Result<Option<Bytes>, StoreError> {
    Ok(store.plain(id)?.found())
}
