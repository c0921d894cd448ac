//! What is to go where: the inventory, and what a rollout over it would take.

pub mod simulate;
