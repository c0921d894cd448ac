//! A deployment over a fleet, as the simulator takes it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use scap_agent::{
    relay::engine,
    topology::{Parameters, Topology},
};
use scap_proto::{
    id::NodeId,
    release::{Branch, Plan},
};

use super::simulate::{Border, Conduct, Host, NodeIndex, ORIGIN, Orders, Roster, Setup, orders};
use crate::fleet::{
    Inventory,
    hub::{LINKS, arrange},
};

/// What a link, a host's or the seed's, or a border is taken to carry each way where the fleet file does not say it, in
/// Mbit/s.
pub const RATE_MBIT: f64 = 1000.0;
/// How far a site is taken to be from the middle of all where the fleet file does not say it, one way: 20 ms between two.
pub const SITE_DELAY: Duration = Duration::from_millis(10);
/// How far each host is taken to be from the middle of its site, one way.
pub const HOST_DELAY: Duration = Duration::from_micros(250);

/// Most content, in bytes: a 1024th of it may be a chunk, and the lengths of a chunk and of the lists are a `u32`.
pub const SIZE_MAX: u64 = 256 << 30;
/// Most chunks that content is cut into. With fewer, what is passed on chunk by chunk takes longer, and a few chunks more
/// than once are more of the whole.
const CHUNKS_MAX: u64 = 2048;
/// As many as that, though, only up to so many over all hosts, which take some twenty seconds.
const DELIVERIES_MAX: u64 = 1 << 20;
/// And never fewer, unless they would be too small: a host passes a chunk on when it has all of it, so in a large fleet large
/// chunks would take far longer to the last than those of a snapshot.
const CHUNKS_MIN: u64 = 1024;
/// Least bytes in a chunk: what a snapshot's chunks have on average.
const CHUNK_BYTES_MIN: u64 = 128 * 1024;
/// What the chunk list has of each chunk: its id, and its length in a few bytes.
const LIST_BYTES_PER_CHUNK: u64 = 36;

/// What an order has beside its targets and the plan: a release with its signature, a grant and a directive.
const ORDER_BYTES: u64 = 2048;
/// What it has of each target: its name.
const NAME_BYTES: u64 = 12;

/// What is to be simulated.
#[derive(Debug, Clone)]
pub struct Rehearsal {
    /// It.
    pub setup: Setup,
    /// The control tree over the same hosts.
    pub roster: Roster,
    /// Bytes in the plan, which an order brings to hosts that do not keep it.
    pub plan_bytes: u64,
    /// The sites, in the order of [`Setup::borders`].
    pub sites: Vec<String>,
    /// What the fleet file does not say.
    pub assumed: Assumed,
}

/// What was assumed for what the fleet file does not say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assumed {
    /// Hosts with links of [`RATE_MBIT`].
    pub hosts: usize,
    /// Whether the seed has such a link.
    pub seed: bool,
    /// Sites with such a border.
    pub borders: Vec<String>,
    /// Sites at [`SITE_DELAY`].
    pub delays: Vec<String>,
}

impl Rehearsal {
    /// `size` bytes, at most [`SIZE_MAX`], to the hosts of `plan`, which was made from `inventory`.
    pub fn new(inventory: &Inventory, plan: &Plan, size: u64) -> Self {
        let home = plan.seed_site();
        let mut sites: BTreeSet<String> = home.into_iter().map(str::to_owned).collect();
        if home.is_some() {
            sites.extend(plan.hosts.iter().map(|host| host.site.clone()));
        }
        let sites: Vec<String> = sites.into_iter().collect();
        let without = |is_said: fn(&crate::fleet::Site) -> bool| -> Vec<String> {
            let sites = sites.iter().cloned();
            sites
                .filter(|name| !is_said(&inventory.site(name)))
                .collect()
        };
        let assumed = Assumed {
            hosts: count(inventory, |host| host.rate_mbit.is_none()),
            seed: inventory.seed_rate_mbit.is_none(),
            borders: without(|site| site.border_mbit.is_some()),
            delays: without(|site| site.delay_ms.is_some()),
        };
        let host = |rate: Option<f64>, site: &str, wave: u32| Host {
            up_bytes_per_sec: bytes_per_sec(rate),
            down_bytes_per_sec: bytes_per_sec(rate),
            delay: HOST_DELAY,
            site: sites
                .binary_search_by(|it| it.as_str().cmp(site))
                .unwrap_or(0),
            wave,
            conduct: Conduct::Honest,
        };
        let border = |name: &String| {
            let site = inventory.site(name);
            let said = site
                .delay_ms
                .map(|delay| Duration::from_secs_f64(delay / 1000.0));
            Border {
                bytes_per_sec: bytes_per_sec(site.border_mbit),
                delay: said.unwrap_or(SITE_DELAY),
            }
        };
        let planned = inventory.hosts.iter().zip(&plan.hosts);
        let hosts =
            planned.map(|(host_of, planned)| host(host_of.rate_mbit, &planned.site, planned.wave));
        let parameters = Parameters::of_plan(plan);
        let (chunk_bytes, chunk_count) = chunks(size, inventory.hosts.len());
        let setup = Setup {
            seed: plan.random_seed,
            origin: host(inventory.seed_rate_mbit, home.unwrap_or_default(), 0),
            hosts: hosts.collect(),
            relays: relays(inventory),
            borders: sites.iter().map(border).collect(),
            shape: parameters.shape,
            origin_links: parameters.origin_links,
            stages: vec![1, 1 + chunk_count],
            chunk_bytes,
            first_chunk_bytes: list_bytes(size),
            unsteady_percent: 0,
            // Large chunks are slow enough.
            quantum_bytes: match u64::from(chunk_bytes) > CHUNK_BYTES_MIN {
                true => chunk_bytes,
                false => chunk_bytes.div_ceil(2),
            },
            uploads: 8,
            detection: Duration::from_secs(5),
        };
        Self {
            setup,
            roster: roster(inventory, plan),
            plan_bytes: plan.encode().1.len() as u64,
            sites,
            assumed,
        }
    }

