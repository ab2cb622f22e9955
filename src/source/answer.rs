//! A Fetch answer as bytes: where the records of each partition lie within the frame, and what the
//! fields around them say. Read by hand and not by `kafka-protocol`: the records have to be stamped
//! where they lie, and a broker that answers garbage must not make us allocate what an array length
//! claims. Versions 5 to 17; nothing is copied.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::fetch_session::{TopicRef, WireKey};
use crate::types::{BrokerId, LeaderEpoch, Offset, OffsetAndEpoch, Uuid};

/// From this version on the answer has compact lengths and tagged fields (KIP-482).
const FLEXIBLE: i16 = 12;
/// From this version on topics are named by id (KIP-516).
pub(super) const BY_ID: i16 = 13;

/// Bytes that are no Fetch answer.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("read {what} of a fetch answer at byte {at} of {length}")]
pub(super) struct AnswerError {
    /// The field.
    pub what: &'static str,
    /// Where.
    pub at: usize,
    /// Bytes of the whole frame.
    pub length: usize,
}

/// A Fetch answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// How long the broker wants to be left alone because of a quota.
    pub throttle: Duration,
    /// Error of the whole request; 0 is none.
    pub error: i16,
    /// The fetch session, 0 where there is none.
    pub session_id: i32,
    /// Its partitions.
    pub partitions: Vec<PartitionAnswer>,
}

/// What is answered for one partition.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct PartitionAnswer {
    /// The partition.
    pub key: WireKey,
    /// Its error; 0 is none.
    pub error: i16,
    /// End of what consumers may read; -1 with an error.
    pub high_watermark: Offset,
    /// Log start; -1 with an error.
    pub log_start: Offset,
    /// Where the source's log parts from what we said that we have.
    pub diverging: Option<OffsetAndEpoch>,
    /// Who leads, where the broker thinks that we should know.
    pub current_leader: Option<(BrokerId, LeaderEpoch)>,
    /// A replica nearer to our rack (KIP-392).
    pub preferred: Option<BrokerId>,
    /// Where its records lie within the frame.
    pub records: Range<usize>,
}

/// Reads the frame of an answer, response header included.
pub(super) fn read(frame: &[u8], version: i16) -> Result<Answer, AnswerError> {
    let mut reader = Reader { frame, at: 0, flexible: version >= FLEXIBLE };
    reader.i32("correlation id")?;
    reader.skip_tags("header tags")?;
    let throttle = reader.i32("throttle time")?;
    let mut answer = Answer {
        throttle: Duration::from_millis(u64::try_from(throttle).unwrap_or(0)),
        error: 0,
        session_id: 0,
        partitions: Vec::new(),
    };
    if version >= 7 {
        answer.error = reader.i16("error code")?;
        answer.session_id = reader.i32("session id")?;
    }
    for _ in 0..reader.length("topics")? {
        let topic = if version >= BY_ID {
            TopicRef::Id(Uuid::from_bytes(reader.array("topic id")?))
        } else {
            TopicRef::Name(reader.string("topic name")?)
        };
        for _ in 0..reader.length("partitions")? {
            let partition = reader.partition(&topic, version)?;
            answer.partitions.push(partition);
        }
        reader.skip_tags("topic tags")?;
    }
    // Node endpoints, the one tagged field here, are left to the metadata refresh.
    reader.skip_tags("tags")?;
    Ok(answer)
}

struct Reader<'a> {
    frame: &'a [u8],
    at: usize,
    flexible: bool,
}

impl<'a> Reader<'a> {
    fn partition(
        &mut self,
        topic: &TopicRef,
        version: i16,
    ) -> Result<PartitionAnswer, AnswerError> {
        let index = self.i32("partition index")?;
        let error = self.i16("partition error")?;
        let high_watermark = Offset(self.i64("high watermark")?);
        self.i64("last stable offset")?;
        let log_start = Offset(self.i64("log start offset")?);
        for _ in 0..self.length("aborted transactions")? {
            self.take(16, "aborted transaction")?;
            self.skip_tags("aborted transaction tags")?;
        }
        let preferred = match version {
            11.. => self.i32("preferred read replica")?,
            _ => -1,
        };
        let length = self.length("records")?;
        let begin = self.at;
        self.take(length, "records")?;
        let mut answer = PartitionAnswer {
            key: WireKey { topic: topic.clone(), partition: index },
            error,
            high_watermark,
            log_start,
            diverging: None,
            current_leader: None,
            preferred: (preferred >= 0).then_some(BrokerId(preferred)),
            records: begin..begin + length,
        };
        self.partition_tags(&mut answer)?;
        Ok(answer)
    }

