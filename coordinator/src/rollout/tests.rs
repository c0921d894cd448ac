//! The rollout engine, one behaviour each.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use scap_proto::{
    id::{NodeId, ReleaseId},
    release::{BytesBySource, Outcome, Report, Stage, Standing},
};

use super::*;

const SECOND: Duration = Duration::from_secs(1);

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

impl Bench {
    fn new(canary: &[&str], rest: &[&str]) -> Self {
        let wave = |title: &str, hosts: &[&str], is_gate| Wave {
            name: title.into(),
            hosts: hosts.iter().map(|host| name(host)).collect(),
            is_gate,
        };
        let waves = vec![wave("canary", canary, true), wave("rest", rest, false)];
        let config = Config {
            release: release(),
            sequence: 7,
            epoch: 1,
            waves: waves
                .into_iter()
                .filter(|wave| !wave.hosts.is_empty())
                .collect(),
            away_max: 30 * SECOND,
            stall_max: 60 * SECOND,
            finalize_max: 5 * SECOND,
        };
        let mut bench = Self {
            engine: Engine::new(config),
            now: SECOND,
            counter: 0,
            seen: Vec::new(),
        };
        for host in canary.iter().chain(rest) {
            bench.feed(Input::Connected(name(host)));
            bench.report(host, 0, Outcome::Idle, false);
        }
        bench
    }

    /// Lets time pass, with all that is to happen in it.
    fn pass_to(&mut self, until: Duration) {
        while let Some(at) = self.engine.poll_timeout().filter(|at| *at <= until) {
            self.now = self.now.max(at);
            self.feed(Input::Timeout);
        }
        self.now = until;
    }

    fn working(&mut self, host: &str, number: u64) {
        let outcome = Outcome::Working {
            chunks_held: 0,
            chunks_total: 9,
            waiting: String::new(),
        };
        self.report(host, number, outcome, false);
    }

    /// A host refuses what somebody sent.
    fn refuse(&mut self, host: &str, of: ReleaseId) {
        let outcome = Outcome::Refused {
            reason: "no".into(),
        };
        let report = self.next_report(host, 0, outcome, false).refusing(of);
        self.feed(Input::Report(Box::new(report)));
    }

    fn feed(&mut self, input: Input) {
        self.engine.handle_input(self.now, input);
        while let Some(output) = self.engine.poll_output() {
            self.seen.push(output);
        }
    }

    fn report(&mut self, host: &str, number: u64, outcome: Outcome, live: bool) {
        let report = self.next_report(host, number, outcome, live);
        self.feed(Input::Report(Box::new(report)));
    }

    fn next_report(&mut self, host: &str, number: u64, outcome: Outcome, live: bool) -> Report {
        self.counter += 1;
        let standing = Standing {
            live: live.then(release),
            ..Standing::default()
        };
        Report {
            host: name(host),
            repo: "repo".parse().unwrap(),
            environment: Default::default(),
            release: Some(release()),
            counter: self.counter,
            stage: Stage::Fetch,
            directive: (1, number),
            outcome,
            bytes: BytesBySource::default(),
            fetch_millis: 1,
            prepare_millis: 1,
            promote_millis: 1,
            standing,
            extensions: Default::default(),
        }
    }

    fn orders(&self) -> Vec<(u64, Vec<&str>, Stage)> {
        let order = |output: &Output| match output {
            Output::Order {
                number,
                hosts,
                stage,
            } => Some((*number, hosts.iter().map(|h| name_of(h)).collect(), *stage)),
            _ => None,
        };
        self.seen.iter().filter_map(order).collect()
    }

    fn verdict(&self) -> Option<&Verdict> {
        match self.seen.last() {
            Some(Output::Ended(verdict)) => Some(verdict),
            _ => None,
        }
    }
}

fn name_of(host: &NodeId) -> &'static str {
    ["a", "b", "c"]
        .into_iter()
        .find(|text| *text == host.as_str())
        .unwrap()
}

