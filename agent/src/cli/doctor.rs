//! `scap-agent doctor`.

use std::{path::PathBuf, process::ExitCode};

use clap::Args;

use super::{SettingsArgs, exit, settings};
use crate::{
    config::PartialConfig,
    doctor::{self, HostPaths, Level},
};

#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// Read the configuration from this TOML file; flags stand over it
    #[arg(long, value_name = "FILE", env = "SCAP_AGENT_CONFIG")]
    config: Option<PathBuf>,
    #[command(flatten)]
    settings: SettingsArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: DoctorArgs) -> ExitCode {
    let flags = PartialConfig::default();
    let config = match settings(args.config.as_deref(), args.settings, flags) {
        Ok(config) => config,
        Err(code) => return code,
    };
    let paths = HostPaths {
        identity: config.identity,
        data: config.data,
        deploy_root: config.deploy_root,
    };
    let checks = doctor::checkup(&paths).await;
    match args.json {
        true => println!("{}", doctor::to_json("scap.agent-doctor/1", &checks)),
        false => doctor::print(&checks, &mut std::io::stdout().lock()),
    }
    match doctor::worst(&checks) {
        Level::Bad => ExitCode::from(exit::FAILED),
        Level::Ok | Level::Warn => ExitCode::from(exit::DONE),
    }
}
