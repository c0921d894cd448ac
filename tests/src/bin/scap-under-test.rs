//! The coordinator's command line, and the agent's under its hidden sub-command, for the tests.

use std::process::ExitCode;

fn main() -> ExitCode {
    scap_coordinator::cli::main()
}
