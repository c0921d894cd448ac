//! Who dials whom and fetches from whom: pure, and the same on every node.
//!
//! A [`Topology`] is made of the hosts' names and [`Parameters`] alone, so every node that has the plan
//! finds its own edges without asking. Hosts stand in a ring in the order of a seeded hash of their
//! names, which does not depend on how the list was ordered.
//!
//! - **Swarm**: everybody is linked to everybody up to a degree; beyond it each host to those at a few
//!   distances around the ring, the same distances for all. Such a graph is regular, symmetric and,
//!   as a neighbour is among them, connected; distances drawn at random make it spread like a random one.
//!   Along other edges chunks are pushed without being asked for, the lanes.
//! - **Tree**: the first of the ring are the roots, which the origin feeds, and each host has the next
//!   hosts of the ring as its children.

mod lanes;

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use scap_proto::id::NodeId;

use lanes::{Feeder, Lanes};

/// The form of a fleet's links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Everybody fetches from all neighbours, beside what is pushed along the lanes.
    Swarm {
        /// Most neighbours of a host, the origin and lanes not counted; at least 2.
        degree: usize,
        /// How many lanes there are; up to [`LANES_MAX`], and 0 where nothing is pushed.
        lanes: usize,
    },
    /// Everybody fetches from one parent.
    Tree {
        /// Most children of a host; at least 1.
        fanout: usize,
    },
}

impl Shape {
    /// A swarm whose degree lets chunks spread nearly as fast as with all links, at a cost in messages
    /// and memory that stays flat as the fleet grows.
    pub const SWARM: Self = Self::Swarm {
        degree: 40,
        lanes: 0,
    };
    /// A tree of pairs: with more children than two, the slower each is fed.
    pub const TREE: Self = Self::Tree { fanout: 2 };
}

/// Most lanes: a set of them is a `u64`.
pub const LANES_MAX: usize = 64;

/// A set of lanes: bit `l` is lane `l`.
pub type LaneSet = u64;

/// What a topology depends on besides the hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parameters {
    /// The form of the links.
    pub shape: Shape,
    /// Most hosts that the origin is linked to; at least 1.
    pub origin_links: usize,
    /// Decides the order of the ring, and the distances.
    pub seed: u64,
}

/// One host's part of a topology.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edges {
    /// Hosts it dials, sorted.
    pub dial: Vec<NodeId>,
    /// Hosts that dial it, sorted. Of each pair exactly one side dials.
    pub accept: Vec<NodeId>,
    /// Hosts it may fetch from, sorted.
    pub fetch_from: Vec<NodeId>,
    /// Whether the origin dials it and it fetches from the origin.
    pub from_origin: bool,
    /// Hosts that push to it, and on which lanes.
    pub lanes_from: BTreeMap<NodeId, LaneSet>,
    /// Hosts that it pushes to, and on which lanes.
    pub lanes_to: BTreeMap<NodeId, LaneSet>,
    /// The lanes on which the origin pushes to it.
    pub lanes_from_origin: LaneSet,
}

/// The links of a fleet.
#[derive(Debug, Clone)]
pub struct Topology {
    ring: Vec<NodeId>,
    positions: BTreeMap<NodeId, usize>,
    links: Links,
    origin_links: usize,
    /// The stretches of the ring that begin together.
    waves: Vec<Range<usize>>,
}

#[derive(Debug, Clone)]
enum Links {
    Swarm {
        /// Over which hosts are linked, around the ring, each at most half of it.
        distances: BTreeSet<usize>,
        lanes: usize,
    },
    Tree {
        fanout: usize,
    },
}

impl Topology {
    /// The links of `hosts`, in any order; names that occur twice count once.
    pub fn new(hosts: &[NodeId], parameters: &Parameters) -> Self {
        let at_once = hosts.iter().map(|host| (host.clone(), 0)).collect();
        Self::in_waves(&at_once, parameters)
    }

