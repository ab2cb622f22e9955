//! A stock broker's replica fetcher (`AbstractFetcherThread`, `ReplicaFetcherThread`): what it asks
//! the seat, and what it does to its log with what the seat answers. The ways in which it destroys
//! data are all here.

use std::collections::BTreeMap;
use std::time::Duration;

use kafka_protocol::messages::fetch_request::{
    FetchPartition, FetchTopic, ForgottenTopic, ReplicaState,
};
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::{
    ApiKey, FetchRequest, FetchResponse, ListOffsetsRequest, ListOffsetsResponse,
};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, StrBytes};
use tokio::io::DuplexStream;
use tokio::time::Instant;

use super::append::{take_in, truncate_by_epoch};
use super::broker::{
    BACKOFF, FENCED_LEADER_EPOCH, Following, NOT_LEADER, Role, UNKNOWN_LEADER_EPOCH,
};
use super::controller::Key;
use super::log::{Log, OUT_OF_RANGE};
use super::wire;
use super::world::{Party, SEAT, Shared, World};

/// `replica.fetch.wait.max.ms`.
const MAX_WAIT: Duration = Duration::from_millis(500);
/// `replica.socket.timeout.ms`.
const SOCKET_TIMEOUT: Duration = Duration::from_secs(30);
const FETCH_VERSION: i16 = 17;
const LIST_OFFSETS_VERSION: i16 = 10;

/// What was asked of a partition: offset, last epoch, leader epoch, log start.
type Asked = (i64, i32, i32, i64);

/// One fetcher thread of one broker towards the seat, in one life of the broker.
struct Fetcher {
    world: Shared,
    broker: i32,
    life: u64,
    stream: Option<DuplexStream>,
    correlation: i32,
    session: (i32, i32),
    known: BTreeMap<Key, Asked>,
}

/// Runs a broker's fetcher for ever, life after life.
pub async fn run(world: Shared, broker: i32) {
    loop {
        let life = {
            let world = world.lock();
            let broker = &world.brokers[&broker];
            broker.is_up.then_some(broker.life)
        };
        let Some(life) = life else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let known = BTreeMap::new();
        let session = (0, 0);
        let mut fetcher = Fetcher {
            world: world.clone(),
            broker,
            life,
            stream: None,
            correlation: 0,
            session,
            known,
        };
        while fetcher.is_alive() {
            fetcher.round().await;
        }
    }
}

impl Fetcher {
    fn is_alive(&self) -> bool {
        let world = self.world.lock();
        let broker = &world.brokers[&self.broker];
        broker.is_up && broker.life == self.life
    }

