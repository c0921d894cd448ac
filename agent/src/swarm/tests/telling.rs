//! What peers are told, and when.

use super::*;

#[test]
fn an_origin_goes_on_when_a_peer_asks_for_nothing_that_it_was_told_of() {
    let one_each = one_each(0);
    let mut host = Host::new(one_each, 35);
    host.holds(0..35);
    host.opener(1);
    let mut told: BTreeSet<u32> = host.told()[&1].iter().copied().collect();
    assert!(told.len() < 35);
    // It holds all of them already, and its word of that is lost.
    for _ in 0..400 {
        host.pass(ms(100));
        told.extend(host.told().remove(&1).unwrap_or_default());
    }
    assert_eq!(told.len(), 35);
}

#[test]
fn an_upstream_hears_what_we_hold_though_it_has_it_and_of_what_it_sent_it_knows() {
    let mut host = Host::new(SWARM, 4);
    for (peer, link) in [(1, Link::Upstream), (2, Link::Neighbour)] {
        let peer = PeerId(peer);
        host.feed(Input::PeerConnected { peer, link });
        host.feed(Input::PeerOpened { peer, transfer: T });
        host.available(peer.0, 0..4);
    }
    host.take();
    host.holds([0, 1]);
    assert_eq!(host.told(), BTreeMap::from([(1, vec![0, 1])]));
    host.receive(1, 2);
    assert_eq!(host.told(), BTreeMap::new());
    host.receive(2, 3);
    assert_eq!(host.told(), BTreeMap::from([(1, vec![3])]));
    // One that wants to know later hears all.
    let peer = PeerId(3);
    let link = Link::Upstream;
    host.feed(Input::PeerConnected { peer, link });
    host.available(3, 0..4);
    host.feed(Input::PeerOpened { peer, transfer: T });
    assert_eq!(host.told(), BTreeMap::from([(3, vec![0, 1, 2, 3])]));
}

#[test]
fn many_peers_are_told_of_the_first_chunks_at_once_and_of_many_together() {
    for (peers, expected) in [(5, 33..=45), (4, 500..=500)] {
        let mut host = Host::new(SWARM, 1000);
        for peer in 1..=peers {
            host.opener(peer);
        }
        host.holder(9, 0..1000);
        host.take();
        let mut announcements = 0;
        for index in 0..500 {
            host.receive(9, index);
            announcements += host.told().remove(&1).map_or(0, |_| 1);
            assert!(index > 4 || announcements == index + 1, "{index}");
            host.pass(ms(10));
        }
        // 5 s at one each 150 ms, and those at once.
        assert!(expected.contains(&announcements), "{announcements}");
        // The last chunk waits for nothing.
        host.holds(500..1000);
        assert!(host.told()[&1].contains(&999));
    }
}

#[test]
fn a_chunk_is_announced_to_those_who_want_to_know_and_lack_it() {
    let mut host = Host::new(SWARM, 10);
    host.holds([3, 4]);
    for peer in 1..=3 {
        host.opener(peer);
    }
    host.connect(4);
    host.available(1, [7]);
    host.available(3, [7, 3]);
    host.take();
    host.receive(1, 7);
    assert_eq!(host.told(), BTreeMap::from([(2, vec![7])]));
    host.opener(5);
    assert_eq!(host.told(), BTreeMap::from([(5, vec![3, 4, 7])]));
    host.feed(Input::PeerClosed {
        peer: PeerId(2),
        transfer: T,
    });
    host.holds([8]);
    assert_eq!(host.told().into_keys().collect::<Vec<_>>(), [1, 3, 5]);
}
