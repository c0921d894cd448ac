//! The engine among hosts and people that do anything at any time: what holds all the while, and that it ends.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

/// One thing that happens, to one of the hosts.
#[derive(Debug, Clone, Copy)]
enum Event {
    /// It does what it was told, and says so if it is reached.
    Works(usize),
    /// It fails at what it was told.
    Fails(usize),
    /// It switches back by itself, or to something else.
    Drops(usize),
    /// It is away.
    Leaves(usize),
    /// It is reached again, and says where it is.
    Returns(usize),
    /// Its last report comes again.
    Echoes(usize),
    /// Seconds pass.
    Pass(u64),
    /// A person speaks.
    Says(usize, usize),
}

/// A host as it is.
#[derive(Debug, Clone, Default)]
struct Host {
    is_reached: bool,
    /// The latest order that reached it, and whether it was followed, and how.
    told: Option<(u64, Stage)>,
    outcome: Option<Outcome>,
    has_fetched: bool,
    is_live: bool,
    /// Whether it was told that the release is the stable one.
    is_final: bool,
    last: Option<Report>,
}

struct World {
    bench: Bench,
    names: Vec<String>,
    hosts: BTreeMap<String, Host>,
    /// Hosts whose own word was that they fetched; told to promote; told to go back.
    fetched: BTreeSet<String>,
    touched: BTreeSet<String>,
    reverted: BTreeSet<String>,
    handled: usize,
    highest: u64,
    rolls_back: bool,
}

impl World {
    fn new(policy: Policy, unreached: &BTreeSet<usize>) -> Self {
        let mut bench = Bench::prefetching(policy.prefetch, policy.waves);
        bench.engine = Engine::new(bench.engine.config.clone());
        let names: Vec<String> = bench
            .engine
            .hosts()
            .keys()
            .map(ToString::to_string)
            .collect();
        let hosts = names
            .iter()
            .map(|name| (name.clone(), Host::default()))
            .collect();
        let mut world = Self {
            bench,
            names: names.clone(),
            hosts,
            fetched: BTreeSet::new(),
            touched: BTreeSet::new(),
            reverted: BTreeSet::new(),
            handled: 0,
            highest: 0,
            rolls_back: false,
        };
        for (at, _) in names.iter().enumerate() {
            if !unreached.contains(&at) {
                world.happens(Event::Returns(at));
            }
        }
        world.bench.feed(Input::Start);
        world.look();
        world
    }

    fn happens(&mut self, event: Event) {
        let of = |at: usize, names: &[String]| names[at % names.len()].clone();
        match event {
            Event::Works(at) => self.works(&of(at, &self.names), None),
            Event::Fails(at) => self.works(&of(at, &self.names), Some(failed("broken"))),
            Event::Drops(at) => {
                let name = of(at, &self.names);
                let host = self.hosts.get_mut(&name).unwrap();
                // What was finalized it keeps.
                host.is_live &= host.is_final;
                self.says(&name);
            }
            Event::Leaves(at) => {
                let name = of(at, &self.names);
                self.hosts.get_mut(&name).unwrap().is_reached = false;
                self.bench.away(&name);
            }
            Event::Returns(at) => {
                let host = of(at, &self.names);
                self.hosts.get_mut(&host).unwrap().is_reached = true;
                self.bench.feed(Input::Connected(name(&host)));
                self.says(&host);
            }
            Event::Echoes(at) => {
                if let Some(report) = self.hosts[&of(at, &self.names)].last.clone() {
                    self.bench.feed(Input::Report(Box::new(report)));
                }
            }
            Event::Pass(seconds) => {
                // Step by step, so that orders reach hosts in the order of time.
                let until = self.bench.now + SECOND * u32::try_from(seconds).unwrap();
                let mut at_once = 0;
                while let Some(at) = self.bench.engine.poll_timeout().filter(|at| *at <= until) {
                    at_once = if at > self.bench.now { 0 } else { at_once + 1 };
                    assert!(at_once < 9, "it turns in circles");
                    self.bench.now = self.bench.now.max(at);
                    self.bench.feed(Input::Timeout);
                    self.look();
                }
                self.bench.now = until;
            }
            Event::Says(which, at) => {
                let host = name(&of(at, &self.names));
                let reason = "so".to_owned();
                let wait = self.bench.engine.wait();
                let seen = wait.map(|wait| (wait.on, wait.wave.unwrap_or_default()));
                let (on, wave) = seen.unwrap_or((WaitingOn::Soak, String::new()));
                let command = match which % 6 {
                    0 => Command::Pause,
                    1 => Command::Resume,
                    2 => Command::Promote { on, wave },
                    3 => Command::Abort,
                    4 => Command::RetryFailed,
                    _ => Command::Skip { host, reason },
                };
                let _ = self.bench.tell(command);
            }
        }
        self.look();
    }

