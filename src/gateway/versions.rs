//! The real broker's list of API versions, lowered in place to what we decode. Keys are never left
//! out: a producer that does not find Produce in the list waits for ever. Everything that is not a
//! lowered maximum stays as the broker wrote it.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::{
    AlterConfigsRequest, AlterReplicaLogDirsRequest, ApiKey, DeleteRecordsRequest,
    DescribeConfigsRequest, DescribeLogDirsRequest, DescribeProducersRequest, FetchRequest,
    IncrementalAlterConfigsRequest, ListGroupsRequest, ListTransactionsRequest,
    OffsetForLeaderEpochRequest, ProduceRequest, ShareAcknowledgeRequest, ShareFetchRequest,
    WriteTxnMarkersRequest,
};
use kafka_protocol::protocol::Message;

use super::answers::list_offsets;

/// First version of ApiVersions with compact arrays.
const COMPACT_SINCE: i16 = 3;
/// The newest version of ApiVersions whose answer is known to begin as we read it.
const NEWEST: i16 = 4;
/// Length and correlation id: the header of this answer is version 0 whatever the request's version.
const HEADER_BYTES: usize = 4 + 4;

/// An ApiVersions answer that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("ApiVersions answer (request version {version}) breaks off at byte {at}")]
pub struct MalformedVersions {
    version: i16,
    at: usize,
}

/// Highest version that we decode; `None` for what is only relayed.
fn highest_known(api_key: i16) -> Option<i16> {
    let range = match ApiKey::try_from(api_key).ok()? {
        ApiKey::Produce => ProduceRequest::VERSIONS,
        ApiKey::Fetch => FetchRequest::VERSIONS,
        ApiKey::ListOffsets => return Some(list_offsets::NEWEST),
        ApiKey::OffsetForLeaderEpoch => OffsetForLeaderEpochRequest::VERSIONS,
        ApiKey::WriteTxnMarkers => WriteTxnMarkersRequest::VERSIONS,
        ApiKey::DeleteRecords => DeleteRecordsRequest::VERSIONS,
        ApiKey::ListGroups => ListGroupsRequest::VERSIONS,
        ApiKey::ListTransactions => ListTransactionsRequest::VERSIONS,
        ApiKey::DescribeLogDirs => DescribeLogDirsRequest::VERSIONS,
        ApiKey::DescribeConfigs => DescribeConfigsRequest::VERSIONS,
        ApiKey::AlterConfigs => AlterConfigsRequest::VERSIONS,
        ApiKey::IncrementalAlterConfigs => IncrementalAlterConfigsRequest::VERSIONS,
        ApiKey::AlterReplicaLogDirs => AlterReplicaLogDirsRequest::VERSIONS,
        ApiKey::DescribeProducers => DescribeProducersRequest::VERSIONS,
        ApiKey::ShareFetch => ShareFetchRequest::VERSIONS,
        ApiKey::ShareAcknowledge => ShareAcknowledgeRequest::VERSIONS,
        ApiKey::ApiVersions => return Some(NEWEST),
        _ => return None,
    };
    Some(range.max)
}

/// Lowers the maxima in the broker's answer (`frame`, with its length) to a request of `version`.
pub fn lower(version: i16, mut frame: BytesMut) -> Result<BytesMut, MalformedVersions> {
    let mut at = HEADER_BYTES;
    let broken = |at| MalformedVersions { version, at };
    let mut rest = frame.get(at..).ok_or(broken(at))?;
    let error = rest.try_get_i16().map_err(|_| broken(at))?;
    at += 2;
    // A broker that does not know the version answers in version 0.
    let compact = version >= COMPACT_SINCE && error != ResponseError::UnsupportedVersion.code();
    let count = if compact {
        let (length, bytes) = uvarint(rest).ok_or(broken(at))?;
        at += bytes;
        length.saturating_sub(1)
    } else {
        let count = rest.try_get_i32().map_err(|_| broken(at))?;
        at += 4;
        usize::try_from(count).unwrap_or(0)
    };
    for _ in 0..count {
        let entry = frame.get_mut(at..at + 6).ok_or(broken(at))?;
        let api_key = i16::from_be_bytes([entry[0], entry[1]]);
        let offered = i16::from_be_bytes([entry[4], entry[5]]);
        if let Some(known) = highest_known(api_key)
            && known < offered
        {
            entry[4..6].copy_from_slice(&known.to_be_bytes());
        }
        at += 6;
        if compact {
            at += tags(&frame[at..]).ok_or(broken(at))?;
        }
    }
    Ok(frame)
}

