//! `enroll --token` and `enroll --listen`: hosts that have a token.

use std::{collections::BTreeSet, net::SocketAddr, path::Path, time::Duration};

use clap::Args;
use scap_agent::clock;
use scap_proto::{
    id::NodeId,
    reason::Reason,
    transport::enroll::{EnrollEndpoint, Party},
};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{EnrollArgs, failed, readmitted};
use crate::{
    cli::{CliError, exit, token::time},
    enroll::{Enroller, Failure, Success, TokenRecord, dial, dial::Awaited, listen::listen},
    fleet::Inventory,
    state::StateDirectory,
};

#[derive(Debug, Args)]
#[command(next_help_heading = "By tokens")]
pub(super) struct ByTokenArgs {
    /// Dial the hosts of the fleet file that have a token and wait, these or all, until each has its identity
    #[arg(long, value_name = "HOST", num_args = 0.., conflicts_with_all = ["name", "hosts", "environment"])]
    token: Option<Vec<NodeId>>,
    /// Listen here for hosts that have a token, in place of dialling: for those named by --token, or any
    #[arg(long, value_name = "ADDR:PORT", conflicts_with_all = ["name", "hosts", "environment"])]
    listen: Option<SocketAddr>,
    /// With --token or --listen: end after this time, if not all have come before: seconds, or a number with `m` or `h` behind it [default: 5m,
    /// or 10m where it listens]
    #[arg(long = "for", value_name = "TIME", value_parser = time)]
    time: Option<Duration>,
}

/// How long hosts are dialled unless said: a machine that boots is there by then.
const DIAL_FOR: Duration = Duration::from_secs(300);

/// How long is listened unless said.
const LISTEN_FOR: Duration = Duration::from_secs(600);

impl ByTokenArgs {
    /// Whether hosts are to be enrolled so.
    pub(super) fn is_asked_for(&self) -> bool {
        self.token.is_some() || self.listen.is_some()
    }
}

pub(super) async fn run(state: &StateDirectory, args: &EnrollArgs) -> Result<u8, CliError> {
    let hosts = args.by_token.token.as_deref().unwrap_or_default();
    let tokens = state.tokens().list();
    let tokens = tokens.map_err(|error| CliError::failed("read the tokens", &error))?;
    let now = clock::now();
    let awaited: Vec<_> = tokens.into_iter().filter(|it| it.is_awaited(now)).collect();
    for host in hosts {
        if !awaited.iter().any(|token| token.host == *host) {
            let hint = format!("`scap-coordinator token create {host}` makes one");
            return Err(CliError::usage(format!("{host} has no pending token")).hint(hint));
        }
    }
    let identity = state.identity().map_err(|error| failed(&error))?;
    let enroller = Enroller::new(state.clone(), state.tokens().dying_at(failpoint()));
    let party = Party::Coordinator(identity);
    let mut report = Report::new(args.json);
    match args.by_token.listen {
        Some(address) => {
            let endpoint = EnrollEndpoint::listen(party, address)
                .map_err(|error| CliError::failed("listen for hosts", &error))?;
            let address = endpoint.local_address().unwrap_or(address);
            let time = args.by_token.time.unwrap_or(LISTEN_FOR);
            eprintln!(
                "listening at {address} for {} s; on each host: scap-agent enroll --token-file FILE --coordinator HOST:{}",
                time.as_secs(),
                address.port()
            );
            let named: BTreeSet<_> = hosts.iter().cloned().collect();
            let awaited = (!named.is_empty()).then_some(&named);
            let until = Instant::now() + time;
            let came = listen(&enroller, &endpoint, awaited, until, |ended| {
                report.ended(ended);
            })
            .await;
            for host in named.difference(&came) {
                report.left(
                    host,
                    Reason::Unreachable.as_str(),
                    "it did not come in time",
                );
            }
        }
        None => {
            let Some(fleet) = args.fleet.as_deref() else {
                return Err(CliError::usage(
                    "--token takes --fleet FILE, which says where the hosts are",
                )
                .hint("or --listen, where the hosts dial".to_owned()));
            };
            let awaited = addressed(fleet, &awaited, hosts)?;
            let endpoint = EnrollEndpoint::dial_only(party)
                .map_err(|error| CliError::failed("dial hosts", &error))?;
            let until = Instant::now() + args.by_token.time.unwrap_or(DIAL_FOR);
            let left = dial::dial(&enroller, &endpoint, awaited, until, |success| {
                report.enrolled(success);
            })
            .await;
            for (host, failure) in left {
                report.left(&host, failure.code.as_str(), &failure.text);
            }
        }
    }
    Ok(report.end())
}

