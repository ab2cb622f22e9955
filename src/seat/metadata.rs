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
use tokio::time::Instant;

use super::controllers::{ControllerConnection, Controllers, METADATA_TOPIC};
use super::error::SeatError;
use crate::client::{Backoff, Endpoint};
use crate::image::{Delta, Image, Replay, Retry};
use crate::types::{Offset, Uuid};
use crate::wire::batch::{self, BatchHeader};

/// The metadata log's topic id.
const METADATA_TOPIC_ID: Uuid = Uuid::from_u128(1);
const MAX_WAIT: Duration = Duration::from_millis(500);
const MAX_BYTES: i32 = 8 << 20;
/// Between attempts after trouble.
const REST: Duration = Duration::from_millis(100);
const LONGEST_REST: Duration = Duration::from_secs(1);
/// First rest, and the longest, while all that is new is not committed: the controller answers at
/// once then, however often it is asked.
const UNCOMMITTED_REST: Duration = Duration::from_millis(2);
const UNCOMMITTED_MOST: Duration = Duration::from_millis(250);
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
    /// Whether the replay is the whole log up to `position`. It is not while the log is read for the
    /// first time or from its start again: then nobody else may see it, for what is yet to come
    /// would seem to have vanished.
    is_whole: bool,
    /// Where the log could not be applied before it was read from its start again.
    broken_at: Option<Offset>,
    /// Rest until uncommitted records are asked for again.
    uncommitted_rest: Duration,
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
    /// When the log was last read up to its end; `None` before the first time.
    pub read_at: watch::Sender<Option<Instant>>,
}

impl MetadataLog {
    /// A follower of the log that has read nothing.
    pub fn new(controllers: Controllers, cluster_id: String, outputs: MetadataOutputs) -> Self {
        Self {
            controller: controllers.connection(),
            controllers,
            replay: Replay::of_cluster(&cluster_id),
            cluster_id,
            position: Offset::ZERO,
            last_epoch: 0,
            leader_epoch: 0,
            is_whole: false,
            broken_at: None,
            uncommitted_rest: UNCOMMITTED_REST,
            outputs,
        }
    }

