//! Each thing that a peer may say, by offers that are really signed, and what a host makes of it.

use scap_proto::{
    identity::SecretKey,
    release::{Audience, Reach, SignedFinalization, SignedRelease},
};

use super::{super::engine::Scope, *};
use crate::trust::tests::{Draft, EXPIRES, NOW, World};

/// Long after all that was signed has expired: a finalization never does.
const LATE: UnixMillis = UnixMillis(100 * EXPIRES.0);

struct Scene {
    world: World,
    holdings: BTreeMap<Key, Holding>,
    floors: BTreeMap<Key, u64>,
    stage: Stage,
}

impl Scene {
    fn new() -> Self {
        Self {
            world: World::new(),
            holdings: BTreeMap::new(),
            floors: BTreeMap::new(),
            stage: Stage::Promote,
        }
    }

    /// A host that took these as stable before.
    fn holding(finalized: u64) -> Self {
        let mut scene = Self::new();
        let found = scene.ask(&[("a", &[Draft::new(finalized)]), ("b", &[])]);
        let Finding::Take { acceptance, .. } = scene.only(found) else {
            panic!("the first is taken");
        };
        scene.hold(acceptance, false);
        scene
    }

    fn hold(&mut self, acceptance: Acceptance, is_led: bool) {
        let holding = Holding {
            acceptance,
            is_led,
            is_limited: false,
        };
        self.holdings.insert(key("production"), holding);
    }

    fn claim(&self, draft: &Draft) -> Claim {
        Claim::check(&self.world.trust, self.world.finalize(draft), LATE)
    }

    fn ask(&self, answers: &[(&str, &[Draft])]) -> Conclusion {
        let claims = |drafts: &[Draft]| drafts.iter().map(|draft| self.claim(draft)).collect();
        self.conclude(
            answers
                .iter()
                .map(|(peer, drafts)| (*peer, Ok(claims(drafts)))),
        )
    }

    fn conclude<'a>(
        &self,
        answers: impl IntoIterator<Item = (&'a str, Result<Vec<Claim>, String>)>,
    ) -> Conclusion {
        let answers = answers.into_iter();
        let round = Round {
            scope: Scope::default(),
            answers: answers
                .map(|(peer, it)| (peer.parse().unwrap(), it))
                .collect(),
        };
        let known = Known {
            us: &self.world.trust.addressee,
            holdings: &self.holdings,
            floors: &self.floors,
            stage: self.stage,
        };
        choose(&round, &known)
    }

    /// The finding about the one repo that there is; nobody is disbelieved.
    fn only(&self, conclusion: Conclusion) -> Finding {
        assert_eq!(conclusion.disbelieved, []);
        let mut findings = conclusion.findings;
        assert_eq!(findings.len(), 1, "{findings:?}");
        findings.pop_first().unwrap().1
    }

    /// Asserts that nothing is taken, and returns who is not believed, and why.
    fn nothing_taken(&self, conclusion: Conclusion) -> Vec<(String, String)> {
        for finding in conclusion.findings.values() {
            assert!(!matches!(finding, Finding::Take { .. }), "{finding:?}");
        }
        let disbelieved = conclusion.disbelieved.into_iter();
        disbelieved
            .map(|it| (it.peer.to_string(), it.reason))
            .collect()
    }
}

fn key(environment: &str) -> Key {
    ("mw/config".parse().unwrap(), environment.parse().unwrap())
}

/// A release of that sequence with other content.
fn other(sequence: u64) -> Draft {
    let mut draft = Draft::new(sequence);
    draft.release.snapshot.descriptor_length += 1;
    draft
}

fn taken(finding: Finding) -> (u64, Vec<String>) {
    match finding {
        Finding::Take {
            acceptance, from, ..
        } => {
            let finalized = acceptance.finalized_sequence();
            assert_eq!(finalized, acceptance.sequence());
            (finalized, from.iter().map(ToString::to_string).collect())
        }
        other => panic!("expected to take it, found {other:?}"),
    }
}

