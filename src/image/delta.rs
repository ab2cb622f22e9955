//! What differs between two images.

use std::collections::BTreeSet;

use super::Image;
use crate::types::{BrokerId, TopicId};

/// What differs between two images.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delta {
    /// Topics that are new or of which a partition changed.
    pub topics: BTreeSet<TopicId>,
    /// Topics that are gone.
    pub removed_topics: BTreeSet<TopicId>,
    /// Brokers that are new, changed or gone.
    pub brokers: BTreeSet<BrokerId>,
    /// Some controller registered or changed its listeners.
    pub controllers: bool,
    /// Some setting of a topic, a broker or all brokers changed.
    pub configs: bool,
    /// Some finalized feature level changed.
    pub features: bool,
    /// The next producer id changed.
    pub producer_ids: bool,
}

impl Delta {
    /// What became different from `old` to `new`.
    ///
    /// Costs little where the two share sections: equal `Arc`s are not looked into.
    pub fn between(old: &Image, new: &Image) -> Self {
        let (topics, removed_topics) = changed_topics(old, new);
        Self {
            topics,
            removed_topics,
            brokers: changed_brokers(old, new),
            controllers: old.controllers != new.controllers,
            configs: old.topic_configs != new.topic_configs
                || old.broker_configs != new.broker_configs,
            features: old.features != new.features,
            producer_ids: old.next_producer_id != new.next_producer_id,
        }
    }

    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

fn changed_topics(old: &Image, new: &Image) -> (BTreeSet<TopicId>, BTreeSet<TopicId>) {
    if std::sync::Arc::ptr_eq(&old.topics, &new.topics) {
        return Default::default();
    }
    let changed = new
        .topics
        .iter()
        .filter(|&(id, topic)| old.topics.get(id) != Some(topic))
        .map(|(&id, _)| id)
        .collect();
    let removed = old.topics.keys().filter(|id| !new.topics.contains_key(id)).copied().collect();
    (changed, removed)
}

fn changed_brokers(old: &Image, new: &Image) -> BTreeSet<BrokerId> {
    if std::sync::Arc::ptr_eq(&old.brokers, &new.brokers) {
        return BTreeSet::new();
    }
    old.brokers
        .keys()
        .chain(new.brokers.keys())
        .filter(|id| old.brokers.get(id) != new.brokers.get(id))
        .copied()
        .collect()
}
