//! The release and the grant of one deployment: signed, checked, and saved before anything is sent.

use std::{num::NonZeroUsize, time::Duration};

use scap_agent::clock;
use scap_proto::{
    content::SnapshotRef,
    id::GitOid,
    identity::SecretKey,
    limits::SIGNATURES_MAX,
    release::{
        Authority, AuthorityError, Grant, Reach, SignedGrant, SignedRelease, SignersError,
        UnixMillis, VerifiedGrant, VerifiedRelease, signature::Signer,
    },
};

use super::{DeployArgs, GoOn, draft::Draft, greet::Greeted};
use crate::{
    cli::{About, CliError, deltas::Deltas, exit},
    rollout::{EPOCH_JUMP_MAX, Policy, Wave},
    state::{Record, SNAPSHOTS_KEPT, SignedObjects, StateDirectory, StateError},
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
    pub(super) recorded: Option<&'a SignedObjects>,
}

/// What is released.
pub(super) struct Content<'a> {
    pub(super) commit: Option<GitOid>,
    /// The commit's object, where it is signed.
    pub(super) signed_commit: Option<Vec<u8>>,
    pub(super) snapshot: SnapshotRef,
    /// What hosts are asked.
    pub(super) config: Option<SnapshotRef>,
    pub(super) deltas: &'a Deltas,
    /// For whom.
    pub(super) policy: &'a Policy,
}

/// A release, and who directs it from now on.
pub(super) struct Begun {
    pub(super) release: VerifiedRelease,
    pub(super) grant: VerifiedGrant,
    pub(super) key: SecretKey,
    /// Whether the release was taken up, and is finalized.
    pub(super) is_finalized: bool,
    /// For whom, where it is and that is known.
    pub(super) reach: Option<Reach>,
}

