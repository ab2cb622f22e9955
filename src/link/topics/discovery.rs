//! What topics the source has, again and again. Reads only; what becomes of it is decided elsewhere.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::messages::DescribeConfigsRequest;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult,
};
use kafka_protocol::protocol::StrBytes;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, MissedTickBehavior};

use super::super::pins::ClusterPin;
use super::error::{Answered, TopicError};
use crate::client::{Cluster, TopicMetadata, Topics};
use crate::mirror::filter::TopicFilter;
use crate::mirror::topic_configs::{SourceConfig, SourceConfigs};
use crate::mirror::topic_plan::SourceTopic;
use crate::types::{TopicId, TopicName};

/// Topics in one DescribeConfigs.
const TOPICS_PER_REQUEST: usize = 200;

const TOPIC_RESOURCE: i8 = 2;

/// Config source of a value that is set on the topic itself.
const SET_ON_TOPIC: i8 = 1;

/// What is known of the source.
#[derive(Clone, Debug, Default)]
pub(super) struct Discovered {
    /// Its topics that the filter includes; `None` before it was reached.
    pub(super) topics: Option<Arc<Vec<SourceTopic>>>,
    /// What went wrong last.
    pub(super) trouble: Option<SourceTrouble>,
    /// How often it was looked at.
    pub(super) looks: u64,
}

/// Why the source could not be looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SourceTrouble {
    pub(super) reason: &'static str,
    pub(super) detail: String,
    /// Not the cluster that we mirror: nothing may be done on what it says.
    pub(super) is_other_source: bool,
}

/// Looks at the source in turn.
#[derive(Debug)]
pub(super) struct Discovery {
    pub(super) source: Cluster,
    pub(super) filter: TopicFilter,
    pub(super) interval: Duration,
    pub(super) configs_interval: Duration,
    /// The cluster id that the source has to have.
    pub(super) cluster: ClusterPin,
    pub(super) found: watch::Sender<Discovered>,
    /// Somebody does not want to wait for the next look.
    pub(super) look_now: Arc<Notify>,
}

impl Discovery {
    /// Runs until nobody wants to know any more.
    pub(super) async fn run(mut self) {
        self.cluster.ready().await;
        let mut ticks = tokio::time::interval(self.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut known = BTreeMap::new();
        let mut configs_due = Instant::now();
        while !self.found.is_closed() {
            tokio::select! {
                _ = ticks.tick() => {}
                () = self.look_now.notified() => {}
            }
            let is_due = Instant::now() >= configs_due;
            match self.look(&mut known, is_due).await {
                Ok(()) => {
                    if is_due {
                        configs_due = Instant::now() + self.configs_interval;
                    }
                    let topics = known.values().cloned().collect();
                    self.tell(|found| {
                        let looks = found.looks + 1;
                        *found =
                            Discovered { topics: Some(Arc::new(topics)), trouble: None, looks };
                    });
                }
                Err(error) => {
                    let trouble = SourceTrouble {
                        reason: error.source_reason(),
                        detail: error.to_string(),
                        is_other_source: error.is_other_source(),
                    };
                    self.tell(|found| found.trouble = Some(trouble));
                }
            }
        }
    }

    fn tell(&self, change: impl FnOnce(&mut Discovered)) {
        self.found.send_modify(change);
    }

    /// One look; `known` keeps what was known of topics that the source says nothing of now.
    async fn look(
        &mut self,
        known: &mut BTreeMap<TopicName, SourceTopic>,
        all_configs: bool,
    ) -> Result<(), TopicError> {
        let metadata = self.source.metadata(Topics::All).await?;
        self.check_cluster(metadata.cluster_id).await?;
        let included = metadata.topics.iter().filter(|topic| {
            !topic.is_internal && self.filter.decide(topic.name.as_str()).is_included()
        });
        let mut seen: BTreeMap<_, _> =
            included.map(|topic| (topic.name.clone(), read(topic, known))).collect();
        std::mem::swap(known, &mut seen);
        let wanted: Vec<_> = known
            .values()
            .filter(|topic| all_configs || topic.configs.is_none())
            .map(|topic| topic.name.clone())
            .collect();
        for names in wanted.chunks(TOPICS_PER_REQUEST) {
            self.read_configs(names, known).await?;
        }
        Ok(())
    }

    async fn check_cluster(&mut self, found: Option<String>) -> Result<(), TopicError> {
        let found = found.ok_or(TopicError::NoClusterId)?;
        match self.cluster.expected() {
            Some(expected) if expected != found => Err(TopicError::OtherSource { expected, found }),
            _ => {
                self.cluster.on_found(&found).await;
                Ok(())
            }
        }
    }

    async fn read_configs(
        &self,
        names: &[TopicName],
        known: &mut BTreeMap<TopicName, SourceTopic>,
    ) -> Result<(), TopicError> {
        let resource = |name: &TopicName| {
            DescribeConfigsResource::default()
                .with_resource_type(TOPIC_RESOURCE)
                .with_resource_name(StrBytes::from_string(name.to_string()))
                .with_configuration_keys(None)
        };
        let request = DescribeConfigsRequest::default()
            .with_resources(names.iter().map(resource).collect())
            .with_include_synonyms(false)
            .with_include_documentation(false);
        let response = self.source.any().await?.request(&request).await?;
        for result in response.results {
            let name = TopicName::from(result.resource_name.as_str());
            let Some(topic) = known.get_mut(&name) else { continue };
            match result.error_code {
                0 => topic.configs = Some(configs(&result)),
                // What was known stays in force. A topic of which nothing is known is shown as such.
                code => tracing::debug!(
                    topic = %name, error = %Answered(code), "source does not tell a topic's configs"
                ),
            }
        }
        Ok(())
    }
}

/// A topic as it is told now, with the configs known from before.
fn read(topic: &TopicMetadata, known: &BTreeMap<TopicName, SourceTopic>) -> SourceTopic {
    let before = known.get(&topic.name);
    if topic.error.is_some() || topic.partitions.is_empty() {
        // Nothing is known of it but that it is there.
        let unknown = || SourceTopic {
            name: topic.name.clone(),
            id: TopicId::NONE,
            partitions: 0,
            configs: None,
        };
        return before.cloned().unwrap_or_else(unknown);
    }
    SourceTopic {
        name: topic.name.clone(),
        id: topic.id,
        partitions: topic.partitions.len(),
        // Those of another topic of that name are not this one's.
        configs: before.filter(|before| before.id == topic.id).and_then(|b| b.configs.clone()),
    }
}

fn configs(result: &DescribeConfigsResult) -> SourceConfigs {
    let entry = |config: &DescribeConfigsResourceResult| {
        let value = config.value.as_ref()?.to_string();
        let on_topic = config.config_source == SET_ON_TOPIC;
        Some((config.name.to_string(), SourceConfig { value, on_topic }))
    };
    result.configs.iter().filter_map(entry).collect()
}
