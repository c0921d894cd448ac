//! What is believed, by whose word, and what is left of it after a restart.

mod lapses;

use std::fs;

use tempfile::TempDir;

use super::*;
use crate::{
    identity::{
        Certificate, CertificateAuthority, Denial, Denied, FleetTrust, LeafSignatureError, Refusal,
        Role, SecretKey, Validity,
    },
    limits::{AUTHORITIES_MAX, DENIAL_REASON_BYTES_MAX, DENIALS_MAX, FLEET_TRUST_BYTES_MAX},
    release::UnixMillis,
};

const NOW: u64 = 1_767_323_045_000;
const HOUR: u64 = 3_600_000;

fn authority() -> CertificateAuthority {
    CertificateAuthority::create(&"prod".parse().unwrap(), NOW).unwrap()
}

fn trusting(authorities: &[&CertificateAuthority]) -> Trust {
    let ders: Vec<_> = authorities
        .iter()
        .map(|it| it.certificate().der.clone())
        .collect();
    Trust::new("prod".parse().unwrap(), &ders).unwrap()
}

fn issue(authority: &CertificateAuthority, role: Role, name: &str, at: u64) -> Certificate {
    let node = authority.node(role, name.parse().unwrap());
    let key = SecretKey::generate();
    let issued = authority.issue(&node, key.public(), Validity::leaf(at));
    issued.unwrap()
}

fn fleet_trust(number: u64, authorities: &[&CertificateAuthority]) -> FleetTrust {
    let der = |it: &&CertificateAuthority| it.certificate().der.to_vec().into();
    FleetTrust {
        fleet: "prod".parse().unwrap(),
        number,
        issued: UnixMillis(NOW),
        authorities: authorities.iter().map(der).collect(),
        retired: Vec::new(),
        denials: Vec::new(),
        extensions: Default::default(),
    }
}

fn denying(mut trust: FleetTrust, who: Denied) -> FleetTrust {
    trust.denials.push(Denial {
        who,
        reason: "stolen".to_owned(),
        since: UnixMillis(NOW),
        is_enrolled_again: false,
    });
    trust
}

fn host(name: &str, issued_until: u64) -> Denied {
    Denied::Node {
        role: Role::Agent,
        name: name.parse().unwrap(),
        issued_until: UnixMillis(issued_until),
    }
}

fn signed(trust: &FleetTrust, by: &CertificateAuthority) -> SignedFleetTrust {
    SignedFleetTrust::sign(trust, by)
}

fn refused(trust: &Trust, offered: SignedFleetTrust) -> String {
    let before = trust.mark();
    let error = trust.offer(offered).unwrap_err().to_string();
    assert_eq!(trust.mark(), before);
    error
}

#[test]
fn who_is_cut_off_is_refused_by_all_that_share_the_trust_and_one_enrolled_again_is_not() {
    let fleet = authority();
    let trust = trusting(&[&fleet]);
    let elsewhere = trust.clone();
    let stolen = issue(&fleet, Role::Agent, "web1", NOW);
    let coordinator = issue(&fleet, Role::Coordinator, "web1", NOW);
    let other = issue(&fleet, Role::Agent, "web2", NOW);
    let list = denying(fleet_trust(1, &[&fleet]), host("web1", NOW + HOUR));
    assert_eq!(
        trust.offer(signed(&list, &fleet)).unwrap(),
        Offered::Believed
    );

    let refusal = elsewhere.check(&stolen.der, NOW).unwrap_err();
    assert!(matches!(&refusal, Refusal::Revoked { reason, .. } if reason == "stolen"));
    assert_eq!(refusal.code().unwrap().as_str(), "revoked");
    assert!(elsewhere.cut_off(&stolen.der).is_some());
    for certificate in [&coordinator, &other] {
        assert!(elsewhere.check(&certificate.der, NOW).is_ok());
        assert!(elsewhere.cut_off(&certificate.der).is_none());
    }
    // What it signs, whoever carries it, is nobody's word.
    let said = trust.verify_signature(&stolen.der, NOW, b"report", &[0; 64]);
    assert!(matches!(
        said,
        Err(LeafSignatureError::Refused(Refusal::Revoked { .. }))
    ));
    // Of the same second as the revocation, and of the one after it.
    let same = issue(&fleet, Role::Agent, "web1", NOW + HOUR);
    assert!(trust.check(&same.der, NOW + HOUR).is_err());
    let again = issue(&fleet, Role::Agent, "web1", NOW + HOUR + 1000);
    assert!(trust.check(&again.der, NOW + HOUR).is_ok());
}

