//! `scap.toml`: what `scap.cfg` and the YAML files say, in one file, whose unknown keys are errors.
//!
//! The keys of `scap.cfg` stand at its top, with values of TOML; those of a server group in `[group.NAME]`; and `[vars]`,
//! `[checks.NAME]` and `[config_files."/path"]` are what the YAML files have. `[site.NAME]` is here only.

use std::sync::Arc;

use scap_agent::notation::node;
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    checks, config_files,
    document::{Expect, Key, Map, Node, Value, finish},
    error::{Origin, ScapError, did_you_mean},
    ini::{self, Entry, Ini},
    keys,
    rollout::Sites,
};

/// A file, parsed.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Native {
    /// What a `scap.cfg` with the same keys in `[global]` would be.
    pub(super) keys: Ini,
    pub(super) vars: Map,
    pub(super) checks: Map,
    pub(super) config_files: Map,
    pub(super) sites: Map,
}

const TABLES: [&str; 5] = ["group", "site", "vars", "checks", "config_files"];

/// Parses a file; `file` is for messages.
///
/// # Errors
/// [`ScapError::Invalid`] with the line.
pub(super) fn parse(bytes: &[u8], file: &Arc<str>) -> Result<Native, ScapError> {
    let text = ini::text(bytes, file)?;
    let places = Places { file, text };
    let table = DeTable::parse(text).map_err(|error| {
        let start = error.span().map_or(0, |span| span.start);
        let problem = error.message().escape_debug().to_string();
        ScapError::invalid(&places.at(start), problem)
    })?;
    let mut native = Native::default();
    let mut entries = Vec::new();
    for (key, node) in places.map(table.get_ref())?.0 {
        match &*key.name {
            "vars" => native.vars = node.into_map("`vars`")?,
            "checks" => native.checks = bodies(node, "check", &checks::FIELDS)?,
            "config_files" => {
                native.config_files = bodies(node, "config file", &config_files::FIELDS)?;
            }
            "site" => native.sites = bodies(node, "site", &Sites::FIELDS)?,
            "group" => {
                for (group, body) in node.into_map("`group`")?.0 {
                    let what = format!("group `{}`", group.name.escape_debug());
                    for (key, node) in body.into_map(&what)?.0 {
                        entries.push(of_group(&group, &key, &node, &what)?);
                    }
                }
            }
            name => {
                // A path, a name: what else is known stands at the top.
                if !keys::used().any(|key| key == name) {
                    let hint = did_you_mean(name, keys::used().chain(TABLES));
                    let problem = format!("there is no key `{}`{hint}", name.escape_debug());
                    return Err(ScapError::invalid(&key.at, problem));
                }
                entries.push(entry(name.to_owned(), &key, &node)?);
            }
        }
    }
    native.keys.sections.insert("global".into(), entries);
    Ok(native)
}

/// Tables of tables, the inner ones with none but these fields.
fn bodies(node: Node, what: &str, fields: &[&str]) -> Result<Map, ScapError> {
    let bodies = node.into_map(&format!("what has each {what}"))?;
    for (key, body) in &bodies.0 {
        let what = format!("{what} `{}`", key.name.escape_debug());
        let mut body = body.clone().into_map(&what)?;
        for field in fields {
            body.take(field);
        }
        finish(body, &what, fields, None)?;
    }
    Ok(bodies)
}

fn of_group(group: &Key, key: &Key, node: &Node, what: &str) -> Result<Entry, ScapError> {
    if !keys::OF_GROUP.contains(&&*key.name) {
        let hint = did_you_mean(&key.name, keys::OF_GROUP.iter().copied());
        let problem = format!("{what} has no key `{}`{hint}", key.name.escape_debug());
        return Err(ScapError::invalid(&key.at, problem));
    }
    let name = match (&*group.name, &*key.name) {
        ("default", "dsh_targets") => "dsh_targets".into(),
        (group, key) => format!("{}_{key}", group.to_lowercase()),
    };
    entry(name, key, node)
}

/// A key as `scap.cfg` would have it.
fn entry(name: String, key: &Key, node: &Node) -> Result<Entry, ScapError> {
    let what = format!("`{}`", key.name.escape_debug());
    let scalar = |node: &Node| match &node.value {
        Value::Text(text) => Some(text.clone()),
        Value::Bool(value) => Some(value.to_string()),
        Value::Int(value) => Some(value.to_string()),
        Value::Float(value) => Some(value.to_string()),
        Value::Null | Value::List(_) | Value::Map(_) => None,
    };
    let value = match &node.value {
        Value::List(nodes) => {
            // They are joined by commas.
            let parts = nodes.iter().map(|node| {
                let part = scalar(node).filter(|part| !part.contains(','));
                part.ok_or_else(|| {
                    node.expected(&format!("a value of {what}"), "text without a comma")
                })
            });
            parts.collect::<Result<Vec<_>, _>>()?.join(",")
        }
        _ => scalar(node).ok_or_else(|| node.expected(&what, "a value or a list"))?,
    };
    let at = key.at.clone();
    Ok(Entry {
        key: name,
        value,
        at,
    })
}

/// Where in the file something is.
struct Places<'a> {
    file: &'a Arc<str>,
    text: &'a str,
}

