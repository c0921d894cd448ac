//! The fleet file: which hosts there are and where.

mod chosen;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use scap_proto::{
    id::NodeId,
    limits::{
        EXTENSION_BYTES_MAX, HOST_ADDRESSES_MAX, HOST_RELAYS_MAX, MEMBERSHIP_NAMES_MAX,
        RELAYED_LISTS_MAX,
    },
    release::{Environment, Routes, RoutesError},
};
use serde::Deserialize;

use crate::{
    rollout::{PolicyError, Table},
    ssh::Target,
};

/// The group whose hosts go first, and whose failure stops a rollout.
pub const CANARY_GROUP: &str = "canary";

/// Longest name of a site, in bytes. Each host in a plan carries one.
pub const SITE_BYTES_MAX: usize = 64;

/// Longest delay of a site, in milliseconds: ten times that of a satellite.
const DELAY_MS_MAX: f64 = 5000.0;

/// A checked fleet file.
#[derive(Debug, Clone, PartialEq)]
pub struct Inventory {
    /// The hosts, sorted by name, at least one.
    pub hosts: Vec<Host>,
    /// The seed's uplink, where the file says it, in Mbit/s.
    pub seed_rate_mbit: Option<f64>,
    /// How a release goes through the fleet; [`Table::policy`] of it and [`Self::hosts`] is one.
    pub rollout: Table,
    /// The seed's site; empty where the file does not say it.
    seed_site: String,
    /// What the file says of sites, by name.
    sites: BTreeMap<String, Site>,
    routes: Routes,
}

/// What joins a site to the others.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Site {
    /// What its border carries each way, where the file says it, in Mbit/s.
    pub border_mbit: Option<f64>,
    /// From the site to the middle of all, one way, where the file says it, in milliseconds.
    pub delay_ms: Option<f64>,
}

/// One host.
#[derive(Debug, Clone, PartialEq)]
pub struct Host {
    /// Its name, which its certificate must say.
    pub name: NodeId,
    /// Where the coordinator dials it, in this order: `host:port` each.
    pub addresses: Vec<String>,
    /// Where its peers dial it; as the coordinator, unless said.
    pub peer_addresses: Vec<String>,
    /// The groups that it is in.
    pub groups: BTreeSet<String>,
    /// Its bandwidth domain.
    pub site: String,
    /// Its failure domain.
    pub rack: String,
    /// The hosts that it stands behind: only these, and others that stand behind the same ones, reach it. None where it
    /// is in the open.
    pub via: BTreeSet<NodeId>,
    /// The rate of its link each way, where the file says it, in Mbit/s.
    pub rate_mbit: Option<f64>,
    /// Where ssh goes to, to enrol it, where the file says it.
    pub ssh: Option<Target>,
    /// The environments that it is enrolled for, at most [`MEMBERSHIP_NAMES_MAX`]; none where the file does not say it.
    pub environments: Vec<Environment>,
}

