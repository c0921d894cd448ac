//! One behaviour a test, on a virtual clock.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use proptest::prelude::*;
use scap_proto::release::Priority;

use super::*;

mod far;
mod lanes;
mod promises;
mod telling;

const T: TransferId = TransferId(1);
const CHUNK: u32 = 128 * 1024;
const SWARM: Policy = Policy {
    reveal: Reveal::All,
    ask: Ask::Everyone,
    lanes: 0,
    far_share: (0, 1),
    priority: Priority::Normal,
};

/// An origin that tells chunks below `eager` first.
fn one_each(eager: u32) -> Policy {
    Policy {
        reveal: Reveal::OneEach { eager },
        ..SWARM
    }
}

/// An engine, its clock, and what it has said that no test has looked at yet.
struct Host {
    swarm: Swarm,
    now: Duration,
    said: Vec<Output>,
}

impl Host {
    fn new(policy: Policy, chunks: usize) -> Self {
        let mut host = Self {
            swarm: Swarm::new(Config::new(7)),
            now: Duration::ZERO,
            said: Vec::new(),
        };
        host.feed(Input::TransferAdded {
            transfer: T,
            policy,
        });
        host.grow(chunks);
        host
    }

    fn feed(&mut self, input: Input) {
        self.swarm.handle_input(self.now, input);
        self.said
            .extend(std::iter::from_fn(|| self.swarm.poll_output()));
    }

    fn grow(&mut self, chunks: usize) {
        self.feed(Input::TransferGrown {
            transfer: T,
            plain_lengths: vec![CHUNK; chunks],
            is_all: false,
        });
    }

    fn connect(&mut self, peer: u32) {
        self.feed(Input::PeerConnected {
            peer: PeerId(peer),
            link: Link::Neighbour,
        });
    }

    fn disconnect(&mut self, peer: u32) {
        let peer = PeerId(peer);
        self.feed(Input::PeerDisconnected { peer });
    }

    /// Connects a peer that holds these.
    fn holder(&mut self, peer: u32, indexes: impl IntoIterator<Item = u32>) {
        self.connect(peer);
        self.available(peer, indexes);
    }

    /// Connects a peer that wants to know.
    fn opener(&mut self, peer: u32) {
        self.connect(peer);
        self.feed(Input::PeerOpened {
            peer: PeerId(peer),
            transfer: T,
        });
    }

    fn available(&mut self, peer: u32, indexes: impl IntoIterator<Item = u32>) {
        self.feed(Input::Available {
            peer: PeerId(peer),
            transfer: T,
            indexes: indexes.into_iter().collect(),
        });
    }

    fn holds(&mut self, indexes: impl IntoIterator<Item = u32>) {
        self.feed(Input::TransferHolds {
            transfer: T,
            indexes: indexes.into_iter().collect(),
        });
    }

    fn receive(&mut self, peer: u32, index: u32) {
        self.feed(Input::Received {
            peer: PeerId(peer),
            transfer: T,
            index,
            encoded_bytes: u64::from(CHUNK),
        });
    }

    fn fail(&mut self, peer: u32, index: u32, failure: Failure) {
        self.feed(Input::Failed {
            peer: PeerId(peer),
            transfer: T,
            index,
            failure,
        });
    }

    fn serve(&mut self, peer: u32, index: u32) {
        self.feed(Input::Served {
            peer: PeerId(peer),
            transfer: T,
            index,
        });
    }

    /// Lets time pass, waking the engine whenever it asks for it.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.swarm.poll_timeout().filter(|&at| at <= end) {
            self.now = self.now.max(at);
            self.feed(Input::Timeout);
        }
        self.now = end;
    }

    fn take(&mut self) -> Vec<Output> {
        std::mem::take(&mut self.said)
    }

    /// `(peer, index)` of the requests since the last look.
    fn requests(&mut self) -> Vec<(u32, u32)> {
        let said = self.take();
        said.iter()
            .filter_map(|output| match output {
                Output::Request { peer, index, .. } => Some((peer.0, *index)),
                _ => None,
            })
            .collect()
    }

    /// What each peer has been told since the last look.
    fn told(&mut self) -> BTreeMap<u32, Vec<u32>> {
        let mut told: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for output in self.take() {
            if let Output::Announce { peer, indexes, .. } = output {
                told.entry(peer.0).or_default().extend(indexes);
            }
        }
        told
    }

    fn drops(&mut self) -> Vec<(u32, DropReason)> {
        let said = self.take();
        said.iter()
            .filter_map(|output| match output {
                Output::Drop { peer, reason } => Some((peer.0, *reason)),
                _ => None,
            })
            .collect()
    }
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

