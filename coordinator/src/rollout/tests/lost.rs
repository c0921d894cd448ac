//! Hosts that fail or are not reached, at the exact edge of what may be lost.

use scap_proto::release::Reach;

use super::*;

/// A canary `a`, and `b c d e`, of which some may be lost.
fn with_budget(budget: Budget) -> Bench {
    let rest = wave("rest", "b c d e").losing(budget);
    let mut bench = Bench::of([wave("canary", "a"), rest]).start();
    bench.done("a");
    bench.done("a");
    bench
}

#[test]
fn as_many_failures_as_may_be_are_borne_and_one_more_is_not() {
    for budget in [Budget::Count(2), Budget::Percent(50), Budget::Percent(74)] {
        let mut bench = with_budget(budget);
        bench.fails("b");
        bench.done("c d e");
        assert_eq!(bench.told_to(Stage::Promote), ["a", "c d e"], "{budget}");
        bench.fails("c");
        bench.done("d e");
        assert_eq!(bench.finish(), Some(Verdict::Partial), "{budget}");

        let mut bench = with_budget(budget);
        bench.fails("b");
        bench.done("c d e");
        bench.fails("c");
        bench.fails("d");
        let cause = Cause::Budget {
            of: "wave rest".into(),
            failed: 3,
            allowed: 2,
        };
        assert!(bench.seen.contains(&Output::RollsBack(cause)), "{budget}");
        assert_eq!(bench.told_to(Stage::Revert), ["c d e"], "{budget}");
    }
}

#[test]
fn a_failed_canary_ends_it_and_the_rest_is_never_told() {
    let mut bench = Bench::new("a", "b").start();
    bench.done("a");
    bench.fails("a");
    assert_eq!(bench.told_to(Stage::Revert), ["a"], "it may have switched");
    bench.done("a");
    assert!(matches!(bench.verdict(), Some(Verdict::RolledBack(_))));
    assert_eq!(bench.state("b"), HostState::Waiting);
    assert_eq!(bench.told("b"), None);

    // One that never had it all has nothing to go back from.
    let mut bench = Bench::new("a", "b").start();
    bench.fails("a");
    assert!(matches!(bench.verdict(), Some(Verdict::RolledBack(_))));
    assert_eq!(bench.orders().len(), 1);
}

#[test]
fn a_dead_canary_pauses_the_rollout_and_touches_nothing() {
    let mut bench = Bench::new("a", "b");
    bench.away("a");
    bench.feed(Input::Start);
    bench.pass(31 * SECOND);
    assert_eq!(bench.state("a"), unreachable("lost"));
    assert_eq!(bench.waits(), Some((WaitingOn::Budget, "a".into())));
    bench.pass(3600 * SECOND);
    assert_eq!(bench.verdict(), None, "it waits for a person, however long");
    bench.feed(Input::Detach);
    let expected = Verdict::Stopped(Some(WaitingOn::Budget));
    assert_eq!(bench.verdict(), Some(&expected));
    assert_eq!(bench.told_to(Stage::Promote), [""; 0]);
    assert_eq!(bench.told_to(Stage::Revert), [""; 0]);
}

#[test]
fn a_host_that_was_never_reached_is_given_up_at_its_turn_and_not_before() {
    let waves = [
        wave("canary", "a"),
        wave("rest", "b").losing(Budget::Count(1)),
    ];
    let policy = Policy {
        waves: waves.into(),
        prefetch: Prefetch::Canary,
        is_limited: false,
    };
    let mut bench = Bench::of(policy.waves);
    bench.engine = Engine::new(bench.engine.config.clone());
    bench.report("a", 0, Outcome::Idle, false);
    bench.feed(Input::Start);
    assert_eq!(bench.state("b"), HostState::Waiting);
    bench.done("a");
    bench.done("a");
    let state = unreachable("not connected");
    assert_eq!(bench.state("b"), state);
    assert_eq!(bench.finish(), Some(Verdict::Partial));
}

