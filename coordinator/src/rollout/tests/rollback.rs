//! Going back: who, in which order, and what is said of whom it is not known of.

use super::*;

/// Waves `a b` and `c d` are live, and `e f g` promotes.
fn halfway() -> Bench {
    let waves = [
        wave("one", "a b"),
        wave("two", "c d"),
        wave("three", "e f g"),
        wave("four", "h"),
    ];
    let mut bench = Bench::of(waves).start();
    bench.done("a b");
    bench.done("a b");
    bench.done("c d e f g h");
    bench.done("c d");
    assert_eq!(bench.told_to(Stage::Promote), ["a b", "c d", "e f g"]);
    bench
}

#[test]
fn the_newest_wave_goes_back_first_and_who_was_not_touched_not_at_all() {
    let mut bench = halfway();
    bench.done("e");
    bench.fails("f");
    assert_eq!(
        bench.told_to(Stage::Revert),
        ["e f g"],
        "g may be switching now"
    );
    assert_eq!(bench.waits(), Some((WaitingOn::Rollback, "e f g".into())));
    bench.done("e f");
    assert_eq!(bench.told_to(Stage::Revert).len(), 1);
    bench.done("g");
    assert_eq!(bench.told_to(Stage::Revert), ["e f g", "c d"]);
    bench.done("c d");
    bench.done("a b");
    let reverted = bench.told_to(Stage::Revert);
    assert_eq!(reverted, ["e f g", "c d", "a b"]);
    assert!(matches!(bench.verdict(), Some(Verdict::RolledBack(_))));
    assert_eq!(bench.state("h"), HostState::Fetched);
    let hosts = bench.engine.hosts();
    assert_eq!(
        hosts[&name("f")]
            .failure
            .as_ref()
            .map(|it| it.text.as_str()),
        Some("disk"),
        "the cause is kept"
    );
    assert!(hosts.values().all(|host| !host.is_touched));
}

#[test]
fn a_host_that_says_it_is_back_and_has_the_release_live_is_not_believed() {
    let mut bench = halfway();
    bench.tell(Command::Abort).unwrap();
    let (number, stage) = bench.told("e").unwrap();
    assert_eq!(stage, Stage::Revert);
    bench.report("e", number, Outcome::Done, true);
    assert_eq!(bench.state("e"), HostState::Reverting);
}

#[test]
fn whoever_cannot_be_reached_is_said_to_run_it_perhaps() {
    let mut bench = halfway();
    bench.done("e f g");
    bench.away("c");
    bench.tell(Command::Abort).unwrap();
    bench.done("h");
    bench.done("e f g");
    bench.done("d");
    bench.pass(31 * SECOND);
    bench.done("a b");
    assert_eq!(
        bench.verdict(),
        Some(&Verdict::RollbackIncomplete(Cause::Abort))
    );
    let touched = bench
        .engine
        .hosts()
        .iter()
        .filter(|(_, host)| host.is_touched);
    let touched: Vec<&str> = touched.map(|(host, _)| host.as_str()).collect();
    assert_eq!(touched, ["c"]);
}

#[test]
fn a_host_that_comes_back_while_others_go_back_goes_too() {
    let mut bench = halfway();
    bench.away("e");
    bench.pass(31 * SECOND);
    bench.tell(Command::Abort).unwrap();
    bench.pass(SECOND);
    assert!(matches!(bench.state("e"), HostState::Unreachable(_)));
    bench.report("e", 3, Outcome::Idle, true);
    assert_eq!(bench.told("e").unwrap().1, Stage::Revert);
    bench.done("e f g");
    bench.done("c d");
    bench.done("a b");
    assert_eq!(bench.verdict(), Some(&Verdict::RolledBack(Cause::Abort)));
}

