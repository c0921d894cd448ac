//! The coordinator is gone: hosts that were away, lost their disk or are new get the stable release from their peers.

use std::time::Duration;

use scap_tests::fleet::{Fleet, Host, wait_until};
use scap_tests::under_test;

use crate::scene::{REPO, Scene, runs};

/// A fleet whose last host is installed later, and is in no fleet file.
fn start_without_the_last(hosts: u16) -> Option<Scene> {
    let builder = Fleet::builder(under_test!()).hosts(hosts).canaries(1);
    let fleet = builder.build()?;
    fleet.enrol();
    let (_, first) = fleet.hosts().split_last().unwrap();
    fleet.coordinator().write_fleet_file(first.iter());
    for host in first {
        host.spawn_agent();
    }
    for host in first {
        host.wait_ready();
    }
    Some(Scene::with(fleet))
}

#[track_caller]
fn wait_for(host: &Host, commit: &str) {
    let what = format!("{} runs {commit}", host.name());
    wait_until(&what, CATCH_UP_MAX, || {
        let status = || host.run(&["status"]).stdout;
        runs(host, commit).then_some(()).ok_or_else(status)
    });
}

#[test]
fn a_wiped_host_and_a_new_one_reach_the_stable_release_with_no_coordinator() {
    let Some(scene) = start_without_the_last(4) else {
        return;
    };
    scene.commit_payload(1_000_000, 1);
    let coordinator = scene.fleet.coordinator();
    coordinator.deploy(scene.repo.dir(), &[]).expect_done();
    let commit = scene.commit_payload(6_000_000, 2);
    coordinator.deploy(scene.repo.dir(), &[]).expect_done();
    coordinator.station().link_down();
    let [first, second, wiped, new] = scene.fleet.hosts() else {
        panic!("there are four");
    };

    // One that serves is started anew: it has the release in its store.
    first.terminate();
    first.spawn_agent();
    first.wait_ready();
    wiped.terminate();
    wiped.wipe();
    wiped.spawn_agent_asking(&[first, second], &[]);
    wiped.wait_ready();
    wait_for(wiped, &commit);
    scene.assert_runs(wiped, &commit);
    let release = wiped.newest_release(REPO).unwrap();
    assert_eq!((release.sequence, release.state.as_str()), (2, "done"));

    // A host that has caught up feeds the next.
    second.terminate();
    new.spawn_agent_asking(&[wiped, first], &[]);
    new.wait_ready();
    wait_for(new, &commit);
    scene.assert_runs(new, &commit);

    // And it has what it has also when it is started again, with nobody to ask.
    first.terminate();
    wiped.terminate();
    new.kill9();
    new.spawn_agent();
    new.wait_ready();
    scene.assert_runs(new, &commit);
    let release = new.newest_release(REPO).unwrap();
    assert_eq!((release.sequence, release.state.as_str()), (2, "done"));
}

#[test]
fn a_host_that_was_down_during_a_deploy_catches_up_when_it_starts_and_the_next_deploy_reaches_it() {
    let builder = Fleet::builder(under_test!()).hosts(3);
    let Some(scene) = Scene::start(builder) else {
        return;
    };
    scene.expect_broken_connections();
    scene.fleet.expect_log("host3");
    let [first, second, away] = scene.fleet.hosts() else {
        panic!("there are three");
    };
    let coordinator = scene.fleet.coordinator();
    let old = scene.commit_payload(1_000_000, 3);
    coordinator.deploy(scene.repo.dir(), &[]).expect_done();
    away.terminate();
    let new = scene.commit_text("while it is away\n");
    let report = coordinator.deploy(scene.repo.dir(), &["--budget", "1"]);
    assert_eq!(report.expect_code(5).failed(), ["host3"]);
    assert!(runs(away, &old));

    coordinator.station().link_down();
    away.spawn_agent_asking(&[first, second], &[]);
    away.wait_ready();
    wait_for(away, &new);
    scene.assert_all_run(&new);

    coordinator.station().link_up();
    let third = scene.commit_text("and then one more\n");
    let report = coordinator.deploy(scene.repo.dir(), &[]).expect_done();
    assert_eq!(report.hosts.len(), 3);
    scene.assert_all_run(&third);
}

#[test]
fn what_a_release_asks_of_its_hosts_is_done_also_where_it_is_caught_up_with() {
    let Some(scene) = start_without_the_last(3) else {
        return;
    };
    let [first, second, new] = scene.fleet.hosts() else {
        panic!("there are three");
    };
    let folder = [
        (
            "scap.cfg",
            format!("[global]\ngit_repo: {REPO}\nconfig_deploy: True\n"),
        ),
        ("vars.yaml", "level: warn\n".to_owned()),
        ("templates/level.j2", "{{ level }}\n".to_owned()),
        (
            "config-files.yaml",
            "conf/level: {template: level.j2}\n".to_owned(),
        ),
        ("checks.yaml", CHECKS.to_owned()),
    ];
    for (path, text) in folder {
        scene.repo.write(format!("scap/{path}"), text);
    }
    let commit = scene.commit_payload(1_000_000, 5);
    let coordinator = scene.fleet.coordinator();
    coordinator.deploy(scene.repo.dir(), &[]).expect_done();
    coordinator.station().link_down();

    new.spawn_agent_asking(&[first, second], &[]);
    new.wait_ready();
    wait_for(new, &commit);
    for host in [first, new] {
        let rendered = std::fs::read_to_string(host.live(REPO).join("conf/level"));
        assert_eq!(rendered.unwrap(), "warn", "{}", host.name());
        let checked = host.deploy_root().join(format!("{REPO}.checked"));
        assert!(checked.exists(), "{}", host.name());
        host.assert_verifies(REPO);
    }
}

