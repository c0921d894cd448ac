//! What the activator accepts: its own record, beside the releases that it made.

use scap_proto::{
    reason::{Because, Reason},
    release::{Environment, Stage, UnixMillis},
};
use serde::{Deserialize, Serialize};

use super::{
    ActivateError, Deployment,
    dir::Dir,
    record::{self, Found, Record},
};
use crate::{
    acceptance::{Acceptance, Addressee, Decision, Refusal},
    trust::{VerifiedFinalization, VerifiedOrder},
};

/// The record's name in the repo's own folder.
const NAME: &str = "authority";

/// Which environment a repo is deployed for on this host, and what was accepted for it.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Authorised {
    environment: Environment,
    acceptance: Acceptance,
}

impl Record for Authorised {
    const MAGIC: &'static [u8] = b"scap-authority/1\n";
}

/// Accepts an order and records it durably, or says why not.
pub(super) fn order(
    deployment: &Deployment,
    us: &Addressee,
    order: &VerifiedOrder,
    now: UnixMillis,
) -> Result<Result<(), Because>, ActivateError> {
    let environment = &order.release.release().environment;
    decide(deployment, us, environment, |acceptance| {
        acceptance.consider(us, &order.release, &order.grant, &order.directive, now)
    })
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
