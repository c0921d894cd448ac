//! The causal chain of one host.

use super::*;

/// Its links, each as what it is about, its words and its hosts.
fn chain(bench: &Bench, host: &str) -> Vec<String> {
    chain_in(bench, host, |_| Surroundings::default())
}

fn chain_in(bench: &Bench, host: &str, around: impl Fn(&NodeId) -> Surroundings) -> Vec<String> {
    let why = bench.engine.why(&name(host), around).unwrap();
    let line = |link: &Link| {
        let hosts: Vec<&str> = link.hosts.iter().map(NodeId::as_str).collect();
        let hosts = match hosts.is_empty() {
            true => String::new(),
            false => format!(" [{}]", hosts.join(" ")),
        };
        format!("{}: {}{hosts}", link.about, link.text)
    };
    why.links.iter().map(line).collect()
}

#[test]
fn a_host_that_waits_for_its_turn_waits_for_what_the_rollout_waits_for() {
    let mut bench =
        Bench::of([wave("canary", "a").soaking(900 * SECOND), wave("rest", "b")]).start();
    assert_eq!(
        chain(&bench, "b"),
        [
            "state: it was told nothing yet",
            "rollout: it is the turn of wave canary; the rollout waits for chunks [a]",
        ]
    );
    bench.done("a");
    bench.done("a");
    bench.done("b");
    let soak = "rollout: it is the turn of wave canary; the rollout waits for soak";
    assert_eq!(
        chain(&bench, "b"),
        [
            "state: it has everything, and was not told to promote yet",
            soak
        ]
    );
    let why = bench
        .engine
        .why(&name("b"), |_| Surroundings::default())
        .unwrap();
    let link = why.links.last().unwrap();
    assert_eq!(link.until.unwrap() - link.since.unwrap(), 900 * SECOND);
    assert_eq!(
        (why.wave.as_str(), why.state, why.is_live),
        ("rest", "fetched", false)
    );
    assert!(
        bench
            .engine
            .why(&name("z"), |_| Surroundings::default())
            .is_none()
    );
}

#[test]
fn a_host_that_works_says_what_it_waits_for_and_until_when_it_may() {
    let mut bench = Bench::new("", "a").start();
    let (number, _) = bench.told("a").unwrap();
    let outcome = Outcome::Working {
        chunks_held: 3,
        chunks_total: 9,
        waiting: "peers that were busy".into(),
    };
    bench.report("a", number, outcome, false);
    bench.pass(20 * SECOND);
    assert_eq!(
        chain(&bench, "a"),
        [
            "state: it fetches: 3 of 9 chunks are there",
            "host: it says that it waits for peers that were busy",
        ]
    );
    let why = bench
        .engine
        .why(&name("a"), |_| Surroundings::default())
        .unwrap();
    let seen = &why.links[0];
    assert_eq!(seen.until.unwrap() - seen.since.unwrap(), 60 * SECOND);
}

#[test]
fn who_is_not_reached_is_led_back_to_its_upstream_and_to_what_it_shares_with_others() {
    let mut bench = Bench::new("", "a b c d").start();
    ["a", "b", "c"]
        .into_iter()
        .for_each(|host| bench.away(host));
    let around = |host: &NodeId| Surroundings {
        upstreams: match host.as_str() {
            "c" => vec![name("b")],
            "b" => vec![name("d")],
            _ => Vec::new(),
        },
        places: vec![("rack b".into(), ["b", "c", "d"].map(name).into())],
    };
    assert_eq!(
        chain_in(&bench, "c", around),
        [
            "state: it fetches the list of chunks",
            "away: it is not reached: lost",
            "upstream: its upstream b is not reached: lost [b]",
            "upstream: its upstream d is reached, and does not reach b [d]",
            "place: 2 of 3 hosts of rack b are not reached [b]",
        ]
    );
    let both = |_: &NodeId| Surroundings {
        upstreams: vec![name("a"), name("d")],
        places: Vec::new(),
    };
    let last = chain_in(&bench, "c", both).pop().unwrap();
    assert_eq!(last, "upstream: 1 of its 2 upstreams are not reached [a]");
}

#[test]
fn hosts_with_the_very_same_reason_are_named() {
    let mut bench = Bench::of([wave("all", "a b c d").losing(Budget::Count(3))]).start();
    ["a", "b"].into_iter().for_each(|host| bench.fails(host));
    let (number, _) = bench.told("c").unwrap();
    bench.report("c", number, failed("another disk"), false);
    assert_eq!(
        chain(&bench, "a"),
        [
            "state: it failed: disk",
            "same: 2 hosts say the very same [b]"
        ]
    );
    assert_eq!(chain(&bench, "c"), ["state: it failed: another disk"]);
}
