//! Followers that have marked a partition failed. They never ask for it again in the leader epoch, and
//! are seen only as silent while their broker is there. A new leader epoch makes them look again; it is
//! asked for seldom, for what made them fail may still be there.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use crate::image::{BrokerImage, Image, PartitionImage};
use crate::types::{BrokerEpoch, BrokerId, PartitionKey, TopicName};

/// Before the second attempt; each further one waits twice as long.
const FIRST_REST: Duration = Duration::from_secs(120);
const LONGEST_REST: Duration = Duration::from_secs(3600);
/// Attempts for one broker within [`FIRST_REST`]: one with a broken disk has many.
const ATTEMPTS_PER_BROKER: usize = 100;

const THROTTLED_REPLICAS: &str = "follower.replication.throttled.replicas";
const THROTTLED_RATE: &str = "follower.replication.throttled.rate";

/// What was tried, and since when brokers are there.
#[derive(Debug, Default)]
pub struct Revivals {
    attempts: HashMap<(PartitionKey, BrokerId), Attempt>,
    present: BTreeMap<BrokerId, (BrokerEpoch, Duration)>,
}

#[derive(Clone, Copy, Debug)]
struct Attempt {
    at: Duration,
    rest: Duration,
}

impl Revivals {
    /// Notes which brokers are there now.
    pub fn on_brokers(&mut self, now: Duration, image: &Image) {
        let online = |b: &&BrokerImage| !b.is_fenced && !b.in_controlled_shutdown;
        let epochs: BTreeMap<_, _> =
            image.brokers().filter(online).map(|broker| (broker.id, broker.epoch)).collect();
        self.present.retain(|id, (epoch, _)| epochs.get(id) == Some(epoch));
        for (id, epoch) in epochs {
            self.present.entry(id).or_insert((epoch, now));
        }
    }

    /// Whether a replica that was silent for so long should be revived now; that counts as an attempt.
    pub fn is_due(
        &mut self,
        now: Duration,
        (key, broker): (PartitionKey, BrokerId),
        silent_for: Duration,
        patience: Duration,
    ) -> bool {
        let Some((_, since)) = self.present.get(&broker) else { return false };
        if silent_for.min(now.saturating_sub(*since)) < patience {
            return false;
        }
        let recent = |(of, attempt): (&(PartitionKey, BrokerId), &Attempt)| {
            of.1 == broker && now.saturating_sub(attempt.at) < FIRST_REST
        };
        let before = self.attempts.get(&(key, broker)).copied();
        let is_resting =
            before.is_some_and(|before| now.saturating_sub(before.at) < before.rest.max(patience));
        if is_resting
            || self.attempts.iter().filter(|of| recent(*of)).count() >= ATTEMPTS_PER_BROKER
        {
            return false;
        }
        let rest = before.map_or(FIRST_REST, |before| (before.rest * 2).min(LONGEST_REST));
        self.attempts.insert((key, broker), Attempt { at: now, rest });
        true
    }

    /// Forgets attempts that were followed by a long time without another.
    pub fn forget_old(&mut self, now: Duration) {
        self.attempts.retain(|_, attempt| now.saturating_sub(attempt.at) < attempt.rest * 4);
    }
}

/// Whether something else explains that a replica does not ask: a replication throttle makes followers
/// leave out what is out of sync, and an offline directory cannot be written to.
pub fn is_explained(
    image: &Image,
    topic: &TopicName,
    key: PartitionKey,
    partition: &PartitionImage,
    broker: BrokerId,
) -> bool {
    is_throttled(image, topic, key.partition, broker)
        || !has_directory(image, partition, broker)
        || partition.removing.contains(&broker)
}

fn is_throttled(image: &Image, topic: &TopicName, partition: i32, broker: BrokerId) -> bool {
    let replicas = image.topic_config(topic).and_then(|configs| configs.get(THROTTLED_REPLICAS));
    let Some(replicas) = replicas else { return false };
    let names = replicas.split(',').map(str::trim);
    let one = format!("{partition}:{broker}");
    let is_named = names.into_iter().any(|name| name == "*" || name == one);
    let has_rate = [Some(broker), None]
        .into_iter()
        .filter_map(|of| image.broker_config(of))
        .any(|configs| configs.contains_key(THROTTLED_RATE));
    is_named && has_rate
}

/// Unassigned directories (nil, and Kafka's other reserved ids) say nothing.
fn has_directory(image: &Image, partition: &PartitionImage, broker: BrokerId) -> bool {
    const RESERVED: u128 = 100;
    let at = partition.replicas.iter().position(|id| *id == broker);
    let directory = at.and_then(|at| partition.directories.get(at));
    directory.is_none_or(|directory| {
        directory.as_u128() < RESERVED
            || image.broker(broker).is_some_and(|known| known.log_dirs.contains(directory))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{TopicId, Uuid};

    const PATIENCE: Duration = Duration::from_secs(30);
    const ONE: BrokerId = BrokerId(1);

    fn key(partition: i32) -> PartitionKey {
        PartitionKey { topic: TopicId(Uuid::from_u128(1)), partition }
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn with_broker_since(since: u64) -> Revivals {
        let mut revivals = Revivals::default();
        revivals.present.insert(ONE, (BrokerEpoch(1), seconds(since)));
        revivals
    }

    #[test]
    fn a_replica_is_failed_only_after_its_broker_was_there_in_silence() {
        let mut revivals = with_broker_since(100);
        assert!(!revivals.is_due(seconds(120), (key(0), ONE), seconds(500), PATIENCE));
        assert!(!revivals.is_due(seconds(200), (key(0), ONE), seconds(29), PATIENCE));
        assert!(!revivals.is_due(seconds(200), (key(0), BrokerId(2)), seconds(99), PATIENCE));
        assert!(revivals.is_due(seconds(200), (key(0), ONE), seconds(99), PATIENCE));
    }

    #[test]
    fn attempts_become_rarer() {
        let mut revivals = with_broker_since(0);
        let mut attempts = Vec::new();
        for now in 100..10_000 {
            revivals.forget_old(seconds(now));
            if revivals.is_due(seconds(now), (key(0), ONE), seconds(now), PATIENCE) {
                attempts.push(now);
            }
        }
        assert_eq!(attempts, [100, 220, 460, 940, 1900, 3820, 7420]);
    }

    #[test]
    fn a_broker_with_many_failed_partitions_is_not_stormed() {
        let mut revivals = with_broker_since(0);
        let due = |at: u64, revivals: &mut Revivals| {
            let all = 0..1_000;
            all.filter(|&p| revivals.is_due(seconds(at), (key(p), ONE), seconds(at), PATIENCE))
                .count()
        };
        assert_eq!(due(100, &mut revivals), ATTEMPTS_PER_BROKER);
        assert_eq!(due(101, &mut revivals), 0);
        assert_eq!(due(221, &mut revivals), ATTEMPTS_PER_BROKER);
    }
}
