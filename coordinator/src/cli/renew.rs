//! `renew`: certificates of a fleet to which nothing is deployed for a while.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::Duration,
};

use clap::Args;
use scap_agent::{
    clock,
    store::{Store, StoreConfig},
};
use scap_proto::{
    id::NodeId,
    reason::{Because, Reason},
    transport::RateCaps,
};
use serde_json::{Value, json};

use super::{CliError, StateArgs, deploy::read_inventory, exit, unified::inert};
use crate::{
    fleet::{
        Host, Inventory,
        renew::{Renewed, renew_behind, renew_dialled},
        renewals::{Renewer, Which},
    },
    seed::Seed,
    state::{OWN_AGE_MS_MAX, OwnRenewal, StateDirectory, StateError},
};

#[derive(Debug, Args)]
pub(super) struct RenewArgs {
    #[command(flatten)]
    state: StateArgs,
    /// The fleet file
    #[arg(long, value_name = "FILE")]
    fleet: PathBuf,
    /// Only these hosts [default: all of the fleet file]
    #[arg(value_name = "HOST")]
    hosts: Vec<NodeId>,
    /// Also renew certificates that have more than a third of their life left
    #[arg(long)]
    all: bool,
    /// How long a host may take to be reached, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    connect_timeout: u64,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: RenewArgs) -> Result<u8, CliError> {
    let failed = |error: StateError| CliError::failed("renew", &error).hint(error.hint());
    let state = StateDirectory::open(&args.state.state).map_err(failed)?;
    let inventory = read_inventory(&args.fleet)?;
    let chosen = choose(&inventory, &args.hosts)?;
    // Its own goes first: hosts take nothing from a coordinator whose certificate is over.
    let own_age_max = if args.all { 0 } else { OWN_AGE_MS_MAX };
    let (identity, own) = state.renew_own(clock::now(), own_age_max).map_err(failed)?;
    identity.check_time(clock::now().0).map_err(|error| {
        let hint = match &own {
            OwnRenewal::Failed(error) => Some(format!(
                "it is renewed where the authority is: {}",
                scap_agent::error_chain(error)
            )),
            OwnRenewal::Kept | OwnRenewal::Renewed => None,
        };
        CliError::failed("check this coordinator's certificate", &error).hint(hint)
    })?;
    let renewer = Renewer {
        state,
        which: if args.all { Which::All } else { Which::Due },
    };
    let reach_max = Duration::from_secs(args.connect_timeout);
    let (open, behind): (Vec<&Host>, Vec<&Host>) =
        chosen.into_iter().partition(|host| host.via.is_empty());
    let open: Vec<Host> = open.into_iter().cloned().collect();
    let mut hosts = renew_dialled(&renewer, identity.clone(), &open, reach_max)
        .await
        .map_err(|error| CliError::failed("renew: open a socket", &error))?;
    if !behind.is_empty() {
        let names: BTreeSet<NodeId> = behind.iter().map(|host| host.name.clone()).collect();
        let part = with_relays(inventory, &names)?;
        // Nothing is served from it.
        let nothing = |error: &(dyn std::error::Error + 'static)| {
            CliError::failed("renew: make an empty store", error)
        };
        let folder = tempfile::tempdir().map_err(|error| nothing(&error))?;
        let opened = Store::open(folder.path().join("store"), StoreConfig::default());
        let (store, _) = opened.map_err(|error| nothing(&error))?;
        let seed = Seed::start(identity.clone(), store, RateCaps::default())
            .map_err(|error| CliError::failed("renew: start a node", &error))?;
        let wait = reach_max + BEHIND_MORE;
        hosts.extend(renew_behind(&renewer, &identity, &seed, &part, &names, wait).await);
        seed.shutdown().await;
    }
    let own_until = identity.validity().not_after_unix_ms;
    match args.json {
        true => println!("{}", to_json(&own, own_until, &hosts)),
        false => print(&own, own_until, &hosts),
    }
    let is_well = hosts.values().all(|it| !matches!(it, Renewed::Not(_)));
    Ok(if is_well { exit::DONE } else { exit::FAILED })
}

