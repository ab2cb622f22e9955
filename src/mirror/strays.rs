//! Strays: replicas of topics that are no mirrors, placed on a seat. A seat has no disks, so each of
//! them is moved to a real broker. The image in, moves out; nothing here asks anybody.
//!
//! Below `metadata.version` 30 (no cordons, KIP-1066) the controller places replicas of anybody's
//! topics on a seat, running or stopped.

use std::collections::{BTreeMap, BTreeSet};

use super::placement::is_usable;
use super::topic_configs::{has_traces_of_lock, is_locked};
use crate::image::{BrokerImage, Image, PartitionImage, TopicImage};
use crate::types::{BrokerId, LeaderEpoch, PartitionKey, TopicId, TopicName};

/// A partition of a topic that is no mirror, with a seat among its replicas, or without one where
/// fewer replicas are left than it had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stray {
    /// The partition.
    pub key: PartitionKey,
    /// Its topic.
    pub topic: TopicName,
    /// Replicas now.
    pub replicas: Vec<BrokerId>,
    /// How many replicas it is to have.
    pub wanted: usize,
    /// How badly it is needed: the order in which strays are moved.
    pub urgency: Urgency,
    /// What is to be done about it.
    pub next: Next,
}

/// What a stray does to its topic; the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// A seat leads it, or nobody: it can be neither read nor written.
    Led,
    /// A seat is in sync without fetching: nothing new is committed until the seat is out.
    InSync,
    /// A seat is out of sync: a replica less than there seems to be.
    Idle,
}

/// What is to be done about a stray.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Ask for these replicas.
    Move(Vec<BrokerId>),
    /// A move that takes the seats away is under way.
    Wait,
    /// Too few real brokers can take a replica now.
    NoBroker,
    /// Only a seat is in sync, and what the real replicas hold nobody can tell: a person must choose.
    Stuck,
}

/// What is known besides the image.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// All seats.
    pub seats: &'a BTreeSet<BrokerId>,
    /// Topics that links took for their mirrors.
    pub mirrors: &'a BTreeSet<TopicId>,
    /// Strays whose move takes too long: only in-sync replicas are asked for, which needs nobody's
    /// data. What is missing then is in `owed`.
    pub late: &'a BTreeSet<PartitionKey>,
    /// How many replicas partitions had before a hasty move.
    pub owed: &'a BTreeMap<PartitionKey, usize>,
}

/// All strays: internal topics first, among them the worst first.
pub fn find(image: &Image, known: Known<'_>) -> Vec<Stray> {
    let mut brokers: Option<Brokers> = None;
    let mut strays = Vec::new();
    let is_ours = |topic: &TopicImage| known.mirrors.contains(&topic.id) || is_mirror(image, topic);
    for topic in image.topics().filter(|topic| !is_ours(topic)) {
        for (&partition, state) in &topic.partitions {
            let key = PartitionKey { topic: topic.id, partition };
            let owed = known.owed.get(&key).is_some_and(|&owed| state.replicas.len() < owed);
            if owed || state.replicas.iter().any(|id| known.seats.contains(id)) {
                let brokers = brokers.get_or_insert_with(|| Brokers::new(image, known.seats));
                strays.push(stray(key, &topic.name, state, known, brokers));
            }
        }
    }
    strays.sort_by_cached_key(|stray| {
        let is_internal = stray.topic.as_str().starts_with("__");
        (!is_internal, stray.urgency, stray.topic.clone(), stray.key.partition)
    });
    strays
}

/// Whether a stray that `seat` leads certainly holds nothing, so that saying so cuts nobody's log:
/// no other replica ever led it, or there is no other.
pub fn is_provably_empty(
    partition: &PartitionImage,
    seat: BrokerId,
    seats: &BTreeSet<BrokerId>,
) -> bool {
    let mut old = partition.replicas.iter().filter(|id| !partition.adding.contains(id));
    partition.leader == Some(seat)
        && (partition.leader_epoch == LeaderEpoch(0) || old.all(|id| seats.contains(id)))
}

/// Whether a topic looks like a mirror: locked, whichever replica stands first for the moment. Also
/// while somebody takes the lock off, since promotion takes the seat away itself.
pub fn is_mirror(image: &Image, topic: &TopicImage) -> bool {
    let configs = image.topic_config(&topic.name);
    is_locked(configs) || has_traces_of_lock(configs)
}

