//! What `status` says of attacks, where there is anything to say.

use std::io::Write;

use serde_json::Value;

use super::text;

/// Prints what was held back, seen and asked for.
pub(super) fn print_status(status: &Value, out: &mut dyn Write) {
    let freshness = &status["freshness"];
    if freshness["stale_since"].is_string() {
        let _ = writeln!(
            out,
            "stale since {}: nothing new was heard for {} s, the lease is {} s [stale]",
            text(freshness, "stale_since"),
            text(freshness, "stale_secs"),
            text(freshness, "lease_secs"),
        );
    }
    for saw in list(&status["saw"]) {
        let by = match saw["peer"].as_str() {
            Some(peer) => format!(" by {peer}"),
            None => String::new(),
        };
        let _ = writeln!(
            out,
            "saw {}{by}, {} times, last at {}",
            text(saw, "code"),
            text(saw, "count"),
            text(saw, "last"),
        );
    }
    for denied in list(&status["denied"]) {
        let _ = writeln!(
            out,
            "denied {} what it asked for, {} times, last {} s ago [{}]",
            text(denied, "peer"),
            text(denied, "count"),
            text(denied, "last_secs_ago"),
            text(denied, "code"),
        );
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}
