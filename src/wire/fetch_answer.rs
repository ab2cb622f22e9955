//! The answer to a follower's Fetch, versions 15 to 18 (KIP-903, KIP-951, KIP-853, KIP-1166), as a
//! list of slices: records are shared, only what is around them is written.

use bytes::{BufMut, Bytes, BytesMut};

use super::segments::{Segments, put_uvarint};
use crate::types::{Offset, OffsetAndEpoch, TopicId};

/// What is said of one partition.
#[derive(Debug)]
pub struct FetchedPartition {
    /// Its topic.
    pub topic: TopicId,
    /// Its number.
    pub partition: i32,
    /// Kafka's error code, 0 for none.
    pub error: i16,
    /// Not said where `None`.
    pub high_watermark: Option<Offset>,
    /// Not said where `None`.
    pub log_start: Option<Offset>,
    /// The follower's log parts from ours after this epoch and offset: it cuts its own there.
    pub diverging: Option<OffsetAndEpoch>,
    /// Whole batches.
    pub records: Vec<Bytes>,
}

/// Encodes an answer, header included. Partitions of one topic that follow each other share an
/// entry; a topic may come twice, as followers accept.
pub fn encode(
    correlation_id: i32,
    error: i16,
    session_id: i32,
    partitions: Vec<FetchedPartition>,
) -> Segments {
    let mut segments = Segments::new();
    let topics = by_topic(partitions);
    segments.put(|buffer| {
        buffer.put_i32(correlation_id);
        put_no_tags(buffer); // of the header
        buffer.put_i32(0); // throttle time
        buffer.put_i16(error);
        buffer.put_i32(session_id);
        put_array_length(buffer, topics.len());
    });
    for (topic, partitions) in topics {
        segments.put(|buffer| {
            buffer.put_slice(topic.0.as_bytes());
            put_array_length(buffer, partitions.len());
        });
        for partition in partitions {
            put_partition(&mut segments, partition);
        }
        segments.put(put_no_tags);
    }
    segments.put(put_no_tags);
    segments
}

fn by_topic(partitions: Vec<FetchedPartition>) -> Vec<(TopicId, Vec<FetchedPartition>)> {
    let mut topics: Vec<(TopicId, Vec<FetchedPartition>)> = Vec::new();
    for partition in partitions {
        match topics.last_mut() {
            Some((topic, same)) if *topic == partition.topic => same.push(partition),
            _ => topics.push((partition.topic, vec![partition])),
        }
    }
    topics
}

fn put_partition(segments: &mut Segments, partition: FetchedPartition) {
    const NOT_SAID: i64 = -1;
    let high_watermark = partition.high_watermark.map_or(NOT_SAID, |offset| offset.0);
    let size: usize = partition.records.iter().map(Bytes::len).sum();
    segments.put(|buffer| {
        buffer.put_i32(partition.partition);
        buffer.put_i16(partition.error);
        buffer.put_i64(high_watermark);
        // Followers build the transaction index from the batches; a leader tells them no more.
        buffer.put_i64(high_watermark); // last stable offset
        buffer.put_i64(partition.log_start.map_or(NOT_SAID, |offset| offset.0));
        put_uvarint(buffer, 0); // aborted transactions: null
        buffer.put_i32(-1); // preferred read replica
        put_uvarint(buffer, size as u64 + 1);
    });
    for records in partition.records {
        segments.put_shared(records);
    }
    segments.put(|buffer| put_tags(buffer, partition.diverging));
}

/// KIP-595: the diverging epoch is tag 0, a structure of its own.
fn put_tags(buffer: &mut BytesMut, diverging: Option<OffsetAndEpoch>) {
    const DIVERGING_EPOCH: u64 = 0;
    const SIZE: u64 = 4 + 8 + 1;
    let Some(end) = diverging else { return put_no_tags(buffer) };
    put_uvarint(buffer, 1);
    put_uvarint(buffer, DIVERGING_EPOCH);
    put_uvarint(buffer, SIZE);
    buffer.put_i32(end.epoch.0);
    buffer.put_i64(end.offset.0);
    put_no_tags(buffer);
}

fn put_array_length(buffer: &mut BytesMut, length: usize) {
    put_uvarint(buffer, length as u64 + 1);
}

fn put_no_tags(buffer: &mut BytesMut) {
    buffer.put_u8(0);
}

#[cfg(test)]
mod tests {
    use bytes::Buf;
    use kafka_protocol::messages::{FetchResponse, ResponseHeader};
    use kafka_protocol::protocol::Decodable;

    use super::*;
    use crate::types::{LeaderEpoch, Uuid};

    #[test]
    fn the_crate_reads_what_was_written_in_every_version_that_followers_use() {
        for version in 15..=18 {
            let topic = |n| TopicId(Uuid::from_u128(n));
            let part = |topic, partition, records: Vec<Bytes>| FetchedPartition {
                topic,
                partition,
                error: 0,
                high_watermark: Some(Offset(7)),
                log_start: None,
                diverging: None,
                records,
            };
            let end = OffsetAndEpoch { offset: Offset(300), epoch: LeaderEpoch(4) };
            let parting = FetchedPartition { diverging: Some(end), ..part(topic(2), 5, vec![]) };
            let large = Bytes::from(vec![9; 5000]);
            let answer = encode(
                42,
                0,
                11,
                vec![
                    part(topic(1), 0, vec![large.clone(), Bytes::from_static(b"tail")]),
                    part(topic(1), 1, vec![]),
                    parting,
                    part(topic(2), 6, vec![]),
                ],
            );
            let mut frame = answer.into_frame();
            let mut bytes = frame.copy_to_bytes(frame.remaining());
            assert_eq!(bytes.get_i32() as usize, bytes.len());
            assert_eq!(ResponseHeader::decode(&mut bytes, 1).unwrap().correlation_id, 42);
            let response = FetchResponse::decode(&mut bytes, version).unwrap();
            assert_eq!(bytes.len(), 0);
            assert_eq!(response.session_id, 11);
            assert_eq!(response.responses.len(), 2);
            let first = &response.responses[0].partitions[0];
            assert_eq!(first.records.as_ref().unwrap().len(), 5004);
            assert_eq!((first.high_watermark, first.log_start_offset), (7, -1));
            assert_eq!(first.diverging_epoch.epoch, -1);
            let second = &response.responses[1].partitions;
            let diverging = &second[0].diverging_epoch;
            assert_eq!((diverging.epoch, diverging.end_offset), (4, 300));
            assert_eq!((second[1].partition_index, second[1].diverging_epoch.epoch), (6, -1));
        }
    }
}
