//! Carries a plan out at the destination: any real broker takes the requests and forwards them to the
//! controller. Decides nothing but how much goes into one request.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kafka_protocol::messages::create_partitions_request::{
    CreatePartitionsAssignment, CreatePartitionsTopic,
};
use kafka_protocol::messages::create_topics_request::{
    CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig,
};
use kafka_protocol::messages::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig,
};
use kafka_protocol::messages::{
    self, CreatePartitionsRequest, CreateTopicsRequest, IncrementalAlterConfigsRequest,
};
use kafka_protocol::protocol::StrBytes;

use super::error::{Answered, TopicError};
use crate::client::Cluster;
use crate::mirror::topic_plan::Action;
use crate::seat::reassign::{Reassignment, reassign};
use crate::types::{BrokerId, TopicName};

/// Metadata records that one user operation may make; the controller refuses more.
const RECORDS_PER_REQUEST: usize = 10_000;

/// How long the controller may take.
const TIMEOUT_MS: i32 = 8_000;

const TOPIC_RESOURCE: i8 = 2;
const SET: i8 = 0;
const DELETE: i8 = 1;

const TOPIC_ALREADY_EXISTS: i16 = 36;
const INVALID_PARTITIONS: i16 = 37;
const INVALID_CONFIG: i16 = 40;
const THROTTLING_QUOTA_EXCEEDED: i16 = 89;

/// A topic of this name is only asked about, never created.
const PROBE_TOPIC: &str = "lockstep-probe";

/// What became of one step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It will be in the image.
    Done,
    /// The destination had moved on already: plan again.
    Outdated,
    /// Not now; after this time. No failure.
    Throttled(Duration),
    /// Refused.
    Refused {
        /// Kafka's error.
        error: Answered,
        /// What the broker says.
        message: String,
    },
}

impl Outcome {
    fn of(code: i16, message: Option<&StrBytes>, throttle_ms: i32) -> Self {
        match code {
            0 => Self::Done,
            TOPIC_ALREADY_EXISTS | INVALID_PARTITIONS => Self::Outdated,
            THROTTLING_QUOTA_EXCEEDED => {
                let wait = u64::try_from(throttle_ms).unwrap_or(0).max(100);
                Self::Throttled(Duration::from_millis(wait))
            }
            code => Self::Refused {
                error: Answered(code),
                message: message.map(ToString::to_string).unwrap_or_default(),
            },
        }
    }

    /// The destination knows other configs than we think.
    pub(super) fn is_invalid_config(&self) -> bool {
        matches!(self, Self::Refused { error: Answered(INVALID_CONFIG), .. })
    }
}

/// The destination's real brokers.
#[derive(Clone, Debug)]
pub(super) struct Destination {
    pub(super) cluster: Cluster,
}

impl Destination {
    /// Keys that a topic can have. There may be no topic yet that could be described; the answer to a
    /// creation that is only validated lists them (KIP-525).
    pub(super) async fn known_configs(&self) -> Result<BTreeSet<String>, TopicError> {
        let topic = CreatableTopic::default()
            .with_name(kafka_name(PROBE_TOPIC))
            .with_num_partitions(1)
            .with_replication_factor(1)
            .with_assignments(Vec::new())
            .with_configs(Vec::new());
        let response =
            self.cluster.any().await?.request(&create_request(vec![topic], true)).await?;
        let refused = |code: i16, message: Option<&StrBytes>| TopicError::Refused {
            request: "validating CreateTopics",
            topic: PROBE_TOPIC.to_owned(),
            error: Answered(code),
            message: message.map(|message| format!(": {message}")).unwrap_or_default(),
        };
        let result = response.topics.first().ok_or_else(|| refused(-1, None))?;
        match (&result.configs, result.error_code, result.topic_config_error_code) {
            (Some(configs), 0, 0) => {
                Ok(configs.iter().map(|config| config.name.to_string()).collect())
            }
            (_, 0, code) | (_, code, _) => Err(refused(code, result.error_message.as_ref())),
        }
    }

    /// Does what the actions say; what they only say is left out. What was done
    /// before a request failed is in `outcomes`.
    pub(super) async fn execute(
        &self,
        actions: &[Action],
        outcomes: &mut Vec<(TopicName, Outcome)>,
    ) -> Result<(), TopicError> {
        for chunk in chunks(actions.iter().filter_map(creation)) {
            outcomes.extend(self.create(chunk).await?);
        }
        for chunk in chunks(actions.iter().filter_map(addition)) {
            outcomes.extend(self.add_partitions(chunk).await?);
        }
        for chunk in chunks(actions.iter().filter_map(alteration)) {
            outcomes.extend(self.alter_configs(chunk).await?);
        }
        let due: Vec<_> = actions.iter().flat_map(reassignments).collect();
        outcomes.extend(self.reassign(&due).await?);
        Ok(())
    }

