//! Record batches of our own: what the journal writes, and what it reads back. Plain records without
//! compression and headers; batches of others are never encoded anew.

use bytes::{Buf, BufMut};

use super::batch::{BatchHeader, HEADER_BYTES, take_record, take_varint};
use crate::types::Offset;

const TRANSACTIONAL: i16 = 0x10;
const COMPRESSION: i16 = 0x07;
/// Where the checksum stands, and what it begins with.
const CHECKSUM: usize = 17;
const CHECKSUMMED_FROM: usize = 21;

/// Who writes a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchProducer {
    /// The id that the coordinator gave; -1 without.
    pub id: i64,
    /// Its epoch; -1 without.
    pub epoch: i16,
    /// Number of the first record at this partition under this epoch; -1 without.
    pub sequence: i32,
    /// Whether it is part of a transaction.
    pub is_transactional: bool,
}

impl BatchProducer {
    /// A producer without id: written twice where an answer is lost.
    pub const NONE: Self = Self { id: -1, epoch: -1, sequence: -1, is_transactional: false };
}

/// A record to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewRecord {
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its value; `None` is a tombstone.
    pub value: Option<Vec<u8>>,
}

/// A record that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadRecord<'a> {
    /// Its offset.
    pub offset: Offset,
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its value.
    pub value: Option<&'a [u8]>,
}

/// One batch with all the records, at offsets from 0 on as a producer writes it.
pub fn encode(producer: BatchProducer, timestamp: i64, records: &[NewRecord]) -> Vec<u8> {
    let count = i32::try_from(records.len()).unwrap_or(i32::MAX);
    let mut batch = Vec::new();
    batch.put_i64(0); // base offset: the leader's matter
    batch.put_i32(0); // length
    batch.put_i32(-1); // leader epoch
    batch.put_i8(2);
    batch.put_u32(0); // checksum
    batch.put_i16(if producer.is_transactional { TRANSACTIONAL } else { 0 });
    batch.put_i32(count - 1);
    batch.put_i64(timestamp);
    batch.put_i64(timestamp);
    batch.put_i64(producer.id);
    batch.put_i16(producer.epoch);
    batch.put_i32(producer.sequence);
    batch.put_i32(count);
    for (delta, record) in (0..).zip(records) {
        put_record(&mut batch, delta, record);
    }
    let length = i32::try_from(batch.len() - 12).unwrap_or(i32::MAX);
    batch[8..12].copy_from_slice(&length.to_be_bytes());
    let checksum = crc32c::crc32c(&batch[CHECKSUMMED_FROM..]);
    batch[CHECKSUM..CHECKSUMMED_FROM].copy_from_slice(&checksum.to_be_bytes());
    batch
}

fn put_record(batch: &mut Vec<u8>, delta: i64, record: &NewRecord) {
    let mut body = vec![0]; // attributes
    put_varint(&mut body, 0); // timestamp delta
    put_varint(&mut body, delta);
    for field in [&record.key, &record.value] {
        match field {
            Some(bytes) => {
                put_varint(&mut body, bytes.len() as i64);
                body.extend_from_slice(bytes);
            }
            None => put_varint(&mut body, -1),
        }
    }
    put_varint(&mut body, 0); // headers
    put_varint(batch, body.len() as i64);
    batch.extend_from_slice(&body);
}

fn put_varint(bytes: &mut Vec<u8>, value: i64) {
    let mut raw = (value << 1) as u64 ^ (value >> 63) as u64;
    while raw > 0x7f {
        bytes.push(raw as u8 & 0x7f | 0x80);
        raw >>= 7;
    }
    bytes.push(raw as u8);
}

/// The records of one whole batch; `None` where it is compressed or its bytes are not records.
pub fn read<'a>(header: &BatchHeader, batch: &'a [u8]) -> Option<Vec<ReadRecord<'a>>> {
    if header.attributes & COMPRESSION != 0 {
        return None;
    }
    let mut rest = batch.get(HEADER_BYTES..)?;
    let mut records = Vec::new();
    while !rest.is_empty() {
        let record = take_record(&mut rest)?;
        records.push(read_record(header.base_offset, record)?);
    }
    Some(records)
}

