//! The harness: fleets of real processes in network namespaces, faults, and checkers.
//!
//! A fleet test builds a [`fleet::Fleet`], drives the command lines in it, breaks things with
//! [`faults`], and compares what went live with what git says by [`tree`]. [`evil`] is a peer that
//! breaks the rules from inside the fleet; [`fuzz`] is what reads bytes of others, one function each.

pub mod evil;
pub mod faults;
pub mod fleet;
pub mod fuzz;
pub mod repo;
pub mod sim;
pub mod thief;
pub mod tree;
