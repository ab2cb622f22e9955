//! The journal's two topics at the destination: how they are made, and where they are. On real
//! brokers only, by explicit assignment: what lies on a seat lies nowhere.

use kafka_protocol::messages::CreateTopicsRequest;
use kafka_protocol::messages::create_topics_request::{
    CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig,
};
use kafka_protocol::protocol::StrBytes;

use super::error::{Answered, StoreError};
use crate::client::Cluster;
use crate::image::Image;
use crate::types::{BrokerId, PartitionKey, TopicId, TopicName};

/// The journal: compacted.
pub const JOURNAL_TOPIC: &str = "__lockstep";
/// The events: kept for a time.
pub const EVENTS_TOPIC: &str = "__lockstep_events";

/// Each has one.
pub(super) const PARTITION: i32 = 0;

const REPLICAS: usize = 3;
const TIMEOUT_MS: i32 = 20_000;
const TOPIC_ALREADY_EXISTS: i16 = 36;

/// Events are kept for 90 days, and 256 MiB of them at most.
const EVENTS_CONFIGS: [(&str, &str); 3] = [
    ("cleanup.policy", "delete"),
    ("retention.ms", "7776000000"),
    ("retention.bytes", "268435456"),
];
/// Small segments: only those that are closed are compacted, and every daemon reads it all.
const JOURNAL_CONFIGS: [(&str, &str); 3] = [
    ("cleanup.policy", "compact"),
    ("segment.bytes", "16777216"),
    ("min.cleanable.dirty.ratio", "0.1"),
];

/// One of the topics as the image shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Its id.
    pub(super) id: TopicId,
    /// Who leads it; `None` during an election.
    pub(super) leader: Option<BrokerId>,
}

impl Place {
    /// Where the topic is; `None` where there is none of that name.
    pub(super) fn find(image: &Image, name: &str) -> Option<Self> {
        let id = image.topic_named(&TopicName::from(name))?.id;
        let partition = image.partition(PartitionKey { topic: id, partition: PARTITION });
        Some(Self { id, leader: partition.and_then(|partition| partition.leader) })
    }
}

/// Creates the topics that are not there. `real` are the real brokers that are alive.
pub(super) async fn create_missing(
    cluster: &Cluster,
    image: &Image,
    real: &[BrokerId],
) -> Result<(), StoreError> {
    for (name, configs) in [(JOURNAL_TOPIC, JOURNAL_CONFIGS), (EVENTS_TOPIC, EVENTS_CONFIGS)] {
        if Place::find(image, name).is_some() {
            continue;
        }
        let replicas: Vec<_> = real.iter().take(REPLICAS).copied().collect();
        if replicas.is_empty() {
            return Err(StoreError::NoBroker(TopicName::from(name)));
        }
        create(cluster, name, &configs, &replicas).await?;
        tracing::info!(topic = name, ?replicas, "topic of the journal created");
    }
    Ok(())
}

async fn create(
    cluster: &Cluster,
    name: &str,
    configs: &[(&str, &str)],
    replicas: &[BrokerId],
) -> Result<(), StoreError> {
    let request = CreateTopicsRequest::default()
        .with_topics(vec![creation(name, configs, replicas)])
        .with_timeout_ms(TIMEOUT_MS);
    let response = cluster.any().await?.request(&request).await?;
    let code = response.topics.first().map_or(-1, |topic| topic.error_code);
    match code {
        0 | TOPIC_ALREADY_EXISTS => Ok(()),
        code => Err(StoreError::Answered {
            request: "CreateTopics",
            topic: TopicName::from(name),
            broker: replicas[0],
            error: Answered(code),
        }),
    }
}

fn creation(name: &str, configs: &[(&str, &str)], replicas: &[BrokerId]) -> CreatableTopic {
    // One replica may be down and the journal is still written; with two of two it is not.
    let min_insync = if replicas.len() >= REPLICAS { "2" } else { "1" };
    let safety = [("min.insync.replicas", min_insync), ("unclean.leader.election.enable", "false")];
    let configs = configs.iter().chain(&safety);
    let config = |&(key, value): &(&str, &str)| {
        CreatableTopicConfig::default()
            .with_name(StrBytes::from_string(key.to_owned()))
            .with_value(Some(StrBytes::from_string(value.to_owned())))
    };
    let assignment = CreatableReplicaAssignment::default()
        .with_partition_index(PARTITION)
        .with_broker_ids(replicas.iter().map(|id| id.0.into()).collect());
    CreatableTopic::default()
        .with_name(StrBytes::from_string(name.to_owned()).into())
        .with_num_partitions(-1)
        .with_replication_factor(-1)
        .with_assignments(vec![assignment])
        .with_configs(configs.map(config).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn min_insync(replicas: &[i32]) -> String {
        let replicas: Vec<_> = replicas.iter().map(|id| BrokerId(*id)).collect();
        let topic = creation(JOURNAL_TOPIC, &JOURNAL_CONFIGS, &replicas);
        let config = topic.configs.iter().find(|c| c.name.as_str() == "min.insync.replicas");
        config.unwrap().value.as_ref().unwrap().to_string()
    }

    #[test]
    fn one_replica_may_be_down_where_there_are_three() {
        assert_eq!(min_insync(&[1]), "1");
        assert_eq!(min_insync(&[1, 2]), "1");
        assert_eq!(min_insync(&[1, 2, 3]), "2");
    }
}
