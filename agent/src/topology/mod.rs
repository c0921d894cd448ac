//! Who dials whom and fetches from whom: pure, and the same on every node.
//!
//! A [`Topology`] is made of the hosts' names and [`Place`]s and of [`Parameters`] alone, so every node that has the plan
//! finds its own edges without asking. Hosts stand in the order of a seeded hash of their names, which does not depend on
//! how the list was ordered.
//!
//! - **Swarm**: the hosts of a site are a ring, in which everybody is linked to everybody up to a degree; beyond it each
//!   host to those at a few distances around the ring, the same distances for all. Such a graph is regular, symmetric
//!   and, as a neighbour is among them, connected; distances drawn at random make it spread like a random one. Along other
//!   edges chunks are pushed without being asked for, the lanes. A few hosts of a site, its gateways, have links to
//!   hosts of other sites.
//! - **Tree**: sites make no difference. The first of all are the roots, which the origin feeds, and each host has
//!   the next as its children.
//!
//! Hosts that stand behind relays are linked to these and to those behind the same ones, and to nobody else; the relays are to
//! them what the origin is to the others.

mod enclaves;
mod lanes;
mod sites;
mod tree;

use std::collections::{BTreeMap, BTreeSet};

use scap_proto::{
    id::NodeId,
    release::{Plan, PlanHost, TopologyKind},
};

use enclaves::Enclaves;
use lanes::Feeder;
use sites::{Sites, Source, Spot};
use tree::Tree;

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

/// How many hosts of a swarm the origin is linked to. Two are at the top of the lanes; the others are in case those fail,
/// and get their share of what is told in a swarm.
pub const ORIGIN_LINKS: usize = 4;

/// Most lanes: a set of them is a `u64`.
pub const LANES_MAX: usize = 64;

/// A set of lanes: bit `l` is lane `l`.
pub type LaneSet = u64;

/// Where and when a host takes part.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Place {
    /// Its bandwidth domain.
    pub site: String,
    /// When it begins, relative to the others.
    pub wave: u32,
    /// The hosts that it stands behind; none where it is in the open.
    pub relays: BTreeSet<NodeId>,
}

/// What a topology depends on besides the hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameters {
    /// The form of the links.
    pub shape: Shape,
    /// Hosts that the origin is linked to, where there are so many beside it; at least 1. More only where it feeds more.
    pub origin_links: usize,
    /// The origin's site; it may be one in which no host is.
    pub origin_site: String,
    /// Decides the order of the ring, and the distances.
    pub seed: u64,
}

impl Parameters {
    /// What the links of a plan depend on besides its hosts.
    pub fn of_plan(plan: &Plan) -> Self {
        let count = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
        let (degree, fanout) = (count(plan.degree), count(plan.fanout));
        let (shape, origin_links) = match plan.topology {
            TopologyKind::Swarm => (Shape::Swarm { degree, lanes: 0 }, ORIGIN_LINKS),
            TopologyKind::Lanes => {
                let lanes = fanout;
                (Shape::Swarm { degree, lanes }, ORIGIN_LINKS)
            }
            TopologyKind::Tree => (Shape::Tree { fanout }, fanout),
        };
        Self {
            shape,
            origin_links,
            origin_site: plan.seed_site().unwrap_or_default().to_owned(),
            seed: plan.random_seed,
        }
    }
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
    /// Of them, those of other sites.
    pub far_from: BTreeSet<NodeId>,
    /// Hosts of other sites that may fetch from it.
    pub far_to: BTreeSet<NodeId>,
    /// Whether the origin dials it and it fetches from the origin.
    pub from_origin: bool,
    /// The hosts that it stands behind, sorted; none where it is in the open.
    pub relays: Vec<NodeId>,
    /// Which chunks it fetches from another site while all is well: it is number `.0` of `.1` hosts that do, and chunk
    /// `i` is for number `i` modulo `.1`. None where `.0` is not below `.1`.
    pub far_share: (u32, u32),
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
    enclaves: Enclaves,
    links: Links,
    /// The positions that the origin is linked to.
    origin_hosts: BTreeSet<usize>,
}

#[derive(Debug, Clone)]
enum Links {
    Swarm {
        sites: Sites,
        /// By site, over which hosts are linked around its ring, each at most half of it.
        distances: Vec<BTreeSet<usize>>,
        lanes: usize,
    },
    Tree(Tree),
}

