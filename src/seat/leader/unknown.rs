//! Partitions that we lead by the metadata log although we do not know their logs: after a return under
//! the same registration, or as the last in-sync replica. Their replicas are told to wait; what they ask
//! for says where their logs end.

use std::collections::{BTreeMap, BTreeSet};

use super::handle::{Adoption, Unknown};
use super::task::LeaderTask;
use crate::image::PartitionImage;
use crate::mirror::partition::FollowerFetch;
use crate::types::{BrokerId, LeaderEpoch, PartitionKey};

/// What replicas asked for while their partition is not known.
#[derive(Debug)]
pub(super) struct Waiting {
    leader_epoch: LeaderEpoch,
    fetches: BTreeMap<BrokerId, FollowerFetch>,
}

impl LeaderTask {
    /// We lead a partition from now on and do not know it.
    pub(super) fn wait_for_adoption(
        &mut self,
        key: PartitionKey,
        leader_epoch: LeaderEpoch,
    ) -> bool {
        let is_known = self.unknown.get(&key).is_some_and(|w| w.leader_epoch == leader_epoch);
        if !is_known {
            self.unknown.insert(key, Waiting { leader_epoch, fetches: BTreeMap::new() });
        }
        !is_known
    }

    /// What we know of a partition is not what the only in-sync replica has: it is learned from that one.
    pub(super) fn learn_anew(&mut self, key: PartitionKey) {
        let Some(led) = self.led.get(&key) else { return };
        let Some(by) = led.leadership.contradicted_by() else { return };
        tracing::warn!(
            link = %led.mirror().link, topic = %led.mirror().name, partition = key.partition,
            offset = %by.offset, last_fetched_epoch = %by.last_fetched_epoch, broker = %by.broker,
            "the only replica in sync has another log than the leader before us; it is learned anew"
        );
        let leader_epoch = led.leadership.assignment().leader_epoch;
        self.give_up(key);
        self.wait_for_adoption(key, leader_epoch);
        self.note_waiting(key, by);
    }

    /// A replica asked for a partition that we may not know.
    pub(super) fn note_waiting(&mut self, key: PartitionKey, fetch: FollowerFetch) {
        if let Some(waiting) = self.unknown.get_mut(&key)
            && fetch.current_leader_epoch == waiting.leader_epoch
        {
            waiting.fetches.insert(fetch.broker, fetch);
        }
    }

    pub(super) fn unknown(&self) -> Vec<Unknown> {
        let all = self.unknown.iter().map(|(&key, waiting)| Unknown {
            key,
            leader_epoch: waiting.leader_epoch,
            fetches: waiting.fetches.values().copied().collect(),
            committed: self.committed.get(&key).copied(),
        });
        all.collect()
    }

    /// Takes adoptions in; those of partitions that we lead already are taken up at once.
    pub(super) fn on_adoptions(&mut self, adoptions: Vec<Adoption>) {
        let mut topics = BTreeSet::new();
        for adoption in adoptions {
            if self.unknown.contains_key(&adoption.key) {
                topics.insert(adoption.key.topic);
            }
            self.adopted.insert(adoption.key, adoption);
        }
        for topic in topics {
            self.evaluate(topic);
        }
    }

    /// The adoption of a partition that we lead now, where it still holds: the leader before us told
    /// it, or a replica in this same epoch.
    pub(super) fn take_adoption(
        &mut self,
        key: PartitionKey,
        state: &PartitionImage,
        seats: usize,
    ) -> Option<Adoption> {
        let is_ours = self.unknown.get(&key).is_some_and(|w| w.leader_epoch == state.leader_epoch);
        let fits = |a: &Adoption| {
            let missed = state.leader_epoch.0.saturating_sub(a.leader_epoch.0);
            // With another seat there somebody may have copied in an epoch that we have not heard of.
            missed == 1 || (missed > 1 && seats < 2) || (missed == 0 && is_ours)
        };
        self.adopted.remove(&key).filter(fits)
    }
}
