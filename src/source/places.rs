//! What metadata says about where a partition is to be read: a table and nothing else.

use std::collections::HashMap;

use kafka_protocol::error::ResponseError;

use crate::client::{ClusterMetadata, TopicMetadata};
use crate::types::{BrokerId, LeaderEpoch, TopicId, TopicName, TopicPartition};

/// What metadata says of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Located {
    /// It has a leader.
    Led(Led),
    /// It will be there, or should be.
    NotYet(String),
    /// There is no such topic or partition.
    Missing,
    /// The name belongs to another topic now.
    OtherTopic(TopicId),
    /// We may not know.
    Denied(String),
}

/// A partition's leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Led {
    /// The leader.
    pub leader: BrokerId,
    /// Its epoch; unknown from old brokers.
    pub epoch: LeaderEpoch,
    /// The topic's id; none from old brokers.
    pub topic: TopicId,
}

/// Metadata by topic name.
pub(super) struct Places<'a>(HashMap<&'a TopicName, &'a TopicMetadata>);

impl<'a> Places<'a> {
    pub(super) fn new(metadata: &'a ClusterMetadata) -> Self {
        let topics = metadata.topics.iter();
        Self(topics.map(|topic| (&topic.name, topic)).collect())
    }

    /// Where `partition` of the topic with this id (where it is known) is.
    pub(super) fn locate(&self, partition: &TopicPartition, id: TopicId) -> Located {
        let Some(topic) = self.0.get(&partition.topic) else {
            return Located::NotYet("metadata leaves the topic out".to_owned());
        };
        match topic.error {
            Some(ResponseError::UnknownTopicOrPartition | ResponseError::InvalidTopicException) => {
                return Located::Missing;
            }
            Some(error @ ResponseError::TopicAuthorizationFailed) => {
                return Located::Denied(format!("metadata answers {error:?}"));
            }
            Some(error) => return Located::NotYet(format!("metadata answers {error:?}")),
            None => {}
        }
        if id != TopicId::NONE && topic.id != TopicId::NONE && id != topic.id {
            return Located::OtherTopic(topic.id);
        }
        let mut partitions = topic.partitions.iter();
        let Some(found) = partitions.find(|found| found.partition == partition.partition) else {
            return Located::Missing;
        };
        match found.leader {
            Some(leader) => {
                Located::Led(Led { leader, epoch: found.leader_epoch, topic: topic.id })
            }
            None => Located::NotYet("the partition has no leader".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::PartitionMetadata;
    use crate::types::Uuid;

    fn locate(change: impl Fn(&mut TopicMetadata), id: u128, partition: i32) -> Located {
        let mut topic = TopicMetadata {
            name: TopicName::from("orders"),
            id: TopicId(Uuid::from_u128(7)),
            is_internal: false,
            error: None,
            partitions: vec![PartitionMetadata {
                partition: 0,
                leader: Some(BrokerId(3)),
                leader_epoch: LeaderEpoch(5),
                replicas: Vec::new(),
                in_sync: Vec::new(),
                error: None,
            }],
        };
        change(&mut topic);
        let metadata =
            ClusterMetadata { cluster_id: None, brokers: Default::default(), topics: vec![topic] };
        let partition = TopicPartition { topic: TopicName::from("orders"), partition };
        Places::new(&metadata).locate(&partition, TopicId(Uuid::from_u128(id)))
    }

    #[test]
    fn a_topic_is_its_id_where_both_sides_know_one() {
        let led = |topic| {
            let topic = TopicId(Uuid::from_u128(topic));
            Located::Led(Led { leader: BrokerId(3), epoch: LeaderEpoch(5), topic })
        };
        assert_eq!(locate(|_| {}, 7, 0), led(7));
        assert_eq!(locate(|_| {}, 0, 0), led(7), "not known yet");
        assert_eq!(locate(|topic| topic.id = TopicId::NONE, 7, 0), led(0), "an old broker");
        assert_eq!(locate(|_| {}, 8, 0), Located::OtherTopic(TopicId(Uuid::from_u128(7))));
    }

    #[test]
    fn what_is_not_there_is_told_from_what_is_not_there_yet() {
        let error = |error| move |topic: &mut TopicMetadata| topic.error = Some(error);
        let missing = error(ResponseError::UnknownTopicOrPartition);
        assert_eq!(locate(missing, 7, 0), Located::Missing);
        assert_eq!(locate(|_| {}, 7, 1), Located::Missing, "fewer partitions");
        let denied = error(ResponseError::TopicAuthorizationFailed);
        assert!(matches!(locate(denied, 7, 0), Located::Denied(_)));
        let later = error(ResponseError::LeaderNotAvailable);
        assert!(matches!(locate(later, 7, 0), Located::NotYet(_)));
        let leaderless = |topic: &mut TopicMetadata| topic.partitions[0].leader = None;
        assert!(matches!(locate(leaderless, 7, 0), Located::NotYet(_)));
        let empty = Places(HashMap::new());
        let partition = TopicPartition { topic: TopicName::from("orders"), partition: 0 };
        assert!(matches!(empty.locate(&partition, TopicId::NONE), Located::NotYet(_)));
    }
}