#[test]
fn unreachable_hosts_beyond_what_may_be_lost_stop_promotion_and_never_roll_back() {
    let mut bench = with_budget(Budget::Count(1));
    bench.done("c d e");
    bench.away("b");
    bench.pass(31 * SECOND);
    assert_eq!(
        bench.told_to(Stage::Promote),
        ["a", "c d e"],
        "one may be lost"
    );

    let mut bench = with_budget(Budget::Count(1));
    bench.away("b");
    bench.fails("c");
    bench.done("d e");
    bench.pass(31 * SECOND);
    // One failed, which may be; with the other it is one too many.
    assert_eq!(bench.waits(), Some((WaitingOn::Budget, "b c".into())));
    assert_eq!(bench.told_to(Stage::Promote), ["a"]);
    assert_eq!(bench.told_to(Stage::Revert), [""; 0]);
    // A second failure changes that.
    bench.report("d", 3, failed("disk"), false);
    assert_eq!(
        bench.told_to(Stage::Revert),
        [""; 0],
        "it is fetched: its word counts no more"
    );
}

#[test]
fn a_dead_host_in_the_last_wave_holds_it_until_it_is_back_and_then_it_goes_on_by_itself() {
    let mut bench = with_budget(Budget::Count(0));
    bench.away("b");
    bench.done("c d e");
    bench.pass(31 * SECOND);
    assert_eq!(bench.waits(), Some((WaitingOn::Budget, "b".into())));
    bench.report("b", 3, Outcome::Idle, false);
    assert_eq!(bench.waits(), Some((WaitingOn::Chunks, "b".into())));
    bench.done("b");
    assert_eq!(bench.told_to(Stage::Promote), ["a", "b c d e"]);
    bench.done("b c d e");
    assert_eq!(bench.finish(), Some(Verdict::Done));
}

#[test]
fn nobody_is_told_to_promote_who_is_away() {
    let mut bench = with_budget(Budget::Count(1));
    bench.done("b");
    bench.away("b");
    bench.done("c d e");
    assert_eq!(bench.waits(), Some((WaitingOn::Chunks, "b".into())));
    bench.pass(31 * SECOND);
    assert_eq!(bench.told_to(Stage::Promote), ["a", "c d e"]);
    assert!(!bench.engine.hosts()[&name("b")].is_touched);
}

#[test]
fn a_site_may_lose_less_than_its_wave() {
    let site = |host: &NodeId| match host.as_str() {
        "b" | "c" => "east",
        _ => "west",
    };
    let rest = wave("rest", "b c d e").losing(Budget::Count(3));
    let rest = rest.losing_in_each("site", Budget::Count(1), site);
    let mut bench = Bench::of([rest]).start();
    bench.fails("b");
    bench.fails("d");
    assert_eq!(bench.verdict(), None, "one in each");
    bench.fails("c");
    let expected = Cause::Budget {
        of: "site east of wave rest".into(),
        failed: 2,
        allowed: 1,
    };
    assert_eq!(bench.verdict(), Some(&Verdict::RolledBack(expected)));
}

#[test]
fn what_fails_ahead_of_its_turn_counts_at_its_turn() {
    let mut bench =
        Bench::of([wave("canary", "a").soaking(60 * SECOND), wave("rest", "b")]).start();
    bench.done("a");
    bench.done("a");
    bench.fails("b");
    bench.pass(59 * SECOND);
    assert_eq!(
        bench.waits(),
        Some((WaitingOn::Soak, String::new())),
        "there is time to mend it"
    );
    bench.pass(SECOND);
    assert_eq!(bench.told_to(Stage::Revert), ["a"]);
}