    /// How many chunks the content is cut into; the descriptor and the lists come besides.
    pub fn chunk_count(&self) -> u32 {
        self.setup.stages.last().map_or(0, |all| all - 1)
    }

    /// How long orders take to all hosts and back, with the plan, and to hosts that keep it.
    pub fn orders(&self) -> Option<[Orders; 2]> {
        let names = self.setup.hosts.len() as u64 * NAME_BYTES;
        let order = |plan: u64| orders(&self.setup, &self.roster, ORDER_BYTES + names + plan);
        Some([order(self.plan_bytes)?, order(0)?])
    }

    /// How long a chunk takes on the slowest link or border. From about a second on, what the agents take for a stall
    /// may be a chunk.
    pub fn chunk_time_max(&self) -> Duration {
        let hosts = self.setup.hosts.iter().chain([&self.setup.origin]);
        let rates = hosts.map(|host| host.up_bytes_per_sec);
        let borders = self.setup.borders.iter().map(|border| border.bytes_per_sec);
        let slowest = rates.chain(borders).min().unwrap_or(u64::MAX);
        Duration::from_secs_f64(f64::from(self.setup.chunk_bytes) / slowest as f64)
    }

    /// Whether there are so many hosts that content is cut into fewer chunks than it could be. Some that leave the origin
    /// twice are then a larger share.
    pub fn is_coarse(&self) -> bool {
        let chunks = self.chunk_count();
        let is_small = u64::from(self.setup.chunk_bytes) <= CHUNK_BYTES_MIN;
        !is_small && u64::from(chunks) < CHUNKS_MAX
    }
}

/// The control tree that a coordinator would form over the hosts.
fn roster(inventory: &Inventory, plan: &Plan) -> Roster {
    let topology = Topology::of_plan(plan);
    let first: Vec<NodeId> = topology.origin_dials().cloned().collect();
    let (parts, hosts) = arrange(&inventory.hosts, &first);
    let index: BTreeMap<&NodeId, NodeIndex> = (inventory.hosts.iter().map(|host| &host.name))
        .zip(ORIGIN + 1..)
        .collect();
    let place: BTreeMap<&NodeId, u32> = hosts.iter().map(|host| &host.name).zip(0..).collect();
    let branch = |part: &std::ops::Range<usize>| {
        let at = |place: usize| u32::try_from(place).expect("fleets are smaller");
        let (first, end) = (at(part.start), at(part.end));
        Branch { first, end }
    };
    let behind = parts.iter().filter_map(|part| {
        let relays: Vec<u32> = hosts[part.start].via.iter().map(|it| place[it]).collect();
        (!relays.is_empty()).then(|| (branch(part), relays))
    });
    let open = parts.iter().find(|part| hosts[part.start].via.is_empty());
    Roster {
        branches: open.map_or_else(Vec::new, |part| engine::split(branch(part), LINKS)),
        behind: behind.collect(),
        hosts: hosts.iter().map(|host| index[&host.name]).collect(),
    }
}

/// Who stands behind whom, as the simulator counts the hosts.
fn relays(inventory: &Inventory) -> BTreeMap<NodeIndex, Vec<NodeIndex>> {
    let index = |place: u32| ORIGIN + 1 + usize::try_from(place).expect("it is a place");
    let routes = inventory.routes();
    let hosts = (0u32..).zip(&inventory.hosts);
    let behind = hosts.filter(|(_, host)| !host.via.is_empty());
    let relays = |place: u32| routes.relays(place).iter().map(|&it| index(it)).collect();
    behind
        .map(|(place, _)| (index(place), relays(place)))
        .collect()
}

fn count(inventory: &Inventory, is: impl Fn(&crate::fleet::Host) -> bool) -> usize {
    inventory.hosts.iter().filter(|host| is(host)).count()
}

/// Bytes in a chunk and the number of chunks, all of one length, which together are `size` or a little more.
fn chunks(size: u64, hosts: usize) -> (u32, u32) {
    let hosts = u64::try_from(hosts).unwrap_or(u64::MAX).max(1);
    let most = (DELIVERIES_MAX / hosts).clamp(CHUNKS_MIN, CHUNKS_MAX);
    let bytes = size.div_ceil(most).max(CHUNK_BYTES_MIN);
    let count = size.div_ceil(bytes).max(1);
    let small = |number: u64| u32::try_from(number).expect("size is at most SIZE_MAX");
    (small(bytes), small(count))
}

