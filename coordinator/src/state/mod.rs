//! What is kept between deployments: the state directory of this machine.

mod directory;

pub use directory::{Lock, Made, Record, SNAPSHOTS_KEPT, StateDirectory, StateError};
