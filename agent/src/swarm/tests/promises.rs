//! Peers that do not give what they say they have.

use super::*;

#[test]
fn a_peer_that_changes_its_mind_again_and_again_is_asked_no_more() {
    let limit = Config::new(0).requests_per_peer_max;
    let mut host = Host::new(SWARM, 1);
    host.holder(1, [0]);
    host.holder(2, []);
    // Once is no fault, nor is what crossed our requests.
    for asked in 0..=limit {
        assert_eq!(host.requests(), [(1, 0)], "after {asked}");
        host.fail(1, 0, Failure::NotHeld);
        assert_eq!(host.drops(), [], "after {asked}");
        host.available(1, [0]);
    }
    assert_eq!(host.requests(), [(1, 0)]);
    host.fail(1, 0, Failure::NotHeld);
    assert_eq!(host.drops(), [(1, DropReason::BrokenPromises)]);
    assert!(!DropReason::BrokenPromises.is_misbehaviour());
    host.available(1, [0]);
    assert_eq!(host.requests(), []);
    host.available(2, [0]);
    assert_eq!(host.requests(), [(2, 0)]);
}

#[test]
fn a_peer_that_has_none_of_what_it_said_is_asked_once_for_each_and_is_no_liar() {
    let mut host = Host::new(SWARM, 500);
    host.holder(1, 0..500);
    let mut asked = BTreeSet::new();
    loop {
        let requests = host.requests();
        if requests.is_empty() {
            break;
        }
        for (peer, index) in requests {
            assert!(asked.insert(index), "{index} was asked for twice");
            host.fail(peer, index, Failure::NotHeld);
        }
    }
    assert_eq!(asked.len(), 500);
    assert_eq!(host.drops(), []);
}
