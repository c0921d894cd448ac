//! Which host of the fleet file is meant by what people give to ssh.

use scap_proto::id::NodeId;

use super::{Host, Inventory};
use crate::ssh::Target;

/// Why a target is no host of the fleet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FindHostError {
    /// No host is called so, by name, `ssh` or address.
    #[error("the fleet file has no host {0}, by its name, its `ssh` or an address")]
    Nobody(Target),
    /// More than one is.
    #[error("the fleet file has more than one host {target}: {hosts:?}; say which by its name")]
    Many {
        /// What was looked for.
        target: Target,
        /// Who fits.
        hosts: Vec<NodeId>,
    },
}

impl Inventory {
    /// The host that `wanted` means, and where ssh goes to for it: the host of that name; else the one whose `ssh` says so; else the
    /// one that has an address there. ssh goes to the `ssh` of the fleet file, where that is said, else to what was asked for;
    /// as the user that was asked for, where one was.
    ///
    /// # Errors
    /// [`FindHostError`].
    pub fn find_for_ssh(&self, wanted: &Target) -> Result<(&Host, Target), FindHostError> {
        let is_named = |host: &&Host| host.name.as_str() == wanted.host;
        let is_reached = |host: &&Host| host.ssh.as_ref().is_some_and(|it| it.host == wanted.host);
        let is_there = |host: &&Host| {
            let mut addresses = host.addresses.iter();
            addresses.any(|address| host_part(address) == host_part_of_target(&wanted.host))
        };
        let found = [
            self.hosts.iter().filter(is_named).collect::<Vec<_>>(),
            self.hosts.iter().filter(is_reached).collect(),
            self.hosts.iter().filter(is_there).collect(),
        ];
        let found = found.into_iter().find(|found| !found.is_empty());
        let host = match found.as_deref() {
            None => return Err(FindHostError::Nobody(wanted.clone())),
            Some([host]) => *host,
            Some(hosts) => {
                return Err(FindHostError::Many {
                    target: wanted.clone(),
                    hosts: hosts.iter().map(|host| host.name.clone()).collect(),
                });
            }
        };
        let mut target = host.ssh.clone().unwrap_or_else(|| wanted.clone());
        if wanted.user.is_some() {
            target.user.clone_from(&wanted.user);
        }
        Ok((host, target))
    }
}

/// The host of `host:port`, without the brackets of IPv6.
fn host_part(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host_part_of_target(host)
}

fn host_part_of_target(host: &str) -> &str {
    let inner = host.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
    inner.unwrap_or(host)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::path::Path;

    use super::*;

    const FLEET: &str = r#"
        [[host]]
        name = "web1"
        address = ["web1.internal:7227", "[fd00::1]:7227"]
        ssh = "root@bastion-web1"
        environments = ["staging"]

        [[host]]
        name = "web2"
        address = "10.0.0.2:7227"

        [[host]]
        name = "web3"
        address = "10.0.0.2:7228"
    "#;

    fn find(text: &str) -> Result<(String, String), FindHostError> {
        let fleet = Inventory::parse(FLEET, Path::new("fleet.toml")).unwrap();
        let found = fleet.find_for_ssh(&text.parse().unwrap());
        found.map(|(host, target)| (host.name.to_string(), target.to_string()))
    }

    #[test]
    fn a_host_is_found_by_its_name_its_ssh_or_its_address_and_reached_as_the_file_says() {
        for (wanted, host, target) in [
            ("web1", "web1", "root@bastion-web1"),
            ("deploy@web1", "web1", "deploy@bastion-web1"),
            ("bastion-web1", "web1", "root@bastion-web1"),
            ("fd00::1", "web1", "root@bastion-web1"),
            ("root@web2", "web2", "root@web2"),
        ] {
            let expected = (host.to_owned(), target.to_owned());
            assert_eq!(find(wanted).unwrap(), expected, "{wanted}");
        }
    }

    #[test]
    fn what_fits_nobody_or_several_is_refused() {
        let nobody = find("web4").unwrap_err();
        assert!(matches!(nobody, FindHostError::Nobody(_)), "{nobody}");
        let many = find("10.0.0.2").unwrap_err().to_string();
        assert!(many.contains("web2") && many.contains("web3"), "{many}");
    }

    #[test]
    fn c12_an_ssh_of_the_fleet_file_that_could_be_an_option_is_refused() {
        let text = FLEET.replace("root@bastion-web1", "-oProxyCommand=id");
        let refused = Inventory::parse(&text, Path::new("fleet.toml"));
        assert!(refused.is_err());
    }
}
