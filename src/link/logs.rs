//! Reads what the tail check compares, of many partitions at once: where logs start and end, batches
//! at some offset, and where epochs end. As a consumer, from the brokers that are named.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::offset_for_leader_epoch_request::{
    OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use kafka_protocol::messages::{FetchRequest, ListOffsetsRequest, OffsetForLeaderEpochRequest};
use kafka_protocol::protocol::StrBytes;

use crate::client::{ClientError, Cluster, Connection};
use crate::seat::replica_log::TO_THE_END;
use crate::types::{BrokerId, LeaderEpoch, Offset, OffsetAndEpoch, TopicName, TopicPartition};
use crate::wire::batch::BatchHeader;

/// Bytes of one partition in an answer; a larger batch is asked for alone.
const WINDOW_BYTES: i32 = 64 << 10;
/// Partitions in one Fetch.
const FETCHED_AT_ONCE: usize = 128;
/// By name, known to every broker from 2.7 on.
const FETCH_BY_NAME: i16 = 12;
const END: i64 = -1;
const START: i64 = -2;

/// A partition at a broker that has it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Place {
    pub broker: BrokerId,
    pub partition: TopicPartition,
    /// The leader's epoch, where it is known; else -1: then it is not checked.
    pub leader_epoch: LeaderEpoch,
    /// How far it is read.
    pub reader: Reader,
}

/// As whom a log is read, and so how far.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Reader {
    /// An ordinary consumer: up to the high watermark, from a leader or a follower.
    Consumer,
    /// Up to the log end, also from a follower. Stock brokers (3.7.2 to 4.3.1) know two more kinds of
    /// consumers: -2 ("debugging") in ListOffsets, and -3 ("future replica") in Fetch.
    ToTheEnd,
}

impl Reader {
    fn in_list_offsets(self) -> i32 {
        match self {
            Self::Consumer => -1,
            Self::ToTheEnd => -2,
        }
    }

    fn in_fetch(self) -> i32 {
        match self {
            Self::Consumer => -1,
            Self::ToTheEnd => TO_THE_END,
        }
    }
}

/// Where a log starts and, for consumers, ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LogBounds {
    pub start: Offset,
    pub end: Offset,
}

/// What was read, or why it could not be.
pub(super) type Read<T> = Result<T, String>;

/// Where logs start and end, in the order of `places`.
pub(super) async fn bounds(cluster: &Cluster, places: &[Place]) -> Vec<Read<LogBounds>> {
    let mut found: HashMap<TopicPartition, Read<LogBounds>> = HashMap::new();
    for (broker, group) in by_broker(places.iter().map(|place| (place.broker, place))) {
        let both = async {
            let connection = cluster.broker(broker).await?;
            let starts = list_offsets(&connection, &group, START).await?;
            let ends = list_offsets(&connection, &group, END).await?;
            Ok::<_, ClientError>((starts, ends))
        };
        let both = both.await.map_err(|error| error.to_string());
        for place in group {
            let one = both.as_ref().map_err(String::clone).and_then(|(starts, ends)| {
                let start = offset_of(starts, &place.partition)?;
                Ok(LogBounds { start, end: offset_of(ends, &place.partition)? })
            });
            found.insert(place.partition.clone(), one);
        }
    }
    in_order(places.iter().map(|place| &place.partition), &found)
}

/// Batches from the one that holds each offset (or the next one) on, in the order of `wanted`; empty
/// where there is none.
pub(super) async fn batches(cluster: &Cluster, wanted: &[(Place, Offset)]) -> Vec<Read<Bytes>> {
    let mut found: HashMap<TopicPartition, Read<Bytes>> = HashMap::new();
    for (broker, group) in by_broker(wanted.iter().map(|one| (one.0.broker, one))) {
        for group in group.chunks(FETCHED_AT_ONCE) {
            fetch_group(cluster, broker, group, &mut found).await;
        }
    }
    in_order(wanted.iter().map(|(place, _)| &place.partition), &found)
}

/// Where logs start and, as far as the replica knows what is committed, end: of replicas that follow,
/// which answer no ListOffsets. Asked by a Fetch at the offset, which has to be within the log.
pub(super) async fn replica_bounds(
    cluster: &Cluster,
    wanted: &[(Place, Offset)],
) -> Vec<Read<LogBounds>> {
    let mut found: HashMap<TopicPartition, Read<LogBounds>> = HashMap::new();
    for (broker, group) in by_broker(wanted.iter().map(|one| (one.0.broker, one))) {
        for group in group.chunks(FETCHED_AT_ONCE) {
            let answers = fetch_from(cluster, broker, group).await;
            found.extend(group.iter().map(|one| {
                let partition = &one.0.partition;
                let missing = || Err(format!("the answer leaves {partition} out"));
                let answer = answers.as_ref().map_err(String::clone);
                let answer =
                    answer.and_then(|all| all.get(partition).cloned().unwrap_or_else(missing));
                (partition.clone(), answer.map(|fetched| fetched.bounds))
            }));
        }
    }
    in_order(wanted.iter().map(|(place, _)| &place.partition), &found)
}

