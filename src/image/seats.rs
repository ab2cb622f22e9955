//! Which brokers of the destination are seats of ours: those whose log directory is the one that is
//! derived from cluster id and broker id. Nothing has to be configured, and no other broker can have it.

use std::collections::BTreeSet;

use super::{BrokerImage, Image, PartitionImage};
use crate::types::{BrokerId, Uuid};

/// The directory id of a seat: derived, so that nothing has to be stored.
pub fn seat_directory(cluster_id: &str, id: BrokerId) -> Uuid {
    let name = format!("lockstep/{cluster_id}/{id}");
    Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes())
}

impl Image {
    /// Whether a registered broker is a seat, fenced or not.
    pub fn is_seat(&self, id: BrokerId) -> bool {
        self.broker(id).is_some_and(|broker| self.has_seat_directory(broker))
    }

    /// All registered seats, fenced ones too.
    pub fn seats(&self) -> BTreeSet<BrokerId> {
        let seats = self.brokers().filter(|broker| self.has_seat_directory(broker));
        seats.map(|broker| broker.id).collect()
    }

    /// All registered seats, and ours where it is not registered yet.
    pub fn seats_with(&self, ours: BrokerId) -> BTreeSet<BrokerId> {
        let mut seats = self.seats();
        seats.insert(ours);
        seats
    }

    /// The seats that may lead now, in the order of their ids.
    pub fn live_seats(&self) -> impl Iterator<Item = BrokerId> {
        let live = self.brokers().filter(|b| !b.is_fenced && !b.in_controlled_shutdown);
        live.filter(|broker| self.has_seat_directory(broker)).map(|broker| broker.id)
    }

    /// Whether a seat may lead now: ours leads only while the image shows it, so does another one.
    pub fn is_live_seat(&self, id: BrokerId) -> bool {
        self.live_seats().any(|seat| seat == id)
    }

    /// The replicas of a partition that are seats. One that was unregistered is still told by the
    /// directory that its replica was given.
    pub fn seats_of(&self, partition: &PartitionImage) -> BTreeSet<BrokerId> {
        let replicas = partition.replicas.iter().copied().enumerate();
        replicas.filter(|&(at, _)| self.is_seat_at(partition, at)).map(|(_, id)| id).collect()
    }

    /// Whether the replica at this place is a seat's.
    pub fn is_seat_at(&self, partition: &PartitionImage, at: usize) -> bool {
        let Some(&id) = partition.replicas.get(at) else { return false };
        match (self.broker(id), &self.cluster_id) {
            (Some(broker), _) => self.has_seat_directory(broker),
            (None, Some(cluster)) => {
                partition.directories.get(at) == Some(&seat_directory(cluster, id))
            }
            (None, None) => false,
        }
    }

    fn has_seat_directory(&self, broker: &BrokerImage) -> bool {
        let cluster = self.cluster_id.as_ref();
        cluster.is_some_and(|cluster| broker.log_dirs.contains(&seat_directory(cluster, broker.id)))
    }
}
