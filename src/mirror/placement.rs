//! Which real brokers hold a new mirror partition: `[seats..., real brokers...]`. The seats stand first,
//! so that the controller prefers them as leaders; the order of the others says who leads without them.

use std::collections::{BTreeMap, BTreeSet};

use super::seats;
use crate::image::{BrokerImage, Image, TopicImage};
use crate::types::{BrokerId, TopicName};

/// Fewer brokers can take replicas than a partition is to have. It passes when one comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("place {wanted} real replicas: {usable} brokers can take one now")]
pub struct TooFewBrokers {
    /// Real replicas wanted.
    pub wanted: usize,
    /// Real brokers that are alive and take replicas.
    pub usable: usize,
}

/// Real brokers that can take replicas, and what they hold; grows with each placement.
#[derive(Clone, Debug)]
pub struct Placement {
    /// Those that lead new partitions.
    live_seats: BTreeSet<BrokerId>,
    /// All of them.
    seats: BTreeSet<BrokerId>,
    brokers: Vec<Candidate>,
}

#[derive(Clone, Debug)]
struct Candidate {
    id: BrokerId,
    rack: Option<String>,
    load: Load,
}

#[derive(Clone, Copy, Debug, Default)]
struct Load {
    /// Replicas held.
    replicas: usize,
    /// Partitions of which it is the first real replica: it leads them while no seat does.
    firsts: usize,
}

impl Placement {
    /// What the image says of the brokers. A seat that is down now joins later.
    pub fn new(image: &Image, ours: BrokerId) -> Self {
        let seats = image.seats_with(ours);
        let live_seats = image.live_seats().chain([ours]).collect();
        let loads = loads(image.topics().map(AsRef::as_ref), &seats);
        let candidate = |broker: &BrokerImage| Candidate {
            id: broker.id,
            rack: broker.rack.clone(),
            load: loads.get(&broker.id).copied().unwrap_or_default(),
        };
        let brokers = image
            .brokers()
            .filter(|broker| !seats.contains(&broker.id) && is_usable(broker))
            .map(candidate)
            .collect();
        Self { live_seats, seats, brokers }
    }

    /// Replicas for `count` partitions: of a new topic, or more of an `existing` one. The seats take
    /// turns in standing first.
    ///
    /// A topic is spread evenly over all brokers first, since its own partitions are what is busy
    /// together; among equals those brokers come first that hold least. A broker that has just joined
    /// therefore does not get whole topics.
    pub fn place(
        &mut self,
        name: &TopicName,
        count: usize,
        real_replicas: usize,
        existing: Option<&TopicImage>,
    ) -> Result<Vec<Vec<BrokerId>>, TooFewBrokers> {
        if self.brokers.len() < real_replicas || real_replicas == 0 {
            return Err(TooFewBrokers { wanted: real_replicas, usable: self.brokers.len() });
        }
        let mut topic = loads(existing, &self.seats);
        let present = existing.map_or(0, |existing| existing.partitions.len());
        let partitions = (present..present + count).map(|partition| {
            let partition = i32::try_from(partition).unwrap_or(i32::MAX);
            let seats = seats::order(&self.live_seats, name, partition);
            self.place_one(seats, real_replicas, &mut topic)
        });
        Ok(partitions.collect())
    }

    fn place_one(
        &mut self,
        seats: Vec<BrokerId>,
        real_replicas: usize,
        topic: &mut BTreeMap<BrokerId, Load>,
    ) -> Vec<BrokerId> {
        let enough = seats.len() + real_replicas;
        let mut replicas = seats;
        let mut racks: BTreeMap<Option<String>, usize> = BTreeMap::new();
        while replicas.len() < enough {
            let is_first = replicas.len() + real_replicas == enough;
            let best =
                self.brokers.iter_mut().filter(|broker| !replicas.contains(&broker.id)).min_by_key(
                    |broker| {
                        let of_topic = topic.get(&broker.id).copied().unwrap_or_default();
                        let rack = racks.get(&broker.rack).copied().unwrap_or(0);
                        let firsts = |load: Load| if is_first { load.firsts } else { 0 };
                        (
                            rack,
                            firsts(of_topic),
                            of_topic.replicas,
                            firsts(broker.load) + broker.load.replicas,
                            broker.id,
                        )
                    },
                );
            let Some(broker) = best else { break };
            for load in [&mut broker.load, topic.entry(broker.id).or_default()] {
                load.replicas += 1;
                load.firsts += usize::from(is_first);
            }
            *racks.entry(broker.rack.clone()).or_default() += 1;
            replicas.push(broker.id);
        }
        replicas
    }
}

/// Alive, staying, and with a log directory that takes replicas.
pub(super) fn is_usable(broker: &BrokerImage) -> bool {
    let cordoned: BTreeSet<_> = broker.cordoned_log_dirs.iter().collect();
    let has_room =
        broker.log_dirs.is_empty() || broker.log_dirs.iter().any(|dir| !cordoned.contains(dir));
    !broker.is_fenced && !broker.in_controlled_shutdown && has_room
}

fn loads<'a>(
    topics: impl IntoIterator<Item = &'a TopicImage>,
    seats: &BTreeSet<BrokerId>,
) -> BTreeMap<BrokerId, Load> {
    let mut loads: BTreeMap<BrokerId, Load> = BTreeMap::new();
    for partition in topics.into_iter().flat_map(|t| t.partitions.values()) {
        let real = partition.replicas.iter().filter(|id| !seats.contains(id));
        for (position, id) in real.enumerate() {
            let load = loads.entry(*id).or_default();
            load.replicas += 1;
            load.firsts += usize::from(position == 0);
        }
    }
    loads
}
