//! A node: the engine, and a driver between it and the made-up network and store.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use scap_agent::{
    swarm::{Ask, Config, Failure, Input, Link, Output, PeerId, Policy, Reveal, Swarm, TransferId},
    topology::Shape,
};
use scap_proto::release::Priority;

use super::{
    Conduct, Dropped, Host, NodeIndex, ORIGIN, SURVEY, Setup, Simulation, content,
    network::{Envelope, Event, FlowIndex, LinkNumber, Message},
};

pub(super) const TRANSFER: TransferId = TransferId(0);

pub(super) struct Node {
    conduct: Conduct,
    pub(super) engine: Swarm,
    pub(super) running: bool,
    starts: u64,
    links: BTreeMap<NodeIndex, LinkNumber>,
    /// By chunk, what is stored of it once it is verified: the disk, which outlives a crash.
    pub(super) store: Vec<Kept>,
    pub(super) stored: u32,
    stage: usize,
    pub(super) completed_at: Option<Duration>,
    /// Requests that wait for an upload to end.
    queue: VecDeque<(NodeIndex, u32)>,
    wake_at: Option<Duration>,
}

/// What a node has stored of a chunk, in a byte: there are as many as chunks times nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kept {
    Nothing,
    /// [`content`].
    True,
    /// Other bytes, which all who flip bits make the same.
    False,
}

impl Kept {
    /// In the number that tells contents apart.
    pub(super) fn content(self, index: u32) -> Option<u64> {
        match self {
            Self::Nothing => None,
            Self::True => Some(content(index)),
            Self::False => Some(!content(index)),
        }
    }

    pub(super) fn is_something(self) -> bool {
        self != Self::Nothing
    }

    fn flipped(self) -> Self {
        match self {
            Self::Nothing => Self::Nothing,
            Self::True => Self::False,
            Self::False => Self::True,
        }
    }
}

impl Node {
    pub(super) fn new(host: Host, setup: &Setup) -> Self {
        Self {
            conduct: host.conduct,
            engine: Swarm::new(Config::new(0)),
            running: false,
            starts: 0,
            links: BTreeMap::new(),
            store: vec![Kept::Nothing; setup.chunk_count() as usize],
            stored: 0,
            stage: 0,
            completed_at: None,
            queue: VecDeque::new(),
            wake_at: None,
        }
    }

    pub(super) fn is_complete(&self) -> bool {
        self.stored as usize == self.store.len()
    }
}

impl Simulation {
    /// Starts a node that does not run, for the first time or after a crash.
    pub fn start(&mut self, index: NodeIndex) {
        let node = &mut self.nodes[index];
        if node.running {
            return;
        }
        node.running = true;
        node.starts += 1;
        node.stage = 0;
        let seed = self.setup.seed ^ (index as u64) << 32 ^ node.starts;
        node.engine = Swarm::new(Config::new(seed));
        if index == ORIGIN {
            node.stage = self.setup.stages.len() - 1;
            node.stored = self.setup.chunk_count();
            node.store.fill(Kept::True);
        } else if !node.is_complete() {
            self.unfinished += 1;
        }
        if !std::mem::replace(&mut self.is_surveyed, true) {
            self.network
                .schedule(self.network.now() + SURVEY, Event::Survey);
        }
        self.network.set_running(index, true);
        let swarm = matches!(self.setup.shape, Shape::Swarm { .. });
        let policy = Policy {
            reveal: if index == ORIGIN && swarm {
                let eager = self.setup.stages[self.setup.stages.len().saturating_sub(2)];
                Reveal::OneEach { eager }
            } else {
                Reveal::All
            },
            ask: if swarm { Ask::Everyone } else { Ask::Upstream },
            lanes: self.lanes,
            far_share: self.edges[index].far_share,
            priority: Priority::Normal,
        };
        let transfer = TRANSFER;
        self.feed(index, Input::TransferAdded { transfer, policy });
        self.grow(index, 0, self.setup.stages[self.nodes[index].stage]);
        let delays = self.edges[index].linked.keys().filter_map(|&peer| {
            let handshake = 4 * self.network.path_delay(index, peer); // two round trips
            self.nodes[peer].running.then_some((peer, handshake))
        });
        for (peer, handshake) in delays.collect::<Vec<_>>() {
            let at = self.network.now() + handshake;
            self.network.schedule(at, Event::Connected(index, peer));
        }
    }

