//! The way to all hosts: the root of a control tree.

use std::{
    collections::{BTreeSet, HashSet},
    hash::{BuildHasher, RandomState},
    net::SocketAddr,
    ops::Range,
    sync::Arc,
    time::Duration,
};

use scap_agent::{
    clock, error_chain,
    node::Node,
    relay::{At, Command, Contact, Tree, engine, resolve},
};
use scap_proto::{
    id::{NodeId, ReleaseId},
    identity::{Identity, Trust},
    limits::{HOST_ADDRESSES_MAX, ROSTER_PAGE_HOSTS_MAX},
    release::{
        Branch, Environment, Lease, RepoPath, Report, Roster, RosterHost, SignedLease,
        SignedReport, SignedRoster, TreeId, UnixMillis,
    },
    wire::control::{ControlMessage, HostNews},
};
use tokio::{sync::mpsc, task::JoinSet};

use super::{
    Host, Inventory,
    renewals::{Certificates, Renewals, Renewer},
    ways::Ways,
};

/// Into how many branches the fleet is split, and so to how many hosts we have links while all are reached.
pub const LINKS: usize = 4;

/// Most hosts at a time that we dial because those that are to relay for them do not reach them.
const DIRECT_MAX: usize = 8;

/// How long the roster may be used: as long as a grant.
const ROSTER_MILLIS: u64 = 24 * 3600 * 1000;

/// How long a relay may begin to feed a host that it was told to: as long as clocks may differ.
const LEASE_MILLIS: u64 = 600 * 1000;

/// How long names may take to be looked up for the roster. What is late is not in it, and so dialled by us alone.
const RESOLVE_MAX: Duration = Duration::from_secs(2);

/// Most reports that are known again. Of all of them the same comes within a second.
const SEEN_MAX: usize = 16 * 1024;

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
    identity: Arc<Identity>,
    /// What happens.
    pub events: mpsc::Receiver<HubEvent>,
    _listening: JoinSet<()>,
}

