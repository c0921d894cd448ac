//! How a release goes through a fleet: its plan.

use std::collections::BTreeMap;

use scap_proto::{
    id::NodeId,
    release::{Plan, TopologyKind},
};

use crate::{
    cli::About,
    fleet::{Inventory, hub::resolve_all},
    plan::planner,
    rollout::Policy,
};

/// The hosts that the seed is linked to if all are reached: orders may as well go over the same links.
pub(super) fn fed_by_us(
    seed: &NodeId,
    inventory: &Inventory,
    policy: &Policy,
    kind: TopologyKind,
    (repo, environment): &About,
) -> Vec<NodeId> {
    let random_seed = planner::random_seed(repo, environment);
    let mut plan = planner::plan(seed.clone(), inventory, |_| false, kind, random_seed);
    arrange(&mut plan, policy, |_| false);
    let topology = scap_agent::topology::Topology::of_plan(&plan);
    topology.origin_dials().cloned().collect()
}

/// The plan of a release, without those who are away, and with addresses looked up.
pub(super) async fn plan(
    seed: NodeId,
    inventory: &Inventory,
    policy: &Policy,
    away: &BTreeMap<NodeId, String>,
    kind: TopologyKind,
    (repo, environment): &About,
) -> Plan {
    let random_seed = planner::random_seed(repo, environment);
    let is_away = |host: &NodeId| away.contains_key(host);
    let mut plan = planner::plan(seed, inventory, is_away, kind, random_seed);
    arrange(&mut plan, policy, is_away);
    // A name that cannot be looked up now: its peers reach it when it dials them.
    let peers = inventory
        .hosts
        .iter()
        .map(|host| host.peer_addresses.clone());
    for (planned, addresses) in plan.hosts.iter_mut().zip(resolve_all(peers).await) {
        planned.addresses = addresses;
    }
    plan
}

/// Has hosts of a plan stand in the rounds in which they fetch, and who is away last.
fn arrange(plan: &mut Plan, policy: &Policy, is_away: impl Fn(&NodeId) -> bool) {
    let (rounds, count) = policy.rounds();
    let number = |round: usize| u32::try_from(round).expect("fleets are smaller");
    for host in &mut plan.hosts {
        host.wave = match is_away(&host.name) {
            true => number(count),
            false => number(rounds[&host.name]),
        };
    }
}