    /// Links a host to the origin, or to a relay that it stands behind, which feeds it.
    pub(super) fn lease(&mut self, index: NodeIndex) {
        let feeder = match self.setup.relays.get(&index) {
            None => ORIGIN,
            Some(relays) => {
                let running = relays.iter().filter(|relay| self.nodes[**relay].running);
                match running.max_by_key(|relay| self.nodes[**relay].stored) {
                    Some(relay) => *relay,
                    None => return self.leases.end(&index),
                }
            }
        };
        self.edges[feeder]
            .linked
            .entry(index)
            .or_insert(Link::Neighbour);
        self.edges[feeder].fetches.insert(index);
        self.edges[index]
            .linked
            .entry(feeder)
            .or_insert(Link::Upstream);
        self.edges[index].fetches.insert(feeder);
        if self.nodes[feeder].running && !self.nodes[feeder].links.contains_key(&index) {
            let handshake = 4 * self.network.path_delay(index, feeder);
            let at = self.network.now() + handshake;
            self.network.schedule(at, Event::Connected(feeder, index));
        }
    }

    /// Ends a node without a word to anybody. Its store stays.
    pub fn crash(&mut self, index: NodeIndex) {
        let node = &mut self.nodes[index];
        if !node.running {
            return;
        }
        node.running = false;
        node.queue.clear();
        node.wake_at = None;
        if index != ORIGIN && !node.is_complete() {
            self.unfinished -= 1;
        }
        let at = self.network.now() + self.setup.detection;
        for (peer, link) in std::mem::take(&mut node.links) {
            self.network.schedule(
                at,
                Event::Lost {
                    node: peer,
                    peer: index,
                    link,
                },
            );
        }
        self.network.set_running(index, false);
    }

    pub(super) fn wake(&mut self, index: NodeIndex) {
        let node = &mut self.nodes[index];
        if node.wake_at.is_some_and(|at| at <= self.network.now()) {
            node.wake_at = None;
            self.feed(index, Input::Timeout);
        }
    }

    pub(super) fn connected(&mut self, one: NodeIndex, other: NodeIndex) {
        if !self.nodes[one].running || !self.nodes[other].running {
            return;
        }
        for (node, peer) in [(one, other), (other, one)] {
            if let Some(&link) = self.nodes[node].links.get(&peer) {
                self.lost(node, peer, link); // left over from before a crash
            }
        }
        let link = self.network.new_link();
        for (node, peer) in [(one, other), (other, one)] {
            self.nodes[node].links.insert(peer, link);
            let fetches = self.edges[node].fetches.contains(&peer);
            let kind = self.edges[node].linked[&peer];
            let id = peer_id(peer);
            self.feed(
                node,
                Input::PeerConnected {
                    peer: id,
                    link: kind,
                },
            );
            if fetches {
                self.send(node, peer, Message::Open);
            }
            let transfer = TRANSFER;
            let edges = &self.edges[node];
            let lanes = [&edges.lanes_from, &edges.lanes_to].map(|lanes| lanes.get(&peer).copied());
            let peer = id;
            let from = lanes[0].map(|lanes| Input::LanesFrom {
                peer,
                transfer,
                lanes,
            });
            let to = lanes[1].map(|lanes| Input::LanesTo {
                peer,
                transfer,
                lanes,
            });
            for input in from.into_iter().chain(to) {
                self.feed(node, input);
            }
        }
    }

