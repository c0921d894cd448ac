//! Each edge of what a host accepts, by orders that are really signed.

use proptest::{collection::vec, prelude::*};
use scap_proto::release::Targets;

use super::*;
use crate::trust::tests::{Draft, EXPIRES, NOW, World};

const LATE: UnixMillis = UnixMillis(EXPIRES.0 + 1);

impl World {
    fn consider(&self, state: &Acceptance, draft: &Draft) -> Result<Decision, Refusal> {
        self.consider_at(state, draft, NOW)
    }

    fn consider_at(
        &self,
        state: &Acceptance,
        draft: &Draft,
        now: UnixMillis,
    ) -> Result<Decision, Refusal> {
        let order = self.trust.verify_order(self.sign(draft), now).unwrap();
        state.consider(
            &self.trust.addressee,
            &order.release,
            &order.grant,
            &order.directive,
            now,
        )
    }

    fn consider_finalization(
        &self,
        state: &Acceptance,
        draft: &Draft,
    ) -> Result<Decision, Refusal> {
        // Long after the end of all that expires.
        let now = UnixMillis(100 * LATE.0);
        let verified = self.trust.verify_finalization(self.finalize(draft), now);
        let verified = verified.unwrap();
        state.consider_finalization(&self.trust.addressee, &verified)
    }

    /// The state after these were followed, one after the other.
    fn after<'a>(&self, drafts: impl IntoIterator<Item = &'a Draft>) -> Acceptance {
        drafts
            .into_iter()
            .fold(Acceptance::default(), |state, draft| {
                followed(self.consider(&state, draft))
            })
    }

    fn finalized(&self, state: &Acceptance, draft: &Draft) -> Acceptance {
        followed(self.consider_finalization(state, draft))
    }

    fn id(&self, draft: &Draft) -> ReleaseId {
        self.sign(draft).release.id()
    }
}

fn followed(decision: Result<Decision, Refusal>) -> Acceptance {
    match decision {
        Ok(Decision::Follow(state)) => state,
        other => panic!("expected to follow, found {other:?}"),
    }
}

/// A release of that sequence with other content.
fn other(sequence: u64) -> Draft {
    let mut draft = Draft::new(sequence);
    draft.release.snapshot.descriptor_length += 1;
    draft
}

#[test]
fn the_first_order_is_followed_and_its_place_kept() {
    let world = World::new();
    let draft = Draft::new(5).directing(2, 3, Stage::Promote);
    let state = world.after([&draft]);
    let expected = Accepted {
        sequence: 5,
        release: world.id(&draft),
        directive: (2, 3),
        stage: Stage::Promote,
    };
    assert_eq!(state.accepted, Some(expected));
    assert_eq!((state.sequence(), state.finalized_sequence()), (5, 0));
}

#[test]
fn what_was_gone_back_from_is_stable_again_only_by_who_directed_it_later() {
    let world = World::new();
    let draft = Draft::new(7);
    let by = |epoch| {
        let finalize = world.finalize(&draft.directing(epoch, 1, Stage::Promote));
        world.trust.verify_finalization(finalize, NOW).unwrap()
    };
    let us = &world.trust.addressee;
    let gone_back = |number| draft.directing(2, number, Stage::Revert);
    let state = world.after([&draft.directing(2, 1, Stage::Promote), &gone_back(2)]);
    let stable = |epoch| state.consider_stable(us, &by(epoch), Stage::Promote, 0);
    for epoch in [1, 2] {
        let refused = matches!(stable(epoch), Err(Refusal::GoneBack { obeyed: (2, 2), .. }));
        assert!(refused, "{:?}", stable(epoch));
    }
    assert!(matches!(stable(3), Ok(Decision::Follow(_))));
    let finalize = |epoch| state.consider_finalization(us, &by(epoch));
    assert!(matches!(finalize(1), Err(Refusal::GoneBack { .. })));
    // A host that went back by itself may hear so by who directed it.
    assert!(matches!(finalize(2), Ok(Decision::Follow(_))));
}

