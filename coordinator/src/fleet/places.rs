//! What is around each host of a deployment: who passes its orders on, and what it shares with others.

use std::collections::{BTreeMap, BTreeSet};

use scap_agent::relay::engine::{self, FANOUT};
use scap_proto::{id::NodeId, release::Branch};

use super::{
    Inventory,
    hub::{LINKS, arrange},
};
use crate::rollout::Surroundings;

/// Where each host is.
#[derive(Debug, Clone, Default)]
pub struct Places(BTreeMap<NodeId, Place>);

#[derive(Debug, Clone)]
struct Place {
    site: String,
    rack: String,
    upstreams: Vec<NodeId>,
}

impl Places {
    /// Of a fleet whose hub was started with the same `first`. Above a host in the open is who is to be there while all are reached:
    /// another takes the place of one that is lost.
    pub fn of(inventory: &Inventory, first: &[NodeId]) -> Self {
        let (_, arranged) = arrange(&inventory.hosts, first);
        let open = arranged.iter().take_while(|host| host.via.is_empty());
        let open: Vec<&NodeId> = open.map(|host| &host.name).collect();
        let mut above = BTreeMap::new();
        let end = u32::try_from(open.len()).expect("fleets are smaller");
        let all = Branch { first: 0, end };
        descend(all, LINKS, None, &open, &mut above);
        let place = |host: &super::Host| {
            let above = above.get(&host.name).cloned().flatten();
            let upstreams = match host.via.is_empty() {
                true => above.into_iter().collect(),
                false => host.via.iter().cloned().collect(),
            };
            let place = Place {
                site: host.site.clone(),
                rack: host.rack.clone(),
                upstreams,
            };
            (host.name.clone(), place)
        };
        Self(inventory.hosts.iter().map(place).collect())
    }

    /// What is around a host.
    pub fn around(&self, host: &NodeId) -> Surroundings {
        let Some(place) = self.0.get(host) else {
            return Surroundings::default();
        };
        let of = |is_there: &dyn Fn(&Place) -> bool| -> BTreeSet<NodeId> {
            let there = self.0.iter().filter(|(_, it)| is_there(it));
            there.map(|(name, _)| name.clone()).collect()
        };
        let (site, rack) = (&place.site, &place.rack);
        let mut places = Vec::new();
        if !rack.is_empty() {
            let all = of(&|it| it.rack == *rack && it.site == *site);
            places.push((format!("rack {rack}"), all));
        }
        if !site.is_empty() {
            places.push((format!("site {site}"), of(&|it| it.site == *site)));
        }
        Surroundings {
            upstreams: place.upstreams.clone(),
            places,
        }
    }
}

/// Who is above whom: of each part the first host, which splits the rest again.
fn descend(
    branch: Branch,
    parts: usize,
    above: Option<&NodeId>,
    names: &[&NodeId],
    found: &mut BTreeMap<NodeId, Option<NodeId>>,
) {
    if branch.first >= branch.end {
        return;
    }
    for part in engine::split(branch, parts) {
        let place = usize::try_from(part.first).expect("a roster fits memory");
        let head = names[place];
        found.insert(head.clone(), above.cloned());
        let rest = Branch {
            first: part.first + 1,
            ..part
        };
        descend(rest, FANOUT, Some(head), names, found);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_host_knows_who_is_above_it_and_what_it_shares_with_others() {
        let mut text = String::new();
        for number in 0..40 {
            let rack = if number % 2 == 0 { "even" } else { "odd" };
            text += &format!(
                "[[host]]\nname = 'h{number:02}'\naddress = '10.0.0.{number}:7227'\nsite = 'east'\nrack = '{rack}'\n"
            );
        }
        text += "[[host]]\nname = 'inner'\naddress = '10.1.0.1:7227'\nvia = ['h00', 'h01']\n";
        let fleet = Inventory::parse(&text, Path::new("fleet.toml")).unwrap();
        let places = Places::of(&fleet, &[]);
        let name = |text: &str| -> NodeId { text.parse().unwrap() };
        let linked = (0..40).map(|number| name(&format!("h{number:02}")));
        let linked = linked.filter(|host| places.around(host).upstreams.is_empty());
        assert_eq!(linked.count(), LINKS);
        for number in 0..40 {
            // From each there is a way up.
            let mut at = name(&format!("h{number:02}"));
            let mut levels = 0;
            while let Some(above) = places.around(&at).upstreams.first() {
                at = above.clone();
                levels += 1;
                assert!(levels < 4, "{at}");
            }
        }
        let inner = places.around(&name("inner"));
        assert_eq!(inner.upstreams, [name("h00"), name("h01")]);
        let around = places.around(&name("h03"));
        let shared: Vec<(&str, usize)> = around
            .places
            .iter()
            .map(|(name, all)| (name.as_str(), all.len()))
            .collect();
        assert_eq!(shared, [("rack odd", 20), ("site east", 40)]);
        assert_eq!(places.around(&name("z")), Surroundings::default());
    }
}
