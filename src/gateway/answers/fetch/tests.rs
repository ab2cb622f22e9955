//! Where consumers are sent, and when they are relayed.

use std::collections::BTreeSet;

use kafka_protocol::messages::FetchResponse;
use kafka_protocol::messages::fetch_request::{FetchTopic, ReplicaState};
use kafka_protocol::protocol::StrBytes;

use super::super::answer_frame;
use super::super::testing::{
    MIRROR, MIRROR_ID, OTHER, Parts, asker_of, decoded, finished, request, versions_of, world,
};
use super::redirects::STRAIGHT_BACK;
use super::*;
use crate::gateway::Context;
use crate::types::Uuid;
use bytes::BytesMut;

fn fetch(version: i16, topics: &[(&'static str, i32)], rack: &'static str) -> FetchRequest {
    let topics = topics.iter().map(|&(name, partition)| {
        let partition = FetchPartition::default()
            .with_partition(partition)
            .with_current_leader_epoch(if version >= 9 { 7 } else { -1 })
            .with_fetch_offset(20);
        let topic = FetchTopic::default().with_partitions(vec![partition]);
        match (version, name) {
            (..13, _) => topic.with_topic(StrBytes::from_static_str(name).into()),
            (_, MIRROR) => topic.with_topic_id(MIRROR_ID.0),
            (_, "plain") => topic.with_topic_id(OTHER.0),
            _ => topic.with_topic_id(Uuid::from_u128(99)),
        }
    });
    FetchRequest::default()
        .with_max_wait_ms(300)
        .with_session_epoch(if version >= 7 { 0 } else { -1 })
        .with_topics(topics.collect())
        .with_rack_id(StrBytes::from_static_str(rack))
}

async fn reply(version: i16, body: &FetchRequest, parts: &mut Parts<'_>) -> Reply {
    answer(request(version, body), &mut parts.asker()).await.unwrap()
}

fn codes(response: &FetchResponse) -> Vec<i16> {
    response.responses.iter().map(|topic| topic.partitions[0].error_code).collect()
}

async fn sent_to(context: &Context, rack: &'static str, connection: u64) -> i32 {
    let mut parts = asker_of(context);
    parts.connection = connection;
    let reply = reply(17, &fetch(17, &[(MIRROR, 0)], rack), &mut parts).await;
    decoded::<FetchRequest>(17, reply).responses[0].partitions[0].preferred_read_replica.0
}

#[tokio::test]
async fn consumers_are_sent_to_a_replica_with_the_offsets_filled_in() {
    let world = world();
    for version in versions_of::<FetchRequest>().filter(|version| *version >= 11) {
        let body = fetch(version, &[(MIRROR, 0)], "b");
        let reply = reply(version, &body, &mut asker_of(&world)).await;
        let response = decoded::<FetchRequest>(version, reply);
        assert_eq!((response.error_code, response.session_id), (0, 0));
        let partition = &response.responses[0].partitions[0];
        assert_eq!(partition.error_code, 0);
        assert_eq!(partition.preferred_read_replica.0, 2);
        assert_eq!((partition.high_watermark, partition.last_stable_offset), (90, 90));
        assert_eq!(partition.log_start_offset, 10);
        assert_eq!(partition.records.as_ref().map(Bytes::len), Some(0));
    }
}

#[tokio::test]
async fn the_rack_decides_then_the_connection_and_never_a_fenced_broker() {
    let world = world();
    let mut seen = BTreeSet::new();
    for connection in 0..20 {
        assert_eq!(sent_to(&world, "a", connection).await, 1, "broker 3 is fenced");
        seen.insert(sent_to(&world, "", connection).await);
        seen.insert(sent_to(&world, "elsewhere", connection).await);
    }
    assert_eq!(seen, BTreeSet::from([1, 2]));
}

#[tokio::test]
async fn what_cannot_be_served_is_refused_partition_by_partition() {
    let world = world();
    let asked = [(MIRROR, 1), (MIRROR, 2), ("plain", 0), ("nowhere", 0), (MIRROR, 5), (MIRROR, 0)];
    for (version, unknown) in [(12, 3), (13, 100)] {
        let body = fetch(version, &asked, "");
        let reply = reply(version, &body, &mut asker_of(&world)).await;
        let response = decoded::<FetchRequest>(version, reply);
        assert_eq!(codes(&response), [6, 6, 6, unknown, 3, 0]);
    }
}

#[tokio::test]
async fn a_wrong_leader_epoch_makes_clients_look_again() {
    let world = world();
    for (epoch, code) in [(6, 74), (8, 75), (-1, 0)] {
        let mut body = fetch(17, &[(MIRROR, 0)], "");
        body.topics[0].partitions[0].current_leader_epoch = epoch;
        let reply = reply(17, &body, &mut asker_of(&world)).await;
        assert_eq!(codes(&decoded::<FetchRequest>(17, reply)), [code]);
    }
}

#[tokio::test]
async fn a_client_that_comes_straight_back_is_relayed_where_its_broker_can_serve() {
    let world = world();
    let body = fetch(17, &[(MIRROR, 0)], "");
    let mut parts = asker_of(&world);
    parts.backend = 2;
    for _ in 0..3 {
        assert!(matches!(reply(17, &body, &mut parts).await, Reply::Answer(_)));
        parts.later(Duration::from_secs(1));
    }
    let frame = request(17, &body);
    let relayed = |reply| matches!(reply, Reply::Relay(relayed) if relayed == frame);
    assert!(relayed(reply(17, &body, &mut parts).await));
    // The follower has opened a session: it goes on there.
    let incremental = FetchRequest::default().with_session_id(8).with_session_epoch(1);
    assert!(matches!(reply(17, &incremental, &mut parts).await, Reply::Relay(_)));
    let closing = FetchRequest::default().with_session_id(8).with_session_epoch(-1);
    assert!(matches!(reply(17, &closing, &mut parts).await, Reply::Relay(_)));
    // After a while it is tried again.
    parts.later(STRAIGHT_BACK + Duration::from_secs(1));
    assert!(matches!(reply(17, &body, &mut parts).await, Reply::Answer(_)));
}

/// Sends the client away as often as it takes; the next fetch of `body` has to be served.
async fn insist(version: i16, body: &FetchRequest, parts: &mut Parts<'_>) -> BTreeSet<i32> {
    let mut seen = BTreeSet::new();
    for _ in 0..SENDS_MAX {
        let response = decoded::<FetchRequest>(version, reply(version, body, parts).await);
        seen.insert(response.responses[0].partitions[0].preferred_read_replica.0);
    }
    seen
}

#[tokio::test]
async fn a_client_that_comes_straight_back_is_moved_to_a_broker_that_can_serve() {
    let world = world();
    let mut parts = asker_of(&world);
    parts.may_move = true;
    let body = fetch(17, &[(MIRROR, 0)], "b");
    assert_eq!(insist(17, &body, &mut parts).await, BTreeSet::from([2]), "the client's rack");
    let elsewhere = |reply, id| matches!(reply, Reply::Elsewhere(BrokerId(broker)) if broker == id);
    // None of it is here; all of it, but in the other rack; all of it.
    for (backend, moves) in [(4, true), (1, true), (2, false)] {
        parts.backend = backend;
        let reply = reply(17, &body, &mut parts).await;
        assert_eq!(elsewhere(reply, 2), moves, "from broker {backend}");
    }
    // One with fewer clients of two that hold it, and never for the rack what holds less.
    let _client = world.brokers.lease(BrokerId(1));
    parts.backend = 4;
    assert!(elsewhere(reply(17, &fetch(17, &[(MIRROR, 0)], ""), &mut parts).await, 2));
    let body = fetch(17, &[(MIRROR, 0), (MIRROR, 3)], "b");
    assert!(elsewhere(reply(17, &body, &mut parts).await, 1));
    parts.backend = 1;
    assert!(matches!(reply(17, &body, &mut parts).await, Reply::Relay(_)));
    // A broker that did not answer lately is as good as one that holds nothing.
    world.brokers.avoid(BrokerId(1), parts.now);
    assert!(elsewhere(reply(17, &body, &mut parts).await, 2));
}

#[tokio::test]
async fn a_client_that_comes_straight_back_is_served_where_its_broker_holds_nothing() {
    let world = world();
    for version in versions_of::<FetchRequest>().filter(|version| *version >= 11) {
        let body = fetch(version, &[(MIRROR, 0)], "");
        let mut parts = asker_of(&world);
        let seen = insist(version, &body, &mut parts).await;
        assert_eq!(seen, BTreeSet::from([1, 2]), "another replica is tried");
        let Reply::Gather(gather) = reply(version, &body, &mut parts).await else {
            panic!("version {version} is not served");
        };
        let sent = Asked::<FetchRequest>::decode(gather.asks[0].request.slice(4..)).unwrap();
        assert_eq!(sent.body.topics[0].topic.as_str(), MIRROR);
        let partition = PartitionData::default()
            .with_high_watermark(88)
            .with_preferred_read_replica((-1).into())
            .with_records(Some(Bytes::from_static(b"a batch")));
        let topic = FetchableTopicResponse::default()
            .with_topic(StrBytes::from_static_str(MIRROR).into())
            .with_partitions(vec![partition]);
        let theirs = top_level(0).with_responses(vec![topic]);
        let theirs = answer_frame::<FetchRequest>(&sent.header, &theirs).unwrap();
        let answer = finished(gather.finish, vec![Some(BytesMut::from(&theirs[4..]))]);
        let response = decoded::<FetchRequest>(version, answer);
        let topic = &response.responses[0];
        assert!(if version < 13 {
            topic.topic.as_str() == MIRROR
        } else {
            topic.topic_id == MIRROR_ID.0
        });
        assert_eq!(topic.partitions[0].records.as_deref(), Some(&b"a batch"[..]));
        assert_eq!(topic.partitions[0].high_watermark, 88);
    }
}

#[tokio::test]
async fn replicas_that_hold_parts_of_a_fetch_take_turns_whatever_else_is_asked() {
    let world = world();
    let mut parts = asker_of(&world);
    let both = fetch(17, &[(MIRROR, 3), (MIRROR, 4)], "");
    let one = fetch(17, &[(MIRROR, 4)], "");
    insist(17, &both, &mut parts).await;
    let mut asked = Vec::new();
    for body in [&both, &one, &both, &one, &both, &both, &both] {
        let Reply::Gather(gather) = reply(17, body, &mut parts).await else { panic!("not served") };
        asked.push(gather.asks[0].broker.unwrap().0);
    }
    assert_eq!(asked, [1, 2, 1, 2, 1, 2, 1]);
}

#[tokio::test]
async fn a_client_that_comes_straight_back_is_slowed_down_where_nobody_can_serve_it() {
    let world = world();
    let body = fetch(17, &[(MIRROR, 2)], "");
    let mut parts = asker_of(&world);
    insist(17, &body, &mut parts).await;
    let held = reply(17, &body, &mut parts).await;
    assert!(matches!(held, Reply::Held(_, hold) if hold == Duration::from_millis(300)));
}

#[tokio::test]
async fn a_session_that_no_follower_opened_is_unknown() {
    let world = world();
    for version in 7..=18 {
        let mut body = fetch(version, &[(MIRROR, 0)], "");
        body = body.with_rack_id(StrBytes::new()).with_session_id(4).with_session_epoch(2);
        let reply = reply(version, &body, &mut asker_of(&world)).await;
        let response = decoded::<FetchRequest>(version, reply);
        assert_eq!((response.error_code, response.session_id), (70, 0));
        assert!(response.responses.is_empty());
    }
}

#[tokio::test]
async fn a_client_that_poses_as_a_broker_is_cut_off() {
    let world = world();
    let old = fetch(12, &[(MIRROR, 0)], "").with_replica_id(2.into());
    let state = ReplicaState::default().with_replica_id(2.into()).with_replica_epoch(5);
    let new = fetch(15, &[(MIRROR, 0)], "").with_replica_state(state);
    for (version, body) in [(12, old), (15, new)] {
        let reply = reply(version, &body, &mut asker_of(&world)).await;
        assert!(matches!(reply, Reply::Close(_)));
    }
}

#[tokio::test]
async fn a_consumer_is_told_who_leads_where_its_version_has_words_for_it() {
    let world = world();
    for version in versions_of::<FetchRequest>().filter(|version| *version >= 11) {
        let mut parts = asker_of(&world);
        let body = fetch(version, &[("plain", 0)], "");
        let response = decoded::<FetchRequest>(version, reply(version, &body, &mut parts).await);
        let partition = &response.responses[0].partitions[0];
        let leader = &partition.current_leader;
        let told = (leader.leader_id.0, leader.leader_epoch, response.node_endpoints.len());
        assert_eq!(partition.error_code, 6);
        assert_eq!(told, if version >= 16 { (1, 7, 1) } else { (-1, -1, 0) }, "v{version}");
    }
}
