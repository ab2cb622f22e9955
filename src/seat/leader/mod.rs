//! Leadership over mirror partitions: one task owns them all; others talk to it by its handle.

mod handle;

pub use handle::{Command, LeaderHandle, LedPartition, MirrorTopic};
