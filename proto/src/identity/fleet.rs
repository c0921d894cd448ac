//! The name of a fleet, and what a node is in it.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::id::is_plain_name;

/// The name of a fleet, as its certificates say it.
///
/// 1 to [`FleetName::BYTES_MAX`] bytes of ASCII letters, digits, `.`, `_` and `-`, starting with a
/// letter or a digit. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FleetName(Arc<str>);

impl FleetName {
    /// Longest name, in bytes: with its prefix it must fit the 64 of an X.509 common name.
    pub const BYTES_MAX: usize = 48;

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for FleetName {
    type Err = ParseFleetError;

    fn from_str(text: &str) -> Result<Self, ParseFleetError> {
        if is_plain_name(text, Self::BYTES_MAX) {
            Ok(Self(text.into()))
        } else {
            Err(ParseFleetError::Name(
                text.escape_debug().take(64).collect(),
            ))
        }
    }
}

impl TryFrom<String> for FleetName {
    type Error = ParseFleetError;

    fn try_from(text: String) -> Result<Self, ParseFleetError> {
        text.parse()
    }
}

impl From<FleetName> for String {
    fn from(name: FleetName) -> Self {
        name.0.as_ref().into()
    }
}

impl fmt::Display for FleetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a node is in its fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Dials agents, directs rollouts and seeds chunks.
    Coordinator,
    /// Holds and activates releases and serves other agents.
    Agent,
}

impl Role {
    /// The word for it in a certificate.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Coordinator => "coordinator",
            Self::Agent => "agent",
        }
    }
}

impl FromStr for Role {
    type Err = ParseFleetError;

    fn from_str(text: &str) -> Result<Self, ParseFleetError> {
        match text {
            "coordinator" => Ok(Self::Coordinator),
            "agent" => Ok(Self::Agent),
            _ => Err(ParseFleetError::Role(
                text.escape_debug().take(64).collect(),
            )),
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a text is not the name of a fleet or of a role.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseFleetError {
    /// Not a fleet name.
    #[error(
        "`{0}` is not a fleet name: at most {max} letters, digits, `.`, `_`, `-`, starting with \
         a letter or a digit",
        max = FleetName::BYTES_MAX
    )]
    Name(String),
    /// Not a role.
    #[error("`{0}` is not a role: coordinator or agent")]
    Role(String),
}
