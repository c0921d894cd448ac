//! The way to all hosts: the root of a control tree.

use std::{
    collections::BTreeSet,
    hash::{BuildHasher, RandomState},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use scap_agent::{
    clock, error_chain,
    node::Node,
    relay::{At, Command, Contact, Tree, engine, resolve},
};
use scap_proto::{
    id::NodeId,
    identity::{Identity, Trust},
    limits::{HOST_ADDRESSES_MAX, ROSTER_PAGE_HOSTS_MAX},
    release::{
        Branch, Environment, RepoPath, Report, Roster, RosterHost, SignedReport, SignedRoster,
        TreeId, UnixMillis,
    },
    wire::control::{ControlMessage, HostNews},
};
use tokio::{sync::mpsc, task::JoinSet};

use super::Host;

/// Into how many branches the fleet is split, and so to how many hosts we have links while all are reached.
pub const LINKS: usize = 4;

/// Most hosts at a time that we dial because those that are to relay for them do not reach them.
const DIRECT_MAX: usize = 8;

/// How long the roster may be used: as long as a grant.
const ROSTER_MILLIS: u64 = 24 * 3600 * 1000;

/// How long names may take to be looked up for the roster. What is late is not in it, and so dialled by us alone.
const RESOLVE_MAX: Duration = Duration::from_secs(2);

/// Most events of all hosts that wait for the rollout.
const EVENTS_MAX: usize = 1024;

/// What happens to the hosts.
#[derive(Debug)]
pub enum HubEvent {
    /// There is said to be a way to a host. Its report, which proves it, is on its way.
    Connected(NodeId),
    /// There is said to be none, and why.
    Away {
        /// To which.
        host: NodeId,
        /// Why, as a chain of causes.
        reason: String,
    },
    /// A host's report, whose signature was checked.
    Report(Box<Report>),
}

/// The way to all hosts. Dropping it ends it.
#[derive(Debug)]
pub struct Hub {
    tree: Tree,
    /// What happens.
    pub events: mpsc::Receiver<HubEvent>,
    _listening: JoinSet<()>,
}

impl Hub {
    /// Begins to reach all hosts, of which there is at least one, and asks each where it stands with a repo. Those in
    /// `first` are to have a link to us, as far as there are so many links.
    pub async fn start(
        node: &Node,
        identity: &Arc<Identity>,
        hosts: &[Host],
        first: &[NodeId],
        about: &(RepoPath, Environment),
    ) -> Self {
        let hosts = arrange(hosts, first);
        let id = TreeId(RandomState::new().hash_one(std::process::id()));
        let (up, heard) = mpsc::channel(EVENTS_MAX);
        let tree = Tree::start(node.clone(), id, DIRECT_MAX, up);
        let expires = UnixMillis(clock::now().0 + ROSTER_MILLIS);
        let dialled = hosts.iter().map(|host| host.peer_addresses.clone());
        let roster: Vec<RosterHost> = hosts
            .iter()
            .zip(resolve_all(dialled).await)
            .map(|(host, addresses)| RosterHost {
                name: host.name.clone(),
                addresses,
            })
            .collect();
        let contacts: Vec<Contact> = hosts
            .iter()
            .map(|host| Contact {
                name: host.name.clone(),
                at: At::Names(host.addresses.clone()),
            })
            .collect();
        let pages = roster.chunks(ROSTER_PAGE_HOSTS_MAX);
        let mut commands = Vec::new();
        let mut end = 0;
        for (page, contacts) in pages.zip(contacts.chunks(ROSTER_PAGE_HOSTS_MAX)) {
            let roster = Roster {
                tree: id,
                first: end,
                hosts: page.to_vec(),
                expires,
                extensions: Default::default(),
            };
            end += u32::try_from(page.len()).expect("a page is small");
            commands.push(Command::Page {
                signed: Box::new(SignedRoster::sign(&roster, identity)),
                roster,
                contacts: Some(contacts.to_vec()),
            });
        }
        let (repo, environment) = about.clone();
        let all = Branch { first: 0, end };
        commands.push(Command::Down(ControlMessage::Ask { repo, environment }));
        commands.push(Command::Assign(engine::split(all, LINKS)));
        for command in commands {
            let told = tree.tell(command);
            assert!(told, "there is room for the pages of the largest fleet");
        }
        let (out, events) = mpsc::channel(EVENTS_MAX);
        let listener = Listener {
            names: hosts.iter().map(|host| host.name.clone()).collect(),
            trust: identity.trust().clone(),
            about: about.clone(),
            out,
        };
        let mut listening = JoinSet::new();
        listening.spawn(listener.run(heard));
        Self {
            tree,
            events,
            _listening: listening,
        }
    }

    /// Sends an order or a finalization to those that it names, as far as they are reached. To the others it is sent again by
    /// who hears that they are [`HubEvent::Connected`].
    pub fn send(&self, message: ControlMessage) {
        if !self.tree.tell(Command::Down(message)) {
            tracing::warn!("orders are not passed on as fast as they are given");
        }
    }

    /// Has a host dialled from here, which is said to be reached and does not answer.
    pub fn suspect(&self, host: &NodeId) {
        let _ = self.tree.tell(Command::Suspect(host.clone()));
    }
}

/// The hosts in the order of the roster: each branch begins with one of `first`, and is of one site as far as may be.
fn arrange(hosts: &[Host], first: &[NodeId]) -> Vec<Host> {
    let end = u32::try_from(hosts.len()).expect("fleets are smaller");
    let starts = engine::split(Branch { first: 0, end }, LINKS);
    let starts: BTreeSet<u32> = starts.into_iter().map(|branch| branch.first).collect();
    let of_name = |name: &NodeId| hosts.iter().find(|host| host.name == *name);
    let mut heads: Vec<&Host> = first
        .iter()
        .filter_map(of_name)
        .take(starts.len())
        .collect();
    let is_other = |host: &&Host| !heads.iter().any(|head| head.name == host.name);
    let mut others: Vec<&Host> = hosts.iter().filter(is_other).collect();
    others.sort_by(|a, b| (&b.site, &b.name).cmp(&(&a.site, &a.name)));
    heads.reverse();
    let mut next = |place: u32| {
        let head = starts.contains(&place).then(|| heads.pop()).flatten();
        head.or_else(|| others.pop()).expect("as many as places")
    };
    (0..end).map(|place| next(place).clone()).collect()
}

/// The addresses of each, as far as they can be looked up now and in a short time; at most [`HOST_ADDRESSES_MAX`].
pub async fn resolve_all(names: impl Iterator<Item = Vec<String>>) -> Vec<Vec<SocketAddr>> {
    let mut lookups = JoinSet::new();
    let mut found = Vec::new();
    for (at, names) in names.enumerate() {
        found.push(Vec::new());
        lookups.spawn(async move {
            let resolved = tokio::time::timeout(RESOLVE_MAX, resolve(&names)).await;
            (at, resolved.ok().and_then(Result::ok).unwrap_or_default())
        });
    }
    while let Some(looked_up) = lookups.join_next().await {
        let (at, mut addresses) = looked_up.expect("looking up a name does not panic");
        addresses.truncate(HOST_ADDRESSES_MAX);
        found[at] = addresses;
    }
    found
}

struct Listener {
    /// By place in the roster.
    names: Vec<NodeId>,
    trust: Trust,
    about: (RepoPath, Environment),
    out: mpsc::Sender<HubEvent>,
}

impl Listener {
    async fn run(self, mut heard: mpsc::Receiver<(TreeId, ControlMessage)>) {
        while let Some((_, message)) = heard.recv().await {
            match message {
                ControlMessage::Reports(reports) => {
                    for report in reports {
                        self.report(&report).await;
                    }
                }
                ControlMessage::News(news) => {
                    for HostNews { host, away } in news {
                        let place = usize::try_from(host).unwrap_or(usize::MAX);
                        let Some(host) = self.names.get(place).cloned() else {
                            continue;
                        };
                        let event = match away {
                            None => HubEvent::Connected(host),
                            Some(reason) => HubEvent::Away { host, reason },
                        };
                        let _ = self.out.send(event).await;
                    }
                }
                _ => {}
            }
        }
    }

    async fn report(&self, report: &SignedReport) {
        match report.verify(&self.trust, clock::now()) {
            // Of other repos another rollout is told at the same time.
            Ok(report) if (&report.repo, &report.environment) != (&self.about.0, &self.about.1) => {
            }
            Ok(report) => {
                let _ = self.out.send(HubEvent::Report(Box::new(report))).await;
            }
            // Whoever relayed it, its host did not say it.
            Err(error) => {
                tracing::warn!(error = error_chain(&error), "a report refused");
            }
        }
    }
}