#[test]
fn a_host_that_is_lost_or_goes_back_while_it_soaks_is_not_healthy() {
    let soaking = || {
        Bench::of([
            wave("canary", "a b").soaking(600 * SECOND),
            wave("rest", "c"),
        ])
    };
    let mut bench = soaking().start();
    bench.done("a b");
    bench.done("a b");
    bench.report("a", 2, Outcome::Done, false);
    assert_eq!(bench.told_to(Stage::Revert), ["a b"], "it has it no more");

    let mut bench = soaking().start();
    bench.done("a b");
    bench.done("a b");
    bench.report("b", 2, failed("the check failed"), true);
    assert_eq!(bench.told_to(Stage::Revert), ["a b"]);

    let mut bench = soaking().start();
    bench.done("a b");
    bench.done("a b");
    bench.away("a");
    bench.pass(29 * SECOND);
    assert_eq!(bench.waits(), Some((WaitingOn::Soak, "a".into())));
    bench.pass(SECOND);
    assert_eq!(bench.waits(), Some((WaitingOn::Budget, "a".into())));
    bench.pass(3600 * SECOND);
    assert_eq!(bench.told_to(Stage::Promote), ["a b"]);
    assert_eq!(bench.told_to(Stage::Revert), [""; 0]);
}

#[test]
fn a_soak_does_not_end_while_one_of_its_hosts_is_away() {
    let mut bench =
        Bench::of([wave("canary", "a").soaking(60 * SECOND), wave("rest", "b")]).start();
    bench.done("a");
    bench.done("a");
    bench.done("b");
    bench.pass(50 * SECOND);
    bench.away("a");
    bench.pass(20 * SECOND);
    assert_eq!(bench.waits(), Some((WaitingOn::Soak, "a".into())));
    bench.report("a", 2, Outcome::Done, true);
    assert_eq!(bench.told_to(Stage::Promote), ["a", "b"]);
}

#[test]
fn a_host_that_comes_late_soaks_as_long_as_the_others_of_its_wave() {
    let waves = || {
        let canary = wave("canary", "a b").losing(Budget::Count(1));
        Bench::of([canary.soaking(60 * SECOND), wave("rest", "c")]).start()
    };
    let late = |bench: &mut Bench| {
        bench.away("b");
        bench.done("a");
        bench.pass(31 * SECOND);
        bench.done("a");
        bench.done("c");
        assert_eq!(bench.waits().unwrap().0, WaitingOn::Soak);
    };
    let come_back = |bench: &mut Bench| {
        bench.report("b", 0, Outcome::Idle, false);
        bench.done("b");
        bench.done("b");
        assert_eq!(bench.state("b"), HostState::Promoted);
    };
    // While the others soak.
    let mut bench = waves();
    late(&mut bench);
    bench.pass(50 * SECOND);
    come_back(&mut bench);
    bench.pass(59 * SECOND);
    assert_eq!(bench.told_to(Stage::Promote), ["a", "b"]);
    assert_eq!(bench.waits().unwrap().0, WaitingOn::Soak);
    bench.pass(SECOND);
    assert_eq!(bench.told_to(Stage::Promote), ["a", "b", "c"]);
    // In the turn of the next wave, which has no soak of its own.
    let mut bench = waves();
    late(&mut bench);
    bench.pass(60 * SECOND);
    assert_eq!(bench.told_to(Stage::Promote), ["a", "c"]);
    come_back(&mut bench);
    bench.done("c");
    bench.pass(59 * SECOND);
    assert_eq!(bench.waits().unwrap().0, WaitingOn::Soak);
    bench.pass(SECOND);
    assert_eq!(bench.finish(), Some(Verdict::Done));
}

#[test]
fn a_rollout_in_which_nobody_gets_there_fails() {
    let mut bench = Bench::of([wave("all", "a b").losing(Budget::Percent(100))]).start();
    bench.fails("a");
    bench.fails("b");
    assert_eq!(bench.verdict(), Some(&Verdict::Failed));
}

