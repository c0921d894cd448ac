use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const LATENCY: Duration = Duration::from_millis(20);
/// How long it takes to notice that one is gone.
const SILENCE: Duration = Duration::from_millis(1500);

/// Who gave what.
type Given = (Option<Place>, Vec<Branch>);

/// A whole tree on a virtual clock. Node `None` is the root.
struct World {
    now: Duration,
    nodes: BTreeMap<Option<Place>, Relay>,
    dead: BTreeSet<Place>,
    /// Who cannot be reached but by the root.
    hidden: BTreeSet<Place>,
    /// Who does not reach whom, though the pages say so.
    cut: BTreeSet<(Place, Place)>,
    /// What each was given by those above it, the latest first.
    given: BTreeMap<Place, Vec<Given>>,
    /// Who can be reached by some only.
    behind: Vec<(Branch, Vec<Place>)>,
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
            cut: BTreeSet::new(),
            given: BTreeMap::new(),
            behind: Vec::new(),
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

    /// Hosts in the open, and then parts of so many each that stand behind some before them.
    fn with_relays(open: u32, parts: &[(u32, &[Place])]) -> Self {
        let mut world = Self::new(open, 8);
        let mut first = open;
        for (count, relays) in parts {
            let end = first + count;
            world.behind.push((Branch { first, end }, relays.to_vec()));
            first = end;
        }
        let root = world.new_relay(8);
        world.nodes.insert(None, root);
        world
    }

    /// One that has the pages of all. Each is of two hosts.
    fn new_relay(&self, direct_max: usize) -> Relay {
        let mut relay = Relay::new(direct_max);
        for (branch, relays) in &self.behind {
            for first in branch.hosts().step_by(2) {
                let end = branch.end.min(first + 2);
                let (branch, relays) = (Branch { first, end }, relays.clone());
                relay.handle_input(Duration::ZERO, Input::Behind { branch, relays });
            }
        }
        relay
    }

    /// Where a host stands: its part, or none in the open.
    fn place(&self, host: Place) -> Option<usize> {
        let mut behind = self.behind.iter();
        behind.position(|(branch, _)| branch.hosts().contains(&host))
    }

    fn reaches(&self, from: Option<Place>, to: Place) -> bool {
        let Some(part) = self.place(to) else {
            return from.is_none_or(|from| self.place(from).is_none());
        };
        from.is_some_and(|from| {
            self.place(from) == Some(part) || self.behind[part].1.contains(&from)
        })
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
        self.given.remove(&host);
        let below = self.links.iter().filter(|(from, _)| *from == Some(host));
        for (from, to) in below.copied().collect::<Vec<_>>() {
            self.unlink(from, to);
        }
        self.links.retain(|(_, to)| *to != host);
        for (parent, _) in above {
            self.pending.push((
                self.now + SILENCE,
                parent,
                Input::Failed(host, "silent".into()),
            ));
        }
    }

