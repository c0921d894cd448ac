//! Where a rollout is that runs here, what it waits for, and what may be done: for `status`, progress and `deploy --json`.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use scap_proto::{
    id::NodeId,
    reason::{Because, Reason},
    release::Step,
};
use serde_json::{Value, json};

use super::{control::Subject, progress::some, screen::clock, watch};
use crate::rollout::{Engine, HostProgress, HostState, Move, Spent, Wait};

const SCHEMA: &str = "scap.rollout/1";

/// What a running rollout says of itself.
pub(super) fn view(subject: &Subject, engine: &Engine, now: Duration) -> Value {
    json!({
        "schema": SCHEMA,
        "repo": subject.about.0.as_str(),
        "environment": subject.about.1.as_str(),
        "release": subject.release,
        "sequence": subject.sequence,
        "commit": subject.commit,
        "elapsed_seconds": now.as_secs_f64(),
        "wait": engine.wait().map(|wait| wait_json(&wait, now)),
        "moves": engine.moves().iter().map(move_json).collect::<Vec<_>>(),
        "spent_seconds": spent_json(&engine.spent(now)),
        "waves": waves(engine),
        "lost": lost(engine),
        "shunned": shunned(engine),
        "watch": watch::json(engine),
    })
}

/// A move, and what it touches.
fn move_json(it: &Move) -> Value {
    json!({ "command": it.command, "hosts": it.hosts, "waves": it.waves, "effect": it.effect })
}

/// Where the time went, for programs.
pub(super) fn spent_json(spent: &Spent) -> Value {
    json!({
        "fetch": spent.fetch.as_secs_f64(),
        "activate": spent.activate.as_secs_f64(),
        "soak": spent.soak.as_secs_f64(),
        "people": spent.people.as_secs_f64(),
    })
}

/// The same for people.
pub(super) fn spent_line(spent: &Spent) -> String {
    let seconds = |time: Duration| match time.as_secs() {
        0..60 => format!("{:.1} s", time.as_secs_f64()),
        _ => clock(time),
    };
    format!(
        "fetch {}  activate {}  soak {}  people {}",
        seconds(spent.fetch),
        seconds(spent.activate),
        seconds(spent.soak),
        seconds(spent.people)
    )
}

/// One wait, as JSON tells it everywhere.
pub(super) fn wait_json(wait: &Wait, now: Duration) -> Value {
    let hosts: Vec<&str> = wait.hosts.iter().map(|host| host.as_str()).collect();
    let left = wait.until.map(|until| until.saturating_sub(now));
    json!({
        "on": wait.on.code(),
        "wave": wait.wave,
        "hosts": hosts,
        "steps": steps_json(wait),
        "since_seconds": now.saturating_sub(wait.since).as_secs_f64(),
        "left_seconds": left.map(|left| left.as_secs_f64()),
        "moves": wait.on.moves(),
    })
}

/// What hosts that are waited for say that they are at, most of them first.
fn steps_json(wait: &Wait) -> Vec<Value> {
    let mut steps: Vec<_> = wait.steps.iter().collect();
    steps.sort_by_key(|(_, hosts)| std::cmp::Reverse(hosts.len()));
    let one = |(step, hosts): (&Step, &BTreeSet<NodeId>)| {
        let hosts: Vec<&str> = hosts.iter().map(NodeId::as_str).collect();
        json!({
            "code": step.code, "name": step.name, "limit_seconds": step.limit().as_secs_f64(), "hosts": hosts,
        })
    };
    steps.into_iter().map(one).collect()
}

/// The same for people: the first, and how many more there are; nothing where there is none.
pub(super) fn shown_steps(steps: &Value) -> String {
    let steps = steps.as_array().map_or(&[][..], Vec::as_slice);
    let Some((first, others)) = steps.split_first() else {
        return String::new();
    };
    let text = |key: &str| first[key].as_str().unwrap_or_default().escape_debug();
    let more = match others.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!(
        ", at {} `{}` ({}){more}",
        text("code"),
        text("name"),
        some(&names(&first["hosts"]))
    )
}

/// Each wave: how many of its hosts are where.
pub(super) fn waves(engine: &Engine) -> Vec<Value> {
    let waves = engine.policy().waves.iter();
    waves
        .map(|wave| {
            let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
            for host in wave.hosts() {
                *counts.entry(engine.hosts()[host].state.code()).or_default() += 1;
            }
            let all = wave.hosts().count();
            let of = |state: &str| counts.get(state).copied().unwrap_or(0);
            let outcome = match () {
                () if of("promoted") == all => "done",
                () if of("waiting") == all => "untouched",
                () if of("rolled-back") > 0 => "rolled-back",
                () if of("promoted") > 0 => "partial",
                () => "unfinished",
            };
            json!({ "name": wave.name, "hosts": all, "outcome": outcome, "states": counts })
        })
        .collect()
}