/// Signs the release, or takes up the one that was signed for the same content, or that is gone on with, and grants it to a new session.
pub(super) fn begin(
    state: &StateDirectory,
    about: &About,
    content: &Content<'_>,
    said: Said<'_>,
    args: &DeployArgs,
) -> Result<Begun, CliError> {
    let failed =
        |error: StateError| CliError::failed("sign the release", &error).hint(error.hint());
    let (repo, environment) = about;
    let now = clock::now();
    let record = state.record(repo, environment).map_err(failed)?;
    let signer = state.signer(args.sign_with.as_deref()).map_err(failed)?;
    let signers = state.allowed_signers().map_err(failed)?;
    let chain = state
        .signers_chain()
        .map_err(|error| failed(error.into()))?;
    let thresholds = state.thresholds().map_err(|error| failed(error.into()))?;
    let authority = Authority {
        signers: &signers,
        threshold: thresholds.of(repo, environment),
    };
    // What was recorded may be of when fewer signatures were asked for: its sequence is taken all the same.
    let of_old = Authority {
        threshold: NonZeroUsize::MIN,
        ..authority
    };
    let recorded = said
        .recorded
        .and_then(|it| signed_for_us(&it.release, about, &of_old, now));
    let (recorded, recorded_id) =
        recorded.map_or((0, None), |it| (it.release().sequence, Some(it.id())));
    let here = record.as_ref().map_or(0, |record| record.sequence);
    let highest = said.greeted.believed_sequence(recorded.max(here));
    let highest = highest.max(recorded);
    // Another one of the same sequence: going on with ours would be a second release with it.
    let is_rival = |of: &Record| recorded >= of.sequence && recorded_id != Some(of.release.id());
    let before = here;
    let wanted = Wanted {
        content,
        highest,
        authority: &authority,
        signer: &signer,
        now,
    };
    let ours = record.as_ref().filter(|it| it.is_finalized);
    let reach = match ours.map(|it| it.release.id()) {
        Some(release) => state.reach(repo, environment, &release).map_err(failed)?,
        None => None,
    };
    let ours = Ours {
        record: record.as_ref(),
        reach,
    };
    let again = match (&args.go_on, &record) {
        _ if args.given.is_some() => {
            let given = args.given.as_ref().expect("it is given");
            let highest = highest.max(before);
            let refused = |error| given.refused(&error);
            let release = Wanted { highest, ..wanted }
                .take_up(&given.signed)
                .map_err(refused)?;
            let taken = [
                record.as_ref().map(|it| (it.sequence, it.release.id())),
                recorded_id.map(|id| (recorded, id)),
            ];
            let (id, sequence) = (release.id(), release.release().sequence);
            let is_taken = |(by, other): (u64, _)| by == sequence && other != id;
            if taken.into_iter().flatten().any(is_taken) || said.greeted.took(sequence, id) {
                return Err(refused(NotTakenUp::Taken(sequence)));
            }
            let known = Known::of(&release, &ours, said, &authority, now);
            known.check_for(content.policy, sequence)?;
            Some(release)
        }
        (Some(go_on), _) => {
            let highest = highest.max(before);
            let release = Wanted { highest, ..wanted }.going_on(go_on)?;
            let known = Known::of(&release, &ours, said, &authority, now);
            known.check_for(content.policy, go_on.sequence)?;
            Some(release)
        }
        (None, Some(record)) if !is_rival(record) => {
            let release = wanted.take_up(&record.release).ok();
            release.filter(|release| {
                let known = Known::of(release, &ours, said, &authority, now);
                known.is_for(content.policy)
            })
        }
        (None, _) => None,
    };
    let (release, epoch, is_finalized, reach) = match again {
        Some(release) => {
            let known = Known::of(&release, &ours, said, &authority, now);
            (release, known.epoch + 1, known.is_finalized, known.reach)
        }
        None => {
            check_enough(authority.threshold, about)?;
            let release = Draft {
                about,
                commit: content.commit.clone(),
                signed_commit: content.signed_commit.as_deref(),
                snapshot: content.snapshot,
                config: content.config,
                deltas: content
                    .deltas
                    .all
                    .iter()
                    .map(|it| it.reference.clone())
                    .collect(),
                highest: highest.max(before),
                previous: match &record {
                    Some(record) if record.sequence >= recorded => Some(record.release.id()),
                    _ => recorded_id,
                },
                priority: args.priority.of_release(),
                valid_millis: RELEASE_MILLIS,
            }
            .release(now)?;
            let signed = SignedRelease::sign(&release, &signer)
                .map_err(|error| CliError::failed("sign the release", &error))?;
            let release = signed
                .verify(&authority, now)
                .map_err(|error| CliError::failed("check our own release", &error))?;
            (release, 1, false, None)
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
    let grant = match release.release().config {
        Some(_) => grant.needing_stages(),
        None => grant,
    };
    let identity = state.identity().map_err(failed)?;
    let grant = grant
        .from_origin(&identity)
        .with_signers(&chain.links)
        .map_err(|error: SignersError| CliError::failed("make the grant", &error))?;
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
        snapshots: worth_keeping(content.snapshot, record.as_ref()),
    };
    state
        .save_record(repo, environment, &record)
        .map_err(failed)?;
    Ok(Begun {
        release,
        grant,
        key,
        is_finalized,
        reach,
    })
}

/// How many keys sign a release.
pub(in crate::cli) fn threshold(
    state: &StateDirectory,
    (repo, environment): &About,
) -> Result<NonZeroUsize, CliError> {
    let thresholds = state.thresholds().map_err(StateError::from);
    let thresholds = thresholds
        .map_err(|error| CliError::failed("read the state", &error).hint(error.hint()))?;
    Ok(thresholds.of(repo, environment))
}

/// That one signature is enough: a command signs with one key.
pub(in crate::cli) fn check_enough(
    threshold: NonZeroUsize,
    (repo, environment): &About,
) -> Result<(), CliError> {
    if threshold == NonZeroUsize::MIN {
        return Ok(());
    }
    let problem = format!(
        "sign the release: {repo} in {environment} takes the signatures of {threshold} keys, and this has one"
    );
    Err(CliError::usage(problem).hint(
        "`release prepare --out FILE`, have FILE signed (`release sign`, or `ssh-keygen -Y sign` and `release add-signature`), then `deploy --release FILE`"
            .to_owned(),
    ))
}

/// What this machine knows of the latest release.
struct Ours<'a> {
    record: Option<&'a Record>,
    /// For whom it is the stable one.
    reach: Option<Reach>,
}

