//! The control tree: orders down, reports up.
//!
//! A coordinator dials a few hosts; these dial others for it, and so on. Each passes down what concerns hosts below it, and
//! up what they say. All that travels is signed by who made it, so who relays can delay it and never change it.

mod driver;
pub mod engine;

use std::time::Duration;

pub use self::driver::{At, Command, Contact, GATHER, Teller, Tree, resolve};

/// How often a host says something to who is above it, if only that it is there.
pub(crate) const BEAT: Duration = Duration::from_millis(400);