fn stray(
    key: PartitionKey,
    topic: &TopicName,
    state: &PartitionImage,
    known: Known<'_>,
    brokers: &mut Brokers,
) -> Stray {
    let is_seat = |id: &BrokerId| known.seats.contains(id);
    let owed = known.owed.get(&key).copied().unwrap_or(0);
    // As the last reassignment wants it: with its additions, without its removals.
    let planned: Vec<_> =
        state.replicas.iter().copied().filter(|id| !state.removing.contains(id)).collect();
    let wanted = planned.len().max(owed);
    let urgency = if state.leader.is_none_or(|leader| is_seat(&leader)) {
        Urgency::Led
    } else if state.in_sync.iter().any(is_seat) {
        Urgency::InSync
    } else {
        Urgency::Idle
    };
    let next = next(key, state, &planned, wanted, known, brokers);
    Stray { key, topic: topic.clone(), replicas: state.replicas.clone(), wanted, urgency, next }
}

fn next(
    key: PartitionKey,
    state: &PartitionImage,
    planned: &[BrokerId],
    wanted: usize,
    known: Known<'_>,
    brokers: &mut Brokers,
) -> Next {
    let is_real = |id: &&BrokerId| !known.seats.contains(id);
    let in_sync: Vec<_> = state.in_sync.iter().filter(is_real).copied().collect();
    let mut old = state.replicas.iter().filter(|id| !state.adding.contains(id));
    // Nobody in sync at all (KIP-966) heals when an eligible real replica comes back.
    if in_sync.is_empty() && !state.in_sync.is_empty() && old.any(|id| !known.seats.contains(id)) {
        let leads = |seat: &BrokerId| is_provably_empty(state, *seat, known.seats);
        if !state.leader.as_ref().is_some_and(leads) {
            return Next::Stuck;
        }
    }
    let is_late = known.late.contains(&key) && !in_sync.is_empty();
    let has_seat = state.replicas.iter().any(|id| known.seats.contains(id));
    if is_late && has_seat {
        return Next::Move(in_sync);
    }
    let is_moving = !state.adding.is_empty() || !state.removing.is_empty();
    if is_moving && planned.iter().all(|id| !known.seats.contains(id)) {
        return Next::Wait;
    }
    let kept: Vec<_> = planned.iter().filter(is_real).copied().collect();
    let replicas = brokers.complete(kept, wanted);
    if replicas.is_empty() || (!has_seat && replicas.len() <= planned.len()) {
        return Next::NoBroker;
    }
    Next::Move(replicas)
}

/// The real brokers that can take a replica, and how many they hold.
struct Brokers {
    usable: Vec<(BrokerImage, usize)>,
    racks: BTreeMap<BrokerId, Option<String>>,
}

impl Brokers {
    fn new(image: &Image, seats: &BTreeSet<BrokerId>) -> Self {
        let mut held: BTreeMap<BrokerId, usize> = BTreeMap::new();
        let partitions = image.topics().flat_map(|topic| topic.partitions.values());
        for id in partitions.flat_map(|partition| &partition.replicas) {
            *held.entry(*id).or_default() += 1;
        }
        let usable = image.brokers().filter(|b| !seats.contains(&b.id) && is_usable(b));
        let usable = usable.map(|b| (b.clone(), held.get(&b.id).copied().unwrap_or(0))).collect();
        let racks = image.brokers().map(|broker| (broker.id, broker.rack.clone())).collect();
        Self { usable, racks }
    }

    /// Adds brokers until there are as many as wanted, or as there are: those of racks that have none
    /// first, then those that hold least.
    fn complete(&mut self, mut replicas: Vec<BrokerId>, wanted: usize) -> Vec<BrokerId> {
        while replicas.len() < wanted {
            let rack = |id: &BrokerId| self.racks.get(id).cloned().flatten();
            let taken: Vec<_> = replicas.iter().map(rack).collect();
            let others = self.usable.iter_mut().filter(|(b, _)| !replicas.contains(&b.id));
            let best = others.min_by_key(|(broker, held)| {
                let of_rack = taken.iter().filter(|rack| **rack == broker.rack).count();
                (of_rack, *held, broker.id)
            });
            let Some((broker, held)) = best else { break };
            *held += 1;
            replicas.push(broker.id);
        }
        replicas
    }
}
