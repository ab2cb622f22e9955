//! What a cluster says of itself: brokers, topics, partitions. Conversions from and to the
//! Metadata request; asks nobody.

use std::collections::BTreeMap;

use kafka_protocol::error::{ParseResponseErrorCode, ResponseError};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::{self, MetadataRequest, MetadataResponse};
use kafka_protocol::protocol::StrBytes;

use super::Endpoint;
use crate::types::{BrokerId, LeaderEpoch, TopicId, TopicName, Uuid};

/// Which topics to ask for.
#[derive(Clone, Copy, Debug)]
pub enum Topics<'a> {
    /// Every topic that we may see.
    All,
    /// Brokers only.
    None,
    /// These; one that does not exist is answered with an error.
    Named(&'a [TopicName]),
}

/// A cluster as one of its brokers sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterMetadata {
    /// The cluster's identity; brokers before 0.10.1 have none.
    pub cluster_id: Option<String>,
    /// The brokers that are alive.
    pub brokers: BTreeMap<BrokerId, BrokerAddress>,
    /// The topics asked for, in the order of the answer.
    pub topics: Vec<TopicMetadata>,
}

/// Where a broker is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerAddress {
    /// As advertised on the listener that was asked.
    pub endpoint: Endpoint,
    /// Its rack, where it has one.
    pub rack: Option<String>,
}

/// A topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicMetadata {
    /// Its name.
    pub name: TopicName,
    /// Its id; [`TopicId::NONE`] from brokers before 2.8.
    pub id: TopicId,
    /// Whether it is one of Kafka's own.
    pub is_internal: bool,
    /// Why there is nothing to say of it.
    pub error: Option<ResponseError>,
    /// Its partitions by number.
    pub partitions: Vec<PartitionMetadata>,
}

/// A partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionMetadata {
    /// Its number.
    pub partition: i32,
    /// Who leads it; nobody during an election, or while all replicas are down.
    pub leader: Option<BrokerId>,
    /// Epoch of that leader; [`LeaderEpoch::UNKNOWN`] from brokers before 2.1.
    pub leader_epoch: LeaderEpoch,
    /// All replicas, the preferred leader first.
    pub replicas: Vec<BrokerId>,
    /// The replicas in sync.
    pub in_sync: Vec<BrokerId>,
    /// Trouble with it; the other fields may be right nevertheless.
    pub error: Option<ResponseError>,
}

impl Topics<'_> {
    /// The request, for v4 and later: asking must never create a topic.
    pub(super) fn request(self) -> MetadataRequest {
        let topics = match self {
            Self::All => None,
            Self::None => Some(Vec::new()),
            Self::Named(names) => Some(names.iter().map(request_topic).collect()),
        };
        MetadataRequest::default()
            .with_topics(topics)
            .with_allow_auto_topic_creation(false)
            .with_include_cluster_authorized_operations(false)
            .with_include_topic_authorized_operations(false)
    }
}

fn request_topic(name: &TopicName) -> MetadataRequestTopic {
    let name = StrBytes::from_string(name.as_str().to_owned());
    MetadataRequestTopic::default()
        .with_topic_id(Uuid::nil())
        .with_name(Some(messages::TopicName(name)))
}

impl ClusterMetadata {
    /// Reads an answer; `Err` says what in it cannot be.
    pub(super) fn read(response: MetadataResponse) -> Result<Self, String> {
        let brokers = response.brokers.iter().map(read_broker).collect::<Result<_, _>>()?;
        Ok(Self {
            cluster_id: response.cluster_id.map(|id| id.to_string()),
            brokers,
            // Only topics asked for by id can have no name, and we ask by name.
            topics: response.topics.iter().filter_map(read_topic).collect(),
        })
    }
}

fn read_broker(broker: &MetadataResponseBroker) -> Result<(BrokerId, BrokerAddress), String> {
    let id = BrokerId(broker.node_id.0);
    let port =
        u16::try_from(broker.port).map_err(|_| format!("broker {id} has port {}", broker.port))?;
    let address = BrokerAddress {
        endpoint: Endpoint::new(broker.host.as_str(), port),
        rack: broker.rack.as_ref().map(ToString::to_string),
    };
    Ok((id, address))
}

fn read_topic(topic: &MetadataResponseTopic) -> Option<TopicMetadata> {
    let mut partitions: Vec<_> = topic.partitions.iter().map(read_partition).collect();
    partitions.sort_by_key(|partition| partition.partition);
    Some(TopicMetadata {
        name: TopicName::from(topic.name.as_ref()?.as_str()),
        id: TopicId(topic.topic_id),
        is_internal: topic.is_internal,
        error: topic.error_code.err(),
        partitions,
    })
}

fn read_partition(partition: &MetadataResponsePartition) -> PartitionMetadata {
    let leader = partition.leader_id.0;
    PartitionMetadata {
        partition: partition.partition_index,
        leader: (leader >= 0).then_some(BrokerId(leader)),
        leader_epoch: LeaderEpoch(partition.leader_epoch),
        replicas: broker_ids(&partition.replica_nodes),
        in_sync: broker_ids(&partition.isr_nodes),
        error: partition.error_code.err(),
    }
}

fn broker_ids(ids: &[messages::BrokerId]) -> Vec<BrokerId> {
    ids.iter().map(|id| BrokerId(id.0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_in_our_words() {
        let broker = MetadataResponseBroker::default()
            .with_node_id(messages::BrokerId(1))
            .with_host(StrBytes::from_static_str("b1"))
            .with_port(9092)
            .with_rack(Some(StrBytes::from_static_str("az1")));
        let partition = |number, leader: i32| {
            MetadataResponsePartition::default()
                .with_partition_index(number)
                .with_leader_id(messages::BrokerId(leader))
                .with_leader_epoch(7)
                .with_replica_nodes(vec![1.into(), 2.into()])
                .with_isr_nodes(vec![2.into()])
        };
        let topic = MetadataResponseTopic::default()
            .with_name(Some(messages::TopicName(StrBytes::from_static_str("t"))))
            .with_topic_id(Uuid::from_u128(3))
            .with_partitions(vec![partition(1, -1).with_error_code(5), partition(0, 2)]);
        let response =
            MetadataResponse::default().with_brokers(vec![broker]).with_topics(vec![topic]);
        let metadata = ClusterMetadata::read(response).unwrap();
        assert_eq!(metadata.cluster_id, None);
        let address = &metadata.brokers[&BrokerId(1)];
        assert_eq!(address.endpoint, Endpoint::new("b1", 9092));
        assert_eq!(address.rack.as_deref(), Some("az1"));
        let topic = &metadata.topics[0];
        assert_eq!((topic.name.as_str(), topic.id.0.as_u128()), ("t", 3));
        let leaders: Vec<_> = topic.partitions.iter().map(|p| (p.partition, p.leader)).collect();
        assert_eq!(leaders, [(0, Some(BrokerId(2))), (1, None)]);
        let error = topic.partitions[1].error;
        assert_eq!(error, Some(ResponseError::LeaderNotAvailable));
        assert_eq!(topic.partitions[0].in_sync, [BrokerId(2)]);
    }

    #[test]
    fn a_port_that_cannot_be_is_refused() {
        let broker = MetadataResponseBroker::default().with_port(70_000);
        let response = MetadataResponse::default().with_brokers(vec![broker]);
        let reason = ClusterMetadata::read(response).unwrap_err();
        assert_eq!(reason, "broker 0 has port 70000");
    }
}
