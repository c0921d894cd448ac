//! The plan: the hosts, and how they fetch. Each node derives its own edges from it.

use std::net::SocketAddr;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    codec::{CodecError, Extensible},
    extensions::{ExtensionError, Extensions},
    id::{NodeId, PlanId},
    limits::{HOST_ADDRESSES_MAX, PLAN_HOSTS_MAX},
    release::{
        routes::{Routes, RoutesError},
        signed::SignedObject,
    },
};

/// How chunks spread. Variants are only ever added at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TopologyKind {
    /// Each host fetches from all its neighbours.
    Swarm,
    /// Each host fetches from its one upstream.
    Tree,
    /// As a swarm, and most chunks are pushed along trees, one for each lane, before anybody asks for them.
    Lanes,
}

/// One host of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanHost {
    /// Its name, which its certificate must say.
    pub name: NodeId,
    /// Where its peers reach it; at most [`HOST_ADDRESSES_MAX`].
    pub addresses: Vec<SocketAddr>,
    /// Its site, a bandwidth domain; empty where there is only one. It counts only where [`Plan::seed_site`] is known.
    pub site: String,
    /// Its rack, a failure domain; empty where unknown.
    pub rack: String,
    /// When it begins, relative to the others: a tree has no host below a later one.
    pub wave: u32,
}

/// The hosts that fetch together, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The node that starts with everything.
    pub seed: NodeId,
    /// The hosts, sorted by name; at most [`PLAN_HOSTS_MAX`].
    pub hosts: Vec<PlanHost>,
    /// How chunks spread.
    pub topology: TopologyKind,
    /// Most neighbours of a host in a swarm.
    pub degree: u32,
    /// Hosts below each host of a tree, and below the seed; or how many lanes there are, and so hosts below each host
    /// of a lane.
    pub fanout: u32,
    /// What random choices in the topology are made from.
    pub random_seed: u64,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Extensible for Plan {
    const EXTENSIONS_KNOWN: &'static [u16] = &[SEED_SITE, ROUTES];

    fn extensions(&self) -> &Extensions {
        &self.extensions
    }
}

/// The seed's site, in UTF-8: in plans in which sites count. Required: who does not know it would find other edges.
const SEED_SITE: u16 = 1;

/// Which hosts stand behind others, as [`Routes`] has it: in plans in which some do. Required, as above.
const ROUTES: u16 = 3;

impl SignedObject for Plan {
    const MAGIC: &'static str = "scap-plan/1\n";
}

impl Plan {
    /// The plan's bytes, and its id by which a directive names and so signs it.
    pub fn encode(&self) -> (PlanId, Bytes) {
        let bytes = self.to_payload();
        (PlanId::of(&bytes), bytes)
    }

    /// Reads the plan that `id` names.
    ///
    /// # Errors
    /// [`PlanError`].
    pub fn decode(id: PlanId, bytes: &[u8]) -> Result<Self, PlanError> {
        if PlanId::of(bytes) != id {
            return Err(PlanError::OtherPlan);
        }
        let plan = Self::from_payload(bytes)?;
        if plan.hosts.len() > PLAN_HOSTS_MAX {
            return Err(PlanError::Hosts(plan.hosts.len()));
        }
        if !plan.hosts.is_sorted_by(|a, b| a.name < b.name) {
            return Err(PlanError::Unsorted);
        }
        if let Some(host) = plan
            .hosts
            .iter()
            .find(|h| h.addresses.len() > HOST_ADDRESSES_MAX)
        {
            return Err(PlanError::Addresses(host.name.clone()));
        }
        if plan.degree == 0 || plan.fanout == 0 {
            return Err(PlanError::Degree);
        }
        let site = plan.extensions.get(SEED_SITE);
        if site.is_some_and(|site| std::str::from_utf8(site).is_err()) {
            return Err(PlanError::SeedSite);
        }
        if let Some(routes) = plan.extensions.get(ROUTES) {
            Routes::decode(routes, plan.hosts.len())?;
        }
        Ok(plan)
    }

