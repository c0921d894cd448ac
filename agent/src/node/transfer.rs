//! One snapshot on its way here or from here: what is known of its chunks.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use scap_proto::{
    content::{
        ChunkRef, Descriptor, Layout, SnapshotRef, descriptor::DescriptorError, layout::LayoutError,
    },
    id::{NodeId, ReleaseId},
    reason::Reason,
    release::{Plan, Priority},
};

use super::{
    Readers,
    event::{Job, Sources},
};
use crate::{
    store::{Lookup, Store, StoreError, gc::Hold},
    swarm::TransferId,
};

/// A transfer as all tasks of a node share it.
#[derive(Debug)]
pub(crate) struct Transfer {
    pub(crate) id: TransferId,
    /// What peers open: the release's id, or that of something beside it.
    pub(crate) release: ReleaseId,
    pub(crate) readers: Readers,
    pub(crate) plan: Arc<Plan>,
    /// As its job said.
    pub(crate) sources: Sources,
    pub(crate) priority: Priority,
    snapshot: SnapshotRef,
    layout: Mutex<Layout>,
    /// Of all chunks that are known.
    plain_bytes: AtomicU64,
    /// Keeps what was counted as held, and what comes, from being collected as long as the release is attached.
    hold: Hold,
}

/// What a transfer learnt of its chunks.
#[derive(Debug)]
pub(crate) struct Growth {
    /// The plain lengths of the chunks that are newly known.
    pub(crate) plain_lengths: Vec<u32>,
    /// Those of them that the store has already.
    pub(crate) held: Vec<u32>,
    /// The plain bytes of those.
    pub(crate) held_bytes: u64,
    /// Whether that is all there are.
    pub(crate) is_complete: bool,
}

/// Why a snapshot's own pages cannot be used. They are what the release names, so its maker is to blame.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GrowError {
    #[error("read a chunk of the snapshot from the store")]
    Store(#[from] StoreError),
    /// It was counted as held, and has to be fetched again.
    #[error("a page of the snapshot is damaged in the store")]
    Lost,
    #[error(transparent)]
    Descriptor(#[from] DescriptorError),
    #[error(transparent)]
    Layout(#[from] LayoutError),
    #[error(
        "the disk of the data directory is too full: {needed} bytes are to be fetched, there is space for {available}"
    )]
    NoSpace { needed: u64, available: u64 },
}

impl GrowError {
    pub(super) fn code(&self) -> Reason {
        match self {
            Self::Store(error) => error.code(),
            Self::Lost => Reason::MissingChunk,
            Self::Descriptor(_) | Self::Layout(_) => Reason::BadContent,
            Self::NoSpace { .. } => Reason::DiskFull,
        }
    }
}

impl Transfer {
    /// The transfer of a snapshot, or of a delta to it, whose chunks are `known` at the start.
    pub(crate) fn new(
        id: TransferId,
        (release, snapshot): (ReleaseId, SnapshotRef),
        job: &Job,
        known: Layout,
        hold: Hold,
    ) -> Self {
        Self {
            id,
            release,
            readers: job.readers.clone(),
            plan: job.plan.clone(),
            sources: job.sources.clone(),
            priority: job.priority,
            snapshot,
            plain_bytes: AtomicU64::new(plain_bytes(&known)),
            layout: Mutex::new(known),
            hold,
        }
    }

    /// Whether the plan names that node.
    pub(crate) fn names(&self, node: &NodeId) -> bool {
        *node == self.plan.seed || self.plan.host(node).is_some()
    }

    /// Whether it is only kept, to be fetched by who asks what is stable.
    pub(super) fn is_kept(&self) -> bool {
        matches!(self.sources, Sources::Only(_))
    }

    pub(crate) fn chunk(&self, index: u32) -> Option<ChunkRef> {
        self.layout().get(index)
    }

    /// The chunks that are known by now.
    pub(crate) fn chunks(&self) -> Vec<ChunkRef> {
        self.layout().refs().to_vec()
    }

    pub(crate) fn snapshot(&self) -> SnapshotRef {
        self.snapshot
    }

    /// The plain bytes of the chunks that are known by now.
    pub(crate) fn plain_bytes(&self) -> u64 {
        self.plain_bytes.load(Ordering::Relaxed)
    }

    /// How many chunks there are, once that is known.
    pub(crate) fn total(&self) -> Option<u32> {
        self.layout().total()
    }