/// Lost hosts, by identical reason, the largest group first. What a check printed is no part of that: it comes from the first of
/// the hosts.
pub(super) fn lost(engine: &Engine) -> Vec<Value> {
    let mut reasons: BTreeMap<(&str, &str, &str), (Vec<&str>, &str)> = BTreeMap::new();
    for (name, host) in engine.hosts() {
        if let Some(Because { code, text }) = reason(host) {
            let (first, output) = text.split_once('\n').unwrap_or((text, ""));
            let group = reasons.entry((host.state.code(), code.as_str(), first));
            let (hosts, _) = group.or_insert_with(|| (Vec::new(), output));
            hosts.push(name.as_str());
        }
    }
    let mut groups: Vec<_> = reasons.into_iter().collect();
    groups.sort_by_key(|(_, (hosts, _))| std::cmp::Reverse(hosts.len()));
    let group = |((state, code, reason), (hosts, output))| {
        let output = Some(output).filter(|output: &&str| !output.is_empty());
        json!({ "state": state, "code": code, "reason": reason, "output": output, "hosts": hosts })
    };
    groups.into_iter().map(group).collect()
}

/// The peers that hosts have no dealings with, by what they are said to have done, and which hosts say so. Those that most say so
/// of come first: one host's word is no proof.
pub(super) fn shunned(engine: &Engine) -> Vec<Value> {
    let mut peers: BTreeMap<(&NodeId, Reason), Vec<&str>> = BTreeMap::new();
    for (name, host) in engine.hosts() {
        for (peer, code) in &host.shunned {
            peers.entry((peer, *code)).or_default().push(name.as_str());
        }
    }
    let mut groups: Vec<_> = peers.into_iter().collect();
    groups.sort_by_key(|(_, hosts)| std::cmp::Reverse(hosts.len()));
    let group = |((peer, code), hosts): ((&NodeId, Reason), Vec<&str>)| json!({ "peer": peer.as_str(), "code": code, "by": hosts });
    groups.into_iter().map(group).collect()
}

/// What a host says, its code after the first line and the others below each other, so that it does nothing to a terminal.
pub(super) fn shown_reason(Because { code, text }: &Because) -> String {
    let mut lines = text.lines().map(|line| line.escape_debug().to_string());
    let first = format!("{} [{code}]", lines.next().unwrap_or_default());
    lines.fold(first, |text, line| format!("{text}\n    {line}"))
}

/// A code, as it goes after the words of a reason; nothing where there is none.
pub(super) fn bracketed(code: &Value) -> String {
    let code = code.as_str();
    code.map_or_else(String::new, |code| format!(" [{}]", code.escape_debug()))
}

/// Why a host does not have the release, where there is a reason.
pub(super) fn reason(host: &HostProgress) -> Option<&Because> {
    match &host.state {
        HostState::Promoted => None,
        state => state.because().or(host.failure.as_ref()),
    }
}

/// Prints what a deployment says of itself.
pub(super) fn print(status: &Value) {
    // Text that came from elsewhere is shown so that it does nothing to a terminal.
    let text = |value: &Value| {
        value
            .as_str()
            .unwrap_or_default()
            .escape_debug()
            .to_string()
    };
    if let Some(error) = status["error"].as_str() {
        let name = |key: &str| status[key].as_str().unwrap_or("?").escape_debug();
        return println!(
            "deploy {} to {}  {}",
            name("repo"),
            name("environment"),
            error.escape_debug()
        );
    }
    let seconds = |value: &Value| value.as_f64().unwrap_or_default();
    println!(
        "deploy {} to {}  release {:.8} #{}  {:.0} s",
        text(&status["repo"]),
        text(&status["environment"]),
        text(&status["release"]),
        status["sequence"],
        seconds(&status["elapsed_seconds"]),
    );
    for wave in status["waves"].as_array().into_iter().flatten() {
        let states = wave["states"].as_object().into_iter().flatten();
        let states: Vec<String> = states.map(|(state, n)| format!("{state} {n}")).collect();
        let states = states.join("  ");
        println!(
            "wave {}  {}  {states}",
            text(&wave["name"]),
            text(&wave["outcome"])
        );
    }
    for group in status["lost"].as_array().into_iter().flatten() {
        let (state, reason) = (text(&group["state"]), text(&group["reason"]));
        let code = bracketed(&group["code"]);
        println!("{state} {}: {reason}{code}", some(&names(&group["hosts"])));
        for line in group["output"].as_str().into_iter().flat_map(str::lines) {
            println!("    {}", line.escape_debug());
        }
    }
    let wait = &status["wait"];
    if wait.is_null() {
        return;
    }
    let names = names(&wait["hosts"]);
    let wave = wait["wave"]
        .as_str()
        .map(|wave| format!(" of wave {}", wave.escape_debug()));
    let on = if names.is_empty() {
        String::new()
    } else {
        format!(" on {}", some(&names))
    };
    let left = wait["left_seconds"].as_f64();
    let left = left
        .map(|left| format!(", {left:.0} s left"))
        .unwrap_or_default();
    let since = seconds(&wait["since_seconds"]);
    println!(
        "wait {}{}{on}{}  for {since:.0} s{left}",
        text(&wait["on"]),
        wave.unwrap_or_default(),
        shown_steps(&wait["steps"]),
    );
    for it in status["moves"].as_array().into_iter().flatten() {
        println!("next {}: {}", text(&it["command"]), text(&it["effect"]));
    }
}

fn names(hosts: &Value) -> Vec<&str> {
    let hosts = hosts.as_array().into_iter().flatten();
    hosts.filter_map(Value::as_str).collect()
}
