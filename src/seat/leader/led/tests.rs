//! One led partition and what the source brings it: gaps, holes, lost ends.

use super::*;
use crate::mirror::decision::Policies;
use crate::tail::buffer::{Chunk, ChunkBatch};
use crate::tail::marks::SourceMarks;
use crate::types::{BrokerEpoch, LeaderEpoch, TopicId, Uuid};

const NOW: Duration = Duration::ZERO;

fn leading(start: StartAt) -> Led {
    let topic = TopicId(Uuid::from_u128(7));
    let mirror = MirrorTopic {
        id: topic,
        name: "orders".into(),
        link: "east".into(),
        source_name: "orders".into(),
        source_id: TopicId(Uuid::from_u128(8)),
        start,
        segment_bytes: 1 << 20,
        policies: Policies::default(),
    };
    let brokers = [9001, 1, 2].map(BrokerId).to_vec();
    let assignment = Assignment {
        leader_epoch: LeaderEpoch(0),
        partition_epoch: 0,
        replicas: brokers.clone(),
        in_sync: brokers,
    };
    let key = PartitionKey { topic, partition: 0 };
    let seats = BTreeSet::from([BrokerId(9001)]);
    let mut led =
        Led::fresh(key, EpochHistory::default(), Arc::new(mirror), seats, assignment, NOW);
    let order = led.next_order(1).expect("an order to begin");
    assert_eq!(order.start, start);
    led
}

fn arrive(led: &mut Led, kind: ArrivalKind) -> bool {
    let (key, generation) = (led.key, led.reading.as_ref().map_or(0, |r| r.generation));
    led.on_arrival(Arrival { key, generation, kind }).unwrap()
}

fn started(led: &mut Led, position: i64, log: std::ops::Range<i64>) {
    arrive(led, ArrivalKind::Started { position: Offset(position), bounds: bounds(log) });
}

fn bounds(log: std::ops::Range<i64>) -> Bounds {
    Bounds { log_start: Offset(log.start), high_watermark: Offset(log.end) }
}

fn data(led: &mut Led, offsets: std::ops::Range<i64>, log: std::ops::Range<i64>) -> bool {
    let chunk = Chunk {
        bytes: bytes::Bytes::from_static(&[0; 100]),
        base_offset: Offset(offsets.start),
        batches: vec![ChunkBatch { next_offset: Offset(offsets.end), end: 100 }],
        records: 1,
        source_epoch: LeaderEpoch(4),
        marks: SourceMarks::default(),
        max_timestamp: 0,
    };
    arrive(led, ArrivalKind::Data { chunk, bounds: bounds(log) })
}

fn gap(led: &mut Led, ours: i64, source_start: i64) {
    let (ours, source_start) = (Offset(ours), Offset(source_start));
    arrive(led, ArrivalKind::Trouble(Trouble::Gap { ours, source_start }));
    assert!(led.is_stopped() && led.next_order(2).is_none(), "it waits for a decision");
}

fn fetched(led: &mut Led, broker: i32, offset: i64) {
    fetched_at(led, broker, offset, NOW);
}

fn fetched_at(led: &mut Led, broker: i32, offset: i64, now: Duration) {
    let fetch = FollowerFetch {
        broker: BrokerId(broker),
        broker_epoch: BrokerEpoch(1),
        current_leader_epoch: LeaderEpoch(0),
        offset: Offset(offset),
        last_fetched_epoch: if offset > 0 { LeaderEpoch(0) } else { LeaderEpoch::UNKNOWN },
    };
    led.on_fetch(now, fetch).unwrap();
}

/// Copied and committed up to 50.
fn copied() -> Led {
    let mut led = leading(StartAt::Earliest);
    started(&mut led, 0, 0..50);
    data(&mut led, 0..50, 0..50);
    for broker in [1, 2] {
        fetched(&mut led, broker, 50);
    }
    assert_eq!(led.leadership.high_watermark(), Some(Offset(50)));
    led
}

fn log(led: &Led) -> (i64, i64, i64) {
    let leadership = &led.leadership;
    let (start, hw) = (leadership.log_start().unwrap(), leadership.high_watermark().unwrap());
    (start.0, hw.0, leadership.log_end().0)
}

#[test]
fn over_a_gap_no_replica_is_empty_for_a_moment() {
    let mut led = copied();
    assert_eq!(led.go_on(), None, "there is no gap");
    gap(&mut led, 50, 90);
    assert_eq!(led.go_on(), Some(Offset(50)..Offset(90)));
    assert_eq!(led.go_on(), None, "once");
    let order = led.next_order(2).unwrap();
    let at = OffsetAndEpoch { offset: Offset(90), epoch: LeaderEpoch(4) };
    assert_eq!(order.start, StartAt::At(at));
    // The log starts inside a batch.
    assert!(data(&mut led, 88..95, 90..95));
    assert_eq!(log(&led), (0, 50, 95), "the old log stays until the new one is everywhere");
    let slice = led.buffer().unwrap().read(Offset(50), 1000, Offset(i64::MAX)).unwrap();
    assert_eq!(slice.next_offset, Offset(95));
    fetched(&mut led, 1, 95);
    assert_eq!(log(&led), (0, 50, 95));
    fetched(&mut led, 2, 95);
    assert_eq!(log(&led), (90, 95, 95));
}

