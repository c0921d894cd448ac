//! What a side shows of itself at the start of a session or control stream: the membership that a coordinator signed for it.
//!
//! It goes along with the first frame either way, the `Open` and the `Hello` that answers it, as an extension of the envelope. Who it
//! is about is checked against the certificate of the link, so that nobody shows another's.

use bytes::Bytes;

use super::Envelope;
use crate::{codec, release::SignedMembership};

/// A [`SignedMembership`]. Who does not know it, or gets none, goes by what plans say alone.
const MEMBERSHIP: u16 = 16;

impl<M> Envelope<M> {
    /// The same, showing a membership. One that is too long for an extension is not shown: so many environments and audiences no
    /// host is in.
    #[must_use]
    pub fn showing(self, membership: Option<&SignedMembership>) -> Self {
        let Some(membership) = membership else {
            return self;
        };
        let bytes = Bytes::from(codec::encode(membership));
        let with = self.extensions.clone().with(MEMBERSHIP, bytes);
        Self {
            extensions: with.unwrap_or(self.extensions),
            ..self
        }
    }

    /// The membership that is shown, not verified; none where there is none, or it cannot be read.
    pub fn membership_unverified(&self) -> Option<SignedMembership> {
        codec::decode(self.extensions.get(MEMBERSHIP)?).ok()
    }
}
