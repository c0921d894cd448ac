//! The lines of a deployment, as a person sees them.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use scap_proto::{
    id::{NodeId, ReleaseId},
    release::{BytesBySource, Outcome, Report, Stage, Standing},
};

use super::lines::Size;
use super::{fit::width, lines::LINES_MAX, *};
use crate::{
    fleet::{Inventory, places::Places},
    rollout::{Budget, Command, Config, Engine, Input, Output, Policy, Prefetch, Steps, Wave},
};

const SECOND: Duration = Duration::from_secs(1);
const MIB: u64 = 1024 * 1024;

/// A fleet of `c1` to `c3`, which are the canary, and `w01` to `w27`; its engine, and who was told what.
struct Bench {
    engine: Engine,
    now: Duration,
    counter: u64,
    told: BTreeMap<NodeId, (u64, Stage)>,
    rates: Rates,
    sheet: Sheet,
    shown: Shown,
}

fn names(first: usize, last: usize, name: impl Fn(usize) -> String) -> Vec<NodeId> {
    (first..=last).map(|n| name(n).parse().unwrap()).collect()
}

fn canary() -> Vec<NodeId> {
    names(1, 3, |n| format!("c{n}"))
}

fn rest() -> Vec<NodeId> {
    names(1, 27, |n| format!("w{n:02}"))
}

impl Bench {
    fn new() -> Self {
        let mut fleet = "[seed]\nrate_mbit = 1000\n".to_owned();
        for host in canary().iter().chain(&rest()) {
            fleet += &format!("[[host]]\nname = '{host}'\naddress = 'h:1'\nrate_mbit = 100\n");
        }
        let fleet = Inventory::parse(&fleet, Path::new("fleet.toml")).unwrap();
        let waves = vec![
            Wave::new("canary", canary().into_iter().collect()).soaking(300 * SECOND),
            Wave::new("rest", rest().into_iter().collect())
                .losing(Budget::Count(2))
                .soaking(60 * SECOND),
        ];
        let policy = Policy {
            waves,
            prefetch: Prefetch::Wave,
            is_limited: false,
        };
        let config = Config {
            release: ReleaseId::of(b"release"),
            sequence: 7,
            epoch: 1,
            goes_back: false,
            is_finalized: false,
            dead_man: None,
            granted_until: 86_400 * SECOND,
            policy,
            away_max: 60 * SECOND,
            stall_max: 300 * SECOND,
            is_stall_exact: true,
            steps: Steps::default(),
            steps_back: Steps::default(),
            reach: None,
            external_check: None,
            counters: BTreeMap::new(),
            finalize_max: 10 * SECOND,
        };
        let oid = |digit: &str| digit.repeat(40).parse().unwrap();
        let mut bench = Self {
            engine: Engine::new(config),
            now: Duration::ZERO,
            counter: 0,
            told: BTreeMap::new(),
            rates: Rates::default(),
            sheet: Sheet {
                about: ("mw/config".parse().unwrap(), Default::default()),
                from: Some(oid("4")),
                to: Some(oid("9")),
                subject: Some("Raise job \u{1b}[2J limit".to_owned()),
                author: Some("Alice".to_owned()),
                rollout: "r-7a3c1f".to_owned(),
                new_bytes: 400 * MIB,
                all_bytes: 3174 * MIB,
                seconds_per_byte: Sheet::bound(&fleet),
                budget_hold: Some(600 * SECOND),
                approval_hold: None,
                places: Arc::new(Places::of(&fleet, &[])),
            },
            shown: Shown::default(),
        };
        for host in canary().into_iter().chain(rest()) {
            bench.says(&host, Outcome::Idle, false, 0);
        }
        bench.feed(Input::Start);
        bench
    }

    fn feed(&mut self, input: Input) {
        self.engine.handle_input(self.now, input);
        while let Some(output) = self.engine.poll_output() {
            if let Output::Order {
                number,
                hosts,
                stage,
            } = output
            {
                self.told
                    .extend(hosts.into_iter().map(|host| (host, (number, stage))));
            }
        }
    }

    fn feed_command(&mut self, command: Command) {
        self.engine.command(self.now, command).unwrap();
        self.feed(Input::Timeout);
    }

    fn pass(&mut self, seconds: u64) {
        let until = self.now + SECOND * u32::try_from(seconds).unwrap();
        while self.now < until {
            self.now += SECOND;
            self.rates.note(self.now, self.engine.hosts());
            if self.engine.poll_timeout().is_some_and(|at| at <= self.now) {
                self.feed(Input::Timeout);
            }
        }
    }

    fn says(&mut self, host: &NodeId, outcome: Outcome, live: bool, mib: u64) {
        self.counter += 1;
        let release = ReleaseId::of(b"release");
        let number = self.told.get(host).map_or(0, |(number, _)| *number);
        self.feed(Input::Report(Box::new(Report {
            host: host.clone(),
            repo: "mw/config".parse().unwrap(),
            environment: Default::default(),
            release: Some(release),
            counter: self.counter,
            stage: Stage::Fetch,
            directive: (1, number),
            outcome,
            bytes: BytesBySource {
                seed: mib * MIB / 4,
                peers: mib * MIB * 3 / 4,
                reuse: 7 * mib * MIB,
            },
            fetch_millis: 40_000,
            prepare_millis: 1,
            promote_millis: 1,
            standing: Standing {
                live: live.then_some(release),
                ..Standing::default()
            },
            extensions: Default::default(),
        })));
    }

