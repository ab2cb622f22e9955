//! Reads whole batches of one partition from one broker, leader or follower, as a consumer does:
//! below the high watermark, read uncommitted.

use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::{FetchRequest, ListOffsetsRequest};
use kafka_protocol::protocol::StrBytes;

use super::compare::Batch;
use super::{Side, VerifyError};
use crate::client::{Backoff, Cluster, Retry, Topics, retry_response};
use crate::types::{BrokerId, Offset, TopicPartition};
use crate::wire::batch::BatchHeader;

/// Bytes of one answer; a larger batch comes whole all the same.
const FETCH_BYTES: i32 = 4 << 20;
/// The last version that names topics by name: known to every broker from 2.7 on.
const FETCH_BY_NAME: i16 = 12;
/// From this version on followers answer consumers (KIP-392).
const FETCH_FROM_FOLLOWER: i16 = 11;
const FETCH_WAIT_MS: i32 = 500;
/// How often a broker may answer that it has nothing, or not now.
const ATTEMPTS: usize = 12;

/// Replica id of clients.
const CONSUMER: i32 = -1;
/// Replica id that followers answer too (`DebuggingReplicaId`).
const DEBUGGING_REPLICA: i32 = -2;
const LATEST: i64 = -1;
const EARLIEST: i64 = -2;

/// Bounds of one broker's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    /// First offset that can be read.
    pub log_start: Offset,
    /// Offset after the last one that consumers see.
    pub high_watermark: Offset,
}

/// One partition on one broker.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// Where the broker is, for people.
    pub side: Side,
    /// The cluster.
    pub cluster: Cluster,
    /// The broker.
    pub broker: BrokerId,
    /// The partition's name there.
    pub partition: TopicPartition,
}

impl Place {
    /// What the leader of the partition says.
    pub async fn bounds_of_leader(&mut self) -> Result<Bounds, VerifyError> {
        let log_start = self.offset(CONSUMER, EARLIEST).await?;
        let high_watermark = self.offset(CONSUMER, LATEST).await?;
        Ok(Bounds { log_start, high_watermark })
    }

    /// What this replica says, leader or not: followers tell their high watermark only in answers
    /// to a fetch.
    pub async fn bounds_of_replica(&mut self) -> Result<Bounds, VerifyError> {
        let log_start = self.offset(DEBUGGING_REPLICA, EARLIEST).await?;
        let answer = self.fetch(log_start, 1).await?;
        Ok(Bounds {
            log_start: Offset(answer.log_start_offset),
            high_watermark: Offset(answer.high_watermark),
        })
    }

    async fn offset(&mut self, who: i32, timestamp: i64) -> Result<Offset, VerifyError> {
        let mut patience = Patience::new();
        loop {
            let (code, offset) = self.ask_offset(who, timestamp).await?;
            if code == 0 {
                return Ok(offset);
            }
            self.wait_after(code, &mut patience).await?;
        }
    }

    async fn ask_offset(&self, who: i32, timestamp: i64) -> Result<(i16, Offset), VerifyError> {
        let asked = ListOffsetsPartition::default()
            .with_partition_index(self.partition.partition)
            .with_current_leader_epoch(-1)
            .with_timestamp(timestamp);
        let topic = ListOffsetsTopic::default()
            .with_name(StrBytes::from_string(self.partition.topic.to_string()).into())
            .with_partitions(vec![asked]);
        let request = ListOffsetsRequest::default()
            .with_replica_id(who.into())
            .with_isolation_level(0)
            .with_topics(vec![topic]);
        let connection = self.cluster.broker(self.broker).await.map_err(self.unreachable())?;
        let response = connection.request(&request).await.map_err(self.unreachable())?;
        let answer = response.topics.into_iter().flat_map(|topic| topic.partitions).next();
        let answer = answer.ok_or_else(|| self.silent())?;
        Ok((answer.error_code, Offset(answer.offset)))
    }

    async fn fetch(&mut self, at: Offset, bytes: i32) -> Result<PartitionData, VerifyError> {
        let mut patience = Patience::new();
        loop {
            let answer = self.ask_fetch(at, bytes).await?;
            match answer.error_code {
                0 => return Ok(answer),
                code if code == ResponseError::OffsetOutOfRange.code() => {
                    return Err(VerifyError::Trimmed { partition: self.partition.clone() });
                }
                code => self.wait_after(code, &mut patience).await?,
            }
        }
    }

