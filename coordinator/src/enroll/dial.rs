//! To hosts that wait at their addresses: nothing listens here.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use scap_agent::relay::resolve;
use scap_proto::{
    id::NodeId, identity::AuthorityPin, reason::Reason, transport::enroll::EnrollEndpoint,
};
use tokio::{
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, sleep, timeout_at},
};

use super::{Enroller, Failure, Success};
use crate::contained::contained;

/// How long after a host was not reached it is tried again: it may be booting, and one packet costs nothing.
const AGAIN: Duration = Duration::from_secs(2);

/// Hosts that are dialled at a time; the others wait for their turn.
const DIALLED_MAX: usize = 32;

/// A host that is to come.
#[derive(Debug, Clone)]
pub struct Awaited {
    /// Its name.
    pub host: NodeId,
    /// Where it waits: `host:port` each.
    pub addresses: Vec<String>,
    /// The authority that its token pins.
    pub pin: AuthorityPin,
}

/// Dials each host until it has its identity, or until `until`; says each that has it to `on_success`. Claims that are not good are in the
/// log, and who answers in a host's place and does not know the fleet, where that is not the same as the time before.
///
/// Cancel-safe: dropping it drops the links. Returns what became last of each host that has none.
pub async fn dial(
    enroller: &Arc<Enroller>,
    endpoint: &EnrollEndpoint,
    awaited: Vec<Awaited>,
    until: Instant,
    mut on_success: impl FnMut(&Success),
) -> BTreeMap<NodeId, Failure> {
    let turns = Arc::new(Semaphore::new(DIALLED_MAX));
    let mut hosts = JoinSet::new();
    for host in awaited {
        let (enroller, endpoint, turns) =
            (Arc::clone(enroller), endpoint.clone(), Arc::clone(&turns));
        let name = host.host.clone();
        let enrol = async move { one(&enroller, &endpoint, &host, &turns, until).await };
        hosts.spawn(async move {
            let enrolled = contained(enrol).await.unwrap_or_else(|panicked| {
                let failure = Failure::of_panic(panicked, Some(name.clone()));
                failure.audit();
                Err(failure)
            });
            (name, enrolled)
        });
    }
    let mut left = BTreeMap::new();
    while let Some(ended) = hosts.join_next().await {
        match ended.expect("what may panic is contained") {
            (_, Ok(success)) => on_success(&success),
            (host, Err(failure)) => drop(left.insert(host, failure)),
        }
    }
    left
}

async fn one(
    enroller: &Arc<Enroller>,
    endpoint: &EnrollEndpoint,
    awaited: &Awaited,
    turns: &Semaphore,
    until: Instant,
) -> Result<Success, Failure> {
    let mut last = Failure {
        code: Reason::Unreachable,
        text: "its turn did not come in time".into(),
        host: Some(awaited.host.clone()),
        address: None,
    };
    let tries = async {
        loop {
            let turn = turns.acquire().await.expect("it is never closed");
            let failure = match once(enroller, endpoint, awaited).await {
                Ok(success) => return success,
                Err(failure) => failure,
            };
            drop(turn);
            let is_told = failure == last || failure.code == Reason::Unreachable;
            if failure.code == Reason::EnrollStranger && !is_told {
                failure.audit();
            }
            last = failure;
            sleep(AGAIN).await;
        }
    };
    match timeout_at(until, tries).await {
        Ok(success) => Ok(success),
        Err(_) => Err(last),
    }
}

/// At its addresses in turn, once; the failure is that of the last at which somebody was.
async fn once(
    enroller: &Arc<Enroller>,
    endpoint: &EnrollEndpoint,
    awaited: &Awaited,
) -> Result<Success, Failure> {
    let unreachable = |text: String| Failure {
        code: Reason::Unreachable,
        text,
        host: Some(awaited.host.clone()),
        address: None,
    };
    let addresses = resolve(&awaited.addresses).await;
    let addresses = addresses.map_err(|error| unreachable(scap_agent::error_chain(&error)))?;
    let mut last = unreachable("it has no address".into());
    for address in addresses {
        let failure = match endpoint.dial(address, awaited.pin).await {
            Ok(link) => {
                let only = Arc::new([awaited.host.clone()].into());
                match enroller.serve(link, Some(only)).await {
                    Ok(success) => return Ok(success),
                    Err(failure) => failure,
                }
            }
            Err(error) => Failure {
                host: Some(awaited.host.clone()),
                ..Failure::of_link(address, &error)
            },
        };
        if failure.code != Reason::Unreachable || last.code == Reason::Unreachable {
            last = failure;
        }
    }
    Err(last)
}
