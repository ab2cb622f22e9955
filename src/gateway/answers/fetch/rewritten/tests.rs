//! What replicas are asked for old clients, and what becomes of their answers.

use std::time::Duration;

use kafka_protocol::messages::fetch_response::AbortedTransaction;

use super::super::super::testing::{
    MIRROR, Parts, asker_of, decoded, decoded_frame, finished, request, world,
};
use super::*;
use crate::gateway::answers::answer as answer_any;
use crate::gateway::classify::Local;

const TOPIC: StrBytes = StrBytes::from_static_str(MIRROR);
/// Not batches: nothing of them may be looked at.
const RECORDS: &[u8] = b"whatever the replica holds";
const OLD: std::ops::RangeInclusive<i16> = 4..=10;

fn fetch(version: i16, partitions: &[i32], offset: i64) -> Bytes {
    let partitions = partitions.iter().map(|&partition| {
        let partition = FetchPartition::default()
            .with_partition(partition)
            .with_current_leader_epoch(if version >= 9 { 7 } else { -1 })
            .with_partition_max_bytes(1 << 20)
            .with_fetch_offset(offset);
        if version >= 5 { partition.with_log_start_offset(-1) } else { partition }
    });
    let topic =
        FetchTopic::default().with_topic(TOPIC.into()).with_partitions(partitions.collect());
    let body = FetchRequest::default()
        .with_max_wait_ms(30_000)
        .with_min_bytes(1)
        .with_max_bytes(50 << 20)
        .with_isolation_level(1)
        .with_session_epoch(if version >= 7 { 0 } else { -1 })
        .with_topics(vec![topic]);
    request(version, &body)
}

async fn reply(frame: Bytes, parts: &mut Parts<'_>) -> Reply {
    answer_any(Local::Fetch, frame, &mut parts.asker()).await.unwrap()
}

async fn gathered(frame: Bytes, parts: &mut Parts<'_>) -> Gather {
    match reply(frame, parts).await {
        Reply::Gather(gather) => gather,
        _ => panic!("not gathered"),
    }
}

fn sent(gather: &Gather) -> FetchRequest {
    let asked = Asked::<FetchRequest>::decode(gather.asks[0].request.slice(4..)).unwrap();
    assert_eq!((gather.asks.len(), asked.version()), (1, 11));
    asked.body
}

/// The answer of a replica that holds [`RECORDS`], or refuses.
fn replica(gather: &Gather, error: i16) -> BytesMut {
    let asked = Asked::<FetchRequest>::decode(gather.asks[0].request.slice(4..)).unwrap();
    let aborted = AbortedTransaction::default().with_producer_id(3.into()).with_first_offset(20);
    let partition = PartitionData::default()
        .with_error_code(error)
        .with_high_watermark(88)
        .with_last_stable_offset(80)
        .with_log_start_offset(10)
        .with_aborted_transactions(Some(vec![aborted]))
        .with_preferred_read_replica((-1).into())
        .with_records(Some(Bytes::from_static(if error == 0 { RECORDS } else { b"" })));
    let topic =
        FetchableTopicResponse::default().with_topic(TOPIC.into()).with_partitions(vec![partition]);
    let body = top_level(0).with_throttle_time_ms(9).with_responses(vec![topic]);
    let frame = answer_frame::<FetchRequest>(&asked.header, &body).unwrap();
    BytesMut::from(&frame[4..])
}

#[tokio::test]
async fn an_old_fetch_is_put_to_a_replica_as_one_without_epoch_session_and_rack() {
    let world = world();
    for version in OLD {
        let mut parts = asker_of(&world);
        parts.backend = 2;
        let gather = gathered(fetch(version, &[0], 20), &mut parts).await;
        assert_eq!(gather.asks[0].broker, Some(BrokerId(2)), "the connection's own");
        let wait = duration(30_000);
        assert_eq!(gather.asks[0].answer, AnswerKind::Records(wait), "long polls are honoured");
        let sent = sent(&gather);
        assert_eq!((sent.replica_id.0, sent.max_wait_ms, sent.min_bytes), (-1, 30_000, 1));
        assert_eq!((sent.isolation_level, sent.session_id, sent.session_epoch), (1, 0, -1));
        assert_eq!((sent.max_bytes, sent.rack_id.as_str()), (BYTES_MAX, ""));
        let partition = &sent.topics[0].partitions[0];
        assert_eq!((partition.fetch_offset, partition.partition_max_bytes), (20, 1 << 20));
        assert_eq!(partition.current_leader_epoch, -1);
    }
}

#[tokio::test]
async fn partitions_that_have_something_to_read_share_one_answer() {
    let world = world();
    // What each may get; where the copy ends there is nothing to share.
    let cases = [(1, 20, 1 << 20), (4, 20, 1 << 20), (8, 20, 512 << 10), (500, 20, SHARE_MIN)];
    for (count, offset, bytes) in cases.into_iter().chain([(8, 90, 1 << 20)]) {
        let mut parts = asker_of(&world);
        let gather = gathered(fetch(8, &vec![0; count], offset), &mut parts).await;
        let sent = sent(&gather);
        let shares = sent.topics.iter().flat_map(|topic| &topic.partitions);
        let shares: Vec<_> = shares.map(|partition| partition.partition_max_bytes).collect();
        assert_eq!(shares, vec![bytes; count], "{count} at {offset}");
    }
}