    async fn round(&mut self) {
        self.truncate_without_epochs();
        let asked = self.ready();
        if asked.is_empty() && self.known.is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
            return;
        }
        let request = self.request(&asked);
        let answer: Option<FetchResponse> =
            self.exchange(ApiKey::Fetch, FETCH_VERSION, &request).await;
        if !self.is_alive() {
            return;
        }
        let Some(answer) = answer else {
            self.session = (0, 0);
            self.known.clear();
            self.delay_all(asked.keys().copied().collect());
            return;
        };
        if let Some(partitions) = self.accept(&asked, answer) {
            for (key, data) in partitions {
                self.process(key, asked[&key], data).await;
            }
        } else {
            self.delay_all(asked.keys().copied().collect());
        }
    }

    /// `truncateToHighWatermark`, for logs without epochs.
    fn truncate_without_epochs(&self) {
        let mut world = self.world.lock();
        self.each(&mut world, |log, follows| {
            if follows.must_truncate {
                let committed = log.high_watermark;
                log.truncate_to(committed);
                follows.offset = committed;
                follows.must_truncate = false;
            }
        });
        world.check();
    }

    fn each(&self, world: &mut World, mut change: impl FnMut(&mut Log, &mut Following)) {
        let Some(broker) = world.brokers.get_mut(&self.broker) else { return };
        for replica in broker.replicas.values_mut() {
            if let Role::Follows(follows) = &mut replica.role
                && follows.leader == SEAT
            {
                change(&mut replica.log, follows);
            }
        }
    }

    /// Partitions to fetch now.
    fn ready(&self) -> BTreeMap<Key, Asked> {
        let world = self.world.lock();
        let now = Instant::now();
        let mut asked = BTreeMap::new();
        for (&key, replica) in &world.brokers[&self.broker].replicas {
            if let Role::Follows(follows) = &replica.role
                && follows.leader == SEAT
                && follows.failed.is_none()
                && follows.delayed_until <= now
            {
                let last = follows.last_epoch.unwrap_or(-1);
                asked.insert(key, (follows.offset, last, follows.epoch, replica.log.start));
            }
        }
        asked
    }

    fn request(&mut self, asked: &BTreeMap<Key, Asked>) -> FetchRequest {
        let is_full = self.session.1 == 0;
        let named =
            asked.iter().filter(|(key, asked)| is_full || self.known.get(key) != Some(asked));
        let topics = named.map(|(key, asked)| {
            let partition = FetchPartition::default()
                .with_partition(key.1)
                .with_fetch_offset(asked.0)
                .with_last_fetched_epoch(asked.1)
                .with_current_leader_epoch(asked.2)
                .with_log_start_offset(asked.3)
                .with_partition_max_bytes(1 << 20);
            FetchTopic::default().with_topic_id(key.0).with_partitions(vec![partition])
        });
        let topics = topics.collect();
        let gone = self.known.keys().filter(|key| !is_full && !asked.contains_key(key));
        let gone = gone
            .map(|key| ForgottenTopic::default().with_topic_id(key.0).with_partitions(vec![key.1]));
        let gone = gone.collect();
        self.known = asked.clone();
        let world = self.world.lock();
        let state = ReplicaState::default()
            .with_replica_id(self.broker.into())
            .with_replica_epoch(world.brokers[&self.broker].epoch);
        FetchRequest::default()
            .with_replica_state(state)
            .with_max_wait_ms(MAX_WAIT.as_millis() as i32)
            .with_min_bytes(1)
            .with_max_bytes(10 << 20)
            .with_session_id(self.session.0)
            .with_session_epoch(self.session.1)
            .with_topics(topics)
            .with_forgotten_topics_data(gone)
    }

    /// `FetchSessionHandler.handleResponse`: what of the answer counts.
    fn accept(
        &mut self,
        asked: &BTreeMap<Key, Asked>,
        answer: FetchResponse,
    ) -> Option<Vec<(Key, PartitionData)>> {
        let was_full = self.session.1 == 0;
        if answer.error_code != 0 {
            self.session = (0, 0);
            return None;
        }
        let partitions: Vec<_> = answer
            .responses
            .into_iter()
            .flat_map(|topic| {
                let id = topic.topic_id;
                topic.partitions.into_iter().map(move |data| ((id, data.partition_index), data))
            })
            .collect();
        let strange = partitions.iter().any(|(key, _)| !asked.contains_key(key));
        let is_short = was_full && partitions.len() < asked.len();
        if strange || is_short {
            let mut world = self.world.lock();
            world.say(format!("broker {} throws an answer away", self.broker));
            self.session = (0, 0);
            return None;
        }
        self.session = match answer.session_id {
            0 => (0, 0),
            id => (id, self.session.1 + 1),
        };
        Some(partitions)
    }

    /// One request and its answer on the thread's connection.
    async fn exchange<R, A>(&mut self, key: ApiKey, version: i16, body: &R) -> Option<A>
    where
        R: Encodable + HeaderVersion,
        A: Decodable,
    {
        let party = Party::Broker(self.broker);
        if self.stream.is_none() {
            let (near, far) = tokio::io::duplex(1 << 20);
            let door = self.world.lock().door.clone();
            door?.send(far).ok()?;
            self.stream = Some(near);
        }
        self.correlation += 1;
        let frame = wire::request(key, version, self.correlation, body);
        let mut stream = self.stream.take()?;
        let exchange = async {
            self.world.travel(party).await;
            if !wire::write(&mut stream, &frame).await {
                return None;
            }
            let answer = wire::read_frame(&mut stream).await?;
            self.world.travel(party).await;
            Some(answer)
        };
        let answer = tokio::time::timeout(SOCKET_TIMEOUT, exchange).await.ok()??;
        self.stream = Some(stream);
        Some(wire::response(key, version, answer))
    }

    fn delay_all(&self, keys: Vec<Key>) {
        let mut world = self.world.lock();
        for key in keys {
            self.with(&mut world, key, |_, follows| {
                follows.delayed_until = Instant::now() + BACKOFF;
            });
        }
    }

    /// Changes a partition that still follows the seat.
    fn with<T>(
        &self,
        world: &mut World,
        key: Key,
        change: impl FnOnce(&mut Log, &mut Following) -> T,
    ) -> Option<T> {
        let broker = world.brokers.get_mut(&self.broker)?;
        let replica = broker.replicas.get_mut(&key)?;
        match &mut replica.role {
            Role::Follows(follows) if follows.leader == SEAT => {
                Some(change(&mut replica.log, follows))
            }
            _ => None,
        }
    }

    /// `processFetchRequest` for one partition.
    async fn process(&mut self, key: Key, asked: Asked, data: PartitionData) {
        let mut must_ask = false;
        {
            let mut world = self.world.lock();
            if data.error_code == 0 && data.diverging_epoch.end_offset < 0 {
                world.heard(self.broker, key, &data);
            }
            let done = self.with(&mut world, key, |log, follows| {
                // The state has moved on since it was asked.
                if follows.epoch != asked.2 || follows.offset != asked.0 || follows.failed.is_some()
                {
                    return None;
                }
                match data.error_code {
                    0 if data.diverging_epoch.end_offset >= 0 => {
                        let (epoch, end) =
                            (data.diverging_epoch.epoch, data.diverging_epoch.end_offset);
                        Some(truncate_by_epoch(log, follows, epoch, end))
                    }
                    0 => take_in(log, follows, &data),
                    OUT_OF_RANGE => {
                        must_ask = true;
                        None
                    }
                    FENCED_LEADER_EPOCH => {
                        let why = "fenced in its own epoch".to_owned();
                        follows.failed = Some(why.clone());
                        Some(why)
                    }
                    _ => {
                        follows.delayed_until = Instant::now() + BACKOFF;
                        None
                    }
                }
            });
            if let Some(Some(text)) = done {
                world.say(format!("broker {} partition {}: {text}", self.broker, key.1));
            }
            world.check();
        }
        if must_ask {
            self.fetch_offset_and_truncate(key, asked).await;
        }
    }

    /// What error 1 leads to: the leader's end, and then perhaps its start, decide what is left.
    async fn fetch_offset_and_truncate(&mut self, key: Key, asked: Asked) {
        let outcome = async {
            let end = self.list_offsets(key, asked.2, -1).await?;
            let own = self.with(&mut self.world.lock(), key, |log, _| log.end).ok_or(NOT_LEADER)?;
            if end < own {
                return Ok((end, None));
            }
            let start = self.list_offsets(key, asked.2, -2).await?;
            Ok((end, Some(start)))
        };
        let outcome: Result<(i64, Option<i64>), i16> = outcome.await;
        let mut world = self.world.lock();
        let said = self.with(&mut world, key, |log, follows| {
            if follows.epoch != asked.2 {
                return String::new();
            }
            match outcome {
                Err(code) => {
                    follows.delayed_until = Instant::now() + BACKOFF;
                    if code == FENCED_LEADER_EPOCH {
                        follows.failed = Some("fenced in its own epoch".to_owned());
                    }
                    format!("no offsets: {code}")
                }
                Ok((end, None)) => {
                    log.truncate_to(end);
                    follows.offset = end;
                    follows.last_epoch = log.latest_epoch();
                    format!("truncates to the leader's end {end}")
                }
                Ok((_, Some(start))) => {
                    if start > log.end {
                        log.truncate_fully(start);
                    }
                    follows.offset = log.end;
                    follows.last_epoch = log.latest_epoch();
                    format!("jumps to {}", log.end)
                }
            }
        });
        world.say(format!("broker {} partition {}: {said:?}", self.broker, key.1));
        world.check();
    }

    async fn list_offsets(&mut self, key: Key, epoch: i32, timestamp: i64) -> Result<i64, i16> {
        let name = {
            let world = self.world.lock();
            let mut topics = world.controller.topics.iter();
            topics.find(|(_, id)| **id == key.0).map(|(name, _)| name.clone()).unwrap_or_default()
        };
        let partition = ListOffsetsPartition::default()
            .with_partition_index(key.1)
            .with_current_leader_epoch(epoch)
            .with_timestamp(timestamp);
        let topic = ListOffsetsTopic::default()
            .with_name(StrBytes::from_string(name).into())
            .with_partitions(vec![partition]);
        let request = ListOffsetsRequest::default()
            .with_replica_id(self.broker.into())
            .with_topics(vec![topic]);
        let answer: Option<ListOffsetsResponse> =
            self.exchange(ApiKey::ListOffsets, LIST_OFFSETS_VERSION, &request).await;
        let Some(answer) = answer else { return Err(UNKNOWN_LEADER_EPOCH) };
        let partition = &answer.topics[0].partitions[0];
        if partition.error_code == 0 { Ok(partition.offset) } else { Err(partition.error_code) }
    }
}
