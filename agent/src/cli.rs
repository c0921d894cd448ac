//! The agent's command line, which the coordinator can run too, under a sub-command of its own.

mod clone;
mod doctor;
mod enroll;
mod identity;
mod limit;
mod memory;
mod metrics;
mod pull;
mod run;
mod trust;
mod watch;

pub use self::memory::{keep_core_off_disk, keep_memory_private};

use std::{
    ffi::OsString,
    io::{IsTerminal, Read, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::{Args, Parser, Subcommand};
use scap_proto::release::RepoPath;
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

use crate::{
    activate::{
        Failpoints,
        process::{self, ActivatorConfig},
    },
    api::{self, Call, CallError},
    clock,
    config::{Config, DATA_DIRECTORY, PartialConfig},
    trust::ActivatorTrust,
};

/// Exit codes, as the operator's guide lists them.
pub mod exit {
    /// Done.
    pub const DONE: u8 = 0;
    /// Failed.
    pub const FAILED: u8 = 1;
    /// `pull` changed something.
    pub const CHANGED: u8 = 10;
    /// Bad usage or configuration.
    pub const USAGE: u8 = 2;
}

/// Fetches, serves and activates releases on this host
#[derive(Debug, Parser)]
#[command(
    name = "scap-agent",
    version,
    max_term_width = 100,
    after_help = "Exit codes: 0 done, 1 failed or different, 2 bad usage or configuration, 10 `pull` changed something"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon
    Run(RunArgs),
    /// Say what is wrong with this host, or will be: certificates, keys, directories, disks, buffers
    Doctor(doctor::DoctorArgs),
    /// Become a member of a fleet: make a key, and have it certified by a token
    Enroll(enroll::EnrollArgs),
    /// Run the process that alone writes below the deploy root; `run` starts it
    Activator(ActivatorArgs),
    /// Keep an activator running, as the child of `run`
    #[command(hide = true)]
    KeepActivator {
        /// What starts it.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<OsString>,
    },
    /// Show what this host runs and what it waits for
    Status(LocalArgs),
    /// Print the status in numbers, as OpenMetrics text
    Metrics(metrics::MetricsArgs),
    /// Compare a live tree with its signed snapshot, and name every difference
    Verify {
        /// The repo, as its path below the deploy root
        repo: RepoPath,
        #[command(flatten)]
        local: LocalArgs,
    },
    /// Ask the peers which releases are stable, and catch up with them
    Pull(pull::PullArgs),
    /// Make this host's key here, have it certified, and install what is answered
    #[command(subcommand)]
    Identity(identity::IdentityCommand),
    /// Remove chunks that nothing needs from the store
    Gc(LocalArgs),
    /// Show how much of the network the agent may use and does, or change it until it is started again
    Limit(limit::LimitArgs),
}

#[derive(Debug, Args)]
struct RunArgs {
    /// Read the configuration from this TOML file; flags stand over it
    #[arg(long, value_name = "FILE", env = "SCAP_AGENT_CONFIG")]
    config: Option<PathBuf>,
    #[command(flatten)]
    settings: SettingsArgs,
    /// Listen on this address [default: [::]:7227]
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<std::net::SocketAddr>,
    #[command(flatten)]
    catch_up: pull::CatchUpArgs,
    /// Do not start an activator; one runs already, as a unit of its own
    #[arg(long)]
    external_activator: bool,
    /// End when standard input does, as the child of a demo
    #[arg(long, hide = true)]
    until_stdin_closes: bool,
}

#[derive(Debug, Args)]
struct ActivatorArgs {
    /// Read the configuration from this TOML file; flags stand over it
    #[arg(long, value_name = "FILE", env = "SCAP_AGENT_CONFIG")]
    config: Option<PathBuf>,
    #[command(flatten)]
    settings: SettingsArgs,
    /// End when standard input does, as the child of `run`
    #[arg(long, hide = true)]
    until_stdin_closes: bool,
}

#[derive(Debug, Args)]
struct SettingsArgs {
    /// The identity directory [default: /etc/scap/identity]
    #[arg(long, value_name = "DIR")]
    identity: Option<PathBuf>,
    /// The data directory [default: /var/lib/scap-agent]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Where repos go live [default: /srv/deployment]
    #[arg(long, value_name = "DIR")]
    deploy_root: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct LocalArgs {
    /// The data directory of the daemon to ask
    #[arg(long, value_name = "DIR", default_value = DATA_DIRECTORY)]
    data: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the command line. `prefix` are the arguments after the program's name with which this
/// command line is reached in that program: none, or a sub-command.
pub fn main(arguments: Vec<OsString>, prefix: &[&str]) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => return explain(&error),
    };
    keep_memory_private();
    match cli.command {
        Command::Run(args) => run::main(args, prefix),
        Command::KeepActivator { command } => in_runtime(1, run::keep_activator(command)),
        command => in_runtime(worker_threads(), execute(command)),
    }
}

/// Prints what was wrong with the arguments, or the help that was asked for, and says how to exit. What was typed may come from
/// elsewhere, so nothing of it does anything to a terminal.
pub fn explain(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        let _ = error.print();
        return ExitCode::from(exit::DONE);
    }
    let mut shown = String::new();
    for c in error.render().to_string().chars() {
        match c {
            '\n' | '"' | '\'' | '\\' => shown.push(c),
            c => shown.extend(c.escape_debug()),
        }
    }
    let _ = std::io::stderr().write_all(shown.as_bytes());
    ExitCode::from(exit::USAGE)
}

