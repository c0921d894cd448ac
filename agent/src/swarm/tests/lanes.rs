//! Chunks that are pushed.

use super::*;

const LANES: Policy = Policy {
    reveal: Reveal::All,
    ask: Ask::Everyone,
    lanes: 2,
    far_share: (0, 1),
    priority: Priority::Normal,
};

const ORIGIN: Policy = Policy {
    reveal: Reveal::OneEach { eager: 0 },
    ..LANES
};

/// Peer 1 pushes lane 0 to us and peer 2 lane 1, once all of 100 chunks are known.
fn fed() -> Host {
    let mut host = Host::new(LANES, 0);
    for (peer, lanes) in [(1, 0b01), (2, 0b10)] {
        host.connect(peer);
        let peer = PeerId(peer);
        let transfer = T;
        host.feed(Input::LanesFrom {
            peer,
            transfer,
            lanes,
        });
    }
    assert_eq!(host.take(), []);
    host.know_all(100);
    host
}

impl Host {
    fn know_all(&mut self, chunks: usize) {
        self.feed(Input::TransferGrown {
            transfer: T,
            plain_lengths: vec![CHUNK; chunks],
            is_all: true,
        });
        self.holds([]);
    }

    fn follows(&mut self, peer: u32, lanes: u64, held: impl IntoIterator<Item = u32>) {
        self.feed(Input::Followed {
            peer: PeerId(peer),
            transfer: T,
            lanes,
            held: held.into_iter().collect(),
        });
    }

    /// What was pushed since it was last asked, to whom.
    fn pushed(&mut self) -> Vec<(u32, u32)> {
        let push = |output| match output {
            Output::Push { peer, index, .. } => Some((peer.0, index)),
            _ => None,
        };
        self.take().into_iter().filter_map(push).collect()
    }
}

fn follow(peer: u32, lanes: u64, held: Vec<u32>) -> Output {
    Output::Follow {
        peer: PeerId(peer),
        transfer: T,
        lanes,
        held,
    }
}

#[test]
fn who_lacks_much_follows_and_asks_nobody_for_what_will_be_pushed() {
    let mut host = fed();
    assert_eq!(
        host.take(),
        [follow(1, 0b01, vec![]), follow(2, 0b10, vec![])]
    );
    host.holder(3, 0..100);
    host.pass(ms(2000));
    assert_eq!(host.requests(), []);
    assert_eq!(
        host.swarm.waiting(T),
        Some(Waiting::Pushes { missing: 100 })
    );
}

#[test]
fn who_lacks_little_declines_and_asks() {
    let mut host = Host::new(LANES, 0);
    host.connect(1);
    host.feed(Input::LanesFrom {
        peer: PeerId(1),
        transfer: T,
        lanes: 0b11,
    });
    host.know_all(10);
    assert_eq!(host.take(), [follow(1, 0, vec![])]);
    host.available(1, [4]);
    assert_eq!(host.requests(), [(1, 4)]);
}

#[test]
fn what_comes_is_passed_on_along_its_lane_to_who_lacks_it() {
    let mut host = fed();
    host.opener(5);
    host.follows(5, 0b10, [3]);
    host.pushed();
    for index in [0, 1, 3] {
        host.receive(1 + index % 2, index);
    }
    assert_eq!(host.pushed(), [(5, 1)], "0 is of the other lane, 3 it has");
    // One is on its way, one may follow it, and the third waits for the first.
    host.receive(2, 5);
    host.receive(2, 7);
    assert_eq!(host.pushed(), [(5, 5)]);
    host.pass(ms(20));
    host.serve(5, 1);
    assert_eq!(host.pushed(), [(5, 7)]);
}

