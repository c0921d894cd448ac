//! What a file holds: values with the lines that they are on.

use std::sync::Arc;

use serde::{Serialize, Serializer, ser::SerializeMap};

use super::Place;

/// A value and where it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Where it begins.
    pub at: Place,
    /// The value.
    pub value: Value,
}

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Nothing.
    Null,
    /// A yes or no.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A finite number that need not be whole.
    Float(f64),
    /// Text.
    Text(String),
    /// Values in their order.
    List(Vec<Node>),
    /// Values by their keys.
    Map(Map),
}

/// Values by keys, each key once, in the order of the file.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Map(pub Vec<(Key, Node)>);

/// A key and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// Its text; that of a number is the number in digits.
    pub name: Arc<str>,
    /// Where it is.
    pub at: Place,
}

impl Node {
    /// What people call such a value.
    pub fn kind(&self) -> &'static str {
        match self.value {
            Value::Null => "nothing",
            Value::Bool(_) => "a yes or no",
            Value::Int(_) | Value::Float(_) => "a number",
            Value::Text(_) => "text",
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
        }
    }
}

impl Map {
    /// Sets a key; one that is there keeps its place.
    pub(super) fn set(&mut self, key: Key, node: Node) {
        match self.0.iter_mut().find(|(name, _)| name.name == key.name) {
            Some(found) => *found = (key, node),
            None => self.0.push((key, node)),
        }
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
