//! Single requests at the seat and at real brokers, and the codes that they are answered with.

use anyhow::{Context, Result, ensure};
use kafka_protocol::messages::delete_records_request::{
    DeleteRecordsPartition, DeleteRecordsTopic,
};
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_producers_request::TopicRequest;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic, ReplicaState};
use kafka_protocol::messages::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig,
};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::offset_for_leader_epoch_request::{
    OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::write_txn_markers_request::{
    WritableTxnMarker, WritableTxnMarkerTopic,
};
use kafka_protocol::messages::{
    DeleteRecordsRequest, DescribeConfigsRequest, DescribeLogDirsRequest, DescribeProducersRequest,
    FetchRequest, IncrementalAlterConfigsRequest, ListOffsetsRequest, OffsetForLeaderEpochRequest,
    ProduceRequest, TopicName, WriteTxnMarkersRequest,
};
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use crate::support::judge::produce::plain_batch;
use crate::support::judge::{Batch, Judge};

/// Highest version that names topics.
const FETCH_BY_NAME: i16 = 12;
const BROKER: i8 = 4;

fn name(topic: &str) -> TopicName {
    StrBytes::from_string(topic.to_owned()).into()
}

/// Code, timestamp and offset of a time.
pub fn offset_of(
    judge: &mut Judge,
    topic: &str,
    partition: i32,
    time: i64,
    isolation: i8,
) -> Result<(i16, i64, i64)> {
    let version = judge.version::<ListOffsetsRequest>()?;
    offset_at(judge, version, topic, partition, time, isolation)
}

/// The same at a given version.
pub fn offset_at(
    judge: &mut Judge,
    version: i16,
    topic: &str,
    partition: i32,
    time: i64,
    isolation: i8,
) -> Result<(i16, i64, i64)> {
    // Version 1 has no isolation.
    let isolation = if version >= 2 { isolation } else { 0 };
    let request = offsets(topic, partition, time, isolation, -1);
    let answer = judge.ask_at(version, &request)?;
    let answer = &answer.topics.first().context("no topic")?.partitions[0];
    Ok((answer.error_code, answer.timestamp, answer.offset))
}

/// The end of a broker's own log, whoever leads.
pub fn end_of_replica(judge: &mut Judge, topic: &str, partition: i32) -> Result<i64> {
    let answer = judge.ask(&offsets(topic, partition, -1, 0, -2))?;
    let answer = &answer.topics.first().context("no topic")?.partitions[0];
    ensure!(answer.error_code == 0, "end of {topic}-{partition}: error {}", answer.error_code);
    Ok(answer.offset)
}

fn offsets(
    topic: &str,
    partition: i32,
    time: i64,
    isolation: i8,
    replica: i32,
) -> ListOffsetsRequest {
    let partition = ListOffsetsPartition::default()
        .with_partition_index(partition)
        .with_current_leader_epoch(-1)
        .with_timestamp(time);
    let topic = ListOffsetsTopic::default().with_name(name(topic)).with_partitions(vec![partition]);
    ListOffsetsRequest::default()
        .with_replica_id(replica.into())
        .with_isolation_level(isolation)
        .with_topics(vec![topic])
}

fn fetch(partition: i32, offset: i64) -> FetchPartition {
    FetchPartition::default()
        .with_partition(partition)
        .with_current_leader_epoch(-1)
        .with_last_fetched_epoch(-1)
        .with_log_start_offset(-1)
        .with_fetch_offset(offset)
        .with_partition_max_bytes(2000)
}

fn epochs(topic: &str, replica: i32) -> OffsetForLeaderEpochRequest {
    let partition =
        OffsetForLeaderPartition::default().with_current_leader_epoch(-1).with_leader_epoch(0);
    let topic =
        OffsetForLeaderTopic::default().with_topic(name(topic)).with_partitions(vec![partition]);
    OffsetForLeaderEpochRequest::default().with_replica_id(replica.into()).with_topics(vec![topic])
}

/// Batches from `offset` on, as a client of 2017 to 2019 asks.
pub fn old_fetch(
    judge: &mut Judge,
    version: i16,
    topic: &str,
    partition: i32,
    offset: i64,
) -> Result<Vec<Batch>> {
    let topic = FetchTopic::default()
        .with_topic(name(topic))
        .with_partitions(vec![fetch(partition, offset)]);
    let request = FetchRequest::default()
        .with_replica_id((-1).into())
        .with_max_wait_ms(500)
        .with_min_bytes(1)
        .with_max_bytes(2000)
        .with_session_epoch(if version >= 7 { 0 } else { -1 })
        .with_topics(vec![topic]);
    let answer = judge.ask_at(version, &request)?;
    ensure!(answer.session_id == 0, "v{version}: session {}", answer.session_id);
    let answer = answer.responses.into_iter().next().context("no topic")?;
    let answer = answer.partitions.into_iter().next().context("no partition")?;
    ensure!(answer.error_code == 0, "v{version} at {offset}: error {}", answer.error_code);
    ensure!(answer.high_watermark > offset, "v{version}: {}", answer.high_watermark);
    let mut records = answer.records.unwrap_or_default();
    let mut batches = Vec::new();
    while let Some(batch) = Batch::take(&mut records)? {
        batches.push(batch);
    }
    Ok(batches)
}

/// What a Fetch was answered that names the topic by its id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    pub code: i16,
    /// Who leads, and in which epoch, where that is told (KIP-951).
    pub leader: (i32, i32),
    /// Brokers that are named with their addresses, and these.
    pub nodes: Vec<(i32, String)>,
}

