//! Agents on loopback, and deployments to them.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;

use rustix::process::Signal;
use scap_tests::fleet::wait_until;
use scap_tests::repo::SourceRepo;
use serde_json::Value;

use super::process::{Ended, LIMIT, Listed, Running, processes_of, send_signal};
use super::scene::Scene;

/// A running agent in a folder of its name, and its activator; dropping it kills both.
pub struct Agent {
    name: String,
    folder: PathBuf,
    pub address: String,
    running: Option<Running>,
}

impl Agent {
    /// Enrolls a host where it is not, starts its agent, and waits until it answers.
    pub fn start(scene: &Scene, name: &str) -> Self {
        if !scene.path(name).join("identity").exists() {
            enroll(scene, name, &[]);
        }
        Self::start_enrolled(scene, name)
    }

    pub fn start_enrolled(scene: &Scene, name: &str) -> Self {
        Self::start_with(scene, name, &[])
    }

    /// The same, with more arguments.
    pub fn start_with(scene: &Scene, name: &str, more: &[&str]) -> Self {
        Self::start_as(scene, name, more, &[])
    }

    /// The same, with more in its environment.
    pub fn start_as(
        scene: &Scene,
        name: &str,
        more: &[&str],
        environment: &[(&str, &str)],
    ) -> Self {
        Self::start_listening(scene, name, "127.0.0.1:0", more, environment)
    }

    /// The same, where it was before.
    pub fn start_at(scene: &Scene, name: &str, address: &str) -> Self {
        Self::start_listening(scene, name, address, &[], &[])
    }

    /// The same, with more arguments.
    pub fn start_with_at(scene: &Scene, name: &str, address: &str, more: &[&str]) -> Self {
        Self::start_listening(scene, name, address, more, &[])
    }

    fn start_listening(
        scene: &Scene,
        name: &str,
        listen: &str,
        more: &[&str],
        environment: &[(&str, &str)],
    ) -> Self {
        let arguments = run_arguments(name, listen);
        let mut command = scene.command(&[&arguments.each(), more].concat());
        command.envs(environment.iter().copied());
        Self::start_command(scene, name, &mut command)
    }

    /// The same of a host that was enrolled, where its own folder is the current directory of the agent.
    pub fn start_in_its_folder(scene: &Scene, name: &str, listen: &str, more: &[&str]) -> Self {
        let running = Self::launch_in_its_folder(scene, name, listen, more);
        Self::when_ready(scene, name, running)
    }

    /// The same, which may not be ready yet: see [`Self::when_ready`].
    pub fn launch_in_its_folder(scene: &Scene, name: &str, listen: &str, more: &[&str]) -> Running {
        let arguments = run_arguments(".", listen);
        let mut command = scene.command(&[&arguments.each(), more].concat());
        command.current_dir(scene.path(name));
        scene.start_command(&mut command)
    }

    fn start_command(scene: &Scene, name: &str, command: &mut Command) -> Self {
        Self::when_ready(scene, name, scene.start_command(command))
    }

