//! The destination cluster as its KRaft metadata log tells it: records -> image -> delta.
//!
//! Pure: whoever reads the log gives [`Replay`] one record value after the other, up to the high
//! watermark, and publishes what it takes out. This module neither reads the log nor walks batches.

mod apply;
mod delta;
mod error;
mod layouts;
mod reader;
mod records;
mod replay;
mod seats;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

pub use self::delta::Delta;
pub use self::error::{ImageError, Malformed, Misfit, Retry};
pub use self::replay::Replay;
pub use self::seats::seat_directory;
use crate::types::{BrokerEpoch, BrokerId, LeaderEpoch, PartitionKey, TopicId, TopicName, Uuid};

/// Name of the feature whose level decides which protocol versions the cluster's brokers use.
const METADATA_VERSION: &str = "metadata.version";

type Listeners = BTreeMap<String, Listener>;
type ConfigEntries = BTreeMap<String, String>;

/// The cluster at one moment.
///
/// Cheap to clone: every section is shared with the image it was cloned from until one of them
/// changes, and topics are shared one by one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    /// Whose metadata it is; `None` where nobody said.
    cluster_id: Option<Arc<str>>,
    topics: Arc<HashMap<TopicId, Arc<TopicImage>>>,
    /// Always names a topic of `topics`.
    topic_ids: Arc<HashMap<TopicName, TopicId>>,
    brokers: Arc<BTreeMap<BrokerId, BrokerImage>>,
    controllers: Arc<BTreeMap<BrokerId, Listeners>>,
    topic_configs: Arc<HashMap<TopicName, Arc<ConfigEntries>>>,
    broker_configs: Arc<BTreeMap<Option<BrokerId>, ConfigEntries>>,
    features: Arc<BTreeMap<String, i16>>,
    next_producer_id: Option<i64>,
}

impl Image {
    /// A cluster of which nothing is known but its id.
    pub fn of_cluster(cluster_id: &str) -> Self {
        Self { cluster_id: Some(Arc::from(cluster_id)), ..Self::default() }
    }

    /// The registration of a broker, fenced or not.
    pub fn broker(&self, id: BrokerId) -> Option<&BrokerImage> {
        self.brokers.get(&id)
    }

    /// All registered brokers by id, fenced ones too.
    pub fn brokers(&self) -> impl Iterator<Item = &BrokerImage> {
        self.brokers.values()
    }

    /// Listeners of the controllers that have registered (KIP-919: `metadata.version` 15 and above).
    pub fn controllers(&self) -> &BTreeMap<BrokerId, BTreeMap<String, Listener>> {
        &self.controllers
    }

    /// The topic with this id.
    pub fn topic(&self, id: TopicId) -> Option<&Arc<TopicImage>> {
        self.topics.get(&id)
    }

    /// The topic that has this name now.
    pub fn topic_named(&self, name: &TopicName) -> Option<&Arc<TopicImage>> {
        self.topic(*self.topic_ids.get(name)?)
    }

    /// All topics, in no order.
    pub fn topics(&self) -> impl Iterator<Item = &Arc<TopicImage>> {
        self.topics.values()
    }

    /// One partition.
    pub fn partition(&self, key: PartitionKey) -> Option<&PartitionImage> {
        self.topic(key.topic)?.partitions.get(&key.partition)
    }

    /// The settings of a topic that differ from the cluster's; `None` where none does. A snapshot
    /// may also hold those of a topic that is gone: 4.3.1 forgets to drop them.
    pub fn topic_config(&self, name: &TopicName) -> Option<&BTreeMap<String, String>> {
        self.topic_configs.get(name).map(Arc::as_ref)
    }

    /// Dynamic settings of one broker, or with `None` those that hold for every broker.
    pub fn broker_config(&self, id: Option<BrokerId>) -> Option<&BTreeMap<String, String>> {
        self.broker_configs.get(&id)
    }

    /// Finalized level of a feature; `None` where it is not finalized, or at level 0.
    pub fn feature(&self, name: &str) -> Option<i16> {
        self.features.get(name).copied()
    }

    /// All finalized features and their levels.
    pub fn features(&self) -> &BTreeMap<String, i16> {
        &self.features
    }

    /// The finalized `metadata.version`.
    pub fn metadata_version(&self) -> Option<i16> {
        self.feature(METADATA_VERSION)
    }

    /// First producer id of the next block that the controller will hand out.
    pub fn next_producer_id(&self) -> Option<i64> {
        self.next_producer_id
    }
}

/// One registration of a broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerImage {
    /// The broker.
    pub id: BrokerId,
    /// The registration's epoch: the offset of its record.
    pub epoch: BrokerEpoch,
    /// Which run of the broker registered.
    pub incarnation: Uuid,
    /// Advertised listeners by name.
    pub listeners: BTreeMap<String, Listener>,
    /// Its rack.
    pub rack: Option<String>,
    /// A fenced broker leads nothing and is in no in-sync set.
    pub is_fenced: bool,
    /// Left only by a new registration.
    pub in_controlled_shutdown: bool,
    /// Its log directories that are available.
    pub log_dirs: Vec<Uuid>,
    /// Those of them that take no new replicas (KIP-1066).
    pub cordoned_log_dirs: Vec<Uuid>,
}

/// Where a broker or controller can be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// 0 PLAINTEXT, 1 SSL, 2 SASL_PLAINTEXT, 3 SASL_SSL.
    pub security_protocol: i16,
}

/// One topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicImage {
    /// Its id.
    pub id: TopicId,
    /// Its name.
    pub name: TopicName,
    /// Its partitions by number.
    pub partitions: BTreeMap<i32, PartitionImage>,
}

/// One partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionImage {
    /// Brokers that hold it, the preferred leader first.
    pub replicas: Vec<BrokerId>,
    /// Those of them that are in sync.
    pub in_sync: Vec<BrokerId>,
    /// Replicas that the reassignment under way takes away.
    pub removing: Vec<BrokerId>,
    /// Replicas that the reassignment under way brings.
    pub adding: Vec<BrokerId>,
    /// `None` while nobody leads.
    pub leader: Option<BrokerId>,
    /// Grows with each election.
    pub leader_epoch: LeaderEpoch,
    /// Grows with each change of the partition.
    pub partition_epoch: i32,
    /// The leader was elected uncleanly and has not yet recovered (KIP-704).
    pub is_recovering: bool,
    /// Log directory of each replica in the order of `replicas` and of the same length; all nil
    /// where directories are not assigned (KIP-858).
    pub directories: Vec<Uuid>,
    /// Out of sync, and yet known to hold everything below the high watermark (ELR, KIP-966).
    pub eligible_leaders: Vec<BrokerId>,
    /// The members that left the ELR last.
    pub last_known_eligible_leaders: Vec<BrokerId>,
}
