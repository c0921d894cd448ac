//! The bytes of messages on streams: golden ones, there and back, and damaged ones.
#![allow(clippy::unwrap_used, reason = "tests")]

mod config_questions;
mod enrolments;
mod objects;
mod renewals;

use std::fmt::Debug;

use bytes::Bytes;
use objects::{
    DEPLOYER, Damages, EVEN, FINALIZATION, GRANT, ODD, PLAN, RELEASE, RELEASE_ID, REPORT, ROSTER,
    any_damages, any_extensions, damage, golden, report_as_sent, signed_directive,
    signed_finalization, signed_grant, signed_release, with_extensions,
};
use proptest::{collection::vec, prelude::*};
use scap_proto::{
    codec::{self, CodecError, Extensible},
    content::RelPath,
    extensions::{ExtensionError, Extensions},
    frame::{self, FrameError},
    id::{NodeId, ReleaseId},
    identity::{SecretKey, SignedFleetTrust},
    limits::{ENCODED_CHUNK_BYTES_MAX, FRAME_BYTES_MAX, SNAPSHOT_CHUNKS_MAX},
    release::{
        Branch, Directive, LeafSigned, Plan, PlanHost, SignedDirective, SignedLease,
        SignedMembership, SignedReport, SignedRoster, Stage, Targets, TopologyKind, TreeId,
        signature::AllowedSigners, signed::SessionSigned,
    },
    wire::{
        Envelope, Hello, Open,
        chunk::{ChunkRequest, ReplyHeader, ReplyHeaderError},
        control::{ControlMessage, Finalize, HostNews, Order},
        peer::{ChunkSet, PeerMessage},
        stable::StableQuestion,
    },
};
use serde::{Serialize, de::DeserializeOwned};

/// Reads one message of a stream that holds these bytes.
fn read<M: DeserializeOwned>(bytes: &[u8]) -> Result<Option<Envelope<M>>, FrameError> {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let mut stream = bytes;
    runtime.unwrap().block_on(frame::read_message(&mut stream))
}

/// A body with the length that goes before it, in four bytes.
fn framed(body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap();
    [&length.to_le_bytes(), body].concat()
}

/// A message has this frame and grows as all do. The text is all of the frame.
fn check_frame<M>(message: M, frame: &[u8])
where
    M: Serialize + DeserializeOwned + Clone + PartialEq + Debug,
{
    let envelope = Envelope::from(message);
    let ours = frame::encode_frame(&envelope).unwrap();
    assert_eq!(hex::encode(&ours), hex::encode(frame), "{envelope:?}");
    assert_eq!(read::<M>(frame).unwrap().unwrap(), envelope);

    let even = with_extensions(&frame[4..], EVEN);
    let grown = read::<M>(&framed(&even)).unwrap().unwrap();
    assert_eq!(grown.message, envelope.message);
    assert_eq!(grown.extensions().get(4).unwrap().as_ref(), [0xab, 0xcd]);
    assert_eq!(codec::encode(&grown), even);

    let odd = framed(&with_extensions(&frame[4..], ODD));
    let Err(FrameError::Codec(CodecError::Extension(refused))) = read::<M>(&odd) else {
        panic!("an odd tag must be refused");
    };
    assert_eq!(refused, ExtensionError::Required(7));

    let longer = framed(&[&frame[4..], &[0]].concat());
    let refused = read::<M>(&longer);
    assert!(matches!(
        refused,
        Err(FrameError::Codec(CodecError::Trailing(1)))
    ));
    let cut = &frame[..frame.len() - 1];
    assert!(matches!(read::<M>(cut), Err(FrameError::Io(_))));
}

fn release_id() -> ReleaseId {
    RELEASE_ID.parse().unwrap()
}

