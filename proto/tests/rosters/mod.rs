//! What a coordinator says with its own key: where hosts are, and who feeds whom.

use super::*;

#[test]
fn a_lease_is_the_word_of_a_coordinator_for_a_time() {
    let directory = tempfile::tempdir().unwrap();
    let authority = CertificateAuthority::create(&"prod".parse().unwrap(), NOW.0).unwrap();
    let enrol = |role, folder: &str| {
        let node = authority.node(role, name("deploy1"));
        let folder = directory.path().join(folder);
        Identity::create(&folder, &authority, &node, Validity::leaf(NOW.0)).unwrap()
    };
    let deploy1 = enrol(Role::Coordinator, "deploy1");
    let signed = SignedLease::sign(&lease(), &deploy1);
    assert_eq!(signed.0.payload.as_ref(), golden(LEASE));
    assert_eq!(signed.relay_unverified(), Some(name("web1")));
    assert_eq!(signed.verify(deploy1.trust(), NOW).unwrap(), lease());
    let late = signed.verify(deploy1.trust(), EXPIRES);
    assert!(matches!(late, Err(AuthorityError::Expired { .. })));
    let agents = SignedLease::sign(&lease(), &enrol(Role::Agent, "agent"));
    let refused = agents.verify(deploy1.trust(), NOW);
    assert!(matches!(refused, Err(AuthorityError::Lease)));
    let other = SignedLease(LeafSigned {
        payload: Lease {
            host: name("web2"),
            ..lease()
        }
        .to_payload(),
        ..signed.0
    });
    let refused = other.verify(deploy1.trust(), NOW);
    assert!(matches!(refused, Err(AuthorityError::Lease)));
}

#[test]
fn a_membership_is_the_word_of_a_coordinator_about_one_host() {
    let directory = tempfile::tempdir().unwrap();
    let authority = CertificateAuthority::create(&"prod".parse().unwrap(), NOW.0).unwrap();
    let enrol = |role, folder: &str| {
        let node = authority.node(role, name("deploy1"));
        let folder = directory.path().join(folder);
        Identity::create(&folder, &authority, &node, Validity::leaf(NOW.0)).unwrap()
    };
    let deploy1 = enrol(Role::Coordinator, "deploy1");
    let signed = SignedMembership::sign(&membership(), &deploy1);
    assert_eq!(signed.0.payload.as_ref(), golden(MEMBERSHIP));
    let verify = |signed: &SignedMembership, host: &str| {
        let verified = signed.verify(deploy1.trust(), &name(host), NOW);
        verified.map_err(|error| error.to_string())
    };
    let found = verify(&signed, "web2").unwrap();
    assert_eq!(found, membership());
    let all = "all".parse().unwrap();
    for (environment, is_in) in [("production", true), ("staging", true), ("beta", false)] {
        assert_eq!(found.includes(&environment.parse().unwrap(), &all), is_in);
    }
    assert!(!found.includes(&"staging".parse().unwrap(), &"edge".parse().unwrap()));

    let refused = "a membership that no coordinator of this fleet signed for";
    let starts = |result: Result<Membership, String>| {
        let error = result.unwrap_err();
        assert!(error.starts_with(refused), "{error}");
    };
    starts(verify(&signed, "web1"));
    let agents = SignedMembership::sign(&membership(), &enrol(Role::Agent, "agent"));
    starts(verify(&agents, "web2"));
    for flipped in each_flip(&signed.0).map(SignedMembership) {
        starts(verify(&flipped, "web2"));
    }
    let many = Membership {
        audiences: vec![all; 65],
        ..membership()
    };
    let refused = verify(&SignedMembership::sign(&many, &deploy1), "web2");
    assert_eq!(refused.unwrap_err(), "65 audiences, 0 to 64 are allowed");
}

#[test]
fn a_roster_is_the_word_of_a_coordinator_and_bounded_in_size_and_time() {
    let directory = tempfile::tempdir().unwrap();
    let fleet = |name: &str| CertificateAuthority::create(&name.parse().unwrap(), NOW.0).unwrap();
    let (ours, theirs) = (fleet("prod"), fleet("prod"));
    let enrol = |authority: &CertificateAuthority, role, folder: &str| {
        let node = authority.node(role, name("deploy1"));
        let folder = directory.path().join(folder);
        Identity::create(&folder, authority, &node, Validity::leaf(NOW.0)).unwrap()
    };
    let deploy1 = enrol(&ours, Role::Coordinator, "deploy1");
    let verify = |signed: &SignedRoster| signed.verify(deploy1.trust(), NOW);
    let signed = SignedRoster::sign(&roster(), &deploy1);
    assert_eq!(signed.0.payload.as_ref(), golden(ROSTER));
    assert_eq!(verify(&signed).unwrap(), roster());

    for identity in [
        enrol(&ours, Role::Agent, "agent"),
        enrol(&theirs, Role::Coordinator, "stranger"),
    ] {
        let refused = verify(&SignedRoster::sign(&roster(), &identity));
        assert!(
            matches!(refused, Err(AuthorityError::Roster)),
            "{identity:?}"
        );
    }
    for flipped in each_flip(&signed.0).map(SignedRoster) {
        assert!(matches!(verify(&flipped), Err(AuthorityError::Roster)));
    }
    let late = signed.verify(deploy1.trust(), EXPIRES);
    assert!(matches!(late, Err(AuthorityError::Expired { .. })));

    let of = |count: usize, first: u32, addresses: usize| {
        let host = RosterHost {
            name: name("web1"),
            addresses: vec!["10.0.0.2:7227".parse().unwrap(); addresses],
        };
        let roster = Roster {
            first,
            hosts: vec![host; count],
            ..roster()
        };
        verify(&SignedRoster::sign(&roster, &deploy1)).map_err(|error| error.to_string())
    };
    assert!(of(64, 16_384 - 64, 8).is_ok());
    assert_eq!(
        of(0, 0, 1).unwrap_err(),
        "0 hosts in a page of a roster, 1 to 64 are allowed"
    );
    assert_eq!(
        of(65, 0, 1).unwrap_err(),
        "65 hosts in a page of a roster, 1 to 64 are allowed"
    );
    assert_eq!(
        of(64, 16_321, 1).unwrap_err(),
        "16385 hosts in a roster, 1 to 16384 are allowed"
    );
    assert!(of(1, u32::MAX, 1).is_err());
    let relays: Vec<u32> = (0..9).collect();
    let behind = |count: usize| {
        let page = roster().behind(&relays[..count]);
        verify(&SignedRoster::sign(&page, &deploy1)).map_err(|error| error.to_string())
    };
    assert_eq!(behind(0).unwrap(), roster());
    assert_eq!(behind(8).unwrap().relays().unwrap(), relays[..8]);
    assert_eq!(
        behind(9).unwrap_err(),
        "9 relays of a host, 0 to 8 are allowed"
    );
    assert_eq!(
        of(1, 0, 9).unwrap_err(),
        "9 addresses of a host, 0 to 8 are allowed"
    );
}
