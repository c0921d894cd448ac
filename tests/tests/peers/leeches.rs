//! A host of the fleet that takes all that it can of another one, and what those get who only fetch.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use scap_proto::reason::Reason;
use scap_tests::evil::{Assault, Conduct, EvilPeer, Original};
use scap_tests::fleet::wait_until;

use crate::goodput::{GOODPUT_SHARE_MIN, Served, rss_bytes};

#[test]
fn a11_a_flood_of_requests_for_the_same_chunks_leaves_others_their_share() {
    others_get_their_share(Assault::AsksAgain, &["evil"], None);
}

#[test]
fn a11_a_flood_of_requests_for_nothing_leaves_others_their_share() {
    others_get_their_share(Assault::AsksForNothing, &["evil"], None);
}

#[test]
fn a11_two_that_ask_and_read_nothing_leave_others_their_share() {
    others_get_their_share(Assault::ReadsNothing, &["evil1", "evil2"], None);
}

#[test]
fn a11_a_flood_of_messages_leaves_others_their_share() {
    others_get_their_share(Assault::SaysItAll, &["evil"], None);
}

#[test]
fn a11_who_opens_all_streams_and_sits_on_them_leaves_others_their_share() {
    others_get_their_share(Assault::SitsOnStreams, &["evil"], None);
}

#[test]
fn d9_a_frame_of_four_gibibytes_and_more_handles_than_anybody_has_are_the_end_of_the_link() {
    for how in [Assault::AnnouncesFourGibibytes, Assault::OpensHandles] {
        others_get_their_share(how, &["evil"], Some(Reason::BrokeProtocol));
    }
}

#[test]
fn d9_what_is_no_message_is_the_end_of_the_link_and_of_nothing_else() {
    others_get_their_share(Assault::TalksNonsense, &["evil"], None);
}

/// What a host gets beside what it gets alone, the better of two times; and what the node says of who is evil.
fn others_get_their_share(how: Assault, evil: &[&str], expected: Option<Reason>) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let served = {
        let _inside = runtime.enter();
        Served::start()
    };
    let alone = runtime.block_on(async {
        served.serve().await;
        let alone = served.goodput("alone1").await;
        alone.max(served.goodput("alone2").await)
    });
    let before = rss_bytes();
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let peers = evil.iter().map(|name| {
        let identity = served.enrol(name);
        EvilPeer::start(identity, any, Original::none(), Conduct::NeverAnswers)
    });
    let peers: Vec<EvilPeer> = peers.collect();
    let address = served.server.address();
    let done: Vec<_> = peers
        .iter()
        .map(|peer| peer.assault(how, Served::name(), address, Served::release()))
        .collect();
    let count = || {
        done.iter()
            .map(|it| it.load(Ordering::Relaxed))
            .sum::<u64>()
    };
    if expected.is_none() && how != Assault::TalksNonsense {
        wait_until("it is under way", UNDER_WAY_MAX, || {
            let count = count();
            (count >= 2).then_some(()).ok_or(count)
        });
    }
    let start = std::time::Instant::now();
    let beside = runtime.block_on(async {
        let beside = served.goodput("beside1").await;
        beside.max(served.goodput("beside2").await)
    });
    let per_sec = count() as f64 / start.elapsed().as_secs_f64();
    let grown = rss_bytes().saturating_sub(before) / 1_000_000;
    let share = beside / alone;
    println!(
        "{how:?}: {alone:.2} MB/s alone, {beside:.2} MB/s beside ({:.0} %); {per_sec:.0} of what it does a second got through; \
         the process of all grew by {grown} MB",
        100.0 * share
    );
    assert!(share >= GOODPUT_SHARE_MIN, "{how:?}: {share:.2}");
    if let Some(code) = expected {
        wait_until("it is shunned", SHUNNED_MAX, || {
            let shunned = served.server.shunned();
            let fits = shunned.iter().any(|it| it.code == code && it.is_barred);
            fits.then_some(()).ok_or(shunned)
        });
    }
    // Honest hosts are never taken for others.
    let shunned = served.server.shunned();
    let names = |peer: &str| evil.contains(&peer);
    assert!(
        shunned.iter().all(|it| names(it.peer.as_str())),
        "{shunned:?}"
    );
}

#[test]
fn who_asks_for_several_times_as_much_as_there_is_is_barred_and_who_dials_all_the_time_too() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let served = {
        let _inside = runtime.enter();
        Served::start()
    };
    runtime.block_on(served.serve());
    // Nobody else needs the room, so it gets what it asks for, until it is too much.
    served.server.set_caps(Default::default());
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let start = |name: &str| {
        let identity = served.enrol(name);
        Arc::new(EvilPeer::start(
            identity,
            any,
            Original::none(),
            Conduct::NeverAnswers,
        ))
    };
    let address = served.server.address();
    let (greedy, restless) = (start("evil1"), start("evil2"));
    greedy.assault(
        Assault::AsksAgain,
        Served::name(),
        address,
        Served::release(),
    );
    for _ in 0..4 {
        restless.pursue_in_vain(Served::name(), address);
    }
    wait_until("both are barred", SHUNNED_MAX, || {
        let shunned = served.server.shunned();
        let code_of = |name: &str| shunned.iter().find(|it| it.peer.as_str() == name);
        let codes = [code_of("evil1"), code_of("evil2")].map(|it| it.map(|it| it.code));
        (codes == [Some(Reason::AsksTooMuch), Some(Reason::DialsTooOften)])
            .then_some(())
            .ok_or(codes)
    });
    assert!(served.server.shunned().iter().all(|it| it.is_barred));
}

/// The longest that an assault may take to begin.
const UNDER_WAY_MAX: Duration = Duration::from_secs(10);

/// The longest until it has been found out.
const SHUNNED_MAX: Duration = Duration::from_secs(40);