    pub(super) fn lost(&mut self, index: NodeIndex, peer: NodeIndex, link: LinkNumber) {
        let node = &mut self.nodes[index];
        if !node.running || node.links.get(&peer) != Some(&link) {
            return;
        }
        node.links.remove(&peer);
        node.queue.retain(|&(from, _)| from != peer);
        self.network.stop_uploads(index, peer, None);
        let peer = peer_id(peer);
        self.feed(index, Input::PeerDisconnected { peer });
        self.serve(index);
    }

    pub(super) fn deliver(&mut self, envelope: Envelope) {
        let Envelope {
            from,
            to,
            link,
            message,
        } = envelope;
        let node = &mut self.nodes[to];
        if !node.running || node.links.get(&from) != Some(&link) {
            return;
        }
        let (peer, transfer) = (peer_id(from), TRANSFER);
        match message {
            Message::Open => self.feed(to, Input::PeerOpened { peer, transfer }),
            Message::Announce(indexes) => {
                let input = Input::Available {
                    peer,
                    transfer,
                    indexes,
                };
                self.feed(to, input);
            }
            Message::Follow(lanes, held) => {
                let input = Input::Followed {
                    peer,
                    transfer,
                    lanes,
                    held,
                };
                self.feed(to, input);
            }
            Message::Request(_) if node.conduct == Conduct::Silent => {}
            Message::Request(index) => {
                if node.store[index as usize].is_something() {
                    node.queue.push_back((from, index));
                    self.serve(to);
                } else {
                    self.send(to, from, Message::NotHeld(index));
                }
            }
            Message::Cancel(index) => {
                node.queue.retain(|&request| request != (from, index));
                self.network.stop_uploads(to, from, Some(index));
                self.serve(to);
            }
            Message::NotHeld(index) => {
                let failure = Failure::NotHeld;
                let input = Input::Failed {
                    peer,
                    transfer,
                    index,
                    failure,
                };
                self.feed(to, input);
            }
        }
    }

    /// A quantum is through a downlink; with the last of a chunk, that is verified and stored.
    pub(super) fn taken(&mut self, flow: FlowIndex, bytes: u32) {
        let Some(flow) = self.network.taken(flow, bytes) else {
            return;
        };
        // The sender waits until the receiver has the bytes.
        if self.nodes[flow.from].links.get(&flow.to) == Some(&flow.link) {
            let (peer, transfer, index) = (peer_id(flow.to), TRANSFER, flow.index);
            let served = Input::Served {
                peer,
                transfer,
                index,
            };
            self.feed(flow.from, served);
            self.serve(flow.from);
        }
        let held = self.nodes[flow.from].store[flow.index as usize];
        let came = match self.nodes[flow.from].conduct {
            Conduct::Flips => held.flipped(),
            Conduct::Honest | Conduct::Silent => held,
        };
        let node = &mut self.nodes[flow.to];
        if !node.running || node.links.get(&flow.from) != Some(&flow.link) {
            return;
        }
        let (peer, transfer, index) = (peer_id(flow.from), TRANSFER, flow.index);
        if came.content(index) != Some(content(index)) {
            let failure = Failure::WrongBytes;
            self.feed(
                flow.to,
                Input::Failed {
                    peer,
                    transfer,
                    index,
                    failure,
                },
            );
            return;
        }
        if !node.store[index as usize].is_something() {
            node.store[index as usize] = came;
            node.stored += 1;
            let out = &mut self.out.0[index as usize];
            self.out.1 += u32::from(!std::mem::replace(out, true));
            if node.is_complete() {
                node.completed_at = Some(self.network.now());
                self.unfinished -= 1;
            }
        }
        let encoded_bytes = u64::from(self.setup.chunk_bytes(index));
        self.feed(
            flow.to,
            Input::Received {
                peer,
                transfer,
                index,
                encoded_bytes,
            },
        );
    }

    /// Starts uploads while there is room for them, to no peer more than half.
    fn serve(&mut self, index: NodeIndex) {
        loop {
            let most = self.setup.uploads;
            let startable = |&(peer, _): &(NodeIndex, u32)| {
                let (all, to_peer) = self.network.uploads(index, peer);
                all < most && to_peer < most.div_ceil(2)
            };
            let node = &self.nodes[index];
            let Some(position) = node.queue.iter().position(startable) else {
                return;
            };
            let node = &mut self.nodes[index];
            let (peer, chunk) = node.queue.remove(position).expect("found above");
            if let Some(&link) = node.links.get(&peer) {
                self.network.start_upload((index, peer), link, chunk, false);
            }
        }
    }

