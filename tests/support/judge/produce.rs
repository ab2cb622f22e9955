//! Sends raw batches, also such as no client would make, and tells the broker's error code.

use anyhow::{Context, Result};
use bytes::Bytes;
use kafka_protocol::messages::ProduceRequest;
use kafka_protocol::messages::TopicName;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::produce_response::PartitionProduceResponse;
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use super::{Judge, topic_name};

/// The first version that names topics by id only.
const PRODUCE_BY_ID: i16 = 13;
const TIMEOUT_MS: i32 = 20_000;

impl Judge {
    /// Sends `records` to this broker with acks 1 or -1 (all); the answer with its error code.
    pub fn produce(
        &mut self,
        topic: &str,
        partition: i32,
        acks: i16,
        records: Bytes,
    ) -> Result<PartitionProduceResponse> {
        let (version, request) = self.produce_request(topic, partition, acks, records)?;
        let answer = self.ask_at(version, &request)?;
        let topics = answer.responses.into_iter();
        let partition = topics.flat_map(|topic| topic.partition_responses).next();
        partition.context("Produce without the partition")
    }

    /// Sends `records` with acks 0: there is no answer, at most a closed connection.
    pub fn produce_unacknowledged(
        &mut self,
        topic: &str,
        partition: i32,
        records: Bytes,
    ) -> Result<()> {
        let (version, request) = self.produce_request(topic, partition, 0, records)?;
        self.send(version, &request)
    }

    fn produce_request(
        &mut self,
        topic: &str,
        partition: i32,
        acks: i16,
        records: Bytes,
    ) -> Result<(i16, ProduceRequest)> {
        let version = self.version::<ProduceRequest>()?;
        let (name, id) = if version >= PRODUCE_BY_ID {
            (TopicName(StrBytes::default()), self.topic_id(topic)?)
        } else {
            (topic_name(topic), Uuid::nil())
        };
        let data =
            PartitionProduceData::default().with_index(partition).with_records(Some(records));
        let data = TopicProduceData::default()
            .with_name(name)
            .with_topic_id(id)
            .with_partition_data(vec![data]);
        let request = ProduceRequest::default()
            .with_transactional_id(None)
            .with_acks(acks)
            .with_timeout_ms(TIMEOUT_MS)
            .with_topic_data(vec![data]);
        Ok((version, request))
    }
}

/// A well-formed batch of plain records with the given values, uncompressed, base offset 0.
pub fn plain_batch(values: &[&[u8]], timestamp: i64) -> Bytes {
    batch_of(values, timestamp, (-1, -1, -1))
}

/// [`plain_batch`] of an idempotent producer: its id, its epoch, its first sequence number.
pub fn batch_of(values: &[&[u8]], timestamp: i64, producer: (i64, i16, i32)) -> Bytes {
    let mut records = Vec::new();
    for (delta, value) in values.iter().enumerate() {
        let mut record = vec![0]; // attributes
        put_varint(&mut record, 0); // timestamp delta
        put_varint(&mut record, i64::try_from(delta).unwrap_or(i64::MAX));
        put_varint(&mut record, -1); // no key
        put_varint(&mut record, i64::try_from(value.len()).unwrap_or(i64::MAX));
        record.extend_from_slice(value);
        put_varint(&mut record, 0); // no headers
        put_varint(&mut records, i64::try_from(record.len()).unwrap_or(i64::MAX));
        records.extend_from_slice(&record);
    }
    let count = i32::try_from(values.len()).unwrap_or(i32::MAX);
    let mut checked = Vec::new(); // what the checksum covers
    checked.extend_from_slice(&0_i16.to_be_bytes()); // attributes
    checked.extend_from_slice(&(count - 1).to_be_bytes());
    checked.extend_from_slice(&timestamp.to_be_bytes()); // base
    checked.extend_from_slice(&timestamp.to_be_bytes()); // greatest
    checked.extend_from_slice(&producer.0.to_be_bytes());
    checked.extend_from_slice(&producer.1.to_be_bytes());
    checked.extend_from_slice(&producer.2.to_be_bytes());
    checked.extend_from_slice(&count.to_be_bytes());
    checked.extend_from_slice(&records);
    // Leader epoch, format and checksum stand before it.
    let length = i32::try_from(checked.len() + 9).unwrap_or(i32::MAX);
    let mut batch = Vec::new();
    batch.extend_from_slice(&0_i64.to_be_bytes());
    batch.extend_from_slice(&length.to_be_bytes());
    batch.extend_from_slice(&(-1_i32).to_be_bytes());
    batch.push(2);
    batch.extend_from_slice(&crc32c::crc32c(&checked).to_be_bytes());
    batch.extend_from_slice(&checked);
    batch.into()
}

fn put_varint(out: &mut Vec<u8>, value: i64) {
    let mut rest = ((value << 1) ^ (value >> 63)).cast_unsigned();
    while rest > 0x7f {
        out.push((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}
