//! What hosts saw of attacks, and what their reports look like: for the end of a deployment, its JSON and `status`.

use jiff::Timestamp;
use scap_agent::{error_chain, node::Denial};
use scap_proto::release::UnixMillis;
use serde_json::{Value, json};

use crate::{
    rollout::{Engine, HostProgress},
    state::StateDirectory,
};

/// What there is to watch, a line each; nothing where all is as it should be.
pub(super) fn lines(engine: &Engine) -> Vec<String> {
    let mut lines = Vec::new();
    for (name, host) in engine.hosts() {
        for saw in &host.saw {
            let by = saw.peer.as_ref();
            let by = by.map_or_else(String::new, |peer| format!(" by {peer}"));
            let count = times(saw.count.into());
            lines.push(format!("saw  {name}: {}{by}, {count}", saw.code));
        }
        if let Some(since) = host.stale_since.and_then(time) {
            lines.push(format!(
                "stale  {name}: had heard nothing new since {since} [stale]"
            ));
        }
        if host.has_lost_count {
            lines.push(format!(
                "reset  {name}: counts its reports anew: its record was lost or set back [state-lost]"
            ));
        }
    }
    lines
}

/// The same for programs: hosts with anything to say alone.
pub(super) fn json(engine: &Engine) -> Vec<Value> {
    let is_of_note = |host: &HostProgress| {
        !host.saw.is_empty() || host.stale_since.is_some() || host.has_lost_count
    };
    let hosts = engine.hosts().iter().filter(|(_, host)| is_of_note(host));
    let one = |(name, host): (&_, &HostProgress)| {
        json!({
            "host": name, "saw": saw(host), "stale_since": host.stale_since.and_then(time),
            "lost_count": host.has_lost_count,
        })
    };
    hosts.map(one).collect()
}

/// What one host saw.
pub(super) fn saw(host: &HostProgress) -> Vec<Value> {
    let one = |saw: &scap_proto::release::Sighting| json!({ "code": saw.code, "peer": saw.peer, "count": saw.count, "last": time(saw.last) });
    host.saw.iter().map(one).collect()
}

/// What hosts asked the seed for and may not have, a line each.
pub(super) fn denied_lines(denied: &[Denial]) -> Vec<String> {
    let line = |it: &Denial| {
        let count = times(it.count);
        format!(
            "denied  {}: asked for what it may not have, {count} [{}]",
            it.peer, it.reason
        )
    };
    denied.iter().map(line).collect()
}

/// The same for programs.
pub(super) fn denied_json(denied: &[Denial]) -> Value {
    let one = |it: &Denial| json!({ "peer": it.peer, "code": it.reason, "count": it.count });
    denied.iter().map(one).collect()
}

fn times(count: u64) -> String {
    match count {
        1 => "once".to_owned(),
        count => format!("{count} times"),
    }
}

/// A time that a host says.
pub(super) fn time(at: UnixMillis) -> Option<Timestamp> {
    Timestamp::from_millisecond(i64::try_from(at.0).ok()?).ok()
}

/// Keeps the counters that were heard, so that the next deployment tells old reports from new ones.
pub(super) fn keep_counters(state: &StateDirectory, engine: &Engine) {
    let lost = |host: &_| engine.hosts()[host].has_lost_count;
    if let Err(error) = state.keep_counters(&engine.counters(), lost) {
        let error = error_chain(&error);
        tracing::warn!(
            error,
            "the counters of reports are not kept: old reports may be taken for new ones"
        );
    }
}