#[test]
fn the_chunk_that_fewest_peers_hold_is_asked_for_first() {
    let mut host = Host::new(SWARM, 0);
    for peer in 1..=3 {
        host.holder(peer, (0..40).filter(|index| *index != 17));
    }
    host.holder(4, 0..40);
    host.grow(40);
    let requests = host.requests();
    assert_eq!(requests.iter().filter(|(_, index)| *index == 17).count(), 1);
    let first = requests.iter().find(|(peer, _)| *peer == 4);
    assert_eq!(first, Some(&(4, 17)));
}

#[test]
fn no_chunk_is_asked_of_two_peers_while_others_are_wanted() {
    let mut host = Host::new(SWARM, 100);
    for peer in 1..=8 {
        host.holder(peer, 0..100);
    }
    let requests = host.requests();
    let chunks: BTreeSet<u32> = requests.iter().map(|(_, index)| *index).collect();
    assert_eq!(requests.len(), 16);
    assert_eq!(chunks.len(), 16);
}

#[test]
fn requests_in_flight_grow_to_the_bandwidth_times_the_delay_and_no_further() {
    let mut host = Host::new(SWARM, 4000);
    host.holder(1, 0..4000);
    let mut queue = host.requests();
    assert_eq!(queue.len(), 2);
    // 100 Mbit/s and a round trip of 80 ms: a chunk every 10.5 ms, 80 ms after it was asked for.
    let mut most = 0;
    let mut sending: Vec<(Duration, u32)> = Vec::new();
    let mut line_free = Duration::ZERO;
    for _ in 0..1500 {
        for (_, index) in queue.drain(..) {
            line_free = line_free.max(host.now + ms(80)) + Duration::from_micros(10_486);
            sending.push((line_free, index));
        }
        let (at, index) = sending.remove(0);
        host.pass(at - host.now);
        host.receive(1, index);
        queue = host.requests();
        most = most.max(sending.len() + queue.len());
    }
    // Bandwidth × (round trip + target queue) is 22 to 23 chunks.
    assert!((20..=26).contains(&most), "{most} in flight");
    let received = f64::from(CHUNK) * 1500.0 / host.now.as_secs_f64();
    assert!(received > 0.97 * 12.5e6, "{received} bytes per second");
}

#[test]
fn bytes_in_flight_stay_within_the_budget() {
    let mut host = Host::new(SWARM, 0);
    host.feed(Input::TransferGrown {
        transfer: T,
        plain_lengths: vec![1024 * 1024; 1000],
        is_all: false,
    });
    for peer in 0..200 {
        host.holder(peer, 0..1000);
    }
    assert_eq!(
        host.requests().len(),
        4,
        "4 MiB before anything is measured"
    );
}

#[test]
fn wrong_bytes_drop_the_peer_at_once_and_the_chunk_is_asked_of_another() {
    let mut host = Host::new(SWARM, 1);
    host.holder(1, [0]);
    host.holder(2, [0]);
    assert_eq!(host.requests(), [(1, 0)]);
    host.fail(1, 0, Failure::WrongBytes);
    let reason = DropReason::WrongBytes {
        transfer: T,
        index: 0,
    };
    let said = host.take();
    assert!(reason.is_misbehaviour());
    assert!(said.contains(&Output::Drop {
        peer: PeerId(1),
        reason
    }));
    assert!(said.contains(&Output::Request {
        peer: PeerId(2),
        transfer: T,
        index: 0
    }));
}

#[test]
fn a_peer_that_does_not_hold_what_it_said_is_not_asked_for_it_again() {
    let mut host = Host::new(SWARM, 1);
    host.holder(1, [0]);
    host.requests();
    host.fail(1, 0, Failure::NotHeld);
    host.pass(ms(60_000));
    assert_eq!(host.requests(), []);
    assert_eq!(
        host.swarm.waiting(T),
        Some(Waiting::NobodyHas { missing: 1 })
    );
    host.available(1, [0]);
    assert_eq!(host.requests(), [(1, 0)]);
}

