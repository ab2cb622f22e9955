//! Control plane of one link.

pub mod config;
