//! How a partition gets a new leader epoch while its data stays where it is: which request to make
//! next, from what the metadata log shows now. Followers look at a partition anew only then.
//!
//! A controller raises the epoch where the leader changes or a replica goes; a mere change of the
//! order does not. So, what disturbs least first:
//!
//! - A broker that is no replica is added, and the reassignment is cancelled at once. We lead on.
//! - Without such a broker another in-sync replica is put first and elected, then the order is put
//!   back: the way back to leadership does the rest.
//!
//! Each step is decided from the image alone, so that one which was interrupted (by a crash, too) is
//! undone: see [`EpochBump::repair`].

use std::collections::BTreeSet;

use crate::image::{BrokerImage, Image, PartitionImage};
use crate::types::{BrokerId, LeaderEpoch};

/// The next request to make for one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Reassign to these replicas.
    Reassign(Vec<BrokerId>),
    /// Cancel the reassignment that is under way: it is ours.
    Cancel,
    /// Elect the first replica.
    Elect,
    /// Nothing now: somebody else's reassignment is under way, or nobody leads.
    Wait,
    /// There is nothing left to do.
    Done,
    /// No broker can lend itself to it.
    Impossible,
}

/// One partition on its way to a new leader epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EpochBump {
    /// The epoch that is to end.
    from: LeaderEpoch,
    /// The replicas as they are to be left.
    order: Vec<BrokerId>,
    /// A replica that must not be elected.
    avoid: Option<BrokerId>,
    /// The broker that is added and taken away again.
    spare: Option<BrokerId>,
    /// Whether only the order is to be put back.
    is_given_up: bool,
}

impl EpochBump {
    /// Ends the partition's present leader epoch. `avoid` is never elected for it.
    pub fn new(partition: &PartitionImage, avoid: Option<BrokerId>) -> Self {
        let adding = |id: &BrokerId| partition.adding.contains(id);
        Self {
            from: partition.leader_epoch,
            order: partition.replicas.iter().copied().filter(|id| !adding(id)).collect(),
            avoid,
            spare: None,
            is_given_up: false,
        }
    }

    /// Puts the seats of a mirror first again where a step before was interrupted, as far as it is
    /// `seat` that has to do it: the first unfenced seat among the replicas.
    pub fn repair(
        partition: &PartitionImage,
        seat: BrokerId,
        seats: &BTreeSet<BrokerId>,
        image: &Image,
    ) -> Option<Self> {
        let is_seat = |id: &&BrokerId| seats.contains(id);
        let is_moving = !partition.adding.is_empty() || !partition.removing.is_empty();
        if is_moving || partition.replicas.first().as_ref().is_none_or(is_seat) {
            return None;
        }
        let own: Vec<_> = partition.replicas.iter().filter(is_seat).copied().collect();
        let responsible = own.iter().find(|&&id| image.broker(id).is_some_and(|b| !b.is_fenced));
        if responsible != Some(&seat) {
            return None;
        }
        let mut bump = Self::new(partition, None);
        bump.order = own;
        bump.order.extend(partition.replicas.iter().filter(|id| !seats.contains(id)));
        bump.is_given_up = true;
        Some(bump)
    }

    /// Only puts back what was changed from now on.
    pub fn give_up(&mut self) {
        self.is_given_up = true;
    }

    /// Whether it only puts back what was changed.
    pub fn is_given_up(&self) -> bool {
        self.is_given_up
    }

    /// What to do now.
    pub fn next(
        &mut self,
        partition: &PartitionImage,
        seats: &BTreeSet<BrokerId>,
        image: &Image,
    ) -> Step {
        let is_ours = self.spare.is_some_and(|spare| partition.adding == [spare]);
        if is_ours && partition.removing.is_empty() {
            return Step::Cancel;
        }
        if !partition.adding.is_empty() || !partition.removing.is_empty() {
            return Step::Wait;
        }
        // The spare may have come into sync before it was taken away.
        let has_spare = self.spare.is_some_and(|spare| partition.replicas.contains(&spare));
        if self.is_given_up || partition.leader_epoch > self.from || has_spare {
            return match partition.replicas == self.order || !self.may_put_back(partition) {
                true => Step::Done,
                false => Step::Reassign(self.order.clone()),
            };
        }
        if partition.leader.is_none() {
            return Step::Wait;
        }
        if let Some(spare) = self.spare.or_else(|| spare(partition, seats, image)) {
            self.spare = Some(spare);
            return Step::Reassign([&self.order[..], &[spare]].concat());
        }
        let Some(other) = self.other(partition, seats, image) else { return Step::Impossible };
        if partition.replicas.first() == Some(&other) {
            return Step::Elect;
        }
        let rest = self.order.iter().copied().filter(|&id| id != other);
        Step::Reassign(std::iter::once(other).chain(rest).collect())
    }

    /// Whether the replicas are still those that we know: somebody may have reassigned them since.
    fn may_put_back(&self, partition: &PartitionImage) -> bool {
        let known: BTreeSet<_> = self.order.iter().chain(&self.spare).collect();
        let present: BTreeSet<_> = partition.replicas.iter().collect();
        present.is_subset(&known) && self.order.iter().all(|id| present.contains(id))
    }

    /// Who can be elected for a moment: another seat rather than a real broker.
    fn other(
        &self,
        partition: &PartitionImage,
        seats: &BTreeSet<BrokerId>,
        image: &Image,
    ) -> Option<BrokerId> {
        let may_lead = |id: &BrokerId| {
            let is_online = |b: &BrokerImage| !b.is_fenced && !b.in_controlled_shutdown;
            partition.leader != Some(*id)
                && self.avoid != Some(*id)
                && image.broker(*id).is_some_and(is_online)
        };
        let able = partition.in_sync.iter().copied().filter(may_lead);
        able.min_by_key(|id| !seats.contains(id))
    }
}

/// A broker that can be added for a moment: a seat rather than a broker that would begin a log, and
/// of those one that is fenced and would not even begin.
fn spare(
    partition: &PartitionImage,
    seats: &BTreeSet<BrokerId>,
    image: &Image,
) -> Option<BrokerId> {
    let others = image.brokers().filter(|broker| !partition.replicas.contains(&broker.id));
    let least = others.min_by_key(|broker| {
        (!seats.contains(&broker.id), !broker.is_fenced, std::cmp::Reverse(broker.id))
    });
    least.map(|broker| broker.id)
}
