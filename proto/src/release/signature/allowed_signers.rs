//! The `allowed_signers` file: who may sign what, and when.

use std::{
    collections::BTreeMap,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    str::FromStr,
};

use ssh_key::PublicKey;

use super::{
    SshSignature, fingerprint,
    line::{BLANK, Line, LineError, NotAllowed},
};
use crate::identity::{FileError, read_file};

/// Whose signatures count, in which namespaces and when: OpenSSH's `allowed_signers` format, read
/// as `ssh-keygen -Y verify` reads it, except that a line we cannot read fails the whole file and
/// is not passed over.
///
/// A line without `namespaces=` allows every namespace. A time without `Z` is in the time zone of
/// the system that reads it, so say `Z` in a file that many hosts share.
#[derive(Debug, Clone)]
pub struct AllowedSigners {
    lines: Vec<Line>,
}

/// A key whose signature counts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct VerifiedSigner {
    /// Its fingerprint, as `ssh-keygen -l` shows it.
    pub fingerprint: String,
    /// Whose it is: the first field of its line.
    pub principals: String,
}

/// Signatures of one message, and how many must count.
#[derive(Debug, Clone, Copy)]
pub struct Quorum<'a> {
    /// By whomever.
    pub signatures: &'a [SshSignature],
    /// How many different keys must be among them.
    pub threshold: NonZeroUsize,
}

impl AllowedSigners {
    /// Reads a file.
    ///
    /// # Errors
    /// [`AllowedSignersError`].
    pub fn load(path: &Path) -> Result<Self, AllowedSignersError> {
        read_file(path)?
            .parse()
            .map_err(|source| AllowedSignersError::Malformed {
                path: path.into(),
                source,
            })
    }

    /// The same, with each key allowed at any time.
    pub fn without_times(&self) -> Self {
        let lines = self.lines.iter().cloned();
        Self {
            lines: lines.map(Line::without_times).collect(),
        }
    }

    /// Whose signature of `message` in `namespace` this is, where it counts at `now_unix_ms`.
    ///
    /// # Errors
    /// [`SignatureError`].
    pub fn verify(
        &self,
        namespace: &str,
        message: &[u8],
        signature: &SshSignature,
        now_unix_ms: u64,
    ) -> Result<VerifiedSigner, SignatureError> {
        let key = signature.parsed().public_key();
        let fingerprint = fingerprint(key);
        if signature.namespace() != namespace {
            return Err(SignatureError::OtherNamespace {
                found: signature.namespace().into(),
                expected: namespace.into(),
            });
        }
        PublicKey::new(key.clone(), "")
            .verify(namespace, message, signature.parsed())
            .map_err(|_| SignatureError::Bad {
                fingerprint: fingerprint.clone(),
            })?;

        let now_secs = i64::try_from(now_unix_ms / 1000).unwrap_or(i64::MAX);
        let mut refusal = SignatureError::Unknown {
            fingerprint: fingerprint.clone(),
        };
        for line in self.lines.iter().filter(|line| line.key == *key) {
            match line.allows(namespace, now_secs) {
                Ok(()) => {
                    return Ok(VerifiedSigner {
                        fingerprint,
                        principals: line.principals.clone(),
                    });
                }
                Err(reason) => {
                    refusal = SignatureError::NotAllowed {
                        fingerprint: fingerprint.clone(),
                        principals: line.principals.clone(),
                        reason,
                    };
                }
            }
        }
        Err(refusal)
    }

    /// The different keys whose signatures of `message` count, where they are as many as asked for.
    /// Signatures that do not count neither help nor harm.
    ///
    /// # Errors
    /// [`SignatureError::TooFew`], with what is wrong with each that did not count.
    pub fn verify_threshold(
        &self,
        namespace: &str,
        message: &[u8],
        quorum: Quorum<'_>,
        now_unix_ms: u64,
    ) -> Result<Vec<VerifiedSigner>, SignatureError> {
        let mut signers = BTreeMap::new();
        let mut refused = Vec::new();
        for signature in quorum.signatures {
            match self.verify(namespace, message, signature, now_unix_ms) {
                Ok(signer) => {
                    signers.insert(signer.fingerprint.clone(), signer);
                }
                Err(error) => refused.push(error),
            }
        }
        if signers.len() < quorum.threshold.get() {
            return Err(SignatureError::TooFew {
                valid: signers.len(),
                threshold: quorum.threshold.get(),
                refused,
            });
        }
        Ok(signers.into_values().collect())
    }
}

impl FromStr for AllowedSigners {
    type Err = LineError;

    fn from_str(text: &str) -> Result<Self, LineError> {
        let mut lines = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim_matches(BLANK);
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            lines.push(Line::parse(line).map_err(|problem| LineError {
                number: index + 1,
                problem,
            })?);
        }
        Ok(Self { lines })
    }
}

/// Why an `allowed_signers` file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AllowedSignersError {
    /// It cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// A line of it is wrong.
    #[error("{}: {source}", path.display())]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// Which line, and what about it.
        source: LineError,
    },
}

/// Why a signature does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// It is for something else.
    #[error("signed in the namespace `{found}`, expected `{expected}`")]
    OtherNamespace {
        /// What it is for.
        found: String,
        /// What is asked for.
        expected: String,
    },
    /// It is of another message, or damaged, or forged.
    #[error("not a signature of this by {fingerprint}")]
    Bad {
        /// The key it claims.
        fingerprint: String,
    },
    /// The key is not in the file.
    #[error("signed by {fingerprint}, which is not an allowed signer")]
    Unknown {
        /// The key.
        fingerprint: String,
    },
    /// The key is in the file, but not for this or not now.
    #[error("signed by {fingerprint} of {principals}, {reason}")]
    NotAllowed {
        /// The key.
        fingerprint: String,
        /// Whose it is.
        principals: String,
        /// Why not.
        reason: NotAllowed,
    },
    /// Fewer different keys than asked for.
    #[error("{valid} of {threshold} signatures needed{}", list(refused))]
    TooFew {
        /// Different keys whose signatures count.
        valid: usize,
        /// How many are needed.
        threshold: usize,
        /// What is wrong with the others.
        refused: Vec<SignatureError>,
    },
}

fn list(refused: &[SignatureError]) -> String {
    refused.iter().map(|error| format!("; {error}")).collect()
}
