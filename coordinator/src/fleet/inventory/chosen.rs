//! A part of a fleet, for a deployment that is not to all of it.

use std::collections::BTreeMap;

use scap_proto::id::NodeId;

use super::{Inventory, InventoryError, find_routes};

impl Inventory {
    /// The same fleet with none but the hosts of `waves`, which tells of each the number of its wave, from 0.
    ///
    /// # Errors
    /// [`InventoryError::RelayLeftOut`] and [`InventoryError::RelayLater`] where a host could get nothing; others as when a
    /// fleet file is read.
    ///
    /// # Panics
    /// Where none of the hosts is in the fleet.
    pub fn only(self, waves: &BTreeMap<NodeId, usize>) -> Result<Self, InventoryError> {
        let Self {
            mut hosts,
            seed_rate_mbit,
            seed_site,
            mut sites,
            rollout,
            ..
        } = self;
        hosts.retain(|host| waves.contains_key(&host.name));
        assert!(!hosts.is_empty(), "a deployment to nobody");
        for host in &mut hosts {
            let wave = waves[&host.name];
            let has_relays = !host.via.is_empty();
            host.via.retain(|relay| waves.contains_key(relay));
            if has_relays && host.via.is_empty() {
                return Err(InventoryError::RelayLeftOut(host.name.clone()));
            }
            if has_relays && host.via.iter().all(|relay| waves[relay] > wave) {
                return Err(InventoryError::RelayLater(host.name.clone()));
            }
        }
        sites.retain(|name, _| *name == seed_site || hosts.iter().any(|host| host.site == *name));
        Ok(Self {
            routes: find_routes(&hosts)?,
            hosts,
            seed_rate_mbit,
            seed_site,
            sites,
            rollout,
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::path::Path;

    use super::*;

    fn fleet() -> Inventory {
        let host = |name: &str, rest: &str| {
            format!("[[host]]\nname = '{name}'\naddress = 'h:1'\n{rest}\n")
        };
        let text = [
            host("bastion1", "site = 'x'"),
            host("bastion2", "groups = ['canary']"),
            host("db1", "via = ['bastion1', 'bastion2']"),
            host("web1", "groups = ['canary']"),
            "[[site]]\nname = 'x'\nborder_mbit = 1\n".to_owned(),
        ];
        Inventory::parse(&text.concat(), Path::new("f")).unwrap()
    }

    fn only(waves: &[(&str, usize)]) -> Result<Inventory, InventoryError> {
        let waves = waves
            .iter()
            .map(|(name, wave)| (name.parse().unwrap(), *wave));
        fleet().only(&waves.collect())
    }

    #[test]
    fn a_part_of_a_fleet_keeps_what_joins_its_hosts() {
        let part = only(&[("bastion2", 1), ("db1", 1), ("web1", 0)]).unwrap();
        let names = part.hosts.iter().map(|host| host.name.as_str());
        assert!(names.eq(["bastion2", "db1", "web1"]));
        // The relay that is left, by its place.
        assert_eq!(part.routes().relays(1), [0]);
        assert_eq!(part.site("x").border_mbit, None);
        let one = only(&[("web1", 0), ("bastion1", 0)]).unwrap();
        assert_eq!(one.site("x").border_mbit, Some(1.0));
    }

    #[test]
    fn a_host_needs_a_relay_that_is_deployed_to_no_later() {
        let left_out = only(&[("db1", 0), ("web1", 0)]).unwrap_err().to_string();
        assert!(
            left_out.starts_with("host db1 stands behind others, and none of these"),
            "{left_out}"
        );
        let later = only(&[("db1", 0), ("bastion1", 1)])
            .unwrap_err()
            .to_string();
        assert!(
            later.starts_with("host db1 is deployed to before"),
            "{later}"
        );
    }
}
