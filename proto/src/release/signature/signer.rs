//! Signing with a deployer's key.

use std::path::{Path, PathBuf};

use ssh_agent_client_rs::{Client, Identity};
use ssh_key::{
    HashAlg, LineEnding, PrivateKey, PublicKey, SshSig,
    private::{Ed25519Keypair, KeypairData},
};
use zeroize::Zeroizing;

use super::{SshSignature, fingerprint, is_supported};
use crate::identity::{FileError, create_file, create_secret_file, read_secret_file};

/// A key that signs for a deployer: one from a file, or one that an ssh-agent holds.
pub struct Signer {
    public: PublicKey,
    source: Source,
}

enum Source {
    File(Box<PrivateKey>),
    Agent(PathBuf),
}

impl Signer {
    /// Makes a new Ed25519 key and writes it, unencrypted, to `path` (OpenSSH's format, mode 0600),
    /// and its public half beside it with `.pub` added to the name. After a crash each file is
    /// there whole or not at all.
    ///
    /// # Errors
    /// [`SignError::File`]: a key is never replaced; [`SignError::Key`] where `comment` is none.
    pub fn create(path: &Path, comment: &str) -> Result<Self, SignError> {
        let key_error = |source| SignError::Key {
            path: path.into(),
            source,
        };
        let mut seed = Zeroizing::new([0; 32]);
        aws_lc_rs::rand::fill(seed.as_mut()).expect("the system gives randomness");
        let pair = KeypairData::Ed25519(Ed25519Keypair::from_seed(&seed));
        let key = PrivateKey::new(pair, comment).map_err(key_error)?;
        let public = key.public_key().to_openssh().map_err(key_error)?;
        create_secret_file(path, &key.to_openssh(LineEnding::LF).map_err(key_error)?)?;
        let mut public_path = path.as_os_str().to_owned();
        public_path.push(".pub");
        create_file(Path::new(&public_path), &format!("{public}\n"))?;
        Ok(Self::with_key(key))
    }

    /// Reads an unencrypted OpenSSH key file.
    ///
    /// # Errors
    /// [`SignError::File`], in particular where group or others may access it;
    /// [`SignError::Encrypted`]; [`SignError::Kind`]; [`SignError::Key`].
    pub fn from_file(path: &Path) -> Result<Self, SignError> {
        let text = read_secret_file(path)?;
        let key = PrivateKey::from_openssh(text.as_bytes()).map_err(|source| SignError::Key {
            path: path.into(),
            source,
        })?;
        if key.is_encrypted() {
            return Err(SignError::Encrypted { path: path.into() });
        }
        if key.key_data().ed25519().is_none() {
            return Err(SignError::Kind {
                found: key.algorithm(),
            });
        }
        Ok(Self::with_key(key))
    }

    /// Uses the key `public` of the ssh-agent that listens at `socket` (`SSH_AUTH_SOCK`). Blocks.
    ///
    /// # Errors
    /// [`SignError::Agent`], [`SignError::NotInAgent`], [`SignError::Kind`].
    pub fn from_agent(socket: &Path, public: &PublicKey) -> Result<Self, SignError> {
        if !is_supported(&public.algorithm()) {
            return Err(SignError::Kind {
                found: public.algorithm(),
            });
        }
        let listed = agent_keys(socket)?
            .into_iter()
            .find(|listed| listed.key_data() == public.key_data())
            .ok_or_else(|| SignError::NotInAgent {
                socket: socket.into(),
                fingerprint: fingerprint(public.key_data()),
            })?;
        Ok(Self {
            public: listed,
            source: Source::Agent(socket.into()),
        })
    }

    /// The public key.
    pub fn public_key(&self) -> &PublicKey {
        &self.public
    }

    /// The fingerprint of the key, as `ssh-keygen -l` shows it.
    pub fn fingerprint(&self) -> String {
        fingerprint(self.public.key_data())
    }

