//! What a host gets of another one while somebody does that other one harm: nodes in this process, over UDP on loopback.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use scap_agent::clock;
use scap_agent::node::{Job, Node, NodeEvent, Readers, Sources, Tasks};
use scap_agent::store::Store;
use scap_coordinator::snapshot::Built;
use scap_coordinator::state::StateDirectory;
use scap_proto::id::{NodeId, ReleaseId};
use scap_proto::identity::Identity;
use scap_proto::release::{Plan, PlanHost, Priority, TopologyKind};
use scap_proto::transport::{Rate, RateCaps};
use scap_tests::repo::write_incompressible;
use tempfile::TempDir;

use crate::nodes::{CONFIG, build, memory_dir, start};

/// A host that has everything, on a link of [`RATE_MBIT`].
pub struct Served {
    pub server: Node,
    state: StateDirectory,
    built: Built,
    dir: TempDir,
    _tasks: Tasks,
}

/// A host that fetches.
pub struct Fetching {
    pub host: Node,
    tasks: Tasks,
    began: Instant,
}

impl Served {
    pub fn start() -> Self {
        let dir = memory_dir();
        let state = dir.path().join("state");
        StateDirectory::init(&state, &"loopback".parse().unwrap(), clock::now()).unwrap();
        let state = StateDirectory::open(&state).unwrap();
        let (store, _) = Store::open(dir.path().join("server"), CONFIG).unwrap();
        let tree = dir.path().join("tree");
        write_incompressible(&tree.join("payload"), PAYLOAD_BYTES, 7);
        let built = build(&tree, &store);
        let identity = enrol(&state, dir.path(), SERVER);
        let caps = RateCaps {
            upload: Rate::from_mbit(RATE_MBIT),
            ..RateCaps::default()
        };
        let (server, tasks) = start(identity.into(), true, store, caps);
        Self {
            server,
            state,
            built,
            dir,
            _tasks: tasks,
        }
    }

    pub fn name() -> NodeId {
        SERVER.parse().unwrap()
    }

    pub fn release() -> ReleaseId {
        ReleaseId::of(b"release")
    }

    pub fn enrol(&self, name: &str) -> Identity {
        enrol(&self.state, self.dir.path(), name)
    }

    /// Serves the release, to all of whom these tests speak.
    pub async fn serve(&self) {
        let job = self.job(self.server.address(), Sources::Only(Vec::new()));
        self.server.attach(job).await;
    }

    /// A new host begins to fetch it all from the server, where that is reached at `address`.
    pub async fn fetch(&self, name: &str, address: SocketAddr) -> Fetching {
        let identity = self.enrol(name);
        let (store, _) = Store::open(self.dir.path().join(name).join("store"), CONFIG).unwrap();
        let (host, tasks) = start(identity.into(), false, store, RateCaps::default());
        let began = Instant::now();
        let job = self.job(address, Sources::Only(vec![Self::name()]));
        host.attach(job).await;
        Fetching { host, tasks, began }
    }

    /// How many bytes a second a new host gets, in millions.
    pub async fn goodput(&self, name: &str) -> f64 {
        let mut fetching = self.fetch(name, self.server.address()).await;
        fetching.finish().await
    }

    fn job(&self, address: SocketAddr, sources: Sources) -> Job {
        let host = |name: &str| PlanHost {
            name: name.parse().unwrap(),
            addresses: vec![address],
            site: String::new(),
            rack: String::new(),
            wave: 0,
        };
        let mut hosts: Vec<_> = HOSTS.into_iter().map(host).collect();
        hosts.sort_by(|a, b| a.name.cmp(&b.name));
        let plan = Plan {
            seed: "coordinator".parse().unwrap(),
            hosts,
            topology: TopologyKind::Swarm,
            degree: 8,
            fanout: 2,
            random_seed: 1,
            extensions: Default::default(),
        };
        Job {
            release: Self::release(),
            snapshot: self.built.snapshot,
            readers: Readers::default(),
            plan: Arc::new(plan),
            sources,
            list_end: 0,
            deltas: Vec::new(),
            config: None,
            priority: Priority::Normal,
        }
    }
}

impl Fetching {
    /// Waits until it has it all; returns how many bytes a second it got, in millions.
    pub async fn finish(&mut self) -> f64 {
        let event = tokio::time::timeout(GOODPUT_MAX, self.tasks.next()).await;
        let release = Served::release();
        assert_eq!(event, Ok(Some(NodeEvent::Fetched { release })));
        PAYLOAD_BYTES as f64 / self.began.elapsed().as_secs_f64() / 1e6
    }

    /// Waits until it has that share of it.
    pub async fn has(&self, share: f64) {
        let has = async {
            loop {
                let status = self.host.status(Served::release()).await.unwrap();
                let total = status.chunks_total.unwrap_or(u32::MAX);
                if f64::from(status.chunks_held) >= share * f64::from(total) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(GOODPUT_MAX, has).await.unwrap();
    }
}

fn enrol(state: &StateDirectory, dir: &Path, name: &str) -> Identity {
    let identity = dir.join(name).join("identity");
    let name = name.parse().unwrap();
    state.enroll(&name, &identity, &[], clock::now()).unwrap()
}

/// What the process holds of the machine's memory now, in bytes.
pub fn rss_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = status.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

const SERVER: &str = "server";

/// All that a test may speak of.
const HOSTS: [&str; 8] = [
    SERVER, "alone1", "alone2", "beside1", "beside2", "evil", "evil1", "evil2",
];

const PAYLOAD_BYTES: usize = 24_000_000;

/// So low that the link and not the machine, which others use too, says how long it takes: 2.4 seconds.
const RATE_MBIT: u32 = 80;

/// The longest that a fetch may take.
const GOODPUT_MAX: Duration = Duration::from_secs(60);

/// What others get at least, of what they get otherwise.
pub const GOODPUT_SHARE_MIN: f64 = 0.8;
