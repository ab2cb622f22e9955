//! Reads one of our topics as a consumer that sees only what was committed.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::{FetchRequest, ListOffsetsRequest};
use kafka_protocol::protocol::StrBytes;

use super::error::{Answered, StoreError};
use super::topics::PARTITION;
use crate::client::Connection;
use crate::types::{BrokerId, Offset, TopicName};
use crate::wire::batch;
use crate::wire::records::{self, ReadRecord};

/// The last version that names topics.
const FETCH_BY_NAME: i16 = 12;
const LIST_OFFSETS: i16 = 5;
const READ_COMMITTED: i8 = 1;
const MAX_BYTES: i32 = 4 << 20;
const EARLIEST: i64 = -2;
const LATEST: i64 = -1;

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) offset: Offset,
    pub(super) key: Option<Vec<u8>>,
    pub(super) value: Option<Vec<u8>>,
}

/// What one answer brought.
#[derive(Debug, Default)]
pub(super) struct Committed {
    /// In order.
    pub(super) records: Vec<Stored>,
    /// First offsets of batches that are not ours: compressed or broken.
    pub(super) unreadable: Vec<Offset>,
    /// Where to go on.
    pub(super) next: Offset,
    /// Where what is committed ends now.
    pub(super) end: Offset,
}

/// A topic at the broker that leads it.
#[derive(Clone, Debug)]
pub(super) struct Log {
    pub(super) topic: TopicName,
    pub(super) leader: BrokerId,
    pub(super) connection: Connection,
}

impl Log {
    /// Where the log begins.
    pub(super) async fn start(&self) -> Result<Offset, StoreError> {
        self.list_offset(EARLIEST).await
    }

    /// Where what is committed ends.
    pub(super) async fn end(&self) -> Result<Offset, StoreError> {
        self.list_offset(LATEST).await
    }

    async fn list_offset(&self, timestamp: i64) -> Result<Offset, StoreError> {
        let partition = ListOffsetsPartition::default()
            .with_partition_index(PARTITION)
            .with_current_leader_epoch(-1)
            .with_timestamp(timestamp);
        let topic =
            ListOffsetsTopic::default().with_name(self.name()).with_partitions(vec![partition]);
        let request = ListOffsetsRequest::default()
            .with_replica_id((-1).into())
            .with_isolation_level(READ_COMMITTED)
            .with_topics(vec![topic]);
        let response = self.connection.request_at(LIST_OFFSETS, &request).await?;
        let partition = response.topics.into_iter().flat_map(|topic| topic.partitions).next();
        let Some(partition) = partition else { return Err(self.answered("ListOffsets", -1)) };
        match partition.error_code {
            0 => Ok(Offset(partition.offset)),
            code => Err(self.answered("ListOffsets", code)),
        }
    }

    /// What is there from `offset` on; waits for more where there is nothing.
    pub(super) async fn read(
        &self,
        offset: Offset,
        max_wait: Duration,
    ) -> Result<Committed, StoreError> {
        let partition = FetchPartition::default()
            .with_partition(PARTITION)
            .with_current_leader_epoch(-1)
            .with_fetch_offset(offset.0)
            .with_last_fetched_epoch(-1)
            .with_log_start_offset(-1)
            .with_partition_max_bytes(MAX_BYTES);
        let topic = FetchTopic::default().with_topic(self.name()).with_partitions(vec![partition]);
        let request = FetchRequest::default()
            .with_replica_id((-1).into())
            .with_max_wait_ms(i32::try_from(max_wait.as_millis()).unwrap_or(i32::MAX))
            .with_min_bytes(1)
            .with_max_bytes(MAX_BYTES)
            .with_isolation_level(READ_COMMITTED)
            .with_session_epoch(-1)
            .with_topics(vec![topic]);
        let response = self.connection.request_at(FETCH_BY_NAME, &request).await?;
        if response.error_code != 0 {
            return Err(self.answered("Fetch", response.error_code));
        }
        let partition = response.responses.into_iter().flat_map(|topic| topic.partitions).next();
        let Some(partition) = partition else { return Err(self.answered("Fetch", -1)) };
        match partition.error_code {
            0 => Ok(committed(&partition, offset)),
            code => Err(self.answered("Fetch", code)),
        }
    }

    fn name(&self) -> kafka_protocol::messages::TopicName {
        StrBytes::from_string(self.topic.to_string()).into()
    }

    fn answered(&self, request: &'static str, code: i16) -> StoreError {
        let (topic, broker) = (self.topic.clone(), self.leader);
        StoreError::Answered { request, topic, broker, error: Answered(code) }
    }
}

