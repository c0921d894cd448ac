//! Which chunks are worth keeping.

use std::collections::BTreeSet;

use scap_proto::content::{Descriptor, Layout, SnapshotRef};

use crate::store::{
    Store, StoreError,
    gc::{Collected, Collection},
};

/// Removes from the store what is in none of the snapshots `keep`, which were found out after `collection` began. Of a
/// snapshot whose own pages are not all here, what they name is not known, and not kept: it is fetched again if it
/// is needed. Blocking.
///
/// # Errors
/// [`StoreError`]; what was not removed is removed the next time.
pub fn collect(
    collection: Collection,
    store: &Store,
    keep: &BTreeSet<SnapshotRef>,
) -> Result<Collected, StoreError> {
    for snapshot in keep {
        for chunk in known_chunks(store, *snapshot)?.refs() {
            collection.keep(&chunk.id);
        }
    }
    collection.sweep()
}

fn known_chunks(store: &Store, snapshot: SnapshotRef) -> Result<Layout, StoreError> {
    let mut layout = Layout::new(snapshot);
    let Some(bytes) = store.plain(&snapshot.descriptor_chunk().id)?.found() else {
        return Ok(layout);
    };
    // Of what is no descriptor or list nothing is kept but itself.
    let Ok(descriptor) = Descriptor::decode(&bytes) else {
        return Ok(layout);
    };
    layout.add_descriptor(&descriptor);
    let mut pages = Vec::new();
    for page in &descriptor.chunk_list {
        match store.plain(&page.id)?.found() {
            Some(bytes) => pages.push(bytes),
            None => return Ok(layout),
        }
    }
    let _ = layout.add_chunk_list(pages.iter().map(|page| &**page));
    Ok(layout)
}