    /// Who has others above it as well covers what these say. Who has none keeps what it had.
    fn unlink(&mut self, from: Option<Place>, to: Place) {
        self.links.remove(&(from, to));
        let given = self.given.entry(to).or_default();
        given.retain(|(of, _)| *of != from);
        if !given.is_empty() {
            let all = merged(given.iter().map(|(_, branches)| branches.as_slice()));
            self.pending
                .push((self.now, Some(to), Input::Assigned(all)));
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
        if !self.nodes.contains_key(&node) {
            return;
        }
        if let Input::Failed(host, _) = &input {
            self.unlink(node, *host);
        }
        let relay = self.nodes.get_mut(&node).expect("it was just there");
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
                    assert!(self.reaches(node, host), "{node:?} does not reach {host}");
                    let is_gone = self.dead.contains(&host);
                    let is_cut = node.is_some_and(|node| self.cut.contains(&(node, host)));
                    if is_gone || is_cut || node.is_some() && self.hidden.contains(&host) {
                        let late = self.now + Duration::from_secs(if is_gone { 10 } else { 1 });
                        self.pending
                            .push((late, node, Input::Failed(host, "no answer".into())));
                    } else {
                        self.pending.push((soon, node, Input::Linked(host)));
                    }
                }
                Output::Close(host) => {
                    self.unlink(node, host);
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
                    let new = self.new_relay(0);
                    let below = self.nodes.entry(Some(host)).or_insert(new);
                    // Who gets someone new above it says whom it reaches.
                    let live: Vec<Place> = below.live().collect();
                    let given = self.given.entry(host).or_default();
                    given.retain(|(of, _)| *of != node);
                    given.insert(0, (node, branches));
                    let all = merged(given.iter().map(|(_, branches)| branches.as_slice()));
                    self.pending.push((soon, Some(host), Input::Assigned(all)));
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
                // What the root once reached by itself it keeps, and of several relays each covers all.
                let is_new = covered.insert(below);
                let is_kept = self.links.contains(&(None, below)) || self.place(below).is_some();
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

impl World {
    /// Hosts that live and are in the open, or behind one that is reached and, if that is asked, itself reaches them.
    fn reachable(&self, hosts: u32, by_relays: bool) -> BTreeSet<Place> {
        let mut found = BTreeSet::new();
        for host in (0..hosts).filter(|host| !self.dead.contains(host)) {
            let relays = self.place(host).map(|part| &self.behind[part].1);
            let reaches = |relay: &Place| {
                found.contains(relay) && !(by_relays && self.cut.contains(&(*relay, host)))
            };
            if relays.is_none_or(|relays| relays.iter().any(reaches)) {
                found.insert(host);
            }
        }
        found
    }

    /// Asserts that nobody is above itself.
    fn assert_no_circle(&self) {
        let mut left: BTreeSet<(Option<Place>, Place)> = BTreeSet::new();
        for node in self.nodes.keys() {
            left.extend(
                self.nodes[node]
                    .towards(|_| true)
                    .into_iter()
                    .map(|to| (*node, to)),
            );
        }
        loop {
            let above: BTreeSet<Option<Place>> = left.iter().map(|(_, to)| Some(*to)).collect();
            let before = left.len();
            left.retain(|(from, _)| above.contains(from));
            if left.len() == before {
                break;
            }
        }
        assert!(left.is_empty(), "{left:?} are above themselves");
    }
}

#[test]
fn hosts_behind_relays_over_any_number_of_hops_are_reached_through_these_alone() {
    // 20 in the open; 40 behind two of them; 3 behind one of those; 1 behind one of these; 5 behind another in the open.
    let parts: [(u32, &[Place]); 4] = [(40, &[3, 11]), (3, &[25]), (1, &[61]), (5, &[19])];
    let mut world = World::with_relays(20, &parts);
    world.run(secs(1));
    let all: BTreeSet<Place> = (0..69).collect();
    assert_eq!(world.covered(), all);
    assert_eq!(world.reached(), all);
    assert!(world.root_links() <= 4);
    world.assert_no_circle();
    // Orders for one of them go towards it and to no more than that.
    let of = |host: Place| move |branch: Branch| branch.hosts().contains(&host);
    assert_eq!(world.nodes[&Some(25)].towards(of(63)), [61]);
    assert!(world.nodes[&Some(25)].towards(of(64)).is_empty());
    assert!(world.nodes[&None].towards(of(64)).len() == 1);
}

#[test]
fn of_two_relays_either_is_enough_and_hosts_behind_a_lost_one_are_reached_when_it_is_back() {
    let parts: [(u32, &[Place]); 2] = [(10, &[3, 11]), (4, &[7])];
    for relay in [3, 11] {
        let mut world = World::with_relays(20, &parts);
        world.run(secs(1));
        world.kill(relay);
        world.run(secs(3));
        let rest: BTreeSet<Place> = (0..34).filter(|host| *host != relay).collect();
        assert_eq!(world.covered(), rest, "{relay} is gone");
        assert_eq!(world.reached(), rest, "{relay} is gone");
        // Who is lost behind the other relay is told of.
        world.kill(25);
        world.run(secs(6));
        assert!(world.known[&25].is_some(), "25 is said to be away");
    }
    let mut world = World::with_relays(20, &parts);
    world.run(secs(1));
    world.kill(7);
    world.run(secs(3));
    assert!(world.covered().is_disjoint(&(30..34).collect()));
    assert!(world.known[&7].is_some());
    world.dead.clear();
    world.run(secs(20));
    assert_eq!(world.covered(), (0..34).collect());
}

#[test]
fn relays_that_do_not_reach_the_same_hosts_put_nobody_above_itself() {
    let parts: [(u32, &[Place]); 1] = [(40, &[3, 11])];
    let mut world = World::with_relays(20, &parts);
    // The first of each branch that a relay covers, in turn.
    let firsts = split(Branch { first: 20, end: 60 }, FANOUT);
    let firsts = firsts.into_iter().zip([3, 11].into_iter().cycle());
    world.cut = firsts
        .map(|(branch, relay)| (relay, branch.first))
        .collect();
    for at in 1..20 {
        world.run(Duration::from_millis(200 * at));
        world.assert_no_circle();
    }
    assert_eq!(world.covered(), (0..60).collect());
    assert_eq!(world.reached(), (0..60).collect());
}

#[test]
fn two_who_speak_of_the_same_hosts_have_all_covered_once() {
    let of = |first, end| Branch { first, end };
    let latest = [of(3, 5), of(8, 9)];
    for first in 0..12 {
        for end in first + 1..12 {
            let all = merged([&latest[..], &[of(first, end)]].into_iter());
            assert_eq!(all[..2], latest);
            let mut hosts: Vec<u32> = all.into_iter().flat_map(Branch::hosts).collect();
            let count = hosts.len();
            hosts.sort_unstable();
            hosts.dedup();
            assert_eq!(hosts.len(), count, "{first}..{end}: once");
            assert!(
                (first..end).all(|host| hosts.contains(&host)),
                "{first}..{end}"
            );
        }
    }
}

#[test]
fn a_relay_that_only_the_root_reaches_is_one_too() {
    let parts: [(u32, &[Place]); 1] = [(10, &[7])];
    let mut world = World::with_relays(20, &parts);
    world.hidden.insert(7);
    world.run(secs(5));
    assert_eq!(world.covered(), (0..30).collect());
    assert_eq!(world.reached(), (0..30).collect());
    world.kill(25);
    world.run(secs(20));
    assert!(world.known[&25].is_some(), "25 is said to be away");
    assert_eq!(
        world.reached(),
        (0..30).filter(|host| *host != 25).collect()
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn behind_relays_too_all_that_can_be_reached_are_covered_whoever_dies_and_nobody_is_above_itself(
        drawn in proptest::collection::vec((1u32..40, proptest::collection::vec(any::<u32>(), 1..4)), 0..5),
        open in 1u32..40, deaths in proptest::collection::vec((any::<u32>(), 0u64..4000), 0..20),
        back in any::<bool>(), cut in proptest::collection::vec((any::<u32>(), any::<u32>()), 0..20),
    ) {
        let (mut hosts, mut parts) = (open, BTreeMap::new());
        for (count, relays) in drawn {
            let relays: BTreeSet<Place> = relays.into_iter().map(|relay| relay % hosts).collect();
            // Hosts behind the same relays are one part.
            parts.entry(relays.into_iter().collect::<Vec<_>>()).or_insert_with(|| {
                let first = hosts;
                hosts += count;
                (first, count)
            });
        }
        let mut parts: Vec<(u32, u32, Vec<Place>)> =
            parts.into_iter().map(|(relays, (first, count))| (first, count, relays)).collect();
        parts.sort();
        let parts: Vec<(u32, &[Place])> =
            parts.iter().map(|(_, count, relays)| (*count, relays.as_slice())).collect();
        let mut world = World::with_relays(open, &parts);
        for (host, relay) in cut.into_iter().filter(|_| hosts > open) {
            let host = open + host % (hosts - open);
            let part = world.place(host).unwrap();
            let relays = &world.behind[part].1;
            world.cut.insert((relays[relay as usize % relays.len()], host));
        }
        let mut deaths = deaths;
        deaths.sort_by_key(|(_, at)| *at);
        for (host, at) in deaths {
            world.run(Duration::from_millis(at));
            world.assert_no_circle();
            let host = host % hosts;
            if !world.dead.contains(&host) {
                world.kill(host);
            }
        }
        if back {
            world.run(secs(30));
            world.dead.clear();
        }
        world.run(secs(120));
        world.assert_no_circle();
        let reachable = world.reachable(hosts, true);
        let covered = world.covered();
        prop_assert!(covered.is_superset(&reachable), "{covered:?}, not {reachable:?}");
        // Who is cut off from its relays may be reached by others beside it.
        prop_assert!(covered.is_subset(&world.reachable(hosts, false)));
        for host in &reachable {
            prop_assert!(world.known[host].is_none(), "{} is said to be away", host);
        }
    }
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
