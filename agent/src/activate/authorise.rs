//! What the activator accepts: its own record, beside the releases that it made.

use std::path::Path;

use scap_proto::{
    reason::{Because, Reason},
    release::{Environment, Stage, UnixMillis},
    wire::control::Order,
};
use serde::{Deserialize, Serialize};

use super::{
    ActivateError, Deployment,
    dir::Dir,
    record::{self, Found, Record},
};
use crate::{
    acceptance::{Acceptance, Addressee, Decision, Refusal},
    clock,
    trust::{FollowedGrant, HostTrust, OrderError, VerifiedFinalization, VerifiedOrder, Verifies},
};

/// The record's name in the repo's own folder.
const NAME: &str = "authority";
/// Beside it, the grant of the latest order that was accepted.
const GRANT: &str = "grant";

/// Which environment a repo is deployed for on this host, and what was accepted for it.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Authorised {
    environment: Environment,
    acceptance: Acceptance,
}

impl Record for Authorised {
    const MAGIC: &'static [u8] = b"scap-authority/1\n";
}

impl Record for FollowedGrant {
    const MAGIC: &'static [u8] = b"scap-followed-grant/1\n";
}

/// Checks every signature of an order, or, where it takes this host back, that it is by the grant that was followed.
///
/// # Errors
/// [`OrderError`].
pub(super) fn verified(
    trust: &HostTrust<impl Verifies>,
    deploy_root: &Path,
    order: Order,
    has_lapsed: bool,
) -> Result<VerifiedOrder, OrderError> {
    let is_revert = |order: &Order| {
        let directive = order.directive.read_unverified();
        directive.is_some_and(|it| it.stage == Stage::Revert)
    };
    match trust.verify_order(order.clone(), clock::now()) {
        Err(error @ OrderError::Authority(_)) if has_lapsed || is_revert(&order) => {
            // Nothing is made: whoever asks may have made the repo's name up.
            let claimed = order.release.read_unverified();
            let deployment = claimed
                .ok()
                .and_then(|claimed| Deployment::open_beside(deploy_root, &claimed.repo).ok());
            let followed = deployment.and_then(|it| followed_grant(&it));
            let verified = trust.verify_way_back(order, followed.as_ref());
            verified.ok_or(error)
        }
        verified => verified,
    }
}

/// By which grant the latest order was; none where an earlier build accepted it. A damaged record is none: then the way back takes the
/// authority that the way forward did.
fn followed_grant(deployment: &Deployment) -> Option<FollowedGrant> {
    record::hint(&deployment.own, GRANT)
}

/// Accepts an order and records it durably, or says why not.
pub(super) fn order(
    deployment: &Deployment,
    us: &Addressee,
    order: &VerifiedOrder,
    now: UnixMillis,
) -> Result<Result<(), Because>, ActivateError> {
    let environment = &order.release.release().environment;
    let decided = decide(deployment, us, environment, |acceptance| {
        acceptance.consider(us, &order.release, &order.grant, &order.directive, now)
    })?;
    let grant = FollowedGrant::of(order.release.id(), order.grant.signed());
    // Before anything is done by it; a crash before this leaves the order to be told again.
    if decided.is_ok() && followed_grant(deployment).as_ref() != Some(&grant) {
        record::replace(&deployment.own, GRANT, &grant)?;
    }
    Ok(decided)
}

/// Whether an order would be accepted, or why not. Nothing is recorded.
pub(super) fn would_accept(
    deployment: &Deployment,
    us: &Addressee,
    order: &VerifiedOrder,
    now: UnixMillis,
) -> Result<Result<(), Because>, ActivateError> {
    let environment = &order.release.release().environment;
    let considered = consider(deployment, us, environment, |acceptance| {
        acceptance.consider(us, &order.release, &order.grant, &order.directive, now)
    });
    Ok(considered?.map(drop))
}

/// Accepts that an order lapsed and records it durably, or says why not.
pub(super) fn lapse(
    deployment: &Deployment,
    us: &Addressee,
    order: &VerifiedOrder,
) -> Result<Result<(), Because>, ActivateError> {
    let environment = &order.release.release().environment;
    decide(deployment, us, environment, |acceptance| {
        acceptance.lapse(us, order.release.id(), &order.directive)
    })
}

/// Accepts a finalization and records it durably, or says why not.
pub(super) fn finalization(
    deployment: &Deployment,
    us: &Addressee,
    verified: &VerifiedFinalization,
) -> Result<Result<(), Because>, ActivateError> {
    let environment = &verified.finalization.environment;
    decide(deployment, us, environment, |acceptance| {
        acceptance.consider_finalization(us, verified)
    })
}

