//! What a file holds: values with where they are, which is in a file unless whoever holds them knows of other places.

use std::sync::Arc;

use serde::{Serialize, Serializer, ser::SerializeMap};

use super::Place;

/// A value and where it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Node<At = Place> {
    /// Where it begins.
    pub at: At,
    /// The value.
    pub value: Value<At>,
}

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value<At = Place> {
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
    List(Vec<Node<At>>),
    /// Values by their keys.
    Map(Map<At>),
}

/// Values by keys, each key once, in the order of the file.
#[derive(Debug, Clone, PartialEq)]
pub struct Map<At = Place>(pub Vec<(Key<At>, Node<At>)>);

/// A key and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key<At = Place> {
    /// Its text; that of a number is the number in digits.
    pub name: Arc<str>,
    /// Where it is.
    pub at: At,
}

impl<At> Node<At> {
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

impl Node {
    /// The same, with where it is as `place` has it.
    pub fn placed<At>(self, place: &impl Fn(Place) -> At) -> Node<At> {
        let value = match self.value {
            Value::Null => Value::Null,
            Value::Bool(value) => Value::Bool(value),
            Value::Int(value) => Value::Int(value),
            Value::Float(value) => Value::Float(value),
            Value::Text(value) => Value::Text(value),
            Value::List(nodes) => {
                Value::List(nodes.into_iter().map(|node| node.placed(place)).collect())
            }
            Value::Map(Map(entries)) => {
                let entry = |(Key { name, at }, node): (Key, Self)| {
                    let at = place(at);
                    (Key { name, at }, node.placed(place))
                };
                Value::Map(Map(entries.into_iter().map(entry).collect()))
            }
        };
        let at = place(self.at);
        Node { at, value }
    }
}

impl<At> Default for Map<At> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<At> Map<At> {
    /// Takes the value of a key out.
    pub fn take(&mut self, key: &str) -> Option<(Key<At>, Node<At>)> {
        let at = self.0.iter().position(|(name, _)| &*name.name == key)?;
        Some(self.0.remove(at))
    }

    /// Sets a key; one that is there keeps its place.
    pub fn set(&mut self, key: Key<At>, node: Node<At>) {
        match self.0.iter_mut().find(|(name, _)| name.name == key.name) {
            Some(found) => *found = (key, node),
            None => self.0.push((key, node)),
        }
    }
}

/// Keys in the order of the file.
impl<At> Serialize for Node<At> {
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

impl<At> Serialize for Map<At> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (key, node) in &self.0 {
            map.serialize_entry(&*key.name, node)?;
        }
        map.end()
    }
}
