use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const LATENCY: Duration = Duration::from_millis(20);
/// How long it takes to notice that one is gone.
const SILENCE: Duration = Duration::from_millis(1500);

/// A whole tree on a virtual clock. Node `None` is the root.
struct World {
    now: Duration,
    nodes: BTreeMap<Option<Place>, Relay>,
    dead: BTreeSet<Place>,
    /// Who cannot be reached but by the root.
    hidden: BTreeSet<Place>,
    /// Who is above whom.
    links: BTreeSet<(Option<Place>, Place)>,
    pending: Vec<(Duration, Option<Place>, Input)>,
    /// What the root believes.
    known: BTreeMap<Place, Option<String>>,
    /// Hosts that lost and gained a parent.
    moves: usize,
}

impl World {
    fn new(hosts: u32, direct_max: usize) -> Self {
        let mut world = Self {
            now: Duration::ZERO,
            nodes: BTreeMap::from([(None, Relay::new(direct_max))]),
            dead: BTreeSet::new(),
            hidden: BTreeSet::new(),
            links: BTreeSet::new(),
            pending: Vec::new(),
            known: BTreeMap::new(),
            moves: 0,
        };
        let all = Branch {
            first: 0,
            end: hosts,
        };
        world
            .pending
            .push((Duration::ZERO, None, Input::Assigned(split(all, 4))));
        world
    }

    fn kill(&mut self, host: Place) {
        self.dead.insert(host);
        self.nodes.remove(&Some(host));
        let above: Vec<_> = self
            .links
            .iter()
            .filter(|(_, to)| *to == host)
            .copied()
            .collect();
        self.links
            .retain(|(from, to)| *from != Some(host) && *to != host);
        for (parent, _) in above {
            self.pending.push((
                self.now + SILENCE,
                parent,
                Input::Failed(host, "silent".into()),
            ));
        }
    }

    fn run(&mut self, until: Duration) {
        loop {
            let due = self
                .pending
                .iter()
                .enumerate()
                .map(|(at, (time, ..))| (*time, 0, at));
            let wakes = self.nodes.iter().enumerate();
            let wakes = wakes.filter_map(|(at, (_, relay))| Some((relay.poll_timeout()?, 1, at)));
            let Some((time, kind, at)) = due.chain(wakes).min() else {
                break;
            };
            if time > until {
                break;
            }
            self.now = self.now.max(time);
            let (node, input) = if kind == 0 {
                let (_, node, input) = self.pending.remove(at);
                (node, input)
            } else {
                (*self.nodes.keys().nth(at).unwrap(), Input::Timeout)
            };
            self.feed(node, input);
        }
        self.now = until;
    }

    fn feed(&mut self, node: Option<Place>, input: Input) {
        let Some(relay) = self.nodes.get_mut(&node) else {
            return;
        };
        if let Input::Failed(host, _) = &input {
            self.links.remove(&(node, *host));
        }
        relay.handle_input(self.now, input);
        let mut outputs = Vec::new();
        while let Some(output) = relay.poll_output() {
            outputs.push(output);
        }
        let soon = self.now + LATENCY;
        for output in outputs {
            match output {
                Output::Dial(host) => {
                    assert!(
                        !self.links.contains(&(node, host)),
                        "{host} is linked to {node:?}"
                    );
                    let is_gone = self.dead.contains(&host);
                    if is_gone || node.is_some() && self.hidden.contains(&host) {
                        let late = self.now + Duration::from_secs(if is_gone { 10 } else { 1 });
                        self.pending
                            .push((late, node, Input::Failed(host, "no answer".into())));
                    } else {
                        self.pending.push((soon, node, Input::Linked(host)));
                    }
                }
                Output::Close(host) => {
                    self.links.remove(&(node, host));
                    self.pending.retain(|(_, to, input)| {
                        let about = match input {
                            Input::Linked(of) | Input::Failed(of, _) => Some(*of),
                            _ => None,
                        };
                        (*to, about) != (node, Some(host))
                    });
                }
                Output::Give(host, branches) => {
                    if self.dead.contains(&host) {
                        // It died as it answered.
                        let late = self.now + SILENCE;
                        let failed = Input::Failed(host, "silent".into());
                        self.pending.push((late, node, failed));
                        continue;
                    }
                    self.moves += 1;
                    self.links.insert((node, host));
                    let below = self.nodes.entry(Some(host)).or_default();
                    // Who gets someone new above it says whom it reaches.
                    let live: Vec<Place> = below.live().collect();
                    self.pending
                        .push((soon, Some(host), Input::Assigned(branches)));
                    for of in live {
                        let heard = Input::Heard {
                            through: host,
                            host: of,
                            away: None,
                        };
                        self.pending.push((soon, node, heard));
                    }
                }
                Output::News { host, away } => match node {
                    None => {
                        self.known.insert(host, away);
                    }
                    Some(through) => {
                        let above = self.links.iter().filter(|(_, to)| *to == through);
                        for (parent, _) in above {
                            let away = away.clone();
                            let heard = Input::Heard {
                                through,
                                host,
                                away,
                            };
                            self.pending.push((soon, *parent, heard));
                        }
                    }
                },
            }
        }
    }

