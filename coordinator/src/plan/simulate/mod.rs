//! A fleet on a virtual clock: the real engines, on links with rates and delays.
//!
//! Every node runs the [`Swarm`](scap_agent::swarm::Swarm) of a real one over the edges of the real
//! [`Topology`]; only the network, the store and the driver between them are made up. One seed makes
//! one run, to the last event.
//!
//! # What is modelled
//! - A chunk travels in quanta. An uplink sends one quantum at a time, its links taking turns, and on each one upload goes after the
//!   other; a downlink takes quanta in the order they arrive. An upload pauses while what it has on the way
//!   fills its window, so a slow receiver holds up neither the uplink nor its neighbours.
//! - What crosses from one site to another passes the border of each, first in, first out, and nothing is lost there.
//! - A node serves a few requests at a time, first come first served, at most half of them to one peer.
//! - Messages (announcements, requests) take the delay of the path and no bandwidth; they are counted.
//! - A host to which nothing comes is fed by the origin, or by a relay that it stands behind, if few enough are: that is heard of
//!   within a second.
//! - Hosts crash without a word, and their peers notice after [`Setup::detection`]; they start again
//!   with the chunks they had.
//!
//! Hashing, disks, loss and headers are not: what is reported is time on ideal links.

mod network;
mod node;
mod orders;
mod report;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use scap_agent::{
    swarm::Link,
    topology::{LaneSet, ORIGIN_LINKS, Parameters, Place, Shape, Topology},
};
use scap_proto::id::NodeId;

use crate::fleet::leases::Leases;
use network::{Event, Network};
use node::Node;
pub use orders::{Orders, Roster, orders};
pub use report::{Dropped, Outcome, WaveOutcome};

/// A node of the simulation: 0 is the origin, the hosts follow.
pub type NodeIndex = usize;

/// How often it is looked who gets nothing; reports come four times as often.
const SURVEY: Duration = Duration::from_secs(1);

/// The node that starts out complete.
pub const ORIGIN: NodeIndex = 0;

/// One node and its link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Host {
    /// What its link sends; at least 1.
    pub up_bytes_per_sec: u64,
    /// What its link receives; at least 1.
    pub down_bytes_per_sec: u64,
    /// Time from the host to the middle of its site's network, one way.
    pub delay: Duration,
    /// Its site, by its place in [`Setup::borders`]; 0 where there is only one.
    pub site: usize,
    /// Its wave: it starts when the hosts of all lower ones are complete. The origin starts with the first.
    pub wave: u32,
    /// How it behaves.
    pub conduct: Conduct,
}

impl Host {
    /// An honest host with a link of so many Mbit/s each way, in the same building as the others.
    pub fn with_mbit_per_sec(rate: u64) -> Self {
        Self {
            up_bytes_per_sec: rate * 125_000,
            down_bytes_per_sec: rate * 125_000,
            delay: Duration::from_micros(250),
            site: 0,
            wave: 0,
            conduct: Conduct::Honest,
        }
    }
}

/// What joins a site to the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Border {
    /// What it carries each way; at least 1.
    pub bytes_per_sec: u64,
    /// Time from the middle of the site to the middle of all, one way.
    pub delay: Duration,
}

/// How a node treats requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conduct {
    /// It answers them.
    Honest,
    /// It sends other bytes.
    Flips,
    /// It takes them and sends nothing.
    Silent,
}

/// A fleet and what it is to get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setup {
    /// Seeds the engines and the topology.
    pub seed: u64,
    /// The node that starts out complete.
    pub origin: Host,
    /// All others.
    pub hosts: Vec<Host>,
    /// By host, those that it stands behind, which alone reach it; a host that is not here is in the open.
    pub relays: BTreeMap<NodeIndex, Vec<NodeIndex>>,
    /// The sites' borders; none where there is only one site.
    pub borders: Vec<Border>,
    /// The form of the links.
    pub shape: Shape,
    /// Most hosts of a site the origin is linked to.
    pub origin_links: usize,
    /// A host knows of so many chunks at first, of so many when it holds these, and so on: the
    /// descriptor, the lists, everything. Ascending, not empty.
    pub stages: Vec<u32>,
    /// Bytes in a chunk; at least 1.
    pub chunk_bytes: u32,
    /// Bytes in the first one, where it stands for the descriptor and the lists; at least 1.
    pub first_chunk_bytes: u32,
    /// By how many per cent of its time, at most, an uplink takes longer than it should, drawn anew for each host and
    /// second.
    pub unsteady_percent: u32,
    /// Bytes sent at a time; at least 1. Smaller is truer and slower.
    pub quantum_bytes: u32,
    /// Requests a node serves at a time; at least 1.
    pub uploads: usize,
    /// How long a link's end takes to notice that the other is gone.
    pub detection: Duration,
}