impl Topology {
    /// The links of `hosts`, in any order, that all begin together in one place; names that occur twice count once.
    pub fn new(hosts: &[NodeId], parameters: &Parameters) -> Self {
        let at_once = hosts.iter().map(|host| (host.clone(), Place::default()));
        Self::over(&at_once.collect(), parameters)
    }

    /// The links of hosts in their places. In a tree no host is below one of a later wave, unless that is its relay.
    ///
    /// # Panics
    /// Where a relay is none of the hosts, or stands behind itself: a plan that was read has no such.
    pub fn over(hosts: &BTreeMap<NodeId, Place>, parameters: &Parameters) -> Self {
        let seed = parameters.seed;
        let enclaves = Enclaves::new(hosts);
        let mut ring: Vec<NodeId> = hosts.keys().cloned().collect();
        let drawn = |host: &NodeId| draw(seed, host.as_str().as_bytes());
        let enclave = |host: &NodeId| enclaves.of(host);
        let order = order_sites(hosts, parameters);
        let site = |host: &NodeId| order[hosts[host].site.as_str()];
        match parameters.shape {
            // Who relays comes last: those have the fewest below them.
            Shape::Swarm { .. } => ring.sort_by_cached_key(|host| {
                let place = (enclave(host), site(host), hosts[host].wave);
                (place, enclaves.is_relay(host), drawn(host))
            }),
            Shape::Tree { .. } => {
                ring.sort_by_cached_key(|host| (enclave(host), hosts[host].wave, drawn(host)));
            }
        }
        let positions = (0..ring.len()).map(|at| (ring[at].clone(), at));
        let positions: BTreeMap<NodeId, usize> = positions.collect();
        let relays = enclaves.relay_positions(&positions);
        let links = match parameters.shape {
            Shape::Swarm { degree, lanes } => {
                let lanes = lanes.min(LANES_MAX);
                let homes = enclaves.homes(hosts, &parameters.origin_site);
                let spots = ring.iter().map(|host| Spot {
                    enclave: enclave(host),
                    site: site(host),
                    wave: hosts[host].wave,
                    has_origin: homes[enclave(host)].contains(hosts[host].site.as_str()),
                });
                let sites = Sites::new(&spots.collect::<Vec<_>>(), relays, lanes);
                let sizes = sites.sites.iter().map(|site| site.hosts.len());
                Links::Swarm {
                    distances: sizes.map(|size| distances(size, degree, seed)).collect(),
                    sites,
                    lanes,
                }
            }
            Shape::Tree { fanout } => {
                let spots = ring.iter().map(|host| (enclave(host), hosts[host].wave));
                let spots: Vec<_> = spots.collect();
                let roots = parameters.origin_links;
                Links::Tree(Tree::new(&spots, &relays, fanout, roots))
            }
        };
        let origin_hosts = links.origin_hosts(parameters.origin_links.max(1));
        Self {
            ring,
            positions,
            enclaves,
            links,
            origin_hosts,
        }
    }

    /// The links that a plan says. The origin is linked to [`ORIGIN_LINKS`] hosts of a swarm, and to the roots of a tree.
    pub fn of_plan(plan: &Plan) -> Self {
        let site = |host: &PlanHost| match plan.seed_site() {
            Some(_) => host.site.clone(),
            None => String::new(),
        };
        let routes = plan.routes();
        let name = |at: &u32| {
            let at = usize::try_from(*at).expect("a place among the hosts");
            plan.hosts[at].name.clone()
        };
        let places = (0u32..).zip(&plan.hosts).map(|(at, host)| {
            let place = Place {
                site: site(host),
                wave: host.wave,
                relays: routes.relays(at).iter().map(name).collect(),
            };
            (host.name.clone(), place)
        });
        Self::over(&places.collect(), &Parameters::of_plan(plan))
    }

    /// How many lanes the chunks are dealt to: chunk `i` is on lane `i` modulo this.
    pub fn lane_count(&self) -> usize {
        match &self.links {
            Links::Swarm { lanes, .. } => *lanes,
            Links::Tree(_) => 0,
        }
    }

