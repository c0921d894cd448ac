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
    /// When that was.
    heard_at: Duration,
    /// Whether it went back by itself since.
    has_lapsed: bool,
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
    /// Hosts that ever went back by themselves.
    lapsed: BTreeSet<String>,
    /// The latest stage that each was told, whether that reached it or not.
    ordered: BTreeMap<String, Stage>,
    /// Hosts that failed at the very switch, and were not told to fetch since.
    failed_to_promote: BTreeSet<String>,
    /// By the limits' order: how many may have failed so, which is what may be lost and who was in flight when somebody was told to
    /// promote last.
    failures_max: Vec<usize>,
    handled: usize,
    highest: u64,
    rolls_back: bool,
}

impl World {
    fn new(policy: Policy, unreached: &BTreeSet<usize>, times: Times) -> Self {
        let failures_max = limits(&policy).map(|limit| limit.allowed).collect();
        let mut bench = Bench::prefetching(policy.prefetch, policy.waves);
        bench.engine = Engine::new(Config {
            dead_man: times.dead_man.map(|seconds| seconds * SECOND),
            granted_until: times.granted * SECOND,
            ..bench.engine.config.clone()
        });
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
            lapsed: BTreeSet::new(),
            ordered: BTreeMap::new(),
            failed_to_promote: BTreeSet::new(),
            failures_max,
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
                    self.lapse();
                    self.bench.feed(Input::Timeout);
                    self.look();
                }
                self.bench.now = until;
                self.lapse();
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
        if failure.is_some() && stage == Stage::Promote {
            self.failed_to_promote.insert(name.to_owned());
        }
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

    /// Who has the release live, and was told nothing for the dead-man time, goes back, and says so if it is reached.
    fn lapse(&mut self) {
        let Some(time) = self.bench.engine.dead_man() else {
            return;
        };
        let now = self.bench.now;
        let is_due = |host: &Host| {
            let is_kept = host.is_final || host.has_lapsed;
            let goes_back = host.told.is_some_and(|(_, stage)| stage == Stage::Revert);
            host.is_live && !is_kept && !goes_back && host.heard_at + time <= now
        };
        let due = self.hosts.iter().filter(|(_, host)| is_due(host));
        for name in due.map(|(name, _)| name.clone()).collect::<Vec<_>>() {
            let host = self.hosts.get_mut(&name).unwrap();
            host.is_live = false;
            host.has_lapsed = true;
            host.outcome = Some(failed("it went back by itself"));
            self.lapsed.insert(name.clone());
            self.says(&name);
            self.look();
        }
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
        if host.has_lapsed {
            report.stage = Stage::Revert;
        }
        self.hosts.get_mut(name).unwrap().last = Some(report.clone());
        self.bench.feed(Input::Report(Box::new(report)));
    }

