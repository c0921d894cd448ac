//! `demo`: a fleet of real processes on this machine, deployed to twice, verified, broken, rolled back and cleaned up.

mod agents;
mod breaking;
mod check;
mod repo;

use std::{
    io::ErrorKind,
    num::NonZeroU16,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use clap::Args;
use scap_agent::clock;
use scap_proto::{id::NodeId, release::RepoPath};
use serde_json::{Value, json};
use tempfile::TempDir;

use self::agents::Agents;
use super::{
    CliError, SourceArgs, StateArgs,
    branch::{BranchArgs, RecordArgs},
    deploy::{self, DeployArgs, HowArgs, Summary, Topology},
    exit, human_bytes,
    scap::ScapArgs,
};
use crate::{rollout::Verdict, state::StateDirectory};

/// Most agents: each is two processes on this machine.
const AGENTS_MAX: u16 = 64;

#[derive(Debug, Args)]
pub(super) struct DemoArgs {
    /// Deploy this repository's HEAD, and two commits after it that are made in a copy; by default a small one is
    /// made
    #[arg(long, value_name = "PATH")]
    repo: Option<PathBuf>,
    /// How many agents to run, 1 to 64
    #[arg(long, value_name = "N", default_value = "8")]
    agents: NonZeroU16,
    /// Keep everything that was made, and say where it is
    #[arg(long)]
    keep: bool,
    /// End with one JSON object on standard output
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: DemoArgs) -> Result<u8, CliError> {
    if args.agents.get() > AGENTS_MAX {
        return Err(CliError::usage(format!("--agents: at most {AGENTS_MAX}")));
    }
    let folder = tempfile::Builder::new()
        .prefix("scap-demo-")
        .tempdir()
        .map_err(|error| CliError::failed("make a temporary directory", &error))?;
    let demo = Demo {
        root: folder.path().to_owned(),
        args: &args,
    };
    let mut agents = Agents::default();
    let result = tokio::select! {
        result = demo.run(&mut agents) => result,
        _ = tokio::signal::ctrl_c() => {
            Err(CliError::usage("interrupted; the agents were stopped").code(exit::FAILED))
        }
    };
    // Also of a demo that did not end well: nothing of theirs may still write to the folder.
    agents.stop().await;
    if args.keep {
        let kept = folder.keep();
        eprintln!(
            "kept {}: live trees in */srv, logs in */agent.log",
            kept.display()
        );
    } else {
        say("cleaning up");
        remove(folder)
            .await
            .map_err(|error| CliError::failed("remove the temporary directory", &error))?;
    }
    let report = result?;
    if args.json {
        println!("{report}");
    }
    Ok(exit::DONE)
}

struct Demo<'a> {
    root: PathBuf,
    args: &'a DemoArgs,
}

