//! Which hosts cannot be reached because those are lost that they stand behind. Sans-IO.

use std::collections::{BTreeMap, BTreeSet};

use scap_proto::{id::NodeId, release::report::bounded_reason};

use super::Inventory;

/// Who stands behind whom, and who is lost.
#[derive(Debug)]
pub struct Ways {
    /// By host that is not in the open, its relays.
    via: BTreeMap<NodeId, BTreeSet<NodeId>>,
    /// By relay, who stands behind it.
    behind: BTreeMap<NodeId, Vec<NodeId>>,
    /// Why each is lost that is.
    lost: BTreeMap<NodeId, String>,
}

impl Ways {
    /// Of a fleet of which nobody is known to be lost.
    pub fn new(inventory: &Inventory) -> Self {
        let hosts = inventory.hosts.iter().filter(|host| !host.via.is_empty());
        let via = hosts.map(|host| (host.name.clone(), host.via.clone()));
        let via: BTreeMap<NodeId, BTreeSet<NodeId>> = via.collect();
        let mut behind: BTreeMap<NodeId, Vec<NodeId>> = BTreeMap::new();
        for (host, relays) in &via {
            for relay in relays {
                behind.entry(relay.clone()).or_default().push(host.clone());
            }
        }
        Self {
            via,
            behind,
            lost: BTreeMap::new(),
        }
    }

    /// A host is said to be reached, or to be lost and why. Who is lost with it that was not before, and why: those of whose
    /// relays none is left, and those behind these.
    pub fn heard(&mut self, host: &NodeId, lost: Option<&str>) -> Vec<(NodeId, String)> {
        let Some(reason) = lost else {
            self.lost.remove(host);
            return Vec::new();
        };
        if self.lost.insert(host.clone(), reason.to_owned()).is_some() {
            return Vec::new();
        }
        let mut cut: Vec<(NodeId, String)> = Vec::new();
        let (mut relay, mut next) = (host.clone(), 0);
        loop {
            for host in self.behind.get(&relay).cloned().unwrap_or_default() {
                if self.lost.contains_key(&host) {
                    continue;
                }
                if let Some(reason) = self.cut_off(&host) {
                    self.lost.insert(host.clone(), reason.clone());
                    cut.push((host, reason));
                }
            }
            let Some((after, _)) = cut.get(next) else {
                return cut;
            };
            relay = after.clone();
            next += 1;
        }
    }

    /// Why a host cannot be reached whose relays are all lost; `None` where one is not, or it has none.
    fn cut_off(&self, host: &NodeId) -> Option<String> {
        let via = self.via.get(host)?;
        let lost: Option<Vec<String>> = via
            .iter()
            .map(|relay| Some(format!("{relay}: {}", self.lost.get(relay)?)))
            .collect();
        // Each hop names those of the hop before.
        Some(bounded_reason(format!(
            "not reached through {}",
            lost?.join("; nor through ")
        )))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn who_has_no_relay_left_is_lost_with_the_last_and_so_is_who_stands_behind_it() {
        let mut text = String::new();
        for (name, via) in [
            ("b1", "[]"),
            ("b2", "[]"),
            ("db1", "['b1', 'b2']"),
            ("db2", "['b1']"),
            ("inner", "['db1', 'db2']"),
            ("web", "[]"),
        ] {
            let via = if via == "[]" {
                String::new()
            } else {
                format!("via = {via}\n")
            };
            text += &format!("[[host]]\nname = '{name}'\naddress = 'h:1'\n{via}");
        }
        let mut ways = Ways::new(&Inventory::parse(&text, Path::new("fleet.toml")).unwrap());
        let name = |name: &str| -> NodeId { name.parse().unwrap() };
        assert_eq!(ways.heard(&name("web"), Some("dead")), []);
        let lost = ways.heard(&name("b1"), Some("silent"));
        let db2 = (name("db2"), "not reached through b1: silent".to_owned());
        assert_eq!(lost, std::slice::from_ref(&db2));
        let lost = ways.heard(&name("b2"), Some("no answer"));
        let both = "not reached through b1: silent; nor through b2: no answer";
        let inner = format!(
            "not reached through db1: {both}; nor through db2: {}",
            db2.1
        );
        assert_eq!(
            lost,
            [(name("db1"), both.to_owned()), (name("inner"), inner)]
        );
        let again = ways.heard(&name("b2"), Some("no answer"));
        assert_eq!(again, [], "who is lost already");
        for host in ["b1", "db1"] {
            assert_eq!(ways.heard(&name(host), None), []);
        }
        assert_eq!(ways.cut_off(&name("db1")), None);
    }
}
