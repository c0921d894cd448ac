//! Reports that are held back, said again, or counted anew.

use super::*;

/// It goes on by a second grant, and heard of `a` before, up to this counter.
fn known(counter: u64) -> Bench {
    Bench::silent(Config {
        epoch: 2,
        counters: [(name("a"), counter)].into(),
        ..Bench::config(Prefetch::default(), [wave("all", "a")])
    })
}

#[test]
fn b13_what_is_said_again_from_before_makes_no_host_healthy() {
    let mut bench = known(100);
    bench.counter = 50;
    // What `a` said of itself under the grant before: it had the release live, and finalized.
    let old = |bench: &mut Bench, number| {
        let mut report = bench.next_report("a", number, Outcome::Done, true);
        report.directive = (1, number);
        report.standing.finalized_sequence = 7;
        bench.feed(Input::Report(Box::new(report)));
    };
    old(&mut bench, 1);
    bench.feed(Input::Start);
    assert_eq!(bench.told_to(Stage::Fetch), ["a"], "it may be there");
    for number in 1..4 {
        old(&mut bench, number);
    }
    let host = &bench.engine.hosts()[&name("a")];
    assert!(!host.is_live && !host.is_finalized && host.is_old_news);
    bench.pass(120 * SECOND);
    let HostState::Failed(because) = bench.state("a") else {
        panic!("{:?}", bench.state("a"));
    };
    assert_eq!(because.code, Reason::NoReport);
    assert!(because.text.contains("older"), "{because}");
    assert_ne!(bench.verdict(), Some(&Verdict::Done));
}

#[test]
fn a_host_that_counts_anew_is_told_from_what_is_said_again_by_what_it_was_told_now() {
    let mut bench = known(100);
    bench.counter = 50;
    bench.report("a", 0, Outcome::Idle, false);
    bench.feed(Input::Start);
    bench.done("a");
    assert_eq!(bench.state("a"), HostState::Promoting);
    bench.done("a");
    bench.done("a");
    let host = &bench.engine.hosts()[&name("a")];
    assert!(host.has_lost_count && !host.is_old_news);
    assert_eq!(bench.verdict(), Some(&Verdict::Done));
    let counters = bench.engine.counters();
    assert!(counters[&name("a")] < 100, "it counts from there now");
}

#[test]
fn b13_a_host_whose_reports_are_held_back_counts_as_not_heard_of_and_never_as_healthy() {
    let mut bench = Bench::new("a", "b").start();
    bench.feed(Input::Connected(name("a")));
    bench.pass(59 * SECOND);
    assert_eq!(bench.state("a"), HostState::Fetching);
    bench.pass(5 * SECOND);
    let HostState::Failed(because) = bench.state("a") else {
        panic!("{:?}", bench.state("a"));
    };
    assert_eq!(because.code, Reason::NoReport);
    assert_eq!(because.text, "no report for 60 s about what it was told");
    assert_eq!(bench.told_to(Stage::Promote), Vec::<String>::new());
}

#[test]
fn what_a_host_saw_is_that_of_its_latest_report_and_that_it_was_stale_is_kept() {
    let mut bench = Bench::new("a", "b");
    let seen = Sighting {
        code: Reason::WrongBytes,
        peer: Some(name("b")),
        count: 3,
        last: UnixMillis(5),
    };
    let report = bench.next_report("a", 0, Outcome::Idle, false);
    let report = report
        .having_seen(std::slice::from_ref(&seen))
        .stale(UnixMillis(9));
    bench.feed(Input::Report(Box::new(report)));
    let mut bench = bench.start();
    let report = bench.next_report("a", 1, Outcome::Done, false);
    let more = Sighting { count: 4, ..seen };
    let report = report.having_seen(std::slice::from_ref(&more));
    bench.feed(Input::Report(Box::new(report)));
    let host = &bench.engine.hosts()[&name("a")];
    assert_eq!(host.saw, [more]);
    assert_eq!(host.stale_since, Some(UnixMillis(9)));
}
