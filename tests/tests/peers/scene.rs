//! Agents on loopback, each a process with directories of its own, and a repo to deploy to them.

use std::fmt::Write as _;
use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use scap_agent::clock;
use scap_agent::store::{DIRECTORY_NAME, Lookup, StoreReader};
use scap_agent::trust::HostTrust;
use scap_coordinator::state::StateDirectory;
use scap_proto::id::{ChunkId, NodeId};
use scap_proto::identity::{Denial, Denied, FleetTrust, Identity};
use scap_tests::fleet::{DeployReport, wait_until};
use scap_tests::repo::{SourceRepo, write_incompressible};
use serde_json::Value;
use tempfile::TempDir;

/// A fleet on loopback. Dropping it ends its processes.
pub struct Scene {
    pub agents: Vec<Agent>,
    pub repo: SourceRepo,
    /// What its fleet file says before the hosts.
    pub rollout: String,
    pub state: StateDirectory,
    dir: TempDir,
}

/// What a command left.
#[derive(Debug)]
pub struct Finished {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Scene {
    /// Enrolled agents that run, called `host1` and so on, and an empty repo.
    pub fn start(agents: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        StateDirectory::init(&state, &"loopback".parse().unwrap(), clock::now()).unwrap();
        let repo = SourceRepo::create(&dir.path().join(REPO));
        let mut scene = Self {
            agents: Vec::new(),
            repo,
            rollout: String::new(),
            state: StateDirectory::open(&state).unwrap(),
            dir,
        };
        for _ in 0..agents {
            scene.add_agent();
        }
        scene
    }

    /// Enrols and starts one more.
    pub fn add_agent(&mut self) {
        let name = format!("host{}", self.agents.len() + 1);
        self.enrol(&name);
        self.agents
            .push(Agent::start(&name, self.dir.path().join(&name)));
    }

    /// Enrols and starts one more, by that command, to which its own is given.
    pub fn add_agent_under(&mut self, wrapper: &[&str]) {
        let name = format!("host{}", self.agents.len() + 1);
        self.enrol(&name);
        let dir = self.dir.path().join(&name);
        self.agents.push(Agent::start_by(wrapper, &name, dir, []));
    }

    /// Enrols and starts one more, which asks these what is stable.
    pub fn add_agent_asking(&mut self, peers: &[(&str, SocketAddr)]) {
        self.add_agent_with(peers.iter().map(|(peer, address)| asking(peer, *address)));
    }

    /// Enrols and starts one more, with these flags.
    pub fn add_agent_with(&mut self, args: impl IntoIterator<Item = String>) {
        let name = format!("host{}", self.agents.len() + 1);
        self.enrol(&name);
        let dir = self.dir.path().join(&name);
        self.agents.push(Agent::start_with(&name, dir, args));
    }

    /// What the identity of an agent that was enrolled says.
    pub fn trust(&self, name: &str) -> HostTrust {
        let identity = self.dir.path().join(name).join("identity");
        HostTrust::load(&identity, clock::now()).unwrap()
    }

    /// Makes an agent's identity and returns it.
    pub fn enrol(&self, name: &str) -> Identity {
        self.enrol_in(name, &[])
    }

    /// The same, in these environments.
    pub fn enrol_in(&self, name: &str, environments: &[&str]) -> Identity {
        let identity = self.dir.path().join(name).join("identity");
        let environments = environments.iter().map(|it| it.parse().unwrap());
        let environments: Vec<_> = environments.collect();
        self.state
            .enroll(
                &name.parse().unwrap(),
                &identity,
                &environments,
                clock::now(),
            )
            .unwrap()
    }