#[test]
fn the_first_frame_of_each_kind_of_stream_is_golden() {
    let hello = Hello {
        software: "scap 0.1.0".into(),
        features: 300,
    };
    let session = "
        10000000                            # 16 bytes
        00                                  # a session
        0a 7363617020302e312e30             # scap 0.1.0
        fb 2c01                             # features 2, 3, 5 and 8
        00                                  # no extensions
    ";
    check_frame(Open::Session(hello.clone()), &golden(session));
    let control = "10000000 01 0a 7363617020302e312e30 fb 2c01 00";
    check_frame(Open::Control(hello), &golden(control));
    let chunk = "
        06000000                            # 6 bytes
        02                                  # one chunk
        01 fb 2c01                          # of handle 1, number 300
        00                                  # no extensions
    ";
    let request = ChunkRequest {
        handle: 1,
        index: 300,
    };
    check_frame(Open::Chunk(request), &golden(chunk));
    assert!(matches!(
        read::<Open>(&golden("02000000 05 00")),
        Err(FrameError::Codec(CodecError::Malformed(_)))
    ));
}

#[test]
fn a_question_for_what_is_stable_and_its_answers_are_golden() {
    let all = "
        05000000                            # 5 bytes
        03                                  # what is stable?
        00 00 00                            # of all repos, in all environments, without a membership
        00                                  # no extensions
    ";
    let question = StableQuestion {
        repo: None,
        environment: None,
        membership: None,
    };
    check_frame(Open::Stable(Box::new(question)), &golden(all));
    let one = "
        21000000                            # 33 bytes
        03                                  # what is stable?
        01 09 6d772f636f6e666967            # of mw/config
        01 0a 70726f64756374696f6e          # in production
        01 01 aa 01 bb 02 ccdd              # a membership: payload, certificate, signature
        00                                  # no extensions
    ";
    let membership = SignedMembership(LeafSigned {
        payload: Bytes::from_static(&[0xaa]),
        certificate: Bytes::from_static(&[0xbb]),
        signature: Bytes::from_static(&[0xcc, 0xdd]),
    });
    let question = StableQuestion {
        repo: Some("mw/config".parse().unwrap()),
        environment: Some("production".parse().unwrap()),
        membership: Some(membership),
    };
    check_frame(Open::Stable(Box::new(question)), &golden(one));
    // As in the message of control, without the number of its kind.
    let body = [codec::encode(&finalize()), vec![0]].concat();
    check_frame(finalize(), &framed(&body));
}

#[test]
fn the_messages_of_a_session_are_golden() {
    let open = "
        23000000                            # 35 bytes
        00                                  # open
        01                                  # as handle 1, this release
        a275be35e70ecf2f8f90b8413fdea680 6936fd022444d0fc6c362df06102e41a
        00                                  # no extensions
    ";
    let message = PeerMessage::Open {
        handle: 1,
        release: release_id(),
    };
    check_frame(message, &golden(open));
    let close = "03000000 01 01 00          # close handle 1";
    check_frame(PeerMessage::Close { handle: 1 }, &golden(close));
    let indexes = "
        09000000                            # 9 bytes
        02                                  # have
        01                                  # of your handle 1
        00 02 03 fb 2c01                    # these two: 3 and 300
        00                                  # no extensions
    ";
    let message = PeerMessage::Have {
        handle: 1,
        chunks: ChunkSet::Indexes(vec![3, 300]),
    };
    check_frame(message, &golden(indexes));
    let bitmap = "
        08000000                            # 8 bytes
        02                                  # have
        01                                  # of your handle 1
        01 08                               # from 8 on, lowest bit first
        02 07 02                            # two bytes: 8, 9, 10 and 17
        00                                  # no extensions
    ";
    let message = PeerMessage::Have {
        handle: 1,
        chunks: ChunkSet::from_sorted(&[8, 9, 10, 17]),
    };
    check_frame(message, &golden(bitmap));
    let follow = "
        08000000                            # 8 bytes
        03                                  # follow
        01                                  # in what I call 1
        06                                  # lanes 1 and 2
        01 08 01 01                         # I hold 8
        00                                  # no extensions
    ";
    let message = PeerMessage::Follow {
        handle: 1,
        lanes: 6,
        held: ChunkSet::Bitmap {
            first: 8,
            bits: vec![1].into(),
        },
    };
    check_frame(message, &golden(follow));
    assert!(matches!(
        read::<PeerMessage>(&golden("02000000 05 00")),
        Err(FrameError::Codec(CodecError::Malformed(_)))
    ));
}

