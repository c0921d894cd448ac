//! What commands that change whose certificates count have in common: signing, telling all hosts, and saying who has it.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use clap::Args;
use scap_agent::clock;
use scap_proto::{
    id::NodeId,
    identity::{FleetTrust, Identity},
    release::UnixMillis,
    transport::RateCaps,
};
use serde_json::{Value, json};

use super::{CliError, StateArgs, deploy::no_fleet, deploy::read_inventory, snapshot::open_store};
use crate::{
    fleet::tell::{Told, tell, without},
    seed::Seed,
    state::{StateDirectory, StateError, TrustError, revoked},
};

/// How often a change is signed again upon what somebody else signed meanwhile.
const ROUNDS_MAX: usize = 4;

/// Where the fleet is, and how long to wait for it.
#[derive(Debug, Clone, Args)]
pub(super) struct TellArgs {
    #[command(flatten)]
    pub(super) state: StateArgs,
    /// The fleet file: all hosts of it are told at once
    #[arg(long, value_name = "FILE")]
    pub(super) fleet: Option<PathBuf>,
    /// How long to wait for hosts that do not answer, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 20)]
    pub(super) wait: u64,
    /// Print one JSON object
    #[arg(long)]
    pub(super) json: bool,
}

/// The state and the identity by which hosts are told.
pub(super) struct Teller<'a> {
    pub(super) args: &'a TellArgs,
    pub(super) state: StateDirectory,
    pub(super) identity: Arc<Identity>,
}

/// What came of telling.
pub(super) struct Outcome {
    /// How many hosts were to be told.
    pub(super) hosts: usize,
    pub(super) told: Told,
    pub(super) took: Duration,
}

impl<'a> Teller<'a> {
    pub(super) fn open(args: &'a TellArgs) -> Result<Self, CliError> {
        let state = StateDirectory::open(&args.state.state).map_err(|e| state_error(&e))?;
        let identity = state
            .identity_at(clock::now())
            .map_err(|e| state_error(&e))?;
        Ok(Self {
            args,
            state,
            identity,
        })
    }

    /// Signs a change and tells all hosts. Where one of them has something that was signed elsewhere meanwhile, it is signed
    /// again upon that.
    pub(super) async fn change(
        &self,
        change: impl Fn(&mut FleetTrust),
    ) -> Result<Option<Outcome>, CliError> {
        let trust = self.identity.trust();
        let mut outcome = None;
        for round in 1..=ROUNDS_MAX {
            match self.state.sign_trust(trust, clock::now(), &change) {
                Ok(signed) => {
                    outcome = self.tell().await?;
                    if trust.mark().number == signed.number && trust.conflict().is_none() {
                        return Ok(outcome);
                    }
                }
                Err(StateError::Trust(TrustError::Overtaken { .. })) if round < ROUNDS_MAX => {}
                Err(error) => return Err(state_error(&error)),
            }
            eprintln!("another fleet trust was signed elsewhere; this change is signed upon it");
        }
        Ok(outcome)
    }

    /// Tells all hosts of the fleet file what counts, where there is one.
    pub(super) async fn tell(&self) -> Result<Option<Outcome>, CliError> {
        let Some(fleet) = &self.args.fleet else {
            return Ok(None);
        };
        let began = Instant::now();
        let fleet = read_inventory(fleet)?;
        let trust = self.identity.trust();
        let left_out: BTreeSet<NodeId> = revoked(trust).into_keys().collect();
        let (inventory, behind) = without(fleet, &left_out).map_err(|error| no_fleet(&error))?;
        let reason = "it stands behind hosts that are revoked";
        let behind = behind.into_iter().map(|host| (host, reason.to_owned()));
        let behind: BTreeMap<NodeId, String> = behind.collect();
        let Some(inventory) = inventory else {
            return Ok(Some(Outcome {
                hosts: behind.len(),
                told: Told {
                    away: behind,
                    ..Told::default()
                },
                took: began.elapsed(),
            }));
        };
        let (store, _admission) = open_store(&self.state.store()).await?;
        let seed = Seed::start(self.identity.clone(), store, RateCaps::default())
            .map_err(|error| CliError::failed("open a socket", &error))?;
        let wait = Duration::from_secs(self.args.wait);
        let mut told = tell(seed.node(), &self.identity, &inventory, wait).await;
        seed.shutdown().await;
        let hosts = inventory.hosts.len() + behind.len();
        told.away.extend(behind);
        Ok(Some(Outcome {
            hosts,
            told,
            took: began.elapsed(),
        }))
    }

