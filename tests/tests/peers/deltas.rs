//! Nodes in this process, some of which have a snapshot from which the next can be made.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use scap_agent::clock;
use scap_agent::node::{Job, Node, NodeEvent, Readers, Sources, Tasks};
use scap_agent::store::Store;
use scap_coordinator::snapshot::{Built, Delta, build_delta};
use scap_coordinator::state::StateDirectory;
use scap_proto::content::delta::{Part, Run};
use scap_proto::content::{ChunkRef, EncodedChunk};
use scap_proto::id::{ChunkId, NodeId, ReleaseId};
use scap_proto::release::{BytesBySource, DeltaRef, Plan, PlanHost, Priority, TopologyKind};
use scap_proto::transport::RateCaps;
use scap_tests::repo::write_source_tree;
use tempfile::TempDir;

use crate::nodes::{CONFIG, FETCH_MAX, build, memory_dir, start};

#[tokio::test(flavor = "multi_thread")]
async fn a_host_with_the_base_fetches_the_delta_and_makes_the_rest() {
    let world = World::new();
    let delta = world.delta();
    let deltas = [delta.reference.clone()];
    let run = world.run(&deltas, &[Has::Base]).await;
    let fetched: u64 = deltas[0]
        .chunks
        .iter()
        .map(|it| u64::from(it.plain_length))
        .sum();
    let bytes = run.bytes(0);
    assert_eq!((bytes.seed, bytes.peers), (fetched, 0));
    assert_eq!(bytes.reuse, world.plain_bytes());
    assert_eq!(run.seed_sent_bytes(), delta.encoded_bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_no_base_fetches_from_those_who_made_it() {
    let world = World::new();
    let delta = world.delta();
    let deltas = [delta.reference.clone()];
    // The third asks nobody but one of the others.
    let run = world
        .run(&deltas, &[Has::Base, Has::Base, Has::Nothing])
        .await;
    let bytes = run.bytes(2);
    assert_eq!((bytes.seed, bytes.reuse), (0, 0));
    assert_eq!(bytes.peers, world.plain_bytes());
    assert_eq!(run.seed_sent_bytes(), 2 * delta.encoded_bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delta_is_passed_on_by_those_who_use_it() {
    let world = World::new();
    let delta = world.delta();
    let deltas = [delta.reference.clone()];
    let run = world.run(&deltas, &[Has::Base, Has::Base, Has::Base]).await;
    let fetched: u64 = deltas[0]
        .chunks
        .iter()
        .map(|it| u64::from(it.plain_length))
        .sum();
    assert_eq!((run.bytes(2).seed, run.bytes(2).peers), (0, fetched));
    assert_eq!(run.seed_sent_bytes(), 2 * delta.encoded_bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_whose_peers_have_no_use_for_its_delta_fetches_chunks_from_them() {
    let world = World::new();
    let (delta, older) = (world.delta(), world.delta_from_older());
    let deltas = [delta.reference, older.reference];
    let run = world
        .run(&deltas, &[Has::Base, Has::Base, Has::Older])
        .await;
    let bytes = run.bytes(2);
    assert!(bytes.seed == 0 && bytes.peers > 100_000, "{bytes:?}");
    assert!(bytes.reuse > bytes.peers, "{bytes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_delta_that_lies_chunks_are_fetched() {
    let world = World::new();
    let true_delta = world.delta().reference;
    let base = world.base.layout.refs()[0].id;
    // It says to make a chunk of the snapshot, and makes another; and it is made from other bytes than it names.
    let mut lie = Run::default();
    lie.push(world.new.layout.refs()[0].id, b"no descriptor");
    let mut other = Run::default();
    other.push(base, &[7; 1000]);
    let mut made = Run::default();
    made.push(ChunkId::of(&[7; 999]), &[7; 999]);
    let junk = b"no part at all".to_vec();
    for part in [
        Part::encode(&Run::default(), &lie),
        Part::encode(&other, &made),
        junk,
    ] {
        let part = EncodedChunk::from_plain(&part);
        world.seed_store.put(&part).unwrap();
        let chunks = vec![ChunkRef {
            id: part.id(),
            plain_length: part.plain_length(),
        }];
        let deltas = [DeltaRef {
            base: true_delta.base,
            chunks,
        }];
        let run = world.run(&deltas, &[Has::Base]).await;
        let bytes = run.bytes(0);
        assert!(
            bytes.seed > 100_000 && bytes.reuse > bytes.seed,
            "{bytes:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_or_lost_base_chunk_makes_chunks_be_fetched() {
    let world = World::new();
    let deltas = [world.delta().reference];
    let kept: Vec<ChunkId> = world.new.layout.refs().iter().map(|it| it.id).collect();
    let gone = world.base.layout.refs().iter().map(|it| it.id);
    // The descriptor tells whether there is a base at all.
    let gone: Vec<_> = gone.filter(|id| !kept.contains(id)).skip(1).collect();
    assert!(gone.len() >= 3, "{gone:?}");
    for (number, id) in gone.into_iter().enumerate() {
        let harm = if number % 2 == 0 {
            Has::Damaged(id)
        } else {
            Has::Lost(id)
        };
        let run = world.run(&deltas, &[harm]).await;
        let bytes = run.bytes(0);
        assert!(
            bytes.seed > 100_000 && bytes.reuse > bytes.seed,
            "{bytes:?}"
        );
    }
}

/// What a host has at the start.
#[derive(Debug, Clone, Copy)]
enum Has {
    Nothing,
    Base,
    Older,
    /// The base, with a chunk that the disk changed.
    Damaged(ChunkId),
    /// The base, with a chunk that the disk has not any more.
    Lost(ChunkId),
}

/// Three snapshots of a directory that differ in a line, in a seed's store.
struct World {
    dir: TempDir,
    state: StateDirectory,
    seed_store: Store,
    older: Built,
    base: Built,
    new: Built,
}

/// A release that is on all hosts.
struct Finished {
    seed: Node,
    hosts: Vec<(Node, BytesBySource)>,
    _tasks: Vec<Tasks>,
    _dir: TempDir,
}

impl Finished {
    fn bytes(&self, host: usize) -> BytesBySource {
        self.hosts[host].1
    }

    fn seed_sent_bytes(&self) -> u64 {
        self.seed.sent_bytes()
    }
}

impl World {
    fn new() -> Self {
        let dir = memory_dir();
        let state = dir.path().join("state");
        StateDirectory::init(&state, &"loopback".parse().unwrap(), clock::now()).unwrap();
        let state = StateDirectory::open(&state).unwrap();
        let (seed_store, _) = Store::open(dir.path().join("seed"), CONFIG).unwrap();
        let [older, base, new] = ["older", "base", "new"].map(|line| {
            let tree = tree(dir.path(), line);
            write_source_tree(&tree, 1500, 7);
            std::fs::write(tree.join("line"), format!("this is {line}\n")).unwrap();
            build(&tree, &seed_store)
        });
        Self {
            dir,
            state,
            seed_store,
            older,
            base,
            new,
        }
    }

    fn delta(&self) -> Delta {
        build_delta(self.base.snapshot.id, &self.new.layout, &self.seed_store).unwrap()
    }

    fn delta_from_older(&self) -> Delta {
        build_delta(self.older.snapshot.id, &self.new.layout, &self.seed_store).unwrap()
    }

    /// Of all its chunks.
    fn plain_bytes(&self) -> u64 {
        let lengths = self
            .new
            .layout
            .refs()
            .iter()
            .map(|it| u64::from(it.plain_length));
        lengths.sum()
    }

    /// Spreads the new snapshot in a tree: the first two hosts ask the seed, the others them.
    async fn run(&self, deltas: &[DeltaRef], hosts: &[Has]) -> Finished {
        let dir = memory_dir();
        let mut plan = Plan {
            seed: "coordinator".parse().unwrap(),
            hosts: Vec::new(),
            topology: TopologyKind::Tree,
            degree: 8,
            fanout: 2,
            random_seed: 1,
            extensions: Default::default(),
        };
        let mut nodes = Vec::new();
        for (number, has) in hosts.iter().enumerate() {
            let name = format!("host{number}");
            let store = self.store(&dir.path().join(&name), *has);
            let identity = self.state.enroll(
                &name.parse().unwrap(),
                &dir.path().join(format!("{name}.identity")),
                &[],
                clock::now(),
            );
            let (node, tasks) = start(identity.unwrap().into(), true, store, RateCaps::default());
            plan.hosts.push(PlanHost {
                name: NodeId::try_from(name).unwrap(),
                addresses: vec![node.address()],
                site: String::new(),
                rack: String::new(),
                wave: 0,
            });
            nodes.push((node, tasks));
        }
        let job = Job {
            release: ReleaseId::of(b"a release"),
            readers: Readers::default(),
            snapshot: self.new.snapshot,
            plan: Arc::new(plan),
            sources: Sources::Plan,
            list_end: 0,
            deltas: deltas.to_vec(),
            config: None,
            priority: Priority::Normal,
        };
        let (seed, tasks) = start(
            self.state.identity().unwrap(),
            false,
            self.seed_store.clone(),
            RateCaps::default(),
        );
        let mut all_tasks = vec![tasks];
        for (node, _) in &nodes {
            node.attach(job.clone()).await;
        }
        let list_end = self.new.layout.list_pages().end;
        seed.attach(Job {
            list_end,
            ..job.clone()
        })
        .await;
        let mut finished = Vec::new();
        for (number, (node, mut tasks)) in nodes.into_iter().enumerate() {
            let event = tokio::time::timeout(FETCH_MAX, tasks.next()).await;
            let fetched = NodeEvent::Fetched {
                release: job.release,
            };
            let status = node.status(job.release).await;
            assert_eq!(event, Ok(Some(fetched)), "host{number}: {status:?}");
            self.assert_is_whole(node.store());
            finished.push((node, status.unwrap().bytes));
            all_tasks.push(tasks);
        }
        Finished {
            seed,
            hosts: finished,
            _tasks: all_tasks,
            _dir: dir,
        }
    }

    fn store(&self, dir: &Path, has: Has) -> Store {
        let (store, _) = Store::open(dir, CONFIG).unwrap();
        let line = match has {
            Has::Nothing => return store,
            Has::Older => "older",
            Has::Base | Has::Damaged(_) | Has::Lost(_) => "base",
        };
        build(&tree(self.dir.path(), line), &store);
        let file = |id: ChunkId| {
            let hex = id.to_string();
            let (start, rest) = hex.split_at(2);
            dir.join("chunks").join(start).join(rest)
        };
        match has {
            Has::Damaged(id) => {
                let mut bytes = std::fs::read(file(id)).unwrap();
                *bytes.last_mut().unwrap() ^= 1;
                std::fs::write(file(id), bytes).unwrap();
            }
            Has::Lost(id) => std::fs::remove_file(file(id)).unwrap(),
            Has::Nothing | Has::Base | Has::Older => {}
        }
        store
    }

    #[track_caller]
    fn assert_is_whole(&self, store: &Store) {
        for chunk in self.new.layout.refs() {
            let plain = store.plain(&chunk.id).unwrap().found();
            assert!(plain.is_some(), "{chunk:?}");
        }
    }
}

fn tree(dir: &Path, line: &str) -> PathBuf {
    dir.join("trees").join(line)
}