#[test]
fn the_highest_is_taken_from_those_that_have_it_however_long_ago_it_expired() {
    let scene = Scene::new();
    let found = scene.ask(&[
        ("a", &[Draft::new(6)]),
        ("b", &[Draft::new(7)]),
        ("c", &[Draft::new(7)]),
        ("d", &[]),
    ]);
    let behind: Vec<_> = found
        .behind
        .iter()
        .map(|it| (it.peer.as_str(), it.stable))
        .collect();
    assert_eq!(behind, [("a", 7)]);
    assert_eq!(taken(scene.only(found)), (7, vec!["b".into(), "c".into()]));
}

/// An answer of a peer, each a sequence and for whom that is stable.
fn said(scene: &Scene, offers: &[(u64, &Reach)]) -> Result<Vec<Claim>, String> {
    let finalize = |sequence, reach| {
        let draft = Draft::new(sequence);
        scene.world.finalize_reaching(&draft, reach)
    };
    let claim = |finalize| Claim::check(&scene.world.trust, finalize, LATE);
    Ok(offers
        .iter()
        .map(|(sequence, reach)| claim(finalize(*sequence, reach)))
        .collect())
}

#[test]
fn what_is_stable_for_some_hosts_alone_is_taken_by_these_and_all_others_take_what_is_for_all() {
    let scene = Scene::new();
    let us = || [scene.world.trust.addressee.host.clone()].into();
    let others = || ["z".parse().unwrap()].into();
    let of_others = [Reach::Only(others()), Reach::AllBut(us()), Reach::Ordered];
    for reach in &of_others {
        let found = scene.conclude([
            ("a", said(&scene, &[(7, reach), (6, &Reach::All)])),
            ("b", said(&scene, &[(7, reach)])),
            ("c", said(&scene, &[(6, &Reach::All)])),
        ]);
        assert_eq!(found.behind, [], "who was not meant is not behind");
        let expected = (6, vec!["a".into(), "c".into()]);
        assert_eq!(taken(scene.only(found)), expected, "{reach:?}");
        let found = scene.conclude([("a", said(&scene, &[(7, reach)])), ("b", Ok(Vec::new()))]);
        assert!(matches!(scene.only(found), Finding::Others), "{reach:?}");
    }
    for reach in [Reach::Only(us()), Reach::AllBut(others())] {
        let found = scene.conclude([
            ("a", said(&scene, &[(7, &reach), (6, &Reach::All)])),
            ("b", said(&scene, &[(6, &Reach::All)])),
        ]);
        assert_eq!(taken(scene.only(found)), (7, vec!["a".into()]), "{reach:?}");
    }
    // Once it is so for all, by whoever says so; who has it for itself alone has its content.
    let found = scene.conclude([
        ("a", said(&scene, &[(7, &of_others[0])])),
        ("b", said(&scene, &[(7, &Reach::All)])),
    ]);
    assert_eq!(taken(scene.only(found)), (7, vec!["a".into(), "b".into()]));
}

#[test]
fn a_host_that_was_ordered_a_release_takes_it_where_there_are_too_many_to_list() {
    let scene = Scene::holding(7);
    let found = scene.conclude([("a", said(&scene, &[(7, &Reach::Ordered)]))]);
    assert!(matches!(scene.only(found), Finding::Current { .. }));
    let found = scene.conclude([("a", said(&scene, &[(8, &Reach::Ordered)]))]);
    assert!(matches!(scene.only(found), Finding::Others));
}

#[test]
fn what_is_taken_is_below_any_order_about_it() {
    let scene = Scene::holding(7);
    let accepted = scene.holdings[&key("production")]
        .acceptance
        .accepted
        .clone();
    let accepted = accepted.unwrap();
    assert_eq!(
        (accepted.directive, accepted.stage),
        ((0, 0), Stage::Promote)
    );
}

#[test]
fn what_is_held_is_current_and_what_is_older_is_left() {
    let scene = Scene::holding(7);
    let found = scene.ask(&[("a", &[Draft::new(7)]), ("b", &[])]);
    assert!(matches!(scene.only(found), Finding::Current { from } if from.len() == 1));
    for older in [1, 6] {
        let found = scene.ask(&[("a", &[Draft::new(older)]), ("b", &[])]);
        let behind = Behind {
            peer: "a".parse().unwrap(),
            of: key("production"),
            sequence: older,
            stable: 7,
        };
        assert_eq!(found.behind, [behind]);
        assert!(matches!(scene.only(found), Finding::Older));
    }
    let found = scene.ask(&[("a", &[Draft::new(8)])]);
    assert_eq!(
        taken(scene.only(found)).0,
        8,
        "one answer is enough to go on from what it has"
    );
}

