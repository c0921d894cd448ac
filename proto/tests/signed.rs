//! The bytes of signed objects: golden ones, there and back, damaged ones, and whose word they are.
#![allow(clippy::unwrap_used, reason = "tests")]

mod any;
mod authorities;
mod deltas;
mod extended;
mod host_configs;
mod objects;
mod plans;
mod rosters;
mod trusts;

use std::{
    collections::BTreeSet,
    fmt::Debug,
    fs::{self, File},
    io::Write,
    num::NonZeroUsize,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use any::{any_directive, any_finalization, any_grant, any_plan, any_release, any_report};
use bytes::Bytes;
use objects::{
    DEPLOYER, DIRECTIVE, Damages, EVEN, FINALIZATION, GRANT, ODD, PLAN, RELEASE, RELEASE_ID,
    REPORT, ROSTER, any_damages, damage, golden, report_as_sent, signed_directive,
    signed_finalization, signed_grant, signed_release, with_extensions,
};
use proptest::{collection::vec, prelude::*};
use scap_proto::{
    codec::{self, CodecError},
    content::{ChunkRef, SnapshotRef},
    extensions::{ExtensionError, Extensions},
    id::{ChunkId, NodeId, PlanId, ReleaseId, SnapshotId},
    identity::{CertificateAuthority, Identity, Role, SecretKey, Validity},
    limits::{
        DELTAS_MAX, DESCRIPTOR_BYTES_MAX, HOST_ADDRESSES_MAX, PLAN_HOSTS_MAX, REASON_BYTES_MAX,
        SHUNNED_PEERS_MAX,
    },
    reason::Reason,
    release::{
        Authority, AuthorityError, BytesBySource, DeltaRef, Directive, Finalization, Grant,
        LeafSigned, Lease, Membership, Outcome, Plan, PlanHost, Priority, Reach, Release, Report,
        Roster, RosterHost, Routes, SIGHTINGS_MAX, ShunnedPeer, Sighting, SignedDirective,
        SignedFinalization, SignedGrant, SignedLease, SignedMembership, SignedRelease,
        SignedReport, SignedRoster, Stage, Standing, Step, Targets, TopologyKind, TreeId,
        UnixMillis,
        plan::PlanError,
        signature::{AllowedSigners, Signer, allowed_signers_line},
        signed::{SessionSigned, SignedObject},
    },
};

/// 2026-01-02 03:04:05 UTC.
const NOW: UnixMillis = UnixMillis(1_767_323_045_000);
/// An hour later.
const EXPIRES: UnixMillis = UnixMillis(NOW.0 + 3_600_000);

fn release() -> Release {
    let snapshot = |byte, descriptor_length| SnapshotRef {
        id: SnapshotId::from_bytes([byte; 32]),
        descriptor_length,
    };
    Release {
        repo: "mw/config".parse().unwrap(),
        environment: "production".parse().unwrap(),
        audience: "all".parse().unwrap(),
        sequence: 7,
        snapshot: snapshot(0x11, 300),
        commit: Some("0102030405060708090a0b0c0d0e0f1011121314".parse().unwrap()),
        config: Some(snapshot(0x22, 90)),
        deltas: vec![DeltaRef {
            base: SnapshotId::from_bytes([0x33; 32]),
            chunks: vec![ChunkRef {
                id: ChunkId::from_bytes([0x44; 32]),
                plain_length: 70_000,
            }],
        }],
        previous: Some(ReleaseId::from_bytes([0x55; 32])),
        created: NOW,
        expires: EXPIRES,
        extensions: Extensions::default(),
    }
}

const LEASE: &str = "
    736361702d6c656173652f310a              # scap-lease/1\\n
    a275be35e70ecf2f8f90b8413fdea680 6936fd022444d0fc6c362df06102e41a
    04 77656231                             # web1 feeds
    03 646231                               # db1
    fd 087be07c9b010000                     # expires with the release
    00                                      # no extensions
";

const MEMBERSHIP: &str = "
    736361702d6d656d626572736869702f310a    # scap-membership/1\\n
    04 77656232                             # web2
    02 0a 70726f64756374696f6e              # is in production
       07 73746167696e67                    #   and staging
    01 03 616c6c                            # and in audience all
    00                                      # no extensions
";

fn release_id() -> ReleaseId {
    RELEASE_ID.parse().unwrap()
}

fn grant() -> Grant {
    let key = hex::decode("7550a6fcef19918ddd3695a8ec94494e446279a9915025d1dbb0563160bb46db");
    Grant {
        release: release_id(),
        session_key: key.unwrap().try_into().unwrap(),
        epoch: 1,
        expires: EXPIRES,
        extensions: Extensions::default(),
    }
}

fn directive() -> Directive {
    Directive {
        release: release_id(),
        epoch: 1,
        number: 2,
        targets: Targets::Only(vec!["db1".parse().unwrap(), "web1".parse().unwrap()]),
        stage: Stage::Promote,
        plan: Some(plan().encode().0),
        extensions: Extensions::default(),
    }
}

fn finalization() -> Finalization {
    Finalization {
        release: release_id(),
        repo: "mw/config".parse().unwrap(),
        environment: "production".parse().unwrap(),
        audience: "all".parse().unwrap(),
        sequence: 7,
        extensions: Extensions::default(),
    }
}

fn plan() -> Plan {
    let host = |name: &str, addresses: &[&str], wave| PlanHost {
        name: name.parse().unwrap(),
        addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
        site: "east".into(),
        rack: String::new(),
        wave,
    };
    Plan {
        seed: "deploy1".parse().unwrap(),
        hosts: vec![
            host("db1", &["10.0.0.2:7227"], 0),
            host("web1", &["10.0.0.3:7227", "[fd00::3]:7227"], 1),
        ],
        topology: TopologyKind::Tree,
        degree: 8,
        fanout: 2,
        random_seed: 300,
        extensions: Extensions::default(),
    }
}

fn roster() -> Roster {
    let host = |name: &str, addresses: &[&str]| RosterHost {
        name: name.parse().unwrap(),
        addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
    };
    Roster {
        tree: TreeId(0x0102_0304_0506_0708),
        first: 64,
        hosts: vec![host("db1", &["10.0.0.2:7227"]), host("web1", &[])],
        expires: EXPIRES,
        extensions: Extensions::default(),
    }
}

fn lease() -> Lease {
    Lease {
        release: release_id(),
        relay: "web1".parse().unwrap(),
        host: "db1".parse().unwrap(),
        expires: EXPIRES,
        extensions: Extensions::default(),
    }
}

fn membership() -> Membership {
    Membership {
        host: name("web2"),
        environments: ["production", "staging"]
            .map(|it| it.parse().unwrap())
            .into(),
        audiences: vec!["all".parse().unwrap()],
        extensions: Extensions::default(),
    }
}

fn report() -> Report {
    Report {
        host: "web1".parse().unwrap(),
        repo: "mw/config".parse().unwrap(),
        environment: "production".parse().unwrap(),
        release: Some(release_id()),
        counter: 12,
        stage: Stage::Promote,
        directive: (1, 2),
        outcome: Outcome::Failed {
            reason: "disk full".into(),
        },
        bytes: BytesBySource {
            seed: 1000,
            peers: 100_000,
            reuse: 5_000_000_000,
        },
        fetch_millis: 1500,
        prepare_millis: 400,
        promote_millis: 0,
        standing: Standing {
            accepted_sequence: 7,
            accepted: Some(release_id()),
            live: None,
            finalized_sequence: 6,
        },
        extensions: Extensions::default(),
    }
}

fn hex_of<T: SignedObject>(object: &T) -> String {
    hex::encode(object.to_payload())
}

/// An object has these bytes, grows as all do, and is no other version of itself.
fn check_payload<T: SignedObject + PartialEq + Debug>(object: &T, text: &str) {
    let bytes = golden(text);
    assert_eq!(hex_of(object), hex::encode(&bytes), "{}", T::MAGIC);
    assert_eq!(T::from_payload(&bytes).unwrap(), *object);

    let even = with_extensions(&bytes, EVEN);
    let grown = T::from_payload(&even).unwrap();
    assert_eq!(grown.extensions().get(4).unwrap().as_ref(), [0xab, 0xcd]);
    assert_eq!(hex_of(&grown), hex::encode(&even));

    let odd = with_extensions(&bytes, ODD);
    let Err(CodecError::Extension(refused)) = T::from_payload(&odd) else {
        panic!("an odd tag must be refused");
    };
    assert_eq!(refused, ExtensionError::Required(7));
    assert!(refused.to_string().contains("extension 7"), "{refused}");

    let mut newer = bytes.clone();
    newer[T::MAGIC.len() - 2] = b'2';
    for other in [&newer[..], &bytes[1..], b"", b"scap"] {
        let Err(CodecError::Magic { expected }) = T::from_payload(other) else {
            panic!("another magic must be refused");
        };
        assert_eq!(expected, T::MAGIC.trim_end());
    }
    let longer = [&bytes[..], &[0]].concat();
    assert!(matches!(
        T::from_payload(&longer),
        Err(CodecError::Trailing(1))
    ));
}

#[test]
fn payloads_have_golden_bytes_and_grow_by_extensions() {
    check_payload(&release(), RELEASE);
    check_payload(&grant(), GRANT);
    check_payload(&directive(), DIRECTIVE);
    check_payload(&finalization(), FINALIZATION);
    check_payload(&plan(), PLAN);
    check_payload(&report(), REPORT);
    check_payload(&roster(), ROSTER);
    check_payload(&lease(), LEASE);
    check_payload(&membership(), MEMBERSHIP);
    assert_eq!(ReleaseId::of(&golden(RELEASE)), release_id());
}

#[test]
fn each_variant_keeps_its_number() {
    fn check<T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + Debug>(
        value: &T,
        text: &str,
    ) {
        assert_eq!(hex::encode(codec::encode(value)), text, "{value:?}");
        assert_eq!(codec::decode::<T>(&golden(text)).unwrap(), *value);
    }
    check(&Stage::Fetch, "00");
    check(&Stage::Promote, "01");
    check(&Stage::Revert, "02");
    check(&Targets::All, "00");
    check(&Targets::Only(vec![]), "0100");
    check(&TopologyKind::Swarm, "00");
    check(&TopologyKind::Tree, "01");
    check(&Outcome::Idle, "00");
    let working = Outcome::Working {
        chunks_held: 3,
        chunks_total: 300,
        waiting: "seed".into(),
    };
    check(&working, "0103fb2c010473656564");
    check(&Outcome::Done, "02");
    let reason = String::from("no");
    check(
        &Outcome::Failed {
            reason: reason.clone(),
        },
        "03026e6f",
    );
    check(&Outcome::Refused { reason }, "04026e6f");
    assert!(codec::decode::<Stage>(&[3]).is_err());
    assert!(codec::decode::<Outcome>(&[5]).is_err());
}

fn deployers() -> AllowedSigners {
    DEPLOYER.parse().unwrap()
}

fn authority(signers: &AllowedSigners) -> Authority<'_> {
    Authority {
        signers,
        threshold: NonZeroUsize::MIN,
    }
}

