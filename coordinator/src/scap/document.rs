//! What the YAML and TOML files of a folder hold: values with where they are, which may be the command line.

use scap_agent::notation::node;

use super::error::{Notice, Origin, ScapError, did_you_mean};

pub(super) type Node = node::Node<Origin>;
pub(super) type Value = node::Value<Origin>;
pub(super) type Map = node::Map<Origin>;
pub(super) type Key = node::Key<Origin>;

/// Reading a value as what was expected.
pub(super) trait Expect {
    /// An error about this value.
    fn expected(&self, what: &str, expected: &str) -> ScapError;

    /// A map, or an empty one where there is nothing.
    fn into_map(self, what: &str) -> Result<Map, ScapError>;
}

impl Expect for Node {
    fn expected(&self, what: &str, expected: &str) -> ScapError {
        let problem = format!("{what} is {}; {expected} was expected", self.kind());
        ScapError::invalid(&self.at, problem)
    }

    fn into_map(self, what: &str) -> Result<Map, ScapError> {
        match self.value {
            Value::Map(map) => Ok(map),
            Value::Null => Ok(Map::default()),
            _ => Err(self.expected(what, "a map")),
        }
    }
}

/// What is left of a map after all that is known was taken out: told where `notices` are taken, and else an error.
pub(super) fn finish(
    map: Map,
    what: &str,
    known: &[&str],
    notices: Option<&mut Vec<Notice>>,
) -> Result<(), ScapError> {
    let told = map.0.into_iter().map(|(key, _)| {
        let name = key.name.escape_debug().to_string();
        let hint = did_you_mean(&name, known.iter().copied());
        let text = format!("`{name}` of {what} is not acted on: no such key{hint}");
        Notice { at: key.at, text }
    });
    let mut told = told.peekable();
    match (notices, told.peek()) {
        (Some(notices), _) => notices.extend(told),
        (None, Some(first)) => return Err(ScapError::invalid(&first.at, first.text.clone())),
        (None, None) => {}
    }
    Ok(())
}