    /// Waits until an agent that was started answers.
    pub fn when_ready(scene: &Scene, name: &str, mut running: Running) -> Self {
        let address = wait_until(&format!("{name} is ready"), LIMIT, || {
            assert!(!running.is_over(), "{name} ended: {}", running.said());
            let status = status(scene, name);
            if status.is_code(0) {
                let status = status.json("scap.agent-status/1");
                return Ok(status["address"].as_str().unwrap().to_owned());
            }
            Err(running.said())
        });
        Self {
            name: name.to_owned(),
            folder: scene.path(name),
            address,
            running: Some(running),
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// What is live of a repo.
    pub fn live(&self, repo: &str) -> PathBuf {
        self.folder.join("srv").join(repo)
    }

    pub fn running(&mut self) -> &mut Running {
        self.running.as_mut().unwrap()
    }

    /// Its activator's process.
    pub fn activator(&self) -> Listed {
        let found = self.children();
        assert_eq!(found.len(), 1, "{}: {found:?}", self.name);
        found[0].clone()
    }

    /// The processes of its activator: none or two while one takes the place of another.
    pub fn activators(&self) -> Vec<Listed> {
        self.children()
    }

    /// Ends it in order.
    pub fn stop(mut self) -> Ended {
        let running = self.running.take().unwrap();
        running.signal(Signal::TERM);
        running.end()
    }

    /// Has it abort, as a bug would.
    pub fn crash(mut self) -> Ended {
        let running = self.running.take().unwrap();
        running.signal(Signal::ABORT);
        running.end()
    }

    /// Kills it alone. Its activator is left to itself.
    pub fn kill_daemon(mut self) {
        drop(self.running.take());
    }

    fn children(&self) -> Vec<Listed> {
        let Some(running) = &self.running else {
            return Vec::new();
        };
        let Some(root) = self
            .folder
            .parent()
            .and_then(|root| root.canonicalize().ok())
        else {
            return Vec::new();
        };
        let all = processes_of(&root);
        let is_keeper = |process: &&Listed| process.parent == running.pid();
        let keepers: Vec<u32> = all.iter().filter(is_keeper).map(|it| it.pid).collect();
        let kept = |process: &Listed| keepers.contains(&process.parent);
        all.into_iter().filter(kept).collect()
    }

    /// The process that starts its activator again.
    pub fn keeper(&self) -> Listed {
        let parent = self.activator().parent;
        let all = processes_of(&self.folder.parent().unwrap().canonicalize().unwrap());
        let keeper = all.into_iter().find(|process| process.pid == parent);
        keeper.unwrap()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let children = self.children();
        drop(self.running.take());
        // It would end by itself, unless the test has stopped it.
        for child in children {
            send_signal(child.pid, Signal::KILL);
        }
    }
}

/// The arguments of `agent run` in the folder of a name.
pub struct RunArguments(Vec<String>);

impl RunArguments {
    pub fn each(&self) -> Vec<&str> {
        self.0.iter().map(String::as_str).collect()
    }
}

pub fn run_arguments(name: &str, listen: &str) -> RunArguments {
    let mut arguments: Vec<String> = ["agent", "run", "--listen", listen]
        .map(String::from)
        .to_vec();
    for (flag, folder) in [
        ("--identity", "identity"),
        ("--data", "data"),
        ("--deploy-root", "srv"),
    ] {
        arguments.extend([flag.into(), format!("{name}/{folder}")]);
    }
    RunArguments(arguments)
}

/// Makes a host's identity and its deploy root.
pub fn enroll(scene: &Scene, name: &str, more: &[&str]) {
    std::fs::create_dir_all(scene.path(name).join("srv")).unwrap();
    let out = format!("{name}/identity");
    let arguments = [&["enroll", name, "--state", "st", "--out", &out], more].concat();
    scene.scap(&arguments).exits(0);
}

pub fn status(scene: &Scene, name: &str) -> Ended {
    let data = format!("{name}/data");
    scene.scap(&["agent", "status", "--data", &data, "--json"])
}

/// Agents that run, and the fleet file that names them.
pub struct Fleet {
    pub agents: Vec<Agent>,
    pub scene: Scene,
}

impl Fleet {
    /// Starts an agent a name; the first is the canary where there are more.
    pub fn start(names: &[&str]) -> Self {
        Self::start_in(Scene::new(), names)
    }

    pub fn start_in(scene: Scene, names: &[&str]) -> Self {
        let agents: Vec<Agent> = names
            .iter()
            .map(|name| Agent::start(&scene, name))
            .collect();
        let fleet = Self { agents, scene };
        fleet.write_fleet_file();
        fleet
    }

    /// Writes where the agents are now.
    pub fn write_fleet_file(&self) {
        let mut hosts = Vec::new();
        for (at, agent) in self.agents.iter().enumerate() {
            let is_canary = at == 0 && self.agents.len() > 1;
            hosts.push((agent.name.as_str(), agent.address.as_str(), is_canary));
        }
        self.scene.write("fleet.toml", fleet_file(&hosts));
    }

    /// Deploys with `--json`, all that is not said being in its place.
    #[track_caller]
    pub fn deploy(&self, arguments: &[&str]) -> Ended {
        self.start_deploy(arguments).end()
    }

    pub fn start_deploy(&self, arguments: &[&str]) -> Running {
        let common = [
            "deploy",
            "--state",
            "st",
            "--fleet",
            "fleet.toml",
            "--yes",
            "--json",
        ];
        self.scene.start(&[&common, arguments].concat())
    }

    /// Deploys HEAD of `repo` to all.
    #[track_caller]
    pub fn deploy_repo(&self) -> Value {
        deployed(&self.deploy(&["--repo", "repo"]).exits(0))
    }

    /// That every agent has a commit live, byte for byte, and says so.
    #[track_caller]
    pub fn assert_all_run(&self, repo: &SourceRepo, commit: &str) {
        let expected = repo.archived(commit);
        for agent in &self.agents {
            expected.assert_is(&agent.live("repo"));
            self.assert_verifies(&agent.name, "repo");
        }
    }

    #[track_caller]
    pub fn assert_verifies(&self, host: &str, repo: &str) {
        let view = self.verify(host, repo).exits(0).json("scap.verify/1");
        assert_eq!(view["ok"], true, "{view:#}");
    }

    pub fn verify(&self, host: &str, repo: &str) -> Ended {
        let data = format!("{host}/data");
        let arguments = ["agent", "verify", repo, "--data", &data, "--json"];
        self.scene.scap(&arguments)
    }

    /// What an agent says about the first repo that it knows.
    #[track_caller]
    pub fn release_of(&self, host: &str) -> Value {
        let status = status(&self.scene, host).exits(0);
        status.json("scap.agent-status/1")["releases"][0].clone()
    }
}

/// A fleet file of (name, address, whether it is a canary).
pub fn fleet_file(hosts: &[(&str, &str, bool)]) -> String {
    let mut text = String::new();
    for (name, address, is_canary) in hosts {
        let _ = writeln!(text, "[[host]]\nname = '{name}'\naddress = '{address}'");
        if *is_canary {
            text.push_str("groups = ['canary']\n");
        }
    }
    text
}

/// The object that `deploy --json` ends with.
#[track_caller]
pub fn deployed(ended: &Ended) -> Value {
    ended.json("scap.deploy/1")
}

/// One host of it.
#[track_caller]
pub fn host<'a>(report: &'a Value, name: &str) -> &'a Value {
    let hosts = report["hosts"].as_array().unwrap();
    let found = hosts.iter().find(|host| host["name"] == name);
    found.unwrap_or_else(|| panic!("no host {name} in {report:#}"))
}
