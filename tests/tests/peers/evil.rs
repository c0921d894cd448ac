//! One of four peers misbehaves: the other three finish, whatever it does, and name it.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use scap_agent::swarm::Config;
use scap_proto::identity::SecretKey;
use scap_proto::release::{Directive, SignedDirective, Stage, Targets};
use scap_proto::wire::control::{ControlMessage, Finalize, Order};
use scap_tests::evil::{Conduct, EvilPeer, Original};
use scap_tests::fleet::wait_until;
use serde_json::Value;

use super::catching_up::stable_of;
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

#[test]
fn a7_promises_that_are_broken_again_and_again_hold_nobody_up() {
    honest_hosts_finish_beside(Conduct::BreaksPromises);
}

#[test]
fn t6_a_host_all_of_whose_neighbours_are_evil_is_fed_by_the_seed() {
    let scene = Scene::start(1);
    let commit = scene.commit_payload(PAYLOAD_BYTES / 4, 1);
    let snapshot = scene.snapshot().parse().unwrap();
    let conducts = [
        Conduct::NeverAnswers,
        Conduct::BreaksPromises,
        Conduct::FlipsOneBit,
        Conduct::OneBytePerSecond,
    ];
    let names = ["evil1", "evil2", "evil3", "evil4"];
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let honest = &scene.agents[0];
    let around: Vec<EvilPeer> = names
        .iter()
        .zip(conducts)
        .map(|(name, conduct)| {
            let original = Original::read(&scene.coordinator_store(), snapshot).unwrap();
            let evil = EvilPeer::start(scene.enrol(name), any, original, conduct);
            evil.pursue(honest.id().clone(), honest.address);
            evil
        })
        .collect();
    let others: Vec<_> = names
        .iter()
        .zip(&around)
        .map(|(name, evil)| (*name, evil.address()))
        .collect();
    wait_until("all are linked to it", LINK_MAX, || {
        let linked = around.iter().filter(|it| it.linked().contains(honest.id()));
        let linked = linked.count();
        (linked == names.len()).then_some(()).ok_or(linked)
    });
    let (finished, report) = scene.deploy_with(&commit, &others, &["--topology", "swarm"]);
    assert_eq!(report.failed(), names, "{finished:#?}");
    assert_eq!(report.host(honest.name()).outcome, "promoted");
    scene.assert_all_run(&commit);
    honest.assert_holds_no_bad_chunk();
    let status = honest.status().unwrap();
    let bytes = &status["releases"][0]["bytes"];
    println!(
        "an eclipsed host: {bytes} bytes, shunned {}",
        status["shunned"]
    );
    assert!(bytes["seed"].as_u64() > Some(0), "{bytes}");
}

#[test]
fn a15_what_a_peer_orders_without_authority_is_refused_by_name_and_changes_nothing() {
    let scene = Scene::start(1);
    scene.enrol(EVIL);
    let [older, latest] = [1, 2].map(|seed| {
        let commit = scene.commit_payload(PAYLOAD_BYTES / 16, seed);
        let (finished, _) = scene.deploy(&commit, &[]);
        assert_eq!(finished.code, Some(0), "{finished:#?}");
        (
            commit,
            stable_of(&scene, &scene.agents[0], EVIL, true).remove(0),
        )
    });
    let honest = &scene.agents[0];
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let evil = EvilPeer::start(
        scene.enrol("evil2"),
        any,
        Original::none(),
        Conduct::NeverAnswers,
    );
    // It has the releases and grants, as anybody who catches up has, and no key that counts.
    let key = SecretKey::generate();
    let order = |of: &Finalize, stage: Stage, epoch: u64| {
        let directive = Directive {
            release: of.release.id(),
            epoch,
            number: 1_000_000,
            targets: Targets::All,
            stage,
            plan: None,
            extensions: Default::default(),
        };
        ControlMessage::Order(Box::new(Order {
            release: of.release.clone(),
            grant: of.grant.clone(),
            directive: SignedDirective::sign(&directive, &key),
            plan: None,
        }))
    };
    let mut said = Vec::new();
    for of in [&older.1, &latest.1] {
        for epoch in [1, 2] {
            said.push(order(of, Stage::Promote, epoch));
            said.push(order(of, Stage::Revert, epoch));
        }
    }
    // A manifest that is another's, and one that is no longer the latest.
    said.push(ControlMessage::Finalize(Box::new(Finalize {
        release: latest.1.release.clone(),
        ..older.1.clone()
    })));
    said.push(ControlMessage::Finalize(Box::new(older.1.clone())));
    let count = said.len();
    evil.command(honest.id().clone(), honest.address, said);
    let refused = || {
        let log = honest.log();
        let lines = log.lines().filter(|line| line.contains("refused"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let lines = wait_until("all of it is refused", LINK_MAX, || {
        let lines = refused();
        (lines.len() == count).then(|| lines.clone()).ok_or(lines)
    });
    let by_signature = lines.iter().filter(|it| it.contains("refused-signature"));
    assert_eq!(by_signature.count(), count - 2, "{lines:#?}");
    scene.assert_all_run(&latest.0);
    let status = honest.status().unwrap();
    assert_eq!(status["releases"][0]["commit"], latest.0.as_str());
    assert_eq!(status["releases"][0]["finalized_sequence"], 2);
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
                dropped
                    .iter()
                    .any(|(_, reason)| reason.contains("wrong bytes")),
                "{} asked it {misled} times: {dropped:?}",
                agent.name()
            );
            // The operator hears of it from everybody that it was tried on, at the end of the deployment too.
            let shunned = &serde_json::from_str::<Value>(&finished.stdout).unwrap()["shunned"];
            let of_evil = shunned
                .as_array()
                .unwrap()
                .iter()
                .find(|it| it["peer"] == EVIL);
            let by = of_evil.and_then(|it| it["by"].as_array());
            assert!(
                by.is_some_and(|by| by.iter().any(|it| it == agent.name())),
                "{shunned}"
            );
            let status = agent.status().unwrap();
            assert_eq!(status["shunned"][0]["code"], "wrong-bytes", "{status}");
            assert!(finished.stderr.contains("shunned: evil"), "{finished:#?}");
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
