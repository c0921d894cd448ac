//! What is not forgotten: who is denied where a later one does not know of it, the way after a loss, and whose number it was.

use super::*;
use crate::{identity::LIFTS_MAX, limits::EXTENSION_BYTES_MAX};

fn is_denied(trust: &Trust, leaf: &Certificate) -> bool {
    matches!(trust.check(&leaf.der, NOW), Err(Refusal::Revoked { .. }))
}

#[test]
fn e6_a_later_trust_that_leaves_out_who_is_denied_lets_nobody_in() {
    let fleet = authority();
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("trust");
    let trust = trusting(&[&fleet]);
    trust.keep_in(&path).unwrap();
    let stolen = issue(&fleet, Role::Agent, "web1", NOW);
    let list = denying(fleet_trust(5, &[&fleet]), host("web1", NOW));
    for list in [&fleet_trust(1, &[&fleet]), &list] {
        trust.offer(signed(list, &fleet)).unwrap();
    }
    // From a copy of the authority's directory that is older than number 5.
    let stale = denying(fleet_trust(6, &[&fleet]), host("web2", NOW));
    let offered = trust.offer(signed(&stale, &fleet)).unwrap();
    assert_eq!((offered, trust.carried()), (Offered::Believed, 1));
    assert!(is_denied(&trust, &stolen));
    let names = |trust: &Trust| {
        let denials = trust.fleet_trust().unwrap().denials;
        denials.into_iter().map(|it| it.who).collect::<Vec<_>>()
    };
    assert_eq!(names(&trust), [host("web2", NOW), host("web1", NOW)]);

    // After a restart too, and with whoever is told by this one.
    let again = trusting(&[&fleet]);
    again.keep_in(&path).unwrap();
    let told = trusting(&[&fleet]);
    for link in trust.chain_after(0) {
        told.offer(link).unwrap();
    }
    for trust in [&again, &told] {
        assert_eq!((trust.mark().number, trust.carried()), (6, 1));
        assert!(is_denied(trust, &stolen));
    }
    // Whoever signs upon that knows of it, and nothing of before is needed any more.
    let mut next = again.fleet_trust().unwrap();
    next.number = 7;
    again.offer(signed(&next, &fleet)).unwrap();
    assert_eq!(again.carried(), 0);
    let chains = [&trust, &again].map(|trust| trust.chain_after(0).len());
    assert_eq!(chains, [3, 2]);
    assert!(is_denied(&again, &stolen));
}

#[test]
fn e6_whoever_is_denied_is_let_in_again_by_a_trust_that_says_so_alone() {
    let fleet = authority();
    let trust = trusting(&[&fleet]);
    let back = issue(&fleet, Role::Agent, "web1", NOW);
    let key = SecretKey::generate();
    let list = denying(fleet_trust(1, &[&fleet]), host("web1", NOW));
    let list = denying(list, Denied::Key(*key.public()));
    trust.offer(signed(&list, &fleet)).unwrap();
    let lifted = fleet_trust(2, &[&fleet]).lifting([host("web1", NOW)].iter());
    assert!(lifted.lifts(&host("web1", NOW)) && !lifted.lifts(&host("web1", NOW + 1)));
    trust.offer(signed(&lifted, &fleet)).unwrap();
    assert!(trust.check(&back.der, NOW).is_ok());
    assert_eq!(trust.carried(), 1, "the key is meant by nobody");

    // Who was away while it was lifted sees it in any later one, until it is denied again.
    let later = FleetTrust {
        number: 9,
        ..lifted.clone()
    };
    let away = trusting(&[&fleet]);
    away.offer(signed(&list, &fleet)).unwrap();
    away.offer(signed(&later, &fleet)).unwrap();
    assert!(away.check(&back.der, NOW).is_ok());
    let again = denying(later, host("web1", NOW)).lifting([].iter());
    assert!(!again.lifts(&host("web1", NOW)));
    // One that is denied until later is denied still where less is lifted.
    let until_later = denying(fleet_trust(1, &[&fleet]), host("web1", NOW + HOUR));
    let other = trusting(&[&fleet]);
    other.offer(signed(&until_later, &fleet)).unwrap();
    other.offer(signed(&lifted, &fleet)).unwrap();
    assert!(is_denied(&other, &back));
}

#[test]
fn no_more_is_said_to_be_lifted_than_fits_and_the_earliest_is_left_out() {
    let fleet = authority();
    let hosts: Vec<Denied> = (0..=LIFTS_MAX as u64).map(|at| host("web1", at)).collect();
    let lifted = fleet_trust(1, &[&fleet]).lifting(hosts.iter());
    let lifted = lifted.lifting(hosts[LIFTS_MAX..].iter());
    assert!(!lifted.lifts(&hosts[0]));
    assert!(hosts[1..].iter().all(|who| lifted.lifts(who)));
    let bytes = lifted.extensions.get(2).unwrap().len();
    assert!(bytes <= EXTENSION_BYTES_MAX);
    lifted.check().unwrap();
}

