//! What stock brokers of the destination answer the daemon: as leaders, as followers that consumers
//! read from, and as the way to the controller.

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::alter_partition_reassignments_response::{
    ReassignablePartitionResponse, ReassignableTopicResponse,
};
use kafka_protocol::messages::create_topics_response::{
    CreatableTopicConfigs, CreatableTopicResult,
};
use kafka_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult,
};
use kafka_protocol::messages::elect_leaders_response::{PartitionResult, ReplicaElectionResult};
use kafka_protocol::messages::fetch_response::{
    EpochEndOffset as Diverging, FetchableTopicResponse, PartitionData,
};
use kafka_protocol::messages::incremental_alter_configs_response::AlterConfigsResourceResponse;
use kafka_protocol::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsTopicResponse,
};
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::offset_for_leader_epoch_response::{
    EpochEndOffset, OffsetForLeaderTopicResult,
};
use kafka_protocol::messages::{
    AlterPartitionReassignmentsRequest, AlterPartitionReassignmentsResponse, ApiKey,
    CreateTopicsRequest, CreateTopicsResponse, DescribeConfigsRequest, DescribeConfigsResponse,
    ElectLeadersRequest, ElectLeadersResponse, FetchRequest, FetchResponse,
    IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse, ListOffsetsRequest,
    ListOffsetsResponse, MetadataRequest, MetadataResponse, OffsetForLeaderEpochRequest,
    OffsetForLeaderEpochResponse,
};
use kafka_protocol::protocol::StrBytes;

use super::broker::{Answer, Broker, LAG_TIME};
use super::controller::NOT_CONTROLLER;
use super::log::Read;
use super::net::PORT;
use super::wire::{Call, versions};
use super::world::{Shared, World};

const KNOWN: [(i16, i16, i16); 10] = [
    (45, 0, 0),
    (32, 1, 4),
    (18, 0, 3),
    (3, 0, 12),
    (1, 4, 17),
    (2, 1, 10),
    (23, 2, 4),
    (43, 0, 2),
    (19, 2, 7),
    (44, 0, 1),
];
const UNKNOWN_TOPIC: i16 = 3;
/// Who may read to the end of the log, in ListOffsets and in Fetch.
const DEBUGGING: i32 = -2;
const FUTURE_REPLICA: i32 = -3;
/// Configs that a topic can have.
const CONFIGS: [&str; 7] = [
    "cleanup.policy",
    "max.message.bytes",
    "min.insync.replicas",
    "retention.bytes",
    "retention.ms",
    "segment.bytes",
    "unclean.leader.election.enable",
];

