//! Orders that are told again, and reports that say nothing.

use super::{super::host::STEP_MARGIN, *};

impl Bench {
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
}

/// A rollout to hosts that may all be lost.
fn lenient(hosts: &str) -> Bench {
    Bench::of([wave("all", hosts).losing(Budget::Percent(100))]).start()
}

#[test]
fn a_host_that_comes_back_is_told_again_and_a_replayed_report_says_nothing() {
    let mut bench = lenient("a");
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
    let mut bench = lenient("a");
    bench.report("a", 1, Outcome::Done, false);
    bench.report("a", 2, Outcome::Done, false);
    assert_eq!(bench.engine.hosts()[&name("a")].state, HostState::Promoting);
    bench.pass_to(bench.now + 60 * SECOND);
    assert_eq!(bench.verdict(), Some(&Verdict::Failed));
}

#[test]
fn an_order_that_nobody_confirms_is_told_again_and_its_host_dialled_from_here() {
    let mut bench = lenient("a b c");
    bench.working("c", 1);
    bench.pass_to(8 * SECOND);
    let again = (1, "a b".to_owned(), Stage::Fetch);
    assert_eq!(
        bench.orders(),
        [(1, "a b c".to_owned(), Stage::Fetch), again.clone(), again]
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
    assert_eq!(bench.orders()[3].1, "a");
    bench.pass_to(61 * SECOND);
    let state = |host| bench.engine.hosts()[&name(host)].state.clone();
    assert_eq!(
        state("a"),
        HostState::Failed(Reason::NoReport.because("no report for 60 s about what it was told"))
    );
    assert_eq!(state("b"), HostState::Fetching);
}

#[test]
fn a_refusal_counts_where_it_is_of_our_order_and_stands() {
    let mut bench = lenient("a b c");
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
    assert_eq!(
        state(&bench, "c"),
        HostState::Failed(Reason::Refused.because("refused: no"))
    );
}

#[test]
fn that_a_host_is_reached_is_believed_when_it_says_so_itself() {
    let mut bench = lenient("a b");
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
    assert_eq!(state, unreachable("lost"));
}

#[test]
fn a_finalization_is_told_again_to_who_did_not_confirm_it() {
    let mut bench = lenient("a");
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
    assert_eq!(bench.verdict(), Some(&Verdict::Partial));
    let reason =
        "it has the release live, and did not confirm within 5 s that it is the stable one";
    assert_eq!(
        bench.state("a"),
        HostState::Failed(Reason::Unconfirmed.because(reason))
    );
}

#[test]
fn a_host_that_comes_back_has_its_time_to_move_again() {
    let mut bench = lenient("a");
    bench.working("a", 1);
    bench.pass(50 * SECOND);
    bench.away("a");
    bench.pass(20 * SECOND);
    bench.working("a", 1);
    bench.pass(59 * SECOND);
    assert_eq!(bench.state("a"), HostState::Fetching);
    bench.pass(SECOND);
    assert!(matches!(bench.state("a"), HostState::Failed(_)));
}

#[test]
fn nobody_is_told_to_fetch_or_promote_once_the_grant_is_over() {
    let mut bench = Bench::of([wave("one", "a"), wave("two", "b").with_approval(true)]).start();
    bench.done("a");
    bench.done("a");
    bench.done("b");
    bench.pass_to(GRANT - SECOND);
    assert_eq!(bench.waits(), Some((WaitingOn::Approval, String::new())));
    bench.pass(SECOND);
    assert_eq!(bench.waits(), Some((WaitingOn::Grant, String::new())));
    assert_eq!(bench.promote(), Err(CommandError::NotHeld));
    assert_eq!(bench.told_to(Stage::Promote), ["a"]);
    bench.feed(Input::Detach);
    let expected = Verdict::Stopped(Some(WaitingOn::Grant));
    assert_eq!(bench.verdict(), Some(&expected));
}

#[test]
fn what_nobody_heard_is_not_told_again_once_the_grant_is_over() {
    let mut bench = Bench::of([wave("one", "a").with_approval(true)]).start();
    bench.done("a");
    bench.pass_to(GRANT - SECOND);
    bench.promote().unwrap();
    let orders = bench.orders().len();
    bench.pass(30 * SECOND);
    assert_eq!(bench.orders().len(), orders);
    assert_eq!(bench.waits(), Some((WaitingOn::Grant, "a".into())));
    // To go back is no matter of the grant.
    bench.tell(Command::Abort).unwrap();
    assert_eq!(bench.told_to(Stage::Revert), ["a"]);
    bench.pass(4 * SECOND);
    assert_eq!(bench.told_to(Stage::Revert), ["a", "a"], "told again");
}

#[test]
fn why_a_host_failed_or_refused_has_the_code_that_it_says() {
    let mut bench = lenient("a b c d");
    let say = |bench: &mut Bench, host, outcome, code: Option<&str>| {
        let report = bench.next_report(host, 1, outcome, false);
        let report = match code {
            Some(code) => report.because(code.parse().unwrap()),
            None => report,
        };
        bench.feed(Input::Report(Box::new(report)));
    };
    let full = || failed("no room");
    say(&mut bench, "a", full(), Some("disk-full"));
    say(&mut bench, "b", full(), Some("moon-phase"));
    say(&mut bench, "c", full(), None);
    let code = |bench: &Bench, host| {
        let state = bench.state(host);
        state.because().map(|it| it.code.to_string())
    };
    assert_eq!(code(&bench, "a").as_deref(), Some("disk-full"));
    assert_eq!(code(&bench, "b").as_deref(), Some("moon-phase"));
    assert_eq!(code(&bench, "c").as_deref(), Some("failed"));
    let waits = Outcome::Working {
        chunks_held: 1,
        chunks_total: 9,
        waiting: "a peer".into(),
    };
    say(&mut bench, "d", waits, Some("no-peers"));
    let progress = &bench.engine.hosts()[&name("d")];
    assert_eq!(progress.waiting_code, Some(Reason::NoPeers));
}

#[test]
fn what_hosts_are_at_is_told_by_its_name_as_long_as_they_are_at_it() {
    let mut bench = lenient("a b c");
    let check = |name: &str| Step::new(Reason::Check, name, 90 * SECOND);
    let at = |bench: &mut Bench, host, step: &Step| {
        let working = Outcome::Working {
            chunks_held: 1,
            chunks_total: 1,
            waiting: step.to_string(),
        };
        let report = bench.next_report(host, 1, working, false).at(step);
        bench.feed(Input::Report(Box::new(report)));
    };
    at(&mut bench, "a", &check("http"));
    at(&mut bench, "b", &check("http"));
    at(&mut bench, "c", &check("disk"));
    let steps = |bench: &Bench| -> Vec<String> {
        let wait = bench.engine.wait().unwrap();
        let text = |(step, hosts): (&Step, &BTreeSet<NodeId>)| {
            let hosts: Vec<&str> = hosts.iter().map(NodeId::as_str).collect();
            format!("{step} {}", hosts.join(" "))
        };
        wait.steps.iter().map(text).collect()
    };
    assert_eq!(steps(&bench), ["check `disk` c", "check `http` a b"]);
    let why = bench.engine.why(&name("c"), |_| Default::default());
    let links = why.unwrap().links;
    assert_eq!(links[1].text, "it says that it is at check `disk`");
    assert_eq!(links[1].code, Some(Reason::Check));
    assert_eq!(links[1].until, Some(bench.now + 90 * SECOND));
    bench.working("a", 1);
    bench.report("c", 1, Outcome::Done, false);
    assert_eq!(steps(&bench), ["check `http` b"]);
}

#[test]
fn a_step_that_begins_is_progress_and_one_that_lasts_is_none() {
    let mut bench = lenient("a");
    let at = |bench: &mut Bench, step: &str| {
        let working = Outcome::Working {
            chunks_held: 1,
            chunks_total: 1,
            waiting: String::new(),
        };
        let step = Step::new(Reason::Check, step, 30 * SECOND);
        let report = bench.next_report("a", 1, working, false).at(&step);
        bench.feed(Input::Report(Box::new(report)));
    };
    bench.pass_to(50 * SECOND);
    at(&mut bench, "one");
    bench.pass_to(100 * SECOND);
    at(&mut bench, "one");
    at(&mut bench, "two");
    bench.pass_to(150 * SECOND);
    at(&mut bench, "two");
    bench.pass_to(159 * SECOND);
    assert_eq!(bench.state("a"), HostState::Fetching);
    bench.pass_to(160 * SECOND);
    let HostState::Failed(because) = bench.state("a") else {
        panic!("{:?}", bench.state("a"));
    };
    assert_eq!(because.code, Reason::Stalled);
}

#[test]
fn a_host_at_a_check_may_take_as_long_as_the_check_may_unless_a_person_said_how_long() {
    let given_up_at = |is_exact: bool, limit: Duration| {
        let waves = [wave("all", "a").losing(Budget::Percent(100))];
        let mut bench = Bench::of(waves);
        bench.engine = Engine::new(Config {
            is_stall_exact: is_exact,
            ..bench.engine.config.clone()
        });
        bench.report("a", 0, Outcome::Idle, false);
        bench = bench.start();
        let working = Outcome::Working {
            chunks_held: 1,
            chunks_total: 1,
            waiting: "check `slow`".into(),
        };
        let step = Step::new(Reason::Check, "slow", limit);
        let report = bench.next_report("a", 1, working, false).at(&step);
        bench.feed(Input::Report(Box::new(report)));
        let began = bench.now;
        for seconds in 1..2000 {
            bench.pass_to(began + seconds * SECOND);
            if let HostState::Failed(because) = bench.state("a") {
                assert!(because.text.ends_with("it waits for check `slow`"));
                return seconds;
            }
        }
        panic!("it is never given up")
    };
    let margin = u32::try_from(STEP_MARGIN.as_secs()).unwrap();
    assert_eq!(given_up_at(false, 900 * SECOND), 900 + margin);
    assert_eq!(given_up_at(false, 10 * SECOND), 60, "it is never less");
    assert_eq!(given_up_at(true, 900 * SECOND), 60, "as a person said");
}