#[test]
fn a_key_that_is_cut_off_is_so_under_every_name_and_for_good() {
    let fleet = authority();
    let trust = trusting(&[&fleet]);
    let key = SecretKey::generate();
    let list = denying(fleet_trust(1, &[&fleet]), Denied::Key(*key.public()));
    trust.offer(signed(&list, &fleet)).unwrap();
    for (role, name, at) in [
        (Role::Agent, "web1", NOW),
        (Role::Coordinator, "deploy1", NOW + HOUR),
    ] {
        let node = fleet.node(role, name.parse().unwrap());
        let issued = fleet
            .issue(&node, key.public(), Validity::leaf(at))
            .unwrap();
        assert!(matches!(
            trust.check(&issued.der, NOW + HOUR),
            Err(Refusal::Revoked { .. })
        ));
    }
}

#[test]
fn only_what_an_authority_signed_that_is_believed_and_is_later_counts() {
    let (fleet, stranger) = (authority(), authority());
    let trust = trusting(&[&fleet]);
    let list = |number| fleet_trust(number, &[&fleet]);
    assert_eq!(
        trust.offer(signed(&list(5), &fleet)).unwrap(),
        Offered::Believed
    );
    let mark = trust.mark();
    assert_eq!(mark.number, 5);
    for known in [4, 5] {
        assert_eq!(
            trust.offer(signed(&list(known), &fleet)).unwrap(),
            Offered::Known
        );
    }
    let other = denying(list(5), host("web1", NOW));
    assert_eq!(
        trust.offer(signed(&other, &fleet)).unwrap(),
        Offered::Conflict
    );
    assert_eq!(trust.mark(), mark);
    assert_eq!(trust.conflict(), Some(other));

    // Forged: by nobody, by a stranger, by a node, by the right one about something else.
    let told = refused(&trust, signed(&list(6), &stranger));
    assert!(
        told.contains("no authority which is believed here signed"),
        "{told}"
    );
    let mut changed = signed(&list(6), &fleet);
    changed.0.payload = signed(&list(7), &fleet).0.payload;
    let told = refused(&trust, changed);
    assert!(told.contains("signed"), "{told}");
    let mut short = signed(&list(6), &fleet);
    short.0.signature = short.0.signature.slice(..63);
    refused(&trust, short);

    let elsewhere = CertificateAuthority::create(&"staging".parse().unwrap(), NOW).unwrap();
    let mut foreign = list(6);
    foreign.fleet = "staging".parse().unwrap();
    let told = refused(&trust, signed(&foreign, &fleet));
    assert!(told.contains("of fleet prod"), "{told}");
    let with_foreign = fleet_trust(6, &[&fleet, &elsewhere]);
    let told = refused(&trust, signed(&with_foreign, &fleet));
    assert!(told.contains("of fleet staging"), "{told}");
    for empty in [fleet_trust(6, &[]), list(0)] {
        let told = refused(&trust, signed(&empty, &fleet));
        assert!(told.contains("without"), "{told}");
    }
    let mut node = list(6);
    node.authorities
        .push(issue(&fleet, Role::Agent, "web1", NOW).der.to_vec().into());
    let told = refused(&trust, signed(&node, &fleet));
    assert!(told.contains("that is none"), "{told}");
}

