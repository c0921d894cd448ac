//! Services: restarted or reloaded once a release is promoted, and again when it is left.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::Path,
    time::{Duration, Instant},
};

use scap_proto::release::{
    HostConfig,
    host_config::{Service, ServiceAction, Services},
};

use super::{
    Doing, HostWork,
    run::{self, Failed, Output, Program, Ran, RunFailure},
    service_command::ServiceCommand,
};

/// How long between two looks at a port. Nothing tells us when it opens; a look costs a system call or two.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// What [`ServiceCommands::is_known`](super::ServiceCommands::is_known) prints last of a unit that cannot be started: words of
/// systemd.
const UNKNOWN: [&str; 2] = ["not-found", "masked"];

/// What it ends with if there is no such unit, where it says so by that: LSB's "status is unknown", which `systemctl status` and
/// init scripts use.
const UNKNOWN_EXIT: i32 = 4;

/// A service that was handled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceDone {
    /// The unit.
    pub name: String,
    /// What was done.
    pub outcome: ServiceOutcome,
    /// How long it took.
    pub took: Duration,
}

/// What was done with a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServiceOutcome {
    /// It was stopped and started.
    Restarted,
    /// It read its configuration again.
    Reloaded,
    /// This is a secondary host: it was stopped, and is not started with the host.
    Disabled,
    /// This host does not know the unit, or has masked it.
    Unknown,
    /// It could not be restarted or reloaded, and nothing else was expected: there is no release that it could run.
    Down,
}

/// Why services are not as the release wants them. Those after the one that failed were left as they were.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// A command did not succeed.
    #[error("{action} `{}`", .unit.escape_debug())]
    Command {
        /// The unit.
        unit: String,
        /// What was being done with it, in a word or two.
        action: &'static str,
        /// Why it did not succeed.
        #[source]
        why: RunFailure,
        /// What it printed.
        output: Output,
    },
    /// A port does not answer.
    #[error("port {port} of 127.0.0.1 did not answer within {} s", .waited.as_secs_f32())]
    Port {
        /// Which.
        port: u16,
        /// How long it was asked.
        waited: Duration,
        /// What came of the last time.
        source: io::Error,
    },
}

