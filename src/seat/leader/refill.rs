//! Feeds a replica that has fallen behind what is in memory: its batches are read from another
//! replica of the destination, which has them already stamped. The source is not asked again.

use std::collections::HashMap;
use std::time::Duration;

use bytes::BytesMut;
use kafka_protocol::messages::FetchRequest;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::protocol::StrBytes;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::client::{ClientError, Cluster};
use crate::tail::budget::MemoryBudget;
use crate::tail::buffer::{Buffer, Chunk, ChunkBatch};
use crate::tail::marks::SourceMarks;
use crate::types::{BrokerId, LeaderEpoch, Offset, PartitionKey, TopicName};
use crate::wire::batch;

/// Bytes read for one replica at a time.
const REFILL_BYTES: usize = 1 << 20;
/// Reads under way.
const REFILLS_AT_ONCE: usize = 8;
/// A replica that does not answer for so long is given up for another one.
const REFILL_TIMEOUT: Duration = Duration::from_secs(5);
/// By name, known to every destination.
const FETCH_BY_NAME: i16 = 12;

/// "Read on for this replica."
#[derive(Clone, Debug)]
pub struct RefillRequest {
    /// The partition.
    pub key: PartitionKey,
    /// Its topic's name.
    pub topic: TopicName,
    /// The replica that has fallen behind.
    pub behind: BrokerId,
    /// A replica that has the batches.
    pub from: BrokerId,
    /// Where the one behind ends.
    pub offset: Offset,
}

/// What was read for a replica; `None` where nothing could be.
#[derive(Debug)]
pub struct Refilled {
    /// The partition.
    pub key: PartitionKey,
    /// The replica that has fallen behind.
    pub behind: BrokerId,
    /// Its batches.
    pub chunk: Option<Chunk>,
}

/// What is in memory for replicas that are behind, by replica.
#[derive(Debug, Default)]
pub struct Refills {
    replicas: HashMap<BrokerId, Refill>,
}

#[derive(Debug, Default)]
struct Refill {
    buffer: Option<Buffer>,
    /// Whether an answer is still to come.
    is_asked: bool,
    /// Who was asked last.
    source: Option<BrokerId>,
    /// Whether nothing came of it.
    has_failed: bool,
}

impl Refills {
    /// The batches for a replica that ends at `offset`, where they are in memory.
    pub fn buffer(&self, behind: BrokerId, offset: Offset) -> Option<&Buffer> {
        let buffer = self.replicas.get(&behind)?.buffer.as_ref()?;
        (buffer.start() <= offset && offset < buffer.end()).then_some(buffer)
    }

    /// Who of `sources` is to be asked for batches now, where somebody is; they count as asked for
    /// then. One that had nothing, or gave no answer, is followed by the next.
    pub fn ask(&mut self, behind: BrokerId, sources: &[BrokerId]) -> Option<BrokerId> {
        let refill = self.replicas.entry(behind).or_default();
        if refill.is_asked {
            return None;
        }
        let stays = |id: &&BrokerId| !refill.has_failed && refill.source == Some(**id);
        let comes_after = |id: &&BrokerId| refill.source.is_some_and(|before| **id > before);
        let kept = sources.iter().find(stays);
        let next = || sources.iter().filter(comes_after).min().or(sources.iter().min());
        let source = kept.or_else(next).copied()?;
        refill.source = Some(source);
        refill.is_asked = true;
        Some(source)
    }

    /// Takes in what was read.
    pub fn on_refilled(&mut self, behind: BrokerId, chunk: Option<Chunk>) {
        let buffer = chunk.map(|chunk| {
            let mut buffer = Buffer::starting_at(chunk.base_offset);
            buffer.push(chunk);
            buffer
        });
        let refill = self.replicas.entry(behind).or_default();
        refill.has_failed = buffer.is_none();
        refill.buffer = buffer;
        refill.is_asked = false;
    }

    /// The replica has caught up, or is gone.
    pub fn forget(&mut self, behind: BrokerId) {
        self.replicas.remove(&behind);
    }

    /// Replicas that are being fed.
    pub fn replicas(&self) -> impl Iterator<Item = BrokerId> {
        self.replicas.keys().copied()
    }
}

/// Reads for replicas that are behind.
#[derive(Debug)]
pub struct RefillTask {
    /// The destination's real brokers.
    pub destination: Cluster,
    /// What the bytes may cost.
    pub budget: MemoryBudget,
    /// What is wanted.
    pub requests: mpsc::UnboundedReceiver<RefillRequest>,
    /// What was read.
    pub refilled: mpsc::UnboundedSender<Refilled>,
}