/// Runs something to its end with so many threads. Nothing of the process was asynchronous before.
fn in_runtime(threads: usize, work: impl Future<Output = ExitCode>) -> ExitCode {
    // One thread needs no others to be woken by.
    let runtime = match threads {
        1 => tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build(),
        threads => tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads)
            .enable_all()
            .build(),
    };
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return fail("start the async runtime", &error, None),
    };
    let code = runtime.block_on(work);
    // What the blocking pool still does was cancelled or is of no use any more.
    runtime.shutdown_timeout(Duration::from_secs(1));
    code
}

/// An agent is a guest: half of the host's processors, and at most as many threads as one network interface keeps
/// busy. Fewer threads also wake each other less.
fn worker_threads() -> usize {
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    (processors / 2).clamp(1, 4)
}

async fn execute(command: Command) -> ExitCode {
    match command {
        Command::Run(_) | Command::KeepActivator { .. } => {
            unreachable!("they have a runtime of their own")
        }
        Command::Enroll(args) => enroll::run(args).await,
        Command::Activator(args) => activator(args).await,
        Command::Doctor(args) => doctor::run(args).await,
        Command::Status(local) => show(&local, &Call::Status, print_status).await,
        Command::Verify { repo, local } => {
            show(&local, &Call::Verify { repo }, print_differences).await
        }
        Command::Pull(args) => pull::run(&args).await,
        Command::Identity(command) => identity::run(&command),
        Command::Metrics(args) => show(&args.local(), &Call::Status, metrics::print).await,
        Command::Gc(local) => show(&local, &Call::Gc, print_collected).await,
        Command::Limit(args) => show(&args.local, &args.call(), limit::print).await,
    }
}

async fn activator(args: ActivatorArgs) -> ExitCode {
    log_to_stderr("info");
    let flags = PartialConfig::default();
    let config = match settings(args.config.as_deref(), args.settings, flags) {
        Ok(config) => config,
        Err(code) => return code,
    };
    let trust = match ActivatorTrust::of_activator(&config, clock::now()) {
        Ok(trust) => trust,
        Err(error) => return fail("load the identity", &error, None),
    };
    let cancel = if args.until_stdin_closes {
        // Signals to the terminal's group reach the parent, which then ends us in order.
        ignore_signals();
        cancel_on_end_of_stdin()
    } else {
        cancel_on_signal()
    };
    let failpoints = match std::env::var("SCAP_FAILPOINT") {
        Ok(name) => Failpoints::at(name),
        Err(_) => Failpoints::default(),
    };
    let config = ActivatorConfig {
        data: config.data,
        socket: config.activator_socket,
        deploy_root: config.deploy_root,
        services: config.services,
        failpoints,
    };
    match process::run(trust, config, cancel).await {
        Ok(()) => ExitCode::from(exit::DONE),
        Err(error) => fail("run the activator", &error, None),
    }
}

