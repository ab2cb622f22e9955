//! lockstep mirrors topics of one Kafka cluster into another: the same bytes at the same offsets.
//!
//! The daemon takes a seat in the destination cluster as a broker without disks, leads the mirror
//! partitions, and the real brokers replicate from it. Modules, lowest layer first; a module uses
//! modules of an earlier row only, and modules of one row do not use each other (`tests/tidy.rs`):
//!
//! ```text
//!  1 types  planted
//!  2 wire   image
//!  3 mirror
//!  4 client   tail
//!  5 source   store   seat
//!  6 gateway
//!  7 link
//!  8 config
//!  9 admin
//! 10 daemon
//! 11 cli   main
//! ```
//!
//! `wire`, `image` and `mirror` decide without I/O and without a clock.

pub mod admin;
pub mod cli;
pub mod client;
pub mod config;
pub mod daemon;
pub mod gateway;
pub mod image;
pub mod link;
pub mod mirror;
#[cfg(feature = "planted-bugs")]
pub mod planted;
pub mod seat;
pub mod source;
pub mod store;
pub mod tail;
pub mod types;
pub mod wire;
