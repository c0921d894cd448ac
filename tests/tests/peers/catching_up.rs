//! A peer with a valid identity calls stable what is not: it gets nowhere, and is named.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use scap_agent::node::Node;
use scap_agent::store::{Store, StoreConfig};
use scap_proto::id::NodeId;
use scap_proto::transport::RateCaps;
use scap_proto::wire::{control::Finalize, stable::StableQuestion};
use scap_tests::evil::{Conduct, EvilPeer, Original};
use scap_tests::fleet::wait_until;
use serde_json::Value;

use super::scene::{Agent, Scene};

/// What an agent says is stable, to a host that was enrolled.
pub fn stable_of(scene: &Scene, agent: &Agent, asker: &str, is_member: bool) -> Vec<Finalize> {
    let dir = tempfile::tempdir().unwrap();
    let trust = scene.trust(asker);
    let question = StableQuestion {
        repo: None,
        environment: None,
        membership: trust.membership.get().filter(|_| is_member),
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let (store, _) = Store::open(dir.path(), StoreConfig::default()).unwrap();
        let identity = Arc::clone(&trust.identity);
        let caps = RateCaps::default();
        let (node, _tasks) = Node::start(identity, None, store, None, caps).unwrap();
        let addresses = [agent.address];
        let asked = node.ask_stable(agent.id(), &addresses, &question);
        asked.await.unwrap()
    })
}

#[test]
fn what_is_older_unfinalized_or_unsigned_gets_an_attacker_nowhere() {
    let mut scene = Scene::start(2);
    let older = scene.commit_payload(PAYLOAD_BYTES, 1);
    scene.deploy(&older, &[]);
    let identity = scene.enrol(EVIL);
    let older = stable_of(&scene, &scene.agents[0], EVIL, true);
    assert_eq!(older.len(), 1);
    let stable = scene.commit_payload(PAYLOAD_BYTES, 2);
    let snapshot = scene.snapshot().parse().unwrap();
    scene.deploy(&stable, &[]);
    let latest = stable_of(&scene, &scene.agents[0], EVIL, true);
    let unfinalized = Finalize {
        finalization: older[0].finalization.clone(),
        ..latest[0].clone()
    };
    let mut unsigned = latest[0].clone();
    unsigned.release.signatures.clear();

    let original = Original::read(&scene.coordinator_store(), snapshot).unwrap();
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let evil = EvilPeer::start(identity, any, original, Conduct::FlipsOneBit);
    let honest = (scene.agents[0].name().to_owned(), scene.agents[0].address);
    let evil_too = (EVIL, evil.address());
    let offers = [older.clone(), vec![unfinalized], vec![unsigned], latest];
    for (number, offer) in offers.into_iter().enumerate() {
        evil.call_stable(offer);
        scene.add_agent_asking(&[evil_too, (&honest.0, honest.1)]);
        let new = scene.agents.last().unwrap();
        let status = wait_until("the newcomer has what is stable", CATCH_UP_MAX, || {
            let status = new.status()?;
            let release = &status["releases"][0];
            let is_there = release["sequence"] == 2 && release["state"] == "done";
            is_there.then(|| status.clone()).ok_or(status.to_string())
        });
        scene.assert_all_run(&stable);
        new.assert_holds_no_bad_chunk();
        let catch_up = &status["catch_up"];
        let named = |list: &str| -> Vec<&Value> {
            let list = catch_up[list].as_array().unwrap().iter();
            list.map(|it| &it["peer"]).collect()
        };
        let (behind, disbelieved) = (named("behind"), named("disbelieved"));
        match number {
            0 => assert_eq!(
                (behind, disbelieved.len()),
                (vec![&EVIL.into()], 0),
                "{catch_up}"
            ),
            1 | 2 => {
                assert_eq!(
                    (behind.len(), disbelieved),
                    (0, vec![&EVIL.into()]),
                    "{catch_up}"
                );
                assert!(new.log().contains("is not believed"), "{}", new.log());
            }
            // It says the truth, and sends other bytes: it is asked no more.
            _ => {
                let dropped = new.dropped_peers();
                let id: NodeId = new.id().clone();
                assert!(
                    evil.misled(&id) == 0 || dropped.iter().all(|(name, _)| name == EVIL),
                    "{dropped:?}"
                );
            }
        }
    }

    // Nor does it with a host that has what is stable.
    evil.call_stable(older);
    let settled = &scene.agents[2];
    let pulled = settled.ask(&["pull"]);
    assert_eq!(pulled.code, Some(0), "{pulled:#?}");
    let status = settled.status().unwrap();
    let behind = &status["catch_up"]["behind"];
    let expected = serde_json::json!({
        "peer": EVIL, "repo": "site", "environment": "production", "sequence": 1, "stable": 2,
    });
    assert_eq!(behind.as_array().unwrap(), &[expected]);
    scene.assert_all_run(&stable);
}

