//! The demo's agents: this program under its hidden sub-command.

use std::{fmt::Write, fs::File, net::SocketAddr, path::Path, process::Stdio, time::Duration};

use rustix::process::{Pid, Signal, kill_process};
use scap_agent::api::{self, Call};
use scap_proto::id::NodeId;
use serde_json::Value;
use tokio::process::{Child, Command};

use super::{super::AGENT_COMMAND, CliError, START_MAX};

/// Pause between two looks at whether an agent is ready.
const LOOK_PERIOD: Duration = Duration::from_millis(20);
/// How long an agent may take to end in order.
const STOP_MAX: Duration = Duration::from_secs(15);

/// Agents' processes; dropping them kills them.
#[derive(Default)]
pub(super) struct Agents(Vec<Agent>);

struct Agent {
    name: NodeId,
    /// Where it listens, once it is ready.
    address: Option<SocketAddr>,
    child: Child,
}

impl Agents {
    /// Starts an agent a name, each in a folder of its own below `root`, and waits until all are ready.
    ///
    /// Those that were started are in here however this ends, also when it is dropped.
    pub(super) async fn start(&mut self, root: &Path, names: &[NodeId]) -> Result<(), CliError> {
        for name in names {
            let child = spawn(&root.join(name.as_str()))
                .map_err(|e| CliError::failed("start an agent", &e))?;
            self.0.push(Agent {
                name: name.clone(),
                address: None,
                child,
            });
        }
        for agent in &mut self.0 {
            let folder = root.join(agent.name.as_str());
            agent.address = Some(ready(&folder, &mut agent.child).await?);
        }
        Ok(())
    }

    /// The fleet file: the first `canaries` agents are canaries.
    pub(super) fn fleet_file(&self, canaries: usize) -> String {
        let mut text = String::new();
        for (at, agent) in self.0.iter().enumerate() {
            let name = &agent.name;
            let address = agent.address.expect("agents that have started");
            let _ = writeln!(text, "[[host]]\nname = \"{name}\"\naddress = \"{address}\"");
            if at < canaries {
                text.push_str("groups = [\"canary\"]\n");
            }
        }
        text
    }

    /// Ends all agents in order, each with its activator.
    pub(super) async fn stop(mut self) {
        for agent in &self.0 {
            if let Some(pid) = agent.child.id().and_then(|pid| i32::try_from(pid).ok())
                && let Some(pid) = Pid::from_raw(pid)
            {
                let _ = kill_process(pid, Signal::TERM);
            }
        }
        for Agent { name, child, .. } in &mut self.0 {
            if tokio::time::timeout(STOP_MAX, child.wait()).await.is_err() {
                tracing::warn!(%name, "the agent did not end in time and was killed");
                let _ = child.kill().await;
            }
        }
    }
}

fn spawn(folder: &Path) -> std::io::Result<Child> {
    let (data, srv) = (folder.join("data"), folder.join("srv"));
    std::fs::create_dir_all(&srv)?;
    let log = File::create(folder.join("agent.log"))?;
    Command::new(std::env::current_exe()?)
        .args([
            AGENT_COMMAND,
            "run",
            "--listen",
            "127.0.0.1:0",
            "--until-stdin-closes",
            "--identity",
        ])
        .arg(folder.join("identity"))
        .arg("--data")
        .arg(data)
        .arg("--deploy-root")
        .arg(srv)
        // It closes when this process ends, however it does.
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
}

/// Waits until the agent answers, and returns where it listens.
async fn ready(folder: &Path, child: &mut Child) -> Result<SocketAddr, CliError> {
    let deadline = tokio::time::Instant::now() + START_MAX;
    loop {
        let error = match api::call::<Value>(&folder.join("data"), &Call::Status).await {
            Ok(status) => {
                let address = status["address"]
                    .as_str()
                    .and_then(|text| text.parse().ok());
                return address.ok_or_else(|| CliError::usage("an agent does not say its address"));
            }
            Err(error) => error,
        };
        let is_gone = matches!(child.try_wait(), Ok(Some(_)));
        if is_gone || tokio::time::Instant::now() > deadline {
            let log = std::fs::read_to_string(folder.join("agent.log")).unwrap_or_default();
            let last = log.lines().last().unwrap_or_default().to_owned();
            return Err(CliError::failed("wait for an agent to start", &error)
                .code(super::exit::FAILED)
                .hint(format!("the last line of its log: {}", last.escape_debug())));
        }
        tokio::time::sleep(LOOK_PERIOD).await;
    }
}
