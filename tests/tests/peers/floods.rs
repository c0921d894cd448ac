//! What somebody without an identity can do to a node, and to who fetches from it: nodes in this process, over UDP on loopback, where all
//! addresses of 127/8 are this machine's.

use std::net::{Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::{Rng, RngCore};
use scap_coordinator::state::StateDirectory;
use scap_proto::identity::Identity;
use scap_tests::evil::datagrams::{Between, Flood, first_packets, reset_like, seeded, sources};
use tempfile::TempDir;

use crate::alone::is_alone;
use crate::goodput::{GOODPUT_SHARE_MIN, Served, rss_bytes};

#[tokio::test(flavor = "multi_thread")]
async fn d1_a_flood_of_first_packets_from_one_source_leaves_transfers_their_share() {
    if !is_alone("floods::d1_a_flood_of_first_packets_from_one_source_leaves_transfers_their_share")
    {
        return;
    }
    let dropped = transfers_keep_their_share_beside(1).await;
    assert!(dropped > 0, "all of it was looked at");
}

#[tokio::test(flavor = "multi_thread")]
async fn d1_a_flood_of_first_packets_from_many_sources_leaves_transfers_their_share() {
    if !is_alone(
        "floods::d1_a_flood_of_first_packets_from_many_sources_leaves_transfers_their_share",
    ) {
        return;
    }
    transfers_keep_their_share_beside(200).await;
}

/// Sends first packets of handshakes from so many addresses while a host fetches; returns how many were dropped unread.
async fn transfers_keep_their_share_beside(source_count: u8) -> u64 {
    let served = Served::start();
    served.serve().await;
    let alone = served.goodput("alone1").await;
    let alone = alone.max(served.goodput("alone2").await);
    let (strangers, _dir) = strangers();
    let packets = first_packets(strangers, 60).await;
    let (address, before) = (served.server.address(), rss_bytes());
    let sources = sources(source_count);
    // A link that there is goes on: the host begins to fetch, and then the flood comes.
    let mut best = 0_f64;
    for name in ["beside1", "beside2"] {
        let mut fetching = served.fetch(name, address).await;
        fetching.has(0.05).await;
        let (sources, packets) = (clones(&sources), packets.clone());
        let flood = Flood::start(FIRST_PACKETS_PER_SEC, move |number| {
            let number = usize::try_from(number).unwrap();
            let source = &sources[number % sources.len()];
            let _ = source.send_to(&packets[number / 7 % packets.len()][0], address);
        });
        best = best.max(fetching.finish().await);
        println!("{:.0} first packets a second", flood.per_sec());
    }
    let share = best / alone;
    let dropped = served.server.first_packets_dropped();
    let grown = rss_bytes().saturating_sub(before);
    println!(
        "{source_count} sources: {alone:.2} MB/s alone, {best:.2} MB/s beside ({:.0} %), {dropped} dropped unread, the process grew by {} MB",
        100.0 * share,
        grown / 1_000_000
    );
    assert!(share >= GOODPUT_SHARE_MIN, "{share:.2}");
    assert!(grown < GROWTH_BYTES_MAX, "{grown} bytes");
    // And who comes next is let in.
    let served_after = tokio::time::timeout(LINK_MAX, async {
        served.fetch("evil", address).await.has(0.01).await;
    });
    served_after.await.unwrap();
    dropped
}

#[tokio::test(flavor = "multi_thread")]
async fn d2_nobody_gets_more_than_three_bytes_for_one_before_its_address_is_proved() {
    let served = Served::start();
    let (strangers, _dir) = strangers();
    let packets = first_packets(strangers, 4).await;
    let mut worst = 0_f64;
    let whole = &packets[0];
    let mut unknown_version = packets[1][0].clone();
    unknown_version[1..5].copy_from_slice(&[0x0a, 0x1a, 0x2a, 0x3a]);
    let mut short = vec![0; 1200];
    seeded(1).fill_bytes(&mut short);
    short[0] = 0x41;
    let cases = [
        ("a whole first flight, and nothing after it", whole.clone()),
        ("the first packet of a flight", vec![packets[2][0].clone()]),
        ("a version that is not ours", vec![unknown_version]),
        ("a packet of no link", vec![short]),
    ];
    for (what, datagrams) in cases {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_millis(200)))
            .unwrap();
        let mut sent = 0;
        for datagram in &datagrams {
            sent += socket.send_to(datagram, served.server.address()).unwrap();
        }
        // All that it sends again and again counts.
        let (mut came, until) = (0, Instant::now() + ANSWERS);
        let mut buffer = [0; 65_536];
        while Instant::now() < until {
            came += socket.recv(&mut buffer).unwrap_or(0);
        }
        let factor = came as f64 / sent as f64;
        println!("{what}: {sent} bytes in, {came} bytes out, {factor:.2} for one");
        worst = worst.max(factor);
    }
    assert!(worst > 0.0, "nothing was answered at all");
    assert!(worst <= 3.0, "{worst}");
}

