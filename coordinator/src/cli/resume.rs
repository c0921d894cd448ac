//! `resume`: lets a paused deployment go on; where none runs, goes on with the release of one whose coordinator ended.

use clap::Args;
use scap_proto::release::Release;

use super::{
    About, CliError,
    branch::now,
    control::{self, ControlArgs},
    deploy::{self, DeployArgs, GoOn, about},
    exit,
    scap::ScapArgs,
    snapshot::Tree,
    worded::as_said,
};
use crate::state::{Flags, Outcome, Present, ProcessMark, Rollout, StateDirectory, Which, age};

/// In place of the fleet file where none is named.
const UNSAID: &str = "-";

/// The flags are those of `deploy`; of what it goes on with, the record says what was released, and with which of them it began.
#[derive(Debug, Args)]
#[command(
    mut_group("source", |group| group.required(false)),
    mut_arg("fleet", |arg| arg.required(false).default_value(UNSAID).hide_default_value(true)),
    mut_arg("rev", |arg| arg.hide(true)),
    mut_arg("dry_run", |arg| arg.hide(true)),
    mut_arg("ask_hosts", |arg| arg.hide(true)),
    mut_arg("message", |arg| arg.hide(true))
)]
pub(super) struct ResumeArgs {
    /// Take the lock also from a coordinator that may still be there, and record why; hosts follow it no more
    #[arg(long, value_name = "REASON")]
    take_over: Option<String>,
    /// Go by the flags alone that are given now, and not by those that it began with
    #[arg(long)]
    forget_flags: bool,
    #[command(flatten)]
    deploy: DeployArgs,
}

/// What only `resume` takes.
struct How {
    take_over: Option<String>,
    forgets_flags: bool,
}

pub(super) async fn run(args: ResumeArgs) -> Result<u8, CliError> {
    let ResumeArgs {
        take_over,
        forget_flags,
        deploy,
    } = args;
    let has_source = deploy.source.repo.is_some() || deploy.source.dir.is_some();
    let has_fleet = deploy.fleet.as_os_str() != UNSAID;
    if !has_source && !has_fleet && take_over.is_none() {
        return match control::resume(&control_args(&deploy, None)).await? {
            Some(code) => Ok(code),
            None => Err(CliError::usage("no deployment runs here that could be told so")
                .code(exit::FAILED)
                .hint("`scap-coordinator resume --repo PATH --fleet FILE` goes on with one that has ended, here or elsewhere".to_owned())),
        };
    }
    let missing = match () {
        () if !has_source => Some("--repo or --dir says what was deployed"),
        () if !has_fleet => Some("--fleet says to whom"),
        () => None,
    };
    if let Some(missing) = missing {
        return Err(CliError::usage(missing)
            .hint("with neither it lets a paused deployment go on that runs here".to_owned()));
    }
    check_flags(&deploy, take_over.as_deref())?;
    // It is the commit's repository and name that count, not its content.
    let tree = Tree::find(&deploy.source, "HEAD")?;
    let (_, scap) = deploy.scap.read(&deploy.source, &tree)?;
    let place = about(&deploy, &scap)?;
    if let Some(code) = control::resume(&control_args(&deploy, Some(&place))).await? {
        return Ok(code);
    }
    let how = How {
        take_over,
        forgets_flags: forget_flags,
    };
    deploy::run(going_on(deploy, &tree, place, how)?).await
}

/// The running deployment that is meant.
fn control_args(deploy: &DeployArgs, place: Option<&About>) -> ControlArgs {
    let (name, environment) = match place {
        Some((repo, environment)) => (Some(repo.clone()), environment.clone()),
        None => (
            deploy.name.clone(),
            deploy.scap.environment().cloned().unwrap_or_default(),
        ),
    };
    ControlArgs {
        state: deploy.state.clone(),
        name,
        environment,
    }
}

fn check_flags(deploy: &DeployArgs, take_over: Option<&str>) -> Result<(), CliError> {
    let problem = match () {
        () if deploy.rev.is_some() => "resume goes on with what was released, and takes no --rev",
        () if deploy.dry_run => "resume takes no --dry-run",
        () if !deploy.message.is_empty() => "resume takes no message",
        () if take_over.is_some_and(|why| why.trim().is_empty()) => "--take-over is empty: say why",
        () => return Ok(()),
    };
    Err(CliError::usage(problem).hint("`deploy` takes a revision".to_owned()))
}

