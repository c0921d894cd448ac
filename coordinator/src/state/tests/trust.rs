//! The fleet trust as the authority's holder changes it.

use std::os::unix::fs::PermissionsExt;

use scap_proto::id::NodeId;
use scap_proto::identity::{
    CertificateAuthority, Denial, Denied, FleetTrust, Role, SecretKey, Trust, Validity,
};
use scap_proto::reason::Reason;
use scap_proto::release::UnixMillis;
use tempfile::TempDir;

use super::world::*;

use crate::state::{
    Certified, Enrolled, How, Rotation, StateDirectory, StateError, TrustError, is_of_host, revoked,
};

const NOW: UnixMillis = UnixMillis(1_767_323_045_678);

fn init() -> (TempDir, StateDirectory) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("st");
    StateDirectory::init(&path, &"prod".parse().unwrap(), NOW).unwrap();
    let state = StateDirectory::open(&path).unwrap();
    (folder, state)
}

fn name(text: &str) -> NodeId {
    text.parse().unwrap()
}

fn deny(host: &str) -> impl Fn(&mut FleetTrust) {
    let name = name(host);
    move |trust| {
        trust.denials.push(Denial {
            who: Denied::Node {
                role: Role::Agent,
                name: name.clone(),
                issued_until: NOW,
            },
            reason: "stolen".to_owned(),
            since: NOW,
            is_enrolled_again: false,
        });
    }
}

fn names(trust: &Trust) -> Vec<String> {
    revoked(trust).keys().map(ToString::to_string).collect()
}

#[test]
fn who_is_revoked_is_until_it_is_enrolled_again_whose_new_certificate_alone_counts() {
    let (folder, state) = init();
    let enroll = |out: &str| {
        let out = folder.path().join(out);
        state.enroll(&name("web1"), &out, &[], NOW).unwrap()
    };
    let before = enroll("before");
    assert!(!folder.path().join("before/trust").exists());
    let identity = state.identity().unwrap();
    let trust = identity.trust();
    state.sign_trust(trust, NOW, deny("web1")).unwrap();
    assert_eq!(names(trust), ["web1"]);
    assert_eq!(state.revoked().unwrap().len(), 1);
    assert!(trust.cut_off(&before.certificate()).is_some());
    // Whether its enrolment was recorded or not.
    for _ in 0..2 {
        let (key, valid) = (before.public_key(), before.validity());
        let refused = state.renew_host(&name("web1"), key, valid, NOW);
        assert_eq!(refused.unwrap_err().code(), Reason::Revoked);
        let _ = std::fs::remove_dir_all(folder.path().join("st/enrolments"));
    }

    // In the very millisecond, as a script does.
    let again = enroll("again");
    let identity = state.identity().unwrap();
    let trust = identity.trust();
    assert_eq!((trust.mark().number, names(trust).len()), (2, 0));
    assert!(trust.cut_off(&before.certificate()).is_some());
    assert!(trust.cut_off(&again.certificate()).is_none());
    // The host begins with what counts.
    let own = scap_proto::identity::Identity::load(&folder.path().join("again")).unwrap();
    own.trust()
        .learn_from(&folder.path().join("again/trust"))
        .unwrap();
    assert_eq!(own.trust().mark(), trust.mark());
}

fn certify(
    state: &StateDirectory,
    how: How,
    readmit: bool,
    key: &SecretKey,
) -> Result<Certified, StateError> {
    let enrolled = Enrolled {
        host: name("web1"),
        environments: Vec::new(),
        how,
        readmit,
    };
    state.certify(&enrolled, key.public(), NOW)
}

