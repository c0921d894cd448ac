//! A rollout: which hosts take which stage when, and what that waits for.

mod driver;
mod engine;
#[cfg(test)]
mod tests;

pub use driver::{Ended, Session, Watcher, run};
pub use engine::{
    Config, Engine, HostProgress, HostState, Input, Output, Verdict, WaitingOn, Wave,
};
