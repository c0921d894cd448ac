//! The engines in simulated fleets: safe whatever happens, done when it is over, and near the bound.
//!
//! A failure prints its seed; `SCAP_SIM_SEED` runs everything with another.

use std::time::Duration;

use scap_agent::{swarm::DropReason, topology::Shape};
use scap_coordinator::plan::simulate::{Conduct, Host, ORIGIN, Outcome, Setup};
use scap_tests::sim::{Run, seed_from_env};

const MINUTES: Duration = Duration::from_secs(600);

fn run(setup: Setup) -> Outcome {
    Run::new(setup).to_completion(MINUTES)
}

fn ratio(outcome: &Outcome) -> f64 {
    outcome.bound_ratio().expect("all are complete")
}

#[test]
fn two_hundred_hosts_with_churn_complete_and_the_same_seed_gives_the_same_run() {
    let churned = || {
        let mut setup = Setup::equal(seed_from_env(), 200, 100, 256);
        setup.quantum_bytes = 64 * 1024;
        let mut run = Run::new(setup);
        run.churn(60, Duration::from_millis(2500));
        run.to_completion(MINUTES)
    };
    let outcome = churned();
    println!(
        "200 hosts, 60 crashes: {} hosts complete, {:.2} copies, {:.4} duplicate, {} messages, trace {:x}",
        outcome.completed_at.iter().flatten().count(),
        outcome.origin_copies,
        outcome.duplicate_share,
        outcome.messages,
        outcome.trace,
    );
    assert!(outcome.completed_at.iter().flatten().count() >= 140);
    assert!(outcome.origin_copies < 2.0, "{}", outcome.origin_copies);
    assert_eq!(churned().trace, outcome.trace);
}

#[test]
fn another_seed_gives_another_run() {
    let seed = seed_from_env();
    let one = run(Setup::equal(seed, 6, 100, 64));
    let other = run(Setup::equal(seed + 1, 6, 100, 64));
    assert_ne!(one.trace, other.trace);
}

#[test]
fn sixteen_equal_hosts_are_close_to_the_bound_and_the_origin_sends_one_copy() {
    let outcome = run(Setup::equal(seed_from_env(), 16, 100, 2048));
    println!(
        "16 hosts, 2048 chunks: {:.3} × bound, {:.3} copies, {:.4} duplicate",
        ratio(&outcome),
        outcome.origin_copies,
        outcome.duplicate_share
    );
    assert!(ratio(&outcome) <= 1.15, "{} × bound", ratio(&outcome));
    assert!(outcome.origin_copies <= 1.1, "{}", outcome.origin_copies);
    assert!(outcome.duplicate_share < 0.03);
    assert_eq!(outcome.dropped, []);
}

#[test]
fn the_origin_sends_about_one_copy_to_fleets_of_every_size() {
    for (hosts, chunks) in [
        (2, 512),
        (4, 512),
        (8, 512),
        (16, 1024),
        (32, 1024),
        (48, 1024),
    ] {
        let mut setup = Setup::equal(seed_from_env(), hosts, 100, chunks);
        setup.quantum_bytes = 64 * 1024;
        let outcome = run(setup);
        println!(
            "{hosts} hosts, {chunks} chunks: {:.3} × bound, {:.3} copies, {:.4} duplicate",
            ratio(&outcome),
            outcome.origin_copies,
            outcome.duplicate_share
        );
        assert!(
            outcome.origin_copies <= 1.2,
            "{hosts}: {}",
            outcome.origin_copies
        );
        assert!(outcome.duplicate_share < 0.03, "{hosts}");
        assert!(
            ratio(&outcome) <= 1.3,
            "{hosts}: {} × bound",
            ratio(&outcome)
        );
    }
}

