//! Wherever a rollout is aborted, or breaks, every host has the files, config files and service of before.

use scap_tests::fleet::wait_until;
use scap_tests::repo::write_incompressible;

use super::fleet::{deployed, host};
use super::process::{Ended, LIMIT, Running};
use super::rollout::{say, wait_for};
use super::supervised::{GATES, Seen, World};

/// How a rollout does not get through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// A person aborts it while a check runs on that host.
    AbortedAt(&'static str, &'static str),
    /// A check fails on that host.
    BrokenAt(&'static str, &'static str),
    /// The same, and so does that of the release that is gone back to.
    BrokenAtAlsoBefore(&'static str, &'static str),
    /// A person aborts it while the canary fetches.
    AbortedFetching,
    /// A person aborts it while a wave soaks: the canary, or the last.
    AbortedSoaking { is_last: bool },
}

/// On the canary both at every gate; on a host of the next wave in turn.
fn ends() -> Vec<End> {
    let (canary, later) = ("web1", "web2");
    let mut ends = Vec::new();
    for (number, (at, _)) in GATES.into_iter().enumerate() {
        ends.extend([End::AbortedAt(canary, at), End::BrokenAt(canary, at)]);
        ends.push(match number % 2 {
            0 => End::AbortedAt(later, at),
            _ => End::BrokenAt(later, at),
        });
    }
    ends.push(End::BrokenAtAlsoBefore("web1", "before-handle_service"));
    ends.push(End::AbortedFetching);
    ends.extend([false, true].map(|is_last| End::AbortedSoaking { is_last }));
    ends
}

impl World {
    fn assert_undone_wherever_it_ends(&self, before: &[Seen]) {
        for (number, end) in ends().into_iter().enumerate() {
            self.assert_undone(number, end, before);
        }
    }

    /// Releases a version that does not get through, and looks at all hosts.
    fn assert_undone(&self, number: usize, end: End, before: &[Seen]) {
        let case = format!("{end:?}");
        if end == End::AbortedFetching {
            write_incompressible(&self.repo.dir().join("large"), 1 << 20, 1);
        }
        self.version(&format!("broken-{number}"));
        let ended = match end {
            End::AbortedAt(at_host, at) => {
                self.set_gate(at_host, at, "hold");
                let deploy = self.start_deploy(&[]);
                self.wait_until_held(at_host, at);
                self.abort();
                self.open_gates(at_host);
                deploy.end()
            }
            End::BrokenAt(at_host, at) => {
                self.set_gate(at_host, at, "fail");
                self.start_deploy(&[]).end()
            }
            End::BrokenAtAlsoBefore(at_host, at) => {
                self.set_gate(at_host, at, "fail-all");
                self.start_deploy(&[]).end()
            }
            End::AbortedFetching => {
                let mut deploy = self.start_deploy(&["--upload-mbit", "1"]);
                self.wait_until_fetching(&mut deploy);
                self.abort();
                deploy.end()
            }
            End::AbortedSoaking { is_last } => {
                let mut deploy = self.start_deploy(&["--soak", "600"]);
                let status = wait_for(&self.fleet, &mut deploy, "soak");
                assert_eq!(status["wait"]["wave"], "canary");
                // So it would be seen if it stayed.
                assert_ne!(self.seen()[0], before[0], "{case}");
                if is_last {
                    say(&self.fleet, &["promote"]).exits(0);
                    wait_until("the last wave soaks", LIMIT, || {
                        let status = wait_for(&self.fleet, &mut deploy, "soak");
                        match status["wait"]["wave"] == "rest" {
                            true => Ok(()),
                            false => Err(status),
                        }
                    });
                }
                self.abort();
                deploy.end()
            }
        };
        let code = match end {
            // It is back, and not well.
            End::BrokenAtAlsoBefore(..) if before[0].service.is_some() => 1,
            _ => 4,
        };
        let ended = ended.exits(code);
        if let End::BrokenAt(at_host, at) | End::BrokenAtAlsoBefore(at_host, at) = end {
            self.open_gates(at_host);
            let report = deployed(&ended);
            let error = host(&report, at_host)["error"].as_str().unwrap();
            let when = at.replacen('-', " ", 1);
            let reason =
                format!("{when}: check `{at}`: ended with exit code 1\nthe gate {at} is shut");
            assert_eq!(error, reason, "{case}");
        }
        self.assert_are(before, &case);
        if end == End::AbortedFetching {
            std::fs::remove_file(self.repo.dir().join("large")).unwrap();
        }
    }