#[test]
fn a_host_whose_stable_release_it_is_stays_with_it() {
    let mut bench = Bench::new("a", "b");
    let mut report = bench.next_report("a", 0, Outcome::Idle, true);
    report.standing.finalized_sequence = 7;
    bench.feed(Input::Report(Box::new(report)));
    bench.feed(Input::Start);
    bench.done("a");
    bench.done("a");
    bench.done("b");
    bench.fails("b");
    bench.done("b");
    assert_eq!(bench.told_to(Stage::Revert), ["b"]);
    assert!(matches!(bench.verdict(), Some(Verdict::RolledBack(_))));
}

#[test]
fn what_an_interrupted_rollout_of_the_same_release_switched_goes_back_too() {
    let mut bench = Bench::new("a", "b c");
    // `c` was switched before, and has not had its turn in this one.
    bench.report("c", 0, Outcome::Idle, true);
    bench.feed(Input::Start);
    bench.fails("a");
    assert_eq!(bench.told_to(Stage::Revert), ["c"]);
    bench.done("c");
    assert!(matches!(bench.verdict(), Some(Verdict::RolledBack(_))));
}

#[test]
fn a_host_that_will_not_go_back_is_named_and_the_others_go() {
    let mut bench = Bench::new("a b", "c").start();
    bench.done("a b");
    bench.done("a b");
    bench.tell(Command::Abort).unwrap();
    bench.fails("a");
    bench.done("b");
    assert_eq!(
        bench.verdict(),
        Some(&Verdict::RollbackIncomplete(Cause::Abort))
    );
    assert_eq!(
        bench.state("a"),
        HostState::Failed(Reason::Failed.because("disk"))
    );
}

#[test]
fn nobody_goes_back_from_a_release_that_was_finalized_before() {
    // `a` has it live, and never heard that it is the stable one; `b` has heard.
    let mut bench = Bench::new("a", "b c d");
    let config = Config {
        is_finalized: true,
        ..bench.engine.config.clone()
    };
    bench.engine = Engine::new(config);
    bench.report("a", 0, Outcome::Idle, true);
    let mut report = bench.next_report("b", 0, Outcome::Idle, true);
    report.standing.finalized_sequence = 7;
    bench.feed(Input::Report(Box::new(report)));
    bench.report("c", 0, Outcome::Idle, false);
    bench.report("d", 0, Outcome::Idle, false);
    bench.feed(Input::Start);
    let told = |bench: &Bench| ["a", "b", "c", "d"].map(|host| bench.was_told_final(host));
    assert_eq!(told(&bench), [true, false, false, false]);
    bench.done("a");
    bench.done("a");
    bench.done("b c d");
    bench.done("b c");
    assert_eq!(
        told(&bench),
        [true, false, true, false],
        "as soon as it is live"
    );
    bench.fails("d");
    assert_eq!(bench.waits(), Some((WaitingOn::Budget, "d".into())));
    assert_eq!(bench.tell(Command::Abort), Err(CommandError::Finalized));
    assert!(bench.engine.hosts().values().all(|host| !host.is_touched));
    bench.tell(Command::Resume).unwrap();
    assert_eq!(bench.finish(), Some(Verdict::Partial));
    assert_eq!(bench.told_to(Stage::Revert), [""; 0]);
}

#[test]
fn a_host_that_hangs_holds_older_waves_for_ten_seconds_and_the_end_for_its_limit() {
    let mut bench = halfway();
    bench.tell(Command::Abort).unwrap();
    bench.done("e f");
    bench.pass(9 * SECOND);
    assert!(!bench.told_to(Stage::Revert).contains(&"c d".to_owned()));
    bench.pass(SECOND);
    assert!(bench.told_to(Stage::Revert).contains(&"c d".to_owned()));
    bench.done("c d");
    bench.done("a b");
    assert_eq!(bench.waits(), Some((WaitingOn::Rollback, "g".into())));
    bench.done("g");
    assert_eq!(bench.verdict(), Some(&Verdict::RolledBack(Cause::Abort)));
}

