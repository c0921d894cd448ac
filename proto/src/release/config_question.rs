//! The question what a release's config files would change on hosts, which these answer and do nothing about.
//!
//! Templates are programs, and config files may hold secrets: so a host answers only what those signed who may release to it, and
//! only to the coordinator that they signed it for. Whoever else has the question gets nothing for it.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    codec::Extensible,
    content::RelPath,
    extensions::Extensions,
    id::NodeId,
    identity::PUBLIC_KEY_BYTES,
    limits::{CONFIG_QUESTION_BYTES_MAX, DIRECTIVE_TARGETS_MAX, SIGNATURES_MAX},
    release::{
        host_config::ConfigFile,
        names::{Audience, Environment, RepoPath},
        release::{Authority, namespace},
        signature::{Quorum, SignError, Signer, SshSignature},
        signed::{AuthorityError, SignedObject, UnixMillis},
    },
};

/// How long a question may be asked at most, in milliseconds: of the largest fleet, many of whose hosts are down.
pub const CONFIG_QUESTION_MILLIS_MAX: u64 = 3600 * 1000;

/// What a deployer asks hosts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigQuestion {
    /// About which repo.
    pub repo: RepoPath,
    /// In which environment.
    pub environment: Environment,
    /// Of which audience.
    pub audience: Audience,
    /// The public key of the coordinator that is answered, by its certificate: names are not told apart so well.
    pub asker: [u8; PUBLIC_KEY_BYTES],
    /// Who is asked, in strictly rising order; at most [`DIRECTIVE_TARGETS_MAX`].
    pub hosts: Vec<NodeId>,
    /// After this nobody answers; at most [`CONFIG_QUESTION_MILLIS_MAX`] from now.
    pub expires: UnixMillis,
    /// What would be rendered, in the order of the destinations.
    pub files: Vec<ConfigFile>,
    /// The variables, as in [`HostConfig::vars`](super::HostConfig::vars).
    pub vars: String,
    /// All templates, by their paths below [`TEMPLATES`](super::host_config::TEMPLATES).
    pub templates: BTreeMap<RelPath, Bytes>,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Extensible for ConfigQuestion {
    fn extensions(&self) -> &Extensions {
        &self.extensions
    }
}

impl SignedObject for ConfigQuestion {
    const MAGIC: &'static str = "scap-config-question/1\n";
}

/// A question with its signatures, as it travels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedConfigQuestion {
    /// The question's payload.
    pub payload: Bytes,
    /// Armoured SSHSIG signatures in the namespace of the releases that it is about, 1 to [`SIGNATURES_MAX`].
    pub signatures: Vec<SshSignature>,
}

/// Why a question cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum AskConfigError {
    /// More than one frame takes.
    #[error(
        "templates, variables and names of hosts are {0} bytes, and at most {CONFIG_QUESTION_BYTES_MAX} are asked at once"
    )]
    TooLong(usize),
    /// It cannot be signed.
    #[error("sign the question")]
    Sign(#[from] SignError),
}

/// Why a question is not answered.
#[derive(Debug, thiserror::Error)]
pub enum ConfigQuestionError {
    /// A signature, or a limit.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// By another than whom it was signed for.
    #[error("signed for another coordinator than the one that asks")]
    Asker,
    /// Of another host.
    #[error("{0} is not among those who are asked")]
    NotAsked(NodeId),
    /// It could be asked for too long.
    #[error(
        "it expires at {at:?}, more than {CONFIG_QUESTION_MILLIS_MAX} ms after {now:?}, which this clock says"
    )]
    Lasting {
        /// When it expires.
        at: UnixMillis,
        /// What the clock said.
        now: UnixMillis,
    },
}

impl SignedConfigQuestion {
    /// Signs `question` with one key. More signatures can be added to the value.
    ///
    /// # Errors
    /// [`AskConfigError`].
    pub fn sign(question: &ConfigQuestion, signer: &Signer) -> Result<Self, AskConfigError> {
        let payload = question.to_payload();
        if payload.len() > CONFIG_QUESTION_BYTES_MAX {
            return Err(AskConfigError::TooLong(payload.len()));
        }
        let namespace = namespace(&question.environment, &question.repo);
        let signature = signer.sign(&namespace, &payload)?;
        Ok(Self {
            payload,
            signatures: vec![signature],
        })
    }

    /// Checks that enough of those who may release signed exactly these bytes, that `asker` may ask them of `host`, and now.
    /// Whether the host is in their environment and audience is another question.
    ///
    /// # Errors
    /// [`ConfigQuestionError`].
    pub fn verify(
        &self,
        authority: &Authority<'_>,
        asker: &[u8; PUBLIC_KEY_BYTES],
        host: &NodeId,
        now: UnixMillis,
    ) -> Result<ConfigQuestion, ConfigQuestionError> {
        let signatures = self.signatures.len();
        AuthorityError::check_limit("signatures", signatures, 1..=SIGNATURES_MAX)?;
        let bytes = self.payload.len();
        AuthorityError::check_limit("bytes", bytes, 0..=CONFIG_QUESTION_BYTES_MAX)?;
        let question =
            ConfigQuestion::from_payload(&self.payload).map_err(AuthorityError::Codec)?;
        let quorum = Quorum {
            signatures: &self.signatures,
            threshold: authority.threshold,
        };
        let namespace = namespace(&question.environment, &question.repo);
        authority
            .signers
            .verify_threshold(&namespace, &self.payload, quorum, now.0)
            .map_err(|source| AuthorityError::Signers {
                what: "the question",
                environment: question.environment.clone(),
                repo: question.repo.clone(),
                source: source.into(),
            })?;
        AuthorityError::check_limit("hosts", question.hosts.len(), 1..=DIRECTIVE_TARGETS_MAX)?;
        if question.hosts.is_sorted_by(|a, b| a < b) {
            question.check(asker, host, now)?;
            return Ok(question);
        }
        Err(AuthorityError::Targets.into())
    }
}

impl ConfigQuestion {
    fn check(
        &self,
        asker: &[u8; PUBLIC_KEY_BYTES],
        host: &NodeId,
        now: UnixMillis,
    ) -> Result<(), ConfigQuestionError> {
        if self.asker != *asker {
            return Err(ConfigQuestionError::Asker);
        }
        if self.hosts.binary_search(host).is_err() {
            return Err(ConfigQuestionError::NotAsked(host.clone()));
        }
        let at = self.expires;
        if now > at {
            let what = "the question";
            return Err(AuthorityError::Expired { what, at, now }.into());
        }
        if at.0 - now.0 > CONFIG_QUESTION_MILLIS_MAX {
            return Err(ConfigQuestionError::Lasting { at, now });
        }
        Ok(())
    }
}
