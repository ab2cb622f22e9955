//! A small cluster for the tests: brokers 1 (rack a) and 2 (rack b) live, 3 fenced, and our seat.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::{RequestHeader, ResponseHeader};
use kafka_protocol::protocol::{
    Decodable, HeaderVersion, Request, StrBytes, encode_request_header_into_buffer,
};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::{Asker, Finish, Redirects, Reply};
use crate::gateway::rights::Rights;
use crate::gateway::{Context, Limits};
use crate::image::{Image, Replay};
use crate::mirror::lineage::{EpochHistory, EpochStart};
use crate::seat::leader::{Command, LeaderHandle, LedPartition};
use crate::seat::replica::Replicas;
use crate::types::{BrokerId, LeaderEpoch, LinkName, Offset, PartitionKey, TopicId, Uuid};

/// Our seat.
pub const SEAT: i32 = 9001;
/// A mirror: partition 0 in order, 1 without a high watermark, 2 without an in-sync replica, 3 with
/// broker 1 alone in sync, 4 with broker 2 alone.
pub const MIRROR: &str = "orders";
pub const MIRROR_ID: TopicId = TopicId(Uuid::from_u128(7));
/// Topic "plain", which is not a mirror: broker 1 leads it.
pub const OTHER: TopicId = TopicId(Uuid::from_u128(8));
pub const LISTENER: &str = "PLAINTEXT";

/// A broker as the image shows it.
pub struct Member {
    pub id: i32,
    pub port: u16,
    pub rack: Option<&'static str>,
    pub is_fenced: bool,
    pub security_protocol: i16,
}

pub fn members() -> Vec<Member> {
    let member =
        |id, rack, is_fenced| Member { id, port: 9092, rack, is_fenced, security_protocol: 0 };
    vec![
        member(1, Some("a"), false),
        member(2, Some("b"), false),
        member(3, Some("a"), true),
        member(SEAT, None, false),
    ]
}

/// Our context over the usual members, with a leader that leads the mirror.
pub fn world() -> Context {
    world_of(&members())
}

pub fn world_of(members: &[Member]) -> Context {
    let (_, image) = watch::channel(image(members));
    let (leader, commands) = LeaderHandle::new(8);
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        runtime.spawn(lead(commands));
    }
    let replicas = Replicas::new(leader.clone(), image.clone());
    Context::new(BrokerId(SEAT), image, leader, replicas, LISTENER.to_owned(), Limits::default())
}

async fn lead(mut commands: mpsc::Receiver<Command>) {
    while let Some(command) = commands.recv().await {
        if let Command::Led(keys, answer) = command {
            let _gone = answer.send(keys.into_iter().map(led).collect());
        }
    }
}

fn led(key: PartitionKey) -> Option<LedPartition> {
    if key.topic != MIRROR_ID {
        return None;
    }
    let starts = [(3, 10), (7, 40)]
        .map(|(epoch, start)| EpochStart { epoch: LeaderEpoch(epoch), start: Offset(start) });
    Some(LedPartition {
        link: LinkName::from("east"),
        leader_epoch: LeaderEpoch(7),
        high_watermark: (key.partition != 1).then_some(Offset(90)),
        log_start: Some(Offset(10)),
        log_end: Offset(95),
        history: EpochHistory::from_starts(starts).ok().map(Arc::new),
        in_sync: match key.partition {
            2 => Vec::new(),
            3 => vec![BrokerId(1)],
            4 => vec![BrokerId(2)],
            _ => [1, 2, 3].map(BrokerId).to_vec(),
        },
    })
}

/// Who asks, without the context: by default over a connection to broker 4, which holds nothing.
pub struct Parts<'a> {
    pub context: &'a Context,
    pub redirects: Redirects,
    pub backend: i32,
    pub may_move: bool,
    pub aside: Option<&'static str>,
    pub rights: Rights,
    pub connection: u64,
    pub now: Instant,
}

pub fn asker_of(context: &Context) -> Parts<'_> {
    Parts {
        context,
        redirects: Redirects::default(),
        backend: 4,
        may_move: false,
        aside: Some(LISTENER),
        rights: Rights::unlimited(),
        connection: 5,
        now: Instant::now(),
    }
}

impl Parts<'_> {
    pub fn asker(&mut self) -> Asker<'_> {
        Asker {
            context: self.context,
            listener: LISTENER,
            connection: self.connection,
            backend: BrokerId(self.backend),
            may_move: self.may_move,
            aside: self.aside,
            rights: &self.rights,
            redirects: &mut self.redirects,
            now: self.now,
        }
    }

    pub fn later(&mut self, by: Duration) {
        self.now += by;
    }
}