    /// Whether `index` is the descriptor or on the chunk list: what growth depends on.
    pub(crate) fn leads_to_growth(&self, index: u32) -> bool {
        let layout = self.layout();
        !layout.is_complete() && index < layout.list_pages().end
    }

    /// The chunks known at the start.
    pub(crate) fn first_growth(&self) -> Growth {
        growth(&self.layout(), 0, &self.hold)
    }

    /// Learns what the pages in the store say. Blocking. Returns `None` where nothing new is to be learnt
    /// yet.
    ///
    /// # Errors
    /// [`GrowError`].
    pub(crate) fn grow(&self, store: &Store) -> Result<Option<Growth>, GrowError> {
        let mut layout = self.layout().clone();
        let (before, was_complete) = (layout.known(), layout.is_complete());
        if layout.total().is_none() {
            let Some(bytes) = plain(store, &layout, 0)? else {
                return Ok(None);
            };
            layout.add_descriptor(&Descriptor::decode(&bytes)?);
        }
        if !layout.is_complete() {
            let mut pages = Vec::new();
            for index in layout.list_pages() {
                match plain(store, &layout, index)? {
                    Some(bytes) => pages.push(bytes),
                    None => break,
                }
            }
            if pages.len() == layout.list_pages().len() {
                layout.add_chunk_list(pages.iter().map(|page| &**page))?;
            }
        }
        if layout.known() == before && layout.is_complete() == was_complete {
            return Ok(None);
        }
        let mut growth = growth(&layout, before, &self.hold);
        check_held(&mut growth, &layout, store)?;
        if growth.is_complete {
            check_space(&growth, store)?;
        }
        self.plain_bytes
            .store(plain_bytes(&layout), Ordering::Relaxed);
        *self.layout() = layout;
        Ok(Some(growth))
    }

    fn layout(&self) -> MutexGuard<'_, Layout> {
        // A layout is replaced whole, so a panic elsewhere leaves none half-made.
        self.layout.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn plain_bytes(layout: &Layout) -> u64 {
    let chunks = layout.refs().iter();
    chunks.map(|chunk| u64::from(chunk.plain_length)).sum()
}

fn plain(store: &Store, layout: &Layout, index: u32) -> Result<Option<Bytes>, GrowError> {
    let Some(chunk) = layout.get(index) else {
        return Ok(None);
    };
    match store.plain(&chunk.id)? {
        Lookup::Found(bytes) => Ok(Some(bytes)),
        Lookup::Absent => Ok(None),
        Lookup::Lost => Err(GrowError::Lost),
    }
}

/// Reads what counts as held, where the store has given back a damaged chunk: a disk with one has more, and found one
/// at a time each would begin the release anew.
fn check_held(growth: &mut Growth, layout: &Layout, store: &Store) -> Result<(), StoreError> {
    if store.usage()?.damaged_chunks == 0 {
        return Ok(());
    }
    let mut whole = Vec::with_capacity(growth.held.len());
    growth.held_bytes = 0;
    for index in &growth.held {
        let chunk = layout.refs()[*index as usize];
        if store.get(&chunk.id)?.found().is_some() {
            whole.push(*index);
            growth.held_bytes += u64::from(chunk.plain_length);
        }
    }
    growth.held = whole;
    Ok(())
}

/// Refuses what cannot fit, before it is begun. Plain bytes bound what the store will take.
fn check_space(growth: &Growth, store: &Store) -> Result<(), GrowError> {
    let all: u64 = growth
        .plain_lengths
        .iter()
        .map(|length| u64::from(*length))
        .sum();
    let needed = all - growth.held_bytes;
    let available = store.usage()?.free_bytes;
    if needed > available {
        return Err(GrowError::NoSpace { needed, available });
    }
    Ok(())
}

fn growth(layout: &Layout, from: u32, hold: &Hold) -> Growth {
    let new = &layout.refs()[from as usize..];
    let mut held = Vec::new();
    let mut held_bytes = 0;
    for (index, chunk) in (from..).zip(new) {
        if hold.contains(&chunk.id) {
            held.push(index);
            held_bytes += u64::from(chunk.plain_length);
        }
    }
    Growth {
        plain_lengths: new.iter().map(|chunk| chunk.plain_length).collect(),
        held,
        held_bytes,
        is_complete: layout.is_complete(),
    }
}
