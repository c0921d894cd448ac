//! A rollout: which hosts take which stage when, and what that waits for.

mod command;
mod driver;
mod engine;
mod external;
mod glance;
mod host;
mod moves;
mod policy;
mod renewal;
mod rollback;
mod spent;
mod steps;
mod table;
mod telling;
#[cfg(test)]
mod tests;
mod wait;
mod waiting;
mod waves;
mod why;

pub use command::{Command, CommandError};
pub use driver::{Desk, Ended, Look, Request, Session, Watcher, run};
pub use engine::{Cause, Config, EPOCH_JUMP_MAX, Engine, Input, Output, Verdict};
pub use external::{ExternalCheck, TIMEOUT as EXTERNAL_CHECK_TIMEOUT};
pub use glance::{At, Glance, Oldest, WaveGlance};
pub use host::{HostProgress, HostState};
pub use moves::Move;
pub use policy::{Budget, BudgetError, Limit, Policy, Prefetch, PrefetchError, Wave};
pub use spent::Spent;
pub use steps::Steps;
pub use table::{PolicyError, Table, WaveTable};
pub use wait::{Wait, WaitingOn};
pub use why::{Link, Surroundings, Why};