    /// Follows for ever; ends only with an error that retrying cannot heal.
    pub async fn run(mut self) -> SeatError {
        let mut failed = false;
        let mut rest = Backoff::new(REST, LONGEST_REST);
        loop {
            match self.step().await {
                Ok(()) => {
                    failed = false;
                    rest.reset();
                }
                Err(error) if !self.may_try_on(&error) => return error,
                Err(error) => {
                    if !failed {
                        tracing::warn!(%error, "metadata log cannot be read; trying on");
                    }
                    failed = true;
                    self.controller.moved();
                    tokio::time::sleep(rest.next()).await;
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
            self.begin_anew();
            return Err(malformed("Fetch of the metadata log", "a log that diverged"));
        }
        let records = partition.records.clone().unwrap_or_default();
        let high_watermark = Offset(partition.high_watermark);
        let before = self.position;
        self.apply(&records, high_watermark)?;
        self.on_read_up_to(high_watermark);
        let rest = self.next_rest(!records.is_empty() && self.position == before);
        if !rest.is_zero() {
            tokio::time::sleep(rest).await;
        }
        Ok(())
    }

    /// Publishes what was read, once the replay is whole.
    fn on_read_up_to(&mut self, high_watermark: Offset) {
        let is_at_end = self.position >= high_watermark;
        self.is_whole |= is_at_end;
        if self.is_whole {
            self.publish();
        }
        if is_at_end {
            self.broken_at = None;
            self.outputs.read_at.send_replace(Some(Instant::now()));
        }
    }

    /// The controller hands out what is not committed yet, and we may not apply it: while the quorum
    /// cannot commit each Fetch is answered at once with the same.
    fn next_rest(&mut self, brought_nothing_to_apply: bool) -> Duration {
        if !brought_nothing_to_apply {
            self.uncommitted_rest = UNCOMMITTED_REST;
            return Duration::ZERO;
        }
        let rest = self.uncommitted_rest;
        self.uncommitted_rest = (rest * 2).min(UNCOMMITTED_MOST);
        rest
    }

    /// Whether trying on may help. A log that contradicts itself is read from its start once more.
    fn may_try_on(&mut self, error: &SeatError) -> bool {
        let SeatError::Image(broken) = error else { return !error.is_final() };
        let at = broken.offset();
        let is_new = broken.retry() == Retry::FromSnapshot && self.broken_at != Some(at);
        self.broken_at = Some(at);
        is_new
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
        self.begin_anew();
        self.apply(&content.freeze(), Offset(i64::MAX))?;
        self.position = end;
        self.last_epoch = epoch;
        // What follows the snapshot in the log is published with it.
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

    /// Applies the batches that lie below the high watermark. After an error part of a batch may have
    /// been applied: nothing but the start of the log can follow.
    fn apply(&mut self, records: &Bytes, high_watermark: Offset) -> Result<(), SeatError> {
        let applied = self.apply_batches(records, high_watermark);
        if applied.is_err() {
            self.begin_anew();
        }
        applied
    }

    fn apply_batches(&mut self, records: &Bytes, high_watermark: Offset) -> Result<(), SeatError> {
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

    /// The whole log has to be read again; what was published stays until it is.
    fn begin_anew(&mut self) {
        self.replay.begin_snapshot();
        self.position = Offset::ZERO;
        self.last_epoch = 0;
        self.is_whole = false;
    }
}

fn read_header(bytes: &[u8]) -> Result<Option<BatchHeader>, SeatError> {
    BatchHeader::read(bytes).map_err(|error| malformed("Fetch", &error.to_string()))
}

fn malformed(request: &'static str, what: &str) -> SeatError {
    SeatError::Malformed { request, what: what.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::ClientConfig;

    const BEGIN: &[u8] = &[1, 23, 0, 0];
    const END: &[u8] = &[1, 24, 0, 0];
    const ABORT: &[u8] = &[1, 25, 0, 0];

    struct Watched {
        log: MetadataLog,
        image: watch::Receiver<Arc<Image>>,
        deltas: mpsc::UnboundedReceiver<(Arc<Image>, Delta)>,
        applied: watch::Receiver<Offset>,
        read_at: watch::Receiver<Option<Instant>>,
    }

    impl Watched {
        fn new() -> Self {
            let (image, image_seen) = watch::channel(Arc::default());
            let (deltas, deltas_seen) = mpsc::unbounded_channel();
            let (applied, applied_seen) = watch::channel(Offset(-1));
            let (read_at, read_at_seen) = watch::channel(None);
            let outputs = MetadataOutputs { image, deltas, applied, read_at };
            let controllers = Controllers::new(Vec::new(), ClientConfig::default());
            let log = MetadataLog::new(controllers, "cluster".to_owned(), outputs);
            let (image, deltas, applied, read_at) =
                (image_seen, deltas_seen, applied_seen, read_at_seen);
            Self { log, image, deltas, applied, read_at }
        }

        /// As after an answer to Fetch.
        fn read(&mut self, records: Vec<u8>, high_watermark: i64) -> Result<(), SeatError> {
            self.log.apply(&Bytes::from(records), Offset(high_watermark))?;
            self.log.on_read_up_to(Offset(high_watermark));
            Ok(())
        }

        fn feature(&self, name: &str) -> Option<i16> {
            self.image.borrow().feature(name)
        }

        fn deltas(&mut self) -> usize {
            std::iter::from_fn(|| self.deltas.try_recv().ok()).count()
        }
    }

    fn feature(name: &str, level: i16) -> Vec<u8> {
        let mut record = vec![1, 12, 0, name.len() as u8 + 1];
        record.extend_from_slice(name.as_bytes());
        record.extend_from_slice(&level.to_be_bytes());
        record.push(0);
        record
    }

    fn batch(base_offset: i64, values: &[&[u8]]) -> Vec<u8> {
        let mut records = Vec::new();
        for (delta, value) in values.iter().enumerate() {
            // Attributes, timestamp delta, offset delta, no key, value, no headers; all small.
            let mut record = vec![0, 0, 2 * delta as u8, 1, 2 * value.len() as u8];
            record.extend_from_slice(value);
            record.push(0);
            records.push(2 * record.len() as u8);
            records.extend(record);
        }
        let mut bytes = base_offset.to_be_bytes().to_vec();
        bytes.extend(i32::try_from(49 + records.len()).unwrap().to_be_bytes());
        bytes.extend(3i32.to_be_bytes());
        bytes.push(2);
        bytes.extend([0; 6]);
        bytes.extend((values.len() as i32 - 1).to_be_bytes());
        bytes.extend([0; 16]);
        bytes.extend([0xff; 14]);
        bytes.extend((values.len() as i32).to_be_bytes());
        bytes.extend(records);
        bytes
    }

    #[test]
    fn nothing_is_seen_before_the_log_was_read_to_its_end() {
        let mut watched = Watched::new();
        let records = batch(0, &[&feature("a", 1), &feature("b", 1)]);
        watched.read(records, 3).unwrap();
        assert_eq!((watched.feature("a"), watched.deltas()), (None, 0));
        assert_eq!((*watched.applied.borrow(), *watched.read_at.borrow()), (Offset(-1), None));
        watched.read(batch(2, &[&feature("c", 1)]), 3).unwrap();
        assert_eq!((watched.feature("a"), watched.feature("c")), (Some(1), Some(1)));
        assert_eq!((watched.deltas(), *watched.applied.borrow()), (1, Offset(2)));
        assert!(watched.read_at.borrow().is_some());
    }

    #[test]
    fn what_was_seen_stays_while_the_log_is_read_again() {
        let mut watched = Watched::new();
        watched.read(batch(0, &[&feature("a", 1), &feature("b", 1)]), 2).unwrap();
        assert_eq!(watched.deltas(), 1);
        watched.log.begin_anew();
        watched.read(batch(0, &[&feature("a", 1)]), 3).unwrap();
        assert_eq!((watched.feature("b"), watched.deltas()), (Some(1), 0), "b seemed to vanish");
        watched.read(batch(1, &[&feature("b", 1), &feature("b", 2)]), 3).unwrap();
        assert_eq!((watched.feature("b"), watched.deltas()), (Some(2), 1));
    }

    #[test]
    fn nothing_of_an_open_or_aborted_metadata_transaction_is_seen() {
        let mut watched = Watched::new();
        watched.read(batch(0, &[&feature("a", 1)]), 1).unwrap();
        watched.read(batch(1, &[BEGIN, &feature("a", 2), &feature("b", 1)]), 4).unwrap();
        assert_eq!((watched.feature("a"), watched.feature("b")), (Some(1), None));
        // The heartbeat says how far we have read, or nobody's shutdown would pass.
        assert_eq!(*watched.applied.borrow(), Offset(3));
        watched.read(batch(4, &[ABORT, &feature("c", 1)]), 6).unwrap();
        assert_eq!((watched.feature("a"), watched.feature("b")), (Some(1), None));
        assert_eq!(watched.feature("c"), Some(1));
        watched.read(batch(6, &[BEGIN, &feature("a", 3)]), 8).unwrap();
        assert_eq!(watched.feature("a"), Some(1));
        watched.read(batch(8, &[END]), 9).unwrap();
        assert_eq!(watched.feature("a"), Some(3));
    }

    #[test]
    fn a_log_that_contradicts_itself_is_read_once_more_and_no_oftener() {
        let mut watched = Watched::new();
        watched.read(batch(0, &[&feature("a", 1)]), 1).unwrap();
        for may_try_on in [true, false] {
            let again = batch(0, &[&feature("a", 1), &feature("a", 2), END]);
            let error = watched.read(again, 3).unwrap_err();
            assert_eq!(watched.log.may_try_on(&error), may_try_on, "{error}");
            assert_eq!((watched.feature("a"), watched.log.position), (Some(1), Offset::ZERO));
        }
    }

    #[test]
    fn records_that_cannot_be_committed_are_asked_for_with_growing_rests() {
        let mut watched = Watched::new();
        watched.read(batch(0, &[&feature("a", 1)]), 1).unwrap();
        watched.read(batch(1, &[&feature("a", 2)]), 1).unwrap();
        assert_eq!((watched.feature("a"), watched.log.position), (Some(1), Offset(1)));
        let rests: Duration = (0..10).map(|_| watched.log.next_rest(true)).sum();
        assert!(rests > UNCOMMITTED_MOST * 3, "{rests:?}");
        assert_eq!(watched.log.next_rest(false), Duration::ZERO);
        assert_eq!(watched.log.next_rest(true), UNCOMMITTED_REST);
    }
}
