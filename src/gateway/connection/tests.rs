//! Connections through a listener of ours to brokers that are played by the test.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut};
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic, ReplicaState};
use kafka_protocol::messages::fetch_response::{FetchableTopicResponse, PartitionData};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsTopicResponse,
};
use kafka_protocol::messages::metadata_response::MetadataResponseTopic;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{
    ApiKey, FetchRequest, FetchResponse, ListGroupsRequest, ListOffsetsRequest,
    ListOffsetsResponse, MetadataResponse, ProduceRequest,
};
use kafka_protocol::protocol::{Encodable, StrBytes};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::super::answers::testing::{
    LISTENER, MIRROR, MIRROR_ID, Member, decoded_frame, members, request, world_of,
};
use super::super::{ListenerName, serve_listener};
use super::*;
use crate::image::Image;

mod posers;
mod proofs;

const DEADLINE: Duration = Duration::from_secs(10);

/// A gateway between `client`s and brokers 1 and 2, each played at a listener of its own.
struct Stage {
    address: std::net::SocketAddr,
    /// Accept connections, and answer the gateway's own question.
    brokers: Vec<tokio::task::JoinHandle<()>>,
    accepted: tokio::sync::Mutex<mpsc::UnboundedReceiver<(i32, Peer)>>,
    context: Arc<Context>,
    stop: CancellationToken,
    served: tokio::task::JoinHandle<()>,
}

impl Stage {
    async fn new() -> Self {
        Self::with(0, LISTENER).await
    }

    /// Brokers whose listener has this security protocol.
    async fn with(security_protocol: i16, inter_broker: &str) -> Self {
        let mut brokers = Vec::new();
        let mut cast = members();
        for member in cast.iter_mut().filter(|member| !member.is_fenced) {
            let broker = TcpListener::bind("127.0.0.1:0").await.unwrap();
            member.port = broker.local_addr().unwrap().port();
            member.security_protocol = security_protocol;
            brokers.push(broker);
        }
        Self::of(&cast, brokers, inter_broker).await
    }

    async fn of(cast: &[Member], brokers: Vec<TcpListener>, inter_broker: &str) -> Self {
        let mut context = world_of(cast);
        context.inter_broker_listener = inter_broker.to_owned();
        context.limits.connections = 4;
        context.limits.newcomers = 3;
        context.limits.newcomer = Duration::from_millis(10);
        context.limits.drain = Duration::from_millis(100);
        context.limits.request = Duration::from_secs(1);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let name = ListenerName(LISTENER.to_owned());
        let context = Arc::new(context);
        let served = serve_listener(listener, name, context.clone(), stop.clone());
        let served = tokio::spawn(served);
        let (accept, accepted) = mpsc::unbounded_channel();
        let brokers = (1..).zip(brokers);
        let brokers = brokers.map(|(id, broker)| tokio::spawn(play(id, broker, accept.clone())));
        Self {
            address,
            brokers: brokers.collect(),
            accepted: accepted.into(),
            context,
            stop,
            served,
        }
    }

    async fn client(&self) -> Peer {
        Peer(TcpStream::connect(self.address).await.unwrap())
    }

    /// A client whose connection is relayed to this broker, and that broker's end.
    async fn client_at(&self, broker: i32) -> (Peer, Peer) {
        // The other broker has as few clients as this one, or fewer: those are kept meanwhile.
        let mut others = Vec::new();
        loop {
            let mut client = self.client().await;
            client.send(&relayed(0, 0)).await;
            let (id, mut peer) = self.broker().await;
            peer.receive().await;
            peer.send(b"answer").await;
            client.receive().await;
            if id == broker {
                return (client, peer);
            }
            others.push((client, peer));
        }
    }

    /// The next connection that the gateway opens to any broker, and the broker's number.
    async fn broker(&self) -> (i32, Peer) {
        timeout(DEADLINE, self.accepted.lock().await.recv()).await.unwrap().unwrap()
    }

