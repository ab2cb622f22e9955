//! A read-only view of record batches, message format v2 (KIP-98): header, checksum, bounds. Never
//! decompresses and never re-encodes; the one thing written is the leader epoch, which lies outside
//! the checksum.

use bytes::{Buf, BufMut};

use crate::types::{LeaderEpoch, Offset};

/// Bytes of a batch before its records.
pub const HEADER_BYTES: usize = 61;
/// Bytes of base offset and length, which the length does not count.
const LOG_OVERHEAD: usize = 12;
/// Where the leader epoch stands; outside the checksum.
pub const LEADER_EPOCH: std::ops::Range<usize> = 12..16;
const MAGIC: usize = 16;
const CHECKSUMMED_FROM: usize = 21;
const ATTRIBUTE_TRANSACTIONAL: i16 = 0x10;
const ATTRIBUTE_CONTROL: i16 = 0x20;

/// What is wrong with bytes that should be batches.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BatchError {
    /// Message formats v0 and v1 cannot be mirrored.
    #[error("batch at offset {base_offset} has message format v{magic}; only v2 can be mirrored")]
    Format {
        /// Base offset as written.
        base_offset: Offset,
        /// The format's number.
        magic: i8,
    },
    /// The length field cannot be right.
    #[error("batch at offset {base_offset} claims {length} bytes")]
    Length {
        /// Base offset as written.
        base_offset: Offset,
        /// The length field, in bytes.
        length: i32,
    },
    /// The bytes are not those that were written.
    #[error(
        "batch at offset {base_offset} has checksum {found:#010x} but its bytes give {computed:#010x}"
    )]
    Checksum {
        /// Base offset as written.
        base_offset: Offset,
        /// CRC-32C in the header.
        found: u32,
        /// CRC-32C of the bytes.
        computed: u32,
    },
    /// Offsets go back, or lie outside what an offset can be.
    #[error(
        "batch at offset {base_offset} ends at {last_offset}, expected offsets from {expected} on"
    )]
    Offsets {
        /// Base offset as written.
        base_offset: Offset,
        /// Offset of the last record as written.
        last_offset: Offset,
        /// The least last offset that would be right.
        expected: Offset,
    },
}

/// The header of one batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// Offset of the first record; compaction keeps it even when that record is gone.
    pub base_offset: Offset,
    /// Offset after the last record.
    pub next_offset: Offset,
    /// Bytes of the whole batch.
    pub size: usize,
    /// Epoch under which the leader appended it.
    pub leader_epoch: LeaderEpoch,
    /// CRC-32C as written.
    pub checksum: u32,
    /// Compression, timestamp type, transactional and control bits.
    pub attributes: i16,
    /// Greatest timestamp, in milliseconds since 1970.
    pub max_timestamp: i64,
    /// Producer id, -1 where there is none.
    pub producer_id: i64,
    /// How many records it holds now; compaction lowers it.
    pub record_count: i32,
}

impl BatchHeader {
    /// Reads the header at the start of `bytes`. `Ok(None)`: the batch is not complete, as at the
    /// end of every answer that hit its size limit.
    pub fn read(bytes: &[u8]) -> Result<Option<Self>, BatchError> {
        if bytes.len() <= MAGIC {
            return Ok(None);
        }
        let mut header = bytes;
        let base_offset = Offset(header.get_i64());
        let length = header.get_i32();
        let leader_epoch = LeaderEpoch(header.get_i32());
        let magic = header.get_i8();
        if magic != 2 {
            return Err(BatchError::Format { base_offset, magic });
        }
        let size = match usize::try_from(length) {
            Ok(length) if length >= HEADER_BYTES - LOG_OVERHEAD => length + LOG_OVERHEAD,
            _ => {
                return Err(BatchError::Length { base_offset, length });
            }
        };
        if bytes.len() < size {
            return Ok(None);
        }
        let checksum = header.get_u32();
        let attributes = header.get_i16();
        let last_offset_delta = header.get_i32();
        header.advance(8); // base timestamp
        let max_timestamp = header.get_i64();
        let producer_id = header.get_i64();
        header.advance(2 + 4); // producer epoch, base sequence
        let record_count = header.get_i32();
        let last_offset = base_offset.0.checked_add(i64::from(last_offset_delta));
        match last_offset {
            Some(last) if base_offset.0 >= 0 && last_offset_delta >= 0 && last < i64::MAX => {
                Ok(Some(Self {
                    base_offset,
                    next_offset: Offset(last + 1),
                    size,
                    leader_epoch,
                    checksum,
                    attributes,
                    max_timestamp,
                    producer_id,
                    record_count,
                }))
            }
            last => Err(BatchError::Offsets {
                base_offset,
                last_offset: Offset(last.unwrap_or(i64::MAX)),
                expected: Offset::ZERO,
            }),
        }
    }

    /// Whether it holds a transaction's marker or KRaft's own records instead of users' records.
    pub fn is_control(&self) -> bool {
        self.attributes & ATTRIBUTE_CONTROL != 0
    }

    /// Whether it belongs to a transaction.
    pub fn is_transactional(&self) -> bool {
        self.attributes & ATTRIBUTE_TRANSACTIONAL != 0
    }
}

