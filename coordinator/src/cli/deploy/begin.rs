//! The release and the grant of one deployment: signed, checked, and saved before anything is sent.

use std::{num::NonZeroUsize, time::Duration};

use scap_agent::clock;
use scap_proto::{
    content::SnapshotRef,
    id::GitOid,
    identity::SecretKey,
    limits::SIGNATURES_MAX,
    release::{
        Authority, Grant, Release, SignedGrant, SignedRelease, UnixMillis, VerifiedGrant,
        VerifiedRelease, signature::Signer,
    },
};

use super::{DeployArgs, greet::Greeted, not_acted_on};
use crate::{
    cli::{About, CliError, deltas::Deltas, snapshot::Tree},
    rollout::Policy,
    snapshot::Built,
    state::{Record, SNAPSHOTS_KEPT, StateDirectory, StateError},
};

/// How long a release may be begun with after it was signed, in milliseconds: a rollout over a weekend,
/// and not an old order found in a drawer.
const RELEASE_MILLIS: u64 = 7 * 24 * 3600 * 1000;
/// How long a grant may be used, in milliseconds: a long rollout.
const GRANT_MILLIS: u64 = 24 * 3600 * 1000;
/// How long before its end a grant is not used any more, in milliseconds: orders take a while, and clocks differ.
const GRANT_MARGIN_MILLIS: u64 = 60 * 1000;

/// What others say was released before.
#[derive(Clone, Copy)]
pub(super) struct Said<'a> {
    /// The hosts.
    pub(super) greeted: &'a Greeted,
    /// The state branch.
    pub(super) recorded: Option<&'a SignedRelease>,
}

/// Signs the release, or takes up the one that was signed for the same tree, and grants it to a new session. Also says whether
/// the one that was taken up is finalized.
pub(super) fn begin(
    state: &StateDirectory,
    about: &About,
    tree: &Tree,
    built: &Built,
    deltas: &Deltas,
    said: Said<'_>,
    args: &DeployArgs,
) -> Result<(VerifiedRelease, VerifiedGrant, SecretKey, bool), CliError> {
    let failed =
        |error: StateError| CliError::failed("sign the release", &error).hint(error.hint());
    let (repo, environment) = about;
    let now = clock::now();
    let record = state.record(repo, environment).map_err(failed)?;
    let signer = state.signer(args.sign_with.as_deref()).map_err(failed)?;
    let signers = state.allowed_signers().map_err(failed)?;
    let authority = Authority {
        signers: &signers,
        threshold: NonZeroUsize::MIN,
    };
    let commit = tree.commit().map(|commit| commit.id.clone());

    let highest = said
        .greeted
        .standings
        .values()
        .map(|standing| standing.accepted_sequence)
        .max();
    let recorded = said
        .recorded
        .and_then(|it| signed_for_us(it, about, &authority, now));
    let (recorded, recorded_id) =
        recorded.map_or((0, None), |it| (it.release().sequence, Some(it.id())));
    let highest = highest.unwrap_or(0).max(recorded);
    // Another one of the same sequence: going on with ours would be a second release with it.
    let is_rival = |of: &Record| recorded >= of.sequence && recorded_id != Some(of.release.id());
    let again = record
        .as_ref()
        .filter(|it| !is_rival(it))
        .and_then(|record| {
            take_up(
                record,
                built.snapshot,
                commit.as_ref(),
                highest,
                &authority,
                &signer,
                now,
            )
        });
    let (release, epoch, is_finalized) = match (again, &record) {
        (Some(release), Some(record)) => (release, record.epoch + 1, record.is_finalized),
        _ => {
            let before = record.as_ref().map_or(0, |record| record.sequence);
            let release = Release {
                repo: repo.clone(),
                environment: environment.clone(),
                audience: Default::default(),
                sequence: 1 + highest.max(before),
                snapshot: built.snapshot,
                commit,
                config: not_acted_on::CONFIG_SNAPSHOT,
                deltas: deltas.all.iter().map(|it| it.reference.clone()).collect(),
                previous: match &record {
                    Some(record) if record.sequence >= recorded => Some(record.release.id()),
                    _ => recorded_id,
                },
                created: now,
                expires: UnixMillis(now.0 + RELEASE_MILLIS),
                extensions: Default::default(),
            }
            .with_priority(args.priority.of_release());
            let signed = SignedRelease::sign(&release, &signer)
                .map_err(|error| CliError::failed("sign the release", &error))?;
            let release = signed
                .verify(&authority, now)
                .map_err(|error| CliError::failed("check our own release", &error))?;
            (release, 1, false)
        }
    };
    let key = state.begin_session(repo, environment).map_err(failed)?;
    let grant = Grant {
        release: release.id(),
        session_key: *key.public(),
        epoch,
        expires: UnixMillis(now.0 + GRANT_MILLIS),
        extensions: Default::default(),
    };
    let grant = SignedGrant::sign(&grant, &release.release().namespace(), &signer)
        .map_err(|error| CliError::failed("sign the grant", &error))?
        .verify(&release, &authority, now)
        .map_err(|error| CliError::failed("check our own grant", &error))?;
    // Saved before anything is sent: no sequence or epoch is ever used for two things.
    let record = Record {
        sequence: release.release().sequence,
        release: release.signed().clone(),
        epoch,
        grant: grant.signed().clone(),
        is_finalized,
        snapshots: worth_keeping(built.snapshot, record.as_ref()),
    };
    state
        .save_record(repo, environment, &record)
        .map_err(failed)?;
    Ok((release, grant, key, is_finalized))
}

