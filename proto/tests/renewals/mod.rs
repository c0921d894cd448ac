//! Renewals: golden bytes, and from whom and for whom a host takes one.

use scap_proto::{
    identity::{CertificateAuthority, Identity, Role, Validity},
    release::{Renewal, SignedRenewal, UnixMillis, renewal::RenewalError, signed::SignedObject},
    wire::renewal::{RenewalAnswer, RenewalRequest},
};

use super::*;

const RENEWAL: &str = "
    736361702d72656e6577616c2f310a          # scap-renewal/1\\n
    04 77656231                             # for web1
    03 50454d                               # this certificate
    00                                      # it keeps its membership
    00                                      # no extensions
";

/// 2026-01-02 03:04:05 UTC.
const NOW: UnixMillis = UnixMillis(1_767_323_045_000);

fn renewal() -> Renewal {
    Renewal {
        host: "web1".parse().unwrap(),
        certificate: "PEM".into(),
        membership: None,
        extensions: Extensions::default(),
    }
}

#[test]
fn renewals_are_golden_and_grow_by_extensions() {
    let payload = golden(RENEWAL);
    assert_eq!(hex::encode(renewal().to_payload()), hex::encode(&payload));
    assert_eq!(Renewal::from_payload(&payload).unwrap(), renewal());
    let even = Renewal::from_payload(&with_extensions(&payload, EVEN)).unwrap();
    assert_eq!(even.host, renewal().host);
    let odd = Renewal::from_payload(&with_extensions(&payload, ODD));
    assert!(matches!(
        odd,
        Err(CodecError::Extension(ExtensionError::Required(_)))
    ));

    // A signed one has the form of a report that was signed.
    let (report, bytes) = report_as_sent();
    let signed = || Box::new(SignedRenewal(report.0.clone()));
    let body = [vec![0], bytes.clone(), vec![0]].concat();
    check_frame(RenewalRequest::Install(signed()), &framed(&body));
    let body = [vec![11], bytes, vec![0]].concat();
    check_frame(ControlMessage::Renewal(signed()), &framed(&body));
    let until_unix_ms = 300;
    check_frame(
        RenewalAnswer::Installed { until_unix_ms },
        &golden("05000000 00 fb 2c01 00"),
    );
    let no = || "no".to_owned();
    check_frame(
        RenewalAnswer::Refused(no()),
        &golden("05000000 01 02 6e6f 00"),
    );
    check_frame(
        RenewalAnswer::Failed(no()),
        &golden("05000000 02 02 6e6f 00"),
    );
}

#[test]
fn who_takes_renewals_says_so_in_its_hello_and_older_builds_do_not() {
    let ours = Hello::ours();
    assert!(ours.takes_renewals());
    assert_eq!(ours.features, 1);
    assert!(
        !Hello {
            features: 0,
            ..ours
        }
        .takes_renewals()
    );
}

#[test]
fn a_renewal_is_taken_from_a_coordinator_of_the_fleet_and_by_the_host_that_it_names() {
    let fleet = |name: &str| CertificateAuthority::create(&name.parse().unwrap(), NOW.0).unwrap();
    let (ours, theirs) = (fleet("prod"), fleet("prod"));
    let enrol = |authority: &CertificateAuthority, role, name: &str| {
        let directory = tempfile::tempdir().unwrap();
        let node = authority.node(role, name.parse().unwrap());
        Identity::create(directory.path(), authority, &node, Validity::leaf(NOW.0)).unwrap()
    };
    let web1 = enrol(&ours, Role::Agent, "web1");
    let verify = |signed: &SignedRenewal, name: &str, now| {
        signed.verify(web1.trust(), &name.parse().unwrap(), now)
    };
    let signed = SignedRenewal::sign(&renewal(), &enrol(&ours, Role::Coordinator, "deploy1"));
    assert_eq!(verify(&signed, "web1", NOW).unwrap(), renewal());
    assert_eq!(signed.host_unverified(), Some(renewal().host));
    assert!(matches!(
        verify(&signed, "web2", NOW),
        Err(RenewalError::Host(host)) if host.as_str() == "web1"
    ));
    for (authority, role) in [(&ours, Role::Agent), (&theirs, Role::Coordinator)] {
        let other = SignedRenewal::sign(&renewal(), &enrol(authority, role, "deploy1"));
        assert!(matches!(
            verify(&other, "web1", NOW),
            Err(RenewalError::Signer)
        ));
    }
    let late = UnixMillis(web1.validity().not_after_unix_ms + 1);
    assert!(matches!(
        verify(&signed, "web1", late),
        Err(RenewalError::Signer)
    ));
    let long = Renewal {
        certificate: "x".repeat(4097),
        ..renewal()
    };
    let long = SignedRenewal::sign(&long, &enrol(&ours, Role::Coordinator, "deploy1"));
    assert!(matches!(
        verify(&long, "web1", NOW),
        Err(RenewalError::TooLong(4097))
    ));
}
