//! What people say to a running rollout.

use super::*;

fn skip(host: &str) -> Command {
    Command::Skip {
        host: name(host),
        reason: "it is broken".into(),
    }
}

#[test]
fn nobody_is_told_anything_new_while_it_is_paused_and_what_was_told_is_finished() {
    let mut bench = Bench::new("a", "b").start();
    bench.tell(Command::Pause).unwrap();
    bench.tell(Command::Pause).unwrap();
    assert_eq!(bench.waits(), Some((WaitingOn::Paused, "a".into())));
    bench.done("a");
    bench.pass(3600 * SECOND);
    assert_eq!(bench.orders().len(), 1);
    assert_eq!(bench.promote(), Err(CommandError::Paused));
    bench.tell(Command::Resume).unwrap();
    assert_eq!(bench.told_to(Stage::Promote), ["a"]);
    assert_eq!(bench.tell(Command::Resume), Err(CommandError::NotPaused));
}

#[test]
fn a_soak_that_is_over_while_it_is_paused_is_over_when_it_goes_on() {
    let mut bench = Bench::of([wave("canary", "a").soaking(9 * SECOND), wave("rest", "b")]).start();
    bench.done("a");
    bench.done("a");
    bench.done("b");
    bench.tell(Command::Pause).unwrap();
    bench.pass(20 * SECOND);
    assert_eq!(
        bench.engine.poll_timeout(),
        Some(GRANT),
        "there is nothing else to wake up for"
    );
    bench.tell(Command::Resume).unwrap();
    assert_eq!(bench.told_to(Stage::Promote), ["a", "b"]);
}

#[test]
fn what_fails_while_it_is_paused_may_be_skipped_or_tried_again_before_it_counts() {
    let paused = || {
        let mut bench = Bench::new("a b", "c").start();
        bench.done("a b");
        bench.tell(Command::Pause).unwrap();
        bench.done("a");
        bench.fails("b");
        assert_eq!(bench.waits(), Some((WaitingOn::Paused, String::new())));
        bench
    };
    let mut bench = paused();
    bench.tell(Command::Resume).unwrap();
    assert_eq!(bench.told_to(Stage::Revert), ["a b"]);

    let mut bench = paused();
    bench.tell(skip("b")).unwrap();
    bench.tell(Command::Resume).unwrap();
    assert_eq!(bench.told_to(Stage::Fetch), ["a b", "c"]);

    let mut bench = paused();
    bench.tell(Command::RetryFailed).unwrap();
    bench.tell(Command::Resume).unwrap();
    bench.done("b");
    bench.done("b");
    assert_eq!(bench.told_to(Stage::Fetch), ["a b", "b", "c"]);
}

#[test]
fn promote_ends_the_soak_and_nothing_else() {
    let mut bench =
        Bench::of([wave("canary", "a").soaking(900 * SECOND), wave("rest", "b")]).start();
    assert_eq!(bench.promote(), Err(CommandError::NotHeld));
    bench.done("a");
    bench.done("a");
    bench.promote().unwrap();
    assert_eq!(bench.told_to(Stage::Promote), ["a"], "b has not fetched");
    bench.done("b");
    assert_eq!(bench.told_to(Stage::Promote), ["a", "b"]);
}

#[test]
fn whoever_goes_on_without_lost_hosts_says_so() {
    let mut bench = Bench::new("a b", "c d").start();
    bench.away("a");
    bench.done("b");
    bench.pass(31 * SECOND);
    let budget = CommandError::Budget {
        of: "wave canary".into(),
        lost: 1,
        allowed: 0,
    };
    assert_eq!(bench.promote(), Err(budget));
    bench.tell(Command::Resume).unwrap();
    assert_eq!(bench.told_to(Stage::Promote), ["b"]);
    bench.done("b");
    // It counts for those that are lost now, and not for others.
    bench.away("c");
    bench.done("d");
    bench.pass(31 * SECOND);
    assert_eq!(bench.waits(), Some((WaitingOn::Budget, "c".into())));
    bench.tell(skip("c")).unwrap();
    bench.done("d");
    assert_eq!(bench.finish(), Some(Verdict::Partial));
    assert_eq!(
        bench.state("c"),
        HostState::Skipped(Reason::Skipped.because("it is broken"))
    );
}

#[test]
fn hosts_that_failed_are_tried_again_and_no_others() {
    let names: Vec<String> = (100..400).map(|n| format!("h{n}")).collect();
    let bad = &names[..5];
    let mut bench = Bench::of([wave("all", &names.join(" ")).losing(Budget::Count(5))]).start();
    assert_eq!(
        bench.tell(Command::RetryFailed),
        Err(CommandError::NoneLost)
    );
    bench.tell(Command::Pause).unwrap();
    bad.iter().for_each(|host| bench.fails(host));
    bench.tell(Command::RetryFailed).unwrap();
    bench.tell(Command::Resume).unwrap();
    assert_eq!(bench.told_to(Stage::Fetch)[1..], [bad.join(" ")]);
    bench.done(&names.join(" "));
    bench.done(&names.join(" "));
    assert_eq!(bench.finish(), Some(Verdict::Done));
}

#[test]
fn who_has_it_live_is_not_skipped_and_who_is_not_there_is_not_known() {
    let mut bench = Bench::new("a", "b").start();
    bench.done("a");
    assert_eq!(bench.tell(skip("a")), Err(CommandError::Touched(name("a"))));
    assert_eq!(
        bench.tell(skip("z")),
        Err(CommandError::UnknownHost(name("z")))
    );
    // One that is not told yet never is.
    bench.tell(skip("b")).unwrap();
    bench.done("a");
    assert_eq!(bench.finish(), Some(Verdict::Partial));
    assert_eq!(bench.told("b"), None);
}

