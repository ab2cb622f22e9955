//! Clients that pose as brokers: what each of the conditions keeps from them. (That a broker proves
//! itself where clients have to is in `proofs`.)

use kafka_protocol::messages::OffsetForLeaderEpochRequest;
use kafka_protocol::messages::offset_for_leader_epoch_request::{
    OffsetForLeaderPartition, OffsetForLeaderTopic,
};

use super::*;

/// A follower's request; broker 77 is not registered, brokers 1 and 2 are, in epoch 5.
pub fn replica_fetch(broker: i32) -> Bytes {
    let state = ReplicaState::default().with_replica_id(broker.into()).with_replica_epoch(1);
    let topic = FetchTopic::default().with_topic_id(MIRROR_ID.0);
    let fetch = FetchRequest::default().with_replica_state(state).with_topics(vec![topic]);
    request(17, &fetch)
}

/// It, with more topics than fit into any memory.
pub fn absurd_fetch(broker: i32) -> Bytes {
    let fetch = replica_fetch(broker);
    // The header has 17 bytes, and what comes before the topics 21.
    let (start, end) = (&fetch[..38], &fetch[39..]);
    [start, &[0xff, 0xff, 0xff, 0xff, 7], end].concat().into()
}

fn replica_offsets(broker: i32) -> Bytes {
    let topic = ListOffsetsTopic::default()
        .with_name(StrBytes::from_static_str(MIRROR).into())
        .with_partitions(vec![ListOffsetsPartition::default().with_timestamp(-1)]);
    let body = ListOffsetsRequest::default()
        .with_replica_id(broker.into())
        .with_isolation_level(0)
        .with_topics(vec![topic]);
    request(9, &body)
}

fn replica_epochs(broker: i32) -> Bytes {
    let topic = OffsetForLeaderTopic::default()
        .with_topic(StrBytes::from_static_str(MIRROR).into())
        .with_partitions(vec![OffsetForLeaderPartition::default()]);
    let body = OffsetForLeaderEpochRequest::default()
        .with_replica_id(broker.into())
        .with_topics(vec![topic]);
    request(4, &body)
}

/// The top-level code of the seat's answer to a follower's fetch.
pub fn fetch_code(mut answer: Bytes) -> i16 {
    answer.advance(4 + 1 + 4);
    answer.get_i16()
}

#[tokio::test]
async fn followers_are_served_on_the_brokers_own_listener_only() {
    let fetch = replica_fetch(77);
    let outside = Stage::with(0, "INTERNAL").await;
    let mut client = outside.client().await;
    client.send(&fetch).await;
    assert!(client.is_closed().await);

    let inside = Stage::new().await;
    let mut client = inside.client().await;
    client.send(&fetch).await;
    let mut answer = client.receive().await;
    assert_eq!(answer.get_i32(), 77);
    answer.advance(1 + 4);
    assert_eq!(answer.get_i16(), 77, "the seat answers: this broker is not registered");
}

#[tokio::test]
async fn a_broker_is_told_apart_by_its_first_request_where_nobody_proves_himself() {
    let stage = Stage::new().await;
    let mut client = stage.client().await;
    client.send(&request(4, &ListGroupsRequest::default())).await;
    client.receive().await;
    client.send(&replica_fetch(77)).await;
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn another_registration_than_the_present_one_is_told_nothing() {
    let stage = Stage::new().await;
    for fetch in [replica_fetch(77), replica_fetch(2)] {
        let mut client = stage.client().await;
        client.send(&fetch).await;
        assert_eq!(fetch_code(client.receive().await), 77);
    }
    // These two name no registration, but the broker has to have one.
    let mut client = stage.client().await;
    client.send(&replica_offsets(77)).await;
    let answer = client.receive().await;
    let length = i32::try_from(answer.len()).unwrap().to_be_bytes();
    let frame = [&length[..], &answer].concat().into();
    let response = decoded_frame::<ListOffsetsRequest>(9, frame);
    assert_eq!(response.topics[0].partitions[0].error_code, 6);
    client.send(&replica_epochs(77)).await;
    let answer = client.receive().await;
    let length = i32::try_from(answer.len()).unwrap().to_be_bytes();
    let frame = [&length[..], &answer].concat().into();
    let response = decoded_frame::<OffsetForLeaderEpochRequest>(4, frame);
    assert_eq!(response.topics[0].partitions[0].error_code, 6);
}

#[tokio::test]
async fn one_connection_is_one_broker() {
    let stage = Stage::new().await;
    let mut client = stage.client().await;
    client.send(&replica_fetch(77)).await;
    client.receive().await;
    client.send(&replica_fetch(78)).await;
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn nothing_of_a_poser_is_decoded_before_its_lengths_are_looked_at() {
    let stage = Stage::new().await;
    let mut client = stage.client().await;
    client.send(&absurd_fetch(77)).await;
    assert!(client.is_closed().await);
    let mut client = stage.client().await;
    client.send(&replica_fetch(77)).await;
    client.receive().await;
    client.send(&absurd_fetch(77)).await;
    assert!(client.is_closed().await);
}
