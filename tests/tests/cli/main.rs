//! The two command lines as people and scripts meet them: exit codes, what goes to which stream, and
//! that nothing is lost when something is wrong.
//!
//! Real processes on loopback, without root, each test in a directory of its own.

#![allow(clippy::unwrap_used, reason = "tests")]

mod ask_hosts;
mod checks_back;
mod config_diff;
mod confined;
mod daemon;
mod dead_man;
mod demo;
mod deploys;
mod enroll_ssh;
mod fleet;
mod fleet_file;
mod flips;
mod forty;
mod incremental;
mod interrupts;
mod killed_agent;
mod killed_coordinator;
mod live_tree;
mod local_users;
mod odd_trees;
mod output;
mod places;
mod plan;
mod process;
mod refusals;
mod renewal;
mod resume;
mod revoked;
mod rollback_upstream;
mod rollout;
mod rotated;
mod scap_folder;
mod scene;
mod secrets;
mod signatures;
mod signed_commits;
mod sources;
mod spare;
mod sshd;
mod stages;
mod state;
mod state_branch;
mod supervised;
mod terminal;
mod tokens;
mod undo;
mod unsafe_places;
mod why;
