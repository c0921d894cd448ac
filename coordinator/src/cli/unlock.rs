//! `unlock`: breaks somebody's lock, which is recorded.

use clap::Args;
use serde_json::json;

use super::{
    CliError,
    branch::{ReadArgs, RecordArgs, failed, now},
    exit,
};
use crate::state::{Place, break_lock};

#[derive(Debug, Args)]
pub(super) struct UnlockArgs {
    #[command(flatten)]
    read: ReadArgs,
    /// Why, for whoever reads it later
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Do not ask the upstream of the state branch
    #[arg(long, conflicts_with = "fetch")]
    offline: bool,
}

pub(super) fn run(args: &UnlockArgs) -> Result<u8, CliError> {
    if args.reason.trim().is_empty() {
        return Err(
            CliError::usage("--reason is empty").hint("say why, for whoever held it".to_owned())
        );
    }
    let repo = args.read.repo()?;
    let record = RecordArgs {
        branch: args.read.branch.clone(),
        offline: args.offline,
        may_be_alone: false,
    };
    let place = place(args)?;
    let branch = record
        .open(repo, &place, None)
        .map_err(|error| failed(&error))?;
    let (holder, updated) =
        break_lock(&branch, &place, &args.reason, now()).map_err(|error| failed(&error))?;
    updated.warn();
    if args.read.json {
        let commit = updated.commit.to_string();
        println!(
            "{}",
            json!({"schema": "scap.unlock/1", "holder": holder, "commit": commit})
        );
    } else {
        println!("broke the lock of {holder}");
        println!(
            "a deployment that still runs goes on: its hosts obey signatures, not the lock; stop it where it runs"
        );
    }
    Ok(exit::DONE)
}

/// The one place that is locked of those asked for, or the one that was named.
fn place(args: &UnlockArgs) -> Result<Place, CliError> {
    if let (Some(repo), Some(environment)) = (&args.read.name, &args.read.environment) {
        return Ok((repo.clone(), environment.clone()));
    }
    let (_, history) = args.read.open()?;
    let present = args.read.present(history.as_ref())?;
    let mut locked = present.into_iter().filter(|it| it.folder.lock.is_some());
    match (locked.next(), locked.next()) {
        (Some(one), None) => Ok(one.place),
        (None, _) => Err(CliError::usage(
            "nothing is locked, as far as the state branch here says",
        )
        .hint("--fetch asks the upstream; or name it with --environment and --name".to_owned())),
        _ => Err(CliError::usage("several are locked")
            .hint("say which with --environment and --name".to_owned())),
    }
}
