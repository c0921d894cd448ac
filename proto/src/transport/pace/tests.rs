//! Links over loopback, and what passes in any second.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use tokio::{task::JoinSet, time::sleep};

use super::{Content, Rate, RateCaps, Traffic};
use crate::{
    identity::{Role, verifier::Expect},
    transport::{
        Endpoint, Link, LinkSettings,
        tests::{accept_one, authority, identity},
    },
};

const CHUNK_BYTES: usize = 256 * 1024;

fn rate(mbit: u32) -> Option<Rate> {
    Some(Rate::from_mbit(mbit).unwrap())
}

/// One endpoint, and links from it to others.
struct Star {
    hub: Endpoint,
    /// Each by the hub's side and by the other's.
    links: Vec<(Link, Link)>,
    _others: Vec<Endpoint>,
}

impl Star {
    async fn new(others: usize, caps: RateCaps) -> Self {
        let fleet = authority("prod");
        // As on Ethernet; the loopback carries more.
        let settings = LinkSettings {
            udp_payload_bytes_max: 1472,
            ..LinkSettings::default()
        };
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let hub = identity(&fleet, Role::Agent, "hub");
        let hub = Endpoint::listen(hub, any, &settings).unwrap();
        let address = hub.local_address().unwrap();
        hub.set_caps(caps);
        let (mut links, mut endpoints) = (Vec::new(), Vec::new());
        for number in 0..others {
            let other = identity(&fleet, Role::Agent, &format!("web{number}"));
            let other = Endpoint::dial_only(other, &settings).unwrap();
            let addresses = [address];
            let (theirs, ours) = tokio::join!(
                other.dial(&addresses, &Expect::AGENT),
                accept_one(&hub, Expect::ANY)
            );
            links.push((ours.unwrap(), theirs.unwrap()));
            endpoints.push(other);
        }
        Self {
            hub,
            links,
            _others: endpoints,
        }
    }
}

/// Chunks go from one side of each link to the other, three at a time, until this is dropped.
fn flow(links: impl IntoIterator<Item = (Link, Link)>) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    for (from, to) in links {
        for _ in 0..3 {
            let from = from.clone();
            tasks.spawn(async move {
                let chunk = vec![7; CHUNK_BYTES];
                while let Ok(mut stream) = from.open_uni().await {
                    let sent = stream.write_all(&chunk).await.is_ok();
                    if !sent || stream.finish().is_err() || stream.stopped().await.is_err() {
                        return;
                    }
                }
            });
        }
        tasks.spawn(async move {
            let mut reads = JoinSet::new();
            while let Ok(mut stream) = to.accept_uni().await {
                let content: Content = to.content();
                reads.spawn(async move {
                    let mut chunk = vec![0; CHUNK_BYTES];
                    content.read_exact(&mut stream, &mut chunk).await
                });
                while reads.try_join_next().is_some() {}
            }
        });
    }
    tasks
}

/// What passed an endpoint by when.
async fn watch(endpoint: &Endpoint, span: Duration) -> Vec<(Instant, Traffic)> {
    let start = Instant::now();
    let mut samples = vec![(start, endpoint.traffic())];
    while start.elapsed() < span {
        sleep(Duration::from_millis(10)).await;
        samples.push((Instant::now(), endpoint.traffic()));
    }
    samples
}