#[test]
fn a_batch_that_reaches_below_the_copys_end_is_of_another_lineage_over_a_gap_too() {
    let mut led = copied();
    gap(&mut led, 50, 90);
    led.go_on().unwrap();
    led.next_order(2).unwrap();
    assert!(!data(&mut led, 45..95, 90..95));
    assert!(matches!(led.trouble, Some(Trouble::Truncated { .. })), "{:?}", led.trouble);
    assert_eq!(log(&led), (0, 50, 50));
}

#[test]
fn a_source_that_is_empty_after_a_gap_is_followed_by_a_batch_without_records() {
    let mut led = copied();
    gap(&mut led, 50, 90);
    led.go_on().unwrap();
    led.next_order(2).unwrap();
    assert!(arrive(&mut led, ArrivalKind::Idle(bounds(90..90))));
    assert_eq!(log(&led), (0, 50, 90));
    assert!(!arrive(&mut led, ArrivalKind::Idle(bounds(90..90))), "once");
    fetched(&mut led, 1, 90);
    fetched(&mut led, 2, 90);
    assert_eq!(log(&led), (90, 90, 90));
    assert!(data(&mut led, 90..91, 90..91), "and on");
}

#[test]
fn a_source_that_is_not_empty_after_a_gap_is_waited_for() {
    let mut led = copied();
    gap(&mut led, 50, 90);
    led.go_on().unwrap();
    led.next_order(2).unwrap();
    arrive(&mut led, ArrivalKind::Idle(bounds(90..99)));
    assert_eq!(log(&led), (0, 50, 50));
}

#[test]
fn a_mirror_that_has_not_begun_has_no_gap() {
    let mut led = leading(StartAt::Earliest);
    started(&mut led, 10, 10..50);
    gap(&mut led, 10, 40);
    assert!(led.has_not_begun());
    led.go_on().unwrap();
    led.next_order(2).unwrap();
    data(&mut led, 40..50, 40..50);
    assert!(!led.has_not_begun());
    let mut latest = leading(StartAt::Latest);
    started(&mut latest, 50, 10..50);
    assert!(!latest.has_not_begun());
}

#[test]
fn empty_replicas_of_a_log_that_starts_above_0_have_lost_nothing() {
    let mut led = leading(StartAt::Earliest);
    started(&mut led, 15, 15..50);
    fetched(&mut led, 1, 0);
    fetched(&mut led, 2, 0);
    assert_eq!(log(&led), (15, 15, 15));
    assert_eq!(led.read_again(NOW), None);
}

#[test]
fn a_replica_that_is_alone_is_fed_from_the_source() {
    let mut led = copied();
    let seat_alone = Assignment {
        partition_epoch: 1,
        in_sync: vec![BrokerId(9001)],
        ..led.leadership.assignment().clone()
    };
    led.leadership.on_assignment(seat_alone, NOW).unwrap();
    let since = Duration::from_secs(10);
    assert_eq!(led.read_again(since), None, "nobody asks");
    fetched_at(&mut led, 2, 30, since);
    assert_eq!(led.read_again(since), Some(Offset(30)));
    assert_eq!(led.read_again(since), None, "once");
    assert_eq!(led.unproved().map(|one| one.holder), Some(BrokerId(2)), "the other one is dead");
    led.on_proof(Ok(SourceTail::UNKNOWN));
    led.next_order(2).unwrap();
    assert!(data(&mut led, 30..40, 0..50));
    fetched_at(&mut led, 2, 40, since);
    assert_eq!(led.in_memory_from(), Offset(40), "what it has is forgotten");
    assert_eq!(log(&led), (0, 50, 50), "the high watermark never falls");
}

#[test]
fn what_is_read_again_has_to_be_of_the_same_lineage() {
    let step = |(epoch, start)| EpochStart { epoch: LeaderEpoch(epoch), start: Offset(start) };
    let read = SourceLineage::new([(4, 10), (6, 40)].map(step), Offset(60));
    let at = |steps: &[(i32, i64)]| {
        let steps: Vec<_> = steps.iter().copied().map(step).collect();
        again::contradiction(Some(&read), &steps).map(|offset| offset.0)
    };
    assert_eq!(at(&[(4, 20), (6, 45), (9, 60)]), None, "the same, compacted, and what comes after");
    assert_eq!(at(&[(1, 5), (4, 10)]), None, "not known");
    assert_eq!(at(&[(4, 20), (7, 35)]), Some(35), "an unclean election");
    assert_eq!(at(&[(4, 45)]), Some(45), "older disks");
    assert_eq!(again::contradiction(None, &[step((9, 20))]), None);
}

