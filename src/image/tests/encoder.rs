//! Writes metadata records as a controller would.

use crate::types::Uuid;

/// One record value under construction.
#[derive(Clone, Default)]
pub(super) struct Encoder(pub(super) Vec<u8>);

impl Encoder {
    /// A record: frame version 1, key, version.
    pub(super) fn record(key: u32, version: u32) -> Self {
        Self::default().uvarint(1).uvarint(key).uvarint(version)
    }

    pub(super) fn uvarint(mut self, mut value: u32) -> Self {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
        self
    }

    pub(super) fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub(super) fn i8(self, value: i8) -> Self {
        self.raw(&value.to_be_bytes())
    }

    pub(super) fn i16(self, value: i16) -> Self {
        self.raw(&value.to_be_bytes())
    }

    pub(super) fn u16(self, value: u16) -> Self {
        self.raw(&value.to_be_bytes())
    }

    pub(super) fn i32(self, value: i32) -> Self {
        self.raw(&value.to_be_bytes())
    }

    pub(super) fn i64(self, value: i64) -> Self {
        self.raw(&value.to_be_bytes())
    }

    pub(super) fn bool(self, value: bool) -> Self {
        self.i8(value.into())
    }

    pub(super) fn uuid(self, value: u128) -> Self {
        self.raw(Uuid::from_u128(value).as_bytes())
    }

    pub(super) fn null(self) -> Self {
        self.uvarint(0)
    }

    pub(super) fn string(self, value: &str) -> Self {
        self.uvarint(value.len() as u32 + 1).raw(value.as_bytes())
    }

    pub(super) fn i32s(self, values: &[i32]) -> Self {
        let length = self.uvarint(values.len() as u32 + 1);
        values.iter().fold(length, |all, &value| all.i32(value))
    }

    pub(super) fn uuids(self, values: &[u128]) -> Self {
        let length = self.uvarint(values.len() as u32 + 1);
        values.iter().fold(length, |all, &value| all.uuid(value))
    }

    /// The tagged fields that end a structure.
    pub(super) fn tagged(self, fields: &[(u32, Encoder)]) -> Self {
        let count = self.uvarint(fields.len() as u32);
        fields.iter().fold(count, |all, (tag, field)| {
            let size = field.0.len() as u32;
            all.uvarint(*tag).uvarint(size).raw(&field.0)
        })
    }

    /// One endpoint and one feature, as brokers and controllers have them.
    pub(super) fn endpoint_and_feature(self, listener: &str, port: u16) -> Self {
        self.uvarint(2)
            .string(listener)
            .string("host")
            .u16(port)
            .i16(0)
            .tagged(&[])
            .uvarint(2)
            .string("metadata.version")
            .i16(1)
            .i16(30)
            .tagged(&[])
    }
}

/// A field on its own, for [`Encoder::tagged`].
pub(super) fn field() -> Encoder {
    Encoder::default()
}

pub(super) fn topic(name: &str, id: u128) -> Vec<u8> {
    Encoder::record(2, 0).string(name).uuid(id).tagged(&[]).0
}

pub(super) fn remove_topic(id: u128) -> Vec<u8> {
    Encoder::record(9, 0).uuid(id).tagged(&[]).0
}

/// Replicas 1, 2, 3, all in sync, in directories 21, 22, 23; led by 1 in epoch 5.
pub(super) fn partition(id: u128, partition: i32) -> Vec<u8> {
    Encoder::record(3, 2)
        .i32(partition)
        .uuid(id)
        .i32s(&[1, 2, 3])
        .i32s(&[1, 2, 3])
        .i32s(&[])
        .i32s(&[])
        .i32(1)
        .i32(5)
        .i32(8)
        .uuids(&[21, 22, 23])
        .tagged(&[])
        .0
}

pub(super) fn partition_change(id: u128, partition: i32, fields: &[(u32, Encoder)]) -> Vec<u8> {
    Encoder::record(5, 2).i32(partition).uuid(id).tagged(fields).0
}

pub(super) fn config(resource: i8, name: &str, key: &str, value: Option<&str>) -> Vec<u8> {
    let head = Encoder::record(4, 0).i8(resource).string(name).string(key);
    match value {
        Some(value) => head.string(value),
        None => head.null(),
    }
    .tagged(&[])
    .0
}

/// A fenced broker as 4.3 writes it.
pub(super) fn broker(id: i32, epoch: i64) -> Vec<u8> {
    Encoder::record(0, 4)
        .i32(id)
        .bool(false)
        .uuid(7)
        .i64(epoch)
        .endpoint_and_feature("PLAINTEXT", 9092)
        .string("az1")
        .bool(true)
        .bool(false)
        .tagged(&[(0, field().uuids(&[31])), (1, field().uuids(&[31]))])
        .0
}

pub(super) fn broker_change(id: i32, epoch: i64, fields: &[(u32, Encoder)]) -> Vec<u8> {
    Encoder::record(17, 3).i32(id).i64(epoch).tagged(fields).0
}

pub(super) fn feature(name: &str, level: i16) -> Vec<u8> {
    Encoder::record(12, 0).string(name).i16(level).tagged(&[]).0
}

pub(super) fn begin() -> Vec<u8> {
    let name = field().string("Bootstrap records");
    Encoder::record(23, 0).tagged(&[(0, name)]).0
}

pub(super) fn end() -> Vec<u8> {
    Encoder::record(24, 0).tagged(&[]).0
}

pub(super) fn abort() -> Vec<u8> {
    Encoder::record(25, 0).tagged(&[]).0
}
