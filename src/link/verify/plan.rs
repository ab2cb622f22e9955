//! What there is to compare: the topics of a link, their partitions, and where each can be read.

use std::collections::{BTreeMap, BTreeSet};

use kafka_protocol::messages::DescribeConfigsRequest;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::protocol::StrBytes;

use super::log::Place;
use super::partition::Pair;
use super::{Mirrored, PartitionReport, Side, Verification, VerifyError};
use crate::client::{ClientError, Cluster, PartitionMetadata, TopicMetadata, Topics};
use crate::mirror::filter::TopicFilter;
use crate::seat::destination::avoid_seats;
use crate::tail::StartAt;
use crate::types::{TopicName, TopicPartition};

/// `ConfigResource.Type.TOPIC`.
const TOPIC_RESOURCE: i8 = 2;
/// Topics in one DescribeConfigs.
const CONFIGS_AT_ONCE: usize = 500;
const CLEANUP_POLICY: &str = "cleanup.policy";

/// One partition of a topic that has a mirror, or should have.
pub(super) enum Found {
    /// Can be compared.
    Pair(Box<Pair>),
    /// Cannot, for the reason in the report.
    Problem(Box<PartitionReport>),
}

impl Verification {
    /// All topics of the source that the link mirrors.
    pub async fn topics(&self) -> Result<Vec<Mirrored>, VerifyError> {
        let topics = &self.link.topics;
        let filter = TopicFilter::new(&topics.include, &topics.exclude)?;
        let metadata = self.source.metadata(Topics::All).await;
        let metadata = metadata.map_err(unreachable(Side::Source))?;
        let names = metadata.topics.into_iter().map(|topic| topic.name);
        let mirrored = names.filter(|name| filter.decide(name.as_str()).is_included());
        let mut mirrored: Vec<_> = mirrored
            .map(|source| {
                let mirror = format!("{}{source}", topics.rename_prefix);
                Mirrored { source, mirror: TopicName::from(mirror.as_str()) }
            })
            .collect();
        mirrored.sort_by(|a, b| a.mirror.cmp(&b.mirror));
        Ok(mirrored)
    }

    pub(super) async fn plan(&self, topics: &[Mirrored]) -> Result<Vec<Found>, VerifyError> {
        let sources: Vec<_> = topics.iter().map(|topic| topic.source.clone()).collect();
        let mirrors: Vec<_> = topics.iter().map(|topic| topic.mirror.clone()).collect();
        let at_source = describe(Side::Source, &self.source, &sources).await?;
        avoid_seats(&self.destination).await.map_err(unreachable(Side::Destination))?;
        let at_destination = describe(Side::Destination, &self.destination, &mirrors).await?;
        let mut compacted = compacted(Side::Source, &self.source, &sources).await?;
        compacted.extend(compacted_of(topics, &self.destination, &mirrors).await?);
        let mut found = Vec::new();
        for topic in topics {
            let Some(source) = at_source.get(&topic.source) else {
                found.push(self.problem(topic, -1, "the source has no such topic"));
                continue;
            };
            let Some(mirror) = at_destination.get(&topic.mirror) else {
                found.push(self.problem(topic, -1, "the destination has no such topic"));
                continue;
            };
            let is_compacted = compacted.contains(&topic.source);
            for partition in &source.partitions {
                found.push(self.partition(topic, partition, mirror, is_compacted));
            }
        }
        Ok(found)
    }