/// The answer's frame; `None` for a request that the model does not know.
pub fn answer(world: &Shared, broker: i32, call: &Call) -> Option<Bytes> {
    let mut world = world.lock();
    let answer = match ApiKey::try_from(call.key).ok()? {
        ApiKey::ApiVersions => call.answer(&versions(&KNOWN)),
        ApiKey::Metadata => call.answer(&metadata(&world, &call.decode())),
        ApiKey::Fetch => call.answer(&fetch(&mut world, broker, &call.decode())),
        ApiKey::ListOffsets => call.answer(&list_offsets(&world, broker, &call.decode())),
        ApiKey::OffsetForLeaderEpoch => call.answer(&epochs(&world, broker, &call.decode())),
        ApiKey::ElectLeaders => call.answer(&elect(&mut world, &call.decode())),
        ApiKey::AlterPartitionReassignments => call.answer(&reassign(&mut world, &call.decode())),
        ApiKey::CreateTopics => call.answer(&create(&mut world, &call.decode())),
        ApiKey::DescribeConfigs => call.answer(&settings(&call.decode())),
        ApiKey::IncrementalAlterConfigs => call.answer(&configure(&mut world, &call.decode())),
        _ => return None,
    };
    world.check();
    Some(answer)
}

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn metadata(world: &World, request: &MetadataRequest) -> MetadataResponse {
    let controller = &world.controller;
    let live = controller.brokers.iter().filter(|(_, known)| !known.is_fenced);
    let brokers = live.map(|(&id, known)| {
        MetadataResponseBroker::default()
            .with_node_id(id.into())
            .with_host(text(&known.host))
            .with_port(i32::from(PORT))
    });
    let names: Vec<String> = match &request.topics {
        None => controller.topics.keys().cloned().collect(),
        Some(topics) => {
            topics.iter().filter_map(|t| t.name.as_ref().map(|name| name.to_string())).collect()
        }
    };
    let topics = names.iter().map(|name| {
        let topic = MetadataResponseTopic::default().with_name(Some(text(name).into()));
        let Some(&id) = controller.topics.get(name) else {
            return topic.with_error_code(UNKNOWN_TOPIC);
        };
        let partitions = controller.partitions.iter().filter(|((of, _), _)| *of == id);
        let partitions = partitions.map(|((_, index), state)| {
            MetadataResponsePartition::default()
                .with_partition_index(*index)
                .with_leader_id(state.leader.into())
                .with_leader_epoch(state.leader_epoch)
                .with_replica_nodes(state.replicas.iter().map(|&id| id.into()).collect())
                .with_isr_nodes(state.in_sync.iter().map(|&id| id.into()).collect())
        });
        topic.with_topic_id(id).with_partitions(partitions.collect())
    });
    MetadataResponse::default()
        .with_cluster_id(Some(text("destination-cluster")))
        .with_controller_id(1.into())
        .with_brokers(brokers.collect())
        .with_topics(topics.collect())
}

fn fetch(world: &mut World, broker: i32, request: &FetchRequest) -> FetchResponse {
    let World { controller, brokers, .. } = world;
    let Some(broker) = brokers.get_mut(&broker) else { return FetchResponse::default() };
    let replica = (request.replica_state.replica_id.0, request.replica_state.replica_epoch);
    let mut topics = Vec::new();
    for topic in &request.topics {
        let id = if topic.topic_id.is_nil() {
            controller.topics.get(topic.topic.as_str()).copied()
        } else {
            Some(topic.topic_id)
        };
        let mut partitions = Vec::new();
        for asked in &topic.partitions {
            let data = PartitionData::default()
                .with_partition_index(asked.partition)
                .with_high_watermark(-1)
                .with_last_stable_offset(-1)
                .with_log_start_offset(-1);
            let Some(id) = id else {
                partitions.push(data.with_error_code(UNKNOWN_TOPIC));
                continue;
            };
            let key = (id, asked.partition);
            let answer = if replica.0 >= 0 {
                let (last, epoch) = (asked.last_fetched_epoch, asked.current_leader_epoch);
                let fetch = (asked.fetch_offset, last, epoch);
                broker.fetched_by(controller, key, replica, fetch)
            } else {
                let size = asked.partition_max_bytes.min(request.max_bytes) as usize;
                let to_the_end = request.replica_id.0 == FUTURE_REPLICA;
                broker.read_by_consumer(key, asked.fetch_offset, size, to_the_end)
            };
            partitions.push(answered(data, answer));
        }
        topics.push(
            FetchableTopicResponse::default()
                .with_topic(topic.topic.clone())
                .with_topic_id(topic.topic_id)
                .with_partitions(partitions),
        );
    }
    FetchResponse::default().with_responses(topics)
}

fn answered(data: PartitionData, answer: Answer) -> PartitionData {
    let data = data
        .with_error_code(answer.error)
        .with_high_watermark(answer.high_watermark)
        .with_last_stable_offset(answer.high_watermark)
        .with_log_start_offset(answer.log_start);
    match answer.read {
        None => data,
        Some(Read::Diverging(epoch, end)) => {
            data.with_diverging_epoch(Diverging::default().with_epoch(epoch).with_end_offset(end))
        }
        Some(Read::Batches(batches)) => {
            let mut records = BytesMut::new();
            batches.iter().for_each(|batch| records.extend_from_slice(&batch.bytes));
            data.with_records(Some(records.freeze()))
        }
    }
}

