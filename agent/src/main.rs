//! The agent's command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    scap_agent::cli::main(std::env::args_os().collect(), &[])
}
