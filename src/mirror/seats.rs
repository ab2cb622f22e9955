//! Several seats on one destination: in which order they stand in the replicas of a mirror, which of
//! them does the common tasks, and which replicas change when one joins or leaves.
//!
//! Seats stand first, since the controller elects the next in the order of the replicas: when one
//! dies another one leads, and no data moves. The order is turned from partition to partition, so
//! that each seat is the preferred leader of its share.

use std::collections::BTreeSet;

use crate::image::{Image, PartitionImage, TopicImage};
use crate::types::{BrokerId, TopicName};

/// New replicas of some partitions of one topic.
pub type Reassignment = Vec<(i32, Vec<BrokerId>)>;

/// The order of the seats in the replicas of one partition. All daemons come to the same one.
pub fn order(seats: &BTreeSet<BrokerId>, topic: &TopicName, partition: i32) -> Vec<BrokerId> {
    let mut order: Vec<_> = seats.iter().copied().collect();
    if !order.is_empty() {
        let turn = hash(topic.as_str()).wrapping_add(u64::try_from(partition).unwrap_or(0));
        let first = usize::try_from(turn % order.len() as u64).unwrap_or(0);
        order.rotate_left(first);
    }
    order
}

/// The seat that does what exactly one may do: creates topics, changes configs, writes the journal.
pub fn owner(image: &Image) -> Option<BrokerId> {
    image.live_seats().min()
}

/// The seats that a mirror partition should have: those that it has as long as they are registered
/// (one that is only down will come back), and all that are alive.
pub fn wanted(image: &Image, partition: &PartitionImage) -> BTreeSet<BrokerId> {
    let present = image.seats_of(partition).into_iter();
    let staying = present.filter(|&id| image.broker(id).is_some());
    staying.chain(image.live_seats()).collect()
}

/// What has to change so that each partition of a mirror has the seats that there are, in their order.
/// What is being reassigned is left to whoever does that. `absent` are seats that have been down for
/// a while.
///
/// A preferred election only ever elects the first replica. So where a real broker leads (all seats
/// were down at once) and the first seat stays away, one that is alive is put first; once that leads
/// and all are back, the order is restored.
pub fn changes(image: &Image, mirror: &TopicImage, absent: &BTreeSet<BrokerId>) -> Reassignment {
    let mut changes = Reassignment::new();
    for (&number, partition) in &mirror.partitions {
        if !partition.adding.is_empty() || !partition.removing.is_empty() {
            continue;
        }
        let present = image.seats_of(partition);
        let wanted = wanted(image, partition);
        if wanted.is_empty() {
            continue;
        }
        let first = partition.replicas.first();
        let mut seats = order(&wanted, &mirror.name, number);
        let is_led_by_real = partition.leader.is_some_and(|leader| !present.contains(&leader));
        let is_away = first.is_some_and(|first| absent.contains(first));
        let are_all_live = wanted.iter().all(|&id| image.is_live_seat(id));
        let is_due = wanted != present
            || (is_led_by_real && is_away)
            || (are_all_live && partition.leader.as_ref() == first);
        // Stable: among those that are alive the order stays.
        seats.sort_by_key(|&id| is_led_by_real && !image.is_live_seat(id));
        seats.extend(partition.replicas.iter().filter(|id| !present.contains(id)));
        if is_due && seats != partition.replicas {
            changes.push((number, seats));
        }
    }
    changes
}

/// FNV-1a: the same in every build, which the standard library does not promise of its own.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_seat_comes_first_in_its_share_of_the_partitions() {
        let seats: BTreeSet<_> = [9003, 9001, 9002].map(BrokerId).into();
        for topic in ["orders", "payments", "x"].map(TopicName::from) {
            let mut firsts = [0; 3];
            for partition in 0..9 {
                let order = order(&seats, &topic, partition);
                assert_eq!(order.iter().copied().collect::<BTreeSet<_>>(), seats);
                firsts[usize::try_from(order[0].0 - 9001).unwrap()] += 1;
            }
            assert_eq!(firsts, [3, 3, 3], "{topic}");
        }
        assert_eq!(order(&BTreeSet::new(), &"orders".into(), 0), []);
    }

    #[test]
    fn the_order_is_the_same_in_every_build() {
        let seats: BTreeSet<_> = [9001, 9002].map(BrokerId).into();
        let firsts = ["orders", "payments", "late.one"].map(|t| order(&seats, &t.into(), 0)[0].0);
        assert_eq!(firsts, [9001, 9001, 9002]);
    }
}
