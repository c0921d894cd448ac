use std::{
    error::Error,
    fs, io,
    num::NonZeroU32,
    process,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use scap_proto::{
    content::RelPath,
    release::host_config::{Check, Command, HostStage, Moment},
};

use super::Host;
use crate::host::{
    CheckDone, CheckError, CheckFailure, CheckedAgain, Doing, NrpeError, OUTPUT_BYTES_MAX,
    RunFailure,
};

/// What is far longer than anything here takes, on the slowest machine.
const LONG: Duration = Duration::from_secs(60);

impl Host {
    fn shell(&mut self, line: &str) -> &mut Check {
        let name = format!("check-{}", self.config.checks.len());
        self.adds_check(&name, Command::Shell(line.into()))
    }

    fn check(&self) -> Result<Vec<CheckDone>, CheckError> {
        self.work()
            .check(Moment::After, HostStage::Promote, &mut |_| {})
    }

    fn fails(&self) -> CheckError {
        self.check().unwrap_err()
    }

    /// What one check printed that passed.
    fn prints(&self) -> String {
        let done = self.check().unwrap();
        assert_eq!(done.len(), 1);
        done[0].output.tail()
    }

    /// The number that a script wrote to a file.
    fn pid(&self, name: &str) -> Pid {
        let number = self.read(name).trim().parse().unwrap();
        Pid::from_raw(number).unwrap()
    }
}

#[test]
fn checks_are_run_again_at_the_multiples_of_their_time_and_only_where_they_tell_how_what_is_live_does()
 {
    let mut host = Host::new();
    let log = host.path("log").display().to_string();
    let every = [1000, 2500, 1000, 1000].map(|millis| NonZeroU32::new(millis).unwrap());
    let mut repeats = std::collections::BTreeMap::new();
    for (number, every) in every.into_iter().enumerate() {
        let name = host.shell(&format!("echo {number} >> {log}")).name.clone();
        repeats.insert(name, every);
    }
    host.config.checks[1].stage = HostStage::HandleService;
    host.config.checks[2].moment = Moment::Before;
    host.config.checks[3].group = Some("others".into());
    host.shell(&format!("echo once >> {log}"));
    host.config = host.config.clone().repeating(&repeats).unwrap();
    let again = |host: &Host, after, until| {
        let passed = host
            .work()
            .check_again((after, until), &|| false, &mut |_| {});
        let CheckedAgain::Passed { next } = passed.unwrap() else {
            panic!("nothing else is urgent");
        };
        let ran = host.read("log").replace('\n', " ");
        host.write("log", "");
        (ran, next)
    };
    assert_eq!(again(&host, 0, 0), (String::new(), Some(1000)));
    assert_eq!(again(&host, 0, 1000), ("0 ".into(), Some(2000)));
    assert_eq!(again(&host, 1000, 2400), ("0 ".into(), Some(2500)));
    // What was missed is run once.
    assert_eq!(again(&host, 2400, 7700), ("0 1 ".into(), Some(8000)));
    host.config.checks[0].command = Command::Shell("exit 3".into());
    let failed = host
        .work()
        .check_again((7700, 8000), &|| false, &mut |_| {});
    assert_eq!(failed.unwrap_err().name, "check-0");
    // What is more urgent does not wait for it.
    host.config.checks[0].command = Command::Shell("sleep 1000".into());
    let began = Instant::now();
    let gives_way = || began.elapsed() > Duration::from_millis(200);
    let gave_way = host
        .work()
        .check_again((7700, 8000), &gives_way, &mut |_| {});
    assert_eq!(gave_way.unwrap(), CheckedAgain::GaveWay);
    assert!(began.elapsed() < LONG);
    host.config.extensions = Default::default();
    assert_eq!(again(&host, 0, 9000), (String::new(), None));
}

/// Whether a process runs; one that is dead and that nobody has waited for does not.
fn runs(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    let stat = stat.unwrap_or_default();
    let state = stat.rsplit_once(") ").map(|(_, rest)| rest.as_bytes()[0]);
    !matches!(state, None | Some(b'Z' | b'X'))
}

/// A killed process is gone a moment later.
#[track_caller]
fn assert_is_gone(pid: Pid) {
    let began = Instant::now();
    while runs(pid) {
        assert!(began.elapsed() < LONG, "{pid:?} still runs");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_check_that_passes_is_told_where_the_release_is_and_nothing_of_our_own() {
    let mut host = Host::new();
    host.shell("env | sort; pwd; cat; echo done >&2");
    let printed = host.prints();
    let scap: Vec<_> = printed
        .lines()
        .filter(|line| line.starts_with("SCAP_"))
        .collect();
    let cache = "/srv/deployment/mock/deploy-cache";
    assert_eq!(
        scap,
        [
            format!("SCAP_CURRENT_REV_DIR={cache}/revs/old"),
            "SCAP_FINAL_PATH=/srv/deployment/mock/deploy".to_owned(),
            format!("SCAP_REVS_DIR={cache}/revs"),
            format!("SCAP_REV_PATH={cache}/revs/new"),
        ]
    );
    assert!(printed.contains("\nPATH=/"), "{printed}");
    // Cargo sets it for every test.
    assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some());
    assert!(!printed.contains("CARGO_"), "{printed}");
    assert!(printed.ends_with("/\ndone\n"), "{printed}");
}

#[test]
fn checks_are_run_in_their_order_up_to_the_first_that_fails() {
    let mut host = Host::new();
    let log = host.path("log").display().to_string();
    host.shell(&format!("echo 1 >> {log}"));
    host.shell(&format!("echo 2 >> {log}; echo 'no route' >&2; exit 3"));
    host.shell(&format!("echo 3 >> {log}"));
    let mut begun = Vec::new();
    let mut begin = |doing: Doing<'_>| {
        let Doing::Check(name) = doing else {
            panic!("{doing:?}");
        };
        begun.push(name.to_owned());
    };
    let error = host
        .work()
        .check(Moment::After, HostStage::Promote, &mut begin);
    let error = error.unwrap_err();
    assert!(
        matches!(error.why, CheckFailure::Run(RunFailure::Exit(3))),
        "{error:?}"
    );
    assert_eq!(error.name, "check-1");
    assert_eq!(error.output.tail(), "no route\n");
    assert_eq!(
        crate::error_chain(&error),
        "check `check-1`: ended with exit code 3"
    );
    assert_eq!(host.read("log"), "1\n2\n");
    assert_eq!(begun, ["check-0", "check-1"]);
}

#[test]
fn only_the_checks_of_this_moment_stage_and_group_are_run() {
    let mut host = Host::new();
    host.is_in_group("canary", &["web-1", "web-2"]);
    host.is_in_group("default", &["web-3"]);
    host.shell("echo yes").group = Some("canary".into());
    host.shell("exit 1").group = Some("default".into());
    host.shell("exit 1").moment = Moment::Before;
    host.shell("exit 1").stage = HostStage::Finalize;
    assert_eq!(host.prints(), "yes\n");
    host.id = "web-3".parse().unwrap();
    assert_eq!(host.fails().name, "check-1");
}

#[test]
fn a_check_that_is_not_done_in_time_is_killed_with_all_that_it_started() {
    let mut host = Host::new();
    let pid = host.path("pid").display().to_string();
    let line = format!("sh -c 'sleep 1000 & echo $! > {pid}; echo waiting; wait'; echo $?");
    host.shell(&line).timeout_millis = NonZeroU32::new(2000).unwrap();
    let began = Instant::now();
    let error = host.fails();
    assert!(began.elapsed() < LONG);
    let CheckFailure::Run(RunFailure::TimedOut(timeout)) = error.why else {
        panic!("{error:?}");
    };
    assert_eq!(timeout, Duration::from_secs(2));
    assert_eq!(error.output.tail(), "waiting\n");
    assert!(
        crate::error_chain(&error).ends_with("was not done within 2 s, and was killed"),
        "{error}"
    );
    assert_is_gone(host.pid("pid"));
}

#[test]
fn what_a_check_prints_without_end_is_read_and_only_its_end_is_kept() {
    let mut host = Host::new();
    let bytes = 200_000_000;
    host.shell(&format!(
        "head -c {bytes} /dev/zero; echo; echo the end; exit 1"
    ));
    let error = host.fails();
    assert_eq!(error.output.bytes(), bytes + "\nthe end\n".len() as u64);
    assert!(error.output.is_cut());
    assert_eq!(error.output.tail(), "the end\n");
    // It says nothing else, and never stops by itself.
    host.config.checks.clear();
    host.shell("exec yes").timeout_millis = NonZeroU32::new(500).unwrap();
    let error = host.fails();
    assert!(
        matches!(error.why, CheckFailure::Run(RunFailure::TimedOut(_))),
        "{error:?}"
    );
    assert!(error.output.tail().len() <= OUTPUT_BYTES_MAX);
    assert!(error.output.tail().starts_with("y\ny\n"));
}

#[test]
fn a_daemon_that_holds_the_output_is_not_waited_for_and_is_killed() {
    let mut host = Host::new();
    let pid = host.path("pid").display().to_string();
    host.shell(&format!("sleep 1000 & echo $! > {pid}; echo started"));
    let began = Instant::now();
    assert_eq!(host.prints(), "started\n");
    assert!(began.elapsed() < LONG);
    assert_is_gone(host.pid("pid"));
}

#[test]
fn what_was_put_in_the_background_for_good_lives_on() {
    for line in [
        "sleep 1000 > /dev/null 2>&1 & echo $! > PID",
        // It keeps the output, and is a group of its own, as daemons are.
        "setsid sh -c 'echo $$ > PID; exec sleep 1000' & while ! [ -s PID ]; do :; done",
    ] {
        let mut host = Host::new();
        let pid = host.path("pid").display().to_string();
        host.shell(&line.replace("PID", &pid));
        let began = Instant::now();
        assert_eq!(host.prints(), "");
        assert!(began.elapsed() < LONG);
        let pid = host.pid("pid");
        assert!(runs(pid), "{line}");
        kill_process(pid, Signal::KILL).unwrap();
    }
}

#[test]
fn a_check_that_dies_by_a_signal_has_failed() {
    let mut host = Host::new();
    host.shell("kill -SEGV $$");
    let error = host.fails();
    assert!(
        matches!(error.why, CheckFailure::Run(RunFailure::Signal(11))),
        "{error:?}"
    );
}

#[test]
fn a_check_that_cannot_be_started_has_failed_and_says_what_is_missing() {
    let mut host = Host::new();
    host.adds_check("gone", Command::Program(vec!["/no/such\n".into()]));
    let error = host.fails();
    let CheckFailure::Run(RunFailure::Start { source, .. }) = &error.why else {
        panic!("{error:?}");
    };
    assert_eq!(source.kind(), io::ErrorKind::NotFound);
    let text = crate::error_chain(&error);
    assert!(
        text.starts_with("check `gone`: start `/no/such\\n`: "),
        "{text}"
    );
    assert!(error.source().is_some());
}

#[test]
fn programs_are_run_without_a_shell_in_between() {
    let mut host = Host::new();
    let words = ["printf", "%s|", "$HOME", "a b", "*"].map(String::from);
    host.adds_check("words", Command::Program(words.to_vec()));
    assert_eq!(host.prints(), "$HOME|a b|*|");
}

#[test]
fn scripts_are_those_that_came_with_the_release() {
    let mut host = Host::new();
    host.write("text", "#!/bin/sh\necho \"$0\" \"$@\"\n");
    // Who still has a file open to write it while another test starts a process cannot run it.
    let install = process::Command::new("install")
        .args(["-m", "755"])
        .args([host.path("text"), host.path("scripts/ready")])
        .status();
    assert!(install.unwrap().success());
    let path = RelPath::new("ready").unwrap();
    let arguments = vec!["a b".into(), "c".into()];
    host.adds_check("script", Command::Script { path, arguments });
    let script = host.path("scripts/ready");
    assert_eq!(host.prints(), format!("{} a b c\n", script.display()));
}

#[test]
fn commands_of_nrpe_are_those_of_this_host() {
    let mut host = Host::new();
    host.write("nrpe/a.cfg", "# mine\ncommand[load]=printf '%s;' 1 'a b'\n");
    host.adds_check("load", Command::Nrpe("load".into()));
    assert_eq!(host.prints(), "1;a b;");
    host.adds_check("disk", Command::Nrpe("disk".into()));
    let error = host.fails();
    assert!(
        matches!(&error.why, CheckFailure::Nrpe(error) if matches!(**error, NrpeError::Unknown { .. })),
        "{error:?}"
    );
}