#[test]
fn a_host_that_was_touched_and_then_skipped_still_goes_back() {
    let mut bench = Bench::new("a b", "c").start();
    bench.done("a b");
    bench.away("a");
    bench.pass(31 * SECOND);
    bench.tell(skip("a")).unwrap();
    bench.tell(Command::Abort).unwrap();
    assert_eq!(bench.told_to(Stage::Revert), ["a b"]);
}

#[test]
fn once_it_goes_back_or_is_over_nothing_else_is_done() {
    let mut bench = Bench::new("a", "b");
    assert_eq!(bench.tell(Command::Pause), Err(CommandError::NotBegun));
    bench.feed(Input::Start);
    bench.done("a");
    bench.done("a");
    bench.tell(Command::Pause).unwrap();
    bench.tell(Command::Abort).unwrap();
    bench.tell(Command::Abort).unwrap();
    assert_eq!(bench.tell(Command::Resume), Err(CommandError::RollingBack));
    bench.done("a");
    assert_eq!(bench.verdict(), Some(&Verdict::RolledBack(Cause::Abort)));
    assert_eq!(bench.tell(Command::Abort), Err(CommandError::Over));

    let mut bench = Bench::of([wave("all", "a")]).start();
    bench.done("a");
    bench.done("a");
    assert_eq!(bench.tell(Command::Abort), Err(CommandError::Finalizing));
}

#[test]
fn whoever_leaves_leaves_hosts_with_what_they_were_told() {
    let mut bench = Bench::new("a", "b").start();
    bench.done("a");
    let orders = bench.orders().len();
    bench.feed(Input::Detach);
    let expected = Verdict::Stopped(Some(WaitingOn::Promotion));
    assert_eq!(bench.verdict(), Some(&expected));
    bench.done("a");
    bench.pass(100 * SECOND);
    assert_eq!(bench.orders().len(), orders);
}

#[test]
fn the_first_interrupt_of_a_rollback_warns_and_the_second_ends_it() {
    let mut bench = Bench::new("a", "b").start();
    bench.done("a");
    let now = bench.now;
    assert_eq!(bench.engine.interrupt(now), Some(Ok(())));
    bench.tell(Command::Abort).unwrap();
    assert_eq!(
        bench.engine.interrupt(now),
        Some(Err(CommandError::RollingBack)),
        "what was said of another wait does not count"
    );
    bench.drain();
    assert_eq!(bench.verdict(), None);
    assert_eq!(bench.engine.interrupt(now), None);
    bench.drain();
    let expected = Verdict::Stopped(Some(WaitingOn::Rollback));
    assert_eq!(bench.verdict(), Some(&expected));
}

#[test]
fn an_interrupt_pauses_and_one_more_ends_it_unless_it_went_on_in_between() {
    let mut bench = Bench::new("a", "b").start();
    for _ in 0..3 {
        let now = bench.now;
        assert_eq!(bench.engine.interrupt(now), Some(Ok(())));
        bench.tell(Command::Resume).unwrap();
    }
    assert_eq!(bench.engine.interrupt(bench.now), Some(Ok(())));
    assert_eq!(bench.engine.interrupt(bench.now), None);
    bench.drain();
    let expected = Verdict::Stopped(Some(WaitingOn::Paused));
    assert_eq!(bench.verdict(), Some(&expected));
}

#[test]
fn promote_ends_the_wait_that_was_seen_and_no_other() {
    let promote = |on, wave: &str| Command::Promote {
        on,
        wave: wave.into(),
    };
    let approved = wave("two", "b").soaking(60 * SECOND).with_approval(true);
    let mut bench = Bench::of([wave("one", "a").soaking(60 * SECOND), approved]).start();
    bench.done("a");
    bench.done("a");
    bench.done("b");
    // Somebody sees wave one soak, and it is over before they speak.
    bench.pass(60 * SECOND);
    assert_eq!(bench.waits(), Some((WaitingOn::Approval, String::new())));
    let elsewhere = |seen: &str| {
        let (wave, seen) = ("two".into(), seen.into());
        Err(CommandError::Elsewhere { wave, seen })
    };
    assert_eq!(
        bench.tell(promote(WaitingOn::Soak, "one")),
        elsewhere("one")
    );
    assert_eq!(bench.told_to(Stage::Promote), ["a"]);
    // Two approve it: the second does not end its soak.
    bench.tell(promote(WaitingOn::Approval, "two")).unwrap();
    bench.done("b");
    assert_eq!(bench.waits(), Some((WaitingOn::Soak, String::new())));
    let again = bench.tell(promote(WaitingOn::Approval, "two"));
    assert_eq!(again, elsewhere("two"));
    assert_eq!(bench.waits(), Some((WaitingOn::Soak, String::new())));
}

#[test]
fn a_wave_is_not_approved_before_it_has_fetched() {
    let mut bench = Bench::of([wave("all", "a").with_approval(true)]).start();
    let command = Command::Promote {
        on: WaitingOn::Approval,
        wave: "all".into(),
    };
    assert_eq!(bench.tell(command), Err(CommandError::NotHeld));
    bench.done("a");
    assert_eq!(bench.told_to(Stage::Promote), [""; 0]);
}
