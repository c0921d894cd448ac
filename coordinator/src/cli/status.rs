//! `status`: what each environment is on, who deploys, and what became of the hosts, as the state branch says; and where a
//! deployment that runs here is, in its own word.

use std::path::Path;

use clap::Args;
use jiff::Timestamp;
use scap_agent::{api::IdentityView, clock};
use scap_proto::reason::Reason;
use serde_json::{Value, json};

use super::{
    CliError,
    branch::{ReadArgs, now},
    control, exit,
    history::rollout_json,
    progress::some,
    rollout_status,
};
use crate::state::{Lock, Outcome, Present, ProcessMark, Rollout, StateDirectory, age};

#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    read: ReadArgs,
}

pub(super) async fn run(args: &StatusArgs) -> Result<u8, CliError> {
    let running = match &args.read.state {
        Some(state) => control::running_here(state, &args.read).await?,
        None => Vec::new(),
    };
    let read = args.read.open();
    let history = match read {
        Ok((_, history)) => history,
        // What runs here can be told all the same.
        Err(_) if !running.is_empty() || args.read.is_of_state_alone() => None,
        Err(error) => return Err(error),
    };
    let present = args.read.present(history.as_ref())?;
    let now = now();
    let state = args.read.state.as_deref();
    let identity = state.and_then(identity_of);
    // What is not a state directory has revoked nobody.
    let revoked = state.and_then(|state| StateDirectory::open(state).ok()?.revoked().ok());
    let revoked = revoked.unwrap_or_default();
    if args.read.json {
        let places: Vec<Value> = present.iter().map(|it| place_json(it, now)).collect();
        let tip = history.map(|history| history.tip().to_string());
        println!(
            "{}",
            json!({"schema": "scap.status/1", "running": running, "state_commit": tip, "places": places,
                   "identity": identity, "revoked": revoked.keys().collect::<Vec<_>>()})
        );
        return Ok(exit::DONE);
    }
    if let Some(identity) = identity.filter(|it| it.state != "good") {
        println!(
            "this coordinator's certificate is {}: until {}; `scap-coordinator doctor` says what to do",
            identity.state, identity.valid_until
        );
    }
    for running in &running {
        rollout_status::print(running);
    }
    for (host, denial) in &revoked {
        let reason = denial.reason.escape_debug();
        println!("revoked {host}: {reason} [revoked]");
    }
    if present.is_empty() && running.is_empty() {
        println!(
            "nothing was deployed, as far as the state branch here says, and no deployment runs here"
        );
    }
    for present in &present {
        print(present, now);
    }
    Ok(exit::DONE)
}

/// This coordinator's certificate; none where it cannot be read, which `doctor` tells of.
fn identity_of(state: &Path) -> Option<IdentityView> {
    let identity = StateDirectory::open(state).ok()?.identity().ok()?;
    Some(IdentityView::new(&identity, clock::now()))
}

/// The lock, and why it is nobody's any more, if so.
fn lock_of(present: &Present, now: Timestamp) -> Option<(&Lock, Option<&'static str>)> {
    let lock = present.folder.lock.as_ref()?;
    let stale = lock.stale(now, &ProcessMark::here(), ProcessMark::is_gone);
    Some((lock, stale.map(|it| it.as_str())))
}

/// Whether somebody is at it.
fn is_under_way(present: &Present, latest: &Rollout, now: Timestamp) -> bool {
    matches!(lock_of(present, now), Some((lock, None)) if lock.holder.rollout == latest.rollout)
        && latest.outcome == Outcome::Running
}

/// Whether something was begun that is not stable, and nobody is at it.
fn is_open(present: &Present, now: Timestamp) -> bool {
    let record = present.folder.record.as_ref();
    let stable = record.and_then(|record| record.stable.as_ref());
    let latest = record.and_then(|record| record.latest.as_ref());
    let is_free = !matches!(lock_of(present, now), Some((_, None)));
    let is_unsettled =
        latest.is_some_and(|latest| stable.map(|it| it.release) != Some(latest.release));
    is_free && is_unsettled
}

fn moves_json(present: &Present, now: Timestamp) -> Vec<Value> {
    let record = present.folder.record.as_ref();
    let latest = record.and_then(|record| record.latest.as_ref());
    let latest = latest.filter(|_| is_open(present, now));
    let moves = latest.into_iter().flat_map(|latest| moves(present, latest));
    moves
        .map(|(command, effect)| json!({ "command": command, "effect": effect }))
        .collect()
}

