//! A source for tests: one broker with one topic, on a real socket, with fetch sessions as stock
//! brokers have them. Tests change its state while it runs.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::messages::fetch_response::{FetchableTopicResponse, PartitionData};
use kafka_protocol::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsTopicResponse,
};
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::{
    ApiVersionsResponse, BrokerId, FetchRequest, FetchResponse, ListOffsetsRequest,
    ListOffsetsResponse, MetadataResponse, RequestHeader, ResponseHeader, TopicName,
};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use uuid::Uuid;

use crate::client::Endpoint;
use crate::wire::batch::BatchHeader;
use crate::wire::frame::RequestPrefix;

/// No test waits longer for anything.
pub(super) const DEADLINE: Duration = Duration::from_secs(20);
pub(super) const TOPIC: &str = "orders";
/// The topic's first id, and the only one that tests ask for.
pub(super) const ASKED_ID: u128 = 99;

/// What a broker does once instead of what it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mischief {
    /// The next fetch is answered with bytes that are no answer.
    Garbage,
    /// The next fetch is answered with an error for all partitions.
    Error(i16),
    /// The next fetch is answered with an error for the whole request.
    TopLevel(i16),
    /// A bit of the next records is flipped on the way.
    FlippedBit,
    /// The next fetch is throttled: an empty answer.
    Throttle(Duration),
    /// The connection is closed instead of an answer.
    Hangup,
}

#[derive(Debug, Default)]
pub(super) struct Log {
    pub start: i64,
    pub batches: Vec<Vec<u8>>,
}

impl Log {
    pub(super) fn end(&self) -> i64 {
        let last = self.batches.last();
        last.map_or(self.start, |batch| BatchHeader::read(batch).unwrap().unwrap().next_offset.0)
    }

    fn read(&self, from: i64) -> Vec<u8> {
        let next = |batch: &&Vec<u8>| BatchHeader::read(batch).unwrap().unwrap().next_offset.0;
        self.batches.iter().filter(|batch| next(batch) > from).flatten().copied().collect()
    }
}

#[derive(Debug, Default)]
struct Session {
    epoch: i32,
    /// Fetch offset, and high watermark as last told.
    partitions: BTreeMap<i32, (i64, i64)>,
}

#[derive(Debug)]
pub(super) struct State {
    /// `None`: deleted.
    pub topic: Option<Uuid>,
    pub epoch: i32,
    pub logs: BTreeMap<i32, Log>,
    pub fetch_version: i16,
    pub gives_sessions: bool,
    pub denied: bool,
    /// Bits flipped for good: every read of this partition is damaged.
    pub damaged: Option<i32>,
    pub mischief: VecDeque<Mischief>,
    /// (session epoch, partitions asked, partitions forgotten, max wait) of each fetch.
    pub fetches: Vec<(i32, Vec<i32>, Vec<i32>, i32)>,
    pub connections: usize,
    sessions: HashMap<i32, Session>,
}

#[derive(Clone)]
pub(super) struct FakeBroker {
    state: Arc<Mutex<State>>,
    changed: watch::Sender<u64>,
    /// Counts fetches.
    fetched: watch::Sender<u64>,
    endpoint: Endpoint,
}

