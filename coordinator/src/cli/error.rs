//! How a command fails: what was being done, why, what to do about it, and the exit code.

use std::process::ExitCode;

use scap_agent::error_chain;

/// Exit codes, as `--help` and the operator's guide list them.
pub mod exit {
    /// Done and healthy.
    pub const DONE: u8 = 0;
    /// Failed; or rolled back, but for hosts that may still run the release.
    pub const FAILED: u8 = 1;
    /// Bad usage or configuration.
    pub const USAGE: u8 = 2;
    /// Stopped by a gate or paused; a person is needed.
    pub const STOPPED: u8 = 3;
    /// Rolled back: every host runs what it ran before.
    pub const ROLLED_BACK: u8 = 4;
    /// Done, with lost or skipped hosts within the budget.
    pub const PARTIAL: u8 = 5;
    /// The lock is held; try later.
    pub const LOCKED: u8 = 75;
}

/// Why a command ends without having done what was asked.
#[derive(Debug)]
pub struct CliError {
    text: String,
    hint: Option<String>,
    code: u8,
}

impl CliError {
    /// Something failed while `doing`.
    pub fn failed(doing: &str, error: &(dyn std::error::Error + 'static)) -> Self {
        Self {
            text: format!("{doing}: {}", error_chain(error)),
            hint: None,
            code: exit::FAILED,
        }
    }

    /// What was asked cannot be done as it was asked.
    pub fn usage(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            hint: None,
            code: exit::USAGE,
        }
    }

    /// With another exit code.
    #[must_use]
    pub fn code(self, code: u8) -> Self {
        Self { code, ..self }
    }

    /// With the next command to try.
    #[must_use]
    pub fn hint(self, hint: impl Into<Option<String>>) -> Self {
        Self {
            hint: hint.into(),
            ..self
        }
    }

    /// Prints it on standard error.
    pub fn print(&self) -> ExitCode {
        eprintln!("error: {}", self.text);
        if let Some(hint) = &self.hint {
            eprintln!("hint: {hint}");
        }
        ExitCode::from(self.code)
    }
}