/// Bytes in the descriptor and the chunk list of so much content, as a snapshot would cut it.
fn list_bytes(size: u64) -> u32 {
    let chunks = size.div_ceil(CHUNK_BYTES_MIN).max(1);
    u32::try_from(chunks * LIST_BYTES_PER_CHUNK).expect("size is at most SIZE_MAX")
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "above 0, and a float saturates"
)]
fn bytes_per_sec(mbit: Option<f64>) -> u64 {
    ((mbit.unwrap_or(RATE_MBIT) * 125_000.0) as u64).max(1)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::path::Path;

    use scap_proto::release::TopologyKind;

    use super::*;
    use crate::plan::{planner, simulate::Simulation};

    const FLEET: &str = "
        seed = { rate_mbit = 50, site = 'east' }
        [[host]]
        name = 'a'
        address = 'a:1'
        site = 'east'
        groups = ['canary']
        [[host]]
        name = 'b'
        address = 'b:1'
        site = 'west'
        rate_mbit = 10
        [[site]]
        name = 'west'
        border_mbit = 20
        delay_ms = 2
    ";

    fn rehearsal(text: &str, size: u64) -> Rehearsal {
        let inventory = Inventory::parse(text, Path::new("fleet.toml")).unwrap();
        let seed = "seed".parse().unwrap();
        let plan = planner::plan(seed, &inventory, |_| false, TopologyKind::Lanes, 7);
        Rehearsal::new(&inventory, &plan, size)
    }

    #[test]
    fn what_the_fleet_file_says_is_taken_and_the_rest_is_assumed_and_named() {
        let Rehearsal {
            setup,
            sites,
            assumed,
            ..
        } = rehearsal(FLEET, 1 << 20);
        assert_eq!(sites, ["east", "west"]);
        assert_eq!(setup.origin.up_bytes_per_sec, 6_250_000);
        let hosts = setup.hosts.iter();
        let hosts: Vec<_> = hosts
            .map(|host| (host.down_bytes_per_sec, host.site, host.wave))
            .collect();
        assert_eq!(hosts, [(125_000_000, 0, 0), (1_250_000, 1, 1)]);
        let borders = setup.borders.iter();
        let borders: Vec<_> = borders
            .map(|border| (border.bytes_per_sec, border.delay.as_millis()))
            .collect();
        assert_eq!(borders, [(125_000_000, 10), (2_500_000, 2)]);
        let east = vec!["east".to_owned()];
        let expected = Assumed {
            hosts: 1,
            seed: false,
            borders: east.clone(),
            delays: east,
        };
        assert_eq!(assumed, expected);
    }

    #[test]
    fn content_is_cut_into_few_chunks_and_into_none_that_are_small() {
        for (size, hosts, expected) in [
            (1, 10, (131_072, 1)),
            (131_073, 10, (131_072, 2)),
            (256 << 20, 10, (131_072, 2048)),
            (1 << 30, 512, (524_288, 2048)),
            (1 << 30, 1024, (1 << 20, 1024)),
            (1 << 30, 16_384, (1 << 20, 1024)),
            (1 << 20, 16_384, (131_072, 8)),
            (SIZE_MAX, 16_384, (1 << 28, 1024)),
        ] {
            assert_eq!(chunks(size, hosts), expected);
        }
        let west = rehearsal(FLEET, 1 << 30).chunk_time_max();
        assert_eq!(west.as_millis(), 419);
    }

    #[test]
    fn a_big_fleet_has_coarse_chunks() {
        let mut text = String::new();
        for host in 0..2000 {
            text += &format!("[[host]]\nname = 'h{host}'\naddress = 'h:1'\n");
        }
        assert!(rehearsal(&text, 1 << 30).is_coarse());
        assert!(!rehearsal(&text, 1 << 20).is_coarse());
        assert!(!rehearsal(FLEET, 1 << 30).is_coarse());
    }

    #[test]
    fn who_stands_behind_others_is_fed_through_these_in_a_rehearsal_too() {
        let text = format!("{FLEET}[[host]]\nname = 'c'\naddress = 'c:1'\nvia = 'b'\n");
        let rehearsal = rehearsal(&text, 1 << 20);
        assert_eq!(rehearsal.setup.relays, BTreeMap::from([(3, vec![2])]));
        let mut simulation = Simulation::new(rehearsal.setup);
        simulation.start_all();
        let outcome = simulation.run(Duration::from_secs(600));
        assert!(outcome.last_completed_at().is_some());
    }

    #[test]
    fn content_of_any_size_is_simulated_to_its_end() {
        for size in [1, 131_073, 500_000] {
            let mut simulation = Simulation::new(rehearsal(FLEET, size).setup);
            simulation.start_all();
            let outcome = simulation.run(Duration::from_secs(600));
            assert!(outcome.last_completed_at().is_some(), "{size} bytes");
        }
    }
}
