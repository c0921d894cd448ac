//! The coordinator's command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    scap_coordinator::cli::main()
}
