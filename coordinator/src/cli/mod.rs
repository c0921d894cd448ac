//! The command line: the tree, and a file a sub-command.

// First, for what it has is known to those below it only.
#[macro_use]
mod print;

mod branch;
mod ca;
mod config;
mod control;
mod deltas;
mod demo;
mod deploy;
mod diff;
mod doctor;
mod enroll;
mod error;
mod history;
mod init;
mod plan;
mod progress;
mod release;
mod renew;
mod resume;
mod revoke;
mod rollback;
mod rollout_status;
mod scap;
mod screen;
mod show;
mod signers;
mod snapshot;
mod status;
mod token;
mod trusted;
mod unified;
mod unlock;
mod watch;
mod why;
mod worded;

use std::{ffi::OsString, path::PathBuf, process::ExitCode, time::Duration};

use clap::{Args, Parser, Subcommand};
use scap_proto::release::{Environment, RepoPath};

pub use self::{
    control::COMMANDS as CONTROL_COMMANDS,
    error::{CliError, exit},
};

/// The hidden sub-command under which this program is the agent.
const AGENT_COMMAND: &str = "agent";

/// Deploys git repos and directories to fleets, peer to peer
#[derive(Debug, Parser)]
#[command(
    name = "scap-coordinator",
    version,
    max_term_width = 100,
    after_help = "Exit codes: 0 done and healthy, 1 failed, 2 bad usage or configuration, 3 stopped by a gate or paused \
                  (a person is needed), 4 rolled back, 5 done with failed hosts within the budget, 75 the lock is held \
                  (try later)"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make the state directory of a new fleet: its private CA, a deployer key, allowed_signers
    Init(init::InitArgs),
    /// Make one host's identity, offline, to copy it to the host; or have hosts make theirs, over ssh or by tokens; or list who was enrolled
    Enroll(Box<enroll::EnrollArgs>),
    /// Renew the certificates of hosts whose last third of life has begun, and of those that expired less than 90 days ago; a
    /// deployment does the former too
    Renew(renew::RenewArgs),
    /// Make, list and take back the tokens by which hosts enrol themselves
    Token(token::TokenArgs),
    /// Cut hosts off from the fleet, at once: their certificates count no more, on any host that hears of it
    Revoke(Box<revoke::RevokeArgs>),
    /// Take hosts back that were revoked, with the certificates that they have
    Unrevoke(revoke::UnrevokeArgs),
    /// Move the fleet to a new certificate authority, and say where that is
    Ca(Box<ca::CaArgs>),
    /// Say what is wrong with this deployment host, or will be, and with --fleet with the hosts' certificates and clocks
    Doctor(doctor::DoctorArgs),
    /// Build the snapshot of a commit or a directory, and say what it is
    Snapshot(snapshot::SnapshotArgs),
    /// Say how a release would go through a fleet, and how long it would take; contacts nobody
    Plan(plan::PlanArgs),
    /// Say what the scap folder of a commit or a directory says, and where; contacts nobody
    Config(config::ConfigArgs),
    /// Deploy a commit or a directory to a fleet, in waves: the canary group first, then the rest, unless it or the scap folder says
    /// otherwise
    Deploy(Box<deploy::DeployArgs>),
    /// Releases that several must sign: prepare one, have it signed, and deploy it with `deploy --release`
    Release(Box<release::ReleaseArgs>),
    /// Who may release: show it, and change it so that hosts follow
    Signers(Box<signers::SignersArgs>),
    /// Release what an earlier release had: the last finalized one before the latest, or the one named
    Rollback(Box<rollback::RollbackArgs>),
    /// Say what each environment is on, who deploys, and what became of the hosts; and where a deployment that runs here is, what it
    /// waits for, and what may be done
    Status(status::StatusArgs),
    /// Say why a host is where it is: what it waits for, since when, how long at most, and where that comes from; by the deployment that
    /// runs here, else by the last record
    Why(why::WhyArgs),
    /// Stop a running deployment from advancing; hosts finish what they were told
    Pause(control::ControlArgs),
    /// Let a paused deployment go on, or one that lost more hosts than it may go on without them; with --repo and --fleet, where
    /// none runs, go on with one whose coordinator has ended, here or on another machine
    Resume(Box<resume::ResumeArgs>),
    /// Let the next wave go now: end the soak, or approve it
    Promote(control::ControlArgs),
    /// Take every host that a running deployment switched back to what it ran
    Abort(control::ControlArgs),
    /// Try hosts again that failed or were not reached
    Retry(control::RetryArgs),
    /// Go on without a host
    Skip(control::SkipArgs),
    /// List what was released
    History(history::HistoryArgs),
    /// Say all that is recorded of one release
    Show(show::ShowArgs),
    /// Say which commits and files differ between two releases
    Diff(diff::DiffArgs),
    /// Break somebody's lock, which is recorded
    Unlock(unlock::UnlockArgs),
    /// Run a fleet of local processes, deploy to it twice, verify it, break a canary, show the rollback, and clean up
    Demo(demo::DemoArgs),
    /// Run the agent's command line
    #[command(hide = true, disable_help_flag = true)]
    Agent {
        /// What the agent's command line takes.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
}