fn refused_by(result: Result<Certified, StateError>) -> TrustError {
    match result {
        Err(StateError::Trust(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_key_that_a_host_had_when_it_was_revoked_is_never_certified_again() {
    let (folder, state) = init();
    let [stolen, new, denied] = [(); 3].map(|()| SecretKey::generate());
    let first = certify(&state, How::Ssh, false, &stolen).unwrap();
    assert!(!first.is_readmitted && first.enrolment.trust().is_none());
    let identity = state.identity().unwrap();
    let deny_key = |trust: &mut FleetTrust| {
        trust.denials.push(Denial {
            who: Denied::Key(*denied.public()),
            reason: String::new(),
            since: NOW,
            is_enrolled_again: false,
        });
    };
    let web1 = deny("web1");
    let sign = |change: &dyn Fn(&mut FleetTrust)| state.sign_trust(identity.trust(), NOW, change);
    sign(&|trust| {
        web1(trust);
        deny_key(trust);
    })
    .unwrap();
    let all = [How::Offline, How::Ssh, How::Token, How::Renewal];
    let assert_key_refused = |key: &SecretKey| {
        for how in all {
            let error = refused_by(certify(&state, how, true, key));
            assert!(matches!(error, TrustError::KeyRevoked(_)), "{how}: {error}");
        }
    };
    assert_key_refused(&stolen);
    assert_key_refused(&denied);
    // Nor where nothing is recorded of its host.
    let valid = Validity::leaf(NOW.0);
    let refused = state.renew_host(&name("web9"), denied.public(), valid, NOW);
    assert_eq!(refused.unwrap_err().code(), Reason::Revoked);
    assert_eq!(state.revoked().unwrap().len(), 1);

    // With another key it is back where somebody says so.
    let error = refused_by(certify(&state, How::Ssh, false, &new));
    assert!(matches!(error, TrustError::NotReadmitted(_)), "{error}");
    let error = refused_by(certify(&state, How::Renewal, false, &new));
    assert!(matches!(error, TrustError::Revoked(_)), "{error}");
    assert_eq!(state.revoked().unwrap().len(), 1);
    let back = certify(&state, How::Ssh, true, &new).unwrap();
    assert!(back.is_readmitted && state.revoked().unwrap().is_empty());
    let again = certify(&state, How::Ssh, false, &new).unwrap();
    assert!(!again.is_readmitted);
    // Also now that the host has another key.
    assert_key_refused(&stolen);
    // The host begins with what counts.
    let kept = std::fs::read(folder.path().join("st/trust")).unwrap();
    assert_eq!(again.enrolment.trust().unwrap(), kept);

    // It was a mistake.
    sign(&|trust| trust.denials.clear()).unwrap();
    certify(&state, How::Ssh, false, &stolen).unwrap();
}

#[test]
fn an_enrolment_that_was_cut_short_before_its_revocation_was_lifted_is_done_again() {
    let (folder, state) = init();
    let [stolen, new] = [(); 2].map(|()| SecretKey::generate());
    certify(&state, How::Token, true, &stolen).unwrap();
    let identity = state.identity().unwrap();
    state
        .sign_trust(identity.trust(), NOW, deny("web1"))
        .unwrap();
    let at = |name: &str| folder.path().join("st").join(name);
    let before = ["trust", "trust.number"].map(|name| (name, std::fs::read(at(name)).unwrap()));
    assert!(
        certify(&state, How::Token, true, &new)
            .unwrap()
            .is_readmitted
    );
    for (name, bytes) in before {
        std::fs::write(at(name), bytes).unwrap();
    }
    assert_eq!(state.revoked().unwrap().len(), 1);
    assert!(
        certify(&state, How::Token, true, &new)
            .unwrap()
            .is_readmitted
    );
}

#[test]
fn a_revocation_that_comes_after_a_certificate_is_not_lifted_by_it() {
    let (_folder, state) = init();
    let identity = state.identity().unwrap();
    state
        .sign_trust(identity.trust(), NOW, deny("web1"))
        .unwrap();
    let later = UnixMillis(NOW.0 + 1000);
    assert!(!state.note_enrolled(&name("web1"), NOW).unwrap());
    assert_eq!(state.revoked().unwrap().len(), 1);
    assert!(state.note_enrolled(&name("web1"), later).unwrap());
    assert!(state.revoked().unwrap().is_empty());
}

#[test]
fn several_that_sign_at_a_time_sign_upon_each_other() {
    let (_folder, state) = init();
    let hosts: Vec<String> = (0..8).map(|number| format!("web{number}")).collect();
    // All of them believe what was before.
    let identities: Vec<_> = hosts.iter().map(|_| state.identity().unwrap()).collect();
    std::thread::scope(|scope| {
        for (host, identity) in hosts.iter().zip(&identities) {
            let (deny, state) = (deny(host), &state);
            scope.spawn(move || state.sign_trust(identity.trust(), NOW, deny).unwrap());
        }
    });
    let identity = state.identity().unwrap();
    assert_eq!(identity.trust().mark().number, 8);
    assert_eq!(names(identity.trust()), hosts);
}

#[test]
fn two_that_sign_without_each_other_are_brought_together_by_the_next() {
    let (folder, state) = init();
    let copied = folder.path().join("copy");
    let copy = std::process::Command::new("cp")
        .arg("-r")
        .args([folder.path().join("st"), copied.clone()])
        .status();
    assert!(copy.unwrap().success());
    let copy = StateDirectory::open(&copied).unwrap();
    let [one, other] = [&state, &copy].map(|state| state.identity().unwrap());
    state.sign_trust(one.trust(), NOW, deny("web1")).unwrap();
    copy.sign_trust(other.trust(), NOW, deny("web2")).unwrap();
    for signed in one.trust().chain_after(0) {
        let _ = other.trust().offer(signed).unwrap();
    }
    assert_eq!(names(other.trust()), ["web2"]);
    let next = copy.sign_trust(other.trust(), NOW, |_| {}).unwrap();
    assert_eq!(next.number, 2);
    assert_eq!(names(other.trust()), ["web1", "web2"]);
}

#[test]
fn nothing_is_signed_upon_what_is_lost() {
    let (folder, state) = init();
    let identity = state.identity().unwrap();
    state
        .sign_trust(identity.trust(), NOW, deny("web1"))
        .unwrap();
    std::fs::remove_file(folder.path().join("st/trust")).unwrap();
    let identity = state.identity().unwrap();
    let refused = state.sign_trust(identity.trust(), NOW, deny("web2"));
    assert!(matches!(
        refused,
        Err(StateError::Trust(TrustError::Lost { number: 1 }))
    ));
    // Nor is anybody certified: it is not known who is revoked.
    let error = refused_by(certify(&state, How::Token, true, &SecretKey::generate()));
    assert!(matches!(error, TrustError::Lost { number: 1 }), "{error}");
    let until = state.denied_until(Role::Agent, &name("web1"));
    assert!(matches!(
        until,
        Err(StateError::Trust(TrustError::Lost { number: 1 }))
    ));
    assert_eq!(state.enrolment(&name("web1")).unwrap(), None);
}

#[test]
fn a_move_to_a_new_authority_goes_on_wherever_it_was_cut_short() {
    let (folder, state) = init();
    let at = |name: &str| folder.path().join("st").join(name);
    let key = |name: &str| *CertificateAuthority::load(&at(name)).unwrap().public_key();
    let old = key("ca");
    let trust = || state.identity().unwrap().trust().clone();
    let early = state.switch_authority(&state.identity().unwrap(), NOW);
    assert!(matches!(early, Err(StateError::Trust(TrustError::Step(_)))));

    // The authority is made, and nothing is signed.
    let fleet = "prod".parse().unwrap();
    let next = CertificateAuthority::create(&fleet, NOW.0).unwrap();
    next.save(&at("ca-next")).unwrap();
    for _ in 0..2 {
        state.begin_rotation(&trust(), NOW).unwrap();
        assert_eq!((trust().mark().number, trust().authorities().len()), (1, 2));
        assert_eq!(state.rotation(), Rotation::Begun);
    }

    // Between the two renames.
    std::fs::rename(at("ca"), at("ca-old")).unwrap();
    assert_eq!(state.authority().unwrap().public_key(), next.public_key());
    for _ in 0..2 {
        let identity = state.identity().unwrap();
        state.switch_authority(&identity, NOW).unwrap();
    }
    assert_eq!((key("ca"), key("ca-old")), (*next.public_key(), old));
    let identity = state.identity().unwrap();
    let issuer = identity.trust().issuer_of(&identity.certificate());
    assert_eq!(issuer, Some(*next.public_key()));
    let web1 = state.enroll(&name("web1"), &folder.path().join("web1"), &[], NOW);
    assert_eq!(
        identity.trust().issuer_of(&web1.unwrap().certificate()),
        issuer
    );

    let retired = state.finish_rotation(&trust(), NOW).unwrap();
    assert!(retired.join("ca.key").exists() && !at("ca-old").exists());
    assert_eq!(state.rotation(), Rotation::None);
    let said = trust().fleet_trust().unwrap();
    assert_eq!(
        (said.number, said.authorities.len(), said.retired.len()),
        (2, 1, 1)
    );
    // And a second time.
    state.begin_rotation(&trust(), NOW).unwrap();
    assert_eq!(trust().authorities().len(), 2);
}

#[test]
fn a_switch_that_is_cut_short_leaves_the_coordinator_its_old_certificate_or_the_new_one_whole() {
    let (folder, state) = init();
    let own = folder.path().join("st/coordinator");
    let identity = state.identity().unwrap();
    let old = identity.certificate();
    state.begin_rotation(identity.trust(), NOW).unwrap();
    // The authorities have changed places, and the identity cannot be written.
    let held = std::fs::File::open(&own).unwrap();
    held.lock().unwrap();
    let cut = state.switch_authority(&identity, NOW);
    assert!(matches!(cut, Err(StateError::Install(_))), "{cut:?}");
    assert_eq!(state.rotation(), Rotation::Switched);
    assert_eq!(state.identity().unwrap().certificate(), old);
    held.unlock().unwrap();

    const FILES: [&str; 3] = ["node.key", "ca.crt", "node.crt"];
    let read = |name: &str| std::fs::read(own.join(name)).unwrap();
    let before = FILES.map(read);
    state.switch_authority(&identity, NOW).unwrap();
    let after = FILES.map(read);
    let new = state.identity().unwrap().certificate();
    assert_ne!(new, old);
    // The new one holds, and some of its files are at their places.
    for moved in 0..=FILES.len() {
        let incoming = own.join(".incoming");
        std::fs::create_dir(&incoming).unwrap();
        for (index, name) in FILES.into_iter().enumerate() {
            let is_moved = index < moved;
            let old_place = if is_moved { &after } else { &before };
            std::fs::write(own.join(name), &old_place[index]).unwrap();
            if !is_moved {
                std::fs::write(incoming.join(name), &after[index]).unwrap();
                let mode = std::fs::Permissions::from_mode(0o600);
                std::fs::set_permissions(incoming.join(name), mode).unwrap();
            }
        }
        assert_eq!(state.identity().unwrap().certificate(), new, "{moved}");
        state.switch_authority(&identity, NOW).unwrap();
        assert!(!incoming.exists());
        let issuer = state.identity().unwrap();
        let issuer = issuer.trust().issuer_of(&issuer.certificate());
        assert_eq!(issuer, Some(*state.authority().unwrap().public_key()));
    }
}

#[test]
fn a_coordinator_with_a_new_key_counts_where_the_one_before_does_not() {
    let (folder, state) = init();
    let before = state.identity().unwrap();
    let own = before.own().clone();
    let all = |trust: &mut FleetTrust| {
        trust.denials.push(Denial {
            who: Denied::Node {
                role: own.role,
                name: own.name.clone(),
                issued_until: NOW,
            },
            reason: String::new(),
            since: NOW,
            is_enrolled_again: false,
        });
    };
    state.sign_trust(before.trust(), NOW, all).unwrap();
    state.renew_coordinator(NOW).unwrap();
    let after = state.identity().unwrap();
    assert_ne!(after.public_key(), before.public_key());
    assert!(after.trust().cut_off(&before.certificate()).is_some());
    assert!(after.trust().cut_off(&after.certificate()).is_none());
    // Cut short between its two renames.
    let at = |name: &str| folder.path().join("st").join(name);
    std::fs::rename(at("coordinator"), at("coordinator-next")).unwrap();
    assert_eq!(state.identity().unwrap().public_key(), after.public_key());
}

#[test]
fn e6_what_a_copy_signs_that_does_not_know_who_is_revoked_lets_nobody_in_and_what_is_lifted_is_said()
 {
    let (folder, state) = init();
    let copied = folder.path().join("copy");
    let copy = std::process::Command::new("cp")
        .arg("-r")
        .args([folder.path().join("st"), copied.clone()])
        .status();
    assert!(copy.unwrap().success());
    let copy = StateDirectory::open(&copied).unwrap();
    let [one, other] = [&state, &copy].map(|state| state.identity().unwrap());
    state.sign_trust(one.trust(), NOW, deny("web1")).unwrap();
    // The copy comes to a higher number without it.
    for host in ["web2", "web3"] {
        copy.sign_trust(other.trust(), NOW, deny(host)).unwrap();
    }
    for signed in other.trust().chain_after(1) {
        one.trust().offer(signed).unwrap();
    }
    assert_eq!(names(one.trust()), ["web1", "web2", "web3"]);
    let next = state.sign_trust(one.trust(), NOW, |_| {}).unwrap();
    assert_eq!((next.number, next.denials.len()), (3, 3));

    let unrevoked = state.sign_trust(one.trust(), NOW, |trust| {
        trust.denials.retain(|it| !is_of_host(it, &name("web1")));
    });
    let unrevoked = unrevoked.unwrap();
    let [web1, web2] = ["web1", "web2"].map(|host| Denied::Node {
        role: Role::Agent,
        name: name(host),
        issued_until: NOW,
    });
    assert!(unrevoked.lifts(&web1) && !unrevoked.lifts(&web2));
    assert_eq!(names(one.trust()), ["web2", "web3"]);
    // It is said on, until the host is denied again.
    let again = state.sign_trust(one.trust(), NOW, deny("web1")).unwrap();
    assert!(!again.lifts(&web1));
    assert_eq!(names(one.trust()), ["web1", "web2", "web3"]);
}

#[test]
fn e7_a_host_that_is_revoked_while_its_token_is_looked_at_gets_no_certificate() {
    let (_folder, state) = init();
    let key = SecretKey::generate();
    let enrolled = Enrolled {
        host: name("web1"),
        environments: Vec::new(),
        how: How::Token,
        readmit: true,
    };
    let certify = |seen: Option<UnixMillis>| {
        state.certify_unless_revoked_since(seen, &enrolled, key.public(), NOW)
    };
    // The token was checked, and nobody was revoked; then somebody is.
    let identity = state.identity().unwrap();
    state
        .sign_trust(identity.trust(), NOW, deny("web1"))
        .unwrap();
    let error = refused_by(certify(None));
    assert!(matches!(error, TrustError::Revoked(_)), "{error}");
    assert_eq!(state.revoked().unwrap().len(), 1);
    assert_eq!(state.enrolment(&name("web1")).unwrap(), None);
    // One that was made after the revocation was meant to lift it.
    assert!(certify(Some(NOW)).unwrap().is_readmitted);
    assert!(state.revoked().unwrap().is_empty());
}

#[test]
fn nobody_is_certified_while_a_revocation_is_signed() {
    let (_folder, state) = init();
    let identity = state.identity().unwrap();
    let key = SecretKey::generate();
    let (began, is_begun) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let (state, key) = (&state, &key);
        let mut certifying = None;
        let signed = std::cell::RefCell::new(&mut certifying);
        let sign = |trust: &mut FleetTrust| {
            let began = began.clone();
            **signed.borrow_mut() = Some(scope.spawn(move || {
                began.send(()).unwrap();
                certify(state, How::Ssh, false, key)
            }));
            is_begun.recv().unwrap();
            assert_eq!(state.enrolment(&name("web1")).unwrap(), None);
            deny("web1")(trust);
        };
        state.sign_trust(identity.trust(), NOW, sign).unwrap();
        let certified = certifying.unwrap().join().unwrap();
        let error = refused_by(certified);
        assert!(matches!(error, TrustError::NotReadmitted(_)), "{error}");
    });
}

#[test]
fn e6_what_a_deployment_records_of_who_is_revoked_another_copy_believes_and_nothing_forged() {
    let (folder, state) = init();
    let copied = folder.path().join("copy");
    let copy = std::process::Command::new("cp")
        .arg("-r")
        .args([folder.path().join("st"), copied.clone()])
        .status();
    assert!(copy.unwrap().success());
    let copy = StateDirectory::open(&copied).unwrap();
    let [one, other] = [&state, &copy].map(|state| state.identity().unwrap());
    state.sign_trust(one.trust(), NOW, deny("web1")).unwrap();

    let (test, signing) = (repo(&[]), Signing::new());
    let branch = branch_of(&test.open(), false);
    let record = |kept: Option<Vec<u8>>, sequence| {
        let first = ledger(&branch, "production", 0).with_fleet_trust(kept);
        let found = first.lock("a test", at(0)).unwrap();
        let (rollout, signed) = signing.release(&first, &place("production"), sequence);
        first.begin(&rollout, &signed, at(1)).unwrap();
        first.unlock(at(2)).unwrap();
        found.fleet_trust
    };
    assert_eq!(record(state.kept_trust().unwrap(), 1), None);
    // A build that records none leaves it as it is.
    let recorded = record(None, 2).unwrap();
    other.trust().learn(&recorded).unwrap();
    assert_eq!(names(other.trust()), ["web1"]);
    // On disk too.
    assert_eq!(names(copy.identity().unwrap().trust()), ["web1"]);

    let (_elsewhere, stranger) = init();
    let forger = stranger.identity().unwrap();
    for host in ["web2", "web3"] {
        let signed = stranger.sign_trust(forger.trust(), NOW, deny(host));
        signed.unwrap();
    }
    let forged = record(stranger.kept_trust().unwrap(), 3).unwrap();
    assert_eq!(forged, recorded, "the one before is found");
    let forged = record(None, 4).unwrap();
    for kept in [&forged[..], &recorded[..40], b"nothing"] {
        other.trust().learn(kept).unwrap();
        assert_eq!(names(other.trust()), ["web1"]);
    }
}