    /// The edges of one host; `None` if it is not in the fleet.
    pub fn edges(&self, host: &NodeId) -> Option<Edges> {
        let at = *self.positions.get(host)?;
        let (mut dial, mut accept, fetch) = match &self.links {
            Links::Swarm {
                sites, distances, ..
            } => swarm_edges(sites, distances, at),
            Links::Tree(tree) => tree.edges(at),
        };
        let linked: BTreeSet<usize> = dial.iter().chain(&accept).copied().collect();
        let lanes = self.lane_edges(at);
        let (far_from, far_to, far_share) = match &self.links {
            Links::Swarm { sites, .. } => (sites.far_from(at), sites.far_to(at), sites.share(at)),
            Links::Tree(_) => (&[][..], &[][..], (0, 1)),
        };
        let others = lanes.from.keys().chain(lanes.to.keys());
        let others: BTreeSet<usize> = others.chain(far_from).chain(far_to).copied().collect();
        for other in others.difference(&linked) {
            let side = if at < *other { &mut dial } else { &mut accept };
            side.push(*other);
        }
        // Who pushes is asked, too, for what it does not push in time.
        let fetch = fetch.iter().chain(lanes.from.keys()).chain(far_from);
        let fetch: BTreeSet<usize> = fetch.copied().collect();
        let name = |(at, set): (usize, LaneSet)| (self.ring[at].clone(), set);
        let named = |positions: &[usize]| -> BTreeSet<NodeId> {
            positions
                .iter()
                .map(|&at| &self.ring[at])
                .cloned()
                .collect()
        };
        Some(Edges {
            dial: self.names(dial),
            accept: self.names(accept),
            fetch_from: self.names(fetch),
            far_from: named(far_from),
            far_to: named(far_to),
            from_origin: self.origin_hosts.contains(&at),
            relays: self.enclaves.behind(host).to_vec(),
            far_share,
            lanes_from_origin: lanes.from_origin,
            lanes_from: lanes.from.into_iter().map(name).collect(),
            lanes_to: lanes.to.into_iter().map(name).collect(),
        })
    }

    /// The hosts that the origin pushes to, and on which lanes.
    pub fn origin_lanes(&self) -> BTreeMap<NodeId, LaneSet> {
        let mut found = BTreeMap::new();
        if let Links::Swarm { sites, lanes, .. } = &self.links {
            for group in &sites.groups {
                for lane in (0..*lanes).filter(|&lane| group.sources[lane] == Source::Origin) {
                    let entry = self.ring[group.entry(sites.lanes, lane)].clone();
                    *found.entry(entry).or_default() |= 1 << lane;
                }
            }
        }
        found
    }

    /// The hosts that the origin is linked to, in the order of the ring: in a swarm the entries of what it feeds, and
    /// others of the same site; in a tree the roots.
    pub fn origin_dials(&self) -> impl Iterator<Item = &NodeId> {
        self.origin_hosts.iter().map(|&at| &self.ring[at])
    }

    /// A host's place among all: content tends to come to those of lower ones first.
    pub fn place(&self, host: &NodeId) -> Option<usize> {
        self.positions.get(host).copied()
    }

