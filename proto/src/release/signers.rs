//! A new signers file: who may release from now on, said by those who might until then.
//!
//! As with the root role of The Update Framework, a link of the chain is signed by enough of the keys of the file before it *and*
//! of the file that it brings, so that nobody is locked out by a file whose keys nobody holds. A host goes from one to the next
//! and skips none: one that was away takes several in one go. The links travel in grants, and prove themselves: whoever carries
//! them changes nothing.

use std::num::NonZeroUsize;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    codec::{self, CodecError, Extensible},
    extensions::Extensions,
    identity::{FleetName, VouchedSigners},
    limits::{EXTENSION_BYTES_MAX, SIGNATURES_MAX},
    release::{
        signature::{
            AllowedSigners, LineError, Quorum, SignError, SignatureError, Signer, SshSignature,
        },
        signed::{SignedObject, UnixMillis},
    },
};

/// Which signers file follows on which.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignersFile {
    /// Its number: one more than that of the file before it. The file that a fleet begins with is 0.
    pub number: u64,
    /// The BLAKE3 of the file before it.
    pub previous: [u8; 32],
    /// The file, as OpenSSH reads it.
    pub text: String,
    /// After this no host takes it as the last of a chain.
    pub expires: UnixMillis,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Extensible for SignersFile {
    fn extensions(&self) -> &Extensions {
        &self.extensions
    }
}

impl SignedObject for SignersFile {
    const MAGIC: &'static str = "scap-signers/1\n";
}

/// A link of the chain, as it travels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedSigners {
    /// The payload of a [`SignersFile`].
    pub payload: Bytes,
    /// Armoured SSHSIG signatures in the [namespace](signers_namespace) of the fleet, 1 to [`SIGNATURES_MAX`].
    pub signatures: Vec<SshSignature>,
}

/// The SSHSIG namespace in which the signers files of a fleet are signed. That of a file's keys that may bring the next one
/// say it in their `namespaces=`.
pub fn signers_namespace(fleet: &FleetName) -> String {
    format!("scap-signers:{fleet}")
}

impl SignedSigners {
    /// One without signatures: see [`Self::sign`].
    pub fn unsigned(file: &SignersFile) -> Self {
        Self {
            payload: file.to_payload(),
            signatures: Vec::new(),
        }
    }

    /// Adds the signature of one more key.
    ///
    /// # Errors
    /// [`SignError`].
    pub fn sign(&mut self, fleet: &FleetName, signer: &Signer) -> Result<(), SignError> {
        let signature = signer.sign(&signers_namespace(fleet), &self.payload)?;
        self.signatures.push(signature);
        Ok(())
    }

    /// What it says, which is not proved to be anybody's word.
    ///
    /// # Errors
    /// [`CodecError`].
    pub fn read_unverified(&self) -> Result<SignersFile, CodecError> {
        SignersFile::from_payload(&self.payload)
    }

    /// As a grant carries it.
    ///
    /// # Errors
    /// [`SignersError::TooLong`].
    pub fn encode(&self) -> Result<Bytes, SignersError> {
        let bytes = codec::encode(self);
        match bytes.len() {
            0..=EXTENSION_BYTES_MAX => Ok(bytes.into()),
            length => Err(SignersError::TooLong(length)),
        }
    }
}

/// The signers file that is followed, and its place in the chain.
#[derive(Debug, Clone)]
pub struct SignersInForce {
    number: u64,
    text: String,
    signers: AllowedSigners,
}

impl SignersInForce {
    /// A file that is followed by somebody's word who need not prove it: as a host was enrolled with it.
    ///
    /// # Errors
    /// [`LineError`].
    pub fn new(number: u64, text: String) -> Result<Self, LineError> {
        let signers = text.parse()?;
        Ok(Self {
            number,
            text,
            signers,
        })
    }

    /// Its place in the chain.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The file.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The BLAKE3 of the file.
    pub fn hash(&self) -> [u8; 32] {
        *blake3::hash(self.text.as_bytes()).as_bytes()
    }

    /// Who may sign what by it.
    pub fn signers(&self) -> &AllowedSigners {
        &self.signers
    }

    /// The file that a link brings that was taken before: that it follows is checked, and no signature.
    ///
    /// # Errors
    /// [`SignersError`].
    pub fn retaken(&self, link: &SignedSigners) -> Result<Self, SignersError> {
        let file = link.read_unverified()?;
        let expected = self.number.saturating_add(1);
        if file.number != expected {
            let offered = file.number;
            return Err(SignersError::Skipped { expected, offered });
        }
        if file.previous != self.hash() {
            return Err(SignersError::OtherBefore(file.number));
        }
        Ok(Self::new(file.number, file.text)?)
    }

    /// The file that a link brings, where it is the next one and `threshold` distinct keys of this file and as many of the new one
    /// signed it. Its time is not looked at: see [`Self::follow`].
    ///
    /// # Errors
    /// [`SignersError`].
    pub fn next(
        &self,
        link: &SignedSigners,
        fleet: &FleetName,
        threshold: NonZeroUsize,
        now: UnixMillis,
    ) -> Result<Self, SignersError> {
        self.next_by(link, &FollowBy::now(fleet, threshold, now), false)
    }

