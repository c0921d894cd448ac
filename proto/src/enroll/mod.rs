//! How a host that has only a token becomes a member of its fleet.
//!
//! A [`Token`] is one line of text: it names the fleet, pins its authority and holds a secret of 256
//! bits. Over a link of its own ([`crate::transport::enroll`]), on which the host has seen a coordinator that the
//! pinned authority certified, the host sends a [`Claim`]: the secret, and the request for a certificate of the key
//! that it made. The coordinator knows of each secret its [`TokenHash`], and for which host it is; what the host
//! says of itself counts for nothing. The [`Answer`] is what an identity directory holds beside the key, or a
//! refusal, which is the same whatever the reason.
//!
//! # On the wire
//! The host opens one bidirectional stream and sends the claim as one frame. One frame comes back. The host ends its side
//! once the identity is on its disk, which tells the coordinator so; where the link ends otherwise, the same
//! claim may be made again.

mod exchange;
mod message;
mod token;

pub use self::{
    exchange::{Answering, ExchangeError, Installing, claim, receive},
    message::{Answer, CLAIM_BYTES_MAX, Claim},
    token::{
        ParseTokenError, ReadTokenError, TOKEN_BYTES_MAX, Token, TokenHash, TokenId, TokenSecret,
    },
};
