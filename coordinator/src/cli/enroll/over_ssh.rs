//! `enroll --ssh`: several hosts at a time, none of which holds up the others.

use std::{
    io::{IsTerminal, stderr, stdin},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use clap::{Args, value_parser};
use scap_proto::{id::NodeId, release::Environment};
use serde_json::{Value, json};
use tokio::{sync::Semaphore, task::JoinSet};

use super::{EnrollArgs, list::joined, readmitted};
use crate::{
    cli::{CliError, exit},
    contained::contained,
    fleet::Inventory,
    ssh::{Done, Failed, HostKey, OnHost, Outcome, Ssh, SshEnrolment, Target, fingerprint_line},
    state::StateDirectory,
};

#[derive(Debug, Args)]
#[command(next_help_heading = "Over ssh")]
pub(super) struct SshArgs {
    /// Enrol these hosts of the fleet file over ssh: each makes its key, and is certified as what the fleet file says that it is
    #[arg(long = "ssh", id = "hosts", value_name = "[USER@]HOST", num_args = 1.., conflicts_with = "name", requires = "fleet")]
    hosts: Vec<Target>,
    /// Take the ssh keys of hosts that have none known, and remember them; changed ones are refused all the same
    #[arg(long, requires = "hosts")]
    accept_new: bool,
    /// The agent on the hosts: a name, or a path there
    #[arg(
        long,
        value_name = "PATH",
        default_value = "scap-agent",
        requires = "hosts"
    )]
    agent: String,
    /// The identity directory on the hosts [default: /etc/scap/identity]
    #[arg(long, value_name = "DIR", requires = "hosts")]
    identity: Option<String>,
    /// As root: whose the identity directory is to be, where it is made [default: scap]
    #[arg(long, value_name = "USER", requires = "hosts")]
    agent_user: Option<String>,
    /// Run everything on the hosts by `sudo -n`
    #[arg(long, requires = "hosts")]
    sudo: bool,
    /// Start the agent's unit once its host is enrolled, and have it start with the host
    #[arg(long, requires = "hosts")]
    start: bool,
    /// Enrol hosts again that are revoked, and lift that: those that are mended, and have a new key
    #[arg(long, requires = "hosts")]
    readmit: bool,
    /// Have ssh read this config file in place of yours
    #[arg(long, value_name = "FILE", requires = "hosts")]
    ssh_config: Option<PathBuf>,
    /// Give ssh this option, as its -o; may be repeated. What decides whether a host is the right one is not overridden
    #[arg(long, value_name = "OPTION", requires = "hosts")]
    ssh_option: Vec<String>,
    /// How long a host may take for each connection, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = value_parser!(u64).range(1..=3600), requires = "hosts")]
    timeout: u64,
    /// How many hosts at a time. A jump host's sshd begins to drop connections at 10 that have not logged in
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = value_parser!(u16).range(1..=100), requires = "hosts")]
    at_a_time: u16,
}

/// A host that is to be enrolled.
struct Wanted {
    host: NodeId,
    environments: Vec<Environment>,
    target: Target,
}

/// What came of it.
struct Ended {
    wanted: Wanted,
    result: Result<Done, Failed>,
}

pub(super) async fn run(state: &StateDirectory, args: &EnrollArgs) -> Result<u8, CliError> {
    let wanted = find(args)?;
    let ssh = &args.ssh;
    let enrolment = Arc::new(SshEnrolment {
        state: state.clone(),
        ssh: Ssh {
            config: ssh.ssh_config.clone(),
            options: ssh.ssh_option.clone(),
            accept_new: ssh.accept_new,
            // Of two that ask at once, nobody knows which asks.
            batch: wanted.len() > 1 || !stdin().is_terminal() || !stderr().is_terminal(),
            timeout: Duration::from_secs(ssh.timeout),
        },
        on_host: OnHost {
            agent: ssh.agent.clone(),
            identity: ssh.identity.clone(),
            user: ssh.agent_user.clone(),
            sudo: ssh.sudo,
        },
        start: ssh.start,
        readmit: ssh.readmit,
    });
    let at_a_time = Arc::new(Semaphore::new(ssh.at_a_time.into()));
    let mut hosts = JoinSet::new();
    for wanted in wanted {
        let (enrolment, at_a_time) = (Arc::clone(&enrolment), Arc::clone(&at_a_time));
        hosts.spawn(async move {
            let _permit = at_a_time.acquire().await.expect("nobody closes it");
            let (host, environments) = (wanted.host.clone(), wanted.environments.clone());
            let target = wanted.target.clone();
            let enrol = async move { enrolment.enrol(&host, &environments, &target).await };
            let result = match contained(enrol).await {
                Ok(result) => result,
                Err(panicked) => Err(Failed {
                    error: panicked.into(),
                    host_key: None,
                }),
            };
            Ended { wanted, result }
        });
    }
    let mut ended = Vec::new();
    while let Some(next) = hosts.join_next().await {
        let next = next.map_err(|error| CliError::failed("enrol hosts over ssh", &error))?;
        if !args.json {
            print(&next);
        }
        ended.push(next);
    }
    ended.sort_by(|a, b| a.wanted.host.cmp(&b.wanted.host));
    let failed = ended.iter().filter(|it| it.result.is_err()).count();
    match args.json {
        true => {
            let hosts: Vec<Value> = ended.iter().map(ended_json).collect();
            println!("{}", json!({"schema": "scap.enroll/1", "hosts": hosts}));
        }
        false => println!("ok {}  failed {failed}", ended.len() - failed),
    }
    Ok(match failed {
        0 => exit::DONE,
        _ => exit::FAILED,
    })
}

