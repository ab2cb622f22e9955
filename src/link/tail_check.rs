//! The tail check: does the copy end in the same lineage as the source? Compares the last batch of
//! the copy with the source's batch at the same offset. Reads only; decides what it means.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::{FetchRequest, ListOffsetsRequest};
use kafka_protocol::protocol::StrBytes;

use crate::client::{ClientError, Cluster, Connection, Topics};
use crate::tail::{Bounds, Trouble};
use crate::types::{BrokerId, Offset, TopicName, TopicPartition};
use crate::wire::batch::{self, BatchHeader};

/// Bytes of one partition in an answer; a larger batch is asked for alone.
const PARTITION_BYTES: i32 = 1 << 20;
/// Partitions in one Fetch.
const PARTITIONS_AT_ONCE: usize = 32;
/// By name, known to every broker from 2.7 on.
const FETCH_BY_NAME: i16 = 12;
/// ListOffsets of an ordinary consumer.
const CONSUMER: i32 = -1;

/// One copy to check.
#[derive(Clone, Debug)]
pub struct Copy {
    /// The mirror partition's name at the destination.
    pub mirror: TopicPartition,
    /// The partition at the source.
    pub source: TopicPartition,
    /// The real broker that leads the copy, or where we lead it ourselves one that holds it.
    pub leader: BrokerId,
    /// End of the copy.
    pub log_end: Offset,
    /// What can be read of it there; unset where that broker leads and can be asked.
    pub readable: Option<Bounds>,
}

/// What the check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// The same batch on both sides, or a copy without batches.
    Same,
    /// Nothing could be compared: trimmed or compacted away at one side, and nothing speaks
    /// against it.
    Nothing,
    /// The copy does not belong to what the source has now.
    Against(Trouble),
    /// One side could not be read now.
    Later(String),
}

/// Checks copies; the evidence comes in their order.
pub async fn check(destination: &Cluster, source: &Cluster, copies: &[Copy]) -> Vec<Evidence> {
    let ours = last_batches_of_copies(destination, copies).await;
    let theirs = last_batches_of_source(source, copies, &ours).await;
    let pairs = copies.iter().zip(ours).zip(theirs);
    pairs.map(|((copy, ours), theirs)| judge(copy, ours, theirs)).collect()
}

/// What one side has of the last batch.
#[derive(Clone, Debug)]
struct Side {
    log_start: Offset,
    end: Offset,
    batch: Option<Bytes>,
}

type Found = Result<Side, String>;

fn judge(copy: &Copy, ours: Found, theirs: Found) -> Evidence {
    let (ours, theirs) = match (ours, theirs) {
        (Ok(ours), Ok(theirs)) => (ours, theirs),
        (Err(why), _) | (_, Err(why)) => return Evidence::Later(why),
    };
    if theirs.end < copy.log_end {
        let trouble = Trouble::Truncated { ours: copy.log_end, source_end: theirs.end };
        return Evidence::Against(trouble);
    }
    if copy.log_end == Offset::ZERO {
        return Evidence::Same;
    }
    let (Some(left), Some(right)) = (&ours.batch, &theirs.batch) else { return Evidence::Nothing };
    let (Ok(Some(mine)), Ok(Some(its))) = (BatchHeader::read(left), BatchHeader::read(right))
    else {
        return Evidence::Nothing;
    };
    if mine.base_offset != its.base_offset {
        return if mine.base_offset.max(its.base_offset) < ours.end.min(theirs.end)
            && overlaps(&mine, &its)
        {
            against(copy, &mine)
        } else {
            Evidence::Nothing
        };
    }
    if batch::same_but_epoch(&left[..mine.size], &right[..its.size]) {
        return Evidence::Same;
    }
    // A compacted batch keeps its base, end, producer and has fewer records.
    let may_be_compacted = mine.record_count != its.record_count
        && mine.next_offset == its.next_offset
        && mine.producer_id == its.producer_id;
    if may_be_compacted { Evidence::Nothing } else { against(copy, &mine) }
}

/// Batches of one lineage never overlap without being the same.
fn overlaps(left: &BatchHeader, right: &BatchHeader) -> bool {
    left.base_offset < right.next_offset && right.base_offset < left.next_offset
}

fn against(copy: &Copy, batch: &BatchHeader) -> Evidence {
    let source_end = batch.base_offset;
    Evidence::Against(Trouble::Truncated { ours: copy.log_end, source_end })
}