    /// This broker is no more.
    async fn kill(&mut self, id: usize) {
        let broker = &mut self.brokers[id - 1];
        broker.abort();
        assert!(broker.await.unwrap_err().is_cancelled());
    }
}

/// One broker's port: what the gateway itself asks first is answered, then connections are passed on.
async fn play(id: i32, broker: TcpListener, accept: mpsc::UnboundedSender<(i32, Peer)>) {
    let question = super::super::answers::probe_frame();
    loop {
        let mut peer = Peer(broker.accept().await.unwrap().0);
        let (accept, question) = (accept.clone(), question.clone());
        tokio::spawn(async move {
            let mut first = [0; 8];
            let _read = peer.0.peek(&mut first).await;
            if first[..] == question[..8] {
                peer.receive().await;
                peer.send(&[0; 6]).await;
            }
            // Where clients have to prove themselves it was only for the question.
            if peer.0.peek(&mut [0]).await.is_ok_and(|bytes| bytes > 0) {
                let _over = accept.send((id, peer));
            }
        });
    }
}

async fn read_frame(reader: &mut TcpStream) -> io::Result<BytesMut> {
    let mut prefix = [0; LENGTH_BYTES];
    reader.read_exact(&mut prefix).await?;
    let length = frame_length(prefix, 64 << 20).map_err(io::Error::other)?;
    read_bytes(reader, BytesMut::new(), length).await
}

/// The other end of a connection.
struct Peer(TcpStream);

impl Peer {
    async fn send(&mut self, frame: &[u8]) {
        let length = i32::try_from(frame.len()).unwrap();
        self.0.write_all(&length.to_be_bytes()).await.unwrap();
        self.0.write_all(frame).await.unwrap();
    }

    async fn receive(&mut self) -> Bytes {
        let read = read_frame(&mut self.0);
        timeout(DEADLINE, read).await.unwrap().unwrap().freeze()
    }

    async fn is_closed(&mut self) -> bool {
        let read = read_frame(&mut self.0);
        timeout(DEADLINE, read).await.unwrap().is_err()
    }
}

/// A request of a kind that is relayed.
fn relayed(correlation_id: i32, bytes: usize) -> BytesMut {
    let mut frame = BytesMut::new();
    frame.put_i16(ApiKey::Metadata as i16);
    frame.put_i16(12);
    frame.put_i32(correlation_id);
    frame.extend((0..bytes).map(|index| (index % 251) as u8));
    frame
}

fn produce() -> Bytes {
    let partition = PartitionProduceData::default().with_records(Some(Bytes::new()));
    let topic = TopicProduceData::default()
        .with_name(StrBytes::from_static_str(MIRROR).into())
        .with_partition_data(vec![partition]);
    request(9, &ProduceRequest::default().with_acks(-1).with_topic_data(vec![topic]))
}

#[tokio::test]
async fn answers_come_in_the_order_of_the_requests() {
    let stage = Stage::new().await;
    let mut client = stage.client().await;
    let local = request(4, &ListGroupsRequest::default());
    client.send(&relayed(1, 100)).await;
    client.send(&local).await;
    client.send(&relayed(2, 100)).await;
    client.send(&local).await;
    let (_, mut broker) = stage.broker().await;
    // The broker sees the second request before it has answered the first: they are pipelined.
    assert_eq!(broker.receive().await, relayed(1, 100));
    assert_eq!(broker.receive().await, relayed(2, 100));
    broker.send(b"answer 1").await;
    broker.send(b"answer 2").await;
    assert_eq!(client.receive().await, b"answer 1"[..]);
    assert_eq!(client.receive().await.get_i32(), 77);
    assert_eq!(client.receive().await, b"answer 2"[..]);
    assert_eq!(client.receive().await.get_i32(), 77);
}

#[tokio::test]
async fn large_frames_pass_both_ways_untouched() {
    let stage = Stage::new().await;
    let mut client = stage.client().await;
    let (small, large) = (relayed(1, 10), relayed(2, 5 << 20));
    client.send(&small).await;
    let (_, mut broker) = stage.broker().await;
    assert_eq!(broker.receive().await, small);
    broker.send(b"small").await;
    assert_eq!(client.receive().await, b"small"[..]);
    let (_, received) = tokio::join!(client.send(&large), broker.receive());
    assert!(received == large);
    let (_, received) = tokio::join!(broker.send(&large), client.receive());
    assert!(received == large);
}

