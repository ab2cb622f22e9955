//! Our seat in the destination cluster: a broker without disks that leads the mirror partitions.

pub mod config;
pub mod leader;
pub mod replica;
