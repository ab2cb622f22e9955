//! WriteTxnMarkers: accepted for mirrors, and nothing is written. A transaction that touches a mirror
//! has written nothing there (Produce is refused), and a coordinator that gets no answer repeats its
//! markers for ever, which hangs every transactional id behind them.

use bytes::{Buf, Bytes, BytesMut};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::write_txn_markers_response::{
    WritableTxnMarkerPartitionResult, WritableTxnMarkerResult, WritableTxnMarkerTopicResult,
};
use kafka_protocol::messages::{WriteTxnMarkersRequest, WriteTxnMarkersResponse};
use kafka_protocol::protocol::{Decodable, Message, decode_request_header_from_buffer};

use super::{AnswerError, Asked, Asker, Reply, take_uvarint, undecodable};
use crate::gateway::rights::Operation;
use crate::gateway::standing::{Standing, Standings, TopicRef};
use crate::types::Uuid;
use crate::wire::segments::put_uvarint;

/// Has one byte more per marker than version 1, and the same answer (KIP-1228). Brokers do not ask
/// for API versions before they send it, so it cannot be lowered away.
const WITH_TRANSACTION_VERSION: i16 = 2;
/// `CLUSTER_AUTHORIZATION_FAILED`.
const CLUSTER_REFUSED: i16 = 31;

/// Answers a WriteTxnMarkers.
pub async fn answer(frame: Bytes, asker: &mut Asker<'_>) -> Result<Reply, AnswerError> {
    let asked = decode(frame)?;
    let rights = asker.rights;
    let allowed = rights.cluster_action()? || rights.cluster(Operation::Alter)?;
    let topics = asked.body.markers.iter().flat_map(|marker| &marker.topics);
    let named = topics.flat_map(|topic| {
        let partitions = topic.partition_indexes.iter().copied();
        TopicRef::of(&topic.name, Uuid::nil()).each(partitions)
    });
    let standings = if allowed {
        Standings::of_cluster(asker.context, named.collect()).await
    } else {
        Standings::from(vec![Standing::Refused(CLUSTER_REFUSED); named.count()])
    };
    asked.answer(&response(&asked.body, standings))
}

fn response(request: &WriteTxnMarkersRequest, mut standings: Standings) -> WriteTxnMarkersResponse {
    let markers = request.markers.iter().map(|marker| {
        let topics = marker.topics.iter().map(|topic| {
            let partitions = topic.partition_indexes.iter().map(|&partition| {
                let code = match standings.take().led() {
                    Ok(_) => 0,
                    Err(CLUSTER_REFUSED) => CLUSTER_REFUSED,
                    Err(_) => ResponseError::NotLeaderOrFollower.code(),
                };
                WritableTxnMarkerPartitionResult::default()
                    .with_partition_index(partition)
                    .with_error_code(code)
            });
            WritableTxnMarkerTopicResult::default()
                .with_name(topic.name.clone())
                .with_partitions(partitions.collect())
        });
        WritableTxnMarkerResult::default()
            .with_producer_id(marker.producer_id)
            .with_topics(topics.collect())
    });
    WriteTxnMarkersResponse::default().with_markers(markers.collect())
}

/// Decodes version 2 as version 1: the crate does not know it. The answer has the same bytes in both.
fn decode(mut frame: Bytes) -> Result<Asked<WriteTxnMarkersRequest>, AnswerError> {
    let bad = |reason: &str| undecodable::<WriteTxnMarkersRequest>(-1, &reason);
    let mut header =
        decode_request_header_from_buffer(&mut frame).map_err(|error| bad(&error.to_string()))?;
    let mut body = frame;
    if header.request_api_version == WITH_TRANSACTION_VERSION {
        body = without_transaction_version(body).ok_or(bad("a marker breaks off"))?;
        header.request_api_version = WriteTxnMarkersRequest::VERSIONS.max;
    }
    let body = WriteTxnMarkersRequest::decode(&mut body, header.request_api_version)
        .map_err(|error| bad(&error.to_string()))?;
    Ok(Asked { header, body })
}

