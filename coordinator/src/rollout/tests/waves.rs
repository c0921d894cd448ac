//! Waves when all goes well: who fetches and promotes when.

use super::*;

#[test]
fn the_canary_goes_first_and_a_wave_promotes_only_what_all_of_it_fetched() {
    let mut bench = Bench::new("a", "b c").start();
    bench.done("a");
    bench.done("a");
    bench.report("b", 3, Outcome::Done, false);
    assert_eq!(bench.orders().len(), 3, "c still fetches");
    assert_eq!(bench.waits(), Some((WaitingOn::Chunks, "c".into())));
    bench.done("c");
    assert_eq!(bench.waits(), Some((WaitingOn::Promotion, "b c".into())));
    bench.done("b c");
    let order = |number, hosts: &str, stage| (number, hosts.to_owned(), stage);
    assert_eq!(
        bench.orders(),
        [
            order(1, "a", Stage::Fetch),
            order(2, "a", Stage::Promote),
            order(3, "b c", Stage::Fetch),
            order(4, "b c", Stage::Promote),
        ]
    );
    let is_finalize = |it: &Output| matches!(it, Output::Finalize { hosts } if hosts.len() == 3);
    assert!(bench.seen.iter().any(is_finalize));
    assert_eq!(
        bench.waits(),
        Some((WaitingOn::Finalization, "a b c".into()))
    );
    assert_eq!(bench.finish(), Some(Verdict::Done));
    assert_eq!(bench.waits(), None);
}

#[test]
fn others_fetch_while_the_canary_soaks_and_promote_only_after_it() {
    let soaking = wave("canary", "a").soaking(100 * SECOND);
    let mut bench = Bench::of([soaking, wave("two", "b"), wave("three", "c")]).start();
    bench.done("a");
    bench.pass(SECOND);
    assert_eq!(bench.told_to(Stage::Fetch), ["a"], "it is not live yet");
    bench.done("a");
    assert_eq!(bench.told_to(Stage::Fetch), ["a", "b c"]);
    bench.done("b c");
    let wait = bench.engine.wait().unwrap();
    assert_eq!(
        (wait.on, wait.until),
        (WaitingOn::Soak, Some(bench.now + 100 * SECOND))
    );
    bench.pass(99 * SECOND);
    assert_eq!(bench.told_to(Stage::Promote), ["a"]);
    bench.pass(SECOND);
    assert_eq!(bench.told_to(Stage::Promote), ["a", "b"]);
    bench.done("b");
    assert_eq!(
        bench.told_to(Stage::Promote),
        ["a", "b", "c"],
        "no fetch in between"
    );
}

#[test]
fn nobody_fetches_ahead_or_all_do_where_it_is_said() {
    let waves = || [wave("one", "a").soaking(9 * SECOND), wave("two", "b")];
    let mut bench = Bench::prefetching(Prefetch::Wave, waves()).start();
    bench.done("a");
    bench.done("a");
    bench.pass(8 * SECOND);
    assert_eq!(bench.told_to(Stage::Fetch), ["a"]);
    bench.pass(SECOND);
    assert_eq!(bench.told_to(Stage::Fetch), ["a", "b"]);

    let mut bench = Bench::prefetching(Prefetch::All, waves()).start();
    assert_eq!(bench.told_to(Stage::Fetch), ["a b"]);
    bench.done("b");
    bench.pass(20 * SECOND);
    assert_eq!(
        bench.told_to(Stage::Promote),
        [""; 0],
        "not before the first wave"
    );
}

#[test]
fn groups_of_a_wave_fetch_together_and_promote_one_after_the_other() {
    let mut bench = Bench::of([wave("all", "a b c d e").in_groups_of(2)]).start();
    assert_eq!(bench.told_to(Stage::Fetch), ["a b c d e"]);
    bench.done("a b c d");
    assert_eq!(bench.told_to(Stage::Promote), [""; 0]);
    bench.done("e");
    bench.done("a");
    assert_eq!(bench.told_to(Stage::Promote), ["a b"]);
    bench.done("b");
    bench.done("c d");
    assert_eq!(bench.told_to(Stage::Promote), ["a b", "c d", "e"]);
    bench.done("e");
    assert_eq!(bench.finish(), Some(Verdict::Done));
}

#[test]
fn the_last_wave_soaks_before_the_release_is_the_stable_one() {
    let mut bench = Bench::of([wave("all", "a").soaking(50 * SECOND)]).start();
    bench.done("a");
    bench.done("a");
    let is_finalize = |it: &Output| matches!(it, Output::Finalize { .. });
    bench.pass(49 * SECOND);
    assert!(!bench.seen.iter().any(is_finalize));
    bench.pass(SECOND);
    assert!(bench.seen.iter().any(is_finalize));
}

#[test]
fn a_wave_that_needs_approval_fetches_and_waits() {
    let approved = wave("rest", "b").with_approval(true);
    let mut bench = Bench::of([wave("canary", "a"), approved]).start();
    bench.done("a");
    bench.done("a");
    bench.done("b");
    bench.pass(1000 * SECOND);
    assert_eq!(bench.waits(), Some((WaitingOn::Approval, String::new())));
    assert_eq!(bench.told_to(Stage::Promote), ["a"]);
    bench.promote().unwrap();
    assert_eq!(bench.told_to(Stage::Promote), ["a", "b"]);
}

#[test]
fn each_wait_is_told_once_when_it_begins() {
    let mut bench = Bench::new("a", "b").start();
    bench.pass(20 * SECOND);
    bench.done("a");
    bench.pass(20 * SECOND);
    bench.done("a");
    let waits = bench.seen.iter().filter_map(|output| match output {
        Output::Waits(wait) => Some((wait.on, wait.wave.clone().unwrap(), wait.since)),
        _ => None,
    });
    let waits: Vec<_> = waits.collect();
    let expected = [
        (WaitingOn::Chunks, "canary".to_owned(), SECOND),
        (WaitingOn::Promotion, "canary".to_owned(), 21 * SECOND),
        (WaitingOn::Chunks, "rest".to_owned(), 41 * SECOND),
    ];
    assert_eq!(waits, expected);
    assert_eq!(bench.engine.wait().unwrap().since, 41 * SECOND);
}