impl RefillTask {
    /// Runs until the leader task is gone.
    pub async fn run(mut self) {
        let mut reads = JoinSet::new();
        while let Some(request) = self.requests.recv().await {
            while reads.len() >= REFILLS_AT_ONCE {
                reads.join_next().await;
            }
            let (destination, budget) = (self.destination.clone(), self.budget.clone());
            let refilled = self.refilled.clone();
            reads.spawn(async move {
                let (key, behind) = (request.key, request.behind);
                let read = read(&destination, &budget, &request);
                let chunk = match tokio::time::timeout(REFILL_TIMEOUT, read).await {
                    Ok(Ok(chunk)) => chunk,
                    Err(_elapsed) => None,
                    Ok(Err(error)) => {
                        tracing::debug!(
                            topic = %request.topic, partition = key.partition, broker = %behind,
                            offset = %request.offset, from = %request.from, %error,
                            "replica cannot be refilled now; trying on"
                        );
                        None
                    }
                };
                let _stopped = refilled.send(Refilled { key, behind, chunk });
            });
        }
    }
}

async fn read(
    destination: &Cluster,
    budget: &MemoryBudget,
    request: &RefillRequest,
) -> Result<Option<Chunk>, ClientError> {
    let reservation = budget.reserve(REFILL_BYTES).await;
    let connection = destination.broker_or_ask(request.from).await?;
    let response = connection.request_at(FETCH_BY_NAME, &fetch(request)).await?;
    let partition = response.responses.into_iter().flat_map(|topic| topic.partitions).next();
    let records = partition.and_then(|partition| partition.records).unwrap_or_default();
    let checked = batch::check(&records, request.offset);
    let (Some(first), Some(last)) = (checked.batches.first(), checked.batches.last()) else {
        return Ok(None);
    };
    let mut end = 0;
    let batches = checked.batches.iter().map(|batch| {
        end += batch.size;
        ChunkBatch { next_offset: batch.next_offset, end }
    });
    Ok(Some(Chunk {
        // What lies between the replica's end and the first batch is a hole in the log.
        base_offset: first.base_offset.min(request.offset),
        batches: batches.collect(),
        records: 0,
        source_epoch: LeaderEpoch::UNKNOWN,
        marks: SourceMarks::default(),
        max_timestamp: last.max_timestamp,
        bytes: reservation.pay_for(BytesMut::from(&records[..checked.bytes])),
    }))
}

fn fetch(request: &RefillRequest) -> FetchRequest {
    let bytes = i32::try_from(REFILL_BYTES).unwrap_or(i32::MAX);
    let partition = FetchPartition::default()
        .with_partition(request.key.partition)
        .with_current_leader_epoch(-1)
        .with_fetch_offset(request.offset.0)
        .with_last_fetched_epoch(-1)
        .with_log_start_offset(-1)
        .with_partition_max_bytes(bytes);
    let topic = FetchTopic::default()
        .with_topic(StrBytes::from_string(request.topic.as_str().to_owned()).into())
        .with_partitions(vec![partition]);
    FetchRequest::default()
        .with_replica_id((-1).into())
        .with_max_wait_ms(0)
        .with_min_bytes(0)
        .with_max_bytes(bytes)
        .with_isolation_level(0)
        .with_session_epoch(-1)
        .with_topics(vec![topic])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_that_has_nothing_is_followed_by_the_next() {
        let mut refills = Refills::default();
        let (behind, all) = (BrokerId(3), [BrokerId(2), BrokerId(1)]);
        assert_eq!(refills.ask(behind, &[]), None);
        assert_eq!(refills.ask(behind, &all), Some(BrokerId(1)));
        assert_eq!(refills.ask(behind, &all), None, "under way");
        refills.on_refilled(behind, None);
        assert_eq!(refills.ask(behind, &all), Some(BrokerId(2)));
        refills.on_refilled(behind, None);
        assert_eq!(refills.ask(behind, &all), Some(BrokerId(1)), "and round again");
        let chunk = Chunk {
            bytes: bytes::Bytes::from_static(&[0; 8]),
            base_offset: Offset(5),
            batches: vec![ChunkBatch { next_offset: Offset(9), end: 8 }],
            records: 0,
            source_epoch: LeaderEpoch::UNKNOWN,
            marks: SourceMarks::default(),
            max_timestamp: -1,
        };
        refills.on_refilled(behind, Some(chunk));
        assert!(refills.buffer(behind, Offset(5)).is_some());
        assert_eq!(refills.ask(behind, &all), Some(BrokerId(1)), "one that gives is kept");
        refills.on_refilled(behind, None);
        assert_eq!(refills.ask(behind, &all[1..]), Some(BrokerId(1)), "the only one left");
    }
}