/// Why a fleet file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InventoryError {
    /// It cannot be read.
    #[error("read the fleet file {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It says something else than it can.
    #[error("parse the fleet file {path}")]
    Parse {
        /// Which.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// No hosts.
    #[error("the fleet file {0} names no host")]
    Empty(PathBuf),
    /// One name twice.
    #[error("the fleet file names host {0} twice")]
    Twice(NodeId),
    /// An address that is none.
    #[error("host {host}: `{address}` is not an address like `10.0.0.2:7227`")]
    Address {
        /// Whose.
        host: NodeId,
        /// Which.
        address: String,
    },
    /// Too many addresses, or none.
    #[error("host {0}: 1 to {HOST_ADDRESSES_MAX} addresses are allowed")]
    AddressCount(NodeId),
    /// A relay that is not in the file.
    #[error("host {host}: `via` names {relay}, which the fleet file does not")]
    UnknownRelay {
        /// Who stands behind it.
        host: NodeId,
        /// Which.
        relay: NodeId,
    },
    /// An empty list of relays, or a long one.
    #[error("host {0}: `via` names 1 to {HOST_RELAYS_MAX} hosts, or is left out")]
    RelayCount(NodeId),
    /// More environments than a host may be in.
    #[error("host {0}: at most {MEMBERSHIP_NAMES_MAX} environments are allowed")]
    EnvironmentCount(NodeId),
    /// A host that could be reached only through itself.
    #[error("host {0} stands behind itself: its `via` leads back to it")]
    RelayCycle(NodeId),
    /// A relay with too much behind it.
    #[error(
        "host {0} is in more than {RELAYED_LISTS_MAX} different `via`: let hosts behind it name the same ones"
    )]
    RelayLists(NodeId),
    /// A canary whose relays would have nothing to pass on yet.
    #[error(
        "host {0} is in group {CANARY_GROUP}, and none of its `via` is: it would have nobody to fetch from"
    )]
    CanaryRelay(NodeId),
    /// A host whose relays are not deployed to.
    #[error(
        "host {0} stands behind others, and none of these is deployed to: it would have nobody to fetch from"
    )]
    RelayLeftOut(NodeId),
    /// A host whose relays are in later waves.
    #[error(
        "host {0} is deployed to before all that it stands behind: it would have nobody to fetch from"
    )]
    RelayLater(NodeId),
    /// More than a plan holds.
    #[error(
        "the hosts that stand behind others are too scattered among the names: a plan has {EXTENSION_BYTES_MAX} bytes for them"
    )]
    Scattered,
    /// A site whose name is too long, or does something to a terminal.
    #[error(
        "the site of {0}: a name of at most {SITE_BYTES_MAX} bytes without control characters is allowed"
    )]
    Site(String),
    /// A rate that is none.
    #[error("`rate_mbit` of {0} must be above 0")]
    Rate(String),
    /// A border's rate that is none.
    #[error("site {0:?}: `border_mbit` must be above 0")]
    Border(String),
    /// A delay that is none.
    #[error("site {0:?}: `delay_ms` must be from 0 to {DELAY_MS_MAX}")]
    Delay(String),
    /// A site in which nobody is.
    #[error("site {0:?}: no host is in it, nor is the seed")]
    UnknownSite(String),
    /// One site twice.
    #[error("the fleet file names site {0:?} twice")]
    SiteTwice(String),
    /// A rollout that the hosts cannot go through.
    #[error(transparent)]
    Rollout(#[from] PolicyError),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default, rename = "host")]
    hosts: Vec<FileHost>,
    seed: Option<FileSeed>,
    #[serde(default, rename = "site")]
    sites: Vec<FileSite>,
    #[serde(default)]
    rollout: Table,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileSite {
    name: String,
    border_mbit: Option<f64>,
    delay_ms: Option<f64>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileSeed {
    rate_mbit: Option<f64>,
    #[serde(default)]
    site: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileHost {
    name: NodeId,
    address: OneOrMany<String>,
    peer_address: Option<OneOrMany<String>>,
    #[serde(default)]
    groups: BTreeSet<String>,
    #[serde(default)]
    site: String,
    #[serde(default)]
    rack: String,
    via: Option<OneOrMany<NodeId>>,
    rate_mbit: Option<f64>,
    ssh: Option<Target>,
    #[serde(default)]
    environments: Vec<Environment>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

impl<T> From<OneOrMany<T>> for Vec<T> {
    fn from(value: OneOrMany<T>) -> Self {
        match value {
            OneOrMany::One(one) => vec![one],
            OneOrMany::Many(many) => many,
        }
    }
}

impl Inventory {
    /// Reads a fleet file.
    ///
    /// # Errors
    /// [`InventoryError`].
    pub fn read(path: &Path) -> Result<Self, InventoryError> {
        let text = std::fs::read_to_string(path).map_err(|source| InventoryError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text, path)
    }

    /// Parses the text of a fleet file; `path` is for messages.
    ///
    /// # Errors
    /// [`InventoryError`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, InventoryError> {
        let file: File = toml::from_str(text).map_err(|error| InventoryError::Parse {
            path: path.to_owned(),
            source: error.into(),
        })?;
        let mut hosts = file
            .hosts
            .into_iter()
            .map(Host::check)
            .collect::<Result<Vec<_>, _>>()?;
        hosts.sort_by(|a, b| a.name.cmp(&b.name));
        if hosts.is_empty() {
            return Err(InventoryError::Empty(path.to_owned()));
        }
        if let Some(pair) = hosts.windows(2).find(|pair| pair[0].name == pair[1].name) {
            return Err(InventoryError::Twice(pair[0].name.clone()));
        }
        let seed = file.seed.unwrap_or_default();
        let (seed_rate_mbit, seed_site) = (seed.rate_mbit, seed.site);
        check_rate(seed_rate_mbit, "the seed")?;
        check_site(&seed_site, "the seed")?;
        let routes = find_routes(&hosts)?;
        file.rollout.policy(&hosts)?;
        let mut inventory = Self {
            hosts,
            seed_rate_mbit,
            rollout: file.rollout,
            seed_site,
            sites: BTreeMap::new(),
            routes,
        };
        inventory.add_sites(file.sites)?;
        Ok(inventory)
    }

    fn add_sites(&mut self, sites: Vec<FileSite>) -> Result<(), InventoryError> {
        for FileSite {
            name,
            border_mbit,
            delay_ms,
        } in sites
        {
            if !is_rate(border_mbit) {
                return Err(InventoryError::Border(name));
            }
            if delay_ms.is_some_and(|delay| !(0.0..=DELAY_MS_MAX).contains(&delay)) {
                return Err(InventoryError::Delay(name));
            }
            let site = Site {
                border_mbit,
                delay_ms,
            };
            if self.sites.insert(name.clone(), site).is_some() {
                return Err(InventoryError::SiteTwice(name));
            }
        }
        Ok(())
    }

    /// That somebody is in each site that the file says something of, once it is known where all hosts stand.
    ///
    /// # Errors
    /// [`InventoryError::UnknownSite`].
    pub fn check_sites(&self) -> Result<(), InventoryError> {
        let seed = self.seed_site();
        let is_empty = |site: &&String| {
            seed != Some(site) && self.hosts.iter().all(|host| host.site != **site)
        };
        match self.sites.keys().find(is_empty) {
            Some(site) => Err(InventoryError::UnknownSite(site.clone())),
            None => Ok(()),
        }
    }

    /// Which hosts stand behind others, by their places in [`Self::hosts`].
    pub fn routes(&self) -> &Routes {
        &self.routes
    }

    /// What the file says of a site.
    pub fn site(&self, name: &str) -> Site {
        self.sites.get(name).copied().unwrap_or_default()
    }

    /// The seed's site, where there is more than one: only then do sites make a difference. A seed whose site is not said
    /// is with the hosts, if they are all in one, and else with those whose site is not said, or alone.
    pub fn seed_site(&self) -> Option<&str> {
        let mut sites: BTreeSet<&str> = self.hosts.iter().map(|host| host.site.as_str()).collect();
        if !self.seed_site.is_empty() {
            sites.insert(&self.seed_site);
        }
        (sites.len() > 1).then_some(&self.seed_site)
    }

    /// The hosts of the canary group, and the others.
    pub fn waves(&self) -> (BTreeSet<NodeId>, BTreeSet<NodeId>) {
        let is_canary = |host: &&Host| host.groups.contains(CANARY_GROUP);
        let (canary, rest): (Vec<&Host>, Vec<&Host>) = self.hosts.iter().partition(is_canary);
        let names = |hosts: Vec<&Host>| hosts.iter().map(|host| host.name.clone()).collect();
        (names(canary), names(rest))
    }

    /// The least time in which `bytes` can reach every host, in seconds, where all links' rates are known:
    /// `max(F/u_s, F/d_min, N·F/(u_s + Σu_i))` (Mundinger, Weber and Weiss, "Optimal scheduling of
    /// peer-to-peer file dissemination", 2008); and where there are several sites `F/b` for each border, as each carries
    /// one copy at least. A border whose rate is not known limits nothing.
    #[expect(clippy::cast_precision_loss, reason = "a bound to a few digits")]
    pub fn bound_seconds(&self, bytes: u64) -> Option<f64> {
        let per_second = |mbit: f64| mbit * 1e6 / 8.0;
        let seed = per_second(self.seed_rate_mbit?);
        let rates: Option<Vec<f64>> = self
            .hosts
            .iter()
            .map(|host| host.rate_mbit.map(per_second))
            .collect();
        let rates = rates?;
        let slowest = rates.iter().copied().fold(f64::INFINITY, f64::min);
        let all: f64 = seed + rates.iter().sum::<f64>();
        let bytes = bytes as f64;
        let spread = rates.len() as f64 * bytes / all;
        let borders = self.sites.values().filter_map(|site| site.border_mbit);
        let borders = borders.filter(|_| self.seed_site().is_some());
        let narrowest = borders.map(per_second).fold(f64::INFINITY, f64::min);
        let least = (bytes / seed).max(bytes / slowest).max(spread);
        Some(least.max(bytes / narrowest))
    }
}

impl Host {
    /// Why a host that said nothing for so long counts as away, in a line: with the ports that nothing came from, where the
    /// coordinator dials any.
    pub(crate) fn silence(&self, waited: Duration) -> String {
        let silent = format!("no answer in {} s", waited.as_secs());
        match self.via.is_empty() {
            true => format!("{silent} at UDP {}", self.addresses.join(", ")),
            false => silent,
        }
    }

    fn check(file: FileHost) -> Result<Self, InventoryError> {
        let FileHost {
            name,
            address,
            peer_address,
            groups,
            site,
            rack,
            via,
            rate_mbit,
            ssh,
            environments,
        } = file;
        let via: Option<Vec<NodeId>> = via.map(Vec::from);
        if via
            .as_ref()
            .is_some_and(|via| via.is_empty() || via.len() > HOST_RELAYS_MAX)
        {
            return Err(InventoryError::RelayCount(name));
        }
        if environments.len() > MEMBERSHIP_NAMES_MAX {
            return Err(InventoryError::EnvironmentCount(name));
        }
        check_rate(rate_mbit, name.as_str())?;
        check_site(&site, name.as_str())?;
        let addresses: Vec<String> = address.into();
        let peer_addresses = peer_address.map_or_else(|| addresses.clone(), Vec::from);
        for list in [&addresses, &peer_addresses] {
            if list.is_empty() || list.len() > HOST_ADDRESSES_MAX {
                return Err(InventoryError::AddressCount(name));
            }
            if let Some(bad) = list.iter().find(|address| !is_address(address)) {
                return Err(InventoryError::Address {
                    host: name,
                    address: bad.clone(),
                });
            }
        }
        Ok(Self {
            name,
            addresses,
            peer_addresses,
            groups,
            site,
            rack,
            via: via.into_iter().flatten().collect(),
            rate_mbit,
            ssh,
            environments,
        })
    }
}

/// Checks who stands behind whom.
fn find_routes(hosts: &[Host]) -> Result<Routes, InventoryError> {
    let place = |name: &NodeId| hosts.binary_search_by(|host| host.name.cmp(name)).ok();
    let is_canary = |host: &Host| host.groups.contains(CANARY_GROUP);
    let mut relays = Vec::new();
    let mut lists: BTreeMap<&NodeId, BTreeSet<&BTreeSet<NodeId>>> = BTreeMap::new();
    for host in hosts {
        let mut places = Vec::new();
        for relay in &host.via {
            let at = place(relay).ok_or_else(|| InventoryError::UnknownRelay {
                host: host.name.clone(),
                relay: relay.clone(),
            })?;
            places.push(at);
            lists.entry(relay).or_default().insert(&host.via);
        }
        let has_canary = places.iter().any(|&at| is_canary(&hosts[at]));
        if is_canary(host) && !host.via.is_empty() && !has_canary {
            return Err(InventoryError::CanaryRelay(host.name.clone()));
        }
        let small = |at: usize| u32::try_from(at).expect("fleets are smaller");
        relays.push(places.into_iter().map(small).collect());
    }
    if let Some((relay, _)) = lists
        .iter()
        .find(|(_, lists)| lists.len() > RELAYED_LISTS_MAX)
    {
        return Err(InventoryError::RelayLists((*relay).clone()));
    }
    let routes = Routes::new(relays).map_err(|error| {
        let RoutesError::Cycle(host) = error else {
            unreachable!("all else was checked: {error}");
        };
        let host = usize::try_from(host).expect("it is a place");
        InventoryError::RelayCycle(hosts[host].name.clone())
    })?;
    match routes.fit_a_plan() {
        true => Ok(routes),
        false => Err(InventoryError::Scattered),
    }
}

fn check_rate(rate: Option<f64>, of: &str) -> Result<(), InventoryError> {
    if is_rate(rate) {
        Ok(())
    } else {
        Err(InventoryError::Rate(of.into()))
    }
}

/// Whether it can be the rate of something, if it is said.
fn is_rate(rate: Option<f64>) -> bool {
    rate.is_none_or(|rate| rate.is_finite() && rate > 0.0)
}

fn check_site(site: &str, of: &str) -> Result<(), InventoryError> {
    if site.len() > SITE_BYTES_MAX || site.chars().any(char::is_control) {
        return Err(InventoryError::Site(of.into()));
    }
    Ok(())
}

fn is_address(text: &str) -> bool {
    text.parse::<SocketAddr>().is_ok()
        || text.rsplit_once(':').is_some_and(|(host, port)| {
            scap_proto::id::is_plain_name(host, NodeId::BYTES_MAX) && port.parse::<u16>().is_ok()
        })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Inventory, InventoryError> {
        Inventory::parse(text, Path::new("fleet.toml"))
    }

    #[test]
    fn hosts_are_sorted_and_canaries_go_first() {
        let inventory = parse(
            "[[host]]\nname = 'b'\naddress = '10.0.0.2:7227'\n\
             [[host]]\nname = 'a'\naddress = ['10.0.0.1:7227', 'a.example:1']\ngroups = ['canary']\n",
        )
        .unwrap();
        assert_eq!(inventory.hosts[0].addresses.len(), 2);
        let (canary, rest) = inventory.waves();
        assert!(canary.contains(&"a".parse().unwrap()) && rest.contains(&"b".parse().unwrap()));
    }

    #[test]
    fn sites_count_where_there_is_more_than_one() {
        let fleet = |seed: &str, sites: &[&str]| {
            let mut text = format!("[seed]\nsite = '{seed}'\n");
            for (i, site) in sites.iter().enumerate() {
                text += &format!("[[host]]\nname = 'h{i}'\naddress = 'h:1'\nsite = '{site}'\n");
            }
            parse(&text).unwrap().seed_site().map(str::to_owned)
        };
        assert_eq!(fleet("", &["", ""]), None);
        assert_eq!(fleet("", &["east", "east"]), None);
        assert_eq!(fleet("east", &["east"]), None);
        assert_eq!(fleet("west", &["east"]).as_deref(), Some("west"));
        assert_eq!(fleet("", &["east", "west"]).as_deref(), Some(""));
        assert_eq!(fleet("east", &["east", "west"]).as_deref(), Some("east"));
    }

    #[test]
    fn a_site_may_say_its_border_and_its_delay() {
        let inventory = parse(
            "seed = { site = 'west' }\n\
             [[host]]\nname = 'a'\naddress = 'a:1'\nsite = 'east'\n\
             [[site]]\nname = 'east'\nborder_mbit = 100\ndelay_ms = 2.5\n\
             [[site]]\nname = 'west'\n",
        )
        .unwrap();
        let (border_mbit, delay_ms) = (Some(100.0), Some(2.5));
        let east = Site {
            border_mbit,
            delay_ms,
        };
        assert_eq!(inventory.site("east"), east);
        assert_eq!(inventory.site("west"), Site::default());
        assert_eq!(inventory.site("elsewhere"), Site::default());
    }

    #[test]
    fn what_is_wrong_is_said_with_its_host() {
        let host = |rest: &str| parse(&format!("[[host]]\nname = 'a'\naddress = {rest}\n"));
        for (text, says) in [
            (host("'nonsense'"), "not an address"),
            (host("[]"), "1 to 8 addresses"),
            (
                host("'a:1'\nvia = 'b'"),
                "host a: `via` names b, which the fleet file does not",
            ),
            (host("'a:1'\nvia = 'a'"), "host a stands behind itself"),
            (host("'a:1'\nvia = []"), "host a: `via` names 1 to 8 hosts"),
            (
                host(
                    "'a:1'\nvia = ['b', 'c']\n[[host]]\nname = 'b'\naddress = 'b:1'\nvia = 'a'\n\
                     [[host]]\nname = 'c'\naddress = 'c:1'",
                ),
                "stands behind itself",
            ),
            (
                host(
                    "'a:1'\nvia = 'b'\ngroups = ['canary']\n[[host]]\nname = 'b'\naddress = 'b:1'",
                ),
                "host a is in group canary, and none of its `via` is",
            ),
            (host("'a:1'\nrate_mbit = 0"), "above 0"),
            (
                host(&format!("'a:1'\nsite = '{}'", "x".repeat(65))),
                "site of a",
            ),
            (
                host("'a:1'\nsite = \"x\\u001b[2J\""),
                "site of a: a name of at most 64 bytes without control characters",
            ),
            (parse(""), "names no host"),
            (
                parse("[[host]]\nname = '-x'\naddress = 'a:1'"),
                "parse the fleet file",
            ),
            (
                host("'a:1'\n[[host]]\nname = 'a'\naddress = 'b:1'"),
                "twice",
            ),
            (host("'a:1'\nadress = 'x'"), "parse the fleet file"),
            (
                host("'a:1'\nsite = 'x'\n[[site]]\nname = 'y'")
                    .and_then(|fleet| fleet.check_sites().map(|()| fleet)),
                "site \"y\": no host",
            ),
            (host("'a:1'\n[[site]]\nborder_mbit = 1"), "parse the"),
            (
                host("'a:1'\nsite = 'x'\n[[site]]\nname = 'x'\nborder_mbit = 0"),
                "site \"x\": `border_mbit` must be above 0",
            ),
            (
                host("'a:1'\nsite = 'x'\n[[site]]\nname = 'x'\ndelay_ms = -1"),
                "site \"x\": `delay_ms` must be from 0 to 5000",
            ),
            (
                host("'a:1'\nsite = 'x'\n[[site]]\nname = 'x'\n[[site]]\nname = 'x'"),
                "site \"x\" twice",
            ),
        ] {
            let error = text.unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn hosts_may_stand_behind_others_over_any_number_of_hops() {
        let host = |name: &str, rest: &str| {
            format!("[[host]]\nname = '{name}'\naddress = 'h:1'\n{rest}\n")
        };
        let text = [
            host("bastion1", "groups = ['canary']"),
            host("bastion2", ""),
            host("db1", "via = ['bastion2', 'bastion1']\ngroups = ['canary']"),
            host("db2", "via = ['bastion1', 'bastion2']"),
            host("vault", "via = 'db2'"),
        ];
        let inventory = parse(&text.concat()).unwrap();
        let routes = inventory.routes();
        assert_eq!(
            (routes.relays(2), routes.relays(3)),
            (&[0, 1][..], &[0, 1][..])
        );
        assert_eq!(routes.relays(4), [3]);
        let lists = |count: usize| {
            let mut text = host("hub", "") + &host("zz", "via = 'hub'");
            for number in 1..count {
                text += &host(&format!("x{number}"), "");
                text += &host(
                    &format!("y{number}"),
                    &format!("via = ['hub', 'x{number}']"),
                );
            }
            parse(&text)
        };
        assert!(lists(32).is_ok());
        let refused = lists(33).unwrap_err().to_string();
        assert!(
            refused.starts_with("host hub is in more than 32 different `via`"),
            "{refused}"
        );
        // Each name beside one that stands elsewhere, and more of them than a plan holds.
        let scattered = |count: usize| {
            let hosts =
                (0..count).map(|at| host(&format!("h{at:05}"), ["", "via = 'hub'"][at % 2]));
            parse(&(hosts.collect::<String>() + &host("hub", "")))
        };
        assert!(scattered(2000).is_ok());
        assert!(matches!(scattered(2100), Err(InventoryError::Scattered)));
    }

    #[test]
    fn the_bound_is_the_tightest_of_three() {
        let fleet = |seed: f64, hosts: &[f64]| {
            let mut text = format!("[seed]\nrate_mbit = {seed:.1}\n");
            for (i, rate) in hosts.iter().enumerate() {
                text +=
                    &format!("[[host]]\nname = 'h{i}'\naddress = 'h:1'\nrate_mbit = {rate:.1}\n");
            }
            parse(&text).unwrap().bound_seconds(12_500_000).unwrap()
        };
        assert!((fleet(100.0, &[100.0; 16]) - 1.0).abs() < 1e-9);
        assert!((fleet(10.0, &[100.0; 16]) - 10.0).abs() < 1e-9);
        assert!((fleet(100.0, &[1.0, 100.0]) - 100.0).abs() < 1e-9);
        assert!((fleet(100.0, &[100.0]) - 1.0).abs() < 1e-9);
    }
    #[test]
    fn a_border_bounds_what_crosses_it() {
        let bound = |sites: [&str; 2], border: &str| {
            let mut text = "[seed]\nrate_mbit = 100\nsite = 'x'\n".to_owned();
            for (i, site) in sites.iter().enumerate() {
                text += &format!(
                    "[[host]]\nname = 'h{i}'\naddress = 'h:1'\nsite = '{site}'\nrate_mbit = 100\n"
                );
            }
            text += &format!("[[site]]\nname = 'x'\n{border}\n");
            parse(&text).unwrap().bound_seconds(12_500_000).unwrap()
        };
        let close = |a: f64, b: f64| (a - b).abs() < 1e-9;
        assert!(close(bound(["x", "y"], "border_mbit = 20"), 5.0));
        assert!(close(bound(["x", "y"], ""), 1.0));
        assert!(close(bound(["x", "x"], "border_mbit = 20"), 1.0));
    }
}
