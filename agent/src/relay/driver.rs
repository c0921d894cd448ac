//! A node's part of a control tree, running: the engine, and a task for each host below.

mod child;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use scap_proto::{
    id::NodeId,
    limits::{BATCH_MAX, FRAME_BYTES_MAX, REASON_BYTES_MAX},
    release::{Branch, Roster, SignedReport, SignedRoster, Targets, TreeId, report},
    wire::control::{ControlMessage, HostNews},
};
use tokio::{
    sync::mpsc,
    task::{AbortHandle, JoinSet},
};

use self::child::{Child, Heard, Session};
use super::engine::{Input, Output, Place, Relay};
use crate::node::Node;

pub use self::child::{At, Contact, resolve};

/// How long what hosts say is gathered into one message, unless nothing was sent for as long.
pub const GATHER: Duration = Duration::from_millis(50);

/// Most orders that wait to be read by one host; what comes with its part, all pages that it needs, counts as one. One that leaves so many is not reading, and counts as lost.
const ORDERS_MAX: usize = 64;

/// Most messages from all hosts below that wait; each may be a frame.
const HEARD_MAX: usize = 64;

/// Longest report that is passed on, in bytes, with its certificate: twice the longest reason. A batch of such is a frame.
const REPORT_BYTES_MAX: usize = 8 * 1024 + 4096;
const _: () = assert!(BATCH_MAX * REPORT_BYTES_MAX <= FRAME_BYTES_MAX as usize);

/// Most questions that are asked of who is new: one for each repo and environment that is deployed in the tree.
const ASKS_MAX: usize = 8;

/// Most commands that wait. One that does not fit ends the tree: its parent is not to flood us.
const COMMANDS_MAX: usize = 1024;

/// A running part of a control tree. Dropping it lets go of all hosts below.
#[derive(Debug)]
pub struct Tree {
    commands: mpsc::Sender<Command>,
    _task: JoinSet<()>,
}

/// What the part is told.
#[derive(Debug)]
pub enum Command {
    /// Where hosts are; the page goes along with the branches that it is of.
    Page {
        /// As it was signed.
        signed: Box<SignedRoster>,
        /// What it says.
        roster: Roster,
        /// Where to dial its hosts instead, from the first on.
        contacts: Option<Vec<Contact>>,
    },
    /// Whom to cover.
    Assign(Vec<Branch>),
    /// Pass this on to whom it concerns.
    Down(ControlMessage),
    /// Say again who is reached: somebody new listens.
    TellAll,
    /// A host is said to be reached and does not answer: try to reach it from here.
    Suspect(NodeId),
}

impl Tree {
    /// Begins to run. What comes up goes to `up`. At most `direct_max` hosts at a time that those below cannot reach are
    /// dialled by us.
    pub fn start(
        node: Node,
        id: TreeId,
        direct_max: usize,
        up: mpsc::Sender<(TreeId, ControlMessage)>,
    ) -> Self {
        let (commands, inbox) = mpsc::channel(COMMANDS_MAX);
        let (heard_out, heard) = mpsc::channel(HEARD_MAX);
        let driver = Driver {
            node,
            id,
            up,
            started: Instant::now(),
            engine: Relay::new(direct_max),
            pages: BTreeMap::new(),
            contacts: BTreeMap::new(),
            places: BTreeMap::new(),
            children: BTreeMap::new(),
            sessions: JoinSet::new(),
            next_session: 0,
            heard_out,
            unreached: BTreeSet::new(),
            asks: Vec::new(),
            reports: Vec::new(),
            news: Vec::new(),
            flushed_at: None,
        };
        let mut task = JoinSet::new();
        task.spawn(driver.run(inbox, heard));
        Self {
            commands,
            _task: task,
        }
    }

    /// Tells the part something. Whether it could be told: where not, it is over.
    #[must_use]
    pub fn tell(&self, command: Command) -> bool {
        self.commands.try_send(command).is_ok()
    }

    /// Another way to tell the part something, which does not keep it running.
    pub fn teller(&self) -> Teller {
        Teller(self.commands.clone())
    }
}

/// Tells a part of a control tree something, as long as it runs.
#[derive(Debug, Clone)]
pub struct Teller(mpsc::Sender<Command>);

impl Teller {
    /// Tells it, and waits while it has too much to do. Whether it still runs.
    pub async fn tell(&self, command: Command) -> bool {
        self.0.send(command).await.is_ok()
    }
}

