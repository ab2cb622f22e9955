//! Seats among other brokers.

use super::encoder::{Encoder, field, topic};
use crate::image::{Replay, TopicImage, seat_directory};
use crate::types::{BrokerId, Offset, TopicId, Uuid};

fn register(id: i32, directory: Uuid, is_fenced: bool) -> Vec<u8> {
    let head = Encoder::record(0, 3).i32(id).bool(false).uuid(7).i64(1).uvarint(1).uvarint(1);
    let dirs = field().uvarint(2).raw(directory.as_bytes());
    head.null().bool(is_fenced).bool(false).tagged(&[(0, dirs)]).0
}

fn partition(directories: &[Uuid]) -> Vec<u8> {
    let head = Encoder::record(3, 1).i32(0).uuid(1).i32s(&[9001, 9002, 3]).i32s(&[3]);
    let head = head.i32s(&[]).i32s(&[]).i32(3).i32(0).i32(0);
    let count = u32::try_from(directories.len() + 1).unwrap();
    let head = directories.iter().fold(head.uvarint(count), |head, dir| head.raw(dir.as_bytes()));
    head.tagged(&[]).0
}

fn ids(seats: impl IntoIterator<Item = BrokerId>) -> Vec<i32> {
    seats.into_iter().map(|id| id.0).collect()
}

#[test]
fn a_seat_is_known_by_its_directory() {
    let seat = |id| seat_directory("here", BrokerId(id));
    let records = [
        register(9001, seat(9001), false),
        register(9003, seat(9003), true),
        // Of another cluster, of another id, and no seat at all.
        register(4, seat_directory("there", BrokerId(4)), false),
        register(5, seat(9001), false),
        register(3, Uuid::from_u128(3), false),
        topic("orders", 1),
        // 9002 was unregistered.
        partition(&[seat(9001), seat(9002), Uuid::from_u128(3)]),
    ];
    let mut replay = Replay::of_cluster("here");
    for (offset, record) in (0..).zip(&records) {
        replay.apply(Offset(offset), record).unwrap();
    }
    let (image, _) = replay.take().unwrap();
    assert_eq!(ids(image.seats()), [9001, 9003]);
    assert_eq!(ids(image.live_seats()), [9001]);
    let topic: &TopicImage = image.topic(TopicId(Uuid::from_u128(1))).unwrap();
    assert_eq!(ids(image.seats_of(&topic.partitions[&0])), [9001, 9002]);
    assert!(!image.is_seat(BrokerId(9002)) && image.is_seat_at(&topic.partitions[&0], 1));
    replay.begin_snapshot();
    replay.apply(Offset(0), &records[0]).unwrap();
    assert_eq!(ids(replay.take().unwrap().0.seats()), [9001]);
}
