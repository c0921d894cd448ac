//! The two messages.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::token::TokenSecret;

/// Longest frame of a claim, in bytes: a secret, a request of at most
/// [`REQUEST_BYTES_MAX`](crate::identity::REQUEST_BYTES_MAX), and room to grow. Whoever sends it has shown nothing before.
pub const CLAIM_BYTES_MAX: u32 = 8 * 1024;

/// What a host says that is not enrolled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// The secret of its token.
    pub secret: TokenSecret,
    /// The request for a certificate of its key: PKCS#10 in PEM.
    pub request: String,
}

/// What it is answered. Variants are only ever added at the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// Who it is now: an [`Enrolment`](crate::identity::Enrolment), encoded.
    Identity(Bytes),
    /// Its token, or its request, is not good. Which, and why, is told to the operator alone.
    Refused,
}