struct Driver {
    node: Node,
    id: TreeId,
    up: mpsc::Sender<(TreeId, ControlMessage)>,
    started: Instant,
    engine: Relay,
    /// By the place of the first host.
    pages: BTreeMap<Place, (SignedRoster, Branch)>,
    contacts: BTreeMap<Place, Contact>,
    places: BTreeMap<NodeId, Place>,
    children: BTreeMap<Place, Below>,
    sessions: JoinSet<()>,
    next_session: u64,
    heard_out: mpsc::Sender<(Session, Heard)>,
    /// Whom to dial anew though there may be a link: nothing came on it. One on which something does is not given up: what
    /// else is done on it goes on, and what was found out about its peer counts.
    unreached: BTreeSet<Place>,
    /// The latest questions, one for each repo and environment: who is new is asked as well.
    asks: Vec<ControlMessage>,
    /// What is to go up.
    reports: Vec<SignedReport>,
    news: Vec<HostNews>,
    flushed_at: Option<tokio::time::Instant>,
}

struct Below {
    session: u64,
    orders: mpsc::Sender<Vec<ControlMessage>>,
    task: AbortHandle,
}

impl Driver {
    async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        mut heard: mpsc::Receiver<(Session, Heard)>,
    ) {
        loop {
            self.drain();
            let wake = self.engine.poll_timeout();
            let wake = wake.map(|at| at.saturating_sub(self.started.elapsed()));
            let flush = (!self.reports.is_empty() || !self.news.is_empty()).then(|| {
                let now = tokio::time::Instant::now();
                self.flushed_at.map_or(now, |at| at + GATHER)
            });
            tokio::select! {
                command = commands.recv() => match command {
                    Some(command) => self.command(command),
                    None => return,
                },
                Some((session, heard)) = heard.recv() => self.heard(session, heard),
                Some(_) = self.sessions.join_next(), if !self.sessions.is_empty() => {}
                () = sleep(wake) => self.input(Input::Timeout),
                () = sleep_until(flush) => self.flush().await,
            }
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Page {
                signed,
                roster,
                contacts,
            } => self.page(*signed, roster, contacts),
            Command::Assign(branches) => self.input(Input::Assigned(branches)),
            Command::Down(message) => self.down(&message),
            Command::TellAll => {
                let live = self.engine.live();
                let news = live.map(|host| HostNews { host, away: None });
                self.news.extend(news);
            }
            Command::Suspect(name) => {
                if let Some(&place) = self.places.get(&name) {
                    self.input(Input::Suspect(place));
                }
            }
        }
    }

    fn page(&mut self, signed: SignedRoster, roster: Roster, contacts: Option<Vec<Contact>>) {
        let first = roster.first;
        let relays = roster.relays().expect("it was read when it was verified");
        let contacts = contacts.unwrap_or_else(|| {
            let hosts = roster.hosts.into_iter();
            let contact = hosts.map(|host| Contact {
                name: host.name,
                at: At::Addresses(host.addresses),
            });
            contact.collect()
        });
        let mut end = first;
        for (place, contact) in (first..).zip(contacts) {
            self.places.insert(contact.name.clone(), place);
            self.contacts.insert(place, contact);
            end = place + 1;
        }
        let branch = Branch { first, end };
        self.pages.insert(first, (signed, branch));
        if !relays.is_empty() {
            self.input(Input::Behind { branch, relays });
        }
    }

    fn input(&mut self, input: Input) {
        self.engine.handle_input(self.started.elapsed(), input);
    }

    fn drain(&mut self) {
        while let Some(output) = self.engine.poll_output() {
            match output {
                Output::Dial(host) => self.dial(host),
                Output::Close(host) => {
                    if let Some(below) = self.children.remove(&host) {
                        below.task.abort();
                    }
                }
                Output::Give(host, branches) => {
                    // Those below may relay for more than they are given by us.
                    let below = self.engine.below(&branches);
                    let is_in = |page: &Branch| {
                        let overlaps = |it: &Branch| it.first < page.end && page.first < it.end;
                        below.iter().any(overlaps)
                    };
                    let pages = self.pages.values().filter(|(_, page)| is_in(page));
                    let pages = pages.map(|(signed, _)| signed.clone());
                    let pages = pages.map(|signed| ControlMessage::Roster(Box::new(signed)));
                    let tree = self.id;
                    let mut messages: Vec<ControlMessage> = pages.collect();
                    messages.push(ControlMessage::Relay { tree, branches });
                    messages.extend(self.asks.iter().cloned());
                    self.order(host, messages);
                }
                Output::News { host, away } => {
                    let away = away.map(report::bounded_reason);
                    self.news.push(HostNews { host, away });
                }
            }
        }
    }

    fn dial(&mut self, host: Place) {
        let Some(contact) = self.contacts.get(&host).cloned() else {
            let reason = "it is on no page of the roster that came".to_owned();
            return self.input(Input::Failed(host, reason));
        };
        let session = self.next_session;
        self.next_session += 1;
        let (orders, outbox) = mpsc::channel(ORDERS_MAX);
        let child = Child {
            node: self.node.clone(),
            contact,
            session: (host, session),
            is_fresh: self.unreached.remove(&host),
            heard: self.heard_out.clone(),
        };
        let task = self.sessions.spawn(child.run(outbox));
        let below = Below {
            session,
            orders,
            task,
        };
        if let Some(before) = self.children.insert(host, below) {
            before.task.abort();
        }
    }

    fn heard(&mut self, (host, session): Session, heard: Heard) {
        let is_current = self.children.get(&host).map(|below| below.session) == Some(session);
        if !is_current {
            return;
        }
        match heard {
            Heard::Linked => self.input(Input::Linked(host)),
            Heard::Lost {
                reason,
                is_link_dead,
            } => {
                if is_link_dead {
                    self.unreached.insert(host);
                }
                self.lost(host, reason);
            }
            Heard::Message(message) if !is_bounded(&message) => {
                self.lost(host, "it says more than it may".into());
            }
            Heard::Message(message) => match message {
                ControlMessage::Report(report) => self.reports.push(*report),
                ControlMessage::Reports(reports) => self.reports.extend(reports),
                ControlMessage::News(news) => {
                    for HostNews { host: of, away } in news {
                        self.input(Input::Heard {
                            through: host,
                            host: of,
                            away,
                        });
                    }
                }
                ControlMessage::Beat => {}
                _ => self.lost(host, "it sent an order up".into()),
            },
        }
    }

    fn lost(&mut self, host: Place, reason: String) {
        if let Some(below) = self.children.remove(&host) {
            below.task.abort();
        }
        if let Some(contact) = self.contacts.get(&host) {
            tracing::debug!(host = %contact.name, reason, "no control stream");
        }
        self.input(Input::Failed(host, reason));
    }

    /// Passes a message on to whom it concerns.
    fn down(&mut self, message: &ControlMessage) {
        let to = match message {
            ControlMessage::Ask { .. } => {
                self.asks.retain(|ask| ask != message);
                self.asks.push(message.clone());
                if self.asks.len() > ASKS_MAX {
                    self.asks.remove(0);
                }
                self.engine.towards(|_| true)
            }
            ControlMessage::Order(order) => {
                self.towards(order.directive.targets_unverified().as_ref())
            }
            ControlMessage::FinalizeAt { hosts, .. } => self.towards(Some(hosts)),
            ControlMessage::Lease(lease) => {
                let relay = lease.relay_unverified();
                self.towards(relay.map(|relay| Targets::Only(vec![relay])).as_ref())
            }
            ControlMessage::Renewal(renewal) => {
                let host = renewal.host_unverified().into_iter();
                self.towards(Some(&Targets::Only(host.collect())))
            }
            _ => self.engine.towards(|_| true),
        };
        for host in to {
            self.order(host, vec![message.clone()]);
        }
    }

    /// Those below us on the way to some hosts; all of them where it is not known to whom.
    fn towards(&self, targets: Option<&Targets>) -> Vec<Place> {
        let Some(Targets::Only(names)) = targets else {
            return self.engine.towards(|_| true);
        };
        let places = names.iter().filter_map(|name| self.places.get(name));
        let mut places: Vec<Place> = places.copied().collect();
        places.sort_unstable();
        self.engine.towards(|branch| {
            let at = places.partition_point(|place| *place < branch.first);
            places.get(at).is_some_and(|place| *place < branch.end)
        })
    }

    fn order(&mut self, host: Place, messages: Vec<ControlMessage>) {
        let Some(below) = self.children.get(&host) else {
            return;
        };
        if below.orders.try_send(messages).is_err() {
            self.lost(host, "it does not read its orders".into());
        }
    }

    async fn flush(&mut self) {
        self.flushed_at = Some(tokio::time::Instant::now());
        let mut messages = Vec::new();
        for news in std::mem::take(&mut self.news).chunks(BATCH_MAX) {
            messages.push(ControlMessage::News(news.to_vec()));
        }
        for reports in std::mem::take(&mut self.reports).chunks(BATCH_MAX) {
            messages.push(ControlMessage::Reports(reports.to_vec()));
        }
        for message in messages {
            let _ = self.up.send((self.id, message)).await;
        }
    }
}

/// Whether a message from below is no larger than it may be.
fn is_bounded(message: &ControlMessage) -> bool {
    let is_short = |SignedReport(it): &SignedReport| {
        it.payload.len() + it.certificate.len() + it.signature.len() <= REPORT_BYTES_MAX
    };
    match message {
        ControlMessage::Report(report) => is_short(report),
        ControlMessage::Reports(reports) => {
            reports.len() <= BATCH_MAX && reports.iter().all(is_short)
        }
        ControlMessage::News(news) => {
            let is_short = |away: &String| away.len() <= REASON_BYTES_MAX;
            news.len() <= BATCH_MAX && news.iter().all(|it| it.away.iter().all(is_short))
        }
        _ => true,
    }
}

async fn sleep(wait: Option<Duration>) {
    match wait {
        Some(wait) => tokio::time::sleep(wait).await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