impl Demo<'_> {
    /// Starts `agents`, which the caller stops, and shows what they do.
    async fn run(&self, agents: &mut Agents) -> Result<Value, CliError> {
        let started = Instant::now();
        let repo = self.root.join("repo");
        say("1/7  a git repo with three commits, the later ones one-line changes");
        let [first, second, third] = repo::make(&repo, self.args.repo.as_deref())?;

        say("2/7  keys: a private CA, a deployer key, an identity for each agent");
        let state = self.root.join("coordinator");
        let fleet = "demo".parse().expect("a plain name");
        StateDirectory::init(&state, &fleet, clock::now())
            .map_err(|error| CliError::failed("make the fleet's keys", &error))?;
        let names: Vec<NodeId> = (1..=self.args.agents.get())
            .map(|n| format!("agent{n:02}").parse().expect("a plain name"))
            .collect();
        let opened = StateDirectory::open(&state)
            .map_err(|error| CliError::failed("open the fleet's keys", &error))?;
        for name in &names {
            opened
                .enroll(
                    name,
                    &self.root.join(name.as_str()).join("identity"),
                    &[],
                    clock::now(),
                )
                .map_err(|error| CliError::failed("make an agent's identity", &error))?;
        }

        say(&format!(
            "3/7  {} agents, each a process of its own, on loopback",
            names.len()
        ));
        agents.start(&self.root, &names).await?;
        // With two, one that breaks does not stand alone.
        let canaries = if names.len() > 2 { 2 } else { 1 };
        let inventory = self.root.join("fleet.toml");
        std::fs::write(&inventory, agents.fleet_file(canaries))
            .map_err(|error| CliError::failed("write the fleet file", &error))?;

        say("4/7  deploy the first commit: to a canary, then to the rest");
        let one = self.deploy(&state, &repo, &first, &inventory).await?;
        self.check(&repo, &first, &names)?;
        say("5/7  deploy the second commit");
        let two = self.deploy(&state, &repo, &second, &inventory).await?;
        say("6/7  compare every target with git, byte for byte");
        let files = self.check(&repo, &second, &names)?;
        let broken = &names[canaries - 1];
        say(&format!(
            "7/7  deploy the third commit, and break canary {broken} between fetch and promote"
        ));
        let three = self
            .deploy_broken(&state, &repo, &third, agents, &names[..canaries])
            .await?;
        self.check(&repo, &second, &names)?;

        for (commit, summary) in [(&first, &one), (&second, &two)] {
            let bytes = |source: &str| -> u64 {
                let hosts = summary.json["hosts"].as_array().into_iter().flatten();
                hosts
                    .filter_map(|host| host["bytes"][source].as_u64())
                    .sum()
            };
            say(&format!(
                "{}  live on {} hosts in {:.2} s: {} from the seed, {} from peers, {} held already",
                &commit[..10],
                names.len(),
                summary.json["seconds"]["total"]
                    .as_f64()
                    .unwrap_or_default(),
                human_bytes(bytes("seed")),
                human_bytes(bytes("peers")),
                human_bytes(bytes("reuse")),
            ));
        }
        say(&format!(
            "{}  rolled back in {:.2} s, since {broken} could not switch to it",
            &third[..10],
            three.json["seconds"]["total"].as_f64().unwrap_or_default(),
        ));
        say(&format!(
            "all {} targets equal the second commit in git: {files} entries each; {:.1} s in all",
            names.len(),
            started.elapsed().as_secs_f64()
        ));
        Ok(json!({
            "schema": "scap.demo/1",
            "agents": names.len(),
            "verified": true,
            "entries": files,
            "deployments": [one.json, two.json],
            "rolled_back": three.json,
            "directory": self.args.keep.then_some(&self.root),
            "seconds": started.elapsed().as_secs_f64(),
        }))
    }

    /// Deploys a commit that goes live everywhere.
    async fn deploy(
        &self,
        state: &Path,
        repo: &Path,
        commit: &str,
        fleet: &Path,
    ) -> Result<Summary, CliError> {
        let (people, requests) = deploy::people();
        let args = arguments(state, repo, commit, fleet);
        // An interrupt ends the demo as a whole.
        let summary = deploy::deploy(args, people, requests).await?;
        match summary.verdict {
            Verdict::Done => Ok(summary),
            _ => Err(self.not_as_planned("did not reach every agent")),
        }
    }

    /// Deploys a commit with canaries that need approval, breaks the last one when all have fetched, and approves.
    async fn deploy_broken(
        &self,
        state: &Path,
        repo: &Path,
        commit: &str,
        agents: &Agents,
        canaries: &[NodeId],
    ) -> Result<Summary, CliError> {
        let fleet = self.root.join("fleet-approved.toml");
        let wave = "[[rollout.wave]]\nname = \"canary\"\ngroup = \"canary\"\napproval = true\n";
        std::fs::write(
            &fleet,
            format!("{wave}{}", agents.fleet_file(canaries.len())),
        )
        .map_err(|error| CliError::failed("write the fleet file", &error))?;
        let (people, requests) = deploy::people();
        let args = arguments(state, repo, commit, &fleet);
        let breaking = async {
            let mut release = String::new();
            for canary in canaries {
                release = breaking::fetched(&self.root.join(canary.as_str()), commit).await;
            }
            let broken = canaries.last().expect("there is a canary").as_str();
            breaking::take_away(&self.root.join(broken), commit, &release)
                .map_err(|error| CliError::failed("break a canary", &error))?;
            breaking::approve(&people, "canary").await;
            std::future::pending::<Result<Summary, CliError>>().await
        };
        let summary = tokio::select! {
            summary = deploy::deploy(args, people.clone(), requests) => summary?,
            failed = breaking => failed?,
        };
        match summary.verdict {
            Verdict::RolledBack(_) => Ok(summary),
            _ => Err(self.not_as_planned("was not rolled back")),
        }
    }

    fn not_as_planned(&self, what: &str) -> CliError {
        CliError::usage(format!("the demo's deployment {what}"))
            .code(exit::FAILED)
            .hint(format!(
                "run it with --keep and read {}/*/agent.log",
                self.root.display()
            ))
    }

    /// Compares every target with the commit; returns how many entries each has.
    fn check(&self, repo: &Path, commit: &str, names: &[NodeId]) -> Result<usize, CliError> {
        let mut entries = 0;
        for name in names {
            let live = self
                .root
                .join(name.as_str())
                .join("srv")
                .join(repo_name().as_path());
            entries = check::equals_commit(&live, repo, commit).map_err(|difference| {
                CliError::usage(format!("{name} differs from git: {difference}")).code(exit::FAILED)
            })?;
        }
        Ok(entries)
    }
}

