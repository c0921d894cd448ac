//! The protocol of scap, in types.
//!
//! # Roles
//! A **coordinator** turns a commit into a content-addressed [`content`] snapshot, signs a
//! [`release`] of it, dials agents and seeds the chunks. **Agents** fetch chunks from the seed and
//! from each other and activate releases. TLS says *who is in the fleet* ([`identity`]); signatures
//! on releases say *what may be done* ([`release`]).
//!
//! # Streams
//! A link ([`transport`]) carries bidirectional streams. The first frame of a stream is an
//! [`wire::Open`] and says what the stream is for: the peer session, the control stream, one
//! chunk, or which releases are stable. After it a session or control stream carries [`frame`]s until it is closed; a chunk stream
//! carries a reply header and the chunk's encoded bytes; the last a frame for each release.
//!
//! # Enrolment
//! A host that has no identity yet, and a token, is none of these: see [`enroll`].
//!
//! # Versions
//! The ALPN names the major version of the protocol. Each content and signed object starts with a
//! magic that names its own version, and ends with [`extensions::Extensions`]: an unknown even tag
//! is ignored, an unknown odd tag is refused by name.
//!
//! # Failure
//! Streams are reset and connections closed with the codes in [`wire::close`].

mod bounded;
pub mod codec;
pub mod content;
pub mod enroll;
pub mod extensions;
pub mod frame;
pub mod id;
pub mod identity;
pub mod limits;
pub mod place;
pub mod reason;
pub mod release;
pub mod transport;
pub mod wire;
