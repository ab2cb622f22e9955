//! Asks the destination's controller, through any real broker, for other replicas of partitions.

use std::collections::BTreeMap;

use kafka_protocol::messages::alter_partition_reassignments_request::{
    ReassignablePartition, ReassignableTopic,
};
use kafka_protocol::messages::{self, AlterPartitionReassignmentsRequest};
use kafka_protocol::protocol::StrBytes;

use super::error::SeatError;
use crate::client::Cluster;
use crate::types::{BrokerId, TopicName};

/// Partitions in one request: far below the records that one user operation may make.
const AT_ONCE: usize = 500;
/// How long the controller may take: less than a request waits for its answer.
const TIMEOUT_MS: i32 = 8_000;

/// The replicas that one partition is to have, or that it is to be left as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reassignment {
    /// Its topic.
    pub topic: TopicName,
    /// Its number.
    pub partition: i32,
    /// The preferred leader first. `None` cancels a reassignment under way.
    pub replicas: Option<Vec<BrokerId>>,
}

/// What the controller said of one partition that it did not take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Its topic.
    pub topic: TopicName,
    /// Its number.
    pub partition: i32,
    /// Kafka's error code.
    pub code: i16,
    /// The controller's words.
    pub message: String,
}

/// Asks for all of them and does not wait until they are done; a reassignment under way is replaced.
pub async fn reassign(
    destination: &Cluster,
    reassignments: &[Reassignment],
) -> Result<Vec<Refused>, SeatError> {
    let mut refused = Vec::new();
    for chunk in reassignments.chunks(AT_ONCE) {
        let response = destination.any().await?.request(&request(chunk)).await?;
        SeatError::check("AlterPartitionReassignments", response.error_code)?;
        for topic in response.responses {
            let name = TopicName::from(topic.name.as_str());
            for answer in topic.partitions.into_iter().filter(|answer| answer.error_code != 0) {
                refused.push(Refused {
                    topic: name.clone(),
                    partition: answer.partition_index,
                    code: answer.error_code,
                    message: answer.error_message.map(|text| text.to_string()).unwrap_or_default(),
                });
            }
        }
    }
    Ok(refused)
}

fn request(reassignments: &[Reassignment]) -> AlterPartitionReassignmentsRequest {
    let mut topics: BTreeMap<&TopicName, Vec<ReassignablePartition>> = BTreeMap::new();
    for wanted in reassignments {
        let ids = |ids: &Vec<BrokerId>| ids.iter().map(|id| messages::BrokerId(id.0)).collect();
        let partition = ReassignablePartition::default()
            .with_partition_index(wanted.partition)
            .with_replicas(wanted.replicas.as_ref().map(ids));
        topics.entry(&wanted.topic).or_default().push(partition);
    }
    let topics = topics.into_iter().map(|(name, partitions)| {
        let name = StrBytes::from_string(name.to_string());
        ReassignableTopic::default().with_name(name.into()).with_partitions(partitions)
    });
    AlterPartitionReassignmentsRequest::default()
        .with_timeout_ms(TIMEOUT_MS)
        .with_topics(topics.collect())
}
