//! `scap-agent run`, from a process like any other to a daemon that is confined.
//!
//! The order is what matters: the keeper of the activator is started first, since what it starts needs the rights that the
//! daemon gives up; then the daemon is confined, while it has one thread; then come the threads.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::ExitCode,
};

use scap_proto::place;

use super::{
    PartialConfig, RunArgs, cancel_on_end_of_stdin, cancel_on_signal, exit, fail, ignore_signals,
    in_runtime, keep_core_off_disk, limit, log_to_stderr, settings, worker_threads,
};
use crate::{
    config::Config,
    confine::{self, ConfineError, Confinement, Level, Mode, Rules},
    daemon::{self, DaemonError, Host},
    keeper::{self, Keeper},
};

/// What is left to be done once the process is confined.
struct Confined {
    host: Host,
    file: Option<PathBuf>,
    keeper: Option<Keeper>,
    confinement: Confinement,
    until_stdin_closes: bool,
}

pub(super) fn main(args: RunArgs, prefix: &[&str]) -> ExitCode {
    log_to_stderr("info");
    // It counts what it may use before it is kept from looking.
    let threads = worker_threads();
    match prepare(args, prefix) {
        Ok(confined) => in_runtime(threads, run(confined)),
        Err(code) => code,
    }
}

fn prepare(args: RunArgs, prefix: &[&str]) -> Result<Confined, ExitCode> {
    let flags = PartialConfig {
        listen: args.listen,
        ..args.catch_up.into()
    };
    let config = settings(args.config.as_deref(), args.settings, flags)?;
    // Before anything is made or started: who is nobody yet leaves nothing behind.
    let host = Host::look(config.clone()).map_err(|error| refuse(&error))?;
    let keeper = if args.external_activator {
        None
    } else {
        let command = keeper_command(args.config.as_deref(), &config, prefix);
        let command =
            command.map_err(|error| fail("find this program's own file", &error, None))?;
        let keeper = Keeper::start(&command);
        Some(keeper.map_err(|error| fail("start the activator's keeper", &error, None))?)
    };
    keep_core_off_disk();
    // The kernel holds the process to directories that are there.
    place::make(&config.data).map_err(|error| refuse(&error.into()))?;
    let rules = Rules::of_daemon(&config, args.config.as_deref());
    let confinement = confine(config.confinement, &rules)?;
    Ok(Confined {
        host,
        file: args.config,
        keeper,
        confinement,
        until_stdin_closes: args.until_stdin_closes,
    })
}

fn confine(mode: Mode, rules: &Rules) -> Result<Confinement, ExitCode> {
    let confinement = confine::restrict(mode, rules).map_err(|error| {
        let hint = match &error {
            ConfineError::Required(_) => {
                "confinement = \"best-effort\" in the agent's file runs it with what this kernel has"
            }
            ConfineError::Landlock(_) => {
                "confinement = \"off\" in the agent's file runs it without"
            }
        };
        fail("confine the agent", &error, Some(hint))
    })?;
    let text = confinement.to_string();
    match confinement {
        Confinement {
            level: Level::Full, ..
        } => tracing::info!("{text}"),
        Confinement {
            mode: Mode::Off, ..
        } => tracing::info!("{text}"),
        _ => {
            let code = scap_proto::reason::Reason::NotConfined;
            tracing::warn!(%code, "{text}");
        }
    }
    Ok(confinement)
}

async fn run(confined: Confined) -> ExitCode {
    let cancel = cancel_on_signal();
    if confined.until_stdin_closes {
        let (stdin, cancel) = (cancel_on_end_of_stdin(), cancel.clone());
        tokio::spawn(async move {
            stdin.cancelled().await;
            cancel.cancel();
        });
    }
    let Confined {
        host,
        file,
        keeper,
        confinement,
        ..
    } = confined;
    let limits = limit::reread_on_hangup(file);
    match daemon::run(host, keeper, confinement, limits, cancel).await {
        Ok(()) => ExitCode::from(exit::DONE),
        Err(error) => refuse(&error),
    }
}

fn refuse(error: &DaemonError) -> ExitCode {
    let hint = matches!(error, DaemonError::Trust { .. })
        .then_some("`scap-coordinator enroll` makes a host's identity; --identity names it");
    fail("run the agent", error, hint)
}

/// The process that [`Keeper::start`] starts.
pub(super) async fn keep_activator(command: Vec<OsString>) -> ExitCode {
    log_to_stderr("info");
    // Signals to the terminal's group reach the daemon, which then ends us in order.
    ignore_signals();
    keeper::run(command).await;
    ExitCode::from(exit::DONE)
}

/// This program as the keeper of itself as the activator. The file says what no flag does. Paths are whole, so that they say what is
/// meant wherever they are read.
fn keeper_command(
    file: Option<&Path>,
    config: &Config,
    prefix: &[&str],
) -> std::io::Result<Vec<OsString>> {
    let program = std::env::current_exe()?.into_os_string();
    let this = |command: &[&str]| -> Vec<OsString> {
        let words = prefix.iter().chain(command).map(OsString::from);
        std::iter::once(program.clone()).chain(words).collect()
    };
    let mut all = this(&["keep-activator", "--"]);
    all.extend(this(&["activator", "--until-stdin-closes"]));
    let settings = [
        ("--identity", config.identity.as_path()),
        ("--data", &config.data),
        ("--deploy-root", &config.deploy_root),
    ];
    let file = file.map(|file| ("--config", file));
    for (flag, path) in file.into_iter().chain(settings) {
        all.extend([OsString::from(flag), std::path::absolute(path)?.into()]);
    }
    Ok(all)
}