#[test]
fn a_slow_origin_is_the_only_limit() {
    let mut setup = Setup::equal(seed_from_env(), 16, 100, 256);
    setup.origin = Host::with_mbit_per_sec(10);
    let outcome = run(setup);
    assert!(ratio(&outcome) <= 1.15, "{} × bound", ratio(&outcome));
    assert!(outcome.origin_copies <= 1.15, "{}", outcome.origin_copies);
    assert_eq!(outcome.dropped, []);
}

#[test]
fn agents_finish_from_each_other_when_the_origin_dies_after_it_sent_everything_once() {
    let mut run = Run::new(Setup::equal(seed_from_env(), 16, 100, 256));
    run.when(
        |fleet| fleet.chunks_out() == 256,
        |fleet| {
            assert!(!fleet.is_done());
            fleet.crash(ORIGIN);
        },
    );
    run.to_completion(MINUTES);
}

#[test]
fn agents_wait_for_an_origin_that_dies_halfway_and_finish_when_it_is_back() {
    let mut run = Run::new(Setup::equal(seed_from_env(), 16, 100, 256));
    run.when(
        |fleet| fleet.share_held() > 0.5,
        |fleet| fleet.crash(ORIGIN),
    );
    run.at(Duration::from_secs(20), |fleet| {
        let share = fleet.share_held();
        assert!((0.5..1.0).contains(&share), "{share} held without it");
        fleet.start(ORIGIN);
    });
    let outcome = run.to_completion(MINUTES);
    assert!(outcome.last_completed_at() < Some(Duration::from_secs(26)));
    assert!(outcome.origin_copies < 1.3, "{}", outcome.origin_copies);
}

#[test]
fn a_peer_that_flips_bits_is_dropped_by_all_it_deceived_and_nothing_of_it_is_stored() {
    let mut setup = Setup::equal(seed_from_env(), 12, 100, 256);
    setup.hosts[4].conduct = Conduct::Flips;
    let outcome = run(setup);
    assert!(!outcome.dropped.is_empty());
    for dropped in &outcome.dropped {
        assert_eq!(dropped.peer, 5);
        assert!(matches!(dropped.reason, DropReason::WrongBytes { .. }));
    }
    // Its own downloads are its neighbours', who have closed their links to it: only the origin is left.
    assert!(outcome.duplicate_share < 0.03);
}

#[test]
fn a_peer_that_sends_nothing_is_named_and_delays_nobody() {
    let mut setup = Setup::equal(seed_from_env(), 8, 20, 2048);
    setup.quantum_bytes = 64 * 1024;
    setup.hosts[2].conduct = Conduct::Silent;
    let outcome = run(setup);
    let (peer, reason) = (3, DropReason::Stalled);
    let named = outcome
        .dropped
        .iter()
        .filter(|it| (it.peer, it.reason) == (peer, reason));
    assert_eq!(named.count(), 7, "{:?}", outcome.dropped);
    println!(
        "one silent host: {:.3} × bound, {:.3} copies",
        ratio(&outcome),
        outcome.origin_copies
    );
    assert_eq!(outcome.dropped.len(), 7);
    // By seed: what the origin gave it before it was found out leaves the origin again.
    assert!(ratio(&outcome) < 1.4, "{} × bound", ratio(&outcome));
}

#[test]
fn slow_hosts_hold_up_only_themselves() {
    let mut setup = Setup::equal(seed_from_env(), 16, 100, 512);
    setup.hosts[7] = Host::with_mbit_per_sec(5);
    let outcome = run(setup.clone());
    let fast = outcome.completed_at.iter().enumerate();
    let last = fast.filter(|(host, _)| *host != 7).map(|(_, at)| *at).max();
    let fast_bound = Duration::from_secs_f64(f64::from(setup.chunk_bytes) * 512.0 / 12.5e6);
    let ratio_of_fast = last.flatten().expect("complete").as_secs_f64() / fast_bound.as_secs_f64();
    println!(
        "one slow host: {ratio_of_fast:.3} × bound for the others, {:.3} for it",
        ratio(&outcome)
    );
    assert!(ratio_of_fast < 1.35, "{ratio_of_fast}");
    assert!(ratio(&outcome) < 1.3, "{} × bound", ratio(&outcome));
}

