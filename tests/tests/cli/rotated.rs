//! A fleet moves to a new authority, with a deployment during every step.

use scap_tests::fleet::wait_until;
use scap_tests::repo::{SourceRepo, write_incompressible};
use serde_json::{Value, json};

use super::fleet::{Agent, Fleet, deployed, enroll, host};
use super::process::{Ended, LIMIT};
use super::revoked::trust;

/// A deployment of something new, slow enough that `step` falls into it; it reaches all hosts.
#[track_caller]
fn during<T>(fleet: &Fleet, repo: &SourceRepo, seed: u64, step: impl FnOnce() -> T) -> T {
    write_incompressible(&repo.dir().join("payload.bin"), 3_000_000, seed);
    let commit = repo.commit(&format!("Payload {seed}"));
    let mut deploying = fleet.start_deploy(&["--repo", "repo", "--upload-mbit", "8"]);
    wait_until("the deployment has begun", LIMIT, || {
        assert!(!deploying.is_over(), "{}", deploying.said());
        let release = fleet.release_of("web1");
        let is_on_its_way = release["commit"] == commit && release["state"] == "working";
        is_on_its_way.then_some(()).ok_or(release)
    });
    let done = step();
    let report = deployed(&deploying.end().exits(0));
    assert_eq!(
        report["hosts"].as_array().unwrap().len(),
        fleet.agents.len()
    );
    fleet.assert_all_run(repo, &commit);
    done
}

fn ca(fleet: &Fleet, arguments: &[&str]) -> Ended {
    let common = ["--state", "st", "--fleet", "fleet.toml", "--wait", "10"];
    fleet.scene.scap(&[&["ca"], arguments, &common].concat())
}

/// Of each host the number that it holds to, and which authority issued its certificate.
fn standings(fleet: &Fleet) -> Vec<(u64, String)> {
    let said = ca(fleet, &["status", "--json"]).exits(0).json("scap.ca/1");
    let hosts = said["hosts"].as_array().unwrap().iter();
    let of = |host: &Value| {
        let standing = &host["standing"];
        let issuer = standing["issuer"].as_str().unwrap().to_owned();
        (standing["number"].as_u64().unwrap(), issuer)
    };
    hosts.map(of).collect()
}

/// Enrols a host again, in place of the identity that it has.
fn enroll_again(fleet: &mut Fleet, at: usize) {
    let agent = fleet.agents.remove(at);
    let (name, address) = (agent.name().to_owned(), agent.address.clone());
    agent.stop();
    std::fs::remove_dir_all(fleet.scene.path(&name).join("identity")).unwrap();
    enroll(&fleet.scene, &name, &[]);
    let again = Agent::start_at(&fleet.scene, &name, &address);
    fleet.agents.insert(at, again);
}

#[test]
fn e5_a_fleet_moves_to_a_new_authority_with_a_deployment_during_every_step() {
    let mut fleet = Fleet::start(&["web1", "web2", "web3"]);
    let (repo, _) = fleet.scene.repo();
    fleet.deploy_repo();
    let present = |number| (number, "present".to_owned());
    let other = |number| (number, "other".to_owned());

    let switch = ["rotate", "--switch"];
    ca(&fleet, &switch)
        .exits(1)
        .says(&["there is no new authority to switch to"]);
    during(&fleet, &repo, 1, || {
        ca(&fleet, &["rotate", "--begin"])
            .exits(0)
            .prints(&["the new authority is made", "told 3 of 3 hosts in "]);
    });
    assert_eq!(standings(&fleet), [present(1), present(1), present(1)]);
    for agent in &fleet.agents {
        assert_eq!(trust(&fleet.scene, agent.name())["authorities"], 2);
    }

    during(&fleet, &repo, 2, || {
        ca(&fleet, &switch)
            .exits(0)
            .prints(&["the new authority issues from now on"]);
    });
    assert_eq!(standings(&fleet), [other(1), other(1), other(1)]);
    // This coordinator has a certificate of the new one, and a host that is installed now too; both are let in.
    fleet.agents.push(Agent::start(&fleet.scene, "web4"));
    fleet.write_fleet_file();
    during(&fleet, &repo, 3, || ());
    assert_eq!(standings(&fleet)[3], present(1));

    let finish = ["rotate", "--finish"];
    let refused = ca(&fleet, &finish).exits(3);
    refused.says(&[
        "3 hosts have no certificate of the new authority yet: web1, web2, web3 (web1: its certificate is of the old authority)",
    ]);
    // One after the other, as a deployment goes on.
    for at in 0..2 {
        enroll_again(&mut fleet, at);
        fleet.deploy_repo();
    }
    assert_eq!(
        standings(&fleet),
        [present(1), present(1), other(1), present(1)]
    );
    ca(&fleet, &finish)
        .exits(3)
        .says(&["1 hosts have no certificate", ": web3 ("]);

    // It was forgotten, and is cut off, with the reason; all others do not notice.
    let forgotten = fleet.agents.remove(2);
    fleet.write_fleet_file();
    during(&fleet, &repo, 4, || {
        ca(&fleet, &finish)
            .exits(0)
            .prints(&["the old authority counts no more", "told 3 of 3"]);
    });
    assert_eq!(standings(&fleet), [present(2), present(2), present(2)]);
    fleet.agents.insert(2, forgotten);
    fleet.write_fleet_file();
    let cut = [
        "--budget",
        "1",
        "--connect-timeout",
        "2",
        "--away-timeout",
        "2",
    ];
    let report = fleet
        .deploy(&[&["--repo", "repo"], &cut[..]].concat())
        .exits(5);
    let report = deployed(&report);
    let error = host(&report, "web3")["error"].to_string();
    assert!(
        error.contains("old authority: agent web3 of fleet"),
        "{error}"
    );
    assert!(error.contains("enroll the host again"), "{error}");
    assert_eq!(trust(&fleet.scene, "web1")["authorities"], json!(1));

    enroll_again(&mut fleet, 2);
    fleet.deploy_repo();
    assert_eq!(
        standings(&fleet),
        [present(2), present(2), present(2), present(2)]
    );
    // After a restart too: what was believed first is in no identity any more.
    for at in 0..4 {
        let agent = fleet.agents.remove(at);
        let (name, address) = (agent.name().to_owned(), agent.address.clone());
        agent.stop();
        fleet
            .agents
            .insert(at, Agent::start_at(&fleet.scene, &name, &address));
    }
    during(&fleet, &repo, 5, || ());
}

#[test]
fn hosts_get_certificates_of_the_new_authority_by_renewal_and_need_not_be_enrolled_again() {
    let mut fleet = Fleet::start(&["web1", "web2"]);
    let (repo, _) = fleet.scene.repo();
    fleet.deploy_repo();
    for step in ["--begin", "--switch"] {
        ca(&fleet, &["rotate", step]).exits(0);
    }
    let renew = ["renew", "--all", "--state", "st", "--fleet", "fleet.toml"];
    fleet.scene.scap(&renew).exits(0);
    let present = |number| (number, "present".to_owned());
    assert_eq!(standings(&fleet), [present(1), present(1)]);
    ca(&fleet, &["rotate", "--finish"])
        .exits(0)
        .prints(&["the old authority counts no more", "told 2 of 2"]);
    for at in 0..2 {
        let agent = fleet.agents.remove(at);
        let (name, address) = (agent.name().to_owned(), agent.address.clone());
        agent.stop();
        fleet
            .agents
            .insert(at, Agent::start_at(&fleet.scene, &name, &address));
    }
    during(&fleet, &repo, 1, || ());
    assert_eq!(standings(&fleet), [present(2), present(2)]);
}
