//! Follows the destination's metadata log as an observer: from a snapshot or from its start, then
//! record by record up to the high watermark. Does nothing else, so that it never lags behind.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic, ReplicaState};
use kafka_protocol::messages::fetch_response::{FetchResponse, PartitionData};
use kafka_protocol::messages::fetch_snapshot_request::{
    PartitionSnapshot, SnapshotId, TopicSnapshot,
};
use kafka_protocol::messages::{FetchRequest, FetchSnapshotRequest};
use kafka_protocol::protocol::StrBytes;
use tokio::sync::{mpsc, watch};

use super::controllers::{ControllerConnection, Controllers, METADATA_TOPIC};
use super::error::SeatError;
use crate::client::Endpoint;
use crate::image::{Delta, Image, Replay};
use crate::types::{Offset, Uuid};
use crate::wire::batch::{self, BatchHeader};

/// The metadata log's topic id.
const METADATA_TOPIC_ID: Uuid = Uuid::from_u128(1);
const MAX_WAIT: Duration = Duration::from_millis(500);
const MAX_BYTES: i32 = 8 << 20;
/// Between attempts after trouble.
const REST: Duration = Duration::from_millis(100);
const NOT_LEADER: i16 = 6;
const FENCED_LEADER_EPOCH: i16 = 74;
const UNKNOWN_LEADER_EPOCH: i16 = 75;

/// Follows the metadata log.
#[derive(Debug)]
pub struct MetadataLog {
    controllers: Controllers,
    controller: ControllerConnection,
    cluster_id: String,
    replay: Replay,
    /// Next offset to read.
    position: Offset,
    /// Epoch of the last batch applied.
    last_epoch: i32,
    /// Epoch of the controllers' leader.
    leader_epoch: i32,
    outputs: MetadataOutputs,
}

/// Where changes go.
#[derive(Debug)]
pub struct MetadataOutputs {
    /// Everybody who only wants the present state.
    pub image: watch::Sender<Arc<Image>>,
    /// The leader task, which wants every change in order.
    pub deltas: mpsc::UnboundedSender<(Arc<Image>, Delta)>,
    /// Last offset applied.
    pub applied: watch::Sender<Offset>,
    /// Whether the log was read up to its end once.
    pub is_current: watch::Sender<bool>,
}

impl MetadataLog {
    /// A follower of the log that has read nothing.
    pub fn new(controllers: Controllers, cluster_id: String, outputs: MetadataOutputs) -> Self {
        Self {
            controller: controllers.connection(),
            controllers,
            cluster_id,
            replay: Replay::new(),
            position: Offset::ZERO,
            last_epoch: 0,
            leader_epoch: 0,
            outputs,
        }
    }

    /// Follows for ever; ends only with an error that retrying cannot heal.
    pub async fn run(mut self) -> SeatError {
        let mut failed = false;
        loop {
            match self.step().await {
                Ok(()) => failed = false,
                Err(error) if error.is_final() => return error,
                Err(error) => {
                    if !failed {
                        tracing::warn!(%error, "metadata log cannot be read; trying on");
                    }
                    failed = true;
                    self.controller.moved();
                    tokio::time::sleep(REST).await;
                }
            }
        }
    }

    async fn step(&mut self) -> Result<(), SeatError> {
        let request = self.fetch_request();
        let response =
            self.controller.request("Fetch", &request, |answer| answer.error_code).await?;
        let Some(partition) = response.responses.first().and_then(|topic| topic.partitions.first())
        else {
            return Err(malformed("Fetch", "no partition"));
        };
        if matches!(partition.error_code, NOT_LEADER | FENCED_LEADER_EPOCH | UNKNOWN_LEADER_EPOCH) {
            return self.follow_leader(&response, partition).await;
        }
        SeatError::check("Fetch of the metadata log", partition.error_code)?;
        if partition.snapshot_id.end_offset >= 0 && partition.snapshot_id.epoch >= 0 {
            let (end, epoch) = (partition.snapshot_id.end_offset, partition.snapshot_id.epoch);
            return self.load_snapshot(Offset(end), epoch).await;
        }
        if partition.diverging_epoch.epoch >= 0 || partition.diverging_epoch.end_offset >= 0 {
            // Only what is committed is applied, so this cannot be: begin anew to be sure.
            return Err(self.start_over("the metadata log diverged"));
        }
        let records = partition.records.clone().unwrap_or_default();
        self.apply(&records, Offset(partition.high_watermark))?;
        self.publish();
        if self.position.0 >= partition.high_watermark && !*self.outputs.is_current.borrow() {
            self.outputs.is_current.send_replace(true);
        }
        Ok(())
    }

