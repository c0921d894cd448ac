//! `release show`: what a prepared release is, for whoever is asked to sign it.

use std::path::PathBuf;

use clap::Args;
use jiff::Timestamp;
use scap_proto::release::{Release, UnixMillis};
use serde_json::json;

use super::load;
use crate::cli::{
    CliError, SourceArgs,
    deploy::{Given, verify_content},
    exit,
    scap::ScapArgs,
};

#[derive(Debug, Args)]
pub(super) struct ShowArgs {
    /// The file that `prepare` wrote
    file: PathBuf,
    /// Build the commit that it names from this repository, and compare
    #[arg(long, value_name = "PATH", conflicts_with = "dir")]
    repo: Option<PathBuf>,
    /// Build this directory, and compare
    #[arg(long, value_name = "PATH")]
    dir: Option<PathBuf>,
    #[command(flatten)]
    scap: ScapArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: ShowArgs) -> Result<u8, CliError> {
    let prepared = load(&args.file)?;
    let claimed: Vec<String> = prepared
        .signatures
        .iter()
        .map(|it| it.fingerprint())
        .collect();
    let Given { signed, release } = Given::of(prepared)?;
    let is_compared = args.repo.is_some() || args.dir.is_some();
    if is_compared {
        let (release, scap) = (release.clone(), args.scap.clone());
        let source = SourceArgs {
            repo: args.repo.clone(),
            dir: args.dir.clone(),
        };
        let compare = move || verify_content(&release, &source, &scap);
        let compared = tokio::task::spawn_blocking(compare).await;
        compared.expect("building does not panic")?;
    }
    if args.json {
        let object = json!({
            "schema": "scap.prepared-release/1",
            "release": signed.id().to_string(),
            "repo": release.repo.as_str(),
            "environment": release.environment.as_str(),
            "sequence": release.sequence,
            "snapshot": release.snapshot.id.to_string(),
            "commit": release.commit.as_ref().map(ToString::to_string),
            "config": release.config.map(|it| it.id.to_string()),
            "previous": release.previous.map(|it| it.to_string()),
            "created": time(release.created),
            "expires": time(release.expires),
            "namespace": release.namespace(),
            "claims_to_be_signed_by": claimed,
            "is_what_is_here": is_compared.then_some(true),
        });
        println!("{object}");
        return Ok(exit::DONE);
    }
    for line in describe(&release) {
        println!("{line}");
    }
    for key in claimed {
        println!("  claims to be signed by {key}");
    }
    if is_compared {
        println!("it is of what is here: commit, tree, and what hosts are asked");
    }
    Ok(exit::DONE)
}

/// What whoever signs it should know, in lines.
pub(super) fn describe(release: &Release) -> Vec<String> {
    let mut lines = vec![format!(
        "release #{} of {} to {}",
        release.sequence, release.repo, release.environment
    )];
    lines.push(format!("  snapshot  {}", release.snapshot.id));
    lines.push(match &release.commit {
        Some(commit) => format!("  commit    {commit}"),
        None => "  of a directory".to_owned(),
    });
    let config = release.config.map(|it| format!("  asks      {}", it.id));
    let previous = release.previous.map(|it| format!("  after     {it}"));
    lines.extend(config.into_iter().chain(previous));
    lines.push(format!("  expires   {}", time(release.expires)));
    lines
}

fn time(at: UnixMillis) -> String {
    let millis = i64::try_from(at.0).unwrap_or(i64::MAX);
    let time = Timestamp::from_millisecond(millis).unwrap_or(Timestamp::MAX);
    format!("{time:.0}")
}
