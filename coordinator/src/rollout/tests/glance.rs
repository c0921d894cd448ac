//! What people are shown of a rollout: how far it is, where its time went, and what they may do.

use super::*;

/// Each move, and what it says that it does.
fn moves(bench: &Bench) -> Vec<(&'static str, String)> {
    let moves = bench.engine.moves().into_iter();
    moves.map(|it| (it.command, it.effect)).collect()
}

fn effect(bench: &Bench, command: &str) -> Option<String> {
    let moves = moves(bench).into_iter();
    let mut found = moves.filter(|(name, _)| *name == command);
    found.next().map(|(_, effect)| effect)
}

#[test]
fn the_time_of_a_rollout_is_the_sum_of_its_waits_by_kind() {
    let waves = [
        wave("canary", "a").soaking(9 * SECOND),
        wave("rest", "b").with_approval(true),
    ];
    let mut bench = Bench::of(waves).start();
    let begun = bench.now;
    bench.pass(2 * SECOND);
    bench.done("a");
    bench.pass(3 * SECOND);
    bench.done("a");
    // It soaks, while the other one fetches.
    bench.pass(4 * SECOND);
    bench.done("b");
    bench.pass(5 * SECOND);
    bench.pass(6 * SECOND);
    assert_eq!(bench.waits().unwrap().0, WaitingOn::Approval);
    bench.tell(Command::Pause).unwrap();
    bench.pass(7 * SECOND);
    bench.tell(Command::Resume).unwrap();
    bench.promote().unwrap();
    bench.pass(SECOND);
    let spent = bench.engine.spent(bench.now);
    let expected = Spent {
        fetch: 2 * SECOND,
        activate: 4 * SECOND,
        soak: 9 * SECOND,
        people: 13 * SECOND,
    };
    assert_eq!(spent, expected, "the wait that goes on counts too");
    bench.done("b");
    assert_eq!(bench.finish(), Some(Verdict::Done));
    let all = spent.fetch + spent.activate + spent.soak + spent.people;
    assert_eq!(
        all,
        bench.now - begun,
        "at each moment it waits for one thing"
    );
    bench.pass(100 * SECOND);
    assert_eq!(bench.engine.spent(bench.now), spent, "it is over");
}

#[test]
fn a_glance_counts_hosts_by_what_they_say_themselves() {
    let mut bench = Bench::new("a b", "c d").start();
    assert_eq!(bench.engine.glance(bench.now).at, At::Wave(0));
    bench.done("a");
    bench.pass(7 * SECOND);
    let glance = bench.engine.glance(bench.now);
    let canary = &glance.waves[0];
    assert_eq!((canary.fetched, canary.promoted, canary.healthy), (1, 0, 0));
    assert_eq!((glance.new, glance.old, glance.unknown), (0, 4, 0));
    let oldest = glance.oldest.unwrap();
    assert_eq!((oldest.host.as_str(), oldest.still), ("b", 7 * SECOND));
    assert_eq!(oldest.limit, 60 * SECOND);

    bench.done("b");
    let (number, _) = bench.told("a").unwrap();
    let working = Outcome::Working {
        chunks_held: 4,
        chunks_total: 4,
        waiting: "check `http`".into(),
    };
    // It has switched, and its checks run.
    bench.report("a", number, working, true);
    bench.away("d");
    let glance = bench.engine.glance(bench.now);
    let canary = &glance.waves[0];
    assert_eq!((canary.fetched, canary.promoted, canary.healthy), (2, 1, 0));
    assert_eq!((glance.new, glance.old, glance.unknown), (1, 2, 1));
    bench.done("a");
    assert_eq!(bench.engine.glance(bench.now).waves[0].healthy, 1);
    bench.away("a");
    let glance = bench.engine.glance(bench.now);
    assert_eq!(
        glance.waves[0].healthy, 0,
        "of one that is away nothing is known"
    );
    assert_eq!((glance.new, glance.unknown), (0, 2));
}