async fn last_batches_of_copies(destination: &Cluster, copies: &[Copy]) -> Vec<Found> {
    let wanted: Vec<_> = copies.iter().map(|copy| (copy.leader, copy.mirror.clone())).collect();
    let asked = copies.iter().zip(&wanted).filter(|(copy, _)| copy.readable.is_none());
    let asked: Vec<_> = asked.map(|(_, wanted)| wanted.clone()).collect();
    let mut told = bounds(destination, &asked).await.into_iter();
    let bounds: Vec<Found> = copies
        .iter()
        .map(|copy| match copy.readable {
            Some(Bounds { log_start, high_watermark: end }) => {
                Ok(Side { log_start, end, batch: None })
            }
            None => told.next().unwrap_or_else(|| Err("not asked for".to_owned())),
        })
        .collect();
    let mut places = Vec::new();
    for (copy, bounds) in copies.iter().zip(&bounds) {
        if let Ok(bounds) = bounds
            && bounds.end > bounds.log_start
        {
            places.push((copy.leader, copy.mirror.clone(), Offset(bounds.end.0 - 1)));
        }
    }
    with_batches(destination, bounds, &wanted, places).await
}

async fn last_batches_of_source(source: &Cluster, copies: &[Copy], ours: &[Found]) -> Vec<Found> {
    let names: Vec<TopicName> = copies.iter().map(|copy| copy.source.topic.clone()).collect();
    let leaders = match leaders(source, &names).await {
        Ok(leaders) => leaders,
        Err(error) => return copies.iter().map(|_| Err(error.to_string())).collect(),
    };
    let nobody = BrokerId(-1);
    let wanted: Vec<_> = copies
        .iter()
        .map(|copy| (leaders.get(&copy.source).copied().unwrap_or(nobody), copy.source.clone()))
        .collect();
    let bounds = bounds(source, &wanted).await;
    let mut places = Vec::new();
    for (((leader, partition), ours), bounds) in wanted.iter().zip(ours).zip(&bounds) {
        if let (Ok(ours), Ok(bounds)) = (ours, bounds)
            && let Some(batch) = &ours.batch
            && let Ok(Some(header)) = BatchHeader::read(batch)
        {
            let last = Offset(header.next_offset.0 - 1);
            if last >= bounds.log_start && last < bounds.end {
                places.push((*leader, partition.clone(), last));
            }
        }
    }
    with_batches(source, bounds, &wanted, places).await
}

async fn leaders(
    cluster: &Cluster,
    names: &[TopicName],
) -> Result<HashMap<TopicPartition, BrokerId>, ClientError> {
    let metadata = cluster.metadata(Topics::Named(names)).await?;
    let mut leaders = HashMap::new();
    for topic in metadata.topics {
        for partition in topic.partitions {
            if let Some(leader) = partition.leader {
                let key =
                    TopicPartition { topic: topic.name.clone(), partition: partition.partition };
                leaders.insert(key, leader);
            }
        }
    }
    Ok(leaders)
}

type Place = (BrokerId, TopicPartition);

async fn with_batches(
    cluster: &Cluster,
    bounds: Vec<Found>,
    wanted: &[Place],
    places: Vec<(BrokerId, TopicPartition, Offset)>,
) -> Vec<Found> {
    let mut batches = batches_at(cluster, &places).await;
    let found = wanted.iter().zip(bounds).map(|((_, partition), bounds)| {
        let mut side = bounds?;
        if let Some(batch) = batches.remove(partition) {
            side.batch = batch?;
        }
        Ok(side)
    });
    found.collect()
}

fn by_leader<T>(items: impl Iterator<Item = (BrokerId, T)>) -> BTreeMap<BrokerId, Vec<T>> {
    let mut leaders: BTreeMap<BrokerId, Vec<T>> = BTreeMap::new();
    for (leader, item) in items {
        leaders.entry(leader).or_default().push(item);
    }
    leaders
}

