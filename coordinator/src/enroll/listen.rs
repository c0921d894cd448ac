//! For hosts whose address nobody knows: listening, for a stated time, behind a gate.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use scap_proto::{id::NodeId, reason::Reason, transport::enroll::EnrollEndpoint, wire::close};
use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};

use super::{Enroller, Failure, Gate, Network, Success};
use crate::contained::contained;

/// How often it is said how many were sent away unheard, where there were any.
const SUMMARY: Duration = Duration::from_secs(10);

/// Answers whoever comes until `until`, or until all `awaited` hosts have come, where there is such a list; says each end to
/// `on_end`. Failures are in the log.
///
/// Cancel-safe: dropping it drops the links. Returns the hosts that came.
pub async fn listen(
    enroller: &Arc<Enroller>,
    endpoint: &EnrollEndpoint,
    awaited: Option<&BTreeSet<NodeId>>,
    until: Instant,
    mut on_end: impl FnMut(&Result<Success, Failure>),
) -> BTreeSet<NodeId> {
    let mut gate = Gate::new(Instant::now().into_std());
    let mut links: JoinSet<(Network, Result<Success, Failure>)> = JoinSet::new();
    let mut came = BTreeSet::new();
    let mut summary = interval(SUMMARY);
    summary.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let list = awaited.cloned().map(Arc::new);
    while !awaited.is_some_and(|awaited| awaited.is_subset(&came)) {
        tokio::select! {
            biased;
            () = sleep_until(until) => break,
            Some(ended) = links.join_next() => {
                let (network, ended) = ended.expect("what may panic is contained");
                gate.leave(network, ended.is_ok());
                if let Ok(success) = &ended {
                    came.insert(success.host.clone());
                }
                on_end(&ended);
            }
            _ = summary.tick() => tell_turned_away(gate.take_turned_away()),
            incoming = endpoint.accept() => {
                let Some(incoming) = incoming else { break };
                let address = incoming.remote_address();
                let Ok(network) = gate.admit(Instant::now().into_std(), address.ip()) else {
                    incoming.refuse();
                    continue;
                };
                let (enroller, list) = (Arc::clone(enroller), list.clone());
                let serve = async move {
                    match incoming.finish().await {
                        Ok(link) => enroller.serve(link, list).await,
                        Err(error) => {
                            let failure = Failure::of_link(address, &error);
                            failure.audit();
                            Err(failure)
                        }
                    }
                };
                links.spawn(async move {
                    let ended = contained(serve).await.unwrap_or_else(|panicked| {
                        let failure = Failure {
                            address: Some(address),
                            ..Failure::of_panic(panicked, None)
                        };
                        failure.audit();
                        Err(failure)
                    });
                    (network, ended)
                });
            }
        }
    }
    tell_turned_away(gate.take_turned_away());
    endpoint.close(close::DONE).await;
    came
}

fn tell_turned_away(count: u64) {
    if count > 0 {
        tracing::warn!(code = %Reason::EnrollLimited, count, "claims were sent away unheard");
    }
}