#[test]
fn a_tree_forwards_chunk_by_chunk_and_a_chain_is_as_fast_as_one_link() {
    for (fanout, limit) in [(1, 1.15), (2, 2.15)] {
        let mut setup = Setup::equal(seed_from_env(), 14, 100, 256);
        setup.shape = Shape::Tree { fanout };
        setup.origin_links = fanout;
        let outcome = run(setup);
        println!("tree of fanout {fanout}: {:.3} × bound", ratio(&outcome));
        assert!(ratio(&outcome) < limit, "{} × bound", ratio(&outcome));
        assert!((outcome.origin_copies - fanout as f64).abs() < 0.01);
        assert!(outcome.duplicate_share < 0.001);
    }
}

#[test]
fn far_away_hosts_fill_their_links_too() {
    let mut setup = Setup::equal(seed_from_env(), 4, 100, 512);
    for host in setup.hosts.iter_mut().chain([&mut setup.origin]) {
        host.delay = Duration::from_millis(20);
    }
    let outcome = run(setup);
    assert!(ratio(&outcome) < 1.25, "{} × bound", ratio(&outcome));
}

/// The same fleet with lanes.
fn with_lanes(mut setup: Setup) -> Setup {
    setup.shape = Shape::Swarm {
        degree: 40,
        lanes: 2,
    };
    setup
}

#[test]
fn with_lanes_fleets_of_every_size_are_close_to_the_bound_and_little_is_said() {
    for (hosts, chunks) in [
        (2, 512),
        (4, 512),
        (8, 512),
        (16, 2048),
        (32, 1024),
        (48, 1024),
    ] {
        let mut setup = Setup::equal(seed_from_env(), hosts, 100, chunks);
        setup.quantum_bytes = 64 * 1024;
        let swarm = run(setup.clone());
        let lanes = run(with_lanes(setup));
        println!(
            "{hosts} hosts, {chunks} chunks, lanes: {:.3} × bound, {:.3} copies, {:.4} duplicate, {} messages of {}",
            ratio(&lanes),
            lanes.origin_copies,
            lanes.duplicate_share,
            lanes.messages,
            swarm.messages,
        );
        assert!(lanes.origin_copies <= 1.1, "{}", lanes.origin_copies);
        assert!(lanes.duplicate_share < 0.01, "{hosts}");
        assert!(ratio(&lanes) <= 1.12, "{hosts}: {}", ratio(&lanes));
        assert!(hosts < 16 || 2 * lanes.messages < swarm.messages, "{hosts}");
    }
}

#[test]
fn lanes_that_unsteady_links_hold_back_are_not_given_up_by_all() {
    for (hosts, limit) in [(8, 1.25), (16, 1.3), (48, 1.4)] {
        let mut setup = with_lanes(Setup::equal(seed_from_env(), hosts, 20, 512));
        setup.unsteady_percent = 10;
        setup.quantum_bytes = 64 * 1024;
        let outcome = run(setup);
        println!(
            "{hosts} hosts, unsteady: {:.3} × bound, {:.3} copies, {:.4} duplicate",
            ratio(&outcome),
            outcome.origin_copies,
            outcome.duplicate_share,
        );
        assert!(ratio(&outcome) < limit, "{hosts}: {}", ratio(&outcome));
        assert!(outcome.origin_copies < 1.15, "{}", outcome.origin_copies);
        assert!(outcome.duplicate_share < 0.03, "{hosts}");
        assert_eq!(outcome.dropped, []);
    }
}