#[test]
fn a_busy_peer_is_left_alone_for_longer_each_time() {
    let mut host = Host::new(SWARM, 1);
    host.holder(1, [0]);
    let mut pauses = Vec::new();
    for _ in 0..5 {
        assert_eq!(host.requests(), [(1, 0)]);
        let busy_at = host.now;
        host.fail(1, 0, Failure::Busy);
        let waiting = host.swarm.waiting(T);
        assert!(
            matches!(waiting, Some(Waiting::PeersPaused { .. })),
            "{waiting:?}"
        );
        while host.said.is_empty() {
            host.pass(ms(1));
        }
        pauses.push(host.now - busy_at);
    }
    assert!(pauses[0] <= ms(75) && pauses[4] >= ms(400), "{pauses:?}");
    assert_eq!(host.drops(), []);
}

/// Peer 1 is silent and peer 2 sends a chunk every 20 ms, for so long.
fn one_silent_one_sending(host: &mut Host, time: Duration) -> Vec<Output> {
    let mut said = Vec::new();
    let mut queue = VecDeque::new();
    let end = host.now + time;
    while host.now < end {
        for output in host.take() {
            if let Output::Request { peer, index, .. } = output
                && peer.0 == 2
            {
                queue.push_back(index);
            }
            said.push(output);
        }
        host.pass(ms(20));
        if let Some(index) = queue.pop_front() {
            host.receive(2, index);
        }
    }
    said
}

#[test]
fn a_silent_peer_loses_its_requests_and_is_dropped_and_named() {
    let mut host = Host::new(SWARM, 30_000);
    host.holder(1, 0..30_000);
    host.holder(2, 0..30_000);
    let said = one_silent_one_sending(&mut host, ms(20_000));
    let cancelled = said
        .iter()
        .filter(|output| matches!(output, Output::Cancel { peer, .. } if peer.0 == 1));
    assert!(cancelled.count() >= 3);
    let drop = Output::Drop {
        peer: PeerId(1),
        reason: DropReason::Stalled,
    };
    assert_eq!(said.iter().filter(|output| **output == drop).count(), 1);
    let dropped_at = said.iter().position(|output| *output == drop).unwrap();
    let asked = |output: &Output| matches!(output, Output::Request { peer, .. } if peer.0 == 1);
    assert!(!said[dropped_at..].iter().any(asked));

    // Given another chance, it is asked again, and dropped only for what it then does.
    host.connect(1);
    let said = one_silent_one_sending(&mut host, ms(9_000));
    assert!(said.iter().any(asked));
    assert!(!said.contains(&drop));
}

#[test]
fn nobody_is_blamed_while_our_own_link_stands_still() {
    let mut host = Host::new(SWARM, 1000);
    for peer in 1..=3 {
        host.holder(peer, 0..1000);
    }
    for (peer, index) in host.requests() {
        host.pass(ms(10));
        host.receive(peer, index);
    }
    let before: Vec<_> = host.requests();
    assert!(!before.is_empty());
    host.pass(ms(120_000));
    assert_eq!(host.drops(), []);
    let waiting = host.swarm.waiting(T);
    assert!(
        matches!(waiting, Some(Waiting::InFlight { .. })),
        "{waiting:?}"
    );
}

#[test]
fn an_upstream_that_alone_holds_something_is_never_dropped_for_being_silent() {
    for (link, dropped) in [(Link::Upstream, false), (Link::Neighbour, true)] {
        let mut host = Host::new(SWARM, 30_000);
        let peer = PeerId(1);
        host.feed(Input::PeerConnected { peer, link });
        host.available(1, [0]);
        host.holder(2, 1..30_000);
        let said = one_silent_one_sending(&mut host, ms(120_000));
        let drops = said.iter().filter(|it| matches!(it, Output::Drop { .. }));
        assert_eq!(drops.count(), usize::from(dropped));
        let to_1 = |it: &&Output| matches!(it, Output::Request { peer, .. } if peer.0 == 1);
        assert!(said.iter().filter(to_1).count() >= 3, "{link:?}");
    }
}

