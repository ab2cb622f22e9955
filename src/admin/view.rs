//! What the API shows of a report: the report itself, and sums of it. Also what the command line
//! reads back.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::mirror::report::{
    ClusterReport, LinkReport, LinkState, PartitionReport, PartitionState, Reason, SeatReport,
    TopicReport,
};
use crate::mirror::topic::MirrorState;

/// `GET /v1/links`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Links {
    /// Our seat in the destination cluster.
    pub seat: SeatReport,
    /// In the order of the configuration.
    pub links: Vec<Link>,
}

/// `GET /v1/links/{link}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Link {
    /// Its name in the configuration.
    pub name: String,
    /// How it is.
    pub state: LinkState,
    /// Why.
    pub reason: Option<Reason>,
    /// Since when, in milliseconds since 1970.
    pub since: i64,
    /// How many mirrors are in which state; states without mirrors are left out.
    pub mirrors: BTreeMap<MirrorState, usize>,
    /// How its mirrors do, all together.
    #[serde(flatten)]
    pub progress: Progress,
}

/// `GET /v1/links/{link}/mirrors`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mirrors {
    /// By name.
    pub mirrors: Vec<Mirror>,
}

/// One line of `GET /v1/links/{link}/mirrors`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mirror {
    /// Its name at the destination.
    pub topic: String,
    /// Its name at the source.
    pub source_topic: String,
    /// How it is.
    pub state: MirrorState,
    /// Why.
    pub reason: Option<Reason>,
    /// Since when, in milliseconds since 1970.
    pub since: i64,
    /// How many partitions it has.
    pub partition_count: usize,
    /// The worst state of a partition.
    pub partition_state: Option<PartitionState>,
    /// Why.
    pub partition_reason: Option<Reason>,
    /// Which partition that is.
    pub worst_partition: Option<i32>,
    /// How its partitions do, all together.
    #[serde(flatten)]
    pub progress: Progress,
}

/// Sums over partitions. A sum of offsets counts only partitions where the offset is known.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Sum of the source's high watermarks.
    pub source_end_offset_sum: i64,
    /// Sum of the mirror's high watermarks.
    pub high_watermark_sum: i64,
    /// Offsets at the source that are not readable at the destination; `None`: unknown somewhere.
    pub lag_records: Option<u64>,
    /// The same in bytes: an estimate by the mean size of the records copied so far.
    pub lag_bytes: Option<u64>,
    /// Age of the oldest record not yet readable at the destination; `None`: unknown somewhere.
    pub lag_seconds: Option<f64>,
    /// Record bytes copied since the daemon started.
    pub bytes_total: u64,
    /// Records copied since the daemon started.
    pub records_total: u64,
    /// Batches copied since the daemon started.
    pub batches_total: u64,
}

impl Progress {
    fn of<'a>(partitions: impl Iterator<Item = &'a PartitionReport> + Clone) -> Self {
        let start = Self {
            lag_records: Some(0),
            lag_bytes: Some(0),
            lag_seconds: Some(0.0),
            ..Self::default()
        };
        // Those that another seat leads count there: sums over the daemons are right, and nothing is said
        // of what is not known here.
        let known = partitions.clone().filter(|one| one.state != PartitionState::Standby);
        if known.clone().next().is_none() && partitions.clone().next().is_some() {
            return Self::default();
        }
        known.fold(start, Self::plus)
    }

    fn plus(self, one: &PartitionReport) -> Self {
        Self {
            source_end_offset_sum: self.source_end_offset_sum + one.source_end_offset.unwrap_or(0),
            high_watermark_sum: self.high_watermark_sum + one.high_watermark.unwrap_or(0),
            lag_records: self.lag_records.zip(one.lag_records).map(|(a, b)| a + b),
            lag_bytes: self.lag_bytes.zip(lag_bytes(one)).map(|(a, b)| a.saturating_add(b)),
            lag_seconds: self.lag_seconds.zip(one.lag_seconds).map(|(a, b)| a.max(b)),
            bytes_total: self.bytes_total + one.bytes_total,
            records_total: self.records_total + one.records_total,
            batches_total: self.batches_total + one.batches_total,
        }
    }
}

/// The lag in bytes, by the mean size of the records copied so far; `None` before the first.
pub fn lag_bytes(partition: &PartitionReport) -> Option<u64> {
    match (partition.lag_records?, partition.records_total) {
        (0, _) => Some(0),
        (_, 0) => None,
        (lag, records) => Some(lag.saturating_mul(partition.bytes_total / records)),
    }
}

impl Links {
    /// The links of a report.
    pub fn of(report: &ClusterReport) -> Self {
        Self { seat: report.seat.clone(), links: report.links.iter().map(Link::of).collect() }
    }
}

impl Link {
    /// One link of a report.
    pub fn of(link: &LinkReport) -> Self {
        let mut mirrors = BTreeMap::new();
        for topic in &link.topics {
            *mirrors.entry(topic.state).or_default() += 1;
        }
        Self {
            name: link.name.clone(),
            state: link.state,
            reason: link.reason,
            since: link.since,
            mirrors,
            progress: Progress::of(link.topics.iter().flat_map(|topic| &topic.partitions)),
        }
    }
}

impl Mirrors {
    /// The mirrors of one link.
    pub fn of(link: &LinkReport) -> Self {
        let mut mirrors: Vec<_> = link.topics.iter().map(Mirror::of).collect();
        mirrors.sort_by(|a, b| a.topic.cmp(&b.topic));
        Self { mirrors }
    }
}

impl Mirror {
    /// One mirror of a link.
    pub fn of(topic: &TopicReport) -> Self {
        let worst = topic.partitions.iter().max_by_key(|partition| {
            (severity(partition.state), partition.lag_records, -partition.partition)
        });
        Self {
            topic: topic.topic.clone(),
            source_topic: topic.source_topic.clone(),
            state: topic.state,
            reason: topic.reason,
            since: topic.since,
            partition_count: topic.partitions.len(),
            partition_state: worst.map(|partition| partition.state),
            partition_reason: worst.and_then(|partition| partition.reason),
            worst_partition: worst.map(|partition| partition.partition),
            progress: Progress::of(topic.partitions.iter()),
        }
    }
}

fn severity(state: PartitionState) -> u8 {
    match state {
        PartitionState::InSync | PartitionState::Standby => 0,
        PartitionState::CatchingUp => 1,
        PartitionState::SourceUnavailable => 2,
        PartitionState::DestinationUnavailable => 3,
        PartitionState::Failed => 4,
    }
}
