//! Catching up: a host that was away, lost its disk or was installed today learns from its peers which releases are the
//! stable ones, with no coordinator there.
//!
//! [`engine`] says when whom to ask, and [`choose`] what follows from the answers: both without socket, disk, clock or task.
//! The daemon asks, verifies what comes, fetches with the node, and has the activator switch, which verifies it all again.

pub mod choose;
pub mod engine;
mod settings;

pub use settings::{Peer, PeerError, Policy, Settings};