    /// Hosts to which an order of the root finds its way.
    fn covered(&self) -> BTreeSet<Place> {
        let mut covered = BTreeSet::new();
        let mut queue = vec![None];
        while let Some(node) = queue.pop() {
            let Some(relay) = self.nodes.get(&node) else {
                continue;
            };
            for below in relay.towards(|_| true) {
                // What the root once reached by itself it keeps.
                let is_new = covered.insert(below);
                let is_kept = self.links.contains(&(None, below));
                assert!(is_new || is_kept, "{below} is covered twice");
                if is_new {
                    queue.push(Some(below));
                }
            }
        }
        covered
    }

    fn reached(&self) -> BTreeSet<Place> {
        let reached = self.known.iter().filter(|(_, away)| away.is_none());
        reached.map(|(host, _)| *host).collect()
    }

    fn root_links(&self) -> usize {
        self.links.iter().filter(|(from, _)| from.is_none()).count()
    }
}

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

#[test]
fn a_fleet_is_reached_over_four_links_and_a_few_levels() {
    for hosts in [1, 3, 4, 5, 16, 100, 1500] {
        let mut world = World::new(hosts, 8);
        world.run(Duration::from_millis(300));
        assert_eq!(world.covered(), (0..hosts).collect(), "of {hosts}");
        assert_eq!(world.reached(), (0..hosts).collect(), "of {hosts}");
        assert!(world.root_links() <= 4);
        assert_eq!(world.moves, hosts as usize, "each is given its part once");
    }
}

#[test]
fn who_is_lost_is_replaced_by_one_below_it_and_nobody_else_moves() {
    for victim in 0..100 {
        let mut world = World::new(100, 8);
        world.run(secs(1));
        let moves = world.moves;
        world.kill(victim);
        // Noticing takes a second and a half of it.
        world.run(secs(3));
        let rest: BTreeSet<Place> = (0..100).filter(|host| *host != victim).collect();
        assert_eq!(world.covered(), rest, "{victim} is gone");
        assert_eq!(world.reached(), rest, "{victim} is gone");
        assert!(world.root_links() <= 4);
        let moved = world.moves - moves;
        assert!(
            moved <= 2 * FANOUT,
            "{moved} got someone else above them for {victim}"
        );
    }
}

#[test]
fn a_host_that_only_the_root_reaches_is_reached_by_it() {
    let mut world = World::new(50, 8);
    world.hidden.extend([7, 49]);
    world.run(secs(5));
    assert_eq!(world.reached(), (0..50).collect());
    assert_eq!(world.covered(), (0..50).collect());
    assert!(world.root_links() <= 6);
}

#[test]
fn a_dead_rack_does_not_keep_others_from_being_reached() {
    let mut world = World::new(200, 8);
    world.dead.extend(0..40);
    world.run(secs(4));
    assert_eq!(world.covered(), (40..200).collect());
}

#[test]
fn a_host_that_does_not_answer_through_others_is_dialled_by_the_root_and_that_link_stays() {
    let mut world = World::new(50, 8);
    world.run(secs(1));
    world.feed(None, Input::Suspect(7));
    world.run(secs(2));
    assert!(world.links.contains(&(None, 7)));
    let through = *world.nodes[&None]
        .towards(|branch| branch.hosts().contains(&7))
        .first()
        .unwrap();
    for _ in 0..3 {
        let lie = Input::Heard {
            through,
            host: 7,
            away: None,
        };
        world.feed(None, lie);
    }
    assert!(world.links.contains(&(None, 7)));
}

#[test]
fn the_hosts_of_a_branch_are_tried_far_apart_and_each_once() {
    let of = |first, end| far_apart(Branch { first, end }).collect::<Vec<_>>();
    assert_eq!(of(10, 18), [10, 14, 12, 16, 11, 15, 13, 17]);
    assert_eq!(of(3, 4), [3]);
    for end in 1..70 {
        let mut all = of(0, end);
        all.sort_unstable();
        assert_eq!(all, (0..end).collect::<Vec<_>>());
    }
}

#[test]
fn who_comes_back_is_reached_again() {
    let mut world = World::new(40, 8);
    world.dead.extend([0, 10, 11, 39]);
    world.run(secs(15));
    let rest: BTreeSet<Place> = (0..40).filter(|host| !world.dead.contains(host)).collect();
    assert_eq!(world.reached(), rest);
    for host in [0, 10, 11, 39] {
        assert!(world.known[&host].is_some(), "{host} is said to be away");
    }
    world.dead.clear();
    world.run(secs(50));
    assert_eq!(world.reached(), (0..40).collect());
    assert_eq!(world.covered(), (0..40).collect());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn whoever_dies_when_all_that_live_are_covered_once_in_the_end(
        hosts in 1u32..150, deaths in proptest::collection::vec((0u32..150, 0u64..4000), 0..20),
        hidden in proptest::collection::btree_set(0u32..150, 0..3),
    ) {
        let mut world = World::new(hosts, 8);
        world.hidden = hidden;
        let mut deaths = deaths;
        deaths.sort_by_key(|(_, at)| *at);
        for (host, at) in deaths {
            world.run(Duration::from_millis(at));
            if host < hosts && !world.dead.contains(&host) {
                world.kill(host);
            }
        }
        world.run(secs(90));
        let rest: BTreeSet<Place> = (0..hosts).filter(|host| !world.dead.contains(host)).collect();
        prop_assert_eq!(world.reached(), rest.clone());
        prop_assert_eq!(world.covered(), rest);
        prop_assert!(world.root_links() <= 4 + world.hidden.len());
        for host in 0..hosts {
            prop_assert!(world.known.contains_key(&host), "nothing was said of {}", host);
        }
    }
}
