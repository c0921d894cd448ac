//! Enclaves: hosts that stand behind the same relays, and so reach each other and are reached by these alone. The hosts in the
//! open are the first one.

use std::collections::{BTreeMap, BTreeSet};

use scap_proto::id::NodeId;

use super::Place;

/// The enclaves of a fleet, each after those that its relays are in.
#[derive(Debug, Clone)]
pub(super) struct Enclaves {
    /// By number; those of the first are none.
    relays: Vec<Vec<NodeId>>,
    /// By host, its enclave, where that is not the first.
    behind: BTreeMap<NodeId, usize>,
    all_relays: BTreeSet<NodeId>,
}

impl Enclaves {
    /// # Panics
    /// As [`super::Topology::over`].
    pub(super) fn new(hosts: &BTreeMap<NodeId, Place>) -> Self {
        let mut left: BTreeSet<&BTreeSet<NodeId>> = hosts.values().map(|it| &it.relays).collect();
        let mut relays = vec![Vec::new()];
        let mut numbers = BTreeMap::new();
        let open = BTreeSet::new();
        left.remove(&open);
        numbers.insert(&open, 0);
        while !left.is_empty() {
            let is_known = |relay: &NodeId| numbers.contains_key(&hosts[relay].relays);
            let next = left.iter().filter(|list| list.iter().all(is_known));
            let next: Vec<&BTreeSet<NodeId>> = next.copied().collect();
            assert!(!next.is_empty(), "no host stands behind itself");
            for list in next {
                left.remove(list);
                numbers.insert(list, relays.len());
                relays.push(list.iter().cloned().collect());
            }
        }
        let behind = hosts.iter().filter(|(_, place)| !place.relays.is_empty());
        let behind = behind.map(|(host, place)| (host.clone(), numbers[&place.relays]));
        Self {
            behind: behind.collect(),
            all_relays: relays.iter().flatten().cloned().collect(),
            relays,
        }
    }

    /// The number of a host's enclave.
    pub(super) fn of(&self, host: &NodeId) -> usize {
        self.behind.get(host).copied().unwrap_or(0)
    }

    /// The hosts that a host stands behind.
    pub(super) fn behind(&self, host: &NodeId) -> &[NodeId] {
        &self.relays[self.of(host)]
    }

    /// Whether others stand behind a host.
    pub(super) fn is_relay(&self, host: &NodeId) -> bool {
        self.all_relays.contains(host)
    }

    /// By enclave, where its relays are.
    pub(super) fn relay_positions(&self, positions: &BTreeMap<NodeId, usize>) -> Vec<Vec<usize>> {
        let at = |relays: &Vec<NodeId>| relays.iter().map(|relay| positions[relay]).collect();
        self.relays.iter().map(at).collect()
    }

