//! Fleets in several sites: what crosses their borders.

use scap_tests::fleet::{Builder, Counters, Fleet, wait_until};
use scap_tests::under_test;

use super::scene::{FETCH_MAX, REPO, Scene};

const BYTES: usize = 16_000_000;

fn three_sites() -> Builder {
    Fleet::builder(under_test!())
        .hosts(9)
        .canaries(1)
        .rate_mbit(100)
        .sites(3, 40)
}

/// By site, the seed's first, copies of the payload that came in and went out since `before`.
fn copies_since(scene: &Scene, before: &[Counters]) -> Vec<(f64, f64)> {
    let borders = scene.fleet.borders();
    let crossed = borders.iter().zip(before).map(|(border, before)| {
        let counters = border.counters().since(*before);
        let copies = |bytes: u64| bytes as f64 / BYTES as f64;
        (copies(counters.received_bytes), copies(counters.sent_bytes))
    });
    crossed.collect()
}

fn counters(scene: &Scene) -> Vec<Counters> {
    let borders = scene.fleet.borders();
    borders.iter().map(|border| border.counters()).collect()
}

#[test]
fn content_crosses_into_each_site_about_once_also_when_a_gateway_dies() {
    let Some(scene) = Scene::start(three_sites()) else {
        return;
    };
    let coordinator = scene.fleet.coordinator();
    let before = counters(&scene);
    let first = scene.commit_payload(BYTES, 21);
    let report = coordinator.deploy(scene.repo.dir(), &[]).expect_done();
    scene.assert_all_run(&first);
    let copies = copies_since(&scene, &before);
    let seed_copies = report.seed_bytes_sent as f64 / BYTES as f64;
    println!("copies over the borders, in and out: {copies:.3?}; from the seed {seed_copies:.3}");
    for (into, _) in &copies[1..] {
        // Headers and acknowledgements are 7 %.
        assert!((1.0..1.15).contains(into), "{copies:?}: {report:#?}");
    }
    assert!(copies[0].0 < 0.15, "{copies:?}");

    // Who holds most of its site has it from outside.
    scene.expect_broken_connections();
    let second = scene.commit_payload(BYTES, 22);
    let before = counters(&scene);
    let deploy = coordinator.start_deploy(scene.repo.dir(), &[]);
    let held = |number: usize| {
        let newest = scene.fleet.host(number).newest_release(REPO);
        newest.map_or(0.0, |it| it.share_held())
    };
    let victim = wait_until("a host of the second site holds a third", FETCH_MAX, || {
        let shares = [4, 5, 6].map(|number| (number, held(number)));
        let most = shares.into_iter().max_by(|a, b| a.1.total_cmp(&b.1));
        let found = most.filter(|(_, share)| (0.3..1.0).contains(share));
        found.map(|(number, _)| number).ok_or(shares)
    });
    let victim = scene.fleet.host(victim);
    victim.kill9();
    victim.spawn_agent();
    victim.wait_ready();
    coordinator.finish(deploy).expect_done();
    scene.assert_all_run(&second);
    let copies = copies_since(&scene, &before);
    println!("with a host that died: {copies:.3?}");
    for (into, _) in &copies[1..] {
        assert!((1.0..2.0).contains(into), "{copies:?}");
    }
}
