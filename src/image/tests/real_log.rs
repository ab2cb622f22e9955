//! The metadata log of a stock 4.3.1 broker (`tests/data/metadata-4.3.1.log`, 82 records): topics
//! created, extended and deleted, settings changed, a quota, a producer; the broker killed, started
//! again (with unclean elections), stopped, started and stopped; and the snapshot that the broker
//! made at offset 77. The expectations were read off Kafka's own `DumpLogSegments
//! --cluster-metadata-decoder` of the same files.

use super::*;

const LOG: &[u8] = include_bytes!("../../../tests/data/metadata-4.3.1.log");
const SNAPSHOT: &[u8] = include_bytes!("../../../tests/data/metadata-4.3.1-77.checkpoint");
/// The snapshot has the records before this offset.
const SNAPSHOT_END: Offset = Offset(77);

/// Offset and value of every record that is not a control record.
fn records(mut log: &[u8]) -> Vec<(Offset, &[u8])> {
    let mut records = Vec::new();
    while !log.is_empty() {
        let base = i64::from_be_bytes(log[..8].try_into().unwrap());
        let length = u32::from_be_bytes(log[8..12].try_into().unwrap());
        let (batch, rest) = log.split_at(12 + length as usize);
        log = rest;
        let is_control = batch[22] & 0x20 != 0;
        let mut body = &batch[61..];
        while !body.is_empty() && !is_control {
            let length = varint(&mut body);
            let (mut record, rest) = body.split_at(length as usize);
            body = rest;
            record = &record[1..];
            let _timestamp_delta = varint(&mut record);
            let offset = base + varint(&mut record);
            assert_eq!(varint(&mut record), -1, "no key");
            let length = varint(&mut record);
            records.push((Offset(offset), &record[..length as usize]));
        }
    }
    records
}

fn varint(bytes: &mut &[u8]) -> i64 {
    let mut value = 0;
    for shift in (0..).step_by(7) {
        let byte = bytes[0];
        *bytes = &bytes[1..];
        value |= i64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            break;
        }
    }
    (value >> 1) ^ -(value & 1)
}

#[test]
fn a_real_log_gives_the_image_that_kafka_has() {
    let mut replay = Replay::new();
    let records = records(LOG);
    assert_eq!(records.len(), 82);
    for (offset, value) in records {
        replay.apply(offset, value).unwrap();
    }
    assert!(replay.skipped().is_empty(), "{:?}", replay.skipped());
    let (image, _) = replay.take().unwrap();

    assert_eq!(image.metadata_version(), Some(30));
    assert_eq!(image.feature("transaction.version"), Some(2));
    assert_eq!(image.feature("eligible.leader.replicas.version"), Some(1));
    assert_eq!(image.next_producer_id(), Some(1000));
    let controller = &image.controllers()[&BrokerId(1)]["CONTROLLER"];
    assert_eq!((controller.host.as_str(), controller.port), ("127.0.0.1", 49373));

    let broker = image.broker(BrokerId(1)).unwrap();
    assert_eq!((broker.epoch, broker.rack.as_deref()), (BrokerEpoch(69), Some("az1")));
    assert!(broker.is_fenced && broker.in_controlled_shutdown);
    assert_eq!(broker.listeners["PLAINTEXT"].port, 38535);
    assert!(broker.cordoned_log_dirs.is_empty());

    let mut topics: Vec<_> =
        image.topics().map(|topic| (topic.name.as_str(), topic.partitions.len())).collect();
    topics.sort_unstable();
    assert_eq!(topics, [("after", 1), ("after2", 1), ("orders", 3), ("payments", 1)]);
    // Base64 on Kafka's side: Y0WY-6WSQPeXGQeAZAl9wA, and directory hREhXI2XaAjghe983vKQzg.
    let orders = image.topic_named(&"orders".into()).unwrap();
    assert_eq!(orders.id, id(0x634598fb_a592_40f7_9719_078064097dc0));
    let directory = Uuid::from_u128(0x8511215c_8d97_6808_e085_ef7cdef290ce);
    assert_eq!(broker.log_dirs, [directory]);

    let expected = PartitionImage {
        replicas: brokers(&[1]),
        in_sync: Vec::new(),
        removing: Vec::new(),
        adding: Vec::new(),
        leader: None,
        leader_epoch: LeaderEpoch(5),
        partition_epoch: 6,
        is_recovering: true,
        directories: vec![directory],
        eligible_leaders: brokers(&[1]),
        last_known_eligible_leaders: brokers(&[1]),
    };
    assert_eq!(orders.partitions[&2], expected);

    let settings = image.topic_config(&"orders".into()).unwrap();
    let settings: Vec<_> = settings.iter().map(|(k, v)| format!("{k}={v}")).collect();
    assert_eq!(settings, ["max.message.bytes=0", "segment.bytes=1048576"]);
    assert_eq!(image.topic_config(&"gone".into()), None);
    let cluster = image.broker_config(None).unwrap();
    assert_eq!(
        (&*cluster["message.max.bytes"], &*cluster["min.insync.replicas"]),
        ("2000000", "1")
    );
}

#[test]
fn taking_after_each_record_adds_up_to_the_same_image() {
    let (mut at_once, mut stepwise) = (Replay::new(), Replay::new());
    let mut last = None;
    for (offset, value) in records(LOG) {
        at_once.apply(offset, value).unwrap();
        stepwise.apply(offset, value).unwrap();
        last = stepwise.take().or(last);
    }
    assert_eq!(at_once.take().unwrap().0, last.unwrap().0);
}

/// One difference is Kafka's: 4.3.1 keeps the settings of a topic that came and went within one
/// delta, as after a restart, and so writes those of "gone" to its snapshot.
#[test]
fn a_real_snapshot_gives_the_image_of_the_log_before_it() {
    let (before, after): (Vec<_>, Vec<_>) =
        records(LOG).into_iter().partition(|&(offset, _)| offset < SNAPSHOT_END);
    let mut replay = Replay::new();
    for (offset, value) in before {
        replay.apply(offset, value).unwrap();
    }
    let (from_log, _) = replay.take().unwrap();

    replay.begin_snapshot();
    for (offset, value) in records(SNAPSHOT) {
        replay.apply(offset, value).unwrap();
    }
    let (from_snapshot, delta) = replay.take().unwrap();
    let only_configs = Delta { configs: true, ..Delta::default() };
    assert_eq!(delta, only_configs);
    let mut without_gone = Image::clone(&from_snapshot);
    Arc::make_mut(&mut without_gone.topic_configs).remove(&"gone".into());
    assert_eq!(without_gone, *from_log);

    for (offset, value) in after {
        replay.apply(offset, value).unwrap();
    }
    let (image, _) = replay.take().unwrap();
    assert!(image.topic_named(&"after2".into()).is_some());
}
