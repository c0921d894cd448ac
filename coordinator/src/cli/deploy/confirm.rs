//! Whether it is to be done: asked on a terminal, once the plan was shown.

use std::io::IsTerminal;

use tokio::sync::mpsc;

use super::DeployArgs;
use crate::{
    cli::{CliError, exit},
    rollout::Request,
};

/// Asks where there is somebody to ask. The end of the input, and an interrupt, say no.
pub(super) async fn confirm(
    args: &DeployArgs,
    requests: &mut mpsc::Receiver<Request>,
) -> Result<(), CliError> {
    if args.yes || !std::io::stdin().is_terminal() {
        return Ok(());
    }
    // Nobody answers a question that nobody sees.
    if !std::io::stderr().is_terminal() {
        return Err(CliError::usage(
            "ask whether to deploy: standard error is no terminal, so nobody would see the question",
        )
        .hint("--yes deploys without being asked".to_owned()));
    }
    eprint!("deploy? [y/N] ");
    let reading = tokio::task::spawn_blocking(|| {
        let mut answer = String::new();
        let _ = std::io::stdin().read_line(&mut answer);
        answer
    });
    let answer = tokio::select! {
        answer = reading => answer.expect("reading a line does not panic"),
        // Who interrupts does not say yes.
        Some(_) = requests.recv() => String::new(),
    };
    if matches!(answer.trim(), "y" | "Y" | "yes") {
        return Ok(());
    }
    if !answer.ends_with('\n') {
        eprint!("\n");
    }
    Err(CliError::usage("not confirmed; no host was told anything").code(exit::STOPPED))
}
