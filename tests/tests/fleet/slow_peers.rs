//! Peers with a valid identity that hold others up, on links so slow that there is time to notice.

use std::collections::BTreeSet;

use scap_proto::id::SnapshotId;
use scap_proto::identity::Identity;
use scap_tests::evil::{Conduct, EvilPeer, Original};
use scap_tests::fleet::{Fleet, Host, wait_until};
use scap_tests::repo::{SourceRepo, write_incompressible};
use scap_tests::tree::Tree;
use scap_tests::under_test;

use crate::scene::{FETCH_MAX, REPO, runs};

#[test]
fn peers_that_send_nothing_or_too_slowly_are_dropped_and_named() {
    let builder = Fleet::builder(under_test!()).hosts(5).rate_mbit(10);
    let Some(fleet) = builder.build() else {
        return;
    };
    fleet.enrol();
    let (honest, evil) = fleet.hosts().split_at(3);
    for host in honest {
        host.spawn_agent();
    }
    for host in honest {
        host.wait_ready();
    }
    let repo = SourceRepo::create(&fleet.dir().join(REPO));
    write_incompressible(&repo.dir().join("payload.bin"), PAYLOAD_BYTES, 43);
    let commit = repo.commit("a payload");
    let snapshot = snapshot(&fleet, &repo);

    let names: BTreeSet<_> = evil.iter().map(Host::name).collect();
    for pattern in names.iter().copied().chain(["dropped", "peer"]) {
        fleet.expect_log(pattern);
    }
    let conducts = [Conduct::NeverAnswers, Conduct::OneBytePerSecond];
    let running = evil.iter().zip(conducts).map(|(host, conduct)| {
        let store = fleet.coordinator().state().join("store");
        let original = Original::read(&store, snapshot).unwrap();
        let identity = Identity::load(&host.identity()).unwrap();
        let listen = host.station().listen().into();
        host.station()
            .inside(|| EvilPeer::start(identity, listen, original, conduct))
    });
    let running: Vec<EvilPeer> = running.collect();
    for peer in &running {
        for host in honest {
            peer.pursue(host.name().parse().unwrap(), host.station().listen().into());
        }
        wait_until("all are linked to the evil peer", FETCH_MAX, || {
            let linked = peer.linked();
            (linked.len() == honest.len()).then_some(()).ok_or(linked)
        });
    }

    // In a swarm: a host whose lanes bring it all asks nobody, and finds out nothing of who would not answer.
    let arguments = ["--connect-timeout", "4", "--budget", "100%"];
    let arguments = [&arguments[..], &["--topology", "swarm"]].concat();
    let deployed = fleet.coordinator().deploy(repo.dir(), &arguments);
    let report = deployed.expect_code(5);
    assert_eq!(report.failed(), Vec::from_iter(names.iter().copied()));
    let expected: Tree = repo.archived(&commit);
    for host in honest {
        expected.assert_is(&host.live(REPO));
        assert!(runs(host, &commit), "{}", host.name());
        let dropped = host.status().unwrap().dropped_peers;
        let named: BTreeSet<_> = dropped.iter().map(|peer| peer.name.as_str()).collect();
        assert_eq!(named, names, "{}: {dropped:?}", host.name());
        for peer in &dropped {
            let why = ["sent nothing", "sent too little"];
            let fits = why.iter().any(|why| peer.reason.contains(why));
            assert!(fits, "{}: {peer:?}", host.name());
        }
    }
}

fn snapshot(fleet: &Fleet, repo: &SourceRepo) -> SnapshotId {
    let state = fleet.coordinator().state();
    let output = fleet.coordinator().run(
        [
            "snapshot".as_ref(),
            "--state".as_ref(),
            state.as_os_str(),
            "--repo".as_ref(),
            repo.dir().as_os_str(),
            "--json".as_ref(),
        ],
        FETCH_MAX,
    );
    assert_eq!(output.code(), Some(0), "{output:#?}");
    let report: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
    report["snapshot"].as_str().unwrap().parse().unwrap()
}

/// Takes 48 seconds at 10 Mbit/s. A peer that sends nothing is dropped after three requests have run out in a row, which takes
/// some 25.
const PAYLOAD_BYTES: usize = 60_000_000;