fn order() -> Order {
    Order {
        release: codec::decode(&signed_release()).unwrap(),
        grant: codec::decode(&signed_grant()).unwrap(),
        directive: codec::decode(&signed_directive()).unwrap(),
        plan: Some(golden(PLAN).into()),
    }
}

fn finalize() -> Finalize {
    Finalize {
        release: codec::decode(&signed_release()).unwrap(),
        grant: codec::decode(&signed_grant()).unwrap(),
        finalization: codec::decode(&signed_finalization()).unwrap(),
    }
}

#[test]
fn the_messages_of_control_are_golden() {
    let ask = "
        17000000                            # 23 bytes
        00                                  # ask
        09 6d772f636f6e666967               # about mw/config
        0a 70726f64756374696f6e             # in production
        00                                  # no extensions
    ";
    let message = ControlMessage::Ask {
        repo: "mw/config".parse().unwrap(),
        environment: "production".parse().unwrap(),
    };
    check_frame(message, &golden(ask));

    let (release, grant, directive) = (signed_release(), signed_grant(), signed_directive());
    let with_plan = [golden("01 59 # 89 bytes"), golden(PLAN)].concat();
    let none = vec![0];
    let body = [vec![1], release, grant, directive, with_plan, none].concat();
    check_frame(ControlMessage::Order(order().into()), &framed(&body));
    let without_plan = Order {
        plan: None,
        ..order()
    };
    let plan_bytes = 2 + golden(PLAN).len();
    let mut body = body[..body.len() - 1 - plan_bytes].to_vec();
    body.extend([0, 0]);
    check_frame(ControlMessage::Order(without_plan.into()), &framed(&body));

    let (release, grant, finalization) = (signed_release(), signed_grant(), signed_finalization());
    let body = [vec![2], release, grant, finalization, vec![0]].concat();
    check_frame(ControlMessage::Finalize(finalize().into()), &framed(&body));

    let (report, bytes) = report_as_sent();
    let body = [vec![3], bytes, vec![0]].concat();
    check_frame(ControlMessage::Report(report.into()), &framed(&body));
    let relay = "
        16000000                            # 22 bytes
        05                                  # relay
        fd 0807060504030201                 # in tree 0102030405060708
        02                                  # for two branches
          00 fb 4001                        #   hosts 0 to 319
          fb 4001 fb 4101                   #   host 320
        00                                  # no extensions
    ";
    let branch = |first, end| Branch { first, end };
    let message = ControlMessage::Relay {
        tree: TreeId(0x0102_0304_0506_0708),
        branches: vec![branch(0, 320), branch(320, 321)],
    };
    check_frame(message, &golden(relay));

    let (report, bytes) = report_as_sent();
    let roster = SignedRoster(report.0.clone());
    let body = [vec![4], bytes.clone(), vec![0]].concat();
    check_frame(ControlMessage::Roster(roster.into()), &framed(&body));
    let body = [vec![6, 2], bytes.clone(), bytes, vec![0]].concat();
    let both = vec![report.clone(), report];
    check_frame(ControlMessage::Reports(both), &framed(&body));

    let news = "
        0a000000                            # 10 bytes
        07                                  # news
        02                                  # of two hosts
          05 00                             #   5 is reached
          06 01 02 6e6f                     #   6 is not: no
        00                                  # no extensions
    ";
    let message = ControlMessage::News(vec![
        HostNews {
            host: 5,
            away: None,
        },
        HostNews {
            host: 6,
            away: Some("no".into()),
        },
    ]);
    check_frame(message, &golden(news));
    check_frame(ControlMessage::Beat, &golden("02000000 08 00"));

    let (release, grant, finalization) = (signed_release(), signed_grant(), signed_finalization());
    let to = golden("01 02 03 646231 04 77656231");
    let body = [vec![9], to, release, grant, finalization, vec![0]].concat();
    let hosts = ["db1", "web1"].map(|name| name.parse().unwrap());
    let message = ControlMessage::FinalizeAt {
        hosts: Targets::Only(hosts.to_vec()),
        finalize: finalize().into(),
    };
    check_frame(message, &framed(&body));

    let (report, bytes) = report_as_sent();
    let body = [vec![10], bytes, vec![0]].concat();
    let lease = SignedLease(report.0);
    check_frame(ControlMessage::Lease(lease.into()), &framed(&body));

    assert!(matches!(
        read::<ControlMessage>(&golden("02000000 0b 00")),
        Err(FrameError::Codec(CodecError::Malformed(_)))
    ));
}