/// Fetches from offset 0 of partition 0, as the newest of clients.
pub fn fetch_by_id(judge: &mut Judge, id: Uuid) -> Result<Fetched> {
    let topic = FetchTopic::default().with_partitions(vec![fetch(0, 0)]).with_topic_id(id);
    let request = FetchRequest::default()
        .with_session_epoch(-1)
        .with_replica_id((-1).into())
        .with_topics(vec![topic]);
    let answer = judge.ask(&request)?;
    let partition = &answer.responses[0].partitions[0];
    let leader = &partition.current_leader;
    let nodes = answer.node_endpoints.iter();
    Ok(Fetched {
        code: partition.error_code,
        leader: (leader.leader_id.0, leader.leader_epoch),
        nodes: nodes.map(|node| (node.node_id.0, format!("{}:{}", node.host, node.port))).collect(),
    })
}

/// Asks as if it were a follower of the seat: the code of the answer, if there is one.
pub fn pose(judge: &mut Judge, ask: usize, broker: i32, id: Uuid, topic: &str) -> Result<i16> {
    match ask {
        0 => {
            let state =
                ReplicaState::default().with_replica_id(broker.into()).with_replica_epoch(-1);
            let topic =
                FetchTopic::default().with_topic_id(id).with_partitions(vec![fetch(0, 1_000_000)]);
            let request = FetchRequest::default()
                .with_replica_state(state)
                .with_session_epoch(-1)
                .with_topics(vec![topic]);
            Ok(judge.ask_at(17, &request)?.error_code)
        }
        1 => {
            let answer = judge.ask_at(9, &offsets(topic, 0, -1, 0, broker))?;
            Ok(answer.topics[0].partitions[0].error_code)
        }
        _ => {
            let answer = judge.ask_at(4, &epochs(topic, broker))?;
            Ok(answer.topics[0].partitions[0].error_code)
        }
    }
}

/// What is asked about.
pub struct Subject<'a> {
    pub topic: &'a str,
    pub id: Uuid,
    /// A topic that is not there.
    pub unknown: &'a str,
}