    fn fetch_request(&self) -> FetchRequest {
        let partition = FetchPartition::default()
            .with_partition(0)
            .with_current_leader_epoch(self.leader_epoch)
            .with_fetch_offset(self.position.0)
            .with_last_fetched_epoch(self.last_epoch)
            .with_log_start_offset(-1)
            .with_partition_max_bytes(MAX_BYTES);
        let topic = FetchTopic::default()
            .with_topic(StrBytes::from_static_str(METADATA_TOPIC).into())
            .with_topic_id(METADATA_TOPIC_ID)
            .with_partitions(vec![partition]);
        FetchRequest::default()
            .with_cluster_id(Some(StrBytes::from_string(self.cluster_id.clone())))
            .with_replica_id((-1).into())
            .with_replica_state(ReplicaState::default().with_replica_id((-1).into()))
            .with_max_wait_ms(i32::try_from(MAX_WAIT.as_millis()).unwrap_or(i32::MAX))
            .with_min_bytes(1)
            .with_max_bytes(MAX_BYTES)
            .with_session_epoch(-1)
            .with_topics(vec![topic])
    }

    /// Goes to the leader that the answer names.
    async fn follow_leader(
        &mut self,
        response: &FetchResponse,
        partition: &PartitionData,
    ) -> Result<(), SeatError> {
        let leader = &partition.current_leader;
        let before = self.leader_epoch;
        self.leader_epoch = self.leader_epoch.max(leader.leader_epoch);
        let known = response.node_endpoints.iter().find(|node| node.node_id == leader.leader_id);
        if let Some(node) = known.filter(|_| partition.error_code == NOT_LEADER) {
            let port = u16::try_from(node.port).unwrap_or(0);
            self.controllers.is_active(&Endpoint { host: node.host.to_string(), port });
        } else if partition.error_code == NOT_LEADER || self.leader_epoch == before {
            self.controller.moved();
            tokio::time::sleep(REST).await;
        }
        Ok(())
    }

    async fn load_snapshot(&mut self, end: Offset, epoch: i32) -> Result<(), SeatError> {
        let mut content = BytesMut::new();
        loop {
            let request = self.snapshot_request(end, epoch, content.len() as i64);
            let response = self
                .controller
                .request("FetchSnapshot", &request, |answer| answer.error_code)
                .await?;
            let part = response.topics.first().and_then(|topic| topic.partitions.first());
            let part = part.ok_or_else(|| malformed("FetchSnapshot", "no partition"))?;
            SeatError::check("FetchSnapshot", part.error_code)?;
            if part.unaligned_records.is_empty() && (content.len() as i64) < part.size {
                return Err(malformed("FetchSnapshot", "no bytes before the end"));
            }
            content.extend_from_slice(&part.unaligned_records);
            if content.len() as i64 >= part.size {
                break;
            }
        }
        tracing::info!(end_offset = %end, bytes = content.len(), "metadata snapshot read");
        self.replay.begin_snapshot();
        self.apply(&content.freeze(), Offset(i64::MAX))?;
        self.position = end;
        self.last_epoch = epoch;
        self.publish();
        Ok(())
    }

    fn snapshot_request(&self, end: Offset, epoch: i32, position: i64) -> FetchSnapshotRequest {
        let partition = PartitionSnapshot::default()
            .with_partition(0)
            .with_current_leader_epoch(self.leader_epoch)
            .with_snapshot_id(SnapshotId::default().with_end_offset(end.0).with_epoch(epoch))
            .with_position(position);
        let topic = TopicSnapshot::default()
            .with_name(StrBytes::from_static_str(METADATA_TOPIC).into())
            .with_partitions(vec![partition]);
        FetchSnapshotRequest::default()
            .with_cluster_id(Some(StrBytes::from_string(self.cluster_id.clone())))
            .with_replica_id((-1).into())
            .with_max_bytes(MAX_BYTES)
            .with_topics(vec![topic])
    }

    /// Applies the batches that lie below the high watermark.
    fn apply(&mut self, records: &Bytes, high_watermark: Offset) -> Result<(), SeatError> {
        let mut rest: &[u8] = records;
        while let Some(header) = read_header(rest)? {
            if header.next_offset > high_watermark {
                break;
            }
            let (bytes, after) = rest.split_at(header.size);
            rest = after;
            if !header.is_control() {
                for (value, offset) in batch::uncompressed_values(bytes).zip(header.base_offset.0..)
                {
                    let value = value.ok_or_else(|| malformed("Fetch", "a broken record"))?;
                    self.replay.apply(Offset(offset), value)?;
                }
            }
            self.position = header.next_offset;
            self.last_epoch = header.leader_epoch.0;
        }
        Ok(())
    }

    fn publish(&mut self) {
        if let Some((image, delta)) = self.replay.take() {
            let _stopped = self.outputs.deltas.send((Arc::clone(&image), delta));
            self.outputs.image.send_replace(image);
        }
        let applied = Offset(self.position.0 - 1);
        self.outputs.applied.send_if_modified(|known| {
            let is_new = *known != applied;
            *known = applied;
            is_new
        });
    }

    fn start_over(&mut self, why: &str) -> SeatError {
        self.replay.begin_snapshot();
        self.position = Offset::ZERO;
        self.last_epoch = 0;
        malformed("Fetch of the metadata log", why)
    }
}

fn read_header(bytes: &[u8]) -> Result<Option<BatchHeader>, SeatError> {
    BatchHeader::read(bytes).map_err(|error| malformed("Fetch", &error.to_string()))
}

fn malformed(request: &'static str, what: &str) -> SeatError {
    SeatError::Malformed { request, what: what.to_owned() }
}
