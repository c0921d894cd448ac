//! What one host trusts and which orders are for it: its identity directory.

use std::{
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::Arc,
};

use scap_proto::{
    id::PlanId,
    identity::{Identity, IdentityError, Refusal},
    release::{
        Audience, Authority, AuthorityError, Directive, Environment, Finalization, Plan,
        UnixMillis, VerifiedGrant, VerifiedRelease,
        plan::PlanError,
        signature::{AllowedSigners, AllowedSignersError},
    },
    wire::control::{Finalize, Order},
};
use serde::{Deserialize, Serialize};

use crate::acceptance::Addressee;

/// The file that says what this host is in, beside its certificate.
pub const HOST_FILE: &str = "host.toml";
/// The file that says who may release, in OpenSSH's format.
pub const ALLOWED_SIGNERS_FILE: &str = "allowed_signers";

/// A host's identity, and whom and what it follows.
#[derive(Debug)]
pub struct HostTrust {
    /// Who it is.
    pub identity: Arc<Identity>,
    /// Whom orders must be addressed to.
    pub addressee: Addressee,
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
}

impl Default for HostFile {
    fn default() -> Self {
        Self {
            environments: default_environments(),
            audiences: default_audiences(),
            signatures_min: default_threshold(),
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
    /// Who may release.
    #[error(transparent)]
    Signers(#[from] AllowedSignersError),
    /// The certificate is not valid now, by this clock.
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

impl HostTrust {
    /// Reads an identity directory. Without `host.toml` the host is in `production`, audience `all`.
    ///
    /// # Errors
    /// [`TrustError`].
    pub fn load(directory: &Path, now: UnixMillis) -> Result<Self, TrustError> {
        let identity = Arc::new(Identity::load(directory)?);
        identity.check_time(now.0)?;
        let path = directory.join(ALLOWED_SIGNERS_FILE);
        let signers = AllowedSigners::load(&path)?;
        let path = directory.join(HOST_FILE);
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
        Ok(Self {
            identity,
            addressee,
            signers,
            threshold: file.signatures_min,
        })
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
            finalization,
        })
    }

    fn authority(&self) -> Authority<'_> {
        Authority {
            signers: &self.signers,
            threshold: self.threshold,
        }
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
