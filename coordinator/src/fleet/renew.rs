//! Renewing hosts' certificates while nothing is deployed: each host that can be dialled on a link for that, which also one
//! opens whose certificate has expired, and those that stand behind others over a control tree.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use scap_agent::{clock, error_chain, relay::resolve};
use scap_proto::{
    frame,
    id::NodeId,
    identity::{Identity, Life, Validity},
    reason::{Because, Reason},
    release::report::bounded_reason,
    transport::{BindError, DialError, Endpoint, Link, LinkSettings},
    wire::{
        Envelope, close,
        control::ControlMessage,
        renewal::{RenewalAnswer, RenewalRequest},
    },
};
use tokio::{
    task::JoinSet,
    time::{Instant, timeout},
};

use super::{
    Host, Inventory,
    hub::{Hub, HubEvent},
    renewals::{Certificates, Renewer, Which},
};
use crate::seed::Seed;

/// Most hosts that are dialled at a time.
const DIALLED_MAX: usize = 32;

/// How long a host may take to keep what it is sent and to answer: some writes to a slow disk.
const ANSWER_MAX: Duration = Duration::from_secs(15);

/// How long closed links may take to be told.
const CLOSE_MAX: Duration = Duration::from_secs(1);

/// How often hosts behind others are asked what certificate they have, while they have not shown the new one.
const ASK_PERIOD: Duration = Duration::from_millis(500);

/// What became of one host's certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Renewed {
    /// It is as it was, and nothing is to be done about it.
    Good(Validity),
    /// It is another one now, valid until then, in milliseconds since 1970.
    Until(u64),
    /// It is what it was, and why.
    Not(Because),
}

/// Renews the certificates of hosts that can be dialled, each of which may take `reach_max` to be reached.
///
/// # Errors
/// [`BindError`]. A host that is not renewed is none.
pub async fn renew_dialled(
    renewer: &Renewer,
    identity: Arc<Identity>,
    hosts: &[Host],
    reach_max: Duration,
) -> Result<BTreeMap<NodeId, Renewed>, BindError> {
    let endpoint = Endpoint::dial_only(identity, &LinkSettings::default())?;
    let mut renewing = JoinSet::new();
    let mut all = BTreeMap::new();
    for host in hosts {
        if renewing.len() == DIALLED_MAX {
            all.extend(renewing.join_next().await.map(ended));
        }
        let (host, endpoint, renewer) = (host.clone(), endpoint.clone(), renewer.clone());
        renewing.spawn(async move {
            let renewed = renew(&renewer, &endpoint, &host, reach_max).await;
            (host.name, renewed.unwrap_or_else(Renewed::Not))
        });
    }
    while let Some(one) = renewing.join_next().await {
        let (host, renewed) = ended(one);
        all.insert(host, renewed);
    }
    let _ = timeout(CLOSE_MAX, endpoint.wait_idle()).await;
    Ok(all)
}

fn ended<T>(one: Result<T, tokio::task::JoinError>) -> T {
    one.expect("renewing a host does not panic")
}

async fn renew(
    renewer: &Renewer,
    endpoint: &Endpoint,
    host: &Host,
    reach_max: Duration,
) -> Result<Renewed, Because> {
    let reaching = async {
        let addresses = resolve(&host.addresses).await.map_err(|error| {
            Reason::Unreachable.because(format!("look up its address: {error}"))
        })?;
        let dialled = endpoint.dial_to_renew(&addresses, host.name.clone()).await;
        dialled.map_err(|error| not_reached(&error))
    };
    let link = timeout(reach_max, reaching).await.map_err(|_| {
        Reason::Unreachable.because(format!("not reached within {} s", reach_max.as_secs()))
    })??;
    let renewed = on(renewer, &link, &host.name).await;
    link.close(close::DONE, "renewed");
    renewed
}

fn not_reached(error: &DialError) -> Because {
    match error.is_version() {
        true => Reason::Failed.because("its agent is of an older build, which cannot be renewed: enroll it again, or upgrade it while its certificate is valid"),
        false => error.code().because(error.to_string()),
    }
}

