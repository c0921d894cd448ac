//! `why`: the causal chain of one host, by the running deployment, else by the last record.

use clap::Args;
use jiff::Timestamp;
use scap_proto::{id::NodeId, reason::Reason};
use serde_json::{Value, json};

use super::{
    CliError,
    branch::{ReadArgs, now},
    control::{self, Ask, Subject},
    exit,
    history::rollout_json,
    progress::some,
    rollout_status,
};
use crate::{
    rollout::{Engine, Link, WaitingOn},
    state::{Outcome, Present, ProcessMark, age},
};

const SCHEMA: &str = "scap.why/1";

#[derive(Debug, Args)]
pub(super) struct WhyArgs {
    /// The host
    host: NodeId,
    #[command(flatten)]
    read: ReadArgs,
}

pub(super) async fn run(args: &WhyArgs) -> Result<u8, CliError> {
    let WhyArgs { host, read } = args;
    let mut found = match &read.state {
        Some(state) => {
            let ask = Ask::Why { host: host.clone() };
            control::ask_here(state, read, &ask).await?
        }
        None => Vec::new(),
    };
    for answer in found.iter().filter(|it| !it["unanswered"].is_null()) {
        let text = |key: &str| answer[key].as_str().unwrap_or("?").escape_debug();
        let (repo, environment) = (text("repo"), text("environment"));
        eprintln!("warning: deploy {repo} to {environment}: {}", text("error"));
    }
    // A deployment that has nothing to do with the host says so.
    found.retain(|answer| answer["error"].is_null());
    if found.is_empty() {
        found = recorded(args)?;
    }
    if found.is_empty() {
        return Err(CliError::usage(format!(
            "say why: nothing is recorded of host {host}, and no deployment to it runs here"
        ))
        .code(exit::FAILED)
        .hint(
            "`scap-coordinator status` names the hosts of the last deployment; --state, --repo and --fetch say where to look"
                .to_owned(),
        ));
    }
    if read.json {
        println!(
            "{}",
            json!({ "schema": SCHEMA, "host": host.as_str(), "found": found })
        );
    } else {
        found.iter().for_each(print);
    }
    Ok(exit::DONE)
}

/// What a running rollout says of a host; none where it is not in it.
pub(super) fn view(
    subject: &Subject,
    engine: &Engine,
    host: &NodeId,
    now: std::time::Duration,
) -> Option<Value> {
    let why = engine.why(host, |host| subject.places.around(host))?;
    let wait = engine.wait();
    Some(json!({
        "from": "deployment",
        "repo": subject.about.0.as_str(),
        "environment": subject.about.1.as_str(),
        "release": subject.release,
        "sequence": subject.sequence,
        "host": host.as_str(),
        "wave": why.wave,
        "state": why.state,
        "live": why.is_live,
        "chain": why.links.iter().map(|link| link_json(link, now)).collect::<Vec<_>>(),
        "wait": wait.as_ref().map(|wait| rollout_status::wait_json(wait, now)),
        "moves": wait.map_or("", |wait| WaitingOn::moves(wait.on)),
    }))
}

fn link_json(link: &Link, now: std::time::Duration) -> Value {
    let hosts: Vec<&str> = link.hosts.iter().map(NodeId::as_str).collect();
    let since = link.since.map(|since| now.saturating_sub(since));
    let left = link.until.map(|until| until.saturating_sub(now));
    json!({
        "about": link.about,
        "text": link.text,
        "code": link.code,
        "since_seconds": since.map(|it| it.as_secs_f64()),
        "left_seconds": left.map(|it| it.as_secs_f64()),
        "hosts": hosts,
    })
}

/// What is recorded of a host, of each repo and environment.
fn recorded(args: &WhyArgs) -> Result<Vec<Value>, CliError> {
    let history = match args.read.open() {
        Ok((_, history)) => history,
        Err(_) if args.read.is_of_state_alone() => None,
        Err(error) => return Err(error),
    };
    let present = args.read.present(history.as_ref())?;
    let now = now();
    Ok(present
        .iter()
        .filter_map(|present| of_record(present, &args.host, now))
        .collect())
}

