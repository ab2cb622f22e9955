//! Reads a partition's raw batches from one given broker, leader or follower, as a consumer does.

use std::collections::VecDeque;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::{BrokerId, FetchRequest, ListOffsetsRequest, TopicName};
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use super::{Batch, Judge, check, text, topic_name};

/// The first version that names topics by id only.
pub(super) const FETCH_BY_ID: i16 = 13;
/// The last version that names topics by name.
pub(super) const FETCH_BY_NAME: i16 = 12;
/// Replica id of clients.
pub(super) const CONSUMER: i32 = -1;
/// Replica id that every replica answers, not the leader alone.
const DEBUGGING_REPLICA: i32 = -2;
const FETCH_BYTES: i32 = 4 << 20;
const FETCH_WAIT_MS: i32 = 500;

/// ListOffsets: the high watermark, or the last stable offset when read committed.
pub const LATEST: i64 = -1;
/// ListOffsets: the log start offset.
pub const EARLIEST: i64 = -2;

/// What a broker says of its copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogBounds {
    /// First offset that can be read.
    pub log_start_offset: i64,
    /// Offset after the last one that consumers see.
    pub high_watermark: i64,
    /// Where read-committed consumers stop.
    pub last_stable_offset: i64,
}

impl Judge {
    /// What this broker knows of its copy, leader or follower.
    pub fn bounds(&mut self, topic: &str, partition: i32) -> Result<LogBounds> {
        // Only an answer to a fetch within the log has the bounds.
        let start = self.offset_as(DEBUGGING_REPLICA, topic, partition, EARLIEST)?;
        let answer = self.fetch(topic, partition, start, 1)?;
        let what = format!("fetch of {topic}-{partition} from {}", self.address());
        check(answer.error_code, what, None)?;
        Ok(LogBounds {
            log_start_offset: answer.log_start_offset,
            high_watermark: answer.high_watermark,
            last_stable_offset: answer.last_stable_offset,
        })
    }

    /// One answer of this broker to a consumer's fetch, read uncommitted, errors and all.
    pub fn fetch(
        &mut self,
        topic: &str,
        partition: i32,
        offset: i64,
        max_bytes: i32,
    ) -> Result<PartitionData> {
        let id = self.topic_id(topic)?;
        self.fetch_with_id(topic, id, partition, offset, max_bytes)
    }

    pub(super) fn fetch_with_id(
        &mut self,
        topic: &str,
        id: Uuid,
        partition: i32,
        offset: i64,
        max_bytes: i32,
    ) -> Result<PartitionData> {
        let newest = self.version::<FetchRequest>()?;
        let by_id = newest >= FETCH_BY_ID && !id.is_nil();
        let version = if by_id { newest } else { newest.min(FETCH_BY_NAME) };
        let wanted = FetchPartition::default()
            .with_partition(partition)
            .with_current_leader_epoch(-1)
            .with_last_fetched_epoch(-1)
            .with_log_start_offset(-1)
            .with_fetch_offset(offset)
            .with_partition_max_bytes(max_bytes);
        let (name, id) = if by_id {
            (TopicName(StrBytes::default()), id)
        } else {
            (topic_name(topic), Uuid::nil())
        };
        let wanted =
            FetchTopic::default().with_topic(name).with_topic_id(id).with_partitions(vec![wanted]);
        let request = FetchRequest::default()
            .with_replica_id(BrokerId(CONSUMER))
            .with_max_wait_ms(FETCH_WAIT_MS)
            .with_min_bytes(0)
            .with_max_bytes(max_bytes)
            .with_isolation_level(0)
            .with_session_id(0)
            .with_session_epoch(-1)
            .with_topics(vec![wanted])
            .with_rack_id(text(""));
        let answer = self.ask_at(version, &request)?;
        check(answer.error_code, format!("fetch from {}", self.address()), None)?;
        let topics = answer.responses.into_iter();
        let mut partitions = topics.flat_map(|topic| topic.partitions);
        let partition = partitions.next();
        partition.with_context(|| format!("{} answered without {topic}", self.address()))
    }

    /// The offset for a timestamp (or [`LATEST`], [`EARLIEST`]), read uncommitted; the leader only.
    pub fn list_offset(&mut self, topic: &str, partition: i32, timestamp: i64) -> Result<i64> {
        self.offset_as(CONSUMER, topic, partition, timestamp)
    }