#[test]
fn what_was_caught_up_with_may_be_ordered_and_not_gone_back_from() {
    let world = World::new();
    let draft = Draft::new(7);
    let verified = world.trust.verify_finalization(world.finalize(&draft), NOW);
    let verified = verified.unwrap();
    let stable = |state: &Acceptance, stage, floor| {
        state.consider_stable(&world.trust.addressee, &verified, stage, floor)
    };
    let state = followed(stable(&Acceptance::default(), Stage::Fetch, 7));
    assert_eq!((state.sequence(), state.finalized_sequence()), (7, 7));
    assert_eq!(state.accepted.as_ref().unwrap().directive, (0, 0));
    assert_eq!(stable(&state, Stage::Fetch, 0).unwrap(), Decision::Again);
    let state = followed(stable(&state, Stage::Promote, 0));
    assert_eq!(stable(&state, Stage::Fetch, 0).unwrap(), Decision::Again);
    let below = stable(&Acceptance::default(), Stage::Promote, 8);
    assert!(
        matches!(
            below,
            Err(Refusal::Floor {
                offered: 7,
                floor: 8,
                ..
            })
        ),
        "{below:?}"
    );

    let revert = world.consider(&state, &draft.directing(1, 1, Stage::Revert));
    assert!(matches!(revert, Err(Refusal::Finalized(_))), "{revert:?}");
    let ordered = followed(world.consider(&state, &draft.directing(1, 1, Stage::Promote)));
    assert_eq!(ordered.finalized, state.finalized);
    // And what was ordered is not taken back by catching up with it.
    assert_eq!(
        stable(&ordered, Stage::Promote, 0).unwrap(),
        Decision::Again
    );
    let lower = world.after([&Draft::new(8)]);
    assert!(matches!(
        stable(&lower, Stage::Promote, 0),
        Err(Refusal::Lower {
            offered: 7,
            accepted: 8,
            ..
        })
    ));
    let equivocal = world.after([&other(7)]);
    assert!(matches!(
        stable(&equivocal, Stage::Promote, 0),
        Err(Refusal::Equivocation { sequence: 7, .. })
    ));
}

#[test]
fn b6_an_order_for_another_environment_or_audience_is_refused() {
    let world = World::new();
    let mut draft = Draft::new(1);
    draft.release.audience = "edge".parse().unwrap();
    assert!(matches!(
        world.consider(&Acceptance::default(), &draft),
        Err(Refusal::Authority(AuthorityError::Audience(found))) if found.as_str() == "edge"
    ));
    let mut draft = Draft::new(1);
    draft.release.environment = "staging".parse().unwrap();
    assert!(matches!(
        world.consider(&Acceptance::default(), &draft),
        Err(Refusal::Authority(AuthorityError::Environment(found))) if found.as_str() == "staging"
    ));
}

#[test]
fn an_order_for_other_hosts_changes_nothing() {
    let world = World::new();
    let only = |names: &[&str]| {
        let hosts = names.iter().map(|name| name.parse().unwrap()).collect();
        Draft {
            targets: Targets::Only(hosts),
            ..Draft::new(1)
        }
    };
    let state = world.after([&Draft::new(2)]);
    for names in [&[][..], &["db1"], &["db1", "web10"]] {
        let decision = world.consider(&state, &only(names)).unwrap();
        assert_eq!(decision, Decision::NotForUs, "{names:?}");
    }
    let state = world.after([&only(&["db1", "web1", "web10"])]);
    assert_eq!(state.sequence(), 1);
}

#[test]
fn b2_sequences_start_at_one_and_do_not_go_back() {
    let world = World::new();
    let zero = world.consider(&Acceptance::default(), &Draft::new(0));
    assert!(matches!(zero, Err(Refusal::Zero)));

    let state = world.after([&Draft::new(1), &Draft::new(7)]);
    let lower = Draft::new(6).directing(9, 9, Stage::Revert);
    assert!(matches!(
        world.consider(&state, &lower),
        Err(Refusal::Lower { offered: 6, accepted: 7, release }) if release == world.id(&lower)
    ));
}

#[test]
fn b4_a_sequence_far_above_all_that_is_known_is_refused_and_takes_no_place() {
    let world = World::new();
    let state = world.after([&Draft::new(7)]);
    for far in [7 + SEQUENCE_JUMP_MAX + 1, u64::MAX] {
        let refused = world.consider(&state, &Draft::new(far)).unwrap_err();
        assert!(
            matches!(refused, Refusal::Jump { offered, known: 7, .. } if offered == far),
            "{refused}"
        );
        assert_eq!(refused.code(), Reason::RefusedJump);
        let first = world.consider(&Acceptance::default(), &Draft::new(far));
        assert!(matches!(first, Err(Refusal::Jump { known: 0, .. })));
        let verified = world
            .trust
            .verify_finalization(world.finalize(&Draft::new(far)), NOW);
        let us = &world.trust.addressee;
        let stable = state.consider_stable(us, &verified.unwrap(), Stage::Promote, 0);
        assert!(matches!(stable, Err(Refusal::Jump { .. })), "{stable:?}");
    }
    // Whoever enrolled the host may know of more.
    let mut us = world.trust.addressee.clone();
    us.floors.insert(
        ("mw/config".parse().unwrap(), Environment::default()),
        5_000_000,
    );
    let order = world.sign(&Draft::new(5_000_001));
    let order = world.trust.verify_order(order, NOW).unwrap();
    let far =
        Acceptance::default().consider(&us, &order.release, &order.grant, &order.directive, NOW);
    assert_eq!(followed(far).sequence(), 5_000_001);
    let furthest = world.after([&Draft::new(7), &Draft::new(7 + SEQUENCE_JUMP_MAX)]);
    assert_eq!(furthest.sequence(), 7 + SEQUENCE_JUMP_MAX);
}

