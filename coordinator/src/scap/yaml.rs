//! The YAML files of a folder, as hosts read theirs: [`notation::yaml`].

use std::sync::Arc;

use scap_agent::notation::{self, Place};

use super::{
    document::{Key, Map, Node, Value},
    error::{Origin, ScapError},
};

/// Parses a file; `file` is for messages.
///
/// # Errors
/// [`ScapError::Invalid`] with the line.
pub(super) fn parse(bytes: &[u8], file: &Arc<str>) -> Result<Node, ScapError> {
    let node = notation::yaml::parse(bytes, file);
    node.map(Node::from)
        .map_err(|error| ScapError::invalid(&error.at.into(), error.problem))
}

impl From<Place> for Origin {
    fn from(Place { file, line }: Place) -> Self {
        Self::File { file, line }
    }
}

impl From<notation::node::Node> for Node {
    fn from(node: notation::node::Node) -> Self {
        use notation::node::Value as Read;

        let value = match node.value {
            Read::Null => Value::Null,
            Read::Bool(value) => Value::Bool(value),
            Read::Int(value) => Value::Int(value),
            Read::Float(value) => Value::Float(value),
            Read::Text(value) => Value::Text(value),
            Read::List(nodes) => Value::List(nodes.into_iter().map(Self::from).collect()),
            Read::Map(map) => Value::Map(Map(map.0.into_iter().map(entry).collect())),
        };
        let at = node.at.into();
        Self { at, value }
    }
}

fn entry((key, node): (notation::node::Key, notation::node::Node)) -> (Key, Node) {
    let (name, at) = (key.name, key.at.into());
    (Key { name, at }, node.into())
}