#[tokio::test(flavor = "multi_thread")]
async fn d5_whatever_comes_is_no_panic_and_the_node_serves_on() {
    if !is_alone("floods::d5_whatever_comes_is_no_panic_and_the_node_serves_on") {
        return;
    }
    let served = Served::start();
    served.serve().await;
    let (strangers, _dir) = strangers();
    let packets = first_packets(strangers, 20).await;
    let mut rng = seeded(5);
    let socket = UdpSocket::bind((Ipv4Addr::new(127, 9, 9, 9), 0)).unwrap();
    let panics = panics();
    for round in 0..20_000 {
        let mut packet = packets[round % packets.len()][0].clone();
        match round % 4 {
            // Cut short, with other bytes in it, with a header alone, or of nothing at all.
            0 => packet.truncate(rng.random_range(0..packet.len())),
            1 => {
                for _ in 0..8 {
                    let at = rng.random_range(0..packet.len());
                    packet[at] = rng.random();
                }
            }
            2 => {
                let at = rng.random_range(5..60);
                rng.fill_bytes(&mut packet[at..]);
            }
            _ => {
                packet = vec![0; rng.random_range(0..1500)];
                rng.fill_bytes(&mut packet);
            }
        }
        let _ = socket.send_to(&packet, served.server.address());
        if round % 100 == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    served.goodput("alone1").await;
    assert_eq!(panics(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn t1_a_flood_of_forged_resets_ends_no_link() {
    let served = Served::start();
    served.serve().await;
    let alone = served.goodput("alone1").await;
    let mut best = 0_f64;
    for name in ["beside1", "beside2"] {
        let between = Between::before(served.server.address());
        let mut fetching = served.fetch(name, between.address()).await;
        fetching.has(0.05).await;
        let link = fetching.host.link(&Served::name()).await.unwrap();
        let (forge, mut rng) = (between.forger(), seeded(9));
        let flood = Flood::start(RESETS_PER_SEC, move |_| forge(&reset_like(&mut rng)));
        best = best.max(fetching.finish().await);
        println!(
            "{:.0} forged resets a second, to each side",
            flood.per_sec()
        );
        let still = fetching.host.link(&Served::name()).await.unwrap();
        assert!(link.is_same(&still), "the link was made anew");
    }
    let share = best / alone;
    println!(
        "{alone:.2} MB/s alone, {best:.2} MB/s beside forged resets ({:.0} %)",
        100.0 * share
    );
    assert!(share >= GOODPUT_SHARE_MIN, "{share:.2}");
}

#[tokio::test(flavor = "multi_thread")]
async fn d6_a_host_whose_address_changes_goes_on_as_the_same_host() {
    let served = Served::start();
    served.serve().await;
    let between = Between::before(served.server.address());
    let mut fetching = served.fetch("beside1", between.address()).await;
    fetching.has(0.2).await;
    let name = "beside1".parse().unwrap();
    let link = served.server.link(&name).await.unwrap();
    let from = link.remote_address();
    let (held, changed) = (share_held(&fetching.host).await, Instant::now());
    between.rebind();
    let moved = async {
        while share_held(&fetching.host).await < held + 0.1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(REBIND_MAX, moved)
        .await
        .expect("it stands still");
    let went_on = changed.elapsed();
    fetching.finish().await;
    // The node that serves sees another address, and the name in the certificate.
    let now = served.server.link(&name).await.unwrap();
    println!(
        "a tenth of the release came within {:.2} s after the address changed; the link {}",
        went_on.as_secs_f64(),
        if now.is_same(&link) {
            "stayed"
        } else {
            "was made anew"
        }
    );
    assert_ne!(now.remote_address(), from);
    assert_eq!(now.peer().name, name);
}

async fn share_held(host: &scap_agent::node::Node) -> f64 {
    let status = host.status(Served::release()).await.unwrap();
    let total = status.chunks_total.unwrap_or(u32::MAX);
    f64::from(status.chunks_held) / f64::from(total)
}

/// An identity of another fleet: good enough to begin a handshake with.
fn strangers() -> (Arc<Identity>, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let now = scap_agent::clock::now();
    StateDirectory::init(&state, &"strangers".parse().unwrap(), now).unwrap();
    (
        StateDirectory::open(&state).unwrap().identity().unwrap(),
        dir,
    )
}

fn clones(sockets: &[UdpSocket]) -> Vec<UdpSocket> {
    let clones = sockets.iter().map(|socket| socket.try_clone().unwrap());
    clones.collect()
}

/// Counts the panics of this process from now on, in whatever thread.
fn panics() -> impl Fn() -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering};
    let count = Arc::<AtomicU64>::default();
    let (counts, before) = (count.clone(), std::panic::take_hook());
    std::panic::set_hook(Box::new(move |info| {
        counts.fetch_add(1, Ordering::Relaxed);
        before(info);
    }));
    move || count.load(Ordering::Relaxed)
}

const FIRST_PACKETS_PER_SEC: u64 = 20_000;
const RESETS_PER_SEC: u64 = 5_000;

/// What the process, which plays all parts, may grow by.
const GROWTH_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// How long answers are waited for: what is sent again for want of an acknowledgement comes within it three times.
const ANSWERS: Duration = Duration::from_secs(3);

/// The longest that a new link may take after a flood.
const LINK_MAX: Duration = Duration::from_secs(20);

/// The longest that a host may stand still whose address changed.
const REBIND_MAX: Duration = Duration::from_secs(3);