    /// Gives the engine an event and does what it says.
    fn feed(&mut self, index: NodeIndex, input: Input) {
        let now = self.network.now();
        self.nodes[index].engine.handle_input(now, input);
        let mut complete = false;
        while let Some(output) = self.nodes[index].engine.poll_output() {
            match output {
                Output::Request {
                    peer, index: chunk, ..
                } => self.send(index, node_index(peer), Message::Request(chunk)),
                Output::Cancel {
                    peer, index: chunk, ..
                } => self.send(index, node_index(peer), Message::Cancel(chunk)),
                Output::Announce { peer, indexes, .. } => {
                    self.send(index, node_index(peer), Message::Announce(indexes));
                }
                Output::Follow {
                    peer, lanes, held, ..
                } => self.send(index, node_index(peer), Message::Follow(lanes, held)),
                Output::Push {
                    peer, index: chunk, ..
                } => {
                    let to = node_index(peer);
                    let link = self.nodes[index].links.get(&to).copied();
                    if let Some(link) =
                        link.filter(|_| self.nodes[index].conduct != Conduct::Silent)
                    {
                        self.network.start_upload((index, to), link, chunk, true);
                    }
                }
                Output::Complete { .. } => complete = true,
                Output::Drop { peer, reason } => {
                    let peer = node_index(peer);
                    let (at, by) = (now, index);
                    self.dropped.push(Dropped {
                        at,
                        by,
                        peer,
                        reason,
                    });
                    if reason.is_misbehaviour() {
                        self.close(index, peer);
                    }
                }
            }
        }
        let node = &mut self.nodes[index];
        if let Some(at) = node.engine.poll_timeout()
            && node.wake_at.is_none_or(|earlier| at < earlier)
        {
            node.wake_at = Some(at);
            self.network.schedule(at.max(now), Event::Wake(index));
        }
        if complete && node.stage + 1 < self.setup.stages.len() {
            node.stage += 1;
            let stage = node.stage;
            self.grow(
                index,
                self.setup.stages[stage - 1],
                self.setup.stages[stage],
            );
        }
    }

    /// A node knows of more chunks; some may be in its store from before a crash.
    fn grow(&mut self, index: NodeIndex, from: u32, to: u32) {
        let transfer = TRANSFER;
        let plain_lengths = (from..to).map(|at| self.setup.chunk_bytes(at)).collect();
        let grown = Input::TransferGrown {
            transfer,
            plain_lengths,
            is_all: to == self.setup.chunk_count(),
        };
        self.feed(index, grown);
        let store = &self.nodes[index].store;
        let indexes: Vec<u32> = (from..to)
            .filter(|&at| store[at as usize].is_something())
            .collect();
        self.feed(index, Input::TransferHolds { transfer, indexes });
    }

    fn close(&mut self, one: NodeIndex, other: NodeIndex) {
        let now = self.network.now();
        let Some(&link) = self.nodes[one].links.get(&other) else {
            return;
        };
        let delay = self.network.path_delay(one, other);
        for (node, peer, at) in [(one, other, now), (other, one, now + delay)] {
            self.network.schedule(at, Event::Lost { node, peer, link });
        }
    }

    fn send(&mut self, from: NodeIndex, to: NodeIndex, message: Message) {
        if let Some(&link) = self.nodes[from].links.get(&to) {
            self.messages += 1;
            self.network.send(Envelope {
                from,
                to,
                link,
                message,
            });
        }
    }
}

fn peer_id(node: NodeIndex) -> PeerId {
    PeerId(u32::try_from(node).expect("fleets are smaller"))
}

fn node_index(peer: PeerId) -> NodeIndex {
    peer.0 as usize
}