/// How much longer hosts behind others may take: they are reached by these, renewed, and show what they got.
const BEHIND_MORE: Duration = Duration::from_secs(10);

fn choose<'a>(inventory: &'a Inventory, names: &[NodeId]) -> Result<Vec<&'a Host>, CliError> {
    if names.is_empty() {
        return Ok(inventory.hosts.iter().collect());
    }
    let find = |name: &NodeId| {
        let mut hosts = inventory.hosts.iter();
        hosts.find(|host| host.name == *name).ok_or_else(|| {
            CliError::usage(format!("renew: {name} is not in the fleet file"))
                .hint("name hosts as the fleet file does".to_owned())
        })
    };
    let names: BTreeSet<&NodeId> = names.iter().collect();
    names.into_iter().map(find).collect()
}

/// The part of the fleet that is these hosts and all through which they are reached.
fn with_relays(inventory: Inventory, names: &BTreeSet<NodeId>) -> Result<Inventory, CliError> {
    let mut wanted = names.clone();
    loop {
        let hosts = inventory.hosts.iter();
        let relays = hosts.filter(|host| wanted.contains(&host.name));
        let relays: Vec<NodeId> = relays.flat_map(|host| host.via.iter().cloned()).collect();
        let before = wanted.len();
        wanted.extend(relays);
        if wanted.len() == before {
            break;
        }
    }
    let waves: BTreeMap<NodeId, usize> = wanted.into_iter().map(|name| (name, 0)).collect();
    inventory
        .only(&waves)
        .map_err(|error| CliError::failed("renew", &error))
}

fn print(own: &OwnRenewal, own_until: u64, hosts: &BTreeMap<NodeId, Renewed>) {
    let date = |unix_ms| clock::timestamp(unix_ms).strftime("%Y-%m-%d").to_string();
    match own {
        OwnRenewal::Kept => println!("this coordinator: good until {}", date(own_until)),
        OwnRenewal::Renewed => println!("this coordinator: renewed, until {}", date(own_until)),
        OwnRenewal::Failed(error) => println!(
            "this coordinator: good until {}, and not renewed: {}",
            date(own_until),
            scap_agent::error_chain(error)
        ),
    }
    let mut counts = [0; 3];
    for (host, renewed) in hosts {
        match renewed {
            Renewed::Good(valid) => {
                counts[0] += 1;
                println!("{host}: good until {}", date(valid.not_after_unix_ms));
            }
            Renewed::Until(until) => {
                counts[1] += 1;
                println!("{host}: renewed, until {}", date(*until));
            }
            Renewed::Not(Because { code, text }) => {
                counts[2] += 1;
                let what = match code {
                    Reason::Unreachable => "not reached",
                    _ => "not renewed",
                };
                println!("{host}: {what}: {} [{code}]", inert(text));
            }
        }
    }
    let [good, renewed, not] = counts;
    println!("good {good}  renewed {renewed}  not renewed {not}");
}

fn to_json(own: &OwnRenewal, own_until: u64, hosts: &BTreeMap<NodeId, Renewed>) -> Value {
    let state = match own {
        OwnRenewal::Kept => "good",
        OwnRenewal::Renewed => "renewed",
        OwnRenewal::Failed(_) => "not-renewed",
    };
    let until = |unix_ms| json!(clock::timestamp(unix_ms));
    let hosts = hosts.iter().map(|(host, renewed)| match renewed {
        Renewed::Good(valid) => {
            json!({"host": host, "state": "good", "valid_until": until(valid.not_after_unix_ms)})
        }
        Renewed::Until(unix_ms) => {
            json!({"host": host, "state": "renewed", "valid_until": until(*unix_ms)})
        }
        Renewed::Not(Because { code, text }) => {
            json!({"host": host, "state": "not-renewed", "code": code, "reason": text})
        }
    });
    json!({
        "schema": "scap.renew/1",
        "coordinator": { "state": state, "valid_until": until(own_until) },
        "hosts": hosts.collect::<Vec<_>>(),
    })
}
