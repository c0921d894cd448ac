//! One host on a link that is far too slow, one killed and one paused half-way: what that costs the others.

use std::path::Path;
use std::time::{Duration, Instant};

use scap_tests::fleet::{Fleet, Host, MachineTime, Rate, wait_until};
use scap_tests::repo::write_incompressible;
use scap_tests::under_test;

use crate::options::Options;
use crate::others::FILE;
use crate::ours::{REPO, Scene, in_place};
use crate::row::{Row, Target};
use crate::shape::Shape;

/// What the slow one has.
const SLOW_MBIT: u32 = 1;

/// The others break when this share of the payload has come to them.
const SHARE_BEFORE: f64 = 0.4;

/// How long anything may take: many times what it should.
const LIMIT: Duration = Duration::from_secs(280);

/// `None` where there can be no fleet.
pub(crate) fn measure(options: &Options, shape: &Shape) -> Option<Row> {
    let builder = shape.describe_to(Fleet::builder(under_test!()));
    let slow = builder.host_rate(shape.hosts - 2, Rate::symmetric(SLOW_MBIT));
    let fleet = in_place(options, slow).build()?;
    fleet.enrol();
    fleet.start_agents();
    // Whatever is said about those three.
    fleet.expect_log("");
    let scene = Scene::with(options, shape, fleet);
    write_incompressible(&scene.repo.dir().join(FILE), shape.payload_bytes(), 1);
    let commit = scene.repo.commit("payload");
    let expected = scene.repo.archived(&commit);
    let (others, bad) = scene.fleet.hosts().split_at(usize::from(shape.hosts) - 3);
    let [slow, killed, paused] = bad else {
        panic!("a fleet has more than three hosts");
    };

    let (mut others_seconds, mut idle) = (f64::NAN, 0.0);
    let bearing_them = ["--budget", "3", "--away-timeout", "10"];
    let payload = shape.payload_bytes() as u64;
    let ours = scene.deploy_while(payload, &bearing_them, |deploy| {
        let (began, machine) = (Instant::now(), MachineTime::now());
        wait_for_share(killed, payload);
        killed.kill9();
        wait_for_share(paused, payload);
        paused.agent().stop();
        wait_until("all others have the release's directory", LIMIT, || {
            let missing: Vec<&str> = others
                .iter()
                .filter(|host| !has_fetched(&host.revs(REPO), &commit))
                .map(Host::name)
                .collect();
            if missing.is_empty() {
                Ok(())
            } else {
                Err(missing)
            }
        });
        others_seconds = began.elapsed().as_secs_f64();
        idle = MachineTime::now().idle_share_since(machine);
        paused.agent().cont();
        skip(&scene, slow);
        let deployed = scene.fleet.coordinator().finish(deploy);
        let usage = deployed.output.usage;
        let seconds = deployed.output.elapsed.as_secs_f64();
        (seconds, usage, deployed.expect_code(5))
    });
    for host in others {
        expected.assert_is(&host.live(REPO));
    }

    let what = format!(
        "{} MiB to {}; one at {SLOW_MBIT} Mbit/s, one killed and one paused after {} %",
        shape.mib,
        shape.describe(),
        SHARE_BEFORE * 100.0
    );
    let mut row = Row::new("bad-hosts", what);
    row.tell("the others have it, s", others_seconds);
    if let Some(bound) = shape.bound_seconds() {
        let ratio = others_seconds / bound;
        row.judge("x bound of the others", ratio, Target::AtMost(1.2));
    }
    row.tell("copies from the seed", ours.seed_copies);
    row.tell("until the deployment ended, s", ours.seconds);
    row.idled(idle, true);
    row.agent_peak_rss_bytes = Some(ours.agent_peak_rss_bytes);
    row.notes.push(
        "until the others have the release's directory: they promote once nobody fetches, or the slow one is skipped"
            .to_owned(),
    );
    row.details =
        serde_json::json!({ "shape": shape, "others_seconds": others_seconds, "ours": ours });
    Some(row)
}

/// Waits until so much has come over a host's link.
fn wait_for_share(host: &Host, payload_bytes: u64) {
    let (device, wanted) = (host.station().device(), payload_bytes as f64 * SHARE_BEFORE);
    wait_until("enough has come", LIMIT, || {
        let received = device.counters().received_bytes;
        if received as f64 >= wanted {
            Ok(())
        } else {
            Err(received)
        }
    });
}

/// Fetching ends with the directory made, which has its name once it is whole.
fn has_fetched(revs: &Path, commit: &str) -> bool {
    let listing = std::fs::read_dir(revs).into_iter().flatten().flatten();
    let mut names = listing.map(|entry| entry.file_name());
    names.any(|name| name.to_string_lossy().ends_with(commit))
}

/// Goes on without a host, as an operator would.
fn skip(scene: &Scene, host: &Host) {
    let coordinator = scene.fleet.coordinator();
    let state = coordinator.state();
    let state = state.to_str().expect("the fleet's paths are plain");
    let args = [
        "skip",
        host.name(),
        "--reason",
        "far too slow",
        "--state",
        state,
    ];
    let output = coordinator.run(args, LIMIT);
    assert_eq!(output.code(), Some(0), "{output:#?}");
}