#[test]
fn the_canary_goes_first_and_a_wave_promotes_only_what_all_of_it_fetched() {
    let mut bench = Bench::new(&["a"], &["b", "c"]);
    bench.feed(Input::Start);
    bench.report("a", 1, Outcome::Done, false);
    bench.report("a", 2, Outcome::Done, true);
    bench.report("b", 3, Outcome::Done, false);
    assert_eq!(bench.orders().len(), 3, "c still fetches");
    bench.report("c", 3, Outcome::Done, false);
    bench.report("b", 4, Outcome::Done, true);
    bench.report("c", 4, Outcome::Done, true);
    assert_eq!(
        bench.orders(),
        [
            (1, vec!["a"], Stage::Fetch),
            (2, vec!["a"], Stage::Promote),
            (3, vec!["b", "c"], Stage::Fetch),
            (4, vec!["b", "c"], Stage::Promote),
        ]
    );
    let finalize = Output::Finalize {
        hosts: vec![name("a"), name("b"), name("c")],
    };
    assert_eq!(bench.seen.last(), Some(&finalize));
    bench.now += 5 * SECOND;
    bench.feed(Input::Timeout);
    assert_eq!(bench.verdict(), Some(&Verdict::Done));
}

#[test]
fn a_failed_canary_stops_the_rollout_and_the_rest_is_never_told() {
    let mut bench = Bench::new(&["a"], &["b"]);
    bench.feed(Input::Start);
    bench.report("a", 1, Outcome::Done, false);
    bench.report(
        "a",
        2,
        Outcome::Failed {
            reason: "disk".into(),
        },
        false,
    );
    assert_eq!(
        bench.verdict(),
        Some(&Verdict::Stopped {
            wave: "canary".into()
        })
    );
    assert!(
        bench
            .orders()
            .iter()
            .all(|(_, hosts, _)| !hosts.contains(&"b"))
    );
    assert_eq!(bench.engine.hosts()[&name("b")].state, HostState::Skipped);
}

#[test]
fn a_host_that_is_away_too_long_is_unreachable_and_the_rest_is_finalized() {
    let mut bench = Bench::new(&[], &["a", "b"]);
    bench.feed(Input::Start);
    bench.feed(Input::Away {
        host: name("b"),
        reason: "no route".into(),
    });
    bench.report("a", 1, Outcome::Done, false);
    bench.pass_to(31 * SECOND);
    bench.report("a", 2, Outcome::Done, true);
    assert_eq!(
        bench.seen.last(),
        Some(&Output::Finalize {
            hosts: vec![name("a")]
        })
    );
    bench.now += 5 * SECOND;
    bench.feed(Input::Timeout);
    assert_eq!(bench.verdict(), Some(&Verdict::Incomplete));
    let state = &bench.engine.hosts()[&name("b")].state;
    assert_eq!(*state, HostState::Unreachable("no route".into()));
}

#[test]
fn a_host_that_comes_back_is_told_again_and_a_replayed_report_says_nothing() {
    let mut bench = Bench::new(&[], &["a"]);
    bench.feed(Input::Start);
    bench.feed(Input::Away {
        host: name("a"),
        reason: "restart".into(),
    });
    bench.feed(Input::Connected(name("a")));
    bench.pass_to(2 * SECOND);
    let orders = bench.orders();
    assert_eq!(orders.len(), 2);
    assert_eq!(orders[0], orders[1]);
    bench.report("a", 1, Outcome::Done, false);
    bench.counter -= 1;
    bench.report("a", 2, Outcome::Done, true);
    assert_eq!(bench.engine.hosts()[&name("a")].state, HostState::Promoting);
}

#[test]
fn a_host_that_claims_to_be_done_without_having_it_live_is_not_believed() {
    let mut bench = Bench::new(&[], &["a"]);
    bench.feed(Input::Start);
    bench.report("a", 1, Outcome::Done, false);
    bench.report("a", 2, Outcome::Done, false);
    assert_eq!(bench.engine.hosts()[&name("a")].state, HostState::Promoting);
    bench.pass_to(bench.now + 60 * SECOND);
    assert_eq!(bench.verdict(), Some(&Verdict::Incomplete));
}

