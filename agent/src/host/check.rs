//! Checks: what a release has its hosts run before and after a stage.

use std::{
    borrow::Cow,
    path::{Path, PathBuf},
    time::Duration,
};

use scap_proto::release::host_config::{Check, Command, HostStage, Moment, SCRIPTS};
use serde::{Deserialize, Serialize};

use super::{
    Doing, HostWork,
    nrpe::{self, NrpeError},
    run::{self, Failed, Output, Program, RunFailure},
};

/// A check that passed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckDone {
    /// Which.
    pub name: String,
    /// What it printed.
    pub output: Output,
    /// How long it took.
    pub took: Duration,
}

/// A check that did not pass. Those after it were not run.
#[derive(Debug, thiserror::Error)]
#[error("check `{}`", .name.escape_debug())]
pub struct CheckError {
    /// Which.
    pub name: String,
    /// Why it did not pass.
    #[source]
    pub why: CheckFailure,
    /// What it printed.
    pub output: Output,
}

/// What came of running checks again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum CheckedAgain {
    /// Those whose time came passed.
    Passed {
        /// When the next one's time comes, in milliseconds since the release is live; `None` where none is run again.
        next: Option<u64>,
    },
    /// Something else was more urgent.
    GaveWay,
}

impl CheckError {
    fn gave_way(&self) -> bool {
        matches!(self.why, CheckFailure::Run(RunFailure::GaveWay))
    }
}

/// Why a check did not pass.
#[derive(Debug, thiserror::Error)]
pub enum CheckFailure {
    /// What it runs did not succeed.
    #[error(transparent)]
    Run(#[from] RunFailure),
    /// This host's NRPE configuration does not say what to run.
    #[error(transparent)]
    Nrpe(#[from] Box<NrpeError>),
}

impl HostWork<'_> {
    /// The checks around a stage that are for this host, in their order.
    pub fn checks(&self, moment: Moment, stage: HostStage) -> impl Iterator<Item = &Check> {
        let checks = self.config.checks.iter();
        checks.filter(move |check| {
            let is_now = check.moment == moment && check.stage == stage;
            is_now && check.group.as_ref().is_none_or(|group| self.is_in(group))
        })
    }

    /// Runs the checks around a stage, one after the other; `begin` hears of each before it is run.
    ///
    /// They run in `/`, with nothing to read, in a process group of their own, and are told of [`super::Paths`] in their environment.
    /// One passes if it ends with exit code 0 in time. The first one that does not is the last one: scap3 goes on with those after
    /// it, which then act on a host that is already known not to be well.
    ///
    /// # Errors
    /// [`CheckError`] of the one that did not pass.
    pub fn check(
        &self,
        moment: Moment,
        stage: HostStage,
        begin: &mut dyn FnMut(Doing<'_>),
    ) -> Result<Vec<CheckDone>, CheckError> {
        let checks = self.checks(moment, stage);
        let run = |check: &Check| {
            begin(Doing::Check(&check.name));
            self.run(check, None)
        };
        checks.map(run).collect()
    }

    /// Runs again the checks whose time came after `after` and by `until`, both in milliseconds since the release is live: it comes at
    /// each multiple of what [`HostConfig::repeats`](scap_proto::release::HostConfig::repeats) says. As soon as `gives_way` says so
    /// none is run, and the one that runs is killed and has told nothing.
    ///
    /// # Errors
    /// [`CheckError`] of the first one that did not pass.
    pub fn check_again(
        &self,
        (after, until): (u64, u64),
        gives_way: &dyn Fn() -> bool,
        begin: &mut dyn FnMut(Doing<'_>),
    ) -> Result<CheckedAgain, CheckError> {
        // They were read with the rest.
        let repeats = self.config.repeats().unwrap_or_default();
        let mut next: Option<u64> = None;
        for check in &self.config.checks {
            let is_for_us = check.group.as_ref().is_none_or(|group| self.is_in(group));
            let every = repeats.get(&check.name);
            let every = every.filter(|_| is_for_us && Check::may_repeat(check.moment, check.stage));
            let Some(every) = every.map(|every| u64::from(every.get())) else {
                continue;
            };
            if until / every > after / every {
                begin(Doing::Check(&check.name));
                match self.run(check, Some(gives_way)) {
                    Err(error) if error.gave_way() => return Ok(CheckedAgain::GaveWay),
                    ran => drop(ran?),
                }
            }
            let at = (until / every + 1) * every;
            next = Some(next.map_or(at, |next| next.min(at)));
        }
        Ok(CheckedAgain::Passed { next })
    }

    fn run(
        &self,
        check: &Check,
        gives_way: Option<&dyn Fn() -> bool>,
    ) -> Result<CheckDone, CheckError> {
        let failed = |why, output| CheckError {
            name: check.name.clone(),
            why,
            output,
        };
        let (program, arguments) = self
            .command(&check.command)
            .map_err(|error| failed(Box::new(error).into(), Output::default()))?;
        let done = run::run(&Program {
            program: &program,
            arguments: &arguments,
            paths: self.paths,
            running: self.running,
            timeout: Duration::from_millis(check.timeout_millis.get().into()),
            gives_way,
        });
        match done {
            Ok(ran) => Ok(CheckDone {
                name: check.name.clone(),
                output: ran.output,
                took: ran.took,
            }),
            Err(Failed { why, output }) => Err(failed(why.into(), output)),
        }
    }

    /// The program to run, and its arguments.
    fn command<'a>(&self, command: &'a Command) -> Result<(PathBuf, Cow<'a, [String]>), NrpeError> {
        match command {
            Command::Program(words) => {
                // One without any words has nothing to start, and fails by that.
                let (program, arguments) = words
                    .split_first()
                    .map_or(("", &[][..]), |(program, rest)| (program.as_str(), rest));
                Ok((program.into(), arguments.into()))
            }
            Command::Shell(line) => Ok(("/bin/sh".into(), vec!["-c".into(), line.clone()].into())),
            Command::Script { path, arguments } => {
                let scripts = self.config_dir.join(SCRIPTS);
                Ok((scripts.join(path.as_path()), arguments.into()))
            }
            Command::Nrpe(name) => {
                let directory = self.config.nrpe_directory.to_path();
                let mut words = nrpe::command(Path::new(&directory), name)?;
                let program = words.remove(0);
                Ok((program.into(), words.into()))
            }
        }
    }

    fn is_in(&self, group: &str) -> bool {
        let mut groups = self.config.groups.iter();
        groups.any(|it| it.name == group && it.hosts.contains(self.host))
    }
}
