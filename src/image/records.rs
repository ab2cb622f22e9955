//! One value of the metadata log: frame version, api key, version, and the record inside.

use super::layouts::{
    bare, broker_registration_change, clear_elr, config, feature_level, fencing, partition,
    partition_change, producer_ids, register_broker, register_controller, remove_topic, topic,
    unregister_broker,
};
use super::reader::Reader;
use super::{BrokerImage, Listeners, Malformed, PartitionImage};
use crate::types::{BrokerEpoch, BrokerId, PartitionKey, TopicId, TopicName, Uuid};

/// The only frame version that there is.
const FRAME_VERSION: u32 = 1;

/// One record, as far as it concerns the image.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Record {
    RegisterBroker(BrokerImage),
    UnregisterBroker(BrokerId),
    ChangeBroker(BrokerChange),
    RegisterController {
        id: BrokerId,
        listeners: Listeners,
    },
    Topic {
        id: TopicId,
        name: TopicName,
    },
    RemoveTopic(TopicId),
    Partition(PartitionKey, PartitionImage),
    ChangePartition(PartitionKey, PartitionChange),
    /// `None`: of all topics.
    ClearElr(Option<TopicName>),
    Config {
        of: ConfigOwner,
        key: String,
        value: Option<String>,
    },
    FeatureLevel {
        name: String,
        level: i16,
    },
    NextProducerId(i64),
    BeginTransaction,
    EndTransaction,
    AbortTransaction,
    /// A known record type that the image has no use for.
    Unused,
    /// A record type that this release does not know, by its key.
    Unknown(u32),
}

/// Changes of a registration; `None` and empty mean: as it was.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BrokerChange {
    pub(super) id: BrokerId,
    pub(super) epoch: BrokerEpoch,
    pub(super) is_fenced: Option<bool>,
    pub(super) enters_controlled_shutdown: bool,
    pub(super) log_dirs: Vec<Uuid>,
    pub(super) cordoned_log_dirs: Option<Vec<Uuid>>,
}

impl BrokerChange {
    pub(super) fn none(id: BrokerId, epoch: BrokerEpoch) -> Self {
        Self {
            id,
            epoch,
            is_fenced: None,
            enters_controlled_shutdown: false,
            log_dirs: Vec::new(),
            cordoned_log_dirs: None,
        }
    }
}

/// Changes of a partition; `None` means: as it was.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct PartitionChange {
    pub(super) replicas: Option<Vec<BrokerId>>,
    pub(super) in_sync: Option<Vec<BrokerId>>,
    pub(super) removing: Option<Vec<BrokerId>>,
    pub(super) adding: Option<Vec<BrokerId>>,
    /// `Some(None)`: nobody leads now.
    pub(super) leader: Option<Option<BrokerId>>,
    pub(super) is_recovering: Option<bool>,
    pub(super) directories: Option<Vec<Uuid>>,
    pub(super) eligible_leaders: Option<Vec<BrokerId>>,
    pub(super) last_known_eligible_leaders: Option<Vec<BrokerId>>,
}

/// Whose setting a `Config` record changes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ConfigOwner {
    Topic(TopicName),
    Broker(BrokerId),
    AllBrokers,
}

/// Why a value is not a record for us.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Undecodable {
    Malformed(Malformed),
    Version { name: &'static str, key: u32, version: u32, newest: u32 },
}

impl From<Malformed> for Undecodable {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed)
    }
}

type Decode = fn(&mut Reader<'_>, u32) -> Result<Record, Malformed>;

/// A record type that we read: its name, the newest version known, and how to read it.
struct Kind {
    name: &'static str,
    newest: u32,
    decode: Decode,
}

impl Kind {
    const fn new(name: &'static str, newest: u32, decode: Decode) -> Self {
        Self { name, newest, decode }
    }

    fn of_key(key: u32) -> Option<Self> {
        Some(match key {
            0 => Self::new("RegisterBroker", 4, register_broker),
            1 => Self::new("UnregisterBroker", 0, unregister_broker),
            2 => Self::new("Topic", 0, topic),
            3 => Self::new("Partition", 2, partition),
            4 => Self::new("Config", 0, config),
            5 => Self::new("PartitionChange", 2, partition_change),
            7 => Self::new("FenceBroker", 0, |r, _| fencing(r, true)),
            8 => Self::new("UnfenceBroker", 0, |r, _| fencing(r, false)),
            9 => Self::new("RemoveTopic", 0, remove_topic),
            12 => Self::new("FeatureLevel", 0, feature_level),
            15 => Self::new("ProducerIds", 0, producer_ids),
            17 => Self::new("BrokerRegistrationChange", 3, broker_registration_change),
            20 => Self::new("NoOp", 0, |r, _| bare(r, Record::Unused)),
            23 => Self::new("BeginTransaction", 0, |r, _| bare(r, Record::BeginTransaction)),
            24 => Self::new("EndTransaction", 0, |r, _| bare(r, Record::EndTransaction)),
            25 => Self::new("AbortTransaction", 0, |r, _| bare(r, Record::AbortTransaction)),
            27 => Self::new("RegisterController", 0, register_controller),
            28 => Self::new("ClearElr", 0, clear_elr),
            _ => return None,
        })
    }
}

/// Known types without a place in the image, whatever their version: delegation tokens, SCRAM
/// credentials, client quotas, ACLs and the state of the migration from ZooKeeper.
fn is_unused(key: u32) -> bool {
    matches!(key, 10 | 11 | 14 | 18 | 19 | 21 | 22 | 26)
}

/// Decodes the value of one record of the metadata log.
pub(super) fn decode(value: &[u8]) -> Result<Record, Undecodable> {
    let mut reader = Reader::new(value);
    let frame = reader.uvarint()?;
    if frame != FRAME_VERSION {
        return Err(Malformed::Frame(frame).into());
    }
    let key = reader.uvarint()?;
    let version = reader.uvarint()?;
    let Some(kind) = Kind::of_key(key) else {
        return Ok(if is_unused(key) { Record::Unused } else { Record::Unknown(key) });
    };
    if version > kind.newest {
        return Err(Undecodable::Version { name: kind.name, key, version, newest: kind.newest });
    }
    let record = (kind.decode)(&mut reader, version)?;
    reader.finish()?;
    Ok(record)
}
