//! `show`: all that is recorded of one release.

use clap::Args;
use serde_json::json;

use super::{
    CliError,
    branch::{ReadArgs, failed, now},
    exit,
    history::{named, recorded_json, releases},
    progress::some,
    status::{bracketed, line},
};
use crate::state::Which;

#[derive(Debug, Args)]
pub(super) struct ShowArgs {
    /// Which: its sequence (`12`, `#12`), or how its id begins, with four digits at least
    #[arg(value_name = "RELEASE")]
    release: String,
    #[command(flatten)]
    read: ReadArgs,
}

pub(super) fn run(args: &ShowArgs) -> Result<u8, CliError> {
    let (history, releases) = releases(&args.read)?;
    let recorded = named(&releases, &args.release)?;
    let (present, signed) = history
        .signed_at(&recorded.state_commit, &recorded.place, Which::Latest)
        .map_err(|error| failed(&error))?
        .ok_or_else(|| {
            CliError::usage("the state branch changed while it was read").code(exit::FAILED)
        })?;
    let signers: Vec<String> = signed
        .iter()
        .flat_map(|signed| signed.release.signatures.iter())
        .map(|signature| signature.fingerprint())
        .collect();
    let is_whole = signed.is_some_and(|signed| signed.release.id() == recorded.rollout.release);
    if args.read.json {
        let mut json = recorded_json(recorded);
        json["schema"] = "scap.release/1".into();
        json["hosts"] = json!(present.hosts.groups);
        json["signed_by"] = json!(signers);
        json["whole"] = is_whole.into();
        println!("{json}");
        return Ok(exit::DONE);
    }
    let (repo, environment) = &recorded.place;
    let rollout = &recorded.rollout;
    println!("{}", line(rollout, now()));
    println!("  {environment} {repo}");
    println!("  release   {}", rollout.release);
    println!("  snapshot  {}", rollout.snapshot);
    if let Some(commit) = &rollout.commit {
        println!("  commit    {commit}");
    }
    println!("  started   {}", rollout.started);
    if let Some(ended) = rollout.ended {
        let finalized = if recorded.is_finalized {
            ", finalized"
        } else {
            ""
        };
        println!(
            "  ended     {ended}: {}{}{finalized}",
            rollout.outcome.as_str(),
            bracketed(rollout.code)
        );
    }
    for wave in &rollout.waves {
        println!(
            "  wave      {} through at {}",
            wave.name.escape_debug(),
            wave.ended
        );
    }
    for signer in &signers {
        println!("  signed    {signer}, as it says itself");
    }
    if !is_whole {
        println!("  the signed objects on the branch are of another release");
    }
    for group in &present.hosts.groups {
        let names: Vec<&str> = group.hosts.iter().map(|host| host.as_str()).collect();
        let reason = match group.reason.as_str() {
            "" => String::new(),
            reason => format!(": {}", reason.escape_debug()),
        };
        let code = bracketed(group.code);
        let outcome = group.outcome.escape_debug();
        println!(
            "  hosts     {outcome} {} ({}){reason}{code}",
            names.len(),
            some(&names)
        );
    }
    println!("  recorded  {}", recorded.state_commit);
    Ok(exit::DONE)
}