fn arguments(state: &Path, repo: &Path, commit: &str, fleet: &Path) -> DeployArgs {
    DeployArgs {
        state: StateArgs {
            state: state.to_owned(),
        },
        source: SourceArgs {
            repo: Some(repo.to_owned()),
            dir: None,
        },
        rev: Some(commit.to_owned()),
        name: Some(repo_name()),
        // Its agents are none of the hosts that a repo's folder names.
        scap: ScapArgs::ignoring(),
        message: Vec::new(),
        record: RecordArgs {
            branch: BranchArgs {
                state_branch: "scap/state".parse().expect("a plain name"),
                // A copy of the user's repository has that for its origin.
                state_remote: Some("none".to_owned()),
            },
            offline: false,
            may_be_alone: false,
        },
        back_to: None,
        go_on: None,
        prepared: None,
        given: None,
        fleet: fleet.to_owned(),
        how: HowArgs {
            limit_hosts: None,
            topology: Topology::Lanes,
            upload_mbit: None,
            border_upload_mbit: None,
            soak: None,
            dead_man: None,
            budget: None,
            prefetch: None,
            hold: None,
            connect_timeout: 20,
            away_timeout: 20,
            stall_timeout: Some(60),
        }
        .into(),
        priority: Default::default(),
        sign_with: None,
        yes: true,
        json: false,
        dry_run: false,
        ask_hosts: false,
        progress: Default::default(),
        shown: Default::default(),
    }
}

fn repo_name() -> RepoPath {
    "demo/site".parse().expect("a plain name")
}

/// Removes the demo's directory.
///
/// A deployment that was interrupted may have a thread that still writes a file of its record; such a thread ends
/// with what it is at, so what it added is removed with the next attempt.
async fn remove(folder: TempDir) -> std::io::Result<()> {
    let path = folder.keep();
    let deadline = Instant::now() + REMOVE_MAX;
    loop {
        match std::fs::remove_dir_all(&path) {
            Err(error)
                if error.kind() == ErrorKind::DirectoryNotEmpty && Instant::now() < deadline =>
            {
                tokio::time::sleep(REMOVE_PERIOD).await;
            }
            result => return result,
        }
    }
}

fn say(text: &str) {
    eprintln!("demo  {text}");
}

/// How long the directory may take to become removable: the longest step of a deployment's record is a git command.
const REMOVE_MAX: Duration = Duration::from_secs(10);
/// Pause between two attempts to remove it.
const REMOVE_PERIOD: Duration = Duration::from_millis(20);
/// How long an agent may take to start.
const START_MAX: Duration = Duration::from_secs(30);