    /// Takes in what the engine said, and checks what must always hold.
    fn look(&mut self) {
        // What hosts say of it makes the engine say more.
        while self.handled < self.bench.seen.len() {
            let output = self.bench.seen[self.handled].clone();
            self.handled += 1;
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
        self.assert_no_more_failures();
        match self.bench.engine.wait() {
            Some(wait) => {
                use WaitingOn::{Approval, Grant, Paused, Soak};
                let is_named =
                    matches!(wait.on, Approval | Grant | Paused | Soak) || !wait.hosts.is_empty();
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
            let granted_until = self.bench.engine.config.granted_until;
            assert!(self.bench.now < granted_until, "{stage:?} after the grant");
        }
        // What is told again was told when it might be, and what is told anew to who has done it says only that somebody is there.
        let is_new = number > self.highest;
        self.highest = self.highest.max(number);
        let had = |host: &NodeId| self.ordered.get(host.as_str()) == Some(&stage);
        let begins_promotion = is_new && stage == Stage::Promote && !hosts.iter().all(had);
        for host in hosts {
            let name = host.to_string();
            match stage {
                // What it said of an earlier order says nothing of this one.
                Stage::Fetch if is_new => {
                    self.failed_to_promote.remove(&name);
                    if self.bench.state(&name) != HostState::Fetched {
                        self.fetched.remove(&name);
                    }
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
            if is_new {
                self.ordered.insert(name.clone(), stage);
            }
            self.hears(&name, number, stage);
        }
        if begins_promotion {
            self.assert_within_budgets();
            self.assert_nobody_fetches_beside(&hosts[0]);
            self.failures_max = self.failures_max();
        }
    }

    /// An order is on its way to a host.
    fn hears(&mut self, name: &str, number: u64, stage: Stage) {
        let now = self.bench.now;
        let host = self.hosts.get_mut(name).unwrap();
        let is_news = host.told.is_none_or(|(told, _)| told < number);
        // After it went back by itself only a new beginning counts, or the way back.
        let is_refused = host.has_lapsed && stage == Stage::Promote;
        if !host.is_reached || !is_news || is_refused {
            return;
        }
        let had = host.told.replace((number, stage));
        let is_renewal = had.is_some_and(|(_, had)| had == stage) && !host.has_lapsed;
        let is_done = host.outcome == Some(Outcome::Done);
        host.heard_at = now;
        host.has_lapsed = false;
        if is_renewal && is_done {
            return self.says(name);
        }
        host.outcome = None;
    }

    /// What may be lost of each limit, and who is in flight.
    fn failures_max(&self) -> Vec<usize> {
        let engine = &self.bench.engine;
        let in_flight = |limit: &Limit| {
            let hosts = limit.hosts.iter();
            let promoting =
                hosts.filter(|host| engine.hosts()[*host].state == HostState::Promoting);
            promoting.count()
        };
        let limits = limits(engine.policy());
        limits
            .map(|limit| limit.allowed + in_flight(limit))
            .collect()
    }

    /// Of no limit have more hosts failed at the switch than may be lost and were in flight when somebody was last told to promote.
    /// Who failed and was tried again, or that a person goes on without, is counted no more.
    fn assert_no_more_failures(&self) {
        let engine = &self.bench.engine;
        for (limit, most) in limits(engine.policy()).zip(&self.failures_max) {
            let hosts = limit.hosts.iter().filter(|host| {
                let progress = &engine.hosts()[*host];
                let is_counted =
                    matches!(progress.state, HostState::Failed(_)) && progress.is_lost();
                is_counted && self.failed_to_promote.contains(host.as_str())
            });
            let failed = hosts.count();
            assert!(
                failed <= *most,
                "{failed} failed of {}, at most {most} may",
                limit.of
            );
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
                // Nobody directs it any more: its coordinator ends.
                Some(WaitingOn::Grant) => {
                    self.bench.feed(Input::Detach);
                    self.look();
                }
                _ => {}
            }
        }
        panic!("it does not end: {:?}", self.bench.engine);
    }
}

/// What lasts how long, in seconds.
#[derive(Debug, Clone, Copy)]
struct Times {
    dead_man: Option<u32>,
    granted: u32,
}

fn times() -> impl Strategy<Value = Times> {
    let dead_man = prop_oneof![3 => Just(None), 2 => (20u32..80).prop_map(Some)];
    let granted = prop_oneof![4 => Just(24 * 3600), 1 => 20u32..1500];
    (dead_man, granted).prop_map(|(dead_man, granted)| Times { dead_man, granted })
}

/// All limits, in the order of the waves.
fn limits(policy: &Policy) -> impl Iterator<Item = &Limit> {
    policy.waves.iter().flat_map(|wave| &wave.limits)
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
    let domains = proptest::option::weighted(0.5, budget.clone());
    let domains = (domains.clone(), domains);
    let one = (
        budget,
        domains,
        0u64..90,
        1usize..5,
        proptest::bool::weighted(0.2),
    );
    let waves = proptest::collection::vec(one, 1..4);
    let prefetch = prop_oneof![
        Just(Prefetch::Canary),
        Just(Prefetch::Wave),
        Just(Prefetch::All)
    ];
    (waves, prefetch).prop_map(|(waves, prefetch)| {
        let groups = ["a b", "c d e", "f g h i"];
        let made = waves.into_iter().zip(groups).enumerate();
        let site = |host: &NodeId| match host.as_str().as_bytes()[0] % 3 {
            0 => "",
            1 => "east",
            _ => "west",
        };
        let rack = |host: &NodeId| match host.as_str() {
            "a" | "c" | "d" | "f" | "g" => "one",
            _ => "two",
        };
        let make = |(at, ((budget, (of_site, of_rack), soak, size, approval), hosts)): (
            usize,
            (_, &str),
        )| {
            wave(&format!("w{at}"), hosts)
                .losing(budget)
                .losing_in_each("site", of_site, site)
                .losing_in_each("rack", of_rack, rack)
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
        times in times(),
        events in events(),
    ) {
        let mut world = World::new(policy, &unreached, times);
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
                // Who went back by itself need not be told.
                let untold = world.touched.difference(&world.reverted);
                let untold: Vec<&String> = untold.filter(|it| !world.lapsed.contains(*it)).collect();
                prop_assert!(untold.is_empty(), "never told to go back: {:?}", untold);
                prop_assert!(world.reverted.is_subset(&world.touched));
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
