//! Real processes on hosts with addresses of their own, and what happens when things break.
//!
//! Needs root, for network namespaces; elsewhere each test says that it is skipped. Tests take
//! turns, also with other test processes. `SCAP_TESTS_KEEP=1` keeps a fleet's directory.

#![allow(clippy::unwrap_used, reason = "tests")]

mod activation;
mod ahead;
mod broken;
mod caps;
mod catching_up;
mod deltas;
mod deploys;
mod harness;
mod plans;
mod relays;
mod rollout;
mod scap_folder;
mod scene;
mod sites;
mod sizes;
mod slow_peers;
mod via;
mod waves;