    /// Cuts off all that the coordinator had, which goes on with a new key; no host is told.
    pub fn revoke_coordinator(&self) {
        let (identity, now) = (self.state.identity().unwrap(), clock::now());
        let own = identity.own();
        let deny = |trust: &mut FleetTrust| {
            trust.denials.push(Denial {
                who: Denied::Node {
                    role: own.role,
                    name: own.name.clone(),
                    issued_until: now,
                },
                reason: "stolen".to_owned(),
                since: now,
                is_enrolled_again: false,
            });
        };
        self.state.sign_trust(identity.trust(), now, deny).unwrap();
        self.state.renew_coordinator(now).unwrap();
    }

    /// The store of the coordinator.
    pub fn coordinator_store(&self) -> PathBuf {
        self.state.store()
    }

    /// Commits a file that no compression makes smaller, and a few that it does.
    pub fn commit_payload(&self, bytes: usize, seed: u64) -> String {
        write_incompressible(&self.repo.dir().join(PAYLOAD), bytes, seed);
        for number in 0..20 {
            let text = format!("line {number}\n").repeat(500);
            self.repo.write(format!("docs/{number}.txt"), text);
        }
        self.repo.commit("a payload")
    }

    /// Puts the snapshot of `HEAD` in the coordinator's store and returns its id.
    pub fn snapshot(&self) -> String {
        let mut command = self.coordinator("snapshot");
        let finished = run(
            command.arg("--json"),
            &self.dir.path().join("snapshot"),
            DEPLOY_MAX,
        );
        assert_eq!(finished.code, Some(0), "{finished:#?}");
        let report: Value = serde_json::from_str(&finished.stdout).unwrap();
        report["snapshot"].as_str().unwrap().to_owned()
    }

    /// Deploys a revision to all agents, and to `others`, which are not processes of ours.
    pub fn deploy(&self, rev: &str, others: &[(&str, SocketAddr)]) -> (Finished, DeployReport) {
        self.deploy_with(rev, others, &[])
    }

    /// The same with flags.
    pub fn deploy_with(
        &self,
        rev: &str,
        others: &[(&str, SocketAddr)],
        flags: &[&str],
    ) -> (Finished, DeployReport) {
        let hosts = self.agents.iter().map(|it| (it.name(), it.address));
        let mut fleet = self.rollout.clone();
        for (name, address) in hosts.chain(others.iter().copied()) {
            let _ = writeln!(
                fleet,
                "[[host]]\nname = \"{name}\"\naddress = \"{address}\""
            );
        }
        let file = self.dir.path().join("fleet.toml");
        std::fs::write(&file, fleet).unwrap();
        let mut command = self.coordinator("deploy");
        command.arg("--fleet").arg(file).args([
            "--rev",
            rev,
            "--connect-timeout",
            CONNECT_SECS_MAX,
            "--stall-timeout",
            STALL_SECS_MAX,
            "--budget",
            &others.len().to_string(),
            "--yes",
            "--json",
        ]);
        command.args(flags);
        let finished = run(&mut command, &self.dir.path().join("deploy"), DEPLOY_MAX);
        let report = serde_json::from_str(&finished.stdout)
            .unwrap_or_else(|error| panic!("{error}: {finished:#?}"));
        (finished, report)
    }

    /// Asserts that every agent runs a commit and nothing else, by git's word and by its own, and that none
    /// ended or panicked.
    #[track_caller]
    pub fn assert_all_run(&self, commit: &str) {
        let expected = self.repo.archived(commit);
        for agent in &self.agents {
            expected.assert_is(&agent.live());
            agent.assert_verifies();
            agent.assert_well();
        }
    }

    fn coordinator(&self, verb: &str) -> Command {
        let mut command = Command::new(PROGRAM);
        command
            .args([verb, "--state"])
            .arg(self.dir.path().join("state"))
            .arg("--repo")
            .arg(self.repo.dir());
        command
    }
}

/// An agent's process and directories.
pub struct Agent {
    pub address: SocketAddr,
    name: NodeId,
    dir: PathBuf,
    child: Child,
}

impl Agent {
    fn start(name: &str, dir: PathBuf) -> Self {
        Self::start_with(name, dir, [])
    }

