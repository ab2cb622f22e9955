//! What is handed out when: deltas, metadata transactions, snapshots.

use super::*;

#[test]
fn a_delta_names_what_changed_since_the_last_take_and_images_taken_stay() {
    let mut replay = Replay::new();
    assert!(replay.take().is_none());
    apply(&mut replay, &[topic("t", 7), partition(7, 0), topic("u", 8), partition(8, 0)]);
    let (first, delta) = replay.take().unwrap();
    assert_eq!(delta.topics, BTreeSet::from([id(7), id(8)]));
    assert!(replay.take().is_none());

    let no_op = Encoder::record(20, 0).tagged(&[]).0;
    apply(&mut replay, &[no_op]);
    assert!(replay.take().is_none());

    let shrink = [(0, field().i32s(&[1]))];
    apply(&mut replay, &[partition_change(8, 0, &shrink)]);
    let (second, delta) = replay.take().unwrap();
    let expected = Delta { topics: BTreeSet::from([id(8)]), ..Delta::default() };
    assert_eq!(delta, expected);
    assert_eq!(first.partition(key(8, 0)).unwrap().in_sync, brokers(&[1, 2, 3]));
    assert_eq!(second.partition(key(8, 0)).unwrap().in_sync, brokers(&[1]));
    let (old, new) = (first.topic(id(7)).unwrap(), second.topic(id(7)).unwrap());
    assert!(Arc::ptr_eq(old, new), "a topic that did not change is shared");
}

#[test]
fn nothing_of_a_transaction_shows_before_its_end() {
    let mut replay = Replay::new();
    apply(&mut replay, &[topic("t", 7), begin(), topic("u", 8), partition(8, 0)]);
    let (image, delta) = replay.take().unwrap();
    assert_eq!(delta.topics, BTreeSet::from([id(7)]), "what came before it does show");
    assert_eq!(image.topic(id(8)), None);
    apply(&mut replay, &[partition_change(8, 0, &[(1, field().i32(2))])]);
    assert!(replay.take().is_none());
    apply(&mut replay, &[end()]);
    let (image, delta) = replay.take().unwrap();
    assert_eq!(delta.topics, BTreeSet::from([id(8)]));
    assert_eq!(image.partition(key(8, 0)).unwrap().leader, Some(BrokerId(2)));
}

#[test]
fn nothing_of_an_aborted_transaction_ever_shows() {
    let mut replay = Replay::new();
    apply(&mut replay, &[topic("t", 7), partition(7, 0), broker(3, 11)]);
    let (before, _) = replay.take().unwrap();
    let inside = [
        begin(),
        remove_topic(7),
        topic("u", 8),
        config(2, "u", "retention.ms", Some("1")),
        broker_change(3, 11, &[(0, field().i8(-1))]),
        feature("metadata.version", 30),
    ];
    apply(&mut replay, &inside);
    assert!(replay.take().is_none());
    apply(&mut replay, &[abort()]);
    assert!(replay.take().is_none());
    apply(&mut replay, &[topic("v", 9)]);
    let (image, delta) = replay.take().unwrap();
    assert_eq!(delta.topics, BTreeSet::from([id(9)]));
    assert!(delta.removed_topics.is_empty() && delta.brokers.is_empty());
    assert_eq!(image.topic(id(7)), before.topic(id(7)));
}

#[test]
fn a_snapshot_shows_what_changed_and_what_vanished() {
    let mut replay = Replay::new();
    let setting = config(2, "t", "retention.ms", Some("1"));
    apply(&mut replay, &[topic("t", 7), partition(7, 0), setting.clone(), topic("gone", 8)]);
    apply(&mut replay, &[topic("u", 9), partition(9, 0), broker(3, 11), broker(4, 12)]);
    replay.take().unwrap();

    // A transaction that was open is forgotten with everything else.
    apply(&mut replay, &[begin(), remove_topic(7)]);
    replay.begin_snapshot();
    apply(&mut replay, &[topic("t", 7), partition(7, 0), setting, topic("u", 9), broker(3, 11)]);
    let (image, delta) = replay.take().unwrap();
    let expected = Delta {
        topics: BTreeSet::from([id(9)]),
        removed_topics: BTreeSet::from([id(8)]),
        brokers: BTreeSet::from([BrokerId(4)]),
        ..Delta::default()
    };
    assert_eq!(delta, expected);
    assert!(image.topic(id(9)).unwrap().partitions.is_empty());
}

#[test]
fn a_snapshot_of_what_is_known_shows_nothing() {
    let mut replay = Replay::new();
    let all = [topic("t", 7), partition(7, 0), broker(3, 11), feature("x", 1)];
    apply(&mut replay, &all);
    replay.take().unwrap();
    replay.begin_snapshot();
    apply(&mut replay, &all);
    assert!(replay.take().is_none());
    apply(&mut replay, &[partition(7, 1)]);
    assert_eq!(replay.take().unwrap().1.topics, BTreeSet::from([id(7)]));
}