#[test]
fn of_forty_hosts_none_is_passed_over_when_others_fail() {
    let names: Vec<String> = (10..50).map(|n| format!("h{n}")).collect();
    let all = names.join(" ");
    let mut bench = Bench::of([wave("all", &all)
        .losing(Budget::Percent(25))
        .in_groups_of(7)]);
    bench.feed(Input::Start);
    // Every fourth fails to fetch, which is as many as may.
    for (at, name) in names.iter().enumerate() {
        match at % 4 {
            0 => bench.fails(name),
            _ => bench.done(name),
        }
    }
    while let Some((WaitingOn::Promotion, hosts)) = bench.waits() {
        bench.done(&hosts);
    }
    assert_eq!(bench.finish(), Some(Verdict::Partial));
    for (at, name) in names.iter().enumerate() {
        let is_live = bench.state(name) == HostState::Promoted;
        assert_eq!(is_live, at % 4 != 0, "{name}");
    }
}

#[test]
fn a_host_that_vanishes_once_it_promoted_is_counted_also_where_nothing_soaks() {
    for gone in ["a", "c"] {
        let mut bench = Bench::new("a b", "c d").start();
        bench.done("a b");
        bench.done("a b");
        bench.done("c d");
        bench.done("c");
        bench.away(gone);
        bench.done("d");
        assert_eq!(bench.waits(), Some((WaitingOn::Soak, gone.into())));
        bench.pass(29 * SECOND);
        assert_eq!(bench.verdict(), None, "{gone} may come back");
        bench.pass(SECOND);
        assert_eq!(bench.waits(), Some((WaitingOn::Budget, gone.into())));
        bench.tell(Command::Resume).unwrap();
        assert_eq!(bench.finish(), Some(Verdict::Partial));
        assert_eq!(bench.state(gone), unreachable("lost"));
    }
}

#[test]
fn a_host_that_is_back_in_time_holds_the_turn_up_and_costs_nothing() {
    let mut bench = Bench::new("a", "b").start();
    bench.done("a");
    bench.report("a", 2, Outcome::Done, true);
    bench.done("b");
    bench.away("a");
    bench.done("b");
    bench.pass(29 * SECOND);
    bench.report("a", 2, Outcome::Done, true);
    assert_eq!(bench.finish(), Some(Verdict::Done));
}

#[test]
fn a_host_that_vanishes_before_it_confirms_the_finalization_is_named() {
    let mut bench = Bench::of([wave("all", "a b")]).start();
    bench.done("a b");
    bench.done("a b");
    bench.away("a");
    bench.report("b", 2, Outcome::Done, true);
    assert_eq!(bench.verdict(), None, "it may come back");
    bench.pass(5 * SECOND);
    assert_eq!(bench.verdict(), Some(&Verdict::Partial));
    assert_eq!(bench.state("a"), unreachable("lost"));
}

#[test]
fn it_is_stable_for_all_but_those_that_a_person_went_on_without_and_for_the_chosen_alone() {
    let hosts = |names: &str| names.split(' ').map(|name| name.parse().unwrap()).collect();
    for (is_limited, expected) in [
        (false, Reach::AllBut(hosts("c"))),
        (true, Reach::Only(hosts("a b"))),
    ] {
        let mut bench = Bench::of([wave("all", "a b c").losing(Budget::Count(2))]);
        let mut config = bench.engine.config.clone();
        config.policy.is_limited = is_limited;
        bench.engine = Engine::new(config);
        let all = match is_limited {
            true => Reach::Only(hosts("a b c")),
            false => Reach::All,
        };
        assert_eq!(bench.engine.reach(), all);
        bench.feed(Input::Start);
        bench.report("a", 0, Outcome::Idle, false);
        bench.done("a");
        // One that is only away is meant: it catches up.
        bench.pass(31 * SECOND);
        let skip = Command::Skip {
            host: "c".parse().unwrap(),
            reason: "broken".into(),
        };
        let now = bench.now;
        bench.engine.command(now, skip).unwrap();
        assert!(matches!(bench.state("b"), HostState::Unreachable(_)));
        assert_eq!(bench.engine.reach(), expected);
        // What is stable already stays so for whom it was.
        let mut config = bench.engine.config.clone();
        config.reach = Some(Reach::All);
        assert_eq!(Engine::new(config).reach(), Reach::All);
    }
}
