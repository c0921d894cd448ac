//! What the YAML and TOML files of a folder hold: values with the lines that they are on.

use std::sync::Arc;

use serde::{Serialize, Serializer, ser::SerializeMap};

use super::error::{Notice, Origin, ScapError, did_you_mean};

/// A value and where it is.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    pub(super) at: Origin,
    pub(super) value: Value,
}

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Int(i64),
    /// Finite.
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Map),
}

/// Values by keys, each key once, in the order of the file.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Map(pub(super) Vec<(Key, Node)>);

/// A key and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) name: Arc<str>,
    pub(super) at: Origin,
}

impl Node {
    /// What people call such a value.
    pub(super) fn kind(&self) -> &'static str {
        match self.value {
            Value::Null => "nothing",
            Value::Bool(_) => "a yes or no",
            Value::Int(_) | Value::Float(_) => "a number",
            Value::Text(_) => "text",
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
        }
    }

    /// An error about this value.
    pub(super) fn expected(&self, what: &str, expected: &str) -> ScapError {
        let problem = format!("{what} is {}; {expected} was expected", self.kind());
        ScapError::invalid(&self.at, problem)
    }

    /// A map, or an empty one where there is nothing.
    pub(super) fn into_map(self, what: &str) -> Result<Map, ScapError> {
        match self.value {
            Value::Map(map) => Ok(map),
            Value::Null => Ok(Map::default()),
            _ => Err(self.expected(what, "a map")),
        }
    }
}

impl Map {
    /// Takes the value of a key out.
    pub(super) fn take(&mut self, key: &str) -> Option<(Key, Node)> {
        let at = self.0.iter().position(|(name, _)| &*name.name == key)?;
        Some(self.0.remove(at))
    }

    /// Sets a key; one that is there keeps its place.
    pub(super) fn set(&mut self, key: Key, node: Node) {
        match self.0.iter_mut().find(|(name, _)| name.name == key.name) {
            Some(found) => *found = (key, node),
            None => self.0.push((key, node)),
        }
    }

    /// What is left after all that is known was taken out: told where `notices` are taken, and else an error.
    pub(super) fn finish(
        self,
        what: &str,
        known: &[&str],
        notices: Option<&mut Vec<Notice>>,
    ) -> Result<(), ScapError> {
        let told = self.0.into_iter().map(|(key, _)| {
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
}

/// Keys in the order of the file.
impl Serialize for Node {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.value {
            Value::Null => serializer.serialize_unit(),
            Value::Bool(value) => serializer.serialize_bool(*value),
            Value::Int(value) => serializer.serialize_i64(*value),
            Value::Float(value) => serializer.serialize_f64(*value),
            Value::Text(value) => serializer.serialize_str(value),
            Value::List(nodes) => serializer.collect_seq(nodes),
            Value::Map(map) => map.serialize(serializer),
        }
    }
}

impl Serialize for Map {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (key, node) in &self.0 {
            map.serialize_entry(&*key.name, node)?;
        }
        map.end()
    }
}
