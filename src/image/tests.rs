//! Records in, images and deltas out.

mod deltas;
mod encoder;
mod garbage;
mod real_log;
mod seats;

use std::collections::BTreeSet;
use std::sync::Arc;

use self::encoder::*;
use super::*;
use crate::types::Offset;

fn apply(replay: &mut Replay, values: &[Vec<u8>]) {
    for (offset, value) in (0..).zip(values) {
        replay.apply(Offset(offset), value).unwrap();
    }
}

fn replayed(values: &[Vec<u8>]) -> Arc<Image> {
    let mut replay = Replay::new();
    apply(&mut replay, values);
    replay.take().unwrap().0
}

fn misfit(values: &[Vec<u8>]) -> Misfit {
    let (last, before) = values.split_last().unwrap();
    let mut replay = Replay::new();
    apply(&mut replay, before);
    match replay.apply(Offset(99), last).unwrap_err() {
        ImageError::Misfit { offset, misfit } => {
            assert_eq!(offset, Offset(99));
            misfit
        }
        other => panic!("{other}"),
    }
}

fn id(id: u128) -> TopicId {
    TopicId(Uuid::from_u128(id))
}

fn key(topic: u128, partition: i32) -> PartitionKey {
    PartitionKey { topic: id(topic), partition }
}

fn brokers(ids: &[i32]) -> Vec<BrokerId> {
    ids.iter().copied().map(BrokerId).collect()
}

fn uuids(ids: &[u128]) -> Vec<Uuid> {
    ids.iter().copied().map(Uuid::from_u128).collect()
}

/// Topic 7 "t" with one partition after these changes.
fn changed(changes: &[&[(u32, Encoder)]]) -> PartitionImage {
    let mut values = vec![topic("t", 7), partition(7, 0)];
    values.extend(changes.iter().map(|fields| partition_change(7, 0, fields)));
    replayed(&values).partition(key(7, 0)).unwrap().clone()
}

#[test]
fn topics_come_with_partitions_and_go_with_their_configs() {
    let mut replay = Replay::new();
    let setting = config(2, "t", "retention.ms", Some("-1"));
    apply(&mut replay, &[topic("t", 7), partition(7, 0), partition(7, 1), setting]);
    let (image, _) = replay.take().unwrap();
    let name = TopicName::from("t");
    let found = image.topic_named(&name).unwrap();
    assert_eq!((found.id, found.partitions.len()), (id(7), 2));
    assert_eq!(image.topic_config(&name).unwrap()["retention.ms"], "-1");
    assert_eq!(image.topics().count(), 1);

    apply(&mut replay, &[remove_topic(7)]);
    let (image, delta) = replay.take().unwrap();
    assert_eq!(image.topic(id(7)), None);
    assert_eq!(image.topic_named(&name), None);
    assert_eq!(image.topic_config(&name), None);
    assert_eq!(delta.removed_topics, BTreeSet::from([id(7)]));
    assert!(delta.topics.is_empty() && delta.configs);
}

#[test]
fn a_name_belongs_to_the_topic_that_was_created_last() {
    let values = [topic("t", 7), remove_topic(7), topic("t", 8)];
    let image = replayed(&values);
    assert_eq!(image.topic_named(&"t".into()).unwrap().id, id(8));
    let image = replayed(&[topic("t", 7), topic("t", 8), remove_topic(7)]);
    assert_eq!(image.topic_named(&"t".into()).unwrap().id, id(8));
}

