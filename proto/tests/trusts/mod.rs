//! What an authority says with its own key: whose certificates count.

use bytes::Bytes;
use proptest::{collection::vec, prelude::*};
use scap_proto::{
    codec,
    extensions::Extensions,
    frame,
    id::NodeId,
    identity::{Denial, Denied, FleetTrust, Role, SignedFleetTrust, TrustMark, VouchedSigners},
    release::{
        Report, TrustStanding, UnixMillis,
        signed::{SessionSigned, SignedObject},
    },
    wire::{Envelope, Hello, Open, close, peer::PeerMessage},
};

use super::objects::{Damages, any_damages, damage, golden};

/// In the order of the fields: fleet, number, issued, authorities, retired, denials, extensions.
const TRUST: &str = "
    736361702d74727573742f310a  # scap-trust/1\\n
    0470726f64                  # fleet prod
    07                          # number 7
    fd888ca97c9b010000          # issued
    01 03 a1a2a3                # an authority
    01 02 b1b2                  # one that is believed no more
    02                          # denials
    00                          # a node,
    01 0477656231               # agent web1,
    fd888ca97c9b010000          # with what was issued until then
    06 73746f6c656e             # stolen
    fd888ca97c9b010000          # since
    00                          # not enrolled again
    01                          # a key
    0505050505050505050505050505050505050505050505050505050505050505
    00 e8 01                    # for no reason, since 232 ms, enrolled again
    00                          # extensions
";

/// The extensions of one that says something of before.
const SAID: &str = "
    03                          # extensions:
    02 10                       # 2, who is denied no more: half the BLAKE3 of each
    aca098c3fdad8cf98977bef100be3a8b
    04 28                       # 4, the signers file in force:
    0300000000000000            # its number
    0909090909090909090909090909090909090909090909090909090909090909
    06 20                       # 6, grants: the BLAKE3 of each
    0707070707070707070707070707070707070707070707070707070707070707
";

fn trust() -> FleetTrust {
    let now = UnixMillis(1_767_323_045_000);
    FleetTrust {
        fleet: "prod".parse().unwrap(),
        number: 7,
        issued: now,
        authorities: vec![Bytes::from_static(&[0xa1, 0xa2, 0xa3])],
        retired: vec![Bytes::from_static(&[0xb1, 0xb2])],
        denials: vec![
            Denial {
                who: Denied::Node {
                    role: Role::Agent,
                    name: "web1".parse().unwrap(),
                    issued_until: now,
                },
                reason: "stolen".to_owned(),
                since: now,
                is_enrolled_again: false,
            },
            Denial {
                who: Denied::Key([5; 32]),
                reason: String::new(),
                since: UnixMillis(232),
                is_enrolled_again: true,
            },
        ],
        extensions: Extensions::default(),
    }
}

fn mark() -> TrustMark {
    TrustMark {
        number: 7,
        digest: *b"12345678",
    }
}

#[test]
fn a_fleet_trust_is_golden_and_is_read_back() {
    let payload = trust().to_payload();
    assert_eq!(hex::encode(&payload), hex::encode(golden(TRUST)));
    assert_eq!(FleetTrust::from_payload(&payload).unwrap(), trust());
}

#[test]
fn what_a_fleet_trust_says_of_before_is_golden_and_an_earlier_build_reads_the_rest() {
    let lifted = Denied::Key([5; 32]);
    let signers = VouchedSigners {
        number: 3,
        hash: [9; 32],
    };
    let mut trust = trust();
    trust.denials.pop();
    let said = trust
        .clone()
        .lifting([lifted.clone()].iter())
        .with_signers(signers)
        .with_grants([[7; 32]].into_iter());
    let payload = said.to_payload();
    let plain = trust.to_payload();
    // Three extensions with even numbers in place of none.
    let expected = golden(SAID);
    assert_eq!(payload[..plain.len() - 1], plain[..plain.len() - 1]);
    assert_eq!(
        hex::encode(&payload[plain.len() - 1..]),
        hex::encode(expected)
    );
    let read = FleetTrust::from_payload(&payload).unwrap();
    assert!(read.lifts(&lifted) && !trust.lifts(&lifted));
    assert_eq!((read.signers(), trust.signers()), (Some(signers), None));
    assert!(read.vouches_for_grant(&[7; 32]) && !read.vouches_for_grant(&[8; 32]));
    // Nothing that is said so is of another length than it is meant to have.
    for bytes in [&b""[..], &[1; 15], &[1; 39], &[1; 4096]] {
        let mut odd = trust.clone();
        for tag in [2, 4, 6] {
            let with = odd.extensions.with(tag, Bytes::copy_from_slice(bytes));
            odd.extensions = with.unwrap();
        }
        assert_eq!(odd.signers(), None);
        assert!(!odd.lifts(&lifted) && !odd.vouches_for_grant(&[7; 32]));
    }
}

