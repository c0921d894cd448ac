//! What one bad peer, or one bad disk, does to the others: real processes on loopback, without root.

#![allow(clippy::unwrap_used, reason = "tests")]

mod alone;
mod asker;
mod catching_up;
mod deltas;
mod digests;
mod evil;
mod few_files;
mod floods;
mod goodput;
mod leeches;
mod little_memory;
mod nodes;
mod oversized;
mod priorities;
mod readers;
mod rot;
mod scene;
mod watched;
