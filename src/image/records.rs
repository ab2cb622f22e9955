//! Decodes one value of the metadata log: frame version, api key, version, flexible message.
//!
//! Field layouts are those of Kafka's `metadata/src/main/resources/common/metadata` up to 4.3.1.
//! Tagged fields are taken wherever they stand: an older version than the one that introduced a
//! tag does not carry it.

use super::reader::Reader;
use super::{BrokerImage, Listener, Listeners, Malformed, PartitionImage};
use crate::types::{BrokerEpoch, BrokerId, LeaderEpoch, PartitionKey, TopicId, TopicName, Uuid};

/// The only frame version that there is.
const FRAME_VERSION: u32 = 1;

/// In `PartitionChange`: the leader did not change.
const LEADER_UNCHANGED: i32 = -2;

/// Resource types of `Config` records that concern us.
const TOPIC_RESOURCE: i8 = 2;
const BROKER_RESOURCE: i8 = 4;

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
    fn none(id: BrokerId, epoch: BrokerEpoch) -> Self {
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

fn register_broker(r: &mut Reader<'_>, version: u32) -> Result<Record, Malformed> {
    let id = broker_id(r)?;
    if version >= 2 {
        let _is_migrating_from_zookeeper = r.bool()?;
    }
    let mut broker = BrokerImage {
        id,
        incarnation: r.uuid()?,
        epoch: BrokerEpoch(r.i64()?),
        listeners: listeners(r)?,
        rack: {
            supported_features(r)?;
            r.nullable_string()?.map(str::to_owned)
        },
        is_fenced: r.bool()?,
        in_controlled_shutdown: version >= 1 && r.bool()?,
        log_dirs: Vec::new(),
        cordoned_log_dirs: Vec::new(),
    };
    r.tagged(|tag, field| {
        match tag {
            0 => broker.log_dirs = field.array(Reader::uuid)?,
            1 => {
                broker.cordoned_log_dirs = field.nullable_array(Reader::uuid)?.unwrap_or_default();
            }
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    Ok(Record::RegisterBroker(broker))
}

fn unregister_broker(r: &mut Reader<'_>, _version: u32) -> Result<Record, Malformed> {
    let id = broker_id(r)?;
    let _epoch = r.i64()?;
    r.untagged()?;
    Ok(Record::UnregisterBroker(id))
}

/// `FenceBroker` and `UnfenceBroker`, which `BrokerRegistrationChange` replaced in 3.3.
fn fencing(r: &mut Reader<'_>, is_fenced: bool) -> Result<Record, Malformed> {
    let mut change = BrokerChange::none(broker_id(r)?, BrokerEpoch(r.i64()?));
    change.is_fenced = Some(is_fenced);
    r.untagged()?;
    Ok(Record::ChangeBroker(change))
}

fn broker_registration_change(r: &mut Reader<'_>, _version: u32) -> Result<Record, Malformed> {
    let mut change = BrokerChange::none(broker_id(r)?, BrokerEpoch(r.i64()?));
    r.tagged(|tag, field| {
        match tag {
            0 => {
                change.is_fenced = match field.i8()? {
                    -1 => Some(false),
                    0 => None,
                    1 => Some(true),
                    other => return Err(value("fenced", other)),
                }
            }
            1 => {
                change.enters_controlled_shutdown = match field.i8()? {
                    0 => false,
                    1 => true,
                    other => return Err(value("in controlled shutdown", other)),
                }
            }
            2 => change.log_dirs = field.array(Reader::uuid)?,
            3 => change.cordoned_log_dirs = field.nullable_array(Reader::uuid)?,
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    Ok(Record::ChangeBroker(change))
}

fn register_controller(r: &mut Reader<'_>, _version: u32) -> Result<Record, Malformed> {
    let id = broker_id(r)?;
    let _incarnation = r.uuid()?;
    let _ready_to_migrate_from_zookeeper = r.bool()?;
    let listeners = listeners(r)?;
    supported_features(r)?;
    r.untagged()?;
    Ok(Record::RegisterController { id, listeners })
}

fn topic(r: &mut Reader<'_>, _version: u32) -> Result<Record, Malformed> {
    let name = TopicName::from(r.string()?);
    let id = TopicId(r.uuid()?);
    r.untagged()?;
    Ok(Record::Topic { id, name })
}

fn remove_topic(r: &mut Reader<'_>, _version: u32) -> Result<Record, Malformed> {
    let id = TopicId(r.uuid()?);
    r.untagged()?;
    Ok(Record::RemoveTopic(id))
}

fn partition(r: &mut Reader<'_>, version: u32) -> Result<Record, Malformed> {
    let key = partition_key(r)?;
    let mut partition = PartitionImage {
        replicas: r.array(broker_id)?,
        in_sync: r.array(broker_id)?,
        removing: r.array(broker_id)?,
        adding: r.array(broker_id)?,
        leader: leader(r.i32()?)?,
        leader_epoch: LeaderEpoch(r.i32()?),
        partition_epoch: r.i32()?,
        is_recovering: false,
        directories: if version >= 1 { r.array(Reader::uuid)? } else { Vec::new() },
        eligible_leaders: Vec::new(),
        last_known_eligible_leaders: Vec::new(),
    };
    r.tagged(|tag, field| {
        match tag {
            0 => {
                let unchanged = partition.is_recovering;
                partition.is_recovering = recovery_state(field.i8()?)?.unwrap_or(unchanged);
            }
            1 => {
                let members = field.nullable_array(broker_id)?;
                partition.eligible_leaders = members.unwrap_or_default();
            }
            2 => {
                let members = field.nullable_array(broker_id)?;
                partition.last_known_eligible_leaders = members.unwrap_or_default();
            }
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    Ok(Record::Partition(key, partition))
}

fn partition_change(r: &mut Reader<'_>, _version: u32) -> Result<Record, Malformed> {
    let key = partition_key(r)?;
    let mut change = PartitionChange::default();
    r.tagged(|tag, field| {
        match tag {
            0 => change.in_sync = field.nullable_array(broker_id)?,
            1 => {
                change.leader = match field.i32()? {
                    LEADER_UNCHANGED => None,
                    id => Some(leader(id)?),
                }
            }
            2 => change.replicas = field.nullable_array(broker_id)?,
            3 => change.removing = field.nullable_array(broker_id)?,
            4 => change.adding = field.nullable_array(broker_id)?,
            5 => change.is_recovering = recovery_state(field.i8()?)?,
            6 => change.eligible_leaders = field.nullable_array(broker_id)?,
            7 => change.last_known_eligible_leaders = field.nullable_array(broker_id)?,
            8 => change.directories = field.nullable_array(Reader::uuid)?,
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    Ok(Record::ChangePartition(key, change))
}

fn clear_elr(r: &mut Reader<'_>, _version: u32) -> Result<Record, Malformed> {
    let name = r.string()?;
    r.untagged()?;
    Ok(Record::ClearElr((!name.is_empty()).then(|| TopicName::from(name))))
}

fn config(r: &mut Reader<'_>, _version: u32) -> Result<Record, Malformed> {
    let resource = r.i8()?;
    let name = r.string()?;
    let key = r.string()?.to_owned();
    let value = r.nullable_string()?.map(str::to_owned);
    r.untagged()?;
    let of = match resource {
        TOPIC_RESOURCE => ConfigOwner::Topic(TopicName::from(name)),
        BROKER_RESOURCE if name.is_empty() => ConfigOwner::AllBrokers,
        // A name that is no number belongs to no broker that could ever be asked for.
        BROKER_RESOURCE => match name.parse() {
            Ok(id) => ConfigOwner::Broker(BrokerId(id)),
            Err(_no_number) => return Ok(Record::Unused),
        },
        _ => return Ok(Record::Unused),
    };
    Ok(Record::Config { of, key, value })
}

fn feature_level(r: &mut Reader<'_>, _version: u32) -> Result<Record, Malformed> {
    let name = r.string()?.to_owned();
    let level = r.i16()?;
    r.untagged()?;
    Ok(Record::FeatureLevel { name, level })
}

fn producer_ids(r: &mut Reader<'_>, _version: u32) -> Result<Record, Malformed> {
    let _broker = broker_id(r)?;
    let _epoch = r.i64()?;
    let next = r.i64()?;
    r.untagged()?;
    Ok(Record::NextProducerId(next))
}

/// A record of which only the tagged fields, for people, differ.
fn bare(r: &mut Reader<'_>, record: Record) -> Result<Record, Malformed> {
    r.untagged()?;
    Ok(record)
}

fn broker_id(r: &mut Reader<'_>) -> Result<BrokerId, Malformed> {
    r.i32().map(BrokerId)
}

fn partition_key(r: &mut Reader<'_>) -> Result<PartitionKey, Malformed> {
    let partition = r.i32()?;
    let topic = TopicId(r.uuid()?);
    Ok(PartitionKey { topic, partition })
}

fn leader(id: i32) -> Result<Option<BrokerId>, Malformed> {
    match id {
        -1 => Ok(None),
        0.. => Ok(Some(BrokerId(id))),
        _ => Err(value("leader", id)),
    }
}

fn recovery_state(state: i8) -> Result<Option<bool>, Malformed> {
    match state {
        -1 => Ok(None),
        0 => Ok(Some(false)),
        1 => Ok(Some(true)),
        other => Err(value("leader recovery state", other)),
    }
}

/// Endpoints have the same form for brokers and controllers.
fn listeners(r: &mut Reader<'_>) -> Result<Listeners, Malformed> {
    let listeners = r.array(|r| {
        let name = r.string()?.to_owned();
        let listener =
            Listener { host: r.string()?.to_owned(), port: r.u16()?, security_protocol: r.i16()? };
        r.untagged()?;
        Ok((name, listener))
    })?;
    Ok(listeners.into_iter().collect())
}

/// Passed over: which features a broker could do is the controller's business.
fn supported_features(r: &mut Reader<'_>) -> Result<(), Malformed> {
    r.array(|r| {
        let (_name, _min, _max) = (r.string()?, r.i16()?, r.i16()?);
        r.untagged()
    })?;
    Ok(())
}

fn value(field: &'static str, value: impl Into<i64>) -> Malformed {
    Malformed::Value { field, value: value.into() }
}
