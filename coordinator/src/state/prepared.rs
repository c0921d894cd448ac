//! What waits for signatures: the exact bytes to sign, and the signatures so far, in one file that goes from hand to hand.
//!
//! Beside it are the bytes alone, for `ssh-keygen -Y sign`.

use std::{
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use scap_agent::store::durable;
use scap_proto::{
    codec,
    limits::{FRAME_BYTES_MAX, SIGNATURES_MAX},
    release::signature::{
        AllowedSigners, ParseSignatureError, SSH_SIGNATURE_BYTES_MAX, SignError, SignatureError,
        Signer, SshSignature, VerifiedSigner,
    },
};
use serde::{Deserialize, Serialize};

/// The first bytes of the file: kind and version.
const MAGIC: &[u8] = b"scap-prepared/1\n";
/// What is added to the file's name for the bytes to sign.
const TO_SIGN: &str = ".to-sign";
/// Longest file: one frame takes what is signed, and its signatures are some kilobytes.
const FILE_BYTES_MAX: u64 =
    FRAME_BYTES_MAX as u64 + (SIGNATURES_MAX * SSH_SIGNATURE_BYTES_MAX) as u64;

/// What waits for signatures.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prepared {
    /// What is signed: the payload of a signed object.
    pub payload: Bytes,
    /// By whomever.
    pub signatures: Vec<SshSignature>,
}