    fn partition(
        &self,
        topic: &Mirrored,
        source: &PartitionMetadata,
        mirror: &TopicMetadata,
        is_compacted: bool,
    ) -> Found {
        let number = source.partition;
        let Some(leader) = source.leader else {
            return self.problem(topic, number, "the source's partition has no leader");
        };
        let Some(copy) = mirror.partitions.iter().find(|copy| copy.partition == number) else {
            return self.problem(topic, number, "the mirror has no such partition");
        };
        let in_sync: BTreeSet<_> = copy.in_sync.iter().copied().collect();
        let is_seat =
            |broker| matches!(self.destination.endpoint(broker), Err(ClientError::OwnSeat(_)));
        let real = in_sync.into_iter().filter(|&broker| broker != self.seat && !is_seat(broker));
        let copies: Vec<_> = real
            .map(|broker| Place {
                side: Side::Destination,
                cluster: self.destination.clone(),
                broker,
                partition: TopicPartition { topic: topic.mirror.clone(), partition: number },
            })
            .collect();
        if copies.is_empty() {
            return self.problem(topic, number, "no replica on a real broker is in sync");
        }
        Found::Pair(Box::new(Pair {
            link: self.link.name.to_string(),
            source: Place {
                side: Side::Source,
                cluster: self.source.clone(),
                broker: leader,
                partition: TopicPartition { topic: topic.source.clone(), partition: number },
            },
            copies,
            is_compacted,
            from_log_start: self.link.topics.start == StartAt::Earliest,
            from: self.from,
        }))
    }

    fn problem(&self, topic: &Mirrored, partition: i32, what: &str) -> Found {
        Found::Problem(Box::new(PartitionReport {
            link: self.link.name.to_string(),
            topic: topic.mirror.to_string(),
            source_topic: topic.source.to_string(),
            partition,
            source_log_start_offset: -1,
            source_high_watermark: -1,
            replicas: Vec::new(),
            problem: Some(what.to_owned()),
        }))
    }
}

/// Topics that exist, by name.
async fn describe(
    side: Side,
    cluster: &Cluster,
    names: &[TopicName],
) -> Result<BTreeMap<TopicName, TopicMetadata>, VerifyError> {
    let metadata = cluster.metadata(Topics::Named(names)).await.map_err(unreachable(side))?;
    let there = metadata.topics.into_iter().filter(|topic| topic.error.is_none());
    Ok(there.map(|topic| (topic.name.clone(), topic)).collect())
}

/// Source names of the topics whose mirrors are compacted.
async fn compacted_of(
    topics: &[Mirrored],
    destination: &Cluster,
    mirrors: &[TopicName],
) -> Result<Vec<TopicName>, VerifyError> {
    let compacted = compacted(Side::Destination, destination, mirrors).await?;
    let of = topics.iter().filter(|topic| compacted.contains(&topic.mirror));
    Ok(of.map(|topic| topic.source.clone()).collect())
}

/// Those of the topics that are compacted. One whose configs we may not see counts as not compacted:
/// the comparison is the stricter one then.
async fn compacted(
    side: Side,
    cluster: &Cluster,
    names: &[TopicName],
) -> Result<BTreeSet<TopicName>, VerifyError> {
    let mut compacted = BTreeSet::new();
    for names in names.chunks(CONFIGS_AT_ONCE) {
        let resources = names.iter().map(|name| {
            DescribeConfigsResource::default()
                .with_resource_type(TOPIC_RESOURCE)
                .with_resource_name(StrBytes::from_string(name.to_string()))
                .with_configuration_keys(Some(vec![StrBytes::from_static_str(CLEANUP_POLICY)]))
        });
        let request = DescribeConfigsRequest::default()
            .with_resources(resources.collect())
            .with_include_synonyms(false)
            .with_include_documentation(false);
        let connection = cluster.any().await.map_err(unreachable(side))?;
        let response = connection.request(&request).await.map_err(unreachable(side))?;
        for topic in response.results {
            let is_compact = |value: &StrBytes| value.split(',').any(|part| part == "compact");
            if topic.configs.iter().any(|config| config.value.as_ref().is_some_and(is_compact)) {
                compacted.insert(TopicName::from(topic.resource_name.as_str()));
            }
        }
    }
    Ok(compacted)
}

fn unreachable(side: Side) -> impl FnOnce(crate::client::ClientError) -> VerifyError {
    move |cause| VerifyError::Unreachable { side, cause }
}
