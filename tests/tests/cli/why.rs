//! `why HOST`: by the deployment that runs, and by the last record.

use rustix::process::Signal;
use serde_json::{Value, json};

use super::fleet::{Fleet, deployed, host};
use super::process::{Ended, send_signal};
use super::rollout::{SOAK, wait_for};
use super::state_branch::commit;

fn why(fleet: &Fleet, host: &str, more: &[&str]) -> Ended {
    let arguments = ["why", host, "--state", "st", "--repo", "repo"];
    fleet.scene.scap(&[&arguments[..], more].concat())
}

/// The one answer there is.
fn chain(fleet: &Fleet, host: &str) -> (Value, Vec<String>) {
    let all = why(fleet, host, &["--json"]).exits(0).json("scap.why/1");
    let found = all["found"].as_array().unwrap();
    assert_eq!((found.len(), &all["host"]), (1, &json!(host)), "{all:#}");
    let links = found[0]["chain"].as_array().unwrap();
    let link = |link: &Value| format!("{}: {}", link["about"], link["text"]).replace('"', "");
    (found[0].clone(), links.iter().map(link).collect())
}

#[test]
fn a_host_is_led_back_to_what_it_waits_for_while_it_runs_and_after() {
    let mut fleet = Fleet::start(&["web1", "web2", "web3"]);
    let (repo, _) = fleet.scene.repo();
    fleet.deploy_repo();
    let text = std::fs::read_to_string(fleet.scene.path("fleet.toml")).unwrap();
    fleet.scene.write("fleet.toml", format!("{SOAK}\n{text}"));
    commit(&repo, "2");
    let activator = fleet.agents[0].activator().pid;
    send_signal(activator, Signal::STOP);
    let mut deploy = fleet.start_deploy(&["--repo", "repo", "--away-timeout", "2"]);
    wait_for(&fleet, &mut deploy, "chunks");
    let (found, links) = chain(&fleet, "web2");
    assert_eq!(
        (&found["from"], &found["wave"], &found["state"]),
        (&json!("deployment"), &json!("rest"), &json!("waiting"))
    );
    let turn = "rollout: it is the turn of wave canary; the rollout waits for chunks";
    assert_eq!(links, ["state: it was told nothing yet", turn]);
    scap_tests::fleet::wait_until("web1 says what it waits for", super::process::LIMIT, || {
        let (_, links) = chain(&fleet, "web1");
        match links.contains(&"host: it says that it waits for the activator".to_owned()) {
            true => Ok(()),
            false => Err(links),
        }
    });
    send_signal(activator, Signal::CONT);
    wait_for(&fleet, &mut deploy, "soak");
    let (found, links) = chain(&fleet, "web1");
    assert_eq!(
        (&found["live"], &found["wait"]["on"]),
        (&json!(true), &json!("soak"))
    );
    let soak = "rollout: the rollout waits for soak of wave canary";
    assert_eq!(
        links,
        [
            "state: it has the release live, which is not stable yet",
            soak
        ]
    );
    why(&fleet, "web1", &[]).exits(0).prints(&[
        "web1  repo to production",
        "wave canary",
        "the rollout waits for soak of wave canary",
        " s left",
        "next promote",
    ]);

    // One that is gone says nothing itself.
    fleet.agents.pop().unwrap().stop().exits(0);
    scap_tests::fleet::wait_until("web3 is away", super::process::LIMIT, || {
        let (_, links) = chain(&fleet, "web3");
        match links
            .iter()
            .any(|link| link.starts_with("away: it is not reached: "))
        {
            true => Ok(()),
            false => Err(links),
        }
    });
    fleet.scene.scap(&["promote", "--state", "st"]).exits(0);
    let report = deployed(&deploy.end().exits(3));
    let reason = host(&report, "web3")["error"].as_str().unwrap().to_owned();
    let (found, links) = chain(&fleet, "web3");
    assert_eq!(
        (&found["from"], &found["state"]),
        (&json!("record"), &json!("unreachable"))
    );
    assert_eq!(
        links[0],
        format!("state: unreachable: {reason}").replace('"', "")
    );
    assert!(
        links[1].starts_with("rollout: release #2 is stopped, begun "),
        "{links:?}"
    );
    assert_eq!(found["moves"], "resume --repo PATH --fleet FILE");
    why(&fleet, "web3", &[])
        .exits(0)
        .prints(&["as it was recorded last", "next resume"]);
    why(&fleet, "web9", &[]).fails(1, "say why", "nothing is recorded of host web9", "status");
}
