//! The rollout engine, one behaviour each.
#![allow(clippy::unwrap_used, reason = "tests")]

mod commands;
mod external;
mod glance;
mod lost;
mod random;
mod renewal;
mod reports;
mod resumed;
mod rollback;
mod telling;
mod waves;
mod why;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use scap_proto::{
    id::{NodeId, ReleaseId},
    reason::Reason,
    release::{BytesBySource, Outcome, Report, Sighting, Stage, Standing, Step, UnixMillis},
};

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const GRANT: Duration = Duration::from_secs(24 * 3600);

/// An engine, and all that it said.
struct Bench {
    engine: Engine,
    now: Duration,
    counter: u64,
    seen: Vec<Output>,
}

fn name(text: &str) -> NodeId {
    text.parse().unwrap()
}

fn release() -> ReleaseId {
    ReleaseId::of(b"release")
}

/// A wave of these hosts, separated by spaces, which may lose none.
fn wave(title: &str, hosts: &str) -> Wave {
    let hosts: BTreeSet<NodeId> = hosts.split_whitespace().map(name).collect();
    Wave::new(title, hosts)
}

fn failed(reason: &str) -> Outcome {
    Outcome::Failed {
        reason: reason.into(),
    }
}

fn three_of(longest: Duration) -> Steps {
    Steps {
        longest,
        count: 3,
        total: 3 * longest,
    }
}

fn unreachable(why: &str) -> HostState {
    HostState::Unreachable(Reason::Unreachable.because(why))
}

impl Bench {
    /// A canary wave, and one of the rest.
    fn new(canary: &str, rest: &str) -> Self {
        let waves = [wave("canary", canary), wave("rest", rest)];
        Self::of(waves.into_iter().filter(|it| it.hosts().next().is_some()))
    }

    fn of(waves: impl IntoIterator<Item = Wave>) -> Self {
        Self::prefetching(Prefetch::default(), waves)
    }

    fn prefetching(prefetch: Prefetch, waves: impl IntoIterator<Item = Wave>) -> Self {
        let mut bench = Self::silent(Self::config(prefetch, waves));
        let hosts: Vec<NodeId> = bench.engine.hosts().keys().cloned().collect();
        for host in hosts {
            bench.feed(Input::Connected(host.clone()));
            bench.report(host.as_str(), 0, Outcome::Idle, false);
        }
        bench
    }

    fn config(prefetch: Prefetch, waves: impl IntoIterator<Item = Wave>) -> Config {
        let policy = Policy {
            waves: waves.into_iter().collect(),
            prefetch,
            is_limited: false,
        };
        Config {
            release: release(),
            sequence: 7,
            epoch: 1,
            goes_back: false,
            dead_man: None,
            is_finalized: false,
            reach: None,
            granted_until: GRANT,
            policy,
            away_max: 30 * SECOND,
            stall_max: 60 * SECOND,
            is_stall_exact: false,
            steps: three_of(900 * SECOND),
            steps_back: three_of(900 * SECOND),
            external_check: None,
            counters: BTreeMap::new(),
            finalize_max: 5 * SECOND,
        }
    }

    /// Of which no host has said anything.
    fn silent(config: Config) -> Self {
        Self {
            engine: Engine::new(config),
            now: SECOND,
            counter: 0,
            seen: Vec::new(),
        }
    }

    fn start(mut self) -> Self {
        self.feed(Input::Start);
        self
    }

    /// Lets time pass, with all that is to happen in it.
    fn pass(&mut self, span: Duration) {
        self.pass_to(self.now + span);
    }

    fn pass_to(&mut self, until: Duration) {
        while let Some(at) = self.engine.poll_timeout().filter(|at| *at <= until) {
            self.now = self.now.max(at);
            self.feed(Input::Timeout);
        }
        self.now = until;
    }

    fn feed(&mut self, input: Input) {
        self.engine.handle_input(self.now, input);
        self.drain();
    }

    fn tell(&mut self, command: Command) -> Result<(), CommandError> {
        let told = self.engine.command(self.now, command);
        self.drain();
        told
    }

    /// A person lets it go on from what it waits for now.
    fn promote(&mut self) -> Result<(), CommandError> {
        let wait = self.engine.wait().unwrap();
        let wave = wait.wave.unwrap_or_default();
        self.tell(Command::Promote { on: wait.on, wave })
    }

