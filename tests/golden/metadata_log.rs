//! An image of a destination, made as the daemon makes it: from records of a metadata log.

use std::sync::Arc;

use lockstep::image::{Image, Replay, seat_directory};
use lockstep::types::{BrokerId, Offset, Uuid};

const CLUSTER: &str = "golden";

/// A metadata log that is being written, and the image of it.
pub struct MetadataLog {
    replay: Replay,
    next_offset: i64,
    image: Arc<Image>,
}

impl Default for MetadataLog {
    fn default() -> Self {
        let replay = Replay::of_cluster(CLUSTER);
        Self { replay, next_offset: 0, image: Arc::new(Image::of_cluster(CLUSTER)) }
    }
}

impl MetadataLog {
    /// The cluster after the last record.
    pub fn image(&self) -> &Image {
        &self.image
    }

    /// `RegisterBroker` v4.
    pub fn register_broker(&mut self, id: i32, rack: Option<&str>, state: BrokerState) {
        self.register(id, rack, Uuid::from_u128(0xd00 + id as u128), state);
    }

    /// The same of a seat.
    pub fn register_seat(&mut self, id: i32, state: BrokerState) {
        self.register(id, None, seat_directory(CLUSTER, BrokerId(id)), state);
    }

    fn register(&mut self, id: i32, rack: Option<&str>, dir: Uuid, state: BrokerState) {
        let listeners = array(&[]);
        let features = array(&[]);
        let mut record = record(0, 4);
        record.extend(id.to_be_bytes());
        // Not migrating from ZooKeeper.
        record.push(0);
        record.extend(Uuid::from_u128(1).as_bytes());
        record.extend(self.next_offset.to_be_bytes());
        record.extend([listeners, features, string(rack)].concat());
        record.extend([u8::from(state == BrokerState::Fenced)]);
        record.extend([u8::from(state == BrokerState::Stopping)]);
        let dirs = array(&[dir.as_bytes().to_vec()]);
        let mut tags = vec![(0, dirs.clone())];
        tags.extend((state == BrokerState::Cordoned).then_some((1, dirs)));
        record.extend(tagged(&tags));
        self.append(&record);
    }

    /// `Topic` v0.
    pub fn topic(&mut self, id: u128, name: &str) {
        let id = Uuid::from_u128(id);
        self.append(
            &[record(2, 0), string(Some(name)), id.as_bytes().to_vec(), tagged(&[])].concat(),
        );
    }

    /// `RemoveTopic` v0.
    pub fn remove_topic(&mut self, id: Uuid) {
        self.append(&[record(9, 0), id.as_bytes().to_vec(), tagged(&[])].concat());
    }

    /// `Partition` v0: the first replica leads.
    pub fn partition(&mut self, topic: Uuid, partition: i32, replicas: &[i32]) {
        let state = PartitionState {
            replicas: replicas.to_vec(),
            in_sync: replicas.to_vec(),
            leader: replicas[0],
            ..PartitionState::default()
        };
        self.partition_in(topic, partition, &state);
    }

    /// The same in any state.
    pub fn partition_in(&mut self, topic: Uuid, partition: i32, state: &PartitionState) {
        let mut record = record(3, 0);
        record.extend(partition.to_be_bytes());
        record.extend(topic.as_bytes());
        for ids in [&state.replicas, &state.in_sync, &state.removing, &state.adding] {
            let ids: Vec<_> = ids.iter().map(|id| id.to_be_bytes().to_vec()).collect();
            record.extend(array(&ids));
        }
        record.extend(state.leader.to_be_bytes());
        record.extend([state.leader_epoch.to_be_bytes(), 0_i32.to_be_bytes()].concat());
        record.extend(tagged(&[]));
        self.append(&record);
    }

    /// `Config` v0 of a topic; `None` deletes.
    pub fn topic_config(&mut self, topic: &str, key: &str, value: Option<&str>) {
        let strings = [string(Some(topic)), string(Some(key)), string(value)].concat();
        self.append(&[record(4, 0), vec![2], strings, tagged(&[])].concat());
    }

    /// `FeatureLevel` v0.
    pub fn feature(&mut self, name: &str, level: i16) {
        let level = level.to_be_bytes().to_vec();
        self.append(&[record(12, 0), string(Some(name)), level, tagged(&[])].concat());
    }

    fn append(&mut self, record: &[u8]) {
        self.replay.apply(Offset(self.next_offset), record).unwrap();
        self.next_offset += 1;
        if let Some((image, _)) = self.replay.take() {
            self.image = image;
        }
    }
}

/// What is said of a partition; leader -1 is none.
#[derive(Clone, Debug, Default)]
pub struct PartitionState {
    pub replicas: Vec<i32>,
    pub in_sync: Vec<i32>,
    pub removing: Vec<i32>,
    pub adding: Vec<i32>,
    pub leader: i32,
    pub leader_epoch: i32,
}

/// What a broker is registered as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BrokerState {
    Unfenced,
    Fenced,
    Stopping,
    Cordoned,
}

/// Frame version 1, key, version.
fn record(key: u8, version: u8) -> Vec<u8> {
    vec![1, key, version]
}

fn length(length: usize) -> u8 {
    u8::try_from(length).ok().filter(|length| *length < 0x80).expect("short enough for one byte")
}

fn string(text: Option<&str>) -> Vec<u8> {
    match text {
        None => vec![0],
        Some(text) => [&[length(text.len() + 1)], text.as_bytes()].concat(),
    }
}

fn array(elements: &[Vec<u8>]) -> Vec<u8> {
    [vec![length(elements.len() + 1)], elements.concat()].concat()
}

fn tagged(fields: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = vec![length(fields.len())];
    for (tag, field) in fields {
        bytes.extend([*tag, length(field.len())]);
        bytes.extend(field);
    }
    bytes
}