#[tokio::test]
async fn a_client_that_does_not_read_is_not_read_from() {
    let stage = Stage::new().await;
    let mut client = stage.client().await;
    client.send(&relayed(0, 10)).await;
    let (_, mut broker) = stage.broker().await;
    for number in 1..=200 {
        client.send(&relayed(number, 10)).await;
    }
    // With nothing answered, the queue lets so many through: those in it, one that was taken out
    // of it and waits for its answer, and the entry that opened the backend frees its place.
    let mut received = 0;
    while let Ok(frame) = timeout(Duration::from_millis(300), broker.receive()).await {
        assert_eq!(frame, relayed(received, 10));
        received += 1;
    }
    let queue = i32::try_from(super::super::Limits::default().pending_answers).unwrap();
    assert!((queue..=queue + 1).contains(&received), "{received}");
    broker.send(b"answer").await;
    assert_eq!(client.receive().await, b"answer"[..]);
    assert_eq!(broker.receive().await, relayed(received, 10));
}

#[tokio::test]
async fn the_end_of_the_broker_is_the_end_of_the_client() {
    let stage = Stage::new().await;
    let mut client = stage.client().await;
    client.send(&relayed(1, 10)).await;
    let (_, mut broker) = stage.broker().await;
    broker.receive().await;
    broker.send(b"answer").await;
    client.receive().await;
    drop(broker);
    assert!(client.is_closed().await, "though it waits for nothing");
}

#[tokio::test]
async fn a_broker_that_hangs_is_left_when_the_controller_gives_it_up() {
    let stage = Stage::new().await;
    let (mut waiting, mut broker) = stage.client_at(2).await;
    let (mut idle, _silent) = stage.client_at(1).await;
    waiting.send(&relayed(1, 10)).await;
    broker.receive().await;
    // Broker 3 is fenced: nothing happens to clients of others.
    stage.context.brokers.end_dead(&stage.context.image.borrow());
    idle.send(&relayed(2, 10)).await;
    stage.context.brokers.end_dead(&Image::default());
    assert!(waiting.is_closed().await && idle.is_closed().await);
}

#[tokio::test]
async fn the_end_of_the_client_is_the_end_of_the_brokers_connection() {
    let stage = Stage::new().await;
    let mut client = stage.client().await;
    client.send(&relayed(1, 10)).await;
    let (_, mut broker) = stage.broker().await;
    broker.receive().await;
    drop(client);
    assert!(broker.is_closed().await);
}

#[tokio::test]
async fn a_broker_that_cannot_be_reached_gives_way_to_the_next() {
    let mut stage = Stage::new().await;
    stage.kill(2).await;
    for _ in 0..2 {
        let mut client = stage.client().await;
        client.send(&relayed(1, 10)).await;
        assert_eq!(stage.broker().await.0, 1);
    }
}

#[tokio::test]
async fn a_broker_that_accepts_and_does_not_answer_gives_way_to_the_next() {
    let mut stage = Stage::new().await;
    let port = stage.context.image.borrow().broker(BrokerId(2)).unwrap().listeners[LISTENER].port;
    stage.kill(2).await;
    let hung = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    for _ in 0..3 {
        let mut client = stage.client().await;
        client.send(&relayed(1, 10)).await;
        let (id, mut broker) = stage.broker().await;
        assert_eq!((id, broker.receive().await), (1, relayed(1, 10).freeze()));
    }
    // Where it is the only one, it is better than none.
    stage.kill(1).await;
    let mut client = stage.client().await;
    client.send(&relayed(1, 10)).await;
    let mut questions = Vec::new();
    let asked = async {
        loop {
            let (stream, _) = hung.accept().await.unwrap();
            let mut first = [0; 8];
            stream.peek(&mut first).await.unwrap();
            if first[5] == ApiKey::Metadata as u8 {
                return Peer(stream).receive().await;
            }
            questions.push(stream);
        }
    };
    assert_eq!(timeout(DEADLINE, asked).await.unwrap(), relayed(1, 10));
}