fn place_json(present: &Present, now: Timestamp) -> Value {
    let (repo, environment) = &present.place;
    let record = present.folder.record.as_ref();
    let latest = record.and_then(|record| record.latest.as_ref());
    let stable = record.and_then(|record| record.stable.as_ref());
    let lock = lock_of(present, now).map(|(lock, stale)| {
        json!({
            "holder": lock.holder.name,
            "rollout": lock.holder.rollout,
            "reason": lock.reason,
            "since": lock.since,
            "until": lock.until,
            "age_seconds": now.duration_since(lock.since).as_secs(),
            "stale": stale,
        })
    });
    json!({
        "repo": repo.as_str(),
        "environment": environment.as_str(),
        "stable": stable.map(rollout_json),
        "latest": latest.map(rollout_json),
        "moves": moves_json(present, now),
        "under_way": latest.is_some_and(|latest| is_under_way(present, latest, now)),
        "lock": lock,
        "hosts": present.hosts.groups,
    })
}

fn print(present: &Present, now: Timestamp) {
    let (repo, environment) = &present.place;
    println!("{environment} {repo}");
    let record = present.folder.record.as_ref();
    let latest = record.and_then(|record| record.latest.as_ref());
    match record.and_then(|record| record.stable.as_ref()) {
        Some(stable) => println!("  on      {}", line(stable, now)),
        None => println!("  on      nothing: no release was finalized"),
    }
    if let Some(latest) = latest {
        let stable = record.and_then(|record| record.stable.as_ref());
        if stable.map(|stable| stable.release) != Some(latest.release) {
            println!("  latest  {}", line(latest, now));
        }
        let waves: Vec<&str> = latest.waves.iter().map(|wave| wave.name.as_str()).collect();
        if latest.outcome == Outcome::Running {
            let through = match waves.is_empty() {
                true => "no wave is through yet".to_owned(),
                false => format!("through: {}", waves.join(", ").escape_debug()),
            };
            match is_under_way(present, latest, now) {
                true => println!("          under way; {through}"),
                false => println!("          its coordinator ended without a word; {through}"),
            }
        }
    }
    if let Some((lock, stale)) = lock_of(present, now) {
        let stale = stale.map_or(String::new(), |why| format!("; {why}"));
        println!("  lock    {}{stale}", lock.describe(now));
    }
    for group in &present.hosts.groups {
        let names: Vec<&str> = group.hosts.iter().map(|host| host.as_str()).collect();
        let reason = match group.reason.as_str() {
            "" => String::new(),
            reason => format!(": {}", reason.escape_debug()),
        };
        let code = bracketed(group.code);
        println!(
            "  hosts   {} {} ({}){reason}{code}",
            group.outcome.escape_debug(),
            names.len(),
            some(&names)
        );
    }
    if let (Some(latest), true) = (latest, is_open(present, now)) {
        for (command, effect) in moves(present, latest) {
            println!("  next    {command}: {effect}");
        }
    }
}

/// What may be done where nobody is at it, and what that touches, as far as it is recorded.
fn moves(present: &Present, latest: &Rollout) -> Vec<(&'static str, String)> {
    let record = present.folder.record.as_ref();
    let stable = record.and_then(|record| record.stable.as_ref());
    let groups = &present.hosts.groups;
    let live = groups.iter().filter(|group| group.outcome == PROMOTED);
    let live: usize = live.map(|group| group.hosts.len()).sum();
    let sequence = latest.sequence;
    let again = match &latest.going_back {
        Some(_) => format!("hosts of #{sequence} that were switched go back to what they ran"),
        None => format!("goes on with #{sequence}, which {live} hosts are recorded to have live"),
    };
    let mut moves = vec![("the same deploy again, or resume", again)];
    if let Some(stable) = stable {
        moves.push((
            "rollback",
            format!(
                "releases #{} again; {live} hosts that are recorded to have #{sequence} live switch back",
                stable.sequence
            ),
        ));
    }
    moves
}

/// The outcome of a host that has the release live.
const PROMOTED: &str = "promoted";

/// A code, as it goes after what it is about; nothing where there is none.
pub(super) fn bracketed(code: Option<Reason>) -> String {
    code.map_or_else(String::new, |code| format!(" [{code}]"))
}

/// One release on a line.
pub(super) fn line(rollout: &Rollout, now: Timestamp) -> String {
    let back = match rollout.rolls_back_to {
        Some(sequence) => format!(", back to #{sequence}"),
        None => String::new(),
    };
    let offline = if rollout.is_offline { ", offline" } else { "" };
    let limited = if rollout.is_limited {
        ", for some hosts alone"
    } else {
        ""
    };
    format!(
        "#{} {}  {}  {}{}{back}{offline}{limited}, {} ago by {}",
        rollout.sequence,
        rollout.release.short(),
        rollout.title(),
        rollout.outcome.as_str(),
        bracketed(rollout.code),
        age(rollout.started, now),
        rollout.by.escape_debug(),
    )
}