#[test]
fn what_was_signed_once_verifies_for_ever_and_is_written_as_it_was_read() {
    let deployers = deployers();
    let authority = authority(&deployers);
    let signed: SignedRelease = codec::decode(&signed_release()).unwrap();
    assert_eq!(codec::encode(&signed), signed_release());
    let verified = signed.verify(&authority, NOW).unwrap();
    assert_eq!(verified.release(), &release());
    assert_eq!(verified.id(), release_id());
    assert_eq!(verified.signers()[0].principals, "deploy@example.org");

    let signed: SignedGrant = codec::decode(&signed_grant()).unwrap();
    assert_eq!(codec::encode(&signed), signed_grant());
    let granted = signed.verify(&verified, &authority, NOW).unwrap();
    assert_eq!(granted.grant(), &grant());

    let signed: SignedDirective = codec::decode(&signed_directive()).unwrap();
    assert_eq!(codec::encode(&signed), signed_directive());
    let ordered = signed.verify(&granted).unwrap();
    assert_eq!(ordered, directive());
    let named = Plan::decode(ordered.plan.unwrap(), &golden(PLAN)).unwrap();
    assert_eq!(named, plan());

    let signed: SignedFinalization = codec::decode(&signed_finalization()).unwrap();
    assert_eq!(codec::encode(&signed), signed_finalization());
    let finalized = signed.verify(&verified, &granted).unwrap();
    assert_eq!(finalized, finalization());

    let (report, bytes) = report_as_sent();
    assert_eq!(codec::encode(&report), bytes);
    assert_eq!(codec::decode::<SignedReport>(&bytes).unwrap(), report);
}