/// The largest epoch up to the one asked for, and where it ends (`OffsetForLeaderEpoch`), in the order
/// of `asked`. -1 and -1 where none is that old.
pub(super) async fn epoch_ends(
    cluster: &Cluster,
    asked: &[(Place, LeaderEpoch)],
) -> Vec<Read<OffsetAndEpoch>> {
    let mut found: HashMap<TopicPartition, Read<OffsetAndEpoch>> = HashMap::new();
    for (broker, group) in by_broker(asked.iter().map(|one| (one.0.broker, one))) {
        let answers = async { epochs_at(&cluster.broker(broker).await?, &group).await };
        match answers.await {
            Ok(answers) => found.extend(answers),
            Err(error) => {
                let failed =
                    group.iter().map(|one| (one.0.partition.clone(), Err(error.to_string())));
                found.extend(failed);
            }
        }
    }
    in_order(asked.iter().map(|(place, _)| &place.partition), &found)
}

/// The first whole batch of an answer.
pub(super) fn first_batch(bytes: &[u8]) -> Option<BatchHeader> {
    BatchHeader::read(bytes).ok().flatten()
}

fn in_order<'a, T: Clone>(
    partitions: impl Iterator<Item = &'a TopicPartition>,
    found: &HashMap<TopicPartition, Read<T>>,
) -> Vec<Read<T>> {
    let missing = |partition: &TopicPartition| Err(format!("the answer leaves {partition} out"));
    partitions.map(|one| found.get(one).cloned().unwrap_or_else(|| missing(one))).collect()
}

fn by_broker<T>(items: impl Iterator<Item = (BrokerId, T)>) -> BTreeMap<BrokerId, Vec<T>> {
    let mut brokers: BTreeMap<BrokerId, Vec<T>> = BTreeMap::new();
    for (broker, item) in items {
        brokers.entry(broker).or_default().push(item);
    }
    brokers
}

/// Brokers refuse a topic that stands twice in one request.
fn by_topic<'a, T>(
    items: impl Iterator<Item = (&'a TopicPartition, T)>,
) -> BTreeMap<&'a TopicName, Vec<T>> {
    let mut topics: BTreeMap<&TopicName, Vec<T>> = BTreeMap::new();
    for (partition, item) in items {
        topics.entry(&partition.topic).or_default().push(item);
    }
    topics
}

fn wire_name(topic: &TopicName) -> kafka_protocol::messages::TopicName {
    StrBytes::from_string(topic.as_str().to_owned()).into()
}

/// All places of one request are read alike: they are of one side.
fn reader<'a>(mut places: impl Iterator<Item = &'a Place>) -> Reader {
    places.next().map_or(Reader::Consumer, |place| place.reader)
}

type Offsets = HashMap<TopicPartition, Result<Offset, i16>>;

fn offset_of(offsets: &Offsets, partition: &TopicPartition) -> Read<Offset> {
    match offsets.get(partition) {
        Some(Ok(offset)) => Ok(*offset),
        Some(Err(code)) => {
            Err(format!("ListOffsets of {partition} was answered with error {code}"))
        }
        None => Err(format!("ListOffsets left {partition} out")),
    }
}

async fn list_offsets(
    connection: &Connection,
    places: &[&Place],
    timestamp: i64,
) -> Result<Offsets, ClientError> {
    let asked = places.iter().map(|place| {
        let asked = ListOffsetsPartition::default()
            .with_partition_index(place.partition.partition)
            .with_current_leader_epoch(place.leader_epoch.0)
            .with_timestamp(timestamp);
        (&place.partition, asked)
    });
    let topics = by_topic(asked).into_iter().map(|(topic, partitions)| {
        ListOffsetsTopic::default().with_name(wire_name(topic)).with_partitions(partitions)
    });
    let request = ListOffsetsRequest::default()
        .with_replica_id(reader(places.iter().copied()).in_list_offsets().into())
        .with_isolation_level(0)
        .with_topics(topics.collect());
    let response = connection.request(&request).await?;
    let mut offsets = HashMap::new();
    for topic in &response.topics {
        let name = TopicName::from(topic.name.as_str());
        for answer in &topic.partitions {
            let key = TopicPartition { topic: name.clone(), partition: answer.partition_index };
            let offset = (answer.error_code == 0).then_some(Offset(answer.offset));
            offsets.insert(key, offset.ok_or(answer.error_code));
        }
    }
    Ok(offsets)
}