    fn start_with(name: &str, dir: PathBuf, more: impl IntoIterator<Item = String>) -> Self {
        Self::start_by(&[], name, dir, more)
    }

    fn start_by(
        wrapper: &[&str],
        name: &str,
        dir: PathBuf,
        more: impl IntoIterator<Item = String>,
    ) -> Self {
        std::fs::create_dir_all(dir.join("srv")).unwrap();
        let [first, rest @ ..] = &[wrapper, &[PROGRAM]].concat()[..] else {
            unreachable!("there is a program");
        };
        let child = Command::new(first)
            .args(rest)
            .args(["agent", "run", "--listen", "127.0.0.1:0", "--identity"])
            .arg(dir.join("identity"))
            .arg("--data")
            .arg(dir.join("data"))
            .arg("--deploy-root")
            .arg(dir.join("srv"))
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(dir.join("agent.log")).unwrap())
            .spawn()
            .unwrap();
        let mut agent = Self {
            address: SocketAddr::from(([0, 0, 0, 0], 0)),
            name: name.parse().unwrap(),
            dir,
            child,
        };
        agent.address = wait_until(&format!("{name} answers"), START_MAX, || {
            let status = agent.status()?;
            let address = status["address"]
                .as_str()
                .and_then(|text| text.parse().ok());
            address.ok_or_else(|| status.to_string())
        });
        agent
    }

