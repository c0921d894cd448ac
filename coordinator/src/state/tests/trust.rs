//! The fleet trust as the authority's holder changes it.

use scap_proto::id::NodeId;
use scap_proto::identity::{CertificateAuthority, Denial, Denied, FleetTrust, Role, Trust};
use scap_proto::reason::Reason;
use scap_proto::release::UnixMillis;
use tempfile::TempDir;

use crate::state::{Rotation, StateDirectory, StateError, TrustError, revoked};

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
