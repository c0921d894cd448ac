//! What a plan comes to, site by site: from where each gets the content, who may fetch it across, and what is to be
//! known before a deployment.

use std::collections::{BTreeMap, BTreeSet};

use scap_agent::topology::{Edges, LaneSet, Topology};
use scap_proto::{
    id::NodeId,
    release::{Plan, TopologyKind},
};

use super::planner::wave_name;

/// A plan, summed up. Which hosts are gateways depends on the plan's random seed, all numbers on the fleet alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overview {
    /// By wave, how many hosts begin with it.
    pub waves: BTreeMap<u32, usize>,
    /// By name; the seed's is among them.
    pub sites: Vec<Site>,
    /// By the hosts that they stand behind, those that nobody else reaches.
    pub behind: BTreeMap<Vec<NodeId>, Vec<NodeId>>,
    /// What holds the fleet back, or may surprise.
    pub notes: Vec<String>,
}

/// One site; where there is only one, it has no name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// What the fleet file calls it.
    pub name: String,
    /// Whether the seed is in it.
    pub has_seed: bool,
    /// By wave, how many of its hosts begin with it.
    pub waves: BTreeMap<u32, usize>,
    /// From where content is brought into it, or, where the seed is, to its first hosts.
    pub feeds: Vec<Feed>,
    /// Hosts that may fetch from other sites, or from a seed that stands elsewhere.
    pub gateways: Vec<NodeId>,
    /// How many of them do so while all is well.
    pub entries: usize,
}

/// One way into a site.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Feed {
    /// From where.
    pub from: Source,
    /// On which lane, where there are lanes.
    pub lane: Option<u32>,
    /// How many hosts of the site take it in.
    pub hosts: usize,
}

/// Where content comes from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// The seed.
    Seed,
    /// Hosts of that site.
    Site(String),
}

impl Site {
    /// How many hosts are in it.
    pub fn hosts(&self) -> usize {
        self.waves.values().sum()
    }
}

impl Overview {
    /// Sums up a plan.
    pub fn of(plan: &Plan) -> Self {
        let topology = Topology::of_plan(plan);
        let mut waves = BTreeMap::new();
        for host in &plan.hosts {
            *waves.entry(host.wave).or_default() += 1;
        }
        let mut overview = Self {
            waves,
            sites: sites(plan, &topology),
            behind: behind(plan, &topology),
            notes: Vec::new(),
        };
        overview.notes = notes(plan, &overview);
        overview
    }
}

fn behind(plan: &Plan, topology: &Topology) -> BTreeMap<Vec<NodeId>, Vec<NodeId>> {
    let mut behind: BTreeMap<Vec<NodeId>, Vec<NodeId>> = BTreeMap::new();
    for host in &plan.hosts {
        let edges = topology.edges(&host.name).expect("of the plan");
        if !edges.relays.is_empty() {
            behind
                .entry(edges.relays)
                .or_default()
                .push(host.name.clone());
        }
    }
    behind
}

/// The name of a host's site, where sites count.
fn site_of<'a>(plan: &'a Plan, host: &NodeId) -> &'a str {
    plan.site_of(host).unwrap_or_default()
}

fn sites(plan: &Plan, topology: &Topology) -> Vec<Site> {
    let home = plan.seed_site().unwrap_or_default();
    let mut sites: BTreeMap<&str, Site> = BTreeMap::new();
    let mut feeds: BTreeMap<&str, BTreeMap<(Source, Option<u32>), usize>> = BTreeMap::new();
    let new = |name: &str| Site {
        name: name.to_owned(),
        has_seed: name == home,
        waves: BTreeMap::new(),
        feeds: Vec::new(),
        gateways: Vec::new(),
        entries: 0,
    };
    sites.insert(home, new(home));
    for host in &plan.hosts {
        let name = site_of(plan, &host.name);
        let site = sites.entry(name).or_insert_with(|| new(name));
        *site.waves.entry(host.wave).or_default() += 1;
        let edges = topology.edges(&host.name).expect("of the plan");
        let is_far = |other: &NodeId| site_of(plan, other) != name;
        let is_gateway = edges.far_from.iter().any(is_far) || edges.from_origin;
        if is_gateway && plan.topology != TopologyKind::Tree && !site.has_seed {
            site.gateways.push(host.name.clone());
            site.entries += usize::from(edges.far_share.0 < edges.far_share.1);
        }
        for feed in ways_in(plan, name, &edges) {
            *feeds.entry(name).or_default().entry(feed).or_default() += 1;
        }
    }
    for (name, feeds) in feeds {
        let site = sites.get_mut(name).expect("made above");
        let feeds = feeds.into_iter();
        let feeds = feeds.map(|((from, lane), hosts)| Feed { from, lane, hosts });
        site.feeds = feeds.collect();
        site.feeds.sort_by_key(|feed| feed.lane);
    }
    sites.into_values().collect()
}