    fn fetches(&mut self, host: &NodeId, held: u32, mib: u64) {
        let outcome = Outcome::Working {
            chunks_held: held,
            chunks_total: 3200,
            waiting: String::new(),
        };
        self.says(host, outcome, false, mib);
    }

    /// They did what they were told last.
    fn done(&mut self, hosts: &[NodeId]) {
        for host in hosts {
            let (_, stage) = self.told[host];
            self.says(host, Outcome::Done, stage == Stage::Promote, 400);
        }
    }

    fn lines(&self, columns: usize) -> Vec<String> {
        self.lines_of(Size { columns, rows: 24 }, Glyphs::Unicode)
    }

    fn lines_of(&self, size: Size, glyphs: Glyphs) -> Vec<String> {
        let view = View::of(&self.engine, self.now, &self.rates, &self.sheet, self.shown);
        lines(&self.sheet, &view, size, glyphs)
    }
}

fn fetching() -> Bench {
    let mut bench = Bench::new();
    for (second, hosts) in [(1, 3), (1, 3), (1, 3), (4, 2)] {
        bench.pass(second);
        for (at, host) in canary().iter().enumerate().take(hosts) {
            let held =
                u32::try_from(bench.now.as_secs()).unwrap() * 100 * u32::try_from(at + 1).unwrap();
            bench.fetches(host, held, u64::from(held) / 8);
        }
    }
    bench.pass(1);
    bench
}

fn soaking() -> Bench {
    let mut bench = fetching();
    bench.done(&canary());
    bench.pass(2);
    bench.done(&canary());
    bench.pass(170);
    bench
}

fn waiting_on_a_budget() -> Bench {
    let mut bench = soaking();
    bench.pass(131);
    bench.done(&rest());
    for host in &rest()[..4] {
        let reason = "no answer over \u{1b}[31m2 ways".to_owned();
        bench.feed(Input::Away {
            host: host.clone(),
            reason,
        });
    }
    bench.done(&rest()[4..]);
    bench.pass(75);
    bench
}

fn going_back() -> Bench {
    let mut bench = soaking();
    bench.pass(131);
    bench.done(&rest());
    bench.done(&rest()[..20]);
    bench.pass(3);
    bench.feed_command(Command::Abort);
    bench.done(&rest()[..9]);
    bench.pass(5);
    bench
}

#[test]
fn a_fetch_shows_how_far_and_how_fast_it_is_and_who_is_behind() {
    let bench = fetching();
    assert_eq!(
        bench.lines(80),
        [
            "deploy mw/config  to production  rollout r-7a3c1f  [Ctrl-C pauses safely]",
            "wave   1/2 canary  fetch 0/3  promoted 0/3  healthy 0/3  budget 0/0 lost",
            "fleet  new ·································· 0/30  old 30  unknown 0",
            "data   400.0 MiB new of 3.1 GiB  seed 0.2x  peers 75%  50.0 MiB/s now",
            "slow   c1  16.7 MiB/s  700/3200 chunks  moved 1 s ago",
            "wait   chunks of canary  00:08 (oldest 5 of 300 s)  on 3 hosts: c1 c2 c3",
            "next   wave rest (27 hosts)  once live and soaked for 05:00  or pause | abort",
        ]
    );
    assert_eq!(
        bench.lines(40),
        [
            "deploy mw/config  [Ctrl-C pauses]",
            "wave   1/2 canary  promoted 0/3",
            "fleet  new 0/30  old 30  unknown 0",
            "data   400.0 MiB new of 3.1 GiB",
            "slow   c1  16.7 MiB/s  700/3200 chunks",
            "wait   chunks of canary  5 of 300 s",
            "next   wave rest (27 hosts)",
        ]
    );
    let title = "deploy mw/config  to production  4444444 → 9999999  \"Raise job \\u{1b}[2J limit\"  by Alice  \
                 rollout r-7a3c1f  [Ctrl-C pauses safely]";
    assert_eq!(bench.lines(160)[0], title);
}

#[test]
fn a_soak_shows_how_much_of_it_is_left_and_what_comes_next() {
    let bench = soaking();
    assert_eq!(
        bench.lines(80),
        [
            "deploy mw/config  to production  rollout r-7a3c1f  [Ctrl-C pauses safely]",
            "wave   1/2 canary  fetch 3/3  promoted 3/3  budget 0/0 lost  soak 02:10 left",
            "fleet  new ███······························· 3/30  old 27  unknown 0",
            "data   400.0 MiB new of 3.1 GiB  seed 0.8x  peers 75%  0 B/s now  1.19x bound",
            "wait   soak of canary  02:50 of 05:00",
            "next   wave rest (27 hosts)  after the soak  or promote | pause | abort",
        ]
    );
    assert_eq!(
        bench.lines(40),
        [
            "deploy mw/config  [Ctrl-C pauses]",
            "wave   1/2 canary  promoted 3/3",
            "fleet  new 3/30  old 27  unknown 0",
            "data   400.0 MiB new of 3.1 GiB",
            "wait   soak of canary  02:50 of 05:00",
            "next   wave rest (27 hosts)",
        ]
    );
}

