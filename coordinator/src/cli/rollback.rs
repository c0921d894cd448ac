//! `rollback`: a new release of what an earlier one had.

use std::num::NonZeroUsize;

use clap::Args;
use scap_agent::clock;
use scap_proto::release::{Authority, VerifiedRelease};

use super::{
    CliError,
    deploy::{self, BackTo, DeployArgs, Released, about},
    exit,
    history::named,
    snapshot::Tree,
};
use crate::state::{History, ProofError, Recorded, StateDirectory, before_latest};

#[derive(Debug, Args)]
#[command(mut_arg("rev", |arg| arg.hide(true)))]
pub(super) struct RollbackArgs {
    /// What to go back to, as `show` takes it [default: the last finalized release before the latest, of another tree]
    #[arg(value_name = "RELEASE")]
    release: Option<String>,
    #[command(flatten)]
    deploy: DeployArgs,
}

pub(super) async fn run(args: RollbackArgs) -> Result<u8, CliError> {
    let RollbackArgs { release, deploy } = args;
    deploy::run(back_to(release.as_deref(), deploy)?).await
}

/// The deployment that goes back.
fn back_to(release: Option<&str>, mut args: DeployArgs) -> Result<DeployArgs, CliError> {
    if args.rev.is_some() {
        return Err(
            CliError::usage("rollback takes the name of a release, not --rev").hint(
                "`scap-coordinator history` lists releases; `deploy --rev` takes a revision"
                    .to_owned(),
            ),
        );
    }
    let state = StateDirectory::open(&args.state.state)
        .map_err(|error| CliError::failed("read the state", &error).hint(error.hint()))?;
    // It is the commit's repository and name that count, not its content.
    let tree = Tree::find(&args.source, "HEAD")?;
    let (_, scap) = args.scap.read(&args.source, &tree)?;
    let place = about(&args, &scap)?;
    // Before anything else: nothing is asked of anybody that comes to nothing.
    if !args.dry_run {
        deploy::check_enough(deploy::threshold(&state, &place)?, &place).map_err(|error| {
            error.hint(
                "prepare a release of the older commit: `release prepare --rev COMMIT --out FILE`, have FILE signed, then `deploy --release FILE`; inside a rollout, `abort` goes back and takes no signature"
                    .to_owned(),
            )
        })?;
    }
    let nothing = || {
        CliError::usage("no finalized release of another tree was recorded before the latest")
            .hint("`scap-coordinator history` lists what there is; a name says which".to_owned())
    };
    // Whoever goes back has no time for a git server that is down.
    args.record.may_be_alone = true;
    let found = deploy::past(&args, &tree, &state, &place)?.ok_or_else(nothing)?;
    let Released {
        history,
        past,
        alone,
    } = found;
    if let Some(why) = alone {
        eprintln!("{}", deploy::alone(&why));
        args.record.offline = true;
    }
    // Where shares leave hosts out, each release is for some alone.
    let is_for_chosen = args.how.limit_hosts.is_some() || scap.left_out().next().is_some();
    let back = match release {
        Some(name) => finalized(named(&past, name)?)?,
        None => before_latest(&past, is_for_chosen).ok_or_else(nothing)?,
    };
    let latest = past.first().map(|latest| latest.rollout.sequence);
    let chosen_after = latest.filter(|_| release.is_none() && args.record.offline);
    let proven = proven(&history, back, &state)?.map_err(|error| {
        CliError::failed("go back to what is recorded", &error)
            .code(exit::STOPPED)
            .hint(error.hint())
    })?;
    let proven = proven.release();
    eprintln!("back to {} {}", back.describe(), back.rollout.title());
    let rev = proven.commit.as_ref().map(ToString::to_string);
    Ok(DeployArgs {
        name: Some(place.0),
        rev,
        back_to: Some(BackTo {
            sequence: proven.sequence,
            snapshot: proven.snapshot,
            commit: proven.commit.clone(),
            config: proven.config,
            chosen_after,
        }),
        ..args
    })
}

/// What was signed of it: the record names it, and who may write to the branch could have it name anything.
pub(super) fn proven(
    history: &History,
    recorded: &Recorded,
    state: &StateDirectory,
) -> Result<Result<VerifiedRelease, ProofError>, CliError> {
    let signers = state
        .allowed_signers()
        .map_err(|error| CliError::failed("read the state", &error).hint(error.hint()))?;
    let authority = Authority {
        signers: &signers,
        threshold: NonZeroUsize::MIN,
    };
    Ok(history.prove_finalized(recorded, &authority, clock::now()))
}

fn finalized(recorded: &Recorded) -> Result<&Recorded, CliError> {
    match recorded.is_finalized {
        true => Ok(recorded),
        false => Err(
            CliError::usage(format!("{} was never finalized", recorded.describe()))
                .code(exit::USAGE)
                .hint("go back to one that was; or deploy its commit with --rev".to_owned()),
        ),
    }
}