/// What one host takes in from the seed or from another site than its own while all is well, and on which lane.
fn ways_in(plan: &Plan, site: &str, edges: &Edges) -> BTreeSet<(Source, Option<u32>)> {
    let from = |host: &NodeId| Source::Site(site_of(plan, host).to_owned());
    let is_far = |host: &&NodeId| site_of(plan, host) != site;
    let mut found = BTreeSet::new();
    if plan.topology == TopologyKind::Lanes {
        let mut add = |from: &Source, lanes: LaneSet| {
            let lanes = (0..LaneSet::BITS).filter(|lane| lanes & (1 << lane) != 0);
            found.extend(lanes.map(|lane| (from.clone(), Some(lane))));
        };
        add(&Source::Seed, edges.lanes_from_origin);
        for (host, lanes) in edges.lanes_from.iter().filter(|(host, _)| is_far(host)) {
            add(&from(host), *lanes);
        }
        return found;
    }
    let is_entry = plan.topology == TopologyKind::Tree || edges.far_share.0 < edges.far_share.1;
    if edges.from_origin {
        found.insert((Source::Seed, None));
    }
    if is_entry {
        let far = edges.fetch_from.iter().filter(is_far);
        found.extend(far.map(|host| (from(host), None)));
    }
    found
}

fn notes(plan: &Plan, overview: &Overview) -> Vec<String> {
    let mut notes = Vec::new();
    if overview.waves.len() == 1 {
        let wave = overview.waves.keys().next().copied();
        let wave = wave_name(wave.unwrap_or_default());
        notes.push(format!(
            "all hosts are in wave {wave}: nothing is tried on a few first"
        ));
    }
    if let Some((&wave, 1)) = overview.waves.first_key_value()
        && let Some(host) = plan.hosts.iter().find(|host| host.wave == wave)
        && plan.hosts.len() > 1
    {
        notes.push(format!(
            "{} is alone in wave {}: it has nobody but the seed to fetch from",
            host.name,
            wave_name(wave)
        ));
    }
    for (relays, hosts) in &overview.behind {
        if let [relay] = relays.as_slice() {
            let count = hosts.len();
            notes.push(format!(
                "no other host reaches what is behind {relay} ({count}): that is lost with it"
            ));
        }
        let wave = |host: &NodeId| plan.host(host).map_or(0, |host| host.wave);
        let first = hosts.iter().map(wave).min().unwrap_or(0);
        for relay in relays.iter().filter(|relay| wave(relay) > first) {
            notes.push(format!(
                "{relay} begins in wave {}, and hosts behind it before: it feeds none of these",
                wave_name(wave(relay))
            ));
        }
    }
    let Some(home) = plan.seed_site() else {
        return notes;
    };
    let is_tree = plan.topology == TopologyKind::Tree;
    for site in &overview.sites {
        let (name, hosts) = (site_name(&site.name), site.hosts());
        if site.name.is_empty() && hosts > 0 {
            notes.push(format!(
                "hosts without a `site` ({hosts}) are taken for a site of their own"
            ));
        }
        if site.name == home && hosts == 0 {
            let hint = if home.is_empty() {
                "; if it is with hosts, let `[seed] site` say so"
            } else {
                ""
            };
            notes.push(format!(
                "the seed is in a site without hosts: all it sends crosses a border{hint}"
            ));
        }
        if is_tree {
            let copies: usize = site.feeds.iter().map(|feed| feed.hosts).sum();
            if !site.has_seed && copies > 1 {
                notes.push(format!(
                    "a tree does not look at sites: {copies} copies come into {name}"
                ));
            }
            continue;
        }
        if let ([gateway], 1) = (site.gateways.as_slice(), hosts) {
            notes.push(format!(
                "{name} has one host, so no gateway to spare: what is to pass through it waits for {gateway}"
            ));
        } else if site.entries == 1 && hosts > 1 {
            let first = site.waves.keys().next().copied().unwrap_or_default();
            notes.push(format!(
                "{name} has one host in wave {}: all that comes in comes in by it",
                wave_name(first)
            ));
        }
    }
    notes
}

