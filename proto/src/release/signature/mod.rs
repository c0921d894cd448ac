//! Who signed something, in the format of `ssh-keygen -Y sign` (SSHSIG).
//!
//! A deployer signs with a [`Signer`]: a key file, or whatever an ssh-agent holds, which may be a
//! hardware token. A host decides by its [`AllowedSigners`], a file that stock OpenSSH reads the
//! same way: whose keys, in which namespaces, and when. The namespace names what is signed and for
//! whom, so a signature for one environment and repo is worth nothing in another.
//!
//! Keys are Ed25519, in a file or a token (`sk-ssh-ed25519@openssh.com`); others are refused by
//! name.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use ssh_key::{Algorithm, HashAlg, LineEnding, SshSig};

mod allowed_signers;
mod line;
mod pattern;
mod signer;

#[cfg(test)]
mod tests;

pub use ssh_key::{Error as PublicKeyError, PublicKey};

pub use self::{
    allowed_signers::{
        AllowedSigners, AllowedSignersError, Quorum, SignatureError, VerifiedSigner,
    },
    line::{Date, LineError, LineProblem, NotAllowed, allowed_signers_line},
    signer::{SignError, Signer, agent_keys},
};

/// Longest armored signature, in bytes: an Ed25519 one is about 300 and its namespace.
pub const SSH_SIGNATURE_BYTES_MAX: usize = 4096;

/// A signature as `ssh-keygen -Y sign` writes it: armored text. It has the right form; whose it is,
/// and of what, [`AllowedSigners::verify`] tells.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SshSignature {
    armored: String,
    parsed: SshSig,
}

impl SshSignature {
    /// The armored text, as in the file that `ssh-keygen -Y verify -s` takes.
    pub fn as_str(&self) -> &str {
        &self.armored
    }

    /// The namespace it claims to be in.
    pub fn namespace(&self) -> &str {
        self.parsed.namespace()
    }

    /// The fingerprint of the key it claims to be by, as `ssh-keygen -l` shows it.
    pub fn fingerprint(&self) -> String {
        fingerprint(self.parsed.public_key())
    }

    fn new(parsed: &SshSig) -> Result<Self, ParseSignatureError> {
        let armored = parsed
            .to_pem(LineEnding::LF)
            .map_err(ParseSignatureError::Format)?;
        armored.parse()
    }

    fn parsed(&self) -> &SshSig {
        &self.parsed
    }
}

impl FromStr for SshSignature {
    type Err = ParseSignatureError;

    fn from_str(armored: &str) -> Result<Self, ParseSignatureError> {
        if armored.len() > SSH_SIGNATURE_BYTES_MAX {
            return Err(ParseSignatureError::TooLong(armored.len()));
        }
        let parsed = SshSig::from_pem(armored).map_err(ParseSignatureError::Format)?;
        if !is_supported(&parsed.public_key().algorithm()) {
            return Err(ParseSignatureError::Key(parsed.public_key().algorithm()));
        }
        // It is not among what is signed.
        if parsed.version() != SshSig::VERSION {
            return Err(ParseSignatureError::Version(parsed.version()));
        }
        // OpenSSH leaves it out of what it verifies, so it must not say anything.
        if !parsed.reserved().is_empty() {
            return Err(ParseSignatureError::Reserved);
        }
        Ok(Self {
            armored: armored.into(),
            parsed,
        })
    }
}

impl TryFrom<String> for SshSignature {
    type Error = ParseSignatureError;

    fn try_from(armored: String) -> Result<Self, ParseSignatureError> {
        armored.parse()
    }
}

impl From<SshSignature> for String {
    fn from(signature: SshSignature) -> Self {
        signature.armored
    }
}

impl fmt::Debug for SshSignature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (namespace, key) = (self.namespace(), self.fingerprint());
        write!(f, "SshSignature({key} in {namespace:?})")
    }
}

/// Why a text is no signature that we read.
#[derive(Debug, thiserror::Error)]
pub enum ParseSignatureError {
    /// Longer than [`SSH_SIGNATURE_BYTES_MAX`].
    #[error("a signature of {0} bytes, at most {SSH_SIGNATURE_BYTES_MAX} are allowed")]
    TooLong(usize),
    /// Not an armored SSHSIG.
    #[error("not an SSH signature")]
    Format(#[source] ssh_key::Error),
    /// By a key of another kind.
    #[error("a signature by a key of type {0}; only Ed25519 is accepted")]
    Key(Algorithm),
    /// Of another version of the format.
    #[error("an SSH signature of version {0}, expected {ours}", ours = SshSig::VERSION)]
    Version(u32),
    /// With a reserved field in use.
    #[error("a signature that uses a field reserved for later versions")]
    Reserved,
}

fn is_supported(algorithm: &Algorithm) -> bool {
    matches!(algorithm, Algorithm::Ed25519 | Algorithm::SkEd25519)
}

fn fingerprint(key: &ssh_key::public::KeyData) -> String {
    key.fingerprint(HashAlg::Sha256).to_string()
}
