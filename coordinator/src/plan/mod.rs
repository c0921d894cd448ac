//! What is to go where: the plan over a fleet, and what a rollout along it would take.

pub mod overview;
pub mod planner;
pub mod rehearsal;
pub mod simulate;