impl Hub {
    /// Begins to reach all hosts, of which there is at least one, and asks each where it stands with a repo. Those in
    /// `first` are to have a link to us, as far as there are so many links. Their certificates are renewed, where somebody is
    /// given that can.
    pub async fn start(
        node: &Node,
        identity: &Arc<Identity>,
        inventory: &Inventory,
        first: &[NodeId],
        about: &(RepoPath, Environment),
        renewing: Option<(Renewer, Certificates)>,
    ) -> Self {
        let (parts, hosts) = arrange(&inventory.hosts, first);
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
        let place = |name: &NodeId| hosts.iter().position(|host| host.name == *name);
        let place = |name: &NodeId| small(place(name).expect("relays are in the fleet"));
        let mut commands = Vec::new();
        for part in &parts {
            let relays: Vec<u32> = hosts[part.start].via.iter().map(place).collect();
            for first in part.clone().step_by(ROSTER_PAGE_HOSTS_MAX) {
                let page = first..part.end.min(first + ROSTER_PAGE_HOSTS_MAX);
                let roster = Roster {
                    tree: id,
                    first: small(first),
                    hosts: roster[page.clone()].to_vec(),
                    expires,
                    extensions: Default::default(),
                };
                let roster = roster.behind(&relays);
                commands.push(Command::Page {
                    signed: Box::new(SignedRoster::sign(&roster, identity)),
                    roster,
                    contacts: Some(contacts[page].to_vec()),
                });
            }
        }
        let (repo, environment) = about.clone();
        commands.push(Command::Down(ControlMessage::Ask { repo, environment }));
        // Those behind relays are reached by these.
        let open = parts.first().map_or(0, |part| part.len());
        commands.push(Command::Assign(engine::split(first_hosts(open), LINKS)));
        for command in commands {
            let told = tree.tell(command);
            assert!(told, "there is room for the pages of the largest fleet");
        }
        let (out, events) = mpsc::channel(EVENTS_MAX);
        let listener = Listener {
            names: hosts.iter().map(|host| host.name.clone()).collect(),
            trust: identity.trust().clone(),
            about: about.clone(),
            ways: Ways::new(inventory),
            seen: HashSet::new(),
            renewals: renewing.map(|(renewer, certificates)| {
                Renewals::start(renewer, certificates, tree.teller())
            }),
            out,
        };
        let mut listening = JoinSet::new();
        listening.spawn(listener.run(heard));
        Self {
            tree,
            identity: identity.clone(),
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

    /// Has a relay feed a host that stands behind it.
    pub fn lease(&self, release: ReleaseId, relay: &NodeId, host: &NodeId) {
        let lease = Lease {
            release,
            relay: relay.clone(),
            host: host.clone(),
            expires: UnixMillis(clock::now().0 + LEASE_MILLIS),
            extensions: Default::default(),
        };
        let lease = SignedLease::sign(&lease, &self.identity);
        self.send(ControlMessage::Lease(Box::new(lease)));
    }

    /// Has a host dialled from here, which is said to be reached and does not answer.
    pub fn suspect(&self, host: &NodeId) {
        let _ = self.tree.tell(Command::Suspect(host.clone()));
    }
}

/// The hosts in the order of the roster, and its parts: those in the open, of which each branch begins with one of `first`, and
/// is of one site as far as may be; then those behind each list of relays.
pub(crate) fn arrange(hosts: &[Host], first: &[NodeId]) -> (Vec<Range<usize>>, Vec<Host>) {
    let (open, mut behind): (Vec<&Host>, Vec<&Host>) =
        hosts.iter().partition(|host| host.via.is_empty());
    let starts = engine::split(first_hosts(open.len()), LINKS);
    let starts: BTreeSet<u32> = starts.into_iter().map(|branch| branch.first).collect();
    let of_name = |name: &NodeId| open.iter().copied().find(|host| host.name == *name);
    let mut heads: Vec<&Host> = first
        .iter()
        .filter_map(of_name)
        .take(starts.len())
        .collect();
    let is_other = |host: &&Host| !heads.iter().any(|head| head.name == host.name);
    let mut others: Vec<&Host> = open.iter().copied().filter(is_other).collect();
    others.sort_by(|a, b| (&b.site, &b.name).cmp(&(&a.site, &a.name)));
    heads.reverse();
    let mut next = |place: u32| {
        let head = starts.contains(&place).then(|| heads.pop()).flatten();
        head.or_else(|| others.pop()).expect("as many as places")
    };
    let mut arranged: Vec<Host> = (0..small(open.len()))
        .map(|place| next(place).clone())
        .collect();
    behind.sort_by_key(|host| (&host.via, &host.site, &host.name));
    arranged.extend(behind.into_iter().cloned());
    let mut parts: Vec<Range<usize>> = Vec::new();
    for same in arranged.chunk_by(|a, b| a.via == b.via) {
        let start = parts.last().map_or(0, |part| part.end);
        parts.push(start..start + same.len());
    }
    (parts, arranged)
}

/// The first so many hosts of the roster.
fn first_hosts(count: usize) -> Branch {
    Branch {
        first: 0,
        end: small(count),
    }
}

fn small(place: usize) -> u32 {
    u32::try_from(place).expect("fleets are smaller")
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
    ways: Ways,
    /// Reports that came lately: those of hosts behind several relays come on several ways.
    seen: HashSet<blake3::Hash>,
    renewals: Option<Renewals>,
    out: mpsc::Sender<HubEvent>,
}

impl Listener {
    async fn run(mut self, mut heard: mpsc::Receiver<(TreeId, ControlMessage)>) {
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
                        let behind = self.ways.heard(&host, away.as_deref());
                        let event = match away {
                            None => HubEvent::Connected(host),
                            Some(reason) => HubEvent::Away { host, reason },
                        };
                        let _ = self.out.send(event).await;
                        for (host, reason) in behind {
                            let _ = self.out.send(HubEvent::Away { host, reason }).await;
                        }
                    }
                }
                _ => {}
            }
        }
    }

    async fn report(&mut self, report: &SignedReport) {
        let hash = blake3::hash(&[&report.0.payload[..], &report.0.signature].concat());
        if self.seen.len() >= SEEN_MAX {
            self.seen.clear();
        }
        if !self.seen.insert(hash) {
            return;
        }
        let verified = report.verify(&self.trust, clock::now());
        if let (Ok(of), Some(renewals)) = (&verified, &self.renewals) {
            renewals.saw(&of.host, &report.0);
        }
        match verified {
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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::path::Path;

    use scap_proto::{
        identity::{CertificateAuthority, Role, Validity},
        release::{LeafSigned, Outcome, Stage},
    };

    use super::*;

    fn report(host: &str, counter: u64, outcome: Outcome) -> Report {
        Report {
            host: host.parse().unwrap(),
            repo: "web/site".parse().unwrap(),
            environment: Environment::default(),
            release: Some(ReleaseId::of(b"release")),
            counter,
            stage: Stage::Promote,
            directive: (1, 2),
            outcome,
            bytes: Default::default(),
            fetch_millis: 0,
            prepare_millis: 0,
            promote_millis: 0,
            standing: Default::default(),
            extensions: Default::default(),
        }
    }

    #[tokio::test]
    async fn b13_what_a_relay_makes_changes_or_says_again_is_nobodys_report() {
        let now = clock::now();
        let folder = tempfile::tempdir().unwrap();
        let authority = CertificateAuthority::create(&"prod".parse().unwrap(), now.0).unwrap();
        let enrol = |role, name: &str| {
            let node = authority.node(role, name.parse().unwrap());
            let folder = folder.path().join(name);
            Identity::create(&folder, &authority, &node, Validity::leaf(now.0)).unwrap()
        };
        let coordinator = enrol(Role::Coordinator, "deploy1");
        let [web1, relay] = ["web1", "relay1"].map(|name| enrol(Role::Agent, name));
        let fleet = "[[host]]\nname = 'web1'\naddress = 'a:1'\n\
                     [[host]]\nname = 'relay1'\naddress = 'b:1'\n";
        let inventory = Inventory::parse(fleet, Path::new("fleet.toml")).unwrap();
        let (out, mut events) = mpsc::channel(EVENTS_MAX);
        let mut listener = Listener {
            names: ["relay1", "web1"].map(|name| name.parse().unwrap()).into(),
            trust: coordinator.trust().clone(),
            about: ("web/site".parse().unwrap(), Environment::default()),
            ways: Ways::new(&inventory),
            seen: HashSet::new(),
            out,
            renewals: None,
        };

        let failed = || Outcome::Failed {
            reason: "ill".into(),
        };
        let said = SignedReport::sign(&report("web1", 7, failed()), &web1);
        // Its relay says in its place that all is well: with its own key, with its signature, with its certificate.
        let well = report("web1", 8, Outcome::Done);
        let forged = SignedReport::sign(&well, &relay);
        let changed = SignedReport(LeafSigned {
            payload: forged.0.payload.clone(),
            ..said.0.clone()
        });
        let dressed = SignedReport(LeafSigned {
            certificate: said.0.certificate.clone(),
            ..forged.0.clone()
        });
        for made_up in [&forged, &changed, &dressed] {
            listener.report(made_up).await;
        }
        assert!(events.try_recv().is_err());
        // What it says once and again is heard once, and as it was said.
        for _ in 0..3 {
            listener.report(&said).await;
        }
        let HubEvent::Report(heard) = events.try_recv().unwrap() else {
            panic!("a report is expected");
        };
        assert_eq!(*heard, report("web1", 7, failed()));
        assert!(events.try_recv().is_err());
        // Of what it cannot make up at all it is the author itself.
        let own = SignedReport::sign(&report("relay1", 1, Outcome::Done), &relay);
        listener.report(&own).await;
        assert!(matches!(events.try_recv(), Ok(HubEvent::Report(_))));
    }
}