/// Log start and high watermark, as a consumer sees them.
async fn bounds(cluster: &Cluster, wanted: &[Place]) -> Vec<Found> {
    let mut found: HashMap<TopicPartition, Found> = HashMap::new();
    for (leader, partitions) in by_leader(wanted.iter().cloned()) {
        let both = async {
            let connection = cluster.broker(leader).await?;
            let starts = list_offsets(&connection, &partitions, -2).await?;
            let ends = list_offsets(&connection, &partitions, -1).await?;
            Ok::<_, ClientError>((starts, ends))
        };
        match both.await {
            Ok((starts, ends)) => {
                for partition in partitions {
                    let side = match (starts.get(&partition), ends.get(&partition)) {
                        (Some(&Ok(log_start)), Some(&Ok(end))) => {
                            Ok(Side { log_start, end, batch: None })
                        }
                        (Some(&Err(code)), _) | (_, Some(&Err(code))) => Err(format!(
                            "ListOffsets of {partition} was answered with error {code}"
                        )),
                        _ => Err(format!("ListOffsets left {partition} out")),
                    };
                    found.insert(partition, side);
                }
            }
            Err(error) => {
                for partition in partitions {
                    found.insert(partition, Err(error.to_string()));
                }
            }
        }
    }
    let missing = |partition: &TopicPartition| Err(format!("{partition} was not asked for"));
    wanted.iter().map(|(_, p)| found.get(p).cloned().unwrap_or_else(|| missing(p))).collect()
}

async fn list_offsets(
    connection: &Connection,
    partitions: &[TopicPartition],
    timestamp: i64,
) -> Result<HashMap<TopicPartition, Result<Offset, i16>>, ClientError> {
    let topics = partitions.iter().map(|partition| {
        let asked = ListOffsetsPartition::default()
            .with_partition_index(partition.partition)
            .with_current_leader_epoch(-1)
            .with_timestamp(timestamp);
        ListOffsetsTopic::default()
            .with_name(StrBytes::from_string(partition.topic.as_str().to_owned()).into())
            .with_partitions(vec![asked])
    });
    let request = ListOffsetsRequest::default()
        .with_replica_id(CONSUMER.into())
        .with_isolation_level(0)
        .with_topics(merge(topics));
    let response = connection.request(&request).await?;
    let mut offsets = HashMap::new();
    for topic in &response.topics {
        for answer in &topic.partitions {
            let key = TopicPartition {
                topic: TopicName::from(topic.name.as_str()),
                partition: answer.partition_index,
            };
            let offset = (answer.error_code == 0).then_some(Offset(answer.offset));
            offsets.insert(key, offset.ok_or(answer.error_code));
        }
    }
    Ok(offsets)
}

/// Brokers refuse a topic that stands twice in one request.
fn merge(topics: impl Iterator<Item = ListOffsetsTopic>) -> Vec<ListOffsetsTopic> {
    let mut merged: BTreeMap<String, ListOffsetsTopic> = BTreeMap::new();
    for mut topic in topics {
        match merged.get_mut(topic.name.as_str()) {
            Some(same) => same.partitions.append(&mut topic.partitions),
            None => {
                merged.insert(topic.name.to_string(), topic);
            }
        }
    }
    merged.into_values().collect()
}

type Batches = HashMap<TopicPartition, Result<Option<Bytes>, String>>;

/// The batch that holds each offset, or the next one.
async fn batches_at(cluster: &Cluster, places: &[(BrokerId, TopicPartition, Offset)]) -> Batches {
    let mut batches = Batches::new();
    let items = places.iter().map(|(leader, partition, at)| (*leader, (partition.clone(), *at)));
    for (leader, items) in by_leader(items) {
        for items in items.chunks(PARTITIONS_AT_ONCE) {
            fetch_group(cluster, leader, items, &mut batches).await;
        }
    }
    batches
}

async fn fetch_group(
    cluster: &Cluster,
    leader: BrokerId,
    items: &[(TopicPartition, Offset)],
    batches: &mut Batches,
) {
    let answers = match cluster.broker(leader).await {
        Ok(connection) => fetch(&connection, items).await,
        Err(error) => Err(error),
    };
    match answers {
        Ok(mut answers) => {
            for (partition, at) in items {
                let answer = answers.remove(partition).unwrap_or(Ok(None));
                let is_cut = answer.as_ref().is_ok_and(Option::is_none);
                let answer = if is_cut && items.len() > 1 {
                    alone(cluster, leader, partition, *at).await
                } else {
                    answer
                };
                batches.insert(partition.clone(), answer);
            }
        }
        Err(error) => {
            for (partition, _) in items {
                batches.insert(partition.clone(), Err(error.to_string()));
            }
        }
    }
}

