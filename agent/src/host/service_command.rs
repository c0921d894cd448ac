//! The commands that act on services on this host.

use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

/// What stands for the name of a unit.
const UNIT: &str = "{unit}";

/// How long a command may take unless the configuration says so: systemd gives a unit 90 s to stop and 90 s to start, and this
/// is more than both.
const TIMEOUT_SECONDS: NonZeroU32 = NonZeroU32::new(300).expect("it is not 0");

/// How services are handled on this host: the table `[services]` of the agent's configuration. What it does not say is as with
/// [`Self::default`], systemd's way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct ServiceCommands {
    /// Stops and starts a unit; starts one that is not running.
    pub restart: ServiceCommand,
    /// Has a unit read its configuration again.
    pub reload: ServiceCommand,
    /// Says whether a unit is there to be started: it is if this ends with exit code 0, and the last line that it prints is neither
    /// `not-found` nor `masked`. It is not there either if this ends with exit code 4, as LSB has it; to end otherwise is to fail.
    pub is_known: ServiceCommand,
    /// Stops a unit, and sees to it that it is not started with the host.
    pub stop_and_disable: ServiceCommand,
    /// After this many seconds a command is killed, and failed.
    pub timeout_seconds: NonZeroU32,
}

impl Default for ServiceCommands {
    fn default() -> Self {
        let systemctl = |arguments: &[&str]| {
            let words = ["systemctl"].iter().chain(arguments).chain(&["--", UNIT]);
            ServiceCommand(words.map(|word| (*word).into()).collect())
        };
        Self {
            restart: systemctl(&["restart"]),
            reload: systemctl(&["reload"]),
            // `status` says not running for what is not there, and `cat` succeeds for what is masked.
            is_known: systemctl(&["show", "--property=LoadState", "--value"]),
            stop_and_disable: systemctl(&["disable", "--now"]),
            timeout_seconds: TIMEOUT_SECONDS,
        }
    }
}

/// A program and its arguments, in which `{unit}` stands for the name of a unit. No shell is in between.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct ServiceCommand(Vec<String>);

/// Words that are no [`ServiceCommand`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ServiceCommandError {
    /// There are none, or the first is blank.
    #[error(
        "a command without a program; a list of words, the first one the program, was expected"
    )]
    NoProgram,
    /// Nothing in it says which unit.
    #[error("a command without `{UNIT}`, which stands for the unit")]
    NoUnit,
}

impl ServiceCommand {
    /// Checks a command.
    ///
    /// # Errors
    /// [`ServiceCommandError`].
    pub fn new(words: Vec<String>) -> Result<Self, ServiceCommandError> {
        match words.split_first() {
            None => Err(ServiceCommandError::NoProgram),
            Some((program, _)) if program.trim().is_empty() => Err(ServiceCommandError::NoProgram),
            Some((_, arguments)) if !arguments.iter().any(|word| word.contains(UNIT)) => {
                Err(ServiceCommandError::NoUnit)
            }
            Some(_) => Ok(Self(words)),
        }
    }

    /// The program, and its arguments for `unit`.
    pub(super) fn of(&self, unit: &str) -> (&str, Vec<String>) {
        let (program, arguments) = self.0.split_first().expect("there is a program");
        let arguments = arguments.iter().map(|word| word.replace(UNIT, unit));
        (program, arguments.collect())
    }
}

impl TryFrom<Vec<String>> for ServiceCommand {
    type Error = ServiceCommandError;

    fn try_from(words: Vec<String>) -> Result<Self, ServiceCommandError> {
        Self::new(words)
    }
}

impl From<ServiceCommand> for Vec<String> {
    fn from(command: ServiceCommand) -> Self {
        command.0
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn what_the_configuration_does_not_say_is_done_by_systemd() {
        let commands: ServiceCommands =
            toml::from_str("restart = ['sudo', '-n', 'service', '{unit}', 'restart']").unwrap();
        let (program, arguments) = commands.restart.of("web");
        assert_eq!(program, "sudo");
        assert_eq!(arguments, ["-n", "service", "web", "restart"]);
        let (program, arguments) = commands.reload.of("web");
        assert_eq!(program, "systemctl");
        assert_eq!(arguments, ["reload", "--", "web"]);
        let written = toml::to_string(&commands).unwrap();
        assert_eq!(
            toml::from_str::<ServiceCommands>(&written).unwrap(),
            commands
        );
    }

    #[test]
    fn a_command_that_cannot_be_run_is_an_error_that_says_what_is_missing() {
        for (text, says) in [
            ("restart = []", "a command without a program"),
            ("reload = [' ', '{unit}']", "a command without a program"),
            ("reload = ['true']", "a command without `{unit}`"),
            ("relaod = ['x', '{unit}']", "unknown field `relaod`"),
            ("timeout-seconds = 0", "nonzero"),
        ] {
            let error = toml::from_str::<ServiceCommands>(text).unwrap_err();
            assert!(error.to_string().contains(says), "{text}: {error}");
        }
    }
}