#[test]
fn a_release_that_is_not_signed_is_taken_from_nobody_and_who_offers_it_is_named() {
    let scene = Scene::new();
    let good = scene.world.finalize(&Draft::new(9));
    let stranger = |mut finalize: Finalize| {
        let draft = Draft::new(9).release;
        finalize.release = SignedRelease::sign(&draft, &scene.world.stranger).unwrap();
        finalize
    };
    let unsigned = |mut finalize: Finalize| {
        finalize.release.signatures.clear();
        finalize
    };
    let altered = |mut finalize: Finalize| {
        let mut payload = finalize.release.payload.to_vec();
        *payload.last_mut().unwrap() ^= 1;
        finalize.release.payload = payload.into();
        finalize
    };
    for evil in [
        stranger(good.clone()),
        unsigned(good.clone()),
        altered(good),
    ] {
        let claim = Claim::check(&scene.world.trust, evil, NOW);
        let found = scene.conclude([("evil", Ok(vec![claim])), ("b", Ok(Vec::new()))]);
        let named = scene.nothing_taken(found);
        assert_eq!(named.len(), 1);
        assert_eq!(named[0].0, "evil");
    }
}

#[test]
fn a_release_that_is_not_finalized_is_taken_from_nobody_and_who_offers_it_is_named() {
    let scene = Scene::holding(6);
    // A canary's release: the signature of its finalization is whoever's.
    let canary = scene.world.finalize(&Draft::new(8));
    let verified = scene.world.trust.verify_finalization(canary.clone(), NOW);
    let finalization = verified.unwrap().finalization;
    let forged = SignedFinalization::sign(&finalization, &SecretKey::generate());
    let of_another = scene.world.finalize(&Draft::new(7)).finalization;
    for finalization in [forged, of_another] {
        let evil = Finalize {
            finalization,
            ..canary.clone()
        };
        let claim = Claim::check(&scene.world.trust, evil, NOW);
        let stable = scene.claim(&Draft::new(7));
        let found = scene.conclude([("evil", Ok(vec![claim])), ("b", Ok(vec![stable]))]);
        assert_eq!(found.disbelieved.len(), 1);
        assert_eq!(found.disbelieved[0].peer.as_str(), "evil");
        let mut findings = found.findings;
        let (sequence, from) = taken(findings.remove(&key("production")).unwrap());
        assert_eq!((sequence, from), (7, vec!["b".into()]));
    }
}

#[test]
fn a_release_for_another_environment_or_audience_is_not_for_us() {
    let scene = Scene::new();
    let mut staging = Draft::new(9);
    staging.release.environment = "staging".parse().unwrap();
    let mut edge = Draft::new(9);
    edge.release.audience = "edge".parse::<Audience>().unwrap();
    let found = scene.ask(&[("a", &[staging, edge]), ("b", &[])]);
    assert!(found.findings.is_empty(), "{found:?}");
    assert!(
        scene.nothing_taken(found).is_empty(),
        "its peer may be in it"
    );
}

#[test]
fn two_releases_with_one_sequence_are_believed_of_nobody() {
    let scene = Scene::new();
    let found = scene.ask(&[
        ("a", &[Draft::new(7)]),
        ("b", &[other(7)]),
        ("c", &[Draft::new(6)]),
    ]);
    let finding = &found.findings[&key("production")];
    assert!(
        matches!(finding, Finding::Equivocation { sequence: 7 }),
        "{finding:?}"
    );
    let named: Vec<_> = scene
        .nothing_taken(found)
        .into_iter()
        .map(|it| it.0)
        .collect();
    assert_eq!(named, ["a", "b"]);

    // Where this host accepted one of them it is the other that is wrong.
    let scene = Scene::holding(7);
    for answers in [
        &[("a", &[other(7)][..])][..],
        &[("a", &[other(7)]), ("b", &[Draft::new(7)])],
    ] {
        let named = scene.nothing_taken(scene.ask(answers));
        assert_eq!(named.len(), 1, "{named:?}");
        assert!(
            named[0].0 == "a" && named[0].1.contains("equivocation"),
            "{named:?}"
        );
    }
}