    fn works(&mut self, name: &str, failure: Option<Outcome>) {
        let host = self.hosts.get_mut(name).unwrap();
        let Some((_, stage)) = host.told.filter(|_| host.outcome.is_none()) else {
            return;
        };
        if failure.is_none() {
            match stage {
                Stage::Fetch => host.has_fetched = true,
                Stage::Promote => {
                    assert!(host.has_fetched, "{name} is to promote what it has not");
                    host.is_live = true;
                }
                Stage::Revert => host.is_live = false,
            }
        }
        host.outcome = Some(failure.unwrap_or(Outcome::Done));
        self.says(name);
    }

    /// A host that is reached says where it is.
    fn says(&mut self, name: &str) {
        let host = self.hosts[name].clone();
        if !host.is_reached {
            return;
        }
        let number = host.told.map_or(0, |(number, _)| number);
        let outcome = host.outcome.clone().unwrap_or(match host.told {
            None => Outcome::Idle,
            Some(_) => Outcome::Working {
                chunks_held: 0,
                chunks_total: 1,
                waiting: String::new(),
            },
        });
        if outcome == Outcome::Done && host.told.is_some_and(|(_, stage)| stage == Stage::Fetch) {
            self.fetched.insert(name.to_owned());
        }
        let mut report = self.bench.next_report(name, number, outcome, host.is_live);
        report.standing.finalized_sequence = if host.is_final { 7 } else { 0 };
        self.hosts.get_mut(name).unwrap().last = Some(report.clone());
        self.bench.feed(Input::Report(Box::new(report)));
    }

    /// Takes in what the engine said, and checks what must always hold.
    fn look(&mut self) {
        let new: Vec<Output> = self.bench.seen[self.handled..].to_vec();
        self.handled = self.bench.seen.len();
        for output in new {
            match output {
                Output::Order {
                    number,
                    hosts,
                    stage,
                } => self.ordered(number, &hosts, stage),
                Output::Finalize { hosts } => {
                    for name in hosts.iter().map(ToString::to_string) {
                        let host = self.hosts.get_mut(&name).unwrap();
                        host.is_final |= host.is_reached;
                        self.says(&name);
                    }
                }
                Output::RollsBack(_) => self.rolls_back = true,
                _ => {}
            }
        }
        match self.bench.engine.wait() {
            Some(wait) => {
                use WaitingOn::{Approval, Paused, Soak};
                let is_named =
                    matches!(wait.on, Approval | Paused | Soak) || !wait.hosts.is_empty();
                assert!(is_named, "a wait for nobody: {wait:?}");
                assert!(wait.since <= self.bench.now, "{wait:?}");
            }
            None => assert!(
                self.bench.verdict().is_some() || self.handled == 0,
                "it waits for nothing, and is not over"
            ),
        }
    }

    fn ordered(&mut self, number: u64, hosts: &[NodeId], stage: Stage) {
        if stage != Stage::Revert {
            assert!(!self.rolls_back, "{stage:?} after it began to go back");
        }
        for host in hosts {
            let name = host.to_string();
            match stage {
                // What it said of an earlier order says nothing of this one.
                Stage::Fetch if number > self.highest => {
                    self.fetched.remove(&name);
                }
                Stage::Fetch => {}
                Stage::Promote => {
                    assert!(
                        self.fetched.contains(&name),
                        "{name} did not say that it fetched"
                    );
                    self.touched.insert(name.clone());
                }
                Stage::Revert => {
                    assert!(self.touched.contains(&name), "{name} was not touched");
                    self.reverted.insert(name.clone());
                }
            }
            let host = self.hosts.get_mut(&name).unwrap();
            if host.is_reached && host.told.is_none_or(|(told, _)| told < number) {
                host.told = Some((number, stage));
                host.outcome = None;
            }
        }
        // What is told again was told when it might be.
        let is_new = number > self.highest;
        self.highest = self.highest.max(number);
        if stage == Stage::Promote && is_new {
            self.assert_within_budgets();
            self.assert_nobody_fetches_beside(&hosts[0]);
        }
    }

    /// Whoever promotes, promotes while no limit of a wave whose turn has come is exceeded.
    fn assert_within_budgets(&self) {
        let engine = &self.bench.engine;
        let has_begun = |wave: &&Wave| {
            let mut hosts = wave.hosts();
            hosts.any(|host| self.touched.contains(host.as_str()))
        };
        for limit in engine
            .policy()
            .waves
            .iter()
            .filter(has_begun)
            .flat_map(|wave| &wave.limits)
        {
            let lost = limit
                .hosts
                .iter()
                .filter(|host| engine.hosts()[*host].is_lost());
            let lost = lost.count();
            assert!(lost <= limit.allowed, "{lost} lost, of {}", limit.of);
        }
    }

