//! Requests that are cut, or changed in some bytes: each is refused or answered, none does harm.

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::{
    AlterConfigsRequest, AlterReplicaLogDirsRequest, DeleteRecordsRequest, DescribeConfigsRequest,
    DescribeLogDirsRequest, DescribeProducersRequest, FetchRequest, IncrementalAlterConfigsRequest,
    ListGroupsRequest, ListOffsetsRequest, ListTransactionsRequest, OffsetForLeaderEpochRequest,
    ProduceRequest, ShareAcknowledgeRequest, ShareFetchRequest, WriteTxnMarkersRequest,
    delete_records_request, fetch_request, list_offsets_request, offset_for_leader_epoch_request,
    produce_request, share_fetch_request, write_txn_markers_request,
};
use kafka_protocol::protocol::{Request, StrBytes};

use super::testing::{MIRROR, MIRROR_ID, asker_of, request, versions_of, world};
use crate::gateway::classify::{Class, classify};
use crate::gateway::versions::lower;

/// Changed copies of each frame.
const COPIES: u32 = 60;

/// The same numbers each time (xorshift).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end.max(1) as u64) as usize
    }

    fn change(&mut self, frame: &[u8]) -> Bytes {
        let mut changed = BytesMut::from(frame);
        // Behind key and version: others have frames of their own.
        for _ in 0..=self.below(4) {
            let at = 4 + self.below(changed.len() - 4);
            changed[at] = [0, 1, 0x7f, 0x80, 0xff, self.below(256) as u8][self.below(6)];
        }
        if self.below(3) == 0 {
            changed.truncate(8 + self.below(changed.len() - 8));
        }
        changed.freeze()
    }
}

fn all<R: Request>(body: impl Fn(i16) -> R, frames: &mut Vec<Bytes>) {
    frames.extend(versions_of::<R>().map(|version| request(version, &body(version))));
}

fn frames() -> Vec<Bytes> {
    let mut frames = Vec::new();
    of_consumers_and_producers(&mut frames);
    of_others(&mut frames);
    frames
}

fn of_consumers_and_producers(frames: &mut Vec<Bytes>) {
    let name = StrBytes::from_static_str(MIRROR);
    all(
        |version| {
            let partition = produce_request::PartitionProduceData::default()
                .with_records(Some(Bytes::from_static(b"a batch")));
            let topic = produce_request::TopicProduceData::default()
                .with_partition_data(vec![partition; 2]);
            let topic = match version {
                ..13 => topic.with_name(name.clone().into()),
                _ => topic.with_topic_id(MIRROR_ID.0),
            };
            ProduceRequest::default().with_acks(1).with_topic_data(vec![topic; 2])
        },
        frames,
    );
    all(
        |version| {
            let partition = fetch_request::FetchPartition::default();
            let topic = fetch_request::FetchTopic::default().with_partitions(vec![partition; 2]);
            let topic = match version {
                ..13 => topic.with_topic(name.clone().into()),
                _ => topic.with_topic_id(MIRROR_ID.0),
            };
            FetchRequest::default().with_topics(vec![topic; 2])
        },
        frames,
    );
    all(
        |_| {
            let partition = list_offsets_request::ListOffsetsPartition::default();
            let topic = list_offsets_request::ListOffsetsTopic::default()
                .with_name(name.clone().into())
                .with_partitions(vec![partition; 2]);
            ListOffsetsRequest::default().with_topics(vec![topic; 2])
        },
        frames,
    );
    all(
        |_| {
            let partition = offset_for_leader_epoch_request::OffsetForLeaderPartition::default();
            let topic = offset_for_leader_epoch_request::OffsetForLeaderTopic::default()
                .with_topic(name.clone().into())
                .with_partitions(vec![partition; 2]);
            OffsetForLeaderEpochRequest::default().with_topics(vec![topic])
        },
        frames,
    );
}

fn of_others(frames: &mut Vec<Bytes>) {
    let name = StrBytes::from_static_str(MIRROR);
    all(
        |_| {
            let topic = write_txn_markers_request::WritableTxnMarkerTopic::default()
                .with_name(name.clone().into())
                .with_partition_indexes(vec![0, 1]);
            let marker =
                write_txn_markers_request::WritableTxnMarker::default().with_topics(vec![topic]);
            WriteTxnMarkersRequest::default().with_markers(vec![marker; 2])
        },
        frames,
    );
    all(
        |_| {
            let partition = delete_records_request::DeleteRecordsPartition::default();
            let topic = delete_records_request::DeleteRecordsTopic::default()
                .with_name(name.clone().into())
                .with_partitions(vec![partition]);
            DeleteRecordsRequest::default().with_topics(vec![topic])
        },
        frames,
    );
    all(
        |_| {
            let partition = share_fetch_request::FetchPartition::default();
            let topic = share_fetch_request::FetchTopic::default()
                .with_topic_id(MIRROR_ID.0)
                .with_partitions(vec![partition; 2]);
            ShareFetchRequest::default().with_topics(vec![topic])
        },
        frames,
    );
    all(|_| ShareAcknowledgeRequest::default(), frames);
    all(|_| ListGroupsRequest::default(), frames);
    all(|_| ListTransactionsRequest::default(), frames);
    all(|_| DescribeLogDirsRequest::default(), frames);
    all(|_| DescribeConfigsRequest::default(), frames);
    all(|_| AlterConfigsRequest::default(), frames);
    all(|_| IncrementalAlterConfigsRequest::default(), frames);
    all(|_| AlterReplicaLogDirsRequest::default(), frames);
    all(|_| DescribeProducersRequest::default(), frames);
}

#[tokio::test]
async fn bad_frames_are_refused_or_answered_and_do_no_harm() {
    let world = world();
    let mut numbers = Numbers(0x5eed);
    let (mut answered, mut refused) = (0, 0);
    for frame in frames() {
        let class = classify(i16::from_be_bytes([frame[0], frame[1]]), 1);
        let Class::Local(local) = class else { panic!("{class:?} is not answered here") };
        for _ in 0..COPIES {
            let changed = numbers.change(&frame);
            match super::answer(local, changed, &mut asker_of(&world).asker()).await {
                Ok(_) => answered += 1,
                Err(_) => refused += 1,
            }
        }
    }
    assert!(answered > 500 && refused > 500, "{answered} answered, {refused} refused");
}

#[test]
fn a_bad_list_of_versions_does_no_harm() {
    let real = include_bytes!("../../../tests/data/api-versions-v4-4.3.1.bin");
    let mut numbers = Numbers(0x5eed);
    for _ in 0..2000 {
        let changed = numbers.change(real);
        let version = i16::try_from(numbers.below(5)).unwrap();
        let length = changed.len();
        if let Ok(lowered) = lower(version, BytesMut::from(&changed[..])) {
            assert_eq!(lowered.len(), length);
        }
    }
}
