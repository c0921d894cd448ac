//! The YAML files of a folder, as hosts read theirs: [`notation::yaml`].

use std::sync::Arc;

use scap_agent::notation::{self, Place};

use super::{
    document::Node,
    error::{Origin, ScapError},
};

/// Parses a file; `file` is for messages.
///
/// # Errors
/// [`ScapError::Invalid`] with the line.
pub(super) fn parse(bytes: &[u8], file: &Arc<str>) -> Result<Node, ScapError> {
    let node = notation::yaml::parse(bytes, file);
    node.map(|node| node.placed(&Origin::from))
        .map_err(|error| ScapError::invalid(&error.at.into(), error.problem))
}

impl From<Place> for Origin {
    fn from(Place { file, line }: Place) -> Self {
        Self::File { file, line }
    }
}