/// Alone, a batch of any size comes whole.
async fn alone(
    cluster: &Cluster,
    leader: BrokerId,
    partition: &TopicPartition,
    at: Offset,
) -> Result<Option<Bytes>, String> {
    let connection = cluster.broker(leader).await.map_err(|error| error.to_string())?;
    let answers = fetch(&connection, &[(partition.clone(), at)]).await;
    answers.map_err(|error| error.to_string())?.remove(partition).unwrap_or(Ok(None))
}

async fn fetch(
    connection: &Connection,
    items: &[(TopicPartition, Offset)],
) -> Result<Batches, ClientError> {
    let mut topics: BTreeMap<&str, Vec<FetchPartition>> = BTreeMap::new();
    for (partition, at) in items {
        let asked = FetchPartition::default()
            .with_partition(partition.partition)
            .with_current_leader_epoch(-1)
            .with_fetch_offset(at.0)
            .with_last_fetched_epoch(-1)
            .with_log_start_offset(-1)
            .with_partition_max_bytes(PARTITION_BYTES);
        topics.entry(partition.topic.as_str()).or_default().push(asked);
    }
    let topics = topics.into_iter().map(|(name, partitions)| {
        FetchTopic::default()
            .with_topic(StrBytes::from_string(name.to_owned()).into())
            .with_partitions(partitions)
    });
    let request = FetchRequest::default()
        .with_replica_id(CONSUMER.into())
        .with_max_wait_ms(0)
        .with_min_bytes(0)
        .with_max_bytes(PARTITION_BYTES * i32::try_from(PARTITIONS_AT_ONCE).unwrap_or(1))
        .with_isolation_level(0)
        .with_session_epoch(-1)
        .with_topics(topics.collect());
    let response = connection.request_at(FETCH_BY_NAME, &request).await?;
    let mut batches = Batches::new();
    for topic in response.responses {
        let name = TopicName::from(topic.topic.as_str());
        for answer in topic.partitions {
            let key = TopicPartition { topic: name.clone(), partition: answer.partition_index };
            let found = if answer.error_code == 0 {
                let records = answer.records.unwrap_or_default();
                Ok(matches!(BatchHeader::read(&records), Ok(Some(_))).then_some(records))
            } else {
                Err(format!("Fetch of {key} was answered with error {}", answer.error_code))
            };
            batches.insert(key, found);
        }
    }
    Ok(batches)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copy(log_end: i64) -> Copy {
        let partition = TopicPartition { topic: TopicName::from("orders"), partition: 0 };
        let log_end = Offset(log_end);
        Copy {
            mirror: partition.clone(),
            source: partition,
            leader: BrokerId(1),
            log_end,
            readable: None,
        }
    }

    fn side(end: i64, batch: Option<Vec<u8>>) -> Found {
        let batch = batch.map(Bytes::from);
        Ok(Side { log_start: Offset(0), end: Offset(end), batch })
    }

    fn made(base: i64, count: i32, payload: &[u8]) -> Option<Vec<u8>> {
        Some(crate::wire::batch::tests::batch(base, count, payload))
    }

    #[test]
    fn the_same_last_batch_is_proof() {
        let ours = side(10, made(8, 2, b"x"));
        assert_eq!(judge(&copy(10), ours, side(99, made(8, 2, b"x"))), Evidence::Same);
    }

    #[test]
    fn a_shorter_source_was_truncated_or_recreated() {
        let against =
            Evidence::Against(Trouble::Truncated { ours: Offset(10), source_end: Offset(7) });
        assert_eq!(judge(&copy(10), side(10, made(8, 2, b"x")), side(7, None)), against);
    }

    #[test]
    fn another_batch_at_the_same_place_is_another_lineage() {
        let against =
            Evidence::Against(Trouble::Truncated { ours: Offset(10), source_end: Offset(8) });
        let ours = side(10, made(8, 2, b"x"));
        assert_eq!(judge(&copy(10), ours.clone(), side(99, made(8, 2, b"y"))), against);
        assert_eq!(judge(&copy(10), ours, side(99, made(7, 3, b"y"))), against);
    }

    #[test]
    fn a_compacted_or_trimmed_source_is_no_proof_either_way() {
        let ours = side(10, made(8, 2, b"xx"));
        assert_eq!(judge(&copy(10), ours.clone(), side(99, None)), Evidence::Nothing);
        let mut compacted = made(8, 2, b"x").unwrap();
        compacted[57..61].copy_from_slice(&1i32.to_be_bytes());
        assert_eq!(judge(&copy(10), ours, side(99, Some(compacted))), Evidence::Nothing);
    }
}
