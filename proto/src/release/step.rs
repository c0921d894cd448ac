//! What a host is at that ends by itself: a check, a service, a port.

use std::{fmt, time::Duration};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::reason::Reason;

/// Longest name of a step in a report, in bytes: a check's name is a word or two, and a line shows no more.
pub const STEP_NAME_BYTES_MAX: usize = 256;

/// One step of what a release asks of its host.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Step {
    /// Of which kind: [`Reason::Check`], [`Reason::Service`] or [`Reason::Port`], or what a later build has.
    pub code: Reason,
    /// The check, the unit, or the port's number. Not escaped.
    pub name: String,
    /// How long it may take, in milliseconds; it has failed then.
    pub limit_millis: u32,
}

impl Step {
    /// A step; of a longer name the first [`STEP_NAME_BYTES_MAX`] bytes are taken.
    pub fn new(code: Reason, name: &str, limit: Duration) -> Self {
        let end = name.floor_char_boundary(STEP_NAME_BYTES_MAX);
        Self {
            code,
            name: name[..end].to_owned(),
            limit_millis: u32::try_from(limit.as_millis()).unwrap_or(u32::MAX),
        }
    }

    /// How long it may take.
    pub fn limit(&self) -> Duration {
        Duration::from_millis(self.limit_millis.into())
    }

    /// The limit, 4 bytes, little-endian; then the name. The code goes apart.
    pub(super) fn to_bytes(&self) -> Bytes {
        [&self.limit_millis.to_le_bytes(), self.name.as_bytes()]
            .concat()
            .into()
    }

    pub(super) fn from_bytes(code: Reason, bytes: &[u8]) -> Option<Self> {
        let (limit, name) = bytes.split_first_chunk()?;
        let name = std::str::from_utf8(name).ok()?;
        (name.len() <= STEP_NAME_BYTES_MAX).then(|| Self {
            code,
            name: name.to_owned(),
            limit_millis: u32::from_le_bytes(*limit),
        })
    }
}

/// For people, not escaped: the kind, and the name in backquotes.
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} `{}`", self.code, self.name)
    }
}