#[test]
fn the_answers_to_a_chunk_request_are_golden() {
    for (header, text) in [
        (ReplyHeader::Found(300), "00 2c010000"),
        (ReplyHeader::Found(ENCODED_CHUNK_BYTES_MAX), "00 01001000"),
        (ReplyHeader::NotHeld, "01 00000000"),
        (ReplyHeader::Busy, "02 00000000"),
    ] {
        assert_eq!(header.encode().as_slice(), golden(text));
        assert_eq!(ReplyHeader::decode(header.encode()), Ok(header));
    }
    let decode = |text| ReplyHeader::decode(golden(text).try_into().unwrap());
    assert_eq!(
        decode("00 02001000"),
        Err(ReplyHeaderError::Length(ENCODED_CHUNK_BYTES_MAX + 1))
    );
    assert_eq!(decode("03 00000000"), Err(ReplyHeaderError::Status(3)));
}

#[test]
fn a_frame_holds_no_more_than_its_limit_and_is_refused_before_it_is_written() {
    let with_length = |length: u32| {
        let message = PeerMessage::Have {
            handle: 0,
            chunks: ChunkSet::Bitmap {
                first: 0,
                bits: vec![0; length as usize].into(),
            },
        };
        frame::encode_frame(&Envelope::from(message))
    };
    // Four numbers, a count of four bytes and its mark, and no extensions.
    let others = 10;
    let full = with_length(FRAME_BYTES_MAX - others).unwrap();
    assert_eq!(full.len(), 4 + FRAME_BYTES_MAX as usize);
    assert!(read::<PeerMessage>(&full).unwrap().is_some());
    let Err(FrameError::TooLong(length)) = with_length(FRAME_BYTES_MAX - others + 1) else {
        panic!("one byte more must be refused");
    };
    assert_eq!(length, u64::from(FRAME_BYTES_MAX) + 1);
    assert!(matches!(
        read::<PeerMessage>(&(FRAME_BYTES_MAX + 1).to_le_bytes()),
        Err(FrameError::TooLong(_))
    ));
    // All of the largest snapshot fits.
    let all: Vec<u32> = (0..SNAPSHOT_CHUNKS_MAX).collect();
    let set = ChunkSet::from_sorted(&all);
    assert_eq!(set.indexes().unwrap(), all);
    let message = PeerMessage::Have {
        handle: u32::MAX,
        chunks: set,
    };
    assert!(frame::encode_frame(&Envelope::from(message)).is_ok());
}