/// The hosts that are to come, with the addresses that the fleet file says.
fn addressed(
    fleet: &Path,
    awaited: &[TokenRecord],
    hosts: &[NodeId],
) -> Result<Vec<Awaited>, CliError> {
    let inventory = Inventory::read(fleet)
        .map_err(|error| CliError::failed("read the fleet", &error).code(exit::USAGE))?;
    let mut found: Vec<Awaited> = Vec::new();
    // The latest token of a host counts: another authority may have come since the others.
    for token in awaited.iter().rev() {
        let is_named = hosts.is_empty() || hosts.contains(&token.host);
        if !is_named || found.iter().any(|it| it.host == token.host) {
            continue;
        }
        match inventory.hosts.iter().find(|it| it.name == token.host) {
            Some(host) => found.push(Awaited {
                host: token.host.clone(),
                addresses: host.addresses.clone(),
                pin: token.authority,
            }),
            None if hosts.is_empty() => eprintln!(
                "note: {} has a pending token and is not in {}",
                token.host,
                fleet.display()
            ),
            None => {
                return Err(CliError::usage(format!(
                    "{} is not in {}",
                    token.host,
                    fleet.display()
                ))
                .hint("a host without a known address can dial: `enroll --listen`".to_owned()));
            }
        }
    }
    if found.is_empty() {
        return Err(
            CliError::usage("no host of the fleet file has a pending token")
                .hint("`scap-coordinator token create HOST` makes one".to_owned()),
        );
    }
    Ok(found)
}

/// Where a test has this process die.
fn failpoint() -> Option<String> {
    std::env::var("SCAP_FAILPOINT").ok()
}

/// What became of each host.
struct Report {
    json: bool,
    hosts: Vec<Value>,
    is_short: bool,
}

impl Report {
    fn new(json: bool) -> Self {
        Self {
            json,
            hosts: Vec::new(),
            is_short: false,
        }
    }

    fn ended(&mut self, ended: &Result<Success, Failure>) {
        // What failed is in the log; the host may come again.
        if let Ok(success) = ended {
            self.enrolled(success);
        }
    }

    fn enrolled(&mut self, success: &Success) {
        let Success {
            host,
            token,
            fingerprint,
            address,
            is_again,
            is_readmitted,
        } = success;
        if !self.json {
            let readmitted = readmitted(*is_readmitted);
            println!("enrolled {host} at {address}  key {fingerprint}  token {token}{readmitted}");
        }
        self.hosts.push(json!({
            "name": host,
            "outcome": "enrolled",
            "address": address.to_string(),
            "key": fingerprint,
            "token": token.to_string(),
            "again": is_again,
            "readmitted": is_readmitted,
        }));
    }

    fn left(&mut self, host: &NodeId, code: &str, text: &str) {
        self.is_short = true;
        if !self.json {
            eprintln!("not enrolled {host}: {} [{code}]", text.escape_debug());
        }
        self.hosts.push(json!({
            "name": host,
            "outcome": "failed",
            "error": text,
            "code": code,
        }));
    }

    fn end(self) -> u8 {
        if self.json {
            println!(
                "{}",
                json!({"schema": "scap.enroll/1", "hosts": self.hosts})
            );
        }
        if self.is_short || self.hosts.is_empty() {
            exit::FAILED
        } else {
            exit::DONE
        }
    }
}
