//! What the active controller answers the seat.

use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::messages::alter_partition_response::{PartitionData as Altered, TopicData};
use kafka_protocol::messages::fetch_response::{
    FetchableTopicResponse, LeaderIdAndEpoch, PartitionData,
};
use kafka_protocol::messages::{
    AlterPartitionRequest, AlterPartitionResponse, ApiKey, BrokerHeartbeatRequest,
    BrokerHeartbeatResponse, BrokerRegistrationRequest, BrokerRegistrationResponse, FetchRequest,
    FetchResponse,
};
use tokio::time::Instant;

use super::batch::{self, Shape};
use super::controller::{Alteration, Controller};
use super::wire::{Call, versions};
use super::world::Shared;

const KNOWN: [(i16, i16, i16); 5] = [(18, 0, 3), (62, 0, 4), (63, 0, 2), (1, 4, 17), (56, 0, 3)];
/// Epoch of the controllers' leader.
const EPOCH: i32 = 1;
const FENCED_LEADER_EPOCH: i16 = 74;
/// Records in one answer.
const AT_ONCE: usize = 100;

/// The answer's frame; `None` for a request that the model does not know.
pub async fn answer(world: &Shared, call: &Call) -> Option<Bytes> {
    Some(match ApiKey::try_from(call.key).ok()? {
        ApiKey::ApiVersions => call.answer(&versions(&KNOWN)),
        ApiKey::BrokerRegistration => call.answer(&register(world, &call.decode())),
        ApiKey::BrokerHeartbeat => call.answer(&heartbeat(world, &call.decode())),
        ApiKey::AlterPartition => call.answer(&alter(world, &call.decode())),
        ApiKey::Fetch => call.answer(&fetch(world, &call.decode()).await),
        _ => return None,
    })
}

fn register(world: &Shared, request: &BrokerRegistrationRequest) -> BrokerRegistrationResponse {
    let mut world = world.lock();
    let id = request.broker_id.0;
    let host =
        request.listeners.first().map_or(String::new(), |listener| listener.host.to_string());
    let result = world.controller.register(id, request.incarnation_id, request.log_dirs[0], &host);
    if let Ok(epoch) = result {
        world.say(format!("seat registers under epoch {epoch}"));
    }
    world.check();
    match result {
        Ok(epoch) => BrokerRegistrationResponse::default().with_broker_epoch(epoch),
        Err(code) => BrokerRegistrationResponse::default().with_error_code(code),
    }
}

fn heartbeat(world: &Shared, request: &BrokerHeartbeatRequest) -> BrokerHeartbeatResponse {
    let mut world = world.lock();
    let (id, epoch) = (request.broker_id.0, request.broker_epoch);
    let applied = request.current_metadata_offset;
    let (fence, stop) = (request.want_fence, request.want_shut_down);
    match world.controller.heartbeat(id, epoch, applied, fence, stop) {
        Ok((is_fenced, may_stop)) => BrokerHeartbeatResponse::default()
            .with_is_caught_up(true)
            .with_is_fenced(is_fenced)
            .with_should_shut_down(may_stop),
        Err(code) => BrokerHeartbeatResponse::default().with_error_code(code),
    }
}

fn alter(world: &Shared, request: &AlterPartitionRequest) -> AlterPartitionResponse {
    let mut world = world.lock();
    let mut topics = Vec::new();
    for topic in &request.topics {
        let mut partitions = Vec::new();
        for asked in &topic.partitions {
            let members = asked.new_isr_with_epochs.iter();
            let wanted = Alteration {
                broker: request.broker_id.0,
                broker_epoch: request.broker_epoch,
                key: (topic.topic_id, asked.partition_index),
                leader_epoch: asked.leader_epoch,
                partition_epoch: asked.partition_epoch,
                in_sync: members.map(|member| (member.broker_id.0, member.broker_epoch)).collect(),
            };
            let result = world.controller.alter(&wanted);
            let of = asked.partition_index;
            world.say(format!("partition {of}: in sync {:?}: {result:?}", wanted.in_sync));
            let altered = Altered::default().with_partition_index(of);
            partitions.push(match result {
                Err(77) => return AlterPartitionResponse::default().with_error_code(77),
                Err(code) => altered.with_error_code(code),
                Ok(state) => altered
                    .with_leader_id(state.leader.into())
                    .with_leader_epoch(state.leader_epoch)
                    .with_isr(state.in_sync.iter().map(|&id| id.into()).collect())
                    .with_partition_epoch(state.partition_epoch),
            });
        }
        topics.push(TopicData::default().with_topic_id(topic.topic_id).with_partitions(partitions));
    }
    world.check();
    AlterPartitionResponse::default().with_topics(topics)
}

/// The metadata log, from the offset asked for on.
async fn fetch(world: &Shared, request: &FetchRequest) -> FetchResponse {
    let deadline = Instant::now() + Duration::from_millis(request.max_wait_ms.max(0) as u64);
    loop {
        let (response, mut changed) = {
            let world = world.lock();
            (fetch_now(&world.controller, request), world.controller.changed.subscribe())
        };
        let partition = &response.responses[0].partitions[0];
        let is_empty = partition.records.as_ref().is_none_or(Bytes::is_empty);
        if partition.error_code != 0 || !is_empty || Instant::now() >= deadline {
            return response;
        }
        let _late = tokio::time::timeout_at(deadline, changed.changed()).await;
    }
}

fn fetch_now(controller: &Controller, request: &FetchRequest) -> FetchResponse {
    let topic = &request.topics[0];
    let asked = &topic.partitions[0];
    let end = controller.log.len();
    let data = PartitionData::default()
        .with_partition_index(0)
        .with_high_watermark(end as i64)
        .with_current_leader(
            LeaderIdAndEpoch::default().with_leader_id(1.into()).with_leader_epoch(EPOCH),
        );
    let data = if asked.current_leader_epoch != EPOCH {
        data.with_error_code(FENCED_LEADER_EPOCH)
    } else {
        let from = (asked.fetch_offset as usize).min(end);
        let to = end.min(from + AT_ONCE);
        let values: Vec<_> =
            controller.log[from..to].iter().map(|(record, _)| record.clone()).collect();
        let (base, next) = (from as i64, to as i64);
        let shape = Shape { base, next, epoch: EPOCH, attributes: 0, values: &values };
        let records = if values.is_empty() { Bytes::new() } else { batch::encode(shape) };
        data.with_records(Some(records))
    };
    let answer = FetchableTopicResponse::default()
        .with_topic(topic.topic.clone())
        .with_topic_id(topic.topic_id)
        .with_partitions(vec![data]);
    FetchResponse::default().with_responses(vec![answer])
}