    fn lane_edges(&self, at: usize) -> LaneEdges {
        let mut edges = LaneEdges::default();
        let Links::Swarm { sites, lanes, .. } = &self.links else {
            return edges;
        };
        let number = sites.group_of(at);
        let group = &sites.groups[number];
        let first = group.hosts.start;
        for lane in 0..*lanes {
            let bit = 1 << lane;
            let trees = group.trees(*lanes);
            match (trees.feeder(lane, at - first), sites.exit_to(number, lane)) {
                (Feeder::Host(parent), _) => {
                    *edges.from.entry(first + parent).or_default() |= bit;
                }
                (Feeder::Root, None) => edges.from_origin |= bit,
                (Feeder::Root, Some(exit)) => *edges.from.entry(exit).or_default() |= bit,
            }
            for child in trees.children(lane, at - first) {
                *edges.to.entry(first + child).or_default() |= bit;
            }
        }
        for fed in group.feeds.iter().filter(|fed| fed.exit == at) {
            if fed.lane < *lanes {
                let entry = sites.groups[fed.group].entry(*lanes, fed.lane);
                *edges.to.entry(entry).or_default() |= 1 << fed.lane;
            }
        }
        edges
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

impl Links {
    /// The positions that the origin is linked to.
    fn origin_hosts(&self, links: usize) -> BTreeSet<usize> {
        let sites = match self {
            Self::Swarm { sites, .. } => sites,
            Self::Tree(tree) => return tree.origin_roots().collect(),
        };
        let mut hosts = BTreeSet::new();
        let is_near = |site: &&sites::Site| site.has_origin && site.enclave == 0;
        let mut near = sites.sites.iter().find(is_near);
        for group in &sites.groups {
            for lane in 0..sites.lanes {
                if group.sources[lane] == Source::Origin {
                    hosts.insert(group.entry(sites.lanes, lane));
                    near = near.or(Some(&sites.sites[group.site]));
                }
            }
        }
        let Some(near) = near.map(|site| site.hosts.clone()) else {
            return hosts;
        };
        // The first positions of as many equal stretches of the ring, the farthest first.
        let spaced = (0..links).rev().map(|part| part * near.len() / links);
        // Where these are not enough, there are few.
        for place in spaced.chain(0..near.len().min(links)) {
            if hosts.len() < links {
                hosts.insert(near.start + place);
            }
        }
        hosts
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

/// The places of the sites in the ring, by name: the origin's first, then in a seeded order.
fn order_sites<'a>(
    hosts: &'a BTreeMap<NodeId, Place>,
    parameters: &'a Parameters,
) -> BTreeMap<&'a str, usize> {
    let names: BTreeSet<&str> = hosts.values().map(|place| place.site.as_str()).collect();
    let origin = parameters.origin_site.as_str();
    let drawn = |site: &&str| draw(parameters.seed, &[b"site ", site.as_bytes()].concat());
    let mut order: Vec<&str> = names.into_iter().collect();
    order.sort_by_cached_key(|site| (*site != origin, drawn(site)));
    let order = order.into_iter().enumerate().map(|(at, site)| (site, at));
    order.collect()
}

/// Each position is linked to those at the given distances around the ring of its site.
fn swarm_edges(sites: &Sites, distances: &[BTreeSet<usize>], at: usize) -> Positions {
    let site = sites.groups[sites.group_of(at)].site;
    let hosts = &sites.sites[site].hosts;
    let (n, place) = (hosts.len(), at - hosts.start);
    let (mut dial, mut accept) = (Vec::new(), Vec::new());
    for &distance in &distances[site] {
        if 2 * distance < n {
            dial.push(hosts.start + (place + distance) % n);
            accept.push(hosts.start + (place + n - distance) % n);
        } else if place < distance {
            dial.push(at + distance); // halfway round, both ways lead to the same host
        } else {
            accept.push(at - distance);
        }
    }
    let fetch = dial.iter().chain(&accept).copied().collect();
    (dial, accept, fetch)
}

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

    /// Hosts in a site and a wave each.
    fn places(places: impl IntoIterator<Item = (usize, u32)>) -> BTreeMap<NodeId, Place> {
        let place = |(number, (site, wave)): (usize, (usize, u32))| {
            let site = format!("site{site}");
            (
                format!("h{number:03}").parse().unwrap(),
                Place {
                    site,
                    wave,
                    ..Place::default()
                },
            )
        };
        places.into_iter().enumerate().map(place).collect()
    }

    fn parameters(shape: Shape, origin_links: usize, seed: u64) -> Parameters {
        Parameters {
            shape,
            origin_links,
            origin_site: String::new(),
            seed,
        }
    }

    fn all(topology: &Topology, hosts: &[NodeId]) -> BTreeMap<NodeId, Edges> {
        hosts
            .iter()
            .map(|host| (host.clone(), topology.edges(host).unwrap()))
            .collect()
    }

    /// Hosts that content reaches from the origin.
    fn fed(topology: &Topology, edges: &BTreeMap<NodeId, Edges>) -> BTreeSet<NodeId> {
        let mut fed: BTreeSet<NodeId> = topology.origin_dials().cloned().collect();
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
        let hosts = places((0..50).map(|n| (0, (n * 7 + 3) % 3)));
        let parameters = Parameters {
            shape: Shape::TREE,
            origin_links: 2,
            origin_site: String::new(),
            seed: 5,
        };
        let topology = Topology::over(&hosts, &parameters);
        for (host, place) in &hosts {
            for parent in topology.edges(host).unwrap().fetch_from {
                assert!(
                    hosts[&parent].wave <= place.wave,
                    "{parent} is above {host}"
                );
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
            let topology = Topology::new(&hosts, &parameters(shape, origin_links, seed));
            let edges = all(&topology, &hosts);
            let origin_dials: BTreeSet<&NodeId> = topology.origin_dials().collect();
            for (host, mine) in &edges {
                for other in &mine.dial {
                    prop_assert!(other != host);
                    prop_assert!(edges[other].accept.contains(host));
                    prop_assert!(!mine.accept.contains(other));
                }
                for other in &mine.accept {
                    prop_assert!(edges[other].dial.contains(host));
                }
                prop_assert_eq!(mine.from_origin, origin_dials.contains(host));
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
            let fed_lanes = match shape {
                Shape::Swarm { lanes, .. } => lanes.max(2),
                Shape::Tree { .. } => 0,
            };
            prop_assert!(origin_dials.len() >= origin_links.min(count));
            prop_assert!(origin_dials.len() <= origin_links.max(fed_lanes));
            prop_assert_eq!(fed(&topology, &edges).len(), count);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        /// Every lane reaches every host once, from hosts that begin no later, and enters each site once.
        #[test]
        fn lanes_enter_every_site_once_and_reach_every_host(
            at in proptest::collection::vec((0usize..5, 0u32..3), 1..60),
            lanes in 1usize..5, origin_site in 0usize..5, seed: u64,
        ) {
            let hosts = places(at);
            let shape = Shape::Swarm { degree: 8, lanes };
            let origin_site = format!("site{origin_site}");
            let parameters = Parameters { origin_site, ..parameters(shape, 4, seed) };
            let topology = Topology::over(&hosts, &parameters);
            let names: Vec<NodeId> = hosts.keys().cloned().collect();
            let edges = all(&topology, &names);
            let sites: BTreeSet<&str> = hosts.values().map(|it| it.site.as_str()).collect();
            for lane in 0..lanes {
                let bit = 1 << lane;
                let from_origin = topology.origin_lanes();
                let from_origin = from_origin.iter().filter(|(_, set)| *set & bit != 0);
                let mut reached: Vec<NodeId> = from_origin.map(|(host, _)| host.clone()).collect();
                let mut entered: Vec<&str> = Vec::new();
                for host in &reached {
                    prop_assert!(edges[host].lanes_from_origin & bit != 0);
                    if parameters.origin_site != hosts[host].site {
                        entered.push(&hosts[host].site);
                    }
                }
                let mut next = 0;
                while let Some(host) = reached.get(next).cloned() {
                    next += 1;
                    for (child, set) in edges[&host].lanes_to.iter().filter(|(_, set)| *set & bit != 0) {
                        prop_assert_eq!(edges[child].lanes_from[&host] & bit, set & bit);
                        prop_assert!(hosts[&host].wave <= hosts[child].wave, "{host} before {child}");
                        reached.push(child.clone());
                        if hosts[&host].site != hosts[child].site {
                            entered.push(&hosts[child].site);
                            prop_assert!(edges[child].far_from.contains(&host));
                            prop_assert!(edges[&host].far_to.contains(child));
                        }
                    }
                }
                reached.sort();
                prop_assert_eq!(&reached, &names);
                let has_home = sites.contains(parameters.origin_site.as_str());
                prop_assert_eq!(entered.len() + usize::from(has_home), sites.len());
            }
        }

        /// Whoever has links to another site is one of a few; of these some fetch each chunk, and the others none.
        #[test]
        fn few_hosts_of_a_site_look_beyond_it(
            at in proptest::collection::vec((0usize..4, 0u32..2), 1..60), seed: u64,
        ) {
            let hosts = places(at);
            let shape = Shape::Swarm { degree: 40, lanes: 2 };
            let origin_site = "site0".to_owned();
            let topology = Topology::over(&hosts, &Parameters { origin_site, ..parameters(shape, 99, seed) });
            for site in ["site1", "site2", "site3"] {
                let of_site = |host: &&NodeId| hosts[*host].site == site;
                let all: Vec<Edges> = hosts.keys().filter(of_site).map(|host| topology.edges(host).unwrap()).collect();
                let gateways = all.iter().filter(|edges| !edges.far_from.is_empty());
                prop_assert!(gateways.count() <= 4);
                let mut numbers: Vec<u32> = all.iter().filter(|it| it.far_share.0 < it.far_share.1).map(|it| it.far_share.0).collect();
                numbers.sort_unstable();
                let count = all.first().map_or(0, |it| it.far_share.1);
                prop_assert_eq!(numbers, (0..count).collect::<Vec<_>>());
                for edges in &all {
                    let looks = edges.far_share.0 < edges.far_share.1;
                    let beyond = !edges.far_from.is_empty() || edges.from_origin;
                    prop_assert!(beyond || !looks);
                }
            }
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
            origin_site: String::new(),
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
            origin_site: String::new(),
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
            origin_site: String::new(),
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
        assert_eq!(none.origin_dials().count(), 0);
        assert!(none.edges(&hosts(1)[0]).is_none());
    }
}