fn without_transaction_version(mut from: Bytes) -> Option<Bytes> {
    let mut to = BytesMut::with_capacity(from.len());
    for _ in 1..copy_uvarint(&mut from, &mut to)? {
        copy(&mut from, &mut to, 8 + 2 + 1)?;
        for _ in 1..copy_uvarint(&mut from, &mut to)? {
            let name = copy_uvarint(&mut from, &mut to)?.checked_sub(1)?;
            copy(&mut from, &mut to, name)?;
            let indexes = copy_uvarint(&mut from, &mut to)?.saturating_sub(1);
            copy(&mut from, &mut to, indexes.checked_mul(4)?)?;
            copy_tags(&mut from, &mut to)?;
        }
        copy(&mut from, &mut to, 4)?;
        let _transaction_version = from.try_get_i8().ok()?;
        copy_tags(&mut from, &mut to)?;
    }
    copy_tags(&mut from, &mut to)?;
    Some(to.freeze())
}

fn copy_tags(from: &mut Bytes, to: &mut BytesMut) -> Option<()> {
    for _ in 0..copy_uvarint(from, to)? {
        copy_uvarint(from, to)?;
        let length = copy_uvarint(from, to)?;
        copy(from, to, length)?;
    }
    Some(())
}

fn copy_uvarint(from: &mut Bytes, to: &mut BytesMut) -> Option<usize> {
    let value = take_uvarint(from)?;
    put_uvarint(to, value as u64);
    Some(value)
}

fn copy(from: &mut Bytes, to: &mut BytesMut, length: usize) -> Option<()> {
    if length > from.len() {
        return None;
    }
    to.extend_from_slice(&from.split_to(length));
    Some(())
}

#[cfg(test)]
mod tests {
    use bytes::BufMut;
    use kafka_protocol::messages::write_txn_markers_request::{
        WritableTxnMarker, WritableTxnMarkerTopic,
    };
    use kafka_protocol::protocol::StrBytes;

    use super::super::testing::{MIRROR, asker_of, decoded, request, world};
    use super::*;

    fn marker(producer: i64) -> WritableTxnMarker {
        let topics = [MIRROR, "plain"].map(|name| {
            WritableTxnMarkerTopic::default()
                .with_name(StrBytes::from_static_str(name).into())
                .with_partition_indexes(vec![0])
        });
        WritableTxnMarker::default().with_producer_id(producer.into()).with_topics(topics.to_vec())
    }

    /// Version 2 by hand: the crate has no encoder for it.
    fn version_2(markers: &[WritableTxnMarker]) -> Bytes {
        let mut frame = BytesMut::new();
        frame.put_slice(&[0, 27, 0, 2, 0, 0, 0, 9, 0xff, 0xff, 0]);
        put_uvarint(&mut frame, markers.len() as u64 + 1);
        for marker in markers {
            let one = WriteTxnMarkersRequest::default().with_markers(vec![marker.clone()]);
            let bytes = request(1, &one);
            let body = bytes.len() - marker_bytes(&bytes);
            frame.put_slice(&bytes[body..bytes.len() - 2]);
            frame.put_slice(&[2, 0]);
        }
        frame.put_u8(0);
        frame.freeze()
    }

    /// Length of the only marker with the tags behind it.
    fn marker_bytes(frame: &Bytes) -> usize {
        let mut body = frame.clone();
        decode_request_header_from_buffer(&mut body).unwrap();
        body.len() - 1
    }

    fn codes(response: &WriteTxnMarkersResponse) -> Vec<(i64, i16, i16)> {
        let markers = response.markers.iter();
        markers
            .map(|marker| {
                let code = |topic: usize| marker.topics[topic].partitions[0].error_code;
                (marker.producer_id.0, code(0), code(1))
            })
            .collect()
    }

    #[tokio::test]
    async fn markers_for_mirrors_are_accepted_and_others_are_not_swallowed() {
        let world = world();
        let body = WriteTxnMarkersRequest::default().with_markers(vec![marker(4), marker(5)]);
        let reply = answer(request(1, &body), &mut asker_of(&world).asker()).await;
        let response = decoded::<WriteTxnMarkersRequest>(1, reply.unwrap());
        assert_eq!(codes(&response), [(4, 0, 6), (5, 0, 6)]);
    }

    #[tokio::test]
    async fn brokers_of_4_3_send_version_2_unasked() {
        let world = world();
        let frame = version_2(&[marker(4), marker(5)]);
        assert_eq!(crate::wire::shape::check_request(&frame), Ok(0));
        let reply = answer(frame, &mut asker_of(&world).asker()).await.unwrap();
        let response = decoded::<WriteTxnMarkersRequest>(1, reply);
        assert_eq!(codes(&response), [(4, 0, 6), (5, 0, 6)]);
    }
}
