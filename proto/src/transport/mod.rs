//! Links between nodes: QUIC with TLS 1.3, both sides authenticated.
//!
//! # The handshake
//! Each side shows its certificate, and [`crate::identity::verifier`] decides on both. In TLS 1.3
//! the dialling side is done first, before the other has seen its certificate. So the side that
//! accepts opens a unidirectional stream and ends it without a byte, the *welcome*: only then is a
//! [`Link`] given out on the dialling side, and every refusal is the result of [`Endpoint::dial`],
//! on either side. Nothing is resumed and nothing is sent early: a peer is checked on each
//! connection, and no message can be replayed.
//!
//! # What is agreed
//! [`ALPN`] is for the links that nodes keep with each other; [`QUESTION_ALPN`] and [`RENEWAL_ALPN`] are for links on which
//! one thing is done. Only who dials with the last lets in a certificate that has expired.
//!
//! # The link
//! After that both sides are equal: either opens bidirectional streams, at most [`STREAMS_MAX`] at
//! a time, and unidirectional ones for what it pushes, at most [`PUSHES_MAX`]. There are no datagrams.
//! [`LinkSettings`] bounds what a peer can make us hold, [`RateCaps`] what passes in a second.

pub mod enroll;

mod accept;
mod dial;
mod endpoint;
mod first_packets;
mod handshake;
mod link;
mod pace;
mod route;
mod settings;
mod tls;
mod unproved;

#[cfg(test)]
mod tests;

pub use self::{
    accept::{AcceptError, HANDSHAKES_PER_SOURCE_MAX, Incoming},
    dial::DialError,
    endpoint::{BindError, Endpoint, SocketBuffers},
    first_packets::{FIRST_PACKETS_BURST, FIRST_PACKETS_PER_SEC_MAX},
    handshake::{HANDSHAKE_SECS_MAX, HandshakeError},
    link::{Link, LinkError, LinkStats, MESSAGES_PRIORITY, RecvStream, SendStream},
    pace::{Content, Rate, RateCaps, RateError, Traffic},
    settings::{IDLE_SECS_MAX, KEEP_ALIVE_SECS, LinkSettings, PUSHES_MAX, STREAMS_MAX},
    tls::{ALPN, QUESTION_ALPN, RENEWAL_ALPN},
};
