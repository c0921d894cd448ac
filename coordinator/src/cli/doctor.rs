//! `doctor`: what is wrong with this deployment host and its fleet's certificates, or will be.

use std::{os::unix::fs::MetadataExt, path::PathBuf, time::Duration};

use clap::Args;
use scap_agent::{
    clock,
    doctor::{self, Check, Level, check_authorities, check_key, check_life},
    error_chain,
};
use scap_proto::{identity::Identity, reason::Reason};

use super::{CliError, StateArgs, deploy::read_inventory, exit};
use crate::{
    fleet::{
        renew::{Renewed, renew_dialled},
        renewals::{Renewer, Which},
    },
    state::StateDirectory,
};

#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    #[command(flatten)]
    state: StateArgs,
    /// Also reach the hosts of this fleet file, and look at their certificates and clocks
    #[arg(long, value_name = "FILE")]
    fleet: Option<PathBuf>,
    /// How long a host may take to be reached, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    connect_timeout: u64,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: DoctorArgs) -> Result<u8, CliError> {
    let state = StateDirectory::open(&args.state.state)
        .map_err(|error| CliError::failed("doctor", &error).hint(error.hint()))?;
    let now = clock::now().0;
    let mut checks = vec![check_state(&args.state.state)];
    match state.identity() {
        Err(error) => checks.push(Check::bad(
            "identity",
            error_chain(&error),
            "run this as the user who deploys",
        )),
        Ok(identity) => {
            checks.push(Check::ok("identity", identity.own().to_string()));
            let renew =
                "scap-coordinator renew, where the fleet's authority is; a deployment does it too";
            checks.push(check_life("certificate", identity.validity(), now, renew));
            checks.push(check_authorities(identity.directory(), now));
            checks.push(check_key(&identity));
            if let Some(fleet) = &args.fleet {
                let wait = Duration::from_secs(args.connect_timeout);
                checks.extend(check_hosts(&state, identity, fleet, wait).await?);
            }
        }
    }
    checks.extend(check_records(&state, now));
    match args.json {
        true => println!("{}", doctor::to_json("scap.doctor/1", &checks)),
        false => doctor::print(&checks, &mut std::io::stdout().lock()),
    }
    Ok(match doctor::worst(&checks) {
        Level::Bad => exit::FAILED,
        Level::Ok | Level::Warn => exit::DONE,
    })
}

fn check_state(path: &std::path::Path) -> Check {
    const NAME: &str = "state-directory";
    let at = path.display();
    match path.metadata() {
        Ok(found) if found.mode() & 0o077 != 0 => Check::bad(
            NAME,
            format!(
                "{at} has mode {:03o}, and it holds keys",
                found.mode() & 0o777
            ),
            format!("chmod 700 {at}"),
        ),
        Ok(_) => Check::ok(NAME, format!("{at} is its owner's alone")),
        Err(error) => Check::bad(
            NAME,
            format!("look at {at}: {error}"),
            "name another --state",
        ),
    }
}

/// What is recorded of hosts whose certificates end: also of those that are not reached any more.
fn check_records(state: &StateDirectory, now_unix_ms: u64) -> Vec<Check> {
    const NAME: &str = "enrolments";
    let records = match state.enrolments() {
        Ok(records) => records,
        Err(error) => {
            let remedy = error.hint().unwrap_or_else(|| "mend it".to_owned());
            return vec![Check::bad(NAME, error_chain(&error), remedy)];
        }
    };
    let now = clock::timestamp(now_unix_ms);
    let over = records.iter().filter(|record| record.valid_until < now);
    let over: Vec<&str> = over.map(|record| record.host.as_str()).collect();
    let text = format!("{} recorded", records.len());
    vec![match over.is_empty() {
        true => Check::ok(NAME, text),
        false => Check::warn(
            NAME,
            format!(
                "{text}; the certificates of these have expired: {}",
                super::progress::some(&over)
            ),
            "scap-coordinator renew, or enroll them again; those that are gone stay recorded",
        ),
    }]
}

/// Looks at each host that can be dialled: its certificate, and by the handshake whether the clocks agree.
async fn check_hosts(
    state: &StateDirectory,
    identity: std::sync::Arc<Identity>,
    fleet: &std::path::Path,
    reach_max: Duration,
) -> Result<Vec<Check>, CliError> {
    const NAME: &str = "host";
    let inventory = read_inventory(fleet)?;
    let open = inventory.hosts.iter().filter(|host| host.via.is_empty());
    let open: Vec<_> = open.cloned().collect();
    let renewer = Renewer {
        state: state.clone(),
        which: Which::None,
    };
    let seen = renew_dialled(&renewer, identity, &open, reach_max)
        .await
        .map_err(|error| CliError::failed("doctor: open a socket", &error))?;
    let now = clock::now().0;
    let checks = seen.into_iter().map(|(host, found)| match found {
        Renewed::Good(valid) => {
            let check = check_life(NAME, valid, now, "scap-coordinator renew");
            Check {
                text: format!("{host}: {}", check.text),
                ..check
            }
        }
        Renewed::Until(_) => Check::ok(NAME, format!("{host}: renewed")),
        Renewed::Not(because) => {
            let text = format!("{host}: {} [{}]", because.text, because.code);
            let remedy = match because.code {
                Reason::ClockSkew => "set the clock that is wrong",
                Reason::CertificateExpired => "enroll it again",
                _ => "is its agent running, and is UDP let through to it?",
            };
            Check::bad(NAME, text, remedy)
        }
    });
    let mut checks: Vec<Check> = checks.collect();
    let behind = inventory.hosts.len() - open.len();
    if behind > 0 {
        let text = format!("{behind} stand behind others, and are not looked at");
        checks.push(Check::ok(NAME, text));
    }
    Ok(checks)
}