/// Whole batches found at the start of some bytes.
#[derive(Debug, Default)]
pub struct Checked {
    /// The batches in order; their sizes add up to `bytes`.
    pub batches: Vec<BatchHeader>,
    /// Bytes of the whole batches; what follows is an incomplete one.
    pub bytes: usize,
    /// The first bad batch, where there is one; those before it are good.
    pub error: Option<BatchError>,
}

/// Checks batches as they came from the source: format, length, checksum, and offsets that rise
/// from `expected` on. The first batch may begin below `expected` (it holds that offset), no later
/// one may begin below the end of the one before.
pub fn check(bytes: &[u8], expected: Offset) -> Checked {
    let mut checked = Checked::default();
    let mut position = Offset::ZERO;
    loop {
        let rest = &bytes[checked.bytes..];
        let header = match BatchHeader::read(rest) {
            Ok(Some(header)) => header,
            Ok(None) => return checked,
            Err(error) => {
                checked.error = Some(error);
                return checked;
            }
        };
        if let Err(error) = check_one(&header, &rest[..header.size], position, expected) {
            checked.error = Some(error);
            return checked;
        }
        position = header.next_offset;
        checked.bytes += header.size;
        checked.batches.push(header);
    }
}

fn check_one(
    header: &BatchHeader,
    batch: &[u8],
    position: Offset,
    expected: Offset,
) -> Result<(), BatchError> {
    let computed = crc32c::crc32c(&batch[CHECKSUMMED_FROM..]);
    if computed != header.checksum {
        return Err(BatchError::Checksum {
            base_offset: header.base_offset,
            found: header.checksum,
            computed,
        });
    }
    if header.base_offset < position || header.next_offset <= expected {
        return Err(BatchError::Offsets {
            base_offset: header.base_offset,
            last_offset: Offset(header.next_offset.0 - 1),
            expected: position.max(expected),
        });
    }
    Ok(())
}

/// A batch without records that takes up `offset`, as the log cleaner leaves them behind where it
/// has to keep an offset.
pub fn without_records(offset: Offset, epoch: LeaderEpoch) -> [u8; HEADER_BYTES] {
    let mut checksummed = Vec::with_capacity(HEADER_BYTES - CHECKSUMMED_FROM);
    checksummed.put_i16(0); // attributes
    checksummed.put_i32(0); // last offset delta
    checksummed.put_i64(-1); // base timestamp: none
    checksummed.put_i64(-1); // max timestamp: none
    checksummed.put_i64(-1); // producer id: none
    checksummed.put_i16(-1); // producer epoch
    checksummed.put_i32(-1); // base sequence
    checksummed.put_i32(0); // records
    let mut batch = [0; HEADER_BYTES];
    let mut buffer = &mut batch[..];
    buffer.put_i64(offset.0);
    buffer.put_i32((HEADER_BYTES - LOG_OVERHEAD) as i32);
    buffer.put_i32(epoch.0);
    buffer.put_i8(2);
    buffer.put_u32(crc32c::crc32c(&checksummed));
    buffer.put_slice(&checksummed);
    batch
}

/// Base offset of the batch at the start of `bytes`.
pub fn base_offset(bytes: &[u8]) -> Option<Offset> {
    bytes.first_chunk().map(|first| Offset(i64::from_be_bytes(*first)))
}

/// Writes the leader epoch into the batch at the start of `batch`.
pub fn stamp(batch: &mut [u8], epoch: LeaderEpoch) {
    batch[LEADER_EPOCH].copy_from_slice(&epoch.0.to_be_bytes());
}

/// Whether two whole batches are the same but for the leader epoch.
pub fn same_but_epoch(left: &[u8], right: &[u8]) -> bool {
    left.len() == right.len()
        && left.len() >= HEADER_BYTES
        && left[..LEADER_EPOCH.start] == right[..LEADER_EPOCH.start]
        && left[LEADER_EPOCH.end..] == right[LEADER_EPOCH.end..]
}

/// Values of the records of one **uncompressed** batch: KRaft's metadata log is written so.
/// Yields `None` once where the bytes are not records, then ends.
pub fn uncompressed_values(batch: &[u8]) -> impl Iterator<Item = Option<&[u8]>> {
    let mut rest = batch.get(HEADER_BYTES..).unwrap_or_default();
    let mut broken = false;
    std::iter::from_fn(move || {
        if rest.is_empty() || broken {
            return None;
        }
        let value = take_record(&mut rest).and_then(|record| record_value(record));
        broken = value.is_none();
        Some(value)
    })
}

pub(super) fn take_record<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(take_varint(rest)?).ok()?;
    let (record, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some(record)
}

fn record_value(mut record: &[u8]) -> Option<&[u8]> {
    record = record.get(1..)?; // attributes
    take_varint(&mut record)?; // timestamp delta
    take_varint(&mut record)?; // offset delta
    let key = take_varint(&mut record)?;
    record = record.get(usize::try_from(key.max(0)).ok()?..)?;
    let value = take_varint(&mut record)?;
    record.get(..usize::try_from(value.max(0)).ok()?)
}

