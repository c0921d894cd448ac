//! Who may read what: a host that is enrolled, and not for that, asks in vain.

use std::sync::Arc;
use std::time::{Duration, Instant};

use scap_agent::clock;
use scap_agent::node::{Job, Node, NodeEvent, Readers, Sources};
use scap_agent::store::Store;
use scap_coordinator::state::StateDirectory;
use scap_proto::id::ReleaseId;
use scap_proto::reason::Reason;
use scap_proto::release::{
    Membership, Plan, PlanHost, Priority, Release, SignedMembership, SignedRelease, TopologyKind,
};
use scap_proto::transport::RateCaps;
use scap_proto::wire::{
    chunk::ReplyHeader,
    control::{ControlMessage, Order},
};
use scap_tests::fleet::wait_until;
use scap_tests::fuzz::insider::{self, INSIDER};
use scap_tests::repo::write_incompressible;
use serde_json::Value;

use super::asker::Asker;
use super::nodes::{CONFIG, FETCH_MAX, build, memory_dir, start};
use super::scene::{Agent, Scene};

/// How often a peer was denied something for a reason, by the agent's own word.
fn denied(agent: &Agent, peer: &str, code: &str) -> u64 {
    let status = agent.status().unwrap();
    let denied = status["denied"].as_array().unwrap().iter();
    let is_it = |it: &&Value| it["peer"] == peer && it["code"] == code;
    let count = denied.filter(is_it).map(|it| it["count"].as_u64().unwrap());
    count.sum()
}

fn wait_until_denied(agent: &Agent, peer: &str, code: &str) {
    wait_until(&format!("{peer} is denied: {code}"), WAIT_MAX, || {
        let count = denied(agent, peer, code);
        (count > 0).then_some(()).ok_or(agent.log())
    });
}

fn ask(repo: &str, environment: &str) -> ControlMessage {
    ControlMessage::Ask {
        repo: repo.parse().unwrap(),
        environment: environment.parse().unwrap(),
    }
}

/// An order about a repo that is signed by somebody whom the fleet does not know.
fn forged(repo: &str) -> ControlMessage {
    let release = Release {
        repo: repo.parse().unwrap(),
        ..insider::release()
    };
    let order = Order {
        release: SignedRelease::sign(&release, &INSIDER.signer).unwrap(),
        grant: INSIDER.grant.signed().clone(),
        directive: INSIDER.by_session(b"none"),
        plan: None,
    };
    ControlMessage::Order(order.into())
}