#[tokio::test]
async fn a_fetch_at_the_end_is_short_while_the_client_reads_other_partitions() {
    let world = world();
    let mut parts = asker_of(&world);
    parts.backend = 1;
    let start = parts.now;
    let mut wait = async |after_ms, partition, offset| {
        parts.now = start + Duration::from_millis(after_ms);
        sent(&gathered(fetch(8, &[partition], offset), &mut parts).await).max_wait_ms
    };
    assert_eq!(wait(0, 0, 20).await, 30_000);
    assert_eq!(
        wait(20, 3, 90).await,
        WAIT_MEANWHILE_MS,
        "records of the other are with the client"
    );
    assert_eq!(wait(40, 0, 90).await, 30_000, "it has come to the end of both");
    assert_eq!(wait(60, 3, 90).await, 30_000);
}

#[tokio::test]
async fn the_replicas_answer_comes_in_the_clients_version_with_the_same_records() {
    let world = world();
    for version in OLD {
        let gather = gathered(fetch(version, &[0], 20), &mut asker_of(&world)).await;
        let theirs = replica(&gather, 0);
        let response =
            decoded::<FetchRequest>(version, finished(gather.finish, vec![Some(theirs)]));
        assert_eq!((response.error_code, response.session_id), (0, 0));
        assert_eq!(response.throttle_time_ms, 9);
        let partition = &response.responses[0].partitions[0];
        assert_eq!(partition.records.as_deref(), Some(RECORDS));
        assert_eq!((partition.high_watermark, partition.last_stable_offset), (88, 80));
        assert_eq!(partition.log_start_offset, if version >= 5 { 10 } else { -1 });
        assert_eq!(partition.aborted_transactions.as_ref().map(Vec::len), Some(1));
    }
}

#[tokio::test]
async fn a_replica_that_is_behind_does_not_make_a_consumer_leave_its_position() {
    let world = world();
    // Our copy reaches from 10 to 95.
    for (offset, code) in [(10, 0), (90, 0), (95, 0), (96, 1), (9, 1)] {
        let gather = gathered(fetch(10, &[0], offset), &mut asker_of(&world)).await;
        let theirs = replica(&gather, ResponseError::OffsetOutOfRange.code());
        let response = decoded::<FetchRequest>(10, finished(gather.finish, vec![Some(theirs)]));
        let partition = &response.responses[0].partitions[0];
        assert_eq!(partition.error_code, code, "at {offset}");
        assert_eq!(partition.records.as_ref().map(Bytes::len), Some(0));
    }
}

#[tokio::test]
async fn trouble_of_a_replica_is_retriable_and_a_refusal_is_passed_on() {
    let world = world();
    let gather = gathered(fetch(8, &[0], 20), &mut asker_of(&world)).await;
    let silent = decoded::<FetchRequest>(8, finished(gather.finish, vec![None]));
    assert_eq!(silent.responses[0].partitions[0].error_code, 6);
    for (theirs, code) in [(3, 6), (29, 29)] {
        let gather = gathered(fetch(8, &[0], 20), &mut asker_of(&world)).await;
        let theirs = replica(&gather, theirs);
        let response = decoded::<FetchRequest>(8, finished(gather.finish, vec![Some(theirs)]));
        assert_eq!(response.responses[0].partitions[0].error_code, code);
    }
}

#[tokio::test]
async fn what_is_not_ours_to_serve_is_refused_beside_it() {
    let world = world();
    let gather = gathered(fetch(8, &[1, 0, 2], 20), &mut asker_of(&world)).await;
    assert_eq!(sent(&gather).topics[0].partitions.len(), 1);
    let theirs = replica(&gather, 0);
    let response = decoded::<FetchRequest>(8, finished(gather.finish, vec![Some(theirs)]));
    let partitions = response.responses[0].partitions.iter();
    let codes: Vec<_> = partitions.map(|p| (p.partition_index, p.error_code)).collect();
    assert_eq!(codes, [(1, 6), (0, 0), (2, 6)]);
    // With nothing else in it the answer is held, or the client would ask in a circle.
    let held = reply(fetch(8, &[1], 20), &mut asker_of(&world)).await;
    assert!(matches!(held, Reply::Held(_, hold) if hold == HOLD_MAX));
}

#[tokio::test]
async fn nobody_but_the_connections_broker_is_asked_for_a_client_that_proved_itself_there() {
    let world = world();
    let mut parts = asker_of(&world);
    (parts.backend, parts.aside) = (3, None);
    let gather = gathered(fetch(8, &[0], 20), &mut parts).await;
    assert_eq!(gather.asks[0].broker, Some(BrokerId(3)));
    parts.backend = 4;
    let Reply::Held(frame, _) = reply(fetch(8, &[0], 20), &mut parts).await else {
        panic!("asked elsewhere");
    };
    let response = decoded_frame::<FetchRequest>(8, frame);
    assert_eq!(response.responses[0].partitions[0].error_code, 6);
}

#[tokio::test]
async fn an_old_client_is_moved_to_the_broker_that_holds_most() {
    let world = world();
    for (backend, asked, to) in [(4, [3, 3], 1), (1, [4, 4], 2), (2, [0, 3], 1)] {
        let mut parts = asker_of(&world);
        (parts.backend, parts.may_move) = (backend, true);
        let moved = reply(fetch(8, &asked, 20), &mut parts).await;
        assert!(matches!(moved, Reply::Elsewhere(broker) if broker == BrokerId(to)));
        parts.backend = to;
        let gather = gathered(fetch(8, &asked, 20), &mut parts).await;
        assert_eq!(gather.asks[0].broker, Some(BrokerId(to)));
    }
    // Here a move would bring nothing.
    let mut parts = asker_of(&world);
    (parts.backend, parts.may_move) = (2, true);
    gathered(fetch(8, &[3, 4], 20), &mut parts).await;
}
