//! What can be broken in a fleet. Processes are broken through their handles: `kill9`, `stop`.

mod disk;
mod link;

pub use disk::SmallDisk;
