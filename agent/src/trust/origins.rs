//! From which deployment hosts a host takes releases.

use std::{collections::BTreeSet, fmt};

use scap_proto::{
    id::NodeId,
    identity::Trust,
    release::{AuthorityError, UnixMillis, VerifiedGrant},
};

/// From which deployment hosts releases are directed that a host follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origins {
    /// From any: whoever holds a deployer's key may direct from anywhere.
    Any {
        /// Whether `host.toml` says so in so many words; else it says nothing of it.
        is_said: bool,
    },
    /// From these alone.
    Only(BTreeSet<NodeId>),
}

impl Origins {
    /// What `origins` and `require_origin` of `host.toml` say together.
    ///
    /// # Errors
    /// [`NoOrigin`].
    pub(super) fn new(names: Vec<NodeId>, is_required: Option<bool>) -> Result<Self, NoOrigin> {
        match (is_required, names.is_empty()) {
            (Some(false), _) => Ok(Self::Any { is_said: true }),
            (None, true) => Ok(Self::Any { is_said: false }),
            (Some(true), true) => Err(NoOrigin),
            (_, false) => Ok(Self::Only(names.into_iter().collect())),
        }
    }

    /// Refuses a grant that is not from one of them, by a certificate that was valid at `at`.
    ///
    /// # Errors
    /// [`AuthorityError::Origin`], [`AuthorityError::OtherOrigin`], [`AuthorityError::Codec`].
    pub(super) fn check(
        &self,
        grant: &VerifiedGrant,
        trust: &Trust,
        at: UnixMillis,
    ) -> Result<(), AuthorityError> {
        let Self::Only(names) = self else {
            return Ok(());
        };
        let found = grant.grant().origin(trust, at)?;
        match names.contains(&found) {
            true => Ok(()),
            false => Err(AuthorityError::OtherOrigin {
                found,
                followed: self.to_string(),
            }),
        }
    }
}

impl fmt::Display for Origins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any { is_said: true } => f.write_str("any (require_origin = false)"),
            Self::Any { is_said: false } => f.write_str("any (host.toml names none)"),
            Self::Only(names) => {
                for (index, name) in names.iter().enumerate() {
                    let before = if index == 0 { "" } else { ", " };
                    write!(f, "{before}{name}")?;
                }
                Ok(())
            }
        }
    }
}

/// Releases would be taken from nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("require_origin = true, and origins names no deployment host")]
pub struct NoOrigin;