#[test]
fn an_old_release_from_the_only_peer_that_answers_is_not_taken_by_a_host_that_knows_nothing() {
    let mut scene = Scene::start(1);
    let commit = scene.commit_payload(PAYLOAD_BYTES, 1);
    scene.deploy(&commit, &[]);
    let nobody = SocketAddr::from((Ipv4Addr::LOCALHOST, 9));
    let first = (scene.agents[0].name().to_owned(), scene.agents[0].address);
    scene.add_agent_asking(&[(&first.0, first.1), (EVIL, nobody)]);
    let new = &scene.agents[1];
    let status = wait_until("it has asked both", CATCH_UP_MAX, || {
        let status = new.status()?;
        let rounds = status["catch_up"]["rounds"].as_u64();
        (rounds >= Some(1))
            .then(|| status.clone())
            .ok_or(status.to_string())
    });
    assert_eq!(status["releases"].as_array().unwrap().len(), 0, "{status}");
    let waiting = status["catch_up"]["waiting"].as_str().unwrap();
    assert!(waiting.contains("1 of 2 answered"), "{waiting}");
    let pulled = new.ask(&["pull"]);
    assert_eq!(pulled.code, Some(1), "{pulled:#?}");
    assert!(!new.live().exists());
}

#[test]
fn a_control_stream_that_brings_nothing_does_not_hide_that_a_host_hears_nothing() {
    let mut scene = Scene::start(1);
    let identity = scene.enrol(EVIL);
    let commit = scene.commit_payload(PAYLOAD_BYTES, 1);
    scene.deploy(&commit, &[]);
    let snapshot = scene.snapshot().parse().unwrap();
    let original = Original::read(&scene.coordinator_store(), snapshot).unwrap();
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let evil = EvilPeer::start(identity, any, original, Conduct::FlipsOneBit);
    let nobody = SocketAddr::from((Ipv4Addr::LOCALHOST, 9));
    scene.add_agent_asking(&[("silent1", nobody), ("silent2", nobody)]);
    let new = &scene.agents[1];
    evil.hold_control(new.id().clone(), new.address);
    let opened = format!("control stream opened from={EVIL}");
    wait_until("the stream is taken", CATCH_UP_MAX, || {
        let log = new.log();
        log.contains(&opened).then_some(()).ok_or(log)
    });
    // After the stream was opened.
    assert_eq!(new.ask(&["pull"]).code, Some(1));
    let catch_up = &new.status().unwrap()["catch_up"];
    assert!(catch_up["stale_secs"].is_u64(), "{catch_up}");
}

#[test]
fn who_may_not_have_a_release_hears_nothing_of_it() {
    let scene = Scene::start(1);
    let commit = scene.commit_payload(PAYLOAD_BYTES, 1);
    scene.deploy(&commit, &[]);
    scene.enrol("new");
    scene.enrol_in("elsewhere", &["staging"]);
    let agent = &scene.agents[0];
    assert_eq!(stable_of(&scene, agent, "new", true).len(), 1);
    // No plan names it, and it does not show what it is in; or it is in another environment.
    assert_eq!(stable_of(&scene, agent, "new", false).len(), 0);
    assert_eq!(stable_of(&scene, agent, "elsewhere", true).len(), 0);
}

/// Asserts that an agent runs a commit once it has asked its peers.
fn pulls(scene: &Scene, agent: &Agent, code: i32, commit: &str) {
    let pulled = agent.ask(&["pull"]);
    assert_eq!(pulled.code, Some(code), "{pulled:#?}\n{}", agent.log());
    scene.repo.archived(commit).assert_is(&agent.live());
}

