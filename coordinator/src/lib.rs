//! The coordinator: turns commits into snapshots, signs releases, seeds them and rolls them out.

mod beneath;
pub mod cli;
pub mod contained;
pub mod enroll;
pub mod fleet;
pub mod git;
pub mod plan;
pub mod rollout;
pub mod scap;
pub mod seed;
pub mod snapshot;
pub mod ssh;
pub mod state;