    /// Nobody of a wave promotes while another one of it has not fetched yet.
    fn assert_nobody_fetches_beside(&self, host: &NodeId) {
        let hosts = self.bench.engine.hosts();
        let wave = hosts[host].place.0;
        let mut others = hosts.values().filter(|other| other.place.0 == wave);
        use HostState::{Fetching, Waiting};
        assert!(!others.any(|other| matches!(other.state, Fetching | Waiting)));
    }

    /// From here on everybody does what they should, and a person lets it go on. Returns how it ended.
    fn calm_down(mut self) -> (Verdict, Self) {
        for _ in 0..200 {
            if let Some(verdict) = self.bench.verdict().cloned() {
                return (verdict, self);
            }
            for at in 0..self.names.len() {
                if !self.hosts[&self.names[at]].is_reached {
                    self.happens(Event::Returns(at));
                }
                self.happens(Event::Works(at));
            }
            self.happens(Event::Pass(40));
            let wait = self.bench.engine.wait();
            match wait.map(|wait| wait.on) {
                Some(WaitingOn::Paused | WaitingOn::Budget) => self.happens(Event::Says(1, 0)),
                Some(WaitingOn::Approval) => self.happens(Event::Says(2, 0)),
                _ => {}
            }
        }
        panic!("it does not end: {:?}", self.bench.engine);
    }
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let host = 0usize..9;
    let event = prop_oneof![
        12 => host.clone().prop_map(Event::Works),
        2 => host.clone().prop_map(Event::Fails),
        1 => host.clone().prop_map(Event::Drops),
        2 => host.clone().prop_map(Event::Leaves),
        2 => host.clone().prop_map(Event::Returns),
        2 => host.clone().prop_map(Event::Echoes),
        4 => (0u64..50).prop_map(Event::Pass),
        2 => (0usize..6, host).prop_map(|(which, at)| Event::Says(which, at)),
    ];
    proptest::collection::vec(event, 0..120)
}

fn policy() -> impl Strategy<Value = Policy> {
    let budget = prop_oneof![
        (0usize..3).prop_map(Budget::Count),
        (0u8..=100).prop_map(Budget::Percent),
    ];
    let one = (budget, 0u64..90, 1usize..5, proptest::bool::weighted(0.2));
    let waves = proptest::collection::vec(one, 1..4);
    let prefetch = prop_oneof![
        Just(Prefetch::Canary),
        Just(Prefetch::Wave),
        Just(Prefetch::All)
    ];
    (waves, prefetch).prop_map(|(waves, prefetch)| {
        let groups = ["a b", "c d e", "f g h i"];
        let made = waves.into_iter().zip(groups).enumerate();
        let make = |(at, ((budget, soak, size, approval), hosts)): (usize, (_, &str))| {
            wave(&format!("w{at}"), hosts)
                .losing(budget)
                .soaking(Duration::from_secs(soak))
                .with_approval(approval)
                .in_groups_of(size)
        };
        Policy {
            waves: made.map(make).collect(),
            prefetch,
            is_limited: false,
        }
    })
}

proptest! {
    #[test]
    fn whatever_happens_no_rule_is_broken_and_it_ends(
        policy in policy(),
        unreached in proptest::collection::btree_set(0usize..9, 0..3),
        events in events(),
    ) {
        let mut world = World::new(policy, &unreached);
        for event in events {
            world.happens(event);
        }
        let (verdict, world) = world.calm_down();
        let live: BTreeSet<&String> = world.names.iter().filter(|name| world.hosts[*name].is_live).collect();
        match verdict {
            Verdict::Done => {
                prop_assert!(world.bench.engine.hosts().values().all(|it| it.state == HostState::Promoted));
                prop_assert!(world.hosts.values().all(|it| it.is_live && it.is_final));
            }
            Verdict::RolledBack(_) => {
                prop_assert!(live.is_empty(), "still live: {live:?}");
                prop_assert_eq!(&world.reverted, &world.touched);
            }
            Verdict::RollbackIncomplete(_) => {
                let named = |name: &&String| world.bench.engine.hosts()[&super::name(name)].is_touched;
                prop_assert!(live.iter().all(named), "live and not named: {live:?}");
            }
            Verdict::Partial | Verdict::Failed | Verdict::Stopped(_) => {}
            Verdict::TakenOver { .. } => prop_assert!(false, "nobody else directs it"),
        }
    }
}
