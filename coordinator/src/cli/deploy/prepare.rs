//! `release prepare`: everything about a release decided, and nothing signed or sent.

use std::{path::PathBuf, sync::Arc};

use clap::Args;
use scap_agent::clock;
use scap_proto::{
    id::SnapshotId,
    release::{Authority, Release, RepoPath, signed::SignedObject},
};

use super::{
    PriorityArg, asked, begin::signed_for_us, draft::Draft, dry_run::Nowhere, name::repo_name,
    size_of,
};
use crate::{
    cli::{
        CliError, SourceArgs, StateArgs,
        branch::{BranchArgs, repo_of},
        deltas::{self, Deltas},
        exit,
        scap::ScapArgs,
        snapshot::{Tree, last_released, locked, open_store},
    },
    state::{Prepared, StateDirectory, StateError, Which},
};

/// How long a prepared release may be begun with unless it is said, in days: people who sign have other things to do, and an
/// old one is not to be found in a drawer.
const DAYS: u64 = 7;
/// The longest that may be said, in days.
const DAYS_MAX: u64 = 30;
const DAY_MILLIS: u64 = 24 * 3600 * 1000;

#[derive(Debug, Args)]
pub(in crate::cli) struct PrepareArgs {
    #[command(flatten)]
    state: StateArgs,
    #[command(flatten)]
    source: SourceArgs,
    /// The revision to release [default: git_rev of the scap folder, else HEAD]
    #[arg(short, long, value_name = "REV")]
    rev: Option<String>,
    /// The repo's path below the deploy root [default: git_repo of the scap folder, else the directory's name]
    #[arg(long, value_name = "REPO")]
    name: Option<RepoPath>,
    #[command(flatten)]
    scap: ScapArgs,
    #[command(flatten)]
    branch: BranchArgs,
    /// What comes first where hosts have several releases to fetch
    #[arg(long, value_enum, default_value_t)]
    priority: PriorityArg,
    /// For how many days it may be deployed
    #[arg(long, value_name = "N", default_value_t = DAYS, value_parser = clap::value_parser!(u64).range(1..=DAYS_MAX))]
    days: u64,
    /// The file to write; the bytes to sign are written beside it, with `.to-sign` added to the name
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// Writes the file, and says what is in it.
pub(in crate::cli) async fn run(args: PrepareArgs) -> Result<(Release, PathBuf), CliError> {
    let failed = |error: StateError| CliError::failed("read the state", &error).hint(error.hint());
    let state = StateDirectory::open(&args.state.state).map_err(failed)?;
    let _shared = state.share().map_err(|error| locked(&error))?;
    let mut tree = Tree::find(&args.source, args.rev.as_deref().unwrap_or("HEAD"))?;
    let (_, scap) = args.scap.read(&args.source, &tree)?;
    if let (None, Some(_), Some(rev)) = (&args.rev, tree.commit(), &scap.rev) {
        tree = Tree::find(&args.source, rev)?;
    }
    let name = repo_name(args.name.as_ref(), &args.source, &scap)?;
    let about = (name, scap.environment.clone().unwrap_or_default());
    let tree = Arc::new(tree);
    let (store, _admission) = open_store(&state.store()).await?;
    let earlier = last_released(&state, &about);
    let building = {
        let (tree, store) = (tree.clone(), store.clone());
        tokio::task::spawn_blocking(move || {
            asked::check(&scap)?;
            let config = super::stages::packed(&scap, &store)?;
            Ok::<_, CliError>((tree.build(&store, earlier, |_| {})?, config))
        })
    };
    let (built, config) = building.await.expect("building does not panic")?;
    let record = state.record(&about.0, &about.1).map_err(failed)?;
    let recorded = {
        let repo = repo_of(tree.repo(), &state)?;
        let history = args.branch.history(&repo, false)?;
        let signed = history.and_then(|history| {
            let signed = history.signed_at(history.tip(), &about, Which::Latest);
            // One that cannot be read is told where the branch is written.
            signed.ok()??.1
        });
        let signers = state.allowed_signers().map_err(failed)?;
        let authority = Authority {
            signers: &signers,
            threshold: std::num::NonZeroUsize::MIN,
        };
        let now = clock::now();
        signed.and_then(|it| signed_for_us(&it.release, &about, &authority, now))
    };
    let built = Arc::new(built);
    let has = |base: &SnapshotId| store.contains(&base.descriptor_chunk());
    let none = std::iter::empty();
    let bases = deltas::bases(none, record.as_ref(), built.snapshot.id, has);
    let deltas = Deltas::build(store.clone(), built.clone(), bases).await;
    let before = record.as_ref().map_or(0, |record| record.sequence);
    let (recorded, recorded_id) =
        recorded.map_or((0, None), |it| (it.release().sequence, Some(it.id())));
    let signed_commit = tree.signed_commit()?;
    let release = Draft {
        about: &about,
        commit: tree.commit().map(|commit| commit.id.clone()),
        signed_commit: signed_commit.as_deref(),
        snapshot: built.snapshot,
        config,
        deltas: deltas.all.iter().map(|it| it.reference.clone()).collect(),
        highest: before.max(recorded),
        previous: match &record {
            Some(record) if record.sequence >= recorded => Some(record.release.id()),
            _ => recorded_id,
        },
        priority: args.priority.of_release(),
        valid_millis: args.days * DAY_MILLIS,
    }
    .release(clock::now())?;
    let prepared = Prepared::new(release.to_payload());
    let to_sign = prepared
        .save(&args.out)
        .map_err(|error| CliError::failed("write the prepared release", &error))?;
    println!(
        "snapshot {:.8}  {}",
        built.snapshot.id.to_string(),
        size_of(&built)
    );
    Ok((release, to_sign))
}

/// That a release is of what is here: the commit that it names, in this repo, or this directory. Whoever is to sign it need not
/// believe who prepared it. Blocking.
pub(in crate::cli) fn verify_content(
    release: &Release,
    source: &SourceArgs,
    scap: &ScapArgs,
) -> Result<(), CliError> {
    let rev = release.commit.as_ref().map(ToString::to_string);
    let tree = Tree::find(source, rev.as_deref().unwrap_or("HEAD"))?;
    let differs = |what: &str| {
        CliError::usage(format!("the release is not of {what} that is here"))
            .code(exit::STOPPED)
            .hint("do not sign it before you know why".to_owned())
    };
    if tree.commit().map(|commit| &commit.id) != release.commit.as_ref() {
        return Err(differs("the commit"));
    }
    if tree.measure(&Nowhere)?.snapshot != release.snapshot {
        return Err(differs("the tree"));
    }
    let scap = scap.clone().in_environment(release.environment.clone());
    let (_, scap) = scap.read(source, &tree)?;
    let asked = scap.pack(&Nowhere).map_err(|error| {
        CliError::failed("pack what hosts are asked", &error)
            .code(exit::USAGE)
            .hint(error.hint())
    })?;
    match asked.map(|built| built.snapshot) == release.config {
        true => Ok(()),
        false => Err(differs("what the scap folder asks of hosts")),
    }
}