impl FakeBroker {
    pub(super) async fn start(partitions: i32) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = Endpoint::new("127.0.0.1", listener.local_addr().unwrap().port());
        let state = State {
            topic: Some(Uuid::from_u128(ASKED_ID)),
            epoch: 4,
            logs: (0..partitions).map(|partition| (partition, Log::default())).collect(),
            fetch_version: 17,
            gives_sessions: true,
            denied: false,
            damaged: None,
            mischief: VecDeque::new(),
            fetches: Vec::new(),
            connections: 0,
            sessions: HashMap::new(),
        };
        let (changed, _) = watch::channel(0);
        let (fetched, _) = watch::channel(0);
        let broker = Self { state: Arc::new(Mutex::new(state)), changed, fetched, endpoint };
        tokio::spawn(broker.clone().accept(listener));
        broker
    }

    pub(super) fn endpoint(&self) -> Endpoint {
        self.endpoint.clone()
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Changes something, and wakes the long polls.
    pub(super) fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.changed.send_modify(|count| *count += 1);
    }

    /// Waits, with a deadline, until a fetch finds this true.
    pub(super) async fn until(&self, what: impl Fn(&State) -> bool) {
        let mut fetched = self.fetched.subscribe();
        let waited = fetched.wait_for(|_| what(&self.state()));
        tokio::time::timeout(DEADLINE, waited).await.expect("in time").unwrap();
    }

    pub(super) fn append(&self, partition: i32, batch: Vec<u8>) {
        self.change(|state| state.logs.get_mut(&partition).unwrap().batches.push(batch));
    }

    async fn accept(self, listener: TcpListener) {
        while let Ok((stream, _)) = listener.accept().await {
            self.state().connections += 1;
            tokio::spawn(self.clone().serve(stream));
        }
    }

    async fn serve(self, mut stream: TcpStream) -> Option<()> {
        loop {
            let length = stream.read_i32().await.ok()?;
            let mut frame = vec![0; usize::try_from(length).unwrap()];
            stream.read_exact(&mut frame).await.ok()?;
            let frame = Bytes::from(frame);
            let prefix = RequestPrefix::peek(&frame).unwrap();
            let answer = match prefix.api_key {
                1 => self.fetch(prefix, request(prefix, frame)).await?,
                2 => encode(prefix, &self.list_offsets(&request(prefix, frame))),
                3 => encode(prefix, &self.metadata()),
                18 => encode(prefix, &self.versions()),
                key => panic!("request {key}"),
            };
            stream.write_i32(i32::try_from(answer.len()).unwrap()).await.ok()?;
            stream.write_all(&answer).await.ok()?;
        }
    }

    fn versions(&self) -> ApiVersionsResponse {
        let keys = [(1, 4, self.state().fetch_version), (2, 1, 8), (3, 0, 12), (18, 0, 3)];
        let keys = keys.map(|(key, min, max)| {
            ApiVersion::default().with_api_key(key).with_min_version(min).with_max_version(max)
        });
        ApiVersionsResponse::default().with_api_keys(keys.to_vec())
    }

    fn metadata(&self) -> MetadataResponse {
        let state = self.state();
        let broker = MetadataResponseBroker::default()
            .with_node_id(BrokerId(1))
            .with_host(StrBytes::from_string(self.endpoint.host.clone()))
            .with_port(i32::from(self.endpoint.port));
        let partitions = state.logs.keys().map(|&partition| {
            MetadataResponsePartition::default()
                .with_partition_index(partition)
                .with_leader_id(BrokerId(1))
                .with_leader_epoch(state.epoch)
        });
        let error = match state.topic {
            _ if state.denied => 29,
            Some(_) => 0,
            None => 3,
        };
        let topic = MetadataResponseTopic::default()
            .with_name(Some(TopicName(StrBytes::from_static_str(TOPIC))))
            .with_topic_id(state.topic.unwrap_or_default())
            .with_error_code(error)
            .with_partitions(if error == 0 { partitions.collect() } else { Vec::new() });
        MetadataResponse::default().with_brokers(vec![broker]).with_topics(vec![topic])
    }

    fn list_offsets(&self, request: &ListOffsetsRequest) -> ListOffsetsResponse {
        let state = self.state();
        let topics = request.topics.iter().map(|topic| {
            let partitions = topic.partitions.iter().map(|asked| {
                let log = &state.logs[&asked.partition_index];
                let offset = match asked.timestamp {
                    -2 => log.start,
                    -1 => log.end(),
                    time => time, // the log's clock ticks once a record
                };
                ListOffsetsPartitionResponse::default()
                    .with_partition_index(asked.partition_index)
                    .with_offset(offset)
            });
            ListOffsetsTopicResponse::default()
                .with_name(topic.name.clone())
                .with_partitions(partitions.collect())
        });
        ListOffsetsResponse::default().with_topics(topics.collect())
    }

    async fn fetch(&self, prefix: RequestPrefix, request: FetchRequest) -> Option<Bytes> {
        let (id, known) = self.begin(prefix.api_version, &request);
        let mischief = self.state().mischief.pop_front();
        self.fetched.send_modify(|count| *count += 1);
        match mischief {
            Some(Mischief::Hangup) => return None,
            Some(Mischief::Garbage) => {
                let mut garbage = BytesMut::new();
                garbage.put_i32(prefix.correlation_id);
                garbage.put_bytes(0x7f, 600);
                return Some(garbage.freeze());
            }
            Some(Mischief::TopLevel(error)) => {
                self.state().sessions.clear();
                return Some(encode(prefix, &FetchResponse::default().with_error_code(error)));
            }
            Some(Mischief::Throttle(time)) => {
                let time = i32::try_from(time.as_millis()).unwrap();
                let id = if request.session_epoch == 0 { 0 } else { id };
                let empty =
                    FetchResponse::default().with_throttle_time_ms(time).with_session_id(id);
                return Some(encode(prefix, &empty));
            }
            Some(Mischief::Error(_) | Mischief::FlippedBit) | None => {}
        }
        if !known {
            return Some(encode(prefix, &FetchResponse::default().with_error_code(70)));
        }
        let wait = Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap());
        let deadline = tokio::time::Instant::now() + wait;
        let mut changed = self.changed.subscribe();
        loop {
            let partitions = self.read(id, request.session_epoch <= 0, mischief);
            let late = tokio::time::Instant::now() >= deadline;
            if !partitions.is_empty() || late {
                let gives = self.state().gives_sessions && prefix.api_version >= 7;
                let id = if gives { id } else { 0 };
                return Some(encode(prefix, &self.answer(prefix.api_version, id, partitions)));
            }
            let _late = tokio::time::timeout_at(deadline, changed.changed()).await;
        }
    }

    /// Takes over what the request says of its session; the session's id, and whether it is known.
    fn begin(&self, version: i16, request: &FetchRequest) -> (i32, bool) {
        let mut state = self.state();
        let asked: Vec<_> = request.topics.iter().flat_map(|topic| &topic.partitions).collect();
        let forgotten: Vec<_> =
            request.forgotten_topics_data.iter().flat_map(|t| t.partitions.clone()).collect();
        for topic in &request.topics {
            assert_eq!(version >= 13, topic.topic.as_str().is_empty());
        }
        let numbers = asked.iter().map(|asked| asked.partition).collect();
        state.fetches.push((
            request.session_epoch,
            numbers,
            forgotten.clone(),
            request.max_wait_ms,
        ));
        let id = if request.session_epoch <= 0 {
            state.sessions.remove(&request.session_id);
            let id = 100 + i32::try_from(state.fetches.len()).unwrap();
            state.sessions.insert(id, Session::default());
            id
        } else {
            request.session_id
        };
        let Some(session) = state.sessions.get_mut(&id) else {
            return (id, false);
        };
        assert_eq!(session.epoch, request.session_epoch.max(0));
        session.epoch += 1;
        for asked in asked {
            let told = session.partitions.get(&asked.partition).map_or(-1, |known| known.1);
            session.partitions.insert(asked.partition, (asked.fetch_offset, told));
        }
        for partition in forgotten {
            session.partitions.remove(&partition).unwrap();
        }
        (id, true)
    }

    fn read(&self, id: i32, full: bool, mischief: Option<Mischief>) -> Vec<PartitionData> {
        let mut state = self.state();
        let state = &mut *state;
        let Some(session) = state.sessions.get_mut(&id) else {
            return Vec::new();
        };
        let mut answers = Vec::new();
        for (&partition, (offset, told)) in &mut session.partitions {
            let mut data = PartitionData::default()
                .with_partition_index(partition)
                .with_preferred_read_replica(BrokerId(-1));
            let log = state.logs.get(&partition);
            let error = match (mischief, log, state.topic) {
                (Some(Mischief::Error(error)), _, _) => error,
                _ if state.denied => 29,
                (_, None, _) | (_, _, None) => 100,
                (_, Some(log), _) if *offset < log.start || *offset > log.end() => 1,
                _ => 0,
            };
            let Some(log) = log.filter(|_| error == 0) else {
                answers.push(data.with_error_code(error).with_high_watermark(-1));
                continue;
            };
            let mut records = log.read(*offset);
            if (mischief == Some(Mischief::FlippedBit) || state.damaged == Some(partition))
                && let Some(byte) = records.last_mut()
            {
                *byte ^= 1;
            }
            if full || !records.is_empty() || *told != log.end() {
                *told = log.end();
                data = data.with_high_watermark(log.end()).with_log_start_offset(log.start);
                answers.push(data.with_records(Some(records.into())));
            }
        }
        answers
    }

    fn answer(&self, version: i16, id: i32, partitions: Vec<PartitionData>) -> FetchResponse {
        let mut topic = FetchableTopicResponse::default().with_partitions(partitions);
        if version >= 13 {
            topic.topic_id = Uuid::from_u128(ASKED_ID); // as it was asked
        } else {
            topic.topic = TopicName(StrBytes::from_static_str(TOPIC));
        }
        FetchResponse::default().with_session_id(id).with_responses(vec![topic])
    }
}

fn request<R: Request>(prefix: RequestPrefix, mut frame: Bytes) -> R {
    RequestHeader::decode(&mut frame, R::header_version(prefix.api_version)).unwrap();
    R::decode(&mut frame, prefix.api_version).unwrap()
}

fn encode<A: Encodable + HeaderVersion>(prefix: RequestPrefix, answer: &A) -> Bytes {
    let mut frame = BytesMut::new();
    let header = ResponseHeader::default().with_correlation_id(prefix.correlation_id);
    header.encode(&mut frame, A::header_version(prefix.api_version)).unwrap();
    answer.encode(&mut frame, prefix.api_version).unwrap();
    frame.freeze()
}