    /// The same plan, in which sites count, and the seed is in `site`.
    ///
    /// # Errors
    /// Where the name is too long.
    pub fn in_sites(self, site: &str) -> Result<Self, ExtensionError> {
        self.extended(SEED_SITE, Bytes::copy_from_slice(site.as_bytes()))
    }

    /// The same plan, in which hosts stand behind others as `routes` says, by their places in [`Self::hosts`].
    ///
    /// # Errors
    /// Where that is more than fits an extension: 4,096 bytes, in which hosts that follow each other by name and stand
    /// behind the same ones take 2 to 6 together.
    pub fn with_routes(self, routes: &Routes) -> Result<Self, ExtensionError> {
        match routes.are_open() {
            true => Ok(self),
            false => self.extended(ROUTES, routes.encode()),
        }
    }

    /// Which hosts stand behind others, by their places in [`Self::hosts`].
    ///
    /// # Panics
    /// Where the plan says what [`Self::decode`] refuses.
    pub fn routes(&self) -> Routes {
        let routes = self.extensions.get(ROUTES);
        let routes = routes.map(|bytes| Routes::decode(bytes, self.hosts.len()));
        routes.map_or_else(Routes::default, |routes| {
            routes.expect("a plan is checked when it is read")
        })
    }

    /// Whether one node, the seed or a host, can dial another; not where the plan does not name both.
    pub fn reaches(&self, from: &NodeId, to: &NodeId) -> bool {
        let routes = self.routes();
        let place = |node: &NodeId| u32::try_from(self.place(node)?).ok();
        match (place(from), place(to)) {
            (Some(from), Some(to)) => routes.reaches(from, to),
            (None, Some(to)) => *from == self.seed && routes.relays(to).is_empty(),
            _ => false,
        }
    }

    fn extended(self, tag: u16, bytes: Bytes) -> Result<Self, ExtensionError> {
        let extensions = self.extensions.with(tag, bytes)?;
        Ok(Self { extensions, ..self })
    }

    /// The site of the seed, by the names in [`PlanHost::site`]; `None` where sites make no difference.
    pub fn seed_site(&self) -> Option<&str> {
        let site = self.extensions.get(SEED_SITE)?;
        std::str::from_utf8(site).ok()
    }

    /// The site of the seed or of a host; `None` where sites make no difference, or the plan does not name it.
    pub fn site_of(&self, node: &NodeId) -> Option<&str> {
        let home = self.seed_site()?;
        if *node == self.seed {
            return Some(home);
        }
        self.host(node).map(|host| host.site.as_str())
    }

    /// Whether a border is between two nodes.
    pub fn are_apart(&self, one: &NodeId, other: &NodeId) -> bool {
        let sites = self.site_of(one).zip(self.site_of(other));
        sites.is_some_and(|(one, other)| one != other)
    }

    /// The host of that name.
    pub fn host(&self, name: &NodeId) -> Option<&PlanHost> {
        self.place(name).map(|at| &self.hosts[at])
    }

    fn place(&self, name: &NodeId) -> Option<usize> {
        self.hosts.binary_search_by(|host| host.name.cmp(name)).ok()
    }
}

/// Why bytes are not the plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// Not the bytes that the directive names.
    #[error("not the plan that the directive names")]
    OtherPlan,
    /// Not a plan.
    #[error("read a plan")]
    Codec(#[from] CodecError),
    /// Too many hosts.
    #[error("a plan of {0} hosts, at most {PLAN_HOSTS_MAX} are allowed")]
    Hosts(usize),
    /// Not sorted by name, or a name twice.
    #[error("the hosts of a plan are not in strictly rising order")]
    Unsorted,
    /// Too many addresses.
    #[error("host {0} has more than {HOST_ADDRESSES_MAX} addresses")]
    Addresses(NodeId),
    /// A seed's site that is no text.
    #[error("the site of the seed is not UTF-8")]
    SeedSite,
    /// Hosts that stand where they cannot.
    #[error("the routes of a plan")]
    Routes(#[from] RoutesError),
    /// No neighbours allowed.
    #[error("a plan with a degree or fan-out of 0")]
    Degree,
}
