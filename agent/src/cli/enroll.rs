//! `enroll`: becoming a member of a fleet by a token.

use std::{io, net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use clap::Args;
use scap_proto::enroll::Token;

use super::{SettingsArgs, exit, fail, log_to_stderr, settings};
use crate::{
    clock,
    config::PartialConfig,
    enroll::{Newcomer, Way},
    trust::HostTrust,
};

#[derive(Debug, Args)]
pub(super) struct EnrollArgs {
    /// The file that holds this host's token, which only its owner may read; `-` reads it from standard input
    #[arg(long, value_name = "FILE")]
    token_file: PathBuf,
    /// Read the configuration from this TOML file; flags stand over it
    #[arg(long, value_name = "FILE", env = "SCAP_AGENT_CONFIG")]
    config: Option<PathBuf>,
    /// The identity directory to make [default: /etc/scap/identity]
    #[arg(long, value_name = "DIR")]
    identity: Option<PathBuf>,
    /// Wait here for a coordinator to dial [default: [::]:7227]
    #[arg(long, value_name = "ADDR:PORT", conflicts_with = "coordinator")]
    listen: Option<SocketAddr>,
    /// Dial a coordinator that listens, in place of waiting for one
    #[arg(long, value_name = "HOST:PORT")]
    coordinator: Option<String>,
    /// Give up after so many seconds; without it, never
    #[arg(long, value_name = "SECS")]
    timeout: Option<u64>,
}

pub(super) async fn run(args: EnrollArgs) -> ExitCode {
    log_to_stderr("info");
    let paths = SettingsArgs {
        identity: args.identity,
        data: None,
        deploy_root: None,
    };
    let flags = PartialConfig {
        listen: args.listen,
        ..PartialConfig::default()
    };
    let config = match settings(args.config.as_deref(), paths, flags) {
        Ok(config) => config,
        Err(code) => return code,
    };
    // So that a unit may ask at each start.
    if let Ok(trust) = HostTrust::load(&config.identity, clock::now()) {
        println!("enrolled already: {}", trust.identity.own());
        return ExitCode::from(exit::DONE);
    }
    let token = match args.token_file.as_os_str() == "-" {
        true => Token::read(io::stdin().lock()),
        false => Token::load(&args.token_file),
    };
    let token = match token {
        Ok(token) => token,
        Err(error) => {
            let hint = "`scap-coordinator token create HOST` prints one, which goes into that file as it is";
            return fail("read the token", &error, Some(hint));
        }
    };
    let newcomer = match Newcomer::new(&config.identity, token) {
        Ok(newcomer) => newcomer,
        Err(error) => return fail("make this host's key", &error, error.hint()),
    };
    let way = match args.coordinator {
        Some(coordinator) => Way::Dial(coordinator),
        None => Way::Listen(config.listen),
    };
    let limit = args.timeout.map_or(Duration::MAX, Duration::from_secs);
    match tokio::time::timeout(limit, newcomer.enroll(&way)).await {
        Ok(Ok(own)) => {
            println!("enrolled: {own}");
            println!("identity {}", config.identity.display());
            ExitCode::from(exit::DONE)
        }
        Ok(Err(error)) => fail("enroll this host", &error, error.hint()),
        Err(error) => {
            let hint = "`scap-coordinator enroll --token` dials hosts that wait, and `--listen` answers hosts that dial";
            fail("wait to be enrolled", &error, Some(hint))
        }
    }
}
