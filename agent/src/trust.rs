//! What one host trusts and which orders are for it: its identity directory.

mod commits;
mod following;
mod origins;
mod threshold;

use std::{
    collections::BTreeMap,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::Arc,
};

use scap_proto::{
    codec::{self, CodecError},
    id::{NodeId, PlanId, ReleaseId},
    identity::{
        Identity, IdentityError, Life, PUBLIC_KEY_BYTES, PublicIdentity, Refusal, Trust, Validity,
        install::file_in,
    },
    reason::{Because, Reason},
    release::{
        Audience, Authority, AuthorityError, ConfigQuestion, Directive, Environment, Finalization,
        Plan, Reach, RepoPath, SignedConfigQuestion, SignedGrant, SignedMembership, SignedRelease,
        SignersError, SignersInForce, UnixMillis, VerifiedGrant, VerifiedRelease,
        config_question::ConfigQuestionError,
        plan::PlanError,
        signature::{AllowedSigners, AllowedSignersError},
        signed::SignedObject,
    },
    wire::control::{Finalize, Order},
};
use serde::{Deserialize, Serialize};

pub use scap_proto::identity::install::{ALLOWED_SIGNERS_FILE, HOST_FILE, MEMBERSHIP_FILE};

use self::following::{Followed, Following};
pub use self::{
    commits::CommitRule,
    following::FollowError,
    origins::{NoOrigin, Origins},
    threshold::{ThresholdRule, Thresholds, TooMany},
};
use crate::{acceptance::Addressee, config::Config, node::OwnMembership};

mod renewal;

pub use self::renewal::NotRenewed;

/// A host's identity, and whom and what it follows.
#[derive(Debug)]
pub struct HostTrust<I = Arc<Identity>> {
    /// Who it is.
    pub identity: I,
    /// Whom orders must be addressed to.
    pub addressee: Addressee,
    /// What a coordinator says that this host is in; hosts of earlier enrolments have none. A renewal may change it.
    pub membership: OwnMembership,
    following: Following,
    thresholds: Thresholds,
    origins: Origins,
    commits: Vec<CommitRule>,
    /// Where the daemon keeps whose certificates count, for the activator, which hears of it in no other way.
    daemon_keeps: Option<PathBuf>,
}

/// The same as a process has it that never speaks for its host, and has no key: the activator.
pub type ActivatorTrust = HostTrust<PublicIdentity>;

/// An identity, with its key or without.
pub trait Verifies {
    /// Whom it trusts.
    fn trusted(&self) -> &Trust;
}

impl Verifies for Arc<Identity> {
    fn trusted(&self) -> &Trust {
        self.trust()
    }
}

impl Verifies for PublicIdentity {
    fn trusted(&self) -> &Trust {
        self.trust()
    }
}

/// What the daemon keeps of whose certificates count, in its data directory.
pub const FLEET_TRUST_FILE: &str = "trust";

/// `host.toml`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostFile {
    /// The environments that the host is in.
    #[serde(default = "default_environments")]
    pub environments: Vec<Environment>,
    /// The audiences that the host is in.
    #[serde(default = "default_audiences")]
    pub audiences: Vec<Audience>,
    /// How many distinct allowed signers a release takes of which no rule speaks.
    #[serde(default = "default_threshold")]
    pub signatures_min: NonZeroUsize,
    /// How many a new signers file takes, where that is not the most that any release takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signers_signatures_min: Option<NonZeroUsize>,
    /// The number of the signers file that it was enrolled with.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub signers_number: u64,
    /// Whether releases are taken from the deployment hosts in `origins` alone; unless said, where there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub require_origin: Option<bool>,
    /// The deployment hosts that may direct releases, by the names in their certificates.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub origins: Vec<NodeId>,
    /// How many distinct allowed signers the releases of some repos and environments take.
    #[serde(default, rename = "signatures", skip_serializing_if = "Vec::is_empty")]
    pub signatures: Vec<ThresholdRule>,
    /// Of which repos and environments releases are to be of signed commits.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub signed_commits: Vec<CommitRule>,
    /// Below which sequences it takes no release as the stable one.
    #[serde(default, rename = "floor", skip_serializing_if = "Vec::is_empty")]
    pub floors: Vec<Floor>,
}

