//! Which partitions we lead: follows the image, takes leadership up, goes on with it, gives it up.

use std::collections::HashSet;

use super::led::Led;
use super::task::LeaderTask;
use crate::image::{Delta, Image, PartitionImage};
use crate::mirror::lineage::{EpochHistory, KnownLineage};
use crate::mirror::partition::Assignment;
use crate::tail::Order;
use crate::types::{BrokerEpoch, BrokerId, LeaderEpoch, PartitionKey, TopicId};

/// What has to be known to tell a new partition from one that somebody may have led before: the
/// partitions that were there when the image first showed our present registration.
#[derive(Debug, Default)]
pub struct Birth {
    older: Option<(BrokerEpoch, HashSet<PartitionKey>)>,
}

impl Birth {
    /// Whether the image shows our present registration; before that we lead nothing.
    fn is_current(&mut self, image: &Image, seat: BrokerId, epoch: Option<BrokerEpoch>) -> bool {
        let Some(epoch) = epoch else { return false };
        if image.broker(seat).is_none_or(|broker| broker.epoch != epoch) {
            return false;
        }
        if self.older.as_ref().is_none_or(|(of, _)| *of != epoch) {
            self.older = Some((epoch, all_partitions(image)));
        }
        true
    }

    /// Whether nobody can have led the partition before us.
    fn is_new(&self, key: PartitionKey, partition: &PartitionImage) -> bool {
        partition.leader_epoch == LeaderEpoch(0)
            && self.older.as_ref().is_some_and(|(_, older)| !older.contains(&key))
    }
}

fn all_partitions(image: &Image) -> HashSet<PartitionKey> {
    let topics = image.topics();
    topics
        .flat_map(|topic| {
            let id = topic.id;
            topic.partitions.keys().map(move |&partition| PartitionKey { topic: id, partition })
        })
        .collect()
}

impl LeaderTask {
    /// The destination changed.
    pub(super) fn on_delta(&mut self, delta: &Delta) {
        let registration = *self.registration.borrow();
        let is_current = self.birth.is_current(&self.image, self.config.seat, registration);
        let becomes_current = is_current && !self.was_current;
        self.was_current = is_current;
        if becomes_current {
            self.evaluate_all();
            self.evaluate_strays();
        }
        for &topic in delta.topics.iter().chain(&delta.removed_topics) {
            self.evaluate(topic);
        }
    }

    fn evaluate_all(&mut self) {
        let topics: Vec<TopicId> = self.mirrors.keys().copied().collect();
        for topic in topics {
            self.evaluate(topic);
        }
    }

    /// Brings our part in one topic's partitions in line with the image.
    pub(super) fn evaluate(&mut self, topic: TopicId) {
        let image = self.image.clone();
        let Some(present) = image.topic(topic) else {
            let gone: Vec<_> = self.led.keys().filter(|key| key.topic == topic).copied().collect();
            gone.into_iter().for_each(|key| self.give_up(key));
            self.strays.retain(|key, _| key.topic != topic);
            self.unknown.retain(|key, _| key.topic != topic);
            self.committed.retain(|key, _| key.topic != topic);
            return;
        };
        for (&partition, state) in &present.partitions {
            let key = PartitionKey { topic, partition };
            self.evaluate_stray(present, partition, state);
            let leads = self.was_current && state.leader == Some(self.config.seat);
            if leads && self.mirrors.contains_key(&topic) {
                self.lead(key, state);
            } else if state.leader.is_none() && self.led.contains_key(&key) {
                // We were the last in-sync replica. Nobody can append meanwhile: what we know of
                // the log holds until we are elected again.
                self.rest(key);
            } else {
                self.give_up(key);
                self.unknown.remove(&key);
                // Another seat may cut the copy, where somebody decided that.
                if state.leader.is_some_and(|id| id != self.config.seat && image.is_seat(id)) {
                    self.committed.remove(&key);
                }
                if self.adopted.get(&key).is_some_and(|a| a.leader_epoch < state.leader_epoch) {
                    self.adopted.remove(&key);
                }
            }
        }
    }