/// Whether these bytes, signed with the session key, pass for a `T`.
fn passes_for<T: SignedObject>(payload: &[u8], key: &SecretKey) -> bool {
    let signed = SessionSigned {
        payload: payload.to_vec().into(),
        signature: key.sign(payload).to_vec().into(),
    };
    match signed.open::<T>(key.public()) {
        Ok(_) => true,
        Err(AuthorityError::Codec(CodecError::Magic { .. })) => false,
        Err(error) => panic!("signed, so of another kind or not: {error:?}"),
    }
}

#[test]
fn a_signature_of_one_kind_never_passes_for_another() {
    let key = SecretKey::generate();
    for (kind, text) in [
        RELEASE,
        GRANT,
        DIRECTIVE,
        FINALIZATION,
        PLAN,
        REPORT,
        ROSTER,
        LEASE,
        MEMBERSHIP,
    ]
    .into_iter()
    .enumerate()
    {
        let payload = golden(text);
        let passes = [
            passes_for::<Release>(&payload, &key),
            passes_for::<Grant>(&payload, &key),
            passes_for::<Directive>(&payload, &key),
            passes_for::<Finalization>(&payload, &key),
            passes_for::<Plan>(&payload, &key),
            passes_for::<Report>(&payload, &key),
            passes_for::<Roster>(&payload, &key),
            passes_for::<Lease>(&payload, &key),
            passes_for::<Membership>(&payload, &key),
        ];
        let only_its_own: Vec<bool> = (0..passes.len()).map(|other| other == kind).collect();
        assert_eq!(passes.as_slice(), only_its_own);
    }
    // A release and its grants share a namespace and a signer, and nothing else.
    let deployers = deployers();
    let authority = authority(&deployers);
    let release: SignedRelease = codec::decode(&signed_release()).unwrap();
    let grant: SignedGrant = codec::decode(&signed_grant()).unwrap();
    let as_release = SignedRelease {
        payload: grant.payload,
        signatures: vec![grant.signature],
    };
    assert!(matches!(
        as_release.verify(&authority, NOW),
        Err(AuthorityError::Codec(CodecError::Magic { .. }))
    ));
    let as_grant = SignedGrant {
        payload: release.payload.clone(),
        signature: release.signatures[0].clone(),
    };
    let release = release.verify(&authority, NOW).unwrap();
    assert!(matches!(
        as_grant.verify(&release, &authority, NOW),
        Err(AuthorityError::Codec(CodecError::Magic { .. }))
    ));
}

