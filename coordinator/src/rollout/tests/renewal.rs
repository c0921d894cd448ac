//! The dead-man time: hosts are kept from going back, and what counts when one does.

use super::*;

const TIME: Duration = Duration::from_secs(40);

/// A canary that soaks for an hour, and the rest; hosts go back that hear of nobody for 40 s.
fn bench() -> Bench {
    let waves = [
        wave("canary", "a").soaking(3600 * SECOND),
        wave("rest", "b"),
    ];
    let mut bench = Bench::of(waves);
    bench.engine.config.dead_man = Some(TIME);
    bench.feed(Input::Start);
    bench
}

/// A report of a host that went back, about that directive.
fn went_back(bench: &mut Bench, host: &str, number: u64) {
    let report = bench.next_report(host, number, failed("it went back by itself"), false);
    let report = Report {
        stage: Stage::Revert,
        ..report
    };
    bench.feed(Input::Report(Box::new(report)));
}

#[test]
fn who_has_it_live_hears_four_times_in_the_time_that_somebody_is_there_and_others_do_not() {
    let mut bench = bench();
    bench.done("a");
    assert_eq!(bench.told_to(Stage::Fetch), ["a"], "nobody has it live yet");
    bench.done("a");
    assert_eq!(bench.state("a"), HostState::Promoted);
    bench.done("b");
    let mut numbers = Vec::new();
    for _ in 0..8 {
        bench.pass(TIME / 4);
        let (number, stage) = bench.told("a").unwrap();
        assert_eq!(stage, Stage::Promote);
        numbers.push(number);
        // It is where it was, whatever it has said by now.
        assert_eq!(bench.state("a"), HostState::Promoted);
        bench.done("a");
    }
    assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
    assert_eq!(bench.told_to(Stage::Fetch), ["a", "b"], "b is told once");
}

#[test]
fn it_is_renewed_while_a_person_has_paused_it_and_not_once_it_goes_back_or_is_finalized() {
    let mut bench = bench();
    bench.done("a");
    bench.done("a");
    bench.tell(Command::Pause).unwrap();
    let (before, _) = bench.told("a").unwrap();
    bench.pass(TIME / 4);
    assert!(bench.told("a").unwrap().0 > before);
    bench.tell(Command::Abort).unwrap();
    bench.pass(TIME);
    assert_eq!(bench.told("a").unwrap().1, Stage::Revert);

    let mut bench = self::bench();
    bench.done("a");
    bench.done("a");
    bench.promote().unwrap();
    bench.done("b");
    bench.done("b");
    assert_eq!(bench.finish(), Some(Verdict::Done));
    assert_eq!(bench.engine.poll_timeout(), None);
}

#[test]
fn a_host_that_is_back_hears_at_once_what_it_missed() {
    let mut bench = bench();
    bench.done("a");
    bench.done("a");
    bench.away("a");
    bench.pass(TIME / 4);
    let renewed = bench.told("a").unwrap();
    let orders = bench.orders().len();
    bench.feed(Input::Connected(name("a")));
    bench.pass(SECOND / 2);
    assert_eq!(bench.told("a"), Some(renewed));
    assert_eq!(bench.orders().len(), orders + 1, "the same, once more");
}

#[test]
fn a_host_that_went_back_by_itself_failed_and_is_not_told_to_promote_again() {
    let mut bench = bench();
    bench.done("a");
    bench.done("a");
    let (heard, _) = bench.told("a").unwrap();
    bench.away("a");
    bench.pass(TIME / 4);
    // It speaks of an order before the latest, and that is enough.
    went_back(&mut bench, "a", heard);
    let reason = "it went back by itself".to_owned();
    assert_eq!(
        bench.engine.hosts()[&name("a")]
            .failure
            .as_ref()
            .map(|it| &it.text),
        Some(&reason)
    );
    assert!(!bench.engine.hosts()[&name("a")].is_touched);
    let orders = bench.told_to(Stage::Promote).len();
    bench.pass(4 * TIME);
    assert_eq!(bench.told_to(Stage::Promote).len(), orders);
    assert!(matches!(
        bench.verdict(),
        Some(Verdict::RolledBack(Cause::Budget { failed: 1, .. }))
    ));
}

#[test]
fn without_a_dead_man_time_nothing_is_renewed() {
    let waves = [
        wave("canary", "a").soaking(3600 * SECOND),
        wave("rest", "b"),
    ];
    let mut bench = Bench::of(waves).start();
    bench.done("a");
    bench.done("a");
    bench.done("b");
    bench.pass(3000 * SECOND);
    assert_eq!(bench.orders().len(), 3);
}

#[test]
fn who_comes_back_without_what_it_had_live_fails_though_it_has_not_heard_the_latest_renewal() {
    let mut bench = Bench::of([wave("all", "a b").in_groups_of(1)]);
    bench.engine.config.dead_man = Some(TIME);
    bench.feed(Input::Start);
    bench.done("a b");
    bench.done("a");
    let (heard, _) = bench.told("a").unwrap();
    bench.away("a");
    bench.pass(TIME / 4);
    bench.done("b");
    assert!(bench.told("a").unwrap().0 > heard, "it was renewed");
    bench.report("a", heard, Outcome::Done, false);
    let failure = bench.engine.hosts()[&name("a")].failure.as_ref();
    assert_eq!(failure.map(|it| it.code), Some(Reason::LiveNoMore));
    assert!(!bench.was_told_final("a"));
}
