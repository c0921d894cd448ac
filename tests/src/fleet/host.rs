//! A target: its agent, and what that agent made of its disk.

use std::cell::{Ref, RefCell};
use std::ffi::OsStr;
use std::path::PathBuf;
use std::time::Duration;

use super::station::Station;
use super::{
    AGENT_START_MAX, AgentStatus, Counters, Output, Process, ReleaseStatus, logs, wait_until,
};

/// A target of the fleet.
pub struct Host {
    station: Station,
    canary: bool,
    agent: RefCell<Option<Process>>,
}

impl Host {
    pub(crate) fn new(station: Station, canary: bool) -> Self {
        let host = Self {
            station,
            canary,
            agent: RefCell::default(),
        };
        for dir in [host.data(), host.deploy_root()] {
            std::fs::create_dir(&dir)
                .unwrap_or_else(|error| panic!("create {}: {error}", dir.display()));
        }
        host
    }

    /// Its place in the network.
    pub fn station(&self) -> &Station {
        &self.station
    }

    /// `host1` and up.
    pub fn name(&self) -> &str {
        self.station.name()
    }

    /// Whether it is in group `canary`.
    pub fn is_canary(&self) -> bool {
        self.canary
    }

    /// What has passed its link so far.
    pub fn counters(&self) -> Counters {
        self.station.counters()
    }

    /// Where its identity is, once enrolled.
    pub fn identity(&self) -> PathBuf {
        self.station.dir().join("identity")
    }

    /// The agent's data directory.
    pub fn data(&self) -> PathBuf {
        self.station.dir().join("data")
    }

    /// What the agent deploys below.
    pub fn deploy_root(&self) -> PathBuf {
        self.station.dir().join("deploy")
    }

    /// The final path of a repo.
    pub fn live(&self, repo: &str) -> PathBuf {
        self.deploy_root().join(repo)
    }

    /// Where a repo's release directories are.
    pub fn revs(&self, repo: &str) -> PathBuf {
        self.deploy_root()
            .join(format!("{repo}-cache"))
            .join("revs")
    }

    /// Starts its agent; [`Self::wait_ready`] tells when it answers.
    pub fn spawn_agent(&self) {
        self.spawn_agent_with(&[]);
    }

    /// Starts its agent with more in the environment.
    ///
    /// # Panics
    /// When the agent runs, or cannot be started.
    pub fn spawn_agent_with(&self, env: &[(&str, &str)]) {
        self.spawn(&[], &[], env);
    }

    /// Has another program start its agent, which is given the agent's command line.
    ///
    /// # Panics
    /// When the agent runs, or cannot be started.
    pub fn spawn_agent_by(&self, by: &[PathBuf], env: &[(&str, &str)]) {
        self.spawn(by, &[], env);
    }

    /// Starts its agent, which asks these hosts what is stable, with more arguments.
    ///
    /// # Panics
    /// As [`Self::spawn_agent_with`].
    pub fn spawn_agent_asking(&self, peers: &[&Self], more: &[&str]) {
        let peer = |host: &&Self| format!("--peer={}={}", host.name(), host.station.listen());
        let peers = peers.iter().map(peer);
        let args: Vec<String> = peers.chain(more.iter().map(ToString::to_string)).collect();
        self.spawn(&[], &args, &[]);
    }

    fn spawn(&self, by: &[PathBuf], more: &[String], env: &[(&str, &str)]) {
        let mut agent = self.agent.borrow_mut();
        assert!(agent.is_none(), "{}: the agent runs already", self.name());
        let listen = self.station.listen().to_string();
        let (identity, data, root) = (self.identity(), self.data(), self.deploy_root());
        let args: [&OsStr; 9] = [
            "run".as_ref(),
            "--identity".as_ref(),
            identity.as_ref(),
            "--listen".as_ref(),
            listen.as_ref(),
            "--data".as_ref(),
            data.as_ref(),
            "--deploy-root".as_ref(),
            root.as_ref(),
        ];
        let args = args.into_iter().chain(more.iter().map(OsStr::new));
        let program = [by, self.station.shared().under_test.agent()].concat();
        *agent = Some(self.station.spawn(self.name(), &program, args, env));
    }

