//! The Fetch request as an ordinary consumer sends it. Every default is set here, not by the crate.

use std::time::Duration;

use kafka_protocol::messages::fetch_request::{
    FetchPartition, FetchTopic, ForgottenTopic, ReplicaState,
};
use kafka_protocol::messages::{BrokerId, FetchRequest, TopicName};
use kafka_protocol::protocol::StrBytes;

use super::PARTITION_BYTES;
use super::fetch_session::{Asked, Plan, TopicRef, WireKey};
use crate::types::Uuid;

/// From this version on the epoch of the last batch is sent, and divergence found (KIP-595).
pub(super) const LAST_EPOCH: i16 = 12;
/// From this version on the rack is sent (KIP-392).
const RACK: i16 = 11;
/// What a consumer says in place of a replica's id.
const CONSUMER: i32 = -1;

/// How much is asked for, and how long the broker may wait for something to answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub max_wait: Duration,
    pub max_bytes: usize,
}

/// The request for a plan.
pub(super) fn fetch(plan: &Plan, limits: Limits, rack: Option<&str>, version: i16) -> FetchRequest {
    let topics = plan.asked.chunk_by(|left, right| left.0.topic == right.0.topic);
    let forgotten = plan.forgotten.chunk_by(|left, right| left.topic == right.topic);
    let rack = rack.filter(|_| version >= RACK).unwrap_or_default();
    FetchRequest::default()
        .with_cluster_id(None)
        .with_replica_id(BrokerId(CONSUMER))
        .with_replica_state(
            ReplicaState::default().with_replica_id(BrokerId(CONSUMER)).with_replica_epoch(-1),
        )
        .with_max_wait_ms(i32::try_from(limits.max_wait.as_millis()).unwrap_or(i32::MAX))
        .with_min_bytes(1)
        .with_max_bytes(i32::try_from(limits.max_bytes).unwrap_or(i32::MAX))
        .with_isolation_level(0) // read_uncommitted: transactions are copied as they are
        .with_session_id(plan.session_id)
        .with_session_epoch(plan.session_epoch)
        .with_topics(topics.map(fetch_topic).collect())
        .with_forgotten_topics_data(forgotten.map(forgotten_topic).collect())
        .with_rack_id(StrBytes::from_string(rack.to_owned()))
}

fn fetch_topic(asked: &[(WireKey, Asked)]) -> FetchTopic {
    let (topic, topic_id) = names(asked.first().map(|(key, _)| &key.topic));
    let partitions = asked.iter().map(|(key, asked)| {
        FetchPartition::default()
            .with_partition(key.partition)
            .with_current_leader_epoch(asked.leader_epoch.0)
            .with_fetch_offset(asked.offset.0)
            .with_last_fetched_epoch(asked.last_epoch.0)
            .with_log_start_offset(-1)
            .with_partition_max_bytes(PARTITION_BYTES)
    });
    FetchTopic::default()
        .with_topic(topic)
        .with_topic_id(topic_id)
        .with_partitions(partitions.collect())
}

fn forgotten_topic(forgotten: &[WireKey]) -> ForgottenTopic {
    let (topic, topic_id) = names(forgotten.first().map(|key| &key.topic));
    ForgottenTopic::default()
        .with_topic(topic)
        .with_topic_id(topic_id)
        .with_partitions(forgotten.iter().map(|key| key.partition).collect())
}

/// Exactly one of the two is set.
fn names(topic: Option<&TopicRef>) -> (TopicName, Uuid) {
    match topic {
        Some(TopicRef::Name(name)) => {
            (TopicName(StrBytes::from_string(name.as_ref().to_owned())), Uuid::nil())
        }
        Some(TopicRef::Id(id)) => (TopicName::default(), *id),
        None => (TopicName::default(), Uuid::nil()),
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use kafka_protocol::protocol::{Decodable, Encodable};

    use super::*;
    use crate::types::{LeaderEpoch, Offset};

    #[test]
    fn every_version_can_be_encoded() {
        for version in 5..=17 {
            let topic = match version {
                13.. => TopicRef::Id(Uuid::from_u128(1)),
                _ => TopicRef::Name("t".into()),
            };
            let key = WireKey { topic, partition: 2 };
            let asked = Asked {
                offset: Offset(7),
                leader_epoch: LeaderEpoch(3),
                last_epoch: LeaderEpoch(if version >= LAST_EPOCH { 2 } else { -1 }),
            };
            let plan = Plan {
                session_id: 0,
                session_epoch: 0,
                asked: vec![(key, asked)],
                forgotten: Vec::new(),
            };
            let limits = Limits { max_wait: Duration::from_millis(500), max_bytes: 1 << 20 };
            let request = fetch(&plan, limits, Some("az1"), version);
            let mut bytes = BytesMut::new();
            request.encode(&mut bytes, version).unwrap();
            let read = FetchRequest::decode(&mut bytes.freeze(), version).unwrap();
            assert_eq!((read.replica_id.0, read.replica_state.replica_id.0), (-1, -1));
            assert_eq!(read.topics[0].partitions[0].fetch_offset, 7);
            assert_eq!(read.rack_id.as_str(), if version >= RACK { "az1" } else { "" });
        }
    }
}
