//! Record batches of message format v2 as a producer's broker writes them.

use bytes::{BufMut, Bytes, BytesMut};

/// What a batch is made of.
#[derive(Clone, Copy, Debug)]
pub struct Shape<'a> {
    /// Offset of its first record.
    pub base: i64,
    /// Offset after its last; records in between may be gone, as compaction leaves them.
    pub next: i64,
    /// Leader epoch.
    pub epoch: i32,
    /// Control and transactional bits.
    pub attributes: i16,
    /// Values of the records that are there, from the base offset on.
    pub values: &'a [Vec<u8>],
}

/// The bytes.
pub fn encode(shape: Shape<'_>) -> Bytes {
    let mut records = BytesMut::new();
    for (delta, value) in (0i64..).zip(shape.values) {
        let mut record = BytesMut::new();
        record.put_i8(0);
        put_varint(&mut record, 0);
        put_varint(&mut record, delta);
        put_varint(&mut record, -1);
        put_varint(&mut record, value.len() as i64);
        record.put_slice(value);
        put_varint(&mut record, 0);
        put_varint(&mut records, record.len() as i64);
        records.put_slice(&record);
    }
    let mut body = BytesMut::new();
    body.put_i16(shape.attributes);
    body.put_i32((shape.next - shape.base - 1) as i32);
    body.put_i64(1_000);
    body.put_i64(1_000);
    body.put_i64(-1);
    body.put_i16(-1);
    body.put_i32(-1);
    body.put_i32(shape.values.len() as i32);
    body.put_slice(&records);
    let mut batch = BytesMut::new();
    batch.put_i64(shape.base);
    batch.put_i32((4 + 1 + 4 + body.len()) as i32);
    batch.put_i32(shape.epoch);
    batch.put_i8(2);
    batch.put_u32(crc32c::crc32c(&body));
    batch.put_slice(&body);
    batch.freeze()
}

fn put_varint(to: &mut BytesMut, value: i64) {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    while rest >= 0x80 {
        to.put_u8(rest as u8 | 0x80);
        rest >>= 7;
    }
    to.put_u8(rest as u8);
}
