//! Peers of other sites.

use super::*;

/// The first of two hosts of a site that fetch from outside.
const FIRST_OF_TWO: Policy = Policy {
    far_share: (0, 2),
    ..SWARM
};

impl Host {
    /// Connects a peer of another site that holds these.
    fn far_holder(&mut self, peer: u32, indexes: impl IntoIterator<Item = u32>) {
        self.feed(Input::PeerConnected {
            peer: PeerId(peer),
            link: Link::Far,
        });
        self.available(peer, indexes);
    }

    /// Answers all that is asked of a peer, until nothing is. The indexes, in order.
    fn answer_all_of(&mut self, peer: u32) -> Vec<u32> {
        let mut all = Vec::new();
        loop {
            let asked = self.asked_of(peer);
            if asked.is_empty() {
                all.sort_unstable();
                return all;
            }
            for &index in &asked {
                self.receive(peer, index);
            }
            all.extend(asked);
        }
    }

    /// The indexes asked of a peer since the last look, in order.
    fn asked_of(&mut self, peer: u32) -> Vec<u32> {
        let requests = self.requests().into_iter();
        let mut asked: Vec<u32> = requests
            .filter(|(of, _)| *of == peer)
            .map(|(_, index)| index)
            .collect();
        asked.sort_unstable();
        asked
    }
}

#[test]
fn a_far_peer_is_asked_for_our_share_of_what_nobody_near_holds() {
    let mut host = Host::new(FIRST_OF_TWO, 8);
    host.holder(1, [0]);
    assert_eq!(host.asked_of(1), [0]);
    host.receive(1, 0);
    host.holder(1, [2]);
    host.take();
    host.far_holder(9, 0..8);
    assert_eq!(host.asked_of(9), [4, 6]);
}

#[test]
fn where_the_other_gateway_gets_nothing_we_ask_for_its_share_too() {
    let mut host = Host::new(FIRST_OF_TWO, 6);
    host.far_holder(9, 0..6);
    assert_eq!(host.answer_all_of(9), [0, 2, 4]);
    // The other one brings a chunk now and then.
    for (at, index) in [(2500, 1), (2500, 3)] {
        host.pass(ms(at));
        assert_eq!(host.asked_of(9), [0; 0]);
        host.holder(1, [index]);
        host.receive(1, index);
        host.take();
    }
    host.pass(ms(3500));
    assert_eq!(host.asked_of(9), [5]);
}

#[test]
fn what_a_near_peer_holds_and_does_not_send_is_asked_of_a_far_one_in_the_end() {
    let mut host = Host::new(FIRST_OF_TWO, 1);
    host.holder(1, [0]);
    assert_eq!(host.asked_of(1), [0]);
    host.far_holder(9, [0]);
    host.pass(ms(2500));
    assert_eq!(host.asked_of(9), [0; 0]);
    host.pass(ms(7500));
    assert_eq!(host.asked_of(9), [0]);
}

#[test]
fn waiting_for_the_lists_opens_nothing() {
    let mut host = Host::new(FIRST_OF_TWO, 1);
    host.holds([0]);
    host.far_holder(9, 0..40);
    for _ in 0..10 {
        host.pass(ms(1000));
    }
    host.grow(7);
    assert_eq!(host.answer_all_of(9), [2, 4, 6]);
}

#[test]
fn a_lane_whose_near_upstream_gets_nothing_is_asked_of_far_peers_in_the_end() {
    let mut host = Host::new(
        Policy {
            lanes: 2,
            ..FIRST_OF_TWO
        },
        0,
    );
    // It pushes nothing, and holds nothing: its disk is full, say.
    host.connect(1);
    let (peer, transfer) = (PeerId(1), T);
    host.feed(Input::LanesFrom {
        peer,
        transfer,
        lanes: 0b01,
    });
    host.feed(Input::TransferGrown {
        transfer: T,
        plain_lengths: vec![CHUNK; 100],
        is_all: true,
    });
    host.holds((0..100).filter(|index| index % 2 == 1));
    host.far_holder(9, 0..100);
    host.pass(ms(9000));
    assert_eq!(host.asked_of(9), [0; 0]);
    host.pass(ms(3000));
    assert_eq!(host.answer_all_of(9).len(), 50);
}