#[test]
fn partitions_of_every_version_are_read() {
    let common = |version| {
        let record = Encoder::record(3, version).i32(0).uuid(7);
        let record = record.i32s(&[1, 2]).i32s(&[2]).i32s(&[1]).i32s(&[3]);
        record.i32(-1).i32(5).i32(8)
    };
    let read = |record: Encoder| {
        let image = replayed(&[topic("t", 7), record.0]);
        image.partition(key(7, 0)).unwrap().clone()
    };
    let v0 = read(common(0).tagged(&[]));
    assert_eq!(v0.replicas, brokers(&[1, 2]));
    assert_eq!(v0.in_sync, brokers(&[2]));
    assert_eq!(v0.removing, brokers(&[1]));
    assert_eq!(v0.adding, brokers(&[3]));
    assert_eq!(v0.leader, None);
    assert_eq!((v0.leader_epoch, v0.partition_epoch), (LeaderEpoch(5), 8));
    assert_eq!(v0.directories, uuids(&[0, 0]), "none assigned");

    let v1 = read(common(1).uuids(&[21, 22]).tagged(&[(0, field().i8(1))]));
    assert!(v1.is_recovering && !v0.is_recovering);
    assert_eq!(v1.directories, uuids(&[21, 22]));

    let members = [(1, field().i32s(&[1])), (2, field().i32s(&[4]))];
    let v2 = read(common(2).uuids(&[]).tagged(&members));
    assert_eq!(v2.eligible_leaders, brokers(&[1]));
    assert_eq!(v2.last_known_eligible_leaders, brokers(&[4]));
}

#[test]
fn a_leader_in_a_change_raises_the_leader_epoch_even_if_it_is_the_same() {
    let same = changed(&[&[(1, field().i32(1))]]);
    assert_eq!(same.leader, Some(BrokerId(1)));
    assert_eq!((same.leader_epoch, same.partition_epoch), (LeaderEpoch(6), 9));

    let unchanged = changed(&[&[(1, field().i32(-2))]]);
    assert_eq!(unchanged.leader, Some(BrokerId(1)));
    assert_eq!((unchanged.leader_epoch, unchanged.partition_epoch), (LeaderEpoch(5), 9));

    let nobody = changed(&[&[(1, field().i32(-1))], &[]]);
    assert_eq!(nobody.leader, None);
    assert_eq!((nobody.leader_epoch, nobody.partition_epoch), (LeaderEpoch(6), 10));
}

#[test]
fn a_change_of_the_in_sync_set_keeps_the_leader_epoch() {
    let shrunk = changed(&[&[(0, field().i32s(&[1, 3]))]]);
    assert_eq!(shrunk.in_sync, brokers(&[1, 3]));
    assert_eq!((shrunk.leader_epoch, shrunk.partition_epoch), (LeaderEpoch(5), 9));
    assert_eq!(shrunk.replicas, brokers(&[1, 2, 3]));
    assert_eq!(shrunk.directories, uuids(&[21, 22, 23]));
}

#[test]
fn every_field_of_a_partition_change_is_read() {
    let all = [
        (0, field().i32s(&[9, 1])),
        (1, field().i32(9)),
        (2, field().i32s(&[9, 1])),
        (3, field().i32s(&[2])),
        (4, field().i32s(&[9])),
        (5, field().i8(1)),
        (6, field().i32s(&[3])),
        (7, field().i32s(&[2])),
        (8, field().uuids(&[29, 21])),
    ];
    let partition = changed(&[&all]);
    let expected = PartitionImage {
        replicas: brokers(&[9, 1]),
        in_sync: brokers(&[9, 1]),
        removing: brokers(&[2]),
        adding: brokers(&[9]),
        leader: Some(BrokerId(9)),
        leader_epoch: LeaderEpoch(6),
        partition_epoch: 9,
        is_recovering: true,
        directories: uuids(&[29, 21]),
        eligible_leaders: brokers(&[3]),
        last_known_eligible_leaders: brokers(&[2]),
    };
    assert_eq!(partition, expected);
    let recovered = changed(&[&all, &[(5, field().i8(0)), (3, field().null())]]);
    assert!(!recovered.is_recovering);
    assert_eq!(recovered.removing, brokers(&[2]), "null: unchanged");
}

#[test]
fn directories_follow_the_replicas() {
    let none: Vec<u128> = Vec::new();
    let unassigned = changed(&[&[(2, field().i32s(&[1, 2])), (8, field().uuids(&none))]]);
    assert_eq!(unassigned.directories, uuids(&[0, 0]));
    let values =
        [topic("t", 7), partition(7, 0), partition_change(7, 0, &[(2, field().i32s(&[1, 2]))])];
    let expected = Misfit::Directories { key: key(7, 0), replicas: 2, directories: 3 };
    assert_eq!(misfit(&values), expected);
}