/// Accepts a stable release without an order and records it durably, or says why not.
pub(super) fn stable(
    deployment: &Deployment,
    us: &Addressee,
    verified: &VerifiedFinalization,
    stage: Stage,
    floor: u64,
) -> Result<Result<(), Because>, ActivateError> {
    let environment = &verified.finalization.environment;
    decide(deployment, us, environment, |acceptance| {
        acceptance.consider_stable(us, verified, stage, floor)
    })
}

/// For which environment the repo is deployed on this host; none where it was not, or that is not known.
pub(super) fn environment(own: &Dir) -> Result<Option<Environment>, ActivateError> {
    let record = record::read::<Authorised>(own, NAME)?.record();
    Ok(record.map(|record| record.environment))
}

fn decide(
    deployment: &Deployment,
    us: &Addressee,
    environment: &Environment,
    considered: impl FnOnce(&Acceptance) -> Result<Decision, Refusal>,
) -> Result<Result<(), Because>, ActivateError> {
    let acceptance = match consider(deployment, us, environment, considered)? {
        Ok(Some(acceptance)) => acceptance,
        Ok(None) => return Ok(Ok(())),
        Err(refusal) => return Ok(Err(refusal)),
    };
    let record = Authorised {
        environment: environment.clone(),
        acceptance,
    };
    record::replace(&deployment.own, NAME, &record)?;
    Ok(Ok(()))
}

/// What is to be recorded for something to be accepted, if anything, or why it is not.
fn consider(
    deployment: &Deployment,
    us: &Addressee,
    environment: &Environment,
    consider: impl FnOnce(&Acceptance) -> Result<Decision, Refusal>,
) -> Result<Result<Option<Acceptance>, Because>, ActivateError> {
    let acceptance = match record::read::<Authorised>(&deployment.own, NAME)? {
        Found::Nothing => Acceptance::default(),
        Found::Record(record) if record.environment == *environment => record.acceptance,
        Found::Record(record) => {
            let text = format!(
                "this repo is deployed here for environment {}, not {environment}",
                record.environment
            );
            return Ok(Err(Reason::RefusedEnvironment.because(text)));
        }
        // Without it an old order could be replayed: a person must look.
        Found::Damaged => {
            let text = format!(
                "the record of what was accepted, .scap/{NAME}, is damaged; move it away to accept anew"
            );
            return Ok(Err(Reason::RefusedState.because(text)));
        }
    };
    match consider(&acceptance) {
        Ok(Decision::Again) => Ok(Ok(None)),
        Ok(Decision::NotForUs) => {
            let text = format!("the order is not for {}", us.host);
            Ok(Err(Reason::RefusedTarget.because(text)))
        }
        Ok(Decision::Follow(acceptance)) => Ok(Ok(Some(acceptance))),
        Err(refusal) => Ok(Err(refusal.because())),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use scap_proto::release::Stage;

    use super::*;
    use crate::trust::tests::{Draft, NOW, World};

    #[test]
    fn a_host_goes_back_by_the_grant_that_it_followed_though_its_signers_may_release_no_more() {
        let world = World::new();
        let root = tempfile::tempdir().unwrap();
        let draft = Draft::new(1);
        let repo = draft.release.repo.clone();
        let promote = world.sign(&draft.directing(1, 2, Stage::Promote));
        let back = world.sign(&draft.directing(1, 3, Stage::Revert));
        let us = &world.trust.addressee;
        let verify = |order: &Order, has_lapsed| {
            verified(&world.trust, root.path(), order.clone(), has_lapsed)
        };
        let accepted = world.trust.verify_order(promote.clone(), NOW).unwrap();
        let deployment = Deployment::open(root.path(), &repo).unwrap();
        assert!(order(&deployment, us, &accepted, NOW).unwrap().is_ok());
        world.take_all_keys_away();

        assert!(verify(&promote, false).is_err(), "no way forward");
        assert!(verify(&promote, true).is_ok(), "it lapsed");
        assert_eq!(verify(&back, false).unwrap().directive.stage, Stage::Revert);
        // By another grant, of another release, by who holds no session key, and where nothing was followed.
        let other = world.sign(&draft.directing(2, 1, Stage::Revert));
        let of_another = world.sign(&Draft::new(2).directing(1, 3, Stage::Revert));
        let mut forged = back.clone();
        forged.directive = world.sign_as_stranger(&draft.directing(1, 4, Stage::Revert));
        for order in [&other, &of_another, &forged] {
            assert!(verify(order, false).is_err());
        }
        let elsewhere = tempfile::tempdir().unwrap();
        let nowhere = verified(&world.trust, elsewhere.path(), back, false);
        assert!(nowhere.is_err());
        assert_eq!(std::fs::read_dir(elsewhere.path()).unwrap().count(), 0);
    }
}