impl Setup {
    /// `hosts` hosts and an origin, all with links of so many Mbit/s each way, in a swarm.
    pub fn equal(seed: u64, hosts: usize, mbit_per_sec: u64, chunk_count: u32) -> Self {
        let host = Host::with_mbit_per_sec(mbit_per_sec);
        Self {
            seed,
            origin: host,
            hosts: vec![host; hosts],
            relays: BTreeMap::new(),
            borders: Vec::new(),
            shape: Shape::SWARM,
            origin_links: ORIGIN_LINKS,
            stages: vec![1, 3.min(chunk_count), chunk_count],
            chunk_bytes: 128 * 1024,
            first_chunk_bytes: 128 * 1024,
            unsteady_percent: 0,
            quantum_bytes: 16 * 1024,
            uploads: 8,
            detection: Duration::from_secs(5),
        }
    }

    /// The same with the hosts in equal parts in so many sites, the origin in the first, joined by borders of so
    /// many Mbit/s and a round trip of so much between any two.
    pub fn sites(mut self, count: usize, border_mbit_per_sec: u64, round_trip: Duration) -> Self {
        let border = Border {
            bytes_per_sec: border_mbit_per_sec * 125_000,
            delay: round_trip / 4,
        };
        self.borders = vec![border; count];
        let hosts = self.hosts.len();
        for (at, host) in self.hosts.iter_mut().enumerate() {
            host.site = at * count / hosts;
        }
        self
    }

    /// Between two nodes, one way.
    fn path_delay(&self, one: NodeIndex, other: NodeIndex) -> Duration {
        let host = |node: NodeIndex| match node {
            ORIGIN => &self.origin,
            _ => &self.hosts[node - 1],
        };
        let (one, other) = (host(one), host(other));
        let border = |site: usize| self.borders.get(site).map_or(Duration::ZERO, |it| it.delay);
        let between = match one.site == other.site {
            true => Duration::ZERO,
            false => border(one.site) + border(other.site),
        };
        one.delay + other.delay + between
    }

    fn chunk_count(&self) -> u32 {
        *self.stages.last().expect("stages are not empty")
    }

    fn chunk_bytes(&self, index: u32) -> u32 {
        match index {
            0 => self.first_chunk_bytes,
            _ => self.chunk_bytes,
        }
    }
}

/// A simulation under way.
pub struct Simulation {
    setup: Setup,
    network: Network,
    nodes: Vec<Node>,
    edges: Vec<NodeEdges>,
    lanes: u32,
    /// Hosts that run and are not complete.
    unfinished: usize,
    /// By wave, hosts that wait for those of lower ones.
    later: BTreeMap<u32, Vec<NodeIndex>>,
    /// By chunk, whether a host ever stored it; and how many are.
    out: (Vec<bool>, u32),
    dropped: Vec<Dropped>,
    messages: u64,
    leases: Leases<NodeIndex>,
    is_surveyed: bool,
}

impl Simulation {
    /// A fleet in which nothing runs yet.
    pub fn new(setup: Setup) -> Self {
        let nodes = std::iter::once(&setup.origin)
            .chain(&setup.hosts)
            .map(|host| Node::new(*host, &setup))
            .collect();
        let (edges, lanes) = edges(&setup);
        Self {
            edges,
            lanes,
            network: Network::new(&setup),
            nodes,
            unfinished: 0,
            later: BTreeMap::new(),
            out: (vec![false; setup.chunk_count() as usize], 0),
            dropped: Vec::new(),
            messages: 0,
            leases: Leases::default(),
            is_surveyed: false,
            setup,
        }
    }

    /// Starts the origin and the hosts of the first wave; those of each other start by themselves, when all that run
    /// are complete.
    pub fn start_all(&mut self) {
        self.start(ORIGIN);
        for (host, node) in self.setup.hosts.iter().zip(ORIGIN + 1..) {
            self.later.entry(host.wave).or_default().push(node);
        }
        self.start_waves();
    }