#[test]
fn what_is_lost_while_the_fleet_moves_to_a_new_authority_is_learnt_again_and_nothing_older() {
    let (old, new) = (authority(), authority());
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("trust");
    let teacher = trusting(&[&old]);
    teacher.keep_in(&path).unwrap();
    let steps = moved(&old, &new);
    for step in &steps {
        teacher.offer(step.clone()).unwrap();
    }
    fs::remove_file(&path).unwrap();
    let lost = trusting(&[&old]);
    assert_eq!(lost.keep_in(&path).unwrap(), Kept::Lost { number: 5 });
    // What a liar has, true once, is a step at most.
    for step in &steps[..4] {
        assert_eq!(lost.offer(step.clone()).unwrap(), Offered::Known);
    }
    assert_eq!((lost.mark().number, lost.lost()), (0, Some(5)));
    // A crash here forgets nothing of the loss.
    let again = trusting(&[&old]);
    assert_eq!(again.keep_in(&path).unwrap(), Kept::Lost { number: 5 });
    let stranger = signed(&fleet_trust(9, &[&old, &new]), &authority());
    refused(&lost, stranger);

    for lost in [&lost, &again] {
        let last = teacher
            .chain_after(0)
            .into_iter()
            .map(|link| lost.offer(link));
        assert_eq!(last.last().unwrap().unwrap(), Offered::Believed);
        assert_eq!((lost.mark(), lost.lost()), (teacher.mark(), None));
    }
    let kept = trusting(&[&old]);
    assert_eq!(kept.keep_in(&path).unwrap(), Kept::Fleet(teacher.mark()));
}

#[test]
fn a_fleet_that_is_begun_anew_is_not_held_to_the_number_of_the_one_before() {
    let (before, anew) = (authority(), authority());
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("trust");
    let trust = trusting(&[&before]);
    trust.keep_in(&path).unwrap();
    trust
        .offer(signed(&fleet_trust(40, &[&before]), &before))
        .unwrap();
    // As a build before this one wrote it, and as this one does; with what it is of, and without.
    let number = path.with_extension("number");
    let of_now = fs::read_to_string(&number).unwrap();
    let kept = fs::read(&path).unwrap();
    for (text, is_there) in [("40\n", true), (&of_now, true), (&of_now, false)] {
        fs::write(&number, text).unwrap();
        match is_there {
            true => fs::write(&path, &kept).unwrap(),
            false => fs::remove_file(&path).unwrap(),
        }
        let ours = trusting(&[&before]).keep_in(&path).unwrap();
        match is_there {
            true => assert!(matches!(ours, Kept::Fleet(_)), "{ours:?}"),
            false => assert_eq!(ours, Kept::Lost { number: 40 }),
        }
        let trust = trusting(&[&anew]);
        assert_eq!(trust.keep_in(&path).unwrap(), Kept::Other { number: 40 });
        assert_eq!(trust.lost(), None);
    }
    let trust = trusting(&[&anew]);
    trust.keep_in(&path).unwrap();
    let stolen = issue(&anew, Role::Agent, "web1", NOW);
    let list = denying(fleet_trust(1, &[&anew]), host("web1", NOW));
    let offered = trust.offer(signed(&list, &anew)).unwrap();
    assert_eq!(offered, Offered::Believed);
    assert!(is_denied(&trust, &stolen));
    let again = trusting(&[&anew]);
    assert_eq!(again.keep_in(&path).unwrap(), Kept::Fleet(trust.mark()));
    // Of an earlier build, and nothing beside it: it may be ours.
    fs::write(&number, "7\n").unwrap();
    fs::remove_file(&path).unwrap();
    let lost = trusting(&[&anew]).keep_in(&path).unwrap();
    assert_eq!(lost, Kept::Lost { number: 7 });
}

#[test]
fn what_is_believed_is_known_again_without_a_look_at_its_signature() {
    let fleet = authority();
    let trust = trusting(&[&fleet]);
    let list = signed(&fleet_trust(1, &[&fleet]), &fleet);
    trust.offer(list.clone()).unwrap();
    assert!(trust.has(&list));
    assert_eq!(trust.offer(list.clone()).unwrap(), Offered::Known);
    let mut damaged = list;
    damaged.0.signature = vec![0; 64].into();
    assert!(!trust.has(&damaged));
    refused(&trust, damaged);
}
