//! The look from outside: what a rollout does with it.

use super::*;

fn looked_at(canary: Wave, rest: &str) -> Bench {
    let check = ExternalCheck {
        command: vec!["look".into()],
        timeout: 60 * SECOND,
    };
    let config = Config {
        external_check: Some(check),
        ..Bench::config(Prefetch::All, [canary, wave("rest", rest)])
    };
    let mut bench = Bench::silent(config);
    for host in bench.engine.hosts().keys().cloned().collect::<Vec<_>>() {
        bench.report(host.as_str(), 0, Outcome::Idle, false);
    }
    bench.start()
}

fn looks(bench: &Bench) -> Vec<(u64, &str, String)> {
    let look = |output| match output {
        &Output::Look {
            number,
            ref wave,
            ref hosts,
        } => {
            let hosts: Vec<&str> = hosts.iter().map(NodeId::as_str).collect();
            Some((number, wave.as_str(), hosts.join(" ")))
        }
        _ => None,
    };
    bench.seen.iter().filter_map(look).collect()
}

fn finds(bench: &mut Bench, number: u64, result: Result<(), &str>) {
    let result = result.map_err(str::to_owned);
    bench.feed(Input::Looked { number, result });
}

#[test]
fn t13_the_next_wave_waits_until_the_wave_before_was_found_well_from_outside() {
    let mut bench = looked_at(wave("canary", "a"), "b c");
    bench.done("a b c");
    assert_eq!(looks(&bench), []);
    bench.done("a");
    assert_eq!(looks(&bench), [(1, "canary", "a".to_owned())]);
    assert_eq!(bench.waits(), Some((WaitingOn::ExternalCheck, "a".into())));
    bench.pass(10 * SECOND);
    assert_eq!(bench.told_to(Stage::Promote), ["a"]);
    // What nobody asked for says nothing.
    finds(&mut bench, 7, Ok(()));
    assert_eq!(bench.told_to(Stage::Promote), ["a"]);
    finds(&mut bench, 1, Ok(()));
    assert_eq!(bench.told_to(Stage::Promote), ["a", "b c"]);
    bench.done("b c");
    assert_eq!(
        looks(&bench).last().unwrap(),
        &(2, "rest", "b c".to_owned())
    );
    assert!(!bench.was_told_final("a"));
    finds(&mut bench, 2, Ok(()));
    assert!(bench.was_told_final("a"));
    bench.done("a b c");
    assert_eq!(bench.verdict(), Some(&Verdict::Done));
}

#[test]
fn t13_hosts_that_say_that_they_are_well_go_back_where_they_are_not_found_well() {
    let mut bench = looked_at(wave("canary", "a b"), "c");
    bench.done("a b c");
    bench.done("a b");
    finds(&mut bench, 1, Err("exit status: 1: a answers 500"));
    assert_eq!(bench.told_to(Stage::Revert), ["a b"]);
    bench.done("a b");
    let cause = Cause::External {
        wave: "canary".into(),
        reason: "exit status: 1: a answers 500".into(),
    };
    assert_eq!(cause.code(), Reason::ExternalCheckFailed);
    assert_eq!(bench.verdict(), Some(&Verdict::RolledBack(cause)));
}

#[test]
fn t13_a_wave_is_looked_at_before_and_after_it_soaks_and_whoever_paused_has_the_say() {
    let mut bench = looked_at(wave("canary", "a").soaking(30 * SECOND), "b");
    bench.done("a b");
    bench.done("a");
    assert_eq!(looks(&bench).len(), 1);
    finds(&mut bench, 1, Ok(()));
    assert_eq!(bench.waits().unwrap().0, WaitingOn::Soak);
    bench.pass(29 * SECOND);
    assert_eq!(looks(&bench).len(), 1);
    bench.pass(2 * SECOND);
    assert_eq!(looks(&bench).len(), 2);
    bench.tell(Command::Pause).unwrap();
    finds(&mut bench, 2, Err("ill"));
    assert_eq!(bench.told_to(Stage::Revert), Vec::<String>::new());
    bench.tell(Command::Resume).unwrap();
    assert_eq!(bench.told_to(Stage::Revert), ["a"]);
}
