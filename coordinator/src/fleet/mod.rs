//! The fleet: which hosts there are, and the connections to them.

pub mod hub;
mod inventory;
pub mod leases;

pub use inventory::{CANARY_GROUP, Host, Inventory, InventoryError, Site};