#[test]
fn what_all_in_sync_replicas_lost_is_read_again() {
    let mut led = copied();
    assert_eq!(led.read_again(NOW), None);
    fetched(&mut led, 1, 30);
    assert_eq!(led.read_again(NOW), None, "the other one has it");
    fetched(&mut led, 2, 30);
    assert_eq!(led.read_again(NOW), Some(Offset(30)));
    assert_eq!(led.read_again(NOW), None, "once");
    assert!(led.next_order(2).is_none(), "the source may be another by now");
    assert_eq!(led.unproved().map(|one| one.log_end), Some(Offset(30)));
    led.on_proof(Ok(SourceTail::UNKNOWN));
    let order = led.next_order(2).unwrap();
    let at = OffsetAndEpoch { offset: Offset(30), epoch: LeaderEpoch::UNKNOWN };
    assert_eq!(order.start, StartAt::At(at));
    assert!(data(&mut led, 30..50, 0..50));
    assert_eq!(log(&led), (0, 50, 50), "the high watermark never falls");
    let slice = led.buffer().unwrap().read(Offset(30), 1000, Offset(i64::MAX)).unwrap();
    assert_eq!(slice.next_offset, Offset(50));
}

/// After another seat, which copied up to 40 and 50.
fn taken_over(log_end: i64, tail: Option<SourceTail>) -> Led {
    let before = leading(StartAt::Earliest);
    let mut assignment = before.leadership.assignment().clone();
    assignment.leader_epoch = LeaderEpoch(0);
    let adoption = Adoption {
        key: before.key,
        leader_epoch: LeaderEpoch(-1),
        history: EpochHistory::default(),
        log_end: Offset(log_end),
        log_start: Offset(0),
        high_watermark: None,
        tail,
        cut_from: None,
    };
    let seats = BTreeSet::from([BrokerId(9001)]);
    let mut led = Led::adopted(adoption, Arc::clone(before.mirror()), seats, assignment, NOW);
    assert_eq!(led.unproved(), None, "what the copy is is not known yet");
    fetched(&mut led, 1, 40);
    fetched(&mut led, 2, 50);
    assert_eq!(log(&led), (0, 40, 50));
    led
}

#[test]
fn after_another_seat_the_source_is_read_once_the_tail_is_checked() {
    let mut led = taken_over(40, None);
    assert!(led.next_order(1).is_none());
    let due = led.unproved().unwrap();
    assert_eq!((due.holder, due.log_end, due.log_start), (BrokerId(2), Offset(50), Offset(0)));
    let away = Trouble::Unavailable("away".to_owned());
    led.on_proof(Err(away));
    assert!(led.next_order(1).is_none() && led.unproved().is_some(), "it is looked at again");
    led.on_proof(Ok(SourceTail { epoch: LeaderEpoch(4), last: None }));
    assert_eq!((led.unproved(), &led.trouble), (None, &None));
    let at = OffsetAndEpoch { offset: Offset(40), epoch: LeaderEpoch(4) };
    assert_eq!(led.next_order(1).unwrap().start, StartAt::At(at));
    assert_eq!(led.lineage.known_at(Offset(50)).unwrap().epoch, LeaderEpoch(4));
}

#[test]
fn after_another_seat_a_source_of_another_lineage_is_not_read() {
    let mut led = taken_over(40, None);
    led.on_proof(Err(Trouble::Truncated { ours: Offset(50), source_end: Offset(20) }));
    assert!(led.is_stopped() && led.next_order(1).is_none());
    assert_eq!(led.unproved(), None, "only a decision helps");
    led.look_again();
    assert!(led.next_order(1).is_none() && led.unproved().is_some(), "it is looked at again");
}

#[test]
fn what_was_checked_before_it_was_led_is_read_at_once() {
    let checked = Some(SourceTail { epoch: LeaderEpoch(4), last: None });
    let mut led = taken_over(50, checked);
    assert_eq!(led.unproved(), None);
    assert!(led.next_order(1).is_some());
    let mut led = taken_over(40, checked);
    assert_eq!(led.unproved().map(|one| one.log_end), Some(Offset(50)), "a replica has more");
    assert!(led.next_order(1).is_none());
}

#[test]
fn the_source_is_heard_while_a_replica_lives_and_none_is_in_sync() {
    let mut led = copied();
    let share = LEAST_SHARE * 10;
    assert_eq!(led.share_of(share, NOW), share);
    let mut assignment = led.leadership.assignment().clone();
    assignment.partition_epoch += 1;
    assignment.in_sync = vec![BrokerId(9001)];
    led.leadership.on_assignment(assignment, NOW).unwrap();
    assert_eq!(led.share_of(share, NOW), LEAST_SHARE, "it could not be told to cut otherwise");
    assert_eq!(led.share_of(share, NOW + Duration::from_secs(60)), 0, "nobody takes anything");
}