    fn next_by(
        &self,
        link: &SignedSigners,
        by: &FollowBy<'_>,
        is_vouched: bool,
    ) -> Result<Self, SignersError> {
        let signatures = link.signatures.len();
        if signatures > SIGNATURES_MAX {
            return Err(SignersError::Signatures(signatures));
        }
        let new = self.retaken(link)?;
        let namespace = signers_namespace(by.fleet);
        for (whose, signers) in [("before", &self.signers), ("new", &new.signers)] {
            let quorum = Quorum {
                signatures: &link.signatures,
                threshold: by.threshold,
            };
            let verified = match is_vouched {
                true => {
                    let signers = signers.without_times();
                    signers.verify_threshold(&namespace, &link.payload, quorum, by.now.0)
                }
                false => signers.verify_threshold(&namespace, &link.payload, quorum, by.now.0),
            };
            verified.map_err(|source| SignersError::OneSide {
                number: new.number,
                whose,
                source: source.into(),
            })?;
        }
        Ok(new)
    }

    /// The file at the end of a chain whose links come in their order; those that were taken before are passed over. None of it is
    /// taken where one link does not hold or the last one is past its time; links before the last may be, since a host may have been
    /// away for long.
    ///
    /// # Errors
    /// [`SignersError`].
    pub fn follow(
        &self,
        chain: &[SignedSigners],
        fleet: &FleetName,
        threshold: NonZeroUsize,
        now: UnixMillis,
    ) -> Result<Self, SignersError> {
        self.follow_by(chain, &FollowBy::now(fleet, threshold, now))
    }

    /// The same. No signature tells when it was made, so a key that is over by now does not count: it may have been stolen since. But on the
    /// way to the very file that the fleet's authority vouches for it does: whatever a thief signs with it leads elsewhere.
    ///
    /// # Errors
    /// [`SignersError`].
    pub fn follow_by(
        &self,
        chain: &[SignedSigners],
        by: &FollowBy<'_>,
    ) -> Result<Self, SignersError> {
        let files: Vec<SignersFile> = chain
            .iter()
            .map(SignedSigners::read_unverified)
            .collect::<Result<_, _>>()?;
        let is_it = |file: &SignersFile, vouched: &VouchedSigners| {
            file.number == vouched.number
                && *blake3::hash(file.text.as_bytes()).as_bytes() == vouched.hash
        };
        let vouched = by
            .vouched
            .filter(|it| files.iter().any(|file| is_it(file, it)));
        let mut followed = self.clone();
        let mut expires = None;
        for (link, file) in chain.iter().zip(&files) {
            if file.number <= self.number {
                continue;
            }
            let is_vouched = vouched.is_some_and(|it| file.number <= it.number);
            followed = followed.next_by(link, by, is_vouched)?;
            expires = Some(file.expires);
        }
        match expires {
            Some(at) if by.now > at => Err(SignersError::Expired {
                number: followed.number,
                at,
                now: by.now,
            }),
            _ => Ok(followed),
        }
    }
}

/// By what a chain of signers files is judged.
#[derive(Debug, Clone, Copy)]
pub struct FollowBy<'a> {
    /// Whose it must be.
    pub fleet: &'a FleetName,
    /// How many keys of each side must have signed a link.
    pub threshold: NonZeroUsize,
    /// When.
    pub now: UnixMillis,
    /// The file that the fleet's authority vouches for, where it does so.
    pub vouched: Option<VouchedSigners>,
}

impl<'a> FollowBy<'a> {
    fn now(fleet: &'a FleetName, threshold: NonZeroUsize, now: UnixMillis) -> Self {
        Self {
            fleet,
            threshold,
            now,
            vouched: None,
        }
    }
}

/// Why a signers file is not taken.
#[derive(Debug, thiserror::Error)]
pub enum SignersError {
    /// A link cannot be read.
    #[error("read a link of the chain of signers files")]
    Codec(#[from] CodecError),
    /// The file that it brings cannot be read.
    #[error("read the new signers file")]
    File(#[from] LineError),
    /// It does not fit a grant.
    #[error(
        "a signers file and its signatures are {0} bytes, and a grant carries at most {EXTENSION_BYTES_MAX}"
    )]
    TooLong(usize),
    /// More than [`SIGNATURES_MAX`].
    #[error("{0} signatures of a signers file, at most {SIGNATURES_MAX} are allowed")]
    Signatures(usize),
    /// Not the next one.
    #[error("signers file {offered} is offered, and {expected} is the next one")]
    Skipped {
        /// The number of the next one.
        expected: u64,
        /// That of the one offered.
        offered: u64,
    },
    /// It follows on another file than the one that is followed here.
    #[error("signers file {0} follows on another file than the one that is followed here")]
    OtherBefore(u64),
    /// Not enough keys of one of the two files signed it.
    #[error("signers file {number} is not signed by enough keys of the file {whose}")]
    OneSide {
        /// The number of the file.
        number: u64,
        /// Of which of the two.
        whose: &'static str,
        /// What is wrong with the signatures.
        source: Box<SignatureError>,
    },
    /// Past its time.
    #[error("signers file {number} expired at {at:?}, this clock says {now:?}")]
    Expired {
        /// The number of the file.
        number: u64,
        /// When it expired.
        at: UnixMillis,
        /// What the clock said.
        now: UnixMillis,
    },
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests;
