//! What the status says of whose certificates count.

use std::io::Write;

use serde_json::Value;

use super::{bracketed, text};

/// Nothing, where no fleet trust was ever heard of and none is lost.
pub(super) fn print_status(view: &Value, out: &mut dyn Write) {
    let code = bracketed(view, "code");
    if let Some(reason) = view["cut_off"].as_str() {
        let _ = writeln!(out, "cut off  {}{code}", reason.escape_debug());
    }
    if view["lost"].is_u64() {
        let number = text(view, "lost");
        let _ = writeln!(
            out,
            "trust  #{number} was kept here and is lost: until it is learnt again, who is revoked is let in [trust-lost]"
        );
    }
    if view["number"].as_u64().is_some_and(|number| number > 0) {
        let (number, authorities) = (text(view, "number"), text(view, "authorities"));
        let _ = writeln!(out, "trust  #{number}, authorities: {authorities}");
    }
    let revoked = view["revoked"].as_array().map(Vec::as_slice);
    for one in revoked.unwrap_or_default() {
        let (kind, name) = (text(one, "kind"), text(one, "name"));
        let reason = text(one, "reason");
        let _ = writeln!(out, "revoked {kind} {name}: {}", reason.escape_debug());
    }
}