async fn epochs_at(
    connection: &Connection,
    asked: &[&(Place, LeaderEpoch)],
) -> Result<HashMap<TopicPartition, Read<OffsetAndEpoch>>, ClientError> {
    let partitions = asked.iter().map(|(place, epoch)| {
        let asked = OffsetForLeaderPartition::default()
            .with_partition(place.partition.partition)
            .with_current_leader_epoch(place.leader_epoch.0)
            .with_leader_epoch(epoch.0);
        (&place.partition, asked)
    });
    let topics = by_topic(partitions).into_iter().map(|(topic, partitions)| {
        OffsetForLeaderTopic::default().with_topic(wire_name(topic)).with_partitions(partitions)
    });
    let request = OffsetForLeaderEpochRequest::default()
        .with_replica_id(Reader::Consumer.in_fetch().into())
        .with_topics(topics.collect());
    let response = connection.request(&request).await?;
    let mut ends = HashMap::new();
    for topic in &response.topics {
        let name = TopicName::from(topic.topic.as_str());
        for answer in &topic.partitions {
            let key = TopicPartition { topic: name.clone(), partition: answer.partition };
            let end = match answer.error_code {
                0 => Ok(OffsetAndEpoch {
                    offset: Offset(answer.end_offset),
                    epoch: LeaderEpoch(answer.leader_epoch),
                }),
                code => {
                    Err(format!("OffsetForLeaderEpoch of {key} was answered with error {code}"))
                }
            };
            ends.insert(key, end);
        }
    }
    Ok(ends)
}

async fn fetch_group(
    cluster: &Cluster,
    broker: BrokerId,
    group: &[&(Place, Offset)],
    found: &mut HashMap<TopicPartition, Read<Bytes>>,
) {
    let answers = fetch_from(cluster, broker, group).await;
    for one in group {
        let partition = &one.0.partition;
        let mut answer = answers.as_ref().map_err(String::clone).and_then(|answers| {
            let fetched = answers.get(partition).cloned();
            fetched.map_or(Ok(Bytes::new()), |fetched| fetched.map(|fetched| fetched.records))
        });
        // Alone, a batch of any size comes whole.
        if group.len() > 1 && answer.as_ref().is_ok_and(|bytes| first_batch(bytes).is_none()) {
            let alone = fetch_from(cluster, broker, &[one]).await;
            answer = alone.and_then(|mut answers| {
                let fetched = answers.remove(partition);
                fetched.map_or(Ok(Bytes::new()), |fetched| fetched.map(|fetched| fetched.records))
            });
        }
        found.insert(partition.clone(), answer);
    }
}

/// One partition's part of an answer.
#[derive(Clone, Debug)]
struct PartitionFetched {
    bounds: LogBounds,
    records: Bytes,
}

type Fetched = HashMap<TopicPartition, Read<PartitionFetched>>;

async fn fetch_from(
    cluster: &Cluster,
    broker: BrokerId,
    group: &[&(Place, Offset)],
) -> Read<Fetched> {
    let fetched = async { fetch(&cluster.broker(broker).await?, group).await };
    fetched.await.map_err(|error| error.to_string())
}

async fn fetch(
    connection: &Connection,
    group: &[&(Place, Offset)],
) -> Result<Fetched, ClientError> {
    let asked = group.iter().map(|(place, at)| {
        let asked = FetchPartition::default()
            .with_partition(place.partition.partition)
            .with_current_leader_epoch(place.leader_epoch.0)
            .with_fetch_offset(at.0)
            .with_last_fetched_epoch(-1)
            .with_log_start_offset(-1)
            .with_partition_max_bytes(WINDOW_BYTES);
        (&place.partition, asked)
    });
    let topics = by_topic(asked).into_iter().map(|(topic, partitions)| {
        FetchTopic::default().with_topic(wire_name(topic)).with_partitions(partitions)
    });
    let request = FetchRequest::default()
        .with_replica_id(reader(group.iter().map(|(place, _)| place)).in_fetch().into())
        .with_max_wait_ms(0)
        .with_min_bytes(0)
        .with_max_bytes(WINDOW_BYTES * i32::try_from(FETCHED_AT_ONCE).unwrap_or(1))
        .with_isolation_level(0)
        .with_session_epoch(-1)
        .with_topics(topics.collect());
    let response = connection.request_at(FETCH_BY_NAME, &request).await?;
    let mut fetched = Fetched::new();
    for topic in response.responses {
        let name = TopicName::from(topic.topic.as_str());
        for answer in topic.partitions {
            let key = TopicPartition { topic: name.clone(), partition: answer.partition_index };
            let found = match answer.error_code {
                0 => Ok(PartitionFetched {
                    bounds: LogBounds {
                        start: Offset(answer.log_start_offset),
                        end: Offset(answer.high_watermark),
                    },
                    records: answer.records.unwrap_or_default(),
                }),
                code => Err(format!("Fetch of {key} was answered with error {code}")),
            };
            fetched.insert(key, found);
        }
    }
    Ok(fetched)
}
