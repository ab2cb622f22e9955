//! The fields of each record type, in the order in which they stand.
//!
//! They are those of Kafka's `metadata/src/main/resources/common/metadata` up to 4.3.1. Tagged
//! fields are taken whatever the version: one older than the tag does not carry it.

use super::reader::Reader;
use super::records::{BrokerChange, ConfigOwner, PartitionChange, Record};
use super::{BrokerImage, Listener, Listeners, Malformed, PartitionImage};
use crate::types::{BrokerEpoch, BrokerId, LeaderEpoch, PartitionKey, TopicId, TopicName};

/// In `PartitionChange`: the leader did not change.
const LEADER_UNCHANGED: i32 = -2;

/// Resource types of `Config` records that concern us.
const TOPIC_RESOURCE: i8 = 2;
const BROKER_RESOURCE: i8 = 4;

pub(super) fn register_broker(r: &mut Reader<'_>, version: u32) -> Result<Record, Malformed> {
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

pub(super) fn unregister_broker(r: &mut Reader<'_>, _version: u32) -> Result<Record, Malformed> {
    let id = broker_id(r)?;
    let _epoch = r.i64()?;
    r.untagged()?;
    Ok(Record::UnregisterBroker(id))
}

/// `FenceBroker` and `UnfenceBroker`, which `BrokerRegistrationChange` replaced in 3.3.
pub(super) fn fencing(r: &mut Reader<'_>, is_fenced: bool) -> Result<Record, Malformed> {
    let mut change = BrokerChange::none(broker_id(r)?, BrokerEpoch(r.i64()?));
    change.is_fenced = Some(is_fenced);
    r.untagged()?;
    Ok(Record::ChangeBroker(change))
}

pub(super) fn broker_registration_change(
    r: &mut Reader<'_>,
    _version: u32,
) -> Result<Record, Malformed> {
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

pub(super) fn register_controller(r: &mut Reader<'_>, _version: u32) -> Result<Record, Malformed> {
    let id = broker_id(r)?;
    let _incarnation = r.uuid()?;
    let _ready_to_migrate_from_zookeeper = r.bool()?;
    let listeners = listeners(r)?;
    supported_features(r)?;
    r.untagged()?;
    Ok(Record::RegisterController { id, listeners })
}

pub(super) fn topic(r: &mut Reader<'_>, _version: u32) -> Result<Record, Malformed> {
    let name = TopicName::from(r.string()?);
    let id = TopicId(r.uuid()?);
    r.untagged()?;
    Ok(Record::Topic { id, name })
}

pub(super) fn remove_topic(r: &mut Reader<'_>, _version: u32) -> Result<Record, Malformed> {
    let id = TopicId(r.uuid()?);
    r.untagged()?;
    Ok(Record::RemoveTopic(id))
}

pub(super) fn partition(r: &mut Reader<'_>, version: u32) -> Result<Record, Malformed> {
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

pub(super) fn partition_change(r: &mut Reader<'_>, _version: u32) -> Result<Record, Malformed> {
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

pub(super) fn clear_elr(r: &mut Reader<'_>, _version: u32) -> Result<Record, Malformed> {
    let name = r.string()?;
    r.untagged()?;
    Ok(Record::ClearElr((!name.is_empty()).then(|| TopicName::from(name))))
}

pub(super) fn config(r: &mut Reader<'_>, _version: u32) -> Result<Record, Malformed> {
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

pub(super) fn feature_level(r: &mut Reader<'_>, _version: u32) -> Result<Record, Malformed> {
    let name = r.string()?.to_owned();
    let level = r.i16()?;
    r.untagged()?;
    Ok(Record::FeatureLevel { name, level })
}

pub(super) fn producer_ids(r: &mut Reader<'_>, _version: u32) -> Result<Record, Malformed> {
    let _broker = broker_id(r)?;
    let _epoch = r.i64()?;
    let next = r.i64()?;
    r.untagged()?;
    Ok(Record::NextProducerId(next))
}

/// A record of which only the tagged fields, for people, differ.
pub(super) fn bare(r: &mut Reader<'_>, record: Record) -> Result<Record, Malformed> {
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