    /// By enclave, the sites of its relays; of the first, the origin's.
    pub(super) fn homes<'a>(
        &self,
        hosts: &'a BTreeMap<NodeId, Place>,
        origin: &'a str,
    ) -> Vec<BTreeSet<&'a str>> {
        let sites = |relays: &Vec<NodeId>| {
            relays
                .iter()
                .map(|relay| hosts[relay].site.as_str())
                .collect()
        };
        let mut homes: Vec<BTreeSet<&str>> = self.relays.iter().map(sites).collect();
        homes[0].insert(origin);
        homes
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::topology::{Edges, Parameters, Shape, Topology};

    fn name(number: usize) -> NodeId {
        format!("h{number:03}").parse().unwrap()
    }

    /// Hosts in a site and a wave each, behind some of those before them.
    fn places(hosts: &[(usize, u32, Vec<usize>)]) -> BTreeMap<NodeId, Place> {
        let place = |(number, (site, wave, relays)): (usize, &(usize, u32, Vec<usize>))| {
            let relays = relays
                .iter()
                .filter(|_| number > 0)
                .map(|relay| name(relay % number));
            let place = Place {
                site: format!("site{site}"),
                wave: *wave,
                relays: relays.collect(),
            };
            (name(number), place)
        };
        hosts.iter().enumerate().map(place).collect()
    }

    /// Mostly few hosts are relays, so that there are enclaves of several.
    fn any_places() -> impl Strategy<Value = BTreeMap<NodeId, Place>> {
        let relays = prop_oneof![
            2 => Just(Vec::new()),
            3 => proptest::collection::vec(0usize..3, 1..3),
            1 => proptest::collection::vec(any::<usize>(), 1..4),
        ];
        let host = (0usize..3, 0u32..3, relays);
        proptest::collection::vec(host, 1..50).prop_map(|hosts| places(&hosts))
    }

    fn topology(hosts: &BTreeMap<NodeId, Place>, shape: Shape, seed: u64) -> Topology {
        let origin_site = "site0".to_owned();
        let parameters = Parameters {
            shape,
            origin_links: 4,
            origin_site,
            seed,
        };
        Topology::over(hosts, &parameters)
    }

    fn reaches(hosts: &BTreeMap<NodeId, Place>, from: &NodeId, to: &NodeId) -> bool {
        let to = &hosts[to].relays;
        hosts[from].relays == *to || to.contains(from)
    }

    fn all(hosts: &BTreeMap<NodeId, Place>, topology: &Topology) -> BTreeMap<NodeId, Edges> {
        let edges = hosts
            .keys()
            .map(|host| (host.clone(), topology.edges(host).unwrap()));
        edges.collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn nobody_is_linked_to_whom_it_cannot_reach_and_all_are_fed(
            hosts in any_places(), seed: u64,
            shape in prop_oneof![
                (2usize..50, 0usize..5).prop_map(|(degree, lanes)| Shape::Swarm { degree, lanes }),
                (1usize..4).prop_map(|fanout| Shape::Tree { fanout }),
            ],
        ) {
            let topology = topology(&hosts, shape, seed);
            let edges = all(&hosts, &topology);
            let mut fed: BTreeSet<&NodeId> = topology.origin_dials().collect();
            for host in topology.origin_dials().chain(topology.origin_lanes().keys()) {
                prop_assert!(hosts[host].relays.is_empty(), "the origin does not reach {host}");
            }
            for (host, ours) in &edges {
                for other in &ours.dial {
                    prop_assert!(reaches(&hosts, host, other), "{host} does not reach {other}");
                    prop_assert!(edges[other].accept.contains(host));
                }
                for other in &ours.accept {
                    prop_assert!(edges[other].dial.contains(host));
                }
                let linked = |other: &NodeId| ours.dial.contains(other) || ours.accept.contains(other);
                let others = ours.fetch_from.iter().chain(&ours.far_from).chain(&ours.far_to);
                for other in others.chain(ours.lanes_from.keys()).chain(ours.lanes_to.keys()) {
                    prop_assert!(linked(other), "{host} has no link to {other}");
                }
                prop_assert_eq!(&ours.relays, &hosts[host].relays.iter().cloned().collect::<Vec<_>>());
                if let Shape::Tree { .. } = shape {
                    prop_assert_eq!(ours.fetch_from.len() + usize::from(ours.from_origin), 1);
                }
            }
            let mut queue: Vec<&NodeId> = fed.iter().copied().collect();
            while let Some(from) = queue.pop() {
                let to = edges.iter().filter(|(_, it)| it.fetch_from.contains(from));
                queue.extend(to.map(|(to, _)| to).filter(|to| fed.insert(to)));
            }
            prop_assert_eq!(fed.len(), hosts.len());
        }

        #[test]
        fn each_lane_reaches_every_host_once_and_every_enclave_through_its_relays(
            hosts in any_places(), lanes in 1usize..4, seed: u64,
        ) {
            let topology = topology(&hosts, Shape::Swarm { degree: 8, lanes }, seed);
            let edges = all(&hosts, &topology);
            for lane in 0..lanes {
                let bit = 1 << lane;
                let first = topology.origin_lanes().into_iter().filter(|(_, set)| set & bit != 0);
                let mut reached: Vec<NodeId> = first.map(|(host, _)| host).collect();
                let mut entered: BTreeMap<&BTreeSet<NodeId>, usize> = BTreeMap::new();
                let mut next = 0;
                while let Some(host) = reached.get(next).cloned() {
                    next += 1;
                    for (child, _) in edges[&host].lanes_to.iter().filter(|(_, set)| *set & bit != 0) {
                        prop_assert!(edges[child].lanes_from[&host] & bit != 0);
                        let relays = &hosts[child].relays;
                        if relays.contains(&host) {
                            prop_assert!(edges[child].far_from.contains(&host));
                            *entered.entry(relays).or_default() += 1;
                        }
                        let is_late = hosts[&host].wave > hosts[child].wave;
                        prop_assert!(!is_late || relays.iter().all(|it| hosts[it].wave > hosts[child].wave));
                        reached.push(child.clone());
                    }
                }
                reached.sort();
                prop_assert_eq!(&reached, &hosts.keys().cloned().collect::<Vec<_>>());
                for (relays, times) in entered {
                    // Once for all its sites, or once for each that one of the relays is in, and for those that begin
                    // before what is with a relay.
                    let of_enclave = hosts.values().filter(|place| place.relays == *relays);
                    let sites: BTreeSet<&str> = of_enclave.map(|place| place.site.as_str()).collect();
                    prop_assert!(times <= sites.len(), "{times} times into {relays:?}");
                }
            }
        }
    }

    #[test]
    fn several_relays_share_the_lanes_and_each_gateway_may_ask_all_of_them() {
        let mut hosts = vec![(0, 0, Vec::new()); 6];
        hosts.extend(vec![(0, 0, vec![1, 2]); 8]);
        let hosts = places(&hosts);
        let topology = topology(
            &hosts,
            Shape::Swarm {
                degree: 40,
                lanes: 2,
            },
            3,
        );
        let edges = all(&hosts, &topology);
        for relay in [1, 2].map(name) {
            let to = edges[&relay].lanes_to.iter();
            let into = to.filter(|(host, _)| !hosts[*host].relays.is_empty());
            assert_eq!(
                into.map(|(_, set)| set.count_ones()).sum::<u32>(),
                1,
                "{relay}"
            );
            assert_eq!(edges[&relay].far_to.len(), 4, "{relay}");
        }
        let behind = edges
            .iter()
            .filter(|(host, _)| !hosts[*host].relays.is_empty());
        let gateways: Vec<&Edges> = behind
            .map(|(_, it)| it)
            .filter(|it| !it.far_from.is_empty())
            .collect();
        assert_eq!(gateways.len(), 4);
        assert!(gateways.iter().all(|it| it.far_from.len() == 2));
        let shares = gateways.iter().filter(|it| it.far_share.0 < it.far_share.1);
        assert_eq!(shares.count(), 2);
    }

    #[test]
    fn who_relays_has_the_fewest_below_it() {
        // If only one relays, it passes nothing on within its enclave.
        for seed in 0..20 {
            let mut hosts = vec![(0, 0, Vec::new()); 8 + usize::from(seed % 2 == 0)];
            hosts.push((0, 0, vec![4]));
            let behind = name(hosts.len() - 1);
            let hosts = places(&hosts);
            let topology = topology(
                &hosts,
                Shape::Swarm {
                    degree: 40,
                    lanes: 2,
                },
                seed,
            );
            let to = topology.edges(&name(4)).unwrap().lanes_to;
            assert_eq!(to, BTreeMap::from([(behind, 0b11)]));
        }
    }

    #[test]
    #[should_panic(expected = "behind itself")]
    fn hosts_that_stand_behind_each_other_are_no_fleet() {
        let mut hosts = places(&[(0, 0, vec![]), (0, 0, vec![0])]);
        hosts.get_mut(&name(0)).unwrap().relays.insert(name(1));
        Enclaves::new(&hosts);
    }
}
