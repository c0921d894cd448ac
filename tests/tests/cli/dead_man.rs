//! Hosts that go back by themselves when nobody directs them any more.

use rustix::process::Signal;
use scap_tests::fleet::wait_until;
use serde_json::{Value, json};

use super::fleet::{Fleet, deployed, host};
use super::flips::Flips;
use super::process::LIMIT;
use super::rollout::{SOAK, wait_for};
use super::state_branch::commit;

/// The least there may be, so that a test waits for no longer.
const TIME: &[&str] = &["--dead-man", "10s"];

/// The canary soaks until somebody ends it.
fn soaking(names: &[&str]) -> Fleet {
    let fleet = Fleet::start(names);
    let text = std::fs::read_to_string(fleet.scene.path("fleet.toml")).unwrap();
    fleet.scene.write("fleet.toml", format!("{SOAK}\n{text}"));
    fleet
}

fn start(fleet: &Fleet) -> super::process::Running {
    fleet.start_deploy(&[&["--repo", "repo"], TIME].concat())
}

/// Waits until the canary says that.
fn wait_until_canary(fleet: &Fleet, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    wait_until(what, LIMIT, || {
        let release = fleet.release_of("web1");
        if is_so(&release) {
            Ok(release)
        } else {
            Err(release)
        }
    })
}

#[test]
fn who_hears_of_nobody_goes_back_by_itself_and_stays_there_over_a_restart() {
    let mut fleet = soaking(&["web1", "web2"]);
    let (repo, first) = fleet.scene.repo();
    fleet.deploy(&["--repo", "repo", "--soak", "0"]).exits(0);
    let second = commit(&repo, "2");
    let flips = Flips::of(&fleet.agents[0].live("repo"));
    let mut deploy = start(&fleet);
    wait_for(&fleet, &mut deploy, "soak");
    deploy.signal(Signal::KILL);
    deploy.end();
    // The agent's restart does not begin the time anew, nor does it forget.
    let agent = fleet.agents.remove(0);
    let address = agent.address.clone();
    drop(agent);
    let again = super::fleet::Agent::start_at(&fleet.scene, "web1", &address);
    fleet.agents.insert(0, again);
    let release = fleet.release_of("web1");
    assert_eq!(release["live_commit"], second.as_str());
    let left = release["goes_back_in_seconds"].as_u64().unwrap();
    assert!(left < 10, "{release:#}");

    let went_back = |release: &Value| release["state"] == "failed";
    let release = wait_until_canary(&fleet, "it goes back by itself", went_back);
    let reason = "it went back by itself: nobody directed the release for 10 s";
    assert_eq!(
        (&release["reason"], &release["live_commit"]),
        (&json!(reason), &json!(first))
    );
    assert_eq!(release["goes_back_in_seconds"], Value::Null);
    assert_eq!(flips.take(), 2, "there and back");
    repo.archived(&first)
        .assert_is(&fleet.agents[0].live("repo"));
    drop(fleet.agents.remove(0));
    let again = super::fleet::Agent::start_at(&fleet.scene, "web1", &address);
    fleet.agents.insert(0, again);
    let release = wait_until_canary(&fleet, "it is where it was", went_back);
    assert_eq!(release["reason"], reason);
    assert_eq!(flips.take(), 0, "it does not go forward again");

    // By a person's will it does.
    let arguments = [
        "resume",
        "--state",
        "st",
        "--fleet",
        "fleet.toml",
        "--repo",
        "repo",
        "--yes",
    ];
    fleet
        .scene
        .scap(&[&arguments[..], &["--soak", "0"]].concat())
        .exits(0);
    fleet.assert_all_run(&repo, &second);
    assert_eq!(flips.take(), 1);
}

#[test]
fn while_somebody_is_there_nobody_goes_back_and_what_is_stable_stays() {
    let fleet = soaking(&["web1", "web2"]);
    let (repo, _) = fleet.scene.repo();
    fleet.deploy(&["--repo", "repo", "--soak", "0"]).exits(0);
    let second = commit(&repo, "2");
    let flips = Flips::of(&fleet.agents[0].live("repo"));
    let mut deploy = start(&fleet);
    wait_for(&fleet, &mut deploy, "soak");
    // Longer than the time, and paused for a part of it.
    let began = std::time::Instant::now();
    let paused = |command| fleet.scene.scap(&[command, "--state", "st"]).exits(0);
    paused("pause");
    wait_until(
        "twelve seconds pass, and it keeps what it has",
        LIMIT,
        || {
            let release = fleet.release_of("web1");
            assert_eq!(release["live_commit"], second.as_str(), "{release:#}");
            let left = release["goes_back_in_seconds"].as_u64().unwrap();
            assert!(left > 0, "{release:#}");
            if began.elapsed().as_secs() >= 12 {
                Ok(())
            } else {
                Err(release)
            }
        },
    );
    paused("resume");
    fleet.scene.scap(&["promote", "--state", "st"]).exits(0);
    let report = deployed(&deploy.end().exits(0));
    assert_eq!(report["dead_man_seconds"], 10);
    assert_eq!(host(&report, "web1")["outcome"], "promoted");
    let release = fleet.release_of("web1");
    assert_eq!(release["goes_back_in_seconds"], Value::Null, "{release:#}");
    fleet.assert_all_run(&repo, &second);
    assert_eq!(flips.take(), 1);
}

#[test]
fn a_host_that_was_cut_off_and_went_back_counts_as_failed() {
    let fleet = soaking(&["web1", "web2"]);
    let (repo, first) = fleet.scene.repo();
    fleet.deploy(&["--repo", "repo", "--soak", "0"]).exits(0);
    commit(&repo, "2");
    let mut deploy = start(&fleet);
    wait_for(&fleet, &mut deploy, "soak");
    // The coordinator is there and says nothing.
    deploy.signal(Signal::STOP);
    wait_until_canary(&fleet, "it goes back by itself", |release| {
        release["state"] == "failed"
    });
    deploy.signal(Signal::CONT);
    let ended = deploy.end().exits(4);
    let report = deployed(&ended.says(&[
        "failed web1: it went back by itself: nobody directed the release for 10 s",
        "every host runs what it ran before",
    ]));
    let lost = host(&report, "web1");
    assert!(
        lost["error"].as_str().unwrap().contains("by itself"),
        "{lost:#}"
    );
    for agent in &fleet.agents {
        repo.archived(&first).assert_is(&agent.live("repo"));
    }
}

#[test]
fn a_time_that_cannot_be_kept_is_refused_before_anybody_is_contacted() {
    let fleet = Fleet::start(&["web1"]);
    fleet.scene.repo();
    let flag = fleet.deploy(&["--repo", "repo", "--dead-man", "5s"]);
    flag.fails_as_misuse(&["5 s, and 10 s to 86400 s are allowed"]);
    let text = std::fs::read_to_string(fleet.scene.path("fleet.toml")).unwrap();
    let text = format!("[rollout]\ndead_man = 90000\n{text}");
    fleet.scene.write("fleet.toml", text);
    let file = fleet.deploy(&["--repo", "repo"]);
    file.fails(2, "read `dead_man` of [rollout]", "90000 s", "leave it out");
    assert_eq!(fleet.release_of("web1"), Value::Null);
}