#[test]
fn b11_two_coordinators_with_one_key_never_move_a_host_to_and_fro() {
    let world = World::new();
    let (ours, theirs) = (Draft::new(7), other(7));
    for (first, second) in [(&ours, &theirs), (&theirs, &ours)] {
        let mut state = world.after([first]);
        for number in 2..6 {
            let again = second.directing(9, number, Stage::Promote);
            let refused = world.consider(&state, &again).unwrap_err();
            assert_eq!(refused.code(), Reason::RefusedEquivocation);
            let on = first.directing(1, number, Stage::Promote);
            state = followed(world.consider(&state, &on));
            assert_eq!(state.accepted.as_ref().unwrap().release, world.id(first));
        }
        // A later sequence ends it, and nothing leads back.
        let later = world.after([first, &Draft::new(8)]);
        for stale in [first, second] {
            let back = stale.directing(99, 1, Stage::Promote);
            let refused = world.consider(&later, &back).unwrap_err();
            assert_eq!(refused.code(), Reason::RefusedSequence);
        }
    }
}

#[test]
fn the_same_order_again_is_the_same_order() {
    let world = World::new();
    let draft = Draft::new(7).directing(1, 4, Stage::Promote);
    let state = world.after([&draft]);
    assert_eq!(world.consider(&state, &draft).unwrap(), Decision::Again);
    // What has begun may end, however late.
    let late = world.consider_at(&state, &draft, LATE).unwrap();
    assert_eq!(late, Decision::Again);
}

#[test]
fn b11_two_releases_of_one_sequence_are_equivocation() {
    let world = World::new();
    let state = world.after([&Draft::new(7)]);
    let offered = other(7).directing(9, 9, Stage::Promote);
    assert!(matches!(
        world.consider(&state, &offered),
        Err(Refusal::Equivocation { sequence: 7, accepted, offered: found })
            if accepted == world.id(&Draft::new(7)) && found == world.id(&offered)
    ));
}

#[test]
fn two_directives_of_one_number_contradict_each_other() {
    let world = World::new();
    let draft = Draft::new(7).directing(1, 4, Stage::Revert);
    let state = world.after([&draft]);
    let offered = draft.directing(1, 4, Stage::Promote);
    assert!(matches!(
        world.consider(&state, &offered),
        Err(Refusal::Contradiction {
            directive: (1, 4),
            obeyed: Stage::Revert,
            offered: Stage::Promote
        })
    ));
}

#[test]
fn a_promote_replayed_after_a_revert_does_nothing() {
    let world = World::new();
    let promote = Draft::new(7).directing(1, 2, Stage::Promote);
    let state = world.after([&promote, &promote.directing(1, 3, Stage::Revert)]);
    assert!(matches!(
        world.consider(&state, &promote),
        Err(Refusal::Replayed {
            offered: (1, 2),
            obeyed: (1, 3)
        })
    ));
    // A new promote is a new decision.
    let again = promote.directing(1, 4, Stage::Promote);
    let state = followed(world.consider(&state, &again));
    assert_eq!(state.accepted.unwrap().directive, (1, 4));
}

#[test]
fn a_higher_epoch_begins_to_count_anew_and_ends_the_one_before() {
    let world = World::new();
    let draft = Draft::new(7);
    let old = draft.directing(1, 9, Stage::Promote);
    let state = world.after([&old, &draft.directing(2, 1, Stage::Revert)]);
    assert_eq!(state.accepted.as_ref().unwrap().directive, (2, 1));
    for late in [&old, &draft.directing(1, u64::MAX, Stage::Promote)] {
        assert!(matches!(
            world.consider(&state, late),
            Err(Refusal::Replayed { obeyed: (2, 1), .. })
        ));
    }
}

