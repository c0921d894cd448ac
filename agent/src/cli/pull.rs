//! `scap-agent pull`, and what `run` is told about catching up.

use std::{io::Write, num::NonZeroU32, path::PathBuf, process::ExitCode};

use clap::Args;
use scap_proto::release::{Environment, RepoPath};
use serde_json::Value;

use super::{
    LocalArgs, bracketed,
    clone::{CloneError, StateClone},
    exit, fail, text,
};
use crate::{
    api::{self, Call, CallError, Given},
    catchup::{Peer, Policy},
    config::PartialConfig,
};

#[derive(Debug, Args)]
pub(super) struct CatchUpArgs {
    /// Ask this host which releases are stable; may be repeated, and two at least are believed
    #[arg(long = "peer", value_name = "NAME=HOST:PORT")]
    peers: Vec<Peer>,
    /// What to do with a later stable release that peers have [default: activate]
    #[arg(long, value_name = "POLICY")]
    catch_up: Option<Policy>,
    /// How often to ask them [default: 15]
    #[arg(long, value_name = "MINUTES")]
    catch_up_minutes: Option<NonZeroU32>,
    /// For how long this host may hear nothing new before it counts as stale [default: four times as long as between two rounds
    /// of asking]
    #[arg(long, value_name = "SECONDS")]
    lease_seconds: Option<NonZeroU32>,
}

impl From<CatchUpArgs> for PartialConfig {
    fn from(args: CatchUpArgs) -> Self {
        Self {
            peers: Some(args.peers).filter(|peers| !peers.is_empty()),
            catch_up: args.catch_up,
            catch_up_minutes: args.catch_up_minutes,
            lease_seconds: args.lease_seconds,
            ..Self::default()
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct PullArgs {
    /// The repo, as its path below the deploy root; all that peers have for this host unless said
    repo: Option<RepoPath>,
    /// In this environment alone
    #[arg(long, value_name = "ENV")]
    environment: Option<Environment>,
    /// Also believe what was signed of it on the state branch of this clone, as far as it verifies; peers still have the content
    #[arg(long, value_name = "DIR", requires = "repo")]
    from_git: Option<PathBuf>,
    /// The state branch of that clone
    #[arg(
        long,
        value_name = "BRANCH",
        default_value = "scap/state",
        env = "SCAP_STATE_BRANCH"
    )]
    state_branch: String,
    #[command(flatten)]
    local: LocalArgs,
}

impl PullArgs {
    /// What the clone says, for the daemon.
    fn given(&self) -> Result<Vec<Given>, CloneError> {
        let (Some(directory), Some(repo)) = (&self.from_git, &self.repo) else {
            return Ok(Vec::new());
        };
        let clone = StateClone {
            directory,
            branch: &self.state_branch,
        };
        let environment = self.environment.clone().unwrap_or_default();
        let stable = clone.stable(repo, &environment)?;
        Ok(stable.iter().map(Given::new).collect())
    }
}

/// Asks the daemon, and says by the exit code whether anything changed.
pub(super) async fn run(args: &PullArgs) -> ExitCode {
    let given = match args.given() {
        Ok(given) => given,
        Err(error) => return fail("pull", &error, None),
    };
    let call = Call::Pull {
        repo: args.repo.clone(),
        environment: args.environment.clone(),
        given,
    };
    let answer: Value = match api::call(&args.local.data, &call).await {
        Ok(answer) => answer,
        Err(error) => {
            let hint = matches!(error, CallError::Connect { .. }).then_some(
                "is `scap-agent run` running, with the same --data, and are you its user?",
            );
            return fail("pull", &error, hint);
        }
    };
    let mut out = std::io::stdout().lock();
    if args.local.json {
        let _ = writeln!(out, "{answer}");
    } else {
        print(&answer, &mut out);
    }
    ExitCode::from(match (&answer["ok"], &answer["changed"]) {
        (Value::Bool(true), Value::Bool(true)) => exit::CHANGED,
        (Value::Bool(true), _) => exit::DONE,
        _ => exit::FAILED,
    })
}

fn print(answer: &Value, out: &mut dyn Write) {
    for repo in list(&answer["repos"]) {
        let _ = writeln!(
            out,
            "{} {}  #{} release {}  live commit {}  {}{}",
            text(repo, "repo"),
            text(repo, "environment"),
            text(repo, "sequence"),
            text(repo, "release").get(..8).unwrap_or("-"),
            text(repo, "live_commit").get(..10).unwrap_or("-"),
            text(repo, "state"),
            if repo["changed"] == true {
                ", changed"
            } else {
                ""
            },
        );
        if let Some(reason) = repo["reason"].as_str() {
            let code = bracketed(repo, "code");
            let _ = writeln!(out, "  reason  {}{code}", reason.escape_debug());
        }
    }
    match answer["reason"].as_str() {
        Some(reason) => {
            let _ = writeln!(out, "{}", reason.escape_debug());
        }
        None if list(&answer["repos"]).is_empty() => {
            let _ = writeln!(out, "no peer has a stable release for this host");
        }
        None => {}
    }
}

/// What the status says of it, where there is anything to say.
pub(super) fn print_status(view: &Value, out: &mut dyn Write) {
    for peer in list(&view["peers"]) {
        let heard = match peer["heard_secs_ago"].as_u64() {
            Some(secs) => format!("answered {secs} s ago, {} releases", text(peer, "releases")),
            None => "has not answered yet".to_owned(),
        };
        let error = peer["error"].as_str().map(str::escape_debug);
        let error = error.map_or(String::new(), |error| format!("; the last time: {error}"));
        let _ = writeln!(out, "peer {}  {heard}{error}", text(peer, "name"));
    }
    if let Some(secs) = view["stale_secs"].as_u64() {
        let _ = writeln!(
            out,
            "stale for {secs} s: what is stable may be another release by now"
        );
    }
    if let Some(waiting) = view["waiting"].as_str() {
        let code = bracketed(view, "waiting_code");
        let _ = writeln!(out, "wait  {}{code}", waiting.escape_debug());
    }
    for behind in list(&view["behind"]) {
        let _ = writeln!(
            out,
            "peer {} says that {} {} is at #{}; #{} is stable",
            text(behind, "peer"),
            text(behind, "repo"),
            text(behind, "environment"),
            text(behind, "sequence"),
            text(behind, "stable"),
        );
    }
    for said in list(&view["disbelieved"]) {
        let _ = writeln!(
            out,
            "peer {} is not believed about release {}: {}",
            text(said, "peer"),
            text(said, "release").get(..8).unwrap_or("-"),
            text(said, "reason").escape_debug(),
        );
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}
