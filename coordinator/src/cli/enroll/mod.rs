//! `enroll`: hosts' identities, made here or on the hosts, and who has one.

mod list;
mod over_ssh;

use std::path::PathBuf;

use clap::Args;
use scap_agent::clock;
use scap_proto::{id::NodeId, release::Environment};

use super::{CliError, StateArgs, exit};
use crate::state::{StateDirectory, StateError};

#[derive(Debug, Args)]
pub(super) struct EnrollArgs {
    /// The host's name, as the fleet file says it
    #[arg(required_unless_present_any = ["list", "hosts"], requires = "out")]
    name: Option<NodeId>,
    #[command(flatten)]
    state: StateArgs,
    /// Where to make the identity directory
    #[arg(long, value_name = "DIR", requires = "name")]
    out: Option<PathBuf>,
    /// An environment that the host is in; may be repeated [default: production]
    #[arg(long, value_name = "ENV")]
    environment: Vec<Environment>,
    /// List who was enrolled, with which key, how, and until when
    #[arg(long, conflicts_with_all = ["name", "hosts", "environment"])]
    list: bool,
    /// Print one JSON object
    #[arg(long, conflicts_with = "name")]
    json: bool,
    #[command(flatten)]
    ssh: over_ssh::SshArgs,
}

pub(super) async fn run(args: &EnrollArgs) -> Result<u8, CliError> {
    let state = StateDirectory::open(&args.state.state).map_err(|error| failed(&error))?;
    match (&args.name, &args.out) {
        _ if args.list => list::run(&state, args.json),
        (Some(name), Some(out)) => {
            state
                .enroll(name, out, &args.environment, clock::now())
                .map_err(|error| failed(&error))?;
            println!("made the identity of {name} in {}", out.display());
            println!("next: copy it to {name}, readable by the agent's user only, and there:");
            println!(
                "  scap-agent run --identity DIR --listen ADDR:7227 --data DIR --deploy-root DIR"
            );
            Ok(exit::DONE)
        }
        _ => over_ssh::run(&state, args).await,
    }
}

fn failed(error: &StateError) -> CliError {
    CliError::failed("enroll", error).hint(error.hint())
}
