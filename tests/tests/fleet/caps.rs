//! Caps on what agents and the seed use of the network, judged by the counters of their devices.

use std::time::{Duration, Instant};

use scap_tests::fleet::{Builder, Counters, Fleet, Host, Series, Watch, wait_until};
use scap_tests::under_test;

use super::scene::{FETCH_MAX, REPO, Scene};

const BYTES: usize = 12_000_000;

/// How far beyond the cap and 2 % of it a second may go.
const EXCESS_MAX: i64 = 64 * 1024;

const SENT: fn(&Counters) -> u64 = |it| it.sent_bytes;
const RECEIVED: fn(&Counters) -> u64 = |it| it.received_bytes;

/// A fleet each of whose agents has these limits.
fn limited(builder: Builder, limits: &str) -> Option<Scene> {
    let fleet = builder.build()?;
    fleet.enrol();
    for host in fleet.hosts() {
        configure(host, limits);
        let config = host.station().dir().join("agent.toml");
        host.spawn_agent_with(&[("SCAP_AGENT_CONFIG", config.to_str().unwrap())]);
    }
    for host in fleet.hosts() {
        host.wait_ready();
    }
    Some(Scene::with(fleet))
}

fn configure(host: &Host, limits: &str) {
    let config = host.station().dir().join("agent.toml");
    std::fs::write(config, format!("[limits]\n{limits}\n")).unwrap();
}

#[track_caller]
fn assert_held(what: &str, series: &Series, cap_mbit: u32, of: fn(&Counters) -> u64) {
    let excess = series.excess_bytes(cap_mbit, of);
    let most = series.most_bytes(of) as f64 * 8.0 / 1e6;
    println!(
        "{what}: the worst second {excess} bytes beyond the cap and 2 %, the fullest {most:.2} Mbit"
    );
    assert!(
        excess <= EXCESS_MAX,
        "{what}: {excess} bytes beyond the cap"
    );
}

#[test]
fn no_host_sends_more_in_any_second_than_its_upload_cap() {
    let cap = 20;
    let builder = Fleet::builder(under_test!()).hosts(4);
    let Some(scene) = limited(builder, "upload-mbit = 20") else {
        return;
    };
    let commit = scene.commit_payload(BYTES, 31);
    let hosts = scene.fleet.hosts().iter().map(|host| host.station());
    let coordinator = scene.fleet.coordinator();
    let stations = [coordinator.station()].into_iter().chain(hosts);
    let watch = Watch::start(stations.map(|station| station.device()));
    let arguments = ["--upload-mbit", "20"];
    let deployed = coordinator.deploy(scene.repo.dir(), &arguments);
    let seen = watch.stop();
    let report = deployed.expect_done();
    scene.assert_all_run(&commit);
    let names = ["coordinator", "host1", "host2", "host3", "host4"];
    for (name, series) in names.iter().zip(&seen) {
        assert_held(name, series, cap, SENT);
    }
    let fetch = report.seconds["fetch"];
    // One copy leaves the seed in 4.8 s.
    println!("fetched in {fetch:.1} s");
    assert!((4.5..12.0).contains(&fetch), "{report:#?}");
}

#[test]
fn no_host_receives_more_in_any_second_than_its_download_cap() {
    let cap = 20;
    let builder = Fleet::builder(under_test!()).hosts(4);
    let Some(scene) = limited(builder, "download-mbit = 20") else {
        return;
    };
    let commit = scene.commit_payload(BYTES, 32);
    let hosts = scene.fleet.hosts().iter();
    let watch = Watch::start(hosts.map(|host| host.station().device()));
    let deployed = scene.fleet.coordinator().deploy(scene.repo.dir(), &[]);
    let seen = watch.stop();
    let report = deployed.expect_done();
    scene.assert_all_run(&commit);
    for (host, series) in scene.fleet.hosts().iter().zip(&seen) {
        assert_held(host.name(), series, cap, RECEIVED);
    }
    let fetch = report.seconds["fetch"];
    println!("fetched in {fetch:.1} s");
    assert!((4.5..10.0).contains(&fetch), "{report:#?}");
}

