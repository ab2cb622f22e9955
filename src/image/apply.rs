//! What one record does to the image: the rules of Kafka's `ClusterDelta`, `TopicsDelta` and
//! `PartitionRegistration`.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::records::{BrokerChange, ConfigOwner, PartitionChange, Record};
use super::{ConfigEntries, Image, Misfit, PartitionImage, TopicImage};
use crate::types::{BrokerId, LeaderEpoch, PartitionKey, TopicId, TopicName, Uuid};

impl Image {
    /// Applies a record, or leaves the image as it was. Transactions are the replay's business.
    pub(super) fn apply(&mut self, record: Record) -> Result<(), Misfit> {
        match record {
            Record::RegisterBroker(broker) => {
                Arc::make_mut(&mut self.brokers).insert(broker.id, broker);
            }
            Record::UnregisterBroker(id) => {
                Arc::make_mut(&mut self.brokers).remove(&id);
            }
            Record::ChangeBroker(change) => self.change_broker(change)?,
            Record::RegisterController { id, listeners } => {
                Arc::make_mut(&mut self.controllers).insert(id, listeners);
            }
            Record::Topic { id, name } => self.create_topic(id, name),
            Record::RemoveTopic(id) => self.remove_topic(id)?,
            Record::Partition(key, partition) => self.insert_partition(key, partition)?,
            Record::ChangePartition(key, change) => self.change_partition(key, change)?,
            Record::ClearElr(name) => self.clear_eligible_leaders(name)?,
            Record::Config { of, key, value } => self.set_config(of, key, value),
            Record::FeatureLevel { name, level: 0 } => {
                Arc::make_mut(&mut self.features).remove(&name);
            }
            Record::FeatureLevel { name, level } => {
                Arc::make_mut(&mut self.features).insert(name, level);
            }
            Record::NextProducerId(next) => self.next_producer_id = Some(next),
            Record::BeginTransaction
            | Record::EndTransaction
            | Record::AbortTransaction
            | Record::Unused
            | Record::Unknown(_) => {}
        }
        Ok(())
    }

    fn change_broker(&mut self, change: BrokerChange) -> Result<(), Misfit> {
        let id = change.id;
        let current = self.broker(id).ok_or(Misfit::Broker(id))?.epoch;
        if current != change.epoch {
            return Err(Misfit::BrokerEpoch { id, current, found: change.epoch });
        }
        let broker = Arc::make_mut(&mut self.brokers).get_mut(&id).ok_or(Misfit::Broker(id))?;
        set(&mut broker.is_fenced, change.is_fenced);
        broker.in_controlled_shutdown |= change.enters_controlled_shutdown;
        if !change.log_dirs.is_empty() {
            broker.log_dirs = change.log_dirs;
        }
        set(&mut broker.cordoned_log_dirs, change.cordoned_log_dirs);
        Ok(())
    }

    fn create_topic(&mut self, id: TopicId, name: TopicName) {
        let topic = TopicImage { id, name: name.clone(), partitions: BTreeMap::new() };
        Arc::make_mut(&mut self.topics).insert(id, Arc::new(topic));
        Arc::make_mut(&mut self.topic_ids).insert(name, id);
    }

    fn remove_topic(&mut self, id: TopicId) -> Result<(), Misfit> {
        let topic = Arc::make_mut(&mut self.topics).remove(&id).ok_or(Misfit::Topic(id))?;
        if self.topic_ids.get(&topic.name) == Some(&id) {
            Arc::make_mut(&mut self.topic_ids).remove(&topic.name);
        }
        // The log removes a topic's settings with the topic, without records of their own.
        if self.topic_configs.contains_key(&topic.name) {
            Arc::make_mut(&mut self.topic_configs).remove(&topic.name);
        }
        Ok(())
    }

    fn insert_partition(
        &mut self,
        key: PartitionKey,
        mut partition: PartitionImage,
    ) -> Result<(), Misfit> {
        let replicas = partition.replicas.len();
        partition.directories = fit_directories(key, replicas, partition.directories)?;
        self.topic_mut(key.topic)?.partitions.insert(key.partition, partition);
        Ok(())
    }

    fn change_partition(
        &mut self,
        key: PartitionKey,
        change: PartitionChange,
    ) -> Result<(), Misfit> {
        let known = self.partition(key).ok_or(Misfit::Partition(key))?;
        let changed = known.clone().merge(key, change)?;
        self.topic_mut(key.topic)?.partitions.insert(key.partition, changed);
        Ok(())
    }

