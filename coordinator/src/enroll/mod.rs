//! Enrolling hosts that have a token: who may have which identity, and the two ways to them.
//!
//! [`Tokens`] keeps what was handed out, by hash. [`Enroller`] answers one claim on one link; what it says to whoever has
//! no good token is always the same. [`dial`] goes to hosts that wait at their addresses, so that nothing
//! listens here; [`listen`] is for hosts whose address nobody knows, for a stated time, behind a [`Gate`].

pub mod dial;
mod enroller;
mod gate;
pub mod listen;
mod tokens;

pub use self::{
    enroller::{Enroller, Failure, Success},
    gate::{Gate, Network, Turned},
    tokens::{
        DeniedHost, Redeemed, TOKENS_MAX, TokenError, TokenRecord, TokenRefusal, TokenState,
        Tokens, Untaken, Use,
    },
};