/// Leaves out what was aborted, markers, and what lies before `from`.
fn committed(partition: &PartitionData, from: Offset) -> Committed {
    let bytes: Bytes = partition.records.clone().unwrap_or_default();
    let mut aborted: Vec<(i64, i64)> = partition
        .aborted_transactions
        .iter()
        .flatten()
        .map(|one| (one.first_offset, one.producer_id.0))
        .collect();
    aborted.sort_unstable();
    let mut aborted = aborted.into_iter().peekable();
    let mut aborting: BTreeSet<i64> = BTreeSet::new();
    let mut read = Committed {
        next: from,
        end: Offset(partition.last_stable_offset.max(0)),
        ..Committed::default()
    };
    let mut at = 0;
    for header in &batch::check(&bytes, from).batches {
        let whole = &bytes[at..at + header.size];
        at += header.size;
        read.next = header.next_offset;
        while let Some((_, producer)) = aborted.next_if(|(first, _)| *first < header.next_offset.0)
        {
            aborting.insert(producer);
        }
        if header.is_control() {
            if records::is_abort_marker(header, whole) {
                aborting.remove(&header.producer_id);
            }
            continue;
        }
        if header.is_transactional() && aborting.contains(&header.producer_id) {
            continue;
        }
        match records::read(header, whole) {
            Some(records) => read.records.extend(stored(&records, from)),
            None => read.unreadable.push(header.base_offset),
        }
    }
    read
}

fn stored(records: &[ReadRecord<'_>], from: Offset) -> Vec<Stored> {
    let stored = records.iter().filter(|record| record.offset >= from).map(|record| Stored {
        offset: record.offset,
        key: record.key.map(<[u8]>::to_vec),
        value: record.value.map(<[u8]>::to_vec),
    });
    stored.collect()
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::fetch_response::AbortedTransaction;

    use super::*;
    use crate::wire::records::{BatchProducer, NewRecord, encode};

    fn put(log: &mut Vec<u8>, base: i64, producer: i64, is_transactional: bool, text: &str) {
        let producer = BatchProducer { id: producer, epoch: 0, sequence: 0, is_transactional };
        let record = NewRecord { key: None, value: Some(text.as_bytes().to_vec()) };
        let mut bytes = encode(producer, 1, &[record]);
        bytes[..8].copy_from_slice(&base.to_be_bytes());
        log.extend_from_slice(&bytes);
    }

    fn put_marker(log: &mut Vec<u8>, base: i64, producer: i64, kind: u8) {
        let at = log.len();
        let record = NewRecord { key: Some(vec![0, 0, 0, kind]), value: Some(vec![0; 6]) };
        let producer =
            BatchProducer { id: producer, epoch: 0, sequence: -1, is_transactional: true };
        let mut bytes = encode(producer, 1, &[record]);
        bytes[..8].copy_from_slice(&base.to_be_bytes());
        bytes[22] |= 0x20; // control
        let checksum = crc32c::crc32c(&bytes[21..]);
        bytes[17..21].copy_from_slice(&checksum.to_be_bytes());
        log.extend_from_slice(&bytes);
        assert!(log.len() > at);
    }

    fn partition(log: Vec<u8>, aborted: &[(i64, i64)]) -> PartitionData {
        let aborted = aborted.iter().map(|&(producer, first)| {
            AbortedTransaction::default().with_producer_id(producer.into()).with_first_offset(first)
        });
        PartitionData::default()
            .with_last_stable_offset(9)
            .with_aborted_transactions(Some(aborted.collect()))
            .with_records(Some(log.into()))
    }

    fn texts(read: &Committed) -> Vec<String> {
        let text = |one: &Stored| String::from_utf8(one.value.clone().unwrap()).unwrap();
        read.records.iter().map(text).collect()
    }

    #[test]
    fn what_was_aborted_is_not_read() {
        let mut log = Vec::new();
        put(&mut log, 0, 7, true, "aborted");
        put(&mut log, 1, 8, true, "another's");
        put_marker(&mut log, 2, 7, 0);
        put(&mut log, 3, 7, true, "committed");
        put_marker(&mut log, 4, 7, 1);
        put_marker(&mut log, 5, 8, 1);
        put(&mut log, 6, -1, false, "plain");
        let read = committed(&partition(log, &[(7, 0)]), Offset(0));
        assert_eq!(texts(&read), ["another's", "committed", "plain"]);
        assert_eq!((read.next, read.end), (Offset(7), Offset(9)));
    }

    #[test]
    fn what_lies_before_the_offset_and_what_is_broken_is_left_out() {
        let mut log = Vec::new();
        put(&mut log, 3, -1, false, "before");
        put(&mut log, 4, -1, false, "there");
        let broken = log.len();
        put(&mut log, 5, -1, false, "broken");
        let at = broken + 61;
        log[at] = 0xff;
        let checksum = crc32c::crc32c(&log[broken + 21..]);
        log[broken + 17..broken + 21].copy_from_slice(&checksum.to_be_bytes());
        let after = log.len();
        put(&mut log, 6, -1, false, "after");
        assert!(after > at);
        let read = committed(&partition(log[batch_size(&log)..].to_vec(), &[]), Offset(4));
        assert_eq!(texts(&read), ["there", "after"]);
        assert_eq!(read.unreadable, [Offset(5)]);
    }

    fn batch_size(log: &[u8]) -> usize {
        12 + i32::from_be_bytes(log[8..12].try_into().unwrap()) as usize
    }
}
