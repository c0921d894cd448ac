//! `enroll`: hosts' identities, made here or on the hosts, and who has one.

mod by_token;
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
    #[arg(required_unless_present_any = ["list", "hosts", "token", "listen"], requires = "out")]
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
    #[arg(long, conflicts_with_all = ["name", "hosts", "token", "listen", "environment"])]
    list: bool,
    /// Print one JSON object
    #[arg(long, conflicts_with = "name")]
    json: bool,
    /// With --ssh or --token: the fleet file
    #[arg(long, value_name = "FILE", conflicts_with_all = ["name", "list", "listen"])]
    fleet: Option<PathBuf>,
    #[command(flatten)]
    ssh: over_ssh::SshArgs,
    #[command(flatten)]
    by_token: by_token::ByTokenArgs,
}

pub(super) async fn run(args: &EnrollArgs) -> Result<u8, CliError> {
    let state = StateDirectory::open(&args.state.state).map_err(|error| failed(&error))?;
    match (&args.name, &args.out) {
        _ if args.list => list::run(&state, args.json),
        _ if args.by_token.is_asked_for() => by_token::run(&state, args).await,
        (Some(name), Some(out)) => {
            let (_, is_readmitted) = state
                .enroll_or_readmit(name, out, &args.environment, clock::now())
                .map_err(|error| failed(&error))?;
            let readmitted = readmitted(is_readmitted);
            println!(
                "made the identity of {name} in {}{readmitted}",
                out.display()
            );
            println!("next: copy it to {name}, readable by the agent's user only, and there:");
            println!(
                "  scap-agent run --identity DIR --listen ADDR:7227 --data DIR --deploy-root DIR"
            );
            Ok(exit::DONE)
        }
        _ => over_ssh::run(&state, args).await,
    }
}

/// What is said behind a host whose revocation was lifted.
fn readmitted(is_readmitted: bool) -> &'static str {
    if is_readmitted {
        "  its revocation is lifted"
    } else {
        ""
    }
}

fn failed(error: &StateError) -> CliError {
    CliError::failed("enroll", error).hint(error.hint())
}
