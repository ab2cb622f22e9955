//! What the source's brokers answer, by the facts of how 3.9 and 4.3 were seen to answer consumers.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult,
};
use kafka_protocol::messages::fetch_response::{
    EpochEndOffset as Diverging, FetchableTopicResponse, LeaderIdAndEpoch, PartitionData,
};
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
    ApiKey, DescribeConfigsRequest, DescribeConfigsResponse, FetchRequest, FetchResponse,
    ListOffsetsRequest, ListOffsetsResponse, MetadataRequest, MetadataResponse,
    OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse,
};
use kafka_protocol::protocol::StrBytes;
use tokio::time::Instant;

use super::broker::{FENCED_LEADER_EPOCH, NOT_LEADER, UNKNOWN_LEADER_EPOCH};
use super::log::Read;
use super::net::PORT;
use super::source::{BROKERS, Source, SourcePartition, TOPIC};
use super::wire::{Call, versions};
use super::world::Shared;

const KNOWN: [(i16, i16, i16); 6] =
    [(18, 0, 3), (3, 0, 12), (1, 4, 17), (2, 1, 8), (23, 2, 4), (32, 1, 4)];
const UNKNOWN_TOPIC: i16 = 3;
const UNKNOWN_TOPIC_ID: i16 = 100;

/// The answer's frame; `None` for a request that the model does not know.
pub async fn answer(world: &Shared, broker: i32, call: &Call) -> Option<Bytes> {
    Some(match ApiKey::try_from(call.key).ok()? {
        ApiKey::ApiVersions => call.answer(&versions(&KNOWN)),
        ApiKey::Metadata => call.answer(&metadata(&world.lock().source, &call.decode())),
        ApiKey::Fetch => call.answer(&fetch(world, broker, &call.decode()).await),
        ApiKey::ListOffsets => {
            call.answer(&list_offsets(&world.lock().source, broker, &call.decode()))
        }
        ApiKey::OffsetForLeaderEpoch => {
            call.answer(&epochs(&world.lock().source, broker, &call.decode()))
        }
        ApiKey::DescribeConfigs => call.answer(&configs(&call.decode())),
        _ => return None,
    })
}

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn metadata(source: &Source, request: &MetadataRequest) -> MetadataResponse {
    let brokers = BROKERS.map(|id| {
        MetadataResponseBroker::default()
            .with_node_id(id.into())
            .with_host(text(&format!("source-{id}")))
            .with_port(i32::from(PORT))
    });
    let names: Vec<String> = match &request.topics {
        None => vec![TOPIC.to_owned()],
        Some(topics) => {
            topics.iter().filter_map(|t| t.name.as_ref().map(|name| name.to_string())).collect()
        }
    };
    let topics = names.iter().map(|name| {
        let topic = MetadataResponseTopic::default().with_name(Some(text(name).into()));
        if name != TOPIC {
            return topic.with_error_code(UNKNOWN_TOPIC);
        }
        let partitions = (0..).zip(&source.partitions).map(|(index, partition)| {
            MetadataResponsePartition::default()
                .with_partition_index(index)
                .with_leader_id(partition.leader.into())
                .with_leader_epoch(partition.leader_epoch)
                .with_replica_nodes(BROKERS.map(Into::into).to_vec())
                .with_isr_nodes(BROKERS.map(Into::into).to_vec())
        });
        topic.with_topic_id(source.topic).with_partitions(partitions.collect())
    });
    MetadataResponse::default()
        .with_cluster_id(Some(text("source-cluster")))
        .with_controller_id(1.into())
        .with_brokers(brokers.to_vec())
        .with_topics(topics.collect())
}

/// The partition, where this broker leads it in the epoch that was named (-1: any).
fn led(source: &Source, broker: i32, index: i32, epoch: i32) -> Result<&SourcePartition, i16> {
    let index = usize::try_from(index).map_err(|_negative| UNKNOWN_TOPIC)?;
    let partition = source.partitions.get(index).ok_or(UNKNOWN_TOPIC)?;
    if epoch >= 0 && epoch < partition.leader_epoch {
        return Err(FENCED_LEADER_EPOCH);
    }
    if epoch > partition.leader_epoch {
        return Err(UNKNOWN_LEADER_EPOCH);
    }
    if partition.leader == broker { Ok(partition) } else { Err(NOT_LEADER) }
}

/// Waits as long as it was asked to for something to say.
async fn fetch(world: &Shared, broker: i32, request: &FetchRequest) -> FetchResponse {
    let deadline = Instant::now() + Duration::from_millis(request.max_wait_ms.max(0) as u64);
    loop {
        let (response, mut changed) = {
            let world = world.lock();
            (fetch_now(&world.source, broker, request), world.source.changed.subscribe())
        };
        let has_news = response.responses.iter().flat_map(|topic| &topic.partitions).any(|p| {
            p.error_code != 0
                || p.diverging_epoch.end_offset >= 0
                || p.records.as_ref().is_some_and(|records| !records.is_empty())
        });
        if has_news || Instant::now() >= deadline {
            return response;
        }
        let _late = tokio::time::timeout_at(deadline, changed.changed()).await;
    }
}