pub(super) fn take_varint(bytes: &mut &[u8]) -> Option<i64> {
    let mut raw = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        raw |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            // Zig-zag: the lowest bit is the sign.
            return Some((raw >> 1) as i64 ^ -((raw & 1) as i64));
        }
    }
    None
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A batch with a right checksum and `payload` for records.
    pub(crate) fn batch(base: i64, count: i32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0u8; HEADER_BYTES];
        bytes[0..8].copy_from_slice(&base.to_be_bytes());
        let length = i32::try_from(HEADER_BYTES - LOG_OVERHEAD + payload.len()).unwrap();
        bytes[8..12].copy_from_slice(&length.to_be_bytes());
        bytes[MAGIC] = 2;
        bytes[23..27].copy_from_slice(&(count - 1).to_be_bytes());
        bytes[57..61].copy_from_slice(&count.to_be_bytes());
        bytes.extend_from_slice(payload);
        let checksum = crc32c::crc32c(&bytes[CHECKSUMMED_FROM..]);
        bytes[17..21].copy_from_slice(&checksum.to_be_bytes());
        bytes
    }

    #[test]
    fn whole_batches_are_taken_and_a_cut_one_is_left() {
        let mut bytes = batch(10, 5, b"first");
        bytes.extend(batch(20, 1, b"after a hole"));
        let whole = bytes.len();
        bytes.extend(&batch(21, 1, b"cut")[..40]);
        let checked = check(&bytes, Offset(12));
        assert_eq!(checked.error, None);
        assert_eq!(checked.bytes, whole);
        let ends: Vec<_> = checked.batches.iter().map(|b| b.next_offset).collect();
        assert_eq!(ends, [Offset(15), Offset(21)]);
    }

    #[test]
    fn a_batch_without_records_takes_up_its_offset() {
        let filler = without_records(Offset(41), LeaderEpoch(7));
        let checked = check(&filler, Offset(9));
        assert_eq!((checked.error, checked.bytes), (None, filler.len()));
        let header = checked.batches[0];
        assert_eq!((header.base_offset, header.next_offset), (Offset(41), Offset(42)));
        assert_eq!((header.leader_epoch, header.record_count), (LeaderEpoch(7), 0));
        assert_eq!((header.producer_id, header.max_timestamp), (-1, -1));
        assert_eq!(base_offset(&filler), Some(Offset(41)));
    }

    #[test]
    fn a_flipped_bit_is_found_and_what_came_before_is_kept() {
        let mut bytes = batch(0, 1, b"good");
        let good = bytes.len();
        bytes.extend(batch(1, 1, b"bad"));
        *bytes.last_mut().unwrap() ^= 1;
        let checked = check(&bytes, Offset(0));
        assert_eq!(checked.bytes, good);
        assert!(matches!(checked.error, Some(BatchError::Checksum { base_offset: Offset(1), .. })));
    }

    #[test]
    fn offsets_that_go_back_are_found() {
        let mut bytes = batch(5, 5, b"a");
        bytes.extend(batch(9, 1, b"b"));
        assert!(matches!(check(&bytes, Offset(5)).error, Some(BatchError::Offsets { .. })));
        let old = batch(0, 5, b"a");
        assert!(matches!(check(&old, Offset(5)).error, Some(BatchError::Offsets { .. })));
        assert_eq!(check(&old, Offset(4)).error, None);
    }

    #[test]
    fn formats_and_lengths_that_cannot_be_are_found() {
        let mut old = batch(3, 1, b"");
        old[MAGIC] = 1;
        let error = BatchError::Format { base_offset: Offset(3), magic: 1 };
        assert_eq!(check(&old, Offset(0)).error, Some(error));
        for length in [-1, 0, 48, i32::MIN] {
            let mut bad = batch(3, 1, b"");
            bad[8..12].copy_from_slice(&i32::to_be_bytes(length));
            let error = BatchError::Length { base_offset: Offset(3), length };
            assert_eq!(check(&bad, Offset(0)).error, Some(error));
        }
        let far = batch(i64::MAX, 1, b"");
        assert!(matches!(check(&far, Offset(0)).error, Some(BatchError::Offsets { .. })));
    }

    #[test]
    fn a_stamp_changes_nothing_that_is_compared_or_summed() {
        let original = batch(7, 2, b"records");
        let mut stamped = original.clone();
        stamp(&mut stamped, LeaderEpoch(42));
        let checked = check(&stamped, Offset(7));
        assert_eq!(checked.batches[0].leader_epoch, LeaderEpoch(42));
        assert_eq!(checked.error, None);
        assert!(same_but_epoch(&original, &stamped));
        assert!(!same_but_epoch(&original, &batch(7, 2, b"recordz")));
    }

    #[test]
    fn every_prefix_of_a_batch_is_read_without_panic() {
        let bytes = batch(1, 1, &[8, 0, 0, 0, 1, 2, b'v']);
        for cut in 0..bytes.len() {
            check(&bytes[..cut], Offset(0));
            uncompressed_values(&bytes[..cut]).for_each(drop);
        }
    }
}