#[test]
fn an_order_that_nobody_confirms_is_told_again_and_its_host_dialled_from_here() {
    let mut bench = Bench::new(&[], &["a", "b", "c"]);
    bench.feed(Input::Start);
    bench.working("c", 1);
    bench.pass_to(8 * SECOND);
    let again = (1, vec!["a", "b"], Stage::Fetch);
    assert_eq!(
        bench.orders(),
        [(1, vec!["a", "b", "c"], Stage::Fetch), again.clone(), again]
    );
    let suspects = |bench: &Bench| {
        let is_one = |output: &&Output| matches!(output, Output::Suspect { .. });
        bench.seen.iter().filter(is_one).count()
    };
    assert_eq!(suspects(&bench), 2);
    // That it is said to be reached is no news of it, and does not put off when it is given up.
    bench.feed(Input::Connected(name("a")));
    bench.working("b", 1);
    bench.pass_to(14 * SECOND);
    assert_eq!(bench.orders().len(), 4);
    assert_eq!(bench.orders()[3].1, ["a"]);
    bench.pass_to(61 * SECOND);
    let state = |host| bench.engine.hosts()[&name(host)].state.clone();
    assert_eq!(state("a"), HostState::Failed("no progress for 60 s".into()));
    assert_eq!(state("b"), HostState::Fetching);
}

#[test]
fn a_refusal_counts_where_it_is_of_our_order_and_stands() {
    let mut bench = Bench::new(&[], &["a", "b", "c"]);
    bench.feed(Input::Start);
    let state = |bench: &Bench, host| bench.engine.hosts()[&name(host)].state.clone();
    // Somebody sends an order that has no authority, before ours is there, and after.
    bench.refuse("a", release());
    bench.working("a", 1);
    bench.refuse("a", release());
    bench.refuse("b", ReleaseId::of(b"another"));
    bench.refuse("c", release());
    assert_eq!(state(&bench, "c"), HostState::Fetching);
    bench.pass_to(4 * SECOND);
    assert_eq!(state(&bench, "a"), HostState::Fetching);
    assert_eq!(state(&bench, "b"), HostState::Fetching);
    assert_eq!(state(&bench, "c"), HostState::Failed("refused: no".into()));
}

#[test]
fn that_a_host_is_reached_is_believed_when_it_says_so_itself() {
    let mut bench = Bench::new(&[], &["a", "b"]);
    bench.feed(Input::Start);
    bench.working("a", 1);
    let away = |bench: &mut Bench| {
        let reason = "lost".to_owned();
        let host = name("a");
        bench.feed(Input::Away { host, reason });
    };
    away(&mut bench);
    for second in 2..30 {
        bench.pass_to(second * SECOND);
        bench.feed(Input::Connected(name("a")));
        away(&mut bench);
    }
    bench.pass_to(32 * SECOND);
    let state = bench.engine.hosts()[&name("a")].state.clone();
    assert_eq!(state, HostState::Unreachable("lost".into()));
}

#[test]
fn a_finalization_is_told_again_to_who_did_not_confirm_it() {
    let mut bench = Bench::new(&[], &["a"]);
    bench.feed(Input::Start);
    bench.report("a", 1, Outcome::Done, false);
    bench.report("a", 2, Outcome::Done, true);
    let told = |bench: &Bench| {
        let is_one = |output: &&Output| matches!(output, Output::Finalize { .. });
        bench.seen.iter().filter(is_one).count()
    };
    assert_eq!(told(&bench), 1);
    bench.pass_to(bench.now + 3 * SECOND);
    assert_eq!(told(&bench), 2);
    bench.pass_to(bench.now + 3 * SECOND);
    assert_eq!(bench.verdict(), Some(&Verdict::Done));
}
