//! The deployment host: its state directory and its command line.

use std::cell::Cell;
use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{DeployReport, Host, Output, Process, Station};

/// The station that deploys.
pub struct Coordinator {
    station: Station,
    commands: Cell<u32>,
}

/// A `deploy --json` that has ended.
#[derive(Debug)]
pub struct Deployed {
    /// The process.
    pub output: Output,
    /// What it printed; `None` where it failed before there was anything to report.
    pub report: Option<DeployReport>,
}

impl Deployed {
    fn of(output: Output) -> Self {
        let report = serde_json::from_str(output.stdout.trim()).ok();
        Self { output, report }
    }

    /// The report of a deploy that ended with `code`.
    ///
    /// # Panics
    /// When it ended otherwise, or reported nothing.
    #[track_caller]
    #[must_use]
    pub fn expect_code(self, code: i32) -> DeployReport {
        assert_eq!(self.output.code(), Some(code), "deploy: {:#?}", self.output);
        let report = self
            .report
            .unwrap_or_else(|| panic!("no report: {:#?}", self.output));
        assert_eq!(report.schema, "scap.deploy/1");
        report
    }

    /// The report of a deploy that reached every host.
    ///
    /// # Panics
    /// When it did not.
    #[track_caller]
    pub fn expect_done(self) -> DeployReport {
        let report = self.expect_code(0);
        assert!(
            report.failed().is_empty(),
            "exit code 0 with failed hosts: {report:#?}"
        );
        report
    }
}

impl Coordinator {
    pub(crate) fn new(station: Station) -> Self {
        Self {
            station,
            commands: Cell::default(),
        }
    }

    /// Its place in the network.
    pub fn station(&self) -> &Station {
        &self.station
    }

    /// Its state directory.
    pub fn state(&self) -> PathBuf {
        self.station.dir().join("state")
    }

    /// The fleet file that lists every host.
    pub fn fleet_file(&self) -> PathBuf {
        self.station.dir().join("fleet.toml")
    }

    /// Starts a command of it.
    pub fn start<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Process {
        let args: Vec<OsString> = args
            .into_iter()
            .map(|arg| arg.as_ref().to_owned())
            .collect();
        let number = self.commands.replace(self.commands.get() + 1);
        let verb = args
            .first()
            .map(|arg| arg.to_string_lossy())
            .unwrap_or_default();
        let log = format!("coordinator-{number:03}-{verb}");
        self.station.spawn(
            &log,
            self.station.shared().under_test.coordinator(),
            args,
            &[],
        )
    }

    /// Runs a command of it to its end.
    ///
    /// # Panics
    /// When it takes longer than `limit`.
    #[track_caller]
    pub fn run<A: AsRef<OsStr>>(
        &self,
        args: impl IntoIterator<Item = A>,
        limit: Duration,
    ) -> Output {
        self.start(args).wait(limit)
    }

    /// Makes the state directory.
    ///
    /// # Panics
    /// When it fails.
    pub fn init(&self) {
        let state = self.state();
        let output = self.run(
            [OsStr::new("init"), "--state".as_ref(), state.as_ref()],
            COMMAND_MAX,
        );
        assert_eq!(output.code(), Some(0), "init: {output:#?}");
    }

    /// Makes a host's identity, where the host expects it.
    ///
    /// # Panics
    /// When it fails.
    pub fn enrol(&self, host: &Host) {
        let (state, identity) = (self.state(), host.identity());
        let args: [&OsStr; 6] = [
            "enroll".as_ref(),
            host.name().as_ref(),
            "--state".as_ref(),
            state.as_ref(),
            "--out".as_ref(),
            identity.as_ref(),
        ];
        let output = self.run(args, COMMAND_MAX);
        assert_eq!(
            output.code(),
            Some(0),
            "enroll {}: {output:#?}",
            host.name()
        );
    }

    /// Writes [`Self::fleet_file`].
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write_fleet_file<'a>(&self, hosts: impl Iterator<Item = &'a Host>) {
        let site_line = |of: &Station| of.site().map(|site| format!("site = \"{site}\"\n"));
        let mut text = String::new();
        if let Some(site) = site_line(&self.station) {
            let _ = writeln!(text, "[seed]\n{site}");
        }
        for host in hosts {
            let groups = if host.is_canary() {
                "groups = [\"canary\"]\n"
            } else {
                ""
            };
            let site = site_line(host.station()).unwrap_or_default();
            let relays = host.station().relays();
            let via = match relays.is_empty() {
                true => String::new(),
                false => format!("via = {relays:?}\n"),
            };
            let (name, listen) = (host.name(), host.station().listen());
            let _ = writeln!(
                text,
                "[[host]]\nname = \"{name}\"\naddress = \"{listen}\"\n{groups}{site}{via}"
            );
        }
        std::fs::write(self.fleet_file(), text).expect("the fleet's directory is writable");
    }

    /// Starts a deploy of `HEAD` of a repo, with more arguments, for example another `--rev`.
    pub fn start_deploy(&self, repo: &Path, more: &[&str]) -> Process {
        self.start(self.deploy_args("--repo", repo, more))
    }

    /// Deploys `HEAD` of a repo, with more arguments.
    #[track_caller]
    pub fn deploy(&self, repo: &Path, more: &[&str]) -> Deployed {
        self.finish(self.start_deploy(repo, more))
    }

    /// Deploys a plain directory as `name`.
    #[track_caller]
    pub fn deploy_dir(&self, dir: &Path, name: &str) -> Deployed {
        self.finish(self.start(self.deploy_args("--dir", dir, &["--name", name])))
    }

    /// Waits for what [`Self::start_deploy`] began.
    ///
    /// # Panics
    /// When it does not end within [`DEPLOY_MAX`].
    #[track_caller]
    pub fn finish(&self, deploy: Process) -> Deployed {
        Deployed::of(deploy.wait(DEPLOY_MAX))
    }

    fn deploy_args(&self, source: &str, path: &Path, more: &[&str]) -> Vec<OsString> {
        let (state, fleet) = (self.state(), self.fleet_file());
        let args: [&OsStr; 9] = [
            "deploy".as_ref(),
            "--state".as_ref(),
            state.as_ref(),
            source.as_ref(),
            path.as_ref(),
            "--fleet".as_ref(),
            fleet.as_ref(),
            "--yes".as_ref(),
            "--json".as_ref(),
        ];
        args.into_iter()
            .chain(more.iter().map(OsStr::new))
            .map(OsStr::to_owned)
            .collect()
    }
}

/// The longest that making keys may take.
const COMMAND_MAX: Duration = Duration::from_secs(20);

/// The longest that any deploy in a test may take, from its start: ten times what the slowest
/// needs, so that only one that hangs runs into it.
pub const DEPLOY_MAX: Duration = Duration::from_secs(300);