    /// Starts the next wave, if none is under way.
    fn start_waves(&mut self) {
        while self.unfinished == 0
            && let Some((_, nodes)) = self.later.pop_first()
        {
            for node in nodes {
                self.start(node);
            }
        }
    }

    /// Runs until every running host is complete, or until the clock shows `limit`, and reports.
    pub fn run(&mut self, limit: Duration) -> Outcome {
        self.run_until(limit, Self::is_done);
        self.outcome()
    }

    /// Runs until `condition` holds, nothing is left to happen, or the clock shows `limit`. Whether the
    /// condition holds.
    pub fn run_until(&mut self, limit: Duration, condition: impl Fn(&Self) -> bool) -> bool {
        while !condition(self) {
            if self.now() >= limit || !self.step() {
                return condition(self);
            }
        }
        true
    }

    /// Runs until the clock shows `time`.
    pub fn run_to(&mut self, time: Duration) {
        self.network.schedule(time.max(self.now()), Event::Alarm);
        self.run_until(time, |_| false);
    }

    /// Has the origin feed those to whom nothing comes, as a coordinator does that hears of it.
    fn survey(&mut self) {
        let now = self.network.now();
        for index in ORIGIN + 1..self.nodes.len() {
            let node = &self.nodes[index];
            if !node.running || node.is_complete() {
                self.leases.end(&index);
            } else if node.engine.is_starving(node::TRANSFER, now) {
                self.leases.ask(self.edges[index].place, &index);
            } else {
                self.leases.withdraw(&index);
            }
        }
        while let Some(index) = self.leases.grant(now) {
            self.lease(index);
        }
        if self.unfinished > 0 {
            self.network.schedule(now + SURVEY, Event::Survey);
        } else {
            self.is_surveyed = false;
        }
    }

    /// Whether every running host is complete, and no wave is left to start.
    pub fn is_done(&self) -> bool {
        self.unfinished == 0 && self.later.is_empty()
    }

    /// Chunks that a host has stored, be it only for a time.
    pub fn chunks_out(&self) -> u32 {
        self.out.1
    }

    /// The virtual clock.
    pub fn now(&self) -> Duration {
        self.network.now()
    }

    /// Whether a node runs.
    pub fn is_running(&self, node: NodeIndex) -> bool {
        self.nodes[node].running
    }

    /// The chunks that a node has stored, as `(index, content)`; what the content should be says
    /// [`content`].
    pub fn stored(&self, node: NodeIndex) -> impl Iterator<Item = (u32, u64)> + '_ {
        (0u32..)
            .zip(&self.nodes[node].store)
            .filter_map(|(index, kept)| Some((index, kept.content(index)?)))
    }

    /// The share of all chunks that the running hosts hold, from 0 to 1.
    pub fn share_held(&self) -> f64 {
        let running = self.nodes[1..].iter().filter(|node| node.running);
        let (hosts, held) = running.fold((0, 0), |(hosts, held), node| {
            (hosts + 1, held + u64::from(node.stored))
        });
        held as f64 / (hosts * u64::from(self.setup.chunk_count())).max(1) as f64
    }

    /// What each running host that is not complete waits for, in words: for a failed test.
    pub fn waiting(&self) -> Vec<String> {
        let unfinished = |node: &&(NodeIndex, &Node)| node.1.running && !node.1.is_complete();
        let nodes: Vec<_> = self.nodes.iter().enumerate().skip(1).collect();
        let lines = nodes.iter().filter(unfinished).map(|(index, node)| {
            let waiting = node.engine.waiting(node::TRANSFER);
            format!("host {index}: {} chunks stored, {waiting:?}", node.stored)
        });
        lines.collect()
    }

    fn step(&mut self) -> bool {
        let Some(event) = self.network.next_event() else {
            return false;
        };
        match event {
            Event::Alarm => {}
            Event::Wake(node) => self.wake(node),
            Event::Message(message) => self.deliver(*message),
            Event::Sent(node) => self.network.sent(node),
            Event::Crosses { flow, bytes } => self.network.crosses(flow, bytes),
            Event::Arrived { flow, bytes } => {
                if let Some((flow, bytes)) = self.network.arrived(flow, bytes) {
                    self.taken(flow, bytes);
                }
            }
            Event::Taken { flow, bytes } => self.taken(flow, bytes),
            Event::Connected(one, other) => self.connected(one, other),
            Event::Lost { node, peer, link } => self.lost(node, peer, link),
            Event::Survey => self.survey(),
        }
        self.start_waves();
        true
    }
}