/// Whether the answer to this version cannot be read here. Such a request is answered as a broker
/// does that has never heard of it: error 35 in version 0, naming the versions that it may ask with.
pub fn refusal(version: i16, correlation_id: i32) -> Option<Bytes> {
    if version <= NEWEST {
        return None;
    }
    let mut frame = BytesMut::with_capacity(20);
    frame.put_i32(16);
    frame.put_i32(correlation_id);
    frame.put_i16(ResponseError::UnsupportedVersion.code());
    frame.put_i32(1);
    frame.put_i16(ApiKey::ApiVersions as i16);
    frame.put_i16(0);
    frame.put_i16(NEWEST);
    Some(frame.freeze())
}

/// An unsigned variable-length integer and how many bytes it has.
fn uvarint(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut value = 0usize;
    for (index, byte) in bytes.iter().take(5).enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((value, index + 1));
        }
    }
    None
}

/// How many bytes a section of tagged fields has.
fn tags(bytes: &[u8]) -> Option<usize> {
    let (count, mut at) = uvarint(bytes)?;
    for _ in 0..count {
        at += uvarint(bytes.get(at..)?)?.1;
        let (length, length_bytes) = uvarint(bytes.get(at..)?)?;
        at = at.checked_add(length_bytes + length)?;
    }
    (at <= bytes.len()).then_some(at)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use kafka_protocol::messages::ApiVersionsResponse;
    use kafka_protocol::protocol::Decodable;

    use super::*;

    /// Answers of a 4.3.1 broker to ApiVersions 0, 4 and 9, as they were on the wire.
    const V0: &[u8] = include_bytes!("../../tests/data/api-versions-v0-4.3.1.bin");
    const V4: &[u8] = include_bytes!("../../tests/data/api-versions-v4-4.3.1.bin");
    const V9: &[u8] = include_bytes!("../../tests/data/api-versions-v9-4.3.1.bin");

    fn decode(version: i16, frame: &[u8]) -> ApiVersionsResponse {
        let mut body = Bytes::copy_from_slice(&frame[HEADER_BYTES..]);
        let response = ApiVersionsResponse::decode(&mut body, version).unwrap();
        assert!(body.is_empty());
        response
    }

    fn ranges(response: &ApiVersionsResponse) -> BTreeMap<i16, (i16, i16)> {
        let keys = response.api_keys.iter();
        keys.map(|key| (key.api_key, (key.min_version, key.max_version))).collect()
    }

    #[test]
    fn every_key_of_a_real_broker_stays_and_only_maxima_fall() {
        for (version, real) in [(0, V0), (4, V4)] {
            let lowered = lower(version, BytesMut::from(real)).unwrap();
            let (before, mut after) = (decode(version, real), decode(version, &lowered));
            let (offered, left) = (ranges(&before), ranges(&after));
            assert!(offered.len() > 50);
            let mut lower_ones = BTreeMap::new();
            for (key, range) in &offered {
                assert_eq!(left[key].0, range.0, "the minimum of key {key}");
                if left[key] != *range {
                    lower_ones.insert(*key, (range.1, left[key].1));
                }
            }
            // WriteTxnMarkers, DescribeLogDirs and share groups: what the crate does not know yet.
            let expected = [(27, (2, 1)), (35, (5, 4)), (78, (2, 1)), (79, (2, 1))];
            assert_eq!(lower_ones, BTreeMap::from(expected));
            // Nothing else changed.
            after.api_keys.clone_from(&before.api_keys);
            assert_eq!(after, before);
        }
    }

    #[test]
    fn a_broker_that_does_not_know_the_version_answers_in_version_0() {
        let lowered = lower(9, BytesMut::from(V9)).unwrap();
        let response = decode(0, &lowered);
        assert_eq!(response.error_code, 35);
        assert_eq!(ranges(&response), ranges(&decode(0, V9)));
    }

    #[test]
    fn an_answer_that_breaks_off_is_an_error() {
        for cut in 0..V4.len() / 2 {
            assert!(lower(4, BytesMut::from(&V4[..cut])).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn versions_that_we_cannot_read_are_refused_as_a_broker_does() {
        assert_eq!(refusal(4, 77), None);
        let refused = refusal(5, 77).unwrap();
        let length = i32::from_be_bytes(refused[..4].try_into().unwrap());
        assert_eq!(length as usize, refused.len() - 4);
        let response = decode(0, &refused);
        assert_eq!(response.error_code, 35);
        assert_eq!(ranges(&response), BTreeMap::from([(18, (0, 4))]));
    }
}
