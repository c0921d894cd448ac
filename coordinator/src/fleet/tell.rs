//! Telling all hosts which fleet trust counts, without a deployment, and hearing who holds to it.
//!
//! Nothing is sent for it but what links exchange anyway: hosts are reached by a control tree, and each link hands over what
//! the other side lacks. A host says in its signed reports what it holds to, at once when asked, and again when that changes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use scap_agent::node::Node;
use scap_proto::{
    id::NodeId,
    identity::{Identity, TrustMark},
    release::{Environment, RepoPath, TrustStanding},
};
use tokio::time::Instant;

use super::{
    Inventory, InventoryError,
    hub::{Hub, HubEvent},
};

/// How long is waited for hosts that are said not to be reached once all others said what they hold to: they are tried again
/// meanwhile, each second or so.
const AWAY_MAX: Duration = Duration::from_secs(3);

/// What is asked about: each host answers, also about a repo that it does not know.
const ABOUT: &str = "scap/trust";

/// What hosts said.
#[derive(Debug, Default)]
pub struct Told {
    /// Where each stands that answered; none of a build that does not say.
    pub standings: BTreeMap<NodeId, Option<TrustStanding>>,
    /// Who was not reached, and why.
    pub away: BTreeMap<NodeId, String>,
}

impl Told {
    /// Those that hold to `mark`, or to a later one.
    pub fn holders(&self, mark: TrustMark) -> BTreeSet<&NodeId> {
        let standings = self.standings.iter();
        let holding = standings.filter(|(_, standing)| {
            standing.is_some_and(|it| it.mark == mark || it.mark.number > mark.number)
        });
        holding.map(|(host, _)| host).collect()
    }

    fn hear(&mut self, event: HubEvent) {
        match event {
            HubEvent::Connected(_) => {}
            HubEvent::Away { host, reason } => {
                self.away.insert(host, reason);
            }
            HubEvent::Report(report) => {
                self.away.remove(&report.host);
                self.standings.insert(report.host.clone(), report.trust());
            }
        }
    }
}

/// Reaches all hosts of `inventory`, of which there is at least one, for at most `wait`, until each holds to what counts here
/// or is not reached.
pub async fn tell(
    node: &Node,
    identity: &Arc<Identity>,
    inventory: &Inventory,
    wait: Duration,
) -> Told {
    let repo: RepoPath = ABOUT.parse().expect("a plain path");
    let about = (repo, Environment::default());
    let mut hub = Hub::start(node, identity, inventory, &[], &about, None).await;
    let mut told = Told::default();
    let end = Instant::now() + wait;
    let mut grace: Option<Instant> = None;
    loop {
        let holders = told.holders(identity.trust().mark()).len();
        let older = told.standings.values().filter(|it| it.is_none()).count();
        let settled = holders + older;
        if settled == inventory.hosts.len() {
            break;
        }
        let is_settled = settled + told.away.len() >= inventory.hosts.len();
        grace = match (is_settled, grace) {
            (true, None) => Some(Instant::now() + AWAY_MAX),
            (true, grace) => grace,
            (false, _) => None,
        };
        let until = grace.map_or(end, |grace| grace.min(end));
        match tokio::time::timeout_at(until, hub.events.recv()).await {
            Ok(Some(event)) => told.hear(event),
            Ok(None) | Err(_) => break,
        }
    }
    for host in &inventory.hosts {
        if !told.standings.contains_key(&host.name) {
            let away = told.away.entry(host.name.clone());
            away.or_insert_with(|| host.silence(wait));
        }
    }
    told
}

/// The fleet without some of its hosts, and without those that can be reached through these alone, which are told too.
///
/// # Errors
/// [`InventoryError`], as when a fleet file is read.
pub fn without(
    fleet: Inventory,
    left_out: &BTreeSet<NodeId>,
) -> Result<(Option<Inventory>, BTreeSet<NodeId>), InventoryError> {
    let mut stays: BTreeMap<NodeId, usize> = BTreeMap::new();
    let mut behind = BTreeSet::new();
    for host in &fleet.hosts {
        if !left_out.contains(&host.name) {
            stays.insert(host.name.clone(), 0);
        }
    }
    loop {
        let cut: Vec<NodeId> = fleet
            .hosts
            .iter()
            .filter(|host| stays.contains_key(&host.name) && !host.via.is_empty())
            .filter(|host| !host.via.iter().any(|relay| stays.contains_key(relay)))
            .map(|host| host.name.clone())
            .collect();
        if cut.is_empty() {
            break;
        }
        for host in cut {
            stays.remove(&host);
            behind.insert(host);
        }
    }
    match stays.is_empty() {
        true => Ok((None, behind)),
        false => Ok((Some(fleet.only(&stays)?), behind)),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn who_stands_behind_those_that_are_left_out_alone_is_named_and_the_others_stay() {
        let host = |name: &str, via: &str| {
            let via = match via.is_empty() {
                true => String::new(),
                false => format!("via = [{via}]\n"),
            };
            format!("[[host]]\nname = '{name}'\naddress = 'h:1'\n{via}")
        };
        let text = [
            host("bastion1", ""),
            host("bastion2", ""),
            host("db1", "'bastion1'"),
            host("db2", "'bastion1', 'bastion2'"),
            host("deep1", "'db1'"),
        ];
        let fleet = || Inventory::parse(&text.concat(), Path::new("f")).unwrap();
        let left_out = |names: &[&str]| names.iter().map(|name| name.parse().unwrap()).collect();
        let (stays, behind) = without(fleet(), &left_out(&["bastion1"])).unwrap();
        let stays = stays.unwrap();
        let names: Vec<&str> = stays.hosts.iter().map(|it| it.name.as_str()).collect();
        assert_eq!(names, ["bastion2", "db2"]);
        assert_eq!(behind, left_out(&["db1", "deep1"]));
        let (nobody, behind) = without(fleet(), &left_out(&["bastion1", "bastion2"])).unwrap();
        assert!(nobody.is_none());
        assert_eq!(behind.len(), 3);
    }
}
