//! The messages on streams.

pub mod chunk;
pub mod close;
pub mod config;
pub mod control;
pub mod peer;
pub mod renewal;
pub mod shown;
pub mod stable;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    codec::Extensible, extensions::Extensions, identity::TrustMark, release::SignedConfigQuestion,
};

/// A message and room to grow: what a frame holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope<M> {
    /// The message.
    pub message: M,
    /// Room to grow.
    pub extensions: Extensions,
}

impl<M> Extensible for Envelope<M> {
    fn extensions(&self) -> &Extensions {
        &self.extensions
    }
}

/// Beside a [`Hello`]: which fleet trust its sender holds to, a [`TrustMark`]. Who does not know it is told of none.
const TRUST: u16 = 20;

impl<M> Envelope<M> {
    /// The same, from who holds to that fleet trust.
    pub fn trusting(self, mark: TrustMark) -> Self {
        let bytes = Bytes::copy_from_slice(&mark.to_bytes());
        let extensions = self.extensions.with(TRUST, bytes);
        let extensions = extensions.expect("one, of a few bytes");
        Self { extensions, ..self }
    }

    /// Which fleet trust its sender holds to; none where it does not say.
    pub fn trust(&self) -> Option<TrustMark> {
        TrustMark::from_bytes(self.extensions.get(TRUST)?)
    }
}

impl<M> From<M> for Envelope<M> {
    fn from(message: M) -> Self {
        Self {
            message,
            extensions: Extensions::default(),
        }
    }
}

/// The first frame of each stream: what it is for. Variants are only ever added at the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Open {
    /// Availability, both ways, as long as the link lives: then [`peer::PeerMessage`]s. Who dialled
    /// opens it, once.
    Session(Hello),
    /// Orders down and reports up: then [`control::ControlMessage`]s. Who is nearer to the
    /// coordinator opens it, once.
    Control(Hello),
    /// One chunk: the answer is a [`chunk::ReplyHeader`] and the chunk's encoded bytes.
    Chunk(chunk::ChunkRequest),
    /// Which releases are the stable ones? The answer is as [`stable`] says.
    Stable(Box<stable::StableQuestion>),
    /// What would config files change? The answer is as [`config`] says.
    Config(Box<SignedConfigQuestion>),
}

/// The bit of [`Hello::features`] of who takes a renewal on a control stream. To others none is sent.
const RENEWALS: u64 = 1;

/// What a side is, said once at the start of a session or control stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The version of the software, for people.
    pub software: String,
    /// Optional abilities; bits that the other side does not know are ignored.
    pub features: u64,
}

impl Hello {
    /// What this software says of itself.
    pub fn ours() -> Self {
        Self {
            software: concat!("scap ", env!("CARGO_PKG_VERSION")).into(),
            features: RENEWALS,
        }
    }

    /// Whether it takes a [`control::ControlMessage::Renewal`].
    pub fn takes_renewals(&self) -> bool {
        self.features & RENEWALS != 0
    }
}