/// What was directed of a release before.
struct Known {
    /// The highest epoch of all that is known of.
    epoch: u64,
    /// Whether it is finalized.
    is_finalized: bool,
    /// For whom, as far as this machine knows or the state branch says.
    reach: Option<Reach>,
}

impl Known {
    /// By what this machine did and by what is signed on the state branch. Of epochs hosts are heard too: they also know of grants
    /// that were never recorded; but of none so far away that only a lie gets there.
    fn of(
        release: &VerifiedRelease,
        ours: &Ours<'_>,
        said: Said<'_>,
        authority: &Authority<'_>,
        now: UnixMillis,
    ) -> Self {
        let record = ours.record.filter(|it| it.release.id() == release.id());
        let mut known = Self {
            epoch: record.map_or(0, |record| record.epoch),
            is_finalized: record.is_some_and(|record| record.is_finalized),
            reach: record.and(ours.reach.clone()),
        };
        let recorded = said.recorded.filter(|it| it.release.id() == release.id());
        if let Some(recorded) = recorded
            && let Ok(grant) = recorded.grant.clone().verify(release, authority, now)
        {
            known.epoch = known.epoch.max(grant.grant().epoch);
            let finalization = recorded.finalization.as_ref();
            let finalization = finalization.and_then(|it| it.verify(release, &grant).ok());
            known.is_finalized |= finalization.is_some();
            let recorded = finalization.and_then(|it| it.reach().ok());
            known.reach = match (known.reach, recorded) {
                (Some(ours), Some(recorded)) => Some(ours.and(recorded)),
                (ours, recorded) => ours.or(recorded),
            };
        }
        // That a host says it is stable proves nothing, and would make it so for all; one that is told to go back says no.
        let id = release.id();
        let highest = known.epoch.saturating_add(EPOCH_JUMP_MAX);
        let said = said.greeted.directed(id);
        let believed = said.filter(|epoch| *epoch <= highest);
        known.epoch = known.epoch.max(believed.max().unwrap_or(0));
        known
    }

    /// Whether the release may be taken up for these hosts. Where it is the stable one of some alone, others get it as a new
    /// release: from what is stable nobody goes back, and no wave of theirs would be held by its gate.
    fn is_for(&self, policy: &Policy) -> bool {
        let Some(reach) = self.reach.as_ref().filter(|_| self.is_finalized) else {
            return !self.is_finalized;
        };
        let mut hosts = policy.waves.iter().flat_map(Wave::hosts);
        (policy.is_limited || reach.is_open()) && hosts.all(|host| reach.includes(host, false))
    }

    /// That a release that is gone on with is for these hosts. Of one that builds before this one finalized nobody knows for whom.
    fn check_for(&self, policy: &Policy, sequence: u64) -> Result<(), CliError> {
        if !self.is_finalized || self.reach.is_none() || self.is_for(policy) {
            return Ok(());
        }
        let problem = format!(
            "go on with release #{sequence}: it is the stable one of some hosts already, and not of all that are named now"
        );
        let hint = "`resume -l` with those hosts alone ends it (`-l '!web7'` is all but web7, as after `skip web7`); `deploy` without -l releases the commit to all, wave by wave";
        Err(CliError::usage(problem)
            .code(exit::STOPPED)
            .hint(hint.to_owned()))
    }
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
pub(super) fn signed_for_us(
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

/// What a release must be of to be taken up.
#[derive(Clone, Copy)]
struct Wanted<'a> {
    content: &'a Content<'a>,
    /// The highest sequence that anybody knows of.
    highest: u64,
    authority: &'a Authority<'a>,
    signer: &'a Signer,
    now: UnixMillis,
}

/// Why a release is not taken up.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotTakenUp {
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    #[error("this is snapshot {here}, and the release is of {there}")]
    Snapshot { here: String, there: String },
    #[error("the release is of another commit")]
    Commit,
    #[error("the release asks of hosts what the scap folder here does not, or the other way round")]
    Config,
    #[error("key {0} did not sign the release, and who goes on with it must have")]
    Signer(String),
    #[error("the release has sequence {sequence}, and #{highest} was released since")]
    Later { sequence: u64, highest: u64 },
    #[error("sequence #{0} was taken by another release since")]
    Taken(u64),
}