    fn abort(&self) {
        say(&self.fleet, &["abort"])
            .exits(0)
            .prints(&["rolling back"]);
    }

    pub fn wait_until_fetching(&self, deploy: &mut Running) {
        wait_until("the canary has a part of the release", LIMIT, || {
            assert!(!deploy.is_over(), "{}", deploy.said());
            let release = self.fleet.release_of("web1");
            let (held, all) = (&release["chunks_held"], &release["chunks_total"]);
            match release["stage"] == "fetch" && held.as_u64() > Some(0) && held != all {
                true => Ok(()),
                false => Err(release),
            }
        });
    }

    /// Releases a version that gets through.
    fn assert_done(&self, version: &str) {
        self.version(version);
        self.start_deploy(&[]).end().exits(0);
        for (agent, seen) in self.fleet.agents.iter().zip(self.seen()) {
            seen.assert_runs(version, agent.name());
        }
    }
}

impl Seen {
    #[track_caller]
    fn assert_runs(&self, version: &str, host: &str) {
        let config = format!("version {version} on {host}");
        assert_eq!(self.service, Some(format!("{version}: {config}")));
        assert_eq!(self.config, Some(config));
    }
}

#[test]
fn wherever_a_rollout_does_not_get_through_each_host_is_as_it_was() {
    let world = World::start();
    world.assert_done("one");
    let before = world.seen();
    world.assert_undone_wherever_it_ends(&before);
    world.assert_done("two");
}

#[test]
fn wherever_a_first_deployment_does_not_get_through_nothing_is_left() {
    let world = World::start();
    // What an administrator put there.
    std::fs::write(world.folder("web2").join("etc/app.yaml"), "by hand\n").unwrap();
    let before = world.seen();
    assert!(before.iter().all(|seen| seen.service.is_none()));
    world.assert_undone_wherever_it_ends(&before);
    world.assert_done("one");
}

#[test]
fn a_template_that_does_not_fit_one_host_fails_that_one_and_the_budget_says_what_becomes_of_others()
{
    let world = World::start();
    let vars = world.folder("web2").join("vars.yaml");
    let all = std::fs::read(&vars).unwrap();
    // Without the variable that counts, not readable as what it is, and not there.
    let broken = [
        (Some("other: 1\n"), "undefined value"),
        (Some("here: [\n"), "not YAML"),
        (None, "No such file"),
    ];
    let break_it = |text: Option<&str>| match text {
        Some(text) => std::fs::write(&vars, text).unwrap(),
        None => std::fs::remove_file(&vars).unwrap(),
    };
    let assert_failed = |ended: &Ended, cause: &str| {
        let report = deployed(ended);
        let error = host(&report, "web2")["error"].as_str().unwrap();
        let of = "config_deploy: render /proc/self/cwd/etc/app.yaml: ";
        assert!(error.starts_with(of) && error.contains(cause), "{error}");
        for other in ["web1", "web3"] {
            assert!(host(&report, other)["error"].is_null(), "{report:#}");
        }
    };
    let nothing = world.seen();
    let (text, cause) = broken[0];
    break_it(text);
    world.version("zero");
    let ended = world.start_deploy(&[]).end().exits(4);
    assert_failed(&ended, cause);
    world.assert_are(&nothing, "the first deployment");
    std::fs::write(&vars, &all).unwrap();
    world.assert_done("one");

    for (number, (text, cause)) in broken.into_iter().enumerate() {
        let before = world.seen();
        break_it(text);
        world.version(&format!("strict-{number}"));
        let ended = world.start_deploy(&[]).end().exits(4);
        assert_failed(&ended, cause);
        world.assert_are(&before, cause);

        let version = format!("lenient-{number}");
        world.version(&version);
        let ended = world.start_deploy(&["--budget", "1"]).end().exits(5);
        assert_failed(&ended, cause);
        let now = world.seen();
        now[0].assert_runs(&version, "web1");
        assert_eq!(now[1], before[1], "{cause}: web2 is half-switched");
        now[2].assert_runs(&version, "web3");

        // Mended, it gets what the others have.
        std::fs::write(&vars, &all).unwrap();
        world.start_deploy(&[]).end().exits(0);
        world.seen()[1].assert_runs(&version, "web2");
    }
}
