//! Writes to the journal in transactions of Kafka (KIP-98): whoever claims the transactional id last
//! is the writer, and the coordinator fences all before it. Every write is a transaction of its own.
//!
//! Explicit versions below transaction protocol v2 (KIP-890): they work on every release from 3.7
//! on, and an epoch that the coordinator does not raise by itself is one that we can compare.

use std::time::Duration;

use kafka_protocol::messages::add_partitions_to_txn_request::AddPartitionsToTxnTopic;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{
    AddPartitionsToTxnRequest, EndTxnRequest, FindCoordinatorRequest, InitProducerIdRequest,
    ProduceRequest, TransactionalId,
};
use kafka_protocol::protocol::StrBytes;
use tokio::time::{Instant, sleep};

use super::committed::Log;
use super::error::{Answered, StoreError};
use super::topics::{JOURNAL_TOPIC, PARTITION};
use crate::client::{Cluster, Connection, Topics};
use crate::tail::events::now;
use crate::types::{BrokerId, Offset, TopicName};
use crate::wire::records::{BatchProducer, NewRecord, encode};

/// Who writes: each has a transactional id, and whoever claims it last is the one.
#[derive(Clone, Copy, Debug)]
pub(super) enum Writer {
    /// The journal's owner.
    Owner,
    /// A seat, of what it alone knows.
    Seat(BrokerId),
}

impl Writer {
    fn transactional_id(self) -> StrBytes {
        match self {
            Self::Owner => StrBytes::from_static_str("lockstep-journal"),
            Self::Seat(seat) => StrBytes::from_string(format!("lockstep-journal-{seat}")),
        }
    }
}

/// A writer that dies within a transaction holds readers up for so long at most.
const TRANSACTION_TIMEOUT_MS: i32 = 10_000;
const PRODUCE_TIMEOUT_MS: i32 = 5_000;
const ACKS_ALL: i16 = -1;
/// FindCoordinator for transactions.
const TRANSACTION: i8 = 1;

const FIND_COORDINATOR: i16 = 3;
const INIT_PRODUCER_ID: i16 = 4;
const ADD_PARTITIONS: i16 = 3;
const END_TXN: i16 = 3;
/// From 12 on a produce joins the transaction by itself; from 13 on it names topics by id.
const PRODUCE: i16 = 9;

/// The transaction before is not ended yet, or the coordinator is not there yet: both pass at once.
const CONCURRENT_TRANSACTIONS: i16 = 51;
const COORDINATOR_LOAD_IN_PROGRESS: i16 = 14;
const COORDINATOR_NOT_AVAILABLE: i16 = 15;
const BRIEF: [i16; 3] =
    [CONCURRENT_TRANSACTIONS, COORDINATOR_LOAD_IN_PROGRESS, COORDINATOR_NOT_AVAILABLE];
const BRIEF_REST: Duration = Duration::from_millis(50);
const BRIEF_LIMIT: Duration = Duration::from_secs(10);

/// The right to write, until somebody claims it after us.
#[derive(Debug)]
pub(super) struct Claim {
    transactional_id: TransactionalId,
    coordinator: Connection,
    coordinator_id: BrokerId,
    producer_id: i64,
    epoch: i16,
    sequence: i32,
}

impl Claim {
    /// Takes the right to write from whoever has it. What that one had not committed is aborted.
    pub(super) async fn make(cluster: &Cluster, writer: Writer) -> Result<Self, StoreError> {
        let transactional_id = TransactionalId(writer.transactional_id());
        let coordinator_id = find_coordinator(cluster, &transactional_id).await?;
        let coordinator = match cluster.broker(coordinator_id).await {
            Ok(connection) => connection,
            // Not of the last metadata: it has just started.
            Err(_) => {
                cluster.metadata(Topics::None).await?;
                cluster.broker(coordinator_id).await?
            }
        };
        let request = InitProducerIdRequest::default()
            .with_transactional_id(Some(transactional_id.clone()))
            .with_transaction_timeout_ms(TRANSACTION_TIMEOUT_MS)
            .with_producer_id((-1).into())
            .with_producer_epoch(-1);
        let since = Instant::now();
        loop {
            let response = coordinator.request_at(INIT_PRODUCER_ID, &request).await?;
            match response.error_code {
                0 => {
                    let (producer_id, epoch) = (response.producer_id.0, response.producer_epoch);
                    return Ok(Self {
                        transactional_id,
                        coordinator,
                        coordinator_id,
                        producer_id,
                        epoch,
                        sequence: 0,
                    });
                }
                code if is_brief(code, since) => sleep(BRIEF_REST).await,
                code => return Err(answered("InitProducerId", coordinator_id, code)),
            }
        }
    }

    /// Writes all of it or nothing. After an error the claim is of no use any more: whether the
    /// transaction was committed may be unknown, and the next claim ends it.
    pub(super) async fn write(
        &mut self,
        log: &Log,
        records: &[NewRecord],
    ) -> Result<Offset, StoreError> {
        self.add_partition().await?;
        let base = self.produce(log, records).await?;
        self.commit().await?;
        Ok(base)
    }

