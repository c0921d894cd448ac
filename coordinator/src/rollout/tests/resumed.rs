//! A rollout that goes on with another's, and one that another goes on with.

use super::*;

fn config(goes_back: bool, waves: impl IntoIterator<Item = Wave>) -> Config {
    Config {
        epoch: 2,
        goes_back,
        ..Bench::config(Prefetch::default(), waves)
    }
}

/// It goes on by a second grant; nobody has said anything yet.
fn resumed(goes_back: bool, waves: impl IntoIterator<Item = Wave>) -> Bench {
    Bench::silent(config(goes_back, waves))
}

/// What a host says that the grant before directed to that.
fn stands(bench: &mut Bench, host: &str, stage: Stage, live: bool) {
    let report = Report {
        stage,
        directive: (1, 3),
        ..bench.next_report(host, 3, Outcome::Done, live)
    };
    bench.feed(Input::Report(Box::new(report)));
}

fn followed(bench: &mut Bench, host: &str, epoch: u64) {
    let report = bench.next_report(host, 1, Outcome::Done, false);
    let report = Report {
        directive: (epoch, 1),
        ..report
    };
    bench.feed(Input::Report(Box::new(report)));
}

#[test]
fn a_host_that_follows_a_later_grant_ends_it_and_nobody_failed() {
    let mut bench = Bench::new("a", "b c").start();
    bench.done("a");
    followed(&mut bench, "c", 2);
    let taken = Verdict::TakenOver {
        host: name("c"),
        epoch: 2,
    };
    assert_eq!(bench.verdict(), Some(&taken));
    let orders = bench.orders().len();
    bench.pass(3600 * SECOND);
    assert_eq!(bench.orders().len(), orders);
    assert!(bench.engine.hosts().values().all(|it| !it.is_lost()));
}

#[test]
fn an_epoch_that_nobody_can_have_come_to_is_a_lie_and_ends_nothing() {
    let mut bench = Bench::new("a", "b").start();
    followed(&mut bench, "a", 1 + EPOCH_JUMP_MAX + 1);
    followed(&mut bench, "b", u64::MAX);
    assert_eq!(bench.verdict(), None);
    followed(&mut bench, "b", 1 + EPOCH_JUMP_MAX);
    assert!(matches!(bench.verdict(), Some(Verdict::TakenOver { .. })));
}

#[test]
fn hosts_that_were_told_before_are_told_at_once_so_that_they_follow_nobody_else() {
    let mut bench = resumed(false, [wave("canary", "a"), wave("rest", "b c")]);
    stands(&mut bench, "a", Stage::Promote, true);
    stands(&mut bench, "b", Stage::Fetch, false);
    let report = bench.next_report("c", 0, Outcome::Idle, false);
    let report = Report {
        release: None,
        directive: (0, 0),
        ..report
    };
    bench.feed(Input::Report(Box::new(report)));
    bench.feed(Input::Start);
    assert_eq!(bench.told_to(Stage::Fetch), ["a b"]);
}

#[test]
fn who_was_not_heard_of_may_run_it_and_is_named_where_it_goes_back() {
    let mut bench = resumed(false, [wave("all", "a b").losing(Budget::Count(1))]);
    stands(&mut bench, "a", Stage::Promote, true);
    bench.feed(Input::Start);
    assert!(bench.engine.hosts()[&name("b")].is_touched);
    bench.done("a");
    bench.tell(Command::Abort).unwrap();
    assert_eq!(bench.told_to(Stage::Revert), ["a b"]);
    bench.done("a");
    bench.pass(31 * SECOND);
    assert_eq!(
        bench.verdict(),
        Some(&Verdict::RollbackIncomplete(Cause::Abort))
    );
    // One that is heard of says how it is.
    let mut bench = resumed(false, [wave("all", "a b")]);
    stands(&mut bench, "a", Stage::Promote, true);
    stands(&mut bench, "b", Stage::Fetch, false);
    bench.feed(Input::Start);
    assert!(bench.engine.hosts()[&name("a")].is_touched);
    assert!(!bench.engine.hosts()[&name("b")].is_touched);
}

#[test]
fn what_was_going_back_goes_on_to_and_does_nothing_else() {
    let mut bench = resumed(true, [wave("canary", "a"), wave("rest", "b c")]);
    stands(&mut bench, "a", Stage::Promote, true);
    stands(&mut bench, "b", Stage::Revert, false);
    stands(&mut bench, "c", Stage::Fetch, false);
    bench.feed(Input::Start);
    assert_eq!(bench.orders().len(), 1);
    assert_eq!(bench.told_to(Stage::Revert), ["a"]);
    bench.done("a");
    assert_eq!(bench.verdict(), Some(&Verdict::RolledBack(Cause::Before)));
}