#[test]
fn an_order_to_ten_thousand_hosts_fits_a_frame() {
    let names: Vec<NodeId> = (0..10_000)
        .map(|number| format!("web{number:05}.east.example.org").parse().unwrap())
        .collect();
    let host = |name: &NodeId| PlanHost {
        name: name.clone(),
        addresses: vec![
            "10.200.100.100:7227".parse().unwrap(),
            "[fd00::1:2:3]:7227".parse().unwrap(),
        ],
        site: "east".into(),
        rack: "a12".into(),
        wave: 1,
    };
    let plan = Plan {
        seed: "deploy1".parse().unwrap(),
        hosts: names.iter().map(host).collect(),
        topology: TopologyKind::Swarm,
        degree: 8,
        fanout: 2,
        random_seed: 1,
        extensions: Extensions::default(),
    };
    let (id, bytes) = plan.encode();
    let directive = Directive {
        release: release_id(),
        epoch: 1,
        number: 1,
        targets: Targets::Only(names),
        stage: Stage::Fetch,
        plan: Some(id),
        extensions: Extensions::default(),
    };
    let key = SecretKey::generate();
    let order = Order {
        directive: SignedDirective::sign(&directive, &key),
        plan: Some(bytes),
        ..order()
    };
    let envelope = Envelope::from(ControlMessage::Order(order.into()));
    let frame = frame::encode_frame(&envelope).unwrap();
    let found = read::<ControlMessage>(&frame).unwrap().unwrap();
    let ControlMessage::Order(found) = found.message else {
        panic!("an order went");
    };
    assert_eq!(Plan::decode(id, &found.plan.unwrap()).unwrap(), plan);
    let signed: SessionSigned = codec::decode(&codec::encode(&found.directive)).unwrap();
    assert_eq!(signed.open::<Directive>(key.public()).unwrap(), directive);
}

#[test]
fn the_order_in_the_golden_frame_is_a_signed_one() {
    let allowed: AllowedSigners = DEPLOYER.parse().unwrap();
    let (release, grant) = (order().release, order().grant);
    assert_eq!(release.payload, golden(RELEASE));
    assert_eq!(grant.payload, golden(GRANT));
    let now = 1_767_323_045_000;
    let namespace = release.read_unverified().unwrap().namespace();
    for (payload, signature) in [
        (&release.payload, &release.signatures[0]),
        (&grant.payload, &grant.signature),
    ] {
        let signer = allowed.verify(&namespace, payload, signature, now);
        assert_eq!(signer.unwrap().principals, "deploy@example.org");
    }
}

fn any_bytes() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..60).prop_map(Bytes::from)
}

fn any_hello() -> impl Strategy<Value = Hello> {
    any::<(String, u64)>().prop_map(|(software, features)| Hello { software, features })
}

#[test]
fn a_side_shows_what_it_is_in_with_its_first_frame_and_who_does_not_know_that_reads_the_rest() {
    let membership = SignedMembership(LeafSigned {
        payload: Bytes::from_static(b"p"),
        certificate: Bytes::from_static(b"cc"),
        signature: Bytes::from_static(b"s"),
    });
    let hello = Hello {
        software: "scap 0.1.0".into(),
        features: 0,
    };
    let plain = Envelope::from(hello);
    assert_eq!(plain.membership_unverified(), None);
    assert_eq!(plain.clone().showing(None), plain);
    let showing = plain.clone().showing(Some(&membership));
    let expected = "
        0a 7363617020302e312e30 00          # what it is
        01 10 07 01 70 02 6363 01 73        # an extension, which may be ignored: 16, and the three parts
    ";
    assert_eq!(codec::encode(&showing), golden(expected));
    let read: Envelope<Hello> = codec::decode_message(&codec::encode(&showing)).unwrap();
    assert_eq!(read.membership_unverified(), Some(membership.clone()));
    assert_eq!(read.message, plain.message);
    let long = SignedMembership(LeafSigned {
        payload: vec![0; 4096].into(),
        ..membership.0
    });
    assert_eq!(plain.clone().showing(Some(&long)), plain);
}

fn any_open() -> impl Strategy<Value = Open> {
    prop_oneof![
        any_hello().prop_map(Open::Session),
        any_hello().prop_map(Open::Control),
        any::<(u32, u32)>().prop_map(|(handle, index)| Open::Chunk(ChunkRequest { handle, index })),
        any_question().prop_map(|question| Open::Stable(Box::new(question))),
    ]
}