#[test]
fn a_release_that_is_tried_on_one_host_stays_there_until_it_is_deployed_to_all() {
    let mut scene = Scene::start(2);
    let first = scene.commit_payload(PAYLOAD_BYTES, 1);
    scene.deploy(&first, &[]);
    let peers =
        [0, 1].map(|at: usize| (scene.agents[at].name().to_owned(), scene.agents[at].address));
    let peers = [
        (peers[0].0.as_str(), peers[0].1),
        (peers[1].0.as_str(), peers[1].1),
    ];
    scene.add_agent_asking(&peers);
    wait_until("it has what is stable", CATCH_UP_MAX, || {
        let there = scene.agents[2].live().exists();
        there.then_some(()).ok_or(scene.agents[2].log())
    });

    let second = scene.commit_payload(PAYLOAD_BYTES, 2);
    let (tried, _) = scene.deploy_with(&second, &[], &["-l", "host1"]);
    assert_eq!(tried.code, Some(0), "{tried:#?}");
    scene
        .repo
        .archived(&second)
        .assert_is(&scene.agents[0].live());
    pulls(&scene, &scene.agents[2], 0, &first);
    // A newcomer, which has also who tries it to ask, gets what is for all, and from that one too.
    scene.enrol("asker");
    let stable = stable_of(&scene, &scene.agents[0], "asker", true);
    assert_eq!(stable.len(), 2);
    scene.add_agent_asking(&peers);
    let new = &scene.agents[3];
    let status = wait_until("the newcomer has what is stable", CATCH_UP_MAX, || {
        let status = new.status()?;
        let is_there = status["releases"][0]["state"] == "done";
        is_there.then(|| status.clone()).ok_or(status.to_string())
    });
    assert_eq!(status["releases"][0]["sequence"], 1, "{status}");
    let catch_up = &status["catch_up"];
    for list in ["behind", "disbelieved"] {
        assert_eq!(catch_up[list], serde_json::json!([]), "{catch_up}");
    }
    scene.repo.archived(&first).assert_is(&new.live());

    // The same commit for all, while one of them is away: it is another release, and reaches it as it catches up.
    let away = scene.agents.pop().unwrap();
    let last = scene.agents.pop().unwrap();
    let (all, _) = scene.deploy(&second, &[]);
    assert_eq!(all.code, Some(0), "{all:#?}");
    for agent in [last, away] {
        pulls(&scene, &agent, 10, &second);
        let status = agent.status().unwrap();
        assert_eq!(status["releases"][0]["sequence"], 3, "{status}");
        scene.agents.push(agent);
    }
    let stable = stable_of(&scene, &scene.agents[0], "asker", true);
    assert_eq!(stable.len(), 1, "it is for all, and nothing else is stable");
    scene.assert_all_run(&second);
}

#[test]
fn t8_what_was_made_stable_before_its_coordinator_was_revoked_reaches_who_catches_up() {
    let mut scene = Scene::start(2);
    let commit = scene.commit_payload(PAYLOAD_BYTES, 1);
    scene.deploy(&commit, &[]);
    scene.revoke_coordinator();
    let peers =
        [0, 1].map(|at: usize| (scene.agents[at].name().to_owned(), scene.agents[at].address));
    let peers = [
        (peers[0].0.as_str(), peers[0].1),
        (peers[1].0.as_str(), peers[1].1),
    ];
    // It knows of the revocation from the start, and takes releases from that coordinator alone.
    scene.add_agent_asking(&peers);
    let new = &scene.agents[2];
    let origins = scene.trust(new.name()).origins().to_string();
    assert_eq!(origins, "coordinator");
    wait_until("it has what is stable", CATCH_UP_MAX, || {
        let status = new.status()?;
        let is_there = status["releases"][0]["state"] == "done";
        is_there.then_some(()).ok_or(status.to_string())
    });
    scene.assert_all_run(&commit);
}

/// In no fleet file. Sorted before the others, so that a rule that favours the first favours it.
const EVIL: &str = "evil";

/// Some dozen chunks.
const PAYLOAD_BYTES: usize = 2 * 1024 * 1024;

/// The longest that catching up may take on one machine, which may be busy.
const CATCH_UP_MAX: Duration = Duration::from_secs(60);