/// How a site is named to people.
pub fn site_name(name: &str) -> String {
    if name.is_empty() {
        "the site without a name".to_owned()
    } else {
        format!("site {}", name.escape_debug())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{fleet::Inventory, plan::planner};

    /// Hosts as `(site, whether a canary)`.
    fn overview(seed_site: &str, hosts: &[(&str, bool)], topology: TopologyKind) -> Overview {
        let mut text = format!("[seed]\nsite = '{seed_site}'\n");
        for (number, (site, is_canary)) in hosts.iter().enumerate() {
            let groups = if *is_canary { "['canary']" } else { "[]" };
            text += &format!(
                "[[host]]\nname = 'h{number:02}'\naddress = 'h:1'\nsite = '{site}'\ngroups = {groups}\n"
            );
        }
        let inventory = Inventory::parse(&text, Path::new("fleet.toml")).unwrap();
        let seed = "seed".parse().unwrap();
        Overview::of(&planner::plan(seed, &inventory, |_| false, topology, 7))
    }

    fn three_sites() -> Vec<(&'static str, bool)> {
        let sites = ["east", "north", "west"];
        let mut hosts: Vec<_> = (0..12).map(|at| (sites[at / 4], false)).collect();
        hosts[0].1 = true;
        hosts
    }

    #[test]
    fn each_site_takes_every_lane_in_once_and_has_gateways_to_spare() {
        let overview = overview("east", &three_sites(), TopologyKind::Lanes);
        assert_eq!(overview.waves, BTreeMap::from([(0, 1), (1, 11)]));
        assert_eq!(overview.sites.len(), 3);
        for site in &overview.sites {
            assert_eq!(site.hosts(), 4);
            assert_eq!(site.has_seed, site.name == "east");
            let lanes: Vec<_> = site.feeds.iter().map(|feed| feed.lane).collect();
            assert_eq!(lanes, [Some(0), Some(1)]);
            assert!(site.feeds.iter().all(|feed| feed.hosts == 1));
            let from_seed = site.feeds.iter().all(|feed| feed.from == Source::Seed);
            assert_eq!(from_seed, site.has_seed);
            let across = if site.has_seed { (0, 0) } else { (4, 2) };
            assert_eq!((site.gateways.len(), site.entries), across);
        }
        assert_eq!(overview.notes.len(), 1, "{:?}", overview.notes);
        assert!(overview.notes[0].starts_with("h00 is alone in wave canary"));
    }

    #[test]
    fn a_large_site_has_few_gateways() {
        let hosts: Vec<_> = (0..40)
            .map(|at| (["east", "west"][at / 20], false))
            .collect();
        let overview = overview("east", &hosts, TopologyKind::Lanes);
        let west = &overview.sites[1];
        assert_eq!(
            (west.hosts(), west.gateways.len(), west.entries),
            (20, 4, 2)
        );
    }

    #[test]
    fn in_a_swarm_a_share_of_the_gateways_fetches_across() {
        let overview = overview("east", &three_sites(), TopologyKind::Swarm);
        for site in overview.sites.iter().filter(|site| !site.has_seed) {
            assert_eq!((site.gateways.len(), site.entries), (4, 2));
            assert!(!site.feeds.is_empty());
            let from = |feed: &Feed| feed.lane.is_none() && feed.from != Source::Seed;
            assert!(site.feeds.iter().all(from), "{site:?}");
        }
    }

    #[test]
    fn hosts_behind_others_are_listed_and_what_they_depend_on_is_told() {
        let text = "
            [[host]]
            name = 'b1'
            address = 'h:1'
            groups = ['canary']
            [[host]]
            name = 'b2'
            address = 'h:1'
            [[host]]
            name = 'db1'
            address = 'h:1'
            via = ['b1', 'b2']
            groups = ['canary']
            [[host]]
            name = 'db2'
            address = 'h:1'
            via = 'db1'
        ";
        let inventory = Inventory::parse(text, Path::new("fleet.toml")).unwrap();
        let seed = "seed".parse().unwrap();
        let plan = planner::plan(seed, &inventory, |_| false, TopologyKind::Lanes, 7);
        let overview = Overview::of(&plan);
        let names = |names: &[&str]| -> Vec<NodeId> {
            names.iter().map(|name| name.parse().unwrap()).collect()
        };
        let behind = [
            (names(&["b1", "b2"]), names(&["db1"])),
            (names(&["db1"]), names(&["db2"])),
        ];
        assert_eq!(overview.behind, BTreeMap::from(behind));
        assert_eq!(
            overview.notes,
            [
                "b2 begins in wave rest, and hosts behind it before: it feeds none of these",
                "no other host reaches what is behind db1 (1): that is lost with it",
            ]
        );
    }

    #[test]
    fn one_site_has_no_gateways() {
        let overview = overview("", &[("", true), ("", false)], TopologyKind::Lanes);
        assert_eq!(overview.sites.len(), 1);
        let site = &overview.sites[0];
        assert!(site.has_seed && site.gateways.is_empty() && site.hosts() == 2);
        assert!(site.feeds.iter().all(|feed| feed.from == Source::Seed));
    }

    #[test]
    fn what_holds_a_fleet_back_is_told() {
        let hosts = [("", false), ("east", false), ("east", false)];
        for says in [
            "hosts without a `site` (1)",
            "all hosts are in wave rest",
            "no gateway to spare",
        ] {
            let notes = overview("west", &hosts, TopologyKind::Lanes).notes;
            assert!(notes.iter().any(|note| note.contains(says)), "{notes:?}");
        }
        let mixed: Vec<_> = (0..12).map(|at| (["a", "b"][at % 2], false)).collect();
        let notes = overview("", &mixed, TopologyKind::Tree).notes;
        let copies = |note: &String| note.starts_with("a tree does not look at sites: ");
        assert!(notes.iter().any(copies), "{notes:?}");
        let notes = overview("", &[("east", true), ("west", false)], TopologyKind::Lanes).notes;
        let alone = |note: &String| note.contains("let `[seed] site` say so");
        assert!(notes.iter().any(alone), "{notes:?}");
        let hosts = [("x", false), ("y", true), ("y", false)];
        let notes = overview("x", &hosts, TopologyKind::Lanes).notes;
        let by_one = "site y has one host in wave canary: all that comes in comes in by it";
        assert!(notes.iter().any(|note| note == by_one), "{notes:?}");
    }
}
