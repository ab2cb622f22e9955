//! Learns the log of a mirror partition from a replica that does not lead it: a follower answers
//! neither ListOffsets nor OffsetForLeaderEpoch, but its batches carry their epochs, and it shows all of
//! them to who knows how to ask.

use std::ops::Range;

use kafka_protocol::messages::FetchRequest;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::protocol::StrBytes;

use super::error::SeatError;
use crate::client::Connection;
use crate::mirror::epoch_search::EpochSearch;
use crate::mirror::lineage::EpochHistory;
use crate::types::{Offset, TopicName};
use crate::wire::batch::BatchHeader;

/// By name, known to every destination.
const FETCH_BY_NAME: i16 = 12;
/// As whom a follower is asked in Fetch: as "future replica" (`FUTURE_LOCAL_REPLICA_ID`), which a stock
/// broker (3.7.2, 4.1.1, 4.3.1 tried) takes neither for a follower nor for a consumer: whoever leads, it
/// shows its log up to the end, also what lies above the high watermark that it knows.
pub const TO_THE_END: i32 = -3;
/// Looks at one log at most: far more than halving any log takes.
const LOOKS: usize = 10_000;

/// What a replica holds.
#[derive(Clone, Debug)]
pub struct ReplicaLog {
    /// Its log start.
    pub log_start: Offset,
    /// As far as it knows what is committed: never above what is.
    pub high_watermark: Offset,
    /// How far its batches could be read: to its end, or else as far as it knows what is committed.
    pub known_to: Offset,
    /// Epochs of its batches below `known_to`.
    pub history: EpochHistory,
}

/// Reads at a broker that holds the partition and whose log ends at `log_end`; `Err` has a Kafka error
/// code where the broker answered with one.
pub async fn read(
    broker: &Connection,
    topic: &TopicName,
    partition: i32,
    log_end: Offset,
) -> Result<Result<ReplicaLog, i16>, SeatError> {
    let answer = match fetch(broker, topic, partition, log_end).await? {
        Ok(answer) => answer,
        Err(code) => return Ok(Err(code)),
    };
    let (log_start, high_watermark) = (answer.log_start, answer.high_watermark);
    for known_to in [log_end.max(log_start), high_watermark] {
        match history(broker, topic, partition, log_start..known_to).await? {
            Ok(Some(history)) => {
                return Ok(Ok(ReplicaLog { log_start, high_watermark, known_to, history }));
            }
            Ok(None) => {}
            Err(code) => return Ok(Err(code)),
        }
    }
    Err(SeatError::Malformed {
        request: "Fetch from a replica",
        what: format!("batches of {topic}-{partition} whose epochs do not make a history"),
    })
}

/// Epochs of what lies in `offsets`; `None` where its end is not shown.
async fn history(
    broker: &Connection,
    topic: &TopicName,
    partition: i32,
    offsets: Range<Offset>,
) -> Result<Result<Option<EpochHistory>, i16>, SeatError> {
    let mut search = EpochSearch::new(offsets.start, offsets.end);
    for _ in 0..LOOKS {
        let Some(asked) = search.next() else { break };
        match fetch(broker, topic, partition, asked).await? {
            Ok(Answer { batch: Some(batch), .. }) => {
                search.on_batch(asked, batch.leader_epoch, batch.next_offset);
            }
            Ok(Answer { batch: None, .. }) => search.on_nothing(asked),
            Err(code) => return Ok(Err(code)),
        }
    }
    Ok(Ok(search.history().filter(|_| search.next().is_none())))
}

struct Answer {
    log_start: Offset,
    high_watermark: Offset,
    batch: Option<BatchHeader>,
}

/// The first batch at or after `offset`: brokers give one whole, whatever the limits.
async fn fetch(
    broker: &Connection,
    topic: &TopicName,
    partition: i32,
    offset: Offset,
) -> Result<Result<Answer, i16>, SeatError> {
    let asked = FetchPartition::default()
        .with_partition(partition)
        .with_current_leader_epoch(-1)
        .with_fetch_offset(offset.0)
        .with_last_fetched_epoch(-1)
        .with_log_start_offset(-1)
        .with_partition_max_bytes(1);
    let asked = FetchTopic::default()
        .with_topic(StrBytes::from_string(topic.as_str().to_owned()).into())
        .with_partitions(vec![asked]);
    let request = FetchRequest::default()
        .with_replica_id(TO_THE_END.into())
        .with_max_wait_ms(0)
        .with_min_bytes(0)
        .with_max_bytes(1)
        .with_isolation_level(0)
        .with_session_epoch(-1)
        .with_topics(vec![asked]);
    let response = broker.request_at(FETCH_BY_NAME, &request).await?;
    SeatError::check("Fetch from a replica", response.error_code)?;
    let found = response.responses.into_iter().flat_map(|topic| topic.partitions).next();
    let Some(found) = found else { return Ok(Err(-1)) };
    if found.error_code != 0 {
        return Ok(Err(found.error_code));
    }
    let records = found.records.unwrap_or_default();
    Ok(Ok(Answer {
        log_start: Offset(found.log_start_offset),
        high_watermark: Offset(found.high_watermark),
        batch: BatchHeader::read(&records).ok().flatten(),
    }))
}
