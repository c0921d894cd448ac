//! Two releases on one link.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use scap_agent::clock;
use scap_agent::node::{Job, NodeEvent, Readers, Sources};
use scap_agent::store::Store;
use scap_coordinator::snapshot::Built;
use scap_coordinator::state::StateDirectory;
use scap_proto::id::ReleaseId;
use scap_proto::release::{Plan, PlanHost, Priority, TopologyKind};
use scap_proto::transport::{Rate, RateCaps};
use scap_tests::repo::write_incompressible;

use crate::nodes::{CONFIG, FETCH_MAX, build, memory_dir, start};

#[tokio::test(flavor = "multi_thread")]
async fn what_is_urgent_comes_before_what_is_on_its_way_however_content_spreads() {
    for topology in [TopologyKind::Swarm, TopologyKind::Lanes, TopologyKind::Tree] {
        let of_bulk = bulk_beside(topology, Priority::Urgent).await;
        assert!(of_bulk < SMALL_BYTES / 2, "{topology:?}: {of_bulk} bytes");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn releases_of_one_priority_share_a_link() {
    let of_bulk = bulk_beside(TopologyKind::Swarm, Priority::Bulk).await;
    assert!(of_bulk > SMALL_BYTES / 2, "{of_bulk} bytes");
}

/// While a host fetches a large release of low priority, it is told to fetch a small one. How many bytes of the large one come
/// until it has the small one.
async fn bulk_beside(topology: TopologyKind, priority: Priority) -> u64 {
    let dir = memory_dir();
    let state = dir.path().join("state");
    StateDirectory::init(&state, &"loopback".parse().unwrap(), clock::now()).unwrap();
    let state = StateDirectory::open(&state).unwrap();
    let (seed_store, _) = Store::open(dir.path().join("seed"), CONFIG).unwrap();
    let bulk = payload(&dir.path().join("bulk"), BULK_BYTES, &seed_store);
    let small = payload(&dir.path().join("small"), SMALL_BYTES, &seed_store);

    let name = "host".parse().unwrap();
    let identity = dir.path().join("identity");
    let identity = state.enroll(&name, &identity, &[], clock::now()).unwrap();
    let (store, _) = Store::open(dir.path().join("store"), CONFIG).unwrap();
    let (host, mut tasks) = start(identity.into(), true, store, RateCaps::default());
    let caps = RateCaps {
        upload: Rate::from_mbit(RATE_MBIT),
        ..RateCaps::default()
    };
    let (seed, _seed_tasks) = start(state.identity().unwrap(), false, seed_store, caps);
    let plan = Arc::new(Plan {
        seed: "coordinator".parse().unwrap(),
        hosts: vec![PlanHost {
            name,
            addresses: vec![host.address()],
            site: String::new(),
            rack: String::new(),
            wave: 0,
        }],
        topology,
        degree: 8,
        fanout: 2,
        random_seed: 1,
        extensions: Default::default(),
    });
    let job = |name: &str, built: &Built, priority| Job {
        release: ReleaseId::of(name.as_bytes()),
        readers: Readers::default(),
        snapshot: built.snapshot,
        plan: plan.clone(),
        sources: Sources::Plan,
        list_end: built.layout.list_pages().end,
        deltas: Vec::new(),
        config: None,
        priority,
    };
    let bulk = job("bulk", &bulk, Priority::Bulk);
    let small = job("small", &small, priority);
    let received = async || host.status(bulk.release).await.unwrap().bytes.seed;

    for node in [&host, &seed] {
        node.attach(bulk.clone()).await;
    }
    let begun = async {
        while received().await < BEGUN_BYTES {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(FETCH_MAX, begun).await.unwrap();
    for node in [&host, &seed] {
        node.attach(small.clone()).await;
    }
    let before = received().await;
    let event = tokio::time::timeout(FETCH_MAX, tasks.next()).await;
    let release = small.release;
    assert_eq!(event, Ok(Some(NodeEvent::Fetched { release })));
    received().await - before
}

fn payload(tree: &Path, bytes: u64, store: &Store) -> Built {
    let length = usize::try_from(bytes).unwrap();
    write_incompressible(&tree.join("payload"), length, bytes);
    build(tree, store)
}

/// So much that it cannot be through before the small one, which takes two seconds beside nothing.
const BULK_BYTES: u64 = 4 * SMALL_BYTES;
const SMALL_BYTES: u64 = 8_000_000;
const RATE_MBIT: u32 = 32;

/// The lists are here by then, and chunks come.
const BEGUN_BYTES: u64 = 2_000_000;