/// A host says that it is at a check, which may take as long as `u32` has room for.
fn claims(bench: &mut Bench, host: &str, check: &str, chunks_held: u32) {
    let (number, _) = bench.told(host).unwrap();
    let working = Outcome::Working {
        chunks_held,
        chunks_total: 1,
        waiting: String::new(),
    };
    let step = Step::new(Reason::Check, check, Duration::MAX);
    let report = bench.next_report(host, number, working, true).at(&step);
    bench.feed(Input::Report(Box::new(report)));
}

#[test]
fn a_host_that_says_ever_new_steps_keeps_older_waves_from_going_back_for_a_minute_at_most() {
    let mut bench = halfway();
    bench.tell(Command::Abort).unwrap();
    bench.done("f g");
    let began = bench.now;
    while bench.told_to(Stage::Revert).len() == 1 {
        assert!(bench.now < began + 200 * SECOND, "it holds them for ever");
        let step = bench.now.as_secs().to_string();
        let chunks = u32::try_from(bench.now.as_secs()).unwrap();
        claims(&mut bench, "e", &step, chunks);
        bench.pass(SECOND);
    }
    assert_eq!(bench.now, began + 60 * SECOND);
}

#[test]
fn steps_beyond_those_of_the_release_are_no_progress_and_their_limits_are_not_believed() {
    let mut bench = halfway();
    bench.engine.config.steps_back = three_of(100 * SECOND);
    bench.tell(Command::Abort).unwrap();
    bench.done("f g");
    let began = bench.now;
    // Three count, and the first again does not.
    for step in ["one", "two", "three", "one", "four"] {
        claims(&mut bench, "e", step, 1);
        bench.pass(9 * SECOND);
    }
    bench.pass_to(began + 18 * SECOND + 129 * SECOND);
    assert_eq!(bench.state("e"), HostState::Reverting);
    bench.pass(SECOND);
    let HostState::Failed(because) = bench.state("e") else {
        panic!("{:?}", bench.state("e"));
    };
    assert_eq!(because.text, "no progress for 130 s");
}

#[test]
fn on_the_way_back_a_check_that_the_new_release_does_not_have_is_waited_for() {
    let mut bench = halfway();
    bench.engine.config.steps = Steps::default();
    bench.engine.config.steps_back = Steps::default().on_the_way_back();
    bench.tell(Command::Abort).unwrap();
    bench.done("f g");
    claims(&mut bench, "e", "warm", 1);
    bench.pass(10 * SECOND);
    bench.done("c d");
    bench.done("a b");
    bench.pass(3590 * SECOND);
    assert_eq!(bench.state("e"), HostState::Reverting);
    bench.done("e");
    assert_eq!(bench.verdict(), Some(&Verdict::RolledBack(Cause::Abort)));
}

#[test]
fn no_host_keeps_a_rollback_from_ending_by_moving_for_ever() {
    for is_lost_again_and_again in [false, true] {
        let mut bench = halfway();
        bench.engine.config.steps_back = three_of(100 * SECOND);
        bench.tell(Command::Abort).unwrap();
        let began = bench.now;
        bench.done("f g");
        while bench.state("e") == HostState::Reverting {
            assert!(bench.now < began + 3600 * SECOND, "it goes on for ever");
            if is_lost_again_and_again {
                bench.away("e");
                bench.feed(Input::Connected(name("e")));
            }
            let chunks = u32::try_from(bench.now.as_secs()).unwrap();
            claims(&mut bench, "e", "one", chunks);
            bench.pass(SECOND);
        }
        // Away once, still once, three steps.
        assert_eq!(bench.now, began + (30 + 60 + 3 * 100) * SECOND);
        let HostState::Failed(because) = bench.state("e") else {
            panic!("{:?}", bench.state("e"));
        };
        let text = "it did not go back within 390 s, whatever it said meanwhile";
        assert_eq!(because.text, text);
        bench.done("c d");
        bench.done("a b");
        let verdict = bench.verdict();
        assert_eq!(verdict, Some(&Verdict::RollbackIncomplete(Cause::Abort)));
    }
}