/// The deployment that goes on with the latest release of a place.
fn going_on(args: DeployArgs, tree: &Tree, place: About, how: How) -> Result<DeployArgs, CliError> {
    let doing = "find what to go on with";
    let state = StateDirectory::open(&args.state.state)
        .map_err(|error| CliError::failed("read the state", &error).hint(error.hint()))?;
    let nothing = || {
        CliError::usage(format!(
            "{doing}: nothing was released of {} to {}",
            place.0, place.1
        ))
        .code(exit::FAILED)
        .hint("`scap-coordinator history` lists what was; `deploy` releases".to_owned())
    };
    let found = deploy::past(&args, tree, &state, &place)?.ok_or_else(nothing)?;
    let history = found.history;
    let found = history
        .signed_at(history.tip(), &place, Which::Latest)
        .map_err(|error| super::branch::failed(&error))?;
    let (present, signed) = found.ok_or_else(nothing)?;
    let latest = present.folder.record.as_ref();
    let latest = latest.and_then(|record| record.latest.as_ref());
    let (latest, signed) = latest.zip(signed).ok_or_else(nothing)?;
    check_outcome(latest)?;
    check_lock(&present, how.take_over.as_deref())?;
    // It is verified where it is begun, under the lock. What it names is what is read until then.
    let release = signed.release.read_unverified().map_err(|error| {
        CliError::failed(doing, &error)
            .code(exit::STOPPED)
            .hint("see with `git log` who wrote the record".to_owned())
    })?;
    check_record(latest, &signed.release.id(), &release, &place)?;
    let going_back = match &latest.going_back {
        Some(why) => format!("; its hosts go back: {}", why.escape_debug()),
        None => String::new(),
    };
    eprintln!(
        "resume #{} {}  {}, begun {} ago by {}{going_back}",
        latest.sequence,
        latest.release.short(),
        latest.title(),
        age(latest.started, now()),
        latest.by.escape_debug(),
    );
    let args = match how.forgets_flags {
        true => args,
        false => as_it_began(args, &latest.flags)?,
    };
    Ok(DeployArgs {
        name: Some(place.0),
        rev: release.commit.as_ref().map(ToString::to_string),
        scap: args.scap.clone().in_environment(place.1),
        go_on: Some(GoOn {
            sequence: release.sequence,
            signed: signed.release,
            snapshot: release.snapshot,
            commit: release.commit,
            config: release.config,
            rolls_back_to: latest.rolls_back_to,
            take_over: how.take_over,
        }),
        ..args
    })
}

/// The same with the flags that it began with, but for those that are given now. They are shown: who may write to the branch could
/// have it name any.
fn as_it_began(args: DeployArgs, flags: &Flags) -> Result<DeployArgs, CliError> {
    let given = args.words();
    let mut kept = flags.clone();
    kept.retain(|name, _| !given.contains_key(name) || ScapArgs::adds_up(name));
    let kept: Vec<String> = as_said(&kept)
        .map(|flag| flag.escape_debug().to_string())
        .collect();
    if !kept.is_empty() {
        eprintln!("with the flags that it began with: {}", kept.join(" "));
    }
    args.over(flags)
}

/// That there is something to go on with.
pub(super) fn check_outcome(latest: &Rollout) -> Result<(), CliError> {
    match latest.outcome {
        Outcome::Running | Outcome::Interrupted | Outcome::Stopped => Ok(()),
        outcome => Err(CliError::usage(format!(
            "release #{} is {}: there is nothing to go on with",
            latest.sequence,
            outcome.as_str()
        ))
        .code(exit::FAILED)
        .hint("`deploy` of the same revision tries hosts again that do not have it".to_owned())),
    }
}

/// That nobody is at it, unless that is taken over.
fn check_lock(present: &Present, take_over: Option<&str>) -> Result<(), CliError> {
    let now = now();
    let is_held = |lock: &&crate::state::Lock| {
        let stale = lock.stale(now, &ProcessMark::here(), ProcessMark::is_gone);
        stale.is_none() && take_over.is_none()
    };
    match present.folder.lock.as_ref().filter(is_held) {
        None => Ok(()),
        Some(lock) => Err(CliError::usage(format!(
            "go on with the release: it is locked by {}",
            lock.describe(now)
        ))
        .code(exit::LOCKED)
        .hint("it may still run there, and `resume` there lets it go on; --take-over REASON takes it from there, and hosts then follow this one".to_owned())),
    }
}

/// That the record is about what was signed: who may write to the branch could have it name anything.
fn check_record(
    latest: &Rollout,
    id: &scap_proto::id::ReleaseId,
    release: &Release,
    place: &About,
) -> Result<(), CliError> {
    let is_it = latest.release == *id
        && latest.sequence == release.sequence
        && (&release.repo, &release.environment) == (&place.0, &place.1);
    match is_it {
        true => Ok(()),
        false => Err(CliError::usage(format!(
            "go on with the release: the record says other than what was signed, which is release {}",
            id.short()
        ))
        .code(exit::STOPPED)
        .hint("see with `git log` who wrote the record; `deploy` releases anew".to_owned())),
    }
}