    /// Where this broker's copy ends, leader or follower; consumers may not see all of it yet.
    pub fn log_end_offset(&mut self, topic: &str, partition: i32) -> Result<i64> {
        self.offset_as(DEBUGGING_REPLICA, topic, partition, LATEST)
    }

    /// Log start and log end of this broker's copy, leader or follower.
    pub fn local_bounds(&mut self, topic: &str, partition: i32) -> Result<(i64, i64)> {
        let start = self.offset_as(DEBUGGING_REPLICA, topic, partition, EARLIEST)?;
        Ok((start, self.log_end_offset(topic, partition)?))
    }

    fn offset_as(&mut self, who: i32, topic: &str, partition: i32, timestamp: i64) -> Result<i64> {
        let wanted = ListOffsetsPartition::default()
            .with_partition_index(partition)
            .with_current_leader_epoch(-1)
            .with_timestamp(timestamp);
        let wanted =
            ListOffsetsTopic::default().with_name(topic_name(topic)).with_partitions(vec![wanted]);
        let request = ListOffsetsRequest::default()
            .with_replica_id(BrokerId(who))
            .with_isolation_level(0)
            .with_topics(vec![wanted]);
        let topics = self.ask(&request)?.topics.into_iter();
        let answer = topics.flat_map(|topic| topic.partitions).next();
        let answer = answer.context("ListOffsets without the partition")?;
        let what = format!("offset of {topic}-{partition} for {timestamp}");
        check(answer.error_code, what, None)?;
        Ok(answer.offset)
    }
}

/// Batches of one partition on one broker from the log start to the high watermark at the time of
/// opening, read as they are asked for: a log of any size fits.
pub struct LogReader {
    judge: Judge,
    topic: String,
    topic_id: Uuid,
    partition: i32,
    /// Bounds when opened.
    pub bounds: LogBounds,
    next_offset: i64,
    read: VecDeque<Batch>,
}

impl LogReader {
    /// Opens the copy of the broker that `judge` is connected to.
    pub fn open(mut judge: Judge, topic: &str, partition: i32) -> Result<Self> {
        let topic_id = judge.topic_id(topic)?;
        let bounds = judge.bounds(topic, partition)?;
        Ok(Self {
            judge,
            topic: topic.to_owned(),
            topic_id,
            partition,
            bounds,
            next_offset: bounds.log_start_offset,
            read: VecDeque::new(),
        })
    }

    /// The next batch; `None` at the end.
    pub fn next_batch(&mut self) -> Result<Option<Batch>> {
        while self.read.is_empty() {
            if self.next_offset >= self.bounds.high_watermark {
                return Ok(None);
            }
            self.fetch().with_context(|| {
                format!(
                    "read {}-{} at offset {} from {}",
                    self.topic,
                    self.partition,
                    self.next_offset,
                    self.judge.address()
                )
            })?;
        }
        Ok(self.read.pop_front())
    }

    /// All the rest; for small logs.
    pub fn rest(mut self) -> Result<Vec<Batch>> {
        let mut batches = Vec::new();
        while let Some(batch) = self.next_batch()? {
            batches.push(batch);
        }
        Ok(batches)
    }

    fn fetch(&mut self) -> Result<()> {
        let answer = self.judge.fetch_with_id(
            &self.topic,
            self.topic_id,
            self.partition,
            self.next_offset,
            FETCH_BYTES,
        )?;
        check(answer.error_code, "fetch", None)?;
        if answer.preferred_read_replica.0 >= 0 {
            bail!("sent on to broker {}", answer.preferred_read_replica.0);
        }
        let mut bytes = answer.records.unwrap_or_else(Bytes::new);
        let before = self.next_offset;
        while let Some(batch) = Batch::take(&mut bytes)? {
            // An answer begins with the whole batch that holds the offset: never one before it.
            ensure!(
                batch.next_offset() > self.next_offset,
                "batch {batch:?} when offset {} was next",
                self.next_offset
            );
            self.next_offset = batch.next_offset();
            self.read.push_back(batch);
        }
        // Compaction may leave nothing up to the high watermark, but brokers then keep the last
        // batch as an empty one.
        ensure!(self.next_offset > before, "no batch below the high watermark");
        Ok(())
    }
}
