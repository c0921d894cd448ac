//! The swarm: which chunk to ask of whom, and whom to tell what.
//!
//! One [`Swarm`] serves all transfers and all peers of a node. It has no socket, disk, clock or task:
//! the node's driver feeds it what happened and does what it says, and a simulator does the same for
//! thousands of nodes on a virtual clock.
//!
//! - **Which chunk**: of those a peer has and we lack, the one that fewest peers hold; equals at random,
//!   so that peers get different chunks and have something to give each other.
//! - **How many at a time**: to each peer what it sends in a round trip and a short queue, measured;
//!   over all peers what comes in a second, and at most a fixed number of bytes.
//! - **The end**: when all that is missing is in flight, what is late is asked of a second peer too, and
//!   whoever loses is cancelled.
//! - **Faults**: a peer that lets requests run out while others send loses them, pauses, and is dropped
//!   and named after three times in a row; one that sends wrong bytes is dropped at once. What was asked
//!   of it is asked of others.
//! - **Who is told**: peers that opened the transfer, of every chunk that came, several at a time where many come, or
//!   each of its own share ([`Reveal::OneEach`]).
//!
//! - **Lanes**: who lacks much is pushed chunks along the plan's trees, and asks only for what is late.
//!
//! Priorities have their place: they order the transfers for which a peer is asked, which now take turns.

mod bitmap;
mod engine;
mod event;
mod far;
mod gains;
mod lanes;
mod peer;
mod requests;
mod reveal;
mod standing;
mod telling;
#[cfg(test)]
mod tests;
mod transfer;
mod waiting;

pub(crate) use bitmap::Bitmap;
pub use engine::Swarm;
pub use event::{
    Ask, Config, DropReason, Failure, Input, Link, Output, PeerId, Policy, Reveal, TransferId,
};
pub use waiting::{TransferStats, Waiting};
