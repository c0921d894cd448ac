//! The daemon held to its own directories by the kernel (Landlock), so that a bug in what it decodes from the network writes
//! nowhere else.
//!
//! Landlock restricts the thread that asks for it and what that starts, so it is asked for before there are other threads: see
//! [`restrict`].

mod rules;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use self::rules::{Rules, restrict};

/// Whether the daemon is to be confined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// It does not run unless it is confined in all respects.
    Required,
    /// As far as the kernel can.
    #[default]
    BestEffort,
    /// It is not.
    Off,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// In all respects.
    Full,
    /// In those that this kernel knows.
    Partial,
    /// Not at all.
    None,
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Confinement {
    /// What was asked for.
    pub mode: Mode,
    /// What there is.
    pub level: Level,
}

impl fmt::Display for Confinement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.mode, self.level) {
            (Mode::Off, _) => "not confined, since its configuration says so",
            (_, Level::Full) => "confined to its own directories",
            (_, Level::Partial) => {
                "confined in part: an older kernel than Linux 6.12 does not know all of it"
            }
            (_, Level::None) => "not confined: this kernel has no Landlock, or it is not enabled",
        })
    }
}

/// Why the daemon is not confined as it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum ConfineError {
    /// It must be, and is not in all respects.
    #[error("the configuration requires it, and the agent is {0}")]
    Required(Confinement),
    /// The kernel refused.
    #[error("ask the kernel to confine this process")]
    Landlock(#[from] landlock::RulesetError),
}