/// Renews a host at the other end of a link for that.
async fn on(renewer: &Renewer, link: &Link, host: &NodeId) -> Result<Renewed, Because> {
    let (Some(valid), Some(key)) = (link.peer_validity(), link.peer_key()) else {
        return Err(Reason::Failed.because("the link does not say whose it is"));
    };
    if !renewer.which.includes(valid, clock::now()) {
        return Ok(Renewed::Good(valid));
    }
    let (state, name) = (renewer.state.clone(), host.clone());
    let making = move || state.renew_host(&name, &key, valid, clock::now());
    let made = ended(tokio::task::spawn_blocking(making).await);
    let renewal = made.map_err(|error| error.code().because(error_chain(&error)))?;
    let lost = |error: &(dyn std::error::Error + 'static)| {
        Reason::Unreachable.because(format!("the link ended: {}", error_chain(error)))
    };
    let asking = async {
        let (mut send, mut receive) = link.open_bi().await.map_err(|error| lost(&error))?;
        let request = Envelope::from(RenewalRequest::Install(Box::new(renewal)));
        let asked = frame::write_message(&mut send, &request).await;
        asked.map_err(|error| lost(&error))?;
        let _ = send.finish();
        let answer: Result<Option<Envelope<RenewalAnswer>>, _> =
            frame::read_message(&mut receive).await;
        answer.map_err(|error| lost(&error))
    };
    let answer = timeout(ANSWER_MAX, asking).await.map_err(|_| {
        Reason::Unreachable.because(format!("no answer within {} s", ANSWER_MAX.as_secs()))
    })??;
    match answer.map(|answer| answer.message) {
        Some(RenewalAnswer::Installed { until_unix_ms }) => Ok(Renewed::Until(until_unix_ms)),
        Some(RenewalAnswer::Refused(reason)) => {
            Err(Reason::Refused.because(bounded_reason(reason)))
        }
        Some(RenewalAnswer::Failed(reason)) => Err(Reason::Failed.because(bounded_reason(reason))),
        None => Err(Reason::Failed.because("it ended the link without an answer")),
    }
}

/// Renews the certificates of hosts that stand behind others: over a control tree to these and to those before them, which all
/// report. What is due among the latter is renewed on the way.
pub async fn renew_behind(
    renewer: &Renewer,
    identity: &Arc<Identity>,
    seed: &Seed,
    inventory: &Inventory,
    hosts: &BTreeSet<NodeId>,
    wait: Duration,
) -> BTreeMap<NodeId, Renewed> {
    let repo = ASKED_ABOUT.parse().expect("it is the path of a repo");
    let about = (repo, Default::default());
    let certificates = Certificates::default();
    let mut hub = Hub::start(
        seed.node(),
        identity,
        inventory,
        &[],
        &about,
        Some((renewer.clone(), certificates.clone())),
    )
    .await;
    let deadline = Instant::now() + wait;
    let mut first: BTreeMap<NodeId, Validity> = BTreeMap::new();
    let mut away: BTreeMap<NodeId, String> = BTreeMap::new();
    let mut all = BTreeMap::new();
    let mut again = tokio::time::interval(ASK_PERIOD);
    while all.len() < hosts.len() {
        tokio::select! {
            () = tokio::time::sleep_until(deadline) => break,
            _ = again.tick() => {
                let (repo, environment) = about.clone();
                hub.send(ControlMessage::Ask { repo, environment });
            }
            event = hub.events.recv() => match event {
                Some(HubEvent::Away { host, reason }) => drop(away.insert(host, reason)),
                Some(_) => {}
                None => break,
            },
        }
        for host in hosts {
            let Some(known) = certificates.of(host) else {
                continue;
            };
            let before = *first.entry(host.clone()).or_insert(known.valid);
            let is_good = known.valid.life(clock::now().0) == Life::Good;
            let renewed = if known.valid != before {
                Renewed::Until(known.valid.not_after_unix_ms)
            } else if let Some(problem) = known.problem {
                Renewed::Not(problem)
            } else if is_good && renewer.which != Which::All {
                Renewed::Good(known.valid)
            } else {
                continue;
            };
            all.insert(host.clone(), renewed);
        }
    }
    for host in hosts {
        all.entry(host.clone()).or_insert_with(|| {
            Renewed::Not(match (certificates.of(host), away.get(host)) {
                (Some(known), _) => known.why_not(),
                (None, Some(reason)) => Reason::Unreachable.because(reason.clone()),
                (None, None) => {
                    Reason::Unreachable.because(format!("no answer within {} s", wait.as_secs()))
                }
            })
        });
    }
    all
}

/// What hosts are asked about, for their certificates: a repo that need not be there.
const ASKED_ABOUT: &str = "scap/renewal";
