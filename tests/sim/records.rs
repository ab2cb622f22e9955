//! Records of the metadata log as a controller writes them.

use lockstep::types::Uuid;

use super::controller::{PartitionState, Registration};

/// One record value under construction.
#[derive(Default)]
struct Encoder(Vec<u8>);

impl Encoder {
    fn record(key: u32, version: u32) -> Self {
        Self::default().uvarint(1).uvarint(key).uvarint(version)
    }

    fn uvarint(mut self, mut value: u32) -> Self {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
        self
    }

    fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn string(self, value: &str) -> Self {
        self.uvarint(value.len() as u32 + 1).raw(value.as_bytes())
    }

    fn i32(self, value: i32) -> Self {
        self.raw(&value.to_be_bytes())
    }

    fn i32s(self, values: &[i32]) -> Self {
        let length = self.uvarint(values.len() as u32 + 1);
        values.iter().fold(length, |all, &value| all.i32(value))
    }

    fn uuids(self, values: &[Uuid]) -> Self {
        let length = self.uvarint(values.len() as u32 + 1);
        values.iter().fold(length, |all, value| all.raw(value.as_bytes()))
    }

    fn tagged(self, fields: &[(u32, Encoder)]) -> Vec<u8> {
        let count = self.uvarint(fields.len() as u32);
        let all = fields.iter().fold(count, |all, (tag, field)| {
            all.uvarint(*tag).uvarint(field.0.len() as u32).raw(&field.0)
        });
        all.0
    }
}

pub fn register(broker: i32, registration: &Registration) -> Vec<u8> {
    Encoder::record(0, 3)
        .i32(broker)
        .raw(&[0])
        .raw(registration.incarnation.as_bytes())
        .raw(&registration.epoch.to_be_bytes())
        .uvarint(2)
        .string("PLAINTEXT")
        .string(&registration.host)
        .raw(&9092u16.to_be_bytes())
        .raw(&0i16.to_be_bytes())
        .uvarint(0)
        .uvarint(1)
        .uvarint(0)
        .raw(&[registration.is_fenced.into(), registration.is_stopping.into()])
        .tagged(&[(0, Encoder::default().uuids(&[registration.directory]))])
}

/// `BrokerRegistrationChange`.
pub fn fencing(broker: i32, epoch: i64, is_fenced: bool) -> Vec<u8> {
    let fence = Encoder::default().raw(&(if is_fenced { 1i8 } else { -1 }).to_be_bytes());
    Encoder::record(17, 2).i32(broker).raw(&epoch.to_be_bytes()).tagged(&[(0, fence)])
}

/// `BrokerRegistrationChange`.
pub fn stopping(broker: i32, epoch: i64) -> Vec<u8> {
    let stopping = Encoder::default().raw(&[1]);
    Encoder::record(17, 2).i32(broker).raw(&epoch.to_be_bytes()).tagged(&[(1, stopping)])
}

pub fn topic(name: &str, id: Uuid) -> Vec<u8> {
    Encoder::record(2, 0).string(name).raw(id.as_bytes()).tagged(&[])
}

pub fn partition(id: Uuid, number: i32, state: &PartitionState) -> Vec<u8> {
    let directories = vec![Uuid::from_u128(1 << 64); state.replicas.len()];
    Encoder::record(3, 1)
        .i32(number)
        .raw(id.as_bytes())
        .i32s(&state.replicas)
        .i32s(&state.in_sync)
        .i32s(&[])
        .i32s(&[])
        .i32(state.leader)
        .i32(state.leader_epoch)
        .i32(state.partition_epoch)
        .uuids(&directories)
        .tagged(&[])
}

/// `PartitionChange`; a leader makes a new leader epoch.
pub fn change(
    id: Uuid,
    number: i32,
    state: &PartitionState,
    leader: Option<i32>,
    replicas: bool,
) -> Vec<u8> {
    let list = |ids: &[i32]| Encoder::default().i32s(ids);
    let mut fields = vec![(0, list(&state.in_sync))];
    fields.extend(leader.map(|leader| (1, Encoder::default().i32(leader))));
    if replicas {
        fields.push((2, list(&state.replicas)));
        fields.push((3, list(&state.removing)));
        fields.push((4, list(&state.adding)));
    }
    Encoder::record(5, 1).i32(number).raw(id.as_bytes()).tagged(&fields)
}

pub fn config(topic: &str, key: &str, value: Option<&str>) -> Vec<u8> {
    let head = Encoder::record(4, 0).raw(&[2]).string(topic).string(key);
    match value {
        Some(value) => head.string(value),
        None => head.uvarint(0),
    }
    .tagged(&[])
}

pub fn feature(name: &str, level: i16) -> Vec<u8> {
    Encoder::record(12, 0).string(name).raw(&level.to_be_bytes()).tagged(&[])
}