#[test]
fn a_new_release_begins_to_count_anew() {
    let world = World::new();
    let old = Draft::new(7).directing(3, 9, Stage::Promote);
    let state = world.after([&old, &Draft::new(8)]);
    assert_eq!(state.accepted.unwrap().directive, (1, 1));
}

#[test]
fn nothing_begins_after_the_release_or_the_grant_expired_but_the_way_back() {
    let world = World::new();
    let promoted = Draft::new(7).directing(1, 2, Stage::Promote);
    let mut long_release = promoted.clone();
    long_release.release.expires = UnixMillis(u64::MAX);
    let long_grant = Draft {
        grant_expires: UnixMillis(u64::MAX),
        ..promoted.clone()
    };
    for (draft, expired) in [(long_grant, "the release"), (long_release, "the grant")] {
        let state = world.after([&draft]);
        for stage in [Stage::Fetch, Stage::Promote] {
            let next = draft.directing(1, 3, stage);
            for state in [&state, &Acceptance::default()] {
                let in_time = world.consider_at(state, &next, EXPIRES);
                assert!(matches!(in_time, Ok(Decision::Follow(_))), "{in_time:?}");
                let late = world.consider_at(state, &next, LATE);
                assert!(
                    matches!(
                        late,
                        Err(Refusal::Authority(AuthorityError::Expired { what, at: EXPIRES, now: LATE }))
                            if what == expired
                    ),
                    "{late:?}"
                );
            }
        }
        let revert = draft.directing(1, 3, Stage::Revert);
        let reverted = followed(world.consider_at(&state, &revert, LATE));
        assert_eq!(reverted.accepted.unwrap().stage, Stage::Revert);
    }
}

#[test]
fn going_back_from_the_stable_release_takes_a_new_release() {
    let world = World::new();
    let stable = Draft::new(7).directing(1, 2, Stage::Promote);
    let state = world.finalized(&world.after([&stable]), &stable);
    let revert = stable.directing(1, 3, Stage::Revert);
    assert!(matches!(
        world.consider(&state, &revert),
        Err(Refusal::Finalized(release)) if release == world.id(&stable)
    ));

    // From a later one there is a way back, and it ends at the stable one.
    let next = Draft::new(8).directing(1, 1, Stage::Promote);
    let state = followed(world.consider(&state, &next));
    let state = followed(world.consider(&state, &next.directing(1, 2, Stage::Revert)));
    assert_eq!(state.finalized_sequence(), 7);
    assert_eq!(state.sequence(), 8);
}

#[test]
fn an_order_lapses_once_back_and_is_no_way_forward_any_more() {
    let world = World::new();
    let us = &world.trust.addressee;
    let draft = Draft::new(7).directing(1, 2, Stage::Promote);
    let state = world.after([&draft]);
    let order = world.trust.verify_order(world.sign(&draft), NOW).unwrap();
    let (release, lasting) = (order.release.id(), order.directive);
    let time = std::time::Duration::from_secs(60);
    let lapsing = lasting.clone().lapsing_after(time);
    assert!(matches!(
        state.lapse(us, release, &lasting),
        Err(Refusal::Lasting((1, 2)))
    ));
    assert!(matches!(
        Acceptance::default().lapse(us, release, &lapsing),
        Err(Refusal::Lasting(_))
    ));
    let back = followed(state.lapse(us, release, &lapsing));
    let accepted = back.accepted.clone().unwrap();
    assert_eq!(
        (accepted.directive, accepted.stage),
        ((1, 2), Stage::Revert)
    );
    assert_eq!(back.lapse(us, release, &lapsing).unwrap(), Decision::Again);
    // The very order that lapsed does not promote again, and what comes after it counts.
    assert!(matches!(
        world.consider(&back, &draft),
        Err(Refusal::Contradiction {
            obeyed: Stage::Revert,
            ..
        })
    ));
    followed(world.consider(&back, &draft.directing(1, 3, Stage::Fetch)));

    // One that was overtaken does not lapse, nor one of what is stable; one that was not heard of before does.
    let later = world.after([&draft.directing(1, 3, Stage::Promote)]);
    assert!(matches!(
        later.lapse(us, release, &lapsing),
        Err(Refusal::Replayed { .. })
    ));
    let stable = world.finalized(&state, &draft);
    assert!(matches!(
        stable.lapse(us, release, &lapsing),
        Err(Refusal::Finalized(_))
    ));
    let renewed = Directive {
        number: 9,
        ..lapsing
    };
    let back = followed(state.lapse(us, release, &renewed));
    assert_eq!(back.accepted.unwrap().directive, (1, 9));
}