    /// Copies the topic where an image that was handed out still shares it.
    fn topic_mut(&mut self, id: TopicId) -> Result<&mut TopicImage, Misfit> {
        if !self.topics.contains_key(&id) {
            return Err(Misfit::Topic(id));
        }
        Arc::make_mut(&mut self.topics).get_mut(&id).map(Arc::make_mut).ok_or(Misfit::Topic(id))
    }

    fn clear_eligible_leaders(&mut self, name: Option<TopicName>) -> Result<(), Misfit> {
        let topics: Vec<TopicId> = match name {
            Some(name) => match self.topic_named(&name) {
                Some(topic) => vec![topic.id],
                None => return Err(Misfit::TopicNamed(name)),
            },
            None => self.topics.keys().copied().collect(),
        };
        for id in topics {
            let Some(topic) = self.topic(id) else {
                continue;
            };
            let with_members: Vec<i32> = topic
                .partitions
                .iter()
                .filter(|(_, partition)| partition.has_eligible_leaders())
                .map(|(&number, _)| number)
                .collect();
            for partition in with_members {
                let change = PartitionChange {
                    eligible_leaders: Some(Vec::new()),
                    last_known_eligible_leaders: Some(Vec::new()),
                    ..PartitionChange::default()
                };
                let topic = id;
                self.change_partition(PartitionKey { topic, partition }, change)?;
            }
        }
        Ok(())
    }

    fn set_config(&mut self, of: ConfigOwner, key: String, value: Option<String>) {
        match of {
            ConfigOwner::Topic(name) => self.set_topic_config(name, key, value),
            ConfigOwner::Broker(id) => self.set_broker_config(Some(id), key, value),
            ConfigOwner::AllBrokers => self.set_broker_config(None, key, value),
        }
    }

    fn set_topic_config(&mut self, name: TopicName, key: String, value: Option<String>) {
        let configs = Arc::make_mut(&mut self.topic_configs);
        let entries = Arc::make_mut(configs.entry(name.clone()).or_default());
        set_entry(entries, key, value);
        if entries.is_empty() {
            configs.remove(&name);
        }
    }

    fn set_broker_config(&mut self, id: Option<BrokerId>, key: String, value: Option<String>) {
        let configs = Arc::make_mut(&mut self.broker_configs);
        let entries = configs.entry(id).or_default();
        set_entry(entries, key, value);
        if entries.is_empty() {
            configs.remove(&id);
        }
    }
}

impl PartitionImage {
    /// The partition after a change, as Kafka's `PartitionRegistration.merge` has it: a leader in
    /// the record raises the leader epoch, even where it is the same leader; every record raises
    /// the partition epoch.
    fn merge(mut self, key: PartitionKey, change: PartitionChange) -> Result<Self, Misfit> {
        set(&mut self.replicas, change.replicas);
        set(&mut self.in_sync, change.in_sync);
        set(&mut self.removing, change.removing);
        set(&mut self.adding, change.adding);
        if let Some(leader) = change.leader {
            self.leader = leader;
            self.leader_epoch = LeaderEpoch(self.leader_epoch.0.saturating_add(1));
        }
        set(&mut self.is_recovering, change.is_recovering);
        set(&mut self.directories, change.directories);
        self.directories = fit_directories(key, self.replicas.len(), self.directories)?;
        set(&mut self.eligible_leaders, change.eligible_leaders);
        set(&mut self.last_known_eligible_leaders, change.last_known_eligible_leaders);
        self.partition_epoch = self.partition_epoch.saturating_add(1);
        Ok(self)
    }

    fn has_eligible_leaders(&self) -> bool {
        !self.eligible_leaders.is_empty() || !self.last_known_eligible_leaders.is_empty()
    }
}

/// One directory for each replica: all nil where the cluster does not assign directories yet.
fn fit_directories(
    key: PartitionKey,
    replicas: usize,
    directories: Vec<Uuid>,
) -> Result<Vec<Uuid>, Misfit> {
    if directories.iter().all(Uuid::is_nil) {
        return Ok(vec![Uuid::nil(); replicas]);
    }
    if directories.len() != replicas {
        return Err(Misfit::Directories { key, replicas, directories: directories.len() });
    }
    Ok(directories)
}

fn set<T>(field: &mut T, change: Option<T>) {
    if let Some(value) = change {
        *field = value;
    }
}

fn set_entry(entries: &mut ConfigEntries, key: String, value: Option<String>) {
    match value {
        Some(value) => {
            entries.insert(key, value);
        }
        None => {
            entries.remove(&key);
        }
    }
}