#[test]
fn at_the_end_a_late_chunk_is_asked_of_a_second_peer_and_the_loser_is_cancelled() {
    let mut host = Host::new(SWARM, 3);
    host.holder(1, [0, 1, 2]);
    for index in [0, 1] {
        host.pass(ms(10));
        host.receive(1, index);
    }
    assert_eq!(host.requests().last().unwrap().0, 1);
    host.holder(2, [0, 1, 2]);
    assert_eq!(host.requests(), [], "not before it is late");
    host.pass(ms(400));
    assert_eq!(host.requests(), [(2, 2)]);
    host.receive(2, 2);
    let cancel = Output::Cancel {
        peer: PeerId(1),
        transfer: T,
        index: 2,
    };
    let said = host.take();
    assert!(said.contains(&cancel) && said.contains(&Output::Complete { transfer: T }));
    assert_eq!(host.swarm.stats(T).unwrap().duplicate_bytes, 0);
    host.receive(1, 2); // it crossed
    assert_eq!(
        host.swarm.stats(T).unwrap().duplicate_bytes,
        u64::from(CHUNK)
    );
}

#[test]
fn what_a_peer_said_before_the_chunk_was_known_is_remembered() {
    let mut host = Host::new(SWARM, 1);
    host.holder(1, [5]);
    host.available(1, [u32::MAX]);
    assert_eq!(host.requests(), []);
    host.grow(5);
    assert_eq!(host.requests(), [(1, 5)]);
}

#[test]
fn in_a_tree_only_the_upstream_is_asked() {
    let tree = Policy {
        ask: Ask::Upstream,
        ..SWARM
    };
    let mut host = Host::new(tree, 2);
    host.holder(1, [0, 1]);
    assert_eq!(host.requests(), []);
    assert_eq!(host.swarm.waiting(T), Some(Waiting::NoPeers));
    host.feed(Input::PeerConnected {
        peer: PeerId(2),
        link: Link::Upstream,
    });
    host.available(2, [0]);
    assert_eq!(host.requests(), [(2, 0)]);
}

#[test]
fn an_origin_tells_each_peer_of_other_chunks_and_of_more_as_it_sends_them() {
    let one_each = one_each(0);
    let mut host = Host::new(one_each, 600);
    host.holds(0..600);
    let mut sent = BTreeSet::new();
    let mut queues: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for peer in 1..=16 {
        host.opener(peer);
    }
    for round in 0..600u32 {
        for (peer, told) in host.told() {
            queues.entry(peer).or_default().extend(told);
        }
        let (&peer, queue) = queues
            .iter_mut()
            .filter(|(_, queue)| !queue.is_empty())
            .nth((round % 7) as usize)
            .unwrap();
        let index = queue.remove(0);
        assert!(sent.insert(index), "chunk {index} left twice");
        host.serve(peer, index);
        host.pass(ms(10));
    }
    assert_eq!(sent.len(), 600);
    host.serve(1, 0);
    assert!(!host.told().is_empty(), "then the rarest follow");
}

#[test]
fn what_was_allotted_to_a_peer_that_goes_or_stalls_is_told_to_another() {
    let one_each = one_each(0);
    for goes in [true, false] {
        let mut host = Host::new(one_each, 200);
        host.holds(0..200);
        host.opener(1);
        let mut first: BTreeSet<u32> = host.told()[&1].iter().copied().collect();
        host.opener(2);
        if goes {
            host.disconnect(1);
        }
        // Peer 2 takes all it is told of, a chunk every 100 ms.
        let mut queue = host.told().remove(&2).unwrap();
        for _ in 0..200 {
            let Some(index) = queue.pop() else { break };
            host.pass(ms(100));
            first.remove(&index);
            host.serve(2, index);
            queue.extend(host.told().remove(&2).unwrap_or_default());
        }
        assert_eq!(first, BTreeSet::new(), "goes: {goes}");
    }
}

#[test]
fn requests_that_one_event_ended_count_once_against_a_peer() {
    let mut host = Host::new(SWARM, 400);
    host.holder(1, 0..400);
    let mut under_way = VecDeque::new();
    for _ in 0..60 {
        host.pass(ms(10));
        under_way.extend(host.requests());
        let (peer, index) = under_way.pop_front().unwrap();
        host.receive(peer, index);
    }
    assert!(under_way.len() > 3, "{under_way:?}");
    for (peer, index) in under_way {
        host.fail(peer, index, Failure::Reset);
    }
    assert_eq!(host.drops(), []);
    // Those that it resets one after the other count each.
    let mut drops = Vec::new();
    for _ in 0..400 {
        host.pass(ms(100));
        let said = host.take();
        for output in said {
            match output {
                Output::Request { peer, index, .. } => host.fail(peer.0, index, Failure::Reset),
                Output::Drop { peer, reason } => drops.push((peer.0, reason)),
                _ => {}
            }
        }
    }
    assert_eq!(drops, [(1, DropReason::Resets)]);
}