impl Places<'_> {
    fn at(&self, byte: usize) -> Origin {
        let before = &self.text.as_bytes()[..byte.min(self.text.len())];
        Origin::File {
            file: self.file.clone(),
            line: 1 + before.iter().filter(|byte| **byte == b'\n').count(),
        }
    }

    /// The values of a table in the order of the file.
    fn map(&self, table: &DeTable<'_>) -> Result<Map, ScapError> {
        let mut pairs: Vec<_> = table.iter().collect();
        pairs.sort_by_key(|(key, _)| key.span().start);
        let pairs = pairs.into_iter().map(|(key, value)| {
            let at = self.at(key.span().start);
            let name = key.get_ref().as_ref().into();
            Ok((Key { name, at }, self.node(value)?))
        });
        pairs.collect::<Result<_, _>>().map(node::Map)
    }

    fn node(&self, value: &Spanned<DeValue<'_>>) -> Result<Node, ScapError> {
        let at = self.at(value.span().start);
        let value = match value.get_ref() {
            DeValue::String(text) => Value::Text(text.to_string()),
            DeValue::Boolean(value) => Value::Bool(*value),
            DeValue::Datetime(time) => Value::Text(time.to_string()),
            DeValue::Integer(number) => {
                let parsed = i64::from_str_radix(number.as_str(), number.radix());
                Value::Int(
                    parsed.map_err(|_| ScapError::invalid(&at, "a number that is too large"))?,
                )
            }
            DeValue::Float(number) => {
                let parsed = number
                    .as_str()
                    .parse()
                    .ok()
                    .filter(|number: &f64| number.is_finite());
                Value::Float(
                    parsed
                        .ok_or_else(|| ScapError::invalid(&at, "a finite number was expected"))?,
                )
            }
            DeValue::Array(values) => {
                let nodes = values.iter().map(|value| self.node(value));
                Value::List(nodes.collect::<Result<_, _>>()?)
            }
            DeValue::Table(table) => Value::Map(self.map(table)?),
        };
        Ok(Node { at, value })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(text: &str) -> Result<Native, String> {
        parse(text.as_bytes(), &"scap.toml".into()).map_err(|error| error.to_string())
    }

    #[test]
    fn its_keys_are_those_of_scap_cfg() {
        let native = parsed(
            "git_repo = 'mw/config'\nserver_groups = ['canary', 'default']\ncache_revs = 3\nconfig_deploy = true\n\
             [group.canary]\nhosts = ['web1', 'web2']\nfailure_limit = '10%'\nsoak = 1.5\n\
             [group.default]\ndsh_targets = 'targets'\n\
             [vars]\nz = 1\na = { b = [true, 2.5, 'x'] }\n\
             [checks.one]\ncommand = 'x'\nafter = 'promote'\n",
        )
        .unwrap();
        let entries = native.keys.sections["global"].iter();
        let entries: Vec<String> = entries
            .map(|it| format!("{}: {} ({})", it.key, it.value, it.at))
            .collect();
        assert_eq!(
            entries,
            [
                "git_repo: mw/config (scap.toml:1)",
                "server_groups: canary,default (scap.toml:2)",
                "cache_revs: 3 (scap.toml:3)",
                "config_deploy: true (scap.toml:4)",
                "canary_hosts: web1,web2 (scap.toml:6)",
                "canary_failure_limit: 10% (scap.toml:7)",
                "canary_soak: 1.5 (scap.toml:8)",
                "dsh_targets: targets (scap.toml:10)",
            ]
        );
        let vars = serde_json::to_string(&native.vars).unwrap();
        assert_eq!(vars, r#"{"z":1,"a":{"b":[true,2.5,"x"]}}"#);
        assert_eq!(native.checks.0[0].0.at.to_string(), "scap.toml:14");
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        for (text, says) in [
            ("a = \n", "scap.toml:1: "),
            (
                "\ngit_repos = 'a'\n",
                "scap.toml:2: there is no key `git_repos`; did you mean `git_repo`?",
            ),
            (
                "batch_size = 3\n",
                "scap.toml:1: there is no key `batch_size`",
            ),
            (
                "[check.a]\n",
                "scap.toml:1: there is no key `check`; did you mean `checks`?",
            ),
            (
                "[group.a]\nsize = 1\n",
                "scap.toml:2: group `a` has no key `size`",
            ),
            (
                "[group]\na = 1\n",
                "scap.toml:2: group `a` is a number; a map was expected",
            ),
            (
                "[checks.a]\ncomand = 'x'\n",
                "scap.toml:2: `comand` of check `a` is not acted on: no such key; did you mean `command`?",
            ),
            (
                "git_repo = { a = 1 }\n",
                "scap.toml:1: `git_repo` is a map; a value or a list was expected",
            ),
            (
                "server_groups = ['a,b']\n",
                "scap.toml:1: a value of `server_groups` is text; text without a comma was expected",
            ),
            (
                "[vars]\na = inf\n",
                "scap.toml:2: a finite number was expected",
            ),
            ("git_repo = 'a'\ngit_repo = 'b'\n", "scap.toml:2: "),
        ] {
            let error = parsed(text).unwrap_err();
            assert!(error.starts_with(says), "{text:?}: {error}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_text_panics(text in "([a-c=.,'\"\\[\\]{}0-9\n #]|\\PC){0,60}") {
            let _ = parsed(&text);
        }
    }
}
