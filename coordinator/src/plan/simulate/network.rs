//! Links, quanta and the queue of events.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BinaryHeap, btree_map::Entry},
    time::Duration,
};

use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;
use scap_agent::topology::LaneSet;

use super::{NodeIndex, Setup};

/// Two nodes' connection; one number for as long as it lasts.
pub(super) type LinkNumber = u64;

/// An upload under way; numbers are used again.
pub(super) type FlowIndex = usize;

pub(super) enum Event {
    /// Nothing but the time.
    Alarm,
    /// It is time to see who gets nothing.
    Survey,
    /// A node's engine wants to be woken.
    Wake(NodeIndex),
    Message(Box<Envelope>),
    /// An uplink is free again.
    Sent(NodeIndex),
    /// A quantum reaches the border of its sender's site.
    Crosses {
        flow: FlowIndex,
        bytes: u32,
    },
    /// A quantum reaches its receiver's downlink.
    Arrived {
        flow: FlowIndex,
        bytes: u32,
    },
    /// A quantum is through the downlink.
    Taken {
        flow: FlowIndex,
        bytes: u32,
    },
    Connected(NodeIndex, NodeIndex),
    /// `node` notices that its link to `peer` is gone.
    Lost {
        node: NodeIndex,
        peer: NodeIndex,
        link: LinkNumber,
    },
}

pub(super) struct Envelope {
    pub(super) from: NodeIndex,
    pub(super) to: NodeIndex,
    pub(super) link: LinkNumber,
    pub(super) message: Message,
}

pub(super) enum Message {
    Open,
    Announce(Vec<u32>),
    Follow(LaneSet, Vec<u32>),
    Request(u32),
    Cancel(u32),
    NotHeld(u32),
}

/// An upload of one chunk.
#[derive(Clone)]
pub(super) struct Flow {
    pub(super) from: NodeIndex,
    pub(super) to: NodeIndex,
    pub(super) link: LinkNumber,
    pub(super) index: u32,
    pushed: bool,
    unsent_bytes: u32,
    on_the_way_bytes: u32,
    untaken_bytes: u32,
    /// Cancelled, or one of its ends is gone: what is on the way arrives to no use.
    dead: bool,
}

/// A site's border.
struct Gate {
    bytes_per_sec: u64,
    delay: Duration,
    out_free_at: Duration,
    in_free_at: Duration,
    out_bytes: u64,
    in_bytes: u64,
}

struct Line {
    site: usize,
    up_bytes_per_sec: u64,
    down_bytes_per_sec: u64,
    delay: Duration,
    uplink_busy: bool,
    /// In the order in which they began.
    uploads: Vec<FlowIndex>,
    /// To whom the last quantum went.
    turn: NodeIndex,
    down_free_at: Duration,
    running: bool,
    sent_bytes: u64,
    taken_bytes: u64,
}

pub(super) struct Network {
    now: Duration,
    queue: BinaryHeap<Scheduled>,
    scheduled: u64,
    lines: Vec<Line>,
    gates: Vec<Gate>,
    /// By link, bytes on their way: all its uploads share one window, as on a connection, or they would fill the queue of a border, or of
    /// a slow receiver.
    on_the_way: BTreeMap<LinkNumber, u32>,
    flows: Vec<Flow>,
    free: Vec<FlowIndex>,
    links: LinkNumber,
    chunk_bytes: u32,
    first_chunk_bytes: u32,
    quantum_bytes: u32,
    unsteady_percent: u32,
    seed: u64,
    /// FNV-1a over all events so far.
    trace: u64,
}