/// The least sequence of a stable release that a host takes from others: what whoever installs it knows to be out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Floor {
    /// Of which repo.
    pub repo: RepoPath,
    /// In which environment.
    #[serde(default)]
    pub environment: Environment,
    /// The least.
    pub sequence: u64,
}

impl Default for HostFile {
    fn default() -> Self {
        Self {
            environments: default_environments(),
            audiences: default_audiences(),
            signatures_min: default_threshold(),
            signers_signatures_min: None,
            signers_number: 0,
            require_origin: None,
            origins: Vec::new(),
            signatures: Vec::new(),
            signed_commits: Vec::new(),
            floors: Vec::new(),
        }
    }
}

fn default_environments() -> Vec<Environment> {
    vec![Environment::default()]
}

fn default_audiences() -> Vec<Audience> {
    vec![Audience::default()]
}

fn default_threshold() -> NonZeroUsize {
    NonZeroUsize::MIN
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde hands over a reference"
)]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// An order whose every signature was checked.
#[derive(Debug, Clone)]
pub struct VerifiedOrder {
    /// The release.
    pub release: VerifiedRelease,
    /// Who directs it.
    pub grant: VerifiedGrant,
    /// What is ordered.
    pub directive: Directive,
    /// The plan that the directive names.
    pub plan: Option<Plan>,
}

/// A grant by which a release was directed here, each of which was verified then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FollowedGrant {
    /// The release.
    pub release: ReleaseId,
    /// [Which](SignedGrant::hash) grant.
    pub grant: [u8; 32],
}

impl FollowedGrant {
    /// That of an order that was verified.
    pub fn of(release: ReleaseId, grant: &SignedGrant) -> Self {
        let grant = grant.hash();
        Self { release, grant }
    }
}

/// A finalization whose every signature was checked.
#[derive(Debug, Clone)]
pub struct VerifiedFinalization {
    /// The release.
    pub release: VerifiedRelease,
    /// That it is stable.
    pub finalization: Finalization,
    /// For whom.
    pub reach: Reach,
    /// The epoch of the grant by which it is.
    pub epoch: u64,
}