    /// Gives partitions other replicas.
    async fn reassign(
        &self,
        due: &[Reassignment],
    ) -> Result<Vec<(TopicName, Outcome)>, TopicError> {
        let refused = reassign(&self.cluster, due).await?.into_iter();
        let mut refused: BTreeMap<_, _> =
            refused.map(|one| ((one.topic, one.partition), (one.code, one.message))).collect();
        let outcome = |one: &Reassignment| {
            let topic = one.topic.clone();
            let outcome = match refused.remove(&(topic.clone(), one.partition)) {
                Some((code, message)) => {
                    Outcome::of(code, Some(&StrBytes::from_string(message)), 0)
                }
                None => Outcome::Done,
            };
            (topic, outcome)
        };
        Ok(due.iter().map(outcome).collect())
    }

    async fn create(
        &self,
        topics: Vec<CreatableTopic>,
    ) -> Result<Vec<(TopicName, Outcome)>, TopicError> {
        let response = self.cluster.any().await?.request(&create_request(topics, false)).await?;
        let outcome = |result: &messages::create_topics_response::CreatableTopicResult| {
            let throttle = response.throttle_time_ms;
            let outcome = Outcome::of(result.error_code, result.error_message.as_ref(), throttle);
            (TopicName::from(result.name.as_str()), outcome)
        };
        Ok(response.topics.iter().map(outcome).collect())
    }

    async fn add_partitions(
        &self,
        topics: Vec<CreatePartitionsTopic>,
    ) -> Result<Vec<(TopicName, Outcome)>, TopicError> {
        let request = CreatePartitionsRequest::default()
            .with_topics(topics)
            .with_timeout_ms(TIMEOUT_MS)
            .with_validate_only(false);
        let response = self.cluster.any().await?.request(&request).await?;
        let outcome =
            |result: &messages::create_partitions_response::CreatePartitionsTopicResult| {
                let throttle = response.throttle_time_ms;
                let outcome =
                    Outcome::of(result.error_code, result.error_message.as_ref(), throttle);
                (TopicName::from(result.name.as_str()), outcome)
            };
        Ok(response.results.iter().map(outcome).collect())
    }

    async fn alter_configs(
        &self,
        resources: Vec<AlterConfigsResource>,
    ) -> Result<Vec<(TopicName, Outcome)>, TopicError> {
        let request = IncrementalAlterConfigsRequest::default()
            .with_resources(resources)
            .with_validate_only(false);
        let response = self.cluster.any().await?.request(&request).await?;
        let outcome =
            |result: &messages::incremental_alter_configs_response::AlterConfigsResourceResponse| {
                let throttle = response.throttle_time_ms;
                let outcome =
                    Outcome::of(result.error_code, result.error_message.as_ref(), throttle);
                (TopicName::from(result.resource_name.as_str()), outcome)
            };
        Ok(response.responses.iter().map(outcome).collect())
    }
}

/// Groups of steps that make no more records each than one request may. The numbers are of records.
fn chunks<Step>(steps: impl Iterator<Item = (usize, Step)>) -> Vec<Vec<Step>> {
    let mut chunks = Vec::new();
    let mut room = 0;
    for (records, step) in steps {
        match chunks.last_mut() {
            Some(chunk) if records <= room => {
                Vec::push(chunk, step);
                room -= records;
            }
            _ => {
                chunks.push(vec![step]);
                room = RECORDS_PER_REQUEST.saturating_sub(records);
            }
        }
    }
    chunks
}

/// A topic with more partitions than fit begins with fewer; the next plans add the rest.
fn creation(action: &Action) -> Option<(usize, CreatableTopic)> {
    let Action::Create { name, partitions, configs, .. } = action else { return None };
    let overhead = 1 + configs.len();
    let count = partitions.len().min(RECORDS_PER_REQUEST - overhead);
    let assignment = |(partition, replicas): (i32, &Vec<BrokerId>)| {
        CreatableReplicaAssignment::default()
            .with_partition_index(partition)
            .with_broker_ids(broker_ids(replicas))
    };
    let config = |(key, value): (&String, &String)| {
        CreatableTopicConfig::default()
            .with_name(StrBytes::from_string(key.clone()))
            .with_value(Some(StrBytes::from_string(value.clone())))
    };
    let topic = CreatableTopic::default()
        .with_name(kafka_name(name.as_str()))
        .with_num_partitions(-1)
        .with_replication_factor(-1)
        .with_assignments((0..).zip(&partitions[..count]).map(assignment).collect())
        .with_configs(configs.iter().map(config).collect());
    Some((overhead + count, topic))
}