    fn lead(&mut self, key: PartitionKey, state: &PartitionImage) {
        let now = self.now();
        let assignment = Assignment {
            leader_epoch: state.leader_epoch,
            partition_epoch: state.partition_epoch,
            replicas: state.replicas.clone(),
            in_sync: state.in_sync.clone(),
        };
        let mut seats = self.image.seats_of(state);
        seats.insert(self.config.seat);
        if let Some(led) = self.led.get_mut(&key)
            && led.leadership.assignment().leader_epoch == state.leader_epoch
        {
            let before = led.leadership.high_watermark();
            led.leadership.on_seats(seats);
            let known = led.leadership.assignment();
            let is_changed = known.partition_epoch < assignment.partition_epoch;
            let in_sync = known.in_sync.clone();
            match led.leadership.on_assignment(assignment, now) {
                Ok(()) => {
                    if is_changed {
                        self.on_in_sync(key, &in_sync);
                    }
                    let Some(led) = self.led.get(&key) else { return };
                    if before != led.leadership.high_watermark() {
                        self.read_on(key);
                    }
                    self.mark(key);
                }
                Err(error) => self.on_broken_history(key, &error),
            }
            return;
        }
        let Some(mirror) = self.mirrors.get(&key.topic).cloned() else { return };
        let is_new = self.birth.is_new(key, state).then(EpochHistory::default);
        let adoption = self.take_adoption(key, state, seats.len());
        let (next, empty) = match self.led.remove(&key) {
            Some(led) => led.into_next_epoch(seats.clone(), assignment.clone(), now),
            None => (None, is_new),
        };
        let led = match (next, adoption, empty) {
            (Some(led), _, _) => led,
            (None, Some(adoption), _) => Led::adopted(adoption, mirror, seats, assignment, now)
                .with_lineage(self.lineages.remove(&key).map(|known| known.lineage)),
            (None, None, Some(history)) => {
                self.lineages.remove(&key);
                Led::fresh(key, history, mirror, seats, assignment, now)
            }
            (None, None, None) => {
                if self.wait_for_adoption(key, state.leader_epoch) {
                    tracing::info!(
                        topic = %mirror.name, partition = key.partition,
                        leader_epoch = %state.leader_epoch, in_sync = ?state.in_sync,
                        "leading a partition whose log is not known; replicas wait while it is learned"
                    );
                }
                return;
            }
        };
        self.take_up(key, led);
    }

    /// Leads from now on.
    fn take_up(&mut self, key: PartitionKey, mut led: Led) {
        tracing::info!(
            link = %led.mirror().link, topic = %led.mirror().name, partition = key.partition,
            leader_epoch = %led.leadership.assignment().leader_epoch, offset = %led.leadership.log_end(), "leading"
        );
        if led.leadership.is_being_cut() {
            self.committed.remove(&key);
        }
        led.started_at = self.log_starts.remove(&key).or(led.started_at);
        // What was only taken over says nothing of the source.
        if !led.is_unproved() && !led.is_stopped() {
            self.learned.insert(key);
        }
        self.led.insert(key, led);
        self.unknown.remove(&key);
        self.tell_given_up(key);
        self.read_on(key);
        self.mark(key);
    }

    fn rest(&mut self, key: PartitionKey) {
        let Some(led) = self.led.get_mut(&key) else { return };
        led.rest();
        if let Some(orders) = self.sources.get(&led.mirror().link) {
            let _stopped = orders.send(Order::Stop(key));
        }
    }

    /// Stops leading a partition, where we did.
    pub(super) fn give_up(&mut self, key: PartitionKey) {
        let Some(led) = self.led.remove(&key) else { return };
        self.log_starts.extend(led.leadership.log_start().map(|offset| (key, offset)));
        self.committed.extend(led.leadership.high_watermark().map(|offset| (key, offset)));
        tracing::info!(
            link = %led.mirror().link, topic = %led.mirror().name, partition = key.partition,
            offset = %led.leadership.log_end(), "no longer leading"
        );
        if let Some(orders) = self.sources.get(&led.mirror().link) {
            let _stopped = orders.send(Order::Stop(key));
        }
        let leader_epoch = led.leadership.assignment().leader_epoch;
        self.lineages.insert(key, KnownLineage { leader_epoch, lineage: led.lineage });
        self.mark(key);
    }
}