#[test]
fn a_fleet_trust_holds_no_more_than_it_may() {
    let fleet = authority();
    let trust = trusting(&[&fleet]);
    let full = || {
        let mut list = fleet_trust(1, &[&fleet]);
        for at in 0..DENIALS_MAX {
            let name = format!("{at:0>253}");
            list = denying(list, host(&name, u64::MAX));
            list.denials[at].reason = "x".repeat(DENIAL_REASON_BYTES_MAX);
        }
        list
    };
    let more = denying(full(), host("web1", NOW));
    let told = refused(&trust, signed(&more, &fleet));
    assert!(told.contains("1025 denials, at most 1024"), "{told}");
    let mut long = full();
    long.denials[0].reason.push('x');
    let told = refused(&trust, signed(&long, &fleet));
    assert!(told.contains("201 bytes of a reason"), "{told}");
    let many = vec![&fleet; AUTHORITIES_MAX + 1];
    let told = refused(&trust, signed(&fleet_trust(1, &many), &fleet));
    assert!(told.contains("5 authorities, at most 4"), "{told}");
    let mut huge = signed(&full(), &fleet);
    huge.0.payload = vec![0; FLEET_TRUST_BYTES_MAX + 1].into();
    let told = refused(&trust, huge);
    assert!(told.contains("bytes, at most"), "{told}");
    assert_eq!(
        trust.offer(signed(&full(), &fleet)).unwrap(),
        Offered::Believed
    );
}

#[test]
fn a_restart_keeps_it_and_its_loss_is_noticed_and_nothing_older_is_believed_then() {
    let fleet = authority();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trust");
    let list = |number| denying(fleet_trust(number, &[&fleet]), host("web1", NOW));
    let trust = trusting(&[&fleet]);
    assert_eq!(trust.keep_in(&path).unwrap(), Kept::Nothing);
    for number in [3, 4] {
        trust.offer(signed(&list(number), &fleet)).unwrap();
    }
    let mark = trust.mark();

    let again = trusting(&[&fleet]);
    assert_eq!(again.keep_in(&path).unwrap(), Kept::Fleet(mark));
    assert_eq!(again.fleet_trust(), Some(list(4)));
    assert_eq!(again.lost(), None);

    for damage in [None, Some(40)] {
        let bytes = fs::read(&path).unwrap_or_default();
        match damage {
            None => {
                let mut bytes = bytes.clone();
                bytes[60] ^= 1;
                fs::write(&path, bytes).unwrap();
            }
            Some(_) => fs::remove_file(&path).unwrap(),
        }
        let lost = trusting(&[&fleet]);
        assert_eq!(lost.keep_in(&path).unwrap(), Kept::Lost { number: 4 });
        assert_eq!((lost.lost(), lost.mark().number), (Some(4), 0));
        // A liar's, which was true once.
        assert_eq!(
            lost.offer(signed(&list(3), &fleet)).unwrap(),
            Offered::Known
        );
        assert_eq!(lost.mark().number, 0);
        assert_eq!(
            lost.offer(signed(&list(4), &fleet)).unwrap(),
            Offered::Believed
        );
        assert_eq!((lost.lost(), lost.mark()), (None, mark));
        let again = trusting(&[&fleet]);
        assert_eq!(again.keep_in(&path).unwrap(), Kept::Fleet(mark));
    }
}

#[test]
fn what_cannot_be_kept_does_not_count() {
    let fleet = authority();
    let folder = tempfile::tempdir().unwrap();
    let trust = trusting(&[&fleet]);
    trust.keep_in(&folder.path().join("trust")).unwrap();
    drop(folder);
    let offered = trust.offer(signed(&fleet_trust(1, &[&fleet]), &fleet));
    assert!(matches!(offered, Err(KeepError::Io { .. })), "{offered:?}");
    assert_eq!(trust.mark().number, 0);
}

#[test]
fn several_processes_of_one_directory_that_hear_at_a_time_keep_the_latest() {
    let fleet = authority();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trust");
    for round in 1..=8 {
        let numbers: Vec<u64> = (1..=4).map(|number| round * 4 + number).collect();
        let all = numbers.iter().map(|number| {
            let trust = trusting(&[&fleet]);
            trust.keep_in(&path).unwrap();
            (trust, signed(&fleet_trust(*number, &[&fleet]), &fleet))
        });
        let all: Vec<_> = all.collect();
        std::thread::scope(|scope| {
            for (trust, signed) in all {
                scope.spawn(move || trust.offer(signed).unwrap());
            }
        });
        let again = trusting(&[&fleet]);
        again.keep_in(&path).unwrap();
        assert_eq!(again.mark().number, numbers[3]);
        assert_eq!(again.lost(), None);
    }
}