fn list_offsets(world: &World, broker: i32, request: &ListOffsetsRequest) -> ListOffsetsResponse {
    let broker = &world.brokers[&broker];
    let is_debugging = request.replica_id.0 == DEBUGGING;
    let to_the_end = request.replica_id.0 >= 0 || is_debugging;
    let topics = request.topics.iter().map(|topic| {
        let id = world.controller.topics.get(topic.name.as_str()).copied().unwrap_or_default();
        let partitions = topic.partitions.iter().map(|asked| {
            let response = ListOffsetsPartitionResponse::default()
                .with_partition_index(asked.partition_index)
                .with_offset(-1)
                .with_timestamp(-1)
                .with_leader_epoch(-1);
            let key = (id, asked.partition_index);
            let held = if is_debugging {
                broker.replicas.get(&key).ok_or(UNKNOWN_TOPIC)
            } else {
                broker.leads(key, asked.current_leader_epoch)
            };
            match held {
                Err(code) => response.with_error_code(code),
                Ok(replica) => response.with_offset(match asked.timestamp {
                    -2 => replica.log.start,
                    _ if to_the_end => replica.log.end,
                    _ => replica.log.high_watermark,
                }),
            }
        });
        ListOffsetsTopicResponse::default()
            .with_name(topic.name.clone())
            .with_partitions(partitions.collect())
    });
    ListOffsetsResponse::default().with_topics(topics.collect())
}

fn epochs(
    world: &World,
    broker: i32,
    request: &OffsetForLeaderEpochRequest,
) -> OffsetForLeaderEpochResponse {
    let broker: &Broker = &world.brokers[&broker];
    let topics = request.topics.iter().map(|topic| {
        let id = world.controller.topics.get(topic.topic.as_str()).copied().unwrap_or_default();
        let partitions = topic.partitions.iter().map(|asked| {
            let response = EpochEndOffset::default()
                .with_partition(asked.partition)
                .with_leader_epoch(-1)
                .with_end_offset(-1);
            match broker.leads((id, asked.partition), asked.current_leader_epoch) {
                Err(code) => response.with_error_code(code),
                Ok(replica) => {
                    let (epoch, end) = replica.log.end_of_epoch(asked.leader_epoch);
                    response.with_leader_epoch(epoch).with_end_offset(end)
                }
            }
        });
        OffsetForLeaderTopicResult::default()
            .with_topic(topic.topic.clone())
            .with_partitions(partitions.collect())
    });
    OffsetForLeaderEpochResponse::default().with_topics(topics.collect())
}

fn elect(world: &mut World, request: &ElectLeadersRequest) -> ElectLeadersResponse {
    if !world.controller.is_up {
        return ElectLeadersResponse::default().with_error_code(NOT_CONTROLLER);
    }
    let mut results = Vec::new();
    for topic in request.topic_partitions.iter().flatten() {
        let id = world.controller.topics.get(topic.topic.as_str()).copied().unwrap_or_default();
        let mut partitions = Vec::new();
        for &partition in &topic.partitions {
            let result = world.controller.elect_preferred((id, partition));
            world.say(format!("partition {partition}: preferred election: {result:?}"));
            let code = result.err().unwrap_or(0);
            partitions.push(
                PartitionResult::default().with_partition_id(partition).with_error_code(code),
            );
        }
        results.push(
            ReplicaElectionResult::default()
                .with_topic(topic.topic.clone())
                .with_partition_result(partitions),
        );
    }
    ElectLeadersResponse::default().with_replica_election_results(results)
}

