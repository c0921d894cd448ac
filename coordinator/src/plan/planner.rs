//! From a fleet file to the plan that a deployment sends.

use scap_proto::{
    id::NodeId,
    release::{Environment, Plan, PlanHost, RepoPath, TopologyKind},
};

use crate::fleet::{CANARY_GROUP, Host, Inventory};

/// Most neighbours of a host in a swarm: more gain little (see the theory in the architecture's page).
const DEGREE: u32 = 40;
/// Hosts below each host of a tree: each forwards everything that often.
const TREE_FANOUT: u32 = 2;
/// Lanes of a swarm: with more, chunks reach the last host no sooner, and each link carries less.
const LANES: u32 = 2;

/// What the random choices in the plans of a repo in an environment are made from: the same each time, so that a fleet that
/// is deployed to again has the same links.
pub fn random_seed(repo: &RepoPath, environment: &Environment) -> u64 {
    let digest = blake3::hash(format!("scap plan\0{environment}\0{repo}").as_bytes());
    u64::from_le_bytes(digest.as_bytes()[..8].try_into().expect("8 of 32 bytes"))
}

/// The wave of the canaries, of the rest, and of hosts that are away.
const CANARY: u32 = 0;
const REST: u32 = 1;
const AWAY: u32 = 2;

/// The plan over a fleet. Its hosts have no addresses yet, and stand as they do in the inventory.
///
/// A canary begins first, and last a host that is away now, so that a tree has nobody below it.
pub fn plan(
    seed: NodeId,
    inventory: &Inventory,
    is_away: impl Fn(&NodeId) -> bool,
    topology: TopologyKind,
    random_seed: u64,
) -> Plan {
    let wave = |host: &Host| {
        if is_away(&host.name) {
            AWAY
        } else if host.groups.contains(CANARY_GROUP) {
            CANARY
        } else {
            REST
        }
    };
    let hosts = inventory.hosts.iter().map(|host| PlanHost {
        name: host.name.clone(),
        addresses: Vec::new(),
        site: host.site.clone(),
        rack: host.rack.clone(),
        wave: wave(host),
    });
    let fanout = match topology {
        TopologyKind::Swarm | TopologyKind::Lanes => LANES,
        TopologyKind::Tree => TREE_FANOUT,
    };
    let plan = Plan {
        seed,
        hosts: hosts.collect(),
        topology,
        degree: DEGREE,
        fanout,
        random_seed,
        extensions: Default::default(),
    };
    let plan = plan
        .with_routes(inventory.routes())
        .expect("that they fit was checked");
    match inventory.seed_site() {
        Some(site) => plan.in_sites(site).expect("the name was checked"),
        None => plan,
    }
}

/// What people call a wave of such a plan.
pub fn wave_name(wave: u32) -> &'static str {
    match wave {
        CANARY => "canary",
        REST => "rest",
        _ => "away",
    }
}