    /// As [`Self::new`], where each host begins in a wave: in a tree no host is below one of a later wave.
    pub fn in_waves(hosts: &BTreeMap<NodeId, u32>, parameters: &Parameters) -> Self {
        let seed = parameters.seed;
        let mut ring: Vec<NodeId> = hosts.keys().cloned().collect();
        ring.sort_by_cached_key(|host| (hosts[host], draw(seed, host.as_str().as_bytes())));
        let positions = (0..ring.len()).map(|at| (ring[at].clone(), at)).collect();
        let links = match parameters.shape {
            Shape::Swarm { degree, lanes } => Links::Swarm {
                distances: distances(ring.len(), degree, seed),
                lanes: lanes.min(LANES_MAX),
            },
            Shape::Tree { fanout } => Links::Tree {
                fanout: fanout.max(1),
            },
        };
        let mut waves: Vec<Range<usize>> = Vec::new();
        for at in 0..ring.len() {
            match waves.last_mut() {
                Some(wave) if hosts[&ring[wave.start]] == hosts[&ring[at]] => wave.end = at + 1,
                _ => waves.push(at..at + 1),
            }
        }
        Self {
            ring,
            positions,
            links,
            origin_links: parameters.origin_links.max(1),
            waves,
        }
    }

    /// How many lanes the chunks are dealt to: chunk `i` is on lane `i` modulo this.
    pub fn lane_count(&self) -> usize {
        match &self.links {
            Links::Swarm { lanes, .. } => *lanes,
            Links::Tree { .. } => 0,
        }
    }

    /// The edges of one host; `None` if it is not in the fleet.
    pub fn edges(&self, host: &NodeId) -> Option<Edges> {
        let at = *self.positions.get(host)?;
        let mut edges = Edges {
            dial: Vec::new(),
            accept: Vec::new(),
            fetch_from: Vec::new(),
            from_origin: self.is_fed_by_origin(at),
            lanes_from: BTreeMap::new(),
            lanes_to: BTreeMap::new(),
            lanes_from_origin: 0,
        };
        let (mut dial, mut accept, fetch) = match &self.links {
            Links::Swarm { distances, .. } => self.swarm_edges(at, distances),
            Links::Tree { fanout } => self.tree_edges(at, *fanout),
        };
        let linked: BTreeSet<usize> = dial.iter().chain(&accept).copied().collect();
        let lanes = self.lane_edges(at);
        let others = lanes.from.keys().chain(lanes.to.keys()).copied();
        for other in others.collect::<BTreeSet<_>>().difference(&linked) {
            let side = if at < *other { &mut dial } else { &mut accept };
            side.push(*other);
        }
        edges.dial = self.names(dial);
        edges.accept = self.names(accept);
        // Who pushes is asked, too, for what it does not push in time.
        let fetch: BTreeSet<usize> = fetch
            .into_iter()
            .chain(lanes.from.keys().copied())
            .collect();
        edges.fetch_from = self.names(fetch);
        let name = |(at, set): (usize, LaneSet)| (self.ring[at].clone(), set);
        edges.lanes_from = lanes.from.into_iter().map(name).collect();
        edges.lanes_to = lanes.to.into_iter().map(name).collect();
        edges.lanes_from_origin = lanes.from_origin;
        edges.from_origin |= lanes.from_origin != 0;
        Some(edges)
    }

    /// The hosts that the origin pushes to, and on which lanes.
    pub fn origin_lanes(&self) -> BTreeMap<NodeId, LaneSet> {
        let mut found = BTreeMap::new();
        // The roots of lanes are of the first wave.
        let first = self.waves.first().cloned().unwrap_or_default();
        for at in first {
            let lanes = self.lane_edges(at).from_origin;
            if lanes != 0 {
                found.insert(self.ring[at].clone(), lanes);
            }
        }
        found
    }

    /// The hosts that the origin dials, sorted: in a swarm evenly spaced around the ring, and the roots of its lanes; in
    /// a tree the roots.
    pub fn origin_dials(&self) -> Vec<NodeId> {
        let spaced = self.names((0..self.ring.len()).filter(|&at| self.is_fed_by_origin(at)));
        let all: BTreeSet<NodeId> = spaced
            .into_iter()
            .chain(self.origin_lanes().into_keys())
            .collect();
        all.into_iter().collect()
    }

    fn lane_edges(&self, at: usize) -> LaneEdges {
        let mut edges = LaneEdges::default();
        let lanes = self.lane_count();
        if lanes == 0 {
            return edges;
        }
        let here = self.waves.iter().position(|wave| wave.contains(&at));
        let number = here.expect("every position is in a wave");
        let wave = &self.waves[number];
        let trees = Lanes::new(lanes, wave.len());
        let before = number.checked_sub(1).map(|before| &self.waves[before]);
        for lane in 0..lanes {
            let bit = 1 << lane;
            match (trees.feeder(lane, at - wave.start), before) {
                (Feeder::Host(parent), _) => {
                    *edges.from.entry(wave.start + parent).or_default() |= bit;
                }
                (Feeder::Root, None) => edges.from_origin |= bit,
                (Feeder::Root, Some(before)) => {
                    let feeder = before.start + lane % before.len();
                    *edges.from.entry(feeder).or_default() |= bit;
                }
            }
            for child in trees.children(lane, at - wave.start) {
                *edges.to.entry(wave.start + child).or_default() |= bit;
            }
            if let Some(next) = self.waves.get(number + 1)
                && wave.start + lane % wave.len() == at
            {
                let root = Lanes::new(lanes, next.len()).root(lane);
                *edges.to.entry(next.start + root).or_default() |= bit;
            }
        }
        edges
    }

