//! Activation on real directories, with snapshots in memory.

mod ahead;
mod commits;
mod config_diff;
mod crash;
mod hostile;
mod pages;
mod promote;
mod racing;
mod shapes;
mod spare;
mod stages;
mod world;
