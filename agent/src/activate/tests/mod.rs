//! Activation on real directories, with snapshots in memory.

mod crash;
mod hostile;
mod pages;
mod promote;
mod spare;
mod stages;
mod world;