impl Network {
    pub(super) fn new(setup: &Setup) -> Self {
        let hosts = std::iter::once(&setup.origin).chain(&setup.hosts);
        let gate = |border: &super::Border| Gate {
            bytes_per_sec: border.bytes_per_sec,
            delay: border.delay,
            out_free_at: Duration::ZERO,
            in_free_at: Duration::ZERO,
            out_bytes: 0,
            in_bytes: 0,
        };
        let line = |host: &super::Host| Line {
            site: host.site,
            up_bytes_per_sec: host.up_bytes_per_sec,
            down_bytes_per_sec: host.down_bytes_per_sec,
            delay: host.delay,
            uplink_busy: false,
            uploads: Vec::new(),
            turn: 0,
            down_free_at: Duration::ZERO,
            running: false,
            sent_bytes: 0,
            taken_bytes: 0,
        };
        Self {
            now: Duration::ZERO,
            queue: BinaryHeap::new(),
            scheduled: 0,
            lines: hosts.map(line).collect(),
            gates: setup.borders.iter().map(gate).collect(),
            on_the_way: BTreeMap::new(),
            flows: Vec::new(),
            free: Vec::new(),
            links: 0,
            chunk_bytes: setup.chunk_bytes,
            first_chunk_bytes: setup.first_chunk_bytes,
            quantum_bytes: setup.quantum_bytes,
            unsteady_percent: setup.unsteady_percent,
            seed: setup.seed,
            trace: 0xcbf2_9ce4_8422_2325,
        }
    }

    pub(super) fn now(&self) -> Duration {
        self.now
    }

    pub(super) fn trace(&self) -> u64 {
        self.trace
    }

    pub(super) fn sent_bytes(&self, node: NodeIndex) -> u64 {
        self.lines[node].sent_bytes
    }

    pub(super) fn taken_bytes(&self, node: NodeIndex) -> u64 {
        self.lines[node].taken_bytes
    }

    pub(super) fn new_link(&mut self) -> LinkNumber {
        self.links += 1;
        self.links
    }

    /// What crossed the borders, in and out, by site.
    pub(super) fn crossed_bytes(&self) -> Vec<(u64, u64)> {
        let gates = self.gates.iter();
        gates.map(|gate| (gate.in_bytes, gate.out_bytes)).collect()
    }

    pub(super) fn path_delay(&self, one: NodeIndex, other: NodeIndex) -> Duration {
        let between = match self.sites(one, other) {
            Some((from, to)) => self.gates[from].delay + self.gates[to].delay,
            None => Duration::ZERO,
        };
        self.lines[one].delay + self.lines[other].delay + between
    }

    /// The sites of two nodes, where they are not the same.
    fn sites(&self, one: NodeIndex, other: NodeIndex) -> Option<(usize, usize)> {
        let (one, other) = (self.lines[one].site, self.lines[other].site);
        (one != other).then_some((one, other))
    }

    pub(super) fn schedule(&mut self, at: Duration, event: Event) {
        self.scheduled += 1;
        let at = u64::try_from(at.as_nanos()).expect("500 years are enough");
        let number = self.scheduled;
        self.queue.push(Scheduled { at, number, event });
    }

    pub(super) fn send(&mut self, envelope: Envelope) {
        let at = self.now + self.path_delay(envelope.from, envelope.to);
        self.schedule(at, Event::Message(Box::new(envelope)));
    }

    /// Moves the clock to the next event.
    pub(super) fn next_event(&mut self) -> Option<Event> {
        let Scheduled { at, event, .. } = self.queue.pop()?;
        let at = Duration::from_nanos(at);
        self.now = at;
        let (kind, one, other) = match &event {
            Event::Alarm => (0, 0, 0),
            Event::Wake(node) => (1, *node, 0),
            Event::Message(it) => (2, it.from, it.to),
            Event::Sent(node) => (3, *node, 0),
            Event::Arrived { flow, .. } => (4, *flow, self.flows[*flow].index as usize),
            Event::Taken { flow, .. } => (5, *flow, self.flows[*flow].index as usize),
            Event::Connected(one, other) => (6, *one, *other),
            Event::Lost { node, peer, .. } => (7, *node, *peer),
            Event::Crosses { flow, .. } => (8, *flow, self.flows[*flow].index as usize),
            Event::Survey => (9, 0, 0),
        };
        let nanos = u64::from(at.subsec_nanos());
        for word in [at.as_secs(), nanos, kind, one as u64, other as u64] {
            self.trace = (self.trace ^ word).wrapping_mul(0x0100_0000_01b3);
        }
        Some(event)
    }

    /// Uploads that were asked for and that a node has under way, and of them those to `peer`.
    pub(super) fn uploads(&self, node: NodeIndex, peer: NodeIndex) -> (usize, usize) {
        let uploads = self.lines[node].uploads.iter().map(|&at| &self.flows[at]);
        let asked = uploads.filter(|flow| !flow.pushed);
        asked.fold((0, 0), |(all, to_peer), flow| {
            (all + 1, to_peer + usize::from(flow.to == peer))
        })
    }

