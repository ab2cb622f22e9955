//! Topics, configurations, elections: what a test arranges and looks up by the wire.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use kafka_protocol::messages::alter_partition_reassignments_request::{
    ReassignablePartition, ReassignableTopic,
};
use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_topics_request::{
    CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig,
};
use kafka_protocol::messages::delete_records_request::{
    DeleteRecordsPartition, DeleteRecordsTopic,
};
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_quorum_request::{
    PartitionData as QuorumPartition, TopicData as QuorumTopic,
};
use kafka_protocol::messages::describe_quorum_response::PartitionData as QuorumState;
use kafka_protocol::messages::elect_leaders_request::TopicPartitions;
use kafka_protocol::messages::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig,
};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::metadata_response::{MetadataResponse, MetadataResponseTopic};
use kafka_protocol::messages::update_features_request::FeatureUpdateKey;
use kafka_protocol::messages::{
    AlterPartitionReassignmentsRequest, BrokerId, CreatePartitionsRequest, CreateTopicsRequest,
    DeleteRecordsRequest, DeleteTopicsRequest, DescribeClusterRequest, DescribeConfigsRequest,
    DescribeQuorumRequest, ElectLeadersRequest, IncrementalAlterConfigsRequest, MetadataRequest,
    UpdateFeaturesRequest,
};
use uuid::Uuid;

use super::{Judge, check, text, topic_name};

const TIMEOUT_MS: i32 = 20_000;

/// Resource type of topics in configuration requests.
pub const TOPIC: i8 = 2;
/// Resource type of brokers in configuration requests.
pub const BROKER: i8 = 4;

/// A topic to create.
#[derive(Clone, Debug)]
pub struct NewTopic {
    name: String,
    partitions: i32,
    replicas: i16,
    assignment: Vec<Vec<i32>>,
    configs: Vec<(String, String)>,
}

/// A topic as one broker sees it.
#[derive(Clone, Debug)]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// Its id; nil before 2.8.
    pub id: Uuid,
    /// By number.
    pub partitions: BTreeMap<i32, Partition>,
}

/// A partition as one broker sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// -1 where there is none.
    pub leader: i32,
    /// How often the leader changed.
    pub leader_epoch: i32,
    /// In order of preference.
    pub replicas: Vec<i32>,
    /// Sorted.
    pub in_sync: Vec<i32>,
    /// Kafka's error code for it.
    pub error_code: i16,
}