#[test]
fn a_newcomer_during_a_canary_gets_the_stable_release() {
    let Some(scene) = start_without_the_last(4) else {
        return;
    };
    scene.expect_broken_connections();
    let [canary, second, third, new] = scene.fleet.hosts() else {
        panic!("there are four");
    };
    let coordinator = scene.fleet.coordinator();
    let stable = scene.commit_payload(2_000_000, 4);
    coordinator.deploy(scene.repo.dir(), &[]).expect_done();
    let tried = scene.commit_payload(2_000_000, 5);
    let soaking = ["--soak", "600", "--prefetch", "all"];
    let deploy = coordinator.start_deploy(scene.repo.dir(), &soaking);
    wait_until(
        "the canary runs it and the others have it",
        CATCH_UP_MAX,
        || {
            let has_fetched = |host: &Host| {
                host.newest_release(REPO)
                    .is_ok_and(|it| it.sequence == 2 && it.state == "done")
            };
            let is_soaking = runs(canary, &tried) && [second, third].into_iter().all(has_fetched);
            is_soaking.then_some(()).ok_or_else(|| second.status())
        },
    );

    new.spawn_agent_asking(&[canary, second], &[]);
    new.wait_ready();
    wait_for(new, &stable);
    scene.assert_runs(new, &stable);
    let pulled = new.run(&["pull"]);
    assert_eq!(pulled.code(), Some(0), "{pulled:#?}");
    scene.assert_runs(new, &stable);
    assert!(deploy.is_running(), "the canary soaks");
    deploy.kill9();
}

#[test]
fn a_pull_says_by_its_exit_code_whether_anything_changed() {
    let Some(scene) = start_without_the_last(3) else {
        return;
    };
    scene.expect_broken_connections();
    let commit = scene.commit_payload(1_000_000, 6);
    let coordinator = scene.fleet.coordinator();
    coordinator.deploy(scene.repo.dir(), &[]).expect_done();
    let [first, second, new] = scene.fleet.hosts() else {
        panic!("there are three");
    };
    let pull = |words: &[&str]| {
        let output = new.run(&[&["pull", "--json"], words].concat());
        let json: serde_json::Value = serde_json::from_str(&output.stdout).unwrap_or_default();
        (output.code().unwrap(), json, output.stderr)
    };
    new.spawn_agent();
    new.wait_ready();
    let (code, _, stderr) = pull(&[]);
    assert_eq!(code, 1);
    assert!(stderr.contains("no peers are configured"), "{stderr}");

    new.terminate();
    new.spawn_agent_asking(&[first, second], &["--catch-up=off"]);
    new.wait_ready();
    let (code, json, _) = pull(&["web/elsewhere"]);
    assert_eq!((code, &json["changed"]), (1, &false.into()), "{json}");
    assert!(
        !new.live(REPO).exists(),
        "nothing is fetched unless it is asked for"
    );
    let (code, json, _) = pull(&[REPO, "--environment", "staging"]);
    assert_eq!(code, 1, "{json}");
    let (code, json, _) = pull(&[REPO, "--environment", "production"]);
    assert_eq!((code, &json["changed"]), (10, &true.into()), "{json}");
    assert_eq!(json["schema"], "scap.pull/1");
    assert_eq!(json["repos"][0]["live_commit"], commit);
    scene.assert_runs(new, &commit);
    let (code, json, _) = pull(&[]);
    assert_eq!((code, &json["changed"]), (0, &false.into()), "{json}");

    // One that is silent is named, and nothing is lost by it; two are not there to say more.
    first.terminate();
    let (code, json, _) = pull(&[]);
    assert_eq!((code, &json["peers_answered"]), (0, &1.into()), "{json}");
    second.terminate();
    let (code, json, _) = pull(&[]);
    assert_eq!(code, 1, "{json}");
    let status = new.run(&["status"]).stdout;
    assert!(status.contains("stale for"), "{status}");
    scene.assert_runs(new, &commit);
}

#[test]
fn a_clone_of_the_state_branch_says_what_is_stable_where_a_peer_alone_is_not_believed() {
    let Some(scene) = start_without_the_last(2) else {
        return;
    };
    let commit = scene.commit_payload(1_000_000, 7);
    let coordinator = scene.fleet.coordinator();
    coordinator.deploy(scene.repo.dir(), &[]).expect_done();
    coordinator.station().link_down();
    let [first, new] = scene.fleet.hosts() else {
        panic!("there are two");
    };
    scene.fleet.expect_log("one peer alone is not believed");
    new.spawn_agent_asking(&[first], &["--catch-up=off"]);
    new.wait_ready();
    let alone = new.run(&["pull", REPO]);
    assert_eq!(alone.code(), Some(1), "{alone:#?}");
    let clone = scene.repo.dir().to_str().unwrap();
    let nothing = new.run(&["pull", "web/elsewhere", "--from-git", clone]);
    assert_eq!(nothing.code(), Some(1), "{nothing:#?}");
    assert!(
        nothing
            .stderr
            .contains("has no stable release of web/elsewhere"),
        "{nothing:#?}"
    );
    let pulled = new.run(&["pull", REPO, "--from-git", clone]);
    assert_eq!(pulled.code(), Some(10), "{pulled:#?}");
    scene.assert_runs(new, &commit);
}

/// The longest that catching up may take: some seconds, where others build beside.
const CATCH_UP_MAX: Duration = Duration::from_secs(60);

/// One that leaves a mark where it was run.
const CHECKS: &str =
    "checks: {mark: {command: 'touch $SCAP_FINAL_PATH.checked', shell: true, after: promote}}\n";
