//! Control plane of one link.

pub mod config;
pub mod rejoin;
pub mod tail_check;
