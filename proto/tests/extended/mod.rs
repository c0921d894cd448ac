//! What objects say by extensions: golden bytes, and what builds make of them that do not know these.

use super::*;

#[test]
fn a_finalization_says_for_whom_it_is_by_a_required_extension() {
    let hosts: BTreeSet<NodeId> = [name("db1"), name("web1")].into();
    let golden_of = [
        (
            Reach::Only(hosts.clone()),
            "01 01 0b 00 02 03646231 0477656231",
        ),
        (Reach::AllBut(hosts), "01 01 0b 01 02 03646231 0477656231"),
        (Reach::Ordered, "01 01 01 02"),
    ];
    let all = golden(FINALIZATION);
    assert_eq!(finalization().reach().unwrap(), Reach::All);
    assert_eq!(finalization().reaching(&Reach::All), finalization());
    for (reach, extensions) in golden_of {
        let limited = finalization().reaching(&reach);
        let expected = with_extensions(&all, extensions);
        assert_eq!(hex_of(&limited), hex::encode(&expected), "{reach:?}");
        let read = Finalization::from_payload(&expected).unwrap();
        assert_eq!(read.reach().unwrap(), reach);
    }
    let broken = with_extensions(&all, "01 01 01 03");
    let broken = Finalization::from_payload(&broken).unwrap();
    assert!(broken.reach().is_err());
}

#[test]
fn a_directive_can_lapse_and_who_does_not_know_that_refuses_it() {
    assert_eq!(directive().dead_man(), None);
    let lapsing = directive().lapsing_after(Duration::from_secs(600));
    assert_eq!(lapsing.dead_man(), Some(Duration::from_secs(600)));
    let mut payload = golden(DIRECTIVE);
    payload.pop();
    payload.extend(golden(
        "01 01 04 58020000 # one extension, which is required: 1, 600 seconds in 4 bytes",
    ));
    assert_eq!(lapsing.to_payload().as_ref(), payload);
    assert_eq!(Directive::from_payload(&payload).unwrap(), lapsing);
    let known: &[u16] = &[];
    assert_eq!(
        lapsing.extensions.require_known(known),
        Err(ExtensionError::Required(1))
    );
}

#[test]
fn a_report_can_ask_for_the_seed_and_who_does_not_know_that_reads_the_rest() {
    assert!(!report().wants_seed());
    let asking = report().wanting_seed();
    assert!(asking.wants_seed());
    let mut payload = golden(REPORT);
    payload.pop();
    payload.extend(golden(
        "01 02 00 # one extension, which may be ignored: 2, no bytes",
    ));
    assert_eq!(asking.to_payload().as_ref(), payload);
    assert_eq!(asking.refused_release(), None);

    let refusing = report().refusing(release_id());
    assert_eq!(refusing.refused_release(), Some(release_id()));
    assert!(!refusing.wants_seed());
}

#[test]
fn a_report_names_the_peers_that_its_host_shuns_and_no_more_than_fit() {
    let shunned = |name: &str| ShunnedPeer {
        peer: name.parse().unwrap(),
        code: Reason::WrongBytes,
    };
    assert_eq!(report().shunned_peers(), []);
    let shunning = report().shunning(&[shunned("evil")]);
    let mut payload = golden(REPORT);
    payload.pop();
    payload.extend(golden(
        "01 18 12 # one extension, which may be ignored: 24
            01 04 6576696c 0b 77726f6e672d6279746573 # evil, wrong-bytes",
    ));
    assert_eq!(shunning.to_payload().as_ref(), payload);
    let read = Report::from_payload(&payload).unwrap();
    assert_eq!(read.shunned_peers(), [shunned("evil")]);

    let longest = "x".repeat(NodeId::BYTES_MAX);
    let many = report().shunning(&vec![shunned(&longest); 100]);
    assert_eq!(many.shunned_peers().len(), SHUNNED_PEERS_MAX);
    for none in [
        &b""[..],
        b"\x01\x01/\x01a",
        b"\xfd\xff\xff\xff\xff\xff\xff\xff\xff",
    ] {
        let extensions = Extensions::default().with(24, Bytes::from_static(none));
        let report = Report {
            extensions: extensions.unwrap(),
            ..report()
        };
        assert_eq!(report.shunned_peers(), []);
    }
}