fn addition(action: &Action) -> Option<(usize, CreatePartitionsTopic)> {
    let Action::AddPartitions { name, total, partitions } = action else { return None };
    let count = partitions.len().min(RECORDS_PER_REQUEST);
    let total = total - partitions.len() + count;
    let assignment = |replicas: &Vec<BrokerId>| {
        CreatePartitionsAssignment::default().with_broker_ids(broker_ids(replicas))
    };
    let topic = CreatePartitionsTopic::default()
        .with_name(kafka_name(name.as_str()))
        .with_count(i32::try_from(total).ok()?)
        .with_assignments(Some(partitions[..count].iter().map(assignment).collect()));
    Some((count, topic))
}

fn alteration(action: &Action) -> Option<(usize, AlterConfigsResource)> {
    let Action::AlterConfigs { name, set, delete } = action else { return None };
    let config = |key: &String, operation, value: Option<&String>| {
        AlterableConfig::default()
            .with_name(StrBytes::from_string(key.clone()))
            .with_config_operation(operation)
            .with_value(value.map(|value| StrBytes::from_string(value.clone())))
    };
    let mut configs: Vec<_> =
        set.iter().map(|(key, value)| config(key, SET, Some(value))).collect();
    configs.extend(delete.iter().map(|key| config(key, DELETE, None)));
    let records = configs.len();
    let resource = AlterConfigsResource::default()
        .with_resource_type(TOPIC_RESOURCE)
        .with_resource_name(StrBytes::from_string(name.to_string()))
        .with_configs(configs);
    Some((records, resource))
}

fn reassignments(action: &Action) -> Vec<Reassignment> {
    let Action::Reassign { name, partitions } = action else { return Vec::new() };
    let one = |(partition, replicas): &(i32, Vec<BrokerId>)| Reassignment {
        topic: name.clone(),
        partition: *partition,
        replicas: Some(replicas.clone()),
    };
    partitions.iter().map(one).collect()
}

fn create_request(topics: Vec<CreatableTopic>, validate_only: bool) -> CreateTopicsRequest {
    CreateTopicsRequest::default()
        .with_topics(topics)
        .with_timeout_ms(TIMEOUT_MS)
        .with_validate_only(validate_only)
}

fn kafka_name(name: &str) -> messages::TopicName {
    messages::TopicName(StrBytes::from_string(name.to_owned()))
}

fn broker_ids(ids: &[BrokerId]) -> Vec<messages::BrokerId> {
    ids.iter().map(|id| messages::BrokerId(id.0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mirror::topic_configs::Configs;

    fn create(name: &str, partitions: usize) -> Action {
        Action::Create {
            name: name.into(),
            source: name.into(),
            partitions: vec![vec![BrokerId(9), BrokerId(1)]; partitions],
            configs: Configs::from([("a".to_owned(), "b".to_owned())]),
        }
    }

    #[test]
    fn a_request_makes_no_more_records_than_the_controller_takes() {
        let actions = [create("a", 9_000), create("b", 996), create("c", 1), create("d", 25_000)];
        let chunks = chunks(actions.iter().filter_map(creation));
        let sizes: Vec<Vec<_>> = chunks
            .iter()
            .map(|chunk| chunk.iter().map(|t| (t.name.to_string(), t.assignments.len())).collect())
            .collect();
        let named = |name: &str, count| (name.to_owned(), count);
        assert_eq!(
            sizes,
            [
                vec![named("a", 9_000), named("b", 996)],
                vec![named("c", 1)],
                vec![named("d", 9_998)]
            ]
        );
    }

    #[test]
    fn more_partitions_than_fit_are_added_in_turns() {
        let action = Action::AddPartitions {
            name: "a".into(),
            total: 30_000,
            partitions: vec![vec![BrokerId(9), BrokerId(1)]; 20_000],
        };
        let (records, topic) = addition(&action).unwrap();
        assert_eq!((records, topic.count), (10_000, 20_000));
        assert_eq!(topic.assignments.unwrap().len(), 10_000);
    }

    #[test]
    fn throttling_is_no_failure() {
        let outcome = Outcome::of(THROTTLING_QUOTA_EXCEEDED, None, 1_500);
        assert_eq!(outcome, Outcome::Throttled(Duration::from_millis(1_500)));
    }
}