#[test]
fn clear_elr_concerns_one_topic_or_all_and_only_partitions_with_members() {
    let clear = |name| Encoder::record(28, 0).string(name).tagged(&[]).0;
    let out_of_sync = [(6, field().i32s(&[2]))];
    let before = [
        topic("t", 7),
        partition(7, 0),
        partition(7, 1),
        partition_change(7, 0, &out_of_sync),
        topic("u", 8),
        partition(8, 0),
        partition_change(8, 0, &[(7, field().i32s(&[3]))]),
    ];
    let with = |name| {
        let image = replayed(&[&before[..], &[clear(name)]].concat());
        [key(7, 0), key(7, 1), key(8, 0)].map(|key| {
            let partition = image.partition(key).unwrap();
            let members =
                partition.eligible_leaders.len() + partition.last_known_eligible_leaders.len();
            (members, partition.partition_epoch)
        })
    };
    assert_eq!(with("t"), [(0, 10), (0, 8), (1, 9)]);
    assert_eq!(with(""), [(0, 10), (0, 8), (0, 10)]);
}

#[test]
fn configs_are_kept_by_topic_broker_and_cluster() {
    let image = replayed(&[
        topic("t", 7),
        config(2, "t", "retention.ms", Some("1")),
        config(2, "t", "retention.ms", Some("2")),
        config(2, "t", "segment.bytes", Some("3")),
        config(2, "t", "segment.bytes", None),
        config(4, "", "min.insync.replicas", Some("2")),
        config(4, "3", "log.cleaner.threads", Some("4")),
        config(4, "4", "log.cleaner.threads", None),
        config(32, "group", "consumer.session.timeout.ms", Some("5")),
    ]);
    let topic = image.topic_config(&"t".into()).unwrap();
    assert_eq!(topic.iter().collect::<Vec<_>>(), [(&"retention.ms".into(), &"2".into())]);
    assert_eq!(image.broker_config(None).unwrap()["min.insync.replicas"], "2");
    let broker = image.broker_config(Some(BrokerId(3))).unwrap();
    assert_eq!(broker["log.cleaner.threads"], "4");
    assert_eq!(image.broker_config(Some(BrokerId(4))), None);
}

#[test]
fn brokers_of_every_version_are_read() {
    let new = replayed(&[broker(3, 11)]);
    let listener = Listener { host: "host".into(), port: 9092, security_protocol: 0 };
    let expected = BrokerImage {
        id: BrokerId(3),
        epoch: BrokerEpoch(11),
        incarnation: Uuid::from_u128(7),
        listeners: [("PLAINTEXT".into(), listener)].into(),
        rack: Some("az1".into()),
        is_fenced: true,
        in_controlled_shutdown: false,
        log_dirs: uuids(&[31]),
        cordoned_log_dirs: uuids(&[31]),
    };
    assert_eq!(new.broker(BrokerId(3)), Some(&expected));

    for version in 0..=4 {
        let record = Encoder::record(0, version).i32(3);
        let record = if version >= 2 { record.bool(false) } else { record };
        let record = record.uuid(7).i64(11).endpoint_and_feature("PLAINTEXT", 40_000);
        let record = record.null().bool(false);
        let record = if version >= 1 { record.bool(true) } else { record };
        let image = replayed(&[record.tagged(&[]).0]);
        let broker = image.broker(BrokerId(3)).unwrap();
        assert_eq!(broker.listeners["PLAINTEXT"].port, 40_000);
        assert_eq!((broker.is_fenced, &broker.rack), (false, &None));
        assert_eq!(broker.in_controlled_shutdown, version >= 1);
        assert!(broker.log_dirs.is_empty() && broker.cordoned_log_dirs.is_empty());
    }
}

