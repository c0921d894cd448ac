//! Ctrl-C, and going on after it.

use rustix::process::Signal;
use serde_json::json;

use super::fleet::{Fleet, deployed, fleet_file, host};
use super::process::send_signal;

#[test]
fn an_interrupt_pauses_and_says_how_to_go_on_and_a_second_one_leaves() {
    let fleet = Fleet::start(&["web1", "web2"]);
    let (repo, first) = fleet.scene.repo();
    fleet.deploy_repo();
    repo.write("README.md", "# Another site\n");
    let second = repo.commit("Another");
    let activator = fleet.agents[0].activator().pid;
    send_signal(activator, Signal::STOP);
    let mut deploy = fleet.start_deploy(&["--repo", "repo"]);
    deploy.wait_until_it_says("wave canary: fetch");
    deploy.signal(Signal::INT);
    deploy.wait_until_it_says("scap-coordinator resume");
    deploy.wait_until_it_says("wait paused: web1");
    deploy.signal(Signal::INT);
    let ended = deploy.end().exits(3);
    let ended = ended.says(&["stopped, waiting for paused", "the same command again"]);
    let report = deployed(&ended);
    assert_eq!(
        (&report["outcome"], &report["stopped_on"]),
        (&json!("stopped"), &json!("paused"))
    );
    assert_eq!(host(&report, "web1")["outcome"], "unfinished");
    for agent in &fleet.agents {
        repo.archived(&first).assert_is(&agent.live("repo"));
    }

    send_signal(activator, Signal::CONT);
    let report = fleet.deploy_repo();
    assert_eq!(
        (&report["sequence"], &report["outcome"]),
        (&json!(2), &json!("done"))
    );
    fleet.assert_all_run(&repo, &second);
}

#[test]
fn an_interrupt_before_anybody_was_told_anything_signs_nothing() {
    let fleet = Fleet::start(&["web1"]);
    let (repo, commit) = fleet.scene.repo();
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let silent = silent.local_addr().unwrap().to_string();
    let text = std::fs::read_to_string(fleet.scene.path("fleet.toml")).unwrap();
    let text = format!("{text}{}", fleet_file(&[("web2", &silent, false)]));
    fleet.scene.write("both.toml", text);
    let arguments = [
        "deploy",
        "--state",
        "st",
        "--fleet",
        "both.toml",
        "--repo",
        "repo",
    ];
    let more = ["--yes", "--json", "--connect-timeout", "60"];
    let mut deploy = fleet.scene.start(&[&arguments[..], &more].concat());
    // It waits for web2.
    deploy.wait_until_it_says("deploy repo to production");
    deploy.signal(Signal::INT);
    deploy.end().fails(
        3,
        "interrupted",
        "no host was told anything",
        "the same command again",
    );
    assert!(
        !fleet.scene.path("st/records").exists(),
        "something was signed"
    );
    assert_eq!(
        deployed(&fleet.deploy(&["--repo", "repo"]).exits(0))["sequence"],
        1
    );
    fleet.assert_all_run(&repo, &commit);
}
