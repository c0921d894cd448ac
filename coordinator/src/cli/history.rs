//! `history`: what was released.

use clap::Args;
use serde_json::{Value, json};

use super::{
    CliError,
    branch::{ReadArgs, failed, now},
    exit,
    status::line,
};
use crate::state::{BrokenLock, History, Past, Recorded, Rollout, age, find};

#[derive(Debug, Args)]
pub(super) struct HistoryArgs {
    #[command(flatten)]
    read: ReadArgs,
    /// Show so many of each repo and environment, the latest
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: usize,
}

pub(super) fn run(args: &HistoryArgs) -> Result<u8, CliError> {
    let (_, history) = args.read.open()?;
    let all = match &history {
        Some(history) => pasts(history, &args.read)?,
        None => Vec::new(),
    };
    if args.read.json {
        let shown = |past: &Past| -> Vec<Value> {
            past.releases
                .iter()
                .take(args.limit)
                .map(recorded_json)
                .collect()
        };
        let releases: Vec<Value> = all.iter().flat_map(shown).collect();
        let broken: Vec<&BrokenLock> = all.iter().flat_map(|past| &past.broken_locks).collect();
        println!(
            "{}",
            json!({"schema": "scap.history/1", "releases": releases, "broken_locks": broken})
        );
        return Ok(exit::DONE);
    }
    if all.iter().all(|past| past.releases.is_empty()) {
        println!("nothing was deployed, as far as the state branch here says");
    }
    let now = now();
    for past in &all {
        if let Some(first) = past.releases.first() {
            let (repo, environment) = &first.place;
            println!("{environment} {repo}");
        }
        for recorded in past.releases.iter().take(args.limit) {
            let finalized = if recorded.is_finalized {
                ", finalized"
            } else {
                ""
            };
            println!("  {}{finalized}", line(&recorded.rollout, now));
        }
        for broken in &past.broken_locks {
            println!(
                "  lock of {} broken by {}, {} ago: {}",
                broken.holder.escape_debug(),
                broken.by.escape_debug(),
                age(broken.at, now),
                broken.reason.escape_debug()
            );
        }
    }
    Ok(exit::DONE)
}

/// What was recorded of each place that was asked for.
fn pasts(history: &History, read: &ReadArgs) -> Result<Vec<Past>, CliError> {
    let places = history.places().map_err(|error| failed(&error))?;
    let wanted = places.iter().filter(|place| read.is_wanted(place));
    wanted
        .map(|place| {
            let past = history.past(place).map_err(|error| failed(&error))?;
            warn_of_unreadable(&past);
            Ok(past)
        })
        .collect()
}

/// Names the records that cannot be read.
pub(super) fn warn_of_unreadable(past: &Past) {
    for (commit, error) in &past.unreadable {
        let error = scap_agent::error_chain(error);
        eprintln!("warning: the record of state commit {commit} is left out: {error}");
    }
}

/// All releases that a name may be of.
pub(super) fn releases(read: &ReadArgs) -> Result<(History, Vec<Recorded>), CliError> {
    let (_, history) = read.open()?;
    let history = history.ok_or_else(|| {
        CliError::usage("there is no state branch here: nothing was deployed").hint(
            "--fetch asks the upstream; --repo and --state-branch say where to look".to_owned(),
        )
    })?;
    let all = pasts(&history, read)?;
    let releases = all.into_iter().flat_map(|past| past.releases).collect();
    Ok((history, releases))
}

/// The one release of a name.
pub(super) fn named<'a>(releases: &'a [Recorded], name: &str) -> Result<&'a Recorded, CliError> {
    find(releases, name).map_err(|error| {
        CliError::failed("find the release", &error).code(exit::USAGE).hint(
            "`scap-coordinator history` lists them; --environment and --name say which of several"
                .to_owned(),
        )
    })
}

/// A release as all commands show it.
pub(super) fn recorded_json(recorded: &Recorded) -> Value {
    let (repo, environment) = &recorded.place;
    let mut json = rollout_json(&recorded.rollout);
    json["repo"] = repo.as_str().into();
    json["environment"] = environment.as_str().into();
    json["finalized"] = recorded.is_finalized.into();
    json["state_commit"] = recorded.state_commit.to_string().into();
    json
}

/// What is said of a release wherever it is.
pub(super) fn rollout_json(rollout: &Rollout) -> Value {
    json!({
        "release": rollout.release.to_string(),
        "sequence": rollout.sequence,
        "snapshot": rollout.snapshot.to_string(),
        "commit": rollout.commit.as_ref().map(ToString::to_string),
        "subject": rollout.subject,
        "rollout": rollout.rollout,
        "code": rollout.code,
        "by": rollout.by,
        "started": rollout.started,
        "ended": rollout.ended,
        "outcome": rollout.outcome,
        "waves": rollout.waves,
        "offline": rollout.is_offline,
        "rolls_back_to": rollout.rolls_back_to,
    })
}