impl NewTopic {
    /// A topic with the cluster's replication factor.
    pub fn new(name: &str, partitions: i32) -> Self {
        Self {
            name: name.to_owned(),
            partitions,
            replicas: -1,
            assignment: Vec::new(),
            configs: Vec::new(),
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many partitions it will have.
    pub fn partition_count(&self) -> usize {
        if self.assignment.is_empty() {
            usize::try_from(self.partitions).unwrap_or(0)
        } else {
            self.assignment.len()
        }
    }

    /// How many replicas of each partition.
    pub fn replicas(mut self, count: i16) -> Self {
        self.replicas = count;
        self
    }

    /// Which brokers, per partition, the preferred leader first; wins over counts.
    pub fn assignment(mut self, brokers: Vec<Vec<i32>>) -> Self {
        self.assignment = brokers;
        self
    }

    /// A configuration.
    pub fn config(mut self, key: &str, value: impl ToString) -> Self {
        self.configs.push((key.to_owned(), value.to_string()));
        self
    }
}

impl Judge {
    /// Who is in the cluster, and the named topics (all for `None`).
    pub fn metadata(&mut self, topics: Option<&[&str]>) -> Result<MetadataResponse> {
        let named = |name: &&str| {
            let name = Some(topic_name(name));
            MetadataRequestTopic::default().with_name(name)
        };
        let request = MetadataRequest::default()
            .with_topics(topics.map(|names| names.iter().map(named).collect()))
            .with_allow_auto_topic_creation(false);
        self.ask(&request)
    }

    /// Address of each registered broker, fenced ones too (KIP-1073).
    pub fn registered_brokers(&mut self) -> Result<BTreeMap<i32, String>> {
        let request = DescribeClusterRequest::default()
            .with_include_cluster_authorized_operations(false)
            .with_endpoint_type(1)
            .with_include_fenced_brokers(true);
        let answer = self.ask(&request)?;
        check(answer.error_code, "describe the cluster", answer.error_message.as_ref())?;
        let brokers = answer.brokers.into_iter();
        let brokers = brokers.map(|b| (b.broker_id.0, format!("{}:{}", b.host.as_str(), b.port)));
        Ok(brokers.collect())
    }

    /// Names of all topics.
    pub fn topic_names(&mut self) -> Result<Vec<String>> {
        let topics = self.metadata(None)?.topics.into_iter();
        let names = topics.filter_map(|topic| topic.name);
        Ok(names.map(|name| name.0.as_str().to_owned()).collect())
    }

    /// One topic.
    pub fn topic(&mut self, name: &str) -> Result<Topic> {
        let answer = self.metadata(Some(&[name]))?;
        let topic = answer.topics.into_iter().next();
        let topic = topic.with_context(|| format!("no answer about topic {name}"))?;
        check(topic.error_code, format!("metadata of topic {name}"), None)?;
        Ok(Topic { name: name.to_owned(), id: topic.topic_id, partitions: partitions(&topic) })
    }

    /// One partition.
    pub fn partition(&mut self, topic: &str, partition: i32) -> Result<Partition> {
        let mut found = self.topic(topic)?;
        let found = found.partitions.remove(&partition);
        found.with_context(|| format!("there is no {topic}-{partition}"))
    }

    /// A topic's id, nil where the release has none.
    pub fn topic_id(&mut self, name: &str) -> Result<Uuid> {
        Ok(self.topic(name)?.id)
    }

    /// Creates a topic. Brokers hear of it later: see `Cluster::create_topic`.
    pub fn create_topic(&mut self, topic: &NewTopic) -> Result<()> {
        let assigned = (0..).zip(&topic.assignment).map(|(index, brokers)| {
            CreatableReplicaAssignment::default()
                .with_partition_index(index)
                .with_broker_ids(broker_ids(brokers))
        });
        let configs = topic.configs.iter().map(|(key, value)| {
            CreatableTopicConfig::default().with_name(text(key)).with_value(Some(text(value)))
        });
        let by_count = topic.assignment.is_empty();
        let wanted = CreatableTopic::default()
            .with_name(topic_name(&topic.name))
            .with_num_partitions(if by_count { topic.partitions } else { -1 })
            .with_replication_factor(if by_count { topic.replicas } else { -1 })
            .with_assignments(assigned.collect())
            .with_configs(configs.collect());
        let request = CreateTopicsRequest::default()
            .with_topics(vec![wanted])
            .with_timeout_ms(TIMEOUT_MS)
            .with_validate_only(false);
        let answer = self.ask(&request)?;
        let result = answer.topics.first().context("CreateTopics without a topic")?;
        let what = format!("create topic {}", topic.name);
        check(result.error_code, what, result.error_message.as_ref())
    }

    /// Raises the number of partitions.
    pub fn create_partitions(&mut self, topic: &str, count: i32) -> Result<()> {
        let wanted = CreatePartitionsTopic::default()
            .with_name(topic_name(topic))
            .with_count(count)
            .with_assignments(None);
        let request = CreatePartitionsRequest::default()
            .with_topics(vec![wanted])
            .with_timeout_ms(TIMEOUT_MS)
            .with_validate_only(false);
        let answer = self.ask(&request)?;
        let result = answer.results.first().context("CreatePartitions without a topic")?;
        let what = format!("raise {topic} to {count} partitions");
        check(result.error_code, what, result.error_message.as_ref())
    }

    /// Deletes a topic by name.
    pub fn delete_topic(&mut self, topic: &str) -> Result<()> {
        let named = DeleteTopicState::default().with_name(Some(topic_name(topic)));
        let mut request = DeleteTopicsRequest::default().with_timeout_ms(TIMEOUT_MS);
        if self.version::<DeleteTopicsRequest>()? >= 6 {
            request.topics = vec![named];
        } else {
            request.topic_names = vec![topic_name(topic)];
        }
        let answer = self.ask(&request)?;
        let result = answer.responses.first().context("DeleteTopics without a topic")?;
        let what = format!("delete topic {topic}");
        check(result.error_code, what, result.error_message.as_ref())
    }

    /// Deletes records below `offset` (-1: all); the leader only. The new log start offset.
    pub fn delete_records(&mut self, topic: &str, partition: i32, offset: i64) -> Result<i64> {
        let wanted =
            DeleteRecordsPartition::default().with_partition_index(partition).with_offset(offset);
        let wanted = DeleteRecordsTopic::default()
            .with_name(topic_name(topic))
            .with_partitions(vec![wanted]);
        let request =
            DeleteRecordsRequest::default().with_topics(vec![wanted]).with_timeout_ms(TIMEOUT_MS);
        let topics = self.ask(&request)?.topics.into_iter();
        let result = topics.flat_map(|topic| topic.partitions).next();
        let result = result.context("DeleteRecords without the partition")?;
        let what = format!("delete records of {topic}-{partition} below {offset}");
        check(result.error_code, what, None)?;
        Ok(result.low_watermark)
    }

    /// Settings of a topic or broker with their values, defaults too; secrets are left out.
    pub fn configs(&mut self, kind: i8, name: &str) -> Result<BTreeMap<String, String>> {
        let wanted = DescribeConfigsResource::default()
            .with_resource_type(kind)
            .with_resource_name(text(name))
            .with_configuration_keys(None);
        let request = DescribeConfigsRequest::default()
            .with_resources(vec![wanted])
            .with_include_synonyms(false)
            .with_include_documentation(false);
        let answer = self.ask(&request)?;
        let result = answer.results.into_iter().next();
        let result = result.context("DescribeConfigs without the resource")?;
        let what = format!("configs of {name}");
        check(result.error_code, what, result.error_message.as_ref())?;
        let set = result.configs.into_iter().filter_map(|config| {
            let value = config.value?.as_str().to_owned();
            Some((config.name.as_str().to_owned(), value))
        });
        Ok(set.collect())
    }

    /// Sets a configuration; `None` deletes it. A broker's must be sent to that broker.
    pub fn alter_config(
        &mut self,
        kind: i8,
        name: &str,
        key: &str,
        value: Option<&str>,
    ) -> Result<()> {
        const SET: i8 = 0;
        const DELETE: i8 = 1;
        let config = AlterableConfig::default()
            .with_name(text(key))
            .with_config_operation(if value.is_some() { SET } else { DELETE })
            .with_value(value.map(text));
        let wanted = AlterConfigsResource::default()
            .with_resource_type(kind)
            .with_resource_name(text(name))
            .with_configs(vec![config]);
        let request = IncrementalAlterConfigsRequest::default()
            .with_resources(vec![wanted])
            .with_validate_only(false);
        let answer = self.ask(&request)?;
        let result = answer.responses.first().context("no answer about the config")?;
        let what = format!("set {key} of {name}");
        check(result.error_code, what, result.error_message.as_ref())
    }

    /// Elects the preferred leader (or, `unclean`, any replica).
    pub fn elect_leader(&mut self, topic: &str, partition: i32, unclean: bool) -> Result<()> {
        let wanted = TopicPartitions::default()
            .with_topic(topic_name(topic))
            .with_partitions(vec![partition]);
        let request = ElectLeadersRequest::default()
            .with_election_type(i8::from(unclean))
            .with_topic_partitions(Some(vec![wanted]))
            .with_timeout_ms(TIMEOUT_MS);
        let answer = self.ask(&request)?;
        let what = format!("elect a leader of {topic}-{partition}");
        check(answer.error_code, &what, None)?;
        let topics = answer.replica_election_results.into_iter();
        for result in topics.flat_map(|topic| topic.partition_result) {
            check(result.error_code, &what, result.error_message.as_ref())?;
        }
        Ok(())
    }

    /// Raises the finalized level of a feature.
    pub fn upgrade_feature(&mut self, feature: &str, level: i16) -> Result<()> {
        const UPGRADE: i8 = 1;
        let update = FeatureUpdateKey::default()
            .with_feature(text(feature))
            .with_max_version_level(level)
            .with_upgrade_type(UPGRADE);
        let request = UpdateFeaturesRequest::default()
            .with_timeout_ms(TIMEOUT_MS)
            .with_feature_updates(vec![update])
            .with_validate_only(false);
        let answer = self.ask(&request)?;
        let what = format!("raise {feature} to {level}");
        check(answer.error_code, &what, answer.error_message.as_ref())?;
        for result in answer.results {
            check(result.error_code, &what, result.error_message.as_ref())?;
        }
        Ok(())
    }

    /// Id of the active controller, as the quorum tells (KIP-595); -1 where there is none.
    pub fn active_controller(&mut self) -> Result<i32> {
        Ok(self.quorum()?.leader_id.0)
    }

    /// Up to where the metadata log is committed.
    pub fn metadata_end(&mut self) -> Result<i64> {
        Ok(self.quorum()?.high_watermark)
    }

    fn quorum(&mut self) -> Result<QuorumState> {
        let partition = QuorumPartition::default().with_partition_index(0);
        let topic = QuorumTopic::default()
            .with_topic_name(topic_name("__cluster_metadata"))
            .with_partitions(vec![partition]);
        let answer = self.ask(&DescribeQuorumRequest::default().with_topics(vec![topic]))?;
        check(answer.error_code, "describe the quorum", None)?;
        let partitions = answer.topics.into_iter().flat_map(|topic| topic.partitions);
        let partition = partitions.into_iter().next().context("no partition in DescribeQuorum")?;
        check(partition.error_code, "describe the quorum", None)?;
        Ok(partition)
    }

    /// Gives a partition other replicas, the preferred leader first. Does not wait.
    pub fn reassign(&mut self, topic: &str, partition: i32, replicas: &[i32]) -> Result<()> {
        let wanted = ReassignablePartition::default()
            .with_partition_index(partition)
            .with_replicas(Some(broker_ids(replicas)));
        let wanted =
            ReassignableTopic::default().with_name(topic_name(topic)).with_partitions(vec![wanted]);
        let request = AlterPartitionReassignmentsRequest::default()
            .with_timeout_ms(TIMEOUT_MS)
            .with_topics(vec![wanted]);
        let answer = self.ask(&request)?;
        let what = format!("reassign {topic}-{partition} to {replicas:?}");
        check(answer.error_code, &what, answer.error_message.as_ref())?;
        let topics = answer.responses.into_iter();
        for result in topics.flat_map(|topic| topic.partitions) {
            check(result.error_code, &what, result.error_message.as_ref())?;
        }
        Ok(())
    }
}

fn partitions(topic: &MetadataResponseTopic) -> BTreeMap<i32, Partition> {
    let ids = |brokers: &[BrokerId]| brokers.iter().map(|broker| broker.0).collect::<Vec<_>>();
    let partition = topic.partitions.iter().map(|found| {
        let mut in_sync = ids(&found.isr_nodes);
        in_sync.sort_unstable();
        let partition = Partition {
            leader: found.leader_id.0,
            leader_epoch: found.leader_epoch,
            replicas: ids(&found.replica_nodes),
            in_sync,
            error_code: found.error_code,
        };
        (found.partition_index, partition)
    });
    partition.collect()
}

fn broker_ids(ids: &[i32]) -> Vec<BrokerId> {
    ids.iter().map(|id| BrokerId(*id)).collect()
}