/// What chunk `index` contains, told in a number.
pub fn content(index: u32) -> u64 {
    (u64::from(index) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// One node's part of the plan.
#[derive(Default)]
struct NodeEdges {
    /// Among all hosts.
    place: usize,
    /// What each peer is to it.
    linked: BTreeMap<NodeIndex, Link>,
    /// Whom of them it fetches from.
    fetches: BTreeSet<NodeIndex>,
    far_share: (u32, u32),
    /// Who pushes to it, and whom it pushes to, on which lanes.
    lanes_from: BTreeMap<NodeIndex, LaneSet>,
    lanes_to: BTreeMap<NodeIndex, LaneSet>,
}

/// By node, and how many lanes there are.
fn edges(setup: &Setup) -> (Vec<NodeEdges>, u32) {
    let name = |index: usize| format!("host{index:06}").parse::<NodeId>();
    let names: Vec<NodeId> = (1..=setup.hosts.len())
        .map(|index| name(index).expect("letters and digits"))
        .collect();
    let site = |host: &Host| format!("{:04}", host.site);
    let places = (ORIGIN + 1..).zip(&setup.hosts).map(|(at, host)| {
        let (site, wave) = (site(host), host.wave);
        let name = |at: NodeIndex| names[at - 1].clone();
        let relays = setup.relays.get(&at).into_iter().flatten();
        let relays = relays.map(|&relay| name(relay)).collect();
        (name(at), Place { site, wave, relays })
    });
    let parameters = Parameters {
        shape: setup.shape,
        origin_links: setup.origin_links,
        origin_site: site(&setup.origin),
        seed: setup.seed,
    };
    let topology = Topology::over(&places.collect(), &parameters);
    let number = |host: &NodeId| names.binary_search(host).expect("of the fleet") + 1;
    let numbers = |hosts: &[NodeId]| -> BTreeSet<NodeIndex> { hosts.iter().map(number).collect() };
    let lanes = |lanes: BTreeMap<NodeId, LaneSet>| -> BTreeMap<NodeIndex, LaneSet> {
        let numbered = lanes
            .into_iter()
            .map(|(host, lanes)| (number(&host), lanes));
        numbered.collect()
    };
    let is_tree = matches!(setup.shape, Shape::Tree { .. });
    // The origin asks nobody for chunks, and hears what its peers hold.
    let first: BTreeSet<NodeIndex> = topology.origin_dials().map(number).collect();
    let mut all = vec![NodeEdges {
        place: 0,
        linked: first.iter().map(|&host| (host, Link::Neighbour)).collect(),
        fetches: first,
        far_share: (0, 1),
        lanes_from: BTreeMap::new(),
        lanes_to: lanes(topology.origin_lanes()),
    }];
    for host in &names {
        let ours = topology.edges(host).expect("of the fleet");
        let fetches = numbers(&ours.fetch_from);
        let link = |peer: &NodeId| {
            if ours.far_from.contains(peer) || ours.far_to.contains(peer) {
                Link::Far
            } else if is_tree && fetches.contains(&number(peer)) {
                Link::Upstream
            } else {
                Link::Neighbour
            }
        };
        let linked = ours.dial.iter().chain(&ours.accept);
        let mut edges = NodeEdges {
            place: topology.place(host).expect("of the fleet"),
            linked: linked.map(|peer| (number(peer), link(peer))).collect(),
            fetches,
            far_share: ours.far_share,
            lanes_from: lanes(ours.lanes_from),
            lanes_to: lanes(ours.lanes_to),
        };
        if ours.from_origin {
            edges.linked.insert(ORIGIN, Link::Upstream);
            edges.fetches.insert(ORIGIN);
        }
        if ours.lanes_from_origin != 0 {
            edges.lanes_from.insert(ORIGIN, ours.lanes_from_origin);
        }
        all.push(edges);
    }
    let lanes = u32::try_from(topology.lane_count()).expect("at most LANES_MAX");
    (all, lanes)
}