/// Why it cannot be read, written or signed.
#[derive(Debug, thiserror::Error)]
pub enum PreparedError {
    /// The file system.
    #[error("{doing} {}", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// With what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Not such a file.
    #[error("{} is not a file of something prepared for signing", .0.display())]
    Other(PathBuf),
    /// A file that holds no signature.
    #[error("read the signature {}", path.display())]
    Signature {
        /// Which.
        path: PathBuf,
        /// Why.
        source: ParseSignatureError,
    },
    /// A signature that does not count.
    #[error("take a signature")]
    Refused(#[source] SignatureError),
    /// More signatures than it can have.
    #[error("it has {SIGNATURES_MAX} signatures already")]
    Full,
    /// The key.
    #[error("sign it")]
    Sign(#[from] SignError),
}

impl Prepared {
    /// Without signatures.
    pub fn new(payload: Bytes) -> Self {
        Self {
            payload,
            signatures: Vec::new(),
        }
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`PreparedError::Io`], [`PreparedError::Other`].
    pub fn load(path: &Path) -> Result<Self, PreparedError> {
        let other = || PreparedError::Other(path.to_owned());
        let bytes = read(path, FILE_BYTES_MAX)?.ok_or_else(other)?;
        let body = bytes.strip_prefix(MAGIC).ok_or_else(other)?;
        let prepared: Self = codec::decode(body).map_err(|_| other())?;
        match prepared.signatures.len() {
            0..=SIGNATURES_MAX => Ok(prepared),
            _ => Err(other()),
        }
    }

    /// Writes the file, durably, and the bytes to sign beside it, whose path is returned.
    ///
    /// # Errors
    /// [`PreparedError::Io`]; the file before stays.
    pub fn save(&self, path: &Path) -> Result<PathBuf, PreparedError> {
        let body = [MAGIC, &codec::encode(self)].concat();
        let to_sign = to_sign(path);
        for (path, bytes) in [(&to_sign, &self.payload[..]), (&path.to_owned(), &body)] {
            durable::replace_file(path, bytes).map_err(|source| PreparedError::Io {
                doing: "write",
                path: path.clone(),
                source,
            })?;
        }
        Ok(to_sign)
    }

    /// Adds the signature of one more key, where it counts in `namespace` now; says whose it is, and whether it is new. Of a key
    /// that has signed nothing is added.
    ///
    /// # Errors
    /// [`PreparedError::Refused`], [`PreparedError::Full`].
    pub fn add(
        &mut self,
        signature: SshSignature,
        namespace: &str,
        signers: &AllowedSigners,
        now_unix_ms: u64,
    ) -> Result<(VerifiedSigner, bool), PreparedError> {
        let signer = signers
            .verify(namespace, &self.payload, &signature, now_unix_ms)
            .map_err(PreparedError::Refused)?;
        let is_there = |it: &&SshSignature| {
            let same = signers.verify(namespace, &self.payload, it, now_unix_ms);
            same.is_ok_and(|it| it.fingerprint == signer.fingerprint)
        };
        if self.signatures.iter().any(|it| is_there(&it)) {
            return Ok((signer, false));
        }
        if self.signatures.len() >= SIGNATURES_MAX {
            return Err(PreparedError::Full);
        }
        self.signatures.push(signature);
        Ok((signer, true))
    }

    /// Adds the signature of a key that is here: see [`Self::add`].
    ///
    /// # Errors
    /// [`PreparedError`].
    pub fn sign(
        &mut self,
        signer: &Signer,
        namespace: &str,
        signers: &AllowedSigners,
        now_unix_ms: u64,
    ) -> Result<(VerifiedSigner, bool), PreparedError> {
        let signature = signer.sign(namespace, &self.payload)?;
        self.add(signature, namespace, signers, now_unix_ms)
    }
}

/// Where the bytes to sign of the file at `path` are.
pub fn to_sign(path: &Path) -> PathBuf {
    let mut name = OsString::from(path.as_os_str());
    name.push(TO_SIGN);
    name.into()
}

/// A signature as `ssh-keygen -Y sign` wrote it.
///
/// # Errors
/// [`PreparedError::Io`], [`PreparedError::Signature`].
pub fn read_signature(path: &Path) -> Result<SshSignature, PreparedError> {
    let bytes = read(path, SSH_SIGNATURE_BYTES_MAX as u64)?;
    let bytes = bytes.ok_or_else(|| PreparedError::Signature {
        path: path.to_owned(),
        source: ParseSignatureError::TooLong(SSH_SIGNATURE_BYTES_MAX + 1),
    })?;
    let text = String::from_utf8_lossy(&bytes);
    text.parse().map_err(|source| PreparedError::Signature {
        path: path.to_owned(),
        source,
    })
}

/// What is in a file; `None` where that is more than `most` bytes.
fn read(path: &Path, most: u64) -> Result<Option<Vec<u8>>, PreparedError> {
    let read = || {
        let mut bytes = Vec::new();
        io::Read::read_to_end(
            &mut io::Read::take(fs::File::open(path)?, most + 1),
            &mut bytes,
        )?;
        Ok(bytes)
    };
    let bytes = read().map_err(|source| PreparedError::Io {
        doing: "read",
        path: path.to_owned(),
        source,
    })?;
    Ok((bytes.len() as u64 <= most).then_some(bytes))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use scap_proto::release::signature::allowed_signers_line;

    use super::*;

    const NAMESPACE: &str = "scap-release:production:web/site";

    #[test]
    fn b8_a_signature_is_taken_once_by_key_and_from_those_who_may_alone() {
        let folder = tempfile::tempdir().unwrap();
        let signer = |name: &str| Signer::create(&folder.path().join(name), "").unwrap();
        let (one, two, stranger) = (signer("one"), signer("two"), signer("three"));
        let line = |it: &Signer| allowed_signers_line("d", "scap-release:*", it.public_key());
        let signers: AllowedSigners = format!("{}\n{}\n", line(&one), line(&two)).parse().unwrap();
        let mut prepared = Prepared::new(Bytes::from_static(b"payload"));
        for (key, is_new, count) in [(&one, true, 1), (&one, false, 1), (&two, true, 2)] {
            let (_, added) = prepared.sign(key, NAMESPACE, &signers, 0).unwrap();
            assert_eq!((added, prepared.signatures.len()), (is_new, count));
        }
        let refused = prepared.sign(&stranger, NAMESPACE, &signers, 0);
        assert!(matches!(refused, Err(PreparedError::Refused(_))));
        let of_other = one.sign(NAMESPACE, b"other").unwrap();
        let refused = prepared.add(of_other, NAMESPACE, &signers, 0);
        assert!(matches!(refused, Err(PreparedError::Refused(_))));

        let path = folder.path().join("it");
        let to_sign = prepared.save(&path).unwrap();
        assert_eq!(fs::read(&to_sign).unwrap(), b"payload");
        assert_eq!(Prepared::load(&path).unwrap(), prepared);
        assert!(matches!(
            Prepared::load(&to_sign),
            Err(PreparedError::Other(_))
        ));
        fs::write(&path, vec![0; usize::try_from(FILE_BYTES_MAX).unwrap() + 1]).unwrap();
        assert!(matches!(
            Prepared::load(&path),
            Err(PreparedError::Other(_))
        ));
    }
}
