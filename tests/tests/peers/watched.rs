//! What an operator hears of hosts that are held back, lose their record, or say that they are well.

use std::net::SocketAddr;
use std::time::Duration;

use scap_tests::fleet::wait_until;
use serde_json::Value;

use super::scene::{Agent, Scene, asking};

/// Of the end of a deployment, what it says of one host.
fn host(stdout: &str, name: &str) -> Value {
    let report: Value = serde_json::from_str(stdout).unwrap();
    let hosts = report["hosts"].as_array().unwrap().iter();
    hosts.clone().find(|it| it["name"] == name).unwrap().clone()
}

fn codes(saw: &Value) -> Vec<&str> {
    let saw = saw.as_array().unwrap().iter();
    saw.map(|it| it["code"].as_str().unwrap()).collect()
}

fn wait_until_status(agent: &Agent, what: &str, is: impl Fn(&Value) -> bool) -> Value {
    wait_until(what, WAIT_MAX, || {
        let status = agent.status()?;
        is(&status)
            .then(|| status.clone())
            .ok_or(status.to_string())
    })
}

#[test]
fn b3_a_host_to_which_nothing_gets_through_says_so_and_the_next_deployment_names_it() {
    let mut scene = Scene::start(1);
    let first = scene.commit_payload(PAYLOAD_BYTES, 1);
    scene.deploy(&first, &[]);
    // All that its peers and the coordinator would say is dropped on the way.
    let nobody = SocketAddr::from(([127, 0, 0, 1], 9));
    scene.add_agent_with([
        asking("silent1", nobody),
        asking("silent2", nobody),
        "--lease-seconds=3".to_owned(),
    ]);
    let frozen = &scene.agents[1];
    let status = wait_until_status(frozen, "it is stale", |status| {
        status["freshness"]["stale_since"].is_string()
    });
    let freshness = &status["freshness"];
    assert_eq!(freshness["lease_secs"], 3, "{freshness}");
    assert!(freshness["stale_secs"].as_u64() >= Some(3), "{freshness}");
    let ready = &scene.agents[0].status().unwrap()["freshness"];
    assert_eq!(
        (&ready["stale_secs"], &ready["stale_since"]),
        (&0.into(), &Value::Null)
    );

    let second = scene.commit_payload(PAYLOAD_BYTES, 2);
    let (finished, _) = scene.deploy(&second, &[]);
    assert_eq!(finished.code, Some(0), "{finished:#?}");
    let stale_since = &host(&finished.stdout, "host2")["stale_since"];
    assert!(stale_since.is_string(), "{finished:#?}");
    assert_eq!(host(&finished.stdout, "host1")["stale_since"], Value::Null);
    let line = "stale  host2: had heard nothing new since ";
    assert!(finished.stderr.contains(line), "{finished:#?}");
    scene.assert_all_run(&second);
}

#[test]
fn b2_a_host_that_lost_its_record_says_so_waits_for_its_peers_and_the_deployment_names_it() {
    let mut scene = Scene::start(3);
    for seed in 1..4 {
        let commit = scene.commit_payload(PAYLOAD_BYTES, seed);
        let (finished, _) = scene.deploy(&commit, &[]);
        assert_eq!(finished.code, Some(0), "{finished:#?}");
        assert!(!finished.stderr.contains("reset"), "{finished:#?}");
    }
    let peers: Vec<String> = scene.agents[1..]
        .iter()
        .map(|peer| asking(peer.name(), peer.address))
        .collect();
    scene.agents[0].lose_data(peers);
    let status = wait_until_status(
        &scene.agents[0],
        "it knows where the others are",
        |status| status["releases"][0]["sequence"] == 3,
    );
    assert_eq!(codes(&status["saw"]), ["state-lost"], "{status}");
    let log = scene.agents[0].log();
    assert!(log.contains("was lost or set back"), "{log}");
    assert!(log.contains("orders are followed again"), "{log}");

    let last = scene.commit_payload(PAYLOAD_BYTES, 4);
    let (finished, _) = scene.deploy(&last, &[]);
    assert_eq!(finished.code, Some(0), "{finished:#?}");
    let lost = host(&finished.stdout, "host1");
    assert_eq!(lost["lost_count"], true, "{finished:#?}");
    assert_eq!(codes(&lost["saw"]), ["state-lost"]);
    assert_eq!(host(&finished.stdout, "host2")["lost_count"], false);
    for line in ["reset  host1: ", "saw  host1: state-lost, once"] {
        assert!(finished.stderr.contains(line), "{line}: {finished:#?}");
    }
    // From then on its new count is the one that counts.
    let again = scene.commit_payload(PAYLOAD_BYTES, 5);
    let (finished, _) = scene.deploy(&again, &[]);
    assert_eq!(host(&finished.stdout, "host1")["lost_count"], false);
    scene.assert_all_run(&again);
}

#[test]
fn t13_hosts_that_say_that_they_are_well_do_not_keep_a_release_that_is_seen_to_be_ill() {
    let mut scene = Scene::start(2);
    let seen = tempfile::NamedTempFile::new().unwrap();
    let rollout = |ends: &str| {
        let file = seen.path().display();
        let script = format!("echo $SCAP_WAVE $* >> {file}; {ends}");
        format!("[rollout]\nexternal_check = ['sh', '-c', '{script}', 'look']\n\n")
    };
    let well = scene.commit_payload(PAYLOAD_BYTES, 1);
    scene.rollout = rollout("exit 0");
    let (finished, _) = scene.deploy(&well, &[]);
    assert_eq!(finished.code, Some(0), "{finished:#?}");
    let all = "rest host1 host2\n";
    assert_eq!(std::fs::read_to_string(seen.path()).unwrap(), all);

    let ill = scene.commit_payload(PAYLOAD_BYTES, 2);
    scene.rollout = rollout("echo 503 from host2 >&2; exit 1");
    let (finished, _) = scene.deploy(&ill, &[]);
    assert_eq!(finished.code, Some(4), "{finished:#?}");
    let said = "the external check of wave rest failed: exit status: 1: 503 from host2";
    assert!(finished.stderr.contains(said), "{finished:#?}");
    assert!(
        finished.stderr.contains("[external-check-failed]"),
        "{finished:#?}"
    );
    scene.assert_all_run(&well);
}

/// Some dozen chunks.
const PAYLOAD_BYTES: usize = 2 * 1024 * 1024;

/// The longest that something may take on one machine, which may be busy.
const WAIT_MAX: Duration = Duration::from_secs(60);
