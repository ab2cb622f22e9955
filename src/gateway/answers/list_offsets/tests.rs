//! What is answered from the high watermark, and what replicas are asked.

use kafka_protocol::messages::FetchResponse;
use kafka_protocol::messages::fetch_response::{FetchableTopicResponse, PartitionData};
use kafka_protocol::protocol::{Decodable, HeaderVersion, decode_request_header_from_buffer};

use super::super::testing::{MIRROR, Parts, asker_of, decoded, request, versions_of, world};
use super::super::{Asked, Finish};
use super::*;

const TOPIC: StrBytes = StrBytes::from_static_str(MIRROR);

fn ask(isolation: i8, partitions: &[(i32, i64)]) -> ListOffsetsRequest {
    let partitions = partitions.iter().map(|&(partition, timestamp)| {
        ListOffsetsPartition::default()
            .with_partition_index(partition)
            .with_current_leader_epoch(-1)
            .with_timestamp(timestamp)
    });
    let topic =
        ListOffsetsTopic::default().with_name(TOPIC.into()).with_partitions(partitions.collect());
    ListOffsetsRequest::default()
        .with_replica_id((-1).into())
        .with_isolation_level(isolation)
        .with_topics(vec![topic])
}

fn offset_of(response: &ListOffsetsResponse, index: usize) -> (i16, i64, i64) {
    let partition = &response.topics[0].partitions[index];
    (partition.error_code, partition.offset, partition.timestamp)
}

async fn reply(version: i16, body: &ListOffsetsRequest, parts: &mut Parts<'_>) -> Reply {
    answer(request(version, body), &mut parts.asker()).await.unwrap()
}

async fn gathered(version: i16, body: &ListOffsetsRequest, parts: &mut Parts<'_>) -> Gather {
    match reply(version, body, parts).await {
        Reply::Gather(gather) => gather,
        _ => panic!("not gathered"),
    }
}

/// The answer of a replica that says `offset` for each partition of a request of ours.
fn replica_says(version: i16, ask: &Ask, offset: i64, error: i16) -> BytesMut {
    let asked = Asked::<ListOffsetsRequest>::decode(ask.request.slice(4..)).unwrap();
    assert_eq!(asked.body.replica_id.0, -2);
    let topics = asked.body.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| {
            assert_eq!(partition.current_leader_epoch, -1);
            ListOffsetsPartitionResponse::default()
                .with_partition_index(partition.partition_index)
                .with_error_code(error)
                .with_offset(offset)
                .with_timestamp(1234)
        });
        ListOffsetsTopicResponse::default()
            .with_name(topic.name.clone())
            .with_partitions(partitions.collect())
    });
    let response = ListOffsetsResponse::default().with_topics(topics.collect());
    let frame = answer_frame::<ListOffsetsRequest>(&asked.header, &response).unwrap();
    assert_eq!(asked.version(), version);
    BytesMut::from(&frame[4..])
}

/// The answer of a replica whose last stable offset is `stable`.
fn replica_fetched(ask: &Ask, stable: i64) -> BytesMut {
    let mut frame = ask.request.slice(4..);
    let header = decode_request_header_from_buffer(&mut frame).unwrap();
    let fetch = FetchRequest::decode(&mut frame, FETCH_VERSION).unwrap();
    assert_eq!((fetch.isolation_level, fetch.max_wait_ms, fetch.replica_id.0), (1, 0, -1));
    assert_eq!(fetch.topics[0].partitions[0].fetch_offset, 90);
    let partition = PartitionData::default()
        .with_partition_index(fetch.topics[0].partitions[0].partition)
        .with_high_watermark(90)
        .with_last_stable_offset(stable);
    let topic =
        FetchableTopicResponse::default().with_topic(TOPIC.into()).with_partitions(vec![partition]);
    let response = FetchResponse::default().with_responses(vec![topic]);
    assert_eq!(FetchResponse::header_version(FETCH_VERSION), 1);
    let frame = answer_frame::<FetchRequest>(&header, &response).unwrap();
    BytesMut::from(&frame[4..])
}

fn finished(version: i16, finish: Finish, answers: Vec<Option<BytesMut>>) -> ListOffsetsResponse {
    decoded::<ListOffsetsRequest>(version, Reply::Answer(finish(answers).unwrap()))
}

#[tokio::test]
async fn the_end_is_our_high_watermark() {
    let world = world();
    for version in versions_of::<ListOffsetsRequest>() {
        let reply = reply(version, &ask(0, &[(0, LATEST)]), &mut asker_of(&world)).await;
        let response = decoded::<ListOffsetsRequest>(version, reply);
        assert_eq!(offset_of(&response, 0), (0, 90, -1));
    }
}