    async fn add_partition(&self) -> Result<(), StoreError> {
        let topic = AddPartitionsToTxnTopic::default()
            .with_name(topic_name())
            .with_partitions(vec![PARTITION]);
        let request = AddPartitionsToTxnRequest::default()
            .with_v3_and_below_transactional_id(self.transactional_id.clone())
            .with_v3_and_below_producer_id(self.producer_id.into())
            .with_v3_and_below_producer_epoch(self.epoch)
            .with_v3_and_below_topics(vec![topic]);
        let since = Instant::now();
        loop {
            let response = self.coordinator.request_at(ADD_PARTITIONS, &request).await?;
            let results = response.results_by_topic_v3_and_below.iter();
            let mut codes = results
                .flat_map(|topic| topic.results_by_partition.iter())
                .map(|partition| partition.partition_error_code);
            match codes.next().unwrap_or(-1) {
                0 => return Ok(()),
                code if is_brief(code, since) => sleep(BRIEF_REST).await,
                code => return Err(answered("AddPartitionsToTxn", self.coordinator_id, code)),
            }
        }
    }

    async fn produce(&mut self, log: &Log, records: &[NewRecord]) -> Result<Offset, StoreError> {
        let producer = BatchProducer {
            id: self.producer_id,
            epoch: self.epoch,
            sequence: self.sequence,
            is_transactional: true,
        };
        let batch = encode(producer, now(), records);
        let base = produce(log, Some(self.transactional_id.clone()), batch).await?;
        let count = i32::try_from(records.len()).unwrap_or(i32::MAX);
        self.sequence = self.sequence.checked_add(count).unwrap_or(0);
        Ok(base)
    }

    async fn commit(&self) -> Result<(), StoreError> {
        let request = EndTxnRequest::default()
            .with_transactional_id(self.transactional_id.clone())
            .with_producer_id(self.producer_id.into())
            .with_producer_epoch(self.epoch)
            .with_committed(true);
        let since = Instant::now();
        loop {
            let response = self.coordinator.request_at(END_TXN, &request).await?;
            match response.error_code {
                0 => return Ok(()),
                code if is_brief(code, since) => sleep(BRIEF_REST).await,
                code => return Err(answered("EndTxn", self.coordinator_id, code)),
            }
        }
    }
}

/// Appends a batch to one of our topics; tells its first offset.
pub(super) async fn produce(
    log: &Log,
    transactional_id: Option<TransactionalId>,
    batch: Vec<u8>,
) -> Result<Offset, StoreError> {
    let partition =
        PartitionProduceData::default().with_index(PARTITION).with_records(Some(batch.into()));
    let topic = TopicProduceData::default()
        .with_name(StrBytes::from_string(log.topic.to_string()).into())
        .with_partition_data(vec![partition]);
    let request = ProduceRequest::default()
        .with_transactional_id(transactional_id)
        .with_acks(ACKS_ALL)
        .with_timeout_ms(PRODUCE_TIMEOUT_MS)
        .with_topic_data(vec![topic]);
    let response = log.connection.request_at(PRODUCE, &request).await?;
    let partition = response.responses.iter().flat_map(|t| &t.partition_responses).next();
    let (code, base) = partition.map_or((-1, -1), |one| (one.error_code, one.base_offset));
    if code == 0 {
        return Ok(Offset(base));
    }
    let (topic, broker) = (log.topic.clone(), log.leader);
    Err(StoreError::Answered { request: "Produce", topic, broker, error: Answered(code) })
}

/// A broker that is asked for the first time creates `__transaction_state`.
async fn find_coordinator(
    cluster: &Cluster,
    transactional_id: &TransactionalId,
) -> Result<BrokerId, StoreError> {
    let request = FindCoordinatorRequest::default()
        .with_key(transactional_id.0.clone())
        .with_key_type(TRANSACTION);
    let since = Instant::now();
    loop {
        let response = cluster.any().await?.request_at(FIND_COORDINATOR, &request).await?;
        let id = BrokerId(response.node_id.0);
        match response.error_code {
            0 => return Ok(id),
            code if is_brief(code, since) => sleep(BRIEF_REST).await,
            code => return Err(answered("FindCoordinator", id, code)),
        }
    }
}

fn is_brief(code: i16, since: Instant) -> bool {
    BRIEF.contains(&code) && since.elapsed() < BRIEF_LIMIT
}

fn topic_name() -> kafka_protocol::messages::TopicName {
    StrBytes::from_static_str(JOURNAL_TOPIC).into()
}

fn answered(request: &'static str, broker: BrokerId, code: i16) -> StoreError {
    let topic = TopicName::from(JOURNAL_TOPIC);
    StoreError::Answered { request, topic, broker, error: Answered(code) }
}