#[test]
fn a_release_beyond_a_limit_is_refused_although_it_is_signed() {
    let directory = tempfile::tempdir().unwrap();
    let signer = Signer::create(&directory.path().join("key"), "deployer").unwrap();
    let allowed = allowed_signers_line("deployer", "*", signer.public_key());
    let allowed: AllowedSigners = allowed.parse().unwrap();
    let verify = |change: fn(&mut Release)| {
        let mut release = release();
        change(&mut release);
        let signed = SignedRelease::sign(&release, &signer).unwrap();
        signed.verify(&authority(&allowed), NOW)
    };
    assert!(verify(|release| release.deltas = vec![release.deltas[0].clone(); DELTAS_MAX]).is_ok());
    let edge = verify(|release| release.snapshot.descriptor_length = DESCRIPTOR_BYTES_MAX);
    assert!(edge.is_ok());
    for (refused, text) in [
        (
            verify(|release| release.deltas = vec![release.deltas[0].clone(); DELTAS_MAX + 1]),
            "5 deltas, 0 to 4 are allowed",
        ),
        (
            verify(|release| release.snapshot.descriptor_length = DESCRIPTOR_BYTES_MAX + 1),
            "524289 bytes of descriptor, 1 to 524288 are allowed",
        ),
        (
            verify(|release| release.snapshot.descriptor_length = 0),
            "0 bytes of descriptor, 1 to 524288 are allowed",
        ),
        (
            verify(|release| release.config.as_mut().unwrap().descriptor_length = 0),
            "0 bytes of descriptor, 1 to 524288 are allowed",
        ),
    ] {
        assert_eq!(refused.unwrap_err().to_string(), text);
    }
}

fn name(text: &str) -> NodeId {
    text.parse().unwrap()
}