/// Says to the gateway, which asks, that a client may do everything with the mirror.
async fn grant(broker: &mut Peer) {
    let probe = broker.receive().await;
    assert_eq!(probe[..4], [0, ApiKey::Metadata as u8, 0, 10]);
    let topic = MetadataResponseTopic::default()
        .with_name(Some(StrBytes::from_static_str(MIRROR).into()))
        .with_topic_authorized_operations(i32::MAX);
    let body = MetadataResponse::default()
        .with_topics(vec![topic])
        .with_cluster_authorized_operations(i32::MAX);
    let mut answer = BytesMut::from(&[0, 0, 0, 0, 0][..]);
    body.encode(&mut answer, 10).unwrap();
    broker.send(&answer).await;
}

fn ask_offset(partition: i32) -> Bytes {
    let partition = ListOffsetsPartition::default()
        .with_partition_index(partition)
        .with_timestamp(1000)
        .with_current_leader_epoch(-1);
    let topic = ListOffsetsTopic::default()
        .with_name(StrBytes::from_static_str(MIRROR).into())
        .with_partitions(vec![partition]);
    let body = ListOffsetsRequest::default().with_replica_id((-1).into()).with_topics(vec![topic]);
    request(5, &body)
}

fn offset_answer(partition: i32) -> BytesMut {
    let partition = ListOffsetsPartitionResponse::default()
        .with_partition_index(partition)
        .with_offset(33)
        .with_timestamp(44);
    let topic = ListOffsetsTopicResponse::default()
        .with_name(StrBytes::from_static_str(MIRROR).into())
        .with_partitions(vec![partition]);
    let mut answer = BytesMut::from(&[0, 0, 0, 77][..]);
    let body = ListOffsetsResponse::default().with_topics(vec![topic]);
    body.encode(&mut answer, 5).unwrap();
    answer
}

#[tokio::test]
async fn replicas_are_asked_in_line_or_aside() {
    let stage = Stage::new().await;
    let (mut client, mut broker) = stage.client_at(2).await;
    client.send(&relayed(1, 10)).await;
    client.send(&ask_offset(0)).await;
    client.send(&relayed(3, 10)).await;
    assert_eq!(broker.receive().await, relayed(1, 10));
    broker.send(b"answer 1").await;
    grant(&mut broker).await;
    assert_eq!(broker.receive().await[..4], ask_offset(0)[..4], "asked in line");
    assert_eq!(broker.receive().await, relayed(3, 10));
    broker.send(&offset_answer(0)).await;
    broker.send(b"answer 3").await;
    assert_eq!(client.receive().await, b"answer 1"[..]);
    assert_eq!(offset(client.receive().await), 33);
    assert_eq!(client.receive().await, b"answer 3"[..]);

    // One that this broker does not hold; the rights are known for a while.
    client.send(&ask_offset(3)).await;
    let (id, mut aside) = stage.broker().await;
    assert_eq!(id, 1);
    aside.receive().await;
    aside.send(&offset_answer(3)).await;
    assert_eq!(offset(client.receive().await), 33);
    assert!(aside.is_closed().await);
}

fn old_fetch(partition: i32) -> Bytes {
    let partition = FetchPartition::default()
        .with_partition(partition)
        .with_fetch_offset(20)
        .with_partition_max_bytes(1 << 20);
    let topic = FetchTopic::default()
        .with_topic(StrBytes::from_static_str(MIRROR).into())
        .with_partitions(vec![partition]);
    request(8, &FetchRequest::default().with_session_epoch(0).with_topics(vec![topic]))
}

