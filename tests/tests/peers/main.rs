//! What one bad peer, or one bad disk, does to the others: real processes on loopback, without root.

#![allow(clippy::unwrap_used, reason = "tests")]

mod deltas;
mod evil;
mod nodes;
mod priorities;
mod rot;
mod scene;