    /// Says who has it, and returns the names of those that do not.
    pub(super) fn print(&self, outcome: &Outcome) -> Vec<NodeId> {
        let mark = self.identity.trust().mark();
        let holders = outcome.told.holders(mark);
        println!(
            "told {} of {} hosts in {:.1} s",
            holders.len(),
            outcome.hosts,
            outcome.took.as_secs_f64()
        );
        let untold = self.untold(outcome);
        for (host, reason) in &untold {
            println!("  not told: {host}: {}", reason.escape_debug());
        }
        if !untold.is_empty() {
            println!(
                "who is not told learns it from any host that it meets, or from the next deployment"
            );
        }
        untold.into_keys().collect()
    }

    /// Who does not hold to what counts here, and why.
    pub(super) fn untold(&self, outcome: &Outcome) -> BTreeMap<NodeId, String> {
        let mark = self.identity.trust().mark();
        let holders = outcome.told.holders(mark);
        let mut untold = outcome.told.away.clone();
        for (host, standing) in &outcome.told.standings {
            if holders.contains(host) {
                continue;
            }
            let reason = match standing {
                None => "its agent is of an older build, which does not know of it".to_owned(),
                Some(standing) => format!("it holds to #{} still", standing.mark.number),
            };
            untold.insert(host.clone(), reason);
        }
        untold
    }

    /// For programs.
    pub(super) fn json(&self, outcome: Option<&Outcome>) -> Value {
        let mark = self.identity.trust().mark();
        let strings = |map: BTreeMap<NodeId, String>| -> Value {
            let pairs = map
                .into_iter()
                .map(|(host, why)| (host.to_string(), json!(why)));
            Value::Object(pairs.collect())
        };
        json!({
            "schema": "scap.trust/1",
            "number": mark.number,
            "revoked": revoked_json(&self.identity),
            "told": outcome.map(|it| it.told.holders(mark)),
            "not_told": outcome.map(|it| strings(self.untold(it))),
            "seconds": outcome.map(|it| it.took.as_secs_f64()),
        })
    }
}

/// Who is cut off.
pub(super) fn revoked_json(identity: &Identity) -> Value {
    let trust = identity.trust().fleet_trust();
    let denials = trust.map(|it| it.denials).unwrap_or_default();
    let shown = denials.iter().map(|denial| {
        let view = scap_agent::api::RevokedView::new(denial);
        json!({
            "kind": view.kind,
            "name": view.name,
            "reason": view.reason,
            "since_unix_ms": view.since_unix_ms,
            "enrolled_again": denial.is_enrolled_again,
        })
    });
    Value::Array(shown.collect())
}

pub(super) fn state_error(error: &StateError) -> CliError {
    CliError::failed("change whose certificates count", error).hint(error.hint())
}

/// Whether a fleet file names a host.
pub(super) fn is_in_fleet(file: &Path, host: &NodeId) -> Result<bool, CliError> {
    let fleet = read_inventory(file)?;
    Ok(fleet.hosts.iter().any(|it| it.name == *host))
}

/// An instant as people read it.
pub(super) fn date(at: UnixMillis) -> String {
    let secs = i64::try_from(at.0 / 1000).unwrap_or(i64::MAX);
    let date = jiff::Timestamp::from_second(secs);
    date.map_or_else(
        |_| format!("{} ms after 1970", at.0),
        |date| date.to_string(),
    )
}