fn fetch_answer(partition: i32, version: i16) -> BytesMut {
    let partition = PartitionData::default()
        .with_partition_index(partition)
        .with_high_watermark(90)
        .with_aborted_transactions(None)
        .with_preferred_read_replica((-1).into())
        .with_records(Some(Bytes::from_static(b"records")));
    let topic = FetchableTopicResponse::default()
        .with_topic(StrBytes::from_static_str(MIRROR).into())
        .with_partitions(vec![partition]);
    let mut answer = BytesMut::from(&[0, 0, 0, 77][..]);
    FetchResponse::default().with_responses(vec![topic]).encode(&mut answer, version).unwrap();
    answer
}

fn records(frame: Bytes, version: i16) -> Option<Bytes> {
    let length = i32::try_from(frame.len()).unwrap().to_be_bytes();
    let frame = [&length[..], &frame].concat().into();
    let response = decoded_frame::<FetchRequest>(version, frame);
    response.responses[0].partitions[0].records.clone()
}

#[tokio::test]
async fn a_connection_moves_to_a_broker_that_holds_what_is_asked() {
    let stage = Stage::new().await;
    let (mut client, mut broker) = stage.client_at(1).await;
    client.send(&old_fetch(3)).await;
    grant(&mut broker).await;
    broker.receive().await;
    // Only broker 2 holds this one; what was asked before is answered first, by broker 1.
    client.send(&old_fetch(4)).await;
    client.send(&relayed(9, 10)).await;
    let (id, mut second) = stage.broker().await;
    assert_eq!((id, second.receive().await[..4].to_vec()), (2, vec![0, 1, 0, 11]));
    assert_eq!(second.receive().await, relayed(9, 10));
    second.send(&fetch_answer(4, 11)).await;
    second.send(b"answer 9").await;
    broker.send(&fetch_answer(3, 11)).await;
    for _ in 0..2 {
        assert_eq!(records(client.receive().await, 8).as_deref(), Some(&b"records"[..]));
    }
    assert_eq!(client.receive().await, b"answer 9"[..]);
    assert!(broker.is_closed().await, "nobody is behind it any more");
    let connections = [1, 2].map(|id| stage.context.brokers.connections(BrokerId(id)));
    assert_eq!(connections, [0, 1]);

    // One that cannot be reached is no reason to give up the one that can.
    let mut gone = Stage::new().await;
    let (mut client, mut broker) = gone.client_at(1).await;
    gone.kill(2).await;
    client.send(&old_fetch(4)).await;
    grant(&mut broker).await;
    let code = client.receive().await;
    assert_eq!(records(code, 8).map(|records| records.len()), Some(0));
}

#[tokio::test]
async fn nothing_is_told_to_a_client_that_may_not_know_it() {
    let stage = Stage::new().await;
    let mut client = stage.client().await;
    client.send(&ask_offset(0)).await;
    let (_, mut broker) = stage.broker().await;
    broker.receive().await;
    let topic = MetadataResponseTopic::default()
        .with_error_code(29)
        .with_name(Some(StrBytes::from_static_str(MIRROR).into()));
    let mut answer = BytesMut::from(&[0, 0, 0, 0, 0][..]);
    MetadataResponse::default().with_topics(vec![topic]).encode(&mut answer, 10).unwrap();
    broker.send(&answer).await;
    let frame = client.receive().await;
    let length = i32::try_from(frame.len()).unwrap().to_be_bytes();
    let frame = [&length[..], &frame].concat().into();
    let response = decoded_frame::<ListOffsetsRequest>(5, frame);
    let partition = &response.topics[0].partitions[0];
    assert_eq!((partition.error_code, partition.offset), (29, -1));
}

fn offset(frame: Bytes) -> i64 {
    let length = i32::try_from(frame.len()).unwrap().to_be_bytes();
    let frame = [&length[..], &frame].concat().into();
    let response = decoded_frame::<ListOffsetsRequest>(5, frame);
    response.topics[0].partitions[0].offset
}

