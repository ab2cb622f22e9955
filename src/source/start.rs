//! Where the logs of the source begin and end: ListOffsets, for many partitions of one broker at
//! once, over the shared connection, so that a slow lookup by time delays no fetch.

use std::collections::{BTreeMap, HashMap};

use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::{
    self, ListOffsetsRequest, ListOffsetsResponse, list_offsets_response,
};
use kafka_protocol::protocol::StrBytes;

use super::partition::Partition;
use crate::client::{ClientError, Cluster, Connection};
use crate::tail::{Bounds, StartAt};
use crate::types::{BrokerId, Offset, TopicName};

/// Timestamps with a meaning of their own.
const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
/// Only tiered storage looks at it: how long a lookup there may take, in milliseconds.
const TIERED_LOOKUP_MS: i32 = 10_000;

/// What the source says of one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// Log start and high watermark.
    pub bounds: Bounds,
    /// The offset that the order's start means.
    pub start: Offset,
}

/// An error code for one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refused(pub i16);

/// Answers for the partitions that were asked about, in their order.
pub(super) type Findings = Vec<Result<Found, Refused>>;

/// Asks `broker` where the logs of `partitions` begin and end, and where their orders start.
pub(super) async fn look_up(
    cluster: &Cluster,
    broker: BrokerId,
    partitions: &[Box<Partition>],
) -> Result<Findings, ClientError> {
    let connection = cluster.broker(broker).await?;
    let everywhere = |timestamp| move |_: &Partition| Some(timestamp);
    let at_times = |partition: &Partition| match (partition.position, partition.follow.start) {
        (None, StartAt::Time(time)) => Some(time),
        _ => None,
    };
    let (starts, ends, times) = tokio::try_join!(
        list(&connection, partitions, everywhere(EARLIEST)),
        list(&connection, partitions, everywhere(LATEST)),
        list(&connection, partitions, at_times),
    )?;
    let findings = partitions.iter().map(|partition| {
        let log_start = starts.of(partition)?;
        let high_watermark = ends.of(partition)?;
        let start = match partition.follow.start {
            StartAt::Earliest => log_start,
            StartAt::Latest => high_watermark,
            // No record is that young: everything that is still to come is.
            StartAt::Time(_) if partition.position.is_none() => Some(times.of(partition)?)
                .filter(|offset| *offset >= Offset::ZERO)
                .unwrap_or(high_watermark),
            StartAt::Time(_) | StartAt::At(_) => partition.offset(),
        };
        let bounds = Bounds { log_start, high_watermark };
        Ok(Found { bounds, start })
    });
    Ok(findings.collect())
}

/// Offsets and error codes by topic and partition.
#[derive(Default)]
struct Listed(HashMap<String, HashMap<i32, (i16, i64)>>);

impl Listed {
    fn of(&self, partition: &Partition) -> Result<Offset, Refused> {
        let source = &partition.follow.source;
        let topic = self.0.get(source.topic.as_str());
        match topic.and_then(|topic| topic.get(&source.partition)) {
            Some(&(0, offset)) => Ok(Offset(offset)),
            Some(&(error, _)) => Err(Refused(error)),
            None => Err(Refused(NOT_ANSWERED)),
        }
    }
}

/// UNKNOWN_SERVER_ERROR: what a broker means that leaves out what was asked.
const NOT_ANSWERED: i16 = -1;

async fn list(
    connection: &Connection,
    partitions: &[Box<Partition>],
    timestamp: impl Fn(&Partition) -> Option<i64>,
) -> Result<Listed, ClientError> {
    let mut topics: BTreeMap<&TopicName, Vec<ListOffsetsPartition>> = BTreeMap::new();
    for partition in partitions {
        if let Some(timestamp) = timestamp(partition) {
            let asked = ListOffsetsPartition::default()
                .with_partition_index(partition.follow.source.partition)
                .with_current_leader_epoch(partition.leader_epoch.0)
                .with_timestamp(timestamp);
            let topic = &partition.follow.source.topic;
            topics.entry(topic).or_default().push(asked);
        }
    }
    if topics.is_empty() {
        return Ok(Listed::default());
    }
    let request = ListOffsetsRequest::default()
        .with_replica_id(messages::BrokerId(-1))
        .with_isolation_level(0)
        .with_timeout_ms(TIERED_LOOKUP_MS)
        .with_topics(topics.into_iter().map(list_topic).collect());
    Ok(listed(connection.request(&request).await?))
}

fn list_topic((name, partitions): (&TopicName, Vec<ListOffsetsPartition>)) -> ListOffsetsTopic {
    let name = StrBytes::from_string(name.as_str().to_owned());
    ListOffsetsTopic::default().with_name(messages::TopicName(name)).with_partitions(partitions)
}

fn listed(response: ListOffsetsResponse) -> Listed {
    let offset = |partition: list_offsets_response::ListOffsetsPartitionResponse| {
        let found = (partition.error_code, partition.offset);
        (partition.partition_index, found)
    };
    let topics = response.topics.into_iter().map(|topic| {
        let partitions = topic.partitions.into_iter().map(offset);
        (topic.name.0.to_string(), partitions.collect())
    });
    Listed(topics.collect())
}
