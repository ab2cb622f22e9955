//! The whole source against a fake broker on a real socket.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::fake_broker::{ASKED_ID, DEADLINE, FakeBroker, Mischief, TOPIC};
use super::{Source, SourceConfig};
use crate::client::{ClientConfig, Cluster};
use crate::mirror::lineage::{EpochHistory, EpochStart};
use crate::tail::budget::MemoryBudget;
use crate::tail::{
    Arrival, ArrivalKind, Bounds, Follow, Order, Orders, Room, StartAt, Trouble, exchange,
};
use crate::types::{
    LeaderEpoch, LinkName, Offset, OffsetAndEpoch, PartitionKey, TopicId, TopicName, TopicPartition,
};
use crate::wire::batch::BatchHeader;
use crate::wire::batch::tests::batch;

struct Seat {
    broker: FakeBroker,
    orders: Orders,
    arrivals: mpsc::Receiver<Arrival>,
    budget: MemoryBudget,
    stop: CancellationToken,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Seat {
    async fn start(partitions: i32, change: impl FnOnce(&FakeBroker)) -> Self {
        let broker = FakeBroker::start(partitions).await;
        change(&broker);
        let cluster = Cluster::new(vec![broker.endpoint()], ClientConfig::default(), None);
        let config = SourceConfig {
            link: LinkName::from("east"),
            connections_per_broker: Some(1),
            rack: None,
            events: crate::tail::events::Events::unheard(),
        };
        let (orders, received) = mpsc::unbounded_channel();
        let (sent, arrivals) = exchange();
        let budget = MemoryBudget::new(64 << 20);
        let stop = CancellationToken::new();
        let source = Source::new(config, cluster, received, sent, budget.clone());
        tokio::spawn(source.run(stop.clone()));
        Self { broker, orders, arrivals, budget, stop }
    }

    fn follow(&self, partition: i32, start: StartAt, generation: u64) -> Arc<Room> {
        let room = Arc::new(Room::new(1 << 20));
        self.follow_with(partition, start, generation, Arc::clone(&room));
        room
    }

    fn follow_with(&self, partition: i32, start: StartAt, generation: u64, room: Arc<Room>) {
        let history = EpochStart { epoch: LeaderEpoch(42), start: Offset(0) };
        let follow = Follow {
            key: key(partition),
            link: LinkName::from("east"),
            source: TopicPartition { topic: TopicName::from(TOPIC), partition },
            source_topic: TopicId(Uuid::from_u128(ASKED_ID)),
            start,
            last: None,
            stamps: Arc::new(EpochHistory::from_starts([history]).unwrap()),
            generation,
            room,
        };
        self.orders.send(Order::Follow(follow)).unwrap();
    }

    async fn next(&mut self) -> Arrival {
        tokio::time::timeout(DEADLINE, self.arrivals.recv()).await.expect("in time").unwrap()
    }

    /// The next arrival as text: partition, generation, and what matters of it.
    async fn told(&mut self) -> String {
        let arrival = self.next().await;
        let kind = match arrival.kind {
            ArrivalKind::Started { position, bounds } => {
                format!("started {position} of {}", range(bounds))
            }
            ArrivalKind::Idle(bounds) => format!("idle {}", range(bounds)),
            ArrivalKind::Data { chunk, bounds } => {
                let header = BatchHeader::read(&chunk.bytes).unwrap().unwrap();
                assert_eq!(header.leader_epoch, LeaderEpoch(42), "stamped");
                let (base, next) = (chunk.base_offset, chunk.next_offset());
                format!("data {base}..{next} of {}", range(bounds))
            }
            ArrivalKind::Trouble(Trouble::Unavailable(_)) => "unavailable".to_owned(),
            ArrivalKind::Trouble(Trouble::Corrupt { ours, .. }) => format!("corrupt at {ours}"),
            ArrivalKind::Trouble(trouble) => format!("{trouble:?}"),
        };
        format!("{}/{} {kind}", arrival.key.partition, arrival.generation)
    }

    async fn until(&mut self, wanted: &str) -> Vec<String> {
        let mut all = Vec::new();
        loop {
            let told = self.told().await;
            all.push(told);
            if all.last().is_some_and(|told| told == wanted) {
                return all;
            }
        }
    }
}

fn range(bounds: Bounds) -> String {
    format!("{}..{}", bounds.log_start, bounds.high_watermark)
}

fn key(partition: i32) -> PartitionKey {
    PartitionKey { topic: TopicId(Uuid::from_u128(1)), partition }
}

fn at(offset: i64) -> StartAt {
    StartAt::At(OffsetAndEpoch { offset: Offset(offset), epoch: LeaderEpoch(0) })
}

fn with_two_batches(broker: &FakeBroker) {
    broker.append(0, batch(0, 5, b"first"));
    broker.append(0, batch(5, 5, b"second"));
}

#[tokio::test]
async fn a_log_is_read_from_its_start_and_then_as_it_grows() {
    for version in [5, 7, 12, 17] {
        let mut seat = Seat::start(1, |broker| {
            with_two_batches(broker);
            broker.change(|state| state.fetch_version = version);
        })
        .await;
        seat.follow(0, StartAt::Earliest, 3);
        assert_eq!(seat.told().await, "0/3 started 0 of 0..10");
        assert_eq!(seat.told().await, "0/3 data 0..10 of 0..10", "v{version}");
        seat.broker.append(0, batch(20, 1, b"after a hole"));
        assert_eq!(seat.told().await, "0/3 data 20..21 of 0..21");
        seat.broker.append(0, batch(21, 1, b"more"));
        assert_eq!(seat.told().await, "0/3 data 21..22 of 0..22");
    }
}

#[tokio::test]
async fn each_start_is_where_it_should_be() {
    let mut seat = Seat::start(3, |broker| {
        for partition in 0..3 {
            broker.append(partition, batch(0, 10, b"x"));
        }
    })
    .await;
    seat.follow(0, StartAt::Latest, 1);
    assert_eq!(seat.told().await, "0/1 started 10 of 0..10");
    assert_eq!(seat.told().await, "0/1 idle 0..10");
    seat.follow(1, StartAt::Time(4), 1);
    assert_eq!(seat.told().await, "1/1 started 4 of 0..10");
    assert_eq!(seat.told().await, "1/1 data 0..10 of 0..10", "the batch that holds it");
    seat.follow(2, StartAt::Time(-7), 1);
    assert_eq!(seat.told().await, "2/1 started 10 of 0..10", "no record is that young");
}

#[tokio::test]
async fn after_the_first_request_only_changes_are_sent() {
    let mut seat = Seat::start(2, with_two_batches).await;
    seat.follow(0, at(0), 1);
    seat.until("0/1 data 0..10 of 0..10").await;
    seat.follow(1, at(0), 1);
    seat.until("1/1 idle 0..0").await;
    seat.broker.append(1, batch(0, 1, b"x"));
    seat.until("1/1 data 0..1 of 0..1").await;
    seat.broker.until(|state| state.fetches.iter().any(|f| f.0 > 2 && f.1 == [1])).await;
    let fetches = seat.broker.state().fetches.clone();
    assert_eq!(fetches[0].0, 0);
    assert!(fetches[1..].iter().all(|fetch| fetch.0 > 0), "{fetches:?}");
    assert!(fetches.iter().all(|fetch| fetch.2.is_empty()), "{fetches:?}");
}

#[tokio::test]
async fn a_partition_without_room_waits_and_the_others_go_on() {
    let mut seat = Seat::start(2, with_two_batches).await;
    let room = Arc::new(Room::new(10));
    seat.follow_with(0, at(0), 1, Arc::clone(&room));
    seat.follow(1, at(0), 1);
    seat.until("0/1 data 0..10 of 0..10").await;
    seat.broker.append(0, batch(10, 1, b"later"));
    seat.broker.append(1, batch(0, 1, b"x"));
    let told = seat.until("1/1 data 0..1 of 0..1").await;
    assert!(!told.iter().any(|told| told.starts_with("0/1 data")), "{told:?}");
    seat.broker.until(|state| state.fetches.iter().any(|fetch| fetch.2 == [0])).await;
    room.remove(2 * 61 + 11);
    seat.until("0/1 data 10..11 of 0..11").await;
}

#[tokio::test]
async fn without_any_room_nothing_is_asked_until_there_is_some() {
    let mut seat = Seat::start(1, with_two_batches).await;
    let room = Arc::new(Room::new(10));
    seat.follow_with(0, at(0), 1, Arc::clone(&room));
    seat.until("0/1 data 0..10 of 0..10").await;
    seat.broker.append(0, batch(10, 1, b"later"));
    assert_eq!(seat.broker.state().fetches.len(), 1);
    room.remove(2 * 61 + 11);
    assert_eq!(seat.told().await, "0/1 data 10..11 of 0..11");
}

#[tokio::test]
async fn a_lost_session_is_opened_anew_without_a_word() {
    for error in [70, 71, 106] {
        let mut seat = Seat::start(1, with_two_batches).await;
        seat.follow(0, at(0), 1);
        seat.until("0/1 data 0..10 of 0..10").await;
        seat.broker.change(|state| state.mischief.push_back(Mischief::TopLevel(error)));
        seat.broker.until(|state| state.mischief.is_empty()).await;
        seat.broker.append(0, batch(10, 1, b"x"));
        assert_eq!(seat.told().await, "0/1 data 10..11 of 0..11");
        assert_eq!(seat.broker.state().connections, 2, "one shared, one for fetches");
    }
}

#[tokio::test]
async fn a_broker_that_gives_no_session_is_asked_for_everything() {
    let mut seat = Seat::start(1, |broker| {
        with_two_batches(broker);
        broker.change(|state| state.gives_sessions = false);
    })
    .await;
    seat.follow(0, at(0), 1);
    seat.until("0/1 data 0..10 of 0..10").await;
    seat.broker.append(0, batch(10, 1, b"x"));
    seat.until("0/1 data 10..11 of 0..11").await;
    assert!(seat.broker.state().fetches.iter().all(|fetch| fetch.0 == 0 && fetch.1 == [0]));
}

#[tokio::test]
async fn a_broken_connection_is_mended_without_a_word() {
    for mischief in [Mischief::Hangup, Mischief::Garbage, Mischief::Error(6)] {
        let mut seat = Seat::start(1, with_two_batches).await;
        seat.broker.change(|state| state.mischief.push_back(mischief));
        seat.follow(0, at(0), 1);
        assert_eq!(seat.told().await, "0/1 data 0..10 of 0..10", "{mischief:?}");
    }
}

#[tokio::test]
async fn trouble_that_lasts_is_told_once_and_then_over() {
    for mischief in [Mischief::Hangup, Mischief::Garbage, Mischief::Error(75)] {
        let mut seat = Seat::start(1, with_two_batches).await;
        seat.broker.change(|state| state.mischief.extend([mischief; 4]));
        seat.follow(0, at(10), 1);
        assert_eq!(seat.told().await, "0/1 unavailable", "{mischief:?}");
        assert_eq!(seat.told().await, "0/1 idle 0..10", "{mischief:?}");
    }
}

#[tokio::test]
async fn damage_on_the_way_is_fetched_again_over_another_connection() {
    let mut seat = Seat::start(1, with_two_batches).await;
    seat.broker.change(|state| state.mischief.push_back(Mischief::FlippedBit));
    seat.follow(0, at(0), 1);
    assert_eq!(seat.told().await, "0/1 data 0..5 of 0..10", "what came before it");
    assert_eq!(seat.told().await, "0/1 data 5..10 of 0..10");
    assert_eq!(seat.broker.state().connections, 3);
}

#[tokio::test]
async fn damage_that_stays_stops_that_partition_only() {
    let mut seat = Seat::start(2, with_two_batches).await;
    seat.broker.change(|state| state.damaged = Some(0));
    seat.follow(0, at(0), 1);
    assert_eq!(seat.told().await, "0/1 data 0..5 of 0..10");
    assert_eq!(seat.told().await, "0/1 corrupt at 5");
    seat.follow(1, at(0), 1);
    seat.broker.append(1, batch(0, 1, b"x"));
    seat.until("1/1 data 0..1 of 0..1").await;
    seat.broker.change(|state| state.damaged = None);
    seat.follow(0, at(5), 2);
    seat.until("0/2 data 5..10 of 0..10").await;
}

#[tokio::test]
async fn a_position_outside_the_log_is_a_gap_or_a_truncation() {
    let mut seat = Seat::start(2, |broker| {
        broker.append(0, batch(50, 10, b"x"));
        broker.append(1, batch(50, 10, b"x"));
        broker.change(|state| {
            state.logs.get_mut(&0).unwrap().start = 50;
        });
    })
    .await;
    seat.follow(0, at(20), 1);
    let gap = Trouble::Gap { ours: Offset(20), source_start: Offset(50) };
    assert_eq!(seat.told().await, format!("0/1 {gap:?}"));
    seat.follow(1, at(70), 1);
    let cut = Trouble::Truncated { ours: Offset(70), source_end: Offset(60) };
    assert_eq!(seat.told().await, format!("1/1 {cut:?}"));
}

#[tokio::test]
async fn out_of_range_against_the_bounds_counts_the_second_time() {
    let mut seat = Seat::start(1, with_two_batches).await;
    seat.broker.change(|state| state.mischief.push_back(Mischief::Error(1)));
    seat.follow(0, at(10), 1);
    assert_eq!(seat.told().await, "0/1 idle 0..10");
    let mut seat = Seat::start(1, with_two_batches).await;
    seat.broker.change(|state| state.mischief.extend([Mischief::Error(1); 2]));
    seat.follow(0, at(10), 1);
    let cut = Trouble::Truncated { ours: Offset(10), source_end: Offset(10) };
    let told = seat.until(&format!("0/1 {cut:?}")).await;
    assert!(told.len() <= 2, "{told:?}");
}

#[tokio::test]
async fn a_topic_that_is_gone_or_another_ends_after_some_time() {
    for (id, end) in [(None, "TopicDeleted"), (Some(Uuid::from_u128(7)), "TopicIdChanged")] {
        let mut seat = Seat::start(1, with_two_batches).await;
        seat.follow(0, at(0), 1);
        seat.until("0/1 data 0..10 of 0..10").await;
        seat.broker.change(|state| {
            state.topic = id;
            state.logs.get_mut(&0).unwrap().batches.clear();
            if id.is_some() {
                state.mischief.push_back(Mischief::Error(100));
            }
        });
        let told = seat.until(&format!("0/1 {end}")).await;
        assert!(told.len() <= 2, "{told:?}");
    }
}

#[tokio::test]
async fn a_right_that_is_missing_is_told() {
    let mut seat = Seat::start(1, |broker| broker.change(|state| state.denied = true)).await;
    seat.follow(0, StartAt::Earliest, 1);
    assert!(seat.told().await.starts_with("0/1 Unauthorized"));
}

#[tokio::test]
async fn a_newer_order_replaces_the_older_and_hears_everything_again() {
    let mut seat = Seat::start(1, with_two_batches).await;
    seat.follow(0, at(10), 1);
    assert_eq!(seat.told().await, "0/1 idle 0..10");
    seat.follow(0, at(10), 2);
    assert_eq!(seat.told().await, "0/2 idle 0..10");
    seat.follow(0, at(5), 3);
    assert_eq!(seat.told().await, "0/3 data 5..10 of 0..10");
    seat.orders.send(Order::Stop(key(0))).unwrap();
    seat.follow(0, StartAt::Earliest, 4);
    assert_eq!(seat.told().await, "0/4 started 0 of 0..10");
    assert_eq!(seat.told().await, "0/4 data 0..10 of 0..10");
}

#[tokio::test]
async fn a_throttled_answer_is_no_end_of_data() {
    let mut seat = Seat::start(1, with_two_batches).await;
    let throttle = Mischief::Throttle(Duration::from_millis(200));
    seat.broker.change(|state| state.mischief.extend([throttle; 2]));
    let begun = std::time::Instant::now();
    seat.follow(0, at(0), 1);
    assert_eq!(seat.told().await, "0/1 data 0..10 of 0..10");
    assert!(begun.elapsed() >= Duration::from_millis(400));
}

#[tokio::test]
async fn memory_is_paid_for_as_long_as_the_bytes_live() {
    let mut seat = Seat::start(1, |broker| broker.append(0, batch(0, 1, &[7; 300_000]))).await;
    seat.follow(0, at(0), 1);
    let arrival = seat.next().await;
    assert!(seat.budget.used() >= 300_000, "a batch above the reservation is paid for too");
    let room =
        matches!(&arrival.kind, ArrivalKind::Data { chunk, .. } if chunk.bytes.len() > 300_000);
    assert!(room);
    drop(arrival);
    seat.broker.until(|_| seat.budget.used() <= super::SMALL_BYTES).await;
}

/// What the source has after its broker was away, and what is told when we come back at offset 10.
async fn told_after(change: impl FnOnce(&mut super::fake_broker::Log)) -> String {
    let mut seat = Seat::start(1, with_two_batches).await;
    seat.follow(0, at(0), 1);
    seat.until("0/1 data 0..10 of 0..10").await;
    seat.broker.change(|state| {
        change(state.logs.get_mut(&0).unwrap());
        state.mischief.push_back(Mischief::Hangup);
    });
    loop {
        let told = seat.told().await;
        if told != "0/1 unavailable" {
            return told;
        }
    }
}

#[tokio::test]
async fn a_source_that_was_away_has_to_show_the_last_batch_again() {
    let grown = told_after(|log| log.batches.push(batch(10, 1, b"x"))).await;
    assert_eq!(grown, "0/1 data 10..11 of 0..11");
    let truncated = |source_end| {
        let source_end = Offset(source_end);
        format!("0/1 {:?}", Trouble::Truncated { ours: Offset(10), source_end })
    };
    let rewritten = told_after(|log| {
        log.batches[1] = batch(5, 5, b"another");
        log.batches.push(batch(10, 1, b"x"));
    });
    assert_eq!(rewritten.await, truncated(5), "longer than ours, but of another lineage");
    let shorter = told_after(|log| {
        log.batches.pop();
    });
    assert_eq!(shorter.await, truncated(5));
}

#[tokio::test]
async fn a_last_batch_that_was_trimmed_or_compacted_away_is_no_evidence() {
    let trimmed = told_after(|log| {
        log.batches = vec![batch(10, 1, b"x")];
        log.start = 10;
    });
    assert_eq!(trimmed.await, "0/1 data 10..11 of 10..11");
    let compacted = told_after(|log| {
        log.batches[1] = batch(10, 1, b"x");
    });
    assert_eq!(compacted.await, "0/1 data 10..11 of 0..11");
}
