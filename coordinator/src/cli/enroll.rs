//! `enroll`: one host's identity.

use std::path::PathBuf;

use clap::Args;
use scap_agent::clock;
use scap_proto::{id::NodeId, release::Environment};

use super::{CliError, StateArgs, exit};
use crate::state::StateDirectory;

#[derive(Debug, Args)]
pub(super) struct EnrollArgs {
    /// The host's name, as the fleet file says it
    name: NodeId,
    #[command(flatten)]
    state: StateArgs,
    /// Where to make the identity directory
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// An environment that the host is in; may be repeated [default: production]
    #[arg(long, value_name = "ENV")]
    environment: Vec<Environment>,
}

pub(super) fn run(args: &EnrollArgs) -> Result<u8, CliError> {
    let state = StateDirectory::open(&args.state.state)
        .map_err(|error| CliError::failed("enroll", &error).hint(error.hint()))?;
    state
        .enroll(&args.name, &args.out, &args.environment, clock::now())
        .map_err(|error| CliError::failed("enroll", &error).hint(error.hint()))?;
    println!(
        "made the identity of {} in {}",
        args.name,
        args.out.display()
    );
    println!(
        "next: copy it to {}, readable by the agent's user only, and there:",
        args.name
    );
    println!("  scap-agent run --identity DIR --listen ADDR:7227 --data DIR --deploy-root DIR");
    Ok(exit::DONE)
}