#[tokio::test]
async fn without_a_high_watermark_or_a_mirror_there_is_an_error() {
    let world = world();
    let asked = ask(0, &[(1, LATEST), (2, 1000), (9, LATEST)]);
    let response = decoded::<ListOffsetsRequest>(8, reply(8, &asked, &mut asker_of(&world)).await);
    let codes: Vec<_> = (0..3).map(|index| offset_of(&response, index)).collect();
    assert_eq!(codes, [(6, -1, -1), (6, -1, -1), (3, -1, -1)]);
}

#[tokio::test]
async fn replicas_answer_the_rest_up_to_the_high_watermark() {
    let world = world();
    for version in versions_of::<ListOffsetsRequest>() {
        for (timestamp, offset, expected) in [
            (-2, 90, (0, 90, 1234)), // the start of an empty partition is its end
            (1000, 89, (0, 89, 1234)),
            (1000, 90, (0, -1, -1)),
            (-3, 93, (0, -1, -1)),
        ] {
            let asked = ask(0, &[(0, timestamp)]);
            let gather = gathered(version, &asked, &mut asker_of(&world)).await;
            assert_eq!(gather.asks.len(), 1);
            let answer = replica_says(version, &gather.asks[0], offset, 0);
            let response = finished(version, gather.finish, vec![Some(answer)]);
            assert_eq!(offset_of(&response, 0), expected, "v{version} {timestamp}");
        }
    }
}

/// Brokers take the timestamp -6 in version 11 alone, which the crate does not know.
#[tokio::test]
async fn the_newest_version_is_passed_on_as_it_came() {
    let world = world();
    let newest = |known: &[u8], at: usize| with_version(known, at, NEWEST);
    let frame = newest(&request(KNOWN, &ask(0, &[(0, -6)])), 2);
    let Reply::Gather(gather) = answer(frame, &mut asker_of(&world).asker()).await.unwrap() else {
        panic!("not gathered")
    };
    let asked = &gather.asks[0];
    assert_eq!(asked.request[4..8], [0, 2, 0, 11]);
    let asked = Ask {
        broker: None,
        answer: AnswerKind::Plain,
        request: with_version(&asked.request, 6, KNOWN),
    };
    let answer = replica_says(KNOWN, &asked, 17, 0);
    let response = finished(KNOWN, gather.finish, vec![Some(answer)]);
    assert_eq!(offset_of(&response, 0), (0, 17, 1234));
}

#[tokio::test]
async fn the_connections_broker_is_asked_where_it_is_in_sync() {
    let world = world();
    let asked = ask(0, &[(0, 1000)]);
    for (backend, expected) in [(2, 2), (1, 1), (4, 1)] {
        let mut parts = asker_of(&world);
        parts.backend = backend;
        let gather = gathered(8, &asked, &mut parts).await;
        assert_eq!(gather.asks[0].broker, Some(BrokerId(expected)));
    }
    let mut pinned = asker_of(&world);
    pinned.backend = 4;
    pinned.aside = None;
    let response = decoded::<ListOffsetsRequest>(8, reply(8, &asked, &mut pinned).await);
    assert_eq!(offset_of(&response, 0), (6, -1, -1));
}

#[tokio::test]
async fn read_committed_ends_at_the_last_stable_offset() {
    let world = world();
    let asked = ask(1, &[(0, LATEST)]);
    let gather = gathered(8, &asked, &mut asker_of(&world)).await;
    let answer = replica_fetched(&gather.asks[0], 60);
    assert_eq!(offset_of(&finished(8, gather.finish, vec![Some(answer)]), 0), (0, 60, -1));

    for (offset, expected) in [(59, (0, 59, 1234)), (60, (0, -1, -1))] {
        let asked = ask(1, &[(0, 1000)]);
        let gather = gathered(8, &asked, &mut asker_of(&world)).await;
        let answers = vec![
            Some(replica_says(8, &gather.asks[0], offset, 0)),
            Some(replica_fetched(&gather.asks[1], 60)),
        ];
        assert_eq!(offset_of(&finished(8, gather.finish, answers), 0), expected);
    }
}

#[tokio::test]
async fn a_replica_that_fails_makes_the_client_ask_again() {
    let world = world();
    for isolation in [0, 1] {
        let asked = ask(isolation, &[(0, 1000)]);
        let gather = gathered(8, &asked, &mut asker_of(&world)).await;
        let nothing = gather.asks.iter().map(|_| None).collect();
        assert_eq!(offset_of(&finished(8, gather.finish, nothing), 0), (6, -1, -1));
    }
    let gather = gathered(8, &ask(0, &[(0, 1000)]), &mut asker_of(&world)).await;
    let unknown = replica_says(8, &gather.asks[0], -1, 3);
    assert_eq!(offset_of(&finished(8, gather.finish, vec![Some(unknown)]), 0), (6, -1, -1));
}

#[tokio::test]
async fn a_client_that_poses_as_a_broker_is_cut_off() {
    let world = world();
    let asked = ask(0, &[(0, LATEST)]).with_replica_id(2.into());
    assert!(matches!(reply(8, &asked, &mut asker_of(&world)).await, Reply::Close(_)));
}