/// How long orders may be given under a grant from now on.
pub(super) fn time_left(grant: &VerifiedGrant) -> Duration {
    let until = grant.grant().expires.0.saturating_sub(GRANT_MARGIN_MILLIS);
    Duration::from_millis(until.saturating_sub(clock::now().0))
}

/// That waves do not soak for longer than a grant lasts.
pub(super) fn check_soaks(policy: &Policy) -> Result<(), CliError> {
    let (soaks, longest) = (
        policy.soaks(),
        Duration::from_millis(GRANT_MILLIS - GRANT_MARGIN_MILLIS),
    );
    if soaks < longest {
        return Ok(());
    }
    let problem = format!(
        "plan the waves: they soak for {} s, and a deployment may take {} s",
        soaks.as_secs(),
        longest.as_secs()
    );
    Err(CliError::usage(problem).hint(
        "a wave with `approval = true` and --hold can end a deployment that the same command goes on with"
            .to_owned(),
    ))
}

/// The release that the state branch has, if it is one of this repo and environment that an allowed signer signed: who may
/// write to the branch can else have any sequence skipped.
fn signed_for_us(
    recorded: &SignedRelease,
    (repo, environment): &About,
    authority: &Authority<'_>,
    now: UnixMillis,
) -> Option<VerifiedRelease> {
    let verified = recorded.clone().verify(authority, now);
    let is_ours = |it: &VerifiedRelease| {
        (&it.release().repo, &it.release().environment) == (repo, environment)
    };
    match verified {
        Ok(release) if is_ours(&release) => Some(release),
        Ok(_) => {
            tracing::warn!(
                "the state branch has a release of something else: its sequence does not count"
            );
            None
        }
        Err(error) => {
            let error = scap_agent::error_chain(&error);
            tracing::warn!(error, "the state branch's release does not count");
            None
        }
    }
}

/// The snapshot that is released now, and those before it, the latest first.
fn worth_keeping(now: SnapshotRef, before: Option<&Record>) -> Vec<SnapshotRef> {
    let before = before
        .map(|record| record.snapshots.as_slice())
        .unwrap_or_default();
    let others = before.iter().copied().filter(|snapshot| *snapshot != now);
    std::iter::once(now)
        .chain(others)
        .take(SNAPSHOTS_KEPT)
        .collect()
}

/// The release of a record, where it is of the same tree and commit, signed by this signer too, may still begin, and
/// no host has accepted a later one.
fn take_up(
    record: &Record,
    snapshot: SnapshotRef,
    commit: Option<&GitOid>,
    highest: u64,
    authority: &Authority<'_>,
    signer: &Signer,
    now: UnixMillis,
) -> Option<VerifiedRelease> {
    const _: () = assert!(SIGNATURES_MAX >= 1);
    let release = record.release.clone().verify(authority, now).ok()?;
    let about = release.release();
    let is_same = about.snapshot == snapshot
        && about.commit.as_ref() == commit
        && about.config == not_acted_on::CONFIG_SNAPSHOT;
    // A grant must be by one who signed the release.
    let is_ours = release
        .signers()
        .iter()
        .any(|by| by.fingerprint == signer.fingerprint());
    let may_go_on = highest <= about.sequence && release.check_time(now).is_ok();
    (is_same && is_ours && may_go_on).then_some(release)
}