#[test]
fn a_lane_that_stays_behind_is_given_up_and_its_chunks_are_asked_for() {
    let mut host = fed();
    host.take();
    host.holder(3, 0..100);
    let mut said = Vec::new();
    for index in (0..100).step_by(2) {
        host.pass(ms(200));
        host.receive(1, index);
        said.append(&mut host.take());
    }
    let gave_up = |output: &&Output| matches!(output, Output::Follow { .. });
    let gave_up: Vec<_> = said.iter().filter(gave_up).collect();
    assert!(
        matches!(
            gave_up[..],
            [Output::Follow {
                peer: PeerId(2),
                lanes: 0,
                ..
            }]
        ),
        "{gave_up:?}"
    );
    let asked = |output: &Output| matches!(output, Output::Request { peer, index, .. } if peer.0 == 3 && index % 2 == 1);
    assert!(said.iter().any(asked));
    let other = |output: &Output| matches!(output, Output::Request { index, .. } if index % 2 == 0);
    assert!(!said.iter().any(other), "the lane that comes goes on");
}

#[test]
fn an_upstream_that_is_gone_leaves_its_lane_to_be_asked_for() {
    let mut host = fed();
    host.holder(3, 0..100);
    host.take();
    host.disconnect(2);
    let asked = host.requests();
    assert!(!asked.is_empty());
    assert!(
        asked
            .iter()
            .all(|(peer, index)| *peer == 3 && index % 2 == 1)
    );
}

#[test]
fn wrong_bytes_that_were_pushed_drop_the_peer() {
    let mut host = fed();
    host.take();
    host.fail(1, 0, Failure::WrongBytes);
    let reason = DropReason::WrongBytes {
        transfer: T,
        index: 0,
    };
    assert_eq!(host.drops(), [(1, reason)]);
}

#[test]
fn who_was_alone_for_long_counts_as_a_holder_when_others_come() {
    let mut host = Host::new(ORIGIN, 0);
    host.know_all(100);
    host.holds(0..100);
    host.opener(1);
    host.follows(1, 0b11, []);
    let mut queue: VecDeque<_> = host.pushed().into();
    while let Some((peer, index)) = queue.pop_front() {
        host.serve(peer, index);
        queue.extend(host.pushed());
    }
    for _ in 0..10 {
        host.pass(ms(1000));
    }
    host.opener(2);
    host.pass(ms(1000));
    host.follows(2, 0b11, []);
    assert_eq!(host.pushed(), []);
}

#[test]
fn an_origin_keeps_a_lane_for_its_top_and_gives_it_to_others_when_nothing_is_passed_on() {
    let mut host = Host::new(ORIGIN, 0);
    host.know_all(100);
    host.holds(0..100);
    for (peer, lanes) in [(1, 0b01), (2, 0b10)] {
        host.opener(peer);
        let (peer, transfer) = (PeerId(peer), T);
        host.feed(Input::LanesTo {
            peer,
            transfer,
            lanes,
        });
    }
    // Peer 1 was there before it was known that it will stand at the top; peer 3 comes after.
    host.told();
    host.follows(1, 0b01, []);
    host.follows(2, 0b10, []);
    host.opener(3);
    let mut said = host.take();
    let told_3 = |output: &Output| matches!(output, Output::Announce { peer, .. } if peer.0 == 3);
    assert!(!said.iter().any(told_3), "{said:?}");

    // Peer 1 takes its lane, and nobody else ever has any of it; what peer 2 gets, peer 3 has soon after.
    let mut queue = VecDeque::new();
    let mut told = BTreeSet::new();
    for _ in 0..200 {
        host.pass(ms(50));
        said.append(&mut host.take());
        for output in said.drain(..) {
            match output {
                Output::Push { peer, index, .. } => queue.push_back((peer.0, index)),
                Output::Announce { peer, indexes, .. } if peer.0 != 1 => told.extend(indexes),
                _ => {}
            }
        }
        if let Some((peer, index)) = queue.pop_front() {
            host.serve(peer, index);
            if peer == 2 {
                host.available(3, [index]);
            }
        }
    }
    assert!(told.iter().any(|index| index % 2 == 0), "{told:?}");
}