impl NotTakenUp {
    fn hint(&self) -> &'static str {
        match self {
            Self::Authority(AuthorityError::Expired { .. }) => "`deploy` releases it anew",
            Self::Authority(_) => {
                "compare allowed_signers of the state directory with that of who deployed; see with `git log` who wrote the record"
            }
            Self::Snapshot { .. } | Self::Commit => {
                "the clone is damaged, or another version built the release: `git fsck`; the versions of both machines"
            }
            Self::Config => {
                "--scap names the folder that it was deployed with; `deploy` releases it anew"
            }
            Self::Signer(_) => {
                "--sign-with names the key that signed it; `deploy` releases it anew with this one"
            }
            Self::Later { .. } | Self::Taken(_) => "`status` and `history` say which",
        }
    }
}

impl Wanted<'_> {
    /// A release, where it is of the same content, signed by this signer too, may still begin, and no host has accepted a
    /// later one.
    fn take_up(&self, signed: &SignedRelease) -> Result<VerifiedRelease, NotTakenUp> {
        const _: () = assert!(SIGNATURES_MAX >= 1);
        let release = signed.clone().verify(self.authority, self.now)?;
        let about = release.release();
        if about.snapshot != self.content.snapshot {
            return Err(NotTakenUp::Snapshot {
                here: self.content.snapshot.id.to_string(),
                there: about.snapshot.id.to_string(),
            });
        }
        if about.commit != self.content.commit {
            return Err(NotTakenUp::Commit);
        }
        if about.config != self.content.config {
            return Err(NotTakenUp::Config);
        }
        // A grant must be by one who signed the release.
        let by = self.signer.fingerprint();
        if !release.signers().iter().any(|it| it.fingerprint == by) {
            return Err(NotTakenUp::Signer(by));
        }
        if self.highest > about.sequence {
            let (sequence, highest) = (about.sequence, self.highest);
            return Err(NotTakenUp::Later { sequence, highest });
        }
        release.check_time(self.now)?;
        Ok(release)
    }

    /// The release that is gone on with, and no other.
    fn going_on(&self, go_on: &GoOn) -> Result<VerifiedRelease, CliError> {
        let doing = format!("go on with release #{}", go_on.sequence);
        self.take_up(&go_on.signed).map_err(|error| {
            CliError::failed(&doing, &error)
                .code(exit::STOPPED)
                .hint(error.hint().to_owned())
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::collections::BTreeSet;

    use scap_proto::id::NodeId;

    use super::*;
    use crate::rollout::Prefetch;

    #[test]
    fn a_release_that_is_stable_for_some_is_gone_on_with_for_no_others() {
        let hosts = |names: &[&str]| -> BTreeSet<NodeId> {
            names.iter().map(|name| name.parse().unwrap()).collect()
        };
        let policy = |names: &[&str], is_limited| Policy {
            waves: vec![Wave {
                name: "all".to_owned(),
                groups: vec![hosts(names)],
                limits: Vec::new(),
                soak: Duration::ZERO,
                needs_approval: false,
            }],
            prefetch: Prefetch::Canary,
            is_limited,
        };
        let (one, both) = (policy(&["a"], true), policy(&["a", "b"], false));
        let may = |reach: Option<Reach>, is_finalized, policy: &Policy| {
            let known = Known {
                epoch: 1,
                is_finalized,
                reach,
            };
            known.check_for(policy, 7).is_ok()
        };
        let only = Some(Reach::Only(hosts(&["a"])));
        assert!(may(only.clone(), true, &one));
        assert!(!may(only.clone(), true, &both));
        // The same hosts, and with them whoever is installed later.
        assert!(!may(only.clone(), true, &policy(&["a"], false)));
        // Each host has its gate before it.
        assert!(may(only, false, &both));
        let without = Some(Reach::AllBut(hosts(&["b"])));
        assert!(may(without.clone(), true, &one));
        assert!(!may(without, true, &both));
        assert!(may(Some(Reach::All), true, &both));
        assert!(may(None, true, &both));
    }
}