    pub(super) fn start_upload(
        &mut self,
        (from, to): (NodeIndex, NodeIndex),
        link: LinkNumber,
        index: u32,
        pushed: bool,
    ) {
        let bytes = match index {
            0 => self.first_chunk_bytes,
            _ => self.chunk_bytes,
        };
        let flow = Flow {
            pushed,
            from,
            to,
            link,
            index,
            unsent_bytes: bytes,
            on_the_way_bytes: 0,
            untaken_bytes: bytes,
            dead: false,
        };
        let number = if let Some(number) = self.free.pop() {
            self.flows[number] = flow;
            number
        } else {
            self.flows.push(flow);
            self.flows.len() - 1
        };
        self.lines[from].uploads.push(number);
        self.transmit(from);
    }

    /// Stops uploads from `from` to `to`: of one chunk that was asked for, or of all.
    pub(super) fn stop_uploads(&mut self, from: NodeIndex, to: NodeIndex, index: Option<u32>) {
        let uploads = std::mem::take(&mut self.lines[from].uploads);
        let (stopped, kept) = uploads.into_iter().partition(|&flow| {
            let it = &self.flows[flow];
            it.to == to && index.is_none_or(|index| it.index == index && !it.pushed)
        });
        self.lines[from].uploads = kept;
        let stopped: Vec<FlowIndex> = stopped;
        for flow in stopped {
            self.flows[flow].dead = true;
            self.free_if_over(flow);
        }
    }

    pub(super) fn set_running(&mut self, node: NodeIndex, running: bool) {
        self.lines[node].running = running;
        for flow in std::mem::take(&mut self.lines[node].uploads) {
            self.flows[flow].dead = true;
            self.free_if_over(flow);
        }
    }

    /// Puts the next quantum on a node's uplink, if that is free: links take turns, and on each one upload goes after the other, as
    /// on a connection.
    pub(super) fn transmit(&mut self, node: NodeIndex) {
        let line = &self.lines[node];
        if line.uplink_busy || !line.running {
            return;
        }
        let mut firsts: Vec<(NodeIndex, FlowIndex)> = Vec::new();
        for &number in &line.uploads {
            let flow = &self.flows[number];
            if flow.unsent_bytes > 0 && firsts.iter().all(|(to, _)| *to != flow.to) {
                firsts.push((flow.to, number));
            }
        }
        let ready = firsts.into_iter().filter(|(to, number)| {
            let flow = &self.flows[*number];
            let of_link = self.on_the_way.get(&flow.link).copied().unwrap_or(0);
            of_link < self.window(node, *to)
        });
        let Some((_, number)) = ready.min_by_key(|(to, _)| (*to <= line.turn, *to)) else {
            return;
        };
        let flow = &mut self.flows[number];
        let bytes = flow.unsent_bytes.min(self.quantum_bytes);
        flow.unsent_bytes -= bytes;
        flow.on_the_way_bytes += bytes;
        let (to, link) = (flow.to, flow.link);
        *self.on_the_way.entry(link).or_default() += bytes;
        let line = &mut self.lines[node];
        line.turn = to;
        line.uplink_busy = true;
        line.sent_bytes += u64::from(bytes);
        let takes = time_for(bytes, line.up_bytes_per_sec);
        let sent_at = self.now + takes.mul_f64(1.0 + self.slowdown(node));
        self.schedule(sent_at, Event::Sent(node));
        let flow = number;
        if self.sites(node, to).is_some() {
            self.schedule(sent_at, Event::Crosses { flow, bytes });
        } else {
            let arrives_at = sent_at + self.path_delay(node, to);
            self.schedule(arrives_at, Event::Arrived { flow, bytes });
        }
    }