/// Why an identity directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// Its certificate, key or authority.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// A file cannot be read.
    #[error("read {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// `host.toml` says something else than it can.
    #[error("parse {path}")]
    Parse {
        /// Which.
        path: PathBuf,
        /// Why.
        source: Box<toml::de::Error>,
    },
    /// The membership is none.
    #[error("read the membership {path}")]
    Membership {
        /// Which.
        path: PathBuf,
        /// Why.
        source: CodecError,
    },
    /// Who may release.
    #[error(transparent)]
    Signers(#[from] AllowedSignersError),
    /// Who may release since then.
    #[error("read which signers files were taken")]
    Following(#[from] FollowError),
    /// How many signatures it takes.
    #[error("{path}")]
    Thresholds {
        /// Which file says so.
        path: PathBuf,
        /// What is wrong with it.
        source: TooMany,
    },
    /// From where releases are taken.
    #[error("{path}")]
    Origins {
        /// Which file says so.
        path: PathBuf,
        /// What is wrong with it.
        source: NoOrigin,
    },
    /// The certificate is not valid now by this clock, nor to be renewed.
    #[error("check this host's certificate")]
    Time(#[from] Refusal),
}

/// Why an order was not verified.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// A signature, or what it is for.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The plan.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The directive names a plan that did not come with it.
    #[error("plan {0:?} is named and did not come along")]
    NoPlan(PlanId),
}

impl OrderError {
    /// Its code.
    pub fn code(&self) -> Reason {
        match self {
            Self::Authority(error) => error.code(),
            Self::Plan(_) | Self::NoPlan(_) => Reason::RefusedPlan,
        }
    }

    /// Why, for who ordered it.
    pub fn because(&self) -> Because {
        self.code().because(crate::error_chain(self))
    }
}

impl HostTrust {
    /// Reads an identity directory, also one whose certificate has expired and can still be renewed. Without `host.toml` the host is in `production`, audience `all`.
    ///
    /// # Errors
    /// [`TrustError`].
    pub fn load(directory: &Path, now: UnixMillis) -> Result<Self, TrustError> {
        let identity = Arc::new(Identity::load(directory)?);
        check_life(identity.check_time(now.0), identity.validity(), now)?;
        let host = identity.own().name.clone();
        Self::with(identity, host, directory)
    }

    /// The same as the daemon of a host has it: with the signers files that it took since.
    ///
    /// # Errors
    /// [`TrustError`].
    pub fn of_daemon(config: &Config, now: UnixMillis) -> Result<Self, TrustError> {
        let [daemon, activator] = records(config);
        Self::load(&config.identity, now)?.keeping(&daemon, &activator, now)
    }
}

impl ActivatorTrust {
    /// The same as the activator of a host has it, who does not read the host's key.
    ///
    /// # Errors
    /// [`TrustError`].
    pub fn of_activator(config: &Config, now: UnixMillis) -> Result<Self, TrustError> {
        let [daemon, activator] = records(config);
        let identity = PublicIdentity::load(&config.identity)?;
        check_life(identity.check_time(now.0), identity.validity(), now)?;
        let host = identity.own().name.clone();
        let trust = Self::with(identity, host, &config.identity)?;
        let mut trust = trust.keeping(&activator, &daemon, now)?;
        trust.daemon_keeps = Some(config.data.join(FLEET_TRUST_FILE));
        Ok(trust)
    }
}

impl<I: Verifies> HostTrust<I> {
    fn with(identity: I, host: NodeId, directory: &Path) -> Result<Self, TrustError> {
        let signers_path = file_in(directory, ALLOWED_SIGNERS_FILE);
        AllowedSigners::load(&signers_path)?;
        let signers = read(&signers_path)?;
        let path = file_in(directory, HOST_FILE);
        let file: HostFile = match read(&path) {
            Ok(text) => toml::from_str(&text).map_err(|error| TrustError::Parse {
                path: path.clone(),
                source: error.into(),
            })?,
            Err(TrustError::Read { source, .. })
                if source.kind() == std::io::ErrorKind::NotFound =>
            {
                HostFile::default()
            }
            Err(error) => return Err(error),
        };
        let enrolled = SignersInForce::new(file.signers_number, signers);
        let enrolled = enrolled.map_err(|source| AllowedSignersError::Malformed {
            path: signers_path,
            source,
        })?;
        let (otherwise, rules) = (file.signatures_min, file.signatures);
        let thresholds =
            Thresholds::new(otherwise, rules, file.signers_signatures_min).map_err(|source| {
                TrustError::Thresholds {
                    path: path.clone(),
                    source,
                }
            })?;
        let origins = Origins::new(file.origins, file.require_origin)
            .map_err(|source| TrustError::Origins { path, source })?;
        let floors = file.floors.into_iter();
        let floors = floors.map(|it| ((it.repo, it.environment), it.sequence));
        let addressee = Addressee {
            host,
            environments: file.environments,
            audiences: file.audiences,
            floors: floors.collect(),
        };
        let fleet = identity.trusted().fleet().clone();
        Ok(Self {
            following: Following::new(enrolled, fleet, thresholds.of_signers()),
            identity,
            addressee,
            membership: OwnMembership::new(load_membership(directory)?),
            thresholds,
            origins,
            commits: file.signed_commits,
            daemon_keeps: None,
        })
    }

    /// Whose certificates count now: what the daemon took since is believed as far as it proves itself.
    fn certificates(&self) -> &Trust {
        let trust = self.identity.trusted();
        if let Some(path) = &self.daemon_keeps
            && let Err(error) = trust.learn_from(path)
        {
            let error = crate::error_chain(&error);
            tracing::warn!(
                error,
                "whose certificates count is not known from the daemon"
            );
        }
        trust
    }

    /// Goes on with the signers files that were taken since the host was enrolled, and keeps what is taken in `own`; `other` is where
    /// the other process of this host does, and is only read.
    fn keeping(mut self, own: &Path, other: &Path, now: UnixMillis) -> Result<Self, TrustError> {
        self.following.keep_in(own, other, now)?;
        Ok(self)
    }

    /// The number of the signers file that it follows: how many followed on the fleet's first one.
    pub fn signers_number(&self) -> u64 {
        self.following.now().signers.number()
    }

    /// From which deployment hosts it takes releases.
    pub fn origins(&self) -> &Origins {
        &self.origins
    }

    /// What commits of a repo in an environment must be signed by; `None` where that is not asked for. The first that is about them.
    pub fn commit_rule(&self, repo: &RepoPath, environment: &Environment) -> Option<&CommitRule> {
        let mut rules = self.commits.iter();
        rules.find(|rule| rule.is_about(repo, environment))
    }

    /// How many signatures it takes.
    pub fn thresholds(&self) -> &Thresholds {
        &self.thresholds
    }

    /// The least sequence that it takes as stable from others; `None` where nothing is said.
    pub fn floor(&self, repo: &RepoPath, environment: &Environment) -> Option<u64> {
        let key = (repo.clone(), environment.clone());
        self.addressee.floors.get(&key).copied()
    }

    /// All of them.
    pub fn floors(&self) -> &BTreeMap<(RepoPath, Environment), u64> {
        &self.addressee.floors
    }

    /// Checks every signature of an order, and its plan.
    ///
    /// # Errors
    /// [`OrderError`].
    pub fn verify_order(&self, order: Order, now: UnixMillis) -> Result<VerifiedOrder, OrderError> {
        let (release, grant) = self.verify_grant(order.release, order.grant, now)?;
        self.origins.check(&grant, self.certificates(), now)?;
        let directive = order.directive.verify(&grant)?;
        let plan = match (directive.plan, order.plan) {
            (Some(id), Some(bytes)) => Some(Plan::decode(id, &bytes)?),
            (Some(id), None) => return Err(OrderError::NoPlan(id)),
            (None, _) => None,
        };
        Ok(VerifiedOrder {
            release,
            grant,
            directive,
            plan,
        })
    }

    /// An order that has no authority here any more and takes this host back, or has lapsed: of the grant that was verified when it was
    /// followed, who may release and direct by now is no question. To go back is authority that the release carried then, and a fleet
    /// whose keys change during a rollout must be able to undo it. None where it is of another grant.
    pub fn verify_way_back(
        &self,
        order: Order,
        followed: Option<&FollowedGrant>,
    ) -> Option<VerifiedOrder> {
        let followed = followed?;
        let release = order.release.verified_before(&followed.release)?;
        let grant = order.grant.verified_before(&followed.grant)?;
        let directive = order.directive.verify(&grant).ok()?;
        if directive.release != release.id() {
            return None;
        }
        tracing::warn!(release = %release.id().short(), "the way back is by a grant that was followed, and would not be any more");
        Some(VerifiedOrder {
            release,
            grant,
            directive,
            // None is needed to go back.
            plan: None,
        })
    }

    /// Checks every signature of a finalization.
    ///
    /// # Errors
    /// [`AuthorityError`].
    pub fn verify_finalization(
        &self,
        finalize: Finalize,
        now: UnixMillis,
    ) -> Result<VerifiedFinalization, AuthorityError> {
        let (release, grant) = self.verify_grant(finalize.release, finalize.grant, now)?;
        // What is stable stays so, also once the certificate of whoever made it so is over. It may be a later one than the
        // release: of who went on with that, or collected its signatures first.
        let made = release.release().created;
        let directed = now.min(grant.grant().expires);
        let trust = self.certificates();
        let checked = self.origins.check(&grant, trust, made);
        let checked = checked.or_else(|_| self.origins.check(&grant, trust, directed));
        // Nor once that certificate counts no more: where the fleet's authority knows the grant of before. Whoever got hold of the
        // certificate's key, or of the old authority's, makes others.
        let vouching = trust.fleet_trust();
        let is_vouched = || vouching.is_some_and(|it| it.vouches_for_grant(&grant.signed().hash()));
        if let Err(error) = checked
            && !is_vouched()
        {
            return Err(error);
        }
        let finalization = finalize.finalization.verify(&release, &grant)?;
        Ok(VerifiedFinalization {
            release,
            reach: finalization.reach()?,
            finalization,
            epoch: grant.grant().epoch,
        })
    }

    /// Checks every signature of a question about config files, and that it is asked of this host, by `asker`, now.
    ///
    /// # Errors
    /// [`ConfigQuestionError`].
    pub fn verify_config_question(
        &self,
        signed: &SignedConfigQuestion,
        asker: &[u8; PUBLIC_KEY_BYTES],
        now: UnixMillis,
    ) -> Result<ConfigQuestion, ConfigQuestionError> {
        let us = &self.addressee;
        let claimed = ConfigQuestion::from_payload(&signed.payload);
        let claimed = claimed.map_err(AuthorityError::Codec)?;
        let followed = self.following.now();
        let authority = self.authority(&followed, &claimed.repo, &claimed.environment);
        let question = signed.verify(&authority, asker, &us.host, now)?;
        us.check(&question.environment, &question.audience)?;
        Ok(question)
    }

    /// Takes the signers files that come along, and checks the release and the grant by the last of them. One that is not taken is
    /// no reason to refuse what the file in force allows.
    fn verify_grant(
        &self,
        release: SignedRelease,
        grant: SignedGrant,
        now: UnixMillis,
    ) -> Result<(VerifiedRelease, VerifiedGrant), AuthorityError> {
        let chain = grant.signers().map_err(SignersError::from);
        let vouched = self.certificates().fleet_trust();
        let vouched = vouched.and_then(|trust| trust.signers());
        let taken = chain.and_then(|chain| self.following.take(&chain, now, vouched));
        let (followed, untaken) = match taken {
            Ok(followed) => (followed, None),
            Err(error) => (self.following.now(), Some(error)),
        };
        let claimed = release.read_unverified()?;
        let authority = self.authority(&followed, &claimed.repo, &claimed.environment);
        let verified = release.verify(&authority, now).and_then(|release| {
            let grant = grant.verify(&release, &authority, now)?;
            Ok((release, grant))
        });
        match (verified, untaken) {
            (Err(AuthorityError::Signers { .. }), Some(error)) => {
                Err(AuthorityError::SignersFile(error.into()))
            }
            (verified, Some(error)) => {
                let error = crate::error_chain(&error);
                tracing::warn!(error, "a signers file that came along was not taken");
                verified
            }
            (verified, None) => verified,
        }
    }

    fn authority<'a>(
        &'a self,
        followed: &'a Followed,
        repo: &RepoPath,
        environment: &Environment,
    ) -> Authority<'a> {
        Authority {
            signers: followed.signers.signers(),
            threshold: self.thresholds.of(repo, environment),
        }
    }
}

