//! Bytes that are no records, records that we do not know, records cut short.

use std::collections::BTreeMap;

use super::*;

fn error(value: &[u8]) -> ImageError {
    Replay::new().apply(Offset(17), value).unwrap_err()
}

fn malformed(value: &[u8]) -> Malformed {
    match error(value) {
        ImageError::Malformed { malformed, .. } => malformed,
        other => panic!("{other}"),
    }
}

/// One record of every kind that is read, in an order in which they fit.
fn every_kind() -> Vec<Vec<u8>> {
    let old = |key| Encoder::record(key, 0).i32(3).i64(11).tagged(&[]).0;
    let controller = Encoder::record(27, 0).i32(1).uuid(5).bool(false);
    vec![
        begin(),
        abort(),
        begin(),
        feature("metadata.version", 30),
        end(),
        broker(3, 11),
        broker_change(3, 11, &[(0, field().i8(-1)), (3, field().uuids(&[1]))]),
        old(7),
        old(8),
        old(1),
        topic("t", 7),
        partition(7, 0),
        partition_change(7, 0, &[(0, field().i32s(&[1])), (8, field().uuids(&[1, 2, 3]))]),
        Encoder::record(28, 0).string("t").tagged(&[]).0,
        config(2, "t", "retention.ms", Some("1")),
        remove_topic(7),
        Encoder::record(15, 0).i32(1).i64(2).i64(3).tagged(&[]).0,
        Encoder::record(20, 0).tagged(&[]).0,
        controller.endpoint_and_feature("C", 1).tagged(&[]).0,
    ]
}

#[test]
fn every_prefix_of_every_record_is_refused() {
    let mut replay = Replay::new();
    for value in every_kind() {
        for length in 0..value.len() {
            let error = replay.apply(Offset(1), &value[..length]).unwrap_err();
            assert!(matches!(error, ImageError::Malformed { .. }), "{error}");
        }
        let longer = [&value[..], &[0]].concat();
        let error = replay.apply(Offset(1), &longer).unwrap_err();
        let malformed = Malformed::Trailing(1);
        let offset = Offset(1);
        assert_eq!(error, ImageError::Malformed { offset, malformed });
        replay.apply(Offset(1), &value).unwrap();
    }
}

#[test]
fn damaged_records_never_panic() {
    // xorshift64: the same damage in every run.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % below as u64).unwrap()
    };
    let mut replay = Replay::new();
    let mut outcomes = [0, 0];
    for _ in 0..2_000 {
        for mut value in every_kind() {
            for _ in 0..=random(3) {
                let at = 3 + random(value.len().saturating_sub(3).max(1));
                if let Some(byte) = value.get_mut(at) {
                    *byte = random(256) as u8;
                }
            }
            outcomes[usize::from(replay.apply(Offset(1), &value).is_ok())] += 1;
        }
        replay.take();
    }
    assert!(outcomes.iter().all(|&count| count > 1_000), "{outcomes:?}");
}

#[test]
fn noise_never_panics() {
    let mut replay = Replay::new();
    for key in 0..=30 {
        for version in 0..=5 {
            for byte in 0..=255 {
                let head = Encoder::record(key, version);
                let _refused = replay.apply(Offset(1), &head.raw(&[byte; 64]).0);
            }
        }
    }
}

#[test]
fn lengths_beyond_the_bytes_are_refused_without_allocating() {
    let partition = Encoder::record(3, 2).i32(0).uuid(7).uvarint(u32::MAX).raw(&[0; 9]);
    let expected = Malformed::Length { length: u32::MAX as usize - 1, left: 9 };
    assert_eq!(malformed(&partition.0), expected);
    let topic = Encoder::record(2, 0).uvarint(u32::MAX);
    assert!(matches!(malformed(&topic.0), Malformed::Truncated { .. }));
    let tags = Encoder::record(20, 0).uvarint(u32::MAX);
    assert!(matches!(malformed(&tags.0), Malformed::Truncated { .. }));
}

#[test]
fn bad_values_are_named() {
    assert_eq!(malformed(&[]), Malformed::Truncated { needed: 1, left: 0 });
    assert_eq!(malformed(&[2, 0, 0]), Malformed::Frame(2));
    assert_eq!(malformed(&[0xff; 5]), Malformed::Varint);
    assert_eq!(malformed(&[0x80, 0x80, 0x80, 0x80, 0x80, 0]), Malformed::Varint);
    let null = Encoder::record(2, 0).null();
    assert_eq!(malformed(&null.0), Malformed::Null);
    let latin = Encoder::record(2, 0).uvarint(2).raw(&[0xe9]);
    assert_eq!(malformed(&latin.0), Malformed::Utf8);
    for (tag, field, text) in
        [(1, field().i32(-3), "leader is -3"), (5, field().i8(2), "leader recovery state is 2")]
    {
        let error = malformed(&partition_change(7, 0, &[(tag, field)]));
        assert_eq!(error.to_string(), text);
    }
    let longer = broker_change(3, 11, &[(0, field().i8(1).i8(1))]);
    assert_eq!(malformed(&longer), Malformed::Trailing(1));
    assert_eq!(error(&longer).retry(), Retry::FromSnapshot);
}

#[test]
fn an_unknown_version_names_key_version_and_offset() {
    let unknown = error(&Encoder::record(5, 3).raw(&[1, 2, 3]).0);
    assert_eq!(
        unknown.to_string(),
        "metadata record PartitionChange (key 5) at offset 17 has version 3, \
         the newest known is 2"
    );
    assert_eq!(unknown.retry(), Retry::Never);
    for (key, newest) in [(0, 4), (3, 2), (5, 2), (17, 3)] {
        let newer = error(&Encoder::record(key, newest + 1).0);
        assert!(matches!(newer, ImageError::UnknownVersion { .. }), "{key}");
    }
}

#[test]
fn unknown_records_are_counted_and_unused_ones_are_not() {
    let mut replay = Replay::new();
    for key in [18, 14, 21] {
        apply(&mut replay, &[Encoder::record(key, 9).raw(b"whatever").0]);
    }
    assert!(replay.skipped().is_empty());
    for key in [6, 4_000_000, 6] {
        apply(&mut replay, &[Encoder::record(key, 9).raw(b"whatever").0]);
    }
    assert_eq!(replay.skipped(), &BTreeMap::from([(6, 2), (4_000_000, 1)]));
    assert!(replay.take().is_none());
}

#[test]
fn unknown_tags_are_passed_over() {
    let later = partition_change(7, 0, &[(1, field().i32(2)), (99, field().raw(b"later"))]);
    let image = replayed(&[topic("t", 7), partition(7, 0), later]);
    assert_eq!(image.partition(key(7, 0)).unwrap().leader, Some(BrokerId(2)));
}