    /// A quantum is at its site's border: it leaves by it and comes in by the other's, in turn.
    pub(super) fn crosses(&mut self, number: FlowIndex, bytes: u32) {
        let flow = &self.flows[number];
        let delay = self.path_delay(flow.from, flow.to);
        let (from, to) = self.sites(flow.from, flow.to).expect("it is at a border");
        let pass = |free_at: Duration, at: Duration, rate| free_at.max(at) + time_for(bytes, rate);
        let out = &mut self.gates[from];
        let out_at = pass(out.out_free_at, self.now, out.bytes_per_sec);
        out.out_free_at = out_at;
        out.out_bytes += u64::from(bytes);
        let into = &mut self.gates[to];
        // Both carry it at the same time, bit by bit, where the second is free.
        let start = out_at.saturating_sub(time_for(bytes, into.bytes_per_sec));
        let in_at = pass(into.in_free_at, start, into.bytes_per_sec).max(out_at);
        into.in_free_at = in_at;
        into.in_bytes += u64::from(bytes);
        let flow = number;
        self.schedule(in_at + delay, Event::Arrived { flow, bytes });
    }

    /// The uplink is free.
    pub(super) fn sent(&mut self, node: NodeIndex) {
        self.lines[node].uplink_busy = false;
        self.transmit(node);
    }

    /// A quantum is at the downlink; given back where it is through at once.
    pub(super) fn arrived(&mut self, number: FlowIndex, bytes: u32) -> Option<(FlowIndex, u32)> {
        let flow = &mut self.flows[number];
        let line = &mut self.lines[flow.to];
        if !line.running {
            if flow.dead {
                flow.on_the_way_bytes -= bytes;
                self.free_if_over(number);
            }
            return None; // never acknowledged
        }
        line.taken_bytes += u64::from(bytes);
        let busy_until = line.down_free_at + time_for(bytes, line.down_bytes_per_sec);
        line.down_free_at = busy_until.max(self.now);
        if busy_until <= self.now {
            return Some((number, bytes));
        }
        let flow = number;
        self.schedule(busy_until, Event::Taken { flow, bytes });
        None
    }

    /// A quantum is through. The upload, if that was its last.
    pub(super) fn taken(&mut self, number: FlowIndex, bytes: u32) -> Option<Flow> {
        let flow = &mut self.flows[number];
        flow.on_the_way_bytes -= bytes;
        flow.untaken_bytes -= bytes;
        if let Entry::Occupied(mut of_link) = self.on_the_way.entry(flow.link) {
            *of_link.get_mut() -= bytes;
            if *of_link.get() == 0 {
                of_link.remove();
            }
        }
        let done = (flow.untaken_bytes == 0 && !flow.dead).then(|| flow.clone());
        let from = flow.from;
        if done.is_some() {
            flow.dead = true;
            self.lines[from].uploads.retain(|&flow| flow != number);
        }
        self.free_if_over(number);
        self.transmit(from);
        done
    }

    /// By what part of its time an uplink takes longer this second.
    fn slowdown(&self, node: NodeIndex) -> f64 {
        if self.unsteady_percent == 0 {
            return 0.0;
        }
        let drawn = self.seed ^ self.now.as_secs() << 32 ^ node as u64;
        let drawn = Pcg64Mcg::seed_from_u64(drawn).random::<f64>();
        drawn * f64::from(self.unsteady_percent) / 100.0
    }

    fn free_if_over(&mut self, number: FlowIndex) {
        let flow = &self.flows[number];
        if flow.dead && flow.on_the_way_bytes == 0 {
            self.free.push(number);
        }
    }

    /// What an upload may have on the way: the path's bandwidth times its round trip, and a little
    /// for the receiver's queue.
    fn window(&self, from: NodeIndex, to: NodeIndex) -> u32 {
        let round_trip = 2 * self.path_delay(from, to);
        let bytes = u128::from(self.lines[from].up_bytes_per_sec) * round_trip.as_micros();
        let bytes = u32::try_from(bytes / 1_000_000).unwrap_or(u32::MAX);
        bytes.min(u32::MAX / 2) + 4 * self.quantum_bytes
    }
}

fn time_for(bytes: u32, bytes_per_sec: u64) -> Duration {
    Duration::from_nanos(u64::from(bytes) * 1_000_000_000 / bytes_per_sec)
}

/// Ordered so that a heap gives the earliest first, and of one instant the one scheduled first.
struct Scheduled {
    /// In nanoseconds.
    at: u64,
    number: u64,
    event: Event,
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Scheduled {}