#[test]
fn a_host_that_knows_nothing_believes_two_that_answer_or_one_above_its_floor() {
    let mut scene = Scene::new();
    let alone = |scene: &Scene| {
        let claim = scene.claim(&Draft::new(5));
        scene.conclude([("a", Ok(vec![claim])), ("b", Err("down".into()))])
    };
    let finding = scene.only(alone(&scene));
    assert!(
        matches!(finding, Finding::TooFew { answered: 1 }),
        "{finding:?}"
    );
    for (floor, is_taken) in [(5, true), (4, true), (6, false)] {
        scene.floors.insert(key("production"), floor);
        let found = alone(&scene);
        if is_taken {
            assert_eq!(taken(scene.only(found)).0, 5);
        } else {
            let named = scene.nothing_taken(found);
            assert!(named[0].1.contains("takes none below 6"), "{named:?}");
        }
    }
}

#[test]
fn a_rollout_that_is_under_way_here_is_left_to_its_coordinator() {
    let mut scene = Scene::new();
    let order = scene.world.sign(&Draft::new(8));
    let order = scene.world.trust.verify_order(order, NOW).unwrap();
    let us = &scene.world.trust.addressee;
    let decision =
        Acceptance::default().consider(us, &order.release, &order.grant, &order.directive, NOW);
    let Ok(Decision::Follow(acceptance)) = decision else {
        panic!("the first order is followed");
    };
    scene.hold(acceptance.clone(), true);
    let found = scene.ask(&[("a", &[Draft::new(7)]), ("b", &[])]);
    assert!(
        matches!(scene.only(found), Finding::Older),
        "stable, and lower than the rollout's"
    );
    let found = scene.ask(&[("a", &[Draft::new(8)])]);
    assert!(matches!(scene.only(found), Finding::Led));
    // Who led it has gone, or a later one is out.
    let found = scene.ask(&[("a", &[Draft::new(9)])]);
    assert_eq!(taken(scene.only(found)).0, 9);
    scene.hold(acceptance, false);
    let found = scene.ask(&[("a", &[Draft::new(8)])]);
    assert_eq!(taken(scene.only(found)).0, 8);
}

#[test]
fn fetching_alone_is_no_step_back_for_what_was_promoted() {
    let mut scene = Scene::holding(7);
    scene.stage = Stage::Fetch;
    let found = scene.ask(&[("a", &[Draft::new(7)])]);
    assert!(matches!(scene.only(found), Finding::Current { .. }));
    let found = scene.ask(&[("a", &[Draft::new(8)])]);
    let Finding::Take { acceptance, .. } = scene.only(found) else {
        panic!("it is later");
    };
    assert_eq!(acceptance.accepted.as_ref().unwrap().stage, Stage::Fetch);
    scene.hold(acceptance, false);
    scene.stage = Stage::Promote;
    let found = scene.ask(&[("a", &[Draft::new(8)])]);
    assert_eq!(taken(scene.only(found)).0, 8);
}

#[test]
fn one_repo_is_in_one_environment_here() {
    let mut scene = Scene::new();
    scene.world.trust.addressee.environments = ["staging", "production"]
        .map(|it| it.parse().unwrap())
        .into();
    let mut staging = Draft::new(3);
    staging.release.environment = "staging".parse().unwrap();
    let both = [Draft::new(7), staging];
    let found = scene.ask(&[("a", &both), ("b", &[])]);
    let keys: Vec<_> = found.findings.keys().cloned().collect();
    assert_eq!(keys, [key("staging")], "the first that the host names");
    // What is stable there for others alone leaves it to the next.
    let claims = vec![
        scene.claim(&both[0]),
        Claim::check(
            &scene.world.trust,
            scene.world.finalize_reaching(&both[1], &Reach::Ordered),
            LATE,
        ),
    ];
    let found = scene.conclude([("a", Ok(claims)), ("b", Ok(Vec::new()))]);
    let keys: Vec<_> = found.findings.keys().cloned().collect();
    assert_eq!(keys, [key("production")]);
    let production = Scene::holding(6);
    scene.holdings = production.holdings;
    let found = scene.ask(&[("a", &both), ("b", &[])]);
    let keys: Vec<_> = found.findings.keys().cloned().collect();
    assert_eq!(keys, [key("production")], "the one that it is in");
}