type Codes = Vec<(&'static str, i16)>;

impl Subject<'_> {
    /// The codes of all requests; `broker` is asked about itself.
    pub fn codes(&self, judge: &mut Judge, broker: i32) -> Result<Codes> {
        let mut codes = self.codes_of_topic(judge)?;
        self.of_the_broker(judge, broker, &mut codes)?;
        Ok(codes)
    }

    /// The codes of requests that name topics.
    pub fn codes_of_topic(&self, judge: &mut Judge) -> Result<Codes> {
        let mut codes = Vec::new();
        self.reads(judge, &mut codes)?;
        self.writes(judge, &mut codes)?;
        Ok(codes)
    }

    fn reads(&self, judge: &mut Judge, codes: &mut Codes) -> Result<()> {
        for (what, topic) in [("ListOffsets", self.topic), ("ListOffsets, unknown", self.unknown)] {
            codes.push((what, offset_of(judge, topic, 0, -1, 0)?.0));
        }
        let answer = judge.ask(&epochs(self.topic, -2))?;
        codes.push(("OffsetForLeaderEpoch", answer.topics[0].partitions[0].error_code));
        let topic =
            FetchTopic::default().with_partitions(vec![fetch(0, 0)]).with_topic(name(self.topic));
        let request = FetchRequest::default()
            .with_session_epoch(-1)
            .with_replica_id((-1).into())
            .with_topics(vec![topic]);
        let answer = judge.ask_at(FETCH_BY_NAME, &request)?;
        codes.push(("Fetch by name", answer.responses[0].partitions[0].error_code));
        codes.push(("Fetch by id", fetch_by_id(judge, self.id)?.code));
        codes.push(("Fetch by unknown id", fetch_by_id(judge, Uuid::from_u128(99))?.code));
        let topic =
            TopicRequest::default().with_name(name(self.topic)).with_partition_indexes(vec![0]);
        let answer = judge.ask(&DescribeProducersRequest::default().with_topics(vec![topic]))?;
        codes.push(("DescribeProducers", answer.topics[0].partitions[0].error_code));
        Ok(())
    }

    fn writes(&self, judge: &mut Judge, codes: &mut Codes) -> Result<()> {
        let records = plain_batch(&[b"no"], 1_700_000_000_000);
        let partition = PartitionProduceData::default().with_records(Some(records));
        let topic = TopicProduceData::default()
            .with_name(name(self.topic))
            .with_partition_data(vec![partition]);
        let request = ProduceRequest::default()
            .with_acks(-1)
            .with_timeout_ms(1000)
            .with_topic_data(vec![topic]);
        let answer = judge.ask_at(9, &request)?;
        codes.push(("Produce", answer.responses[0].partition_responses[0].error_code));
        let topic = DeleteRecordsTopic::default()
            .with_name(name(self.topic))
            .with_partitions(vec![DeleteRecordsPartition::default().with_offset(1)]);
        let request =
            DeleteRecordsRequest::default().with_timeout_ms(1000).with_topics(vec![topic]);
        codes.push(("DeleteRecords", judge.ask(&request)?.topics[0].partitions[0].error_code));
        let topic = WritableTxnMarkerTopic::default()
            .with_name(name(self.topic))
            .with_partition_indexes(vec![0]);
        let marker = WritableTxnMarker::default().with_topics(vec![topic]);
        let request = WriteTxnMarkersRequest::default().with_markers(vec![marker]);
        let answer = judge.ask_at(1, &request)?;
        let code = answer.markers[0].topics[0].partitions[0].error_code;
        codes.push(("WriteTxnMarkers", code));
        Ok(())
    }

    fn of_the_broker(&self, judge: &mut Judge, broker: i32, codes: &mut Codes) -> Result<()> {
        let id = StrBytes::from_string(broker.to_string());
        let resource = DescribeConfigsResource::default()
            .with_resource_type(BROKER)
            .with_resource_name(id.clone())
            .with_configuration_keys(None);
        let request = DescribeConfigsRequest::default().with_resources(vec![resource]);
        codes.push(("DescribeConfigs", judge.ask(&request)?.results[0].error_code));
        for key in ["log.retention.ms", "leader.replication.throttled.rate"] {
            let config = AlterableConfig::default()
                .with_name(StrBytes::from_static_str(key))
                .with_value(Some(StrBytes::from_static_str("1000000")));
            let resource = AlterConfigsResource::default()
                .with_resource_type(BROKER)
                .with_resource_name(id.clone())
                .with_configs(vec![config]);
            let request = IncrementalAlterConfigsRequest::default()
                .with_validate_only(true)
                .with_resources(vec![resource]);
            codes.push(("IncrementalAlterConfigs", judge.ask(&request)?.responses[0].error_code));
        }
        let answer = judge.ask(&DescribeLogDirsRequest::default().with_topics(None))?;
        codes.push(("DescribeLogDirs", answer.error_code));
        Ok(())
    }
}