#[test]
fn a_report_is_the_word_of_the_agent_it_names_and_of_nobody_else() {
    let directory = tempfile::tempdir().unwrap();
    let fleet = |name: &str| CertificateAuthority::create(&name.parse().unwrap(), NOW.0).unwrap();
    let (ours, theirs) = (fleet("prod"), fleet("prod"));
    let enrol = |authority: &CertificateAuthority, role, host: &str, folder: &str| {
        let node = authority.node(role, name(host));
        let folder = directory.path().join(folder);
        Identity::create(&folder, authority, &node, Validity::leaf(NOW.0)).unwrap()
    };
    let web1 = enrol(&ours, Role::Agent, "web1", "web1");
    let verify = |signed: &SignedReport| signed.verify(web1.trust(), NOW);
    let signed = SignedReport::sign(&report(), &web1);
    assert_eq!(verify(&signed).unwrap(), report());

    for identity in [
        enrol(&ours, Role::Agent, "web2", "web2"),
        enrol(&ours, Role::Coordinator, "web1", "coordinator"),
        enrol(&theirs, Role::Agent, "web1", "stranger"),
    ] {
        let refused = verify(&SignedReport::sign(&report(), &identity));
        assert!(
            matches!(refused, Err(AuthorityError::Report { claimed }) if claimed == name("web1")),
            "{identity:?}"
        );
    }
    let late = UnixMillis(web1.validity().not_after_unix_ms + 1);
    assert!(matches!(
        signed.verify(web1.trust(), late),
        Err(AuthorityError::Report { .. })
    ));
    let short = SignedReport(LeafSigned {
        signature: signed.0.signature.slice(..63),
        ..signed.0.clone()
    });
    assert!(matches!(verify(&short), Err(AuthorityError::Report { .. })));
    for (index, flipped) in each_flip(&signed.0).map(SignedReport).enumerate() {
        assert!(verify(&flipped).is_err(), "byte {index}");
    }

    for outcome in [
        |reason| Outcome::Failed { reason },
        |reason| Outcome::Refused { reason },
        |waiting| Outcome::Working {
            chunks_held: 0,
            chunks_total: 1,
            waiting,
        },
    ] {
        let with = |length| Report {
            outcome: outcome("x".repeat(length)),
            ..report()
        };
        assert!(verify(&SignedReport::sign(&with(REASON_BYTES_MAX), &web1)).is_ok());
        let refused = verify(&SignedReport::sign(&with(REASON_BYTES_MAX + 1), &web1));
        assert_eq!(
            refused.unwrap_err().to_string(),
            "4097 bytes of reason, 0 to 4096 are allowed"
        );
    }
}