/// All of them, before anybody is asked anything.
fn find(args: &EnrollArgs) -> Result<Vec<Wanted>, CliError> {
    let ssh = &args.ssh;
    let file = args.fleet.as_deref().expect("--ssh requires it");
    let usage = |error: &(dyn std::error::Error + 'static)| {
        CliError::failed("find the hosts to enrol", error).code(exit::USAGE)
    };
    let fleet = Inventory::read(file).map_err(|error| usage(&error))?;
    let mut all: Vec<Wanted> = Vec::new();
    for wanted in &ssh.hosts {
        let (host, target) = fleet.find_for_ssh(wanted).map_err(|error| {
            usage(&error).hint(
                "name hosts as the fleet file does; what it says goes into their certificates"
                    .to_owned(),
            )
        })?;
        let environments = match (&host.environments, &args.environment) {
            (said, asked) if said.is_empty() => asked,
            (said, asked) if asked.is_empty() || asked == said => said,
            (said, _) => {
                let (name, said) = (&host.name, joined(said));
                return Err(CliError::usage(format!(
                    "find the hosts to enrol: host {name} is in {said} by the fleet file, and in others by --environment"
                ))
                .hint("leave out --environment, or change the fleet file".to_owned()));
            }
        };
        if all.iter().any(|it| it.host == host.name) {
            let name = &host.name;
            let text = format!("find the hosts to enrol: {name} is named twice");
            return Err(CliError::usage(text));
        }
        all.push(Wanted {
            host: host.name.clone(),
            environments: environments.clone(),
            target,
        });
    }
    Ok(all)
}

fn print(ended: &Ended) {
    let Wanted { host, target, .. } = &ended.wanted;
    let shown = |key: &Option<HostKey>| match key {
        Some(key) => println!("{host}  {target}  host key {}", fingerprint_line(key)),
        None => println!("{host}  {target}"),
    };
    match &ended.result {
        Ok(done) => {
            shown(&done.host_key);
            let word = match done.outcome {
                Outcome::Enrolled => "enrolled",
                Outcome::AlreadyEnrolled => "already enrolled",
            };
            let before = done.key_before.as_ref();
            let before = before.map_or_else(String::new, |key| format!(", in place of {key}"));
            let (key, environments) = (&done.key, joined(&done.environments));
            println!(
                "{word} {host}  key {key}{before}  {environments}  valid until {:.10}{}",
                done.valid_until.to_string(),
                readmitted(done.is_readmitted)
            );
        }
        Err(failed) => {
            shown(&failed.host_key);
            let error = &failed.error;
            let text = scap_agent::error_chain(error);
            println!("failed {host}: {text} [{}]", error.code());
            if let Some(hint) = error.hint() {
                println!("  hint: {hint}");
            }
        }
    }
}

fn ended_json(ended: &Ended) -> Value {
    let Wanted { host, target, .. } = &ended.wanted;
    let key = |key: &Option<HostKey>| key.as_ref().map(|key| key.fingerprint.clone());
    match &ended.result {
        Ok(done) => json!({
            "host": host,
            "ssh": target.to_string(),
            "outcome": done.outcome.as_str(),
            "host_key": key(&done.host_key),
            "host_key_is_new": done.host_key.as_ref().is_some_and(|key| key.is_new),
            "key": done.key,
            "key_before": done.key_before,
            "environments": done.environments,
            "valid_until": done.valid_until,
            "readmitted": done.is_readmitted,
        }),
        Err(failed) => json!({
            "host": host,
            "ssh": target.to_string(),
            "outcome": "failed",
            "host_key": key(&failed.host_key),
            "code": failed.error.code(),
            "error": scap_agent::error_chain(&failed.error),
            "hint": failed.error.hint(),
        }),
    }
}
