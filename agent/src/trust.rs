//! What one host trusts and which orders are for it: its identity directory.

use std::{
    collections::BTreeMap,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::{Arc, RwLock},
};

use scap_proto::{
    codec::{self, CodecError},
    id::PlanId,
    identity::{Identity, IdentityError, Life, PUBLIC_KEY_BYTES, Refusal, install::file_in},
    reason::Reason,
    release::{
        Audience, Authority, AuthorityError, ConfigQuestion, Directive, Environment, Finalization,
        Plan, Reach, RepoPath, SignedConfigQuestion, SignedMembership, UnixMillis, VerifiedGrant,
        VerifiedRelease,
        config_question::ConfigQuestionError,
        plan::PlanError,
        signature::{AllowedSigners, AllowedSignersError},
    },
    wire::control::{Finalize, Order},
};
use serde::{Deserialize, Serialize};

pub use scap_proto::identity::install::{ALLOWED_SIGNERS_FILE, HOST_FILE, MEMBERSHIP_FILE};

use crate::acceptance::Addressee;

mod renewal;

pub use self::renewal::NotRenewed;

/// A host's identity, and whom and what it follows.
#[derive(Debug)]
pub struct HostTrust {
    /// Who it is.
    pub identity: Arc<Identity>,
    /// Whom orders must be addressed to.
    pub addressee: Addressee,
    membership: RwLock<Option<SignedMembership>>,
    floors: BTreeMap<(RepoPath, Environment), u64>,
    signers: AllowedSigners,
    threshold: NonZeroUsize,
}

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
    /// How many distinct allowed signers a release takes.
    #[serde(default = "default_threshold")]
    pub signatures_min: NonZeroUsize,
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
}

impl HostTrust {
    /// Reads an identity directory, also one whose certificate has expired and can still be renewed. Without `host.toml` the host is in `production`, audience `all`.
    ///
    /// # Errors
    /// [`TrustError`].
    pub fn load(directory: &Path, now: UnixMillis) -> Result<Self, TrustError> {
        let identity = Arc::new(Identity::load(directory)?);
        match identity.check_time(now.0) {
            // It can still be renewed; until then its peers refuse it.
            Err(Refusal::Expired { .. }) if identity.validity().life(now.0) == Life::Expired => {}
            checked => checked?,
        }
        let path = file_in(directory, ALLOWED_SIGNERS_FILE);
        let signers = AllowedSigners::load(&path)?;
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
        let addressee = Addressee {
            host: identity.own().name.clone(),
            environments: file.environments,
            audiences: file.audiences,
        };
        let floors = file.floors.into_iter();
        let floors = floors.map(|it| ((it.repo, it.environment), it.sequence));
        Ok(Self {
            identity,
            addressee,
            membership: RwLock::new(load_membership(directory)?),
            floors: floors.collect(),
            signers,
            threshold: file.signatures_min,
        })
    }

    /// The least sequence that it takes as stable from others; `None` where nothing is said.
    pub fn floor(&self, repo: &RepoPath, environment: &Environment) -> Option<u64> {
        let key = (repo.clone(), environment.clone());
        self.floors.get(&key).copied()
    }

    /// All of them.
    pub fn floors(&self) -> &BTreeMap<(RepoPath, Environment), u64> {
        &self.floors
    }

    /// Checks every signature of an order, and its plan.
    ///
    /// # Errors
    /// [`OrderError`].
    pub fn verify_order(&self, order: Order, now: UnixMillis) -> Result<VerifiedOrder, OrderError> {
        let authority = self.authority();
        let release = order.release.verify(&authority, now)?;
        let grant = order.grant.verify(&release, &authority, now)?;
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

    /// Checks every signature of a finalization.
    ///
    /// # Errors
    /// [`AuthorityError`].
    pub fn verify_finalization(
        &self,
        finalize: Finalize,
        now: UnixMillis,
    ) -> Result<VerifiedFinalization, AuthorityError> {
        let authority = self.authority();
        let release = finalize.release.verify(&authority, now)?;
        let grant = finalize.grant.verify(&release, &authority, now)?;
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
        let question = signed.verify(&self.authority(), asker, &us.host, now)?;
        us.check(&question.environment, &question.audience)?;
        Ok(question)
    }

    fn authority(&self) -> Authority<'_> {
        Authority {
            signers: &self.signers,
            threshold: self.threshold,
        }
    }
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
