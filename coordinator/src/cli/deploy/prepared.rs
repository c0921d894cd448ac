//! `deploy --release FILE`: a release that was prepared before, and signed by others elsewhere.

use scap_proto::{
    id::SnapshotId,
    release::{Release, SignedRelease},
};

use super::{DeployArgs, begin::NotTakenUp};
use crate::{
    cli::{CliError, exit},
    state::Prepared,
};

/// A release as its file has it. That it is signed is checked where it is begun.
#[derive(Debug, Clone)]
pub(in crate::cli) struct Given {
    pub(in crate::cli) signed: SignedRelease,
    pub(in crate::cli) release: Release,
}

impl Given {
    /// What is in a file.
    pub(in crate::cli) fn of(prepared: Prepared) -> Result<Self, CliError> {
        let signed = SignedRelease {
            payload: prepared.payload,
            signatures: prepared.signatures,
        };
        let release = signed.read_unverified().map_err(|error| {
            CliError::failed("read the prepared release", &error)
                .code(exit::USAGE)
                .hint("`scap-coordinator release prepare` makes such a file".to_owned())
        })?;
        Ok(Self { signed, release })
    }

    /// What its deltas are made from.
    pub(super) fn bases(&self) -> Vec<SnapshotId> {
        self.release.deltas.iter().map(|delta| delta.base).collect()
    }

    /// Why it is not deployed.
    pub(super) fn refused(&self, error: &NotTakenUp) -> CliError {
        let doing = format!("deploy the prepared release #{}", self.release.sequence);
        let hint = match error {
            NotTakenUp::Signer(_) => {
                "who signed it deploys it; or `release sign FILE` adds the signature of this key, or --sign-with names another"
            }
            NotTakenUp::Authority(_) => {
                "`release verify FILE` says which signatures count; `release prepare` makes a new one where its time is over"
            }
            NotTakenUp::Later { .. } | NotTakenUp::Taken(_) => {
                "something else was released since it was prepared: `release prepare` anew, and have that signed"
            }
            NotTakenUp::Snapshot { .. } | NotTakenUp::Commit => {
                "give the repo or the directory that it was prepared from, as it was then"
            }
            NotTakenUp::Config => {
                "the scap folder, or what -D, --scap and this machine say of it, is another than when it was prepared"
            }
        };
        CliError::failed(&doing, error)
            .code(exit::STOPPED)
            .hint(hint.to_owned())
    }
}

/// The deployment of the release in the file that is named, where one is: repo, environment and commit are its own.
pub(super) fn given(args: DeployArgs) -> Result<DeployArgs, CliError> {
    let Some(path) = &args.prepared else {
        return Ok(args);
    };
    if args.back_to.is_some() || args.go_on.is_some() {
        let problem = "--release is for `deploy`: a release is gone back to, or on with, as it is";
        return Err(CliError::usage(problem));
    }
    let prepared = Prepared::load(path).map_err(|error| {
        CliError::failed("read the prepared release", &error)
            .code(exit::USAGE)
            .hint("`scap-coordinator release prepare` makes such a file".to_owned())
    })?;
    let given = Given::of(prepared)?;
    let said = args.scap.environment();
    if said.is_some_and(|said| *said != given.release.environment) {
        return Err(CliError::usage(format!(
            "the release is for environment {}, and -e says another",
            given.release.environment
        ))
        .hint("leave -e out".to_owned()));
    }
    let environment = given.release.environment.clone();
    Ok(DeployArgs {
        name: Some(given.release.repo.clone()),
        rev: given.release.commit.as_ref().map(ToString::to_string),
        scap: args.scap.clone().in_environment(environment),
        given: Some(given),
        ..args
    })
}