#[test]
fn what_a_session_says_of_it_is_golden_and_an_older_build_reads_the_rest() {
    let hello = Hello {
        software: "s".into(),
        features: 0,
    };
    let open = Envelope::from(Open::Session(hello.clone())).trusting(mark());
    let body = codec::encode(&open);
    // The session's hello, and extension 20 with the number and the digest.
    let expected = golden("00 01 73 00  01 14 10 0700000000000000 3132333435363738");
    assert_eq!(hex::encode(&body), hex::encode(expected));
    assert_eq!(open.trust(), Some(mark()));
    assert_eq!(Envelope::from(hello).trust(), None);

    let signed = SignedFleetTrust(SessionSigned {
        payload: Bytes::from_static(&[1, 2]),
        signature: Bytes::from_static(&[3]),
    });
    let message = Envelope::from(PeerMessage::Trust(Box::new(signed)));
    let frame = frame::encode_frame(&message).unwrap();
    let expected = golden("07000000  04  02 0102  01 03  00");
    assert_eq!(hex::encode(frame), hex::encode(expected));
    assert_eq!((close::REVOKED, close::OLD_AUTHORITY), (12, 13));
}

#[test]
fn a_host_says_in_its_reports_what_it_holds_to() {
    let standing = TrustStanding {
        mark: mark(),
        issuer: *b"abcdefgh",
        expires: UnixMillis(0x0102),
    };
    let report: Report = super::report();
    assert_eq!(report.trust(), None);
    let report = report.trusting(&standing);
    let expected = golden("0700000000000000 3132333435363738  6162636465666768  0201000000000000");
    assert_eq!(report.extensions.get(20).unwrap().as_ref(), expected);
    assert_eq!(report.trust(), Some(standing));
}

fn any_denied() -> impl Strategy<Value = Denied> {
    prop_oneof![
        any::<[u8; 32]>().prop_map(Denied::Key),
        ("[a-z][a-z0-9]{0,20}", any::<(bool, u64)>()).prop_map(|(name, (agent, until))| {
            Denied::Node {
                role: if agent {
                    Role::Agent
                } else {
                    Role::Coordinator
                },
                name: name.parse::<NodeId>().unwrap(),
                issued_until: UnixMillis(until),
            }
        }),
    ]
}

fn any_trust() -> impl Strategy<Value = FleetTrust> {
    let bytes = || vec(any::<u8>(), 0..20).prop_map(Bytes::from);
    let denial = (any_denied(), ".{0,20}", any::<(u64, bool)>()).prop_map(
        |(who, reason, (since, is_enrolled_again))| Denial {
            who,
            reason,
            since: UnixMillis(since),
            is_enrolled_again,
        },
    );
    let lists = (vec(bytes(), 0..4), vec(bytes(), 0..4), vec(denial, 0..6));
    (any::<(u64, u64)>(), lists).prop_map(|((number, issued), (authorities, retired, denials))| {
        FleetTrust {
            fleet: "prod".parse().unwrap(),
            number,
            issued: UnixMillis(issued),
            authorities,
            retired,
            denials,
            extensions: Extensions::default(),
        }
    })
}

proptest! {
    #[test]
    fn any_fleet_trust_comes_back_and_no_damage_panics(
        trust in any_trust(),
        damages in any_damages(),
    ) {
        let payload = trust.to_payload();
        prop_assert_eq!(FleetTrust::from_payload(&payload).unwrap(), trust);
        check_damaged(&payload, &damages);
    }
}

fn check_damaged(payload: &[u8], damages: &Damages) {
    let damaged = damage(payload, damages);
    if let Ok(read) = FleetTrust::from_payload(&damaged) {
        // Whatever it is, it is looked at without a panic.
        let _ = read.check();
    }
}
