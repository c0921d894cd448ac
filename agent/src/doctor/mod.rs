//! What is wrong with a host, or will be: one line a check, with what to do about it.

mod host;
mod identity;

use std::io::Write;

use serde::Serialize;
use serde_json::{Value, json};

pub use self::{
    host::{HostPaths, checkup},
    identity::{check_authorities, check_key, check_life},
};

/// How bad what a check found is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// It works, and will not for ever, or not well.
    Warn,
    /// It does not work.
    Bad,
}

/// What one check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Of what; lower-case kebab, and it never changes.
    pub name: &'static str,
    /// How bad it is.
    pub level: Level,
    /// What was found. Not escaped.
    pub text: String,
    /// What to do about it, where there is something.
    pub remedy: Option<String>,
}

impl Check {
    /// As it should be.
    pub fn ok(name: &'static str, text: impl Into<String>) -> Self {
        Self {
            name,
            level: Level::Ok,
            text: text.into(),
            remedy: None,
        }
    }

    /// It works, and will not for ever, or not well.
    pub fn warn(name: &'static str, text: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            level: Level::Warn,
            remedy: Some(remedy.into()),
            ..Self::ok(name, text)
        }
    }

    /// It does not work.
    pub fn bad(name: &'static str, text: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            level: Level::Bad,
            ..Self::warn(name, text, remedy)
        }
    }
}

/// All checks for programs; `schema` names the object. It is `ok` where none is bad.
pub fn to_json(schema: &str, checks: &[Check]) -> Value {
    json!({ "schema": schema, "ok": worst(checks) < Level::Bad, "checks": checks })
}

/// All checks for people.
pub fn print(checks: &[Check], out: &mut dyn Write) {
    for check in checks {
        let level = match check.level {
            Level::Ok => "ok  ",
            Level::Warn => "warn",
            Level::Bad => "bad ",
        };
        let text = check.text.escape_debug();
        let _ = write!(out, "{level}  {}: {text}", check.name);
        if let Some(remedy) = &check.remedy {
            let _ = write!(out, " (do: {})", remedy.escape_debug());
        }
        let _ = writeln!(out);
    }
}

/// The worst that was found.
pub fn worst(checks: &[Check]) -> Level {
    let levels = checks.iter().map(|check| check.level);
    levels.max().unwrap_or(Level::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_are_a_line_each_and_bad_is_what_makes_it_fail() {
        let mut checks = vec![
            Check::ok("clock", "right"),
            Check::warn("certificate", "ends\u{1b}", "renew it"),
        ];
        let mut said = Vec::new();
        print(&checks, &mut said);
        let expected = "ok    clock: right\nwarn  certificate: ends\\u{1b} (do: renew it)\n";
        assert_eq!(String::from_utf8_lossy(&said), expected);
        assert_eq!(to_json("x/1", &checks)["ok"], true);
        checks.push(Check::bad("key", "shown to all", "chmod 600 it"));
        let json = to_json("x/1", &checks);
        assert_eq!(
            (&json["ok"], &json["schema"]),
            (&false.into(), &"x/1".into())
        );
        assert_eq!(json["checks"][2]["level"], "bad");
        assert_eq!(json["checks"][0]["remedy"], Value::Null);
    }
}