    fn swarm_edges(&self, at: usize, distances: &BTreeSet<usize>) -> Positions {
        let n = self.ring.len();
        let (mut dial, mut accept) = (Vec::new(), Vec::new());
        for &distance in distances {
            if 2 * distance < n {
                dial.push((at + distance) % n);
                accept.push((at + n - distance) % n);
            } else if at < distance {
                dial.push(at + distance); // halfway round, both ways lead to the same host
            } else {
                accept.push(at - distance);
            }
        }
        let fetch = dial.iter().chain(&accept).copied().collect();
        (dial, accept, fetch)
    }

    fn tree_edges(&self, at: usize, fanout: usize) -> Positions {
        let roots = self.origin_links;
        let first = roots + at * fanout;
        let last = (first + fanout).min(self.ring.len());
        let parent: Vec<usize> = at
            .checked_sub(roots)
            .map(|below| below / fanout)
            .into_iter()
            .collect();
        ((first..last).collect(), parent.clone(), parent)
    }

    fn is_fed_by_origin(&self, at: usize) -> bool {
        let (n, links) = (self.ring.len(), self.origin_links);
        match &self.links {
            Links::Tree { .. } => at < links,
            // The first position of each of `links` equal stretches of the ring.
            Links::Swarm { .. } => {
                links >= n || at == 0 || (at * links) / n != ((at - 1) * links) / n
            }
        }
    }

    fn names(&self, positions: impl IntoIterator<Item = usize>) -> Vec<NodeId> {
        let mut names: Vec<NodeId> = positions
            .into_iter()
            .map(|at| self.ring[at].clone())
            .collect();
        names.sort();
        names
    }
}

/// One position's part of the lanes.
#[derive(Default)]
struct LaneEdges {
    from: BTreeMap<usize, LaneSet>,
    to: BTreeMap<usize, LaneSet>,
    from_origin: LaneSet,
}

/// Positions to dial, to accept from, to fetch from.
type Positions = (Vec<usize>, Vec<usize>, Vec<usize>);

/// Each distance links a host to two others, one of exactly half the ring to one. All of them link
/// everybody to everybody.
fn distances(n: usize, degree: usize, seed: u64) -> BTreeSet<usize> {
    let half = n / 2;
    if n <= degree + 1 {
        return (1..=half).collect();
    }
    let mut distances = BTreeSet::from([1]);
    let usable = (n - 1) / 2; // none of exactly half, to keep to the degree
    let wanted = (degree / 2).clamp(1, usable);
    for attempt in 0u64.. {
        if distances.len() == wanted {
            break;
        }
        let drawn = draw(seed, &attempt.to_le_bytes());
        let number = u64::from_le_bytes(drawn[..8].try_into().expect("8 of 32 bytes"));
        distances.insert(1 + usize::try_from(number % usable as u64).expect("below usable"));
    }
    distances
}

