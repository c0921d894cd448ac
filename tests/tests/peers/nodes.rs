//! Nodes in this process, with stores in memory.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use scap_agent::node::{Node, Tasks};
use scap_agent::store::{Store, StoreConfig};
use scap_coordinator::snapshot::{self, Built, Options, Source};
use scap_proto::identity::Identity;
use scap_proto::transport::RateCaps;
use tempfile::TempDir;

/// Starts a node; one that does not listen dials others.
pub fn start(
    identity: Arc<Identity>,
    listens: bool,
    store: Store,
    caps: RateCaps,
) -> (Node, Tasks) {
    let listen = listens.then_some(SocketAddr::from(([127, 0, 0, 1], 0)));
    Node::start(identity, listen, store, None, caps).unwrap()
}

/// The snapshot of a directory, in a store.
pub fn build(tree: &Path, store: &Store) -> Built {
    snapshot::build(Source::Directory(tree), store, Options::default(), |_| {}).unwrap()
}

/// In memory where the machine has some to spare: these are no tests of disks.
pub fn memory_dir() -> TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

/// No reserve: what the machine that runs the tests has free is its own affair.
pub const CONFIG: StoreConfig = StoreConfig { free_bytes_min: 0 };

/// The longest that a fetch may take.
pub const FETCH_MAX: Duration = Duration::from_secs(30);
