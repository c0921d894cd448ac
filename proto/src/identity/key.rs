//! Ed25519 keys of nodes, authorities and rollout sessions.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use rcgen::{KeyPair, PKCS_ED25519, PublicKeyData, SigningKey};
use rustls::pki_types::PrivatePkcs8KeyDer;
use zeroize::Zeroizing;

use super::file::{self, FileError};

/// Bytes in an Ed25519 public key.
pub const PUBLIC_KEY_BYTES: usize = 32;

/// Bytes in an Ed25519 signature.
pub const SIGNATURE_BYTES: usize = 64;

/// An Ed25519 private key: of a node, of a fleet's authority, or of the session that directs a
/// rollout.
///
/// Its text form is PKCS#8 in PEM. It is wiped from memory when dropped, and `Debug` shows the
/// public key alone. What it signs must name its own kind, so that a signature never passes for
/// another.
pub struct SecretKey {
    pair: KeyPair,
    public: [u8; PUBLIC_KEY_BYTES],
}

impl SecretKey {
    /// A new key from the system's randomness.
    ///
    /// # Panics
    /// Where the system has no randomness to give.
    pub fn generate() -> Self {
        let pair = KeyPair::generate_for(&PKCS_ED25519).expect("the system gives randomness");
        Self::from_pair(pair).expect("a key generated as Ed25519 is one")
    }

    /// Reads a key file.
    ///
    /// # Errors
    /// [`KeyError::File`], in particular where group or others may access the file, and
    /// [`KeyError::Format`].
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        let pem = file::read_secret_file(path)?;
        KeyPair::from_pkcs8_pem_and_sign_algo(&pem, &PKCS_ED25519)
            .ok()
            .and_then(Self::from_pair)
            .ok_or_else(|| KeyError::Format { path: path.into() })
    }

    /// Writes a new key file of mode 0600. After a crash it is there whole or not at all.
    ///
    /// # Errors
    /// [`FileError::Exists`]: a key is never replaced; [`FileError::Write`].
    pub fn create_file(&self, path: &Path) -> Result<(), FileError> {
        file::create_secret_file(path, &Zeroizing::new(self.pair.serialize_pem()))
    }

    /// The public key.
    pub fn public(&self) -> &[u8; PUBLIC_KEY_BYTES] {
        &self.public
    }

    /// Signs `message`.
    pub fn sign(&self, message: &[u8]) -> [u8; SIGNATURE_BYTES] {
        SigningKey::sign(&self.pair, message)
            .ok()
            .and_then(|signature| signature.try_into().ok())
            .expect("Ed25519 signs any message, in 64 bytes")
    }

    /// What rcgen signs certificates with.
    pub(super) fn pair(&self) -> &KeyPair {
        &self.pair
    }

    /// What rustls takes. It wipes its copy.
    pub(super) fn to_pkcs8(&self) -> PrivatePkcs8KeyDer<'static> {
        self.pair.serialize_der().into()
    }

    fn from_pair(pair: KeyPair) -> Option<Self> {
        let public = pair.der_bytes().try_into().ok()?;
        Some(Self { pair, public })
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey(public {})", hex::encode(self.public))
    }
}

/// Whether `signature` is that of `message` by the private half of `public`.
pub fn verify(
    public: &[u8; PUBLIC_KEY_BYTES],
    message: &[u8],
    signature: &[u8; SIGNATURE_BYTES],
) -> bool {
    UnparsedPublicKey::new(&ED25519, public)
        .verify(message, signature)
        .is_ok()
}

/// Why a key file gives no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// It cannot be read, or not safely.
    #[error(transparent)]
    File(#[from] FileError),
    /// It holds something else.
    #[error("{} is not an unencrypted Ed25519 key in PKCS#8 PEM", path.display())]
    Format {
        /// Which file.
        path: PathBuf,
    },
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_key_signs_the_same_after_it_was_written_and_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("session.key");
        let key = SecretKey::generate();
        key.create_file(&path).unwrap();
        let read = SecretKey::load(&path).unwrap();
        assert_eq!(read.public(), key.public());
        assert_eq!(read.sign(b"promote"), key.sign(b"promote"));
        assert!(matches!(
            SecretKey::generate().create_file(&path),
            Err(FileError::Exists { .. })
        ));
    }

    #[test]
    fn only_the_exact_message_and_key_verify() {
        let key = SecretKey::generate();
        let mut signature = key.sign(b"promote");
        assert!(verify(key.public(), b"promote", &signature));
        assert!(!verify(key.public(), b"promotf", &signature));
        assert!(!verify(
            SecretKey::generate().public(),
            b"promote",
            &signature
        ));
        signature[3] ^= 1;
        assert!(!verify(key.public(), b"promote", &signature));
    }

    #[test]
    fn debug_shows_no_secret() {
        let key = SecretKey::generate();
        assert_eq!(
            format!("{key:?}"),
            format!("SecretKey(public {})", hex::encode(key.public()))
        );
    }

    #[test]
    fn a_file_with_another_kind_of_key_is_refused_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("p256.key");
        let other = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        file::create_secret_file(&path, &other.serialize_pem()).unwrap();
        let error = SecretKey::load(&path).unwrap_err().to_string();
        assert!(
            error.contains("p256.key is not an unencrypted Ed25519 key"),
            "{error}"
        );
    }
}