/// Asserts that in no second more than the cap passed, and over all nearly the cap.
#[track_caller]
fn assert_held(samples: &[(Instant, Traffic)], of: fn(&Traffic) -> u64, cap: Option<Rate>) {
    let per_sec = cap.unwrap().bytes_per_sec() as f64;
    for (index, (from, before)) in samples.iter().enumerate() {
        let within = samples[index..].iter();
        for (to, after) in within.take_while(|(to, _)| *to - *from <= Duration::from_secs(1)) {
            let passed = (of(after) - of(before)) as f64;
            let most = per_sec * 1.02 + 65536.0;
            assert!(passed <= most, "{passed} in {:?}", *to - *from);
        }
    }
    let (from, before) = samples.first().unwrap();
    let (to, after) = samples.last().unwrap();
    let share = (of(after) - of(before)) as f64 / per_sec / (*to - *from).as_secs_f64();
    println!("{share:.3} of {per_sec}");
    // On a busy machine timers are late.
    assert!(share > 0.9, "{share}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_leaves_is_held_over_all_links_and_messages_pass_content() {
    let cap = rate(40);
    let caps = RateCaps {
        upload: cap,
        ..RateCaps::default()
    };
    let star = Star::new(4, caps).await;
    let (asker, answerer) = star.links[0].clone();
    let _content = flow(star.links.iter().cloned());
    sleep(Duration::from_millis(500)).await;
    let answers = tokio::spawn(async move {
        while let Ok((mut send, mut receive)) = answerer.accept_bi().await {
            let asked = receive.read_to_end(100).await.unwrap();
            send.write_all(&asked).await.unwrap();
            send.finish().unwrap();
        }
    });
    let asks = async {
        let mut slowest = Duration::ZERO;
        for _ in 0..20 {
            let asked = Instant::now();
            let (mut send, mut receive) = asker.open_bi().await.unwrap();
            send.write_all(b"how far?").await.unwrap();
            send.finish().unwrap();
            assert_eq!(receive.read_to_end(100).await.unwrap(), b"how far?");
            slowest = slowest.max(asked.elapsed());
            sleep(Duration::from_millis(50)).await;
        }
        slowest
    };
    let (samples, slowest) = tokio::join!(watch(&star.hub, Duration::from_secs(3)), asks);
    assert_held(&samples, |it| it.sent_bytes, cap);
    // Behind the content that is ready on its link it would be 800 ms.
    assert!(slowest < Duration::from_millis(300), "{slowest:?}");
    answers.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_arrives_is_held_from_the_first_byte_on_however_many_push() {
    let cap = rate(40);
    let caps = RateCaps {
        download: cap,
        ..RateCaps::default()
    };
    let star = Star::new(6, caps).await;
    let pushers = star
        .links
        .iter()
        .map(|(hub, other)| (other.clone(), hub.clone()));
    let _content = flow(pushers);
    let samples = watch(&star.hub, Duration::from_secs(3)).await;
    assert_held(&samples, |it| it.received_bytes, cap);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_border_is_held_while_the_others_are_not() {
    let cap = rate(16);
    let caps = RateCaps {
        upload: rate(100),
        download: rate(100),
        border_upload: cap,
        border_download: cap,
    };
    let star = Star::new(4, caps).await;
    for (hub, _) in &star.links[..2] {
        hub.set_border(true);
    }
    let mut links = star.links.clone();
    for (ours, theirs) in [links[0].clone(), links[2].clone()] {
        links.push((theirs, ours));
    }
    let _content = flow(links);
    // The links to the border began with nothing, but one may have been used before it was one.
    sleep(Duration::from_millis(500)).await;
    let samples = watch(&star.hub, Duration::from_secs(3)).await;
    assert_held(&samples, |it| it.border_sent_bytes, cap);
    assert_held(&samples, |it| it.border_received_bytes, cap);
    let (first, last) = (samples.first().unwrap().1, samples.last().unwrap().1);
    let near = |it: &Traffic| it.sent_bytes - it.border_sent_bytes;
    assert!(near(&last) - near(&first) > 4 * (last.border_sent_bytes - first.border_sent_bytes));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_cap_counts_within_a_second_and_none_lifts_it() {
    let caps = |upload, download| RateCaps {
        upload,
        download,
        ..RateCaps::default()
    };
    let star = Star::new(3, caps(rate(80), rate(80))).await;
    let mut links = star.links.clone();
    links.extend(
        star.links
            .iter()
            .map(|(hub, other)| (other.clone(), hub.clone())),
    );
    let content = flow(links);
    sleep(Duration::from_millis(500)).await;
    assert_eq!(
        star.hub.set_caps(caps(rate(16), rate(24))),
        caps(rate(80), rate(80))
    );
    sleep(Duration::from_secs(1)).await;
    let samples = watch(&star.hub, Duration::from_secs(2)).await;
    assert_held(&samples, |it| it.sent_bytes, rate(16));
    assert_held(&samples, |it| it.received_bytes, rate(24));
    star.hub.set_caps(RateCaps::default());
    let before = star.hub.traffic();
    sleep(Duration::from_secs(1)).await;
    let after = star.hub.traffic();
    // More than the first caps let through.
    assert!(after.sent_bytes - before.sent_bytes > 12_000_000);
    assert!(after.received_bytes - before.received_bytes > 12_000_000);
    drop(content);
}

#[tokio::test]
async fn a_link_ends_in_order_while_it_waits_for_its_turn() {
    let caps = RateCaps {
        upload: rate(1),
        ..RateCaps::default()
    };
    let mut star = Star::new(2, caps).await;
    let content = flow(star.links.iter().cloned());
    sleep(Duration::from_millis(300)).await;
    let (ours, theirs) = star.links.remove(0);
    ours.close(1, "enough");
    let ended = tokio::time::timeout(Duration::from_secs(5), theirs.closed()).await;
    assert_eq!(ended.unwrap().close_code(), Some(1));
    drop((ours, theirs));
    // The other goes on.
    let before = star.hub.traffic().sent_bytes;
    sleep(Duration::from_secs(1)).await;
    assert!(star.hub.traffic().sent_bytes - before > 100_000);
    drop(content);
}
