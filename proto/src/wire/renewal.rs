//! A link on which a coordinator renews a host's certificate, and nothing else is done.
//!
//! The coordinator dials with [`RENEWAL_ALPN`](crate::transport::RENEWAL_ALPN) and sees in the handshake until when the host's
//! certificate is valid, and that the host has its key. Where nothing is to be done it closes the link. Else it opens a
//! stream, sends a [`RenewalRequest`] and ends its side. The answer is one [`RenewalAnswer`], and the end of the stream.

use serde::{Deserialize, Serialize};

use crate::release::SignedRenewal;

/// What a coordinator says. Variants are only ever added at the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RenewalRequest {
    /// Use this certificate from now on.
    Install(Box<SignedRenewal>),
}

/// What the host answers. Variants are only ever added at the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RenewalAnswer {
    /// It is on disk, and shown from now on.
    Installed {
        /// Its last instant, in milliseconds since 1970.
        until_unix_ms: u64,
    },
    /// It is not taken; why. At most [`crate::limits::REASON_BYTES_MAX`] bytes.
    Refused(String),
    /// It cannot be kept; why. At most [`crate::limits::REASON_BYTES_MAX`] bytes.
    Failed(String),
}