/// A hash rather than a random generator: its outcome is the same in every version of every program.
fn draw(seed: u64, what: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"scap topology 1\0");
    hasher.update(&seed.to_le_bytes());
    hasher.update(what);
    *hasher.finalize().as_bytes()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hosts(count: usize) -> Vec<NodeId> {
        (0..count)
            .map(|i| format!("web{i}").parse().unwrap())
            .collect()
    }

    fn all(topology: &Topology, hosts: &[NodeId]) -> BTreeMap<NodeId, Edges> {
        hosts
            .iter()
            .map(|host| (host.clone(), topology.edges(host).unwrap()))
            .collect()
    }

    /// Hosts that content reaches from the origin.
    fn fed(topology: &Topology, edges: &BTreeMap<NodeId, Edges>) -> BTreeSet<NodeId> {
        let mut fed: BTreeSet<NodeId> = topology.origin_dials().into_iter().collect();
        let mut queue: Vec<NodeId> = fed.iter().cloned().collect();
        while let Some(from) = queue.pop() {
            let reached = edges[&from].dial.iter().chain(&edges[&from].accept);
            for to in reached.filter(|to| edges[to].fetch_from.contains(&from)) {
                if fed.insert(to.clone()) {
                    queue.push(to.clone());
                }
            }
        }
        fed
    }

    fn shape() -> impl Strategy<Value = Shape> {
        prop_oneof![
            (2usize..50, 0usize..9).prop_map(|(degree, lanes)| Shape::Swarm { degree, lanes }),
            (1usize..9).prop_map(|fanout| Shape::Tree { fanout }),
        ]
    }

    #[test]
    fn in_a_tree_no_host_is_below_one_of_a_later_wave() {
        let hosts: BTreeMap<NodeId, u32> = (0..50)
            .map(|n| (format!("h{n}").parse().unwrap(), (n * 7 + 3) % 3))
            .collect();
        let parameters = Parameters {
            shape: Shape::TREE,
            origin_links: 2,
            seed: 5,
        };
        let topology = Topology::in_waves(&hosts, &parameters);
        for (host, wave) in &hosts {
            for parent in topology.edges(host).unwrap().fetch_from {
                assert!(hosts[&parent] <= *wave, "{parent} is above {host}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn every_host_is_fed_and_of_each_pair_one_side_dials(
            count in 1usize..130, shape in shape(), origin_links in 1usize..9, seed: u64,
        ) {
            let hosts = hosts(count);
            let topology = Topology::new(&hosts, &Parameters { shape, origin_links, seed });
            let edges = all(&topology, &hosts);
            for (host, mine) in &edges {
                for other in &mine.dial {
                    prop_assert!(other != host);
                    prop_assert!(edges[other].accept.contains(host));
                    prop_assert!(!mine.accept.contains(other));
                }
                for other in &mine.accept {
                    prop_assert!(edges[other].dial.contains(host));
                }
                prop_assert_eq!(mine.from_origin, topology.origin_dials().contains(host));
                let links = mine.dial.len() + mine.accept.len();
                match shape {
                    Shape::Swarm { degree, lanes } => {
                        prop_assert!(links <= degree + 3 * lanes);
                        prop_assert!(mine.fetch_from.len() <= links);
                    }
                    Shape::Tree { fanout } => {
                        prop_assert!(mine.dial.len() <= fanout);
                        let sources = mine.fetch_from.len() + usize::from(mine.from_origin);
                        prop_assert_eq!(sources, 1);
                    }
                }
            }
            prop_assert!(topology.origin_dials().len() >= origin_links.min(count));
            prop_assert_eq!(fed(&topology, &edges).len(), count);
        }
    }

    #[test]
    fn the_order_of_the_list_does_not_matter_and_the_seed_does() {
        let parameters = |seed| Parameters {
            shape: Shape::Swarm {
                degree: 8,
                lanes: 2,
            },
            origin_links: 4,
            seed,
        };
        let sorted = hosts(50);
        let mut other = sorted.clone();
        other.reverse();
        other.push(sorted[7].clone());
        let edges = all(&Topology::new(&sorted, &parameters(1)), &sorted);
        assert_eq!(all(&Topology::new(&other, &parameters(1)), &sorted), edges);
        assert_ne!(all(&Topology::new(&sorted, &parameters(2)), &sorted), edges);
    }

    #[test]
    fn edges_are_the_same_in_every_version() {
        let hosts = hosts(100);
        let parameters = Parameters {
            shape: Shape::Swarm {
                degree: 6,
                lanes: 0,
            },
            origin_links: 2,
            seed: 7,
        };
        let edges = Topology::new(&hosts, &parameters).edges(&hosts[0]).unwrap();
        let names = |nodes: &[NodeId]| nodes.iter().map(NodeId::to_string).collect::<Vec<_>>();
        assert_eq!(names(&edges.dial), ["web22", "web72", "web99"]);
    }

    #[test]
    fn a_small_fleet_is_a_full_mesh_and_a_stranger_has_no_edges() {
        let parameters = Parameters {
            shape: Shape::SWARM,
            origin_links: 4,
            seed: 0,
        };
        for count in [1, 2, 3, 16, 41] {
            let hosts = hosts(count);
            let topology = Topology::new(&hosts, &parameters);
            for host in &hosts {
                assert_eq!(topology.edges(host).unwrap().fetch_from.len(), count - 1);
            }
        }
        let none = Topology::new(&[], &parameters);
        assert!(none.origin_dials().is_empty());
        assert!(none.edges(&hosts(1)[0]).is_none());
    }
}
