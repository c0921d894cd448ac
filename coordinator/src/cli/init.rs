//! `init`: a new fleet.

use std::path::PathBuf;

use clap::Args;
use scap_agent::clock;
use scap_proto::identity::FleetName;

use super::{CliError, exit};
use crate::state::StateDirectory;

#[derive(Debug, Args)]
pub(super) struct InitArgs {
    /// Where to make the state directory
    #[arg(long, value_name = "DIR", env = "SCAP_STATE")]
    state: PathBuf,
    /// The fleet's name, which every certificate says
    #[arg(long, value_name = "NAME", default_value = "fleet")]
    fleet: FleetName,
}

pub(super) fn run(args: &InitArgs) -> Result<u8, CliError> {
    let made = StateDirectory::init(&args.state, &args.fleet, clock::now())
        .map_err(|error| CliError::failed("init", &error).hint(error.hint()))?;
    println!("made the state directory of fleet `{}`:", made.fleet);
    for (path, what) in &made.files {
        println!("  {}  {what}", path.display());
    }
    println!("deployer key {}", made.fingerprint);
    println!(
        "next: scap-coordinator enroll NAME --state {} --out DIR",
        args.state.display()
    );
    Ok(exit::DONE)
}