#[test]
fn two_processes_of_one_directory_never_take_each_other_back() {
    let fleet = authority();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trust");
    let [one, two] = [(); 2].map(|()| trusting(&[&fleet]));
    for trust in [&one, &two] {
        trust.keep_in(&path).unwrap();
    }
    let list = |number| signed(&fleet_trust(number, &[&fleet]), &fleet);
    one.offer(list(5)).unwrap();
    // It has not heard of number 5, and comes to believe it.
    assert_eq!(two.offer(list(4)).unwrap(), Offered::Believed);
    assert_eq!(two.mark(), one.mark());
    let again = trusting(&[&fleet]);
    assert_eq!(again.keep_in(&path).unwrap(), Kept::Fleet(one.mark()));
}

/// From one authority to the next, and a revocation at each step.
fn moved(old: &CertificateAuthority, new: &CertificateAuthority) -> Vec<SignedFleetTrust> {
    let mut alone = fleet_trust(4, &[new]);
    alone.retired = vec![old.certificate().der.to_vec().into()];
    vec![
        signed(&fleet_trust(1, &[old]), old),
        signed(&fleet_trust(2, &[old, new]), old),
        signed(
            &denying(fleet_trust(3, &[old, new]), host("web9", NOW)),
            new,
        ),
        signed(&alone, new),
        signed(
            &denying(FleetTrust { number: 5, ..alone }, host("web9", NOW)),
            new,
        ),
    ]
}

#[test]
fn a_fleet_moves_to_a_new_authority_by_the_word_of_the_old_one_and_the_old_one_is_named_then() {
    let (old, new) = (authority(), authority());
    let trust = trusting(&[&old]);
    let leaves = [&old, &new].map(|authority| issue(authority, Role::Agent, "web1", NOW));
    let counts = || {
        leaves
            .each_ref()
            .map(|leaf| trust.check(&leaf.der, NOW).is_ok())
    };
    assert_eq!(counts(), [true, false]);
    let steps = moved(&old, &new);
    for (step, expected) in steps.iter().zip([
        [true, false],
        [true, true],
        [true, true],
        [false, true],
        [false, true],
    ]) {
        assert_eq!(trust.offer(step.clone()).unwrap(), Offered::Believed);
        assert_eq!(counts(), expected, "#{}", trust.mark().number);
    }
    let refusal = trust.check(&leaves[0].der, NOW).unwrap_err();
    assert!(matches!(refusal, Refusal::OldAuthority { .. }), "{refusal}");
    assert!(
        refusal.to_string().starts_with("old authority: agent web1"),
        "{refusal}"
    );
    assert_eq!(refusal.code().unwrap().as_str(), "old-authority");
    // What the old one signs now is nobody's word.
    refused(&trust, signed(&fleet_trust(9, &[&old]), &old));
    assert_eq!(trust.issuer_of(&leaves[1].der), Some(*new.public_key()));
    assert_eq!(trust.issuer_of(&leaves[0].der), None);
}

#[test]
fn whoever_was_away_meanwhile_is_led_to_the_new_authority_step_by_step() {
    let (old, new) = (authority(), authority());
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("trust");
    let trust = trusting(&[&old]);
    trust.keep_in(&path).unwrap();
    for step in moved(&old, &new) {
        trust.offer(step).unwrap();
    }
    let away = trusting(&[&old]);
    let alone = trust.chain_after(0).pop().unwrap();
    refused(&away, alone);
    for step in trust.chain_after(0) {
        assert_eq!(away.offer(step).unwrap(), Offered::Believed);
    }
    assert_eq!(away.mark(), trust.mark());
    // As far as needed, and no further: the first of each set of authorities, and the latest.
    assert_eq!(trust.chain_after(0).len(), 4);
    assert_eq!(trust.chain_after(3).len(), 2);
    assert!(trust.chain_after(5).is_empty());

    // After a restart as well, from the authority that its identity came with; and one that is enrolled by now.
    for base in [&old, &new] {
        let again = trusting(&[base]);
        let kept = again.keep_in(&path).unwrap();
        assert_eq!(kept, Kept::Fleet(trust.mark()));
        assert!(
            again
                .cut_off(&issue(&old, Role::Agent, "web1", NOW).der)
                .is_some()
        );
    }
    let newcomer = trusting(&[&new]);
    newcomer.learn_from(&path).unwrap();
    assert_eq!(newcomer.mark(), trust.mark());
}