    /// Waits until its agent answers.
    ///
    /// # Panics
    /// When it ends first, or does not within [`AGENT_START_MAX`].
    #[track_caller]
    pub fn wait_ready(&self) {
        let what = format!("{}: the agent answers", self.name());
        wait_until(&what, AGENT_START_MAX, || {
            assert!(
                self.agent().is_running(),
                "{}: the agent ended",
                self.name()
            );
            self.status().map(drop)
        });
    }

    /// The agent's process.
    ///
    /// # Panics
    /// When it was not started, or ended by the test.
    pub fn agent(&self) -> Ref<'_, Process> {
        Ref::map(self.agent.borrow(), |agent| {
            agent.as_ref().expect("the agent was started")
        })
    }

    /// What all its agents so far wrote to their logs.
    pub fn log(&self) -> String {
        logs::read(&self.station.shared().logs.stderr_of(self.name()))
    }

    /// Kills its agent, as an out-of-memory kill would.
    pub fn kill9(&self) {
        self.take_agent().kill9();
    }

    /// Asks its agent to end, and waits for that.
    pub fn terminate(&self) {
        self.take_agent().terminate(AGENT_END_MAX);
    }

    fn take_agent(&self) -> Process {
        self.agent
            .take()
            .unwrap_or_else(|| panic!("{}: no agent runs", self.name()))
    }

    /// Runs the agent's command line next to the agent: `status`, `verify`, `gc` and so on.
    #[track_caller]
    pub fn run(&self, args: &[&str]) -> Output {
        let data = self.data();
        let mut words: Vec<&OsStr> = args.iter().map(OsStr::new).collect();
        words.extend(["--data".as_ref(), data.as_os_str()]);
        let log = format!("{}-{}", self.name(), args.first().unwrap_or(&"help"));
        let shared = self.station.shared();
        // What it prints is wanted once and by itself.
        for path in [shared.logs.stdout_of(&log), shared.logs.stderr_of(&log)] {
            let _ = std::fs::remove_file(path);
        }
        self.station
            .spawn(&log, shared.under_test.agent(), words, &[])
            .wait(COMMAND_MAX)
    }

    /// Removes all that its agent has written, as a new disk would.
    ///
    /// # Panics
    /// When it cannot be removed, or the agent runs.
    pub fn wipe(&self) {
        assert!(
            self.agent.borrow().is_none(),
            "{}: the agent runs",
            self.name()
        );
        for dir in [self.data(), self.deploy_root()] {
            std::fs::remove_dir_all(&dir)
                .and_then(|()| std::fs::create_dir(&dir))
                .unwrap_or_else(|error| panic!("wipe {}: {error}", dir.display()));
        }
    }

    /// What its agent says about itself.
    ///
    /// # Errors
    /// What it printed instead.
    pub fn status(&self) -> Result<AgentStatus, String> {
        let output = self.run(&["status", "--json"]);
        serde_json::from_str(&output.stdout).map_err(|error| format!("{error}: {output:?}"))
    }

    /// What its agent says about the newest release of a repo.
    ///
    /// # Errors
    /// What it said instead.
    pub fn newest_release(&self, repo: &str) -> Result<ReleaseStatus, String> {
        let status = self.status()?;
        let mut of_repo: Vec<_> = status.releases.iter().filter(|r| r.repo == repo).collect();
        of_repo.sort_by_key(|release| release.sequence);
        of_repo
            .pop()
            .cloned()
            .ok_or_else(|| format!("no release of {repo} in {status:?}"))
    }

    /// Asserts that its agent finds the live tree equal to the signed snapshot.
    ///
    /// # Panics
    /// When it finds a difference.
    #[track_caller]
    pub fn assert_verifies(&self, repo: &str) {
        let output = self.run(&["verify", repo, "--json"]);
        assert_eq!(
            output.code(),
            Some(0),
            "{}: verify {repo}: {output:#?}",
            self.name()
        );
    }
}

/// The longest that `status` or `verify` may take; verifying reads a whole tree.
const COMMAND_MAX: Duration = Duration::from_secs(60);

/// The longest that an agent may take to end when asked to.
const AGENT_END_MAX: Duration = Duration::from_secs(20);
