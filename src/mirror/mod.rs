//! The decisions: state and event in, actions out. No I/O, no clock.

pub mod filter;
pub mod follower;
pub mod lineage;
pub mod partition;