    fn drain(&mut self) {
        while let Some(output) = self.engine.poll_output() {
            self.seen.push(output);
        }
    }

    fn away(&mut self, host: &str) {
        let reason = "lost".to_owned();
        let host = name(host);
        self.feed(Input::Away { host, reason });
    }

    fn report(&mut self, host: &str, number: u64, outcome: Outcome, live: bool) {
        let report = self.next_report(host, number, outcome, live);
        self.feed(Input::Report(Box::new(report)));
    }

    /// Hosts did what they were told last.
    fn done(&mut self, hosts: &str) {
        for host in hosts.split_whitespace() {
            let (number, stage) = self.told(host).unwrap();
            self.report(host, number, Outcome::Done, stage == Stage::Promote);
        }
    }

    /// A host failed at what it was told last.
    fn fails(&mut self, host: &str) {
        let (number, _) = self.told(host).unwrap();
        self.report(host, number, failed("disk"), false);
    }

    fn next_report(&mut self, host: &str, number: u64, outcome: Outcome, live: bool) -> Report {
        self.counter += 1;
        let standing = Standing {
            live: live.then(release),
            finalized_sequence: if self.was_told_final(host) { 7 } else { 0 },
            ..Standing::default()
        };
        Report {
            host: name(host),
            repo: "repo".parse().unwrap(),
            environment: Default::default(),
            release: Some(release()),
            counter: self.counter,
            stage: Stage::Fetch,
            directive: (self.engine.config.epoch, number),
            outcome,
            bytes: BytesBySource::default(),
            fetch_millis: 1,
            prepare_millis: 1,
            promote_millis: 1,
            standing,
            extensions: Default::default(),
        }
    }

    /// The latest order for a host.
    fn told(&self, host: &str) -> Option<(u64, Stage)> {
        let orders = self.orders().into_iter().rev();
        let mut of_host = orders.filter(|(_, hosts, _)| hosts.split(' ').any(|it| it == host));
        of_host.next().map(|(number, _, stage)| (number, stage))
    }

    /// All orders: the number, who, what.
    fn orders(&self) -> Vec<(u64, String, Stage)> {
        let order = |output: &Output| match output {
            Output::Order {
                number,
                hosts,
                stage,
            } => {
                let hosts: Vec<&str> = hosts.iter().map(NodeId::as_str).collect();
                Some((*number, hosts.join(" "), *stage))
            }
            _ => None,
        };
        self.seen.iter().filter_map(order).collect()
    }

    /// Who was told a stage, order by order.
    fn told_to(&self, stage: Stage) -> Vec<String> {
        let orders = self.orders().into_iter().filter(|order| order.2 == stage);
        orders.map(|(_, hosts, _)| hosts).collect()
    }

    fn state(&self, host: &str) -> HostState {
        self.engine.hosts()[&name(host)].state.clone()
    }

    /// For what it waits, and for whom.
    fn waits(&self) -> Option<(WaitingOn, String)> {
        let wait = self.engine.wait()?;
        let hosts: Vec<&str> = wait.hosts.iter().map(NodeId::as_str).collect();
        Some((wait.on, hosts.join(" ")))
    }

    fn verdict(&self) -> Option<&Verdict> {
        self.seen.iter().find_map(|output| match output {
            Output::Ended(verdict) => Some(verdict),
            _ => None,
        })
    }

    /// Every host that is to confirm the finalization does.
    fn finish(&mut self) -> Option<Verdict> {
        let promoted = self.hosts_in(&HostState::Promoted);
        for host in promoted.split_whitespace() {
            let (number, _) = self.told(host).unwrap();
            self.report(host, number, Outcome::Done, true);
        }
        self.verdict().cloned()
    }

    fn hosts_in(&self, state: &HostState) -> String {
        let hosts = self.engine.hosts().iter();
        let found = hosts.filter(|(_, host)| host.state == *state);
        let found: Vec<&str> = found.map(|(host, _)| host.as_str()).collect();
        found.join(" ")
    }

    /// Whether a host was told that the release is the stable one.
    fn was_told_final(&self, host: &str) -> bool {
        let is_it = |output: &Output| match output {
            Output::Finalize { hosts } => hosts.contains(&name(host)),
            _ => false,
        };
        self.seen.iter().any(is_it)
    }
}