fn fetch_now(source: &Source, broker: i32, request: &FetchRequest) -> FetchResponse {
    let topics = request.topics.iter().map(|topic| {
        let by_id = !topic.topic_id.is_nil();
        let known =
            if by_id { topic.topic_id == source.topic } else { topic.topic.as_str() == TOPIC };
        let unknown = if by_id { UNKNOWN_TOPIC_ID } else { UNKNOWN_TOPIC };
        let partitions = topic.partitions.iter().map(|asked| {
            let data = PartitionData::default()
                .with_partition_index(asked.partition)
                .with_high_watermark(-1)
                .with_last_stable_offset(-1)
                .with_log_start_offset(-1);
            let led = if known {
                led(source, broker, asked.partition, asked.current_leader_epoch)
            } else {
                Err(unknown)
            };
            let partition = match led {
                Ok(partition) => partition,
                Err(code) => {
                    let partition = source.partitions.get(asked.partition as usize);
                    let leader = partition
                        .filter(|_| known)
                        .map_or((-1, -1), |partition| (partition.leader, partition.leader_epoch));
                    return data.with_error_code(code).with_current_leader(
                        LeaderIdAndEpoch::default()
                            .with_leader_id(leader.0.into())
                            .with_leader_epoch(leader.1),
                    );
                }
            };
            let log = &partition.log;
            let (offset, last) = (asked.fetch_offset, asked.last_fetched_epoch);
            let size = asked.partition_max_bytes as usize;
            match log.read(offset, last, log.high_watermark, size) {
                Err(code) => data.with_error_code(code),
                Ok(Read::Diverging(epoch, end)) => data.with_diverging_epoch(
                    Diverging::default().with_epoch(epoch).with_end_offset(end),
                ),
                Ok(Read::Batches(batches)) => {
                    let mut records = BytesMut::new();
                    batches.iter().for_each(|batch| records.extend_from_slice(&batch.bytes));
                    data.with_high_watermark(log.high_watermark)
                        .with_last_stable_offset(log.high_watermark)
                        .with_log_start_offset(log.start)
                        .with_records(Some(records.freeze()))
                }
            }
        });
        FetchableTopicResponse::default()
            .with_topic(topic.topic.clone())
            .with_topic_id(topic.topic_id)
            .with_partitions(partitions.collect())
    });
    FetchResponse::default().with_responses(topics.collect())
}

fn list_offsets(source: &Source, broker: i32, request: &ListOffsetsRequest) -> ListOffsetsResponse {
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|asked| {
            let response = ListOffsetsPartitionResponse::default()
                .with_partition_index(asked.partition_index)
                .with_offset(-1)
                .with_timestamp(-1)
                .with_leader_epoch(-1);
            let led = if topic.name.as_str() == TOPIC {
                led(source, broker, asked.partition_index, asked.current_leader_epoch)
            } else {
                Err(UNKNOWN_TOPIC)
            };
            match led {
                Err(code) => response.with_error_code(code),
                Ok(partition) => {
                    let log = &partition.log;
                    let offset = if asked.timestamp == -2 { log.start } else { log.high_watermark };
                    response.with_offset(offset).with_leader_epoch(partition.leader_epoch)
                }
            }
        });
        ListOffsetsTopicResponse::default()
            .with_name(topic.name.clone())
            .with_partitions(partitions.collect())
    });
    ListOffsetsResponse::default().with_topics(topics.collect())
}

fn epochs(
    source: &Source,
    broker: i32,
    request: &OffsetForLeaderEpochRequest,
) -> OffsetForLeaderEpochResponse {
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|asked| {
            let response = EpochEndOffset::default()
                .with_partition(asked.partition)
                .with_leader_epoch(-1)
                .with_end_offset(-1);
            let led = if topic.topic.as_str() == TOPIC {
                led(source, broker, asked.partition, asked.current_leader_epoch)
            } else {
                Err(UNKNOWN_TOPIC)
            };
            match led {
                Err(code) => response.with_error_code(code),
                Ok(partition) => {
                    let (epoch, end) = partition.log.end_of_epoch(asked.leader_epoch);
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

fn configs(request: &DescribeConfigsRequest) -> DescribeConfigsResponse {
    let results = request.resources.iter().map(|resource| {
        let configs = [("cleanup.policy", "delete"), ("segment.bytes", "1073741824")];
        let configs = configs.map(|(name, value)| {
            DescribeConfigsResourceResult::default()
                .with_name(text(name))
                .with_value(Some(text(value)))
                .with_config_source(5)
        });
        DescribeConfigsResult::default()
            .with_resource_type(resource.resource_type)
            .with_resource_name(resource.resource_name.clone())
            .with_configs(configs.to_vec())
    });
    DescribeConfigsResponse::default().with_results(results.collect())
}