#[test]
fn a_finalization_is_of_what_was_accepted_and_once() {
    let world = World::new();
    let stale = |state: &Acceptance, draft: &Draft, expected: (u64, u64, u64)| {
        let decision = world.consider_finalization(state, draft);
        assert!(
            matches!(
                decision,
                Err(Refusal::StaleFinalization { offered, accepted, finalized })
                    if (offered, accepted, finalized) == expected
            ),
            "{decision:?}"
        );
    };
    stale(&Acceptance::default(), &Draft::new(7), (7, 0, 0));
    let state = world.after([&Draft::new(7)]);
    stale(&state, &Draft::new(8), (8, 7, 0));
    stale(&state, &Draft::new(6), (6, 7, 0));
    stale(&state, &other(7), (7, 7, 0));

    let state = world.finalized(&state, &Draft::new(7));
    assert_eq!(
        state.finalized,
        Some(Finalized {
            sequence: 7,
            release: world.id(&Draft::new(7))
        })
    );
    assert_eq!(state.sequence(), 7);
    let again = world.consider_finalization(&state, &Draft::new(7)).unwrap();
    assert_eq!(again, Decision::Again);

    let state = followed(world.consider(&state, &Draft::new(8)));
    stale(&state, &Draft::new(7), (7, 8, 7));
    let state = world.finalized(&state, &Draft::new(8));
    assert_eq!(state.finalized_sequence(), 8);
}

#[test]
fn a_finalization_for_others_is_refused() {
    let world = World::new();
    let draft = Draft::new(7);
    let state = world.after([&draft]);
    let verified = world.trust.verify_finalization(world.finalize(&draft), NOW);
    let verified = verified.unwrap();
    let us = &world.trust.addressee;
    let staging = Addressee {
        environments: vec!["staging".parse().unwrap()],
        ..us.clone()
    };
    let edge = Addressee {
        audiences: vec!["edge".parse().unwrap()],
        ..us.clone()
    };
    let by = |us| state.consider_finalization(us, &verified);
    assert!(matches!(
        by(&staging),
        Err(Refusal::Authority(AuthorityError::Environment(_)))
    ));
    assert!(matches!(
        by(&edge),
        Err(Refusal::Authority(AuthorityError::Audience(_)))
    ));
    assert!(matches!(by(us), Ok(Decision::Follow(_))));
}

/// Orders about a few releases, so close to each other that every rule has its turn.
fn any_draft() -> impl Strategy<Value = Draft> {
    let stage = prop_oneof![
        Just(Stage::Fetch),
        Just(Stage::Promote),
        Just(Stage::Revert)
    ];
    (any::<bool>(), 1..4_u64, 1..3_u64, 1..4_u64, stage).prop_map(
        |(is_other, sequence, epoch, number, stage)| {
            let draft = if is_other {
                other(sequence)
            } else {
                Draft::new(sequence)
            };
            draft.directing(epoch, number, stage)
        },
    )
}

#[test]
fn whatever_is_said_what_a_host_obeys_only_rises_and_no_replay_moves_it() {
    let world = World::new();
    let place = |state: &Acceptance| {
        let accepted = state.accepted.as_ref();
        let directive = accepted.map_or((0, 0), |accepted| accepted.directive);
        (state.sequence(), directive)
    };
    let config = ProptestConfig {
        failure_persistence: None,
        cases: 64,
        ..ProptestConfig::default()
    };
    proptest!(config, |(drafts in vec((any_draft(), any::<bool>()), 1..24))| {
        let mut state = Acceptance::default();
        for (draft, is_finalized) in &drafts {
            if let Ok(Decision::Follow(next)) = world.consider(&state, draft) {
                prop_assert!(place(&next) > place(&state));
                prop_assert_eq!(next.finalized, state.finalized);
                state = next;
            }
            if *is_finalized
                && let Ok(Decision::Follow(next)) = world.consider_finalization(&state, draft)
            {
                prop_assert!(next.finalized_sequence() > state.finalized_sequence());
                prop_assert_eq!(&next.accepted, &state.accepted);
                state = next;
            }
        }
        for (draft, _) in &drafts {
            let replayed = world.consider(&state, draft);
            prop_assert!(!matches!(replayed, Ok(Decision::Follow(_))), "{:?}", draft);
        }
    });
}