#[test]
fn with_lanes_a_fleet_survives_crashes_of_hosts_and_of_the_origin() {
    let mut setup = with_lanes(Setup::equal(seed_from_env(), 100, 100, 256));
    setup.quantum_bytes = 64 * 1024;
    let mut run = Run::new(setup);
    run.churn(30, Duration::from_millis(2500));
    run.when(
        |fleet| fleet.share_held() > 0.5,
        |fleet| fleet.crash(ORIGIN),
    );
    run.at(Duration::from_secs(15), |fleet| fleet.start(ORIGIN));
    let outcome = run.to_completion(MINUTES);
    println!(
        "100 hosts with lanes, 30 crashes: {:.2} copies, {:.4} duplicate",
        outcome.origin_copies, outcome.duplicate_share
    );
    assert!(outcome.origin_copies < 2.2, "{}", outcome.origin_copies);
}

#[test]
fn with_lanes_silent_and_slow_hosts_are_got_around() {
    for (what, bad) in [("silent", Conduct::Silent), ("slow", Conduct::Honest)] {
        for at in [0, 5, 10, 15] {
            let mut setup = with_lanes(Setup::equal(seed_from_env(), 16, 100, 2048));
            setup.quantum_bytes = 64 * 1024;
            setup.hosts[at].conduct = bad;
            if bad == Conduct::Honest {
                setup.hosts[at] = Host::with_mbit_per_sec(5);
            }
            let outcome = run(setup.clone());
            let others = outcome.completed_at.iter().enumerate();
            let last = others
                .filter(|(host, _)| *host != at)
                .map(|(_, at)| *at)
                .max();
            let bound = f64::from(setup.chunk_bytes) * 2048.0 / 12.5e6;
            let ratio = last.flatten().expect("complete").as_secs_f64() / bound;
            println!(
                "{what} host {at}: {ratio:.3} × bound for the others, {:.3} copies",
                outcome.origin_copies
            );
            assert!(ratio < 1.9, "{ratio}");
        }
    }
}

/// One in ten is no good: half of these die at some time, half are on links 20 times slower, wherever in the lanes they stand.
#[test]
fn with_lanes_many_slow_and_dying_hosts_hold_nobody_else_up_for_long() {
    let one_site = with_lanes(Setup::equal(seed_from_env(), 60, 1000, 1024));
    let sites = in_sites(60, 3, (1000, 1000), 1024);
    for (what, mut setup, limit) in [("one site", one_site, 2.0), ("3 sites", sites, 3.0)] {
        setup.chunk_bytes = 1024 * 1024;
        setup.quantum_bytes = setup.chunk_bytes;
        let bound = f64::from(setup.chunk_bytes) * 1024.0 / 125e6;
        // Spread over all places, those at the top included.
        let bad: Vec<usize> = (0..60).filter(|host| host % 10 == 3).collect();
        let (slow, dying) = bad.split_at(bad.len() / 2);
        for &host in slow {
            setup.hosts[host] = Host {
                site: setup.hosts[host].site,
                ..Host::with_mbit_per_sec(50)
            };
        }
        let mut run = Run::new(setup);
        for (number, &host) in (1u32..).zip(dying) {
            let at = Duration::from_secs_f64(bound * f64::from(number) / 4.0);
            run.at(at, move |fleet| fleet.crash(host + 1));
        }
        let outcome = run.to_completion(MINUTES);
        let fast = (0..60).filter(|host| !bad.contains(host));
        let last = fast.map(|host| outcome.completed_at[host]).max();
        let ratio = last.flatten().expect("complete").as_secs_f64() / bound;
        println!(
            "{what}: {ratio:.2} × bound for the fast ones, {:.2} copies",
            outcome.origin_copies
        );
        assert!(ratio < limit, "{what}: {ratio}");
        assert!(outcome.origin_copies < 1.5, "{}", outcome.origin_copies);
    }
}

/// A fleet in sites with lanes, 40 ms between any two.
fn in_sites(hosts: usize, count: usize, (rate, border): (u64, u64), chunks: u32) -> Setup {
    let setup = with_lanes(Setup::equal(seed_from_env(), hosts, rate, chunks));
    let mut setup = setup.sites(count, border, Duration::from_millis(40));
    setup.quantum_bytes = 64 * 1024;
    setup
}

