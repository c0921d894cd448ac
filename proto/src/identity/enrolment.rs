//! What a host gets back that asked for a certificate: all that its identity directory holds but the key.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    codec::{self, CodecError, Extensible},
    extensions::{ExtensionError, Extensions},
    limits::{ENROLMENT_BYTES_MAX, ENROLMENT_TRUST_PARTS_MAX, EXTENSION_BYTES_MAX},
};

/// What makes a key the identity of a node. There is no secret in it, and it is of no use without the key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrolment {
    /// The node's certificate, in PEM.
    pub certificate: String,
    /// The authorities that it is to trust, in PEM.
    pub authorities: String,
    /// Who may release, in OpenSSH's format; without it, what is there stays.
    pub allowed_signers: Option<Bytes>,
    /// The host's `host.toml`; without it, what is there stays.
    pub host: Option<Bytes>,
    /// The signed [`Membership`](crate::release::Membership), encoded; without it, what is there stays.
    pub membership: Option<Bytes>,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Enrolment {
    /// The same with whose certificates count, as a node keeps it in a file ([`Trust::keep_in`](super::Trust::keep_in)): its host
    /// then believes that from its start on. Builds that do not know it ignore it, and learn it from whoever they meet.
    ///
    /// # Errors
    /// [`ExtensionError::TooMany`]: it takes more than [`ENROLMENT_TRUST_PARTS_MAX`].
    pub fn with_trust(mut self, kept: &[u8]) -> Result<Self, ExtensionError> {
        let parts = kept.chunks(EXTENSION_BYTES_MAX);
        if parts.len() > ENROLMENT_TRUST_PARTS_MAX {
            return Err(ExtensionError::TooMany(parts.len()));
        }
        for (tag, part) in trust_tags().zip(parts) {
            self.extensions = self.extensions.with(tag, Bytes::copy_from_slice(part))?;
        }
        Ok(self)
    }

    /// What [`Self::with_trust`] put in; nothing in it is checked.
    pub fn trust(&self) -> Option<Bytes> {
        let parts = trust_tags().map_while(|tag| self.extensions.get(tag));
        let parts: Vec<&[u8]> = parts.map(AsRef::as_ref).collect();
        (!parts.is_empty()).then(|| parts.concat().into())
    }

    /// As it is sent.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = MAGIC.as_bytes().to_vec();
        bytes.extend(codec::encode(self));
        bytes
    }

    /// Reads what [`Self::encode`] wrote. Nothing in it is checked: that is for who installs it.
    ///
    /// # Errors
    /// [`EnrolmentError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, EnrolmentError> {
        if bytes.len() > ENROLMENT_BYTES_MAX {
            return Err(EnrolmentError::TooLong);
        }
        let body = bytes.strip_prefix(MAGIC.as_bytes());
        let body = body.ok_or(CodecError::Magic { expected: MAGIC })?;
        Ok(codec::decode_message(body)?)
    }
}

impl Extensible for Enrolment {
    fn extensions(&self) -> &Extensions {
        &self.extensions
    }
}

/// Why bytes are no enrolment.
#[derive(Debug, thiserror::Error)]
pub enum EnrolmentError {
    /// Longer than one may be.
    #[error("an enrolment of more than {ENROLMENT_BYTES_MAX} bytes")]
    TooLong,
    /// Something else.
    #[error("read the enrolment")]
    Codec(#[from] CodecError),
}

/// 2, 4 … 28: its parts in order.
fn trust_tags() -> impl Iterator<Item = u16> {
    (1..).map(|part| part * 2).take(ENROLMENT_TRUST_PARTS_MAX)
}

/// The first bytes: kind and version.
const MAGIC: &str = "scap-enrolment/1\n";
