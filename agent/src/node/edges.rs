//! One node's part of a plan: whom it dials, opens and asks.

use std::collections::{BTreeMap, BTreeSet};

use scap_proto::{
    id::NodeId,
    release::{Plan, TopologyKind},
};

use crate::{
    swarm::{Ask, Policy, Reveal},
    topology::{LaneSet, Parameters, Shape, Topology},
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
        let hosts = plan
            .hosts
            .iter()
            .map(|host| (host.name.clone(), host.wave))
            .collect();
        let parameters = Parameters {
            shape,
            origin_links,
            seed: plan.random_seed,
        };
        let topology = Topology::in_waves(&hosts, &parameters);
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
            policy: Policy { reveal, ask, lanes },
        };
        if is_origin {
            // It has everything; what others have tells it what is rare.
            edges.sources = topology.origin_dials().into_iter().collect();
            edges.lanes_to = topology.origin_lanes();
        } else if let Some(ours) = topology.edges(us) {
            edges.dial = ours.dial;
            edges.sources = ours.fetch_from.into_iter().collect();
            edges.lanes_from = ours.lanes_from;
            edges.lanes_to = ours.lanes_to;
            if is_tree {
                edges.upstream = edges.sources.clone();
            }
            if ours.from_origin {
                edges.sources.insert(plan.seed.clone());
                edges.upstream.insert(plan.seed.clone());
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

    /// Whether we ask that node whatever the topology.
    pub(crate) fn is_upstream(&self, node: &NodeId) -> bool {
        self.upstream.contains(node)
    }
}