#[test]
fn the_lists_leave_first_and_a_few_times() {
    let one_each = one_each(2);
    let mut host = Host::new(one_each, 1000);
    host.holds(0..1000);
    for peer in 1..=30 {
        host.opener(peer);
    }
    let told = host.told();
    assert!(told[&1].contains(&0) && told[&1].contains(&1));
    for eager in [0, 1] {
        let copies = told.values().flatten().filter(|index| **index == eager);
        assert_eq!(copies.count(), 4);
    }
}

#[test]
fn the_descriptor_leaves_before_any_list_however_many_there_are() {
    let one_each = one_each(900);
    let mut host = Host::new(one_each, 1000);
    host.holds(0..1000);
    for peer in 1..=30 {
        host.opener(peer);
    }
    let told = host.told();
    for peer in 1..=4 {
        assert!(told[&peer].contains(&0), "{peer}: {:?}", told[&peer]);
    }
}

#[test]
fn transfers_take_turns_and_end_with_their_requests() {
    let mut host = Host::new(SWARM, 10);
    let other = TransferId(2);
    host.feed(Input::TransferAdded {
        transfer: other,
        policy: SWARM,
    });
    host.feed(Input::TransferGrown {
        transfer: other,
        plain_lengths: vec![CHUNK; 10],
        is_all: false,
    });
    host.connect(1);
    host.feed(Input::Available {
        peer: PeerId(1),
        transfer: other,
        indexes: (0..1).collect(),
    });
    host.available(1, 0..10);
    let transfers: Vec<TransferId> = host
        .take()
        .iter()
        .filter_map(|output| match output {
            Output::Request { transfer, .. } => Some(*transfer),
            _ => None,
        })
        .collect();
    assert_eq!(transfers, [other, T]);
    host.feed(Input::TransferRemoved { transfer: T });
    let said = host.take();
    assert!(matches!(said[0], Output::Cancel { transfer: T, .. }));
    assert_eq!(host.swarm.waiting(T), None);
    assert_eq!(host.swarm.stats(T), None);
}

#[test]
fn while_a_peer_has_something_of_an_urgent_transfer_it_is_asked_for_nothing_else() {
    let mut host = Host::new(SWARM, 10);
    let urgent = TransferId(2);
    let policy = Policy {
        priority: Priority::Urgent,
        ..SWARM
    };
    host.feed(Input::TransferAdded {
        transfer: urgent,
        policy,
    });
    host.feed(Input::TransferGrown {
        transfer: urgent,
        plain_lengths: vec![CHUNK; 3],
        is_all: true,
    });
    host.connect(1);
    host.available(1, 0..10);
    host.take();
    host.feed(Input::Available {
        peer: PeerId(1),
        transfer: urgent,
        indexes: vec![0, 1, 2],
    });
    let mut asked = Vec::new();
    for _ in 0..10 {
        let said = host.take();
        let requests = said.into_iter().filter_map(|output| match output {
            Output::Request { transfer, .. } => Some(transfer),
            _ => None,
        });
        asked.extend(requests);
        host.now += ms(10);
        let peer = host.swarm.peers[&PeerId(1)].requests.keys().next().copied();
        let Some((transfer, index)) = peer else { break };
        host.feed(Input::Received {
            peer: PeerId(1),
            transfer,
            index,
            encoded_bytes: u64::from(CHUNK),
        });
    }
    assert_eq!(asked[..3], [urgent; 3], "{asked:?}");
    assert!(asked.len() > 3 && asked[3..].iter().all(|it| *it == T));
}

#[test]
fn a_chunk_that_we_could_not_store_is_asked_for_again_later() {
    let mut host = Host::new(SWARM, 1);
    host.holder(1, [0]);
    host.requests();
    host.fail(1, 0, Failure::Local);
    let waiting = host.swarm.waiting(T);
    assert!(
        matches!(waiting, Some(Waiting::Local { .. })),
        "{waiting:?}"
    );
    host.pass(ms(500));
    assert_eq!(host.requests(), []);
    host.pass(ms(1000));
    assert_eq!(host.requests(), [(1, 0)]);
    assert_eq!(host.drops(), []);
}