fn reassign(
    world: &mut World,
    request: &AlterPartitionReassignmentsRequest,
) -> AlterPartitionReassignmentsResponse {
    if !world.controller.is_up {
        return AlterPartitionReassignmentsResponse::default().with_error_code(NOT_CONTROLLER);
    }
    let mut responses = Vec::new();
    for topic in &request.topics {
        let id = world.controller.topics.get(topic.name.as_str()).copied().unwrap_or_default();
        let mut partitions = Vec::new();
        for asked in &topic.partitions {
            let wanted = asked.replicas.as_ref();
            let wanted = wanted.map(|ids| ids.iter().map(|id| id.0).collect::<Vec<_>>());
            let text = format!("partition {}: reassigned to {wanted:?}", asked.partition_index);
            let result = world.controller.reassign((id, asked.partition_index), wanted);
            world.say(format!("{text}: {result:?}"));
            partitions.push(
                ReassignablePartitionResponse::default()
                    .with_partition_index(asked.partition_index)
                    .with_error_code(result.err().unwrap_or(0)),
            );
        }
        responses.push(
            ReassignableTopicResponse::default()
                .with_name(topic.name.clone())
                .with_partitions(partitions),
        );
    }
    AlterPartitionReassignmentsResponse::default().with_responses(responses)
}

fn create(world: &mut World, request: &CreateTopicsRequest) -> CreateTopicsResponse {
    let mut topics = Vec::new();
    for topic in &request.topics {
        let result = CreatableTopicResult::default().with_name(topic.name.clone());
        let known = CONFIGS.map(|name| CreatableTopicConfigs::default().with_name(text(name)));
        let code = if request.validate_only {
            0
        } else if world.controller.is_up {
            let replicas: Vec<Vec<i32>> = topic
                .assignments
                .iter()
                .map(|assignment| assignment.broker_ids.iter().map(|id| id.0).collect())
                .collect();
            let configs: Vec<_> = topic
                .configs
                .iter()
                .map(|config| {
                    let value = config.value.as_ref().map(ToString::to_string);
                    (config.name.to_string(), value.unwrap_or_default())
                })
                .collect();
            world.say(format!("topic {} created on {replicas:?}", topic.name.as_str()));
            world.controller.create(topic.name.as_str(), &replicas, &configs).err().unwrap_or(0)
        } else {
            NOT_CONTROLLER
        };
        topics.push(result.with_error_code(code).with_configs(Some(known.to_vec())));
    }
    CreateTopicsResponse::default().with_topics(topics)
}

fn configure(
    world: &mut World,
    request: &IncrementalAlterConfigsRequest,
) -> IncrementalAlterConfigsResponse {
    let mut responses = Vec::new();
    for resource in &request.resources {
        for config in &resource.configs {
            let value = config.value.as_ref().map(ToString::to_string);
            let value = value.filter(|_| config.config_operation == 0);
            let (topic, key) = (resource.resource_name.as_str(), config.name.as_str());
            world.controller.configure(topic, key, value.as_deref());
        }
        responses.push(
            AlterConfigsResourceResponse::default()
                .with_resource_type(resource.resource_type)
                .with_resource_name(resource.resource_name.clone()),
        );
    }
    IncrementalAlterConfigsResponse::default().with_responses(responses)
}

/// A broker's own settings.
fn settings(request: &DescribeConfigsRequest) -> DescribeConfigsResponse {
    let lag_time = LAG_TIME.as_millis().to_string();
    let settings =
        [("replica.lag.time.max.ms", lag_time.as_str()), ("default.replication.factor", "3")];
    let results = request.resources.iter().map(|resource| {
        let configs = settings.map(|(name, value)| {
            DescribeConfigsResourceResult::default()
                .with_name(text(name))
                .with_value(Some(text(value)))
        });
        DescribeConfigsResult::default()
            .with_resource_type(resource.resource_type)
            .with_resource_name(resource.resource_name.clone())
            .with_configs(configs.to_vec())
    });
    DescribeConfigsResponse::default().with_results(results.collect())
}