/// The most copies that came into a site other than the origin's.
fn most_in(outcome: &Outcome) -> f64 {
    let others = outcome.border_copies.iter().skip(1);
    others.map(|(into, _)| *into).fold(0.0, f64::max)
}

#[test]
fn content_crosses_into_each_site_once_and_all_links_are_used() {
    for (hosts, count, rates, chunks, limit) in [
        (48, 3, (100, 20), 1024, 1.1),
        (48, 3, (100, 100), 1024, 1.2),
        (12, 4, (100, 50), 1024, 1.2),
        (200, 20, (100, 100), 1024, 1.15),
        // Each host a site: what comes into one on two lanes does not share its border evenly.
        (5, 5, (100, 20), 256, 1.6),
    ] {
        let outcome = run(in_sites(hosts, count, rates, chunks));
        let (own, _) = outcome.border_copies[0];
        println!(
            "{hosts} hosts in {count} sites, {rates:?} Mbit/s: {:.3} × bound, {:.3} copies from the origin, at most {:.3} into a site, {own:.3} into the origin's",
            ratio(&outcome),
            outcome.origin_copies,
            most_in(&outcome),
        );
        assert!(ratio(&outcome) <= limit, "{} × bound", ratio(&outcome));
        assert!(most_in(&outcome) <= 1.05, "{:?}", outcome.border_copies);
        assert!(outcome.origin_copies <= 1.1, "{}", outcome.origin_copies);
        assert!(own < 0.01, "{own}");
    }
}

#[test]
fn whichever_host_dies_its_site_is_fed_on() {
    for (what, conduct, limits) in [
        ("dead", None, (1.6, 1.3)),
        ("silent", Some(Conduct::Silent), (3.5, 2.4)),
    ] {
        let (mut slowest, mut most) = (0.0_f64, 0.0_f64);
        for at in 1..=12 {
            let mut setup = in_sites(12, 3, (100, 20), 256);
            setup.detection = Duration::from_secs(2);
            if let Some(conduct) = conduct {
                setup.hosts[at - 1].conduct = conduct;
            }
            let mut run = Run::new(setup);
            if conduct.is_none() {
                run.when(
                    |fleet| fleet.share_held() > 0.5,
                    move |fleet| fleet.crash(at),
                );
            }
            let outcome = run.to_completion(MINUTES);
            let others = outcome.completed_at.iter().enumerate();
            let others = others.filter(|(host, _)| host + 1 != at).map(|(_, at)| *at);
            let last = others.max().flatten().expect("complete");
            let ratio = last.as_secs_f64() / outcome.bound.as_secs_f64();
            println!(
                "host {at} {what}: {ratio:.3} × bound for the others, {:?} copies across, {:.3} from the origin",
                outcome.border_copies, outcome.origin_copies
            );
            slowest = slowest.max(ratio);
            most = most.max(most_in(&outcome));
        }
        println!("{what}: {slowest:.3} × bound, {most:.3} copies into a site at most");
        assert!(slowest < limits.0, "{what}: {slowest}");
        assert!(most < limits.1, "{what}: {most}");
    }
}

#[test]
fn a_site_whose_gateways_are_all_gone_is_fed_by_the_origin() {
    // Whoever in the second site holds most at first is one of its gateways: they go one after the other.
    let mut setup = in_sites(16, 2, (100, 20), 256);
    setup.detection = Duration::from_secs(2);
    let mut run = Run::new(setup);
    for share in [0.55, 0.6, 0.65, 0.7] {
        run.when(
            move |fleet| fleet.share_held() > share,
            |fleet| {
                let held = |host: &usize| fleet.stored(*host).count();
                let first = (9..=16).filter(|&host| fleet.is_running(host));
                let first = first.max_by_key(held).expect("some run");
                fleet.crash(first);
            },
        );
    }
    let outcome = run.to_completion(MINUTES);
    let last = outcome.completed_at.iter().flatten().max();
    let ratio = last.expect("some are").as_secs_f64() / outcome.bound.as_secs_f64();
    println!(
        "four gone: {ratio:.3} × bound, {:?} copies across",
        outcome.border_copies
    );
    assert!(outcome.completed_at.iter().flatten().count() >= 12);
    assert!(ratio < 4.0, "{ratio}");
    assert!(most_in(&outcome) < 1.6, "{:?}", outcome.border_copies);
}