fn settings(
    file: Option<&Path>,
    paths: SettingsArgs,
    flags: PartialConfig,
) -> Result<Config, ExitCode> {
    let file = match file.map(PartialConfig::read).transpose() {
        Ok(file) => file.unwrap_or_default(),
        Err(error) => {
            let _ = fail("configure the agent", &error, None);
            return Err(ExitCode::from(exit::USAGE));
        }
    };
    let SettingsArgs {
        identity,
        data,
        deploy_root,
    } = paths;
    let flags = PartialConfig {
        identity,
        data,
        deploy_root,
        ..flags
    };
    Ok(flags.over(file).complete())
}

async fn show(local: &LocalArgs, call: &Call, print: fn(&Value, &mut dyn Write) -> u8) -> ExitCode {
    let answer: Value = match api::call(&local.data, call).await {
        Ok(answer) => answer,
        Err(error) => {
            let hint = matches!(error, CallError::Connect { .. }).then_some(
                "is `scap-agent run` running, with the same --data, and are you its user?",
            );
            return fail("ask the agent", &error, hint);
        }
    };
    let mut out = std::io::stdout().lock();
    if local.json {
        let _ = writeln!(out, "{answer}");
        let is_ok = answer.get("ok").and_then(Value::as_bool).unwrap_or(true);
        return ExitCode::from(if is_ok { exit::DONE } else { exit::FAILED });
    }
    ExitCode::from(print(&answer, &mut out))
}