    fn partition_tags(&mut self, answer: &mut PartitionAnswer) -> Result<(), AnswerError> {
        if !self.flexible {
            return Ok(());
        }
        for _ in 0..self.uvarint("partition tags")? {
            let tag = self.uvarint("tag")?;
            let size = self.uvarint("tag size")?;
            let bytes = self.take(size, "tagged field")?;
            let mut field = Reader { frame: bytes, at: 0, flexible: true };
            match tag {
                0 => {
                    let epoch = LeaderEpoch(field.i32("diverging epoch")?);
                    let offset = Offset(field.i64("diverging end offset")?);
                    // -1 is the default, and a broker may spell defaults out.
                    if offset >= Offset::ZERO {
                        answer.diverging = Some(OffsetAndEpoch { offset, epoch });
                    }
                }
                1 => {
                    let leader = field.i32("current leader")?;
                    let epoch = LeaderEpoch(field.i32("current leader epoch")?);
                    if leader >= 0 {
                        answer.current_leader = Some((BrokerId(leader), epoch));
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn take(&mut self, count: usize, what: &'static str) -> Result<&'a [u8], AnswerError> {
        let end = self.at.checked_add(count);
        match end.and_then(|end| self.frame.get(self.at..end)) {
            Some(bytes) => {
                self.at += count;
                Ok(bytes)
            }
            None => Err(self.error(what)),
        }
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], AnswerError> {
        let bytes = self.take(N, what)?;
        <[u8; N]>::try_from(bytes).map_err(|_wrong_length| self.error(what))
    }

    fn i16(&mut self, what: &'static str) -> Result<i16, AnswerError> {
        Ok(i16::from_be_bytes(self.array(what)?))
    }

    fn i32(&mut self, what: &'static str) -> Result<i32, AnswerError> {
        Ok(i32::from_be_bytes(self.array(what)?))
    }

    fn i64(&mut self, what: &'static str) -> Result<i64, AnswerError> {
        Ok(i64::from_be_bytes(self.array(what)?))
    }

    fn uvarint(&mut self, what: &'static str) -> Result<usize, AnswerError> {
        let mut value = 0u32;
        for shift in (0..32).step_by(7) {
            let [byte] = self.array(what)?;
            value |= u32::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return usize::try_from(value).map_err(|_too_large| self.error(what));
            }
        }
        Err(self.error(what))
    }

    /// Length of an array or of bytes; null counts as empty. At least one byte of the frame has to
    /// be left for each of them, so a claimed length never costs more time than the frame did.
    fn length(&mut self, what: &'static str) -> Result<usize, AnswerError> {
        let length = if self.flexible {
            self.uvarint(what)?.saturating_sub(1)
        } else {
            match self.i32(what)? {
                -1 => 0,
                length => usize::try_from(length).map_err(|_negative| self.error(what))?,
            }
        };
        if length > self.frame.len() - self.at {
            return Err(self.error(what));
        }
        Ok(length)
    }

    fn string(&mut self, what: &'static str) -> Result<Arc<str>, AnswerError> {
        let length = if self.flexible {
            self.length(what)?
        } else {
            usize::try_from(self.i16(what)?).map_err(|_negative| self.error(what))?
        };
        let bytes = self.take(length, what)?;
        let text = std::str::from_utf8(bytes).map_err(|_no_text| self.error(what))?;
        Ok(Arc::from(text))
    }

    fn skip_tags(&mut self, what: &'static str) -> Result<(), AnswerError> {
        if !self.flexible {
            return Ok(());
        }
        for _ in 0..self.uvarint(what)? {
            self.uvarint(what)?;
            let size = self.uvarint(what)?;
            self.take(size, what)?;
        }
        Ok(())
    }

    fn error(&self, what: &'static str) -> AnswerError {
        AnswerError { what, at: self.at, length: self.frame.len() }
    }
}

#[cfg(test)]
mod tests {
    use bytes::{Bytes, BytesMut};
    use kafka_protocol::messages::fetch_response::{
        AbortedTransaction, EpochEndOffset, FetchableTopicResponse, LeaderIdAndEpoch, NodeEndpoint,
        PartitionData,
    };
    use kafka_protocol::messages::{self, FetchResponse, ResponseHeader};
    use kafka_protocol::protocol::{Encodable, HeaderVersion, StrBytes};

    use super::*;

    fn frame(version: i16, response: &FetchResponse) -> Vec<u8> {
        let mut frame = BytesMut::new();
        let header = FetchResponse::header_version(version);
        ResponseHeader::default().encode(&mut frame, header).unwrap();
        response.encode(&mut frame, version).unwrap();
        frame.to_vec()
    }

    fn response(version: i16) -> FetchResponse {
        let mut data = PartitionData::default()
            .with_partition_index(3)
            .with_high_watermark(100)
            .with_last_stable_offset(90)
            .with_log_start_offset(5)
            .with_aborted_transactions(Some(vec![AbortedTransaction::default()]))
            .with_records(Some(Bytes::from_static(b"records")));
        if version >= 11 {
            data.preferred_read_replica = messages::BrokerId(7);
        }
        if version >= 12 {
            data.diverging_epoch = EpochEndOffset::default().with_epoch(2).with_end_offset(44);
            data.current_leader = LeaderIdAndEpoch::default()
                .with_leader_id(messages::BrokerId(1))
                .with_leader_epoch(9);
        }
        let failed = PartitionData::default()
            .with_partition_index(4)
            .with_error_code(6)
            .with_high_watermark(-1)
            .with_aborted_transactions(None)
            .with_preferred_read_replica(messages::BrokerId(-1))
            .with_records(None);
        let mut topic = FetchableTopicResponse::default().with_partitions(vec![data, failed]);
        if version >= BY_ID {
            topic.topic_id = Uuid::from_u128(5);
        } else {
            topic.topic = messages::TopicName(StrBytes::from_static_str("orders"));
        }
        let mut response =
            FetchResponse::default().with_throttle_time_ms(20).with_responses(vec![topic]);
        if version >= 7 {
            response.session_id = 11;
        }
        if version >= 16 {
            response.node_endpoints = vec![NodeEndpoint::default()];
        }
        response
    }

    #[test]
    fn every_version_is_read_as_it_was_written() {
        for version in 5..=17 {
            let frame = frame(version, &response(version));
            let answer = read(&frame, version).unwrap();
            assert_eq!(answer.throttle, Duration::from_millis(20));
            assert_eq!(answer.session_id, if version >= 7 { 11 } else { 0 });
            let [first, second] = &answer.partitions[..] else { panic!("{answer:?}") };
            let topic = match version {
                BY_ID.. => TopicRef::Id(Uuid::from_u128(5)),
                _ => TopicRef::Name(Arc::from("orders")),
            };
            assert_eq!(first.key, WireKey { topic, partition: 3 });
            assert_eq!(&frame[first.records.clone()], b"records");
            assert_eq!((first.high_watermark, first.log_start), (Offset(100), Offset(5)));
            assert_eq!(first.preferred, (version >= 11).then_some(BrokerId(7)));
            let diverging = OffsetAndEpoch { offset: Offset(44), epoch: LeaderEpoch(2) };
            assert_eq!(first.diverging, (version >= 12).then_some(diverging));
            let leader = (BrokerId(1), LeaderEpoch(9));
            assert_eq!(first.current_leader, (version >= 12).then_some(leader));
            assert_eq!((second.error, second.records.len()), (6, 0));
            assert_eq!((second.preferred, second.diverging), (None, None));
        }
    }

    #[test]
    fn a_frame_cut_anywhere_is_an_error() {
        for version in [5, 11, 12, 17] {
            let whole = frame(version, &response(version));
            for cut in 0..whole.len() {
                assert!(read(&whole[..cut], version).is_err(), "v{version} at {cut}");
            }
        }
    }

    #[test]
    fn garbage_is_neither_a_panic_nor_an_allocation() {
        let whole = frame(17, &response(17));
        for at in 0..whole.len() {
            for value in [0x00, 0x7f, 0x80, 0xff] {
                let mut bad = whole.clone();
                bad[at] = value;
                let _ = read(&bad, 17);
                bad.truncate(at + 1);
                bad.extend([0xff; 64]);
                let _ = read(&bad, 17);
            }
        }
        assert!(read(&[0xff; 4096], 17).is_err());
        assert!(read(&[0x7f; 4096], 11).is_err());
    }
}
