//! The agent: the daemon on every target, and the [`node`] that is also the coordinator's seed.
//!
//! Engines decide, drivers do: [`swarm`], [`topology`], [`catchup`] and [`acceptance`] hold the decisions, without
//! socket, disk, clock or task; [`node`] and [`daemon`] drive them. [`activate`] is a process of its
//! own, which alone writes release directories.

pub mod acceptance;
pub mod activate;
pub mod api;
pub mod catchup;
pub mod cli;
pub mod clock;
pub mod config;
pub mod confine;
pub mod daemon;
pub mod doctor;
pub mod enroll;
pub mod enrolment;
pub mod host;
pub mod keeper;
pub mod limits;
pub mod local;
mod lock;
mod logs;
pub mod node;
pub mod notation;
pub mod relay;
mod socket;
pub mod store;
pub mod swarm;
pub mod topology;
pub mod trust;
pub mod unified;

/// An error and its causes, in one line: what was being done, and why it failed.
pub fn error_chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        // Some errors repeat their cause in their own words.
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}