#[test]
fn a_wait_on_a_budget_shows_who_was_lost_and_why_and_what_a_person_may_do() {
    let bench = waiting_on_a_budget();
    assert_eq!(
        bench.lines(80),
        [
            "deploy mw/config  to production  rollout r-7a3c1f  [Ctrl-C pauses safely]",
            "wave   2/2 rest  fetch 23/27  promoted 23/27  healthy 23/27  budget 4/2 lost",
            "fleet  new █████████████████████████████·???? 26/30  old 0  unknown 4",
            "data   400.0 MiB new of 3.1 GiB  seed 7.5x  peers 75%  0 B/s now  1.19x bound",
            "lost   4 hosts: w01 w02 and 2 more  no answer over \\u{1b}[31m2 ways",
            "wait   budget of rest  00:15 of 10:00  on 4 hosts: w01 w02 w03 w04",
            "next   scap-coordinator resume | pause | retry --failed | skip HOST | abort",
        ]
    );
    assert_eq!(
        bench.lines(40),
        [
            "deploy mw/config  [Ctrl-C pauses]",
            "wave   2/2 rest  promoted 23/27",
            "fleet  new 26/30  old 0  unknown 4",
            "data   400.0 MiB new of 3.1 GiB",
            "lost   4 hosts: w01 w02 and 2 more  no~",
            "wait   budget of rest  00:15 of 10:00",
            "next   resume | pause | retry --failed~",
        ]
    );
}

#[test]
fn a_rollback_shows_how_many_are_back_of_those_that_were_switched() {
    let bench = going_back();
    assert_eq!(
        bench.lines(80),
        [
            "deploy mw/config  to production  rollout r-7a3c1f  [Ctrl-C pauses safely]",
            "back   9/30 hosts went back, of 2 waves  rest 9/27  canary 0/3  elapsed 05:19",
            "fleet  new ███████████████▌·················· 14/30  old 16  unknown 0",
            "data   400.0 MiB new of 3.1 GiB  seed 7.5x  peers 75%  0 B/s now  1.19x bound",
            "wait   rollback of rest  00:05 (oldest 5 of 300 s)  on 18 hosts",
            "next   the end  once every host that was switched is back",
        ]
    );
    assert_eq!(
        bench.lines(40),
        [
            "deploy mw/config  [Ctrl-C pauses]",
            "back   9/30 hosts went back, of 2 waves",
            "fleet  new 14/30  old 16  unknown 0",
            "data   400.0 MiB new of 3.1 GiB",
            "wait   rollback of rest  5 of 300 s",
            "next   the end",
        ]
    );
}

#[test]
fn hosts_are_shown_as_far_as_there_is_room_and_how_many_more_there_are() {
    let mut bench = waiting_on_a_budget();
    bench.shown.hosts = true;
    let size = Size {
        columns: 80,
        rows: 14,
    };
    let lines = bench.lines_of(size, Glyphs::Ascii);
    assert_eq!(lines.len(), 13);
    let reason = "no answer over \\u{1b}[31m2 ways";
    assert_eq!(
        lines[7],
        format!("host   w01               unreachable  {reason}")
    );
    assert_eq!(lines[12], "host   and 25 more");
    bench.shown = Shown {
        hosts: false,
        tree: true,
    };
    let size = Size {
        columns: 80,
        rows: 60,
    };
    let lines = bench.lines_of(size, Glyphs::Ascii);
    assert_eq!(lines.len(), 7 + 30);
    assert_eq!(lines[7], "host   c1                promoted");
    assert!(lines[8].starts_with("host     "), "below it: {lines:#?}");
}

#[test]
fn nothing_ever_wraps_or_does_anything_else_to_a_terminal() {
    for bench in [
        Bench::new(),
        fetching(),
        soaking(),
        waiting_on_a_budget(),
        going_back(),
    ] {
        for columns in 0..180 {
            for rows in [0, 1, 2, 3, 8, 24] {
                let size = Size { columns, rows };
                let lines = bench.lines_of(size, Glyphs::Ascii);
                assert!(
                    lines.len() <= LINES_MAX.min(rows.saturating_sub(1)),
                    "{lines:#?}"
                );
                for line in &lines {
                    assert!(width(line) < columns.max(1), "{columns}: {line}");
                    assert!(line.chars().all(|it| (' '..='~').contains(&it)), "{line}");
                }
                if rows >= 3 && columns > 8 {
                    let wait = &lines[lines.len() - 2];
                    assert!(wait.starts_with("wait "), "{lines:#?}");
                }
            }
        }
    }
}