/// What is deployed.
#[derive(Debug, Clone, Args)]
#[group(id = "source", required = true, multiple = false)]
struct SourceArgs {
    /// A git repository, bare or not; its work tree is not looked at
    #[arg(long, value_name = "PATH")]
    repo: Option<PathBuf>,
    /// A plain directory, such as a build's output
    #[arg(long, value_name = "PATH", conflicts_with = "rev")]
    dir: Option<PathBuf>,
}

/// Where the fleet's state is.
#[derive(Debug, Clone, Args)]
struct StateArgs {
    /// The state directory that `init` made
    #[arg(long, value_name = "DIR", env = "SCAP_STATE")]
    state: PathBuf,
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return scap_agent::cli::explain(&error),
    };
    if let Command::Agent { arguments } = cli.command {
        let arguments = std::iter::once(OsString::from("scap-agent"))
            .chain(arguments)
            .collect();
        return scap_agent::cli::main(arguments, &[AGENT_COMMAND]);
    }
    scap_agent::cli::keep_memory_private();
    scap_agent::cli::keep_core_off_disk();
    scap_agent::cli::log_to("warn", || screen::Log);
    screen::keep_panics_above();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            let code = CliError::failed("start the async runtime", &error).print();
            screen::drain();
            return code;
        }
    };
    let result = runtime.block_on(execute(cli.command));
    // What the blocking pool still does is of no use any more.
    runtime.shutdown_timeout(Duration::from_secs(1));
    let code = match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => error.print(),
    };
    screen::drain();
    code
}

async fn execute(command: Command) -> Result<u8, CliError> {
    match command {
        Command::Init(args) => init::run(&args),
        Command::Enroll(args) => enroll::run(&args).await,
        Command::Renew(args) => renew::run(args).await,
        Command::Token(args) => token::run(args),
        Command::Revoke(args) => revoke::revoke(*args).await,
        Command::Unrevoke(args) => revoke::unrevoke(args).await,
        Command::Ca(args) => ca::run(*args).await,
        Command::Doctor(args) => doctor::run(args).await,
        Command::Snapshot(args) => snapshot::run(args).await,
        Command::Plan(args) => plan::run(&args),
        Command::Config(args) => config::run(&args),
        Command::Deploy(args) => deploy::run(*args).await,
        Command::Release(args) => release::run(*args).await,
        Command::Signers(args) => signers::run(&args),
        Command::Rollback(args) => rollback::run(*args).await,
        Command::Status(args) => status::run(&args).await,
        Command::Why(args) => why::run(&args).await,
        Command::Pause(args) => control::pause(args).await,
        Command::Resume(args) => resume::run(*args).await,
        Command::Promote(args) => control::promote(args).await,
        Command::Abort(args) => control::abort(args).await,
        Command::Retry(args) => control::retry(args).await,
        Command::Skip(args) => control::skip(args).await,
        Command::History(args) => history::run(&args),
        Command::Show(args) => show::run(&args),
        Command::Diff(args) => diff::run(&args),
        Command::Unlock(args) => unlock::run(&args),
        Command::Demo(args) => demo::run(args).await,
        Command::Agent { .. } => unreachable!("the agent's command line was run already"),
    }
}

/// A number of bytes as people read it.
#[expect(clippy::cast_precision_loss, reason = "shown to three digits")]
fn human_bytes(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            return if unit == "B" {
                format!("{bytes} B")
            } else {
                format!("{value:.1} {unit}")
            };
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

/// The repo and environment that a deployment is about.
type About = (RepoPath, Environment);