fn any_question() -> impl Strategy<Value = StableQuestion> {
    let membership = (any_bytes(), any_bytes(), any_bytes());
    let membership = membership.prop_map(|(payload, certificate, signature)| {
        SignedMembership(LeafSigned {
            payload,
            certificate,
            signature,
        })
    });
    (any::<[bool; 2]>(), proptest::option::of(membership)).prop_map(
        |([of_one, in_one], membership)| StableQuestion {
            repo: of_one.then(|| "mw/config".parse().unwrap()),
            environment: in_one.then(|| "production".parse().unwrap()),
            membership,
        },
    )
}

fn any_chunks() -> impl Strategy<Value = ChunkSet> {
    prop_oneof![
        vec(any::<u32>(), 0..20).prop_map(ChunkSet::Indexes),
        (any::<u32>(), any_bytes()).prop_map(|(first, bits)| ChunkSet::Bitmap { first, bits }),
    ]
}

fn any_peer_message() -> impl Strategy<Value = PeerMessage> {
    prop_oneof![
        any::<(u32, [u8; 32])>().prop_map(|(handle, id)| PeerMessage::Open {
            handle,
            release: ReleaseId::from_bytes(id),
        }),
        any::<u32>().prop_map(|handle| PeerMessage::Close { handle }),
        (any::<u32>(), any_chunks())
            .prop_map(|(handle, chunks)| PeerMessage::Have { handle, chunks }),
        (any_bytes(), any_bytes()).prop_map(|(payload, signature)| {
            let signed = SignedFleetTrust(SessionSigned { payload, signature });
            PeerMessage::Trust(Box::new(signed))
        }),
    ]
}

/// An order whose payloads are anything: who carries one does not look into it.
fn any_order() -> impl Strategy<Value = Order> {
    let payloads = (any_bytes(), any_bytes(), any_bytes());
    let rest = (any_bytes(), 0..10_usize, proptest::option::of(any_bytes()));
    (payloads, rest).prop_map(|((release, grant, directive), (signature, count, plan))| {
        let mut order = order();
        let signatures = vec![order.release.signatures[0].clone(); count];
        order.release.payload = release;
        order.release.signatures = signatures;
        order.grant.payload = grant;
        order.directive = codec::decode(&codec::encode(&(directive, signature))).unwrap();
        order.plan = plan;
        order
    })
}

fn any_control_message() -> impl Strategy<Value = ControlMessage> {
    let name = || "[a-z][a-z0-9._-]{0,10}x";
    prop_oneof![
        (name(), name()).prop_map(|(repo, environment)| ControlMessage::Ask {
            repo: repo.parse().unwrap(),
            environment: environment.parse().unwrap(),
        }),
        any_order().prop_map(|order| ControlMessage::Order(order.into())),
        any_order().prop_map(|order| {
            let Order { release, grant, .. } = order;
            let finalize = Finalize {
                release,
                grant,
                ..finalize()
            };
            ControlMessage::Finalize(finalize.into())
        }),
        (any_bytes(), any_bytes(), any_bytes()).prop_map(|(payload, certificate, signature)| {
            let report = SignedReport(LeafSigned {
                payload,
                certificate,
                signature,
            });
            match report.0.payload.len() % 4 {
                0 => ControlMessage::Report(report.into()),
                1 => ControlMessage::Reports(vec![report.clone(), report]),
                2 => ControlMessage::Lease(SignedLease(report.0).into()),
                _ => ControlMessage::Roster(SignedRoster(report.0).into()),
            }
        }),
        (any::<u64>(), vec(any::<(u32, u32)>(), 0..9)).prop_map(|(tree, branches)| {
            ControlMessage::Relay {
                tree: TreeId(tree),
                branches: branches
                    .into_iter()
                    .map(|(first, end)| Branch { first, end })
                    .collect(),
            }
        }),
        vec((any::<u32>(), proptest::option::of(".{0,9}")), 0..9).prop_map(|news| {
            let news = news.into_iter();
            let news = news.map(|(host, away)| HostNews { host, away });
            ControlMessage::News(news.collect())
        }),
        Just(ControlMessage::Beat),
    ]
}