/// The chain as the record has it; none where the host is not in it.
fn of_record(present: &Present, host: &NodeId, now: Timestamp) -> Option<Value> {
    let (repo, environment) = &present.place;
    let group = present
        .hosts
        .groups
        .iter()
        .find(|group| group.hosts.contains(host))?;
    let latest = present.folder.record.as_ref()?.latest.as_ref()?;
    let others: Vec<&str> = group
        .hosts
        .iter()
        .filter(|other| *other != host)
        .map(NodeId::as_str)
        .collect();
    let link = |about: &str, text: String, hosts: &[&str], code: Option<Reason>| json!({"about": about, "text": text, "code": code, "hosts": hosts});
    let text = match group.reason.as_str() {
        "" => group.outcome.clone(),
        reason => format!("{}: {reason}", group.outcome),
    };
    let mut chain = vec![link("state", text, &[], group.code)];
    if !group.reason.is_empty() && !others.is_empty() {
        let count = others.len() + 1;
        chain.push(link(
            "same",
            format!("{count} hosts say the very same"),
            &others,
            None,
        ));
    }
    let what = format!(
        "release #{} is {}, begun {} ago by {}",
        latest.sequence,
        latest.outcome.as_str(),
        age(latest.started, now),
        latest.by,
    );
    chain.push(link("rollout", what, &[], latest.code));
    if let Some(why) = &latest.going_back {
        let text = format!("its hosts go back: {why}");
        chain.push(link("rollout", text, &[], latest.code));
    }
    let lock = present.folder.lock.as_ref();
    let held = lock.filter(|lock| {
        let stale = lock.stale(now, &ProcessMark::here(), ProcessMark::is_gone);
        stale.is_none()
    });
    let moves = match (latest.outcome, held) {
        (Outcome::Running, Some(lock)) => {
            chain.push(link(
                "coordinator",
                format!("it runs elsewhere: {}", lock.describe(now)),
                &[],
                None,
            ));
            "ask there"
        }
        (Outcome::Running, None) => {
            chain.push(link(
                "coordinator",
                "its coordinator ended without a word".into(),
                &[],
                None,
            ));
            "resume --repo PATH --fleet FILE"
        }
        (Outcome::Stopped | Outcome::Interrupted, _) => "resume --repo PATH --fleet FILE",
        (Outcome::Done, _) => "",
        _ => "deploy again",
    };
    Some(json!({
        "from": "record",
        "repo": repo.as_str(),
        "environment": environment.as_str(),
        "release": latest.release.to_string(),
        "sequence": latest.sequence,
        "host": host.as_str(),
        "wave": Value::Null,
        "state": group.outcome,
        "live": Value::Null,
        "chain": chain,
        "wait": Value::Null,
        "moves": moves,
        "latest": rollout_json(latest),
    }))
}

/// Prints one chain: each link comes from those below it.
fn print(why: &Value) {
    // Text that came from elsewhere is shown so that it does nothing to a terminal.
    let text = |value: &Value| {
        value
            .as_str()
            .unwrap_or_default()
            .escape_debug()
            .to_string()
    };
    let wave = why["wave"]
        .as_str()
        .map(|wave| format!("  wave {}", wave.escape_debug()));
    let from = match why["from"].as_str() {
        Some("record") => "  as it was recorded last",
        _ => "",
    };
    println!(
        "{}  {} to {}  release {:.8} #{}{}{from}",
        text(&why["host"]),
        text(&why["repo"]),
        text(&why["environment"]),
        text(&why["release"]),
        why["sequence"],
        wave.unwrap_or_default(),
    );
    for (at, link) in why["chain"].as_array().into_iter().flatten().enumerate() {
        let arrow = if at == 0 { " " } else { "←" };
        let since = link["since_seconds"].as_f64();
        let since = since
            .map(|it| format!(", for {it:.0} s"))
            .unwrap_or_default();
        let left = link["left_seconds"].as_f64();
        let left = left
            .map(|it| format!(", {it:.0} s left"))
            .unwrap_or_default();
        let hosts = link["hosts"].as_array().into_iter().flatten();
        let hosts: Vec<&str> = hosts.filter_map(Value::as_str).collect();
        let hosts = match hosts.is_empty() {
            true => String::new(),
            false => format!(" ({})", some(&hosts)),
        };
        let code = rollout_status::bracketed(&link["code"]);
        println!(
            "  {arrow} {}{code}{hosts}{since}{left}",
            text(&link["text"])
        );
    }
    let moves = text(&why["moves"]);
    if !moves.is_empty() {
        println!("next {moves}");
    }
}