/// Whether a certificate is valid now, or has expired and can still be renewed: until then its peers refuse it.
fn check_life(
    checked: Result<(), Refusal>,
    validity: Validity,
    now: UnixMillis,
) -> Result<(), Refusal> {
    match checked {
        Err(Refusal::Expired { .. }) if validity.life(now.0) == Life::Expired => Ok(()),
        checked => checked,
    }
}

/// Where daemon and activator keep which signers files they took.
fn records(config: &Config) -> [PathBuf; 2] {
    [
        config.data.join(following::DAEMON_FILE),
        activators_record(&config.deploy_root),
    ]
}

/// Where the activator does: the one file below the deploy root that the daemon reads.
pub(crate) fn activators_record(deploy_root: &Path) -> PathBuf {
    deploy_root.join(following::ACTIVATOR_FILE)
}

/// The membership as `enroll` wrote it: whether it holds is for those to say to whom it is shown.
fn load_membership(directory: &Path) -> Result<Option<SignedMembership>, TrustError> {
    let path = file_in(directory, MEMBERSHIP_FILE);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(TrustError::Read { path, source }),
    };
    match codec::decode(&bytes) {
        Ok(membership) => Ok(Some(membership)),
        Err(source) => Err(TrustError::Membership { path, source }),
    }
}

fn read(path: &Path) -> Result<String, TrustError> {
    std::fs::read_to_string(path).map_err(|source| TrustError::Read {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
pub(crate) mod tests;