impl HostWork<'_> {
    /// Handles the services of the release, now that it is live, in their order, and then waits until their port answers.
    ///
    /// A unit is restarted or reloaded; stopped and disabled instead, if this is a secondary host and it is asked for; left out, if
    /// the host does not know it and that is asked for. If none was restarted or reloaded, nobody is there to answer, and the port
    /// is not asked. Doing it again does it again.
    ///
    /// # Errors
    /// [`ServiceError`] of the first one that failed, which is the last one tried.
    pub fn handle_services(
        &self,
        begin: &mut dyn FnMut(Doing<'_>),
    ) -> Result<Vec<ServiceDone>, ServiceError> {
        self.handle_all(&self.config.services, begin)
    }

    /// Handles services once this host has gone back from this release to the one `before` it, or to nothing.
    ///
    /// The units are those of this release, which run its code, and those of the one before, which may have been started by
    /// somebody meanwhile. One that either of them restarts is restarted, as that certainly takes it back; the port is the one of the
    /// release before. Where there is nothing to go back to, a unit that does not start is left as it is: it has nothing to run.
    ///
    /// Each is tried, whatever became of those before it: one that fails keeps no other on the release that is gone back from.
    ///
    /// # Errors
    /// [`ServiceError`] of the first one that failed.
    pub fn handle_services_back_to(
        &self,
        before: Option<&HostConfig>,
        begin: &mut dyn FnMut(Doing<'_>),
    ) -> Result<Vec<ServiceDone>, ServiceError> {
        let left = &self.config.services;
        let Some(before) = before else {
            return Ok(self.handle_without_release(left, begin));
        };
        let services = both(left, &before.services);
        let one_by_one = services.units.iter().map(|unit| Services {
            units: vec![unit.clone()],
            port: None,
            ..services.clone()
        });
        let mut done = Vec::new();
        let mut failed = None;
        for one in one_by_one {
            match self.handle_all(&one, begin) {
                Ok(handled) => done.extend(handled),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        match failed {
            Some(error) => Err(error),
            None => self.wait_for_answer(&services, done, begin),
        }
    }

    /// Each unit is tried, none must come up, and no port must answer.
    fn handle_without_release(
        &self,
        services: &Services,
        begin: &mut dyn FnMut(Doing<'_>),
    ) -> Vec<ServiceDone> {
        let is_secondary = services.secondary_signal_file.to_path().exists();
        let handle = |unit: &Service| {
            begin(Doing::Unit(&unit.name));
            let began = Instant::now();
            let outcome = self.handle(unit, is_secondary, services.skips_unknown);
            ServiceDone {
                name: unit.name.clone(),
                outcome: outcome.unwrap_or(ServiceOutcome::Down),
                took: began.elapsed(),
            }
        };
        services.units.iter().map(handle).collect()
    }

    fn handle_all(
        &self,
        services: &Services,
        begin: &mut dyn FnMut(Doing<'_>),
    ) -> Result<Vec<ServiceDone>, ServiceError> {
        let is_secondary = services.secondary_signal_file.to_path().exists();
        let mut done = Vec::new();
        for unit in &services.units {
            begin(Doing::Unit(&unit.name));
            let began = Instant::now();
            let outcome = self.handle(unit, is_secondary, services.skips_unknown)?;
            done.push(ServiceDone {
                name: unit.name.clone(),
                outcome,
                took: began.elapsed(),
            });
        }
        self.wait_for_answer(services, done, begin)
    }

    /// Waits until the port of services answers, where any of them was started.
    fn wait_for_answer(
        &self,
        services: &Services,
        done: Vec<ServiceDone>,
        begin: &mut dyn FnMut(Doing<'_>),
    ) -> Result<Vec<ServiceDone>, ServiceError> {
        let runs = |done: &ServiceDone| {
            matches!(
                done.outcome,
                ServiceOutcome::Restarted | ServiceOutcome::Reloaded
            )
        };
        if let Some(port) = services.port.filter(|_| done.iter().any(runs)) {
            begin(Doing::Port(port));
            let timeout = services.port_timeout_millis.get().into();
            wait_for_port(port, Duration::from_millis(timeout))?;
        }
        Ok(done)
    }

    fn handle(
        &self,
        unit: &Service,
        is_secondary: bool,
        skips_unknown: bool,
    ) -> Result<ServiceOutcome, ServiceError> {
        if skips_unknown && !self.is_known(&unit.name)? {
            return Ok(ServiceOutcome::Unknown);
        }
        let commands = self.services;
        let (action, command, outcome) = match unit.action {
            _ if is_secondary && unit.is_disabled_on_secondary => (
                "stop and disable",
                &commands.stop_and_disable,
                ServiceOutcome::Disabled,
            ),
            ServiceAction::Restart => ("restart", &commands.restart, ServiceOutcome::Restarted),
            ServiceAction::Reload => ("reload", &commands.reload, ServiceOutcome::Reloaded),
        };
        match self.run_for(&unit.name, command) {
            Ok(_) => Ok(outcome),
            Err(failed) => Err(failed.at(action, &unit.name)),
        }
    }

    fn is_known(&self, unit: &str) -> Result<bool, ServiceError> {
        match self.run_for(unit, &self.services.is_known) {
            Ok(ran) => {
                let output = ran.output.tail();
                let said = output.lines().last().unwrap_or_default().trim();
                Ok(!UNKNOWN.contains(&said))
            }
            Err(Failed {
                why: RunFailure::Exit(UNKNOWN_EXIT),
                ..
            }) => Ok(false),
            // Whoever could have known was not reached: a unit that is there must not be left on the old release for that.
            Err(failed) => Err(failed.at("look for", unit)),
        }
    }

    fn run_for(&self, unit: &str, command: &ServiceCommand) -> Result<Ran, Failed> {
        let (program, arguments) = command.of(unit);
        let timeout = self.services.timeout_seconds.get().into();
        run::run(&Program {
            program: Path::new(program),
            arguments: &arguments,
            paths: self.paths,
            running: self.running,
            timeout: Duration::from_secs(timeout),
            gives_way: None,
        })
    }
}

impl Failed {
    fn at(self, action: &'static str, unit: &str) -> ServiceError {
        ServiceError::Command {
            unit: unit.to_owned(),
            action,
            why: self.why,
            output: self.output,
        }
    }
}

/// The services of two releases, of which `before` is the one that counts where they differ; but a restart in either is a restart.
fn both(left: &Services, before: &Services) -> Services {
    let mut units = before.units.clone();
    for unit in &left.units {
        match units.iter_mut().find(|it| it.name == unit.name) {
            Some(it) if unit.action == ServiceAction::Restart => it.action = unit.action,
            Some(_) => {}
            None => units.push(unit.clone()),
        }
    }
    Services {
        units,
        skips_unknown: left.skips_unknown || before.skips_unknown,
        ..before.clone()
    }
}

/// Asks until somebody answers; once at least.
fn wait_for_port(port: u16, timeout: Duration) -> Result<(), ServiceError> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let began = Instant::now();
    loop {
        let left = timeout.saturating_sub(began.elapsed());
        // An answer takes no time here, and a firewall that swallows packets must not take all of ours.
        let source =
            match TcpStream::connect_timeout(&address, left.clamp(LOOK_EVERY, LOOK_EVERY * 5)) {
                Ok(_) => return Ok(()),
                Err(source) => source,
            };
        let left = timeout.saturating_sub(began.elapsed());
        if left.is_zero() {
            return Err(ServiceError::Port {
                port,
                waited: timeout,
                source,
            });
        }
        std::thread::sleep(left.min(LOOK_EVERY));
    }
}