    /// Signs `message` in `namespace`, as `ssh-keygen -Y sign -n namespace` does. With an agent it
    /// blocks for as long as the agent takes: a token may wait for a touch.
    ///
    /// # Errors
    /// [`SignError::Sign`] where the namespace is empty or the agent gave a signature that is not
    /// one; [`SignError::Agent`], in particular where the agent declines.
    pub fn sign(&self, namespace: &str, message: &[u8]) -> Result<SshSignature, SignError> {
        let failed = |source| SignError::Sign {
            fingerprint: self.fingerprint(),
            source,
        };
        let signature = match &self.source {
            Source::File(key) => key
                .sign(namespace, HashAlg::Sha512, message)
                .map_err(failed)?,
            Source::Agent(socket) => {
                let data =
                    SshSig::signed_data(namespace, HashAlg::Sha512, message).map_err(failed)?;
                let signature = connect(socket)?
                    .sign(&self.public, &data)
                    .map_err(|source| SignError::agent("sign with", socket, source))?;
                let key = self.public.key_data().clone();
                SshSig::new(key, namespace, HashAlg::Sha512, signature).map_err(failed)?
            }
        };
        self.public
            .verify(namespace, message, &signature)
            .map_err(failed)?;
        Ok(SshSignature::new(&signature).expect("a signature of ours has the form of one"))
    }

    fn with_key(key: PrivateKey) -> Self {
        Self {
            public: key.public_key().clone(),
            source: Source::File(Box::new(key)),
        }
    }
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Signer({})", self.fingerprint())
    }
}

/// The keys that the ssh-agent at `socket` holds and that can sign releases, in its order. Blocks.
///
/// # Errors
/// [`SignError::Agent`].
pub fn agent_keys(socket: &Path) -> Result<Vec<PublicKey>, SignError> {
    let identities = connect(socket)?
        .list_all_identities()
        .map_err(|source| SignError::agent("list the keys of", socket, source))?;
    Ok(identities
        .into_iter()
        .filter_map(|identity| match identity {
            Identity::PublicKey(key) if is_supported(&key.algorithm()) => Some(key.into_owned()),
            _ => None,
        })
        .collect())
}

fn connect(socket: &Path) -> Result<Client, SignError> {
    Client::connect(socket).map_err(|source| SignError::agent("connect to", socket, source))
}

/// Why nothing was signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// A key file cannot be read or written, or not safely.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file is no key in OpenSSH's format.
    #[error("read {} as an OpenSSH private key", path.display())]
    Key {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        source: ssh_key::Error,
    },
    /// The key is encrypted.
    #[error("{} is encrypted (hint: ssh-add it, and sign through ssh-agent)", path.display())]
    Encrypted {
        /// Which file.
        path: PathBuf,
    },
    /// The key is of a kind that does not sign releases.
    #[error("a key of type {found}, and only Ed25519 signs releases (hint: ssh-keygen -t ed25519)")]
    Kind {
        /// What it is.
        found: ssh_key::Algorithm,
    },
    /// The agent did not do what it was asked.
    #[error("{doing} the ssh-agent at {}", socket.display())]
    Agent {
        /// What was asked.
        doing: &'static str,
        /// Where it listens.
        socket: PathBuf,
        /// What came of it.
        source: Box<ssh_agent_client_rs::Error>,
    },
    /// The agent does not have the key.
    #[error("the ssh-agent at {} does not hold {fingerprint} (hint: ssh-add it)", socket.display())]
    NotInAgent {
        /// Where it listens.
        socket: PathBuf,
        /// Which key.
        fingerprint: String,
    },
    /// The signature could not be made, or is not one.
    #[error("sign with {fingerprint}")]
    Sign {
        /// Which key.
        fingerprint: String,
        /// Why.
        source: ssh_key::Error,
    },
}

impl SignError {
    fn agent(doing: &'static str, socket: &Path, source: ssh_agent_client_rs::Error) -> Self {
        Self::Agent {
            doing,
            socket: socket.into(),
            source: Box::new(source),
        }
    }
}
