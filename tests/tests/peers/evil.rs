//! One of four peers misbehaves: the other three finish, whatever it does, and name it.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use scap_agent::swarm::Config;
use scap_tests::evil::{Conduct, EvilPeer, Original};
use scap_tests::fleet::wait_until;

use super::scene::Scene;

#[test]
fn a1_a_flipped_bit_is_refused_and_its_sender_named() {
    honest_hosts_finish_beside(Conduct::FlipsOneBit);
}

#[test]
fn a3_a_short_chunk_is_fetched_elsewhere() {
    honest_hosts_finish_beside(Conduct::ShortThenFin);
}

#[test]
fn a3_a_chunk_that_is_reset_halfway_is_fetched_elsewhere() {
    honest_hosts_finish_beside(Conduct::ResetsMidChunk);
}

#[test]
fn a4_what_comes_after_the_announced_length_is_not_read() {
    honest_hosts_finish_beside(Conduct::Endless);
}

#[test]
fn a4_more_than_a_chunk_can_have_is_not_read() {
    honest_hosts_finish_beside(Conduct::AnnouncesTooLong);
}

#[test]
fn a5_a_zstd_bomb_is_refused() {
    honest_hosts_finish_beside(Conduct::Bomb);
}

#[test]
fn a7_a_byte_a_second_holds_nobody_up() {
    honest_hosts_finish_beside(Conduct::OneBytePerSecond);
}

#[test]
fn a7_no_answer_holds_nobody_up() {
    honest_hosts_finish_beside(Conduct::NeverAnswers);
}

#[test]
fn a8_another_chunk_is_refused() {
    honest_hosts_finish_beside(Conduct::OtherChunk);
}

fn honest_hosts_finish_beside(conduct: Conduct) {
    let scene = Scene::start(3);
    let commit = scene.commit_payload(PAYLOAD_BYTES, 1);
    let snapshot = scene.snapshot().parse().unwrap();
    let original = Original::read(&scene.coordinator_store(), snapshot).unwrap();
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let evil = EvilPeer::start(scene.enrol(EVIL), any, original, conduct);
    // Everybody meets it, whoever dials whom by the plan, and hears what it claims before anybody else.
    for agent in &scene.agents {
        evil.pursue(agent.id().clone(), agent.address);
    }
    wait_until("all are linked to the evil peer", LINK_MAX, || {
        let linked = evil.linked();
        (linked.len() == scene.agents.len())
            .then_some(())
            .ok_or(linked)
    });

    let (finished, report) = scene.deploy(&commit, &[(EVIL, evil.address())]);
    assert_eq!(finished.code, Some(5), "{finished:#?}");
    assert_eq!(report.failed(), [EVIL]);
    assert!(finished.stderr.contains(EVIL), "{finished:#?}");
    scene.assert_all_run(&commit);
    for agent in &scene.agents {
        assert_eq!(report.host(agent.name()).outcome, "promoted");
        let misled = evil.misled(agent.id());
        assert!(misled > 0, "{} never met it", agent.name());
        agent.assert_holds_no_bad_chunk();
        let dropped = agent.dropped_peers();
        assert!(
            dropped.iter().all(|(name, _)| name == EVIL),
            "{}: {dropped:?}",
            agent.name()
        );
        if conduct.is_wrong_bytes() {
            assert!(
                matches!(dropped.as_slice(), [(_, reason)] if reason.contains("WrongBytes")),
                "{} asked it {misled} times: {dropped:?}",
                agent.name()
            );
            assert!(
                misled <= Config::new(0).requests_per_peer_max,
                "{} asked it {misled} times",
                agent.name()
            );
        }
    }
}

/// In the fleet file. Sorted before the others, so that a rule that favours the first favours it.
const EVIL: &str = "evil";

/// Some hundred chunks: more than the seed allots at once, so that all have to look elsewhere too.
const PAYLOAD_BYTES: usize = 16 * 1024 * 1024;

/// The longest that links on one machine may take.
const LINK_MAX: Duration = Duration::from_secs(20);