#[test]
fn a12_a_host_of_another_group_gets_the_same_as_for_what_is_not_there() {
    let scene = Scene::start(2);
    let commit = scene.commit_payload(PAYLOAD_BYTES, 1);
    scene.deploy(&commit, &[]);
    let agent = &scene.agents[0];
    let release = agent.status().unwrap()["releases"][0]["release"].clone();
    let release: ReleaseId = release.as_str().unwrap().parse().unwrap();
    let unknown = ReleaseId::of(b"nobody has it");
    scene.enrol_in(EVIL, &["staging"]);
    let trust = scene.trust(EVIL);
    let shown = trust.membership.get();
    let all = [release, unknown, Release::config_id(release)];

    // Whatever it shows, and says.
    for shown in [shown.as_ref(), None] {
        let mut evil = Asker::dial(trust.identity.clone(), agent);
        evil.open(shown, &all);
        wait_until_denied(agent, EVIL, Reason::OutsidePlan.as_str());
        let nothing = ReplyHeader::NotHeld.encode().to_vec();
        let mut took = [Vec::new(), Vec::new()];
        for _ in 0..50 {
            for handle in 0..all.len() {
                let began = Instant::now();
                let answer = evil.first_chunk(u32::try_from(handle).unwrap());
                assert_eq!(answer, nothing, "handle {handle}");
                if let Some(took) = took.get_mut(handle) {
                    took.push(began.elapsed());
                }
            }
        }
        let [denied, unknown] = took.map(|mut took| {
            took.sort_unstable();
            took[took.len() / 2]
        });
        println!("a denied chunk is answered in {denied:?}, one that is not there in {unknown:?}");
        let close = Duration::from_millis(2);
        assert!(denied < 2 * unknown + close && unknown < 2 * denied + close);
    }

    // Where the host stands it hears no more than of a repo that nobody has; of what it is in, it hears.
    let evil = Asker::dial(trust.identity.clone(), agent);
    let asks = vec![
        ask("site", "production"),
        ask("nothing", "production"),
        ask("site", "staging"),
    ];
    let heard = evil.control(shown.as_ref(), asks, |heard| !heard.is_empty());
    let [ControlMessage::Report(report)] = heard.as_slice() else {
        panic!("{heard:?}");
    };
    let report = report.verify(trust.identity.trust(), clock::now()).unwrap();
    assert_eq!(report.environment.as_str(), "staging");
    assert_eq!(report.standing, Default::default());
    assert_eq!(denied(agent, EVIL, Reason::OutsideAudience.as_str()), 2);
    // Nor by hiding it.
    let hiding = vec![ask("site", "production"), ask("site", "staging")];
    let heard = evil.control(None, hiding, |_| {
        denied(agent, EVIL, Reason::NoMembership.as_str()) == 2
    });
    assert_eq!(heard, []);
    assert!(agent.log().contains("asked for what it may not have"));

    // One of the environment, but not of the audience, hears nothing either, nor of a repo that is not here and might be for others.
    let shown = Membership {
        host: EVIL.parse().unwrap(),
        environments: vec!["production".parse().unwrap(), "staging".parse().unwrap()],
        audiences: vec!["edge".parse().unwrap()],
        extensions: Default::default(),
    };
    let shown = SignedMembership::sign(&shown, &scene.state.identity().unwrap());
    let asks = vec![ask("site", "production"), ask("nothing", "production")];
    let before = denied(agent, EVIL, Reason::OutsideAudience.as_str());
    let heard = evil.control(Some(&shown), asks, |_| {
        denied(agent, EVIL, Reason::OutsideAudience.as_str()) == before + 2
    });
    assert_eq!(heard, []);

    // Orders that nobody signed use up as many of the host's numbers, whether the repo is here or not.
    let counters = evil.control(
        trust.membership.get().as_ref(),
        vec![
            ask("site", "staging"),
            forged("site"),
            ask("site", "staging"),
            forged("nothing"),
            ask("site", "staging"),
        ],
        |heard| heard.len() == 3,
    );
    let counters = counters.into_iter().map(|message| match message {
        ControlMessage::Report(report) => {
            let report = report.verify(trust.identity.trust(), clock::now()).unwrap();
            assert_eq!(report.environment.as_str(), "staging");
            report.counter
        }
        other => panic!("{other:?}"),
    });
    let [first, second, third] = <[u64; 3]>::try_from(counters.collect::<Vec<_>>()).unwrap();
    assert_eq!(second - first, third - second);

    // Who may have it gets it, in the same way.
    let host2 = scene.trust("host2");
    let mut honest = Asker::dial(host2.identity.clone(), agent);
    honest.open(host2.membership.get().as_ref(), &all);
    wait_until("it is served", WAIT_MAX, || {
        let answer = honest.first_chunk(0);
        let is_chunk = answer.len() > ReplyHeader::NotHeld.encode().len();
        is_chunk.then_some(()).ok_or(answer)
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a12_the_seed_serves_nobody_whom_no_plan_names_or_who_is_in_another_group() {
    assert_eq!(seed_denies(true, &["production"]).await, None);
    let outside = Some(Reason::OutsideAudience);
    assert_eq!(seed_denies(true, &["staging"]).await, outside);
    let outside = Some(Reason::OutsidePlan);
    assert_eq!(seed_denies(false, &["production"]).await, outside);
}

/// Why a host gets nothing of a release from a seed that dialled it, if it does not: whether the plan names it, and what it is in.
async fn seed_denies(is_named: bool, environments: &[&str]) -> Option<Reason> {
    let dir = memory_dir();
    let state = dir.path().join("state");
    StateDirectory::init(&state, &"loopback".parse().unwrap(), clock::now()).unwrap();
    let state = StateDirectory::open(&state).unwrap();
    let (seed_store, _) = Store::open(dir.path().join("seed"), CONFIG).unwrap();
    let tree = dir.path().join("tree");
    std::fs::create_dir(&tree).unwrap();
    write_incompressible(&tree.join("payload"), 100_000, 1);
    let built = build(&tree, &seed_store);

    let name: scap_proto::id::NodeId = "host".parse().unwrap();
    let path = dir.path().join("identity");
    let environments: Vec<_> = environments.iter().map(|it| it.parse().unwrap()).collect();
    state
        .enroll(&name, &path, &environments, clock::now())
        .unwrap();
    let trust = scap_agent::trust::HostTrust::load(&path, clock::now()).unwrap();
    let (store, _) = Store::open(dir.path().join("store"), CONFIG).unwrap();
    let listen = Some("127.0.0.1:0".parse().unwrap());
    let (host, mut tasks) = Node::start_showing(
        (trust.identity.clone(), trust.membership.clone()),
        listen,
        store,
        None,
        RateCaps::default(),
    )
    .unwrap();
    let caps = RateCaps::default();
    let (seed, _seed_tasks) = start(state.identity().unwrap(), false, seed_store, caps);
    let planned = |name: &str| PlanHost {
        name: name.parse().unwrap(),
        addresses: vec![host.address()],
        site: String::new(),
        rack: String::new(),
        wave: 0,
    };
    let job = |hosts: Vec<PlanHost>| Job {
        release: ReleaseId::of(b"private"),
        readers: Readers::default(),
        snapshot: built.snapshot,
        plan: Arc::new(Plan {
            seed: "coordinator".parse().unwrap(),
            hosts,
            topology: TopologyKind::Swarm,
            degree: 8,
            fanout: 2,
            random_seed: 1,
            extensions: Default::default(),
        }),
        sources: Sources::Plan,
        list_end: built.layout.list_pages().end,
        deltas: Vec::new(),
        config: None,
        priority: Priority::Normal,
    };
    // Whatever the host makes itself believe.
    host.attach(job(vec![planned("host")])).await;
    let by_the_seed = if is_named { "host" } else { "other" };
    seed.attach(job(vec![planned(by_the_seed)])).await;
    seed.dial(&name, &[host.address()]).await.unwrap();
    tokio::time::timeout(FETCH_MAX, async {
        loop {
            tokio::select! {
                event = tasks.next() => match event {
                    Some(NodeEvent::Fetched { .. }) => return None,
                    other => panic!("{other:?}"),
                },
                () = tokio::time::sleep(Duration::from_millis(10)) => {}
            }
            if let Some(denial) = seed.denials().first() {
                let status = host.status(ReleaseId::of(b"private")).await.unwrap();
                assert_eq!((status.chunks_held, status.bytes.seed), (0, 0));
                assert_eq!(denial.peer, name);
                return Some(denial.reason);
            }
        }
    })
    .await
    .expect("it is served or denied")
}

const EVIL: &str = "evil";

/// Some dozen chunks.
const PAYLOAD_BYTES: usize = 2 * 1024 * 1024;

/// The longest that something may take on one machine, which may be busy.
const WAIT_MAX: Duration = Duration::from_secs(30);