pub fn versions_of<R: Request>() -> std::ops::RangeInclusive<i16> {
    R::VERSIONS.min..=R::VERSIONS.max
}

/// A request frame without its length; correlation id 77.
pub fn request<R: Request>(version: i16, body: &R) -> Bytes {
    let header = RequestHeader::default()
        .with_request_api_key(R::KEY)
        .with_request_api_version(version)
        .with_correlation_id(77)
        .with_client_id(Some(StrBytes::from_static_str("tester")));
    let mut frame = BytesMut::new();
    encode_request_header_into_buffer(&mut frame, &header).unwrap();
    body.encode(&mut frame, version).unwrap();
    frame.freeze()
}

/// The response inside a frame with its length.
pub fn decoded_frame<R: Request>(version: i16, mut frame: Bytes) -> R::Response {
    let length = i32::from_be_bytes(frame.split_to(4)[..].try_into().unwrap());
    assert_eq!(usize::try_from(length), Ok(frame.len()));
    let header = ResponseHeader::decode(&mut frame, R::Response::header_version(version)).unwrap();
    assert!([77, 9].contains(&header.correlation_id));
    let response = R::Response::decode(&mut frame, version).unwrap();
    assert!(frame.is_empty());
    response
}

pub fn decoded<R: Request>(version: i16, reply: Reply) -> R::Response {
    match reply {
        Reply::Answer(frame) | Reply::Held(frame, _) => decoded_frame::<R>(version, frame),
        Reply::Relay(_) => panic!("relayed"),
        Reply::Gather(_) => panic!("gathered"),
        Reply::Elsewhere(broker) => panic!("moved to {broker}"),
        Reply::Close(reason) => panic!("closed: {reason}"),
    }
}

pub fn finished(finish: Finish, answers: Vec<Option<BytesMut>>) -> Reply {
    Reply::Answer(finish(answers).unwrap())
}

fn image(members: &[Member]) -> Arc<Image> {
    let mut replay = Replay::new();
    let mut records: Vec<_> = members.iter().map(broker_record).collect();
    for (name, id, partitions) in [(MIRROR, MIRROR_ID, 5), ("plain", OTHER, 1)] {
        let topic = Record::new(2).text(name).raw(id.0.as_bytes()).raw(&[0]);
        records.push(topic.0);
        records.extend((0..partitions).map(|partition| partition_record(id, partition)));
    }
    for (offset, record) in (0..).zip(records) {
        replay.apply(Offset(offset), &record).unwrap();
    }
    replay.take().unwrap().0
}

/// `RegisterBrokerRecord` version 3.
fn broker_record(member: &Member) -> Vec<u8> {
    let record = Record::new(0)
        .raw(&member.id.to_be_bytes())
        .raw(&[0])
        .raw(Uuid::from_u128(1).as_bytes())
        .raw(&5i64.to_be_bytes())
        .raw(&[2])
        .text(LISTENER)
        .text("127.0.0.1")
        .raw(&member.port.to_be_bytes())
        .raw(&member.security_protocol.to_be_bytes())
        .raw(&[0, 1]);
    let record = match member.rack {
        Some(rack) => record.text(rack),
        None => record.raw(&[0]),
    };
    record.raw(&[member.is_fenced.into(), 0, 0]).0
}

/// `PartitionRecord` version 0: replicas and in-sync set 9001, 1; led in epoch 7 by 9001, of a topic
/// that is no mirror by 1.
fn partition_record(topic: TopicId, partition: i32) -> Vec<u8> {
    let replicas = [3, 0, 0, 0x23, 0x29, 0, 0, 0, 1];
    Record::new(3)
        .raw(&partition.to_be_bytes())
        .raw(topic.0.as_bytes())
        .raw(&replicas)
        .raw(&replicas)
        .raw(&[1, 1])
        .raw(&if topic == OTHER { 1 } else { SEAT }.to_be_bytes())
        .raw(&7i32.to_be_bytes())
        .raw(&1i32.to_be_bytes())
        .raw(&[0])
        .0
}

struct Record(Vec<u8>);

impl Record {
    fn new(key: u8) -> Self {
        // Frame version, key, record version: 3 for brokers, else 0.
        Self(vec![1, key, if key == 0 { 3 } else { 0 }])
    }

    fn text(self, text: &str) -> Self {
        self.raw(&[text.len() as u8 + 1]).raw(text.as_bytes())
    }

    fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }
}