#[test]
fn a_transfer_completes_at_each_stage_and_waits_for_nothing_then() {
    let mut host = Host::new(SWARM, 0);
    assert_eq!(host.swarm.waiting(T), Some(Waiting::Unknown));
    host.grow(1);
    assert_eq!(host.swarm.waiting(T), Some(Waiting::NoPeers));
    assert!(!host.swarm.is_offered(T));
    host.holder(1, 0..3);
    assert!(host.swarm.is_offered(T));
    host.receive(1, 0);
    assert!(host.take().contains(&Output::Complete { transfer: T }));
    assert_eq!(host.swarm.waiting(T), None);
    host.grow(2);
    host.holds([1, 2]);
    assert!(host.take().contains(&Output::Complete { transfer: T }));
    host.holds([1, 2]);
    assert_eq!(host.take(), []);
}

#[test]
fn an_engine_with_nothing_to_do_wants_no_timer() {
    let mut host = Host::new(SWARM, 1);
    host.opener(1);
    assert_eq!(host.swarm.poll_timeout(), None);
    host.available(1, [0]);
    assert!(host.swarm.poll_timeout().is_some());
    host.receive(1, 0);
    host.pass(ms(1000));
    assert_eq!(host.swarm.poll_timeout(), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Peers come, go, lie, stall and send wrong bytes; whatever happens, requests are sensible, and once
    /// the trouble is over the transfer completes.
    #[test]
    fn under_random_trouble_requests_make_sense_and_the_transfer_completes(
        steps in proptest::collection::vec((0u32..6, 0u32..12, any::<u32>()), 0..300),
    ) {
        let mut host = Host::new(SWARM, 50);
        let mut connected = BTreeSet::new();
        let mut in_flight: BTreeSet<(u32, u32)> = BTreeSet::new();
        let mut held = BTreeSet::new();
        for (peer, step, number) in steps {
            let index = number % 50;
            let oldest = in_flight.iter().find(|(asked, _)| *asked == peer).copied();
            match (step, oldest) {
                (0, _) => {
                    host.connect(peer);
                    connected.insert(peer);
                }
                (1, _) => {
                    host.disconnect(peer);
                    connected.remove(&peer);
                    in_flight.retain(|(asked, _)| *asked != peer);
                }
                (2..=4, _) => host.available(peer, (index..50).step_by(1 + step as usize)),
                (5, Some((_, index))) => host.fail(peer, index, Failure::NotHeld),
                (6, Some((_, index))) => host.fail(peer, index, Failure::Busy),
                (7, Some((_, index))) => host.fail(peer, index, Failure::Reset),
                (8, Some((_, index))) if number % 4 == 0 => {
                    host.fail(peer, index, Failure::WrongBytes);
                }
                (9, _) => host.pass(ms(u64::from(number % 5000))),
                (_, Some((_, index))) => {
                    host.receive(peer, index);
                    held.insert(index);
                }
                _ => {}
            }
            if let (5..=8 | 10.., Some(request)) = (step, oldest) {
                in_flight.remove(&request);
            }
            for output in host.take() {
                match output {
                    Output::Request { peer, index, .. } => {
                        prop_assert!(connected.contains(&peer.0), "asked one that is gone");
                        prop_assert!(!held.contains(&index), "asked for what is held");
                        prop_assert!(in_flight.insert((peer.0, index)), "asked twice");
                        let asked = in_flight.iter().filter(|(_, it)| *it == index).count();
                        prop_assert!(asked <= 2, "asked of {} peers", asked);
                    }
                    Output::Cancel { peer, index, .. } => {
                        in_flight.remove(&(peer.0, index));
                    }
                    _ => {}
                }
            }
        }
        for peer in 0..6 {
            host.disconnect(peer);
        }
        host.take();
        host.holder(9, 0..50);
        for _ in 0..100 {
            for (peer, index) in host.requests() {
                host.receive(peer, index);
            }
            host.pass(ms(1000));
        }
        prop_assert_eq!(host.swarm.waiting(T), None);
    }
}
