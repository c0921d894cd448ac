//! One node's part of a plan: whom it dials, opens and asks.

use std::collections::{BTreeMap, BTreeSet};

use scap_proto::{
    id::NodeId,
    release::{Plan, PlanHost, TopologyKind},
};

use crate::{
    swarm::{Ask, Link, Policy, Reveal},
    topology::{Distance, LaneSet, Parameters, Place, Shape, Topology},
};

/// What a node derives from a plan for itself.
#[derive(Debug, Clone)]
pub(crate) struct Edges {
    /// Hosts that it dials.
    pub(crate) dial: Vec<NodeId>,
    /// Nodes that it asks for chunks.
    sources: BTreeSet<NodeId>,
    /// Nodes that it asks whatever the topology.
    upstream: BTreeSet<NodeId>,
    /// Who pushes to it, and on which lanes.
    lanes_from: BTreeMap<NodeId, LaneSet>,
    /// To whom it pushes.
    lanes_to: BTreeMap<NodeId, LaneSet>,
    /// Nodes of other sites.
    far: BTreeSet<NodeId>,
    /// How it shares.
    pub(crate) policy: Policy,
}

impl Edges {
    /// The edges of `us`. A node that the plan does not name has none. `list_end` is [`super::Job::list_end`].
    pub(crate) fn of(plan: &Plan, us: &NodeId, list_end: u32) -> Self {
        let is_tree = plan.topology == TopologyKind::Tree;
        let count = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
        let (degree, fanout) = (count(plan.degree), count(plan.fanout));
        let shape = match plan.topology {
            TopologyKind::Swarm => Shape::Swarm { degree, lanes: 0 },
            TopologyKind::Tree => Shape::Tree { fanout },
            TopologyKind::Lanes => Shape::Swarm {
                degree,
                lanes: fanout,
            },
        };
        // The coordinator dials every host of a swarm, and feeds only the roots of a tree.
        let origin_links = if is_tree {
            count(plan.fanout)
        } else {
            plan.hosts.len()
        };
        let seed_site = plan.seed_site();
        let place = |host: &PlanHost| Place {
            site: seed_site.map_or_else(String::new, |_| host.site.clone()),
            wave: host.wave,
        };
        let hosts = plan.hosts.iter();
        let hosts = hosts.map(|host| (host.name.clone(), place(host)));
        let parameters = Parameters {
            shape,
            origin_links,
            origin_site: seed_site.unwrap_or_default().to_owned(),
            seed: plan.random_seed,
        };
        let topology = Topology::over(&hosts.collect(), &parameters);
        let is_origin = *us == plan.seed;
        let reveal = if is_origin && !is_tree {
            Reveal::OneEach { eager: list_end }
        } else {
            Reveal::All
        };
        let ask = if is_tree {
            Ask::Upstream
        } else {
            Ask::Everyone
        };
        let lanes = u32::try_from(topology.lane_count()).expect("at most LANES_MAX");
        let mut edges = Self {
            dial: Vec::new(),
            sources: BTreeSet::new(),
            upstream: BTreeSet::new(),
            lanes_from: BTreeMap::new(),
            lanes_to: BTreeMap::new(),
            far: BTreeSet::new(),
            policy: Policy {
                reveal,
                ask,
                lanes,
                far_share: (0, 1),
            },
        };
        if is_origin {
            // It has everything; what others have tells it what is rare.
            for (host, distance) in topology.origin_dials() {
                if distance == Distance::Far {
                    edges.far.insert(host.clone());
                }
                edges.sources.insert(host);
            }
            edges.lanes_to = topology.origin_lanes();
        } else if let Some(ours) = topology.edges(us) {
            edges.policy.far_share = ours.far_share;
            edges.far = ours.far_from.union(&ours.far_to).cloned().collect();
            edges.dial = ours.dial;
            edges.sources = ours.fetch_from.into_iter().collect();
            edges.lanes_from = ours.lanes_from;
            edges.lanes_to = ours.lanes_to;
            if is_tree {
                edges.upstream = edges.sources.clone();
            }
            if let Some(distance) = ours.from_origin {
                edges.sources.insert(plan.seed.clone());
                match distance {
                    Distance::Near => edges.upstream.insert(plan.seed.clone()),
                    Distance::Far => edges.far.insert(plan.seed.clone()),
                };
            }
            if ours.lanes_from_origin != 0 {
                edges
                    .lanes_from
                    .insert(plan.seed.clone(), ours.lanes_from_origin);
            }
        }
        edges
    }

    /// Whether we open the release with that node, to hear what it has.
    pub(crate) fn opens_with(&self, node: &NodeId) -> bool {
        self.sources.contains(node)
    }

    /// The lanes on which that node pushes to us.
    pub(crate) fn lanes_from(&self, node: &NodeId) -> LaneSet {
        self.lanes_from.get(node).copied().unwrap_or(0)
    }

    /// The lanes on which we push to that node.
    pub(crate) fn lanes_to(&self, node: &NodeId) -> LaneSet {
        self.lanes_to.get(node).copied().unwrap_or(0)
    }

    /// What that node is to us.
    pub(crate) fn link(&self, node: &NodeId) -> Link {
        if self.upstream.contains(node) {
            Link::Upstream
        } else if self.far.contains(node) {
            Link::Far
        } else {
            Link::Neighbour
        }
    }
}
