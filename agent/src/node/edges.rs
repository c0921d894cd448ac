//! One node's part of a plan: whom it dials, opens and asks.

use std::collections::{BTreeMap, BTreeSet};

use scap_proto::{
    id::NodeId,
    release::{Plan, Priority, TopologyKind},
};

use crate::{
    swarm::{Ask, Link, Policy, Reveal},
    topology::{LaneSet, Topology},
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
    /// Who feeds it when nobody else does: the seed, or, where that does not reach it, those that it stands behind.
    origins: Vec<NodeId>,
    /// Who pushes to it, and on which lanes.
    lanes_from: BTreeMap<NodeId, LaneSet>,
    /// To whom it pushes.
    lanes_to: BTreeMap<NodeId, LaneSet>,
    /// Nodes of other sites.
    far: BTreeSet<NodeId>,
    /// All others that we are linked to.
    near: BTreeSet<NodeId>,
    /// How it shares.
    pub(crate) policy: Policy,
}

impl Edges {
    /// The edges of `us`. A node that the plan does not name has none. `list_end` is [`super::Job::list_end`].
    pub(crate) fn of(plan: &Plan, us: &NodeId, list_end: u32) -> Self {
        let is_tree = plan.topology == TopologyKind::Tree;
        let topology = Topology::of_plan(plan);
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
            origins: Vec::new(),
            lanes_from: BTreeMap::new(),
            lanes_to: BTreeMap::new(),
            far: BTreeSet::new(),
            near: BTreeSet::new(),
            policy: Policy {
                reveal,
                ask,
                lanes,
                far_share: (0, 1),
                priority: Priority::Normal,
            },
        };
        if is_origin {
            // It has everything; what others have tells it what is rare.
            for host in topology.origin_dials() {
                edges.lease(host);
            }
            edges.lanes_to = topology.origin_lanes();
        } else if let Some(ours) = topology.edges(us) {
            edges.policy.far_share = ours.far_share;
            edges.far = ours.far_from.union(&ours.far_to).cloned().collect();
            edges.near = ours.dial.iter().chain(&ours.accept).cloned().collect();
            edges.dial = ours.dial;
            edges.sources = ours.fetch_from.into_iter().collect();
            edges.lanes_from = ours.lanes_from;
            edges.lanes_to = ours.lanes_to;
            if is_tree {
                edges.upstream = edges.sources.clone();
            }
            edges.origins = ours.relays;
            if edges.origins.is_empty() {
                edges.origins.push(plan.seed.clone());
            }
            if ours.from_origin {
                edges.fetch_from_origins();
            }
            if ours.lanes_from_origin != 0 {
                edges
                    .lanes_from
                    .insert(plan.seed.clone(), ours.lanes_from_origin);
            }
        }
        edges
    }

    /// The same edges for a delta. It has no lanes: it is small, and who stands on one may have no use for it.
    pub(crate) fn of_delta(mut self) -> Self {
        self.lanes_from.clear();
        self.lanes_to.clear();
        self.policy.lanes = 0;
        // Nor has it shares: the one gateway whose share it were may stand on another base, and all would wait for it.
        self.policy.far_share = (0, 1);
        if let Reveal::OneEach { eager } = &mut self.policy.reveal {
            *eager = 0;
        }
        self
    }

    /// As a seed or a relay, feeds a host from now on, whatever the plan says.
    pub(crate) fn lease(&mut self, host: &NodeId) {
        self.near.insert(host.clone());
        if self.sources.insert(host.clone()) {
            self.dial.push(host.clone());
        }
    }

    /// As a host, fetches from the seed, or from those that it stands behind, from now on, whatever the plan says, once they are
    /// linked to us. Those from which it did not before. What a gateway may ask of them it does in any case.
    pub(crate) fn fetch_from_origins(&mut self) -> Vec<NodeId> {
        let origins = self.origins.iter();
        let new = origins.filter(|it| !self.far.contains(*it) && !self.sources.contains(*it));
        let new: Vec<NodeId> = new.cloned().collect();
        self.sources.extend(new.iter().cloned());
        self.upstream.extend(new.iter().cloned());
        new
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

    /// What that node is to us by this plan; `None` where it has no part in it that concerns us.
    pub(crate) fn link(&self, node: &NodeId) -> Option<Link> {
        if self.upstream.contains(node) {
            Some(Link::Upstream)
        } else if self.far.contains(node) {
            Some(Link::Far)
        } else {
            self.near.contains(node).then_some(Link::Neighbour)
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use scap_proto::release::PlanHost;

    use super::*;

    #[test]
    fn a_plan_says_only_of_the_nodes_that_concern_us_what_they_are() {
        let host = |number: u32| PlanHost {
            name: format!("h{number:02}").parse().unwrap(),
            addresses: Vec::new(),
            site: ["east", "west"][number as usize % 2].into(),
            rack: String::new(),
            wave: 0,
        };
        let plan = Plan {
            seed: "deploy1".parse().unwrap(),
            hosts: (0..40).map(host).collect(),
            topology: TopologyKind::Lanes,
            degree: 4,
            fanout: 2,
            random_seed: 1,
            extensions: Default::default(),
        };
        let plan = plan.in_sites("east").unwrap();
        let (mut far, mut none) = (0, 0);
        for us in &plan.hosts {
            let edges = Edges::of(&plan, &us.name, 3);
            for other in plan.hosts.iter().filter(|it| it.name != us.name) {
                match edges.link(&other.name) {
                    Some(Link::Far) => far += 1,
                    Some(Link::Neighbour) => assert_eq!(us.site, other.site),
                    Some(Link::Upstream) => panic!("no host is"),
                    // In the plan of another repo it may be far.
                    None => none += 1,
                }
            }
        }
        assert!(far > 0 && none > 500, "{far} far, {none} nothing");
    }
}