#[test]
fn what_crosses_a_border_is_held_and_what_stays_within_is_not() {
    let builder = Fleet::builder(under_test!()).hosts(2).sites(2, 1000);
    let limits = "border-upload-mbit = 10\nborder-download-mbit = 16";
    let Some(scene) = limited(builder, limits) else {
        return;
    };
    let commit = scene.commit_payload(BYTES, 33);
    let [near, far] = scene.fleet.hosts() else {
        panic!("two hosts")
    };
    let borders = scene.fleet.borders();
    let devices = [
        borders[0].device(),
        near.station().device(),
        far.station().device(),
    ];
    let watch = Watch::start(devices);
    let arguments = ["--border-upload-mbit", "10"];
    let coordinator = scene.fleet.coordinator();
    let deployed = coordinator.deploy(scene.repo.dir(), &arguments);
    let seen = watch.stop();
    let report = deployed.expect_done();
    scene.assert_all_run(&commit);
    // The seed and the host beside it have 10 each, so twice the excess as well; of it the host beyond takes 16.
    let excess = seen[0].excess_bytes(20, SENT);
    println!("border: {excess} bytes beyond the caps and 2 %");
    assert!(excess <= 2 * EXCESS_MAX, "{excess}");
    assert_held("host2", &seen[2], 16, RECEIVED);
    // The host beside the seed has it long before.
    let near_mbit = seen[1].most_bytes(RECEIVED) as f64 * 8.0 / 1e6;
    assert!(
        near_mbit > 40.0,
        "{near_mbit} Mbit in a second within the site"
    );
    let fetch = report.seconds["fetch"];
    println!("fetched in {fetch:.1} s");
    assert!((5.0..20.0).contains(&fetch), "{report:#?}");
}

#[test]
fn caps_change_while_a_deployment_runs_by_command_and_by_configuration() {
    let builder = Fleet::builder(under_test!()).hosts(2);
    let limits = "upload-mbit = 60\ndownload-mbit = 60";
    let Some(scene) = limited(builder, limits) else {
        return;
    };
    let host = scene.fleet.host(1);
    let commit = scene.commit_payload(40_000_000, 34);
    let coordinator = scene.fleet.coordinator();
    let watch = Watch::start([host.station().device()]);
    let deploy = coordinator.start_deploy(scene.repo.dir(), &[]);
    let held = |share: f64| {
        let newest = host.newest_release(REPO).map_err(|_| 0.0);
        let now = newest.map(|release| release.share_held())?;
        (now >= share).then_some(()).ok_or(now)
    };
    wait_until("a tenth is there", FETCH_MAX, || held(0.1));
    let output = host.run(&["limit", "--download-mbit", "16", "--json"]);
    assert_eq!(output.code(), Some(0), "{output:?}");
    let lowered = Instant::now();
    let view: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(view["download"]["cap_mbit"], 16);
    assert_eq!(view["download"]["source"], "command");
    assert_eq!(view["upload"]["source"], "config");

    configure(host, "upload-mbit = 8\ndownload-mbit = 60");
    host.agent().hangup();
    wait_until(
        "the configuration is read again",
        Duration::from_secs(2),
        || {
            let output = host.run(&["status", "--json"]);
            let status: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
            let caps = ["upload", "download"].map(|it| status["limits"][it]["cap_mbit"].as_u64());
            let expected = [Some(8), Some(16)];
            (caps == expected).then_some(()).ok_or(caps)
        },
    );
    std::thread::sleep(Duration::from_secs(2).saturating_sub(lowered.elapsed()));
    let counts_from = Instant::now();
    wait_until("three seconds more are over", FETCH_MAX, || {
        let so_far = counts_from.elapsed();
        (so_far > Duration::from_secs(3))
            .then_some(())
            .ok_or(so_far)
    });
    let until = Instant::now();
    held(1.0).expect_err("it was to be capped for all of that time");
    let _ = host.run(&["limit", "--download-mbit", "none"]);
    coordinator.finish(deploy).expect_done();
    scene.assert_all_run(&commit);
    let seen = &watch.stop()[0];
    let capped = seen.from(counts_from).until(until);
    assert_held("download", &capped, 16, RECEIVED);
    assert_held("upload", &capped, 8, SENT);
    let before = seen.until(lowered).most_bytes(RECEIVED) as f64 * 8.0 / 1e6;
    let after = seen.from(until).most_bytes(RECEIVED) as f64 * 8.0 / 1e6;
    println!("{before:.1} Mbit in a second before, {after:.1} after");
    assert!(before > 20.0 && after > 30.0, "{before} {after}");
}