    async fn ask_fetch(&self, at: Offset, bytes: i32) -> Result<PartitionData, VerifyError> {
        let asked = FetchPartition::default()
            .with_partition(self.partition.partition)
            .with_current_leader_epoch(-1)
            .with_fetch_offset(at.0)
            .with_last_fetched_epoch(-1)
            .with_log_start_offset(-1)
            .with_partition_max_bytes(bytes);
        let topic = FetchTopic::default()
            .with_topic(StrBytes::from_string(self.partition.topic.to_string()).into())
            .with_partitions(vec![asked]);
        let request = FetchRequest::default()
            .with_replica_id(CONSUMER.into())
            .with_max_wait_ms(FETCH_WAIT_MS)
            .with_min_bytes(1)
            .with_max_bytes(bytes)
            .with_isolation_level(0)
            .with_session_id(0)
            .with_session_epoch(-1)
            .with_rack_id(StrBytes::default())
            .with_topics(vec![topic]);
        let connection = self.cluster.broker(self.broker).await.map_err(self.unreachable())?;
        let newest = connection.version::<FetchRequest>().unwrap_or(FETCH_FROM_FOLLOWER);
        let response = connection
            .request_at(newest.min(FETCH_BY_NAME), &request)
            .await
            .map_err(self.unreachable())?;
        let answer = response.responses.into_iter().flat_map(|topic| topic.partitions).next();
        answer.ok_or_else(|| self.silent())
    }

    /// Waits where asking again may help; the source's leader may have moved.
    async fn wait_after(&mut self, code: i16, patience: &mut Patience) -> Result<(), VerifyError> {
        let error = ResponseError::try_from_code(code).unwrap_or(ResponseError::UnknownServerError);
        let refused = VerifyError::Refused {
            side: self.side,
            broker: self.broker,
            partition: self.partition.clone(),
            error,
        };
        if retry_response(error) == Retry::Never || !patience.wait().await {
            return Err(refused);
        }
        if self.side == Side::Source {
            let names = [self.partition.topic.clone()];
            let metadata = self.cluster.metadata(Topics::Named(&names)).await;
            let metadata = metadata.map_err(self.unreachable())?;
            let mut partitions = metadata.topics.into_iter().flat_map(|topic| topic.partitions);
            let own = partitions.find(|found| found.partition == self.partition.partition);
            self.broker = own.and_then(|found| found.leader).unwrap_or(self.broker);
        }
        Ok(())
    }

    fn unreachable(&self) -> impl FnOnce(crate::client::ClientError) -> VerifyError + use<> {
        let side = self.side;
        move |cause| VerifyError::Unreachable { side, cause }
    }

    fn silent(&self) -> VerifyError {
        let (side, broker, partition) = (self.side, self.broker, self.partition.clone());
        VerifyError::Silent { side, broker, partition }
    }
}

/// A limited number of growing waits.
struct Patience {
    backoff: Backoff,
    left: usize,
}

impl Patience {
    fn new() -> Self {
        let backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
        Self { backoff, left: ATTEMPTS }
    }

    /// `false` when it is at an end.
    async fn wait(&mut self) -> bool {
        if self.left == 0 {
            return false;
        }
        self.left -= 1;
        tokio::time::sleep(self.backoff.next()).await;
        true
    }
}

/// Batches of a place, one after the other.
#[derive(Debug)]
pub(super) struct Log {
    place: Place,
    position: Offset,
    end: Offset,
    read: Bytes,
}

impl Log {
    /// From the batch that holds `begin` up to `end`, which is not above the high watermark.
    pub fn new(place: Place, begin: Offset, end: Offset) -> Self {
        Self { place, position: begin, end, read: Bytes::new() }
    }

    /// Where it is read.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// The offset that comes next.
    pub fn position(&self) -> Offset {
        self.position
    }

    /// Where reading ends.
    pub fn end(&self) -> Offset {
        self.end
    }

    /// The next whole batch; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Batch>, VerifyError> {
        let mut fetches = 0;
        while self.position < self.end {
            let header = BatchHeader::read(&self.read).map_err(|cause| VerifyError::Damaged {
                side: self.place.side,
                broker: self.place.broker,
                partition: self.place.partition.clone(),
                cause,
            })?;
            let Some(header) = header else {
                let answer = self.place.fetch(self.position, FETCH_BYTES).await?;
                self.read = answer.records.unwrap_or_default();
                fetches += 1;
                if fetches > ATTEMPTS {
                    return Err(self.place.silent());
                }
                continue;
            };
            let bytes = self.read.split_to(header.size);
            // The first batches of an answer may lie before what was asked for.
            if header.next_offset <= self.position {
                continue;
            }
            self.position = header.next_offset;
            return Ok((header.base_offset < self.end).then_some(Batch { header, bytes }));
        }
        Ok(None)
    }
}