#[test]
fn a_registration_changes_field_by_field() {
    let after = |fields: &[(u32, Encoder)]| {
        let image = replayed(&[broker(3, 11), broker_change(3, 11, fields)]);
        image.broker(BrokerId(3)).unwrap().clone()
    };
    let same = after(&[]);
    assert!(same.is_fenced && !same.in_controlled_shutdown);
    assert!(!after(&[(0, field().i8(-1))]).is_fenced);
    assert!(after(&[(1, field().i8(1))]).in_controlled_shutdown);
    assert_eq!(after(&[(2, field().uuids(&[41, 42]))]).log_dirs, uuids(&[41, 42]));
    assert_eq!(after(&[(2, field().uuids(&[]))]).log_dirs, uuids(&[31]), "empty: unchanged");
    assert_eq!(after(&[(3, field().uuids(&[]))]).cordoned_log_dirs, uuids(&[]));
    assert_eq!(after(&[(3, field().null())]).cordoned_log_dirs, uuids(&[31]), "null: unchanged");
}

#[test]
fn brokers_are_fenced_by_the_old_records_and_unregistered() {
    let old = |key| Encoder::record(key, 0).i32(3).i64(11).tagged(&[]).0;
    let mut replay = Replay::new();
    apply(&mut replay, &[broker(3, 11), old(8)]);
    assert!(!replay.take().unwrap().0.broker(BrokerId(3)).unwrap().is_fenced);
    apply(&mut replay, &[old(7)]);
    assert!(replay.take().unwrap().0.broker(BrokerId(3)).unwrap().is_fenced);
    apply(&mut replay, &[old(1)]);
    let (image, delta) = replay.take().unwrap();
    assert_eq!(image.brokers().count(), 0);
    assert_eq!(delta.brokers, BTreeSet::from([BrokerId(3)]));
}

#[test]
fn controllers_features_and_producer_ids_are_kept() {
    let controller = Encoder::record(27, 0).i32(100).uuid(5).bool(false);
    let controller = controller.endpoint_and_feature("CONTROLLER", 9093).tagged(&[]).0;
    let mut replay = Replay::new();
    let levels = [feature("metadata.version", 30), feature("group.version", 1)];
    apply(&mut replay, &[&levels[..], &[controller]].concat());
    let (image, delta) = replay.take().unwrap();
    assert_eq!(image.controllers()[&BrokerId(100)]["CONTROLLER"].port, 9093);
    assert_eq!((image.metadata_version(), image.feature("group.version")), (Some(30), Some(1)));
    assert!(delta.controllers && delta.features && !delta.producer_ids);

    let producer_ids = Encoder::record(15, 0).i32(1).i64(2).i64(3000).tagged(&[]).0;
    apply(&mut replay, &[feature("group.version", 0), producer_ids]);
    let (image, delta) = replay.take().unwrap();
    assert_eq!(image.next_producer_id(), Some(3000));
    assert_eq!(image.feature("group.version"), None);
    assert_eq!(image.features().len(), 1);
    assert!(delta.producer_ids && !delta.controllers);
}

#[test]
fn records_that_contradict_the_image_are_refused() {
    assert_eq!(misfit(&[partition(7, 0)]), Misfit::Topic(id(7)));
    assert_eq!(misfit(&[remove_topic(7)]), Misfit::Topic(id(7)));
    let change = partition_change(7, 1, &[]);
    assert_eq!(misfit(&[topic("t", 7), change]), Misfit::Partition(key(7, 1)));
    assert_eq!(misfit(&[broker_change(3, 11, &[])]), Misfit::Broker(BrokerId(3)));
    let expected =
        Misfit::BrokerEpoch { id: BrokerId(3), current: BrokerEpoch(11), found: BrokerEpoch(10) };
    assert_eq!(misfit(&[broker(3, 11), broker_change(3, 10, &[])]), expected);
    let clear = Encoder::record(28, 0).string("t").tagged(&[]).0;
    assert_eq!(misfit(&[clear]), Misfit::TopicNamed("t".into()));
    assert_eq!(misfit(&[begin(), begin()]), Misfit::TransactionOpen);
    assert_eq!(misfit(&[end()]), Misfit::NoTransaction);
    assert_eq!(misfit(&[abort()]), Misfit::NoTransaction);
}