/// Says that a test does not run here, on a line of its own past the runner's capture: it will pass.
fn skip(test: &str, why: &str) {
    let line = format!("skipped: {test}: {why}\n");
    assert!(std::env::var_os("SCAP_TESTS_NO_SKIP").is_none(), "{line}");
    // Nothing to do about a closed stderr.
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// What stock OpenSSH says of the signature in `directory`, in that namespace.
fn stock_accepts(directory: &Path, namespace: &str) -> bool {
    Command::new("ssh-keygen")
        .args(["-Y", "verify", "-I", "deployer", "-n", namespace])
        .args(["-f", "allowed_signers", "-s", "release.sig"])
        .current_dir(directory)
        .stdin(File::open(directory.join("release")).unwrap())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap()
        .success()
}

#[test]
fn stock_openssh_accepts_a_release_for_its_repo_and_environment_and_no_other() {
    if Command::new("ssh-keygen").arg("-?").output().is_err() {
        return skip(
            "stock_openssh_accepts_a_release_for_its_repo_and_environment_and_no_other",
            "no ssh-keygen",
        );
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let signer = Signer::create(&path.join("key"), "deployer").unwrap();
    let signed = SignedRelease::sign(&release(), &signer).unwrap();
    let allow = |namespaces: &str| {
        let line = allowed_signers_line("deployer", namespaces, signer.public_key());
        fs::write(path.join("allowed_signers"), format!("{line}\n")).unwrap();
        let allowed: AllowedSigners = line.parse().unwrap();
        signed.clone().verify(&authority(&allowed), NOW).is_ok()
    };
    fs::write(path.join("release"), &signed.payload).unwrap();
    fs::write(path.join("release.sig"), signed.signatures[0].as_str()).unwrap();
    let namespace = "scap-release:production:mw/config";
    assert_eq!(release().namespace(), namespace);

    assert!(allow("scap-release:*"));
    assert!(stock_accepts(path, namespace));
    for other in [
        "scap-release:production:mw/other",
        "scap-release:production:mw",
        "scap-release:staging:mw/config",
        "file",
    ] {
        assert!(!stock_accepts(path, other), "{other}");
    }
    // Who may release: the same file says the same to both.
    for (namespaces, accepts) in [
        ("scap-release:production:*", true),
        ("scap-release:production:mw/config", true),
        ("scap-release:staging:*", false),
        ("scap-release:production:mw/other", false),
        ("scap-release:*,!scap-release:*:mw/config", false),
    ] {
        assert_eq!(allow(namespaces), accepts, "{namespaces}");
        assert_eq!(stock_accepts(path, namespace), accepts, "{namespaces}");
    }
    assert!(allow("scap-release:*"));
    let mut other = signed.payload.to_vec();
    *other.last_mut().unwrap() ^= 1;
    fs::write(path.join("release"), other).unwrap();
    assert!(!stock_accepts(path, namespace));
}

/// What comes back is what went; damaged, it is nothing or something else that comes back too.
fn check_object<T: SignedObject + PartialEq + Debug>(object: &T, damages: &Damages) {
    let payload = object.to_payload();
    assert_eq!(T::from_payload(&payload).unwrap(), *object);
    check_bytes::<T>(&damage(&payload, damages));
}

fn check_bytes<T: SignedObject + PartialEq + Debug>(bytes: &[u8]) {
    if let Ok(object) = T::from_payload(bytes) {
        assert_eq!(T::from_payload(&object.to_payload()).unwrap(), object);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn objects_come_back_from_their_payloads_and_no_damage_panics(
        (release, grant, directive) in (any_release(), any_grant(), any_directive()),
        (finalization, plan, report) in (any_finalization(), any_plan(), any_report()),
        damages in any_damages(),
    ) {
        check_object(&release, &damages);
        check_object(&grant, &damages);
        check_object(&directive, &damages);
        check_object(&finalization, &damages);
        check_object(&plan, &damages);
        check_object(&report, &damages);
        let (id, bytes) = plan.encode();
        prop_assert_eq!(Plan::decode(id, &bytes).unwrap(), plan);
    }

    #[test]
    fn what_is_damaged_is_refused_or_says_the_same(damages in any_damages()) {
        let deployers = deployers();
        let authority = authority(&deployers);
        let verify = |bytes: &[u8]| codec::decode::<SignedRelease>(bytes).ok()?.verify(&authority, NOW).ok();
        if let Some(verified) = verify(&damage(&signed_release(), &damages)) {
            prop_assert_eq!(verified.id(), release_id());
        }
        let verified = verify(&signed_release()).unwrap();
        let verify = |bytes: &[u8]| {
            codec::decode::<SignedGrant>(bytes).ok()?.verify(&verified, &authority, NOW).ok()
        };
        if let Some(granted) = verify(&damage(&signed_grant(), &damages)) {
            prop_assert_eq!(granted.grant(), &grant());
        }
        let granted = verify(&signed_grant()).unwrap();
        if let Ok(signed) = codec::decode::<SignedDirective>(&damage(&signed_directive(), &damages))
            && let Ok(ordered) = signed.verify(&granted)
        {
            prop_assert_eq!(ordered, directive());
        }
        let bytes = damage(&signed_finalization(), &damages);
        if let Ok(signed) = codec::decode::<SignedFinalization>(&bytes)
            && let Ok(finalized) = signed.verify(&verified, &granted)
        {
            prop_assert_eq!(finalized, finalization());
        }
    }

    #[test]
    fn no_bytes_panic(bytes in vec(any::<u8>(), 0..300)) {
        fn check<T: SignedObject + PartialEq + Debug>(bytes: &[u8]) {
            check_bytes::<T>(bytes);
            check_bytes::<T>(&[T::MAGIC.as_bytes(), bytes].concat());
        }
        check::<Release>(&bytes);
        check::<Grant>(&bytes);
        check::<Directive>(&bytes);
        check::<Finalization>(&bytes);
        check::<Plan>(&bytes);
        check::<Report>(&bytes);
        let _ = codec::decode::<SignedRelease>(&bytes);
        let _ = codec::decode::<SignedGrant>(&bytes);
        let _ = codec::decode::<SignedReport>(&bytes);
    }
}

/// What a leaf signed, once for each byte that was changed after it was signed.
fn each_flip(signed: &LeafSigned) -> impl Iterator<Item = LeafSigned> + '_ {
    (0..signed.payload.len()).map(|index| {
        let mut payload = signed.payload.to_vec();
        payload[index] ^= 1;
        LeafSigned {
            payload: payload.into(),
            ..signed.clone()
        }
    })
}