fn read_record(base: Offset, mut record: &[u8]) -> Option<ReadRecord<'_>> {
    record = record.get(1..)?; // attributes
    take_varint(&mut record)?; // timestamp delta
    let offset = Offset(base.0.checked_add(take_varint(&mut record)?)?);
    let key = take_field(&mut record)?;
    let value = take_field(&mut record)?;
    Some(ReadRecord { offset, key, value })
}

/// Outer `None`: broken; inner: null.
fn take_field<'a>(record: &mut &'a [u8]) -> Option<Option<&'a [u8]>> {
    let length = take_varint(record)?;
    if length < 0 {
        return Some(None);
    }
    let (field, rest) = record.split_at_checked(usize::try_from(length).ok()?)?;
    *record = rest;
    Some(Some(field))
}

/// Whether the marker in a control batch ends its transaction without effect (KIP-98).
pub fn is_abort_marker(header: &BatchHeader, batch: &[u8]) -> bool {
    const ABORT: i16 = 0;
    let records = if header.is_control() { read(header, batch) } else { None };
    let key = records.and_then(|records| records.first().and_then(|record| record.key));
    key.is_some_and(|mut key| {
        key.len() >= 4 && {
            key.get_i16();
            key.get_i16()
        } == ABORT
    })
}

#[cfg(test)]
mod tests {
    use kafka_protocol::records::RecordBatchDecoder;

    use super::super::batch;
    use super::*;

    fn records() -> Vec<NewRecord> {
        let text = |text: &str| Some(text.as_bytes().to_vec());
        let long = "x".repeat(300);
        vec![
            NewRecord { key: text("a"), value: text(&long) },
            NewRecord { key: text("b"), value: None },
            NewRecord { key: None, value: text("") },
        ]
    }

    fn producer() -> BatchProducer {
        BatchProducer { id: 7, epoch: 3, sequence: 11, is_transactional: true }
    }

    #[test]
    fn what_is_written_is_read() {
        let bytes = encode(producer(), 1_000, &records());
        let checked = batch::check(&bytes, Offset(0));
        assert_eq!((checked.error, checked.bytes), (None, bytes.len()));
        let header = checked.batches[0];
        assert!(header.is_transactional() && !header.is_control());
        assert_eq!((header.producer_id, header.record_count, header.next_offset.0), (7, 3, 3));
        let read: Vec<_> = read(&header, &bytes)
            .unwrap()
            .iter()
            .map(|record| NewRecord {
                key: record.key.map(<[u8]>::to_vec),
                value: record.value.map(<[u8]>::to_vec),
            })
            .collect();
        assert_eq!(read, records());
    }

    #[test]
    fn another_codec_reads_the_same() {
        let mut bytes = bytes::Bytes::from(encode(producer(), 1_000, &records()));
        let set = RecordBatchDecoder::decode(&mut bytes).unwrap();
        let read: Vec<_> = set
            .records
            .iter()
            .map(|record| NewRecord {
                key: record.key.as_ref().map(|key| key.to_vec()),
                value: record.value.as_ref().map(|value| value.to_vec()),
            })
            .collect();
        assert_eq!(read, records());
        let last = &set.records[2];
        assert_eq!((last.producer_id, last.producer_epoch, last.sequence), (7, 3, 13));
        assert!(last.transactional && last.timestamp == 1_000);
    }

    #[test]
    fn bytes_that_are_no_records_are_told_and_do_no_harm() {
        let bytes = encode(producer(), 1_000, &records());
        let header = BatchHeader::read(&bytes).unwrap().unwrap();
        for cut in HEADER_BYTES + 1..bytes.len() {
            // A cut between two records cannot be seen here: the length in the header tells it.
            let _no_panic = read(&header, &bytes[..cut]);
        }
        let mut broken = bytes.clone();
        broken[HEADER_BYTES] = 0xff;
        assert_eq!(read(&header, &broken), None);
        let compressed = BatchHeader { attributes: 1, ..header };
        assert_eq!(read(&compressed, &bytes), None);
    }
}