fn any_envelope<M: Debug>(message: impl Strategy<Value = M>) -> impl Strategy<Value = Envelope<M>> {
    (message, any_extensions()).prop_map(|(message, extensions)| Envelope {
        message,
        extensions,
    })
}

fn check_message<M>(envelope: &Envelope<M>, damages: &Damages)
where
    M: Serialize + DeserializeOwned + PartialEq + Debug,
{
    let frame = frame::encode_frame(envelope).unwrap();
    assert_eq!(read::<M>(&frame).unwrap().as_ref(), Some(envelope));
    check_bytes::<M>(&damage(&frame[4..], damages));
    // Whatever the length says.
    if let Ok(Some(found)) = read::<M>(&damage(&frame, damages)) {
        check_bytes::<M>(&codec::encode(&found));
    }
}

/// What decodes at all comes back from its own encoding.
fn check_bytes<M>(bytes: &[u8])
where
    M: Serialize + DeserializeOwned + PartialEq + Debug,
{
    if let Ok(found) = codec::decode_message::<Envelope<M>>(bytes) {
        let again: Envelope<M> = codec::decode_message(&codec::encode(&found)).unwrap();
        assert_eq!(again, found);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn messages_come_back_from_their_frames_and_no_damage_panics(
        open in any_envelope(any_open()),
        peer in any_envelope(any_peer_message()),
        control in any_envelope(any_control_message()),
        damages in any_damages(),
    ) {
        check_message(&open, &damages);
        check_message(&peer, &damages);
        check_message(&control, &damages);
    }

    #[test]
    fn the_golden_order_damaged_does_not_panic(damages in any_damages()) {
        let body = codec::encode(&Envelope::from(ControlMessage::Order(order().into())));
        check_bytes::<ControlMessage>(&damage(&body, &damages));
        for payload in [FINALIZATION, REPORT, ROSTER] {
            check_bytes::<ControlMessage>(&damage(&golden(payload), &damages));
        }
    }

    #[test]
    fn chunk_sets_say_what_they_were_made_from(
        indexes in proptest::collection::btree_set(
            prop_oneof![0..300_u32, 0..SNAPSHOT_CHUNKS_MAX],
            0..200,
        ),
    ) {
        let indexes: Vec<u32> = indexes.into_iter().collect();
        prop_assert_eq!(ChunkSet::from_sorted(&indexes).indexes().unwrap(), indexes);
    }

    #[test]
    fn no_chunk_set_names_a_chunk_beyond_any_snapshot(chunks in any_chunks()) {
        if let Some(indexes) = chunks.indexes() {
            prop_assert!(indexes.iter().all(|index| *index < SNAPSHOT_CHUNKS_MAX));
        }
    }

    #[test]
    fn a_reply_header_that_is_read_at_all_says_the_same_when_written_again(bytes in any::<[u8; 5]>()) {
        if let Ok(header) = ReplyHeader::decode(bytes) {
            prop_assert_eq!(header.encode()[0], bytes[0]);
            prop_assert_eq!(ReplyHeader::decode(header.encode()), Ok(header));
        }
    }

    #[test]
    fn no_bytes_panic(bytes in vec(any::<u8>(), 0..300)) {
        check_bytes::<Open>(&bytes);
        check_bytes::<PeerMessage>(&bytes);
        check_bytes::<ControlMessage>(&bytes);
        check_bytes::<scap_proto::wire::renewal::RenewalRequest>(&bytes);
        let _ = read::<ControlMessage>(&bytes);
        let _ = read::<ControlMessage>(&framed(&bytes));
    }
}
