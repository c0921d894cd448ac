//! The fleet: which hosts there are, and the connections to them.

pub mod ask;
pub mod hub;
mod inventory;
pub mod leases;
pub mod places;
pub mod renew;
pub mod renewals;
mod ssh;
pub mod tell;
pub mod ways;

pub use inventory::{CANARY_GROUP, Host, Inventory, InventoryError, SITE_BYTES_MAX, Site};
pub use ssh::FindHostError;
