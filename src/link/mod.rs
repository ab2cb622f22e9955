//! Control plane of one link.

pub mod rejoin;
pub mod tail_check;