#[test]
fn a_report_carries_the_code_of_its_reason_also_one_that_this_build_does_not_know() {
    assert_eq!(report().reason(), None);
    let full = report().because(Reason::DiskFull);
    let mut payload = golden(REPORT);
    payload.pop();
    payload.extend(golden(
        "01 0a 09 6469736b2d66756c6c # one extension, which may be ignored: 10, disk-full",
    ));
    assert_eq!(full.to_payload().as_ref(), payload);
    assert_eq!(full.reason(), Some(Reason::DiskFull));
    let check = Step::new(Reason::Check, "http", Duration::from_secs(900));
    let mut payload = golden(REPORT);
    payload.pop();
    payload.extend(golden(
        "02 0a 05 636865636b # two extensions, which may be ignored: 10, check
            0c 08 a0bb0d00 68747470 # 12, at most 900,000 ms, http",
    ));
    assert_eq!(report().at(&check).to_payload().as_ref(), payload);
    assert_eq!(report().at(&check).step(), Some(check.clone()));
    assert_eq!(report().because(Reason::Check).step(), None);
    assert_eq!(check.to_string(), "check `http`");
    let long = Step::new(Reason::Check, &"é".repeat(200), Duration::MAX);
    assert_eq!((long.name.len(), long.limit_millis), (256, u32::MAX));
    let later = report().because("moon-phase".parse().unwrap());
    let read = Report::from_payload(&later.to_payload()).unwrap();
    assert_eq!(read.reason().unwrap().as_str(), "moon-phase");
    for none in [&b""[..], b"\xff", b"Disk full"] {
        let extensions = Extensions::default().with(10, Bytes::from_static(none));
        let report = Report {
            extensions: extensions.unwrap(),
            ..report()
        };
        assert_eq!(report.reason(), None);
    }
}

#[test]
fn a_report_tells_what_its_host_saw_and_since_when_it_is_stale() {
    assert_eq!(report().sightings(), []);
    assert_eq!(report().stale_since(), None);
    assert_eq!(report().having_seen(&[]), report());
    let seen = [
        Sighting {
            code: Reason::WrongBytes,
            peer: Some("web5".parse().unwrap()),
            count: 2,
            last: UnixMillis(7),
        },
        Sighting {
            code: Reason::RefusedSequence,
            peer: None,
            count: 1,
            last: UnixMillis(8),
        },
    ];
    let telling = report().having_seen(&seen).stale(UnixMillis(258));
    let mut payload = golden(REPORT);
    payload.pop();
    payload.extend(golden(
        "02 16 08 0201000000000000 # two extensions, which may be ignored: 22, at 258
            1a 29 # 26, 41 bytes
            02 # two of them
            0b 77726f6e672d6279746573 01 04 77656235 02 07 # wrong-bytes, by web5, twice, last at 7
            10 726566757365642d73657175656e6365 00 01 08 # refused-sequence, nobody known, once, last at 8",
    ));
    assert_eq!(telling.to_payload().as_ref(), payload);
    let read = Report::from_payload(&telling.to_payload()).unwrap();
    assert_eq!(read.sightings(), seen);
    assert_eq!(read.stale_since(), Some(UnixMillis(258)));
    // The most that there may be, each as long as it can be.
    let longest = Sighting {
        code: "x".repeat(40).parse().unwrap(),
        peer: Some("n".repeat(253).parse().unwrap()),
        count: u32::MAX,
        last: UnixMillis(u64::MAX),
    };
    let many = report().having_seen(&vec![longest.clone(); SIGHTINGS_MAX + 1]);
    assert_eq!(many.sightings(), vec![longest; SIGHTINGS_MAX]);
    let other = Extensions::default().with(26, Bytes::from_static(b"\xff"));
    let unreadable = Report {
        extensions: other.unwrap(),
        ..report()
    };
    assert_eq!(unreadable.sightings(), []);
}

#[test]
fn a_release_has_a_priority_that_who_does_not_know_it_ignores() {
    assert_eq!(release().priority(), Priority::Normal);
    let again = release().with_priority(Priority::Normal);
    assert_eq!(hex_of(&again), hex_of(&release()));
    let urgent = release().with_priority(Priority::Urgent);
    let mut payload = golden(RELEASE);
    payload.pop();
    payload.extend(golden(
        "01 02 01 02 # one extension, which may be ignored: 2, one byte, urgent",
    ));
    assert_eq!(urgent.to_payload().as_ref(), payload);
    assert_eq!(urgent.priority(), Priority::Urgent);
    let bulk = urgent.with_priority(Priority::Bulk);
    assert_eq!(bulk.priority(), Priority::Bulk);
    assert!(Priority::Bulk < Priority::Normal && Priority::Normal < Priority::Urgent);
    let unknown = Extensions::default().with(2, Bytes::from_static(&[9]));
    let later = Release {
        extensions: unknown.unwrap(),
        ..release()
    };
    assert_eq!(later.priority(), Priority::Normal);
}
