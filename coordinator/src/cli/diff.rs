//! `diff`: which commits and files differ between two releases.

use clap::Args;
use scap_proto::id::GitOid;
use serde_json::{Value, json};

use super::{
    CliError,
    branch::ReadArgs,
    exit,
    history::{named, recorded_json, releases},
};
use crate::{
    git::{Change, Commit, GitError, Repo},
    state::Recorded,
};

/// Most commits that are listed on either side.
const COMMITS_MAX: usize = 1000;

#[derive(Debug, Args)]
pub(super) struct DiffArgs {
    /// From which release, as `show` takes it
    #[arg(value_name = "A")]
    from: String,
    /// To which
    #[arg(value_name = "B")]
    to: String,
    #[command(flatten)]
    read: ReadArgs,
}

pub(super) fn run(args: &DiffArgs) -> Result<u8, CliError> {
    let (_, releases) = releases(&args.read)?;
    let from = named(&releases, &args.from)?;
    let to = named(&releases, &args.to)?;
    let (older, newer) = (commit_of(from)?, commit_of(to)?);
    let repo = args.read.repo()?;
    let log = |from: &GitOid, to: &GitOid| {
        repo.log(from, to, COMMITS_MAX)
            .map_err(|error| git_error(&error))
    };
    let added = log(older, newer)?;
    let removed = log(newer, older)?;
    let files = files(&repo, older, newer)?;
    if args.read.json {
        let object = json!({
            "schema": "scap.diff/1",
            "from": recorded_json(from),
            "to": recorded_json(to),
            "commits_added": added.iter().map(commit_json).collect::<Vec<_>>(),
            "commits_removed": removed.iter().map(commit_json).collect::<Vec<_>>(),
            "files": files.iter().map(|(what, path)| json!({"change": what, "path": path})).collect::<Vec<_>>(),
        });
        println!("{object}");
        return Ok(exit::DONE);
    }
    println!("{} → {}", from.describe(), to.describe());
    for (sign, commits) in [('+', &added), ('-', &removed)] {
        for commit in commits {
            println!(
                "{sign} {:.10} \"{}\" by {}",
                commit.id.to_string(),
                commit.subject.escape_debug(),
                commit.author.escape_debug()
            );
        }
    }
    for (what, path) in &files {
        println!("  {what:<8} {path}");
    }
    println!(
        "{} commits more, {} fewer, {} files differ",
        added.len(),
        removed.len(),
        files.len()
    );
    Ok(exit::DONE)
}

fn commit_of(recorded: &Recorded) -> Result<&GitOid, CliError> {
    recorded.rollout.commit.as_ref().ok_or_else(|| {
        CliError::usage(format!(
            "{} is of a directory, not of a commit",
            recorded.describe()
        ))
        .hint("only releases of commits are compared".to_owned())
    })
}

/// What was done to each file, and its path, escaped.
fn files(
    repo: &Repo,
    older: &GitOid,
    newer: &GitOid,
) -> Result<Vec<(&'static str, String)>, CliError> {
    let changes = repo
        .changes(older, newer)
        .map_err(|error| CliError::failed("compare the commits", &error))?;
    let file = |change: Change| {
        let what = match &change {
            Change::Added(_) => "added",
            Change::Changed(_) => "changed",
            Change::Removed(_) => "removed",
        };
        let path = String::from_utf8_lossy(change.path());
        (what, path.escape_debug().to_string())
    };
    Ok(changes.into_iter().map(file).collect())
}

fn commit_json(commit: &Commit) -> Value {
    json!({
        "commit": commit.id.to_string(),
        "subject": commit.subject,
        "author": commit.author,
        "time": jiff::Timestamp::from_second(commit.time).ok(),
    })
}

fn git_error(error: &GitError) -> CliError {
    CliError::failed("compare the commits", error).hint(error.hint())
}