#[test]
fn a_rollback_counts_those_that_went_back_of_those_that_are_to() {
    let mut bench = Bench::new("a b c", "d").start();
    bench.done("a b c");
    bench.done("a b");
    bench.fails("c");
    let glance = bench.engine.glance(bench.now);
    assert_eq!(glance.at, At::RollingBack);
    let canary = &glance.waves[0];
    assert_eq!((canary.reverted, canary.to_revert), (0, 3));
    bench.done("a");
    let glance = bench.engine.glance(bench.now);
    assert_eq!(
        (glance.waves[0].reverted, glance.waves[0].to_revert),
        (1, 3)
    );
    assert_eq!((glance.new, glance.old), (1, 3));
}

#[test]
fn every_move_says_what_it_touches() {
    let waves = [
        wave("canary", "a b").soaking(9 * SECOND),
        wave("rest", "c d e").with_approval(true),
    ];
    let mut bench = Bench::of(waves).start();
    assert_eq!(
        moves(&bench),
        [
            (
                "pause",
                "2 hosts finish what was told, and 3 hosts are told nothing yet".into()
            ),
            (
                "skip HOST",
                "it goes on without that one; 5 hosts may be left out so".into()
            ),
            (
                "abort",
                "no host goes back: none was switched; it ends".to_owned()
            ),
        ]
    );
    bench.done("a b");
    bench.done("a b");
    bench.done("c d e");
    let soak = "the soak ends now, and 3 hosts in 1 wave come next";
    assert_eq!(effect(&bench, "promote").as_deref(), Some(soak));
    bench.promote().unwrap();
    let approve = "3 hosts of wave rest switch to it";
    assert_eq!(effect(&bench, "promote").as_deref(), Some(approve));
    bench.promote().unwrap();
    bench.done("c");
    let abort = bench.engine.moves().into_iter().next_back().unwrap();
    assert_eq!((abort.hosts, abort.waves), (5, 2));
    assert_eq!(abort.effect, "5 hosts in 2 waves go back");
    bench.tell(Command::Pause).unwrap();
    let resume = "it goes on; 2 hosts to go";
    assert_eq!(effect(&bench, "resume").as_deref(), Some(resume));
    assert_eq!(effect(&bench, "pause"), None, "it is");
    bench.tell(Command::Abort).unwrap();
    assert_eq!(moves(&bench), [], "it does nothing else");
}

#[test]
fn moves_about_lost_hosts_are_there_when_some_are_lost() {
    let mut bench = Bench::new("a b", "c").start();
    bench.done("b");
    bench.away("a");
    bench.pass(31 * SECOND);
    assert_eq!(bench.waits(), Some((WaitingOn::Budget, "a".into())));
    let retry = "1 host is tried again";
    assert_eq!(effect(&bench, "retry --failed").as_deref(), Some(retry));
    let resume = "it goes on without 1 host that is lost";
    assert_eq!(effect(&bench, "resume").as_deref(), Some(resume));
    for (command, _) in moves(&bench) {
        let command = match command {
            "resume" => Command::Resume,
            "pause" => Command::Pause,
            "retry --failed" => Command::RetryFailed,
            "abort" => Command::Abort,
            _ => continue,
        };
        let mut engine = Bench::new("a b", "c").start();
        engine.done("b");
        engine.away("a");
        engine.pass(31 * SECOND);
        engine.tell(command.clone()).unwrap();
    }
}

#[test]
fn a_glance_says_the_limit_by_which_the_host_is_given_up() {
    let mut bench = Bench::new("a", "").start();
    let working = Outcome::Working {
        chunks_held: 1,
        chunks_total: 1,
        waiting: String::new(),
    };
    let step = Step::new(Reason::Check, "slow", 200 * SECOND);
    let report = bench.next_report("a", 1, working, false).at(&step);
    bench.feed(Input::Report(Box::new(report)));
    let limit = bench.engine.glance(bench.now).oldest.unwrap().limit;
    assert_eq!(limit, 230 * SECOND);
    bench.pass(limit - SECOND);
    assert_eq!(bench.state("a"), HostState::Fetching);
    bench.pass(SECOND);
    assert!(matches!(bench.state("a"), HostState::Failed(_)));
}