    /// Kills it, takes all away that it keeps in its data directory, and starts it anew, with these flags.
    pub fn lose_data(&mut self, args: impl IntoIterator<Item = String>) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        std::fs::remove_dir_all(self.dir.join("data")).unwrap();
        let (name, dir) = (self.name.to_string(), self.dir.clone());
        *self = Self::start_with(&name, dir, args);
    }

    pub fn name(&self) -> &str {
        self.name.as_str()
    }

    pub fn id(&self) -> &NodeId {
        &self.name
    }

    /// What it says about itself, or what it printed instead.
    pub fn status(&self) -> Result<Value, String> {
        let finished = self.ask(&["status"]);
        serde_json::from_str(&finished.stdout).map_err(|error| format!("{error}: {finished:?}"))
    }

    /// The peers that it asks no more, each with the reason, in order.
    pub fn dropped_peers(&self) -> Vec<(String, String)> {
        let status = self.status().unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let dropped = status["dropped_peers"].as_array().unwrap();
        dropped
            .iter()
            .map(|peer| (text(&peer["name"]), text(&peer["reason"])))
            .collect()
    }

    /// All that it logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("agent.log")).unwrap()
    }

    /// The most memory that it held, in bytes.
    pub fn peak_rss_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:"));
        let kib = line.and_then(|line| line.split_ascii_whitespace().nth(1));
        1024 * kib.unwrap().parse::<u64>().unwrap()
    }

    /// Flips the last bit of every chunk file in its store, and returns how many there are.
    pub fn damage_every_chunk(&self) -> usize {
        let files = self.chunk_files();
        for (_, path) in &files {
            let mut bytes = std::fs::read(path).unwrap();
            *bytes.last_mut().unwrap() ^= 1;
            std::fs::write(path, bytes).unwrap();
        }
        files.len()
    }

    fn chunk_files(&self) -> Vec<(ChunkId, PathBuf)> {
        let mut found = Vec::new();
        for prefix in std::fs::read_dir(self.store().join("chunks")).unwrap() {
            let prefix = prefix.unwrap();
            for file in std::fs::read_dir(prefix.path()).unwrap() {
                let file = file.unwrap();
                let [start, rest] = [prefix.file_name(), file.file_name()];
                let hex = format!("{}{}", start.to_str().unwrap(), rest.to_str().unwrap());
                found.push((hex.parse().unwrap(), file.path()));
            }
        }
        found
    }

    #[track_caller]
    pub fn assert_verifies(&self) {
        let finished = self.ask(&["verify", REPO]);
        assert_eq!(finished.code, Some(0), "{}: {finished:#?}", self.name);
    }

    /// Asserts that each chunk in its store is the one that it is named for.
    #[track_caller]
    pub fn assert_holds_no_bad_chunk(&self) {
        let store = StoreReader::open(self.store()).unwrap();
        for (id, path) in self.chunk_files() {
            // Absent: collected since it was listed.
            let found = store.plain(&id).unwrap();
            assert!(!matches!(found, Lookup::Lost), "{}", path.display());
        }
    }

    /// Asserts that it runs and never panicked, and took no more memory than it may.
    #[track_caller]
    fn assert_well(&self) {
        let log = self.log();
        assert!(!log.contains("panicked at"), "{}: {log}", self.name);
        self.status().unwrap();
        let rss = self.peak_rss_bytes();
        assert!(rss < RSS_BYTES_MAX, "{}: {rss} bytes", self.name);
    }

    pub fn ask(&self, words: &[&str]) -> Finished {
        let mut command = Command::new(PROGRAM);
        command
            .arg("agent")
            .args(words)
            .arg("--json")
            .arg("--data")
            .arg(self.dir.join("data"));
        run(&mut command, &self.dir.join("ask"), ASK_MAX)
    }

    /// Its chunk store.
    pub fn store(&self) -> PathBuf {
        self.dir.join("data").join(DIRECTORY_NAME)
    }

    pub fn live(&self) -> PathBuf {
        self.dir.join("srv").join(REPO)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<_> = log.lines().collect();
            let end = &lines[lines.len().saturating_sub(LOG_LINES)..];
            eprintln!("--- {}\n{}", self.name, end.join("\n"));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The flag by which an agent asks another one.
pub fn asking(peer: &str, address: SocketAddr) -> String {
    format!("--peer={peer}={address}")
}

/// Runs a command to its end; its output goes to files that begin with `output`.
#[track_caller]
fn run(command: &mut Command, output: &Path, limit: Duration) -> Finished {
    let [stdout, stderr] = ["out", "err"].map(|ending| output.with_extension(ending));
    let mut child = command
        .stdin(Stdio::null())
        .stdout(File::create(&stdout).unwrap())
        .stderr(File::create(&stderr).unwrap())
        .spawn()
        .unwrap();
    let read = |path: &Path| String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned();
    let status = wait_until(&format!("{command:?} ends"), limit, || {
        let status = child.try_wait().unwrap();
        status.ok_or_else(|| read(&stderr))
    });
    Finished {
        code: status.code(),
        stdout: read(&stdout),
        stderr: read(&stderr),
    }
}

/// The path below the deploy root, where nothing says otherwise: the repo directory's name.
const REPO: &str = "site";

/// The file that [`Scene::commit_payload`] writes.
pub const PAYLOAD: &str = "payload.bin";

/// The coordinator's command line, and the agent's.
const PROGRAM: &str = env!("CARGO_BIN_EXE_scap-under-test");

/// How long the coordinator waits for a host that does not answer. All are on this machine, which may be busy.
const CONNECT_SECS_MAX: &str = "4";

/// How long a host may make no progress: none of ours may need so long, whatever a peer does.
const STALL_SECS_MAX: &str = "15";

/// The longest that a deploy may take: several hosts that each stall once.
const DEPLOY_MAX: Duration = Duration::from_secs(90);

/// The longest that an agent may take to answer after its start.
const START_MAX: Duration = Duration::from_secs(30);

/// The longest that `status` or `verify` may take.
const ASK_MAX: Duration = Duration::from_secs(30);

/// What an agent may take, in bytes, as a guest on a production host.
const RSS_BYTES_MAX: u64 = 100 * 1024 * 1024;

/// Of a failed test, so much of each log is shown.
const LOG_LINES: usize = 40;
