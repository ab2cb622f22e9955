//! What a verification tells: per partition and replica, in the form that people and programs get.

use serde::Serialize;

use super::compare::Difference;
use crate::types::Offset;

/// What was found of one partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PartitionReport {
    /// The link.
    pub link: String,
    /// The mirror's name.
    pub topic: String,
    /// The source topic's name.
    pub source_topic: String,
    /// The partition's number.
    pub partition: i32,
    /// First offset at the source.
    pub source_log_start_offset: i64,
    /// Offset after the last readable one at the source.
    pub source_high_watermark: i64,
    /// Each in-sync replica of the mirror on a real broker.
    pub replicas: Vec<ReplicaReport>,
    /// Why nothing could be compared.
    pub problem: Option<String>,
}

/// What was found of one replica of a mirror.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReplicaReport {
    /// The broker that holds it.
    pub broker: i32,
    /// First offset there.
    pub log_start_offset: i64,
    /// Offset after the last readable one there.
    pub high_watermark: i64,
    /// Everything below was compared, up to the first difference.
    pub compared_to: i64,
    /// Batches that are the same on both sides.
    pub batches: u64,
    /// Batches that differ by compaction alone, or that one side has compacted away.
    pub compacted: u64,
    /// The first difference.
    pub difference: Option<Difference>,
}

impl PartitionReport {
    /// Whether everything that could be compared is the same, and something could be.
    pub fn is_identical(&self) -> bool {
        self.problem.is_none()
            && !self.replicas.is_empty()
            && self.replicas.iter().all(|replica| replica.difference.is_none())
    }

    /// The least offset up to which every replica is the same as the source.
    pub fn identical_to(&self) -> Option<Offset> {
        self.replicas.iter().map(|replica| Offset(replica.compared_to)).min()
    }
}

/// What is told while a verification runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// So many more offsets will be compared.
    Planned(u64),
    /// So many more offsets have been compared.
    Compared(u64),
}