fn print_status(status: &Value, out: &mut dyn Write) -> u8 {
    let _ = writeln!(
        out,
        "{} listens on {}",
        text(status, "name"),
        text(status, "address")
    );
    let identity = &status["identity"];
    if identity["state"] != "good" {
        let days = identity["valid_seconds_left"].as_u64().unwrap_or_default() / (24 * 3600);
        let (state, until) = (text(identity, "state"), text(identity, "valid_until"));
        let _ = writeln!(
            out,
            "certificate  {state}: until {until}, {days} days left; `scap-agent doctor` says what to do"
        );
    }
    let releases = status["releases"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let authority = &status["authority"];
    let _ = writeln!(
        out,
        "takes releases directed from {}, by signers file {}",
        text(authority, "directed_from"),
        text(authority, "signers_file")
    );
    if releases.is_empty() {
        let _ = writeln!(out, "nothing was deployed to this host yet");
    }
    for release in releases {
        let id = text(release, "release");
        let _ = writeln!(
            out,
            "{} {}  #{} release {}  commit {}  {} {}  {}",
            text(release, "repo"),
            text(release, "environment"),
            text(release, "sequence"),
            id.get(..8).unwrap_or("-"),
            text(release, "commit").get(..10).unwrap_or("-"),
            text(release, "stage"),
            text(release, "state"),
            if release["live"] == true {
                "live"
            } else {
                "not live"
            },
        );
        for (label, key) in [("reason", "reason"), ("wait", "waiting")] {
            if let Some(value) = release[key].as_str() {
                let code = bracketed(release, "code");
                let _ = writeln!(out, "  {label}  {}{code}", value.escape_debug());
            }
        }
        let bytes = &release["bytes"];
        let _ = writeln!(
            out,
            "  data  {}/{} chunks  seed {}  peers {}  reuse {} bytes",
            text(release, "chunks_held"),
            text(release, "chunks_total"),
            text(bytes, "seed"),
            text(bytes, "peers"),
            text(bytes, "reuse"),
        );
    }
    let confinement = &status["confinement"];
    let code = bracketed(confinement, "code");
    let _ = writeln!(out, "the daemon is {}{code}", text(confinement, "text"));
    limit::print_in_use(&status["limits"], out);
    pull::print_status(&status["catch_up"], out);
    trust::print_status(&status["trust"], out);
    watch::print_status(status, out);
    for peer in status["dropped_peers"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default()
    {
        let _ = writeln!(
            out,
            "dropped peer {}: {}{}",
            text(peer, "name"),
            text(peer, "reason"),
            bracketed(peer, "code")
        );
    }
    for shun in status["shunned"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default()
    {
        let _ = writeln!(
            out,
            "shunned {} for {} s{} [{}]",
            text(shun, "name"),
            text(shun, "seconds_left"),
            if shun["barred"] == true {
                ": no link is taken from it"
            } else {
                ": it is asked nothing"
            },
            text(shun, "code"),
        );
    }
    if status["first_packets_dropped"].as_u64() > Some(0) {
        let _ = writeln!(
            out,
            "flood  {} first packets of handshakes dropped unread since the start",
            text(status, "first_packets_dropped")
        );
    }
    exit::DONE
}

/// A code, as it goes after the words of a reason.
fn bracketed(of: &Value, key: &str) -> String {
    let code = of[key].as_str();
    code.map_or_else(String::new, |code| format!(" [{code}]"))
}

fn print_differences(view: &Value, out: &mut dyn Write) -> u8 {
    let differences = view["differences"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    for difference in differences {
        let _ = writeln!(out, "{}", difference.as_str().unwrap_or_default());
    }
    if differences.is_empty() {
        let _ = writeln!(out, "{} is what was signed", text(view, "repo"));
        exit::DONE
    } else {
        let _ = writeln!(
            out,
            "{} differs in {} places",
            text(view, "repo"),
            differences.len()
        );
        exit::FAILED
    }
}

fn print_collected(view: &Value, out: &mut dyn Write) -> u8 {
    let (chunks, bytes) = (text(view, "chunks_removed"), text(view, "bytes_removed"));
    let _ = writeln!(out, "removed {chunks} chunks, {bytes} bytes");
    exit::DONE
}

/// A value as people read it.
fn text(object: &Value, key: &str) -> String {
    match &object[key] {
        Value::Null => "-".into(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn fail(doing: &str, error: &(dyn std::error::Error + 'static), hint: Option<&str>) -> ExitCode {
    eprintln!("error: {doing}: {}", crate::error_chain(error));
    if let Some(hint) = hint {
        eprintln!("hint: {hint}");
    }
    ExitCode::from(exit::FAILED)
}

/// Logs go to standard error; `RUST_LOG` chooses what, and `default` where it is not set.
///
/// # Panics
/// The second time in a process.
pub fn log_to_stderr(default: &str) {
    log_through(default, crate::logs::Bounded::new(std::io::stderr));
}

/// The same, where `writer` makes what writes to standard error.
///
/// # Panics
/// The second time in a process.
pub fn log_to<W: Write + 'static>(default: &str, writer: impl Fn() -> W + Send + Sync + 'static) {
    log_through(default, writer);
}

fn log_through<M>(default: &str, writer: M)
where
    M: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer)
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
        .with_target(false)
        // It would tell them on standard error, and panic where nobody reads that any more.
        .log_internal_errors(false)
        .init();
}

/// Cancelled by SIGINT or SIGTERM.
fn cancel_on_signal() -> CancellationToken {
    use tokio::signal::unix::{SignalKind, signal};

    let cancel = CancellationToken::new();
    let token = cancel.clone();
    tokio::spawn(async move {
        let (Ok(mut interrupt), Ok(mut terminate)) = (
            signal(SignalKind::interrupt()),
            signal(SignalKind::terminate()),
        ) else {
            return tracing::warn!("signals cannot be handled; they end the process at once");
        };
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        token.cancel();
    });
    cancel
}

/// Takes SIGINT and SIGTERM and does nothing about them.
fn ignore_signals() {
    // The token is cancelled and nobody looks.
    drop(cancel_on_signal());
}

/// Cancelled when standard input ends, which a thread waits for.
fn cancel_on_end_of_stdin() -> CancellationToken {
    let cancel = CancellationToken::new();
    let token = cancel.clone();
    std::thread::spawn(move || {
        let mut byte = [0];
        while matches!(std::io::stdin().read(&mut byte), Ok(1)) {}
        token.cancel();
    });
    cancel
}