#[tokio::test]
async fn absurd_and_oversized_requests_end_the_connection() {
    let stage = Stage::new().await;
    for length in [-1i32, 3, 7, i32::MAX, 64 * 1024 + 1] {
        let mut client = stage.client().await;
        client.0.write_all(&length.to_be_bytes()).await.unwrap();
        client.0.write_all(&relayed(1, 10)).await.unwrap();
        assert!(client.is_closed().await, "{length}");
    }
    let mut absurd = BytesMut::from(&request(4, &FetchRequest::default())[..]);
    let topics = absurd.len() - 4;
    absurd[topics..].copy_from_slice(&i32::MAX.to_be_bytes());
    let mut client = stage.client().await;
    client.send(&absurd).await;
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn those_that_say_nothing_give_way_to_others() {
    let stage = Stage::new().await;
    let mut silent = Vec::new();
    for _ in 0..4 {
        silent.push(stage.client().await);
    }
    let mut client = stage.client().await;
    client.send(&request(4, &ListGroupsRequest::default())).await;
    client.receive().await;
    assert!(silent[0].is_closed().await, "the oldest");
    let read = read_frame(&mut silent[3].0);
    assert!(timeout(Duration::from_millis(100), read).await.is_err(), "the youngest has time");
}

#[tokio::test]
async fn a_request_that_does_not_come_holds_no_room_for_long() {
    let stage = Stage::new().await;
    let mut client = stage.client().await;
    client.send(&request(4, &ListGroupsRequest::default())).await;
    client.receive().await;
    let bytes = 100i32 << 20;
    client.0.write_all(&bytes.to_be_bytes()).await.unwrap();
    client.0.write_all(&produce()).await.unwrap();
    let mut end = [0; 1];
    let read = timeout(DEADLINE, client.0.read(&mut end)).await;
    assert_eq!(read.unwrap().unwrap(), 0, "left");
    assert_eq!(stage.context.held.available_permits(), 128 << 10);
}

#[tokio::test]
async fn one_client_too_many_is_turned_away() {
    let stage = Stage::new().await;
    let groups = request(4, &ListGroupsRequest::default());
    let mut clients = Vec::new();
    for _ in 0..4 {
        let mut client = stage.client().await;
        client.send(&groups).await;
        client.receive().await;
        clients.push(client);
    }
    let mut third = stage.client().await;
    third.send(&groups).await;
    assert!(third.is_closed().await);
    // The place of one that leaves is free as soon as that is noticed.
    clients.pop();
    let admitted = async {
        loop {
            let mut next = stage.client().await;
            next.send(&groups).await;
            if !next.is_closed().await {
                return;
            }
        }
    };
    timeout(DEADLINE, admitted).await.unwrap();
}

#[tokio::test]
async fn a_stop_lets_answers_under_way_finish() {
    let stage = Stage::new().await;
    let mut client = stage.client().await;
    client.send(&relayed(1, 10)).await;
    let (_, mut broker) = stage.broker().await;
    broker.receive().await;
    let mut idle = stage.client().await;
    stage.stop.cancel();
    broker.send(b"answer").await;
    assert_eq!(client.receive().await, b"answer"[..]);
    assert!(client.is_closed().await);
    assert!(idle.is_closed().await);
    timeout(DEADLINE, stage.served).await.unwrap().unwrap();
}

#[tokio::test]
async fn the_brokers_versions_are_lowered_on_their_way() {
    let answer = include_bytes!("../../../tests/data/api-versions-v4-4.3.1.bin");
    let stage = Stage::new().await;
    let mut client = stage.client().await;
    let mut ask = relayed(77, 0);
    ask[1] = ApiKey::ApiVersions as u8;
    ask[3] = 4;
    client.send(&ask).await;
    let (_, mut broker) = stage.broker().await;
    assert_eq!(broker.receive().await, ask);
    broker.send(&answer[4..]).await;
    let lowered = client.receive().await;
    let expected = super::super::versions::lower(4, BytesMut::from(&answer[..])).unwrap();
    assert!(lowered == expected[4..] && lowered != answer[4..]);

    ask[3] = 5;
    client.send(&ask).await;
    assert_eq!(client.receive().await, super::super::versions::refusal(5, 77).unwrap()[4..]);
}