/// A fleet with lanes, of which so many last hosts stand behind the given ones.
fn behind(hosts: usize, count: usize, relays: &[usize]) -> Setup {
    let mut setup = with_lanes(Setup::equal(seed_from_env(), hosts, 100, 512));
    setup.quantum_bytes = 64 * 1024;
    setup.detection = Duration::from_secs(2);
    let last = hosts - count + 1..=hosts;
    setup.relays = last.map(|host| (host, relays.to_vec())).collect();
    setup
}

/// When the last of some hosts was complete, in bounds.
fn last_of(outcome: &Outcome, hosts: impl Iterator<Item = usize>) -> f64 {
    let last = hosts.map(|host| outcome.completed_at[host - 1]).max();
    let last = last.flatten().expect("all are complete");
    last.as_secs_f64() / outcome.bound.as_secs_f64()
}

#[test]
fn hosts_behind_relays_are_hardly_later_than_those_in_the_open() {
    for (hosts, count, relays, limit) in [
        (16, 1, &[5][..], 1.25),
        (15, 1, &[5], 1.25),
        (16, 8, &[2, 7], 1.25),
        (16, 8, &[2], 1.7),
        (48, 40, &[1, 2], 1.35),
    ] {
        let outcome = run(behind(hosts, count, relays));
        let open = last_of(&outcome, 1..=hosts - count);
        let all = last_of(&outcome, 1..=hosts);
        println!(
            "{count} of {hosts} hosts behind {relays:?}: {open:.3} x bound in the open, {all:.3} x for all"
        );
        assert!(all <= limit, "{all}");
        assert!(outcome.origin_copies <= 1.1, "{}", outcome.origin_copies);
        assert!(outcome.duplicate_share < 0.01);
    }
    // Each behind the one before it.
    let mut setup = behind(8, 3, &[]);
    setup.relays = (6..=8).map(|host| (host, vec![host - 1])).collect();
    let outcome = run(setup);
    let ratio = last_of(&outcome, 8..=8) / last_of(&outcome, 1..=5);
    println!("behind three in a row: {ratio:.3} x those in the open");
    assert!(ratio < 1.1, "{ratio}");
}

#[test]
fn whichever_relay_dies_those_behind_it_are_fed_by_the_other() {
    for relay in [2, 7] {
        let mut run = Run::new(behind(16, 6, &[2, 7]));
        run.when(
            |fleet| fleet.share_held() > 0.5,
            move |fleet| fleet.crash(relay),
        );
        let outcome = run.to_completion(MINUTES);
        let others = (1..=16).filter(|host| *host != relay);
        let ratio = last_of(&outcome, others);
        println!(
            "relay {relay} dead: {ratio:.3} x bound, {:.3} copies",
            outcome.origin_copies
        );
        assert!(ratio < 2.5, "{ratio}");
    }
}

#[test]
fn when_all_gateways_behind_a_relay_are_gone_it_feeds_others() {
    let mut run = Run::new(behind(16, 8, &[3]));
    for share in [0.55, 0.6, 0.65, 0.7] {
        run.when(
            move |fleet| fleet.share_held() > share,
            |fleet| {
                let held = |host: &usize| fleet.stored(*host).count();
                let first = (9..=16).filter(|&host| fleet.is_running(host));
                fleet.crash(first.max_by_key(held).expect("some run"));
            },
        );
    }
    let outcome = run.to_completion(MINUTES);
    assert!(outcome.completed_at.iter().flatten().count() >= 12);
    assert!(outcome.origin_copies < 1.1, "{}", outcome.origin_copies);
}
